"""Maps on the cortex: four sides of the inflated surface and a flat one, with ROIs drawn on.

    cortex(subject, scores.r2, "R² of single trials", limits=(0, 0.4))

Of a subject that is not on fsaverage: its vertices from behind, from a side and from above.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from analysis import surface
from analysis.files import HEMIS, Hemi
from analysis.maps import OnCortex, hemisphere, resampled
from analysis.subject import AREAS
from analysis.views import MM, SIDES, Seen, View, outline, seen

NAMES = {"lh": "left", "rh": "right"}
LAYERS = "coolwarm"  # blue early, red late
DIVERGING = "PuOr_r"
# Okabe and Ito's colours, which the colour-blind can tell apart, then those of seaborn between.
CATEGORIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
GYRUS, SULCUS = 0.74, 0.6  # greys that stand on a light and on a dark page
AROUND = 12.0  # mm of cortex shown around the subject's vertices
FONT = 6.5  # points, of names
WIDTH = 7.0  # inches: that of the book's column
ENOUGH = 225  # pixels of a view per inch: more than are drawn


def rows_on_mesh(subject: OnCortex, hemi: Hemi) -> Int[np.ndarray, " mesh"]:
    """The subject's vertex that stands at each vertex of fsaverage5; -1 where none does.

    A larger mesh is cut to its first vertices, which are fsaverage5's; a smaller one goes to the
    nearest.
    """
    rows = hemisphere(subject, np.arange(len(subject.vertices), dtype=float), hemi)
    if subject.n_surface >= surface.FSAVERAGE5:
        rows = rows[: surface.FSAVERAGE5]
    else:
        rows = resampled(rows, hemi, surface.FSAVERAGE5)
    return np.nan_to_num(rows, nan=-1).astype(int)


def fold_greys(folds: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Greys of bare cortex by its sulcal depth: gyri lighter."""
    return GYRUS + (SULCUS - GYRUS) * (0.5 + 0.5 * np.tanh(2 * folds))


def painted(
    view: Seen,
    rows: Int[np.ndarray, " mesh"],
    folds: Float[np.ndarray, " mesh"],
    colours: Float[np.ndarray, "vertex 4"],
    blend: bool,
) -> Float[np.ndarray, "height width 4"]:
    """A picture of vertices' colours over the greys of the folds.

    `blend`: between vertices that have a colour; else each pixel has that of its nearest vertex.
    """
    on_mesh = np.where(rows[:, None] < 0, 0.0, colours[rows])
    grey = fold_greys(view.field(folds))
    brain = np.isfinite(grey)
    picture = np.stack([np.where(brain, grey, 0)] * 3 + [brain.astype(float)], 2)
    has = brain & (on_mesh[view.nearest, 3] > 0)
    if blend:
        corner = view.corner[has]
        share = view.share[has] * (on_mesh[corner, 3] > 0)
        mixed = np.einsum("pc,pck->pk", share, on_mesh[corner])
        picture[has] = mixed / np.maximum(share.sum(1), 1e-9)[:, None]
    else:
        picture[has] = on_mesh[view.nearest[has]]
    return picture


def _outlines(
    axis: Axes, subject: OnCortex, rows: Int[np.ndarray, " mesh"], hemi: Hemi, side: View
) -> None:
    """Draw the borders of the areas of Table 4, and their names where there is room.

    Larger areas are named first; a name that would cover another one is left out.
    """
    found = {}
    for name in (area for area in AREAS if area in subject.rois):
        if edge := outline(hemi, side, (rows >= 0) & subject.rois[name][rows]):
            found[name] = edge
    lines = [line for edge in found.values() for line in edge.lines]
    halo = [withStroke(linewidth=1.3, foreground="#ffffffb0")]
    axis.add_collection(
        LineCollection(lines, colors="black", linewidths=0.6, path_effects=halo), autolim=False
    )
    to_points = axis.transData.transform
    drawn: list[np.ndarray] = []
    for name, edge in sorted(found.items(), key=lambda item: -item[1].room):
        at = to_points(edge.middle) * 72 / axis.figure.dpi
        size = np.array([FONT * 0.7 * len(name), FONT])
        points = np.ptp(to_points([(0, 0), (1, 0)])[:, 0]) * 72 / axis.figure.dpi / MM  # of a mm
        (left, low), (right, top) = axis.get_window_extent().get_points() * 72 / axis.figure.dpi
        inside = (at > [left, low] + size / 2).all() and (at < [right, top] - size / 2).all()
        clear = all((np.abs(at - other) > (size + extent) / 2).any() for other, extent in drawn)
        if inside and clear and 2 * edge.room * points >= 0.6 * FONT:
            drawn.append((at, size))
            axis.text(
                *edge.middle,
                name,
                fontsize=FONT,
                ha="center",
                va="center",
                color="black",
                path_effects=[withStroke(linewidth=1.5, foreground="white")],
            )


def draw(
    axis: Axes,
    subject: OnCortex,
    colours: Float[np.ndarray, "vertex 4"],
    hemi: Hemi,
    side: View,
    blend: bool = True,
) -> None:
    """One view of one hemisphere in vertices' colours; nothing where a colour is transparent.

    It fills the axis with what the subject has, and some of the cortex around it.
    """
    view, rows = seen(hemi, side), rows_on_mesh(subject, hemi)
    width, height = axis.get_position().size * axis.figure.get_size_inches()
    brain = view.nearest >= 0
    has = brain & (rows[view.nearest] >= 0)
    shown = np.argwhere(has if has.any() else brain)  # row and column of each pixel
    low, high = shown.min(0), shown.max(0)
    half = ((high - low) / 2 + AROUND / MM) / [height, width]  # rows, columns
    half = half.max() * np.array([height, width])
    (bottom, left), (top, right) = (low + high) / 2 - half, (low + high) / 2 + half
    step = max(1, int((right - left) / (width * ENOUGH)))
    # of both directions, the first pixel in the axis and those after it
    y, x = (slice(max(0, int(first)), int(last) + 2, step) for first, last in
            ((bottom, top), (left, right)))  # fmt: skip
    picture = painted(view.part(y, x), rows, surface.sulc(hemi, surface.FSAVERAGE5), colours, blend)
    edges = [
        edge - step / 2
        for along, n in ((x, picture.shape[1]), (y, picture.shape[0]))
        for edge in (along.start, along.start + n * step)
    ]
    axis.imshow(picture, origin="lower", aspect="auto", extent=edges)
    axis.set(xlim=(left, right), ylim=(bottom, top))
    _outlines(axis, subject, rows, hemi, side)
    axis.axis("off")


def _sheet(
    subject: OnCortex, colours: Float[np.ndarray, "vertex 4"], blend: bool = True
) -> tuple[Figure, Axes | None]:
    """Both hemispheres laid flat, and from four sides; with an axis for the key of the colours."""
    if not subject.n_surface:
        return _points(subject, colours)
    figure = plt.figure(figsize=(WIDTH, 4.3))
    axes, around = {}, [side for side in SIDES if side != "flat"]
    for column, hemi in enumerate(HEMIS):
        axes[hemi, "flat"] = figure.add_axes((0.41 * column, 0.36, 0.4, 0.59))
        axes[hemi, "flat"].set_title(f"{NAMES[hemi]}, flat", fontsize=9)
        for i, side in enumerate(around if column == 0 else around[::-1]):
            axes[hemi, side] = figure.add_axes((0.41 * column + 0.101 * i, 0, 0.097, 0.29))
            axes[hemi, side].set_title(side, fontsize=7, pad=3)
    for (hemi, side), axis in axes.items():
        draw(axis, subject, colours, hemi, side, blend)
    return figure, figure.add_axes((0.85, 0.36, 0.02, 0.5))


def _points(subject: OnCortex, colours: Float[np.ndarray, "vertex 4"]) -> tuple[Figure, Axes]:
    """The vertices where their coordinates are, in three projections."""
    figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 2.4), width_ratios=[1, 1, 1, 0.05])
    for axis, (title, across, up) in zip(
        axes, (("posterior", 0, 2), ("lateral", 1, 2), ("superior", 0, 1)), strict=False
    ):
        axis.scatter(subject.coordinates[:, across], subject.coordinates[:, up], s=4, c=colours)
        axis.set(title=title, xlabel=f"{'xyz'[across]} (mm)", ylabel=f"{'xyz'[up]} (mm)")
        axis.set_aspect("equal", "datalim")
    seaborn.despine(figure)
    figure.tight_layout()
    return figure, axes[3]


def in_colours(
    values: Float[np.ndarray, " vertex"], colours: str, limits: tuple[float, float]
) -> tuple[Float[np.ndarray, "vertex 4"], ScalarMappable]:
    """Values in the colours of a scale, transparent where NaN, and the scale."""
    scale = ScalarMappable(Normalize(*limits), colours)
    rgba = scale.to_rgba(values)
    rgba[~np.isfinite(values)] = 0
    return rgba, scale


def cortex(
    subject: OnCortex,
    values: Float[np.ndarray, " vertex"],
    label: str,
    colours: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A map of values, with the colours' scale; `label` says what and in which unit."""
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    rgba, scale = in_colours(values, colours, (low, high))
    figure, key = _sheet(subject, rgba)
    figure.colorbar(scale, cax=key, label=label)
    return figure


def difference(
    subject: OnCortex,
    values: Float[np.ndarray, " vertex"],
    label: str,
    largest: float | None = None,
) -> Figure:
    """A map of differences: two hues that meet at 0, as far to either side."""
    ends = largest or float(np.nanquantile(np.abs(values), 0.99)) or 1.0
    return cortex(subject, values, label, DIVERGING, (-ends, ends))


def layer_colours(
    layer: Float[np.ndarray, "vertex layer"], confidence: Float[np.ndarray, " vertex"]
) -> Float[np.ndarray, "vertex 4"]:
    """The layer of greatest weight as hue, dark where the choice is not sure (Fig. 5)."""
    depth = layer.argmax(1) / max(layer.shape[1] - 1, 1)
    return shaded(depth, confidence)


def shaded(
    depth: Float[np.ndarray, "*any"], confidence: Float[np.ndarray, "*any"]
) -> Float[np.ndarray, "*any 4"]:
    """Colours of depth (0 first layer, 1 last), black at no confidence and full at 1."""
    rgba = np.array(plt.get_cmap(LAYERS)(depth))
    rgba[..., :3] *= np.sqrt(np.clip(confidence, 0, 1))[..., None]  # or half is almost black
    return rgba


def layers(
    subject: OnCortex,
    layer: Float[np.ndarray, "vertex layer"],
    confidence: Float[np.ndarray, " vertex"],
) -> Figure:
    """The layer that each vertex chose and how sure, with a scale in two dimensions (Fig. 5)."""
    n = layer.shape[1]
    figure, key = _sheet(subject, layer_colours(layer, confidence))
    key.set_position((0.9, 0.4, 0.13, 0.42))
    shown = shaded(*np.meshgrid(np.arange(n) / max(n - 1, 1), np.linspace(0, 1, 32)))
    key.imshow(shown, origin="lower", aspect="auto", extent=(0.5, n + 0.5, 0, 1))
    key.set(xlabel="layer of\ngreatest weight", ylabel="confidence, 1 − H / log L", xticks=(1, n))
    key.tick_params(labelsize=8)
    return figure


def categories(
    subject: OnCortex, category: Int[np.ndarray, " vertex"], names: Sequence[str], title: str
) -> Figure:
    """A map of categories by number from 0 (-1: none), each in the colour of its number."""
    palette = np.array([(*to_rgb(c), 1.0) for c in category_colours(len(names))] + [(0, 0, 0, 0)])
    figure, key = _sheet(subject, palette[category], blend=False)
    key.axis("off")
    key.legend(
        handles=[Patch(color=c, label=n) for c, n in zip(palette, names, strict=False)],
        title=title,
        loc="center left",
        bbox_to_anchor=(0, 0.5),
        frameon=False,
        fontsize=8,
        ncols=-(-len(names) // 10),
    )
    return figure


def category_colours(n: int) -> list[str]:
    """n colours, of which the first are the same for any n."""
    rest = seaborn.color_palette("husl", max(n - len(CATEGORIES), 0), as_cmap=False).as_hex()
    return [*CATEGORIES, *rest][:n]


def small_colours(
    subject: OnCortex | Sequence[OnCortex],
    maps: Mapping[str, Float[np.ndarray, "vertex 4"] | None],
    columns: int,
    blend: bool = True,
) -> Figure:
    """Several maps of colours, laid flat under their names, with room at the right for a key.

    All of one subject, or each of its own. The place of one that is None is left empty. `blend`:
    see `draw`.
    """
    whose = subject if isinstance(subject, Sequence) else [subject] * len(maps)
    rows = -(-len(maps) // columns)
    figure = plt.figure(figsize=(WIDTH, (7.6 / columns) * rows))
    cells = figure.add_gridspec(
        rows, columns, left=0, right=0.9, bottom=0, top=1 - 0.1 / rows, wspace=0.06, hspace=0.14
    )
    for cell, person, (name, rgba) in zip(cells, whose, maps.items(), strict=False):
        if rgba is None:
            continue
        if person.n_surface:
            pair = cell.subgridspec(1, 2, wspace=0).subplots()
            for axis, hemi in zip(pair, HEMIS, strict=True):
                draw(axis, person, rgba, hemi, "flat", blend)
            pair[0].set_title(name, fontsize=9, x=1, ha="center")
        else:
            axis = figure.add_subplot(cell)
            axis.scatter(*person.coordinates[:, [1, 2]].T, s=1, c=rgba)
            axis.set_aspect("equal")
            axis.axis("off")
            axis.set_title(name, fontsize=9)
    return figure


def small_maps(
    subject: OnCortex | Sequence[OnCortex],
    maps: Mapping[str, Float[np.ndarray, " vertex"] | None],
    label: str,
    colours: str = "inferno",
    limits: tuple[float, float] = (0, 1),
    columns: int = 0,
) -> Figure:
    """Several maps on one scale, laid flat under their names: each layer's weight (Figs 14-16).

    `subject`: of all, or of each; `columns`: by default two of up to four maps, else four.
    """
    painted = {
        name: None if values is None else in_colours(values, colours, limits)[0]
        for name, values in maps.items()
    }
    figure = small_colours(subject, painted, columns or (2 if len(maps) <= 4 else 4))
    scale = ScalarMappable(Normalize(*limits), colours)
    figure.colorbar(scale, cax=figure.add_axes((0.93, 0.2, 0.014, 0.6)), label=label)
    return figure


def small_layers(
    subject: OnCortex | Sequence[OnCortex],
    maps: Mapping[
        str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]] | None
    ],
    columns: int,
) -> Figure:
    """Several maps as `layers` draws one, of (weights, confidence) by name (Figs 13, 17-22, 27).

    Networks may have different numbers of layers: colours are from each one's first to its last.
    """
    figure = small_colours(
        subject, {name: of and layer_colours(*of) for name, of in maps.items()}, columns
    )
    height = figure.get_size_inches()[1]
    key = figure.add_axes((0.94, 0.5 - 0.6 / height, 0.06, 1.2 / height))
    shown = shaded(*np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32)))
    key.imshow(shown, origin="lower", aspect="auto", extent=(0, 1, 0, 1))
    key.set_xticks((0, 1), ("first", "last"), fontsize=7)
    key.set_yticks((0, 1), ("0", "1"), fontsize=7)
    key.set_xlabel("layer of\ngreatest weight", fontsize=7)
    key.set_ylabel("confidence", fontsize=7, labelpad=-4)
    return figure
