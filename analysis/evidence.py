"""The numbers that the rows of Table 5 are judged by, from fits or from the paper's tables.

    evaluate("clip-best", clip_best, [readings_of_seed_0, ...], subject="sim01", run=run)

Functions return the parts that their finding names, each with its interval, and the smallest R² of
the networks that they read. Networks go by the paper's names: CLIP, SAM, ImageNet, DiNOv2, MAE,
MoCov3, and "SD T40" for a time step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.stats
from jaxtyping import Float

from analysis.alignment import LATE, OURS, Definition, patches_of
from analysis.files import InputError
from analysis.findings import FAMILIES, FINDINGS, Run, gate, record
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
    changed,
    confidence,
    depth_line,
    group_means,
    known,
    layer_weight,
    least_predicts,
    map_correlation,
    mean_over,
    moved,
    n_patches,
    n_pictures,
    named,
    over_pairs,
    over_pictures,
    predicts,
    roi_scores,
    roi_shares,
    separation,
)
from analysis.verdicts import PREDICTS, TAIL, Judged, Measured, judge, over_seeds, with_spread

LATE_STEP = 35  # of Stable Diffusion's 50
NETWORKS = 8  # for a rank correlation over them
COMPARE_SEEDS = ("fine-tuning-layout", "subjects-differ", "seeds-agree")  # by their statistic
Readings = TypeVar("Readings")  # what a row takes: a Reading, or lists and dicts of them


def _scores(networks: Mapping[str, Reading | RoiDraws]) -> tuple[dict[str, RoiDraws], str]:
    """Each network's scores, and what their draws are over."""
    scores = {n: roi_scores(r) if isinstance(r, Reading) else r for n, r in networks.items()}
    read = [r for r in networks.values() if isinstance(r, Reading)]
    return scores, n_pictures(read) if read else PICTURES


def _steps(scores: Mapping[str, RoiDraws]) -> tuple[dict[int, RoiDraws], dict[str, RoiDraws]]:
    """Scores of Stable Diffusion by time step, from names such as "SD T40", and the others'."""
    times = {n: int(n.removeprefix("SD T")) for n in scores if n.startswith("SD T")}
    if not times:
        raise InputError(f"networks: {', '.join(scores) or 'none'}; expected some as 'SD T40'.")
    steps = {t: scores[n] for n, t in sorted(times.items(), key=lambda named: named[1])}
    return steps, {n: s for n, s in scores.items() if n not in times}


def early_and_late(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, Measured]:
    """Row 1."""
    used = ("MAE", "SAM", "CLIP", "DiNOv2")
    scores, over = _scores(dict(zip(used, named(networks, *used), strict=True)))
    away = {n: mean_over(scores[n], EARLY) - mean_over(scores[n], LATE) for n in scores}
    draws = (away["MAE"] + away["SAM"] - away["CLIP"] - away["DiNOv2"]) / 2
    gap = {"MAE, SAM against CLIP, DiNOv2": Measured.of(draws, over)}
    return gap | least_predicts(list(scores.values()), over)


def diffusion_uniform(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, Measured]:
    """Row 2, of Stable Diffusion by time step ("SD T40") and of ViTs.

    Of regions that a ViT surely predicts: elsewhere a share of the best R² means nothing.
    """
    scores, over = _scores(networks)
    steps, vits = _steps(scores)
    late = [of_step for t, of_step in steps.items() if t >= LATE_STEP]
    if not (late and vits):
        raise InputError(
            f"networks: {', '.join(networks)}; expected steps from T{LATE_STEP} on, and a ViT."
        )
    share = {}
    for name in (n for n in AREAS if all(n in s for s in (*late, *vits.values()))):
        best = {vit: of_vit[name] for vit, of_vit in vits.items()}
        if Measured.largest(best, over).low > 0:
            mean = np.mean([of_step[name] for of_step in late], axis=0)
            share[name] = mean / np.max(list(best.values()), axis=0)
    worst = Measured(math.nan, math.nan, math.nan, "no region that a ViT surely predicts")
    if share:
        worst = Measured.smallest(share, f"{over}, {len(share)} regions")
    return {"worst region": worst} | least_predicts([*late, *vits.values()], over)


def diffusion_steps(networks: Mapping[str, Reading | RoiDraws]) -> dict[str, Measured]:
    """Row 3, of Stable Diffusion by time step ("SD T40"); that the best of them predict."""
    scores, over = _scores(networks)
    steps, _ = _steps(scores)
    times, best, predicted = np.array(list(steps)), [], []
    for names in (EARLY, LATE):
        each = {str(t): mean_over(s, names) for t, s in steps.items()}
        best.append(times[np.argmax(list(each.values()), axis=0)].astype(float))
        predicted.append(Measured.largest(each, over))
    between = Measured.of(best[0] - best[1], over)
    return {"steps between": between, PREDICTS: min(predicted, key=lambda m: m.low)}


def clip_best(
    readings: Mapping[str, Reading], definition: Definition = OURS
) -> dict[str, Measured]:
    """Row 4."""
    networks = named(readings, *FAMILIES)
    clip, *others = (depth_line(r, definition)["slope"] for r in networks)
    over = n_patches(networks[0].subject, tuple(definition.levels))
    return {
        f"over {name}": Measured.of(clip - other, over)
        for name, other in zip(FAMILIES[1:], others, strict=True)
    } | predicts(networks)


def last_layer_middle(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 5."""
    found = {}
    for name, reading in zip(("ImageNet", "SAM"), named(readings, "ImageNet", "SAM"), strict=True):
        last = layer_weight(reading, slice(-1, None))
        for than, rois in (("not early", EARLY), ("not late", LATE)):
            gap = mean_over(last, MIDDLE) - mean_over(last, rois)
            over = n_patches(reading.subject, (*MIDDLE, *rois))
            found[f"{name}, {than}"] = Measured.of(gap, over)
    return found | predicts(named(readings, "ImageNet", "SAM"))


def last_layer_unused(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 6."""
    found = {}
    for name, reading in zip(("DiNOv2", "MAE"), named(readings, "DiNOv2", "MAE"), strict=True):
        last, layers = layer_weight(reading, slice(-1, None)), reading.maps.weights.shape[1]
        times = {roi: draws * layers for roi, draws in known(last).items()}
        found[name] = Measured.largest(times, n_patches(reading.subject))
    return found | predicts(named(readings, "DiNOv2", "MAE"))


def moco_ventral(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 7."""
    (reading,) = named(readings, "MoCov3")
    last = layer_weight(reading, slice(-max(1, round(reading.maps.weights.shape[1] / 6)), None))
    gap = mean_over(last, VENTRAL) - mean_over(last, DORSAL)
    over = n_patches(reading.subject, (*VENTRAL, *DORSAL))
    return {"ventral less dorsal": Measured.of(gap, over)} | predicts([reading])


def early_layers(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 8."""
    networks = dict(zip(FAMILIES, named(readings, *FAMILIES), strict=True))
    first = {
        name: mean_over(layer_weight(r, slice(max(1, round(r.maps.weights.shape[1] / 4)))), EARLY)
        for name, r in networks.items()
    }
    used, over = ("CLIP", "ImageNet"), n_patches(networks["CLIP"].subject, EARLY)
    return {
        f"{one} over {other}": Measured.of(first[one] - first[other], over)
        for one in used
        for other in FAMILIES
        if other not in used
    } | predicts(list(networks.values()))


def diffusion_axes(readings: Mapping[str, Reading]) -> dict[str, Measured]:
    """Row 9: "SD encoder" and "SD decoder" layers at one time, "SD time" of one layer, and ViTs."""
    axes = named(readings, "SD encoder", "SD decoder", "SD time")
    vits = [r for name, r in readings.items() if not name.startswith("SD ")]
    if not vits:
        raise InputError(f"readings: {', '.join(readings)}; expected a ViT beside them.")
    (encoding, _), (decoding, _), (timing, depth) = map(separation, axes)
    soft = np.mean([confidence(r) for r in axes[:2]], axis=0)
    draws = {
        "time, not layer": timing - (encoding + decoding) / 2,
        "encoder, not decoder": encoding - decoding,
        "softer": np.mean([confidence(r) for r in vits], axis=0) - soft,
        "last steps early": mean_over(depth, EARLY) - mean_over(depth, LATE),
    }
    over = n_patches(axes[0].subject)
    found = {name: Measured.of(values, over) for name, values in draws.items()}
    return found | predicts([*axes, *vits])


def clip_size(sizes: Sequence[Reading], definition: Definition = OURS) -> dict[str, Measured]:
    """Row 10, of CLIP's sizes from the smallest to the largest: the two ends are compared."""
    ends = sizes[0], sizes[-1]
    small, large = (depth_line(r, definition) for r in ends)
    draws = {
        "slope": large["slope"] - small["slope"],
        "early": small["start"] - large["start"],
        "late": large["end"] - small["end"],
    }
    over = n_patches(ends[0].subject, tuple(definition.levels))
    return {name: Measured.of(d, over) for name, d in draws.items()} | predicts(ends)


def other_sizes(
    families: Mapping[str, Sequence[Reading]], definition: Definition = OURS
) -> dict[str, Measured]:
    """Row 11, of each other family's sizes from the smallest to the largest, each with its R²."""
    found = {}
    for name, sizes in families.items():
        ends = sizes[0], sizes[-1]
        small, large = (depth_line(r, definition) for r in ends)
        over = n_patches(ends[0].subject, tuple(definition.levels))
        found[f"{name} slope"] = Measured.of(small["slope"] - large["slope"], over)
        if name in ("ImageNet", "DiNOv2"):
            found[f"{name} early"] = Measured.of(large["start"] - small["start"], over)
        else:
            found[f"{name} late"] = Measured.of(small["end"] - large["end"], over)
        found |= predicts(ends, gate(name))
    return found


def _jackknife(statistic: Callable[[list[int]], Measured], n: int) -> Measured:
    """A statistic that compares seeds, with an interval over what its own is over and over seeds.

    The spread over seeds is the jackknife's, which for a mean is the mean's own. Of two seeds none
    can be left out.
    """
    found, every = statistic(list(range(n))), list(range(n))
    if n < 3:
        return Measured(found.value, found.low, found.high, f"{found.over}, {n} seeds")
    without = [statistic([j for j in every if j != i]).value for i in every]
    return with_spread(found, n * found.value - (n - 1) * np.array(without))


def fine_tuning_layout(
    networks: Mapping[str, Mapping[str, Sequence[Reading]]],
) -> dict[str, Measured]:
    """Row 12, of each network before ("") and after it was tuned to each task, by each seed."""
    used = ("CLIP", "DiNOv2", "MAE")
    of = dict(zip(used, named(networks, *used), strict=True))
    n = min(len(seeds) for tasks in of.values() for seeds in tasks.values())
    over = n_patches(of["CLIP"][""][0].subject, LATE)

    def change(name: str, some: list[int]) -> Draws:
        seeds = {task: [each[i] for i in some] for task, each in of[name].items()}
        before = seeds.pop("")
        return np.mean([changed(before, after, LATE) for after in seeds.values()], axis=0)

    found = {
        name: _jackknife(
            lambda some, name=name: Measured.of(change(name, some) - change("CLIP", some), over), n
        )
        for name in used[1:]
    }
    return found | predicts([r for tasks in of.values() for seeds in tasks.values() for r in seeds])


def _relation(one: Sequence[float], other: Sequence[float]) -> Measured:
    """The size of the rank correlation over networks, with Fisher's interval over networks."""
    n = len(one)
    if n < NETWORKS:
        why = f"not judged: {n} networks; {NETWORKS} or more are needed for a rank correlation"
        return Measured(math.nan, math.nan, math.nan, why)
    related = float(scipy.stats.spearmanr(one, other).statistic)
    half = 1.03 / math.sqrt(n - 3) * scipy.stats.norm.ppf(1 - TAIL)  # Fieller et al. 1957
    middle = math.atanh(min(abs(related), 0.999999))
    low, high = math.tanh(max(middle - half, 0)), math.tanh(middle + half)
    return Measured(abs(related), low, high, f"{n} networks")


def fine_tuning_accuracy(
    readings: Mapping[str, Mapping[str, Reading]],
    right: Mapping[str, Mapping[str, Float[np.ndarray, " picture"]]],
) -> dict[str, Measured]:
    """Row 13; `right`: by network and task, the share of runs that name each test picture."""
    accuracy = {
        name: np.mean([over_pictures(each) for each in right[name].values()], axis=0)
        for name in readings
    }
    (clip,) = named(accuracy, "CLIP")
    lead = {name: clip - other for name, other in accuracy.items() if name != "CLIP"}
    change = [
        float(np.mean([moved(tasks[""], after, LATE, 0)[0] for t, after in tasks.items() if t]))
        for tasks in readings.values()
    ]
    pictures = min(len(each) for tasks in right.values() for each in tasks.values())
    return {
        "CLIP best": Measured.smallest(lead, f"{pictures} {PICTURES}"),
        "no relation": _relation([each[0] for each in accuracy.values()], change),
    } | predicts([r for tasks in readings.values() for r in tasks.values()])


def channels_and_places(reading: Reading) -> dict[str, Measured]:
    """Row 14, of all pairs of vertices of early and of late areas."""
    subject, space, groups = reading.subject, reading.space.astype(float), (EARLY, LATE)
    channel = reading.channel.astype(float)
    unit = channel / np.linalg.norm(channel, axis=1, keepdims=True)
    alike, product = (over_pairs(values, subject, groups) for values in (unit, space))
    values = np.stack([np.square(space).sum(1), reading.scale], 1)
    square, scale = np.moveaxis(group_means(values, subject, groups), -1, 0)  # [draw, group]
    spread = np.sqrt(np.maximum(square - product, 0))
    draws = {
        "channels": alike[:, 0] - alike[:, 1],
        "places": spread[:, 0] - spread[:, 1],
        "global token": scale[:, 1] - scale[:, 0],
    }
    over = n_patches(subject, (*EARLY, *LATE))
    return {name: Measured.of(d, over) for name, d in draws.items()} | predicts([reading])


def top_channels(curves: Mapping[str, Draws]) -> dict[str, Measured]:
    """Row 15, of each region's area under the curve by its top channels, drawn over pictures."""
    return {"category": Measured.smallest(curves, PICTURES)}


def _apart(profiles: Sequence[Sequence[RoiDraws]]) -> Draws:
    """Mean squared difference over ROIs between runs of different subjects less that within."""
    shared = [n for n in AREAS if all(n in known(run) for runs in profiles for run in runs)]
    flat = [
        (s, np.stack([run[n] for n in shared])) for s, runs in enumerate(profiles) for run in runs
    ]
    pairs: dict[bool, list[Draws]] = {True: [], False: []}
    for i, (s, one) in enumerate(flat):
        for t, other in flat[:i]:
            pairs[s == t].append(np.square(one - other).mean(0))
    return np.mean(pairs[False], axis=0) - np.mean(pairs[True], axis=0)


def subjects_differ(subjects: Sequence[Sequence[Reading]]) -> dict[str, Measured]:
    """Row 16, of each subject's fits by other seeds.

    Noise in a subject's training data moves its map as another subject would; no seed shows that.

    Raises:
        InputError: for one subject, or one seed of any.
    """
    n = min(map(len, subjects))
    if len(subjects) < 2 or n < 2:
        raise InputError("subjects: expected two or more, and two or more seeds of each.")
    scores = [[roi_shares(r) for r in runs] for runs in subjects]
    depths = [[separation(r)[1] for r in runs] for runs in subjects]
    every = [r for runs in subjects for r in runs]

    def apart(profiles: Sequence[Sequence[RoiDraws]], over: str) -> Measured:
        def statistic(some: list[int]) -> Measured:
            return Measured.unbiased(_apart([[runs[i] for i in some] for runs in profiles]), over)

        return _jackknife(statistic, n)

    return {
        "score": apart(scores, n_pictures(every)),
        "alignment": apart(depths, n_patches(subjects[0][0].subject)),
    } | predicts(every)


def seeds_agree(subjects: Sequence[Sequence[Reading]]) -> dict[str, Measured]:
    """Row 17, of each subject's fits by other seeds: of the subject whose maps agree least.

    Raises:
        InputError: for one seed of any subject.
    """
    n = min(map(len, subjects))
    if n < 2:
        raise InputError(f"{subjects[0][0].subject.name}: one run; expected two or more seeds.")
    pairs = [
        {(i, j): map_correlation(runs[i], runs[j]) for i in range(n) for j in range(i)}
        for runs in subjects
    ]
    over = f"{len(np.unique(patches_of(subjects[0][0].subject.coordinates)))} {PATCHES}"

    def agreement(some: list[int]) -> Measured:
        means = {
            str(person): np.mean([d for pair, d in each.items() if set(pair) <= set(some)], axis=0)
            for person, each in enumerate(pairs)
        }
        return Measured.smallest(means, over)

    return {"map": _jackknife(agreement, n)} | predicts([r for runs in subjects for r in runs])


def limited_data(small: Reading, whole: Reading, again: Reading) -> dict[str, Measured]:
    """Row 18, of a fit on few samples, of one on all, and of another seed's on all.

    Fits of one seed start alike, and so agree beyond what the data taught them: the map is compared
    with the other seed's.
    """
    share = roi_scores(small)["all"] / roi_scores(whole)["all"]
    over = f"{len(np.unique(patches_of(small.subject.coordinates)))} {PATCHES}"
    return {
        "map": Measured.of(map_correlation(small, again), over),
        "score": Measured.of(share, n_pictures([small, whole])),
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
