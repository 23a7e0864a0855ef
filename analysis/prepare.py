"""A subject's session files turned once into one masked, standardised array on disk.

    prepared = prepare("subj01", files, columns, n_vertices=163842, n_trials=750)
    prepared.responses[trials]

Each file is read once, one trial at a time, both hemispheres at once, and a session while the one
before it is written. A session that was done is not read again: a run that was killed goes on with
the next one. When all are done the session files are needed no more.
"""

import hashlib
import itertools
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from analysis import mgh
from analysis.files import (
    InputError,
    MissingFile,
    code_digest,
    data_root,
    digest,
    read_json,
    require_space,
    write_json,
)
from analysis.npy import read_array
from analysis.subject import standardise

MEND = "Delete its folder: it is made again when asked for."
BLOCK = 256  # trials at a time where columns are left out


@dataclass(frozen=True)
class Prepared:
    """A subject's responses, and what standardising took out of each session."""

    responses: Float[np.ndarray, "trial kept"]  # z-score per session; on disk, read-only
    kept: Bool[np.ndarray, " vertex"]  # those with data that vary in every session
    mean: Float[np.ndarray, "session vertex"]  # per cent signal change
    sd: Float[np.ndarray, "session vertex"]  # per cent signal change
    identity: str  # sha256 of the betas that were read


def prepared_folder(name: str, key: dict) -> Path:
    return data_root() / "prepared" / f"{name}-{digest(key)[:12]}"


def _stamp(path: Path) -> list[int] | None:
    """What tells that a file is another one: its size and time; None where it is gone."""
    if not path.exists():
        return None
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _header(path: Path, shape: tuple[int, int]) -> int:
    """Start a .npy file of float32 and return where its values begin."""
    with path.open("wb") as f:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(f, header)
        start = f.tell()
        f.truncate(start + 4 * shape[0] * shape[1])
    return start


def _put(path: Path, start: int, row: int, values: Float[np.ndarray, "row column"]) -> None:
    """Write rows of a .npy file, to the disk."""
    with path.open("rb+") as f:
        f.seek(start + 4 * row * values.shape[1])
        f.write(np.ascontiguousarray(values, "<f4").data)
        f.flush()
        os.fsync(f.fileno())


def _open(path: Path, what: str) -> Float[np.ndarray, "row column"]:
    """A memory map of one of our own arrays."""
    array = read_array(path, what, (None, None), "f", MEND)
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise InputError(
            f"{path}: {array.dtype}, row by row: {array.flags.c_contiguous}; expected {what},"
            f" float32, row by row. {MEND}"
        )
    return array


def missing_sessions(files: list[tuple[Path, Path]], n_trials: int) -> None:
    """Pass if every session file is there.

    Raises:
        MissingFile: naming the first that is not, and how many are not.
    """
    gone = [path for pair in files for path in pair if not path.exists()]
    if gone:
        raise MissingFile(
            f"{gone[0]}: not found; expected betas of {n_trials} trials."
            f" {len(gone)} of {2 * len(files)} session files are missing. {mgh.FETCH}"
            " Or ask for the first sessions only."
        )


def prepare(
    name: str,
    files: list[tuple[Path, Path]],
    columns: tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]],
    n_vertices: int,
    n_trials: int,
) -> Prepared:
    """The standardised responses of the chosen vertices, lh then rh, of all sessions.

    `files`: per session the two hemispheres' betas; `columns`: the chosen vertices of each;
    `n_vertices`, `n_trials`: of each file.

    Raises:
        InputError: for a missing, damaged or doubled session, too small a disk, or if no vertex
            has data.
    """
    width = sum(len(c) for c in columns)
    key = {
        "files": [[str(p.resolve()) for p in pair] for pair in files],
        "columns": hashlib.sha256(b"|".join(c.tobytes() for c in columns)).hexdigest(),
        "shape": [len(files), n_trials, n_vertices, width],
        "code": code_digest(("mgh.py", "prepare.py", "subject.py")),
    }
    folder = prepared_folder(name, key)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        stamps = [[_stamp(p) for p in pair] for pair in files]
        if not _is_whole(folder, stamps):
            missing_sessions(files, n_trials)
            _read_sessions(folder, name, files, stamps, columns, n_vertices, n_trials)
            _finish(folder, files, n_trials * len(files), width)
    return _result(folder, n_trials * len(files))


def _is_whole(folder: Path, stamps: list[list[list[int] | None]]) -> bool:
    """Whether all was prepared and no session file has changed since; a deleted one is allowed."""
    if not (folder / "record.json").exists():
        return False
    record = read_json(folder / "record.json", "the record of prepared responses", MEND)
    try:
        then = [record["sessions"][str(session)]["stamps"] for session in range(len(stamps))]
        same = all(
            new in (None, old)
            for before, now in zip(then, stamps, strict=True)
            for old, new in zip(before, now, strict=True)
        )
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'record.json'}: damaged ({error}). {MEND}") from error
    if same:
        return True
    shutil.rmtree(folder)
    folder.mkdir()
    return False


class _Half(NamedTuple):
    """One hemisphere of a session."""

    responses: Float[np.ndarray, "trial chosen"]  # z-score
    level: Float[np.ndarray, "2 chosen"]  # mean and sd before
    sha256: str  # of the betas


def _half(path: Path, chosen: Int[np.ndarray, " chosen"], n_vertices: int, n_trials: int) -> _Half:
    """The chosen vertices of a session file."""
    betas = mgh.read_series(path, chosen, n_vertices, n_trials)
    responses, mean, sd = standardise(betas)
    return _Half(responses, np.stack([mean, sd]), hashlib.sha256(betas.data).hexdigest())


def _read_sessions(
    folder: Path,
    name: str,
    files: list[tuple[Path, Path]],
    stamps: list[list[list[int] | None]],
    columns: tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]],
    n_vertices: int,
    n_trials: int,
) -> None:
    """Write the rows of each session that is not done, and then that it is done."""
    shape = (len(files) * n_trials, sum(len(c) for c in columns))
    wide, levels, progress = (folder / n for n in ("wide.npy", "levels.npy", "progress.json"))
    if not progress.exists():
        require_space(folder, 4 * shape[0] * shape[1], f"the prepared responses of {name}")
        starts = [_header(wide, shape), _header(levels, (2 * len(files), shape[1]))]
        write_json(progress, {"starts": starts, "sessions": {}})
    done = read_json(progress, "how far preparing went", MEND)
    left = [
        session
        for session in range(len(files))
        if done["sessions"].get(str(session), {}).get("stamps") != stamps[session]
    ]
    bar = tqdm(total=len(files), initial=len(files) - len(left), disable=None)
    bar.set_description(f"sessions of {name}")
    with bar, ThreadPoolExecutor(2) as pool:

        def begun(session: int) -> list[Future[_Half]]:
            pairs = zip(files[session], columns, strict=True)
            return [pool.submit(_half, path, some, n_vertices, n_trials) for path, some in pairs]

        following = begun(left[0]) if left else []
        for session, after in itertools.zip_longest(left, left[1:]):
            halves = [half.result() for half in following]
            following = [] if after is None else begun(after)  # read while this one is written
            hashes = [half.sha256 for half in halves]
            _refuse_double(files, done["sessions"], session, hashes)
            rows = np.concatenate([half.responses for half in halves], axis=1)
            level = np.concatenate([half.level for half in halves], axis=1)
            _put(wide, done["starts"][0], session * n_trials, rows)
            _put(levels, done["starts"][1], 2 * session, level)
            done["sessions"][str(session)] = {"stamps": stamps[session], "sha256": hashes}
            write_json(progress, done)
            bar.update()


def _refuse_double(
    files: list[tuple[Path, Path]], done: dict[str, dict], session: int, hashes: list[str]
) -> None:
    """Pass if no other session holds the same betas."""
    for other, record in done.items():
        for side, mine in enumerate(hashes):
            if int(other) != session and record["sha256"][side] == mine:
                raise InputError(
                    f"{files[session][side]}: the same betas as {files[int(other)][side].name};"
                    f" expected another session. {mgh.FETCH}"
                )


def _finish(folder: Path, files: list[tuple[Path, Path]], n_rows: int, width: int) -> None:
    """Leave out the vertices without data, and write the record that all is there."""
    done = read_json(folder / "progress.json", "how far preparing went", MEND)
    sd = np.array(_open(folder / "levels.npy", "means and spreads"))[1::2]
    kept = (sd > 0).all(0)  # False for NaN
    if not kept.any():
        raise InputError(
            f"{files[0][0].parent}: all {width} visual vertices are NaN or constant in some"
            f" session. {mgh.FETCH}"
        )
    if kept.all():
        (folder / "wide.npy").replace(folder / "responses.npy")
    else:
        narrow = (n_rows, int(kept.sum()))
        require_space(folder, 4 * narrow[0] * narrow[1], "leaving out vertices without data")
        begin = _header(folder / "responses.npy", narrow)
        with (folder / "wide.npy").open("rb") as f:  # a memory map would count as memory
            f.seek(done["starts"][0])
            for row in range(0, n_rows, BLOCK):
                some = np.fromfile(f, "<f4", min(BLOCK, n_rows - row) * width)
                _put(folder / "responses.npy", begin, row, some.reshape(-1, width)[:, kept])
    record = {"sessions": done["sessions"], "dropped": np.flatnonzero(~kept).tolist()}
    write_json(folder / "record.json", record)
    for left in ("wide.npy", "progress.json"):
        (folder / left).unlink(missing_ok=True)


def _result(folder: Path, n_rows: int) -> Prepared:
    """What a whole folder holds."""
    what = "the record of prepared responses"
    record = read_json(folder / "record.json", what, MEND)
    responses = _open(folder / "responses.npy", "responses")
    levels = np.array(_open(folder / "levels.npy", "means and spreads"))
    kept = np.ones(levels.shape[1], bool)
    try:
        kept[np.array(record["dropped"], int)] = False
        sessions = [record["sessions"][str(i)]["sha256"] for i in range(len(levels) // 2)]
        whole = len(record["sessions"]) == len(sessions)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'record.json'}: damaged ({error}). {MEND}") from error
    if responses.shape != (n_rows, kept.sum()) or not whole:
        raise InputError(
            f"{folder / 'responses.npy'}: {responses.shape} of {len(record['sessions'])} sessions;"
            f" expected {(n_rows, int(kept.sum()))} of {len(sessions)}. {MEND}"
        )
    return Prepared(responses, kept, levels[0::2], levels[1::2], digest(sessions))
