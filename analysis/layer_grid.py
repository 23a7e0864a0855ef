"""Every layer alone against what FactorTopy gives it: the grid search of Fig. 26.

    grid = layer_grid(fit, {"one layer": singles, "its global token": others}, truth)
    grid.panels(), grid.table()

A layer that is best alone and a layer that is read need not be the same: neighbours carry much the
same, and a mixture may use what is best alone in none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from analysis import metrics
from analysis.attribution import layer_maps
from analysis.fit import Fit
from analysis.subject import AREAS


@dataclass(frozen=True)
class Grid:
    """What models of one layer score, and how FactorTopy weighs the layers, by ROI."""

    rois: tuple[str, ...]
    scores: dict[str, Float[np.ndarray, "draw roi layer"]]  # R²; the data as they are first
    read: dict[str, Float[np.ndarray, "roi layer"]]  # weights, contributions and, if known, truth

    def panels(self) -> dict[str, pd.DataFrame]:
        """A table of ROI by layer for each."""
        layers = [str(1 + i) for i in range(next(iter(self.read.values())).shape[1])]
        each = {f"R² of {kind}": draws[0] for kind, draws in self.scores.items()} | self.read
        return {name: pd.DataFrame(v, list(self.rois), layers) for name, v in each.items()}

    def table(self) -> pd.DataFrame:
        """A row per ROI: the best layer alone, its range over drawn sets, and those that are read.

        Then the rank correlation over layers of R² alone with what the selector gives them.
        """
        whole = next(iter(self.scores))
        rows = []
        for i, roi in enumerate(self.rois):
            row = {"ROI": roi}
            for kind, draws in self.scores.items():
                best = 1 + draws[:, i].argmax(1)
                low, high = np.quantile(best[1:], [0.025, 0.975], method="nearest")
                row[f"best, {kind}"] = f"{best[0]} ({low} to {high})"
            row |= {f"largest {name}": 1 + int(v[i].argmax()) for name, v in self.read.items()}
            for name, values in self.read.items():
                row[f"ρ with {name}"] = scipy.stats.spearmanr(
                    self.scores[whole][0, i], values[i]
                ).statistic
            rows.append(row)
        return pd.DataFrame(rows)

    def inside(self, name: str, kind: str) -> int:
        """In how many ROIs (of areas) the largest layer lies in the range of the best alone."""
        found = 0
        for i in range(1, len(self.rois)):
            best = self.scores[kind][1:, i].argmax(1)
            low, high = np.quantile(best, [0.025, 0.975], method="nearest")
            found += bool(low <= self.read[name][i].argmax() <= high)
        return found


def layer_grid(
    fit: Fit,
    singles: Mapping[str, Sequence[Fit]],
    truth: Float[np.ndarray, "vertex layer"] | None = None,
) -> Grid:
    """What models of each layer alone score, by kind, and what FactorTopy gives each layer."""
    subject = fit.subject
    masks = metrics.regions(subject.rois, tuple(AREAS), len(subject.vertices))
    scores = {}
    for kind, ones in singles.items():
        each = []
        for one in ones:  # one at a time: resampled scores of all vertices are large
            found = one.scores("test")
            each.append([found.samples(mask & np.isfinite(found.r2)) for mask in masks.values()])
        scores[kind] = np.array(each).transpose(2, 1, 0)
    maps = layer_maps(fit)
    read = {"weight": maps.weights, "contribution": maps.shares}
    if truth is not None:
        read["truth"] = truth
    means = {n: np.stack([np.nanmean(v[m], 0) for m in masks.values()]) for n, v in read.items()}
    return Grid(tuple(masks), scores, means)


def grid_text(grid: Grid) -> str:
    """In how many areas the layer that is read is one of the best alone."""
    areas = len(grid.rois) - 1
    lines = []
    for name in grid.read:
        counts = [f"{grid.inside(name, kind)} of R² of {kind}" for kind in grid.scores]
        lines.append(f"- largest {name}: in the range of the best in {' and '.join(counts)};")
    table = grid.table().set_index("ROI").iloc[1:]
    rho = ", ".join(f"{table[f'ρ with {name}'].median():.2f} with {name}" for name in grid.read)
    return f"Of {areas} areas:\n\n{chr(10).join(lines)}\n\nMedian ρ over areas: {rho}."
