"""Any network of timm or open_clip by its library's name, without a card of its own.

load_backbone("timm:vit_base_patch16_dinov3.lvd1689m")
load_backbone("open_clip:ViT-B-16-SigLIP2/webli", "random")

Size, mean, std and interpolation are the library's; its crop is left out, since it would cut the
visual field.
"""

import functools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from analysis.backbones.base import Backbone, Preprocessing
from analysis.backbones.cards import Card, nearest
from analysis.backbones.checkpoints import UNREADABLE
from analysis.files import InputError


class OpenClipNetwork(Backbone):
    """open_clip's own networks without a class token: stages of a residual network."""

    def __init__(self, name: str, visual: nn.Module, preprocess: Preprocessing):
        super().__init__(name, preprocess)
        self.visual = visual
        with torch.inference_mode():
            local, _ = self.tokens(torch.zeros(1, 3, *preprocess.size))
        self.widths = [maps.shape[1] for maps in local]
        self.freeze()

    def tokens(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        out = self.visual.forward_intermediates(x, intermediates_only=True)
        return out["image_intermediates"], [t.mean((2, 3)) for t in out["image_intermediates"]]


@contextmanager
def _told(name: str, weights: str) -> Iterator[None]:
    """Turns what a library raises into what to do.

    Raises:
        InputError: naming the backbone and its weights.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"backbone {name!r}, weights={weights!r}: {type(error).__name__}: {error}. A checkpoint"
            " is downloaded at its first use: check the connection, or give weights= a file in the"
            " library's format, or 'random' to try without."
        ) from error


def _timm_made(name: str, weights: str) -> nn.Module:
    """One of timm's networks; drawn weights are the library's own, from a fixed seed."""
    import timm

    known = timm.list_models()
    architecture = name.removeprefix("timm:")
    every = [*known, *timm.list_pretrained()]
    if architecture not in every:
        near = ", ".join(f"timm:{n}" for n in nearest(architecture, every)[:5])
        raise InputError(f"backbone {name!r}: unknown to timm; expected a name such as {near}.")
    file = weights if weights not in ("pretrained", "random") else None
    with _told(name, weights), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(architecture, pretrained=weights == "pretrained", num_classes=0)
        if file:
            timm.models.load_checkpoint(network, file, weights_only=True)
    if not hasattr(network, "forward_intermediates"):
        raise InputError(f"backbone {name!r}: timm gives no layers of it. Register it as a module.")
    return network


def _timm_preprocessing(network: nn.Module) -> Preprocessing:
    from timm.data import resolve_model_data_config

    known = resolve_model_data_config(network)
    mode = known["interpolation"] if known["interpolation"] == "bilinear" else "bicubic"
    size = (int(known["input_size"][1]), int(known["input_size"][2]))
    return Preprocessing(size, tuple(known["mean"]), tuple(known["std"]), mode)


def _open_clip_parts(name: str) -> tuple[str, str | None]:
    """Architecture and tag, known to open_clip.

    Raises:
        InputError: for unknown ones, with the nearest.
    """
    import open_clip

    architecture, _, tag = name.removeprefix("open_clip:").partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        near = ", ".join(f"open_clip:{n}" for n in nearest(architecture, known)[:5])
        raise InputError(
            f"backbone {name!r}: unknown to open_clip; expected a name such as {near}."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise InputError(
            f"backbone {name!r}: no such checkpoint; expected one of"
            f" {', '.join(nearest(tag, tags)) or 'none, and weights random'}."
        )
    return architecture, tag or None


def _open_clip_made(name: str, weights: str) -> nn.Module:
    """The vision half of one of open_clip's models, with the activation its weights had."""
    import open_clip

    architecture, tag = _open_clip_parts(name)
    source = {"pretrained": tag, "random": None}.get(weights, weights)
    published = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    with _told(name, weights), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        visual = open_clip.create_model(
            architecture,
            pretrained=source,
            force_quick_gelu=bool(published.get("quick_gelu", False)),
            require_pretrained=source is not None,
            pretrained_text=False,
            weights_only=True,
        ).visual
    known = {k: v for k, v in published.items() if k in ("mean", "std", "interpolation")}
    visual.preprocess_cfg = {**visual.preprocess_cfg, **known}
    return visual


def _open_clip_preprocessing(visual: nn.Module) -> Preprocessing:
    known = visual.preprocess_cfg
    size = known["size"] if isinstance(known["size"], tuple | list) else (known["size"],) * 2
    mode = known["interpolation"] if known["interpolation"] == "bilinear" else "bicubic"
    return Preprocessing(tuple(size), tuple(known["mean"]), tuple(known["std"]), mode)


def _wrapped(name: str, weights: str) -> Backbone:
    from analysis.backbones.network import TimmNetwork
    from analysis.backbones.vit import OpenClipViT

    if name.startswith("timm:"):
        network = _timm_made(name, weights)
        return TimmNetwork(name, network, _timm_preprocessing(network))
    visual = _open_clip_made(name, weights)
    preprocess = _open_clip_preprocessing(visual)
    if hasattr(visual, "trunk"):
        return TimmNetwork(name, visual.trunk, preprocess)
    if hasattr(visual, "transformer"):
        return OpenClipViT(name, visual, preprocess)
    return OpenClipNetwork(name, visual, preprocess)


@functools.cache
def named_card(name: str) -> Card:
    """The card of any network of timm or open_clip, read off the network, which is built for it.

    Raises:
        InputError: for an unknown name, with the nearest ones.
    """
    library, _, architecture = name.partition(":")
    backbone = _wrapped(name, "random")
    inner = getattr(backbone, "network", None)
    if inner is None:
        patch = getattr(backbone.visual, "patch_size", None)
    else:
        patch = getattr(getattr(inner, "patch_embed", None), "patch_size", None)
    published = dict(getattr(inner, "pretrained_cfg", None) or {})
    has_checkpoint = bool(published.get("hf_hub_id") or published.get("url"))
    tag = _open_clip_parts(name)[1] if library == "open_clip" else published.get("tag") or ""
    return Card(
        title=architecture,
        architecture=architecture,
        tag=tag if library == "open_clip" or has_checkpoint else None,
        layers=len(backbone.widths),
        width=tuple(backbone.widths),
        input_size=math.isqrt(math.prod(backbone.preprocess.size)),
        patch=int(patch[0]) if isinstance(patch, tuple | list) else patch,
        data=str(tag or "see the library"),
        mean=backbone.preprocess.mean,
        std=backbone.preprocess.std,
        interpolation=backbone.preprocess.interpolation,
        library=library,
        family=library,
        layout=library,
        parameters=sum(p.numel() for p in backbone.parameters()),
        licence=str(published.get("license") or "see the model card"),
    )


def named_backbone(name: str, card: Card, weights: str) -> Backbone:
    """Any network of timm or open_clip, with the mean and std of the card.

    Raises:
        InputError: for weights that can't be had, with what to do.
    """
    backbone = _wrapped(name, weights)
    if (backbone.preprocess.mean, backbone.preprocess.std) != (card.mean, card.std):
        size, mode = backbone.preprocess.size, backbone.preprocess.interpolation
        backbone.preprocess = Preprocessing(size, card.mean, card.std, mode)
        backbone.freeze()
    return backbone
