"""A simulated subject's noiseless responses: what its vertices read from the teacher's tokens.

truth, responses = true_responses(cortex, pictures, labels, subject, parameters)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.backbones import load_backbone
from analysis.stimuli import scene_stimuli
from analysis.truth import (
    CATEGORY,
    Cortex,
    Directions,
    SubjectParameters,
    Truth,
    TruthParameters,
    draw_truth,
)

TEACHER = "clip-mini"
STANDARD = 300  # pictures over which tokens are standardised

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
    local_sum, local_square, batches = 0.0, 0.0, []
    for local, global_ in tokens:
        local_sum = local_sum + local.double().sum(0)
        local_square = local_square + local.double().square().sum(0)
        batches.append(global_)
    vectors = torch.cat(batches)
    mean = local_sum / len(vectors)
    variance = (local_square / len(vectors) - mean.square()).mean((-2, -1), keepdim=True)
    sd, global_sd = variance.sqrt().float(), vectors.std(0)
    if not by_channel:
        sd = variance.mean(1, keepdim=True).sqrt().float().expand_as(variance)
        global_sd = sd[:, :, 0, 0]
    return Standard(mean.float(), sd, vectors.mean(0), global_sd, vectors)


def category_directions(
    tokens: Float[np.ndarray, "picture channel"], labels: Sequence[frozenset[str]]
) -> Directions:
    """Each category's direction among global tokens, of unit length.

    The mean token of pictures with the category less that of those without.
    """
    directions = {}
    for category in CATEGORY:
        present = np.array([category in kinds for kinds in labels])
        difference = tokens[present].mean(0) - tokens[~present].mean(0)
        directions[category] = difference / np.linalg.norm(difference)
    return directions


def gaussians(truth: Truth, height: int, width: int) -> Float[Tensor, "vertex place"]:
    """Receptive fields over the tokens of a map, each summing to 1."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    centre, sd = truth.space[:, :, None, None], truth.field[:, None, None]
    square = (y[:, None] - centre[:, 1]) ** 2 + (x - centre[:, 0]) ** 2
    field = np.exp(-square / (2 * sd**2)).reshape(len(centre), -1)
    return torch.from_numpy(field / field.sum(1, keepdims=True)).float()


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
    weights = (layer[:, :, None] * channel[:, None, :]).flatten(1).float()  # [vertex, layer*basis]
    onto, scale = torch.from_numpy(basis.T).float(), torch.from_numpy(truth.scale).float()
    fields = gaussians(truth, *standard.local_mean.shape[-2:])
    rows = []
    for local, global_ in tokens:
        local = (local - standard.local_mean) / standard.local_sd
        global_ = (((global_ - standard.global_mean) / standard.global_sd) @ onto).flatten(1)
        batch, n_places = len(local), fields.shape[1]
        places = (local.permute(0, 3, 4, 1, 2) @ onto).reshape(batch * n_places, -1)
        row = torch.empty(batch, len(weights))
        for start in range(0, len(weights), at_once):
            part = slice(start, start + at_once)
            at_places = (places @ weights[part].T).unflatten(0, (batch, n_places))
            pooled = (at_places * fields[part].T).sum(1)
            whole = global_ @ weights[part].T
            row[:, part] = (1 - scale[part]) * pooled + scale[part] * whole
        rows.append(row)
    z = torch.cat(rows).numpy()
    compressed = np.arcsinh((z - z.mean(0)) / z.std(0))
    return (compressed - compressed.mean(0)) / compressed.std(0)


def true_responses(
    cortex: Cortex,
    pictures: Tensor,
    labels: Sequence[frozenset[str]] | None,
    subject: SubjectParameters,
    parameters: TruthParameters,
) -> tuple[Truth, Float[np.ndarray, "picture vertex"]]:
    """A subject's truth, and its noiseless responses to pictures.

    `labels`: what each picture shows. None: categories have their directions from drawn scenes.
    """
    teacher = load_backbone(TEACHER)
    n_layers = len(teacher.widths)
    tokens = list(teacher_tokens(teacher, pictures[:STANDARD]))
    standard = token_standard(tokens, parameters.standardised)
    vectors = standard.vectors
    if labels is None:
        scenes, labels = zip(*scene_stimuli(STANDARD, pictures.shape[1]), strict=True)
        batches = teacher_tokens(teacher, torch.from_numpy(np.stack(scenes)))
        vectors = torch.cat([global_ for _, global_ in batches])
    vectors = ((vectors - standard.global_mean) / standard.global_sd).numpy()
    late = vectors[:, round(0.9 * (n_layers - 1))]
    directions = category_directions(late, labels[:STANDARD])
    truth = draw_truth(cortex, n_layers, directions, subject, parameters)
    tokens = chain(tokens, teacher_tokens(teacher, pictures[STANDARD:]))
    return truth, noiseless(truth, standard, tokens)
