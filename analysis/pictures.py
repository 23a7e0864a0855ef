"""The pictures a subject saw, read by row from where they lie.

pictures = HDF5Pictures(path, ids)  # rows of NSD's imgBrick
pictures = FilePictures(paths)      # one file each, as in the Algonauts challenge
pictures.read(np.array([0, 5]))     # uint8 [2, height, width, 3]
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from analysis.files import InputError, require

SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST = 8192  # px of a side; a larger picture is read at this size
MEND = "Put the picture there again, or take it out with its trials."


@runtime_checkable
class Pictures(Protocol):
    """Pictures by row: of one size, RGB."""

    def __len__(self) -> int: ...

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        """The pictures at some rows, in the order asked."""
        ...


@dataclass(frozen=True)
class HDF5Pictures:
    """Rows of NSD's stimulus file: only what is asked for is read.

    Raises:
        InputError: if the file is missing, no HDF5, locked, or lacks one of the pictures.
    """

    path: Path
    ids: Int[np.ndarray, " picture"]  # row of imgBrick, from 0

    def __post_init__(self):
        require(self.path, "NSD's pictures", "Fetch it, or use a simulated subject such as sim01.")
        try:
            with h5py.File(self.path, "r") as f:
                shape, kind = f["imgBrick"].shape, f["imgBrick"].dtype
        except (OSError, KeyError, AttributeError, RuntimeError, ValueError) as error:
            if "lock" in str(error):
                raise InputError(
                    f"{self.path}: locked by another process, or on a share that refuses locks"
                    f" ({error}). Set HDF5_USE_FILE_LOCKING=FALSE to read it without a lock."
                ) from error
            if getattr(error, "errno", None):
                raise
            raise InputError(
                f"{self.path}: {error}; expected HDF5 with imgBrick. Fetch the file again."
            ) from error
        if shape[3:] != (3,) or kind != np.uint8 or shape[0] <= self.ids.max():
            raise InputError(
                f"{self.path}: imgBrick {shape} {kind}; expected uint8 [pictures, height, width, 3]"
                f" with more than {self.ids.max()} pictures. Fetch the file again."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        ids, back = np.unique(self.ids[rows], return_inverse=True)
        with h5py.File(self.path, "r") as f:
            return f["imgBrick"][ids][back]  # HDF5 wants rising rows


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
        InputError: if it is missing, cut off, or no picture.
    """
    require(path, "a picture", MEND)
    try:
        with Image.open(path) as image:
            picture = _rgb(ImageOps.exif_transpose(image))
            picture.thumbnail((LARGEST, LARGEST))
            return np.asarray(picture)
    # SyntaxError is what Pillow raises for a broken PNG
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None):
            raise
        raise InputError(f"{path}: not a readable picture ({error}). {MEND}") from error


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder and those within it, sorted; hidden ones are left out."""
    files = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES)
    return [p for p in files if not any(n[0] == "." for n in p.relative_to(folder).parts)]


def picture_digests(pictures: UInt8[np.ndarray, "n height width 3"]) -> list[str]:
    """The sha256 of each picture's shape and pixels."""
    shape = str(pictures.shape[1:]).encode()
    return [hashlib.sha256(shape + picture.tobytes()).hexdigest() for picture in pictures]


@dataclass(frozen=True)
class FilePictures:
    """Picture files in their order: of one size, or each resized whole to a square."""

    paths: Sequence[Path]
    side: int | None = None  # pixels of the square

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        pictures = [read_picture(self.paths[i]) for i in rows]
        if self.side:
            resized = (
                Image.fromarray(p).resize((self.side, self.side), Image.Resampling.BICUBIC)
                for p in pictures
            )
            return np.stack([np.asarray(p) for p in resized])
        for row, picture in zip(rows, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise InputError(
                    f"{self.paths[row]}: {picture.shape[:2]} px; {self.paths[rows[0]]} has"
                    f" {pictures[0].shape[:2]}; expected pictures of one size. {MEND}"
                )
        return np.stack(pictures)


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures in memory."""

    array: UInt8[np.ndarray, "picture height width 3"]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        return self.array[rows]
