"""Figures of the page on fine-tuning; drawn as those of `figures`."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from analysis.cortical import CATEGORIES
from analysis.figures import LINES


def grid_lines(grids: Mapping[str, pd.DataFrame], chance: Mapping[str, float]) -> Figure:
    """A panel per task: accuracy over the layer that the head reads, a line per network (Fig. 24).

    `grids`: by task, rows of network, layers (of the network), layer, accuracy, a row per run.
    """
    figure, axes = plt.subplots(
        1, len(grids), figsize=(7, 2.9), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (task, rows) in zip(axes.flat, grids.items(), strict=True):
        for (network, own), style, colour in zip(
            rows.groupby("network", sort=False), LINES, CATEGORIES, strict=False
        ):
            mean = own.groupby("layer")["accuracy"].agg(["mean", "sem"]).fillna(0)
            axis.errorbar(
                mean.index, mean["mean"], mean["sem"], fmt=style, ms=4, lw=1.3, color=colour,
                label=network,
            )  # fmt: skip
        axis.axhline(chance[task], ls=":", lw=1, color=plt.rcParams["text.color"])
        axis.set(title=task, xlabel="layer that the head reads")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("accuracy")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    seaborn.despine(figure)
    return figure


def before_and_after(table: pd.DataFrame) -> Figure:
    """R² of each network before and after it was tuned to each task (Fig. 23)."""
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    networks, tasks = table["network"].unique(), table["task"].unique()
    place, width = np.arange(len(networks)), 0.8 / (1 + len(tasks))
    first = table.drop_duplicates("network")
    axis.bar(place, first["before"], width, color="#8d99a6", lw=0, label="before")
    for i, (task, colour) in enumerate(zip(tasks, CATEGORIES, strict=False), 1):
        own = table[table["task"] == task]
        away = [own["lost"] - own["lost low"], own["lost high"] - own["lost"]]
        axis.bar(
            place + i * width, own["after"], width, color=colour, label=f"tuned to {task}",
            hatch="" if i == 1 else "//", edgecolor="white", lw=0,
        )  # fmt: skip
        axis.errorbar(
            place + i * width, own["after"], away[::-1], fmt="none", lw=1,
            ecolor=plt.rcParams["text.color"],
        )  # fmt: skip
    axis.set_xticks(place + width * len(tasks) / 2, networks)
    axis.set_ylabel("R² of single trials")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    seaborn.despine(figure)
    return figure


def accuracy_and_change(accuracy: pd.DataFrame, change: pd.DataFrame) -> Figure:
    """A panel per task: how well each network is tuned, over how far its late vertices moved."""
    both = accuracy.merge(change, on=["network", "task"], suffixes=("", " moved"))
    tasks = both["task"].unique()
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(7, 2.8), squeeze=False, layout="constrained"
    )
    for axis, task in zip(axes.flat, tasks, strict=True):
        own = both[both["task"] == task]
        for row, style, colour in zip(own.to_dict("records"), LINES, CATEGORIES, strict=False):
            across = [[row["late"] - row["late low"]], [row["late high"] - row["late"]]]
            up = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
            axis.errorbar(
                row["late"], row["accuracy"], np.nan_to_num(up), across, fmt=style[0], ms=6,
                color=colour, lw=1, label=row["network"],
            )  # fmt: skip
        axis.set(title=task, xlabel="mean change of late vertices' depth", xlim=(0, None))
    axes[0, 0].set_ylabel("accuracy")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    seaborn.despine(figure)
    return figure
