"""The rivals of Table 16: features that all vertices share, and a pooling field for each vertex.

    model = make_model(VARIANTS["class-token"], widths, coordinates)

They read the same tokens, are trained by the same recipe and scored on the same split as
FactorTopy. None has selectors, so none can be mapped by layer, place or scale.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.features import Statistics
from analysis.files import InputError
from analysis.model import Bottleneck, FactorTopy, ModelConfig, Standards, readout


class Rival(nn.Module):
    """A read-out of each vertex, y_i = (1/D) Σ_d w_id v_id + b_i, as FactorTopy's."""

    def __init__(self, config: ModelConfig, widths: list[int], n_vertices: int):
        super().__init__()
        self.config, self.widths = config, widths
        self.standard = Standards(config, widths)
        self.weight = nn.Parameter(readout(config, n_vertices))
        self.bias = nn.Parameter(torch.zeros(n_vertices))

    def selectors(self) -> None:
        """None: nothing is selected."""

    def read(self, features: Float[Tensor, "batch d"]) -> Float[Tensor, "batch vertex"]:
        """Every vertex's response to features that all share."""
        return features @ self.weight.T / self.config.channels + self.bias


class ClassToken(Rival):
    """The global token of each layer through a map of its own, averaged over layers (F.1, 1)."""

    def __init__(self, config: ModelConfig, widths: list[int], coordinates: Tensor):
        super().__init__(config, widths, len(coordinates))
        self.bottleneck = Bottleneck(widths, config.channels)

    def forward(
        self,
        local: Float[Tensor, "batch channels height width"],
        global_: Float[Tensor, "batch channels"],
        selectors: None = None,
    ) -> Float[Tensor, "batch vertex"]:
        return self.read(self.bottleneck(global_, self.standard.global_).mean(0))


class PatchToken(Rival):
    """The whole map of each layer, flattened, through an MLP of its own (F.1, 2).

    As the winners of the Algonauts 2021 challenge compressed patches. The paper gives no size of
    the MLP; its hidden layer is as wide as the bottleneck.
    """

    def __init__(self, config: ModelConfig, widths: list[int], coordinates: Tensor):
        super().__init__(config, widths, len(coordinates))
        self.compress = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width * config.grid**2, config.channels),
                nn.GELU(),
                nn.Linear(config.channels, config.channels),
            )
            for width in widths
        )

    def forward(
        self,
        local: Float[Tensor, "batch channels height width"],
        global_: Float[Tensor, "batch channels"],
        selectors: None = None,
    ) -> Float[Tensor, "batch vertex"]:
        if self.standard.local is not None:
            local = self.standard.local(local)
        each = zip(self.compress, local.split(self.widths, 1), strict=True)
        return self.read(torch.stack([mlp(tokens.flatten(1)) for mlp, tokens in each]).mean(0))


class GNetViT(Rival):
    """A pooling field of each vertex over the map of each layer, averaged over layers (F.1, 3).

    v_i = (1/L) Σ_l Σ_p m_ilp B_l V_lp, m_il a softmax over places p: as in GNet, whose network is
    here the frozen one. It has L H W numbers for each vertex, and as many products.
    """

    def __init__(self, config: ModelConfig, widths: list[int], coordinates: Tensor):
        super().__init__(config, widths, len(coordinates))
        self.bottleneck = Bottleneck(widths, config.channels)
        self.field = nn.Parameter(torch.zeros(len(widths), len(coordinates), config.grid**2))

    def forward(
        self,
        local: Float[Tensor, "batch channels height width"],
        global_: Float[Tensor, "batch channels"],
        selectors: None = None,
    ) -> Float[Tensor, "batch vertex"]:
        maps = self.bottleneck(local.flatten(2).mT, self.standard.local)  # [layer, B, H W, D]
        out = self.bias.expand(len(local), -1)
        share = 1 / (len(self.widths) * self.config.channels)
        for tokens, logits in zip(maps, self.field, strict=True):
            response = tokens @ self.weight.T  # of each place
            out = out + share * (response * logits.softmax(1).T).sum(1)
        return out


MODELS = {
    "factortopy": FactorTopy,
    "class-token": ClassToken,
    "patch-token": PatchToken,
    "gnet": GNetViT,
}


def make_model(
    config: ModelConfig,
    widths: list[int],
    coordinates: Float[Tensor, "vertex 3"],
    statistics: Statistics | None = None,
) -> FactorTopy | Rival:
    """The model that a configuration names, its weights as they start.

    `statistics`: of the tokens of the pictures trained on, for `standardise`; a saved state holds
    its own.
    With `only_layer` it is made for that layer's channels, and its forward pass takes these out of
    the tokens of all layers, which it is given as any other model is.

    Raises:
        InputError: for an unknown name, or a layer that there is not.
    """
    if config.model not in MODELS:
        raise InputError(f"model={config.model!r}: expected one of {', '.join(MODELS)}.")
    if not 0 <= config.only_layer <= len(widths):
        raise InputError(
            f"model: only_layer={config.only_layer}; expected 1 to {len(widths)}, the layers of"
            " this network, or 0 for all."
        )
    here = slice(None)  # the channels that are read
    if config.only_layer:
        before, width = sum(widths[: config.only_layer - 1]), widths[config.only_layer - 1]
        here, widths = slice(before, before + width), [width]
        config = replace(config, select_layer=False)  # nothing to choose from
    model = MODELS[config.model](config, widths, coordinates)
    if config.only_layer:
        model.register_forward_pre_hook(lambda _, x: (x[0][:, here], x[1][:, here], *x[2:]))
    if config.standardise and statistics is not None:
        model.standard.measured(statistics, here)
    return model
