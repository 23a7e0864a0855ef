"""Publishers' checkpoint files: read without running code, their keys renamed, loaded strictly."""

import hashlib
import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from analysis.files import InputError
from analysis.manifest import DataFile, data_manifest

State = dict[str, Tensor]
# What torch, timm and open_clip raise for a checkpoint that is absent, damaged, of another network,
# or refused since reading it would run code.
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


@dataclass(frozen=True)
class Layout:
    """How a publisher names what timm names otherwise."""

    keep: str  # pattern of the keys of the vision network; the others are its training's
    renames: tuple[tuple[str, str], ...] = ()
    training: str = r"$^"  # pattern of keys that may be there besides


LAYOUTS = {
    "torchvision": Layout(
        r"class_token|conv_proj\.|encoder\.",
        (
            (r"^class_token", "cls_token"),
            (r"^conv_proj", "patch_embed.proj"),
            (r"^encoder\.pos_embedding", "pos_embed"),
            (r"^encoder\.ln\.", "norm."),
            (r"^encoder\.layers\.encoder_layer_", "blocks."),
            (r"\.ln_", ".norm"),
            (r"self_attention\.in_proj_", "attn.qkv."),
            (r"self_attention\.out_proj", "attn.proj"),
            (r"mlp\.(linear_1|0)\.", "mlp.fc1."),
            (r"mlp\.(linear_2|3)\.", "mlp.fc2."),
        ),
        r"heads\.",
    ),
    "mmpretrain": Layout(
        r"backbone\.",
        (
            (r"^backbone\.", ""),
            (r"^patch_embed\.projection", "patch_embed.proj"),
            (r"^ln1\.", "norm."),
            (r"^layers\.", "blocks."),
            (r"\.ln([12])\.", r".norm\1."),
            (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
            (r"ffn\.layers\.1\.", "mlp.fc2."),
        ),
        r"neck\.|head\.|momentum_encoder\.|data_preprocessor\.",
    ),
    "moco-v3": Layout(  # Facebook's own files of MoCov3
        r"module\.base_encoder\.(?!head)",
        ((r"^module\.base_encoder\.", ""),),
        r"module\.",
    ),
    "mae": Layout(r"(?!decoder_|mask_token|head)", (), r"decoder_|mask_token|head\."),
    "dinov2": Layout(
        r"(?!mask_token)", ((r"mlp\.w12\.", "mlp.fc1."), (r"mlp\.w3\.", "mlp.fc2.")), "mask_token"
    ),
    "sam": Layout(
        r"image_encoder\.",
        ((r"^image_encoder\.", ""), (r"mlp\.lin([12])\.", r"mlp.fc\1.")),
        r"prompt_encoder\.|mask_decoder\.|pixel_",
    ),
}


def published_file(name: str) -> tuple[Path, DataFile] | None:
    """Where `fetch` puts a backbone's checkpoint, and what the manifest says of it."""
    files = [f for f in data_manifest().files if f.backbone == name]
    return (files[0].place, files[0]) if files else None


def check_published(path: Path, file: DataFile) -> None:
    """Pass if a file has the checksum that its publisher gives, or none is given.

    Raises:
        InputError: with both checksums.
    """
    if file.checksum is None:
        return
    algorithm, _, expected = file.checksum.partition(":")
    with path.open("rb") as f:
        found = hashlib.file_digest(f, algorithm).hexdigest()
    if not found.startswith(expected):
        raise InputError(
            f"{path}: {algorithm} {found}; expected {expected}, as published. Delete the file and"
            f" run `python -m analysis fetch --backbone {file.backbone}`."
        )


def read_state(path: Path) -> State:
    """The tensors of a checkpoint file, out of "state_dict" or "model" if they lie there.

    Raises:
        InputError: if it can't be read without running code, or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: {type(error).__name__}: {error}; expected a checkpoint of tensors alone,"
            " read without running code. Fetch it again, or save its state_dict anew."
        ) from error
    for inside in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(inside), dict):
            held = held[inside]
    tensors = isinstance(held, dict) and all(isinstance(v, Tensor) for v in held.values())
    if not (tensors and held):
        raise InputError(f"{path}: expected named tensors, or a state_dict or model of them.")
    return held


def resized_positions(
    positions: Float[Tensor, "1 tokens channel"], grid: tuple[int, int], offset: float
) -> Float[Tensor, "1 new_tokens channel"]:
    """Position embeddings, a class token's before those of a square grid, for another grid.

    As DINOv2 does it: bicubic, without antialiasing, by the factor (grid + offset) / old grid.
    """
    old = math.isqrt(positions.shape[1] - 1)
    if (old, old) == tuple(grid) or old**2 + 1 != positions.shape[1]:
        return positions
    maps = positions[:, 1:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    factors = tuple((side + offset) / old for side in grid)
    maps = interpolate(maps, scale_factor=factors, mode="bicubic", antialias=False)
    flat = maps.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], flat], 1)


def converted(state: State, layout: str, grid: tuple[int, int]) -> State:
    """A publisher's state under timm's names, with position embeddings for the network's grid.

    Keys of neither the network nor its training stay, to be told as surplus.
    """
    if layout == "mmpretrain" and any(k.startswith("module.base_encoder.") for k in state):
        layout = "moco-v3"
    how = LAYOUTS[layout]
    out = {}
    for key, value in state.items():
        if re.match(how.keep, key):
            for pattern, name in how.renames:
                key = re.sub(pattern, name, key)
        elif re.match(how.training, key):
            continue
        out[key] = value
    positions = out.get("pos_embed")
    if positions is not None and positions.ndim == 3:
        out["pos_embed"] = resized_positions(positions, grid, 0.1 if layout == "dinov2" else 0.0)
    return out


def load_strictly(network: nn.Module, state: State, path: Path, name: str) -> None:
    """Load a state whose keys and shapes are exactly the network's.

    Raises:
        InputError: naming the file and some of the keys that are missing, surplus or wrong.
    """
    own = network.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    said = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
        for what, keys in (("missing", missing), ("surplus", surplus), ("of wrong shape", wrong))
        if keys
    ]
    if said:
        raise InputError(
            f"{path}: not {name}'s weights ({'; '.join(said)}). Give the file that"
            f" `python -m analysis fetch --backbone {name}` gets."
        )
    network.load_state_dict(state)
