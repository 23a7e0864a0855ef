"""The networks of timm, layer by layer: transformers, pyramids and convolutional ones."""

import inspect
from functools import partial

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.backbones.base import Backbone, Preprocessing
from analysis.backbones.cards import Card
from analysis.backbones.drawn import draw_timm


class TimmNetwork(Backbone):
    """Tokens as they leave each block (or each stage of a pyramid), not normalised.

    The global token is the class token, or the average where the network has none.
    """

    def __init__(
        self, name: str, network: nn.Module, preprocess: Preprocessing, **settings: object
    ):
        super().__init__(name, preprocess)
        self.network = network
        self.prefixed = "return_prefix_tokens" in inspect.signature(
            network.forward_intermediates
        ).parameters and bool(getattr(network, "num_prefix_tokens", 0))
        self.class_token = self.prefixed and getattr(network, "cls_token", None) is not None
        self.widths = [int(layer["num_chs"]) for layer in network.feature_info]
        names = [str(layer["module"]) for layer in network.feature_info]
        if not all(n.startswith("blocks.") for n in names) or len(set(self.widths)) > 1:
            self.layer_names = names
        self.freeze(**settings)

    def tokens(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        more = {"return_prefix_tokens": True} if self.prefixed else {}
        out = self.network.forward_intermediates(x, intermediates_only=True, **more)
        local = [layer[0] for layer in out] if self.prefixed else list(out)
        if self.class_token:
            return local, [prefix[:, 0] for _, prefix in out]
        return local, [maps.mean((2, 3)) for maps in local]


def timm_network(card: Card, drawn: bool) -> nn.Module:
    """A card's architecture; with drawn weights, or with weights that are still to be loaded."""
    options = dict(card.options)
    if eps := options.pop("norm_eps", None):
        options["norm_layer"] = partial(nn.LayerNorm, eps=eps)
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(card.architecture, pretrained=False, num_classes=0, **options)
    if drawn:
        draw_timm(network, card.seed)
    return network
