"""How scores and maps grow with the samples trained on: the page of Figs 27-28, row 18 of Table 5.

    found = limited("sim01", "small", [0, 1, 2])
    maps_table(found), scores_table(found)

A smaller set of trials lies within each larger one; validation and test pictures are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import evidence
from analysis.findings import Run
from analysis.fit import Fit, PartName, trials_in
from analysis.metrics import Scores
from analysis.networks_compared import truth_known
from analysis.readings import (
    PATCHES,
    PICTURES,
    Reading,
    map_correlation,
    read,
    roi_scores,
    truth_reading,
)
from analysis.report import plain_table, ranged
from analysis.sweep import BASE, different, get_fits, sized
from analysis.verdicts import Judged, Measured, over_seeds

# Numbers of trials beside all, and which of them row 18 is judged at: the paper's 3,000. A
# simulated trial carries the information of ten of NSD's, so small ones are a tenth.
TRIALS = {"small": (300, 900), "paper": (300, 1000, 3000, 10000)}
JUDGED = {"small": 300, "paper": 3000}
MAPPED = "factortopy"
# GNet's pooling fields take longest by far: of the small size they are not fitted.
RIVALS = {
    "small": ("class-token", "ridge"),
    "paper": ("class-token", "patch-token", "gnet", "ridge"),
}


@runtime_checkable
class Scored(Protocol):
    """A fit of any model: what has a brain score on a part of the split."""

    def scores(self, part: PartName) -> Scores: ...


@dataclass(frozen=True)
class Limited:
    """Fits and what they say by number of trials, the fewest first; the last is of all."""

    fits: Mapping[str, Mapping[int, Sequence[Scored]]]  # by model; a fit per seed
    readings: Mapping[int, Sequence[Reading]]  # of FactorTopy
    judged_at: int

    @property
    def whole(self) -> Sequence[Reading]:
        """Those of all trials."""
        return self.readings[max(self.readings)]

    @property
    def first(self) -> Fit:
        """FactorTopy's fit to all trials by the first seed."""
        return self.fits[MAPPED][max(self.readings)][0]


def limited(subject: str, size: str, seeds: Sequence[int], recipe: str = "fast") -> Limited:
    """The fits of each model on each number of trials; those that row 18 compares by each seed.

    Raises:
        InputError: for an unknown name, data that can't be used, fewer trials than asked, or fewer
            than two seeds, of which it isn't known how far they agree.
    """
    common = {"subject": subject, **sized(size, recipe), "backbone": BASE[size]["CLIP"]}
    seeds = different(seeds, 2)
    wanted: dict[tuple[str, int | None, int], dict[str, Any]] = {
        (model, n, seed): {"variant": model, "trials": n, "seed": seed}
        for model in (MAPPED, *RIVALS[size])
        for n in (*TRIALS[size], None)
        for seed in (seeds if model == MAPPED and n in (JUDGED[size], None) else seeds[:1])
    }
    fits: dict[str, dict[int, list[Any]]] = {}
    for (model, _, _), fit in get_fits(wanted, **common).items():
        n = len(trials_in(fit.subject, fit.split, "train"))
        fits.setdefault(model, {}).setdefault(n, []).append(fit)
    readings = {n: [read(fit) for fit in each] for n, each in fits[MAPPED].items()}
    return Limited(fits, readings, JUDGED[size])


def _with_next(found: Limited, n: int) -> list[tuple[Reading, Reading, Reading]]:
    """By seed: of so many trials, of all by the same seed, of all by the next one."""
    whole = found.whole
    again = [*whole[1:], whole[0]]
    return [*zip(found.readings[n], whole, again, strict=False)]


def judged(found: Limited, subject: str = "", run: Run | None = None) -> Judged:
    """Row 18, recorded for the scoreboard if a subject is named."""
    return evidence.evaluate(
        "limited-data",
        lambda three: evidence.limited_data(*three),
        _with_next(found, found.judged_at),
        subject,
        run,
    )


def scores_table(found: Limited) -> pd.DataFrame:
    """A row per model and number of trials: R² of single trials, over pictures and seeds."""
    rows = []
    for model, fits in found.fits.items():
        for n, each in fits.items():
            scores = [fit.scores("test") for fit in each]
            m = over_seeds(
                [{"": Measured.of(s.samples(np.isfinite(s.r2)), PICTURES)} for s in scores]
            )[""]
            row = {"model": model, "samples": n, "R²": m.value, "low": m.low, "high": m.high}
            rows.append(row)
    return pd.DataFrame(rows)


def _row(small: Reading, whole: Reading, again: Reading, truth: bool) -> dict[str, Measured]:
    """What `maps_table` says of one seed."""
    score, every = (roi_scores(reading)["all"] for reading in (small, whole))
    found = {
        "R²": Measured.of(score, PICTURES),
        "share": Measured.of(score / every, PICTURES),
        "map": Measured.of(map_correlation(small, whole), PATCHES),
        "other": Measured.of(map_correlation(small, again), PATCHES),
    }
    if truth:
        true = truth_reading(small)
        found["truth"] = Measured.of(map_correlation(small, true), PATCHES)
    return found


def maps_table(found: Limited) -> pd.DataFrame:
    """A row per number of trials, the last of all: R², its share of that of all, and how the map
    agrees with that of all by the same seed ("map"), by another ("other"), and with the truth where
    it is known; each over seeds.

    Fits of one seed start alike, and so agree beyond what the data taught them; other seeds don't.
    """
    known, rows = truth_known(found.whole[0]), []
    for n in found.readings:
        each = over_seeds([_row(*three, known) for three in _with_next(found, n)])
        row: dict[str, float] = {"samples": n}
        for name, m in each.items():
            row |= {name: m.value, f"{name} low": m.low, f"{name} high": m.high}
        rows.append(row)
    return pd.DataFrame(rows)


def layers_of(
    found: Limited,
) -> dict[str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]]]:
    """Layer weights and confidence of each number of trials by the first seed, for a sheet."""
    return {
        f"{n:,} samples": (runs[0].maps.weights, runs[0].maps.confidence())
        for n, runs in found.readings.items()
    }


def _range(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    return ranged(row[name], row[f"{name} low"], row[f"{name} high"], digits)


def shown(table: pd.DataFrame) -> Styler:
    """The table of maps as a page shows it: each number with its interval."""
    names = {"R²": "R²", "share": "Share of R² of all", "map": "With the map of all, same seed"}
    names |= {"other": "With the map of all, another seed", "truth": "With the truth"}
    rows = [
        {"Samples": row["samples"]}
        | {said: _range(row, name) for name, said in names.items() if name in row}
        for row in table.to_dict("records")
    ]
    return plain_table(pd.DataFrame(rows), table)


def shown_scores(scores: pd.DataFrame) -> Styler:
    """R² with its interval, a row per number of samples and a column per model."""
    cells = [
        ranged(m, low, high, 3)
        for m, low, high in scores[["R²", "low", "high"]].itertuples(index=False)
    ]
    wide = scores.assign(cell=cells).pivot(index="samples", columns="model", values="cell")
    columns = list(dict.fromkeys(scores["model"]))
    return plain_table(wide[columns].reset_index(names="samples"), scores)


def key_finding(table: pd.DataFrame, scores: pd.DataFrame, judged: Judged, at: int) -> str:
    """How much of the map few samples give, in a box; every number from the tables."""
    few = table[table["samples"] == at].to_dict("records")[0]
    every = table.to_dict("records")[-1]
    best = scores.loc[scores[scores["samples"] == every["samples"]]["R²"].idxmax()]
    least = scores.loc[scores[scores["samples"] == scores["samples"].min()]["R²"].idxmax()]
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"**{judged.finding.claim}** Judged at {at:,}: {judged.verdict}.\n\n"
        f"Trained on {at:,} of {every['samples']:,} samples, FactorTopy has"
        f" {_range(few, 'share')} of the R² that it has with all, and its map of depth correlates"
        f" by {_range(few, 'other')} with that of all samples by another seed, where two seeds of"
        f" all samples correlate by {_range(every, 'other')}. The highest R² with"
        f" {least['samples']:,} samples is that of {least['model']}, {least['R²']:.3f}; with all,"
        f" that of {best['model']}, {best['R²']:.3f}.\n:::"
    )


def truth_text(table: pd.DataFrame) -> str:
    """How the map nears the truth with more samples, where that is known."""
    if "truth" not in table:
        return "What these vertices read is not known: there is no truth to hold the maps against."
    each = "; ".join(
        f"{row['samples']:,} samples {_range(row, 'truth')}" for row in table.to_dict("records")
    )
    return (
        "Rank correlation over vertices of the depth found with the true one, interval over patches"
        f" of cortex: {each}. A map that agrees with that of all samples need not be right: both"
        " can be wrong alike."
    )
