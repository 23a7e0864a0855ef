"""FactorTopy: every vertex chooses where, at which layer, at which scale it reads a network.

    model = FactorTopy(ModelConfig(), widths, coordinates)
    responses = model(local, global_)  # [batch, vertex]
    model = FactorTopy(VARIANTS["no-space"], widths, coordinates)  # an ablation of Table 16

Listing 1 and Appendix E.2, with one selector more: how large a vertex's receptive field is. The
selectors are functions of a vertex's coordinate, and nothing but that makes neighbours choose
alike.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.features import Statistics
from analysis.files import InputError
from analysis.selection import select
from analysis.selectors import Free, PositionalEncoding, Selector, factors


@dataclass(frozen=True)
class ModelConfig:
    """Choices of the model; the paper's own are `VARIANTS["paper"]`.

    Where the paper's text and released code differ, the text is taken.
    """

    model: str = "factortopy"  # or a rival's name: rivals.MODELS
    grid: int = 8  # of the local tokens: rivals that hold a number for each place have to know
    channels: int = 32  # D, width of the bottleneck; the paper has 128 (E.3)
    bottleneck: str = "shared"  # or separate: of local and global tokens (released code)
    standardise: bool = True  # tokens of each layer and channel, over the pictures trained on
    readout_start: str = "linear"  # as a linear layer (released code); or randn, of sd 1
    padding: str = "zeros"  # of the map beyond its edge (released code); or border
    hidden: int = 64  # width of the selectors' layers; 128 in the released code
    frequencies: int = 32  # F of the positional encoding (released code)
    periods: float = 1000.0  # its longest over its shortest wavelength (released code)
    steps: float = 100.0  # positions along the longest axis of the cortex (released code)
    topology: bool = True  # selectors are functions of the coordinate; else free at each vertex
    select_layer: bool = True  # else the average over layers
    select_space: bool = True  # else the average over the map
    select_scale: bool = True  # else half of the local token and half of the global one
    select_size: bool = True  # of the receptive field; else one point of the map, as in the paper
    samples: int = 1  # points of the picture whose tokens are averaged
    only_layer: int = 0  # 1 to L: the one layer that is read; 0: all

    def __post_init__(self):
        choices = {
            "bottleneck": ("shared", "separate"),
            "padding": ("zeros", "border"),
            "readout_start": ("linear", "randn"),
        }
        for field, known in choices.items():
            if (value := getattr(self, field)) not in known:
                raise InputError(f"model: {field}={value!r}; expected {' or '.join(known)}.")
        if self.samples < 1:
            raise InputError(f"model: samples={self.samples}; expected 1 or more.")
        if self.samples > 1 and not self.select_space:
            raise InputError(f"model: samples={self.samples} without select_space; expected 1.")


# The model; the paper's; then, as in Table 16, what is left when a part of it is taken away or
# added, and its rivals.
VARIANTS = {
    "factortopy": ModelConfig(),
    "paper": ModelConfig(channels=128, hidden=128, standardise=False, select_size=False),
    "without-topology": ModelConfig(topology=False),
    "no-layer": ModelConfig(select_layer=False),
    "no-space": ModelConfig(select_space=False),
    "no-scale": ModelConfig(select_scale=False),
    "no-size": ModelConfig(select_size=False),
    "three-samples": ModelConfig(samples=3),
    "class-token": ModelConfig(model="class-token"),
    "patch-token": ModelConfig(model="patch-token"),
    "gnet": ModelConfig(model="gnet"),
}
# Fig. 26: a model for each layer, here layer 1; the paper's grid is of class tokens.
SINGLE = {
    "layer-1": ModelConfig(only_layer=1),
    "class-token-layer-1": ModelConfig(model="class-token", only_layer=1),
}
START = 0.02  # sd of the selector's last weights that sets several points apart


def named_model(name: str) -> ModelConfig:
    """A model by name: one of Table 16, or of a single layer, counted from 1: layer-3.

    Raises:
        InputError: for an unknown name; which layers there are is known with the tokens.
    """
    stem, _, layer = name.rpartition("-")
    if f"{stem}-1" in SINGLE and layer.isdecimal() and int(layer) > 0:
        return replace(SINGLE[f"{stem}-1"], only_layer=int(layer))
    if name not in VARIANTS:
        raise InputError(
            f"variant {name!r}: expected one of {', '.join(VARIANTS)}, {', '.join(SINGLE)} (or"
            " another layer), ridge."
        )
    return VARIANTS[name]


class Selectors(NamedTuple):
    """What each vertex chose."""

    space: Float[Tensor, "vertex 2"]  # x right, y down; -1..1 from edge to edge of the picture
    layer: Float[Tensor, "vertex layer"]  # sums to 1
    scale: Float[Tensor, "vertex 1"]  # 0 local token, 1 global token
    size: Float[Tensor, "vertex 1"] | None  # 0 the map as it is, 1 blurred; None: not chosen
    points: Float[Tensor, "vertex sample 2"] | None = (
        None  # of several samples, whose mean is space
    )


class Standard(nn.Module):
    """(t - m) / s of each channel of some tokens; m and 1 / s are saved with the model."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_channels))
        self.register_buffer("per_sd", torch.ones(n_channels))

    def measured(self, mean: Float[Tensor, " channels"], sd: Float[Tensor, " channels"]) -> None:
        """Take these; a channel that is constant to float32's precision is left out, 1 / s = 0."""
        self.mean.copy_(mean)
        self.per_sd.copy_(torch.where(sd > 1e-6 * mean.abs(), 1 / sd, 0))

    def forward(
        self, tokens: Float[Tensor, "batch channels *place"]
    ) -> Float[Tensor, "batch channels *place"]:
        shape = (-1, *[1] * (tokens.ndim - 2))
        return (tokens - self.mean.view(shape)) * self.per_sd.view(shape)


class Standards(nn.Module):
    """How local and global tokens are standardised; None without the option `standardise`.

    Nothing is changed until the statistics are taken, or a saved state is loaded.
    """

    def __init__(self, config: ModelConfig, widths: list[int]):
        super().__init__()
        self.local = Standard(sum(widths)) if config.standardise else None
        self.global_ = Standard(sum(widths)) if config.standardise else None

    def measured(self, statistics: Statistics, here: slice = slice(None)) -> None:
        """Take the statistics of the tokens that are trained on, of the channels that are read."""
        s = statistics
        self.local.measured(s.local_mean[here], s.local_sd[here])
        self.global_.measured(s.global_mean[here], s.global_sd[here])


class Bottleneck(nn.Module):
    """Each layer's tokens, C_l channels, to D channels by a linear map of its own."""

    def __init__(self, widths: list[int], channels: int):
        super().__init__()
        self.widths = widths
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(channels, width).uniform_(-1, 1) * width**-0.5)
            for width in widths
        )

    def forward(
        self, tokens: Float[Tensor, "*n channels"], standard: Standard | None = None
    ) -> Float[Tensor, "layer *n d"]:
        """Of tokens standardised first, if asked: B ((t - m) / s) = (B / s) t - (B / s) m."""
        split = tokens.split(self.widths, -1)
        if standard is None:
            return torch.stack([t @ w.T for t, w in zip(split, self.weights, strict=True)])
        means, per_sd = (x.split(self.widths) for x in (standard.mean, standard.per_sd))
        folded = [w * p for w, p in zip(self.weights, per_sd, strict=True)]
        return torch.stack([t @ w.T - w @ m for t, w, m in zip(split, folded, means, strict=True)])


def readout(config: ModelConfig, n_vertices: int) -> Float[Tensor, "vertex channel"]:
    """The weights that a read-out starts from: a linear layer's, uniform within ± D^-1/2."""
    if config.readout_start == "randn":
        return torch.randn(n_vertices, config.channels)
    return torch.empty(n_vertices, config.channels).uniform_(-1, 1) * config.channels**-0.5


def _encode(model: "FactorTopy", _: object = None) -> None:
    model.left, model.right = factors(model.encoding(model.coordinates))


class FactorTopy(nn.Module):
    """Responses of all vertices to a batch of tokens (Listing 1).

    y_i = (1/D) Σ_d w_id v_id + b_i,
    v_i = Σ_l a_il [(1 - k_i) bilinear(B_l V_l, s_i) + k_i B_l g_l].

    Where a vertex chooses its receptive field's size f_i, (1 - f_i) V_l + f_i (V_l blurred) stands
    in place of V_l: see `selection.select`.

    `coordinates` [vertex, 3] in mm; `widths` the channels of each layer.
    """

    def __init__(
        self, config: ModelConfig, widths: list[int], coordinates: Float[Tensor, "vertex 3"]
    ):
        super().__init__()
        self.config = config
        self.register_buffer("coordinates", coordinates.float())
        self.encoding = PositionalEncoding(
            self.coordinates, config.frequencies, config.periods, config.steps
        )
        for name in ("left", "right"):  # of the encoding: selectors.factors
            self.register_buffer(name, None, persistent=False)
        _encode(self)
        self.register_load_state_dict_post_hook(_encode)  # by the bounds that were loaded
        n_vertices = len(coordinates)
        outs = {"space": 2 * config.samples, "layer": len(widths), "scale": 1, "size": 1}
        if not config.select_space:  # all of the map is read
            del outs["size"]
        for name, out in outs.items():
            if getattr(config, f"select_{name}"):
                if config.topology:
                    setattr(self, name, Selector(self.right.shape[1], config.hidden, out))
                else:
                    setattr(self, name, Free(n_vertices, out))
        if config.samples > 1:  # points that start alike would stay alike
            last = self.space[-1].weight if config.topology else self.space.value
            nn.init.normal_(last, std=START)
        self.standard = Standards(config, widths)
        self.bottleneck = Bottleneck(widths, config.channels)
        if config.bottleneck == "separate":
            self.bottleneck_global = Bottleneck(widths, config.channels)
        self.weight = nn.Parameter(readout(config, n_vertices))
        self.bias = nn.Parameter(torch.zeros(n_vertices))

    def selectors(self) -> Selectors:
        """What each vertex chooses now; what it can't choose is the average."""
        config, n = self.config, len(self.bias)
        new = self.bias.new_zeros
        points = new(n, 1, 2)
        if config.select_space:
            chosen = self.space(self.left, self.right).type_as(points)
            points = torch.tanh(chosen).view(n, config.samples, 2)
        n_layers = len(self.bottleneck.widths)
        layer = self.layer(self.left, self.right) if config.select_layer else new(n, n_layers)
        scale = self.scale(self.left, self.right) if config.select_scale else new(n, 1)
        layer, scale = layer.type_as(points), scale.type_as(points)  # from bfloat16's, if asked
        size = None
        if config.select_size and config.select_space:
            size = torch.sigmoid(self.size(self.left, self.right).type_as(points))
        several = points if config.samples > 1 else None
        # Over a short last axis softmax goes number by number, over the first it doesn't.
        layer = torch.softmax(layer.T.contiguous(), 0).T.contiguous()
        return Selectors(points.mean(1), layer, torch.sigmoid(scale), size, several)

    def squeezed(
        self,
        local: Float[Tensor, "batch channels height width"],
        global_: Float[Tensor, "batch channels"],
    ) -> tuple[Float[Tensor, "batch layer d height width"], Float[Tensor, "batch layer d"]]:
        """Tokens behind the bottleneck."""
        maps = self.bottleneck(local.flatten(2).mT, self.standard.local)
        maps = maps.unflatten(2, local.shape[2:]).permute(1, 0, 4, 2, 3)
        shared = self.config.bottleneck == "shared"
        squeeze = self.bottleneck if shared else self.bottleneck_global
        return maps, squeeze(global_, self.standard.global_).transpose(0, 1)

    def forward(
        self,
        local: Float[Tensor, "batch channels height width"],
        global_: Float[Tensor, "batch channels"],
        selectors: Selectors | None = None,
    ) -> Float[Tensor, "batch vertex"]:
        """Predicted responses; `selectors` saves computing them twice in a training step."""
        chosen = self.selectors() if selectors is None else selectors
        if not self.config.select_space:
            local = local.mean((2, 3), keepdim=True)
        maps, vector = (t.type_as(self.weight) for t in self.squeezed(local, global_))
        points = [chosen.space] if chosen.points is None else chosen.points.unbind(1)
        # the response is linear in the local token, so averaging it is averaging the tokens
        rest = chosen.layer, chosen.scale, self.weight, self.bias, self.config.padding, chosen.size
        each = [select(maps, vector, at, *rest) for at in points]
        return each[0] if len(each) == 1 else torch.stack(each).mean(0)


def entropy(layer: Float[Tensor, "vertex layer"]) -> Float[Tensor, " vertex"]:
    """Entropy of the layer weights over log L, the largest; 1 less it is Eq. 2's confidence."""
    tiny = torch.finfo(layer.dtype).tiny  # a weight of 0 adds 0, and has a finite gradient
    return -(layer * layer.clamp_min(tiny).log()).sum(-1) / math.log(max(layer.shape[1], 2))


def scale_penalty(chosen: Selectors) -> Float[Tensor, ""]:
    """Mean (k - 1/2)^2, which the released code adds to Eq. 3; and the same of the field's size.

    Without it the scale saturates, local tokens get no gradient, and places are not learnt; and a
    size that saturates before places are found stays where it is.
    """
    each = [chosen.scale] if chosen.size is None else [chosen.scale, chosen.size]
    return torch.stack([(x - 0.5).square().mean() for x in each]).sum()


def depth(layer: Float[Tensor, "vertex layer"]) -> Float[Tensor, " vertex"]:
    """Expected layer of each vertex, 0 for the first and 1 for the last."""
    return layer @ torch.linspace(0, 1, layer.shape[1], dtype=layer.dtype, device=layer.device)
