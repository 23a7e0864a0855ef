"""The comparison of choices: its numbers by scipy, its words by its numbers, its figure drawn."""

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import figures, identifiability
from analysis.comparison import false_discovery
from analysis.files import InputError
from analysis.identifiability import (
    DEFAULT,
    SCORE,
    VARIANTS,
    differences_text,
    finding,
    shown,
    summary,
    sweep,
)
from analysis.model import ModelConfig
from analysis.recipes import RECIPES, with_changes

OFF = "no penalty on scale"


@pytest.fixture
def quick(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two choices, a few steps, one process."""
    monkeypatch.setattr("analysis.sweep.machine_cores", lambda: 1)
    few = dataclasses.replace(RECIPES["check"], steps_per_epoch=5, max_steps=10)
    monkeypatch.setitem(RECIPES, "few", few)
    two = {name: VARIANTS[name] for name in (DEFAULT, OFF)}
    monkeypatch.setattr(identifiability, "VARIANTS", two)


def made_up() -> pd.DataFrame:
    """Two quantities of three choices, one better for certain; the default has more seeds."""
    rng = np.random.default_rng(1)
    rows = []
    for variant, shift, seeds in ((DEFAULT, 0, 4), ("better", 5, 2), ("alike", 0, 2)):
        for seed, base in enumerate(rng.normal(0, 0.3, size=seeds)):
            value = base + shift
            row = {"variant": variant, "seed": seed, SCORE: value / 100, "layer": -value / 20}
            rows.append(row)
    return pd.DataFrame(rows)


def test_a_fit_is_made_for_each_choice_and_seed_and_held_against_the_truth(quick: None) -> None:
    table = sweep("sim01-tiny", "clip-mini", "small", [0, 1, 2], "few")
    assert table["variant"].tolist() == [DEFAULT] * 3 + [OFF]
    assert table["seed"].tolist() == [0, 1, 2, 0]
    names = [SCORE, "layer", "scale", "x in V1–V3", "y in V1–V3", "field size in V1–V3"]
    assert list(table.columns[2:]) == names
    values = table[table.columns[2:]].to_numpy()
    assert np.isfinite(values).all() and np.abs(values).max() <= 1
    assert not np.allclose(values[0], values[1]) and not np.allclose(values[0], values[3])


def test_the_default_is_the_default_of_the_book_and_each_row_another_choice() -> None:
    assert VARIANTS[DEFAULT] == {}
    each = [with_changes(ModelConfig(), RECIPES["check"], c) for c in VARIANTS.values()]
    assert len(set(each)) == len(each)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sim01-tiny", "clip-mini", "small", [0]), r"seeds=\[0\]: expected two or more"),
        (("sim01-tiny", "clip-mini", "long", [0, 1]), "size 'long': expected one of small"),
        (("subj01", "clip-mini", "small", [0, 1]), "subject 'subj01': a simulated one is"),
    ],
)
def test_what_cant_be_compared_is_told(quick: None, arguments: tuple, told: str) -> None:
    with pytest.raises(InputError, match=told):
        sweep(*arguments)


def test_differences_are_contrasts_of_a_linear_model() -> None:
    """Least squares with a column per choice, as in an analysis of variance."""
    table = made_up()
    found = summary(table).set_index(["variant", "quantity"])
    names = [DEFAULT, "better", "alike"]
    x = np.stack([(table["variant"] == name).to_numpy(float) for name in names], 1)
    y = table["layer"].to_numpy()
    beta, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
    free = len(y) - 3
    covariance = residual[0] / free * np.linalg.inv(x.T @ x)
    t = scipy.stats.t.ppf(0.975, free)
    for i, name in enumerate(names):
        row = found.loc[name, "layer"]
        half = t * covariance[i, i] ** 0.5
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(
            (beta[i], max(beta[i] - half, -1), min(beta[i] + half, 1))
        )
        contrast = np.eye(3)[i] - np.eye(3)[0]
        away, error = contrast @ beta, (contrast @ covariance @ contrast) ** 0.5
        assert row["difference"] == pytest.approx(away)
        if i:
            assert row["least"] == pytest.approx(away - t * error)
            assert row["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(away) / error, free))
    others = summary(table)[lambda rows: rows["variant"] != DEFAULT]
    expected = false_discovery(others["p"].to_numpy())
    np.testing.assert_allclose(others["q"], expected)  # over all rows and quantities
    assert summary(table)["q"].isna().sum() == 2


def test_two_groups_alone_are_compared_by_students_test() -> None:
    table = made_up()[lambda rows: rows["variant"] != "alike"]
    row = summary(table).set_index(["variant", "quantity"]).loc["better", "layer"]
    groups = [table.loc[table["variant"] == name, "layer"] for name in ("better", DEFAULT)]
    assert row["p"] == pytest.approx(scipy.stats.ttest_ind(*groups).pvalue)


def test_what_is_said_is_what_the_numbers_show() -> None:
    found = summary(made_up())
    lines = differences_text(found).splitlines()
    assert len(lines) == 2
    away = found.set_index(["variant", "quantity"])["difference"]["better"]
    assert f"higher with better ({away[SCORE]:+.3f}" in lines[0] and "lower" not in lines[0]
    assert f"lower with better ({away['layer']:+.2f}" in lines[1] and "higher" not in lines[1]
    assert "alike (" not in differences_text(found)
    same = found.assign(q=0.5)
    assert differences_text(same).count("no difference at q < 0.05") == 2
    text = finding("sim01", found)
    assert "Of 2 other choices" in text and "over 4 differences): better." in text
    assert "means of 4 seeds: layer " in text
    assert "differences): none." in finding("sim01", same)


def test_the_table_has_a_row_per_choice_with_its_means() -> None:
    table = made_up()
    data = shown(summary(table)).data
    assert data["variant"].tolist() == [DEFAULT, "better", "alike"]
    mean = table[table["variant"] == "better"]["layer"].mean()
    assert data["layer"][1].startswith(f"{mean:.2f} (".replace("-", "−"))


def test_the_figure_has_a_panel_per_quantity_and_a_row_per_choice() -> None:
    table = made_up()
    figure = figures.interval_rows(summary(table), table, DEFAULT)
    assert [a.get_title() for a in figure.axes] == [SCORE, "layer"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [DEFAULT, "better", "alike"]
    plt.close(figure)
