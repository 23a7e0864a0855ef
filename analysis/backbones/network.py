"""The networks of timm and open_clip, layer by layer."""

import inspect

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.backbones.base import Backbone, Preprocessing


class VisionNetwork(Backbone):
    """A network of timm or open_clip: tokens of each block, or of each stage of a pyramid.

    They are as they leave it, not normalised. The global token is the class token, or the average
    where the network has none.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        preprocess: Preprocessing,
        identity: str | None = None,
    ):
        super().__init__(name, preprocess)
        self.network = network
        known = inspect.signature(network.forward_intermediates).parameters
        self.options = {"intermediates_only": True}
        if "output_extra_tokens" in known:  # open_clip's
            self.options["output_extra_tokens"] = True
        elif "return_prefix_tokens" in known and getattr(network, "num_prefix_tokens", 0):
            self.options["return_prefix_tokens"] = True
        tokens = (getattr(network, key, None) for key in ("cls_token", "class_embedding"))
        self.class_token = len(self.options) > 1 and any(t is not None for t in tokens)
        if stages := getattr(network, "feature_info", None):
            self.widths = [int(stage["num_chs"]) for stage in stages]
            names = [str(stage["module"]) for stage in stages]
            if not all(n.startswith("blocks.") for n in names) or len(set(self.widths)) > 1:
                self.layer_names = names
        elif self.class_token:
            self.widths = [network.transformer.width] * len(network.transformer.resblocks)
        else:
            black = torch.zeros(1, 3, *preprocess.size, device=next(network.parameters()).device)
            with torch.inference_mode():
                self.widths = [maps.shape[1] for maps in self.eval().tokens(black)[0]]
        self.freeze(identity)

    def tokens(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        out = self.network.forward_intermediates(x, **self.options)
        if isinstance(out, dict):
            local, prefixes = out["image_intermediates"], out.get("image_intermediates_prefix")
        elif "return_prefix_tokens" in self.options:
            local, prefixes = (list(tokens) for tokens in zip(*out, strict=True))
        else:
            local, prefixes = list(out), None
        if self.class_token:
            return local, [prefix[:, 0] for prefix in prefixes]
        return local, [maps.mean((2, 3)) for maps in local]
