"""A backbone by name, with the weights that are asked for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from analysis.backbones.base import Backbone, Preprocessing
from analysis.backbones.cards import IMAGENET_MEAN, IMAGENET_STD, Card, card_of
from analysis.backbones.checkpoints import (
    UNREADABLE,
    check_published,
    converted,
    load_strictly,
    published_file,
    read_state,
)
from analysis.files import InputError


def _preprocessing(card: Card) -> Preprocessing:
    size = (card.input_size, card.input_size)
    return Preprocessing(size, card.mean, card.std, card.interpolation)


def open_clip_backbone(name: str, card: Card, weights: str) -> Backbone:
    """One of CLIP's: from open_clip's own download where no file is given."""
    from analysis.backbones.vit import OpenClipViT, visual_tower

    source = {"pretrained": card.tag, "random": None}.get(weights, weights)
    try:
        visual = visual_tower(card.architecture, source)
    except UNREADABLE as error:
        raise InputError(
            f"backbone {name!r}, weights={weights!r}: {type(error).__name__}: {error}. A checkpoint"
            " is downloaded at its first use: check the connection, or give weights= a file in"
            f" open_clip's format for {card.architecture}, or 'random' to try without."
        ) from error
    return OpenClipViT(name, visual, _preprocessing(card))


def timm_backbone(name: str, card: Card, weights: str) -> Backbone:
    """One in timm's architecture, from its publisher's file."""
    from analysis.backbones.network import TimmNetwork, timm_network

    if weights == "pretrained":
        raise InputError(
            f"backbone {name!r}: its weights are not there. Run `python -m analysis fetch"
            f" --backbone {name}`, or give weights= a file, or 'random' to try without."
        )
    network = timm_network(card, drawn=weights == "random")
    if weights != "random":
        path = Path(weights)
        state = converted(read_state(path), card.layout, network.patch_embed.grid_size)
        load_strictly(network, state, path, name)
    settings = {"architecture": card.architecture, "options": card.options}
    return TimmNetwork(name, network, _preprocessing(card), **settings)


def diffusers_backbone(name: str, card: Card, weights: str) -> Backbone:
    """A diffusion network at the time steps that its name says."""
    from analysis.backbones.diffusion import load_diffusion

    return load_diffusion(name, weights)


# Who builds the backbones of a library: name, card and weights in, backbone out.
BUILDERS: dict[str, Callable[[str, Card, str], Backbone]] = {
    "open_clip": open_clip_backbone,
    "timm": timm_backbone,
    "diffusers": diffusers_backbone,
}


def load_backbone(
    name: str,
    weights: str | None = None,
    normalisation: str = "native",
) -> Backbone:
    """A frozen backbone in evaluation mode.

    `weights`: "pretrained" (what `fetch` got, for CLIP else open_clip's download), "random" (drawn
    from a fixed seed), or a checkpoint file of the publisher's layout; by default pretrained where
    there is a checkpoint.
    `normalisation`: "imagenet" takes ImageNet's mean and std for every network, as the authors did.

    Raises:
        InputError: for an unknown name, or weights that can't be had, with what to do.
    """
    card = card_of(name)
    if normalisation not in ("native", "imagenet"):
        raise InputError(f"normalisation={normalisation!r}: expected 'native' or 'imagenet'.")
    if normalisation == "imagenet" and card.library == "diffusers":
        raise InputError(f"normalisation='imagenet': {name} is given pixels from -1 to 1 alone.")
    if normalisation == "imagenet":
        card = replace(card, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    named = name.startswith(("timm:", "open_clip:"))
    weights = weights or ("pretrained" if card.tag or named else "random")
    if weights == "pretrained" and card.tag is None:
        raise InputError(f"weights='pretrained': {name} has no checkpoint; expected 'random'.")
    folder = card.library == "diffusers" and weights not in ("pretrained", "random")
    if folder and not Path(weights).is_dir():
        raise InputError(
            f"weights={weights!r}: no such folder; expected 'pretrained', 'random' or a folder of"
            " unet/, vae/ and text_encoder/."
        )
    if not folder and weights not in ("pretrained", "random") and not Path(weights).is_file():
        raise InputError(
            f"weights={weights!r}: no such file; expected 'pretrained', 'random' or a checkpoint."
        )
    if named:
        from analysis.backbones.named import named_backbone

        return named_backbone(name, card, weights)
    if card.library == "diffusers":
        return BUILDERS["diffusers"](name, card, weights)
    if weights == "pretrained" and (found := published_file(name)) and found[0].is_file():
        check_published(*found)
        weights = str(found[0])
    return BUILDERS[card.library](name, card, weights)
