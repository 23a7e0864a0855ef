"""What lies in the data folder: subjects, token caches and fits, how large, how old."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis import manifest, simulate
from analysis.features import read_manifest
from analysis.fetch import plan
from analysis.files import NSDTree, data_root, features_root, fits_root
from analysis.nsd import SESSIONS, SIMULATED


def _size_and_age(*paths: Path) -> dict[str, str]:
    """The bytes of files and folders, and the time since one of them last changed."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    n_bytes = sum(f.stat().st_size for f in files)
    hours = (time.time() - max((f.stat().st_mtime for f in files), default=time.time())) / 3600
    age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
    return {"size": f"{n_bytes / 1e6:,.1f} MB", "age": age}


def _subjects() -> Iterator[dict[str, str]]:
    trees = {"nsd": (NSDTree(data_root() / "nsd"), SESSIONS, "")}
    for size in simulate.SIZES:
        suffix = "" if size == "fs5" else f"-{size}"
        trees[size] = (simulate.simulated_tree(size), SIMULATED, suffix)
    for size, (tree, names, suffix) in trees.items():
        for name in names:
            betas = tree.beta_folder(name)
            if not betas.is_dir():
                continue
            sessions = len(list(betas.glob("lh.betas_session*.mgh")))
            state = f"{sessions} sessions"
            if size == "nsd":
                files = plan(manifest.select(manifest.read_manifest(), [name]))
                state += f", {(files['state'] == 'there').sum()} of {len(files)} files"
            elif not simulate.is_complete(f"{name}{suffix}"):
                state += ", unfinished or of older code"
            yield {"kind": "subject", "name": name + suffix, "state": state} | _size_and_age(betas)
        if tree.stimuli.exists():
            row = {"kind": "pictures", "name": size, "state": "whole"}
            yield row | _size_and_age(tree.stimuli)


def _prepared() -> Iterator[dict[str, str]]:
    for folder in sorted(p for p in (data_root() / "prepared").glob("*") if p.is_dir()):
        whole = (folder / "record.json").exists()
        state = "whole" if whole else "under way or stopped: goes on when asked for"
        yield {"kind": "prepared", "name": folder.name, "state": state} | _size_and_age(folder)


def _caches() -> Iterator[dict[str, str]]:
    for folder in sorted(features_root().glob("*/manifest.json")):
        parts = read_manifest(folder.parent)["parts"]
        pictures = sum(len(p["pictures"]) for p in parts.values())
        row = {"kind": "tokens", "name": folder.parent.name, "state": f"{pictures:,} pictures"}
        yield row | _size_and_age(folder.parent)


def _fits() -> Iterator[dict[str, str]]:
    for folder in sorted(p for p in fits_root().glob("*/*") if p.is_dir()):
        record = folder / "fit.json"
        state = "under way or stopped: goes on when asked for"
        if record.exists():
            result = json.loads(record.read_text("utf8"))["result"]
            state = f"validation R² {result['validation_r2']:.3f}, {result['steps']:,} steps"
        name = f"{folder.parent.name}/{folder.name}"
        yield {"kind": "fit", "name": name, "state": state} | _size_and_age(folder)


def overview() -> pd.DataFrame:
    """A row per subject, stimulus file, prepared array, token cache and fit, and how it stands."""
    rows = [*_subjects(), *_prepared(), *_caches(), *_fits()]
    return pd.DataFrame(rows, columns=["kind", "name", "state", "size", "age"])
