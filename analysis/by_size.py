"""How a network's maps change with its size: the page of Figs 17-22 and rows 10 and 11 of Table 5.

    fits = fits_by_size("sim01", "small", [0, 1, 2])
    networks = by_size(fits)                 # family -> network -> a Reading per seed
    clip, others = judged(networks, "sim01", run)

`alignment` says what a line and its interval are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import evidence, reported
from analysis.alignment import STATISTICS, align, depth_table
from analysis.backbones import CARDS
from analysis.findings import FINDINGS, Run
from analysis.fit import Fit
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
from analysis.simulate import TEACHER
from analysis.sweep import BASE, FAMILIES, different, get_fits, sized
from analysis.verdicts import Judged, Measured, over_seeds

# By family, then by name, smallest first; a reading per seed.
Networks = Mapping[str, Mapping[str, Sequence[Reading]]]
SHOWN = ("slope", "start", "end")


def _sizes(size: str) -> dict[str, tuple[str, ...]]:
    """The networks of each family, smallest first; of the small ones' other families two.

    These are of base size and the largest, as in the paper's Figure 5.
    """
    if size == "paper":
        return FAMILIES[size]
    return {
        family: names if family == "CLIP" else (BASE[size][family], names[-1])
        for family, names in FAMILIES[size].items()
    }


def fits_by_size(
    subject: str,
    size: str,
    seeds: Sequence[int],
    other_seeds: Sequence[int] = (),
    recipe: str = "fast",
) -> dict[tuple[str, str], list[Fit]]:
    """By family and network, the fits of each size of each family, one for each seed.

    `other_seeds`: of families other than CLIP, which are left out if there is none.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    options, seeds = sized(size, recipe), different(seeds)
    others = different(other_seeds) if other_seeds else []
    wanted = {
        (family, name, seed): {"backbone": name, "seed": seed}
        for family, names in _sizes(size).items()
        for name in names
        for seed in (seeds if family == "CLIP" else others)
    }
    fits: dict[tuple[str, str], list[Fit]] = {}
    for (family, name, _), fit in get_fits(wanted, subject=subject, **options).items():
        fits.setdefault((family, name), []).append(fit)
    return fits


def by_size(fits: Mapping[tuple[str, str], Sequence[Fit]]) -> dict[str, dict[str, list[Reading]]]:
    """What the fits say, by family and network."""
    found: dict[str, dict[str, list[Reading]]] = {}
    for (family, name), each in fits.items():
        found.setdefault(family, {})[name] = [read(fit) for fit in each]
    return found


def _each(networks: Networks) -> Iterator[tuple[str, str, Sequence[Reading]]]:
    for family, sizes in networks.items():
        for name, runs in sizes.items():
            yield family, name, runs


def _measured(reading: Reading) -> dict[str, Measured]:
    """R² and the line's statistics of one fit."""
    line = align(reading.maps, reading.subject).samples
    found = {"R²": Measured.of(roi_scores(reading)["all"], PICTURES)}
    return found | {
        "share of variance" if name == "R²" else name: Measured.of(line[name], PATCHES)
        for name in STATISTICS
    }


def sizes_table(networks: Networks) -> pd.DataFrame:
    """A row per network: layers, weights in millions, R², the line's statistics, intervals of all
    over seeds too, and the mean confidence (Eq. 2).
    """
    rows = []
    for family, name, runs in _each(networks):
        row = {
            "family": family,
            "network": name,
            "seeds": len(runs),
            "layers": runs[0].maps.weights.shape[1],
            "weights": CARDS[name].parameters / 1e6,
        }
        for key, m in over_seeds([_measured(reading) for reading in runs]).items():
            row |= {key: m.value, f"{key} low": m.low, f"{key} high": m.high}
        confidence = np.mean([np.nanmean(reading.maps.confidence()) for reading in runs])
        rows.append(row | {"confidence": float(confidence)})
    return pd.DataFrame(rows)


def depths_table(networks: Networks) -> pd.DataFrame:
    """A row per network and ROI of the hierarchy: mean depth, with its interval over patches; of
    the first seed.
    """
    each = [
        depth_table(runs[0].maps, runs[0].subject).assign(family=family, network=name)
        for family, name, runs in _each(networks)
    ]
    return pd.concat(each, ignore_index=True)


def layers_of(
    networks: Networks,
) -> dict[str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]] | None]:
    """Layer weights and confidence of each network's first seed, a row for each family.

    None fills the row of a family that has fewer sizes than another.
    """
    most = max(map(len, networks.values()))
    sheet = {}
    for family, sizes in networks.items():
        maps = {name: runs[0].maps for name, runs in sizes.items()}
        sheet |= {name: (m.weights, m.confidence()) for name, m in maps.items()}
        sheet |= {f"{family}, none {i}": None for i in range(len(sizes), most)}
    return sheet


def judged(networks: Networks, subject: str = "", run: Run | None = None) -> tuple[Judged, Judged]:
    """Rows 10 (CLIP) and 11 (the others, if they were fitted), recorded if a subject is named.

    `run`: with CLIP's seeds, of which the others have the first ones.
    """
    clip = evidence.evaluate(
        "clip-size",
        evidence.clip_size,
        [*zip(*networks["CLIP"].values(), strict=True)],
        subject,
        run,
    )
    families = {family: sizes for family, sizes in networks.items() if family != "CLIP"}
    if not families:
        return clip, Judged(FINDINGS["other-sizes"], {})
    n = min(len(runs) for sizes in families.values() for runs in sizes.values())
    each = [{f: [runs[i] for runs in own.values()] for f, own in families.items()}
            for i in range(n)]  # fmt: skip
    own_run = run and replace(run, seeds=run.seeds[:n])
    others = evidence.evaluate("other-sizes", evidence.other_sizes, each, subject, own_run)
    return clip, others


def shown(table: pd.DataFrame) -> Styler:
    """The table of sizes as a page shows it: each number with its interval."""
    cells = {
        "Network": table["network"],
        "Seeds": table["seeds"],
        "Layers": table["layers"],
        "Weights (M)": table["weights"].map("{:,.1f}".format),
    }
    for name, digits in (("R²", 3), *((name, 2) for name in SHOWN)):
        parts = table[[name, f"{name} low", f"{name} high"]].itertuples(index=False)
        cells[name.capitalize()] = [ranged(*row, digits) for row in parts]
    cells["Confidence"] = table["confidence"].map("{:.2f}".format)
    return plain_table(pd.DataFrame(cells), table)


def verdicts_table(judged: Judged) -> Styler | str:
    """A row per part of the claim: measured, its verdict, and the same of the paper's figure."""
    printed = reported.printed_numbers().get(judged.finding.name, {})
    rows = [
        {
            "Part": part.name,
            "What": part.statistic,
            "Measured": ranged(m.value, m.low, m.high),
            "Interval over": m.over,
            "Holds if": str(part.rule),
            "Verdict": judged.part(part),
            "The paper's": printed.get(part.name, np.nan),
        }
        for part in judged.finding.parts
        if part.name in judged.measured
        for m in [judged.measured[part.name]]
    ]
    if not rows:
        return "Not run: no other family was fitted."
    return plain_table(pd.DataFrame(rows)).format({"The paper's": "{:.2f}"}, na_rep="–")


def published_table() -> Styler:
    """A row per family: our statistics of the paper's Figure 5, base and largest, subject #1."""
    lines = reported.figure_5()
    rows = []
    for family in FAMILIES["paper"]:
        row: dict[str, str | float] = {"Family": family}
        for panel, of in (("#1 base", "base"), ("#1 large", "largest")):
            found = lines[panel, family]
            row |= {f"{name.capitalize()}, {of}": float(found[name]) for name in SHOWN}
        rows.append(row)
    return plain_table(pd.DataFrame(rows)).format(precision=2)


def key_finding(table: pd.DataFrame, clip: Judged, others: Judged) -> str:
    """What size does to the line, in a box; every number from the table and the verdicts."""
    own = table[table["family"] == "CLIP"]
    small, large = own.iloc[0], own.iloc[-1]
    change = clip.measured["slope"]
    rows = (
        f"**{judged.finding.claim}** {judged.verdict.capitalize()}." for judged in (clip, others)
    )
    steepest = own.loc[own["slope"].idxmax()]
    between = (
        f" It does not rise with size throughout: it is largest, {steepest['slope']:.2f}, in"
        f" `{steepest['network']}`; the rule compares the two ends alone."
        if steepest["network"] not in (small["network"], large["network"])
        else ""
    )
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"From `{small['network']}` to `{large['network']}` the slope of depth over the hierarchy"
        f" goes from {small['slope']:.2f} to {large['slope']:.2f}: {change.value:+.2f}"
        f" [{change.low:+.2f}, {change.high:+.2f}], mean of {small['seeds']} seeds.{between}\n\n- "
        + "\n- ".join(rows)
        + "\n:::"
    )


def truth_text(networks: Networks) -> str:
    """How near the one network's map and line are to the truth, where that is known."""
    runs = next((runs for *_, runs in _each(networks) if truth_known(runs[0])), None)
    if runs is None:
        return "What these vertices read is not known: there is no truth to hold the maps against."
    true = truth_reading(runs[0])
    line = align(true.maps, true.subject).samples
    depth = [{"depth": Measured.of(map_correlation(r, true), PATCHES)} for r in runs]
    found = over_seeds([_measured(r) | each for r, each in zip(runs, depth, strict=True)])
    rows = "\n".join(
        f"| {name} | {line[of][0]:.2f} | {ranged(m.value, m.low, m.high)} |"
        for of in STATISTICS
        for name in ("share of variance" if of == "R²" else of,)
        for m in (found[name],)
    )
    agree = found["depth"]
    return (
        f"Responses were made from one of these networks, `{TEACHER}`; of no other size is a truth"
        f" known, so none of the two claims can be held against one. Of `{TEACHER}` the rank"
        f" correlation of the depth found with the true one is {agree.value:.2f} [{agree.low:.2f},"
        f" {agree.high:.2f}], and its line:\n\n| Statistic | True | Found |\n|:--|--:|--:|\n{rows}"
    )
