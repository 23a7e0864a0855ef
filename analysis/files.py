"""Where everything lies on disk, and how a file is written: whole or not at all.

    from analysis.files import data_root, NSDTree, whole_file

`BRAINMAPS_DATA` names the folder that holds all data; without it, that is `data/` in the checkout,
or of an installed package `data/` in the current folder.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
Hemi = Literal["lh", "rh"]
HEMIS: tuple[Hemi, Hemi] = ("lh", "rh")


class InputError(ValueError):
    """What the user gave can't be used; the message says what, where, expected, and what to do."""


class MissingFile(InputError, FileNotFoundError):
    """A file or folder that has to be there isn't."""


def data_root() -> Path:
    """The folder of all data: nsd/, simulated/, features/, fits/."""
    beside = ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()
    return Path(os.environ.get("BRAINMAPS_DATA") or beside / "data").resolve()


def features_root() -> Path:
    return data_root() / "features"


def fits_root() -> Path:
    return data_root() / "fits"


def folder_name(name: str) -> str:
    """A name of a backbone or subject as part of a folder's: `open_clip:ViT-B-32/openai` too."""
    return re.sub(r"[^\w.@-]", "_", name)


def require(path: Path, what: str, mend: str) -> Path:
    """The path itself, if it is there.

    Raises:
        MissingFile: naming the path, what it should hold and what to do.
    """
    if not path.exists():
        raise MissingFile(f"{path}: not found; expected {what}. {mend}")
    return path


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Pass if the disk under a folder has room for so many bytes.

    Raises:
        InputError: with the bytes needed and free.
    """
    folder = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{folder}: {free / 1e6:,.0f} MB free on the disk; {what} needs"
            f" {n_bytes / 1e6:,.0f} MB."
            " Free some, or set BRAINMAPS_DATA to a larger disk."
        )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path to write to; renamed to `path` when the block ends well, removed when not.

    The scratch name holds host and process, so that two writers never share one, and keeps the
    suffix, since some writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for stale in path.parent.glob(f".{path.stem}.{host}.*.part{path.suffix}"):
        process = stale.name.removesuffix(f".part{path.suffix}").rsplit(".", 1)[1]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            stale.unlink(missing_ok=True)  # left by a writer that was killed
    scratch = path.parent / f".{path.stem}.{host}.{os.getpid()}.part{path.suffix}"
    try:
        yield scratch
        with scratch.open("rb+") as f:
            os.fsync(f.fileno())
        scratch.chmod(0o644)  # safetensors writes 0600, unreadable for colleagues
        scratch.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{path}: the disk is full; nothing was kept of this file."
                " Free some space, or set BRAINMAPS_DATA to a larger disk, and run again."
            ) from error
        raise
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON: the same value gives the same bytes."""
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", "utf8")


def read_json(path: Path, what: str, mend: str) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: if it is not there or not JSON.
    """
    require(path, what, mend)
    try:
        return json.loads(path.read_text("utf8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); expected {what}. {mend}") from error


def read_array(
    path: Path, what: str, shape: tuple[int | None, ...], kinds: str, mend: str
) -> np.ndarray:
    """A memory map of a .npy file of this shape (None: any) and kinds of number (numpy's letters).

    Raises:
        InputError: if the file is missing, truncated, no .npy, or another array.
    """
    require(path, what, mend)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        if getattr(error, "errno", None):
            raise
        raise InputError(
            f"{path}: not a readable .npy ({error}); expected {what}. {mend}"
        ) from error
    sizes = zip(shape, array.shape, strict=False)
    fits = array.ndim == len(shape) and all(n in (None, size) for n, size in sizes)
    if not fits or array.dtype.kind not in kinds:
        any_or = tuple("any" if n is None else n for n in shape)
        raise InputError(
            f"{path}: {array.dtype} {array.shape}; expected {what}, shape {any_or}, kind of number"
            f" {' or '.join(kinds)}. {mend}"
        )
    return array


def digest(value: Any) -> str:
    """The sha256 of a value's sorted JSON: the identity of a configuration."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclass(frozen=True)
class NSDTree:
    """The paths of NSD's own layout under a root; `subject` is a name inside the tree."""

    root: Path

    @property
    def design(self) -> Path:
        return self.root / "nsddata/experiments/nsd/nsd_expdesign.mat"

    @property
    def stimuli(self) -> Path:
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    def beta_folder(self, subject: str) -> Path:
        preparation = "betas_fithrf_GLMdenoise_RR"  # GLMsingle's third preparation, Appendix E.1
        return self.root / "nsddata_betas/ppdata" / subject / "fsaverage" / preparation

    def betas(self, subject: str, hemi: Hemi, session: int) -> Path:
        return self.beta_folder(subject) / f"{hemi}.betas_session{session:02d}.mgh"

    def ncsnr(self, subject: str, hemi: Hemi) -> Path:
        return self.beta_folder(subject) / f"{hemi}.ncsnr.mgh"

    def group_label(self, hemi: Hemi, family: str) -> Path:
        return self.root / f"nsddata/freesurfer/fsaverage/label/{hemi}.{family}.mgz"

    def native_label(self, subject: str, hemi: Hemi, family: str) -> Path:
        return self.root / f"nsddata/freesurfer/{subject}/label/{hemi}.{family}.mgz"

    def to_fsaverage(self, subject: str, hemi: Hemi) -> Path:
        return self.root / f"nsddata/ppdata/{subject}/transforms/{hemi}.white-to-fsaverage.mgz"
