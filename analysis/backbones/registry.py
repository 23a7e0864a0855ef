"""The backbones by name: what Table 6 says of each, and where its weights come from."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors

from analysis.backbones.base import Preprocessing
from analysis.backbones.vit import CLIP_MEAN, CLIP_STD, OpenClipViT, visual_tower
from analysis.files import InputError


@dataclass(frozen=True)
class Card:
    """A backbone as the paper's appendix lists it."""

    title: str  # the paper's name: it names a data pool, not an architecture
    architecture: str  # open_clip's name
    tag: str | None  # open_clip's name of the checkpoint; None: it has none, its weights are drawn
    layers: int
    width: int
    input_size: int  # pixels
    patch: int  # pixels
    data: str
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


CARDS = {
    "clip-xl": Card(
        "CLIP XL", "ViT-L-14", "datacomp_xl_s13b_b90k", 24, 1024, 224, 14, "DataComp-1B"
    ),
    "clip-l": Card("CLIP L", "ViT-B-16", "datacomp_l_s1b_b8k", 12, 768, 224, 16, "DataComp-140M"),
    "clip-m": Card("CLIP M", "ViT-B-32", "datacomp_m_s128m_b4k", 12, 768, 224, 32, "DataComp-14M"),
    "clip-s": Card("CLIP S", "ViT-B-32", "datacomp_s_s13m_b4k", 12, 768, 224, 32, "DataComp-1.4M"),
    "clip-mini": Card("CLIP miniature", "clip-mini", None, 8, 128, 128, 8, "none: drawn weights"),
}

# What open_clip and torch raise for a checkpoint that is absent, damaged, of another network, or
# refused since reading it would run code.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    StopIteration,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def card_of(name: str) -> Card:
    """The card of a backbone.

    Raises:
        InputError: for an unknown name, with the known ones.
    """
    if name not in CARDS:
        raise InputError(f"backbone {name!r}: expected one of {', '.join(CARDS)}.")
    return CARDS[name]


def load_backbone(name: str, weights: str | None = None) -> OpenClipViT:
    """A frozen backbone in evaluation mode.

    `weights`: "pretrained" (open_clip's checkpoint, downloaded once), "random" (drawn from a fixed
    seed), or a checkpoint file in open_clip's format; by default pretrained where there is a
    checkpoint.

    Raises:
        InputError: for an unknown name, or weights that can't be had, with what to do.
    """
    card = card_of(name)
    weights = weights or ("pretrained" if card.tag else "random")
    if weights == "pretrained" and card.tag is None:
        raise InputError(f"weights='pretrained': {name} has no checkpoint; expected 'random'.")
    if weights not in ("pretrained", "random") and not Path(weights).is_file():
        raise InputError(
            f"weights={weights!r}: no such file; expected 'pretrained', 'random' or a checkpoint."
        )
    source = {"pretrained": card.tag, "random": None}.get(weights, weights)
    try:
        visual = visual_tower(card.architecture, source)
    except UNREADABLE as error:
        raise InputError(
            f"backbone {name!r}, weights={weights!r}: {type(error).__name__}: {error}. A checkpoint"
            " is downloaded at its first use: check the connection, or give weights= a file in"
            f" open_clip's format for {card.architecture}, or 'random' to try without."
        ) from error
    size = (card.input_size, card.input_size)
    return OpenClipViT(name, visual, Preprocessing(size, card.mean, card.std, card.interpolation))
