"""Small records, by names, of what was made and which files hold it: they tell what is there.

    path = receipt("fit", names)
    note(path, files)           # by who made or read it, a page or a job
    stands(path)                # True while all its files are there

What decides a fit is hashed from data, which takes seconds to read. Who plans thousands of fits
asks here, by the names that they are asked for by, and loads no data and no torch. A receipt only
saves time: with none, what is there is still found and read, never made twice.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from analysis.files import MissingFile, data_root, digest, folder_name, write_json
from analysis.versions import VERSIONS

Kind = Literal["fetched", "simulated", "subject", "tokens", "finetuned", "fit", "page"]


def receipt(kind: Kind, label: str, names: Mapping[str, Any]) -> Path:
    """Where the receipt of what these names stand for lies; `label` is for who reads the folder."""
    key = digest({"names": dict(names), "versions": VERSIONS})
    return data_root() / "receipts" / kind / f"{folder_name(label)}-{key[:16]}.json"


def note(path: Path, files: Iterable[Path], growing: Iterable[Path] = ()) -> None:
    """Write a receipt of files, unless it says the same already.

    `growing`: files that others add to, so that their size says nothing.

    Raises:
        MissingFile: if one of them is not there.
    """
    root, growing = data_root(), list(growing)
    sizes: dict[str, int | None] = {}
    for file in [*files, *growing]:
        if not file.is_file():
            raise MissingFile(f"{file}: not there; expected what was just made.")
        inside = file.is_relative_to(root)
        name = str(file.relative_to(root) if inside else file)
        sizes[name] = None if file in growing else file.stat().st_size
    if path.exists() and _sizes(path) == sizes:
        return
    write_json(path, {"files": sizes})


def _sizes(path: Path) -> dict[str, int | None] | None:
    """What a receipt says; None where it says nothing that can be read."""
    try:
        return dict(json.loads(path.read_text("utf8"))["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def stands(path: Path) -> bool:
    """Whether there is such a receipt and each file that it names is there, of that size."""
    sizes = _sizes(path)
    if not sizes:
        return False
    there = {name: _size(data_root() / name) for name in sizes}
    return all(there[name] is not None and n in (None, there[name]) for name, n in sizes.items())
