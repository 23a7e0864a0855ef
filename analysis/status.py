"""What lies in the data folder: subjects, token caches and fits, how large, how old."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis import features, simulate
from analysis.fetch import file_table
from analysis.files import NSDTree, data_root, features_root, fits_root
from analysis.manifest import data_manifest, select
from analysis.nsd import SESSIONS, SIMULATED


def _size_and_age(*paths: Path) -> dict[str, str]:
    """The bytes of files and folders, and the time since one of them last changed."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    n_bytes = sum(f.stat().st_size for f in files)
    hours = (time.time() - max((f.stat().st_mtime for f in files), default=time.time())) / 3600
    age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
    return {"size": f"{n_bytes / 1e6:,.1f} MB", "age": age}


def _nsd() -> Iterator[dict[str, str]]:
    """NSD's subjects of whom something is there, and what is missing of each."""
    tree = NSDTree(data_root() / "nsd")
    for name in SESSIONS:
        if not tree.beta_folder(name).is_dir():
            continue
        files = file_table(select(data_manifest(), [name]))
        missing = files[files["state"] != "whole"]
        state = f"{len(files) - len(missing)} of {len(files)} files"
        if len(missing):
            left = (missing["bytes"] - missing["present"]).sum()
            state += f", {left / 1e9:,.2f} GB to fetch"
        betas = tree.beta_folder(name)
        sessions = len(list(betas.glob("lh.betas_session*.mgh")))
        state = f"{sessions} sessions, {state}"
        yield {"kind": "subject", "name": name, "state": state} | _size_and_age(betas)
    if tree.stimuli.exists():
        row = {"kind": "pictures", "name": "nsd", "state": "whole"}
        yield row | _size_and_age(tree.stimuli)


def _simulated() -> Iterator[dict[str, str]]:
    for folder in sorted((data_root() / "simulated").glob("*/nsd")):
        suffix = f"-{folder.parent.name}".removeprefix("-fs5")
        tree = NSDTree(folder)
        for name in SIMULATED:
            betas = tree.beta_folder(name)
            if not betas.is_dir():
                continue
            state = f"{len(list(betas.glob('lh.betas_session*.mgh')))} sessions"
            if not simulate.is_complete(name + suffix):
                state += ", unfinished or of older code"
            yield {"kind": "subject", "name": name + suffix, "state": state} | _size_and_age(betas)
        if tree.stimuli.exists():
            row = {"kind": "pictures", "name": folder.parent.name, "state": "whole"}
            yield row | _size_and_age(tree.stimuli)


def _others() -> Iterator[dict[str, str]]:
    """Subjects of the Algonauts challenge and the reader's own."""
    for root, prefix in (("algonauts2023", "algonauts-"), ("own", "own-")):
        for folder in sorted(p for p in (data_root() / root).glob("*") if p.is_dir()):
            row = {"kind": "subject", "name": prefix + folder.name, "state": "checked when read"}
            yield row | _size_and_age(folder)


def _weights() -> Iterator[dict[str, str]]:
    weights = [f for f in data_manifest().files if f.backbone]
    for name in dict.fromkeys(f.backbone for f in weights):
        files = file_table([f for f in weights if f.backbone == name])
        if files["present"].any():
            n_whole = (files["state"] == "whole").sum()
            paths = [data_root() / f for f in files["file"] if (data_root() / f).exists()]
            row = {"kind": "weights", "name": name, "state": f"{n_whole} of {len(files)} files"}
            yield row | _size_and_age(*paths)


def _prepared() -> Iterator[dict[str, str]]:
    for folder in sorted(p for p in (data_root() / "prepared").glob("*") if p.is_dir()):
        whole = (folder / "record.json").exists()
        state = "whole" if whole else "under way or stopped: goes on when asked for"
        yield {"kind": "prepared", "name": folder.name, "state": state} | _size_and_age(folder)


def _caches() -> Iterator[dict[str, str]]:
    for folder in sorted(features_root().glob("*/manifest.json")):
        parts = features.read_manifest(folder.parent)["parts"]
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
    """A row per subject, stimulus file, network, prepared array, token cache and fit."""
    rows = [*_nsd(), *_simulated(), *_others(), *_weights(), *_prepared(), *_caches(), *_fits()]
    return pd.DataFrame(rows, columns=["kind", "name", "state", "size", "age"])
