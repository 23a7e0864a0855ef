"""Every layer alone against what FactorTopy gives it: the grid search of Fig. 26.

    grid = layer_grid(fit, singles, truth)
    grid.panels(), grid.table()

A layer that is best alone and a layer that is read need not be the same: neighbours carry much the
same, and a mixture may use what is best alone in none.
"""

from collections.abc import Sequence
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
    scores: Float[np.ndarray, "draw roi layer"]  # R²; the data as they are first
    read: dict[str, Float[np.ndarray, "roi layer"]]  # weights, contributions and, if known, truth

    def panels(self) -> dict[str, pd.DataFrame]:
        """A table of ROI by layer for each."""
        layers = [str(1 + i) for i in range(self.scores.shape[2])]
        each = {"R² of one layer": self.scores[0]} | self.read
        return {name: pd.DataFrame(v, list(self.rois), layers) for name, v in each.items()}

    def table(self) -> pd.DataFrame:
        """A row per ROI: the best layer alone, its range over drawn sets, and those that are read.

        Then the rank correlation over layers of R² alone with what the selector gives them.
        """
        rows = []
        for i, roi in enumerate(self.rois):
            best = 1 + self.scores[:, i].argmax(1)
            low, high = np.quantile(best[1:], [0.025, 0.975], method="nearest")
            row = {"ROI": roi, "best alone": f"{best[0]} ({low} to {high})"}
            row |= {f"largest {name}": 1 + int(v[i].argmax()) for name, v in self.read.items()}
            for name, values in self.read.items():
                row[f"ρ with {name}"] = scipy.stats.spearmanr(
                    self.scores[0, i], values[i]
                ).statistic
            rows.append(row)
        return pd.DataFrame(rows)


def layer_grid(
    fit: Fit,
    singles: Sequence[Fit],
    truth: Float[np.ndarray, "vertex layer"] | None = None,
) -> Grid:
    """What models of each layer alone score, and what FactorTopy gives each layer."""
    subject = fit.subject
    masks = metrics.regions(subject.rois, tuple(AREAS), len(subject.vertices))
    each = []
    for one in singles:  # one at a time: resampled scores of all vertices are large
        found = one.scores("test")
        each.append([found.samples(mask & np.isfinite(found.r2)) for mask in masks.values()])
    scores = np.array(each).transpose(2, 1, 0)
    maps = layer_maps(fit)
    read = {"weight": maps.weights, "contribution": maps.shares}
    if truth is not None:
        read["truth"] = truth
    means = {n: np.stack([np.nanmean(v[m], 0) for m in masks.values()]) for n, v in read.items()}
    return Grid(tuple(masks), scores, means)


def grid_text(grid: Grid) -> str:
    """How the layers that are read go with the scores of layers alone."""
    table = grid.table().set_index("ROI").iloc[1:]
    rho = ", ".join(f"{table[f'ρ with {name}'].median():.2f} with {name}" for name in grid.read)
    return f"Median of ρ over {len(table)} areas: {rho}."
