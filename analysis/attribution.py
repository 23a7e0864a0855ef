"""Which layers each vertex reads: what its selector weighs, and what the layers contribute.

    maps = layer_maps(fit)
    maps.depth("weight"), maps.depth("contribution"), maps.confidence("weight")
    stability_over_runs([layer_maps(fit) for fit in fits])

The model is linear in the layers, y_i = Σ_l a_il c_il + b_i, where c_il is the response of vertex i
if it read layer l alone. Tokens of later layers are larger, so a weight a_il is not yet a share of
the response; cov(a_il c_il, y_i) / var(y_i) over pictures is one, and sums to 1 over layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis import metrics, model
from analysis.features import Tokens
from analysis.files import InputError
from analysis.fit import Fit, PartName
from analysis.model import FactorTopy, Selectors
from analysis.selection import select

ATTRIBUTIONS = ("weight", "contribution")  # of the selector, or to the predicted variance
PICTURES_AT_ONCE = 32
NUMBERS = 2**26  # of contributions held at a time: 256 MB


def layer_responses(
    model: FactorTopy,
    local: Float[Tensor, "batch channels height width"],
    global_: Float[Tensor, "batch channels"],
    chosen: Selectors,
    vertices: slice = slice(None),
) -> Float[Tensor, "layer batch vertex"]:
    """a_il c_il of some vertices: with the bias they sum over layers to the model's response."""
    if not model.config.select_space:
        local = local.mean((2, 3), keepdim=True)
    maps, vector = model.squeezed(local, global_)
    points = [chosen.space] if chosen.points is None else chosen.points.unbind(1)
    weight, none = model.weight[vertices], torch.zeros_like(model.bias[vertices])
    responses = []
    for layer in range(maps.shape[1]):
        at = slice(layer, layer + 1)
        each = [
            select(
                maps[:, at],
                vector[:, at],
                point[vertices],
                chosen.layer[vertices, at],
                chosen.scale[vertices],
                weight,
                none,
                model.config.padding,
                None if chosen.size is None else chosen.size[vertices],
            )
            for point in points
        ]
        responses.append(torch.stack(each).mean(0))
    return torch.stack(responses)


def shares(
    responses: Float[np.ndarray, "layer picture vertex"],
    draws: Float[np.ndarray, "draw picture"],
) -> Float[np.ndarray, "draw vertex layer"]:
    """cov(a_il c_il, y_i) / var(y_i) over pictures drawn so many times; NaN where y never varies.

    A layer's share is negative where it works against the others.
    """
    centred = (responses - responses.mean(1, keepdims=True)).astype(np.float64)
    total = centred.sum(0)  # [picture, vertex]
    n = draws.sum(1)[:, None]
    mean = draws @ total / n
    variance = draws @ np.square(total) / n - np.square(mean)
    by = np.where(variance > 1e-12 * np.square(total).mean(0), variance, np.nan)
    each = [(draws @ (c * total) / n - (draws @ c / n) * mean) / by for c in centred]
    return np.stack(each, -1)


def contributions(
    model: FactorTopy,
    tokens: Tokens,
    pictures: Int[np.ndarray, " picture"],
    samples: int = 0,
    seed: int = 0,
) -> Iterator[tuple[slice, Float[np.ndarray, "draw vertex layer"]]]:
    """Shares of the layers for some vertices at a time: of the pictures, then of drawn sets.

    So many vertices come at once as `NUMBERS` allows, and the network's tokens are read again for
    each: at 24 layers and 37,984 vertices nothing of their product with pictures is held.
    """
    n_pictures, n_vertices = len(pictures), len(model.bias)
    drawn = np.random.default_rng(seed).multinomial(
        n_pictures, np.full(n_pictures, 1 / n_pictures), size=samples
    )
    draws = np.concatenate([np.ones((1, n_pictures)), drawn])
    numbers = len(model.bottleneck.widths) * max(n_pictures, 2 * len(draws))  # shares are float64
    at_once = max(1, NUMBERS // numbers)
    device = model.weight.device
    with torch.inference_mode():
        chosen = model.selectors()
        for start in range(0, n_vertices, at_once):
            some = slice(start, min(start + at_once, n_vertices))
            parts = []
            for first in range(0, n_pictures, PICTURES_AT_ONCE):
                local, global_ = tokens[pictures[first : first + PICTURES_AT_ONCE]]
                read = layer_responses(model, local.to(device), global_.to(device), chosen, some)
                parts.append(read.cpu().numpy())
            yield some, shares(np.concatenate(parts, 1), draws)


def depth(weights: Float[np.ndarray, "... layer"]) -> Float[np.ndarray, "..."]:
    """Expected layer, 0 the first and 1 the last; negative shares count as none."""
    positive = np.maximum(weights, 0)
    return positive @ np.linspace(0, 1, weights.shape[-1]) / positive.sum(-1)


def _modal_share(argmax: Int[np.ndarray, "run vertex"]) -> Float[np.ndarray, " vertex"]:
    """The share of runs that agree on the layer that most of them choose."""
    counts = [(argmax == layer).sum(0) for layer in range(int(argmax.max()) + 1)]
    return np.max(counts, axis=0) / len(argmax)


@dataclass(frozen=True)
class LayerMaps:
    """What the vertices of one fit read, by layer."""

    weights: Float[np.ndarray, "vertex layer"]  # of the selector; sum to 1
    shares: Float[np.ndarray, "vertex layer"]  # of the predicted variance; sum to 1, may be below 0
    depth_sd: Float[np.ndarray, " vertex"]  # of the contribution's depth over drawn pictures
    agreement: Float[np.ndarray, " vertex"]  # share of drawn sets with the commonest largest layer
    part: str  # of the split, over whose pictures the shares are
    n_pictures: int

    def of(self, attribution: str) -> Float[np.ndarray, "vertex layer"]:
        """Selector weights, or shares of the predicted variance."""
        if attribution not in ATTRIBUTIONS:
            raise InputError(
                f"attribution={attribution!r}: expected {' or '.join(map(repr, ATTRIBUTIONS))}."
            )
        return self.weights if attribution == "weight" else self.shares

    def argmax(self, attribution: str = "weight") -> Int[np.ndarray, " vertex"]:
        """The layer that counts most, from 0."""
        return self.of(attribution).argmax(1)

    def depth(self, attribution: str = "weight") -> Float[np.ndarray, " vertex"]:
        """Expected layer, 0 the first and 1 the last."""
        return depth(self.of(attribution))

    def confidence(self, attribution: str = "weight") -> Float[np.ndarray, " vertex"]:
        """1 - H / log L (Eq. 2): 1 where one layer has it all, 0 where all have the same."""
        positive = np.maximum(self.of(attribution), 0)
        share = torch.from_numpy(positive / positive.sum(1, keepdims=True))
        return 1 - model.entropy(share).numpy()

    def table(self) -> pd.DataFrame:
        """A row per vertex: layer (from 1), depth, confidence by either attribution; stability."""
        columns = {}
        for by in ATTRIBUTIONS:
            columns[f"layer by {by}"] = self.argmax(by) + 1
            columns[f"depth by {by}"] = self.depth(by)
            columns[f"confidence by {by}"] = self.confidence(by)
        columns["sd of depth over pictures"] = self.depth_sd
        columns["agreement over pictures"] = self.agreement
        return pd.DataFrame(columns)


def layer_maps(fit: Fit, part: PartName = "test", samples: int = 100, seed: int = 0) -> LayerMaps:
    """Selector weights and contributions of a fit, the latter also on drawn sets of pictures.

    The weights were learnt and don't depend on the pictures of a part: how stable they are only
    other seeds can say. The contributions do.

    Raises:
        InputError: for a rival, which selects nothing.
    """
    weights = fit.selectors().layer.cpu().numpy().astype(np.float64)
    pictures = getattr(fit.split, part)
    share, sd, agreement = np.empty_like(weights), *np.full((2, len(weights)), np.nan)
    for some, drawn in contributions(fit.model, fit.tokens, pictures, samples, seed):
        share[some] = drawn[0]
        if samples:
            sd[some] = depth(drawn[1:]).std(0)
            agreement[some] = _modal_share(drawn[1:].argmax(-1))
    return LayerMaps(weights, share, sd, agreement, part, len(pictures))


def stability_over_runs(runs: Sequence[LayerMaps], attribution: str = "weight") -> pd.DataFrame:
    """A row per vertex over fits of one subject by other seeds.

    Mean and sd of the expected depth, the share of runs that agree on the commonest largest layer,
    and the mean confidence.
    """
    depths = np.stack([run.depth(attribution) for run in runs])
    return pd.DataFrame(
        {
            "depth": depths.mean(0),
            "sd of depth": depths.std(0, ddof=1) if len(runs) > 1 else np.nan,
            "agreement": _modal_share(np.stack([run.argmax(attribution) for run in runs])),
            "confidence": np.mean([run.confidence(attribution) for run in runs], axis=0),
        }
    )


def layers_table(
    maps: LayerMaps,
    rois: metrics.Masks,
    names: Sequence[str],
    attribution: str = "weight",
) -> pd.DataFrame:
    """A row per ROI: the mean of each layer's weight or share, columns 1 to L."""
    values = maps.of(attribution)
    masks = metrics.regions(rois, names, len(values))
    rows = [{"ROI": name, "vertices": int(mask.sum())} for name, mask in masks.items()]
    means = np.stack([np.nanmean(values[mask], axis=0) for mask in masks.values()])
    layers = pd.DataFrame(means, columns=[str(i + 1) for i in range(values.shape[1])])
    return pd.concat([pd.DataFrame(rows), layers], axis=1)


def agreement_table(maps: Sequence[LayerMaps], names: Sequence[str]) -> pd.DataFrame:
    """A row per pair of runs on the same vertices: how alike their maps are.

    Rank correlation of depth by weight and by contribution, mean absolute difference of depth by
    weight, and the share of vertices with the same largest weight.
    """
    rows = []
    for i, one in enumerate(maps):
        for j in range(i):
            other = maps[j]
            row = {"run": names[j], "and": names[i]}
            for by in ATTRIBUTIONS:
                known = np.isfinite(one.depth(by) + other.depth(by))
                pair = one.depth(by)[known], other.depth(by)[known]
                row[f"rank correlation by {by}"] = metrics.rank_correlation(*pair)
            row["difference of depth"] = np.abs(one.depth() - other.depth()).mean()
            row["same layer"] = (one.argmax() == other.argmax()).mean()
            rows.append(row)
    return pd.DataFrame(rows)
