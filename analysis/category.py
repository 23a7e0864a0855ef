"""Whether a region's top channels tell pictures of its category from others (row 15 of Table 5).

scores = category_scores(maps_by_roi, shows)      # ROI -> draws of the area under the curve
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from analysis.files import InputError
from analysis.simulate import picture_labels
from analysis.subject import Subject
from analysis.top_channels import Maps

CATEGORY = {  # what each of Table 4's areas is known for, by the names of the simulated scenes
    "EBA": "body",
    "FBA": "body",
    "OFA": "face",
    "FFA": "face",
    "OPA": "house",
    "PPA": "house",
    "OWFA": "word",
    "VWFA": "word",
}


def shown(subject: Subject, rows: np.ndarray) -> dict[str, Bool[np.ndarray, " picture"]] | None:
    """By category, which of the pictures show it; None where that is not known: of NSD's."""
    if not subject.simulated:
        return None
    labels = picture_labels(subject.name)
    kinds = [labels[number] for number in subject.picture_ids[rows]]
    return {c: np.array([c in kind for kind in kinds]) for c in dict.fromkeys(CATEGORY.values())}


def curve_area(
    score: Float[np.ndarray, " picture"],
    there: Bool[np.ndarray, " picture"],
    samples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """The share of pairs (with, without) in which the picture with scores higher, ties as half.

    Of the pictures as they are first, then drawn again within each kind.

    Raises:
        InputError: if all or none of the pictures show it.
    """
    if there.all() or not there.any():
        raise InputError(f"pictures: {there.sum()} of {len(there)} show it; expected some.")
    with_it, without = score[there][:, None], score[~there]
    higher = (with_it > without) + 0.5 * (with_it == without)
    rng = np.random.default_rng(seed)
    draws = []
    for n in higher.shape:
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=samples)
        draws.append(np.concatenate([np.ones((1, n)), drawn]) / n)
    return ((draws[0] @ higher) * draws[1]).sum(1)


def category_areas(
    maps: Mapping[str, Maps], there: Mapping[str, Bool[np.ndarray, " picture"]]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """Each category area's area under the curve, of the first top channel's mean over places.

    `maps`: not turned, by ROI; of areas without a category, and of categories that all or none of
    the pictures show, nothing is said.
    """
    found = {}
    for roi, values in maps.items():
        kind = there.get(CATEGORY.get(roi, ""))
        if kind is not None and 0 < kind.sum() < len(kind):
            found[roi] = curve_area(values[:, 0].mean((1, 2)), kind)
    return found
