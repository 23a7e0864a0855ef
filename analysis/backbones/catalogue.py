"""The networks of the paper's Tables 6 to 12 and their miniatures, a card each: `CARDS`, `card_of`.

Nothing heavy is imported here, so that they can be listed at once.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from analysis.files import InputError

Colours = tuple[float, float, float]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CACHED = 8 * 8 + 1  # numbers per channel and picture: local tokens and the global one


@dataclass(frozen=True)
class Disagreement:
    """Where the paper says another thing than the released network."""

    field: str
    paper: float
    released: float
    why: str


@dataclass(frozen=True)
class Card:
    """A network as the paper's appendix lists it, or as its library has it."""

    title: str  # the paper's name: CLIP's sizes name data pools, not architectures
    architecture: str  # the library's name
    tag: str | None  # of the checkpoint; None: there is none, the weights are random
    layers: int
    width: int | tuple[int, ...]  # channels, of each layer where they differ
    input_size: int  # pixels
    patch: int | None  # pixels; None: no patches
    data: str
    parameters: int  # of the network as it is built, without head and text
    mean: Colours = IMAGENET_MEAN
    std: Colours = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    library: str = "timm"
    family: str = ""
    layout: str = ""  # of the publisher's checkpoint
    options: dict[str, Any] = field(default_factory=dict)  # of the architecture
    seed: int = 0  # of random weights
    licence: str = "Apache-2.0"
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        return self.width if isinstance(self.width, tuple) else (self.width,) * self.layers

    @property
    def cache_bytes(self) -> int:
        """What the token cache holds of a picture, in float16 with a scale for each layer."""
        return 2 * CACHED * sum(self.widths) + 8 * self.layers


# What the networks of a family share. SAM is given 1024 pixels straight from the picture, and was
# trained with an epsilon of 1e-6, where timm's class has 1e-5: the same keys, other tokens.
FAMILIES: dict[str, dict[str, Any]] = {
    "clip": {"library": "open_clip", "layout": "open_clip", "mean": CLIP_MEAN, "std": CLIP_STD},
    "sam": {
        "layout": "sam", "data": "SA-1B", "seed": 1, "interpolation": "bilinear",
        "input_size": 1024, "options": {"norm_eps": 1e-6},
    },
    "imagenet": {
        "layout": "torchvision", "data": "IN-1K", "seed": 2, "interpolation": "bilinear",
        "licence": "BSD-3-Clause",
    },
    "dinov2": {
        "layout": "dinov2", "data": "LVD-142M", "seed": 3, "options": {"img_size": 224},
        "disagreements": (Disagreement(
            "input_size", 224, 518,
            "the weights' own grid is 37 x 37; position embeddings are resized to 16 x 16",
        ),),
    },
    "mocov3": {"layout": "mmpretrain", "data": "IN-1K", "seed": 4},
    "mae": {"layout": "mae", "data": "IN-1K", "seed": 5, "licence": "CC BY-NC 4.0"},
    "sd": {
        "library": "diffusers", "layout": "diffusers", "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5), "patch": None, "layers": 20, "tag": None,
        "architecture": "UNet2DConditionModel",
    },
}  # fmt: skip


def _card(family: str, title: str, parameters: int, **fields: Any) -> Card:
    shared = {"input_size": 224, "family": family, "tag": FAMILIES[family]["layout"]}
    return Card(title=title, parameters=parameters, **shared | FAMILIES[family] | fields)


def _vit(
    name: str, architecture: str, layers: int, width: int, patch: int, parameters: int, **more: Any
) -> Card:
    """A vision transformer of the paper; `name` as printed in its table."""
    fields = {"architecture": architecture, "layers": layers, "width": width, "patch": patch}
    return _card(name.split()[0].lower(), name, parameters, **fields, **more)


def _clip(
    size: str, architecture: str, layers: int, width: int, patch: int, parameters: int, data: str,
    tag: str,
) -> Card:  # fmt: skip
    tag = f"datacomp_{size.lower()}_{tag}"
    licence = "Apache-2.0" if size == "XL" else "see the model card"
    fields = {"tag": tag, "data": data, "licence": licence}
    return _vit(f"CLIP {size}", architecture, layers, width, patch, parameters, **fields)


def _unet(title: str, parameters: int, widths: tuple[int, int, int, int], **more: Any) -> Card:
    """A U-Net: two layers for each of four levels down, three for each on the way up."""
    down = [width for width in widths for _ in range(2)]
    up = [width for width in reversed(widths) for _ in range(3)]
    return _card("sd", title, parameters, width=(*down, *up), **more)


SIZES = {"-s": ("small ", 4, 64, 2), "": ("", 8, 128, 4), "-l": ("large ", 12, 128, 4)}


def _miniature(family: str, size: str, parameters: int) -> Card:
    """A small network of a family's architecture, with random weights."""
    word, layers, width, heads = SIZES[size]
    side = 112 if family == "dinov2" else 128
    patch = {"clip": 8, "sam": 8, "dinov2": 14}.get(family, 16)
    options = {"img_size": side, "patch_size": patch, "embed_dim": width, "depth": layers}
    options["num_heads"] = 8 if family == "mocov3" else heads
    architecture = "vit_base_patch16_224"
    if family == "clip":
        architecture, options = f"clip-mini{size}", {}
    elif family == "dinov2":
        architecture = "vit_base_patch14_dinov2"
    elif family == "sam":  # attention over the whole picture in four of its blocks
        architecture = "samvit_base_patch16"
        whole = tuple(range(layers // 4 - 1, layers, layers // 4))
        options |= {"window_size": 6, "global_attn_indexes": whole, "norm_eps": 1e-6}
    return _card(
        family, f"{'CLIP' if family == 'clip' else family} {word}miniature", parameters,
        architecture=architecture, tag=None, layers=layers, width=width, input_size=side,
        patch=patch, data=RANDOM, options=options, licence="BSD-3-Clause", disagreements=(),
    )  # fmt: skip


RANDOM = "none: drawn weights"
ACCURACY = Disagreement(
    "accuracy", 81.9, 81.072, "percent on ImageNet, as torchvision says of them"
)
PATCH = Disagreement("patch", 16, 14, "Table 11 says 16; the released ViT-H has patches of 14")
# where timm's small network has 6: the same keys and shapes, other tokens
HEADS = {"options": {"num_heads": 12}}
MINIATURES = {  # parameters of the small one, the miniature and the large one
    "clip": (233_088, 1_652_480, 2_445_568),
    "sam": (843_840, 2_278_016, 3_073_920),
    "imagenet": (253_504, 1_693_312, 2_486_400),
    "dinov2": (242_496, 1_672_320, 2_466_432),
    "mocov3": (253_504, 1_693_312, 2_486_400),
    "mae": (253_504, 1_693_312, 2_486_400),
}
CARDS: dict[str, Card] = {
    "clip-xl": _clip("XL", "ViT-L-14", 24, 1024, 14, 303_966_208, "DataComp-1B", "s13b_b90k"),
    "clip-l": _clip("L", "ViT-B-16", 12, 768, 16, 86_192_640, "DataComp-140M", "s1b_b8k"),
    "clip-m": _clip("M", "ViT-B-32", 12, 768, 32, 87_849_216, "DataComp-14M", "s128m_b4k"),
    "clip-s": _clip("S", "ViT-B-32", 12, 768, 32, 87_849_216, "DataComp-1.4M", "s13m_b4k"),
    "sam-h": _vit("SAM H", "samvit_huge_patch16", 32, 1280, 16, 637_026_048),
    "sam-l": _vit("SAM L", "samvit_large_patch16", 24, 1024, 16, 308_278_272),
    "sam-b": _vit("SAM B", "samvit_base_patch16", 12, 768, 16, 89_670_912),
    "imagenet-l": _vit("ImageNet L", "vit_large_patch16_224", 24, 1024, 16, 303_301_632),
    "imagenet-b": _vit(
        "ImageNet B", "vit_base_patch16_224", 12, 768, 16, 85_798_656, disagreements=(ACCURACY,),
    ),
    "dinov2-g": _vit("DiNOv2 G", "vit_giant_patch14_dinov2", 40, 1536, 14, 1_134_769_664),
    "dinov2-l": _vit("DiNOv2 L", "vit_large_patch14_dinov2", 24, 1024, 14, 303_227_904),
    "dinov2-b": _vit("DiNOv2 B", "vit_base_patch14_dinov2", 12, 768, 14, 85_724_928),
    "mocov3-l": _vit("MoCov3 L", "vit_large_patch16_224", 24, 1024, 16, 303_301_632),
    "mocov3-b": _vit("MoCov3 B", "vit_base_patch16_224", 12, 768, 16, 85_798_656),
    "mocov3-s": _vit("MoCov3 S", "vit_small_patch16_224", 12, 384, 16, 21_665_664, **HEADS),
    "mae-h": _vit(
        "MAE H", "vit_huge_patch14_224", 32, 1280, 14, 630_764_800, disagreements=(PATCH,),
    ),
    "mae-l": _vit("MAE L", "vit_large_patch16_224", 24, 1024, 16, 303_301_632),
    "mae-b": _vit("MAE B", "vit_base_patch16_224", 12, 768, 16, 85_798_656),
    # at T0, T5 … T50 of its inversion; sd15@T20 is one of them
    "sd15": _unet(
        "Stable Diffusion 1.5", 893_684_628, (320, 640, 1280, 1280), input_size=512,
        tag="stable-diffusion-v1-5", data="LAION-5B", licence="CreativeML OpenRAIL-M",
    ),
    **{
        f"{family}-mini{size}": _miniature(family, size, count)
        for family, counts in MINIATURES.items()
        for size, count in zip(SIZES, counts, strict=True)
    },
    "sd-mini": _unet(
        "Stable Diffusion miniature", 2_877_468, (32, 48, 64, 64), input_size=128, data=RANDOM,
        licence="BSD-3-Clause",
    ),
}  # fmt: skip


def nearest(name: str, names: Iterable[str], n: int = 5) -> list[str]:
    """Names, those nearest to one first."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n, 0.5)
    return near + [k for k in names if k not in near]


def card_of(name: str) -> Card:
    """The card of any network that `load_backbone` takes, but of one that was fine-tuned.

    Raises:
        InputError: for an unknown name, with the known ones, the nearest first.
    """
    family, _, rest = re.sub("@(?=[TED])", ",", name).partition(",")
    if rest and family in CARDS and CARDS[family].library == "diffusers":
        return replace(CARDS[family], title=f"{CARDS[family].title} {rest}")
    if name in CARDS:
        return CARDS[name]
    from analysis.backbones.load import card_of_other  # it imports torch

    if card := card_of_other(name):
        return card
    raise InputError(
        f"backbone {name!r}: expected one of {', '.join(nearest(name, CARDS))}, or"
        " timm:NAME, open_clip:ARCHITECTURE/TAG or MODULE:FUNCTION."
    )
