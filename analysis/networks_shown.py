"""Tables and texts of the pages on brain score and alignment, of what `networks_compared` compares.

score_table(each), alignment_shown(each)     # as a page shows them
verdict_text(judged["clip-best"], "sim01")   # a claim, its numbers and the truth

`each`: readings by name, one for each seed; where a map is drawn, that of one seed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import metrics, reported
from analysis.alignment import OURS, STATISTICS, Definition, align, depth_table, ranking_table
from analysis.attribution import agreement_table
from analysis.comparison import Paired
from analysis.files import InputError
from analysis.findings import Run, recorded
from analysis.networks_compared import Readings, seeds_of, truth_known
from analysis.published import COLUMNS, TABLE_13
from analysis.readings import (
    EARLY,
    LATE,
    PATCHES,
    PICTURES,
    Draws,
    Reading,
    map_correlation,
    mean_over,
    roi_scores,
    truth_reading,
)
from analysis.report import AREA_NAMES, DASH, plain_table, ranged
from analysis.simulate import TEACHER
from analysis.verdicts import Judged, Measured, against_truth, over_seeds

BREAK = "<br>"
Maps = dict[str, Float[np.ndarray, " vertex"] | None]


def over(runs: Sequence[Reading], of: Callable[[Reading], Draws], what: str) -> Measured:
    """A statistic of one network, over what its draws are of and over seeds."""
    return over_seeds([{"": Measured.of(of(reading), what)} for reading in runs])[""]


def _cell(m: Measured, digits: int = 3, between: str = BREAK) -> str:
    return ranged(m.value, m.low, m.high, digits, between)


# scores


def _roi(name: str) -> Callable[[Reading], Draws]:
    return lambda reading: roi_scores(reading)[name]


def score_table(each: Readings) -> Styler:
    """A row per ROI, a column per network: R² of single trials, over pictures and seeds."""
    columns: dict[str, Sequence[str]] = {"ROI": COLUMNS}
    for name, runs in each.items():
        there = roi_scores(runs[0])
        columns[name] = [
            _cell(over(runs, _roi(roi), PICTURES)) if roi in there else DASH for roi in COLUMNS
        ]
    return plain_table(pd.DataFrame(columns))


def published_table(names: Sequence[str]) -> Styler:
    """The same rows and columns of the paper's Table 13; names as in it."""
    there = [name for name in names if name in TABLE_13.index]
    return plain_table(TABLE_13.loc[there].T.rename_axis("ROI").reset_index())


def _mean(rois: Sequence[str]) -> Callable[[Reading], Draws]:
    return lambda reading: mean_over(roi_scores(reading), rois)


def times_table(steps: Readings) -> pd.DataFrame:
    """A row per time step, group of ROIs, and who measured: R², of ours with its interval."""
    rows = []
    for name, runs in steps.items():
        time = int(name.removeprefix("SD T"))
        for where, rois in (("V1 to V3", EARLY), ("beyond V4", LATE)):
            m = over(runs, _mean(rois), PICTURES)
            row = {"T": time, "where": where, "R²": m.value, "low": m.low, "high": m.high}
            rows.append(row | {"paper": TABLE_13.loc[name, list(rois)].mean()})
    return pd.DataFrame(rows).sort_values("T", kind="stable", ignore_index=True)


def paired_table(paired: Paired, one: str, other: str) -> Styler:
    """A row per ROI: the difference of R² with its interval, p, q, and where either is better."""
    return _differences(paired.roi_table(AREA_NAMES), one, other)


def against_shown(table: pd.DataFrame, one: str) -> Styler:
    """`against_table` as a page shows it."""
    return _differences(table.rename(columns={"network": "Other"}), one, "other")


def _differences(table: pd.DataFrame, one: str, other: str) -> Styler:
    parts = table[["difference of R²", "low", "high"]].itertuples(index=False)
    shown = pd.DataFrame(
        {
            table.columns[0]: table.iloc[:, 0],
            "Vertices": table["vertices"],
            f"R², {one} less {other}": [ranged(*row, digits=3) for row in parts],
            "p": table["p"].map("{:.4f}".format),
            "q": table["q"].map("{:.4f}".format),
            f"{one} better": table["first better"].map("{:.0%}".format),
            f"{other} better": table["second better"].map("{:.0%}".format),
        }
    )
    return plain_table(shown)


def people_table(each: Mapping[str, Reading]) -> Styler:
    """A row per ROI: R² of each person beside its ceiling, and the mean with Student's interval."""
    runs = metrics.runs_table([(r.scores, r.subject.rois) for r in each.values()], AREA_NAMES)
    table = pd.DataFrame({"ROI": runs["ROI"]})
    for name, reading in each.items():
        scores = roi_scores(reading)
        masks = metrics.regions(reading.subject.rois, AREA_NAMES, len(reading.scores.r2))
        table[name] = [
            _cell(Measured.of(scores[roi], PICTURES)) if roi in scores else DASH
            for roi in runs["ROI"]
        ]
        table[f"{name}, ceiling"] = [
            float(np.nanmean(reading.scores.ceiling[masks[roi]])) if roi in scores else np.nan
            for roi in runs["ROI"]
        ]
    parts = runs[["R²", "runs low", "runs high"]].itertuples(index=False)
    table["mean of people"] = [ranged(*row, digits=3, between=BREAK) for row in parts]
    return plain_table(table)


def score_finding(each: Readings) -> str:
    """Which network predicts best, early and late, in a box."""
    lines = []
    for where, rois in (("V1 to V3", EARLY), ("areas beyond V4", LATE)):
        nets = {name: over(runs, _mean(rois), PICTURES) for name, runs in each.items()}
        best, second = sorted(nets, key=lambda name: -nets[name].value)[:2]
        lines.append(
            f"- In {where} `{each[best][0].backbone}` has the highest R², {nets[best]}; next is"
            f" `{each[second][0].backbone}`, {nets[second]}."
        )
    runs = next(iter(each.values()))
    return (
        ":::{admonition} Key finding of the comparison\n:class: tip\nOf "
        f"{len(each)} networks on `{runs[0].subject.name}` ({_seeds(runs)}):\n\n"
        + "\n".join(lines)
        + "\n:::"
    )


def _seeds(runs: Sequence[Reading]) -> str:
    return "one seed" if len(runs) == 1 else f"mean of {len(runs)} seeds"


# layers


def layers_of(each: Mapping[str, Reading]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each one's layer weights and confidence, for a sheet of maps."""
    return {name: (r.maps.weights, r.maps.confidence()) for name, r in each.items()}


def runs_of(each: Mapping[str, Sequence[Reading]], seeds: Sequence[int]) -> dict[str, Reading]:
    """One of each person and seed, named so."""
    return {
        f"{person}, seed {seed}": reading
        for person, runs in each.items()
        for seed, reading in zip(seeds, runs, strict=True)
    }


def raw_weights(each: Mapping[str, Reading], half: int) -> Maps:
    """The weight over the cortex of each of the first (0) or second (1) half of layers, by network.

    As many of each, so that a sheet has a row for each network (Figs 14 and 15).
    """
    most = -(-max(r.maps.weights.shape[1] for r in each.values()) // 2)
    return {
        f"{name} {i + 1}": reading.maps.weights[:, i] if i < reading.maps.weights.shape[1] else None
        for name, reading in each.items()
        for i in range(half * most, (half + 1) * most)
    }


def raw_axes(axes: Mapping[str, Reading], names: Mapping[str, Sequence[str]]) -> Maps:
    """The weight of each layer of Stable Diffusion's encoder, decoder and times (Fig. 16).

    `names`: of the layers of each.
    """
    return {
        layer: weight
        for name, reading in axes.items()
        for layer, weight in zip(names[name], reading.maps.weights.T, strict=True)
    }


def places_of(each: Mapping[str, Reading]) -> Maps:
    """Where each network's vertices look: across and down the picture, from -1 to 1."""
    return {
        f"{name}, {way}": reading.space[:, i]
        for name, reading in each.items()
        for i, way in enumerate(("across", "down"))
    }


def places_with_truth(reading: Reading) -> Maps:
    """Where vertices look, and below it the truth where that is known."""
    return places_of({"found": reading} | _truth(reading))


def scales_of(each: Mapping[str, Reading]) -> Maps:
    """Each network's balance of local (0) and global (1) token; the truth's too where known."""
    scales = {name: reading.scale for name, reading in each.items()}
    for reading in each.values():
        scales |= {name: true.scale for name, true in _truth(reading).items()}
    return scales


def _truth(reading: Reading) -> dict[str, Reading]:
    return {"truth": truth_reading(reading)} if truth_known(reading) else {}


def _with_truths(each: Mapping[str, Reading]) -> Iterator[tuple[str, Reading]]:
    """Each network, and after that of the simulated responses its truth."""
    for name, reading in each.items():
        yield name, reading
        yield from ((f"{name}, truth", true) for true in _truth(reading).values())


def depths_table(each: Mapping[str, Reading]) -> pd.DataFrame:
    """A row per network and ROI of the hierarchy: mean depth with its interval over patches."""
    tables = [
        depth_table(reading.maps, reading.subject).assign(
            family=name.removesuffix(", truth"),
            network="truth" if name.endswith(", truth") else "found",
        )
        for name, reading in _with_truths(each)
    ]
    return pd.concat(tables, ignore_index=True)


def alignment_shown(each: Readings, attribution: str = "weight") -> Styler:
    """A row per network: slope, ends, R² and rank over patches and seeds; truth's in one."""
    definition = Definition(attribution=attribution)
    rows = []
    for name, runs in each.items():
        true = _truth(runs[0]).values()
        for title, some in ((name, runs), *((f"{name}, truth", [t]) for t in true)):
            found = _line(some, definition)
            rows.append({"Network": title} | {s: _cell(found[s], 2) for s in STATISTICS})
    return plain_table(pd.DataFrame(rows).rename(columns={"R²": "share of variance"}))


def _line(runs: Sequence[Reading], definition: Definition = OURS) -> dict[str, Measured]:
    """The statistics of depth over the hierarchy, over patches and seeds."""
    lines = [align(r.maps, r.subject, definition).samples for r in runs]
    return over_seeds([{s: Measured.of(line[s], PATCHES) for s in STATISTICS} for line in lines])


def figure_5_shown(panel: str = "#1 base") -> Styler:
    """Our statistics of the paper's Figure 5, of one panel.

    Raises:
        InputError: for an unknown panel.
    """
    table = reported.figure_5_table()
    if panel not in set(table["panel"]):
        raise InputError(f"panel={panel!r}: expected one of {', '.join(table['panel'].unique())}.")
    rows = table[table["panel"] == panel].drop(columns="panel")
    return plain_table(rows.rename(columns={"network": "Network"})).format(precision=2)


def ranking_shown(each: Mapping[str, Reading]) -> Styler:
    """A row per definition of alignment: each network's rank by slope, and τ with ours."""
    subject = next(iter(each.values())).subject
    table = ranking_table({name: r.maps for name, r in each.items()}, subject)
    return plain_table(table.rename(columns={"definition": "Definition"})).format(
        {"τ with the first": "{:.2f}"}
    )


def definition_text(definition: Definition = OURS) -> str:
    """What alignment means here."""
    return f"**Alignment here:** {definition}."


def alignment_finding(each: Readings) -> str:
    """Which network's layers follow the cortex most steeply by our definition, in a box."""
    slopes = {name: _line(runs)["slope"] for name, runs in each.items()}
    first, second = sorted(slopes, key=lambda name: -slopes[name].value)[:2]
    runs = next(iter(each.values()))
    truth = ""
    for name, own in each.items():
        for true in _truth(own[0]).values():
            truth = (
                f" `{TEACHER}` is the network that the responses were made from: its true slope is"
                f" {_line([true])['slope']}, found {slopes[name]}."
            )
    return (
        ":::{admonition} Key finding\n:class: tip\nOf "
        f"{len(each)} networks on `{runs[0].subject.name}` ({_seeds(runs)}), {first}'s layers"
        f" follow the hierarchy of areas most steeply, slope {slopes[first]}; next is {second},"
        f" {slopes[second]}.{truth}\n:::"
    )


def layers_truth_text(each: Readings) -> str:
    """How near the depth that was found is to the truth, and what that of other networks is."""
    true = next((t for runs in each.values() for t in _truth(runs[0]).values()), None)
    if true is None:
        return "What these vertices read is not known: there is no truth to hold the maps against."
    rows = "\n".join(
        f"| {name} | {over(runs, lambda reading: map_correlation(reading, true), PATCHES)} |"
        for name, runs in each.items()
    )
    return (
        f"Responses were made from `{TEACHER}`, whose depth, place and scale are known at every"
        " vertex; the other networks never saw them, and where their layers run along"
        " the hierarchy it is because layers of one depth look alike. Rank correlation over"
        " vertices of each network's depth with the true one:\n\n"
        "| Network | With the true depth |\n|:--|--:|\n" + rows
    )


def agreement_shown(each: Mapping[str, Sequence[Reading]], seeds: Sequence[int]) -> Styler:
    """A row per person and pair of seeds: how alike their maps are."""
    tables = [
        agreement_table([r.maps for r in runs], [f"{s}" for s in seeds]).assign(person=person)
        for person, runs in each.items()
    ]
    table = pd.concat(tables)
    names = {"run": "seed", "and": "and seed", "difference of depth": "mean difference of depth"}
    return plain_table(table[["person", *table.columns.drop("person")]].rename(columns=names))


# verdicts


def verdict_text(judged: Judged, subject: str = "", run: Run | None = None) -> str:
    """A claim, its verdict, and each part's number beside the one that the paper prints.

    `subject`, `run`: with what truth says, as it was recorded for them.
    """
    finding = judged.finding
    printed = reported.printed_numbers().get(finding.name, {})
    kept = recorded(subject, finding, run) if subject and run else {}
    truth = against_truth(judged, kept.get("truth"))
    why = f" ({judged.why})" if judged.why else ""
    rows = []
    for part in finding.parts:
        if part.name in judged.measured:
            m = judged.measured[part.name]
            paper = f"{printed[part.name]:.3f}" if part.name in printed else DASH
            rows.append(
                f"| *{part.name}*: {part.statistic} | {m} | {m.over} | {part.rule} |"
                f" {judged.part(part)} | {paper} |"
            )
    return (
        f"**{finding.claim}** ({finding.source}) Here: **{judged.verdict}**{why}. Against truth:"
        f" {truth}.\n\n"
        "| Part | Value, 95 % interval | Interval over | Holds if | Verdict | The paper's |\n"
        "|:--|:--|:--|:--|:--|:--|\n" + "\n".join(rows)
    )


def verdicts_text(
    judged: Mapping[str, Judged], subject: str = "", run: Run | None = None, why_not: str = ""
) -> str:
    """Each of several claims, one after another; `why_not` where there is none."""
    each = (verdict_text(one, subject, run and seeds_of(one, run)) for one in judged.values())
    return "\n\n".join(each) or why_not
