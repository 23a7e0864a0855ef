"""Links by which a page's tables (CSV) and maps (GIFTI) are taken away.

    Table(frame)                      # a table with a link to its numbers, unrounded
    fit_maps(fit)                     # a link to a zip of every map of a fit
    maps(subject, {"difference": values}, "share of variance", "difference")
    layers(subject, {"clip-mini": (weights, confidence)}, "layers")

A table in Markdown is given its link by the book: book/_ext/alone.py.
"""

import io
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pandas.io.formats.style import Styler

from analysis import model
from analysis.files import HEMIS, InputError, folder_name
from analysis.links import Link
from analysis.maps import OnCortex, export, hemisphere, write_gifti
from analysis.saved import SavedFit


class Table(Styler):
    """A table as pandas styles it, with a link to its numbers below."""

    def __init__(self, shown: pd.DataFrame, numbers: pd.DataFrame | None = None) -> None:
        super().__init__(shown)
        self.numbers = shown if numbers is None else numbers

    def _repr_html_(self) -> str | None:
        shown = super()._repr_html_()
        return shown and shown + csv(self.numbers).html


def csv(table: pd.DataFrame, name: str = "table") -> Link:
    """A link to a table's numbers, unrounded; text is without the marks that keep lines whole."""
    plain = table.map(lambda cell: cell.replace("\u2060", "") if isinstance(cell, str) else cell)
    text = plain.to_csv(index=False, lineterminator="\n")
    return Link(f"{name}.csv", text.encode("utf8"), "Table as CSV")


def zipped(folder: Path) -> bytes:
    """All files of a folder, the same bytes for the same files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for path in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(path.name)  # without the time of day
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return held.getvalue()


def fit_maps(fit: SavedFit) -> Link:
    """Every map of a fit as GIFTI, with maps.json that says what each is.

    Raises:
        InputError: for a fit that lies on no mesh.
    """
    with tempfile.TemporaryDirectory() as scratch:
        export(fit, Path(scratch), suffixes=(".func.gii",))
        data = zipped(Path(scratch))
    name = f"{fit.record['subject']}-{fit.record['backbone']}-maps.zip"
    return Link(name, data, "All maps of this fit as GIFTI")


def maps(
    on: OnCortex | Sequence[OnCortex],
    values: Mapping[str, Float[np.ndarray, " _vertex"]],
    unit: str,
    name: str,
) -> Link:
    """Named maps of one unit as GIFTI, a file for each hemisphere with an array for each map.

    Of several people, `on` is one for each map, and each map has its own files.

    Raises:
        InputError: for no map, or where the vertices lie on no mesh.
    """
    sheets = {name: (on, values)}
    if isinstance(on, Sequence):
        each = zip(on, values.items(), strict=True)
        sheets = {f"{name}-{folder_name(k)}": (one, {k: v}) for one, (k, v) in each}
    with tempfile.TemporaryDirectory() as scratch:
        for sheet, (one, some) in sheets.items():
            if not (some and one.n_surface):
                lacking = "mesh" if some else "maps"
                raise InputError(f"{sheet}: no {lacking}; expected maps of vertices on fsaverage.")
            stacked = np.stack([v.astype(np.float32) for v in some.values()], axis=1)
            for hemi in HEMIS:
                path = Path(scratch) / f"{hemi}.{sheet}.func.gii"
                said = f"{sheet} ({unit})"
                write_gifti(path, hemisphere(one, stacked, hemi), hemi, list(some), said)
        data = zipped(Path(scratch))
    return Link(f"{name}.zip", data, "These maps as GIFTI")


def layers(
    on: OnCortex | Sequence[OnCortex],
    read: Mapping[
        str, tuple[Float[np.ndarray, "_vertex _layer"], Float[np.ndarray, " _vertex"]] | None
    ],
    name: str,
) -> Link:
    """Of each network's layer weights and confidence: expected layer, and confidence, as `maps`.

    Takes what `cortical.small_layers` draws.

    Raises:
        InputError: as `maps`.
    """
    values, whose = {}, []
    people = on if isinstance(on, Sequence) else [on] * len(read)
    for person, (network, of) in zip(people, read.items(), strict=True):
        if of is not None:
            depth = model.depth(torch.from_numpy(of[0])).numpy()
            values |= {f"{network}, expected layer": depth, f"{network}, confidence": of[1]}
            whose += [person, person]
    unit = "expected layer 0 the first, 1 the last; confidence 0 to 1"
    return maps(whose if isinstance(on, Sequence) else on, values, unit, name)
