"""The page on fine-tuning: what is forgotten of planted maps, its texts, and its grids."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from analysis import forgetting, forgetting_report, sweep
from analysis import tuning_figures as drawn
from analysis.alignment import LEVELS
from analysis.attribution import LayerMaps
from analysis.files import InputError
from analysis.findings import FINDINGS, Run, recorded
from analysis.finetune import Tuned, head_grid
from analysis.fit import Fit
from analysis.labelled import drawn_set
from analysis.learner import Tuning
from analysis.lessons import Lesson
from analysis.metrics import brain_score
from analysis.readings import LATE, Reading, moved, over_pictures
from analysis.subject import Subject

RUN = Run("small", "check", "factortopy", (0, 1, 2))
# Planted: how far each network's late vertices move, the share of R² it keeps, and its accuracy.
PLANTED = {
    "CLIP": (0.05, 1.0, 0.95),
    "MAE": (0.3, 0.8, 0.75),
    "SAM": (0.2, 0.5, 0.8),
    "DiNOv2": (0.35, 0.65, 0.7),
}


def planted(person: Subject, moves: float, keeps: float, seed: int = 0) -> Reading:
    """A Reading whose late vertices' depth lies so far from 0.9."""
    n, layers = len(person.vertices), np.linspace(0, 1, 12)
    late = np.any([person.rois[r] for r in LATE if r in person.rois], axis=0)
    rng = np.random.default_rng(seed)
    depth = np.where(late, 0.9 - moves, 0.2) + rng.normal(0, 0.005, n)
    weights = np.exp(-np.square((layers - depth[:, None]) / 0.12) / 2)
    weights /= weights.sum(1, keepdims=True)
    draw = np.random.default_rng(1)  # the same pictures for all
    signal, shown = draw.normal(size=(60, n)), np.repeat(np.arange(60), 3)
    y = signal[shown] + draw.normal(size=(180, n))
    noise = np.sqrt(1 - keeps) * draw.normal(size=(60, n))
    scores = brain_score(0.6 * (signal + noise), y, shown, np.ones(n), "test", samples=100)
    none = np.full(n, np.nan)
    maps = LayerMaps(weights, weights, "test", 60)
    return Reading(person, "other", scores, maps, np.ones((n, 4)), np.zeros((n, 2)), none)


def run(accuracy: float, seed: int = 0, n: int = 200) -> Tuned:
    """A tuned network of that accuracy."""
    labels = np.arange(n) % 4
    wrong = np.random.default_rng(seed).permutation(n) >= round(accuracy * n)
    result = {
        "chance": 0.25, "rate": 1e-4, "rates": [1e-4], "epoch": 2, "epochs": 3,
        "accuracy": {"train": 1.0},
    }  # fmt: skip
    return Tuned("tuned:some", Path("some"), result, labels, (labels + wrong) % 4)


class Bare(Fit):
    """A fit of which only these are asked."""

    def __init__(self, **own):
        for name, value in own.items():
            object.__setattr__(self, name, value)


@pytest.fixture(scope="module")
def page(subject: Subject) -> forgetting.Page:
    """Two tasks, three seeds before and after."""
    tasks, tuned, readings = ("colour", "shape"), {}, {}
    for i, (network, (moves, keeps, accuracy)) in enumerate(PLANTED.items()):
        readings[network, ""] = [planted(subject, 0.0, 1.0, 100 * k + i) for k in range(3)]
        for j, task in enumerate(tasks):
            readings[network, task] = [
                planted(subject, moves, keeps, 1000 * k + 10 * j + i + 50) for k in range(3)
            ]
            tuned[network, task] = [run(accuracy, j), run(accuracy - 0.02, j + 2)]
    fits = {key: [Bare(subject=subject)] for key in readings}
    return forgetting.Page("sim01-tiny", "small", tasks, tuned, fits, readings)


@pytest.fixture(scope="module")
def lost(page: forgetting.Page) -> pd.DataFrame:
    return forgetting.forgetting_table(page)


def test_how_far_maps_moved_and_what_was_lost_is_what_was_planted(page, lost) -> None:
    table = lost.set_index(["network", "task"])
    for network, (moves, keeps, _) in PLANTED.items():
        row = table.loc[network, "colour"]
        assert row["late"] == pytest.approx(moves, abs=0.04)
        assert row["early"] < 0.02 and row["late, seeds"] < 0.02  # noise alone
        assert row["late low"] <= row["late"] <= row["late high"]
        assert row["lost"] == pytest.approx(row["before"] - row["after"])
        assert (row["lost"] > 0.01) == (keeps < 1)
        assert row["lost low"] <= row["lost"] <= row["lost high"]


def test_moved_is_the_mean_over_the_vertices_of_the_rois(page) -> None:
    before, after = page.readings["MAE", ""][0], page.readings["MAE", "shape"][0]
    mask = np.any([r for n, r in before.subject.rois.items() if n in LEVELS["main areas"]], axis=0)
    by_hand = [
        abs(float(b @ np.linspace(0, 1, 12)) - float(a @ np.linspace(0, 1, 12)))
        for b, a in zip(before.maps.weights[mask], after.maps.weights[mask], strict=True)
    ]
    found = moved(before, after, tuple(LEVELS["main areas"]))
    assert found[0] == pytest.approx(np.mean(by_hand))
    assert np.quantile(found[1:], 0.01) < found[0] < np.quantile(found[1:], 0.99)
    with pytest.raises(InputError, match="none of the ROIs nowhere"):
        moved(before, after, ["nowhere"])
    fewer = dataclasses.replace(before.subject, vertices=before.subject.vertices[::-1])
    with pytest.raises(InputError, match="not the same vertices"):
        moved(before, dataclasses.replace(after, subject=fewer))


def test_the_rows_of_table_5_are_judged_over_seeds_and_recorded(page, data_folder) -> None:
    layout, accuracy = forgetting.judged(page, RUN)
    assert layout.verdict == "holds" and layout.seeds == accuracy.seeds == 3
    moves = {name: planted_[0] for name, planted_ in PLANTED.items()}
    expected = moves["DiNOv2"] ** 2 - moves["CLIP"] ** 2  # mean squared changes
    assert layout.measured["DiNOv2"].value == pytest.approx(expected, abs=0.03)
    parts = {part.name: accuracy.part(part) for part in accuracy.finding.parts}
    assert parts["CLIP best"] == "holds"
    assert parts["no relation"] == "cannot be told"  # of four networks
    for name in ("fine-tuning-layout", "fine-tuning-accuracy"):
        assert [*recorded("sim01-tiny", FINDINGS[name], RUN)] == ["judged"]


def test_of_one_seed_after_nothing_is_judged(page) -> None:
    after = {key: runs if not key[1] else runs[:1] for key, runs in page.readings.items()}
    layout, accuracy = forgetting.judged(dataclasses.replace(page, readings=after))
    assert (layout.verdict, accuracy.verdict) == ("not run", "not judged")
    table = forgetting_report.verdicts_table(layout, accuracy).data
    assert table["Measured"].iloc[0] == "–" or "–" in table["Measured"].iloc[0]


def test_accuracy_has_an_interval_over_runs_or_over_pictures(page) -> None:
    two = forgetting.accuracy_of([run(0.9), run(0.8)])
    assert (two.value, two.over) == (pytest.approx(0.85), "seeds")
    assert two.high - two.value == pytest.approx(12.706 * 0.05, rel=1e-3)  # Student's, 1 df
    one = forgetting.accuracy_of([run(0.9)])
    sd = (0.9 * 0.1 / 200) ** 0.5
    assert one.over == "test pictures" and one.high - one.low == pytest.approx(3.92 * sd, rel=0.1)
    assert over_pictures(np.array([1.0, 0.0]))[0] == 0.5


def test_the_page_says_what_the_tables_say(page, lost, data_folder) -> None:
    table = forgetting.accuracy_table(page)
    layout, accuracy = forgetting.judged(page)
    text = forgetting_report.key_finding(page, table, lost, layout, accuracy)
    assert "MAE, SAM, DiNOv2 lost R² of a simulated subject beyond its interval" in text
    assert "above chance for CLIP, MAE, SAM, DiNOv2" in text and "Holds." in text
    gained = lost.assign(**{"lost low": -0.2, "lost high": -0.1})
    text = forgetting_report.key_finding(page, table, gained, layout, accuracy)
    assert "no network lost" in text and "R² rose beyond its interval for CLIP" in text
    chance = forgetting_report.key_finding(page, table.assign(chance=1.0), lost, layout, accuracy)
    assert "above chance for no network" in chance
    html = forgetting_report.accuracy_shown(table).to_html()
    assert "0.640" in html and "chance" in html and "nan" not in html.lower()
    shown = forgetting_report.forgetting_shown(lost).data
    assert shown["Network"].tolist() == [n for n in PLANTED for _ in page.tasks]
    assert np.isnan(shown["Paper: R² lost"][2])  # Fig. 23 leaves MAE out
    assert len(forgetting_report.verdicts_table(layout, accuracy).data) == 4


def test_figures_show_every_network_and_task(page, lost) -> None:
    table = forgetting.accuracy_table(page)
    grid = pd.DataFrame(
        [
            {"network": n, "seed": s, "layer": k, "accuracy": 0.3 + 0.1 * k}
            for n in PLANTED
            for s in (0, 1)
            for k in (1, 2, 3)
        ]
    )
    lines = drawn.grid_lines({"colour": grid, "shape": grid}, {"colour": 0.25, "shape": 0.3})
    assert [len(axis.containers) for axis in lines.axes] == [4, 4]
    bars = drawn.before_and_after(lost)
    assert len(bars.axes[0].patches) == 12
    both = drawn.accuracy_and_change(table, lost)
    assert [axis.get_title() for axis in both.axes] == ["colour", "shape"]
    assert [len(axis.containers) for axis in both.axes] == [4, 4]
    layers = forgetting.layers_of(page)
    assert list(layers)[:3] == ["CLIP, before", "CLIP, colour", "CLIP, shape"] and len(layers) == 12
    shown, names = forgetting.examples("small")
    assert len(shown) == len(names) == 12
    plt.close("all")


# layers


def test_the_grid_finds_the_layer_that_labels_were_planted_in() -> None:
    """Labels are the side of a plane through the median of one layer's tokens."""
    rng = torch.Generator().manual_seed(0)
    data = drawn_set("shape")
    layers = [torch.randn(len(data.labels), 16, generator=rng) for _ in range(3)]
    quick = Tuning(method="head", epochs=10, batch=32, rates=(1e-2,))
    for planted_in, token in enumerate(layers):
        side = token.double().numpy() @ np.random.default_rng(planted_in).normal(size=16)
        labels = (side > np.median(side)).astype(int)
        task = dataclasses.replace(data, classes=("below", "above"), labels=labels)
        found = head_grid(layers, task, quick)
        assert np.argmax(found) == planted_in and max(found) > 0.75


def test_the_grid_of_layers_has_a_row_per_network_layer_and_run(monkeypatch) -> None:
    two = {"CLIP": "clip-mini-s", "MAE": "mae-mini-s"}
    monkeypatch.setattr(forgetting, "NETWORKS", {"small": two})
    monkeypatch.setitem(forgetting.TASKS, "small", ("colour", "shape"))
    monkeypatch.setattr(
        forgetting, "global_tokens", lambda b, d: [torch.randn(len(d.labels), 4)] * 4
    )
    monkeypatch.setattr(forgetting, "GRID", {"small": Tuning(method="head", epochs=1, batch=64)})
    found = forgetting.grids("small")
    assert list(found) == ["colour", "shape"]
    rows = found["shape"].groupby(["network", "seed"])["layer"].apply(list)
    assert len(rows) == 4 and all(layers == [1, 2, 3, 4] for layers in rows)
    monkeypatch.setattr(Lesson, "is_there", lambda lesson: True)
    asked = []
    monkeypatch.setattr(Lesson, "tuned", lambda lesson: asked.append(lesson) or run(0.5))
    whole = forgetting.grids("small", "whole")
    assert {lesson.tuning.layer for lesson in asked} == {1, 2, 3, 4}
    assert len(set(asked)) == len(asked) == len(whole["shape"]) * 2 == 32
    assert whole["shape"].columns.tolist() == found["shape"].columns.tolist()
    with pytest.raises(InputError, match="grid='some': expected 'head' or 'whole'"):
        forgetting.grids("small", "some")


def test_networks_are_tuned_side_by_side_once(monkeypatch) -> None:
    done, made = set(), []
    monkeypatch.setattr(Lesson, "is_there", lambda lesson: lesson in done)
    monkeypatch.setattr(Lesson, "tuned", lambda lesson: run(0.5))
    monkeypatch.setattr(sweep, "pool", Pool)
    monkeypatch.setattr(sweep, "_make", lambda lesson: made.append(lesson) or done.add(lesson))
    lessons = {task: Lesson("mae-mini-s", task) for task in ("colour", "shape")}
    for _ in range(2):
        assert list(sweep.get_tuned(lessons | {"again": lessons["shape"]})) == [*lessons, "again"]
        assert made == list(lessons.values())
    with pytest.raises(InputError, match="runs=0: expected 1 or more"):
        forgetting.fine_tuned("sim01-tiny", "small", runs=0)


def test_networks_are_mapped_by_more_seeds_before_than_after(tiny_fit, monkeypatch) -> None:
    asked = {}

    def get_fits(wanted, **common):
        asked.update({name: {**common, **own} for name, own in wanted.items()})
        return dict.fromkeys(wanted, tiny_fit)

    monkeypatch.setattr(forgetting, "get_fits", get_fits)
    fits = forgetting.mapped("sim01", "small", [0, 1], [0], "check")
    assert {key: len(each) for key, each in fits.items()} == {
        (n, task): 2 if not task else 1 for n in ("CLIP", "MAE", "DiNOv2") for task in ("", "shape")
    }
    assert asked["CLIP", "", 1] == {
        "subject": "sim01", "recipe": "check", "backbone": "clip-mini", "seed": 1,
    }  # fmt: skip
    assert asked["MAE", "shape", 0]["tuned"]["task"] == "shape"
    with pytest.raises(InputError, match=r"seeds=\[0\]: expected two or more"):
        forgetting.mapped("sim01", "small", [0], [0])


class Pool:
    """Does at once what a pool of processes would."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, do, job):
        do(job)
        return SimpleNamespace(result=lambda: None)
