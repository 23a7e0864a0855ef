"""What each vertex of a simulated subject reads from the teacher, and its noiseless response.

    truth = draw_truth(FSAVERAGE5, n_layers, category_directions, SIMULATED_SUBJECTS["sim01"])

The responses are not made by the model that is fitted to them: a vertex pools full-resolution
tokens over a Gaussian receptive field, and the result is compressed. Tokens are standardised by
layer and channel, which the fitted model does too unless told otherwise: a teacher without that
step is `TruthParameters(standardised=False)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from analysis import anatomy
from analysis.files import HEMIS
from analysis.surface import sphere

Values = Float[np.ndarray, " vertex"]  # one per visual vertex
Directions = Mapping[str, Float[np.ndarray, " channel"]]  # of categories
HALF_WIDTH = 4.2  # deg of visual angle from the centre of a picture to its edge, as in NSD
CATEGORY = {  # what a category area responds to
    "face": ("OFA", "FFA-1", "FFA-2"),
    "body": ("EBA", "FBA-1", "FBA-2"),
    "house": ("OPA", "PPA"),
    "word": ("OWFA", "VWFA-1", "VWFA-2"),
}
EARLY = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d")


@dataclass(frozen=True)
class TruthParameters:
    """How every subject's truth depends on the place on the cortex; set before any fit was seen."""

    span: float = 75.0  # mm from V1 at which the hierarchy ends
    layer_width: float = 0.75  # layers; sd of the weights about a vertex's mean layer
    scale_ends: tuple[float, float] = (0.1, 0.9)  # share of the global token at either end
    to_centre: float = 15.0  # mm beyond retinotopic cortex over which places go to the centre
    field: tuple[float, float] = (0.3, 0.12)  # deg, and per deg of eccentricity: sd in V1
    field_growth: float = 3.0  # how much larger it is at the end of the hierarchy
    early_channels: int = 4  # directions that early vertices mix
    late_channels: int = 40  # directions that late ones mix
    early_length: float = 60.0  # mm over which the mixture of early ones changes
    late_length: float = 20.0  # mm, the same for late ones
    early_shared: float = 0.7  # of a direction that all early ones share, beside their mixture's 1
    category_share: float = 0.8  # weight of the category's direction in its area
    wander_length: float = 40.0  # mm over which a subject's deviations change
    standardised: bool = True  # tokens by layer and channel; False: one number for each layer


@dataclass(frozen=True)
class SubjectParameters:
    """In what one simulated subject differs from the next."""

    seed: int  # of all that is drawn for it
    turn: float  # deg by which its areas are moved on the sphere
    early: float  # times the template's lengths of V1-V3 and hV4
    disc: float  # mm, radius of its category areas
    field: float  # times the size of its receptive fields
    field_wander: float  # sd of the log of size and of eccentricity, over the cortex
    span: float  # times the distance over which its hierarchy rises
    layer_wander: float  # sd over the cortex of a vertex's mean layer, as a share of the depth
    quality: tuple[float, float]  # times the signal-to-noise ratio: in V1, at the hierarchy's end

    @property
    def shape(self) -> anatomy.Shape:
        """Its areas: the template's, turned and scaled."""
        rotation = anatomy.random_rotation(self.seed, self.turn)
        return anatomy.Shape(rotation, self.early, self.disc)


# Set before any fit was looked at. The third is noisier, most so in early areas: its ratios are
# those under which the noise ceilings of V1-V3, and of category areas, which lie about halfway up
# the hierarchy, are expected to fall by as much as Table 13's scores from subject #1 to #3.
SIMULATED_SUBJECTS = {
    "sim01": SubjectParameters(1, 3.0, 1.00, 9.0, 1.0, 0.15, 1.00, 0.03, (1.0, 1.0)),
    "sim02": SubjectParameters(2, 3.0, 0.93, 8.0, 0.8, 0.15, 0.85, 0.03, (1.04, 1.04)),
    "sim03": SubjectParameters(3, 3.0, 1.05, 8.5, 1.3, 0.15, 1.15, 0.03, (0.73, 1.05)),
}


@dataclass(frozen=True)
class Truth:
    """What the vertices read; rows are visual vertices, lh then rh, ascending."""

    vertices: Int[np.ndarray, " vertex"]  # index on the mesh, rh + vertices per hemisphere
    early: Bool[np.ndarray, " vertex"]  # in V1-V3, where receptive fields are compared
    space: Float[np.ndarray, "vertex 2"]  # x right, y down; -1..1 from edge to edge
    field: Float[np.ndarray, " vertex"]  # sd of the receptive field, in the units of space
    layer: Float[np.ndarray, "vertex layer"]  # sums to 1
    scale: Float[np.ndarray, " vertex"]  # 0 local, 1 global
    level: Float[np.ndarray, " vertex"]  # in the hierarchy: 0 in V1, 1 at its end
    channel: Float[np.ndarray, "vertex channel"]  # unit length


class Cortex(NamedTuple):
    """What a subject's anatomy says of its visual vertices, lh then rh, ascending."""

    vertices: Int[np.ndarray, " vertex"]  # index on the mesh, rh + vertices per hemisphere
    points: Float[np.ndarray, "vertex 3"]  # mm on the sphere, the hemispheres far from each other
    from_v1: Float[np.ndarray, " vertex"]  # mm along the sphere
    centre: Float[np.ndarray, "vertex 2"]  # half pictures, x right, y down: of the nearest field
    beyond: Float[np.ndarray, " vertex"]  # mm from retinotopic cortex
    rois: dict[str, Bool[np.ndarray, " vertex"]]  # NSD's labels


def visual_cortex(n_surface: int, shape: anatomy.Shape) -> Cortex:
    """The visual vertices, where they lie, and the areas that they are in."""
    halves, rois = [], []
    for i, hemi in enumerate(HEMIS):
        points = sphere(hemi, n_surface)[0]
        visual = anatomy.visual_vertices(hemi, n_surface)
        field = anatomy.retinotopy(hemi, points, shape)
        labelled = np.flatnonzero(field.area)
        beyond, nearest = KDTree(points[labelled]).query(points[visual])
        centre = np.stack([field.x, -field.y], 1)[labelled[nearest]] / HALF_WIDTH
        from_v1 = anatomy.distance_from_v1(hemi, n_surface, shape)[visual]
        side = [-1000.0, 1000.0][i]  # mm: what is smooth in one hemisphere differs in the other
        halves.append(
            (visual + i * n_surface, points[visual] + [side, 0, 0], from_v1, centre, beyond)
        )
        labels = anatomy.roi_labels(hemi, n_surface, shape)
        names = [(f, *x) for f, codes in anatomy.ROI_CODES.items() for x in codes.items()]
        rois.append({roi: labels[family][visual] == code for family, code, roi in names if code})
    columns = [np.concatenate(x) for x in zip(*halves, strict=True)]
    return Cortex(*columns, {name: np.concatenate([r[name] for r in rois]) for name in rois[0]})


def _smooth_fields(
    points: Float[np.ndarray, "vertex 3"], count: int, length: float, rng: np.random.Generator
) -> Float[np.ndarray, "vertex field"]:
    """Random functions that change over about `length` mm (random Fourier features)."""
    waves = rng.normal(size=(3, count)) / length
    return np.sqrt(2) * np.cos(points @ waves + rng.uniform(0, 2 * np.pi, count))


def _normed(x: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def smooth_field(
    points: Float[np.ndarray, "vertex 3"], length: float, rng: np.random.Generator
) -> Float[np.ndarray, " vertex"]:
    """A random function of the place with mean 0 and sd 1 over these places."""
    field = _smooth_fields(points, 32, length, rng).sum(1)
    return (field - field.mean()) / field.std()


def hierarchy(
    cortex: Cortex,
    n_layers: int,
    wander: Values,
    subject: SubjectParameters,
    parameters: TruthParameters,
) -> tuple[Values, Float[np.ndarray, "vertex layer"], Values]:
    """Each vertex's level, which rises with the distance from V1, its layers and its scale."""
    level = np.clip(cortex.from_v1 / (parameters.span * subject.span), 0, 1)
    peak = (n_layers - 1) * np.clip(level + subject.layer_wander * wander, 0, 1)
    logits = -np.square((np.arange(n_layers) - peak[:, None]) / parameters.layer_width) / 2
    layer = np.exp(logits)
    low, high = parameters.scale_ends
    return level, layer / layer.sum(1, keepdims=True), low + (high - low) * level


def receptive_fields(
    cortex: Cortex,
    level: Values,
    wander: tuple[Values, Values],
    subject: SubjectParameters,
    parameters: TruthParameters,
) -> tuple[Float[np.ndarray, "vertex 2"], Values]:
    """Each vertex's centre and sd, in half pictures; size and eccentricity wander over the cortex.

    Receptive fields of V1-V3 and hV4 all have their centre in the picture, as NSD's areas end about
    where fields leave it. The wedges reach further, so an eccentricity r, in half pictures, is
    taken to r / √(1 + r²): nearly as it is close to the centre, below 1 everywhere, and piled up
    nowhere.
    """
    # of eccentricity, so that each half and quarter of the visual field stays where it is seen
    centre = cortex.centre * np.exp(subject.field_wander * wander[1])[:, None]
    to_centre = np.exp(-cortex.beyond / parameters.to_centre)
    centre = centre / np.sqrt(1 + np.square(centre).sum(1, keepdims=True)) * to_centre[:, None]
    eccentricity = HALF_WIDTH * np.linalg.norm(centre, axis=1)
    growth = subject.field * np.exp(subject.field_wander * wander[0])
    growth = growth * (1 + (parameters.field_growth - 1) * level)
    sd = (parameters.field[0] + parameters.field[1] * eccentricity) * growth / HALF_WIDTH
    return centre, sd


def channel_weights(
    cortex: Cortex,
    level: Values,
    category_directions: Directions,
    rng: np.random.Generator,
    parameters: TruthParameters,
) -> Float[np.ndarray, "vertex channel"]:
    """Each vertex's direction among the teacher's channels, of unit length.

    Early vertices mix few directions, which change slowly over the cortex, late ones many; in a
    category area the category's direction is added.
    """
    width = len(next(iter(category_directions.values())))
    mixtures = []
    early = (parameters.early_channels, parameters.early_length)
    for count, length in (early, (parameters.late_channels, parameters.late_length)):
        directions = _normed(rng.normal(size=(count, width)))
        mixtures.append(_normed(_smooth_fields(cortex.points, count, length, rng) @ directions))
    shared = parameters.early_shared * _normed(rng.normal(size=(1, width)))
    mixture = _normed(mixtures[0] + shared)
    channel = _normed((1 - level[:, None]) * mixture + level[:, None] * mixtures[1])
    share = parameters.category_share
    for category, areas in CATEGORY.items():
        mask = np.any([cortex.rois[area] for area in areas], axis=0)
        channel[mask] = _normed(share * category_directions[category] + (1 - share) * channel[mask])
    return channel


def draw_truth(
    cortex: Cortex,
    n_layers: int,
    category_directions: Directions,
    subject: SubjectParameters,
    parameters: TruthParameters,
) -> Truth:
    """What each visual vertex of a subject reads."""
    rng = np.random.default_rng((subject.seed, 4))
    length = parameters.wander_length
    sizes, places, layers = (smooth_field(cortex.points, length, rng) for _ in range(3))
    level, layer, scale = hierarchy(cortex, n_layers, layers, subject, parameters)
    space, field = receptive_fields(cortex, level, (sizes, places), subject, parameters)
    rng = np.random.default_rng((subject.seed, 1))
    channel = channel_weights(cortex, level, category_directions, rng, parameters)
    early = np.any([cortex.rois[area] for area in EARLY], axis=0)
    return Truth(cortex.vertices, early, space, field, layer, scale, level, channel)
