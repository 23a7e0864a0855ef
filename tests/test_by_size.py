"""The pages on size and on samples: tables and texts of networks whose lines are planted."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis import by_size, by_trials, cortical, figures
from analysis.files import InputError
from analysis.findings import FINDINGS, Run, recorded
from analysis.readings import Reading, map_correlation
from analysis.splits import limit
from analysis.sweep import FAMILIES
from tests.planted import planted

RUN = Run("small", "check", "factortopy", (0, 1, 2))


@pytest.fixture(scope="module")
def networks(subject) -> dict[str, dict[str, list[Reading]]]:
    """CLIP's line steepens with size, the other families' lines flatten, early or late."""
    made = {}
    for family, names in FAMILIES["small"].items():
        small, large = (0.5, 0.3), (0.3, 0.3)
        if family == "CLIP":
            small, large = (0.3, 0.4), (0.7, 0.2)
        elif family in ("ImageNet", "DiNOv2"):
            large = (0.3, 0.5)
        made[family] = {
            name: [
                planted(subject, slope + d, start, name)
                for d in (0.0, 0.01, -0.01)
                for slope, start in (large if i == 2 else small,)
            ]
            for i, name in enumerate(names)
        }
    return made


def test_sizes_are_told_by_their_planted_lines(networks) -> None:
    table = by_size.sizes_table(networks).set_index("network")
    assert list(table.index) == [n for names in FAMILIES["small"].values() for n in names]
    large, small = table.loc["clip-mini-l"], table.loc["clip-mini-s"]
    assert large["slope"] - small["slope"] == pytest.approx(0.4, abs=0.06)
    assert large["start"] < small["start"] and large["weights"] > small["weights"]
    assert (table["slope low"] <= table["slope"]).all() and (table["R² low"] < table["R²"]).all()
    runs = networks["CLIP"]["clip-mini-l"]
    assert large["R²"] == pytest.approx(np.mean([r.scores.r2.mean() for r in runs]))
    depths = by_size.depths_table(networks)
    own = depths[depths["network"] == "clip-mini-l"].set_index("ROI")["depth"]
    assert own["V1"] == pytest.approx(0.2, abs=0.06)


def test_both_rows_hold_where_planted_and_are_recorded(networks, data_folder) -> None:
    turned = {f: dict(reversed(sizes.items())) for f, sizes in networks.items()}
    clip, others = by_size.judged(networks, "sim01-tiny", RUN)
    assert (clip.verdict, others.verdict) == ("holds", "holds")
    for name in ("clip-size", "other-sizes"):
        assert recorded("sim01-tiny", FINDINGS[name], RUN)["judged"].verdict == "holds"
    assert {found.verdict for found in by_size.judged(turned)} == {"does not hold"}
    table = by_size.sizes_table(networks)
    text = by_size.key_finding(table, clip, others)
    assert text.count("Holds.") == 2 and "mean of 3 seeds" in text and "throughout" not in text
    middle = table.assign(slope=table["slope"].where(table["network"] != "clip-mini", 0.9))
    said = by_size.key_finding(middle, clip, others)
    assert "not rise with size throughout: it is largest, 0.90, in `clip-mini`" in said
    assert "clip-mini-l" in by_size.shown(table).to_html()
    assert by_size.verdicts_table(others).data["Verdict"].tolist() == ["holds"] * 10
    assert by_size.published_table().data.loc[0, "Slope, largest"] == pytest.approx(0.54, abs=0.02)


def test_families_of_one_seed_are_not_judged_and_of_none_not_run(networks) -> None:
    fewer = {
        family: {n: runs if family == "CLIP" else runs[:1] for n, runs in sizes.items()}
        for family, sizes in networks.items()
    }
    clip, others = by_size.judged(fewer)
    assert (clip.verdict, others.verdict) == ("holds", "not judged")
    _, none = by_size.judged({"CLIP": networks["CLIP"]})
    assert none.verdict == "not run" and "no other family" in by_size.verdicts_table(none)


def test_the_truth_is_that_of_the_teachers_network(networks) -> None:
    text = by_size.truth_text(networks)
    assert "| slope |" in text and "`clip-mini`" in text
    assert "no truth" in by_size.truth_text({"MAE": networks["MAE"]})


def test_figures_show_every_network(networks, subject) -> None:
    lines = figures.line_by_size(by_size.sizes_table(networks))
    assert [axis.get_xscale() for axis in lines.axes] == ["log"] * 4
    assert len(lines.axes[0].containers) == 6
    depth = figures.depth_by_size(by_size.depths_table(networks))
    assert [len(axis.containers) for axis in depth.axes] == [3] * 6
    some = {"CLIP": networks["CLIP"]}
    sheet = cortical.small_layers(subject, by_size.layers_of(some), 3)
    assert [a.get_title() for a in sheet.axes if a.get_title()] == list(FAMILIES["small"]["CLIP"])
    fewer = {"SAM": {"sam-mini": networks["SAM"]["sam-mini"]}} | some
    assert [*by_size.layers_of(fewer).values()].count(None) == 2
    assert [*by_size.layers_of(fewer)].index("clip-mini-s") == 3  # its row begins at the left
    row = cortical.small_layers(subject, by_size.layers_of({"SAM": fewer["SAM"]} | some), 3)
    assert len(row.axes) == 2 * 4 + 1
    plt.close("all")


def test_a_wrong_size_is_told() -> None:
    for made in (by_size.fits_by_size, by_trials.limited):
        with pytest.raises(InputError, match="size 'big': expected one of small, paper"):
            made("sim01", "big", [0, 1])
    with pytest.raises(InputError, match=r"seeds=\[0\]: expected two or more"):
        by_trials.limited("sim01", "small", [0])


@pytest.fixture(scope="module")
def limited(subject) -> by_trials.Limited:
    """Maps that near the one of all with more samples."""
    noises = {75: 0.6, 300: 0.05, 600: 0.02}
    readings = {
        n: [planted(subject, 0.6 + d, 0.2, "clip-mini", s) for d in (0, 0.01, -0.01)]
        for n, s in noises.items()
    }
    fits = {
        model: {
            n: [SimpleNamespace(scores=lambda part, r=r: r.scores) for r in runs[:seeds]]
            for n, runs in readings.items()
        }
        for model, seeds in (("factortopy", 3), ("ridge", 1))
    }
    return by_trials.Limited(fits, readings, 300)


def test_maps_of_few_samples_stand_beside_those_of_all(limited, data_folder) -> None:
    maps, scores = by_trials.maps_table(limited), by_trials.scores_table(limited)
    assert maps["samples"].tolist() == [75, 300, 600]
    assert maps.loc[0, "map low"] < 0.8 < maps.loc[1, "other low"] and "truth" in maps
    whole = limited.whole
    pairs = [(limited.readings[75][i], whole[(i + 1) % 3]) for i in range(3)]
    expected = np.mean([map_correlation(*pair)[0] for pair in pairs])
    assert maps.loc[0, "other"] == pytest.approx(expected)
    assert maps["map"].iloc[-1] == pytest.approx(1) and maps["share"].iloc[-1] == 1
    judged = by_trials.judged(limited, "sim01-tiny", RUN)
    assert judged.verdict == "holds" and judged.seeds == 3
    assert recorded("sim01-tiny", FINDINGS["limited-data"], RUN)["judged"].verdict == "holds"
    text = by_trials.key_finding(maps, scores, judged, 300)
    assert "Judged at 300: holds." in text and "Trained on 300 of 600 samples" in text
    assert "75 samples" in by_trials.truth_text(maps)
    assert "no truth" in by_trials.truth_text(maps.drop(columns="truth"))
    assert list(by_trials.shown_scores(scores).data.columns) == ["samples", "factortopy", "ridge"]
    assert len(by_trials.shown(maps).data) == len(by_trials.layers_of(limited)) == 3
    figure = figures.by_samples(scores, maps)
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "log"]
    plt.close("all")


def test_fits_are_asked_for_by_model_trials_and_seed(subject, tiny_fit, monkeypatch) -> None:
    asked = {}

    def get_fits(wanted, **common):
        asked.update({name: {**common, **own} for name, own in wanted.items()})
        splits = {
            name: limit(tiny_fit.split, subject, own["trials"]) if own.get("trials") else None
            for name, own in wanted.items()
        }
        return {
            n: dataclasses.replace(tiny_fit, split=s or tiny_fit.split) for n, s in splits.items()
        }

    monkeypatch.setattr(by_trials, "get_fits", get_fits)
    monkeypatch.setitem(by_trials.TRIALS, "small", (10, 20))
    monkeypatch.setitem(by_trials.JUDGED, "small", 20)
    found = by_trials.limited("sim01", "small", [4, 5, 6], "check")
    assert [*found.readings][:2] == [10, 20]
    assert [len(runs) for runs in found.readings.values()] == [1, 3, 3]
    assert found.whole is found.readings[max(found.readings)] and max(found.readings) > 20
    assert set(found.fits) == {"factortopy", "class-token", "ridge"}
    assert ("ridge", 10, 4) in asked and ("class-token", None, 5) not in asked
    assert asked["factortopy", 20, 6]["recipe"] == "check"


def test_sizes_are_fitted_alike(tiny_fit, monkeypatch) -> None:
    asked = {}

    def get_fits(wanted, **common):
        asked.update({name: {**common, **own} for name, own in wanted.items()})
        return dict.fromkeys(wanted, tiny_fit)

    monkeypatch.setattr(by_size, "get_fits", get_fits)
    fits = by_size.fits_by_size("sim01", "small", [2, 3], [2])
    assert [*fits][:4] == [
        ("CLIP", "clip-mini-s"), ("CLIP", "clip-mini"), ("CLIP", "clip-mini-l"),
        ("SAM", "sam-mini"),
    ]  # fmt: skip
    assert len(fits) == 13 and [len(each) for each in fits.values()] == [2] * 3 + [1] * 10
    assert asked["CLIP", "clip-mini-l", 3]["seed"] == 3
    asked.clear()
    assert len(by_size.fits_by_size("sim01", "small", [2, 3])) == 3 and len(asked) == 6
    assert len(by_size.fits_by_size("subj01", "paper", [0], [0])) == 18
    (runs,) = by_size.by_size({("MAE", "mae-mini-s"): [tiny_fit]})["MAE"].values()
    assert runs[0].backbone == "mae-mini-s"


def test_a_table_without_intervals_is_no_figure() -> None:
    with pytest.raises(KeyError):
        figures.line_by_size(pd.DataFrame({"family": ["a"], "weights": [1.0], "slope": [0.1]}))
