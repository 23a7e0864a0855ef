"""A backbone: pictures in, tokens of each layer out.

A network becomes one by a subclass with `tokens`, and `widths` set before `freeze`:

    class Mine(Backbone):
        def tokens(self, x):
            ...
            return local, global_  # one tensor per layer in each
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from analysis.backbones.catalogue import IMAGENET_MEAN, IMAGENET_STD, Colours


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are made ready for a network.

    They are resized whole, never cropped: a crop would move what the space selector finds.
    """

    size: tuple[int, int]  # pixels: height, width
    mean: Colours = IMAGENET_MEAN  # of pixels from 0 to 1
    std: Colours = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __call__(
        self, pictures: UInt8[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch 3 h w"]:
        """Pictures at the network's input size, in its own normalisation."""
        x = pictures.permute(0, 3, 1, 2).float()
        mode = InterpolationMode(self.interpolation)
        x = resize(x, list(self.size), interpolation=mode, antialias=True).clamp(0, 255)
        mean, std = (255 * x.new_tensor(c).view(3, 1, 1) for c in (self.mean, self.std))
        return (x - mean) / std


@dataclass(frozen=True)
class View:
    """Layers of a backbone that are cached and fitted together, under a name of their own."""

    name: str
    identity: str  # of all that determines these tokens
    layers: slice  # which of the layers that the backbone gives
    widths: tuple[int, ...]  # channels of each of them
    layer_names: tuple[str, ...]


class Backbone(nn.Module):
    """A frozen network that gives tokens of each of its layers.

    `identity` stands for all that determines the tokens, and tokens are cached under it.
    """

    identity: str

    def __init__(self, name: str, preprocess: Preprocessing):
        super().__init__()
        self.name = name
        self.preprocess = preprocess
        self.widths: list[int] = []  # channels of each layer
        self.layer_names: list[str] = []  # "1", "2", … where a subclass gives none

    def freeze(self, identity: str | None = None, **settings: object) -> None:
        """Called at the end of a subclass's __init__: no gradients, evaluation mode, identity.

        `identity`: where a name tells it; else it is the sha256 of name, preprocessing, `settings`
        (what else than the weights determines the tokens, as JSON values) and every weight.
        """
        self.eval().requires_grad_(False)
        self.layer_names = self.layer_names or [str(i + 1) for i in range(len(self.widths))]
        if identity:
            self.identity = identity
            return
        key = {"name": self.name, "preprocess": asdict(self.preprocess), "settings": settings}
        hashed = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
        tensors = dict(self.named_buffers()) | self.state_dict()  # also buffers that aren't saved
        for key, value in sorted(tensors.items()):
            hashed.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            if not value.is_meta:
                hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        self.identity = hashed.hexdigest()

    @property
    def views(self) -> list[View]:
        """One, unless a pass gives several sets of layers, as the time steps of an inversion."""
        names = tuple(self.layer_names)
        return [View(self.name, self.identity, slice(None), tuple(self.widths), names)]

    def tokens(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        """Per layer, local tokens [batch, channel, h, w] and the global token [batch, channel].

        The global token is the class token, or the average where there is none.
        """
        raise NotImplementedError

    def forward(
        self, pictures: UInt8[Tensor, "batch height width 3"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        """The tokens of pictures."""
        return self.tokens(self.preprocess(pictures))

    def stream(
        self, pictures: UInt8[Tensor, "batch height width 3"]
    ) -> Iterator[tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]]:
        """The tokens of each view in turn, so that who pools them need not hold all at once."""
        local, global_ = self(pictures)
        for view in self.views:
            yield local[view.layers], global_[view.layers]
