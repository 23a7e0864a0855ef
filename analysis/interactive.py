"""The cortex to turn in a browser: one file with everything in it, that asks for nothing outside.

    whole_page([get_fit("sim01", "clip-mini")]).write("cortex.html")

A reader chooses a network and a map, turns the cortex, and takes a vertex to see what it chose. The
templates are in `templates/`; numbers travel as arrays in base64.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image

from analysis import model, surface
from analysis.cortical import (
    DIVERGING,
    LAYERS,
    category_colours,
    fold_greys,
    rows_on_mesh,
)
from analysis.files import HEMIS, InputError, whole_file
from analysis.fit import Fit
from analysis.subject import AREAS, Subject

TEMPLATES = Path(__file__).parent / "templates"
PER_MM = 200  # steps of a coordinate: 16 bits reach 163 mm
STEPS = 2**16 - 1  # of a layer's weight
PICTURE = 160  # pixels of the sample picture's side
LUTS = {"layer": LAYERS, "viridis": "viridis", "diverging": DIVERGING, "inferno": "inferno"}


@dataclass(frozen=True)
class Page:
    """An HTML file; shown in a notebook, it is a frame."""

    html: str
    title: str

    def _repr_html_(self) -> str:
        source = escape(self.html, quote=True)
        return (
            f'<iframe class="whole-page" title="{escape(self.title, quote=True)}"'
            f' width="100%" height="900" style="border:0" srcdoc="{source}"></iframe>'
        )

    def write(self, path: Path | str) -> Path:
        """The file, written whole."""
        with whole_file(Path(path)) as scratch:
            Path(scratch).write_text(self.html, "utf8")
        return Path(path)


def _packed(values: np.ndarray, kind: str) -> dict[str, str]:
    """An array as its type and its bytes, little-endian, in base64."""
    data = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()
    return {"type": kind, "bytes": base64.b64encode(data).decode()}


def _hemisphere(hemi: str, rows: Int[np.ndarray, " mesh"]) -> dict:
    """One hemisphere of fsaverage5: inflated and flat points, greys, and who stands where."""
    points, faces = surface.inflated(hemi, surface.FSAVERAGE5)
    flat, flat_faces = surface.flat(hemi)
    number = faces @ [surface.FSAVERAGE5**2, surface.FSAVERAGE5, 1]
    kept = np.isin(number, flat_faces @ [surface.FSAVERAGE5**2, surface.FSAVERAGE5, 1])
    return {
        "points": _packed(np.round(points * PER_MM), "int16"),
        "flat": _packed(np.round(flat[:, :2] * PER_MM), "int16"),
        "flat_faces": _packed(np.packbits(kept, bitorder="little"), "uint8"),
        "grey": _packed(
            np.round(255 * fold_greys(surface.sulc(hemi, surface.FSAVERAGE5))), "uint8"
        ),
        "row": _packed(rows, "int16"),
    }


def _network(
    fit: Fit,
    name: str,
    kept: Int[np.ndarray, " row"],
    cluster: Int[np.ndarray, " vertex"] | None,
) -> dict:
    """What one fit says of each vertex that is shown, as maps and as layer weights."""
    chosen, scores = fit.selectors(), fit.scores("test")
    layer, place = chosen.layer.numpy(), chosen.space.numpy()
    confidence, depth = (1 - model.entropy(chosen.layer)).numpy(), model.depth(chosen.layer).numpy()
    top = float(np.nanquantile(scores.ceiling, 0.99)) or 1.0
    of = f"R² of {scores.targets}, {scores.n_pictures} {scores.part} pictures"
    key = "across: layer of greatest weight; up: confidence, 1 − H / log L"
    left, up = "place, from −1 (left) to 1 (right)", "place, from −1 (top) to 1 (bottom)"
    scale = "scale (0 local token, 1 global token)"
    field = "receptive field (0 one point of the map, 1 of the map blurred)"
    ceiling = f"noise ceiling of {scores.targets}"
    rows = [
        ("layer", "Layer and confidence", key, confidence, "layer2d", 0, 1),
        ("depth", "Expected layer", "expected layer (0 first, 1 last)", depth, "layer", 0, 1),
        ("scale", "Scale", scale, chosen.scale[:, 0].numpy(), "diverging", 0, 1),
        ("x", "Place: horizontal", left, place[:, 0], "diverging", -1, 1),
        ("y", "Place: vertical", up, place[:, 1], "diverging", -1, 1),
        ("r2", "Score", of, scores.r2, "viridis", 0, top),
        ("ceiling", "Noise ceiling", ceiling, scores.ceiling, "viridis", 0, top),
    ]
    if chosen.size is not None:
        size = chosen.size[:, 0].numpy()
        rows.insert(5, ("size", "Receptive field", field, size, "diverging", 0, 1))
    if cluster is not None:
        title = "cluster of vertices by their channel weights"
        rows.append(
            ("cluster", "Channel cluster", title, cluster, "category", 0, int(cluster.max()))
        )
    columns = ("id", "name", "unit", "values", "scale", "low", "high")
    maps = [dict(zip(columns, row, strict=True)) for row in rows]
    for map_ in maps:
        map_["values"] = _packed(map_["values"][kept], "float32")
    names = [str(i + 1) for i in range(layer.shape[1])]
    weight = _packed(np.round(layer[kept] * STEPS), "uint16")
    return {"name": name, "layers": names, "weight": weight, "maps": maps}


def _picture(subject: Subject) -> str | None:
    """A picture to show places on, of a simulated subject only: others' may not be passed on."""
    if not subject.simulated:
        return None
    row = int(np.flatnonzero(subject.shared)[0])
    image = Image.fromarray(subject.pictures(slice(row, row + 1))[0])
    buffer = io.BytesIO()
    image.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _names(fits: Sequence[Fit]) -> list[str]:
    """The networks' names; with the fit's own, where two are of one network."""
    each = [fit.record["backbone"] for fit in fits]
    return [
        name if each.count(name) == 1 else f"{name} (fit {fit.folder.name.rsplit('-', 1)[-1]})"
        for name, fit in zip(each, fits, strict=True)
    ]


def whole_page(
    fits: Sequence[Fit], clusters: Mapping[str, Int[np.ndarray, " vertex"]] | None = None
) -> Page:
    """The interactive page of one subject, with a network for each fit.

    `clusters`: for some networks, by name, each vertex's channel cluster, from 0.

    Raises:
        InputError: for no fit, fits of several subjects, or a subject that is not on fsaverage.
    """
    if not fits:
        raise InputError("fits: none; expected at least one.")
    subject = fits[0].subject
    if len({fit.subject.identity for fit in fits}) > 1:
        raise InputError(
            f"fits: of {', '.join(sorted({f.subject.name for f in fits}))}, or of other data of one"
            " subject; expected fits of the same data."
        )
    if not subject.n_surface:
        raise InputError(
            f"{subject.name}: not on fsaverage, so its cortex can't be drawn; expected a subject"
            " whose vertices have fsaverage's numbers. `cortical.cortex` draws its coordinates."
        )
    on_mesh = [rows_on_mesh(subject, hemi) for hemi in HEMIS]
    kept = np.unique(np.concatenate(on_mesh))
    kept = kept[kept >= 0]
    areas = [area for area in AREAS if area in subject.rois]
    member = sum(
        (subject.rois[area][kept].astype(np.uint32) << bit for bit, area in enumerate(areas)),
        np.zeros(len(kept), np.uint32),
    )
    renumbered = np.full(len(subject.vertices) + 1, -1)  # the last: -1 stays -1
    renumbered[kept] = np.arange(len(kept))
    grouped = clusters or {}
    n_clusters = max((int(some.max()) + 1 for some in grouped.values()), default=0)
    luts = {name: colormaps[of](np.arange(256) / 255)[:, :3] for name, of in LUTS.items()}
    luts["category"] = np.array([to_rgb(c) for c in category_colours(n_clusters)]).reshape(-1, 3)
    data = {
        "per_mm": PER_MM,
        "faces": _packed(surface.topology(surface.FSAVERAGE5)[0], "uint16"),
        "hemis": [
            _hemisphere(hemi, renumbered[rows]) for hemi, rows in zip(HEMIS, on_mesh, strict=True)
        ],
        "areas": areas,
        "member": _packed(member, "uint32"),
        "vertex": _packed(subject.vertices[kept] % subject.n_surface, "uint32"),
        "backbones": [
            _network(fit, name, kept, grouped.get(fit.record["backbone"]))
            for fit, name in zip(fits, _names(fits), strict=True)
        ],
        "luts": {name: _packed(np.round(255 * lut), "uint8") for name, lut in luts.items()},
        "picture": _picture(subject),
    }
    title = f"Cortex of {subject.name}"
    note = (
        f"What each vertex of visual cortex reads of a network, {len(subject.vertices):,} vertices."
    )
    if len(kept) < len(subject.vertices):
        note += f" {len(kept):,} of them, those of the coarser mesh fsaverage5, are shown."
    if subject.simulated:
        note = f"Simulated data: no evidence about a brain. {note}"
    text = {
        "title": escape(title),
        "note": escape(note),
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }
    text |= {
        key: (TEMPLATES / name).read_text("utf8")
        for key, name in (("style", "cortex.css"), ("scene", "scene.js"), ("script", "cortex.js"))
    }
    html = (TEMPLATES / "cortex.html").read_text("utf8")
    for key, value in text.items():
        html = html.replace("{{" + key + "}}", value)
    return Page(html, title)
