"""How a network's maps change with its size: the page of Figs 17-22 and rows 10 and 11 of Table 5.

    fits = fits_by_size("sim01", "small")
    networks = by_size(fits)                 # family -> network -> Reading, smallest first
    clip, others = judged(networks, control, "sim01")

All is read from one fit of each network; `alignment` says what a line and its interval are.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import evidence, metrics, reported
from analysis.alignment import STATISTICS, align, depth_table
from analysis.backbones import CARDS
from analysis.findings import FINDINGS
from analysis.fit import Fit
from analysis.readings import Reading, map_correlation, read, roi_scores, with_truth
from analysis.report import plain_table, ranged
from analysis.simulate import TEACHER
from analysis.sweep import FAMILIES, get_fits, sized
from analysis.verdicts import Judged, Measured, judge

Networks = Mapping[str, Mapping[str, Reading]]  # by family, then by name, smallest first
SHOWN = ("slope", "start", "end")


def fits_by_size(
    subject: str, size: str, seed: int = 0, ends: bool = False, shuffle: bool = False
) -> dict[tuple[str, str], Fit]:
    """By family and network, a fit of each size of each family; `ends`: smallest and largest
    alone; `shuffle`: controls.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    common = sized(size, shuffle)
    wanted = {
        (family, name): {"backbone": name}
        for family, names in FAMILIES[size].items()
        for name in (names[:: len(names) - 1] if ends else names)
    }
    return get_fits(wanted, subject=subject, seed=seed, **common)


def by_size(fits: Mapping[tuple[str, str], Fit]) -> dict[str, dict[str, Reading]]:
    """What the fits say, by family and network."""
    found: dict[str, dict[str, Reading]] = {}
    for (family, name), fit in fits.items():
        found.setdefault(family, {})[name] = read(fit)
    return found


def _each(networks: Networks) -> Iterator[tuple[str, str, Reading]]:
    for family, sizes in networks.items():
        for name, reading in sizes.items():
            yield family, name, reading


def sizes_table(networks: Networks) -> pd.DataFrame:
    """A row per network: layers, weights in millions, R², the line's statistics, intervals of all,
    and the mean confidence (Eq. 2).
    """
    rows = []
    for family, name, reading in _each(networks):
        score = Measured.of(roi_scores(reading)["all"], "test pictures")
        rows.append(
            {
                "family": family,
                "network": name,
                "layers": reading.maps.weights.shape[1],
                "weights": CARDS[name].parameters / 1e6,
                "R²": score.value,
                "R² low": score.low,
                "R² high": score.high,
            }
            | {
                "share of variance" + key.removeprefix("R²") if key.startswith("R²") else key: value
                for key, value in align(reading.maps, reading.subject).row().items()
            }
            | {"confidence": float(np.nanmean(reading.maps.confidence()))}
        )
    return pd.DataFrame(rows)


def depths_table(networks: Networks) -> pd.DataFrame:
    """A row per network and ROI of the hierarchy: mean depth, with its interval over patches."""
    each = [
        depth_table(reading.maps, reading.subject).assign(family=family, network=name)
        for family, name, reading in _each(networks)
    ]
    return pd.concat(each, ignore_index=True)


def layers_of(
    networks: Networks,
) -> dict[str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]] | None]:
    """Each network's layer weights and confidence, for a sheet with a row for each family.

    None fills the row of a family that has fewer sizes than another.
    """
    most = max(map(len, networks.values()))
    sheet = {}
    for family, sizes in networks.items():
        sheet |= {n: (r.maps.weights, r.maps.confidence()) for n, r in sizes.items()}
        sheet |= {f"{family}, none {i}": None for i in range(len(sizes), most)}
    return sheet


def judged(
    networks: Networks, control: Networks | None = None, subject: str = "", run: str = ""
) -> tuple[Judged, Judged]:
    """Rows 10 (CLIP) and 11 (the others), recorded for the scoreboard if a subject is named."""
    sizes, mixed = (
        None if some is None else {family: [*own.values()] for family, own in some.items()}
        for some in (networks, control)
    )
    clip = evidence.evaluate(
        "clip-size", evidence.clip_size, sizes.pop("CLIP"),
        mixed and mixed.pop("CLIP"), subject, run,
    )  # fmt: skip
    others = evidence.evaluate("other-sizes", evidence.other_sizes, sizes, mixed, subject, run)
    return clip, others


def shown(table: pd.DataFrame) -> Styler:
    """The table of sizes as a page shows it: each number with its interval."""
    cells = {
        "Network": table["network"],
        "Layers": table["layers"],
        "Weights (M)": table["weights"].map("{:,.1f}".format),
    }
    for name, digits in (("R²", 3), *((name, 2) for name in SHOWN)):
        parts = table[[name, f"{name} low", f"{name} high"]].itertuples(index=False)
        cells[name.capitalize()] = [ranged(*row, digits) for row in parts]
    cells["Confidence"] = table["confidence"].map("{:.2f}".format)
    return plain_table(pd.DataFrame(cells), table)


def verdicts_table(judged: Judged) -> Styler:
    """A row per part of the claim: measured, and the same of the paper's figure, both judged."""
    name = judged.finding.name
    paper = judge(FINDINGS[name], reported.evidence_of_paper()[name])
    rows = [
        {
            "Part": part.name,
            "What": part.statistic,
            "Measured": ranged(m.value, m.low, m.high),
            "Verdict": judged.part(part),
            "The paper's": ranged(p.value, p.low, p.high),
            "By the same rule": paper.part(part),
        }
        for part in judged.finding.parts
        for m, p in [(judged.measured[part.name], paper.measured[part.name])]
    ]
    return plain_table(pd.DataFrame(rows))


def published_table() -> Styler:
    """A row per family: our statistics of the paper's Figure 5, base and largest, subject #1."""
    lines = reported.figure_5()
    rows = []
    for family in FAMILIES["paper"]:
        row: dict[str, str | float] = {"Family": family}
        for panel, of in (("#1 base", "base"), ("#1 large", "largest")):
            found = lines[panel, family]
            row |= {f"{name.capitalize()}, {of}": float(found[name][0]) for name in SHOWN}
        rows.append(row)
    return plain_table(pd.DataFrame(rows)).format(precision=2)


def key_finding(table: pd.DataFrame, clip: Judged, others: Judged) -> str:
    """What size does to the line, in a box; every number from the table and the verdicts."""
    own = table[table["family"] == "CLIP"]
    small, large = own.iloc[0], own.iloc[-1]
    change = clip.measured["slope"]
    each = {
        part.name.removesuffix(" slope"): others.part(part)
        for part in others.finding.parts
        if part.name.endswith(" slope")
    }
    words = {"holds": "falls", "does not hold": "rises", "cannot be told": "can't be told"}
    said = "; ".join(
        f"it {word} for {', '.join(names)}"
        for verdict, word in words.items()
        if (names := [family for family, found in each.items() if found == verdict])
    )
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
        f" [{change.low:+.2f}, {change.high:+.2f}].{between} Of the other families, from the"
        f" smallest to the largest, {said}.\n\n- " + "\n- ".join(rows) + "\n:::"
    )


def truth_text(networks: Networks) -> str:
    """How near the one network's map and line are to the truth, where that is known."""
    mine = {n: r for _, n, r in _each(networks) if n == TEACHER and r.subject.simulated}
    if not mine:
        return "What these vertices read is not known: there is no truth to hold the maps against."
    found = mine[TEACHER]
    true = with_truth(found)
    lines = [align(r.maps, r.subject).samples for r in (true, found)]
    agree = Measured.of(map_correlation(found, true), "patches of cortex")
    rows = "\n".join(
        f"| {name} | {lines[0][name][0]:.2f} | "
        + ranged(lines[1][name][0], *metrics.quantiles(lines[1][name][1:]))
        + " |"
        for name in STATISTICS
    )
    return (
        f"Responses were made from one of these networks, `{TEACHER}`; of no other size is a truth"
        f" known, so none of the two claims can be held against one. Of `{TEACHER}` the rank"
        f" correlation of the depth found with the true one is {agree.value:.2f} [{agree.low:.2f},"
        f" {agree.high:.2f}], and its line:\n\n| Statistic | True | Found |\n|:--|--:|--:|\n{rows}"
    )
