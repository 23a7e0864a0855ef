"""What a finding's page says in words and tables, computed from a Fit."""

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import metrics, model
from analysis.backbones import CARDS
from analysis.downloads import Table
from analysis.fidelity import Person, nsd_ncsnr
from analysis.files import InputError
from analysis.fit import Fit
from analysis.maps import choices
from analysis.metrics import Scores
from analysis.published import TABLE_13
from analysis.readings import truth_of
from analysis.recipes import RECIPES, named_recipe
from analysis.simulate import TEACHER
from analysis.subject import AREAS

AREA_NAMES = tuple(AREAS)
DASH = "\u2060–\u2060"  # of a range, where a line is not broken


def _percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def ranged(value: float, low: float, high: float, digits: int = 2, between: str = " ") -> str:
    """0.12 (0.10–0.15): a number and its interval, which is left out where there is none."""
    first, *ends = (
        text.lstrip("-") if not float(text) else text.replace("-", "−")
        for text in (f"{x:.{digits}f}" for x in (value, low, high))
    )
    return f"{first}{between}({DASH.join(ends)})" if np.isfinite(low + high) else first


def provenance(fit: Fit) -> str:
    """Whose data these are, how many, how they were split, and what model was trained on them.

    A simulated subject is named so.
    """
    s = fit.subject
    of = {
        "NSD": f"Subject `{s.name}` of the Natural Scenes Dataset.",
        "Algonauts 2023": f"`{s.name}` of the Algonauts 2023 challenge: responses averaged over"
        " repeats, not comparable with single trials.",
        "own": f"`{s.name}`: the reader's own data.",
        "simulated": ":::{warning}\n**Simulated data.** Cortex, pictures, responses and noise of"
        f" `{s.name}` are made by this project. Nothing here is evidence about a brain.\n:::",
    }
    plural = "s" if s.n_sessions > 1 else ""
    sessions = f" in {s.n_sessions} session{plural}" if s.n_sessions else ""
    soup = (
        "\n\n:::{warning}\n**The test pictures chose the soup** of checkpoints, as in the paper:"
        " scores on them are too high to be compared with others.\n:::"
        if fit.record["key"]["recipe"]["soup"] == "test"
        else ""
    )
    limited = f" ({len(fit.split.trials):,} trials)" if fit.split.trials is not None else ""
    return (
        f"{of[s.source]}\n\n{len(s.vertices):,} vertices of visual cortex ({s.dropped} left out:"
        f" no data in some session), {len(s.responses):,} trials{sessions},"
        f" {len(s.picture_ids):,} pictures: {len(fit.split.train)} to train on{limited},"
        f" {len(fit.split.validation)} to validate, {len(fit.split.test)} to test."
        f" Model {model_text(fit)}, recipe {recipe_text(fit)}.{soup}"
    )


def model_text(fit: Fit) -> str:
    """The model that was trained, by name, with what is told of it in a line."""
    key = fit.record["key"]["model"]
    standardised = "standardised" if key["standardise"] else "as they come"
    return f"{model_name(fit)} ({key['channels']} channels, tokens {standardised})"


def model_name(fit: Fit) -> str:
    """The name of the model that was trained, whatever its width."""
    return fit.record["key"]["model"]["model"]


def recipe_text(fit: Fit) -> str:
    """The recipe that a fit was trained by, with its steps."""
    batch = fit.record["key"]["recipe"]["batch"]
    return f"{recipe_name(fit)} ({fit.record['result']['steps']:,} steps of {batch} trials)"


def recipe_name(fit: Fit) -> str:
    """The name of the recipe that a fit was trained by, as it was recorded."""
    own = fit.record["key"]["recipe"]
    for name in RECIPES:
        known = dataclasses.asdict(named_recipe(name, own["seed"]))
        if json.dumps(known, sort_keys=True) == json.dumps(own, sort_keys=True):
            return name
    return "of its own"


def key_finding(fit: Fit, scores: Scores, averaged: Scores, table: pd.DataFrame) -> str:
    """The finding, in a box; every number from the scores."""
    everywhere = np.isfinite(scores.r2)
    score = scores.over(everywhere)
    share = scores.over(everywhere, normalised=True)
    means = averaged.over(everywhere)
    areas = table[table["ROI"] != "all"]
    best, worst = (areas.loc[getattr(areas["R²"], f)()] for f in ("idxmax", "idxmin"))
    simulated = " of a simulated subject" if fit.subject.simulated else ""
    kind = "test" if fit.record["key"]["recipe"]["soup"] == "test" else "unseen"
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"Over {score.n_vertices:,} vertices{simulated}, `{fit.record['backbone']}` predicts single"
        f" trials of {score.n_pictures} {kind} pictures with R² = **{score.value:.3f}**"
        f" [{score.low:.3f}, {score.high:.3f}]. That is **{_percent(share.value)}**"
        f" [{_percent(share.low)}, {_percent(share.high)}] of what the noise allows"
        f" (mean ceiling {scores.ceiling.mean():.3f}). Against {averaged.targets} R² is"
        f" {means.value:.3f} [{means.low:.3f}, {means.high:.3f}]. It is highest in {best['ROI']}"
        f" ({best['R²']:.3f}) and lowest in {worst['ROI']} ({worst['R²']:.3f}).\n:::"
    )


def plain_table(table: pd.DataFrame, numbers: pd.DataFrame | None = None) -> Styler:
    """A table without its index, its numbers to three places, and a link to them all.

    `numbers`: what the link gives where the table shows them as text, as value and interval in one.
    """
    return (
        Table(table, numbers)
        .hide(axis="index")
        .format(precision=3, na_rep="–", thousands=",")
        .set_table_attributes('class="dataframe"')  # the theme draws these well
    )


def table_beside_published(table: pd.DataFrame, row: str) -> Styler:
    """The ROI table with a row of the paper's Table 13 beside it.

    Raises:
        InputError: for a row that the table doesn't have.
    """
    if row not in TABLE_13.index:
        raise InputError(f"published={row!r}: expected one of {', '.join(TABLE_13.index)}.")
    shown = table.assign(**{f"paper: {row}": table["ROI"].map(TABLE_13.loc[row])})
    shown["95 % interval"] = [
        f"{low:.3f}{DASH}{high:.3f}" for low, high in zip(shown["low"], shown["high"], strict=True)
    ]
    columns = ["ROI", "vertices", "R²", "95 % interval", "noise ceiling", "R² / ceiling"]
    return plain_table(shown[[*columns, f"paper: {row}"]], shown.drop(columns="95 % interval"))


def fits_table(fits: list[Fit]) -> Styler:
    """A row per fit: its network, how long it was trained, its score on test pictures."""
    rows = []
    for fit in fits:
        scores = fit.scores("test")
        everywhere = np.isfinite(scores.r2)
        score = scores.over(everywhere)
        rows.append(
            {
                "Network": fit.record["backbone"],
                "Layers": len(fit.tokens.widths),
                "Channels": sum(fit.tokens.widths),
                "Steps": fit.record["result"]["steps"],
                "R² of single trials": score.value,
                "95 % interval": f"{score.low:.3f}{DASH}{score.high:.3f}",
                "R² / ceiling": scores.over(everywhere, normalised=True).value,
            }
        )
    return plain_table(pd.DataFrame(rows))


def settings_table(settings: Any | dict[str, Any]) -> Styler:
    """A row per field of a dataclass, with the comment that its source gives it.

    Several of one class, by name: a column for each.
    """
    each = settings if isinstance(settings, dict) else {"Value": settings}
    one = next(iter(each.values()))
    source = inspect.getsource(type(one))
    rows = []
    for field in dataclasses.fields(one):
        line = re.search(rf"((?:^    # .*\n)*)^    {field.name}:[^\n#]*(?:# *(.*))?$", source, re.M)
        above = " ".join(part.strip(" #") for part in line[1].splitlines())
        shown = {}
        for name, some in each.items():
            value = getattr(some, field.name)
            shown[name] = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        rows.append({"Setting": field.name, **shown, "Meaning": line[2] or above})
    return plain_table(pd.DataFrame(rows))


def fidelity_text(people: Mapping[str, Person], table: pd.DataFrame) -> str:
    """The finding about simulated people, in a box; every number from them and the table."""
    ranged = table[table["within"] != ""]
    inside = ranged["within"].str.split(" ", n=1).str[0].astype(int)
    whole = [q for q, n in zip(ranged["quantity"], inside, strict=True) if n == len(people)]
    outside = [q for q in ranged["quantity"] if q not in whole]
    single = table[table["within"] == ""].set_index("quantity")
    off = single[list(people)].div(single["NSD, least"], axis=0)
    far = [q.split(",")[0] for q in off.index[((off > 1.5) | (off < 1 / 1.5)).any(axis=1)]]
    outside_text = f" Outside for some: {'; '.join(outside)}." if outside else ""
    single_text = " Of those with one known value, off by a factor over 1.5:"
    far_text = f"{single_text} {', '.join(far)}." if far else ""
    sizes = {f"{len(subject.vertices):,}" for subject, _ in people.values()}
    noisier = {n: float(np.median(nsd_ncsnr(subject))) for n, (subject, _) in people.items()}
    lowest = min(noisier, key=noisier.__getitem__)
    return (
        ":::{warning}\n**Simulated data.** Nothing here is evidence about a brain.\n:::\n\n"
        f":::{{admonition}} Key finding\n:class: tip\nOf {len(ranged)} quantities whose range over"
        f" NSD's subjects is known, {len(whole)} lie within it for all {len(people)} simulated"
        f" people ({', '.join(sorted(sizes))} vertices)."
        f"{outside_text}{far_text}"
        f" The noisiest is {lowest}, with a median ncsnr of {noisier[lowest]:.3f} for a trial worth"
        " one of NSD's.\n:::"
    )


def networks_table(miniatures: bool) -> Styler:
    """A row per network of the paper's tables, or per miniature."""
    rows = []
    for name, card in CARDS.items():
        if (card.tag is None) != miniatures:
            continue
        low, high = min(card.widths), max(card.widths)
        width = str(low) if low == high else f"{low}{DASH}{high}"
        rows.append(
            {
                "Name": name,
                "Layers × width": f"{card.layers} × {width}",
                "Input, patch (px)": f"{card.input_size}, {card.patch or 'none'}",
                "Weights (M)": card.parameters / 1e6,
                "Cache (MB a picture)": card.cache_bytes / 1e6,
                "Licence": card.licence,
            }
        )
    return plain_table(pd.DataFrame(rows)).format(precision=2)


def disagreements_table() -> Styler:
    """A row for each thing that the paper and the released networks say differently."""
    rows = [
        {
            "Network": card.title,
            "What": known.field.replace("_", " "),
            "Paper": known.paper,
            "Released": known.released,
            "Why": known.why,
        }
        for card in CARDS.values()
        for known in card.disagreements
    ]
    return plain_table(pd.DataFrame(rows)).format({"Paper": "{:g}", "Released": "{:g}"})


def options_table(options: type) -> Styler:
    """A row per field of a dataclass whose metadata hold its choices and the reason for one."""
    rows = [
        {
            "Option": field.name,
            "Default": field.default,
            "Others": ", ".join(str(c) for c in field.metadata["choices"] if c != field.default),
            "Why": field.metadata["reason"],
        }
        for field in dataclasses.fields(options)
    ]
    return plain_table(pd.DataFrame(rows))


def truth_pairs(
    fit: Fit,
) -> list[tuple[str, Float[np.ndarray, " vertex"], Float[np.ndarray, " vertex"]]]:
    """What a simulated subject's vertices read, and what was found; places in V1-V3 only.

    Empty for a person, whose truth is not known.
    """
    if not fit.subject.simulated:
        return []
    truth, found = truth_of(fit.subject), choices(fit)
    depth = model.depth(torch.from_numpy(truth.layer)).numpy()
    early = truth.early
    size = (
        [("field size in V1–V3", truth.field[early], found["size"][early])]
        if "size" in found
        else []
    )
    return [
        ("layer", depth, found["depth"]),
        ("scale", truth.scale, found["scale"]),
        ("x in V1–V3", truth.space[early, 0], found["x"][early]),
        ("y in V1–V3", truth.space[early, 1], found["y"][early]),
        *size,
    ]


def truth_text(fit: Fit, pairs: list, scores: Scores) -> str:
    """How well the choices agree with the truth: a rank correlation for each."""
    if not pairs:
        return f"`{fit.subject.name}` is a person: what its vertices read is not known."
    if fit.record["backbone"] != TEACHER:
        note = f"The responses were made from `{TEACHER}`, another network: layers need not agree."
    else:
        note = f"The responses were made from this network, `{TEACHER}`, in another way."
    rows = "\n".join(
        f"| {name} | {len(true):,} | {metrics.rank_correlation(true, found):.2f} |"
        for name, true, found in pairs
    )
    share = scores.over(np.isfinite(scores.r2), normalised=True)
    return (
        f"{note} How much of the truth comes back: the rank correlation over vertices of what"
        f" was found with what is true:\n\n| Quantity | Vertices | Rank correlation |\n"
        f"|:--|--:|--:|\n{rows}\n\nThe ceiling-normalised score of the same fit is"
        f" {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]."
    )


def versions_line(fit: Fit) -> str:
    """What made the fit: its key, its training, the libraries."""
    result, versions = fit.record["result"], fit.record["versions"]
    return (
        f"Fit `{fit.folder.name}`, {result['steps']:,} steps, validation R²"
        f" {result['validation_r2']:.3f}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
