"""What a region reads of a picture: its three top channels as red, green and blue (Listing 2).

    top = top_channels(fit.model, fit.rois["FFA"])
    shown = top.maps(network(pictures)[0])          # [picture, colour, height, width]

Each layer's local tokens go through the bottleneck and are added up by the region's mean layer
weights; the read-out weights of its vertices have three principal components over channels; the
tokens along these are the colours. Neither place nor scale is used, nor a smaller grid: a colour
says that the picture has there what the region reads, not that a vertex looks there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn.functional import interpolate

from analysis.channels import responding
from analysis.files import InputError
from analysis.model import FactorTopy

COLOURS = 3
LIMIT = 2.5  # sd of a region's maps at which a colour is full
Maps = Float[np.ndarray, "picture colour height width"]


@dataclass(frozen=True)
class Top:
    """A region's three top channels: a linear map of each layer's local tokens to three colours."""

    read: tuple[Float[Tensor, "colour _"], ...]  # of each layer's channels
    offset: Float[Tensor, " colour"]

    def maps(self, local: Sequence[Float[Tensor, "picture _ _h _w"]]) -> Maps:
        """The colours of pictures, from the local tokens of each layer, on the finest grid."""
        size = max(tuple(tokens.shape[2:]) for tokens in local)
        total = 0
        for tokens, read in zip(local, self.read, strict=True):
            each = torch.einsum("kc,bchw->bkhw", read.to(tokens.device), tokens.float())
            if tuple(each.shape[2:]) != size:
                each = interpolate(each, size, mode="bilinear", align_corners=False)
            total = total + each
        return (total.cpu() + self.offset[:, None, None]).numpy()

    def turned(
        self, rotation: Float[np.ndarray, "colour turned"], centre: Float[np.ndarray, " colour"]
    ) -> "Top":
        """The same with (maps - centre) times a matrix for maps."""
        turn = torch.from_numpy(rotation.T).float()
        offset = turn @ (self.offset - torch.from_numpy(centre).float())
        return replace(self, read=tuple(turn @ read for read in self.read), offset=offset)


def directions(
    weight: Float[np.ndarray, "vertex channel"],
    spread: Float[np.ndarray, "channel channel"] | None = None,
) -> Float[np.ndarray, "colour channel"]:
    """The three principal components of vertices' read-out weights, largest first.

    As Listing 2's pca(w) [D, 3]: channels are the samples and vertices the features. Or, given how
    the channels vary (`channels.responding`), the components of what the vertices read: three sums
    of weights that make up most of the variance of the vertices' own maps. A component has the sign
    with which its vertices weigh it on average: more of it, a larger mean response. With fewer than
    three vertices the rest is 0.
    """
    n = min(COLOURS, *weight.shape)
    out = np.zeros((COLOURS, weight.shape[1]))
    if spread is None:
        found = PCA(n, svd_solver="full").fit(weight.T.astype(np.float64))
        sign = np.where(found.components_.sum(1) < 0, -1.0, 1.0)
        out[:n] = (found.transform(weight.T) * sign).T
        return out
    shares = np.linalg.svd(responding(weight.astype(np.float64), spread), full_matrices=False)[0]
    sign = np.where(shares[:, :n].sum(0) < 0, -1.0, 1.0)
    out[:n] = (shares[:, :n] * sign).T @ weight
    return out


def read_through(
    direction: Float[np.ndarray, "colour d"],
    layer: Float[np.ndarray, " layer"],
    bottleneck: Sequence[Float[Tensor, "d _"]],
    mean: Float[Tensor, " channels"],
    per_sd: Float[Tensor, " channels"],
) -> Top:
    """Σ_l a_l u · B_l (V_l - m_l) / s_l as one map of the tokens."""
    widths = [each.shape[1] for each in bottleneck]
    along = torch.from_numpy(direction).float()
    shares = torch.from_numpy(layer).float()
    read, offset = [], torch.zeros(len(direction))
    split = zip(bottleneck, mean.split(widths), per_sd.split(widths), shares, strict=True)
    for weight, m, p, share in split:
        each = share * (along @ weight) * p
        read.append(each)
        offset = offset - each @ m
    return Top(tuple(read), offset)


def top_channels(
    model: nn.Module,
    roi: Bool[np.ndarray, " vertex"],
    spread: Float[np.ndarray, "channel channel"] | None = None,
) -> Top:
    """The top channels of the vertices of a region; `spread`: see `directions`.

    Raises:
        InputError: for a region without vertices, or a model that selects nothing.
    """
    if not roi.any():
        raise InputError("roi: no vertices; expected some.")
    if not isinstance(model, FactorTopy):
        raise InputError(
            f"{type(model).__name__}: reads no channels by layer; expected factortopy."
        )
    with torch.inference_mode():
        layer = model.selectors().layer.cpu().numpy()[roi].mean(0)
        weight = model.weight.detach().cpu().numpy()[roi]
        bottleneck = [each.detach().cpu() for each in model.bottleneck.weights]
        standard, width = model.standard.local, sum(model.bottleneck.widths)
        mean = torch.zeros(width) if standard is None else standard.mean.cpu()
        per_sd = torch.ones(width) if standard is None else standard.per_sd.cpu()
        return read_through(directions(weight, spread), layer, bottleneck, mean, per_sd)


def in_same_colours(
    tops: Mapping[str, Top], maps: Mapping[str, Maps], reference: str | None = None
) -> tuple[dict[str, Top], dict[str, Maps]]:
    """Top channels of one region by name, on one scale and turned to the reference's (the first).

    `maps`: theirs of the same pictures on the same grid. Their mean becomes 0 and their sd over
    colours, pictures and places 1; then the three are turned, and mirrored where need be, to lie
    nearest the reference's: so a colour means one thing in a row of panels.
    """
    flat, scaled = {}, {}
    for name, values in maps.items():
        cells = np.moveaxis(values, 1, -1).reshape(-1, COLOURS).astype(np.float64)
        centre = cells.mean(0)
        sd = np.sqrt(np.square(cells - centre).mean()) or 1.0
        flat[name], scaled[name] = (cells - centre) / sd, (centre, sd)
    first = flat[next(iter(flat)) if reference is None else reference]
    turned, aligned = {}, {}
    for name, cells in flat.items():
        centre, sd = scaled[name]
        turn = np.eye(COLOURS) if cells is first else orthogonal_procrustes(cells, first)[0]
        turned[name] = tops[name].turned(turn / sd, centre)
        picture, _, height, width = maps[name].shape
        back = (cells @ turn).reshape(picture, height, width, COLOURS)
        aligned[name] = np.moveaxis(back, -1, 1)
    return turned, aligned


def rgb(maps: Maps) -> Float[np.ndarray, "picture height width colour"]:
    """Colours of maps whose sd is 1: grey at 0, full at LIMIT to either side."""
    return np.clip(np.moveaxis(maps, 1, -1) / (2 * LIMIT) + 0.5, 0, 1)


def covered(maps: Maps) -> Float[np.ndarray, " picture"]:
    """How much of a picture the maps take: (Σ e)² / n Σ e², e the squared length at each place.

    1 if all places are alike, 1 / n if only one of n is not grey.
    """
    energy = np.square(maps).sum(1).reshape(len(maps), -1)
    return np.square(energy.sum(1)) / (energy.shape[1] * np.square(energy).sum(1))


def alike(one: Maps, other: Maps) -> float:
    """Correlation of two sets of maps over colours, pictures and places."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
