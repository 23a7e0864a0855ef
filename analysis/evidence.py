"""The numbers that the rows of Table 5 are judged by, from fits or from the paper's tables.

    evaluate("clip-best", clip_best, [readings_of_seed_0, ...], subject="sim01", run=run)

Functions return the parts that their finding names, each with its interval. Networks go by the
paper's names: CLIP, SAM, ImageNet, DiNOv2, MAE, MoCov3, and "SD T40" for a time step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from analysis.alignment import LATE, OURS, Definition, align, patches_of, roi_sums
from analysis.files import InputError
from analysis.findings import FAMILIES, FINDINGS, Run, record
from analysis.readings import (
    AREAS,
    DORSAL,
    EARLY,
    MIDDLE,
    PATCHES,
    PICTURES,
    VENTRAL,
    Draws,
    Reading,
    RoiDraws,
    layer_weight,
    least_predicts,
    map_correlation,
    mean_over,
    moved,
    named,
    over_pictures,
    predicts,
    roi_scores,
    separation,
)
from analysis.verdicts import Judged, Measured, judge, over_seeds

LATE_STEP = 35  # of Stable Diffusion's 50
COMPARE_SEEDS = ("fine-tuning-layout", "subjects-differ", "seeds-agree")  # by their statistic
Readings = TypeVar("Readings")  # what a row takes: a Reading, or lists and dicts of them


def _scores(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, RoiDraws]:
    return {n: roi_scores(r) if isinstance(r, Reading) else r for n, r in networks.items()}


def _steps(scores: Mapping[str, RoiDraws]) -> tuple[dict[int, RoiDraws], list[RoiDraws]]:
    """Scores of Stable Diffusion by time step, from names such as "SD T40", and the others'."""
    times = {n: int(n.removeprefix("SD T")) for n in scores if n.startswith("SD T")}
    if not times:
        raise InputError(f"networks: {', '.join(scores) or 'none'}; expected some as 'SD T40'.")
    steps = {t: scores[n] for n, t in sorted(times.items(), key=lambda named: named[1])}
    return steps, [s for n, s in scores.items() if n not in times]


def early_and_late(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, Measured]:
    """Row 1."""
    used = ("MAE", "SAM", "CLIP", "DiNOv2")
    scores = _scores(dict(zip(used, named(networks, *used), strict=True)))
    away = {n: mean_over(scores[n], EARLY) - mean_over(scores[n], LATE) for n in scores}
    draws = (away["MAE"] + away["SAM"] - away["CLIP"] - away["DiNOv2"]) / 2
    gap = {"MAE, SAM against CLIP, DiNOv2": Measured.of(draws, PICTURES)}
    return gap | least_predicts(list(scores.values()))


def diffusion_uniform(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, Measured]:
    """Row 2, of Stable Diffusion by time step ("SD T40") and of ViTs."""
    steps, vits = _steps(_scores(networks))
    late = [scores for t, scores in steps.items() if t >= LATE_STEP]
    if not (late and vits):
        raise InputError(
            f"networks: {', '.join(networks)}; expected steps from T{LATE_STEP} on, and a ViT."
        )
    shared = [n for n in AREAS if all(n in scores for scores in (*late, *vits))]
    share = [
        np.mean([scores[n] for scores in late], axis=0)
        / np.max([scores[n] for scores in vits], axis=0)
        for n in shared
    ]
    worst = {"worst region": Measured.of(min(share, key=lambda draws: draws[0]), PICTURES)}
    return worst | least_predicts([*late, *vits])


def diffusion_steps(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, Measured]:
    """Row 3, of Stable Diffusion by time step ("SD T40")."""
    steps, _ = _steps(_scores(networks))
    times = np.array(list(steps))
    early, late = (
        times[np.argmax([mean_over(s, names) for s in steps.values()], axis=0)]
        for names in (EARLY, LATE)
    )
    between = Measured.of((early - late).astype(float), PICTURES)
    return {"steps between": between} | least_predicts(list(steps.values()))


def clip_best(
    readings: Mapping[str, Reading], definition: Definition = OURS
) -> dict[str, Measured]:
    """Row 4."""
    clip, *others = (align(r.maps, r.subject, definition) for r in named(readings, *FAMILIES))
    return {
        f"over {name}": Measured.of(clip.slope - other.slope, PATCHES)
        for name, other in zip(FAMILIES[1:], others, strict=True)
    } | predicts(named(readings, *FAMILIES))


def last_layer_middle(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 5."""
    out = {}
    for name, reading in zip(("ImageNet", "SAM"), named(readings, "ImageNet", "SAM"), strict=True):
        last = layer_weight(reading, slice(-1, None))
        for than, rois in (("not early", EARLY), ("not late", LATE)):
            gap = mean_over(last, MIDDLE) - mean_over(last, rois)
            out[f"{name}, {than}"] = Measured.of(gap, PATCHES)
    return out | predicts(named(readings, "ImageNet", "SAM"))


def last_layer_unused(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 6."""
    out = {}
    for name, reading in zip(("DiNOv2", "MAE"), named(readings, "DiNOv2", "MAE"), strict=True):
        last = max(layer_weight(reading, slice(-1, None)).values(), key=lambda draws: draws[0])
        out[name] = Measured.of(last * reading.maps.weights.shape[1], PATCHES)
    return out | predicts(named(readings, "DiNOv2", "MAE"))


def moco_ventral(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 7."""
    (reading,) = named(readings, "MoCov3")
    last = layer_weight(reading, slice(-max(1, round(reading.maps.weights.shape[1] / 6)), None))
    gap = Measured.of(mean_over(last, VENTRAL) - mean_over(last, DORSAL), PATCHES)
    return {"ventral less dorsal": gap} | predicts([reading])


def early_layers(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 8."""
    first = {
        name: mean_over(layer_weight(r, slice(max(1, round(r.maps.weights.shape[1] / 4)))), EARLY)
        for name, r in zip(FAMILIES, named(readings, *FAMILIES), strict=True)
    }
    used = ("CLIP", "ImageNet")
    return {
        f"{one} over {other}": Measured.of(first[one] - first[other], PATCHES)
        for one in used
        for other in FAMILIES
        if other not in used
    } | predicts(named(readings, *FAMILIES))


def diffusion_axes(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 9: "SD encoder" and "SD decoder" layers at one time, "SD time" of one layer, and ViTs."""
    encoder, decoder, time = named(readings, "SD encoder", "SD decoder", "SD time")
    vits = [r for name, r in readings.items() if not name.startswith("SD ")]
    if not vits:
        raise InputError(f"readings: {', '.join(readings)}; expected a ViT beside them.")
    (encoding, _), (decoding, _), (timing, depth) = map(separation, (encoder, decoder, time))

    def confidence(r: Reading) -> Draws:
        names = [n for n in AREAS if n in r.subject.rois]
        everywhere = {"": np.any([r.subject.rois[n] for n in names], axis=0)}
        values = np.stack([r.maps.confidence(), np.ones(len(r.maps.weights))], 1)
        sums = roi_sums(values, patches_of(r.subject.coordinates), everywhere)
        return sums[:, 0, 0] / sums[:, 0, 1]

    soft = np.mean([confidence(r) for r in (encoder, decoder)], axis=0)
    draws = {
        "time, not layer": timing - (encoding + decoding) / 2,
        "encoder, not decoder": encoding - decoding,
        "softer": np.mean([confidence(r) for r in vits], axis=0) - soft,
        "last steps early": mean_over(depth, EARLY) - mean_over(depth, LATE),
    }
    found = {name: Measured.of(values, PATCHES) for name, values in draws.items()}
    return found | predicts(list(readings.values()))


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


def _changes(readings: Mapping[str, Mapping[str, Reading]], names: Sequence[str]) -> list[Draws]:
    """How far late vertices of networks moved, mean over tasks; task "" is before any."""
    return [
        np.mean([moved(of[""], after, LATE) for task, after in of.items() if task], axis=0)
        for of in named(readings, *names)
    ]


def fine_tuning_layout(readings: Mapping[str, Mapping[str, Reading]]) -> dict[str, Measured]:
    """Row 12, of each network before ("") and after it was tuned to each task."""
    used = ("CLIP", "DiNOv2", "MAE")
    clip, *others = _changes(readings, used)
    found = {
        name: Measured.of(other - clip, PATCHES)
        for name, other in zip(used[1:], others, strict=True)
    }
    return found | predicts([r for of in named(readings, *used) for r in of.values()])


def fine_tuning_accuracy(
    readings: Mapping[str, Mapping[str, Reading]],
    right: Mapping[str, Mapping[str, Float[np.ndarray, " picture"]]],
) -> dict[str, Measured]:
    """Row 13; `right`: by network and task, the share of runs that name each test picture."""
    names = tuple(readings)
    others = [name for name in names if name != "CLIP"]
    accuracy = {
        name: np.mean([over_pictures(each) for each in right[name].values()], axis=0)
        for name in names
    }
    (clip,) = named(accuracy, "CLIP")
    best = clip - np.max([accuracy[name] for name in others], axis=0)
    ranks = [
        scipy.stats.rankdata(np.stack(values), axis=0)
        for values in (list(accuracy.values()), _changes(readings, names))
    ]
    a, b = (r - r.mean(0) for r in ranks)
    spread = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    related = np.abs((a * b).sum(0) / np.where(spread > 0, spread, 1))  # no order, no relation
    return {
        "CLIP best": Measured.of(best, PICTURES),
        "no relation": Measured.of(related, f"{PICTURES}, {PATCHES}"),
    } | predicts([r for of in readings.values() for r in of.values()])


def channels_and_places(reading: Reading) -> dict[str, Measured]:
    """Row 14. The mean cosine of all pairs is the squared length of the mean of unit vectors."""
    subject, space, scale = reading.subject, reading.space, reading.scale
    channel = reading.channel.astype(float)
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
    found = {name: Measured.of(d, PATCHES) for name, d in draws.items()}
    return found | predicts([reading])


def _apart(profiles: Sequence[Sequence[RoiDraws]]) -> Draws:
    """Mean squared difference over ROIs between runs of different subjects less that within."""
    shared = [n for n in AREAS if all(n in run for runs in profiles for run in runs)]
    each = [[np.stack([run[n] for n in shared]) for run in runs] for runs in profiles]
    flat = [(s, run) for s, runs in enumerate(each) for run in runs]
    pairs: dict[bool, list[Draws]] = {True: [], False: []}
    for i, (s, one) in enumerate(flat):
        for t, other in flat[:i]:
            pairs[s == t].append(np.square(one - other).mean(0))
    if not (pairs[True] and pairs[False]):
        raise InputError("subjects: expected two or more, and two or more seeds of one.")
    return np.mean(pairs[False], axis=0) - np.mean(pairs[True], axis=0)


def subjects_differ(subjects: Sequence[Sequence[Reading]]) -> dict[str, Measured]:
    """Row 16, of each subject's fits by other seeds.

    Noise in a subject's training data moves its map as another subject would; no seed shows that.
    """
    scores = [[roi_scores(r) for r in runs] for runs in subjects]
    depths = [[separation(r)[1] for r in runs] for runs in subjects]
    return {
        "score": Measured.unbiased(_apart(scores), PICTURES),
        "alignment": Measured.unbiased(_apart(depths), PATCHES),
    } | predicts([r for runs in subjects for r in runs])


def limited_table(by_trials: Mapping[int, Reading], whole: Reading, again: Reading) -> pd.DataFrame:
    """A row per number of training samples, rising: R², its share of all data's, the map's rank
    correlation with that of all data by another seed (`again`), each with its interval.
    """
    rows = []
    for trials, reading in sorted(by_trials.items()):
        found, score = limited_data(reading, whole, again), roi_scores(reading)["all"]
        parts = {"R²": Measured.of(score, PICTURES), "share": found["score"], "map": found["map"]}
        row: dict[str, float] = {"samples": trials}
        for name, m in parts.items():
            row |= {name: m.value, f"{name} low": m.low, f"{name} high": m.high}
        rows.append(row)
    return pd.DataFrame(rows)


def top_channels(curves: Mapping[str, Draws]) -> dict[str, Measured]:
    """Row 15, of each region's area under the curve by its top channels, drawn over pictures."""
    return {"category": Measured.smallest(curves, PICTURES)}


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


def limited_data(small: Reading, whole: Reading, again: Reading) -> dict[str, Measured]:
    """Row 18, of a fit on few samples, of one on all, and of another seed's on all.

    Fits of one seed start alike, and so agree beyond what the data taught them: the map is compared
    with the other seed's.
    """
    share = roi_scores(small)["all"] / roi_scores(whole)["all"]
    return {
        "map": Measured.of(map_correlation(small, again), PATCHES),
        "score": Measured.of(share, PICTURES),
    } | predicts([small, whole, again])


def _seeds(readings: Any) -> int:
    """How many seeds the innermost lists of readings hold, the fewest of all."""
    if isinstance(readings, Mapping):
        return min(_seeds(each) for each in readings.values())
    if isinstance(readings[0], Reading):
        return len(readings)
    return min(_seeds(each) for each in readings)


def evaluate(
    name: str,
    measure: Callable[[Readings], Mapping[str, Measured]],
    seeds: Sequence[Readings],
    subject: str = "",
    run: Run | None = None,
    truth: Readings | None = None,
) -> Judged:
    """Judge a finding by `measure`, over seeds.

    `seeds`: what `measure` takes, once for each seed; rows 12, 16 and 17, which compare seeds, take
    one element that holds all. Recorded for the scoreboard of `subject`, if one is named.
    `truth`: what `measure` takes, of what a simulated person truly reads.

    Raises:
        InputError: for no seeds, a subject without its run, or the truth of a row that has none.
    """
    finding = FINDINGS[name]
    if not seeds:
        raise InputError(f"{name}: no readings; expected those of one or more seeds.")
    if subject and run is None:
        raise InputError(f"{name}: subject={subject!r} without a run; expected findings.Run.")
    if truth is not None and not finding.true_parts:
        raise InputError(f"{name}: truth given; of this finding a simulated person has none.")
    if name in COMPARE_SEEDS:
        judged = judge(finding, measure(seeds[0]), _seeds(seeds[0]))
    else:
        judged = judge(finding, over_seeds([measure(each) for each in seeds]), len(seeds))
    true = None
    if truth is not None:
        found = measure(truth)
        true = judge(finding, {part: found[part] for part in finding.true_parts})
    if subject and run is not None:
        record(subject, judged, true, run)
    return judged
