"""Fine-tuned networks: vision transformers cut behind a layer, saved, and loaded by name.

    backbone = cut(load_backbone("clip-mini"), 4)       # layers 1 to 4
    backbone = load_backbone("tuned:clip-mini-colour-whole-8-0123456789")

A tuned network lies in the data folder, tuned/NAME: its weights as safetensors, and tuned.json,
written last, which says what it was made from and holds the files' checksums.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from analysis.backbones.base import Backbone
from analysis.backbones.catalogue import nearest
from analysis.backbones.load import TUNED as PREFIX
from analysis.backbones.load import load_backbone
from analysis.files import InputError, data_root, digest, file_digest, read_json
from analysis.versions import VERSIONS

WEIGHTS, RECORD = "network.safetensors", "tuned.json"
MEND = "Delete its folder, and fine-tune again."


def tuned_root() -> Path:
    return data_root() / "tuned"


def tuned_names() -> list[str]:
    """The tuned networks that are there."""
    return sorted(f"{PREFIX}{path.parent.name}" for path in tuned_root().glob(f"*/{RECORD}"))


def require_tuned(name: str) -> Path:
    """The folder of a tuned network.

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
    """A vision transformer's sequence of layers, after its parent and its name there.

    Raises:
        InputError: for a network that is no vision transformer, one block to a layer.
    """
    network = getattr(backbone, "network", None)
    for parent, name in (
        (network, "blocks"),
        (getattr(network, "transformer", None), "resblocks"),  # of open_clip
    ):
        blocks = getattr(parent, name, None)
        listed = isinstance(blocks, nn.Sequential | nn.ModuleList)
        if listed and len(blocks) == len(backbone.widths):
            return parent, name, blocks
    raise InputError(
        f"backbone {backbone.name!r}: not a vision transformer of open_clip or timm, whose layers"
        " can be cut off; expected such as clip-l, dinov2-b or timm:vit_base_patch16_224."
    )


def require_layer(backbone: Backbone, layer: int) -> None:
    """Raise InputError unless a network has a layer of that number, counted from 1."""
    if not 1 <= layer <= len(backbone.widths):
        raise InputError(
            f"layer={layer}: {backbone.name} has layers 1 to {len(backbone.widths)}; expected one"
            " of these."
        )


def cut(backbone: Backbone, layer: int) -> Backbone:
    """A copy of a vision transformer without the layers after that one, counted from 1."""
    require_layer(backbone, layer)
    _blocks(backbone)
    backbone = copy.deepcopy(backbone)
    parent, name, blocks = _blocks(backbone)
    setattr(parent, name, blocks[:layer])
    backbone.widths = backbone.widths[:layer]
    backbone.layer_names = backbone.layer_names[:layer]
    return backbone


@dataclass(frozen=True)
class Origin:
    """What a tuned network was made from, as in tuned.json."""

    backbone: str
    identity: str
    weights: str | None
    normalisation: str
    layer: int  # the last that is kept, from 1


def read_record(folder: Path, check_files: bool = True) -> dict[str, Any]:
    """The content of tuned.json, its checksums held against the files.

    Raises:
        InputError: if it is damaged, or a file is not the one that was written.
    """
    record = read_json(folder / RECORD, "the record of a fine-tuned network", MEND)
    if not isinstance(record, dict) or not {"origin", "files", "result"} <= record.keys():
        raise InputError(f"{folder / RECORD}: not the record of a fine-tuned network. {MEND}")
    for name, sha256 in record["files"].items() if check_files else ():
        path = folder / name
        if not path.is_file() or file_digest(path) != sha256:
            raise InputError(f"{path}: missing or damaged; expected sha256 {sha256}. {MEND}")
    return record


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not safetensors ({error}). {MEND}") from error


def tuned_identity(name: str) -> str:
    """The identity of a tuned network, from its record alone."""
    record = read_record(require_tuned(name), check_files=False)
    key = {"network": name, "origin": record["origin"], "weights": record["files"].get(WEIGHTS)}
    return digest(key | {"version": VERSIONS["network"]})


def load_tuned(name: str) -> Backbone:
    """A tuned network, frozen, in evaluation mode.

    Raises:
        InputError: if it is not there or damaged.
    """
    folder = require_tuned(name)
    record = read_record(folder)
    try:
        origin = Origin(**record["origin"])
        # its architecture alone: every weight comes from the file
        base = load_backbone(origin.backbone, "random", origin.normalisation)
        backbone = cut(base, origin.layer)
        backbone.load_state_dict(read_arrays(folder / WEIGHTS))
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"{folder}: not the weights of such a network ({error}). {MEND}"
        ) from error
    backbone.name = name
    backbone.freeze(tuned_identity(name))
    return backbone
