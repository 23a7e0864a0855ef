"""Your own network as a backbone: a torch module by its layers' names, or a function.

    backbone = from_module("my-net", module, ["layer1", "blocks.*"], Preprocessing((224, 224)))
    backbone = from_function("my-net", function, Preprocessing((224, 224)), version="1")

What a layer puts out is read by its shape: maps [B, C, H, W] as they are; tokens [B, N, C] as a
map, row by row; a vector [B, C] as a map of one place. Of a tuple or list the first tensor counts,
of a layer that is called several times the last call. Either is tried on a few pictures first.
"""

import copy
import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.backbones.base import Backbone, Preprocessing
from analysis.files import InputError

ByLayer = dict[str, Tensor]
Function = Callable[[Float[Tensor, "batch 3 h w"]], tuple[ByLayer, ByLayer]]
Layers = Sequence[str] | Callable[[str, nn.Module], bool]
PICTURES = 3  # that a network is tried on
TOLERANCE = 1e-3  # of a layer's rms; sums in another order differ by far less


def from_module(
    name: str,
    module: nn.Module,
    layers: Layers,
    preprocess: Preprocessing,
    prefix: int = 0,
    channels_last: bool = False,
    version: str = "1",
) -> "CustomBackbone":
    """A copy of any torch module as a backbone, frozen, in evaluation mode.

    `layers`: names of its modules, patterns such as "blocks.*", or a test of name and module.
    `prefix`: tokens before those of places, in layers of tokens; the first is the global token.
    `channels_last`: maps are [batch, h, w, channel].
    `version`: change it when the tokens change by what neither weights nor `forward` show.
    """
    if not [*module.parameters(), *module.buffers()]:
        raise InputError(
            f"backbone {name!r}: {type(module).__name__} has no weights to know it by; expected"
            " some. Give what it computes by from_function, with a version."
        )
    if prefix < 0:
        raise InputError(f"prefix={prefix}: expected 0 or more.")
    if any(nn.parameter.is_lazy(p) for p in module.parameters()):
        raise InputError(f"backbone {name!r}: some weights have no shape yet; run it once before.")
    return CustomBackbone(name, Hooked(module, layers, prefix, channels_last), preprocess, version)


def from_function(
    name: str, function: Function, preprocess: Preprocessing, version: str = "1"
) -> "CustomBackbone":
    """Any function of prepared pictures as a backbone, run without gradients.

    `function(x)` gives local tokens {layer: [batch, channel, h, w]} and global ones {layer:
    [batch, channel]}, with the same layers in the same order. If it is a torch module, a copy of
    its weights is part of the identity. Of another function only `version` is: change it whenever
    what it computes does.
    """
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function)
    return CustomBackbone(name, function, preprocess, version)


class CustomBackbone(Backbone):
    """A function that gives two dictionaries, tried on a few pictures."""

    def __init__(self, name: str, function: Function, preprocess: Preprocessing, version: str):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):  # it names folders
            raise InputError(
                f"backbone {name!r}: expected a name of letters, digits, '.', '-' and '_' only."
            )
        super().__init__(name, preprocess)
        self.function = function
        tensors = [*self.parameters(), *self.buffers()]
        device = tensors[0].device if tensors else None
        # tells where the backbone lies, also where the function has no weights
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.eval().requires_grad_(False)
        local = _checked_tokens(self)
        self.layer_names = list(local)
        self.widths = [tokens.shape[1] for tokens in local.values()]
        parts = _parts(function) if isinstance(function, nn.Module) else []
        self.freeze(version=version, layers=self.layer_names, module=parts)

    def tokens(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        with torch.no_grad():
            local, global_ = self.function(x)
        if list(local) != self.layer_names:
            raise InputError(
                f"backbone {self.name!r}: gave the layers {', '.join(local)}; expected those of"
                f" its first run: {', '.join(self.layer_names)}."
            )
        return list(local.values()), [global_[name].detach() for name in local]


def _parts(module: nn.Module) -> list[str]:
    """What decides a module's tokens beside its weights: its parts, and code that isn't torch's."""
    code = []
    for kind in sorted({type(part) for part in module.modules()}, key=lambda k: k.__qualname__):
        if not kind.__module__.startswith(("torch.", "analysis.")):
            try:
                code.append(inspect.getsource(kind.forward))
            except (OSError, TypeError):  # typed at a prompt: it has no source
                code.append(kind.forward.__code__.co_code.hex())
    return [re.sub(r"0x[0-9a-f]+", "", repr(module)), *code]  # no address in memory


class Hooked(nn.Module):
    """A copy of a module that gives the tokens of some of its layers, taken by hooks."""

    def __init__(
        self, module: nn.Module, layers: Layers, prefix: int = 0, channels_last: bool = False
    ):
        super().__init__()
        self.layers = layer_names(module, layers)
        self.prefix, self.channels_last = prefix, channels_last
        self.module = copy.deepcopy(module)  # the caller's may be trained on

    def extra_repr(self) -> str:
        return f"prefix={self.prefix}, channels_last={self.channels_last}"

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> tuple[ByLayer, ByLayer]:
        """Local and global tokens of each layer."""
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple, out: object) -> None:
                # a copy: what follows may write into it, as ReLU(inplace=True) does
                outputs[name] = _first_tensor(name, out).float().clone()

            return hook

        handles = [self.module.get_submodule(n).register_forward_hook(keep(n)) for n in self.layers]
        try:
            self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        if unreached := [name for name in self.layers if name not in outputs]:
            raise InputError(
                f"layers: {', '.join(unreached)} not reached when the module runs; expected layers"
                " that its forward calls."
            )
        size = (int(x.shape[2]), int(x.shape[3]))
        tokens = {name: self.as_tokens(name, outputs[name], size) for name in self.layers}
        local, global_ = ({name: t[i] for name, t in tokens.items()} for i in (0, 1))
        return local, global_

    def as_tokens(
        self, name: str, out: Float[Tensor, "batch *rest"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "batch channel h w"], Float[Tensor, "batch channel"]]:
        """Local tokens and the global one of a layer; token maps have the input's proportion."""
        if out.ndim == 4:
            local = out.permute(0, 3, 1, 2) if self.channels_last else out
            return local, local.mean((2, 3))
        if out.ndim == 2:
            return out[:, :, None, None], out
        if out.ndim != 3:
            raise InputError(
                f"layer {name!r}: its output is {list(out.shape)}; expected [batch, channel, h, w],"
                " [batch, token, channel] or [batch, channel]."
            )
        count, (height, width) = out.shape[1] - self.prefix, size
        rows = round((max(count, 0) * height / width) ** 0.5)
        columns = round(rows * width / height)
        if count < 1 or rows * columns != count:
            square = int(out.shape[1] ** 0.5) ** 2
            raise InputError(
                f"layer {name!r}: {out.shape[1]} tokens less prefix={self.prefix} are no map of the"
                f" proportion of {height} x {width} pixels; of a square picture, prefix="
                f"{out.shape[1] - square} would leave {square}."
            )
        local = out[:, self.prefix :].mT.unflatten(2, (rows, columns))
        return local, out[:, 0] if self.prefix else out.mean(1)


def layer_names(module: nn.Module, layers: Layers) -> list[str]:
    """The modules that names, patterns such as "blocks.*", or a test of name and module stand for.

    In the order given; those of one pattern or test in the module's own. A star doesn't pass a dot.
    """
    modules = {name: part for name, part in module.named_modules() if name}
    if isinstance(layers, str):
        raise InputError(f"layers={layers!r}: expected a list of names, as [{layers!r}].")
    if callable(layers):
        names = [name for name, part in modules.items() if layers(name, part)]
    else:
        names = [name for pattern in layers for name in _matches(pattern, modules)]
    if not names:
        raise InputError(f"layers: none chosen of {len(modules)}; expected at least one.")
    return list(dict.fromkeys(names))


def _matches(pattern: str, modules: Mapping[str, nn.Module]) -> list[str]:
    depth = pattern.count(".")
    names = [n for n in modules if n.count(".") == depth and fnmatchcase(n, pattern)]
    if not names:
        near = difflib.get_close_matches(pattern, modules, 3, 0.4) or list(modules)[:5]
        raise InputError(
            f"layers: the module has no {pattern!r}; nearest of its {len(modules)}:"
            f" {', '.join(near) or 'none'}."
        )
    return names


def _first_tensor(name: str, out: object) -> Tensor:
    items = out if isinstance(out, tuple | list) else [out]
    tensor = next((item for item in items if isinstance(item, Tensor)), None)
    if tensor is None or not tensor.is_floating_point():
        kind = type(out).__name__ if tensor is None else tensor.dtype
        raise InputError(
            f"layer {name!r}: its output is {kind}; expected a tensor of floats, or a tuple with"
            " one. Name another layer, or read it by a function."
        )
    return tensor


def _checked_tokens(backbone: CustomBackbone) -> ByLayer:
    """Local tokens of pictures of noise; they must be the same from run to run and in any batch."""
    shape = (PICTURES, *backbone.preprocess.size, 3)
    pictures = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    x = backbone.preprocess(pictures.byte().to(backbone.place.device))
    first, again, alone = (_run(backbone, pictures) for pictures in (x, x, x[1:2]))
    for other, rows, which, cause in (
        (again, slice(None), "run to run", "dropout, or a random draw"),
        (alone, slice(1, 2), "batch to batch", "batch normalisation in training mode"),
    ):
        for tokens, same in zip(first, other, strict=True):
            for layer in tokens:
                expected = tokens[layer][rows]
                close = layer in same and same[layer].shape == expected.shape
                if close:
                    error = (expected - same[layer]).double().square().mean().sqrt()
                    close = error <= TOLERANCE * expected.double().square().mean().sqrt()
                if not close:
                    raise InputError(
                        f"backbone {backbone.name!r}, layer {layer!r}: the same picture's tokens"
                        f" differ from {which}; expected the same. Is there {cause}? Call .eval()"
                        " on the network before."
                    )
    return first[0]


def _run(
    backbone: CustomBackbone, x: Float[Tensor, "batch 3 h w"]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """What a backbone's function gives for prepared pictures, in the shapes that are promised."""
    name = f"backbone {backbone.name!r}"
    try:
        with torch.no_grad():
            out: Any = backbone.function(x)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # whatever a user's code raises
        raise InputError(
            f"{name}: it failed on prepared pictures {list(x.shape)}: {type(error).__name__}:"
            f" {error}. Does the size of preprocess={backbone.preprocess.size} suit it?"
        ) from error
    if not (isinstance(out, tuple | list) and [isinstance(o, Mapping) for o in out] == [True] * 2):
        raise InputError(
            f"{name}: gave {type(out).__name__}; expected two dictionaries,"
            " {layer: [batch, channel, h, w]} and {layer: [batch, channel]}."
        )
    local, global_ = out
    if not local or list(local) != list(global_):
        raise InputError(
            f"{name}: layers {list(local)} of local and {list(global_)} of global tokens; expected"
            " the same, in the same order, and at least one."
        )
    for layer in local:
        for kind, tokens, ndim, form in (
            ("local", local[layer], 4, "batch, channel, h, w"),
            ("global", global_[layer], 2, "batch, channel"),
        ):
            shape = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            message = f"{name}, layer {layer!r}: {kind} tokens"
            if not isinstance(tokens, Tensor) or tokens.ndim != ndim or 0 in tokens.shape:
                raise InputError(f"{message} are {shape}; expected a tensor [{form}].")
            if len(tokens) != len(x):
                raise InputError(f"{message} are {shape}; expected a batch of {len(x)}, as given.")
            if not tokens.is_floating_point() or not tokens.isfinite().all():
                raise InputError(f"{message} ({tokens.dtype}) aren't all finite floats.")
        if local[layer].shape[1] != global_[layer].shape[1]:
            raise InputError(
                f"{name}, layer {layer!r}: {local[layer].shape[1]} channels of local and"
                f" {global_[layer].shape[1]} of global tokens; expected as many."
            )
    return local, global_
