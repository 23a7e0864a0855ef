"""What fits say, ready to be compared: scores by ROI, layers by ROI, and maps, each with draws.

    readings = {"CLIP": read(fit), "SAM": read(other), ...}   # by the paper's names of families

Draws of scores are of test pictures, those of maps of patches of cortex (`alignment`); networks
that are compared share them. The first of all draws is the data as they are. An area of fewer than
four patches has a number and no interval: drawing so few again says little of what others would be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from jaxtyping import Bool, Float

from analysis.alignment import LATE, Definition, align, patches_of, roi_means, roi_sums
from analysis.attribution import LayerMaps, layer_maps
from analysis.files import InputError
from analysis.fit import Fit
from analysis.metrics import Scores, regions
from analysis.simulate import SIZES, TEACHER, load_truth, parse_name
from analysis.subject import Subject
from analysis.truth import Truth
from analysis.verdicts import PREDICTS, Measured

PICTURES, PATCHES = "test pictures", "patches of cortex"
DRAWS = 1000  # of patches, or of pictures
LEAST = 4  # patches of an area, for an interval over them
PICTURES_READ = 200  # whose tokens say how the channels vary
PLACES = 4  # of each of these pictures
COMPONENTS = 64  # of what vertices read
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
    channel: Float[np.ndarray, "vertex channel"]  # what is read of the network: `what_is_read`
    space: Float[np.ndarray, "vertex 2"]  # -1..1 from edge to edge
    scale: Float[np.ndarray, " vertex"]  # 0 local, 1 global


def channel_spread(fit: Fit, n: int = PICTURES_READ) -> Float[np.ndarray, "channel channel"]:
    """How the channels vary together over pictures trained on, mixed by the mean layer weights.

    Of local tokens over pictures and places, and of global tokens, each with a total of 1/2.
    """
    with torch.inference_mode():
        local, global_ = fit.model.squeezed(*fit.tokens[fit.split.train[:n]])
        layer = fit.model.selectors().layer.mean(0)
        near = torch.einsum("l,bldhw->bhwd", layer, local).flatten(0, 2)
        far = torch.einsum("l,bld->bd", layer, global_)
    each = [np.cov(tokens.double().numpy().T) for tokens in (near, far)]
    return sum(spread / np.trace(spread) for spread in each) / 2


def what_is_read(fit: Fit) -> Float[np.ndarray, "vertex component"]:
    """What the channels of each vertex make of tokens, wherever these are: rows of unit length.

    r_i(t) = Σ_l a_il w_i · B_l t_l, of local tokens at some places of pictures trained on, and of
    their global tokens, centred, either kind of the same total; by its principal components, so
    that inner products are correlations. It says of W what a change of basis between bottleneck and
    read-out, or a weight of what hardly varies, leaves as it is.
    """
    rng, model = np.random.default_rng(0), fit.model
    with torch.inference_mode():
        local, global_ = model.squeezed(*fit.tokens[fit.split.train[:PICTURES_READ]])
        layer, local = model.selectors().layer, local.flatten(3)
        at = torch.from_numpy(rng.integers(0, local.shape[3], (len(local), PLACES)))
        places = local.movedim(3, 1)[torch.arange(len(local))[:, None], at].flatten(0, 1)
        responses = []
        for tokens in (places, global_):  # [token, layer, channel]
            response = sum(
                layer[:, i, None] * (model.weight @ tokens[:, i].T) for i in range(layer.shape[1])
            )
            response = response - response.mean(1, keepdim=True)
            responses.append(response / response.norm())
        rows = torch.nn.functional.normalize(torch.cat(responses, 1)).numpy()
    vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))[1]
    return rows @ vectors[:, -COMPONENTS:].astype(np.float32)


def read(fit: Fit) -> Reading:
    """A fit's scores on test pictures, its layer maps, and what else its vertices chose.

    Raises:
        InputError: for a rival, which selects nothing.
    """
    maps = layer_maps(fit)
    chosen = fit.selectors()
    space, scale = (each.cpu().numpy() for each in (chosen.space, chosen.scale[:, 0]))
    scores, channel = fit.scores("test"), what_is_read(fit)
    return Reading(fit.subject, fit.record["backbone"], scores, maps, channel, space, scale)


def truth_of(subject: Subject) -> Truth:
    """The truth of a simulated subject's own vertices, also where its mesh is a coarser one.

    Raises:
        InputError: as `load_truth`.
    """
    whole = SIZES[parse_name(subject.name).size].n_surface
    hemi, vertex = np.divmod(subject.vertices, subject.n_surface)  # the left's are numbered first
    return load_truth(subject.name, hemi * whole + vertex)


def truth_reading(reading: Reading) -> Reading:
    """A reading with what its simulated subject truly reads; scores stay as they were measured.

    Raises:
        InputError: where no truth is known: of another network than the teacher, or another person.
    """
    if not (reading.subject.simulated and reading.backbone == TEACHER):
        raise InputError(
            f"{reading.subject.name}, {reading.backbone}: no truth is known; expected a simulated"
            f" subject and {TEACHER}, from which its responses were made."
        )
    truth = truth_of(reading.subject)
    layer = truth.layer.astype(float)
    return replace(
        reading,
        maps=replace(reading.maps, weights=layer, shares=layer),
        channel=truth.channel,
        space=truth.space,
        scale=truth.scale,
    )


def named(readings: Mapping[str, Any], *names: str) -> list[Any]:
    """The readings of these names.

    Raises:
        InputError: if one is missing.
    """
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


def _everywhere(reading: Reading) -> Draws:
    """R² of all vertices."""
    return reading.scores.samples(np.isfinite(reading.scores.r2))


def roi_shares(reading: Reading) -> RoiDraws:
    """The same as shares of the mean noise ceiling of each."""
    masks = regions(reading.subject.rois, AREAS, len(reading.scores.r2))
    known = np.isfinite(reading.scores.r2)
    return {
        name: draws / reading.scores.ceiling[masks[name] & known].mean()
        for name, draws in roi_scores(reading).items()
    }


def n_pictures(readings: Sequence[Reading]) -> str:
    """Over how many test pictures scores are, in words: the fewest."""
    return f"{min(r.scores.n_pictures for r in readings)} {PICTURES}"


def least_predicts(
    each: Sequence[RoiDraws], over: str = PICTURES, name: str = PREDICTS
) -> dict[str, Measured]:
    """The smallest R² over all vertices of several networks."""
    return {name: Measured.smallest({str(i): s["all"] for i, s in enumerate(each)}, over)}


def predicts(readings: Sequence[Reading], name: str = PREDICTS) -> dict[str, Measured]:
    """The smallest R² of several networks, all vertices."""
    each = [{"all": _everywhere(reading)} for reading in readings]
    return least_predicts(each, n_pictures(readings), name)


def area_patches(subject: Subject, names: Sequence[str] = AREAS) -> dict[str, int]:
    """How many patches of cortex each of some areas has, of those that the subject has."""
    patches = patches_of(subject.coordinates)
    there = [name for name in names if name in subject.rois]
    return {n: int((np.bincount(patches[subject.rois[n]]) > 0).sum()) for n in there}


def areas_table(subject: Subject, names: Sequence[str] = AREAS) -> pd.DataFrame:
    """A row per area that the subject has: its vertices, and its patches of cortex."""
    found = area_patches(subject, names)
    vertices = [int(subject.rois[name].sum()) for name in found]
    return pd.DataFrame({"ROI": [*found], "vertices": vertices, "patches": [*found.values()]})


def n_patches(subject: Subject, names: Sequence[str] = AREAS) -> str:
    """Over how many patches an interval of some areas is, in words; why there is none, if so."""
    found = area_patches(subject, names)
    small = {name: n for name, n in found.items() if n < LEAST}
    few = f"{', '.join(f'{name} {n}' for name, n in small.items())}; {LEAST} or more are needed"
    if len(small) == len(found):
        return f"no interval: too few {PATCHES} ({few})" if small else "no such area"
    counts = sorted(set(found.values()) - set(small.values()))
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"{span} {PATCHES} an area" + (f" (without {few})" if small else "")


def known(values: RoiDraws) -> dict[str, Draws]:
    """Those of some ROIs that have an interval; all, if none has."""
    return {n: d for n, d in values.items() if np.isfinite(d).all()} or dict(values)


def mean_over(values: RoiDraws, names: Sequence[str]) -> Draws:
    """The mean over those of some ROIs that there are, and that have an interval if any has."""
    there = {name: values[name] for name in names if name in values}
    if not there:
        raise InputError(f"rois: none of {', '.join(names)}; there are {', '.join(values)}.")
    return np.mean(list(known(there).values()), axis=0)


def _of_areas(
    values: Float[np.ndarray, "vertex value"], subject: Subject
) -> dict[str, Float[np.ndarray, "draw value"]]:
    """Each area's mean values; no draws of one that has too few patches."""
    names, means = roi_means(values, subject, AREAS, DRAWS)
    patches = area_patches(subject)
    means[1:, [patches[name] < LEAST for name in names]] = np.nan
    return dict(zip(names, np.moveaxis(means, 1, 0), strict=True))


def layer_weight(reading: Reading, layers: slice) -> RoiDraws:
    """Each ROI's mean weight of some layers together."""
    each = _of_areas(reading.maps.weights, reading.subject)
    return {name: mean[:, layers].sum(1) for name, mean in each.items()}


def separation(reading: Reading) -> tuple[Draws, RoiDraws]:
    """The sd over ROIs of mean depth less what chance adds, and that depth.

    Noise adds its own variance to that of the ROIs' means, and drawing patches adds it once more.
    """
    depth = {
        n: d[:, 0] for n, d in _of_areas(reading.maps.depth()[:, None], reading.subject).items()
    }
    means = np.stack(list(known(depth).values()))  # [roi, draw]
    chance = means[:, 1:].var(1).mean() * (1 - 1 / len(means))
    added = np.full(means.shape[1], 2 * chance)
    added[0] = chance
    return np.sqrt(np.maximum(means.var(0) - added, 0)), depth


def depth_line(reading: Reading, definition: Definition) -> dict[str, Draws]:
    """Slope, start and end of the line of depth over the hierarchy, of areas with enough patches.

    No draws where no area of the lowest or of the highest level has enough.
    """
    patches = area_patches(reading.subject, tuple(definition.levels))
    levels = {n: h for n, h in definition.levels.items() if patches.get(n, 0) >= LEAST}
    ends = {definition.levels[n] for n in patches}
    whole = levels and {min(ends), max(ends)} <= set(levels.values())
    used = replace(definition, levels=levels) if whole else definition
    found = align(reading.maps, reading.subject, used, DRAWS)
    lines = {"slope": found.slope, "start": found.start, "end": found.end}
    if not whole:
        lines = {name: np.append(d[:1], np.full(len(d) - 1, np.nan)) for name, d in lines.items()}
    return lines


def _same_vertices(readings: Sequence[Reading]) -> Subject:
    first = readings[0].subject
    for other in (r.subject for r in readings[1:]):
        if not np.array_equal(first.vertices, other.vertices):
            raise InputError(f"{first.name}, {other.name}: not the same vertices.")
    return first


def map_correlation(one: Reading, other: Reading) -> Draws:
    """Rank correlation over vertices of two maps of depth on the same ones, by drawn patches.

    Raises:
        InputError: if the vertices are not the same.
    """
    subject = _same_vertices([one, other])
    a, b = (scipy.stats.rankdata(r.maps.depth()) / len(r.maps.weights) for r in (one, other))
    values = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], 1)
    everywhere = {"": np.ones(len(a), bool)}
    sums = roi_sums(values, patches_of(subject.coordinates), everywhere, DRAWS)
    n, sa, sb, saa, sbb, sab = sums[:, 0].T
    spread = np.sqrt((saa - sa * sa / n) * (sbb - sb * sb / n))
    return (sab - sa * sb / n) / np.where(spread > 1e-12 * saa, spread, np.nan)


def group_means(
    values: Float[np.ndarray, "vertex value"],
    subject: Subject,
    groups: Sequence[Sequence[str]],
    draws: int | None = None,
) -> Float[np.ndarray, "draw group value"]:
    """The means over the vertices of each group of ROIs, by drawn patches."""
    masks = {str(names): together(subject, names) for names in groups}
    counted = np.concatenate([values, np.ones((len(values), 1))], 1)
    patches, samples = patches_of(subject.coordinates), DRAWS if draws is None else draws
    sums = roi_sums(counted, patches, masks, samples)
    return sums[..., :-1] / sums[..., -1:]


def _mean_of(
    values: Float[np.ndarray, " vertex"],
    subject: Subject,
    names: Sequence[str],
    draws: int | None = None,
) -> Draws:
    """The mean over the vertices of some ROIs together, by drawn patches."""
    return group_means(values[:, None], subject, [names], draws)[:, 0, 0]


def together(subject: Subject, names: Sequence[str]) -> Bool[np.ndarray, " vertex"]:
    """The vertices of those of some ROIs that there are.

    Raises:
        InputError: if the subject has none of them.
    """
    there = [subject.rois[name] for name in names if name in subject.rois]
    if not there:
        raise InputError(f"{subject.name}: none of the ROIs {', '.join(names)}.")
    return np.any(there, axis=0)


def moved(
    before: Reading, after: Reading, names: Sequence[str] = AREAS, draws: int | None = None
) -> Draws:
    """Mean absolute difference of depth of the vertices of some ROIs, by drawn patches.

    Raises:
        InputError: if the vertices are not the same, or the subject has none of the ROIs.
    """
    subject = _same_vertices([before, after])
    away = np.abs(after.maps.depth() - before.maps.depth())
    return _mean_of(away, subject, names, draws)


def changed(
    before: Sequence[Reading], after: Sequence[Reading], names: Sequence[str] = AREAS
) -> Draws:
    """Mean squared change of depth that the noise of fits adds nothing to, by drawn patches.

    The mean product of two seeds' changes, over pairs of seeds: what differs from seed to seed
    averages out, where a single seed's square would grow by it.

    Raises:
        InputError: for fewer than two seeds, vertices that are not the same, or none of the ROIs.
    """
    if len(before) < 2 or len(before) != len(after):
        raise InputError(
            f"seeds: {len(before)} before and {len(after)} after; expected two or more, as many."
        )
    subject = _same_vertices([*before, *after])
    each = [a.maps.depth() - b.maps.depth() for b, a in zip(before, after, strict=True)]
    pairs = [one * other for i, one in enumerate(each) for other in each[:i]]
    return _mean_of(np.mean(pairs, axis=0), subject, names)


def confidence(reading: Reading, names: Sequence[str] = AREAS) -> Draws:
    """Mean confidence of the vertices of some ROIs, by drawn patches."""
    return _mean_of(reading.maps.confidence(), reading.subject, names)


def over_pairs(
    values: Float[np.ndarray, "vertex value"], subject: Subject, groups: Sequence[Sequence[str]]
) -> Float[np.ndarray, "draw group"]:
    """The mean product of the values of two different vertices of a group of ROIs.

    By drawn patches: one drawn twice is two patches, but a vertex and a copy of its patch are no
    pair, which would lie closer than pairs do.
    """
    patches = patches_of(subject.coordinates)
    found = []
    for i, names in enumerate(groups):
        mask = together(subject, names)
        own, patch = values[mask], np.unique(patches[mask], return_inverse=True)[1]
        n = int(patch.max()) + 1
        sums, squares, count = np.zeros((n, own.shape[1])), np.zeros(n), np.bincount(patch)
        np.add.at(sums, patch, own)
        np.add.at(squares, patch, np.square(own).sum(1))
        # as `roi_sums` draws them, so that they go with `group_means`
        drawn = np.random.default_rng((0, i)).multinomial(n, np.full(n, 1 / n), size=DRAWS)
        draws = np.concatenate([np.ones((1, n)), drawn])
        length = np.square(sums).sum(1)
        across = np.square(draws @ sums).sum(1) - np.square(draws) @ length
        within = draws @ (length - squares)
        pairs = np.square(draws @ count) - np.square(draws) @ count**2 + draws @ (count**2 - count)
        found.append((across + within) / pairs)
    return np.stack(found, 1)


def over_pictures(values: Float[np.ndarray, " picture"]) -> Draws:
    """The mean over pictures, of all first, then drawn again: alike for as many pictures."""
    n = len(values)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return np.concatenate([[values.mean()], drawn @ values / n])
