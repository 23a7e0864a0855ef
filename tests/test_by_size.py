"""The pages on size and on samples: tables and texts of networks whose lines are planted."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from analysis import by_size, by_trials, cortical, figures
from analysis.files import InputError
from analysis.findings import FINDINGS, recorded
from analysis.readings import Reading
from analysis.splits import limit
from analysis.sweep import FAMILIES, sized
from tests.planted import planted


@pytest.fixture(scope="module")
def networks(subject) -> dict[str, dict[str, Reading]]:
    """CLIP's line steepens with size, the other families' lines flatten, early or late."""
    made = {}
    for family, names in FAMILIES["small"].items():
        small, large = (0.5, 0.3), (0.3, 0.3)
        if family == "CLIP":
            small, large = (0.3, 0.4), (0.7, 0.2)
        elif family in ("ImageNet", "DiNOv2"):
            large = (0.3, 0.5)
        made[family] = {
            name: planted(subject, *(large if i == 2 else small), name)
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
    depths = by_size.depths_table(networks)
    own = depths[depths["network"] == "clip-mini-l"].set_index("ROI")["depth"]
    assert own["V1"] == pytest.approx(0.2, abs=0.06)


def test_both_rows_hold_where_planted_and_are_recorded(networks, data_folder) -> None:
    unsaid = {f: dict(reversed(sizes.items())) for f, sizes in networks.items()}
    clip, others = by_size.judged(networks, unsaid, "sim01-tiny", "planted")
    assert (clip.verdict, others.verdict) == ("holds", "holds")
    for name in ("clip-size", "other-sizes"):
        found, run = recorded("sim01-tiny", FINDINGS[name])
        assert run == "planted" and found["control"].verdict == "does not hold"
    turned = by_size.judged(unsaid)
    assert {found.verdict for found in turned} == {"does not hold"}
    table = by_size.sizes_table(networks)
    text = by_size.key_finding(table, clip, others)
    assert "it falls for SAM, ImageNet, DiNOv2, MoCov3, MAE" in text and "Holds." in text
    assert "it rises for SAM" in by_size.key_finding(table, *turned)
    assert "throughout" not in text
    middle = table.assign(slope=table["slope"].where(table["network"] != "clip-mini", 0.9))
    said = by_size.key_finding(middle, clip, others)
    assert "not rise with size throughout: it is largest, 0.90, in `clip-mini`" in said
    assert "clip-mini-l" in by_size.shown(table).to_html()
    assert by_size.verdicts_table(others).data["Verdict"].tolist() == ["holds"] * 10
    assert by_size.published_table().data.loc[0, "Slope, largest"] == pytest.approx(0.54, abs=0.02)


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
            made("sim01", "big")
    assert sized("small")["sessions"] == 1


@pytest.fixture(scope="module")
def limited(subject) -> by_trials.Limited:
    """Maps that near the one of all with more samples."""
    noises = {75: 0.6, 300: 0.05, 600: 0.02}
    readings = {n: planted(subject, 0.6, 0.2, "clip-mini", s) for n, s in noises.items()}
    fits = {
        model: {n: SimpleNamespace(scores=lambda part, r=r: r.scores) for n, r in readings.items()}
        for model in ("factortopy", "ridge")
    }
    return by_trials.Limited(fits, readings, planted(subject, 0.6, 0.2, "clip-mini", 0.03), 300)


def test_the_smallest_number_whose_map_agrees_is_found(limited, data_folder) -> None:
    maps, scores = by_trials.maps_table(limited), by_trials.scores_table(limited)
    assert maps["samples"].tolist() == [75, 300, 600]
    assert maps["verdict"].tolist()[1:] == ["holds", "all"]
    assert maps.loc[0, "map low"] < 0.8 < maps.loc[1, "map low"] and "truth" in maps
    judged = by_trials.judged(limited)
    text = by_trials.key_finding(maps, scores, judged, 300)
    assert "**300** by the same seed, **300** by another" in text
    assert "at 300 samples: holds" in text and "Two seeds agree less" not in text
    none = by_trials.key_finding(maps.drop(index=1), scores, judged, 300)
    assert "none below all by the same seed, none below all by another" in none
    apart = dataclasses.replace(limited, again=planted(limited.whole.subject, -0.6, 0.8))
    unlike = by_trials.maps_table(apart)
    assert unlike["other high"].iloc[-1] < 0.2  # no seed of the same data gives the map again
    text = by_trials.key_finding(unlike, scores, judged, 300)
    assert "**300** by the same seed, none below all by another" in text
    assert "Two seeds agree less than that" in text
    assert "75 samples" in by_trials.truth_text(maps)
    assert "no truth" in by_trials.truth_text(maps.drop(columns="truth"))
    assert by_trials.shown(maps).data.columns[-1] == "Row 18's rules"
    assert list(by_trials.shown_scores(scores).data.columns) == ["samples", "factortopy", "ridge"]
    figure = figures.by_samples(scores, maps)
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "log"]
    plt.close("all")


def test_fits_are_asked_for_by_model_and_trials(subject, tiny_fit, monkeypatch) -> None:
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
    found = by_trials.limited("sim01", "small", 4)
    assert [*found.readings][:2] == [10, 20]
    assert found.whole is found.readings[max(found.readings)] and max(found.readings) > 20
    assert set(found.fits) == {"factortopy", "class-token", "patch-token", "ridge"}
    assert asked["ridge", 10]["changes"] is None and "changes" not in asked["class-token", 10]
    assert asked["again", None]["seed"] == 5 and asked["class-token", None]["seed"] == 4
    by_trials.controls("sim01", "small")
    assert asked[20]["shuffle"] is True and asked[None]["shuffle"] is True


def test_sizes_are_fitted_alike(tiny_fit, monkeypatch) -> None:
    said = {}

    def get_fits(wanted, **common):
        said.update(common)
        return dict.fromkeys(wanted, tiny_fit)

    monkeypatch.setattr(by_size, "get_fits", get_fits)
    assert len(by_size.fits_by_size("sim01", "small", 2)) == 18
    assert said["seed"] == 2 and said["n_surface"] == 2562
    ends = by_size.fits_by_size("sim01", "small", ends=True, shuffle=True)
    assert [*ends][:2] == [("CLIP", "clip-mini-s"), ("CLIP", "clip-mini-l")] and len(ends) == 12
    assert said["shuffle"] is True
    (reading,) = by_size.by_size({("MAE", "mae-mini-s"): tiny_fit})["MAE"].values()
    assert reading.backbone == "mae-mini-s"


def test_a_table_without_intervals_is_no_figure() -> None:
    with pytest.raises(KeyError):
        figures.line_by_size(pd.DataFrame({"family": ["a"], "weights": [1.0], "slope": [0.1]}))
