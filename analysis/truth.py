"""What each vertex of a simulated subject reads from the teacher, and its noiseless response.

The responses are not made by the model that is fitted to them: a vertex pools full-resolution
tokens over a Gaussian receptive field, and the result is compressed. Tokens are standardised by
layer and channel, which the fitted model does too unless told otherwise: a teacher without that
step is `Rules(standardised=False)`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor, nn

from analysis import anatomy
from analysis.files import HEMIS
from analysis.surface import sphere

HALF_WIDTH = 4.2  # deg of visual angle from the centre of a picture to its edge, as in NSD
CATEGORY = {  # what a category area responds to
    "face": ("OFA", "FFA-1", "FFA-2"),
    "body": ("EBA", "FBA-1", "FBA-2"),
    "house": ("OPA", "PPA"),
    "word": ("OWFA", "VWFA-1", "VWFA-2"),
}


@dataclass(frozen=True)
class Rules:
    """How everybody's truth depends on the place on the cortex; set before any fit was seen."""

    span: float = 75.0  # mm from V1 at which the hierarchy ends
    layer_width: float = 0.75  # layers; sd of the weights about a vertex's own layer
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
    wander_length: float = 40.0  # mm over which a person's own wandering changes
    standardised: bool = True  # tokens by layer and channel; False: one number for each layer


@dataclass(frozen=True)
class Person:
    """What makes one simulated subject another person than the next."""

    seed: int  # of all that is drawn for it
    turn: float  # deg by which its areas are moved on the sphere
    early: float  # times the template's lengths of V1-V3 and hV4
    disc: float  # mm, radius of its category areas
    field: float  # times the size of its receptive fields
    field_wander: float  # sd of the log of size and of eccentricity, over the cortex
    span: float  # times the distance over which its hierarchy rises
    layer_wander: float  # sd over the cortex of its own layer, as a share of the depth
    quality: tuple[float, float]  # times the signal-to-noise ratio: in V1, at the hierarchy's end


# Set before any fit was looked at. The third is noisier, most so in early areas: its ratios are
# those under which the noise ceilings of V1-V3, and of category areas, which lie about halfway up
# the hierarchy, are expected to fall by as much as Table 13's scores from subject #1 to #3.
PEOPLE = {
    "sim01": Person(1, 3.0, 1.00, 9.0, 1.0, 0.15, 1.00, 0.03, (1.0, 1.0)),
    "sim02": Person(2, 3.0, 0.93, 8.0, 0.8, 0.15, 0.85, 0.03, (1.04, 1.04)),
    "sim03": Person(3, 3.0, 1.05, 8.5, 1.3, 0.15, 1.15, 0.03, (0.73, 1.05)),
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


def draw_truth(
    n_surface: int,
    n_layers: int,
    category_directions: dict[str, Float[np.ndarray, " channel"]],
    person: Person,
    rules: Rules,
) -> tuple[Truth, list[dict[str, Int[np.ndarray, " area_vertex"]]], list[Int[np.ndarray, " v"]]]:
    """A person's truth; per hemisphere also the category areas and the retinotopic labels.

    Receptive fields of V1-V3 and hV4 all have their centre in the picture, as NSD's areas end about
    where fields leave it. The wedges reach further, so an eccentricity r, in half pictures, is
    taken to r / √(1 + r²): nearly as it is close to the centre, below 1 everywhere, and piled up
    nowhere.
    """
    rotation = anatomy.random_rotation(person.seed, person.turn)
    shape = anatomy.Shape(rotation, person.early, person.disc)
    halves, areas, labels = [], [], []
    for hemi in HEMIS:
        points = sphere(hemi, n_surface)[0]
        visual = anatomy.visual_vertices(hemi, n_surface)
        seen = anatomy.retinotopy(hemi, points, shape)
        areas.append(anatomy.category_areas(hemi, n_surface, shape))
        labels.append(seen.area)
        placed = np.flatnonzero(seen.area)
        away, nearest = KDTree(points[placed]).query(points[visual])
        nearest = placed[nearest]
        centre = np.stack([seen.x[nearest], -seen.y[nearest]], 1) / HALF_WIDTH
        beyond = np.exp(-away / rules.to_centre)
        steps = anatomy.distance_from_v1(hemi, n_surface, shape)[visual]
        side = np.where(hemi == HEMIS[0], -1000.0, 1000.0)  # fields differ between hemispheres
        early = np.isin(seen.area[visual], range(1, 7))
        halves.append((visual, centre, beyond, steps, points[visual] + [side, 0, 0], early))
    columns = (np.concatenate(x) for x in zip(*halves, strict=True))
    visual, centre, beyond, steps, points, early = columns
    visual[len(halves[0][0]) :] += n_surface
    level = np.clip(steps / (rules.span * person.span), 0, 1)

    own = np.random.default_rng((person.seed, 4))
    sizes, places, layers = (smooth_field(points, rules.wander_length, own) for _ in range(3))
    # of eccentricity, so that each half and quarter of the visual field stays where it is seen
    centre = centre * np.exp(person.field_wander * places)[:, None]
    centre = centre / np.sqrt(1 + np.square(centre).sum(1, keepdims=True)) * beyond[:, None]
    grown = person.field * np.exp(person.field_wander * sizes)

    rng = np.random.default_rng((person.seed, 1))
    width = len(next(iter(category_directions.values())))
    mixes = []
    for count, length in (
        (rules.early_channels, rules.early_length),
        (rules.late_channels, rules.late_length),
    ):
        directions = _normed(rng.normal(size=(count, width)))
        mixes.append(_normed(_smooth_fields(points, count, length, rng) @ directions))
    shared = rules.early_shared * _normed(rng.normal(size=(1, width)))
    early_mix = _normed(mixes[0] + shared)
    channel = _normed((1 - level[:, None]) * early_mix + level[:, None] * mixes[1])
    for category, names in CATEGORY.items():
        members = np.concatenate(
            [area[n] + i * n_surface for i, area in enumerate(areas) for n in names]
        )
        where = np.isin(visual, members)
        channel[where] = _normed(
            rules.category_share * category_directions[category]
            + (1 - rules.category_share) * channel[where]
        )
    peak = (n_layers - 1) * np.clip(level + person.layer_wander * layers, 0, 1)
    logits = -np.square((np.arange(n_layers) - peak[:, None]) / rules.layer_width) / 2
    layer = np.exp(logits)
    eccentricity = HALF_WIDTH * np.linalg.norm(centre, axis=1)
    low, high = rules.scale_ends
    growth = grown * (1 + (rules.field_growth - 1) * level)
    truth = Truth(
        vertices=visual,
        early=early,
        space=centre,
        field=(rules.field[0] + rules.field[1] * eccentricity) * growth / HALF_WIDTH,
        layer=layer / layer.sum(1, keepdims=True),
        scale=low + (high - low) * level,
        level=level,
        channel=channel,
    )
    return truth, areas, labels


Tokens = tuple[  # of a batch of pictures, however many: local and global
    Float[Tensor, "_ layer channel h w"], Float[Tensor, "_ layer channel"]
]


def teacher_tokens(backbone: nn.Module, pictures: Tensor, batch: int = 16) -> Iterator[Tokens]:
    """Full-resolution local tokens and global tokens, a batch of pictures at a time."""
    with torch.inference_mode():
        for start in range(0, len(pictures), batch):
            local, global_ = backbone(pictures[start : start + batch])
            yield torch.stack(local, 1), torch.stack(global_, 1)


@dataclass(frozen=True)
class Standard:
    """Means and spreads that make tokens comparable between layers, and perhaps channels."""

    local_mean: Float[Tensor, "layer channel h w"]  # per place: what a place adds to any picture
    local_sd: Float[Tensor, "layer channel 1 1"]
    global_mean: Float[Tensor, "layer channel"]
    global_sd: Float[Tensor, "layer channel"]
    vectors: Float[Tensor, "picture layer channel"]  # the global tokens that they are of


def token_standard(tokens: Iterable[Tokens], by_channel: bool = True) -> Standard:
    """The standard over the pictures of some tokens.

    Spreads are each channel's; without `by_channel` a layer's channels all have one, the root of
    their local tokens' mean variance, for its global token too: channels, and local and global
    tokens, keep the sizes that the network gives them.
    """
    local_sum, local_square, seen = 0.0, 0.0, []
    for local, global_ in tokens:
        local_sum = local_sum + local.double().sum(0)
        local_square = local_square + local.double().square().sum(0)
        seen.append(global_)
    vectors = torch.cat(seen)
    mean = local_sum / len(vectors)
    variance = (local_square / len(vectors) - mean.square()).mean((-2, -1), keepdim=True)
    spread, global_spread = variance.sqrt().float(), vectors.std(0)
    if not by_channel:
        spread = variance.mean(1, keepdim=True).sqrt().float().expand_as(variance)
        global_spread = spread[:, :, 0, 0]
    return Standard(mean.float(), spread, vectors.mean(0), global_spread, vectors)


def category_directions(
    standard: Standard,
    vectors: Float[Tensor, "picture layer channel"],
    labels: list[frozenset[str]],
    layer: int,
) -> dict[str, Float[np.ndarray, " channel"]]:
    """Each category's direction among a layer's standardised global tokens; `vectors` are these.

    The mean token of pictures with the category less that of those without, of unit length.

    Raises:
        ValueError: if all or none of the pictures show a category.
    """
    tokens = ((vectors - standard.global_mean) / standard.global_sd)[:, layer].numpy()
    directions = {}
    for category in CATEGORY:
        shown = np.array([category in found for found in labels])
        if shown.all() or not shown.any():
            raise ValueError(f"labels: {shown.sum()} of {len(shown)} pictures show a {category}.")
        difference = tokens[shown].mean(0) - tokens[~shown].mean(0)
        directions[category] = difference / np.linalg.norm(difference)
    return directions


def noiseless(
    truth: Truth, standard: Standard, tokens: Iterable[Tokens], at_once: int = 2048
) -> Float[np.ndarray, "picture vertex"]:
    """Each vertex's response to each picture: mean 0, sd 1, compressed by asinh.

    z_i = Σ_l a_il u_i · [(1 - k_i) Σ_p G_i(p) V_l(p) + k_i g_l], G_i a Gaussian over tokens p that
    sums to 1, V and g standardised tokens. All u_i lie in a space of fewer dimensions than there
    are channels, and tokens are taken there first.
    """
    _, sizes, basis = np.linalg.svd(truth.channel, full_matrices=False)
    basis = basis[sizes > 1e-9 * sizes[0]]
    layer, channel = torch.from_numpy(truth.layer), torch.from_numpy(truth.channel @ basis.T)
    read = (layer[:, :, None] * channel[:, None, :]).flatten(1).float()  # [vertex, layer * basis]
    onto, scale = torch.from_numpy(basis.T).float(), torch.from_numpy(truth.scale).float()
    rows, fields = [], None
    for local, global_ in tokens:
        local = (local - standard.local_mean) / standard.local_sd
        global_ = (((global_ - standard.global_mean) / standard.global_sd) @ onto).flatten(1)
        batch, *_, height, width = local.shape
        if fields is None:
            fields = _gaussians(truth.space, truth.field, height, width)
        places = (local.permute(0, 3, 4, 1, 2) @ onto).reshape(batch * height * width, -1)
        row = torch.empty(batch, len(read))
        for start in range(0, len(read), at_once):
            some = slice(start, start + at_once)
            each = (places @ read[some].T).unflatten(0, (batch, height * width))
            near = (each * fields[some].T).sum(1)
            row[:, some] = (1 - scale[some]) * near + scale[some] * (global_ @ read[some].T)
        rows.append(row)
    out = torch.cat(rows).numpy()
    compressed = np.arcsinh((out - out.mean(0)) / out.std(0))
    return (compressed - compressed.mean(0)) / compressed.std(0)


def _gaussians(
    centre: Float[np.ndarray, "vertex 2"],
    sd: Float[np.ndarray, " vertex"],
    height: int,
    width: int,
) -> Float[Tensor, "vertex place"]:
    """Receptive fields over the tokens of a map, each summing to 1."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    away = (y[:, None] - centre[:, 1, None, None]) ** 2 + (x - centre[:, 0, None, None]) ** 2
    field = np.exp(-away / (2 * sd[:, None, None] ** 2)).reshape(len(centre), -1)
    return torch.from_numpy(field / field.sum(1, keepdims=True)).float()
