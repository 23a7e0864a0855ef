"""Tokens of any torch module, taken by hooks at modules that are named.

    read = Hooked(module, layers=["layer1", "blocks.*"])
    local, global_ = read(x)  # {layer: [batch, channel, h, w]}, {layer: [batch, channel]}

What a layer puts out is read by its shape: maps [B, C, H, W] as they are; tokens [B, N, C] as a
map, row by row; a vector [B, C] as a map of one place. Of a tuple or list the first tensor counts,
of a layer that is called several times the last call.
"""

import copy
import difflib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.files import InputError

Layers = Sequence[str] | Callable[[str, nn.Module], bool]


def layer_names(module: nn.Module, layers: Layers) -> list[str]:
    """The modules that names, patterns such as "blocks.*", or a test of name and module stand for.

    In the order given; those of one pattern or test in the module's own. A star doesn't pass a dot.

    Raises:
        InputError: for a name or pattern that no module has, with the nearest names.
    """
    known = {name: part for name, part in module.named_modules() if name}
    if callable(layers):
        chosen = [name for name, part in known.items() if layers(name, part)]
    else:
        if isinstance(layers, str):
            raise InputError(f"layers={layers!r}: expected a list of names, as [{layers!r}].")
        chosen = [name for asked in layers for name in _matching(asked, known)]
    if not chosen:
        raise InputError(f"layers: none chosen of {len(known)}; expected at least one.")
    return list(dict.fromkeys(chosen))


def _matching(asked: str, known: dict[str, nn.Module]) -> list[str]:
    found = [
        name for name in known if name.count(".") == asked.count(".") and fnmatchcase(name, asked)
    ]
    if not found:
        near = difflib.get_close_matches(asked, known, 3, 0.4) or list(known)[:5]
        raise InputError(
            f"layers: the module has no {asked!r}; nearest of its {len(known)}:"
            f" {', '.join(near) or 'none'}."
        )
    return found


def first_tensor(name: str, out: object) -> Tensor:
    """What a layer gave; of a tuple or list the first tensor.

    Raises:
        InputError: if it is no tensor of real floats.
    """
    items = out if isinstance(out, tuple | list) else [out]
    tensor = next((item for item in items if isinstance(item, Tensor)), None)
    if tensor is None or not tensor.is_floating_point():
        got = type(out).__name__ if tensor is None else tensor.dtype
        raise InputError(
            f"layer {name!r}: its output is {got}; expected a tensor of floats, or a tuple with"
            " one. Name another layer, or read it by a function."
        )
    return tensor


def as_tokens(
    name: str,
    out: Float[Tensor, "batch *rest"],
    prefix: int,
    picture: tuple[int, int],
    channels_last: bool,
) -> tuple[Float[Tensor, "batch channel h w"], Float[Tensor, "batch channel"]]:
    """A layer's output as local tokens and the global one.

    `prefix`: tokens before those of places; the first is the global token. Without one it is the
    average. `picture`: height and width of the input, whose proportion a map of tokens has.

    Raises:
        InputError: for a shape that is no map, row of tokens or vector.
    """
    if out.ndim == 4:
        local = out.permute(0, 3, 1, 2) if channels_last else out
        return local, local.mean((2, 3))
    if out.ndim == 2:
        return out[:, :, None, None], out
    if out.ndim != 3:
        raise InputError(
            f"layer {name!r}: its output is {list(out.shape)}; expected [batch, channel, h, w],"
            " [batch, token, channel] or [batch, channel]."
        )
    count = out.shape[1] - prefix
    height, width = picture
    rows = round((max(count, 0) * height / width) ** 0.5)
    columns = round(rows * width / height)
    if count < 1 or rows * columns != count:
        square = int(out.shape[1] ** 0.5) ** 2
        raise InputError(
            f"layer {name!r}: {out.shape[1]} tokens less prefix={prefix} are no map of the"
            f" proportion of {height} x {width} pixels; of a square picture, prefix="
            f"{out.shape[1] - square} would leave {square}."
        )
    local = out[:, prefix:].mT.unflatten(2, (rows, columns))
    return local, out[:, 0] if prefix else out.mean(1)


class Hooked(nn.Module):
    """A copy of a module that gives the tokens of some of its layers."""

    def __init__(
        self, module: nn.Module, layers: Layers, prefix: int = 0, channels_last: bool = False
    ):
        super().__init__()
        self.layers = layer_names(module, layers)
        self.prefix, self.channels_last = prefix, channels_last
        self.module = copy.deepcopy(module)  # the caller's may be trained on

    def forward(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[dict[str, Float[Tensor, "_n _ _h _w"]], dict[str, Float[Tensor, "_n _"]]]:
        """Local and global tokens of each layer.

        Raises:
            InputError: if a layer isn't reached, or its output can't be read.
        """
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple, out: object) -> None:
                # a copy: what follows may write into it, as ReLU(inplace=True) does
                seen[name] = first_tensor(name, out).float().clone()

            return hook

        handles = [self.module.get_submodule(n).register_forward_hook(keep(n)) for n in self.layers]
        try:
            self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        if unreached := [name for name in self.layers if name not in seen]:
            raise InputError(
                f"layers: {', '.join(unreached)} not reached when the module runs; expected layers"
                " that its forward calls."
            )
        local, global_ = {}, {}
        for name in self.layers:
            local[name], global_[name] = as_tokens(
                name, seen[name], self.prefix, tuple(x.shape[2:]), self.channels_last
            )
        return local, global_


def is_lazy(module: nn.Module) -> bool:
    """Whether some weights have no shape yet."""
    return any(torch.nn.parameter.is_lazy(p) for p in module.parameters())
