"""What fits say, ready to be compared: scores by ROI, layers by ROI, and maps, each with draws.

    readings = {"CLIP": read(fit), "SAM": read(other), ...}   # by the paper's names of families

Draws of scores are of test pictures, those of maps of patches of cortex (`alignment`); networks
that are compared share them. The first of all draws is the data as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from analysis.alignment import LATE, patches_of, roi_means, roi_sums
from analysis.attribution import LayerMaps, layer_maps
from analysis.files import InputError
from analysis.fit import Fit
from analysis.metrics import Scores, regions
from analysis.simulate import SIZES, TEACHER, load_truth, parse_name
from analysis.subject import Subject
from analysis.truth import Truth
from analysis.verdicts import PREDICTS, Measured

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
    channel: Float[np.ndarray, "vertex channel"]  # weights of the read-out
    space: Float[np.ndarray, "vertex 2"]  # -1..1 from edge to edge
    scale: Float[np.ndarray, " vertex"]  # 0 local, 1 global


def read(fit: Fit, seed: int = 0) -> Reading:
    """A fit's scores on test pictures, its layer maps, and what else its vertices chose.

    Raises:
        InputError: for a rival, which selects nothing.
    """
    chosen = fit.selectors()
    arrays = (fit.model.weight.detach(), chosen.space, chosen.scale[:, 0])
    channel, space, scale = (array.cpu().numpy() for array in arrays)
    maps = layer_maps(fit, seed=seed)
    backbone = fit.record["backbone"]
    return Reading(fit.subject, backbone, fit.scores("test"), maps, channel, space, scale)


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


def least_predicts(each: Sequence[RoiDraws]) -> dict[str, Measured]:
    """The smallest R² over all vertices of several networks."""
    return {PREDICTS: Measured.of(min((s["all"] for s in each), key=lambda d: d[0]), PICTURES)}


def predicts(readings: Sequence[Reading]) -> dict[str, Measured]:
    """The smallest R² of several networks, all vertices."""
    return least_predicts([roi_scores(r) for r in readings])


def mean_over(values: RoiDraws, names: Sequence[str]) -> Draws:
    """The mean over those of some ROIs that there are."""
    there = [values[name] for name in names if name in values]
    if not there:
        raise InputError(f"rois: none of {', '.join(names)}; there are {', '.join(values)}.")
    return np.mean(there, axis=0)


def _layers(reading: Reading) -> Mapping[str, Float[np.ndarray, "draw layer"]]:
    """Each ROI's mean layer weights."""
    names, means = roi_means(reading.maps.weights, reading.subject, AREAS)
    return dict(zip(names, np.moveaxis(means, 1, 0), strict=True))


def layer_weight(reading: Reading, layers: slice) -> RoiDraws:
    """Each ROI's mean weight of some layers together."""
    return {name: mean[:, layers].sum(1) for name, mean in _layers(reading).items()}


def separation(reading: Reading) -> tuple[Draws, RoiDraws]:
    """The sd over ROIs of mean depth, and that depth."""
    names, means = roi_means(reading.maps.depth()[:, None], reading.subject, AREAS)
    return means[..., 0].std(1), dict(zip(names, means[..., 0].T, strict=True))


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


def moved(before: Reading, after: Reading, names: Sequence[str] = AREAS) -> Draws:
    """Mean absolute difference of depth of the vertices of some ROIs, by drawn patches.

    Raises:
        InputError: if the vertices are not the same, or the subject has none of the ROIs.
    """
    if not np.array_equal(before.subject.vertices, after.subject.vertices):
        raise InputError(f"{before.subject.name}, {after.subject.name}: not the same vertices.")
    there = [before.subject.rois[name] for name in names if name in before.subject.rois]
    if not there:
        raise InputError(f"{before.subject.name}: none of the ROIs {', '.join(names)}.")
    away = np.abs(after.maps.depth() - before.maps.depth())
    values = np.stack([away, np.ones_like(away)], 1)
    patches = patches_of(before.subject.coordinates)
    sums = roi_sums(values, patches, {"": np.any(there, axis=0)})[:, 0]
    return sums[:, 0] / sums[:, 1]


def over_pictures(values: Float[np.ndarray, " picture"], draws: int = 1000) -> Draws:
    """The mean over pictures, of all first, then drawn again: alike for as many pictures."""
    n = len(values)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)
    return np.concatenate([[values.mean()], drawn @ values / n])
