"""Publishers' checkpoint files: read without running code, their weights under timm's names."""

import hashlib
import math
import pickle
import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from analysis.files import InputError
from analysis.manifest import data_manifest

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

# Of each publisher: keys that belong to training alone, and what timm names otherwise.
LAYOUTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "torchvision": (
        r"heads\.",
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
    ),
    "mmpretrain": (
        r"neck\.|head\.|momentum_encoder\.|data_preprocessor\.",
        (
            (r"^backbone\.", ""),
            (r"^patch_embed\.projection", "patch_embed.proj"),
            (r"^ln1\.", "norm."),
            (r"^layers\.", "blocks."),
            (r"\.ln([12])\.", r".norm\1."),
            (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
            (r"ffn\.layers\.1\.", "mlp.fc2."),
        ),
    ),
    "moco-v3": (  # Facebook's own files of MoCov3
        r"module\.(?!base_encoder\.)|module\.base_encoder\.head",
        ((r"^module\.base_encoder\.", ""),),
    ),
    "mae": (r"decoder_|mask_token|head\.", ()),
    "dinov2": ("mask_token", ((r"mlp\.w12\.", "mlp.fc1."), (r"mlp\.w3\.", "mlp.fc2."))),
    "sam": (
        r"prompt_encoder\.|mask_decoder\.|pixel_",
        ((r"^image_encoder\.", ""), (r"mlp\.lin([12])\.", r"mlp.fc\1.")),
    ),
}


def published_file(name: str) -> Path | None:
    """A network's checkpoint as `fetch` got it, None where it did not.

    Raises:
        InputError: if it has another checksum than its publisher gives.
    """
    file = next((f for f in data_manifest().files if f.backbone == name), None)
    if file is None or not file.place.is_file():
        return None
    if file.checksum:
        algorithm, _, expected = file.checksum.partition(":")
        with file.place.open("rb") as f:
            value = hashlib.file_digest(f, algorithm).hexdigest()
        if not value.startswith(expected):
            raise InputError(
                f"{file.place}: {algorithm} {value}; expected {expected}, as published. Delete the"
                f" file and run `python -m analysis fetch --backbone {name}`."
            )
    return file.place


def read_state(path: Path) -> State:
    """The tensors of a checkpoint file, out of "state_dict" or "model" if they lie there.

    Raises:
        InputError: if it can't be read without running code, or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: {type(error).__name__}: {error}; expected a checkpoint of tensors alone,"
            " read without running code. Fetch it again, or save its state_dict anew."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())
    if not (tensors and state):
        raise InputError(f"{path}: expected named tensors, or a state_dict or model of them.")
    return state


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


def load_published(network: nn.Module, path: Path, layout: str, name: str) -> None:
    """Fill a network of timm with the weights of a publisher's file, all of them and no others.

    Raises:
        InputError: naming the file, and the weights that are missing, surplus or of another shape.
    """
    state = read_state(path)
    if layout == "mmpretrain" and any(k.startswith("module.base_encoder.") for k in state):
        layout = "moco-v3"
    training, renames = LAYOUTS[layout]
    renamed = {}
    for key, value in state.items():
        if not re.match(training, key):
            for pattern, replacement in renames:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
    positions = renamed.get("pos_embed")
    if positions is not None and positions.ndim == 3:
        offset = 0.1 if layout == "dinov2" else 0.0
        renamed["pos_embed"] = resized_positions(positions, network.patch_embed.grid_size, offset)
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        raise InputError(
            f"{path}: not {name}'s weights. {error}. Give the file that"
            f" `python -m analysis fetch --backbone {name}` gets."
        ) from error
