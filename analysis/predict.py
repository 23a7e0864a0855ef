"""Pictures to predicted responses, means over ROIs and maps, from a saved fit alone.

    python -m analysis predict sim01/clip-mini photos/ --out predicted

No fMRI data are read, and no token cache: the network is loaded by the name in the fit, held
against the identity of the one it was fitted to, and run on the pictures a batch at a time.
"""

import copy
import csv
import dataclasses
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from tqdm import tqdm

from analysis.backbones import Backbone, load_backbone
from analysis.cortical import cortex
from analysis.extraction import batch_size, pooled
from analysis.features import cache_key
from analysis.files import (
    HEMIS,
    InputError,
    MissingFile,
    require_space,
    whole_file,
    write_json,
)
from analysis.maps import hemisphere, of_whom, provenance, write_gifti
from analysis.pictures import MEND, SUFFIXES, read_picture
from analysis.saved import SavedFit
from analysis.study import the_view

INDEX = "roi_means.json"
UNIT = "BOLD z-score"
READERS = 4  # pictures decoded at a time
TOLD = 10  # unreadable pictures named in a message


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What was predicted, and where it lies."""

    out: Path
    pictures: list[Path]
    skipped: dict[Path, str]  # unreadable pictures, and why
    rois: list[dict[str, Any]]  # a row each: what `roi_rows` gives, and its mean over pictures


def natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def find_pictures(given: Sequence[Path]) -> list[Path]:
    """The pictures named, and those in the folders named, in natural order within a folder.

    Raises:
        InputError: for what is not there, or a folder without pictures.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            files = [p for p in path.iterdir() if not p.name.startswith(".")]
            inside = sorted((p for p in files if p.suffix.lower() in SUFFIXES), key=natural)
            if not inside:
                raise InputError(
                    f"{path}: no pictures in this folder; expected {', '.join(SUFFIXES)}. Name"
                    " files of another kind one by one."
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise MissingFile(f"{path}: not found; expected a picture, or a folder of pictures.")
    return found


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """The pictures that can't be read to their end, and why."""

    def why(path: Path) -> str | None:
        try:
            read_picture(path)
        except InputError as error:
            return str(error).removesuffix(MEND).rstrip()
        return None

    with ThreadPoolExecutor(READERS) as pool:
        return {p: said for p, said in zip(paths, pool.map(why, paths), strict=True) if said}


def readable(paths: Sequence[Path], skip: bool) -> tuple[list[Path], dict[Path, str]]:
    """The pictures that can be read, and with `skip` those that can't.

    Raises:
        InputError: naming and counting those that can't be read, or if none can.
    """
    wrong = unreadable(paths)
    if len(wrong) == len(paths) or (wrong and not skip):
        named = "\n".join(list(wrong.values())[:TOLD])
        more = f"\nand {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
        raise InputError(
            f"{len(wrong)} of {len(paths)} pictures can't be read; nothing was predicted. Use"
            f" --skip to leave them out.\n{named}{more}"
        )
    return [p for p in paths if p not in wrong], wrong


def load_network(fit: SavedFit, weights: str | None = None) -> Backbone:
    """The network that a fit reads, on a GPU where there is one.

    `weights`: where they lie here, if elsewhere than when the fit was made.

    Raises:
        InputError: if it can't be had, or differs from the network that was fitted.
    """
    name, made = fit.record["backbone"], fit.record["tokens"]
    network = load_backbone(name, weights or made["weights"], made["normalisation"])
    if cache_key(the_view(network), fit.form) != made["key"]:
        raise InputError(
            f"backbone {name!r}, weights={weights or made['weights']!r}: not the network that"
            f" {fit.folder} was fitted to: its weights, preprocessing or tokens differ. Give the"
            " weights of that fit by --weights, or fit this network."
        )
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


def responses(
    fit: SavedFit, network: Backbone, pictures: Sequence[Path]
) -> Iterator[Float[np.ndarray, "batch vertex"]]:
    """Predicted responses (BOLD z-score) to picture files of any size, a batch at a time.

    Raises:
        InputError: if a response is not finite.
    """
    at_once = batch_size(network, np.stack([read_picture(pictures[0])]))
    device = next(network.parameters(), torch.empty(0)).device
    model, name = copy.deepcopy(fit.model).to(device), the_view(network).name
    with torch.inference_mode():
        chosen = model.selectors()
    for start in range(0, len(pictures), at_once):
        some = pictures[start : start + at_once]
        read = [read_picture(path) for path in some]
        out = []
        for _, alike in groupby(read, lambda picture: picture.shape):
            local, global_ = pooled(network, np.stack(list(alike)), fit.form, {name})[name]
            with torch.inference_mode():
                out.append(model(local, global_, chosen).cpu().numpy())
        batch = np.concatenate(out)
        if not (finite := np.isfinite(batch).all(1)).all():
            raise InputError(f"{some[int(finite.argmin())]}: responses to it are not finite.")
        yield batch


def roi_rows(fit: SavedFit) -> list[dict[str, Any]]:
    """A row for all vertices and one per ROI: its size, the fit's R² and the noise ceiling there.

    None where no vertex has a known value.
    """
    every = {"all": np.ones(len(fit.vertices), bool)} | fit.rois
    rows = []
    for name, mask in every.items():
        row: dict[str, Any] = {"roi": name, "vertices": int(mask.sum())}
        for column, values in (("test_r2", fit.r2[mask]), ("noise_ceiling", fit.ceiling[mask])):
            known = values[np.isfinite(values)]
            row[column] = float(known.mean()) if len(known) else None
        rows.append(row)
    return rows


def predict(
    fit: SavedFit,
    given: Sequence[Path],
    out: Path,
    weights: str | None = None,
    skip: bool = False,
    each: bool = False,
) -> Predicted:
    """Predict the responses to pictures, and write them to a folder.

    responses.npy [picture, vertex]; roi_means.csv and roi_means.json; and the mean over pictures as
    mean.png and a .func.gii for each hemisphere (none of a fit on no mesh). roi_means.json is
    written last: where it is, all is whole.

    `skip`: leave unreadable pictures out. `each`: a map of every picture too, in maps/.

    Raises:
        InputError: for pictures that can't be read, or a network that is not the fit's.
    """
    pictures, skipped = readable(find_pictures(given), skip)
    network = load_network(fit, weights)
    rois = roi_rows(fit)
    masks = np.stack([np.ones(len(fit.vertices), bool), *fit.rois.values()])
    share = (masks / masks.sum(1, keepdims=True)).T  # [vertex, roi]
    n_bytes = 4 * len(pictures) * len(fit.vertices)
    require_space(out, n_bytes, f"responses of {len(fit.vertices):,} vertices to all pictures")
    (out / INDEX).unlink(missing_ok=True)
    means, total = [], np.zeros(len(fit.vertices))
    with whole_file(out / "responses.npy") as scratch:
        shape = (len(pictures), len(fit.vertices))
        kept = np.lib.format.open_memmap(scratch, "w+", np.float32, shape)
        done = 0
        with tqdm(total=len(pictures), unit="picture", disable=None) as bar:
            for batch in responses(fit, network, pictures):
                kept[done : done + len(batch)] = batch
                done += len(batch)
                means.append(batch @ share)
                total += batch.sum(0, dtype=np.float64)
                bar.update(len(batch))
        kept.flush()
    by_roi = np.concatenate(means)  # [picture, roi]
    _write_means(fit, out, pictures, rois, by_roi)
    what = f"mean response to {len(pictures):,} pictures"
    _write_map(fit, out, "mean", total / len(pictures), what)
    for i, picture in enumerate(pictures if each else ()):
        values = kept[i].astype(np.float64)
        _write_map(fit, out / "maps", f"{i + 1:05d}_{picture.stem}", values, picture.name)
    index = provenance(fit) | {
        "unit": UNIT,
        "rois": rois,
        "pictures": [
            {"picture": str(path), "means": dict(zip((r["roi"] for r in rois), row, strict=True))}
            for path, row in zip(pictures, by_roi.tolist(), strict=True)
        ],
        "skipped": {str(path): why for path, why in skipped.items()},
    }
    write_json(out / INDEX, index)
    over = by_roi.mean(0).tolist()
    summary = [row | {"mean": value} for row, value in zip(rois, over, strict=True)]
    return Predicted(out, pictures, skipped, summary)


def _write_means(
    fit: SavedFit,
    out: Path,
    pictures: Sequence[Path],
    rois: list[dict[str, Any]],
    by_roi: Float[np.ndarray, "picture roi"],
) -> None:
    """roi_means.csv: a row per picture and ROI."""
    with whole_file(out / "roi_means.csv") as scratch, scratch.open("w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["picture", "roi", "mean", "vertices", "test_r2", "noise_ceiling"])
        for path, row in zip(pictures, by_roi.tolist(), strict=True):
            for of, value in zip(rois, row, strict=True):
                said = [of["vertices"], of["test_r2"], of["noise_ceiling"]]
                table.writerow([path, of["roi"], value, *said])


def _write_map(
    fit: SavedFit, out: Path, name: str, values: Float[np.ndarray, " vertex"], what: str
) -> None:
    """A map as a picture, and as GIFTI where the fit lies on a mesh."""
    said = f"predicted {what} ({UNIT}); {of_whom(fit)}"
    for hemi in HEMIS if fit.n_surface else ():
        path = out / f"{hemi}.{name}.func.gii"
        write_gifti(path, hemisphere(fit, values, hemi), hemi, [f"predicted {what}"], said)
    with plt.rc_context({**seaborn.axes_style("ticks"), "font.size": 10}):
        _save(_drawn(fit, values, what), out / f"{name}.png")


def _drawn(fit: SavedFit, values: Float[np.ndarray, " vertex"], what: str) -> Figure:
    """The map on the cortex, its colours the same either side of zero."""
    top = float(np.abs(values).max()) or 1.0
    simulated = ", simulated" if fit.simulated else ""
    figure = cortex(fit, values, f"predicted response, {UNIT}", "coolwarm", (-top, top))
    figure.suptitle(f"{what} ({fit.record['subject']}{simulated})", fontsize=10, y=0.99)
    return figure


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and forget it."""
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=150, bbox_inches="tight")
    plt.close(figure)
