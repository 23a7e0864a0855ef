"""A part of the token cache while it is made: filled batch by batch, then put in its place.

part = Growing(view, form, folder, digests)
part.open()  # goes on with what a killed run left
part.add(0, stored(view, local, global_, digests))
part.finish()
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.backbones import View
from analysis.features import (
    Form,
    cache_key,
    layer_maxima,
    layer_of_channel,
    powers,
    read_manifest,
)
from analysis.files import InputError, digest, file_digest, read_json, write_json


@dataclass(frozen=True)
class Stored:
    """A batch's tokens as they are kept."""

    local: Float[np.ndarray, "batch channels grid grid"]
    global_: Float[np.ndarray, "batch channels"]
    scale: Float[np.ndarray, "batch 2 layer"]


def stored(
    view: View,
    local: Float[Tensor, "batch channels grid grid"],
    global_: Float[Tensor, "batch channels"],
    digests: list[str],
) -> Stored:
    """Tokens in float16, each layer of each picture scaled into its range.

    Raises:
        InputError: naming picture and layer, if a token is NaN or infinite.
    """
    maxima = torch.stack([layer_maxima(t, view.widths) for t in (local, global_)], 1)
    if not maxima.isfinite().all():
        picture, _, layer = (~maxima.isfinite()).nonzero()[0].tolist()
        raise InputError(
            f"tokens of {view.name}: not finite in layer {view.layer_names[layer]} of the picture"
            f" {digests[picture][:12]}…; expected finite. Check the weights, and try float32."
        )
    scale = powers(maxima)
    by_channel = scale[:, :, layer_of_channel(view.widths).to(scale.device)]
    halves = (local / by_channel[:, 0, :, None, None], global_ / by_channel[:, 1])
    near, far = (t.half().cpu().numpy() for t in halves)
    return Stored(near, far, scale.cpu().numpy())


def pictures_under_way(path: Path) -> list[str]:
    """The pictures that a part under way is of; none where its header is damaged."""
    try:
        with path.open("rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        return json.loads(header["__metadata__"]["record"])["pictures"]
    except (OSError, ValueError, LookupError, TypeError, MemoryError, OverflowError):
        return []


class Growing:
    """A part that is filled batch by batch; `batches` of them are safe on the disk."""

    def __init__(self, view: View, form: Form, folder: Path, pictures: list[str]):
        self.view, self.folder, self.pictures = view, folder, pictures
        self.name = f"{digest(pictures)[:16]}.safetensors"
        self.path = folder / "under_way" / self.name
        self.progress = self.path.with_suffix(".json")
        self.key = cache_key(view, form)
        n, channels, layers = len(pictures), sum(view.widths), len(view.widths)
        shapes = {
            "scale": ("F32", 4, [n, 2, layers]),  # the widest first, so that all are aligned
            "local": ("F16", 2, [n, channels, form.grid, form.grid]),
            "global": ("F16", 2, [n, channels]),
        }
        record = json.dumps({"pictures": pictures, "key": self.key}, sort_keys=True)
        header: dict = {"__metadata__": {"record": record}}
        at = 0
        self.offset: dict[str, int] = {}
        self.row: dict[str, int] = {}
        for name, (kind, size, shape) in shapes.items():
            n_bytes = size * int(np.prod(shape))
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + n_bytes]}
            self.offset[name], self.row[name] = at, n_bytes // n
            at += n_bytes
        text = json.dumps(header, sort_keys=True).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.offset = {name: len(self.header) + place for name, place in self.offset.items()}
        self.size = len(self.header) + at
        self.batches = 0

    def open(self) -> None:
        """Begin, or go on with what lies there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.progress.exists():
            done = read_json(self.progress, "how far extraction went", "Delete it.")
            whole = self.path.stat().st_size == self.size
            with self.path.open("rb") as f:
                if (
                    whole
                    and done.get("size") == self.size
                    and f.read(len(self.header)) == self.header
                ):
                    self.batches = int(done["batches"])
                    return
        self.progress.unlink(missing_ok=True)
        with self.path.open("wb") as f:
            f.write(self.header)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(f.fileno(), 0, self.size)
            f.truncate(self.size)

    def add(self, row: int, batch: Stored | None) -> None:
        """Write the tokens of pictures from `row` on (None: none of a batch), and count it."""
        if batch is not None:
            parts = {"local": batch.local, "global": batch.global_, "scale": batch.scale}
            with self.path.open("rb+") as f:
                for name, values in parts.items():
                    f.seek(self.offset[name] + row * self.row[name])
                    f.write(np.ascontiguousarray(values).data)
                f.flush()
                os.fdatasync(f.fileno()) if hasattr(os, "fdatasync") else os.fsync(f.fileno())
        self.batches += 1
        write_json(self.progress, {"batches": self.batches, "size": self.size})

    def finish(self) -> None:
        """Put the part in its place, then name it in the manifest, safe beside other writers."""
        sha256 = file_digest(self.path)
        self.path.chmod(0o644)
        self.path.replace(self.folder / self.name)
        self.progress.unlink()
        with filelock.FileLock(self.folder / ".manifest.lock"):
            path = self.folder / "manifest.json"
            manifest = read_manifest(self.folder) if path.exists() else self._new_manifest()
            manifest["parts"][self.name] = {"sha256": sha256, "pictures": self.pictures}
            write_json(path, manifest)

    def _new_manifest(self) -> dict:
        view = self.view
        return {
            "key": self.key,
            "backbone": view.name,
            "widths": list(view.widths),
            "layer_names": list(view.layer_names),
            "parts": {},
        }
