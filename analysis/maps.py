"""Maps of a fit on its fsaverage mesh, as GIFTI and MGH files that other tools open.

    export(load_fit(folder), Path("maps"))
    write_gifti(path, hemisphere(fit, values, "lh"), "lh", ["a name"], "what it is")

Outside of the fit's vertices a map is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from scipy.spatial import KDTree

from analysis import mgh, model, surface
from analysis.files import HEMIS, Hemi, InputError, whole_file, write_json
from analysis.saved import SavedFit

STRUCTURES = {"lh": "CortexLeft", "rh": "CortexRight"}  # as Workbench names them
INDEX = "maps.json"
SUFFIXES = (".func.gii", ".mgh")  # that a map can be written as


@runtime_checkable
class OnCortex(Protocol):
    """What has vertices: a subject, or a fit."""

    n_surface: int  # vertices per hemisphere of the mesh; 0: not on fsaverage
    vertices: Int[np.ndarray, " vertex"]
    coordinates: Float[np.ndarray, "vertex 3"]
    rois: dict[str, Bool[np.ndarray, " vertex"]]


@dataclass(frozen=True)
class Map:
    """A value, or one for each layer, of every vertex of a fit."""

    name: str
    values: Float[np.ndarray, "vertex *layer"]
    unit: str
    lowest: float | None  # that it can be; None: no bound
    highest: float | None
    meaning: str


def hemisphere(
    of: OnCortex, values: Float[np.ndarray, "vertex *layer"], hemi: Hemi
) -> Float[np.ndarray, "mesh *layer"]:
    """Values of one hemisphere on the whole mesh, NaN where there are none."""
    whole = np.full((of.n_surface, *values.shape[1:]), np.nan, values.dtype)
    here = of.vertices // of.n_surface == HEMIS.index(hemi)
    whole[of.vertices[here] % of.n_surface] = values[here]
    return whole


def resampled(
    values: Float[np.ndarray, "mesh *layer"], hemi: Hemi, n_surface: int
) -> Float[np.ndarray, "other_mesh *layer"]:
    """Values on another size of fsaverage: those of the nearest vertex on the sphere."""
    target = surface.sphere(hemi, n_surface)[0]
    return values[KDTree(surface.sphere(hemi, len(values))[0]).query(target)[1]]


def choices(fit: SavedFit) -> dict[str, Float[np.ndarray, " vertex"]]:
    """Per vertex: expected depth, scale, place (x right, y down), confidence (Eq. 2), and the size
    of the receptive field where the model has one.
    """
    chosen = fit.selectors()
    found = {
        "depth": model.depth(chosen.layer),
        "scale": chosen.scale[:, 0],
        "x": chosen.space[:, 0],
        "y": chosen.space[:, 1],
        "confidence": 1 - model.entropy(chosen.layer),
    } | ({} if chosen.size is None else {"size": chosen.size[:, 0]})
    return {name: values.numpy() for name, values in found.items()}


def maps_of(fit: SavedFit) -> list[Map]:
    """All maps of a fit; of a rival, which selects nothing, those of its score alone."""
    score = fit.score("test")
    on = f"{score.n_pictures} {score.part} pictures, {score.targets}"
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(fit.ceiling > 0, fit.r2 / fit.ceiling, np.nan)
    scores = [
        Map("r2", fit.r2, "share of variance", None, 1, f"R² on {on}"),
        Map(
            "noise_ceiling", fit.ceiling, "share of variance", 0, 1, f"largest possible R² on {on}"
        ),
        Map("r2_of_ceiling", share, "share", None, None, "R² over noise ceiling, unclipped"),
    ]
    if fit.model.selectors() is None:
        return scores
    found, layer = choices(fit), fit.selectors().layer.numpy()
    names = ", ".join(fit.record["tokens"]["layer_names"])
    half = "of the picture's half width or height"
    blurred = "size of the receptive field: 0 one point of the map, 1 of the map blurred"
    size = [Map("size", found["size"], "share", 0, 1, blurred)] if "size" in found else []
    return scores + [
        Map("depth", found["depth"], "share of depth", 0, 1, "expected layer: 0 first, 1 last"),
        Map(
            "layer",
            layer.argmax(1) + np.float32(1),
            "layer, from 1",
            1,
            layer.shape[1],
            f"layer of the largest weight, of {names}",
        ),
        Map("confidence", found["confidence"], "share", 0, 1, "1 - H / log L of the layer weights"),
        Map("scale", found["scale"], "share", 0, 1, "0 local tokens, 1 the global token"),
        Map("x", found["x"], half, -1, 1, "place read: -1 left edge, 1 right edge"),
        Map("y", found["y"], half, -1, 1, "place read: -1 upper edge, 1 lower edge"),
        *size,
        Map("layer_weights", layer, "share", 0, 1, f"weight of each layer, in order: {names}"),
    ]


def write_gifti(
    path: Path,
    values: Float[np.ndarray, "mesh *layer"],
    hemi: Hemi,
    names: Sequence[str],
    meaning: str,
) -> None:
    """Write a .func.gii of one array, or of a named one for each column."""
    columns = values.reshape(len(values), -1).T.astype(np.float32)
    arrays = [
        GiftiDataArray(
            column,
            intent="NIFTI_INTENT_NONE",
            datatype="NIFTI_TYPE_FLOAT32",
            meta=GiftiMetaData({"Name": name}),
        )
        for name, column in zip(names, columns, strict=True)
    ]
    meta = GiftiMetaData({"AnatomicalStructurePrimary": STRUCTURES[hemi], "Description": meaning})
    with whole_file(path) as scratch:
        scratch.write_bytes(GiftiImage(meta=meta, darrays=arrays).to_bytes())


def provenance(fit: SavedFit) -> dict[str, Any]:
    """Which fit it is, of whom, and what made it, for the files that are made of it."""
    record = fit.record
    names = ("subject", "source", "backbone", "versions", "scores")
    kept = {name: record[name] for name in names}
    return kept | {"fit": fit.folder.name, "simulated": fit.simulated, "key": record["key"]}


def of_whom(fit: SavedFit) -> str:
    """The fit's subject and network in words; a simulated subject is named so."""
    kind = "SIMULATED subject, no evidence about a brain: " if fit.simulated else ""
    return f"{kind}{fit.record['subject']}, {fit.record['backbone']}"


def require_mesh(fit: SavedFit) -> None:
    """Pass if a fit's vertices lie on fsaverage.

    Raises:
        InputError: if they don't.
    """
    if not fit.n_surface:
        raise InputError(
            f"{fit.folder}: the vertices of {fit.record['subject']} are on no fsaverage mesh;"
            " expected vertices.npy and mesh.txt in its data, for maps on a surface."
        )


def export(
    fit: SavedFit, out: Path, full: bool = False, suffixes: Sequence[str] = SUFFIXES
) -> list[Path]:
    """Write every map as GIFTI and MGH for each hemisphere, and maps.json that says what each is.

    `full`: on the 163,842 vertices of fsaverage, by the nearest vertex, whatever the fit's mesh.
    maps.json is written last: where it is, all files of it are whole.

    Raises:
        InputError: for a fit that lies on no mesh.
    """
    require_mesh(fit)
    size = surface.FULL if full else fit.n_surface
    (out / INDEX).unlink(missing_ok=True)
    files = []
    for one in maps_of(fit):
        for hemi in HEMIS:
            values = hemisphere(fit, one.values.astype(np.float32), hemi)
            if size != fit.n_surface:
                values = resampled(values, hemi, size)
            layers = fit.record["tokens"]["layer_names"]
            names = [one.name] if values.ndim == 1 else [f"layer {name}" for name in layers]
            said = f"{one.name}: {one.meaning} ({one.unit}); {of_whom(fit)}"
            paths = [out / f"{hemi}.{one.name}{suffix}" for suffix in suffixes]
            for path in paths:
                if path.suffix == ".gii":
                    write_gifti(path, values, hemi, names, said)
                else:
                    mgh.write(path, values)
            known = values[np.isfinite(values)]
            files += [
                {
                    "file": path.name,
                    "map": one.name,
                    "hemisphere": hemi,
                    "unit": one.unit,
                    "meaning": one.meaning,
                    "possible": [one.lowest, one.highest],
                    "found": [float(known.min()), float(known.max())] if known.size else None,
                    "arrays": names,
                }
                for path in paths
            ]
    index = provenance(fit) | {
        "mesh": f"fsaverage, {size} vertices per hemisphere",
        "outside": "NaN",
        "files": files,
    }
    write_json(out / INDEX, index)
    return [out / row["file"] for row in files] + [out / INDEX]
