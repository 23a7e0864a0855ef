"""The page on methods: which fits it asks for, and its tables against those of single fits."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figures, methods_compared, methods_report, metrics, sweep
from analysis.attribution import layer_maps
from analysis.comparison import compare, false_discovery
from analysis.files import InputError
from analysis.maps import choices
from analysis.methods_compared import Compared, compared
from analysis.published import TABLE_15, TABLE_16
from analysis.recipes import RECIPES
from analysis.simulate import load_truth
from analysis.study import get_fit

FEW = {"steps_per_epoch": 3, "max_steps": 6, "decay_steps": 6}
NETWORK = "clip-mini"


@pytest.fixture(scope="module")
def fits(data_folder: Path):
    """All fits of the page, of few steps and with every network the teacher, of two layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(data_folder))
        patch.setattr("analysis.sweep.machine_cores", lambda: 1)
        patch.setitem(RECIPES, "few", dataclasses.replace(RECIPES["check"], **FEW))
        patch.setitem(methods_compared.METHODS, "small", methods_compared.METHODS["paper"])
        patch.setitem(sweep.BASE, "small", {"CLIP": NETWORK, "DiNOv2": NETWORK})
        patch.setitem(methods_compared.DECAYS, "small", methods_compared.DECAYS["paper"])
        yield compared("sim01-tiny", "small", [0, 1], "few", single_layers=True)


def test_every_method_layer_decay_and_seed_is_there(fits: Compared) -> None:
    assert set(fits.methods) == {*TABLE_16["variant"], "no-size", "ridge"}
    layers = len(fits.ours.tokens.widths)
    keys = [fit.record["key"]["model"] for fit in fits.singles]
    assert [key["only_layer"] for key in keys] == list(range(1, 1 + layers))
    assert {key["model"] for key in keys} == {"factortopy"}
    for by_steps in fits.decays.values():  # 6 steps are the paper's 6000
        recipes = {s: fit.record["key"]["recipe"] for s, fit in by_steps.items()}
        assert {s: r["decay_steps"] for s, r in recipes.items()} == {
            s: s // 1000 for s in TABLE_15.columns
        }
    assert [f.record["key"]["recipe"]["seed"] for f in fits.seeds.values()] == [0, 1]
    assert fits.seeds[0].folder == fits.ours.folder == fits.decays["CLIP"][6000].folder
    alone = get_fit("sim01-tiny", NETWORK, variant="no-space", recipe="few")
    assert fits.methods["no-space"].folder == alone.folder


@pytest.mark.parametrize("seeds", [[], [0], [1, 1]])
def test_wrong_seeds_and_sizes_are_told(seeds) -> None:
    with pytest.raises(InputError, match=r"seeds=.*two or more different whole numbers"):
        compared("sim01-tiny", "small", seeds)
    with pytest.raises(InputError, match="size 'big': expected one of small, paper"):
        compared("sim01-tiny", "big", [0, 1])


def test_differences_are_those_of_pairs_of_fits(fits: Compared) -> None:
    table = methods_compared.differences(fits)
    assert set(table["method"]) == {*TABLE_16.index, "no-size", "ridge"} - {"FactorTopy"}
    for name, method in (("class-token", "classToken"), ("ridge", "ridge")):
        row = table[(table["method"] == method) & (table["ROI"] == "all")].iloc[0]
        scores = [fit.scores("test").r2 for fit in (fits.methods[name], fits.ours)]
        assert row["difference of R²"] == pytest.approx((scores[0] - scores[1]).mean(), abs=1e-6)
        assert row["p"] == compare(fits.methods[name], fits.ours).roi_table(()).iloc[0]["p"]
    np.testing.assert_allclose(table["q"], false_discovery(table["p"].to_numpy()))
    printed = table.set_index(["method", "ROI"])["paper"]
    assert printed["classToken", "all"] == pytest.approx(0.100 - 0.132)
    assert printed["multiple sample", "EBA"] == pytest.approx(0.176 - 0.175)
    assert np.isnan(printed["ridge", "all"])
    shown = methods_compared.differences_shown(table)
    assert len(shown) == len(TABLE_16) + 1 and shown["Table 16"].iloc[-1] == "–"


def test_the_grid_puts_scores_and_weights_of_fits_together(fits: Compared) -> None:
    grid = methods_compared.grid_of(fits)
    assert list(grid.read) == ["weight", "contribution", "truth"]
    at, mask = grid.rois.index("V1"), fits.ours.subject.rois["V1"]
    scores = fits.singles[2].scores("test")
    assert grid.scores[0, at, 2] == pytest.approx(scores.r2[mask].mean())
    assert grid.scores[5, at, 2] == pytest.approx(scores.resampled[4, mask].mean())
    maps = layer_maps(fits.ours)
    np.testing.assert_allclose(grid.read["weight"][at], maps.weights[mask].mean(0))
    np.testing.assert_allclose(grid.read["contribution"][at], maps.shares[mask].mean(0))
    truth = load_truth("sim01-tiny", fits.ours.subject.vertices).layer
    np.testing.assert_allclose(grid.read["truth"][0], truth.mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("measured", "printed", "said"),
    [
        (-1, -1, "as printed"),
        (0, 0, "none in either"),
        (1, -1, "the other way"),
        (0, -1, "not told apart here"),
        (1, 0, "only here"),
        (1, None, "not printed"),
    ],
)
def test_signs_are_held_against_the_printed_ones(measured, printed, said) -> None:
    assert methods_compared._beside(measured, printed) == said


def test_scores_stand_beside_table_16(fits: Compared) -> None:
    table = methods_compared.scores_table(fits).set_index("Method")
    assert table.loc["classToken", "paper: V1v"] == 0.085
    scores = fits.methods["gnet"].scores("test")
    assert table.loc["GNetViT", "all"] == pytest.approx(scores.r2.mean())
    mask = fits.ours.subject.rois["V1v"]
    assert table.loc["GNetViT", "V1v"] == pytest.approx(scores.r2[mask].mean())
    assert np.isnan(table.loc["ridge", "paper: all"])


def test_decays_are_held_against_the_default_and_the_truth(fits: Compared) -> None:
    table = methods_compared.decays(fits)
    default = table[table["steps"] == 6000]
    assert (default["difference of R²"] == 0).all() and np.allclose(default["map"], 1)
    for network, by_steps in fits.decays.items():
        own = table[table["network"] == network].set_index("steps")
        assert own["paper"].tolist() == TABLE_15.loc[network].tolist()
        assert own.loc[2000, "R²"] == pytest.approx(by_steps[2000].scores("test").r2.mean())
        layer = by_steps[2000].selectors().layer.double().numpy()
        entropy = -(layer * np.log(layer)).sum(1).mean() / np.log(layer.shape[1])
        assert own.loc[2000, "confidence"] == pytest.approx(1 - entropy)
        assert own["truth"].between(-1, 1).all()
    assert len(methods_compared.depth_maps(fits)) == TABLE_15.size
    assert list(methods_compared.decays_shown(table)["here"]) == [2, 4, 6, 8] * 2
    figure = figures.decay_lines(table)
    assert list(figure.axes[1].lines[0].get_ydata()) == list(table["confidence"][:4])


def test_truth_is_that_of_the_methods_that_choose(fits: Compared) -> None:
    table = methods_compared.truth_table(fits).set_index("Method")
    assert np.isnan(table.loc["no layer sel", "layer"])
    assert np.isnan(table.loc["no space sel", "x in V1–V3"])
    assert table.loc["FactorTopy"].notna().all() and "classToken" not in table.index
    from analysis.report import truth_pairs

    true = truth_pairs(fits.ours)[0][1]
    each = [metrics.rank_correlation(true, choices(f)["depth"]) for f in fits.seeds.values()]
    assert table.loc["FactorTopy", "layer"] == pytest.approx(np.mean(each))  # over its seeds
    assert table["Seeds"].tolist() == [2] + [1] * (len(table) - 1)
    ridge = fits.methods["ridge"]
    assert table.loc["ridge, best layer", "layer"] == pytest.approx(
        metrics.rank_correlation(true, ridge.layer.astype(float))
    )
    text = methods_report.truth_text(fits, methods_compared.truth_table(fits))
    assert f"by {np.mean(each):.2f}, the mean of 2 seeds" in text
    higher = table.index[table["layer"] > np.mean(each)]
    assert all(name in text.split("one seed:")[1] for name in higher)
    assert f"by seed: {each[0]:.2f}, {each[1]:.2f}." in methods_report.seeds_text(fits)


def test_costs_are_multiples_of_class_tokens(fits: Compared) -> None:
    table = methods_compared.costs_table(fits, papers=False).set_index("Method")
    assert table.loc["classToken", "MACs here, ×"] == table.loc["classToken", "Time here, ×"] == 1
    assert table.loc["GNetViT", "Table 16: MACs, ×"] == 17
    assert np.isnan(table.loc["ridge", "Time here, ×"]) and table.loc["ridge", "MACs here, ×"] > 0


def test_words_are_made_of_the_tables(fits: Compared) -> None:
    table = methods_compared.differences(fits)
    by_decay = methods_compared.decays(fits)
    text = methods_report.finding(fits, table, by_decay)
    assert f"R² = **{fits.ours.score('test').value:.3f}**" in text
    none = "higher than of no other method and lower than of no other method"
    assert none in methods_report.finding(fits, table.assign(**{"q": 0.9}), by_decay)
    text = methods_report.rivals_text(table)
    assert all(verdict.capitalize() in text for verdict in set(table["beside the paper"]) - {
        "not printed"})  # fmt: skip
    assert figures.difference_rows(table).axes[0].get_title() == "all"


def test_seeds_are_compared_in_pairs(fits: Compared) -> None:
    (row,) = methods_compared.seeds_table(fits).to_dict("records")
    assert (row["seed"], row["and seed"]) == ("0", "1")
    one, other = (fits.seeds[seed].score("test").value for seed in (0, 1))
    assert row["difference of R²"] == pytest.approx(other - one)
    assert -1 <= row["rank correlation by weight"] <= 1


def test_another_networks_truth_is_not_claimed(fits: Compared) -> None:
    other = Compared(
        {"factortopy": fits.ours.__class__(**{**vars(fits.ours), "record": {
            **fits.ours.record, "backbone": "mae-mini"}})}, [], {}, {}
    )  # fmt: skip
    table = methods_compared.truth_table(other)
    assert isinstance(table, pd.DataFrame) and table.empty
    assert "`mae-mini` is not known" in methods_report.truth_text(other, table)


def test_a_run_of_the_benchmark_is_shown_by_its_last_step_and_in_words() -> None:
    ends = {"fast": (600, 30.0, 0.5), "paper": (1000, 600.0, 0.45)}
    rows = [
        {"recipe": name, "step": at, "seconds": s * at / step, "validation R²": r2 * at / step}
        | {"depth": 0.9, "scale": 0.8, "x": 0.7, "y": 0.6}
        for name, (step, s, r2) in ends.items()
        for at in (step // 2, step)
    ]
    run = {"subject": "sim01", "vertices": 2371, "backbone": NETWORK, "commit": "abc1234"}
    run |= {"machine": "one core", "rows": rows, "sooner": {"validation R²": 20.0, "x": None}}
    table = methods_compared.convergence_table(run).set_index("recipe")
    assert table["step"].to_dict() == {"fast": 600, "paper": 1000}
    assert table.loc["paper", "minutes"] == 10.0 and table.loc["fast", "validation R²"] == 0.5
    assert table.loc["fast", "x in V1–V3"] == 0.7
    text = methods_compared.convergence_text(run)
    assert "after 1,000 steps" in text and "validation R² 20 times sooner, x never" in text
    for name, kept in methods_compared.convergence_runs().items():
        assert kept["subject"] == name and set(kept["sooner"]) <= set(kept["rows"][0])
