"""The numbers that the rows of Table 5 are judged by, from fits or from the paper's tables.

    readings = {"CLIP": read(fit), "SAM": read(other), ...}   # by the paper's names of families
    judge(FINDINGS["clip-best"], clip_best(readings))
    judge(FINDINGS["clip-best"], clip_best(with_truth(readings)))   # what should be found

Intervals of scores are over test pictures, those of maps over patches of cortex (`alignment`);
networks that are compared share the draws. Functions return the parts that their finding names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.stats
import torch
from jaxtyping import Float

from analysis.alignment import (
    LATE,
    OURS,
    Alignment,
    Definition,
    align,
    patches_of,
    roi_means,
    roi_sums,
)
from analysis.attribution import LayerMaps, layer_maps
from analysis.files import InputError
from analysis.findings import FINDINGS
from analysis.fit import Fit
from analysis.metrics import Scores, regions
from analysis.simulate import TEACHER, load_truth
from analysis.subject import Subject
from analysis.verdicts import PREDICTS, Measured, judge

PICTURES, PATCHES = "test pictures", "patches of cortex"
EARLY = ("V1", "V2", "V3")
MIDDLE = ("V4",)
VENTRAL, DORSAL = ("FBA", "FFA", "PPA", "VWFA"), ("OPA",)
AREAS = (*EARLY, *MIDDLE, *LATE)
Draws = Float[np.ndarray, " draw"]
RoiDraws = Mapping[str, Draws]  # by ROI; the data as they are first


@dataclass(frozen=True)
class Reading:
    """What one fit says: how well it predicts, and which layers its vertices read."""

    subject: Subject
    backbone: str
    scores: Scores
    maps: LayerMaps


def read(fit: Fit, seed: int = 0) -> Reading:
    """A fit's scores on test pictures and its layer maps."""
    return Reading(
        fit.subject, fit.record["backbone"], fit.scores("test"), layer_maps(fit, seed=seed)
    )


def with_truth(readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """The readings, those of the network that a simulated subject was made from set to its truth.

    Other networks' layers have no truth; they stay as they were measured.
    """
    out = {}
    for name, reading in readings.items():
        if reading.subject.simulated and reading.backbone == TEACHER:
            layer = load_truth(reading.subject.name, reading.subject.vertices).layer
            maps = replace(reading.maps, weights=layer.astype(np.float64), shares=layer)
            reading = replace(reading, maps=maps)
        out[name] = reading
    return out


def _of(readings: Mapping[str, Reading], *names: str) -> list[Reading]:
    if missing := [name for name in names if name not in readings]:
        raise InputError(
            f"readings: {', '.join(missing)} missing; there are {', '.join(readings) or 'none'}."
        )
    return [readings[name] for name in names]


def roi_scores(reading: Reading) -> RoiDraws:
    """R² of all vertices, and of each of Table 4's areas that the subject has."""
    masks = regions(reading.subject.rois, AREAS, len(reading.scores.r2))
    known = np.isfinite(reading.scores.r2)
    return {
        name: reading.scores.samples(mask & known)
        for name, mask in masks.items()
        if (mask & known).any()
    }


def _least(each: Sequence[RoiDraws]) -> dict[str, Measured]:
    """The smallest R² over all vertices of several networks."""
    return {PREDICTS: Measured.of(min((s["all"] for s in each), key=lambda d: d[0]), PICTURES)}


def predicts(readings: Sequence[Reading]) -> dict[str, Measured]:
    """The smallest R² of several networks, all vertices."""
    return _least([roi_scores(r) for r in readings])


def _mean(values: RoiDraws, names: Sequence[str]) -> Draws:
    """The mean over those of some ROIs that there are."""
    there = [values[name] for name in names if name in values]
    if not there:
        raise InputError(f"rois: none of {', '.join(names)}; there are {', '.join(values)}.")
    return np.mean(there, axis=0)


def early_and_late(scores: Mapping[str, RoiDraws]) -> dict[str, Measured]:
    """Row 1, of scores by network."""
    away = {n: _mean(scores[n], EARLY) - _mean(scores[n], LATE) for n in scores}
    draws = (away["MAE"] + away["SAM"] - away["CLIP"] - away["DiNOv2"]) / 2
    gap = {"MAE, SAM against CLIP, DiNOv2": Measured.of(draws, PICTURES)}
    return gap | _least(list(scores.values()))


def diffusion_uniform(
    steps: Mapping[int, RoiDraws], vits: Mapping[str, RoiDraws]
) -> dict[str, Measured]:
    """Row 2, of scores by time step and by ViT."""
    late = [scores for t, scores in steps.items() if t >= 35]
    if not late or not vits:
        raise InputError("steps, vits: expected steps from T35 on, and at least one ViT.")
    shared = [n for n in AREAS if all(n in scores for scores in (*late, *vits.values()))]
    share = [
        np.mean([scores[n] for scores in late], axis=0)
        / np.max([scores[n] for scores in vits.values()], axis=0)
        for n in shared
    ]
    worst = {"worst region": Measured.of(np.min(share, axis=0), PICTURES)}
    return worst | _least([*late, *vits.values()])


def diffusion_steps(steps: Mapping[int, RoiDraws]) -> dict[str, Measured]:
    """Row 3, of scores by time step."""
    times = np.array(sorted(steps))
    best = [
        times[np.argmax([_mean(steps[t], names) for t in times], axis=0)] for names in (EARLY, LATE)
    ]
    between = Measured.of((best[0] - best[1]).astype(float), PICTURES)
    return {"steps between": between} | _least(list(steps.values()))


def lines(readings: Mapping[str, Reading], definition: Definition = OURS) -> dict[str, Alignment]:
    """The alignment of each network, with shared draws."""
    return {name: align(r.maps, r.subject, definition) for name, r in readings.items()}


def clip_best(
    readings: Mapping[str, Reading], definition: Definition = OURS
) -> dict[str, Measured]:
    """Row 4."""
    _of(readings, "CLIP")
    found = lines(readings, definition)
    others = np.max([a.slope for name, a in found.items() if name != "CLIP"], axis=0)
    gap = Measured.of(found["CLIP"].slope - others, PATCHES)
    return {"slope": gap} | predicts(list(readings.values()))


def _layers(reading: Reading) -> Mapping[str, Float[np.ndarray, "draw layer"]]:
    """Each ROI's mean layer weights."""
    names, means = roi_means(reading.maps.weights, reading.subject, AREAS)
    return dict(zip(names, np.moveaxis(means, 1, 0), strict=True))


def _weight(reading: Reading, layers: slice) -> RoiDraws:
    """Each ROI's mean weight of some layers together."""
    return {name: mean[:, layers].sum(1) for name, mean in _layers(reading).items()}


def last_layer_middle(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 5."""
    out = {}
    for name, reading in zip(("ImageNet", "SAM"), _of(readings, "ImageNet", "SAM"), strict=True):
        last = _weight(reading, slice(-1, None))
        around = np.maximum(_mean(last, EARLY), _mean(last, LATE))
        out[name] = Measured.of(_mean(last, MIDDLE) - around, PATCHES)
    return out | predicts(_of(readings, "ImageNet", "SAM"))


def last_layer_unused(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 6."""
    out = {}
    for name, reading in zip(("DiNOv2", "MAE"), _of(readings, "DiNOv2", "MAE"), strict=True):
        last = np.max(list(_weight(reading, slice(-1, None)).values()), axis=0)
        out[name] = Measured.of(last * reading.maps.weights.shape[1], PATCHES)
    return out | predicts(_of(readings, "DiNOv2", "MAE"))


def moco_ventral(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 7."""
    (reading,) = _of(readings, "MoCov3")
    last = _weight(reading, slice(-max(1, round(reading.maps.weights.shape[1] / 6)), None))
    gap = Measured.of(_mean(last, VENTRAL) - _mean(last, DORSAL), PATCHES)
    return {"ventral less dorsal": gap} | predicts([reading])


def early_layers(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 8."""
    used = ("CLIP", "ImageNet", "SAM", "DiNOv2", "MAE", "MoCov3")
    each = [
        _mean(_weight(r, slice(max(1, round(r.maps.weights.shape[1] / 4)))), EARLY)
        for r in _of(readings, *used)
    ]
    gap = np.min(each[:2], axis=0) - np.max(each[2:], axis=0)
    return {"gap": Measured.of(gap, PATCHES)} | predicts(_of(readings, *used))


def _separation(reading: Reading) -> tuple[Draws, RoiDraws]:
    """The sd over ROIs of mean depth, and that depth."""
    names, means = roi_means(reading.maps.depth()[:, None], reading.subject, AREAS)
    return means[..., 0].std(1), dict(zip(names, means[..., 0].T, strict=True))


def diffusion_axes(
    encoder: Reading, decoder: Reading, time: Reading, vits: Mapping[str, Reading]
) -> dict[str, Measured]:
    """Row 9: Stable Diffusion's encoder and decoder layers at one time, and one layer over time."""
    (encoding, _), (decoding, _), (timing, depth) = map(_separation, (encoder, decoder, time))

    def confidence(r: Reading) -> Draws:
        names = [n for n in AREAS if n in r.subject.rois]
        everywhere = {"": np.any([r.subject.rois[n] for n in names], axis=0)}
        values = np.stack([r.maps.confidence(), np.ones(len(r.maps.weights))], 1)
        sums = roi_sums(values, patches_of(r.subject.coordinates), everywhere)
        return sums[:, 0, 0] / sums[:, 0, 1]

    _of(vits, *(["any ViT"] if not vits else []))
    soft = np.mean([confidence(r) for r in (encoder, decoder)], axis=0)
    draws = {
        "time, not layer": timing - (encoding + decoding) / 2,
        "encoder, not decoder": encoding - decoding,
        "softer": np.mean([confidence(r) for r in vits.values()], axis=0) - soft,
        "last steps early": _mean(depth, EARLY) - _mean(depth, LATE),
    }
    found = {name: Measured.of(values, PATCHES) for name, values in draws.items()}
    return found | predicts([encoder, decoder, time, *vits.values()])


def clip_size(sizes: Sequence[Reading], definition: Definition = OURS) -> dict[str, Measured]:
    """Row 10, of CLIP's sizes from the smallest to the largest."""
    small, large = (align(r.maps, r.subject, definition) for r in (sizes[0], sizes[-1]))
    draws = {
        "slope": large.slope - small.slope,
        "early": small.start - large.start,
        "late": large.end - small.end,
    }
    return {n: Measured.of(d, PATCHES) for n, d in draws.items()} | predicts(sizes)


def other_sizes(
    families: Mapping[str, Sequence[Reading]], definition: Definition = OURS
) -> dict[str, Measured]:
    """Row 11, of each other family's sizes from the smallest to the largest."""
    found = {}
    for name, sizes in families.items():
        small, large = (align(r.maps, r.subject, definition) for r in (sizes[0], sizes[-1]))
        found[f"{name} slope"] = Measured.of(small.slope - large.slope, PATCHES)
        if name in ("ImageNet", "DiNOv2"):
            found[f"{name} early"] = Measured.of(large.start - small.start, PATCHES)
        else:
            found[f"{name} late"] = Measured.of(small.end - large.end, PATCHES)
    return found | predicts([r for sizes in families.values() for r in sizes])


def channels_and_places(
    subject: Subject,
    channel: Float[np.ndarray, "vertex channel"],
    space: Float[np.ndarray, "vertex 2"],
    scale: Float[np.ndarray, " vertex"],
) -> dict[str, Measured]:
    """Row 14, of what was found or of a simulated subject's truth.

    The mean cosine of all pairs is the squared length of the mean of unit vectors.
    """
    unit = channel / np.linalg.norm(channel, axis=1, keepdims=True)
    width = unit.shape[1]
    values = np.concatenate([unit, space, np.square(space), scale[:, None]], 1).astype(float)
    groups = {}
    for name, rois in (("early", EARLY), ("late", LATE)):
        groups[name] = np.any([subject.rois[r] for r in rois if r in subject.rois], axis=0)
    counted = np.concatenate([values, np.ones((len(values), 1))], 1)
    sums = roi_sums(counted, patches_of(subject.coordinates), groups)
    means = sums[..., :-1] / sums[..., -1:]  # [draw, early or late, value]
    alike = np.square(means[..., :width]).sum(-1)
    spread = np.sqrt(
        (means[..., width + 2 : width + 4] - np.square(means[..., width : width + 2])).sum(-1)
    )
    draws = {
        "channels": alike[:, 0] - alike[:, 1],
        "places": spread[:, 0] - spread[:, 1],
        "global token": means[:, 1, -1] - means[:, 0, -1],
    }
    return {name: Measured.of(d, PATCHES) for name, d in draws.items()}


def channels_of(fit: Fit) -> dict[str, Measured]:
    """Row 14, of a fit."""
    chosen = fit.selectors()
    with torch.inference_mode():
        arrays = (fit.model.weight, chosen.space, chosen.scale[:, 0])
        channel, space, scale = (a.cpu().numpy() for a in arrays)
    return channels_and_places(fit.subject, channel, space, scale) | predicts([read(fit)])


def true_channels_of(fit: Fit) -> dict[str, Measured]:
    """Row 14, of a simulated subject's truth at the fit's vertices."""
    truth = load_truth(fit.subject.name, fit.subject.vertices)
    return channels_and_places(fit.subject, truth.channel, truth.space, truth.scale)


def _apart(profiles: Sequence[Sequence[RoiDraws]]) -> Draws:
    """Mean difference over ROIs between runs of different subjects less that within subjects."""
    shared = [n for n in AREAS if all(n in run for runs in profiles for run in runs)]
    each = [[np.stack([run[n] for n in shared]) for run in runs] for runs in profiles]
    flat = [(s, run) for s, runs in enumerate(each) for run in runs]
    pairs: dict[bool, list[Draws]] = {True: [], False: []}
    for i, (s, one) in enumerate(flat):
        for t, other in flat[:i]:
            pairs[s == t].append(np.abs(one - other).mean(0))
    if not (pairs[True] and pairs[False]):
        raise InputError("subjects: expected two or more, and two or more seeds of one.")
    return np.mean(pairs[False], axis=0) - np.mean(pairs[True], axis=0)


def subjects_differ(subjects: Sequence[Sequence[Reading]]) -> dict[str, Measured]:
    """Row 16, of each subject's fits by other seeds."""
    scores = [[roi_scores(r) for r in runs] for runs in subjects]
    depths = [[_separation(r)[1] for r in runs] for runs in subjects]
    return {
        "score": Measured.of(_apart(scores), PICTURES),
        "alignment": Measured.of(_apart(depths), PATCHES),
    } | predicts([r for runs in subjects for r in runs])


def map_correlation(one: Reading, other: Reading) -> Draws:
    """Rank correlation over vertices of two maps of depth on the same ones, by drawn patches.

    Raises:
        InputError: if the vertices are not the same.
    """
    if not np.array_equal(one.subject.vertices, other.subject.vertices):
        raise InputError(f"{one.subject.name}, {other.subject.name}: not the same vertices.")
    a, b = (scipy.stats.rankdata(r.maps.depth()) / len(r.maps.weights) for r in (one, other))
    values = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], 1)
    everywhere = {"": np.ones(len(a), bool)}
    n, sa, sb, saa, sbb, sab = roi_sums(values, patches_of(one.subject.coordinates), everywhere)[
        :, 0
    ].T
    spread = np.sqrt((saa - sa * sa / n) * (sbb - sb * sb / n))
    return (sab - sa * sb / n) / np.where(spread > 1e-12 * saa, spread, np.nan)


def limited_table(by_trials: Mapping[int, Reading], whole: Reading) -> pd.DataFrame:
    """A row per number of training samples, rising: R², its share of all data's, the map's rank
    correlation with that of all data, each with its interval, and whether row 18 holds of it.
    """
    rows = []
    for trials, reading in sorted(by_trials.items()):
        found, score = limited_data(reading, whole), roi_scores(reading)["all"]
        parts = {"R²": Measured.of(score, PICTURES), "share": found["score"], "map": found["map"]}
        row: dict[str, float | str] = {"samples": trials}
        for name, m in parts.items():
            row |= {name: m.value, f"{name} low": m.low, f"{name} high": m.high}
        rows.append(row | {"verdict": judge(FINDINGS["limited-data"], found).verdict})
    return pd.DataFrame(rows)


def seeds_agree(subjects: Sequence[Sequence[Reading]]) -> dict[str, Measured]:
    """Row 17, of each subject's fits by other seeds: of the subject whose maps agree least."""
    each = []
    for runs in subjects:
        pairs = [map_correlation(runs[i], runs[j]) for i in range(len(runs)) for j in range(i)]
        if not pairs:
            raise InputError(f"{runs[0].subject.name}: one run; expected two or more seeds.")
        each.append(np.mean(pairs, axis=0))
    least = min(each, key=lambda draws: draws[0])
    return {"map": Measured.of(least, PATCHES)} | predicts([r for runs in subjects for r in runs])


def limited_data(small: Reading, whole: Reading) -> dict[str, Measured]:
    """Row 18, of fits on few and on all samples."""
    share = roi_scores(small)["all"] / roi_scores(whole)["all"]
    return {
        "map": Measured.of(map_correlation(small, whole), PATCHES),
        "score": Measured.of(share, PICTURES),
    } | predicts([small, whole])
