"""How scores and maps grow with the samples trained on: the page of Figs 27-28, row 18 of Table 5.

    fits = fits_by_trials("sim01", "small")       # (model, trials) -> fit; None: all trials
    found = by_trials(fits)
    maps_table(found), scores_table(fits)

A smaller set of trials lies within each larger one; validation and test pictures are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import evidence
from analysis.fit import PartName, trials_in
from analysis.metrics import Scores
from analysis.readings import Reading, map_correlation, read, with_truth
from analysis.report import plain_table, ranged
from analysis.simulate import TEACHER
from analysis.sweep import BASE, get_fits, sized
from analysis.verdicts import Judged, Measured

# Numbers of trials beside all; and which of them row 18 is judged at: the paper's 3,000, or of one
# session, which has not so many, about half. Chosen before any was fitted.
TRIALS = {"small": (75, 150, 300), "paper": (300, 1000, 3000, 10000)}
JUDGED = {"small": 300, "paper": 3000}
MAPPED = "factortopy"
# GNet's pooling fields take longest by far: of the small size they are on the methods page alone.
RIVALS = {
    "small": ("class-token", "patch-token", "ridge"),
    "paper": ("class-token", "patch-token", "gnet", "ridge"),
}


@runtime_checkable
class Scored(Protocol):
    """A fit of any model: what has a brain score on a part of the split."""

    def scores(self, part: PartName) -> Scores: ...


@dataclass(frozen=True)
class Limited:
    """Fits and what they say by number of trials, the fewest first; the last is of all."""

    fits: Mapping[str, Mapping[int, Scored]]  # by model
    readings: Mapping[int, Reading]
    again: Reading  # of all trials, by another seed
    judged_at: int

    @property
    def whole(self) -> Reading:
        """That of all trials."""
        return self.readings[max(self.readings)]


def limited(subject: str, size: str, seed: int = 0) -> Limited:
    """The fits of each model on each number of trials, made if they are not there.

    Raises:
        InputError: for an unknown name, data that can't be used, or fewer trials than asked.
    """
    common = {"subject": subject, "seed": seed, **sized(size), "backbone": BASE[size]["CLIP"]}
    wanted: dict[tuple[str, int | None], dict[str, Any]] = {
        (model, n): {"variant": model, "trials": n}
        | ({"changes": None} if model == "ridge" else {})
        for model in (MAPPED, *RIVALS[size])
        for n in (*TRIALS[size], None)
    }
    wanted["again", None] = {"seed": seed + 1}
    made = get_fits(wanted, **common)
    fits: dict[str, dict[int, Scored]] = {}
    for (model, _), fit in made.items():
        fits.setdefault(model, {})[len(trials_in(fit.subject, fit.split, "train"))] = fit
    (again,) = fits.pop("again").values()
    readings = {n: read(fit) for n, fit in fits[MAPPED].items()}
    return Limited(fits, readings, read(again), JUDGED[size])


def controls(subject: str, size: str, seed: int = 0) -> list[Reading]:
    """The fits that row 18 is judged by, of shuffled responses."""
    fits = get_fits(
        {n: {"trials": n} for n in (JUDGED[size], None)},
        **{"subject": subject, "seed": seed, **sized(size, shuffle=True)},
        backbone=BASE[size]["CLIP"],
    )
    return [read(fit) for fit in fits.values()]


def judged(
    found: Limited, control: list[Reading] | None = None, subject: str = "", run: str = ""
) -> Judged:
    """Row 18, recorded for the scoreboard if a subject is named."""
    pair = [found.readings[found.judged_at], found.whole]
    return evidence.evaluate("limited-data", evidence.limited_data, pair, control, subject, run)


def scores_table(found: Limited) -> pd.DataFrame:
    """A row per model and number of trials: R² of single trials with its interval."""
    rows = []
    for model, fits in found.fits.items():
        for n, fit in fits.items():
            scores = fit.scores("test")
            m = scores.over(np.isfinite(scores.r2))
            row = {"model": model, "samples": n, "R²": m.value, "low": m.low, "high": m.high}
            rows.append(row)
    return pd.DataFrame(rows)


def _known(reading: Reading) -> bool:
    return reading.subject.simulated and reading.backbone == TEACHER


def maps_table(found: Limited) -> pd.DataFrame:
    """A row per number of trials, the last of all: how the map agrees with that of all by the same
    seed ("map") and by another ("other"), and with the truth where it is known; verdict by row 18.

    Fits of one seed start alike, and so agree beyond what the data taught them; other seeds don't.
    """
    table = evidence.limited_table(found.readings, found.whole)
    table["verdict"] = [*table["verdict"].iloc[:-1], "all"]
    each = list(found.readings.values())
    beside = {"other": [found.again] * len(each)}
    if _known(found.whole):
        beside["truth"] = [with_truth(r) for r in each]
    for name, others in beside.items():
        pairs = zip(each, others, strict=True)
        measured = [Measured.of(map_correlation(*pair), "patches of cortex") for pair in pairs]
        for column, of in ((name, "value"), (f"{name} low", "low"), (f"{name} high", "high")):
            table[column] = [getattr(m, of) for m in measured]
    return table


def layers_of(
    found: Limited,
) -> dict[str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]]]:
    """Layer weights and confidence of each number of trials, for a sheet of maps."""
    return {
        f"{n:,} samples": (r.maps.weights, r.maps.confidence()) for n, r in found.readings.items()
    }


def _range(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    return ranged(row[name], row[f"{name} low"], row[f"{name} high"], digits)


def shown(table: pd.DataFrame) -> Styler:
    """The table of maps as a page shows it: each number with its interval."""
    names = {"R²": "R²", "share": "Share of R²", "map": "Map of all", "other": "Another seed's"}
    names |= {"truth": "Truth"}
    rows = [
        {"Samples": row["samples"]}
        | {said: _range(row, name) for name, said in names.items() if name in row}
        | {"Row 18's rules": row["verdict"]}
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
    """How many samples the map takes, in a box; every number from the tables."""
    fewer, every = table.iloc[:-1], table.to_dict("records")[-1]
    bound = judged.finding.parts[0].rule.bound

    def least(column: str) -> str:
        enough = fewer.loc[fewer[f"{column} low"] > bound, "samples"]
        return f"**{enough.iloc[0]:,}**" if len(enough) else "none below all"

    few = scores["samples"] == scores["samples"].min()
    best = scores.loc[scores.loc[few, "R²"].idxmax()]
    alike = (
        " Two seeds agree less than that: what few samples share with all is in part the same start"
        " of the training, not what was learnt."
        if every["other high"] < judged.measured["map"].low
        else ""
    )
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        "The smallest number of samples whose map agrees with that of all"
        f" {every['samples']:,} (interval of the rank correlation of depth above {bound:g}):"
        f" {least('map')} by the same seed, {least('other')} by another. With {at:,} that is"
        f" {judged.measured['map']}, at {judged.measured['score']} of the R² of all; with all,"
        f" another seed's map is at {_range(every, 'other')}.{alike} With {best['samples']:,}"
        f" samples the best score is that of {best['model']}, {best['R²']:.3f}.\n\n"
        f"- **{judged.finding.claim}** Judged at {at:,} samples: {judged.verdict}.\n:::"
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
