"""A subject's responses as one standardised array on disk, made once from its session files.

    prepared = prepare("subj01", files, columns, n_vertices=163842, n_trials=750)
    prepared.responses[trials]

Sessions are read one after the other into a scratch folder, which gets its name when it is whole.
From then on the session files are not needed, and nothing here removes what is prepared.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from analysis import mgh
from analysis.files import InputError, MissingFile, data_root, digest, read_json, write_json
from analysis.progress import say
from analysis.subject import require_varying, standardise
from analysis.versions import VERSIONS

MEND = "Rename this folder, and what it holds is prepared again from the session files."


@dataclass(frozen=True)
class Prepared:
    """A subject's responses, and what standardising took out of each session."""

    responses: Float[np.ndarray, "trial kept"]  # z-score per session; on disk, read-only
    kept: Bool[np.ndarray, " vertex"]  # those with data that vary in every session
    mean: Float[np.ndarray, "session vertex"]  # per cent signal change
    sd: Float[np.ndarray, "session vertex"]  # per cent signal change
    identity: str  # sha256 of the betas that were read


def prepare(
    name: str,
    files: list[tuple[Path, Path]],
    columns: tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]],
    n_vertices: int,
    n_trials: int,
    source: str = "",
) -> Prepared:
    """The standardised responses of some vertices, lh then rh, of all sessions.

    `files`: per session the betas of both hemispheres; `columns`: the vertices read of each;
    `n_vertices`, `n_trials`: of each file; `source`: tells betas of one name from others, such as
    those of another simulation. The files' paths and times are no part of what is asked for.

    Raises:
        InputError: for a missing or damaged session, or if no vertex has data in all of them.
    """
    chosen = b"|".join(c.astype("<i8").tobytes() for c in columns)
    key = {
        "name": name,
        "sessions": len(files),
        "columns": hashlib.sha256(chosen).hexdigest(),
        "shape": [n_vertices, n_trials],
        "source": source,
        "version": VERSIONS["subject"],
    }
    folder = data_root() / "prepared" / f"{name}-{digest(key)[:12]}"
    if not (folder / "record.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / ".lock") as alone:
            if alone:
                for leftover in folder.parent.glob(".*.part"):  # of a run that was killed
                    shutil.rmtree(leftover)
            if not (folder / "record.json").exists():
                _write(folder, files, columns, n_vertices, n_trials)
    return _read(folder)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether nobody else prepares until the block ends: False where the disk knows no locks."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        say(f"{path.parent}: this disk has no file locks; prepare one subject at a time.")
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def _npy(path: Path, shape: tuple[int, int]) -> Iterator[BinaryIO]:
    """A .npy file of float32 to write rows to, its header written."""
    with path.open("wb") as f:  # a full disk ends a memory map without an error
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(f, header)
        yield f
        f.flush()
        os.fsync(f.fileno())


def _write(
    folder: Path,
    files: list[tuple[Path, Path]],
    columns: tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]],
    n_vertices: int,
    n_trials: int,
) -> None:
    """Read all sessions into a scratch folder, and rename it when it is whole."""
    missing = [path for pair in files for path in pair if not path.exists()]
    if missing:
        raise MissingFile(
            f"{missing[0]}: not found; expected betas of {n_trials} trials. {len(missing)} of"
            f" {2 * len(files)} session files are missing. {mgh.FETCH} Or ask for the first"
            " sessions only."
        )
    n_rows, width = len(files) * n_trials, sum(len(c) for c in columns)
    scratch = folder.parent / f".{folder.name}.part"
    try:
        scratch.mkdir(exist_ok=True)
        sums, levels = [], []
        with _npy(scratch / "all.npy", (n_rows, width)) as f:
            for pair in tqdm(files, f"sessions of {folder.name}", disable=None):
                betas = [
                    mgh.read_series(path, vertices, n_vertices, n_trials)
                    for path, vertices in zip(pair, columns, strict=True)
                ]
                require_varying(np.concatenate(betas, axis=1), f"{pair[0]} and {pair[1].name}")
                sums.append([hashlib.sha256(half.data).hexdigest() for half in betas])
                halves = zip(*map(standardise, betas), strict=True)
                responses, mean, sd = (np.concatenate(half, axis=-1) for half in halves)
                f.write(responses.data)
                levels.append((mean, sd))
        kept = np.all([sd > 0 for _, sd in levels], axis=0)  # False for NaN
        if not kept.any():
            raise InputError(
                f"{files[0][0].parent}: all {width} visual vertices are NaN or constant in some"
                f" session. {mgh.FETCH}"
            )
        if kept.all():
            (scratch / "all.npy").rename(scratch / "responses.npy")
        else:
            rows = np.load(scratch / "all.npy", mmap_mode="r")
            with _npy(scratch / "responses.npy", (n_rows, int(kept.sum()))) as f:
                for start in range(0, n_rows, n_trials):
                    f.write(np.ascontiguousarray(rows[start : start + n_trials, kept]).data)
            (scratch / "all.npy").unlink()
        np.save(scratch / "levels.npy", np.array(levels, np.float32))
        record = {"betas": sums, "dropped": np.flatnonzero(~kept).tolist(), "trials": n_rows}
        write_json(scratch / "record.json", record)
        scratch.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{folder}: the disk is full, the responses need {4e-6 * n_rows * width:,.0f} MB;"
                " nothing was kept. Free some space, or set BRAINMAPS_DATA to a larger disk."
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read(folder: Path) -> Prepared:
    """What a prepared folder holds."""
    record = read_json(folder / "record.json", "the record of prepared responses", MEND)
    try:
        responses = np.load(folder / "responses.npy", mmap_mode="r", allow_pickle=False)
        levels = np.load(folder / "levels.npy", allow_pickle=False)
        kept = np.ones(levels.shape[2], bool)
        kept[record["dropped"]] = False
        expected = (record["trials"], int(kept.sum()))
        if responses.shape != expected or len(levels) != len(record["betas"]):
            raise ValueError(f"responses {responses.shape}, {len(levels)} sessions")
    except (ValueError, LookupError, TypeError, EOFError) as error:
        raise InputError(f"{folder}: other than its record.json says ({error}). {MEND}") from error
    mean, sd = levels.swapaxes(0, 1)
    return Prepared(responses, kept, mean, sd, digest(record["betas"]))
