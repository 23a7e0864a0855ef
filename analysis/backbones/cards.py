"""The backbones by name: what Tables 6 to 11 say of each, and what the released networks are.

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
    """A backbone as the paper's appendix lists it, or as its library has it."""

    title: str  # the paper's name: CLIP's sizes name data pools, not architectures
    architecture: str  # the library's name
    tag: str | None  # of the checkpoint; None: there is none, the weights are drawn
    layers: int
    width: int | tuple[int, ...]  # channels, of each layer where they differ
    input_size: int  # pixels
    patch: int | None  # pixels; None: no patches
    data: str
    mean: Colours = CLIP_MEAN
    std: Colours = CLIP_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    library: str = "open_clip"
    family: str = "clip"
    layout: str = "open_clip"  # of the publisher's checkpoint
    options: dict[str, Any] = field(default_factory=dict)  # of the architecture
    seed: int = 0  # of drawn weights
    parameters: int = 0
    licence: str = "Apache-2.0"
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        return self.width if isinstance(self.width, tuple) else (self.width,) * self.layers

    @property
    def cache_bytes(self) -> int:
        """What the token cache holds of a picture, in float16 with a scale for each layer."""
        return 2 * CACHED * sum(self.widths) + 8 * self.layers


def _timm(family: str, layout: str, data: str, licence: str, seed: int, **more: Any) -> Card:
    """What the networks of a family share."""
    return Card(
        "", "", None, 0, 0, 224, 16, data,
        IMAGENET_MEAN, IMAGENET_STD, library="timm", family=family, layout=layout,
        licence=licence, seed=seed, **more,
    )  # fmt: skip


# SAM is given 1024 pixels straight from the picture, never a smaller one enlarged
SAM = replace(
    _timm("sam", "sam", "SA-1B", "Apache-2.0", 1, interpolation="bilinear"), input_size=1024
)
IMAGENET = _timm("imagenet", "torchvision", "IN-1K", "BSD-3-Clause", 2, interpolation="bilinear")
DINOV2 = replace(
    _timm("dinov2", "dinov2", "LVD-142M", "Apache-2.0", 3),
    patch=14,
    options={"img_size": 224},
    disagreements=(
        Disagreement(
            "input_size", 224, 518,
            "the weights' own grid is 37 x 37; position embeddings are resized to 16 x 16",
        ),
    ),
)  # fmt: skip
MOCOV3 = _timm("mocov3", "mmpretrain", "IN-1K", "Apache-2.0", 4)
MAE = _timm("mae", "mae", "IN-1K", "CC BY-NC 4.0", 5)
# Trained with 1e-6, where timm's class has 1e-5: the same keys, other tokens
SAM_NORM = {"norm_eps": 1e-6}


def _size(of: Card, title: str, architecture: str, layers: int, width: int, **more: Any) -> Card:
    return replace(
        of, title=title, architecture=architecture, tag=of.layout, layers=layers, width=width,
        **more,
    )  # fmt: skip


def _mini(of: Card, size: Literal["-s", "", "-l"], base: str, **more: Any) -> Card:
    """A miniature of a family: the same architecture, small, with drawn weights."""
    layers, width, heads = {"-s": (4, 64, 2), "": (8, 128, 4), "-l": (12, 128, 4)}[size]
    options = {"img_size": 128, "patch_size": 16, "num_heads": heads} | more
    options |= {"embed_dim": width, "depth": layers}
    small = {"-s": "small ", "": "", "-l": "large "}[size]
    return replace(
        of, title=f"{of.family} {small}miniature", architecture=base, tag=None, layers=layers,
        width=width, input_size=options["img_size"], patch=options["patch_size"],
        data="none: drawn weights", options=options, licence="BSD-3-Clause", disagreements=(),
    )  # fmt: skip


def _sam_mini(size: Literal["-s", "", "-l"]) -> Card:
    depth = {"-s": 4, "": 8, "-l": 12}[size]
    everywhere = tuple(range(depth // 4 - 1, depth, depth // 4))
    blocks = {"patch_size": 8, "window_size": 6, "global_attn_indexes": everywhere}
    return _mini(SAM, size, "samvit_base_patch16", **blocks, **SAM_NORM)


def _clip_mini(size: str, layers: int, width: int) -> Card:
    return Card(
        f"CLIP {size}miniature", f"clip-mini{'-' + size[0] if size else ''}", None, layers, width,
        128, 8, "none: drawn weights", licence="BSD-3-Clause",
    )  # fmt: skip


def _diffusion(title: str, widths: tuple[int, int, int, int], size: int, **more: Any) -> Card:
    """A U-Net: two layers for each of four levels down, three for each on the way up."""
    down = [width for width in widths for _ in range(2)]
    return Card(
        title, "UNet2DConditionModel", layers=20, input_size=size, patch=None,
        width=(*down, *(width for width in reversed(widths) for _ in range(3))),
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), library="diffusers", family="sd",
        layout="diffusers", **more,
    )  # fmt: skip


SIZES: tuple[Literal["-s", "", "-l"], ...] = ("-s", "", "-l")
PLAIN, DINO = "vit_base_patch16_224", "vit_base_patch14_dinov2"
CARD = "see the model card"
CARDS: dict[str, Card] = {
    "clip-xl": Card(
        "CLIP XL", "ViT-L-14", "datacomp_xl_s13b_b90k", 24, 1024, 224, 14, "DataComp-1B"
    ),
    "clip-l": Card(
        "CLIP L", "ViT-B-16", "datacomp_l_s1b_b8k", 12, 768, 224, 16, "DataComp-140M",
        licence=CARD,
    ),
    "clip-m": Card(
        "CLIP M", "ViT-B-32", "datacomp_m_s128m_b4k", 12, 768, 224, 32, "DataComp-14M",
        licence=CARD,
    ),
    "clip-s": Card(
        "CLIP S", "ViT-B-32", "datacomp_s_s13m_b4k", 12, 768, 224, 32, "DataComp-1.4M",
        licence=CARD,
    ),
    "sam-h": _size(SAM, "SAM H", "samvit_huge_patch16", 32, 1280, options=SAM_NORM),
    "sam-l": _size(SAM, "SAM L", "samvit_large_patch16", 24, 1024, options=SAM_NORM),
    "sam-b": _size(SAM, "SAM B", "samvit_base_patch16", 12, 768, options=SAM_NORM),
    "imagenet-l": _size(IMAGENET, "ImageNet L", "vit_large_patch16_224", 24, 1024),
    "imagenet-b": _size(
        IMAGENET, "ImageNet B", PLAIN, 12, 768,
        disagreements=(
            Disagreement(
                "accuracy", 81.9, 81.072, "percent on ImageNet, as torchvision says of them"
            ),
        ),
    ),
    "dinov2-g": _size(DINOV2, "DiNOv2 G", "vit_giant_patch14_dinov2", 40, 1536),
    "dinov2-l": _size(DINOV2, "DiNOv2 L", "vit_large_patch14_dinov2", 24, 1024),
    "dinov2-b": _size(DINOV2, "DiNOv2 B", DINO, 12, 768),
    "mocov3-l": _size(MOCOV3, "MoCov3 L", "vit_large_patch16_224", 24, 1024),
    "mocov3-b": _size(MOCOV3, "MoCov3 B", PLAIN, 12, 768),
    # 12 heads, where timm's small network has 6: the same keys and shapes, other tokens
    "mocov3-s": _size(
        MOCOV3, "MoCov3 S", "vit_small_patch16_224", 12, 384, options={"num_heads": 12}
    ),
    "mae-h": _size(
        MAE, "MAE H", "vit_huge_patch14_224", 32, 1280, patch=14,
        disagreements=(
            Disagreement("patch", 16, 14, "Table 11 says 16; the released ViT-H has patches of 14"),
        ),
    ),
    "mae-l": _size(MAE, "MAE L", "vit_large_patch16_224", 24, 1024),
    "mae-b": _size(MAE, "MAE B", PLAIN, 12, 768),
    # at T0, T5 … T50 of its inversion; sd15@T20 is one of them
    "sd15": _diffusion(
        "Stable Diffusion 1.5", (320, 640, 1280, 1280), 512, tag="stable-diffusion-v1-5",
        data="LAION-5B", licence="CreativeML OpenRAIL-M",
    ),
    "clip-mini": _clip_mini("", 8, 128),
    "clip-mini-s": _clip_mini("small ", 4, 64),
    "clip-mini-l": _clip_mini("large ", 12, 128),
    **{f"sam-mini{s}": _sam_mini(s) for s in SIZES},
    **{f"imagenet-mini{s}": _mini(IMAGENET, s, PLAIN) for s in SIZES},
    **{f"dinov2-mini{s}": _mini(DINOV2, s, DINO, img_size=112, patch_size=14) for s in SIZES},
    **{f"mocov3-mini{s}": _mini(MOCOV3, s, PLAIN, num_heads=8) for s in SIZES},
    **{f"mae-mini{s}": _mini(MAE, s, PLAIN) for s in SIZES},
    "sd-mini": _diffusion(
        "Stable Diffusion miniature", (32, 48, 64, 64), 128, tag=None,
        data="none: drawn weights", licence="BSD-3-Clause",
    ),
}  # fmt: skip

# Of the network as it is built, without head and text; a test counts them.
PARAMETERS = {
    "clip-xl": 303_966_208,
    "clip-l": 86_192_640,
    "clip-m": 87_849_216,
    "clip-s": 87_849_216,
    "sam-h": 637_026_048,
    "sam-l": 308_278_272,
    "sam-b": 89_670_912,
    "imagenet-l": 303_301_632,
    "imagenet-b": 85_798_656,
    "dinov2-g": 1_134_769_664,
    "dinov2-l": 303_227_904,
    "dinov2-b": 85_724_928,
    "mocov3-l": 303_301_632,
    "mocov3-b": 85_798_656,
    "mocov3-s": 21_665_664,
    "mae-h": 630_764_800,
    "mae-l": 303_301_632,
    "mae-b": 85_798_656,
    "sd15": 893_684_628,
    "sd-mini": 2_877_468,
    "clip-mini": 1_652_480,
    "clip-mini-s": 233_088,
    "clip-mini-l": 2_445_568,
    "sam-mini-s": 843_840,
    "sam-mini": 2_278_016,
    "sam-mini-l": 3_073_920,
    "imagenet-mini-s": 253_504,
    "imagenet-mini": 1_693_312,
    "imagenet-mini-l": 2_486_400,
    "dinov2-mini-s": 242_496,
    "dinov2-mini": 1_672_320,
    "dinov2-mini-l": 2_466_432,
    "mocov3-mini-s": 253_504,
    "mocov3-mini": 1_693_312,
    "mocov3-mini-l": 2_486_400,
    "mae-mini-s": 253_504,
    "mae-mini": 1_693_312,
    "mae-mini-l": 2_486_400,
}
CARDS = {name: replace(card, parameters=PARAMETERS[name]) for name, card in CARDS.items()}


def nearest(name: str, known: Iterable[str], n: int = 5) -> list[str]:
    """Known names, the nearest ones first."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n, 0.5)
    return near + [k for k in known if k not in near]


def card_of(name: str) -> Card:
    """The card of a backbone; of `sd15@T20`, `timm:NAME` and `open_clip:ARCH[/TAG]` too.

    Raises:
        InputError: for an unknown name, with the known ones, the nearest first.
    """
    if name.startswith(("timm:", "open_clip:")):
        from analysis.backbones.named import named_card  # slow imports only where needed

        return named_card(name)
    family, _, rest = re.sub("@(?=[TED])", ",", name).partition(",")
    if rest and family in CARDS and CARDS[family].library == "diffusers":
        return replace(CARDS[family], title=f"{CARDS[family].title} {rest}")
    if name not in CARDS:
        raise InputError(
            f"backbone {name!r}: expected one of {', '.join(nearest(name, CARDS))}, or"
            " timm:NAME or open_clip:ARCHITECTURE/TAG."
        )
    return CARDS[name]
