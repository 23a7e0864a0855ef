"""Figures of channels: clusters of several networks, places and scales, top channels in pictures.

    small_clusters(subject, same_colours(groups))
    top_grid(pictures, {"CLIP": rgb(maps), "SAM": ...})

Data are computed before: `channels`, `top_channels`.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from jaxtyping import Float, Int, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, hsv_to_rgb, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.cortical import DIVERGING, WIDTH, in_colours, small_colours
from analysis.maps import OnCortex

COLUMNS = 3
SIDE, GAP = 96, 4  # pixels of a panel and between two
MIDDLE = 0.62  # grey of the picture's middle


def cluster_colours(n: int) -> Float[np.ndarray, "cluster 4"]:
    """Colours of clusters: light and dark of nine hues (tab20, as in Fig. 8), then others.

    Its greys, which bare cortex has, give way to black and yellow.
    """
    twenty = list(plt.get_cmap("tab20").colors)
    twenty[14:16] = to_rgb("#1a1a1a"), to_rgb("#f7f056")
    more = seaborn.color_palette("husl", max(n - len(twenty), 0))
    return np.array([(*colour, 1.0) for colour in [*twenty, *more][:n]])


def small_clusters(
    subject: OnCortex, groups: Mapping[str, Int[np.ndarray, " vertex"]], columns: int = COLUMNS
) -> Figure:
    """Clusters of several networks (Fig. 8), each number in its own colour in every map."""
    n = 1 + max(int(group.max()) for group in groups.values())
    palette = cluster_colours(n)
    painted = {name: palette[group] for name, group in groups.items()}
    figure = small_colours(subject, painted, columns, blend=False)
    figure.legend(
        handles=[Patch(color=colour, label=str(i + 1)) for i, colour in enumerate(palette)],
        title="cluster",
        loc="center right",
        frameon=False,
        fontsize=7,
        title_fontsize=8,
        handlelength=1,
        borderaxespad=0,
    )
    return figure


def place_colours(space: Float[np.ndarray, "*any 2"]) -> Float[np.ndarray, "*any 4"]:
    """Places in a picture as colours: grey in its middle, hue by direction, full at an edge.

    Colour grows as the root of the distance, or places near the middle could not be told apart.
    """
    x, y = space[..., 0], space[..., 1]
    hue = np.mod(np.arctan2(-y, x) / (2 * np.pi), 1)
    away = np.sqrt(np.clip(np.hypot(x, y), 0, 1))
    full = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.95)], -1))
    colour = MIDDLE + (full - MIDDLE) * away[..., None]
    return np.concatenate([colour, np.ones((*colour.shape[:-1], 1))], -1)


def small_places(
    subject: OnCortex, places: Mapping[str, Float[np.ndarray, "vertex 2"]], columns: int = COLUMNS
) -> Figure:
    """Where in the picture the vertices of several networks read, with a picture as the key."""
    painted = {name: place_colours(space) for name, space in places.items()}
    figure = small_colours(subject, painted, columns)
    height = figure.get_size_inches()[1]
    key = figure.add_axes((0.915, 0.5 - 0.3 / height, 0.6 / WIDTH, 0.6 / height))
    edge = np.linspace(-1, 1, 64)
    grid = np.stack(np.meshgrid(edge, edge), -1)
    key.imshow(place_colours(grid), extent=(-1, 1, 1, -1))
    key.set(xticks=(), yticks=(), title="place in\nthe picture")
    key.title.set_fontsize(7)
    return figure


def small_scales(
    subject: OnCortex, scales: Mapping[str, Float[np.ndarray, " vertex"]], columns: int = COLUMNS
) -> Figure:
    """At which scale the vertices of several networks read."""
    painted = {n: in_colours(values, DIVERGING, (0, 1))[0] for n, values in scales.items()}
    figure = small_colours(subject, painted, columns)
    scale = ScalarMappable(Normalize(0, 1), DIVERGING)
    bar = figure.colorbar(scale, cax=figure.add_axes((0.93, 0.2, 0.014, 0.6)), ticks=(0, 0.5, 1))
    bar.set_label("scale (0 local, 1 global)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def tiled(
    panels: Sequence[Sequence[Float[np.ndarray, "_h _w 3"]]], side: int, gap: int
) -> Float[np.ndarray, "height width 4"]:
    """Square panels in rows and columns as one picture, each `side` pixels, clear between."""
    step = side + gap
    out = np.zeros((len(panels) * step - gap, len(panels[0]) * step - gap, 4))
    at = (np.arange(side) + 0.5) / side
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            y, x = ((at * n).astype(int) for n in panel.shape[:2])
            cell = out[i * step : i * step + side, j * step : j * step + side]
            cell[..., :3], cell[..., 3] = panel[y][:, x], 1
    return out


def top_grid(
    pictures: UInt8[np.ndarray, "picture height width 3"],
    shown: Mapping[str, Float[np.ndarray, "picture _h _w 3"]],
) -> Figure:
    """A row per picture: itself, and its top channels in each network (Figs 29-34)."""
    columns = {"picture": pictures / 255.0, **shown}
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    sheet = tiled(rows, SIDE, GAP)
    size = WIDTH, WIDTH * sheet.shape[0] / sheet.shape[1]
    figure, axis = plt.subplots(figsize=size)
    figure.subplots_adjust(0, 0, 1, 1)
    axis.imshow(sheet, interpolation="nearest", aspect="auto")
    axis.axis("off")
    for i, name in enumerate(columns):
        middle = i * (SIDE + GAP) + SIDE / 2
        axis.text(middle, -GAP, name, fontsize=8, ha="center", va="bottom")
    return figure


def early_late(table: pd.DataFrame, panels: Sequence[tuple[str, str]]) -> Figure:
    """A panel per statistic, a row per network: V1 to V3 less the areas beyond V4, as intervals.

    `table`: network, and for each statistic a value, low and high; `panels`: (column, title).
    """
    names = list(table["network"])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 0.9 + 0.26 * len(names)), sharey=True, layout="constrained"
    )
    rows = np.arange(len(names))
    for axis, (column, title) in zip(np.atleast_1d(axes), panels, strict=True):
        value = table[column].to_numpy()
        away = np.abs(table[[f"{column} low", f"{column} high"]].to_numpy().T - value)
        axis.axvline(0, color="#8d99a6", ls="--", lw=1)
        axis.errorbar(value, rows, xerr=away, fmt="o", color="#2a7f9e", ms=4, lw=1.5)
        axis.set_title(title, fontsize=8)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=8)
        axis.locator_params(axis="x", nbins=4)
    np.atleast_1d(axes)[0].set_yticks(rows, names)
    seaborn.despine(figure)
    return figure
