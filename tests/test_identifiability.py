"""The comparison of recipes: its numbers by scipy, its words by its numbers, its figure drawn."""

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import figures, identifiability
from analysis.files import InputError
from analysis.identifiability import DEFAULT, SCORE, finding, said, shown, summary, sweep, variants
from analysis.recipes import RECIPES, with_changes
from analysis.study import Wanted
from analysis.sweep import SIZES

FEW = {"channels": 8, "hidden": 16, "steps_per_epoch": 5, "max_steps": 10}


@pytest.fixture
def quick(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes, a few steps, one process."""
    monkeypatch.setattr("analysis.sweep.machine_cores", lambda: 1)
    few = {"recipe": "check", "sessions": 1, "changes": FEW | {"standardise": True}}
    monkeypatch.setitem(SIZES, "few", few)
    two = {DEFAULT: {}, "no penalty on scale": {"scale_penalty": 0.0}}
    monkeypatch.setattr(identifiability, "variants", lambda _: two)


def made_up() -> pd.DataFrame:
    """Two quantities of three recipes over four seeds: one better for certain, one not."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=4)
    rows = []
    for seed in range(4):
        for recipe, shift in ((DEFAULT, 0), ("better", 5 + 0.1 * seed), ("alike", (-1) ** seed)):
            value = base[seed] + shift
            rows.append({"recipe": recipe, "seed": seed, SCORE: value / 100, "layer": -value / 20})
    return pd.DataFrame(rows)


def test_a_fit_is_made_for_each_recipe_and_seed_and_held_against_the_truth(quick: None) -> None:
    table = sweep("sim01-tiny", "clip-mini", "few", [0, 1])
    assert table["recipe"].tolist() == [DEFAULT] * 2 + ["no penalty on scale"] * 2
    assert table["seed"].tolist() == [0, 1, 0, 1]
    assert list(table.columns[2:]) == [SCORE, "layer", "scale", "x in V1–V3", "y in V1–V3"]
    values = table[table.columns[2:]].to_numpy()
    assert np.isfinite(values).all() and np.abs(values).max() <= 1
    assert not np.allclose(values[0], values[1]) and not np.allclose(values[0], values[2])
    again = sweep("sim01-tiny", "clip-mini", "few", [1, 0])
    np.testing.assert_array_equal(again.iloc[1, 2:], table.iloc[0, 2:])


def test_tokens_come_as_they_are_but_where_a_row_says_so() -> None:
    for size in SIZES:
        model, recipe = Wanted("sim01", "clip-mini", **identifiability.options(size)).configured()
        usual, same = Wanted("sim01", "clip-mini", **SIZES[size]).configured()
        assert (model, recipe) == (dataclasses.replace(usual, standardise=False), same)


def test_every_row_is_another_recipe_that_can_be_trained() -> None:
    from analysis.model import ModelConfig

    for recipe in RECIPES.values():
        each = [with_changes(ModelConfig(), recipe, c) for c in variants(recipe).values()]
        assert len(set(each)) == len(each)
        assert all(r.blur_steps == recipe.decay_steps for _, r in each if r.blur)
    assert variants(RECIPES["paper"])["decay three times as fast"] == {"decay_steps": 2000}
    assert RECIPES["paper"].scale_penalty == 1 and variants(RECIPES["paper"])[DEFAULT] == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sim01-tiny", "clip-mini", "few", [0]), r"seeds=\[0\]: expected two or more"),
        (("sim01-tiny", "clip-mini", "long", [0, 1]), "size 'long': expected one of small"),
        (("subj01", "clip-mini", "few", [0, 1]), "subject 'subj01': a simulated one is"),
    ],
)
def test_what_cant_be_compared_is_told(quick: None, arguments: tuple, told: str) -> None:
    with pytest.raises(InputError, match=told):
        sweep(*arguments)


def test_intervals_are_students_over_seeds_and_differences_are_paired() -> None:
    table = made_up()
    found = summary(table).set_index(["recipe", "quantity"])
    for recipe in (DEFAULT, "better", "alike"):
        own = table[table["recipe"] == recipe].set_index("seed")["layer"]
        base = table[table["recipe"] == DEFAULT].set_index("seed")["layer"]
        row = found.loc[recipe, "layer"]
        low, high = scipy.stats.t.interval(0.95, 3, own.mean(), scipy.stats.sem(own))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((own.mean(), low, high))
        if recipe != DEFAULT:
            test = scipy.stats.ttest_rel(own, base).confidence_interval(0.95)
            assert (row["least"], row["most"]) == pytest.approx((test.low, test.high))


def test_what_is_said_is_what_the_numbers_show() -> None:
    found = summary(made_up())
    lines = said(found).splitlines()
    assert len(lines) == 2
    assert "higher with better (+0.05" in lines[0] and "lower" not in lines[0]
    assert "lower with better (-0.26" in lines[1] and "higher" not in lines[1]
    assert "alike (" not in said(found)
    same = found.assign(least=-1.0, most=1.0)
    assert said(same).count("no recipe differs by more than seeds do") == 2
    alike = made_up()[lambda t: t["recipe"] != "better"].copy()
    base = alike[alike["recipe"] == DEFAULT]
    equal = pd.concat([base, base.assign(recipe="border"), alike[alike["recipe"] == "alike"]])
    assert said(summary(equal)).endswith(
        "\n- Equal to the default in every quantity and seed: border."
    )
    text = finding("sim01", [0, 1, 2, 3], "small", found)
    assert "**Simulated data.**" in text and "Of 3 recipes" in text and "channels 32" in text
    layer = made_up().groupby("recipe")["layer"].mean()
    assert f"`{layer.idxmax()}` gives back most" in text
    assert f"layer {layer.max():.2f} (default {layer[DEFAULT]:.2f})" in text


def test_the_table_has_a_row_per_recipe_with_its_means() -> None:
    table = made_up()
    data = shown(summary(table)).data
    assert data["recipe"].tolist() == [DEFAULT, "better", "alike"]
    mean = table[table["recipe"] == "better"]["layer"].mean()
    assert data["layer"][1].startswith(f"{mean:.2f} (".replace("-", "−"))


def test_the_figure_has_a_panel_per_quantity_and_a_row_per_recipe() -> None:
    table = made_up()
    figure = figures.interval_rows(summary(table), table, DEFAULT)
    assert [a.get_title() for a in figure.axes] == [SCORE, "layer"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [DEFAULT, "better", "alike"]
    plt.close(figure)
    assert dataclasses.is_dataclass(figures.light_dark(plt.figure, "x"))
