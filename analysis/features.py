"""The token cache: what a backbone makes of each picture, computed once and kept on disk.

    tokens = extract(backbone, read_pictures, digests)
    local, global_ = tokens[rows]  # [n, channels of all layers, 8, 8], [n, channels of all layers]

A folder per backbone holds parts (safetensors, float16) and one manifest. A picture is known by
the sha256 of its pixels, a backbone by that of its weights and preprocessing, so nothing stale can
be read. Parts appear whole, then the manifest names them: a killed run loses one part.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import safetensors
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from analysis.files import (
    InputError,
    digest,
    features_root,
    file_digest,
    read_json,
    require,
    require_space,
    whole_file,
    write_json,
)

GRID = 8  # local tokens are pooled to 8 x 8 (Listing 1, 2a)
PART_BYTES = 64 * 2**20
VERSION = 1  # raise when the same backbone and picture would give other tokens
MEND = "Delete this folder: its tokens are made again when asked for."

Pictures = UInt8[np.ndarray, "n height width 3"]


def picture_digests(pictures: Pictures) -> list[str]:
    """The sha256 of each picture's shape and pixels."""
    shape = str(pictures.shape[1:]).encode()
    return [hashlib.sha256(shape + picture.tobytes()).hexdigest() for picture in pictures]


def pool(
    local: list[Float[Tensor, "batch _ _h _w"]], global_: list[Float[Tensor, "batch _"]]
) -> tuple[Float[Tensor, "batch channels 8 8"], Float[Tensor, "batch channels"]]:
    """Tokens of all layers side by side: local ones averaged over areas to 8 x 8, global ones.

    Averaging over areas reads every token; bilinear resizing from 64 x 64 would read 1 in 16.
    """
    return torch.cat([adaptive_avg_pool2d(t, GRID) for t in local], 1), torch.cat(global_, 1)


@dataclass(frozen=True)
class Tokens:
    """Rows of pictures in the token cache, read from disk as they are asked for."""

    widths: list[int]  # channels of each layer
    parts: list[safetensors.safe_open]
    part: Int[np.ndarray, " picture"]  # where each picture lies
    row: Int[np.ndarray, " picture"]
    identity: str  # sha256 of backbone, grid and pictures

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(
        self, rows: Int[np.ndarray, " n"]
    ) -> tuple[Float[Tensor, "n channels 8 8"], Float[Tensor, "n channels"]]:
        """Local and global tokens of all layers side by side, float32."""
        local = torch.empty(len(rows), sum(self.widths), GRID, GRID)
        global_ = torch.empty(len(rows), sum(self.widths))
        for i, r in enumerate(rows):
            part, row = self.parts[self.part[r]], int(self.row[r])
            local[i] = part.get_slice("local")[row : row + 1][0]
            global_[i] = part.get_slice("global")[row : row + 1][0]
        return local, global_


def cache_key(backbone: nn.Module) -> str:
    """The sha256 of all that determines a picture's tokens, but the picture."""
    return digest({"backbone": backbone.identity, "grid": GRID, "version": VERSION})


def cache_folder(backbone: nn.Module) -> Path:
    return features_root() / f"{backbone.name}-{cache_key(backbone)[:12]}"


def read_manifest(folder: Path) -> dict:
    """A cache's parts: {name: {sha256, pictures}} and the widths of its layers."""
    what = "the token cache's manifest"
    manifest = read_json(folder / "manifest.json", what, MEND)
    parts = manifest.get("parts") if isinstance(manifest, dict) else None
    if (
        not isinstance(parts, dict)
        or {"widths", "key"} - manifest.keys()
        or not all(
            isinstance(p, dict) and {"sha256", "pictures"} <= p.keys() for p in parts.values()
        )
    ):
        raise InputError(f"{folder / 'manifest.json'}: expected {what}, with its parts. {MEND}")
    return manifest


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _write_part(
    folder: Path, digests: list[str], local: Tensor, global_: Tensor, header: dict
) -> None:
    """Write one part, then name it in the manifest, safe beside other writers."""
    name = f"{digest(digests)[:16]}.safetensors"
    record = json.dumps({"pictures": digests, "key": header["key"]}, sort_keys=True)
    with whole_file(folder / name) as scratch:
        # one metadata key: with two or more the bytes of the file are not determined
        save_file({"local": local, "global": global_}, scratch, {"record": record})
    part = {"sha256": file_digest(folder / name), "pictures": digests}
    with filelock.FileLock(folder / ".manifest.lock"):
        manifest = read_manifest(folder) if (folder / "manifest.json").exists() else header
        write_json(
            folder / "manifest.json",
            {**manifest, "parts": {**manifest["parts"], name: part}},
        )


def extract(
    backbone: nn.Module,
    read_pictures: Callable[[Int[np.ndarray, " n"]], Pictures],
    digests: list[str],
    batch: int = 16,
) -> Tokens:
    """The tokens of all pictures: those in the cache are read, the others made and added.

    `read_pictures(rows)` gives the pixels of the pictures whose sha256 are `digests[rows]`.

    Raises:
        InputError: if the disk is too small, a part is damaged, or tokens are not finite.
    """
    folder = cache_folder(backbone)
    if missing := absent(folder, digests):
        device = next(backbone.parameters()).device
        row_bytes = 2 * sum(backbone.widths) * (GRID * GRID + 1)
        require_space(folder, len(missing) * row_bytes, f"the token cache of {backbone.name}")
        header = {"key": cache_key(backbone), "widths": backbone.widths, "parts": {}}
        header |= {"backbone": backbone.name, "grid": GRID}
        with tqdm(
            total=len(missing), desc=f"tokens of {backbone.name}", unit="picture", disable=None
        ) as bar:
            for rows in _chunks(missing, max(1, PART_BYTES // row_bytes)):
                made = []
                for some in _chunks(rows, batch):
                    pixels = torch.from_numpy(read_pictures(np.array(some))).to(device)
                    with torch.inference_mode():
                        made.append([t.half().cpu().contiguous() for t in pool(*backbone(pixels))])
                    bar.update(len(some))
                local, global_ = (torch.cat(t) for t in zip(*made, strict=True))
                if not (local.isfinite().all() and global_.isfinite().all()):
                    raise InputError(
                        f"tokens of {backbone.name}: not finite in float16 for some of"
                        f" {len(rows)} pictures; expected finite. Check the weights."
                    )
                _write_part(folder, [digests[i] for i in rows], local, global_, header)
    return read_tokens(folder, digests)


def absent(folder: Path, digests: list[str]) -> list[int]:
    """Which of the pictures are not in a cache."""
    known = _known(folder)
    return [i for i, d in enumerate(digests) if d not in known]


def _known(folder: Path) -> dict[str, tuple[str, int]]:
    """Each cached picture's part and row."""
    if not (folder / "manifest.json").exists():
        return {}
    parts = read_manifest(folder)["parts"]
    return {d: (name, i) for name, p in parts.items() for i, d in enumerate(p["pictures"])}


def read_tokens(folder: Path, digests: list[str]) -> Tokens:
    """The tokens of pictures that are all in the cache.

    Raises:
        InputError: if a picture or a part is not there, or a part is damaged or another's.
    """
    manifest, known = read_manifest(folder), _known(folder)
    if absent := [d for d in digests if d not in known]:
        raise InputError(f"{folder}: {len(absent)} of {len(digests)} pictures not cached. {MEND}")
    names = sorted({known[d][0] for d in digests})
    parts = []
    for name in names:
        path = require(folder / name, "a part of the token cache", MEND)
        try:
            part = safetensors.safe_open(path, "pt")
            record = json.loads(part.metadata()["record"])
        except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: damaged ({error}). {MEND}") from error
        if record != {"pictures": manifest["parts"][name]["pictures"], "key": manifest["key"]}:
            raise InputError(f"{path}: holds other pictures than the manifest says. {MEND}")
        parts.append(part)
    return Tokens(
        widths=manifest["widths"],
        parts=parts,
        part=np.array([names.index(known[d][0]) for d in digests]),
        row=np.array([known[d][1] for d in digests]),
        identity=digest({"key": manifest["key"], "pictures": digests}),
    )


def verify(folder: Path) -> list[str]:
    """The parts whose bytes differ from the manifest's sha256, or that are gone."""
    wrong = []
    for name, part in read_manifest(folder)["parts"].items():
        path = folder / name
        if not path.exists() or file_digest(path) != part["sha256"]:
            wrong.append(name)
    return wrong
