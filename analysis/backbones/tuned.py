"""Fine-tuned backbones: vision transformers cut behind a layer, saved, and loaded by name.

    backbone = cut(load_backbone("clip-mini"), 4)       # layers 1 to 4
    backbone = load_backbone("tuned:clip-mini-colour-whole-8-0123456789")

A tuned backbone lies in the data folder, tuned/NAME: its weights as safetensors, and tuned.json,
written last, which says what it was made from. Its identity holds its weights, as any backbone's.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from analysis.backbones import registry
from analysis.backbones.base import Backbone
from analysis.backbones.cards import nearest
from analysis.backbones.network import TimmNetwork
from analysis.backbones.vit import OpenClipViT
from analysis.files import InputError, data_root, file_digest, read_json

PREFIX = "tuned:"
WEIGHTS, RECORD = "network.safetensors", "tuned.json"
MEND = "Delete its folder, and fine-tune again."


def tuned_root() -> Path:
    return data_root() / "tuned"


def tuned_names() -> list[str]:
    """The tuned backbones that are there."""
    return sorted(f"{PREFIX}{path.parent.name}" for path in tuned_root().glob(f"*/{RECORD}"))


def require_tuned(name: str) -> Path:
    """The folder of a tuned backbone.

    Raises:
        InputError: if there is none of that name, with the nearest.
    """
    folder = tuned_root() / name.removeprefix(PREFIX)
    if "/" in name or not (folder / RECORD).exists():
        near = ", ".join(nearest(name, tuned_names())[:5]) or "none"
        raise InputError(
            f"backbone {name!r}: no such tuned network in {tuned_root()}; there are: {near}. Make"
            " one by `python -m analysis finetune`."
        )
    return folder


def _blocks(backbone: Backbone) -> tuple[nn.Module, str, nn.Module]:
    """A vision transformer's sequence of layers, and where it hangs.

    Raises:
        InputError: for a backbone that is no vision transformer, one block to a layer.
    """
    if isinstance(backbone, OpenClipViT):
        return backbone.visual.transformer, "resblocks", backbone.visual.transformer.resblocks
    if isinstance(backbone, TimmNetwork):
        blocks = getattr(backbone.network, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) == len(
            backbone.widths
        ):
            return backbone.network, "blocks", blocks
    raise InputError(
        f"backbone {backbone.name!r}: not a vision transformer of open_clip or timm, whose layers"
        " can be cut off; expected such as clip-l, dinov2-b or timm:vit_base_patch16_224."
    )


def require_layer(backbone: Backbone, layer: int) -> None:
    """Pass if a network has a layer of that number, counted from 1.

    Raises:
        InputError: with the numbers that it has.
    """
    if not 1 <= layer <= len(backbone.widths):
        raise InputError(
            f"layer={layer}: {backbone.name} has layers 1 to {len(backbone.widths)}; expected one"
            " of these."
        )


def cut(backbone: Backbone, layer: int) -> Backbone:
    """A copy of a vision transformer without the layers after that one, counted from 1.

    Raises:
        InputError: for a layer that doesn't exist, or a backbone that is no vision transformer.
    """
    _blocks(backbone)
    require_layer(backbone, layer)
    backbone = copy.deepcopy(backbone)
    parent, name, blocks = _blocks(backbone)
    setattr(parent, name, blocks[:layer])
    backbone.widths = backbone.widths[:layer]
    backbone.layer_names = backbone.layer_names[:layer]
    return backbone


@dataclass(frozen=True)
class Origin:
    """What a tuned backbone was made from, as tuned.json says it."""

    backbone: str
    identity: str
    weights: str | None
    normalisation: str
    layer: int  # the last that is kept, from 1


def read_record(folder: Path) -> dict[str, Any]:
    """What tuned.json says, its files' checksums held against the files.

    Raises:
        InputError: if it is damaged, or a file is not the one that was written.
    """
    record = read_json(folder / RECORD, "the record of a fine-tuned network", MEND)
    if not isinstance(record, dict) or not {"origin", "files", "result"} <= record.keys():
        raise InputError(f"{folder / RECORD}: not the record of a fine-tuned network. {MEND}")
    for name, sha256 in record["files"].items():
        path = folder / name
        if not path.is_file() or file_digest(path) != sha256:
            raise InputError(f"{path}: missing or damaged; expected sha256 {sha256}. {MEND}")
    return record


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not safetensors ({error}). {MEND}") from error


def load_tuned(name: str) -> Backbone:
    """A tuned backbone, frozen, in evaluation mode.

    Raises:
        InputError: if it is not there or damaged.
    """
    folder = require_tuned(name)
    record = read_record(folder)
    try:
        origin = Origin(**record["origin"])
        # its architecture alone: every weight comes from the file
        base = registry.load_backbone(origin.backbone, "random", origin.normalisation)
        backbone = cut(base, origin.layer)
        backbone.load_state_dict(read_arrays(folder / WEIGHTS))
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"{folder}: not the weights of such a network ({error}). {MEND}"
        ) from error
    backbone.name = name
    backbone.freeze(tuned_from=origin.backbone, base=origin.identity)
    return backbone
