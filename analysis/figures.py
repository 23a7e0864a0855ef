"""Figures of the book, each drawn for a light and for a dark page: `light_dark(draw, alt)`.

A figure's function takes data that were computed before and returns a matplotlib Figure.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from analysis.metrics import Scores

CLEAR = {f"{part}.facecolor": "none" for part in ("figure", "axes", "savefig")}
THEMES = {  # the book theme's own colours of text
    "only-light": CLEAR | {"figure.edgecolor": "none"},
    "only-dark": CLEAR
    | {
        key: "#ced6dd"
        for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    },
}
LINES = ("o-", "s--", "^:", "D-.", "v-", "P--")  # of what a figure compares
GREY_STYLES = ("-", "--", ":", "-.")  # of what stands behind
SCREEN_DPI = 100  # at which an inch of a figure is drawn on the page


@dataclass(frozen=True)
class Pair:
    """A figure for a light page and one for a dark page; the book shows the one that fits."""

    html: str = field(repr=False)  # or a notebook would hold it twice

    def _repr_html_(self) -> str:
        return self.html


def light_dark(draw: Callable[[], Figure], alt: str, dpi: int = 150) -> Pair:
    """`draw()` under a light and under a dark style, as images with that alternative text."""
    tags = []
    for name, style in THEMES.items():
        with plt.rc_context({**seaborn.axes_style("ticks"), **style, "font.size": 10}):
            figure = draw()
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
            plt.close(figure)
        data = base64.b64encode(buffer.getvalue()).decode()
        width = round(int.from_bytes(buffer.getvalue()[16:20]) / dpi * SCREEN_DPI)  # PNG header
        tags.append(
            f'<img class="{name}" alt="{escape(alt, quote=True)}" width="{width}"'
            f' src="data:image/png;base64,{data}">'
        )
    return Pair("\n".join(tags))


def roi_bars(table: pd.DataFrame) -> Figure:
    """R² per ROI with its interval, beside the mean noise ceiling."""
    figure, axis = plt.subplots(figsize=(7.5, 3.2))
    place = np.arange(len(table))
    axis.bar(place, table["noise ceiling"], color="#8d99a6", alpha=0.45, width=0.8)
    axis.bar(place, table["R²"], color="#2a7f9e", width=0.55)
    away = np.abs(table[["low", "high"]].to_numpy().T - table["R²"].to_numpy())
    axis.errorbar(place, table["R²"], away, fmt="none", ecolor=plt.rcParams["text.color"], lw=1)
    axis.set_xticks(place, table["ROI"], rotation=45, ha="right")
    axis.set_ylabel("R² of single trials")
    axis.legend(
        ["mean noise ceiling", "R²", "95 % interval"],
        frameon=False,
        fontsize=8,
        ncols=3,
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )
    seaborn.despine(figure)
    return figure


def score_against_ceiling(scores: Scores) -> Figure:
    """Every vertex: R² over its noise ceiling, as counts in hexagons."""
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    top = float(np.quantile(scores.ceiling, 0.995))
    hexes = axis.hexbin(
        scores.ceiling, scores.r2, gridsize=40, mincnt=1, cmap="viridis", extent=(0, top, -0.1, top)
    )
    axis.plot([0, top], [0, top], "--", lw=1.5, color="#f28e2b", zorder=3)
    axis.set(xlabel="noise ceiling of single trials", ylabel="R² of single trials")
    figure.colorbar(hexes, label="vertices")
    seaborn.despine(figure)
    return figure


def truth_against_found(pairs: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """For each quantity (name, true, found) a panel of all vertices, with the line of equality."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(2.6 * len(pairs), 2.7))
    for axis, (name, true, found) in zip(np.atleast_1d(axes), pairs, strict=True):
        axis.plot(true, found, ".", ms=2, alpha=0.35, color="#2a7f9e", rasterized=True)
        ends = [min(true.min(), found.min()), max(true.max(), found.max())]
        axis.plot(ends, ends, "--", lw=1, color=plt.rcParams["text.color"])
        axis.set(title=name, xlabel="true")
    np.atleast_1d(axes)[0].set_ylabel("found")
    seaborn.despine(figure)
    figure.tight_layout()
    return figure


def pictures(shown: UInt8[np.ndarray, "n height width 3"], titles: Sequence[str]) -> Figure:
    """A row or two of pictures, each under its title."""
    columns = min(len(shown), 6)
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.75 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, title in zip(axes.flat, shown, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(title, fontsize=8)
    figure.tight_layout()
    return figure


def quantile_lines(
    shares: Sequence[float],
    lines: dict[str, Sequence[float]],
    ylabel: str,
    others: dict[str, Sequence[float]] | None = None,
) -> Figure:
    """Quantiles of several distributions over the share of vertices below; others in grey."""
    figure, axis = plt.subplots(figsize=(5.6, 3.2))
    x = 100 * np.asarray(shares)
    for (name, values), style in zip((others or {}).items(), GREY_STYLES, strict=False):
        axis.plot(x, values, style, color="#8d99a6", lw=1.2, label=name)
    for (name, values), style in zip(lines.items(), ("o-", "s--", "^:"), strict=False):
        axis.plot(x, values, style, label=name)
    axis.set(xlabel="percentile over vertices", ylabel=ylabel)
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    seaborn.despine(figure)
    return figure


def session_lines(levels: pd.DataFrame, known: dict[str, float]) -> Figure:
    """Mean and sd of betas in each session, a line per subject; what is known of one in grey."""
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), gridspec_kw={"wspace": 0.3})
    for axis, column in zip(axes, ("mean", "sd"), strict=True):
        axis.axhline(known[column], color="#8d99a6", ls="--", lw=1.2, label="NSD, one session")
        for (name, rows), style in zip(
            levels.groupby("subject", sort=False), ("o-", "s--", "^:"), strict=False
        ):
            axis.plot(rows["session"], rows[column], style, label=name)
        axis.set(xlabel="session", ylabel=f"{column}, % signal change")
        axis.set_ylim(0, 1.08 * max(levels[column].max(), known[column]))
        axis.set_xticks(sorted(levels["session"].unique()))
    axes[1].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    seaborn.despine(figure)
    return figure


def interval_rows(found: pd.DataFrame, table: pd.DataFrame, default: str) -> Figure:
    """A panel per quantity, a row per variant: mean and interval, and each seed as a small dot.

    `found`: variant, quantity, mean, low, high; `table`: variant, seed and a column per quantity.
    """
    variants = list(dict.fromkeys(found["variant"]))
    quantities = list(dict.fromkeys(found["quantity"]))
    height = 0.9 + 0.32 * len(variants)
    figure, axes = plt.subplots(1, len(quantities), figsize=(9.5, height), sharey=True)
    rows = np.arange(len(variants))
    for axis, quantity in zip(axes, quantities, strict=True):
        own = found[found["quantity"] == quantity].set_index("variant").loc[variants]
        axis.axvline(own.loc[default, "mean"], color="#8d99a6", ls="--", lw=1)
        half = [own["mean"] - own["low"], own["high"] - own["mean"]]
        axis.errorbar(own["mean"], rows, xerr=half, fmt="o", color="#2a7f9e", lw=1.5, ms=5)
        for row, variant in enumerate(variants):
            seeds = table.loc[table["variant"] == variant, quantity]
            axis.plot(seeds, np.full(len(seeds), row + 0.25), ".", color="#f28e2b", ms=4)
        near = table[quantity].min(), table[quantity].max()
        room = 0.25 * (near[1] - near[0]) + 1e-3
        axis.set(
            title=quantity, xlim=(near[0] - room, near[1] + room), ylim=(len(rows) - 0.4, -0.6)
        )
        axis.title.set_fontsize(9)
    axes[0].set_yticks(rows, variants)
    seaborn.despine(figure)
    figure.tight_layout()
    return figure


def _band(axis: Axes, x: np.ndarray, rows: pd.DataFrame, name: str, style: str, **line) -> None:
    """A line of values with the ends of their intervals as bars; `name low` and `name high`."""
    value = rows[name].to_numpy()
    low, high = (
        rows[f"{name} {end}" if f"{name} {end}" in rows else end].to_numpy()
        for end in ("low", "high")
    )
    bars = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
    axis.errorbar(x, value, bars, fmt=style, ms=4, lw=1.2, elinewidth=0.8, **line)


def depth_by_size(depths: pd.DataFrame) -> Figure:
    """A panel per family: mean depth of each ROI, a line per network from the smallest on.

    `depths`: family, network, ROI, level, depth, low, high.
    """
    families = list(dict.fromkeys(depths["family"]))
    figure, axes = plt.subplots(2, 3, figsize=(7, 4.6), sharex=True, sharey=True)
    for axis, family in zip(axes.flat, families, strict=False):
        own = depths[depths["family"] == family]
        names = list(dict.fromkeys(own["network"]))
        shades = plt.get_cmap("viridis")(np.linspace(0.25, 0.85, len(names)))
        for i, (name, colour, style) in enumerate(zip(names, shades, LINES, strict=False)):
            rows = own[own["network"] == name].sort_values("level", kind="stable")
            x = np.arange(len(rows)) + 0.12 * (i - (len(names) - 1) / 2)
            _band(axis, x, rows, "depth", style, color=colour, label=name)
            axis.set_xticks(np.arange(len(rows)), rows["ROI"], rotation=90, fontsize=8)
        axis.set_title(family, fontsize=9)
        axis.set_ylim(0, 1)
        axis.legend(frameon=False, fontsize=6, loc="upper left", handlelength=2.5)
    for axis in axes[:, 0]:
        axis.set_ylabel("depth, 0 first layer")
    seaborn.despine(figure)
    figure.tight_layout()
    return figure


def line_by_size(table: pd.DataFrame) -> Figure:
    """Slope, start, end and R² against a network's weights in millions, a line per family."""
    figure, axes = plt.subplots(2, 2, figsize=(7, 5), sharex=True)
    colours = seaborn.color_palette("colorblind")
    for axis, name in zip(axes.flat, ("slope", "start", "end", "R²"), strict=True):
        for (family, rows), style, colour in zip(
            table.groupby("family", sort=False), LINES, colours, strict=False
        ):
            _band(axis, rows["weights"].to_numpy(), rows, name, style, color=colour, label=family)
        axis.set(xscale="log", ylabel={"R²": "R² of single trials"}.get(name, name))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in axes[1]:
        axis.set_xlabel("weights (millions)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=6, loc="upper center")
    seaborn.despine(figure)
    return figure


def by_samples(scores: pd.DataFrame, maps: pd.DataFrame) -> Figure:
    """Score by model, and agreement of the map, against the number of samples on a log scale.

    `scores`: model, samples, R², low, high; `maps`: samples, map, other and maybe truth, each with
    low and high, the last row that of all samples.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
    colours = seaborn.color_palette("colorblind")
    for (model, rows), style, colour in zip(
        scores.groupby("model", sort=False), LINES, colours, strict=False
    ):
        _band(axes[0], rows["samples"].to_numpy(), rows, "R²", style, color=colour, label=model)
    axes[0].axhline(0, color="#8d99a6", lw=0.8)
    x = maps["samples"].to_numpy()
    _band(axes[1], x[:-1], maps.iloc[:-1], "map", "o-", color=colours[0], label="map of all")
    _band(axes[1], x, maps, "other", "^:", color=colours[2], label="another seed's")
    if "truth" in maps:
        _band(axes[1], x, maps, "truth", "s--", color=colours[1], label="truth")
    axes[0].set_ylabel("R² of single trials")
    axes[1].set_ylabel("rank correlation of depth")
    ticks = sorted(scores["samples"].unique())
    for axis in axes:
        axis.set(xscale="log", xlabel="samples trained on")
        axis.set_xticks(ticks, [f"{n:,}" for n in ticks], rotation=30)
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    seaborn.despine(figure)
    figure.tight_layout()
    return figure


def over_time(table: pd.DataFrame) -> Figure:
    """R² against time step, a line per group of ROIs: here with intervals, and in the paper.

    `table`: T, where, R², low, high, paper.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8))
    colours = seaborn.color_palette("colorblind")
    for (where, rows), style, colour in zip(
        table.groupby("where", sort=False), LINES, colours, strict=False
    ):
        _band(axes[0], rows["T"].to_numpy(), rows, "R²", style, color=colour, label=where)
        axes[1].plot(rows["T"], rows["paper"], style, ms=4, lw=1.2, color=colour, label=where)
    for axis, title in zip(axes, ("here", "the paper's Table 13, subject #1"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("time step, 0 noise, 50 the picture")
    axes[0].set_ylabel("R² of single trials")
    seaborn.despine(figure)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="upper center")
    return figure


def difference_rows(table: pd.DataFrame) -> Figure:
    """A panel per ROI, a row per method: difference of R² with its interval, the paper's beside."""
    rois, methods = list(dict.fromkeys(table["ROI"])), list(dict.fromkeys(table["method"]))
    figure, axes = plt.subplots(
        1, len(rois), figsize=(7.5, 1.0 + 0.27 * len(methods)), sharey=True, layout="constrained"
    )
    rows = np.arange(len(methods))
    for axis, roi in zip(np.atleast_1d(axes), rois, strict=True):
        own = table[table["ROI"] == roi].set_index("method").reindex(methods)
        away = np.abs(own[["low", "high"]].to_numpy().T - own["difference of R²"].to_numpy())
        axis.axvline(0, color="#8d99a6", ls="--", lw=1)
        axis.plot(own["paper"], rows, "D", color="#f28e2b", ms=4)
        axis.errorbar(own["difference of R²"], rows, xerr=away, fmt="o", color="#2a7f9e", ms=4)
        axis.set(title=roi, ylim=(len(rows) - 0.5, -0.5))
        axis.tick_params(axis="x", labelsize=8)
        axis.locator_params(axis="x", nbins=3)
    first = np.atleast_1d(axes)[0]
    first.set_yticks(rows, methods)
    labels = ["FactorTopy", "Table 16", "here"]
    figure.legend(first.lines[:2] + first.containers, labels, ncols=3, fontsize=8, frameon=False,
                  loc="outside upper center")  # fmt: skip
    figure.supxlabel("R² less FactorTopy's", fontsize=10)
    seaborn.despine(figure)
    return figure


def decay_lines(table: pd.DataFrame) -> Figure:
    """R² and confidence over the steps of the decay, a line per network; the paper's in grey."""
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.9))
    styles = zip(("o-", "s--", "^:"), ("#2a7f9e", "#f28e2b", "#7b4fa3"), GREY_STYLES, strict=False)
    for (network, own), (style, colour, grey) in zip(
        table.groupby("network", sort=False), styles, strict=False
    ):
        away = np.abs(own[["low", "high"]].to_numpy().T - own["R²"].to_numpy())
        axes[0].errorbar(own["steps"], own["R²"], away, fmt=style, color=colour, label=network)
        axes[0].plot(
            own["steps"], own["paper"], grey, color="#8d99a6", label=f"Table 15, {network}"
        )
        axes[1].plot(own["steps"], own["confidence"], style, color=colour, label=network)
    axes[0].set_ylabel("R² of single trials")
    axes[1].set_ylabel("confidence, 1 − H / log L")
    for axis in axes:
        axis.set_xlabel("steps of the decay, of the paper's")
        axis.set_xticks(sorted(set(table["steps"])))
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=4,
                  loc="lower center", bbox_to_anchor=(0.5, 1))  # fmt: skip
    seaborn.despine(figure)
    figure.tight_layout()
    return figure


def layer_panels(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel each of ROI by layer, every row from its smallest to its largest value, dotted."""
    n = len(next(iter(panels.values())))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7.5, 1.1 + 0.21 * n), sharey=True, layout="constrained"
    )
    for axis, (name, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        values = table.to_numpy()
        low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
        shown = (values - low) / np.where(high > low, high - low, 1)
        mesh = axis.imshow(shown, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axis.plot(values.argmax(1), np.arange(len(values)), ".", color="#d62728", ms=7)
        axis.set_title(name.replace(" of ", " of\n"), fontsize=8)
        axis.set_xticks([0, values.shape[1] - 1], [table.columns[0], table.columns[-1]])
        axis.set_yticks(np.arange(n), table.index, fontsize=8)
    figure.supxlabel("layer", fontsize=9)
    key = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.01)
    key.set_label("from the row's smallest to its largest", fontsize=8)
    return figure


def hours_by_jobs(table: pd.DataFrame, least: float) -> Figure:
    """Hours of a study against its jobs at a time, both on log scales; at least those of `least`.

    `table`: jobs at a time, hours, and "shared evenly": the work by the number of jobs.
    """
    figure, axis = plt.subplots(figsize=(6, 3.2))
    colours, x = seaborn.color_palette("colorblind"), table["jobs at a time"]
    axis.plot(x, table["hours"], "o-", color=colours[0], label="simulated")
    even = {"color": colours[1], "label": "the work shared evenly, nothing held up"}
    axis.plot(x, table["shared evenly"], "--", **even)
    chain = "the longest chain of jobs that wait for each other"
    axis.axhline(least, ls=":", color=colours[2], label=chain)
    axis.set(xscale="log", yscale="log", xlabel="jobs at a time", ylabel="hours")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(LogLocator(subs=(1, 3)))
        ticks.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ticks.set_minor_formatter(NullFormatter())
    axis.legend(frameon=False, fontsize=8)
    seaborn.despine(figure)
    return figure
