"""The grid of single layers, on numbers made by hand and on a small fit."""

import numpy as np
import pytest
import scipy.stats

from analysis import figures
from analysis.layer_grid import Grid, grid_text


def planted() -> Grid:
    """Two areas of four layers: the best alone is layer 2 surely, and layer 3 or 4."""
    draws = np.zeros((101, 3, 4))
    draws[:, 0] = draws[:, 1] = [0.1, 0.4, 0.3, 0.2]
    draws[:, 2] = [0.1, 0.2, 0.4, 0.3]
    draws[1:51, 2, 3] = 0.5
    weight = np.array([[0.1, 0.4, 0.3, 0.2], [0.2, 0.1, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    return Grid(("all", "V1", "EBA"), draws, {"weight": weight})


def test_the_best_layer_alone_stands_beside_the_one_that_is_read() -> None:
    table = planted().table().set_index("ROI")
    assert list(table["best alone"]) == ["2 (2 to 2)", "2 (2 to 2)", "3 (3 to 4)"]
    assert list(table["largest weight"]) == [2, 4, 4]
    expected = scipy.stats.spearmanr([0.1, 0.4, 0.3, 0.2], [0.2, 0.1, 0.3, 0.4]).statistic
    assert table.loc["V1", "ρ with weight"] == pytest.approx(expected)
    assert table.loc["all", "ρ with weight"] == pytest.approx(1)


def test_the_median_is_over_areas_without_all_vertices() -> None:
    grid = planted()
    rho = grid.table().set_index("ROI")["ρ with weight"]
    text = grid_text(grid)
    assert text == f"Median of ρ over 2 areas: {rho[['V1', 'EBA']].mean():.2f} with weight."


def test_panels_are_drawn_with_a_dot_at_each_rows_largest() -> None:
    panels = planted().panels()
    assert list(panels) == ["R² of one layer", "weight"]
    figure = figures.layer_panels(panels)
    for axis, table in zip(figure.axes, panels.values(), strict=False):
        (dots,) = axis.lines
        assert list(dots.get_xdata()) == list(table.to_numpy().argmax(1))
        assert axis.images[0].get_array().max() == 1
