"""Fetch the manifest's files: size first, terms first, in parallel, resumed, verified.

    entries = select(read_manifest(), subjects=["subj01"])
    fetch(manifest, entries, jobs=4)

A file grows as `NAME.part` beside its place and is renamed when it is whole and its checksum is
right. `fetched.json` in the data folder records what was fetched, with its sha256.
"""

import datetime
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import filelock
import fsspec
import pandas as pd
from fsspec.spec import AbstractFileSystem
from tqdm import tqdm

from analysis.archive import unpack
from analysis.files import InputError, data_root, read_json, require_space, write_json
from analysis.manifest import Entry, Manifest

BLOCK = 2**24  # bytes asked for at a time
TRIES = 5  # of a block
PAUSE = 1.0  # s before the second try, doubled before each further one
STALL = 60.0  # s without an answer
MEND = "Run fetch again: it goes on where it stopped."
LOST = (OSError, aiohttp.ClientError)  # what a connection that fails raises


def _place(entry: Entry) -> Path:
    return data_root() / entry.path


def _record_path() -> Path:
    return data_root() / "fetched.json"


def _read_record(path: Path) -> dict[str, Any]:
    return read_json(path, "the record of what was fetched", "Delete it.") if path.exists() else {}


def _add_record(path: Path, name: str, value: dict[str, Any]) -> None:
    """Add to a JSON file that other processes may write too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        write_json(path, _read_record(path) | {name: value})


def is_there(entry: Entry) -> bool:
    """Whether the file is in its place, with the size that it has to have."""
    path = _place(entry)
    if not path.is_file():
        return False
    size = path.stat().st_size
    return size > 0 if entry.about else size == entry.n_bytes


def plan(entries: Sequence[Entry]) -> pd.DataFrame:
    """A row per file: path, kind, size, bytes that are there (partly too), and its state."""
    rows = []
    for entry in entries:
        part = _part(_place(entry))
        whole = is_there(entry)
        there = entry.n_bytes if whole else part.stat().st_size if part.exists() else 0
        state = "there" if whole else "begun" if there else "missing"
        size = _place(entry).stat().st_size if whole else entry.n_bytes
        rows.append(
            {
                "file": str(entry.path),
                "kind": entry.kind,
                "of": entry.subject or entry.backbone or entry.source,
                "bytes": size,
                "there": min(there, size),
                "state": state,
                "about": entry.about and not whole,
            }
        )
    return pd.DataFrame(rows)


def summary(entries: Sequence[Entry]) -> pd.DataFrame:
    """A row per subject, network or source and kind: files and bytes there, of how many."""
    rows = plan(entries)
    rows["whole"] = rows["state"] == "there"
    grouped = rows.groupby(["of", "kind"], sort=False)
    table = grouped.agg(
        files=("file", "size"), there=("whole", "sum"), size=("bytes", "sum"), has=("there", "sum")
    )
    return table.reset_index()


# Terms


def require_terms(manifest: Manifest, entries: Sequence[Entry], accepted: bool) -> None:
    """Pass if the terms of all sources are accepted, now or before; records what is accepted now.

    Raises:
        InputError: with the terms' address and meaning, and the option that accepts them.
    """
    path = data_root() / "terms.json"
    known = _read_record(path)
    for name in dict.fromkeys(e.source for e in entries):
        source = manifest.sources[name]
        if not source.accept or name in known:
            continue
        if not accepted:
            raise InputError(
                f"{source.title}: its terms ({source.terms}) have to be accepted first."
                f" They say: {source.meaning} If you have read and accept them, give"
                f" --accept-{name}-terms."
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        _add_record(path, name, {"terms": source.terms, "accepted": now})


# One file


@dataclass(frozen=True)
class _Remote:
    """A file as its server describes it."""

    fs: AbstractFileSystem
    path: str
    size: int
    tag: str  # ETag or time of change: another one is another file


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Where an address leads: S3, asked without a name, or HTTP."""
    if url.startswith("s3://"):
        endpoint = os.environ.get("BRAINMAPS_S3_ENDPOINT")
        return fsspec.core.url_to_fs(
            url,
            anon=True,
            use_listings_cache=False,
            client_kwargs={"endpoint_url": endpoint} if endpoint else {},
            config_kwargs={
                "connect_timeout": STALL,
                "read_timeout": STALL,
                "retries": {"max_attempts": 1},
            },
        )
    timeout = aiohttp.ClientTimeout(sock_connect=STALL, sock_read=STALL)
    return fsspec.core.url_to_fs(url, client_kwargs={"timeout": timeout}, use_listings_cache=False)


def _refusal(error: BaseException) -> str | None:
    """Why trying again can't help: the server said no, or that there is no such file."""
    cause = error.__cause__  # fsspec calls whatever went wrong over HTTP a missing file
    status = getattr(error, "status", None) or getattr(cause, "status", None)
    if isinstance(cause, LOST) and status is None:
        return None
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and status is None):
        return "no such file there (404). The address in data_manifest.yaml may be out of date."
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access refused (403). Check the source's terms and whether it asks for a login."
    return None


def _trying(do: Any, entry: Entry) -> Any:
    """`do()`, tried again after a growing pause where a connection fails.

    Raises:
        InputError: naming the address, when the server refuses or all tries failed.
    """
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return do()
        except LOST as error:
            if why := _refusal(error):
                raise InputError(f"{entry.url}: {why}") from error
            last = error
    raise InputError(
        f"{entry.url}: {type(last).__name__}: {last}; {TRIES} tries. What came is kept. {MEND}"
    ) from last


def _describe(entry: Entry) -> _Remote:
    fs, path = _filesystem(entry.url)
    fs.invalidate_cache()
    info = fs.info(path)
    if not info.get("size"):
        raise OSError(f"the server tells no size ({info.get('size')})")
    tag = info.get("ETag") or info.get("Last-Modified") or info.get("LastModified") or ""
    return _Remote(fs, path, int(info["size"]), str(tag).strip('"'))


def _block(remote: _Remote, start: int) -> bytes:
    """The bytes from `start`, one block or what is left.

    Raises:
        OSError: if the server sent another number of bytes.
    """
    end = min(start + BLOCK, remote.size)
    data = remote.fs.cat_file(remote.path, start=start, end=end)
    if len(data) == remote.size and (start, end) != (0, remote.size):
        data = data[start:end]  # a server that knows no ranges sends all
    if len(data) != end - start:
        raise OSError(f"{len(data):,} bytes came, {end - start:,} were asked for")
    return data


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _begin(path: Path, entry: Entry, remote: _Remote) -> int:
    """How much of the file is there already, of this very file; else 0, and nothing is there."""
    part, note = _part(path), path.with_name(path.name + ".part.json")
    now = {"url": entry.url, "size": remote.size, "tag": remote.tag}
    if part.exists() and note.exists() and json.loads(note.read_text("utf8")) == now:
        return min(part.stat().st_size, remote.size)
    part.unlink(missing_ok=True)
    write_json(note, now)
    return 0


def _wrong_checksum(path: Path, entry: Entry, tag: str) -> tuple[str | None, str]:
    """What is wrong with a file's checksum, or None; and its sha256."""
    hashes = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with path.open("rb") as f:
        while data := f.read(BLOCK):
            for hashed in hashes.values():
                hashed.update(data)
    found = {name: hashed.hexdigest() for name, hashed in hashes.items()}
    published = entry.checksum
    if published and not found[published.algorithm].startswith(published.value):
        return f"{published.algorithm} {found[published.algorithm]}; expected {published.value}" + (
            "…" if published.prefix else ""
        ), found["sha256"]
    plain_md5 = len(tag) == 32 and set(tag) <= set("0123456789abcdef")
    if entry.url.startswith("s3://") and plain_md5 and found["md5"] != tag:
        return f"md5 {found['md5']}; expected {tag}, as the bucket says", found["sha256"]
    return None, found["sha256"]


def _fetch_one(entry: Entry, bar: tqdm) -> Path:
    """One file, whole and right, in its place.

    Raises:
        InputError: naming the address or file; what was not wrong is kept to go on from.
    """
    path = _place(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(path.name + ".lock")):
        if is_there(entry):
            return path
        remote = _trying(lambda: _describe(entry), entry)
        if not entry.about and remote.size != entry.n_bytes:
            raise InputError(
                f"{entry.url}: {remote.size:,} bytes; data_manifest.yaml says {entry.n_bytes:,}."
                " The file was changed there: nothing was fetched."
            )
        part, at = _part(path), _begin(path, entry, remote)
        bar.total += remote.size - entry.n_bytes
        bar.update(at)
        with part.open("r+b" if part.exists() else "wb") as f:
            f.truncate(at)
            f.seek(at)
            while at < remote.size:
                start = at
                data = _trying(lambda start=start: _block(remote, start), entry)
                f.write(data)
                f.flush()
                at += len(data)
                bar.update(len(data))
            os.fsync(f.fileno())
        wrong, sha256 = _wrong_checksum(part, entry, remote.tag)
        if wrong:
            part.unlink()
            path.with_name(path.name + ".part.json").unlink()
            raise InputError(f"{entry.url}: {wrong}. Nothing was kept of it. {MEND}")
        part.replace(path)
        path.with_name(path.name + ".part.json").unlink(missing_ok=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        made = {"url": entry.url, "bytes": remote.size, "sha256": sha256, "fetched": now}
        _add_record(_record_path(), str(entry.path), made | {"tag": remote.tag})
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return path


# All files


def fetch(
    manifest: Manifest, entries: Sequence[Entry], jobs: int = 4, progress: bool | None = None
) -> list[Path]:
    """The files that were not there, fetched, and archives unpacked beside themselves.

    One that fails doesn't stop the others.

    Raises:
        InputError: if the disk is too small, or naming every file that failed and why.
    """
    for entry in entries:
        source = manifest.sources[entry.source]
        if source.manual and not is_there(entry):
            raise InputError(f"{_place(entry)}: not found; {source.title}: {source.how}")
    missing = [e for e in entries if not is_there(e)]
    rows = plan(missing)
    left = int((rows["bytes"] - rows["there"]).sum()) if missing else 0
    require_space(data_root(), left, "what is to be fetched")
    failures = []
    with (
        tqdm(
            total=sum(e.n_bytes for e in missing),
            unit="B",
            unit_scale=True,
            desc=f"{len(missing)} files",
            disable=progress if progress is None else not progress,
        ) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        under_way = [(e, pool.submit(_fetch_one, e, bar)) for e in missing]
        for entry, done in under_way:
            try:
                done.result()
            except InputError as error:
                failures.append(f"{entry.path}: {error}")
    if failures:
        raise InputError(
            f"{len(failures)} of {len(missing)} files were not fetched; the others are whole.\n"
            + "\n".join(failures)
        )
    for entry in entries:
        if entry.unpack:
            unpack(_place(entry), _place(entry).parent)
    return [_place(e) for e in missing]


def verify(entries: Sequence[Entry]) -> pd.DataFrame:
    """A row per file: right, wrong (with what was found), missing, or only its size known.

    A file is held against the published checksum, and against its sha256 when it was fetched.
    """
    record = _read_record(_record_path())
    rows = []
    for entry in tqdm(entries, desc="files verified", unit="file", disable=None):
        path, known = _place(entry), record.get(str(entry.path))
        state, found = "missing", ""
        if path.is_file():
            wrong, sha256 = _wrong_checksum(path, entry, "")
            if not wrong and known and known["sha256"] != sha256:
                wrong = f"sha256 {sha256}; expected {known['sha256']}, as fetched"
            if not wrong and not is_there(entry):
                wrong = f"{path.stat().st_size:,} bytes; expected {entry.n_bytes:,}"
            checked = bool(known or entry.checksum)
            state = "wrong" if wrong else "right" if checked else "no checksum, size only"
            found = wrong or ""
        rows.append({"file": str(entry.path), "state": state, "found": found})
    return pd.DataFrame(rows)
