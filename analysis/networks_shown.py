"""Tables and texts of the pages on brain score and alignment, of what `networks_compared` compares.

score_table(each), alignment_shown(each)     # as a page shows them
verdict_text(judged["clip-best"], "sim01")   # a claim, its numbers, truth and control
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import metrics, reported
from analysis.alignment import OURS, STATISTICS, Definition, align, depth_table, ranking_table
from analysis.attribution import agreement_table
from analysis.comparison import Paired
from analysis.files import InputError
from analysis.findings import recorded
from analysis.published import COLUMNS, SUBJECTS, TABLE_13
from analysis.readings import (
    EARLY,
    LATE,
    Draws,
    Reading,
    map_correlation,
    mean_over,
    roi_scores,
    with_truth,
)
from analysis.report import AREA_NAMES, DASH, plain_table, ranged
from analysis.simulate import TEACHER
from analysis.verdicts import NOT_RUN, PREDICTS, Judged, Measured, against_truth, in_control, judge

BREAK = "<br>"
Maps = dict[str, Float[np.ndarray, " vertex"] | None]


def _drawn(draws: Draws, digits: int = 3, between: str = BREAK) -> str:
    return ranged(draws[0], *metrics.quantiles(draws[1:]), digits, between)


# scores


def score_table(each: Mapping[str, Reading]) -> Styler:
    """A row per ROI, a column per network: R² of single trials, with its interval over pictures."""
    scores = {name: roi_scores(reading) for name, reading in each.items()}
    columns: dict[str, Sequence[str]] = {"ROI": COLUMNS}
    for name, own in scores.items():
        columns[name] = [_drawn(own[roi]) if roi in own else DASH for roi in COLUMNS]
    return plain_table(pd.DataFrame(columns))


def published_table(names: Sequence[str]) -> Styler:
    """The same rows and columns of the paper's Table 13; names as in it."""
    there = [name for name in names if name in TABLE_13.index]
    return plain_table(TABLE_13.loc[there].T.rename_axis("ROI").reset_index())


def times_table(steps: Mapping[str, Reading]) -> pd.DataFrame:
    """A row per time step, group of ROIs, and who measured: R², of ours with its interval."""
    rows = []
    for name, reading in steps.items():
        scores, time = roi_scores(reading), int(name.removeprefix("SD T"))
        for where, rois in (("V1 to V3", EARLY), ("beyond V4", LATE)):
            draws = mean_over(scores, rois)
            low, high = metrics.quantiles(draws[1:])
            row = {"T": time, "where": where, "R²": draws[0], "low": low, "high": high}
            rows.append(row | {"paper": TABLE_13.loc[name, list(rois)].mean()})
    return pd.DataFrame(rows).sort_values("T", kind="stable", ignore_index=True)


def paired_table(paired: Paired, one: str, other: str) -> Styler:
    """A row per ROI: the difference of R² with its interval, p, q, and where either is better."""
    table = paired.roi_table(AREA_NAMES).rename(columns={"ROI": "of"})
    return _differences(table.rename(columns={"of": "ROI"}), one, other)


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
    """A row per ROI: R² of each person, its mean with Student's interval; beside it the paper's."""
    over = metrics.runs_table([(r.scores, r.subject.rois) for r in each.values()], AREA_NAMES)
    table = pd.DataFrame({"ROI": over["ROI"]})
    for name, reading in each.items():
        scores = roi_scores(reading)
        table[name] = [_drawn(scores[roi]) if roi in scores else DASH for roi in over["ROI"]]
    parts = over[["R²", "runs low", "runs high"]].itertuples(index=False)
    table["mean of people"] = [ranged(*row, digits=3, between=BREAK) for row in parts]
    for row in SUBJECTS:
        there = over["ROI"].map(TABLE_13.loc[row])
        table[f"paper, {row.removeprefix('CLIP (subject ').rstrip(')')}"] = there
    return plain_table(table)


def score_finding(each: Mapping[str, Reading], steps: Mapping[str, Reading]) -> str:
    """Which network and which time step predict best, early and late, in a box."""
    scores = {name: roi_scores(reading) for name, reading in each.items()}
    by_time = {name: roi_scores(reading) for name, reading in steps.items()}
    lines = []
    for where, rois in (("V1 to V3", EARLY), ("areas beyond V4", LATE)):
        nets = {name: mean_over(s, rois) for name, s in scores.items()}
        times = {name: mean_over(s, rois) for name, s in by_time.items()}
        best, second = sorted(nets, key=lambda name: -nets[name][0])[:2]
        step = max(times, key=lambda name: times[name][0])
        away = Measured.of(nets[best] - nets[second], "test pictures")
        of_step = Measured.of(times[step], "test pictures")
        told = "" if of_step.low > 0 else ", which is not above 0 for sure"
        lines.append(
            f"in {where} `{each[best].backbone}` predicts best, R²"
            f" {Measured.of(nets[best], '')}, {away} above `{each[second].backbone}`; of the time"
            f" steps {step.removeprefix('SD ')} does, {of_step}{told}"
        )
    return (
        ":::{admonition} Key finding of the comparison\n:class: tip\nOf "
        f"{len(each)} networks on `{next(iter(each.values())).subject.name}`, {'; '.join(lines)}."
        "\n:::"
    )


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
    true = with_truth(reading)
    return {} if true is reading else {"truth": true}


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


def alignment_shown(each: Mapping[str, Reading], attribution: str = "weight") -> Styler:
    """A row per network: slope, ends, R² and rank with intervals over patches; truth's in one."""
    definition = Definition(attribution=attribution)
    rows = []
    for name, reading in _with_truths(each):
        found = align(reading.maps, reading.subject, definition).samples
        rows.append({"Network": name} | {s: _drawn(found[s], 2) for s in STATISTICS})
    return plain_table(pd.DataFrame(rows).rename(columns={"R²": "share of variance"}))


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


def alignment_finding(each: Mapping[str, Reading]) -> str:
    """Which network's layers follow the cortex best by our definition, and how sure, in a box."""
    found = {name: align(r.maps, r.subject) for name, r in each.items()}
    order = sorted(found, key=lambda name: -found[name].slope[0])
    first, second = order[:2]
    away = Measured.of(found[first].slope - found[second].slope, "")
    sure = "which its interval tells apart" if away.low > 0 else "which can't be told apart from 0"
    subject = next(iter(each.values())).subject
    truth = ""
    teacher = next((n for n, r in each.items() if r.backbone == TEACHER), None)
    if subject.simulated and teacher:
        true = with_truth(each[teacher])
        truth = (
            f" `{TEACHER}` is the network that the responses were made from: its true slope is"
            f" {Measured.of(align(true.maps, subject).slope, '')}, found"
            f" {Measured.of(found[teacher].slope, '')}."
        )
    return (
        ":::{admonition} Key finding\n:class: tip\nOf "
        f"{len(each)} networks on `{subject.name}`, {first}'s layers follow the hierarchy of areas"
        f" most steeply, slope {Measured.of(found[first].slope, '')}; then {second},"
        f" {Measured.of(found[second].slope, '')}: a difference of {away}, {sure}.{truth}\n:::"
    )


def layers_truth_text(each: Mapping[str, Reading]) -> str:
    """How near the depth that was found is to the truth, and what that of other networks is."""
    true = next((t for reading in each.values() for t in _truth(reading).values()), None)
    if true is None:
        return "What these vertices read is not known: there is no truth to hold the maps against."
    rows = "\n".join(
        f"| {name} | {Measured.of(map_correlation(reading, true), '')} |"
        for name, reading in each.items()
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


def verdict_text(judged: Judged, subject: str = "") -> str:
    """A claim, its verdict, and each part's number beside the paper's by the same rule.

    `subject`: with what truth and the shuffled control say, as they were recorded for it.
    """
    finding = judged.finding
    paper = judge(finding, reported.evidence_of_paper().get(finding.name, {})).measured
    kept, _ = recorded(subject, finding) if subject else ({}, "")
    of_truth = against_truth(judged, kept.get("truth"))
    control = kept.get("control")
    mixed = in_control(control)
    if control and mixed != NOT_RUN:
        mixed += f"; its smallest R² is {control.measured[PREDICTS]}"
    rows = []
    for part in finding.parts:
        if part.name in judged.measured:
            published = str(paper.get(part.name, DASH))
            rows.append(
                f"| *{part.name}*: {part.statistic} | {judged.measured[part.name]} |"
                f" {part.rule} | {judged.part(part)} | {published} |"
            )
    return (
        f"**{finding.claim}** ({finding.source}) Here: **{judged.verdict}**. Against truth:"
        f" {of_truth}. Of shuffled responses: {mixed}. The smallest R² of the networks read is"
        f" {judged.measured[PREDICTS]}.\n\n"
        "| Part | Value, 95 % interval | Holds if | Verdict | The paper's |\n"
        "|:--|:--|:--|:--|:--|\n" + "\n".join(rows)
    )


def verdicts_text(judged: Mapping[str, Judged], subject: str = "", why_not: str = "") -> str:
    """Each of several claims, one after another; `why_not` where there is none."""
    return "\n\n".join(verdict_text(one, subject) for one in judged.values()) or why_not
