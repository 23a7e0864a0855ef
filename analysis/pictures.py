"""The pictures a subject saw, read by row from where they lie.

pictures = Brick(path, ids)      # rows of NSD's imgBrick
pictures = Files(paths)          # one file each, as in the Algonauts challenge
pictures.read(np.array([0, 5]))  # uint8 [2, height, width, 3]
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from analysis.child import brick_info
from analysis.files import InputError, require

SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST = 8192  # px of a side: a header that promises more is no stimulus
MEND = "Put the picture there again, or take it out with its trials."


@runtime_checkable
class Pictures(Protocol):
    """Pictures by row: of one size, RGB."""

    def __len__(self) -> int: ...

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        """The pictures at some rows, in the order asked."""
        ...


@dataclass(frozen=True)
class Brick:
    """Rows of NSD's stimulus file, uncompressed HDF5: only what is asked for is read."""

    path: Path
    ids: Int[np.ndarray, " picture"]  # row of imgBrick, from 0

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        ids, back = np.unique(self.ids[rows], return_inverse=True)
        with h5py.File(self.path, "r") as f:
            return f["imgBrick"][ids][back]  # HDF5 wants rising rows


def open_brick(path: Path, ids: Int[np.ndarray, " picture"], mend: str) -> Brick:
    """The stimulus file's pictures at rows `ids`, if it holds them all.

    Raises:
        InputError: if it is missing, no HDF5, damaged, or has another shape or type.
    """
    require(path, "NSD's pictures", mend)
    info = brick_info(path, "HDF5 with imgBrick", mend)
    shape, kind = info["shape"], info["dtype"]
    right = len(shape) == 4 and shape[3] == 3 and kind == "uint8"
    if not right or shape[0] <= ids.max():
        raise InputError(
            f"{path}: imgBrick {tuple(shape)} {kind}; expected uint8 [pictures, height, width, 3]"
            f" with more than {ids.max()} pictures. {mend}"
        )
    if info["chunks"] is None:
        size, end = math.prod(shape), (info["offset"] or 0) + info["stored"]
        if info["stored"] != size or end > path.stat().st_size:
            raise InputError(
                f"{path}: {info['stored']:,} bytes stored from {info['offset']}; expected"
                f" {size:,} within the file's {path.stat().st_size:,}. {mend}"
            )
        if after := path.stat().st_size - end:
            warnings.warn(
                f"{path}: {after:,} bytes follow the pictures, where a file of nothing but imgBrick"
                " ends with them. If the pictures look wrong, run verify, or fetch the file again.",
                stacklevel=2,
            )
    return Brick(path, ids)


def _rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in 8-bit RGB."""
    if image.mode.startswith("I;16"):  # which convert would clip at 255
        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, of no known range; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """A picture file as RGB, 8 bits: turned as its camera says, what is transparent over white.

    Raises:
        InputError: if it is missing, cut off, no picture, or larger than any stimulus.
    """
    require(path, "a picture", MEND)
    try:
        with Image.open(path) as image:
            if max(image.size) > LARGEST:
                raise ValueError(f"{image.size} px, more than {LARGEST}")
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except (
        OSError,
        ValueError,
        SyntaxError,  # what Pillow raises for a broken PNG
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(f"{path}: not a readable picture ({error}). {MEND}") from error


@dataclass(frozen=True)
class Files:
    """Picture files of one size, in their order."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        found = [read_picture(self.paths[i]) for i in rows]
        for row, picture in zip(rows, found, strict=True):
            if picture.shape != found[0].shape:
                raise InputError(
                    f"{self.paths[row]}: {picture.shape[:2]} px; {self.paths[rows[0]]} has"
                    f" {found[0].shape[:2]}; expected pictures of one size. {MEND}"
                )
        return np.stack(found)


@dataclass(frozen=True)
class Held:
    """Pictures in memory."""

    array: UInt8[np.ndarray, "picture height width 3"]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        return self.array[rows]
