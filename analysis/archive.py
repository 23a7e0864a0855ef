"""The files of a zip archive, unpacked into a folder: every member checked before one is written.

from analysis.archive import unpack
"""

import lzma
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from analysis.files import InputError, require, require_space

MOST_TIMES_LARGER = 200  # unpacked bytes per packed byte; surfaces and tables pack 2 to 20 times
AGAIN = "Remove the archive and fetch it again."
UNTRUSTED = "Nothing was unpacked: don't use this archive; ask where it was published."


def _objection(member: zipfile.ZipInfo) -> str | None:
    """What forbids unpacking a member, or None."""
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    if not name.strip("/.") or "\0" in name:
        return "has no name"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name:
        return "has a backslash in its name"
    if ".." in name.split("/"):
        return "leads out of the folder by '..'"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a symbolic link" if kind == stat.S_IFLNK else "is a special file"
    return "is encrypted" if member.flag_bits & 1 else None


def _members(archive: zipfile.ZipFile, path: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of an archive by their path in it, every member checked."""
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = PurePosixPath(member.orig_filename)
        objection = "is there twice" if name in files else _objection(member)
        if objection:
            raise InputError(
                f"{path}: its member {member.orig_filename!r} {objection}; expected plain files"
                f" under the archive's own folder. {UNTRUSTED}"
            )
        if not member.is_dir():
            files[name] = member
    for name in files:
        if inside := next((p for p in name.parents if p in files), None):
            raise InputError(
                f"{path}: its member {str(name)!r} lies in {str(inside)!r}, which is a file."
                f" {UNTRUSTED}"
            )
    return files


def _require_sane_size(path: Path, folder: Path, files: list[zipfile.ZipInfo]) -> None:
    """Pass if the files would not be absurdly larger than the archive, and the disk has room."""
    packed, total = path.stat().st_size, sum(member.file_size for member in files)
    if total > MOST_TIMES_LARGER * packed:
        largest = max(files, key=lambda member: member.file_size)
        raise InputError(
            f"{path}: its {packed:,} bytes unpack to {total:,} (its member"
            f" {largest.filename!r} to {largest.file_size:,}); expected at most"
            f" {MOST_TIMES_LARGER} times the archive. {UNTRUSTED}"
        )
    require_space(folder, total, f"unpacking {path.name}")


def _absent(
    path: Path, folder: Path, files: dict[PurePosixPath, zipfile.ZipInfo]
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files not yet in the folder.

    Raises:
        InputError: if a file is there with another size, so that it is never overwritten.
    """
    for name, member in files.items():
        there = folder / name
        if there.exists() and (there.is_dir() or there.stat().st_size != member.file_size):
            found = "a folder" if there.is_dir() else f"{there.stat().st_size:,} bytes"
            raise InputError(
                f"{there}: {found}; {path} holds it with {member.file_size:,} bytes."
                " Nothing was unpacked: move it away and run again."
            )
    return {name: member for name, member in files.items() if not (folder / name).exists()}


def unpack(path: Path, folder: Path) -> list[Path]:
    """The files of a zip archive, now in the folder; those there with their size are kept.

    The files are written to a scratch folder inside and renamed when all are whole. Two processes
    must not unpack one archive at once: the caller holds a lock.

    Raises:
        InputError: naming the archive and the member, if the archive is damaged, a member is
            unsafe, the whole is absurdly large, or a file is there with another size.
    """
    require(path, "a zip archive", "Fetch it.")
    scratch = folder / f".{path.name}.unpacking"
    name = None
    try:
        with zipfile.ZipFile(path) as archive:
            files = _members(archive, path)
            absent = _absent(path, folder, files)
            _require_sane_size(path, folder, list(absent.values()))
            if scratch.exists():  # left by a process that was killed
                shutil.rmtree(scratch)
            for name, member in absent.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, (scratch / name).open("xb") as target:
                    shutil.copyfileobj(source, target, 2**20)
        for name in absent:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).rename(folder / name)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        member = f"its member {str(name)!r} is damaged" if name else "not a whole zip archive"
        raise InputError(f"{path}: {member} ({error}). {AGAIN}") from error
    finally:
        if scratch.exists():
            shutil.rmtree(scratch)
    return [folder / name for name in files]
