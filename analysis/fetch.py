"""Fetch the manifest's files over HTTPS: terms first, sizes first, resumed, verified.

    manifest = data_manifest()
    fetch(manifest, select(manifest, subjects=["subj01"]), accept_terms=True)

A file is renamed to its place when it is whole and its checksum is right. `fetched.json` in the
data folder records each file's sha256, `terms.json` which terms were accepted.
"""

import datetime
import errno
import hashlib
import json
import os
import shutil
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock
import pandas as pd
from tqdm import tqdm

from analysis.files import InputError, data_root, file_digest, write_json
from analysis.https import download, partials
from analysis.manifest import DataFile, Manifest

DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
_writing_records = threading.Lock()


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Hold off other processes, where the file system has locks."""
    path = data_root() / ".locks" / f"{name.replace('/', '-')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        warnings.warn(f"{path}: {error.strerror}; don't fetch twice at once.", stacklevel=3)
    try:
        yield
    finally:
        lock.release()


def _records(name: str) -> dict[str, dict]:
    """The entries of a JSON file in the data folder."""
    path = data_root() / name
    return json.loads(path.read_text("utf8")) if path.exists() else {}


def _add_record(name: str, key: str, value: dict) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with _writing_records, _lock(name):
        write_json(data_root() / name, _records(name) | {key: value | {"time": now}})


def is_whole(file: DataFile) -> bool:
    """Whether a file is in its place, with its published size where there is one."""
    size = file.place.stat().st_size if file.place.is_file() else 0
    return size == file.n_bytes if file.exact else size > 0


def file_table(files: Sequence[DataFile]) -> pd.DataFrame:
    """A row per file: path, kind, bytes, how many are present, and whole, partial or missing."""
    rows = []
    for file in files:
        whole = is_whole(file)
        size = file.place.stat().st_size if whole else file.n_bytes
        partial = max((p.stat().st_size for p in partials(file.place)), default=0)
        present = size if whole else min(partial, size)
        state = "whole" if whole else "partial" if present else "missing"
        rows.append((file.path, file.kind, size, whole or file.exact, present, state))
    return pd.DataFrame(rows, columns=["file", "kind", "bytes", "exact", "present", "state"])


def free_bytes() -> int:
    """Free bytes on the disk of the data folder."""
    root = data_root()
    return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free


def _require_terms(manifest: Manifest, files: Sequence[DataFile], accept: bool) -> None:
    """Raise InputError unless the terms of all sources are accepted; record those accepted now."""
    for name in dict.fromkeys(f.source for f in files):
        source = manifest.sources[name]
        if not source.accept or name in _records("terms.json"):
            continue
        if not accept:
            raise InputError(
                f"{source.title}: its terms ({source.terms}) have to be accepted first."
                f" They say: {source.meaning} If you have read and accept them, give"
                f" --accept-{name}-terms."
            )
        _add_record("terms.json", name, {"terms": source.terms})


def _mismatch(path: Path, checksum: str) -> str:
    """What differs from "md5:DIGITS" or "sha256:DIGITS", maybe its first digits only; or ""."""
    name, _, digits = checksum.partition(":")
    with path.open("rb") as f:
        value = hashlib.file_digest(f, name).hexdigest()
    return "" if value.startswith(digits) else f"{name} {value}; expected {digits}"


def unpack(archive: Path) -> None:
    """Extract a zip archive beside itself; files and folders already there stay as they are.

    What lies at the archive's top appears whole, by a rename; so nothing is written through a
    link that was there.
    """
    folder, scratch = archive.parent, archive.with_name(f".{archive.name}.unpacking")
    if scratch.exists():  # left by a process that was killed
        shutil.rmtree(scratch)
    scratch.mkdir()
    try:
        with zipfile.ZipFile(archive) as zip_file:
            members = {m: folder / m.filename.split("/")[0] for m in zip_file.infolist()}
            absent = [m for m, top in members.items() if not os.path.lexists(top)]
            zip_file.extractall(scratch, absent)
        for path in scratch.iterdir():
            path.rename(folder / path.name)
    except DAMAGED_ZIP as error:
        raise InputError(f"{archive}: damaged ({error}). Delete it and fetch it again.") from error
    finally:
        shutil.rmtree(scratch)
    for member, top in members.items():
        path = folder / member.filename
        if not member.is_dir() and not (path.is_file() and path.stat().st_size == member.file_size):
            raise InputError(f"{path}: not as in {archive}. Move {top} away and run fetch again.")


def _fetch_file(file: DataFile, advance: Callable[[int], None]) -> str:
    """Why a file could not be fetched; or "", and it is in its place, and unpacked."""
    try:
        file.place.parent.mkdir(parents=True, exist_ok=True)
        with _lock(file.path):
            if not is_whole(file):
                partial = download(
                    file.url, file.place, file.n_bytes if file.exact else None, advance
                )
                if file.checksum and (problem := _mismatch(partial, file.checksum)):
                    partial.unlink()
                    return f"{file.path}: {problem}; what {file.url} sent was deleted"
                record = {"url": file.url, "sha256": file_digest(partial)}
                _add_record("fetched.json", file.path, record)
                partial.replace(file.place)
            if file.kind == "archive":
                unpack(file.place)
    except (InputError, OSError) as error:  # what requests raises is an OSError
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        advice = "the disk is full: free some space, or set BRAINMAPS_DATA to a larger disk"
        return f"{file.path}: {advice if full else error}"
    return ""


def fetch(
    manifest: Manifest, files: Sequence[DataFile], jobs: int = 4, accept_terms: bool = False
) -> list[Path]:
    """Paths of the files that were missing, now fetched; archives are unpacked beside themselves.

    A file that fails doesn't stop the others.

    Raises:
        InputError: if terms are not accepted or the disk is too small, before anything is fetched;
            else naming every file that failed and why.
    """
    missing = [f for f in files if not is_whole(f)]
    for file in missing:
        if (source := manifest.sources[file.source]).manual:
            raise InputError(f"{file.place}: not found; {source.title}: {source.manual}")
    _require_terms(manifest, missing, accept_terms)
    table = file_table(missing)
    if (n_bytes := table["bytes"].sum() - table["present"].sum()) > free_bytes():
        raise InputError(
            f"{data_root()}: {free_bytes() / 1e9:,.2f} GB free on the disk; {n_bytes / 1e9:,.2f} GB"
            " are to be fetched. Free some space, or set BRAINMAPS_DATA to a larger disk."
        )
    tasks = [f for f in files if f.kind == "archive" or not is_whole(f)]
    stop = threading.Event()

    def advance(n: int) -> None:
        bar.update(n)
        if stop.is_set():
            raise InputError("stopped")

    with (
        tqdm(total=table["bytes"].sum(), unit="B", unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        try:
            problems = [p for p in pool.map(lambda file: _fetch_file(file, advance), tasks) if p]
        except KeyboardInterrupt:  # the files under way end at their next block
            stop.set()
            raise
    if problems:
        raise InputError(
            f"{len(problems)} of {len(tasks)} files were not fetched; the others are whole. What"
            " came is kept: run fetch again.\n" + "\n".join(problems)
        )
    return [f.place for f in missing]


def verify(files: Sequence[DataFile]) -> pd.DataFrame:
    """A row per file: right, wrong (with the problem), missing, or only its size known.

    A file is held against the published checksum, and against its sha256 when it was fetched.
    """
    records, rows = _records("fetched.json"), []
    for file in tqdm(files, desc="files verified", unit="file", disable=None):
        state, problem = "missing", ""
        if file.place.is_file():
            checksums = [file.checksum] if file.checksum else []
            if file.path in records:
                checksums.append(f"sha256:{records[file.path]['sha256']}")
            problem = "; ".join(filter(None, (_mismatch(file.place, c) for c in checksums)))
            if not problem and not is_whole(file):
                problem = f"{file.place.stat().st_size:,} bytes; expected {file.n_bytes:,}"
            state = "wrong" if problem else "right" if checksums else "no checksum, size only"
        rows.append((file.path, state, problem))
    return pd.DataFrame(rows, columns=["file", "state", "problem"])
