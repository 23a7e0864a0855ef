"""Your own network as a backbone: a torch module by its layers' names, or a function.

    backbone = from_module("my-net", module, ["layer1", "blocks.*"], Preprocessing((224, 224)))
    backbone = from_function("my-net", function, Preprocessing((224, 224)), version="1")

Either is run on a few pictures before it is believed.
"""

import copy
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.backbones.base import Backbone, Preprocessing
from analysis.backbones.hooked import Hooked, Layers, is_lazy
from analysis.files import InputError

ByLayer = dict[str, Tensor]
Function = Callable[[Float[Tensor, "batch 3 h w"]], tuple[ByLayer, ByLayer]]
PROBED = 3  # pictures that a network is tried on
TOLERANCE = 1e-3  # of a layer's rms; sums in another order differ by far less


def require_name(name: str) -> None:
    """Pass if a backbone may be called so: it names folders.

    Raises:
        InputError: for another sign than letters, digits, dot, dash, underscore.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"backbone {name!r}: expected a name of letters, digits, '.', '-' and '_' only."
        )


def from_module(
    name: str,
    module: nn.Module,
    layers: Layers,
    preprocess: Preprocessing,
    prefix: int = 0,
    channels_last: bool = False,
    version: str = "1",
) -> "OwnBackbone":
    """A copy of any torch module as a backbone, frozen, in evaluation mode.

    `layers`: names of its modules, patterns such as "blocks.*", or a test of name and module.
    `prefix`: tokens before those of places, in layers of tokens; the first is the global token.
    `channels_last`: maps are [batch, h, w, channel].
    `version`: change it when the tokens change by what neither weights nor `forward` show.

    Raises:
        InputError: if it can't be a backbone, with the reason.
    """
    if is_lazy(module):
        raise InputError(f"backbone {name!r}: some weights have no shape yet; run it once before.")
    if not [*module.parameters(), *module.buffers()]:
        raise InputError(
            f"backbone {name!r}: {type(module).__name__} has no weights to know it by; expected"
            " some. Give what it computes by from_function, with a version."
        )
    if prefix < 0:
        raise InputError(f"prefix={prefix}: expected 0 or more.")
    return OwnBackbone(name, Hooked(module, layers, prefix, channels_last), preprocess, version)


def from_function(
    name: str, function: Function, preprocess: Preprocessing, version: str = "1"
) -> "OwnBackbone":
    """Any function of prepared pictures as a backbone, run without gradients.

    `function(x)` gives local tokens {layer: [batch, channel, h, w]} and global ones {layer:
    [batch, channel]}, with the same layers in the same order. If it is a torch module, a copy of
    its weights is part of the identity. Of another function only `version` is: change it whenever
    what it computes does.

    Raises:
        InputError: if it can't be a backbone, with the reason.
    """
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function)
    return OwnBackbone(name, function, preprocess, version)


class OwnBackbone(Backbone):
    """A function that gives two dictionaries, tried on a few pictures."""

    def __init__(self, name: str, function: Function, preprocess: Preprocessing, version: str):
        require_name(name)
        super().__init__(name, preprocess)
        self.function = function
        tensors = [*self.parameters(), *self.buffers()]
        device = tensors[0].device if tensors else None
        # tells where the backbone lies, also where the function has no weights
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.eval().requires_grad_(False)
        local, _ = _probe(self)
        self.layer_names = list(local)
        self.widths = [tokens.shape[1] for tokens in local.values()]
        self.freeze(version=version, layers=self.layer_names, module=_form(function))

    def by_layer(self, x: Float[Tensor, "batch 3 h w"]) -> Any:
        """What the function gives, without gradients: two dictionaries, if it keeps its promise."""
        with torch.no_grad():
            return self.function(x)

    def tokens(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        local, global_ = self.by_layer(x)
        if list(local) != self.layer_names:
            raise InputError(
                f"backbone {self.name!r}: gave the layers {', '.join(local)}; expected those of"
                f" its first run: {', '.join(self.layer_names)}."
            )
        return list(local.values()), [global_[name].detach() for name in local]


def _form(function: Function) -> str:
    """The sha256 of what decides a module's tokens beside its saved weights, as far as it shows.

    Its parts and their settings, the source of each `forward` that isn't torch's, and buffers that
    aren't saved. Empty for a function.
    """
    if not isinstance(function, nn.Module):
        return ""
    shown = re.sub(r"0x[0-9a-f]+", "", repr(function))  # no address in memory
    if isinstance(function, Hooked):
        shown += f" prefix {function.prefix} channels_last {function.channels_last}"
    hashed = hashlib.sha256(shown.encode())
    for kind in sorted({type(part) for part in function.modules()}, key=lambda k: k.__qualname__):
        if not kind.__module__.startswith(("torch.", "analysis.")):
            try:
                hashed.update(inspect.getsource(kind.forward).encode())
            except (OSError, TypeError):  # typed at a prompt: it has no source
                hashed.update(kind.forward.__code__.co_code)
    saved = function.state_dict().keys()
    for key, value in sorted(function.named_buffers()):
        if key not in saved:
            hashed.update(key.encode())
            hashed.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def _probe(backbone: OwnBackbone) -> tuple[ByLayer, ByLayer]:
    """Tokens of a few pictures of noise, if all that a backbone promises holds for them.

    Raises:
        InputError: for another shape than promised, tokens that aren't finite, differ from run to
            run, or depend on the other pictures of a batch.
    """
    shape = (PROBED, *backbone.preprocess.size, 3)
    pictures = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    x = backbone.preprocess(pictures.byte().to(backbone.place.device))
    first = _tried(backbone, x)
    for which, kind, again in (
        ("run to run", "dropout, or a random draw", _tried(backbone, x)),
        ("batch to batch", "batch normalisation in training mode", _tried(backbone, x[1:2])),
    ):
        for mine, other in zip(first, again, strict=True):
            if list(mine) != list(other):
                raise InputError(f"backbone {backbone.name!r}: its layers differ from {which}.")
            for layer, tokens in mine.items():
                tokens = tokens if len(other[layer]) == PROBED else tokens[1:2]
                if tokens.shape != other[layer].shape:
                    raise InputError(
                        f"backbone {backbone.name!r}, layer {layer!r}: the shape of a picture's"
                        f" tokens differs from {which}: {list(tokens.shape)} and"
                        f" {list(other[layer].shape)}."
                    )
                away = (tokens - other[layer]).double().square().mean().sqrt()
                if away > TOLERANCE * tokens.double().square().mean().sqrt():
                    raise InputError(
                        f"backbone {backbone.name!r}, layer {layer!r}: the same picture's tokens"
                        f" differ from {which}; expected the same. Is there {kind}? Call .eval()"
                        " on the network before."
                    )
    return first


def _tried(backbone: OwnBackbone, x: Float[Tensor, "batch 3 h w"]) -> tuple[ByLayer, ByLayer]:
    """What a backbone gives for prepared pictures, in the shapes that are promised."""
    name = f"backbone {backbone.name!r}"
    try:
        out = backbone.by_layer(x)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:  # whatever a stranger's code raises
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
            got = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            where = f"{name}, layer {layer!r}: {kind} tokens"
            if not isinstance(tokens, Tensor) or tokens.ndim != ndim or 0 in tokens.shape:
                raise InputError(f"{where} are {got}; expected a tensor [{form}].")
            if len(tokens) != len(x):
                raise InputError(f"{where} are {got}; expected a batch of {len(x)}, as given.")
            if not tokens.is_floating_point() or not tokens.isfinite().all():
                raise InputError(f"{where} ({tokens.dtype}) aren't all finite floats.")
        if local[layer].shape[1] != global_[layer].shape[1]:
            raise InputError(
                f"{name}, layer {layer!r}: {local[layer].shape[1]} channels of local and"
                f" {global_[layer].shape[1]} of global tokens; expected as many."
            )
    return local, global_
