"""Any network by name: `load_backbone` gives it with its weights, `network_identity` without them.

load_backbone("clip-mini")                                       # of the catalogue
load_backbone("timm:vit_base_patch16_dinov3.lvd1689m")           # of timm
load_backbone("open_clip:ViT-B-16-SigLIP2/webli", "random")      # of open_clip
load_backbone("my_package.networks:builder")                     # a function that gives one
load_backbone("tuned:clip-mini-colour-whole-8-0123456789")       # fine-tuned by this project
"""

import functools
import importlib
import importlib.util
import math
import re
from pathlib import Path

import torch
from torch import nn

from analysis.backbones.base import Backbone, Preprocessing
from analysis.backbones.catalogue import CARDS, IMAGENET_MEAN, IMAGENET_STD, Card, card_of
from analysis.backbones.libraries import (
    any_of_open_clip,
    any_of_timm,
    open_clip_tower,
    timm_network,
)
from analysis.backbones.network import VisionNetwork
from analysis.backbones.random_init import draw_weights
from analysis.backbones.weights import load_published, published_file
from analysis.files import InputError, digest, file_digest
from analysis.versions import VERSIONS

LIBRARIES = ("timm:", "open_clip:")
TUNED = "tuned:"
_registered: dict[str, Backbone] = {}


def load_backbone(name: str, weights: str | None = None, normalisation: str = "native") -> Backbone:
    """A frozen network in evaluation mode.

    `weights`: "pretrained" (what `fetch` got; for CLIP and networks of the libraries else their
    download), "random" (from a fixed seed), or a checkpoint file of the publisher's layout, for
    Stable Diffusion a folder; by default pretrained where there is a checkpoint.
    `normalisation`: "imagenet" takes ImageNet's mean and std for every network, as the authors did.

    Raises:
        InputError: for an unknown name, or weights that can't be had, with what to do.
    """
    if normalisation not in ("native", "imagenet"):
        raise InputError(f"normalisation={normalisation!r}: expected 'native' or 'imagenet'.")
    if name in _registered or name.startswith(TUNED) or _is_function(name):
        if weights is not None:
            raise InputError(f"weights={weights!r}: {name} brings its own; leave them out.")
        if normalisation != "native":
            raise InputError(f"normalisation={normalisation!r}: {name} has its own; leave it out.")
        if name.startswith(TUNED):
            from analysis.backbones.tuned import load_tuned  # imports this module

            return load_tuned(name)
        return _registered.get(name) or _from_function(name)
    weights = _checked_weights(name, weights)
    if not name.startswith(LIBRARIES) and card_of(name).library == "diffusers":
        from analysis.backbones.diffusion import load_diffusion  # slow import

        if normalisation == "imagenet":
            raise InputError(f"normalisation='imagenet': {name} takes pixels from -1 to 1 alone.")
        return load_diffusion(name, weights)
    network, preprocess = _built(name, weights)
    if normalisation == "imagenet":
        size, interpolation = preprocess.size, preprocess.interpolation
        preprocess = Preprocessing(size, IMAGENET_MEAN, IMAGENET_STD, interpolation)
    return VisionNetwork(name, network, preprocess, network_identity(name, weights, normalisation))


def network_identity(name: str, weights: str | None = None, normalisation: str = "native") -> str:
    """The `identity` that `load_backbone` gives a network, mostly without loading it.

    It is a hash of the name, of where weights come from (a checkpoint's tag, or the content of a
    given file), of the normalisation and of `VERSIONS`. Only what is registered, or built by a
    function, is loaded, and its weights hashed.
    """
    if name in _registered or _is_function(name):
        return load_backbone(name, weights, normalisation).identity
    if name.startswith(TUNED):
        from analysis.backbones.tuned import tuned_identity

        return tuned_identity(name)
    weights = _checked_weights(name, weights)
    if not name.startswith(LIBRARIES) and card_of(name).library == "diffusers":
        from analysis.backbones.diffusion import diffusion_identity

        return diffusion_identity(name, weights)
    if weights not in ("pretrained", "random"):
        weights = f"sha256 {file_digest(Path(weights))}"
    elif weights == "pretrained" and name in CARDS:
        weights = f"pretrained {CARDS[name].tag}"
    key = {"network": name, "weights": weights, "normalisation": normalisation}
    return digest(key | {"version": VERSIONS["network"]})


def require_backbone(name: str) -> None:
    """Raise if there is no network of that name; no weights are loaded.

    Raises:
        InputError: for an unknown name, with the known ones.
    """
    if name.startswith(TUNED):
        from analysis.backbones.tuned import require_tuned

        require_tuned(name)
    elif _is_function(name):
        _module_of(name)
    elif name not in _registered:
        card_of(name)


def register(backbone: Backbone) -> None:
    """Make a network known by its name in this process, in place of one of that name.

    Raises:
        InputError: for a name of the catalogue, or a network that isn't finished.
    """
    _require_finished("a registered network", backbone)
    if backbone.name in CARDS:
        raise InputError(f"backbone {backbone.name!r}: one of this project's; name it otherwise.")
    _registered[backbone.name] = backbone


def card_of_other(name: str) -> Card | None:
    """What is known of a network that isn't in the catalogue; None if there is none."""
    if name in _registered:
        return _card(name, _registered[name])
    known = name.startswith(LIBRARIES) or _is_function(name)
    return _card_by_name(name) if known else None


@functools.cache
def _card_by_name(name: str) -> Card:
    if _is_function(name):
        return _card(name, _from_function(name))
    with torch.device("meta"):  # neither memory nor time for weights
        return _card(name, VisionNetwork(name, *_built(name, "random"), "unused"))


def _card(name: str, backbone: Backbone) -> Card:
    """A card as far as a network itself tells; of weights, what its library says."""
    network = getattr(backbone, "network", None)
    library, _, architecture = name.rpartition(":")
    published = dict(getattr(network, "pretrained_cfg", None) or {})
    tag = published.get("tag") or ("" if published.get("hf_hub_id") else None)
    if library == "open_clip":
        tag = name.partition("/")[2] or None
    patch = getattr(getattr(network, "patch_embed", network), "patch_size", None)
    return Card(
        title=architecture,
        architecture=architecture,
        tag=tag if library in ("timm", "open_clip") else None,
        layers=len(backbone.widths),
        width=tuple(backbone.widths),
        input_size=math.isqrt(math.prod(backbone.preprocess.size)),
        patch=int(patch[0]) if isinstance(patch, tuple | list) else patch,
        data=str(tag or "see the library"),
        parameters=sum(p.numel() for p in backbone.parameters()),
        mean=backbone.preprocess.mean,
        std=backbone.preprocess.std,
        interpolation=backbone.preprocess.interpolation,
        library=library,
        family=library,
        licence=str(published.get("license") or "see the model card"),
    )


def _checked_weights(name: str, weights: str | None) -> str:
    """ "pretrained", "random", or the path of a file or folder that is there."""
    of_library = name.startswith(LIBRARIES)
    card = None if of_library else card_of(name)
    weights = weights or ("pretrained" if of_library or card.tag else "random")
    if weights == "pretrained" and card and card.tag is None:
        raise InputError(f"weights='pretrained': {name} has no checkpoint; expected 'random'.")
    if weights in ("pretrained", "random"):
        return weights
    if card and card.library == "diffusers":
        if not Path(weights).is_dir():
            raise InputError(
                f"weights={weights!r}: no such folder; expected 'pretrained', 'random' or a folder"
                " of unet/, vae/ and text_encoder/."
            )
    elif not Path(weights).is_file():
        raise InputError(
            f"weights={weights!r}: no such file; expected 'pretrained', 'random' or a checkpoint."
        )
    return weights


def _built(name: str, weights: str) -> tuple[nn.Module, Preprocessing]:
    """A network of timm or open_clip with its weights, and how pictures are prepared for it.

    Raises:
        InputError: for weights that can't be had.
    """
    if name.startswith("timm:"):
        return any_of_timm(name.removeprefix("timm:"), weights)
    if name.startswith("open_clip:"):
        return any_of_open_clip(name.removeprefix("open_clip:"), weights)
    card = CARDS[name]
    preprocess = Preprocessing((card.input_size,) * 2, card.mean, card.std, card.interpolation)
    if weights == "pretrained" and (path := published_file(name)):
        weights = str(path)
    if card.library == "open_clip":
        source = {"pretrained": card.tag, "random": None}.get(weights, weights)
        network = open_clip_tower(card.architecture, source)
    elif weights == "pretrained":
        raise InputError(
            f"backbone {name!r}: its weights are not there. Run `python -m analysis fetch"
            f" --backbone {name}`, or give weights= a file, or 'random' to try without."
        )
    else:
        network = timm_network(card)
    if weights == "random":
        draw_weights(network, card.seed)
    elif card.library == "timm":
        load_published(network, Path(weights), card.layout, name)
    return network, preprocess


def _is_function(name: str) -> bool:
    """Whether a name has the form MODULE:FUNCTION."""
    reserved = name.startswith((*LIBRARIES, TUNED))
    return not reserved and bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name))


def _module_of(name: str) -> str:
    """The module of MODULE:FUNCTION, which is there.

    Raises:
        InputError: if Python finds no such module.
    """
    module = name.partition(":")[0]
    try:
        if importlib.util.find_spec(module):
            return module
    except (ImportError, ValueError):
        pass
    raise InputError(
        f"backbone {name!r}: no module {module!r} to be imported from here; expected a name of the"
        " list that `python -m analysis backbones` gives, or MODULE:FUNCTION."
    )


def _from_function(name: str) -> Backbone:
    """The network that a user's function gives, under the function's name.

    Raises:
        InputError: if the function can't be had, fails, or gives another thing.
    """
    module, function = _module_of(name), name.partition(":")[2]
    try:
        backbone = getattr(importlib.import_module(module), function)()
    except Exception as error:  # whatever a user's code raises
        raise InputError(
            f"backbone {name!r}: {type(error).__name__}: {error}; expected a function without"
            " arguments that gives a Backbone."
        ) from error
    _require_finished(name, backbone)
    backbone.name = name
    return backbone


def _require_finished(name: str, backbone: object) -> None:
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"backbone {name!r}: it is {type(backbone).__name__}; expected a Backbone, as"
            " from_module or from_function make it."
        )
    if not hasattr(backbone, "identity"):
        raise InputError(
            f"backbone {name!r}: it has no identity; expected freeze() to be called at the end of"
            " its __init__."
        )
