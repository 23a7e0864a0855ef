"""The page on fine-tuning: what is forgotten of planted maps, its texts, and its truth."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from analysis import evidence, forgetting, forgetting_report, forgetting_truth, sweep
from analysis import tuning_figures as drawn
from analysis.alignment import LEVELS
from analysis.attribution import LayerMaps
from analysis.backbones import load_backbone
from analysis.files import InputError
from analysis.findings import FINDINGS, recorded
from analysis.finetune import Tuned
from analysis.fit import Fit
from analysis.labelled import drawn_set
from analysis.learner import Tuning
from analysis.lessons import Lesson
from analysis.metrics import brain_score
from analysis.readings import LATE, Reading, moved, over_pictures
from analysis.simulate import TEACHER, load_truth
from analysis.study import get_tokens
from analysis.subject import Subject
from analysis.truth import noiseless, token_standard

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
    tasks, tuned, readings = ("colour", "shape"), {}, {}
    for i, (network, (moves, keeps, accuracy)) in enumerate(PLANTED.items()):
        readings[network, ""] = planted(subject, 0.0, 1.0, i)
        for j, task in enumerate(tasks):
            readings[network, task] = planted(subject, moves, keeps, 10 * j + i)
            tuned[network, task] = [run(accuracy, j), run(accuracy - 0.02, j + 2)]
    fits = {key: Bare(subject=subject) for key in readings}
    methods = {"whole": run(0.9), "head": run(0.6), "lora": run(0.8)}
    other = {n: planted(subject, 0.0, 1.0, 99) for n in PLANTED}
    control = {(n, t): readings[n, ""] for n in PLANTED for t in ("", "colour")}
    return forgetting.Page(
        "sim01-tiny", "small", tasks, tuned, fits, readings, methods, control, other
    )


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
    ranks = forgetting.rank_table(lost)
    assert ranks["network"].tolist() == ["CLIP", "MAE", "DiNOv2", "SAM"]
    assert ranks["rank"].tolist() == [1, 2, 3, 4]


def test_moved_is_the_mean_over_the_vertices_of_the_rois(page) -> None:
    before, after = page.readings["MAE", ""], page.readings["MAE", "shape"]
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


def test_the_rows_of_table_5_hold_where_planted_and_are_recorded(page, data_folder) -> None:
    layout, accuracy = forgetting.judged(page, "planted")
    assert layout.verdict == "holds"
    assert layout.measured["DiNOv2"].value == pytest.approx(0.3, abs=0.05)
    parts = {part.name: accuracy.part(part) for part in accuracy.finding.parts}
    assert parts["CLIP best"] == "holds"
    assert parts["no relation"] == "does not hold"  # planted: accuracy falls with movement
    for name in ("fine-tuning-layout", "fine-tuning-accuracy"):
        found, said = recorded("sim01-tiny", FINDINGS[name])
        assert said == "planted" and set(found) == {"judged", "control"}
        if name == "fine-tuning-layout":  # nothing moves in the planted control
            assert found["control"].verdict != "holds"
    turned = {
        "CLIP": {"": page.readings["CLIP", ""], "shape": page.readings["MAE", "shape"]},
        "DiNOv2": {"": page.readings["CLIP", ""], "shape": page.readings["CLIP", "shape"]},
        "MAE": {"": page.readings["CLIP", ""], "shape": page.readings["CLIP", "shape"]},
    }
    found = evidence.fine_tuning_layout(turned)
    assert found["MAE"].high < 0
    with pytest.raises(InputError, match="DiNOv2 missing"):
        evidence.fine_tuning_layout({"CLIP": turned["CLIP"], "MAE": turned["MAE"]})


def test_no_relation_is_found_where_ranks_are_unrelated(page) -> None:
    readings = forgetting.by_network(page.readings)
    order = dict(zip(PLANTED, (0.62, 0.9, 0.95, 0.6), strict=True))  # against 1, 3, 2, 4
    right = {n: {"shape": run(a).labels == run(a).predicted} for n, a in order.items()}
    right = {n: {t: r.astype(float) for t, r in of.items()} for n, of in right.items()}
    found = evidence.fine_tuning_accuracy(readings, right)["no relation"]
    assert found.value == pytest.approx(0.4)  # 1 - 6 Σd² / 60 of ranks (2, 3, 4, 1), by hand


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
    assert "CLIP loses least R² of a simulated subject" in text and "SAM most" in text
    assert "The most accurate is CLIP (0.94)" in text and "Holds." in text
    html = forgetting_report.accuracy_shown(table).to_html()
    assert "0.640" in html and "chance" in html and "nan" not in html.lower()
    assert forgetting_report.forgetting_shown(lost).data["Network"].tolist()[:2] == ["CLIP"] * 2
    ranks = forgetting_report.ranks_shown(lost).data
    assert ranks["Paper: rank"].tolist()[0] == 1 and np.isnan(ranks["Paper: rank"][1])
    assert forgetting_report.methods_shown(page).data["Accuracy, test"].tolist() == [0.9, 0.6, 0.8]
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
    assert len(shown) == len(names) == 12 and ", " in names[0]
    assert drawn.truth_panels(None, pd.DataFrame({"planted": 1, "layer": [1], "accuracy": 1.0}))
    plt.close("all")


# truth


@pytest.fixture(scope="module")
def teacher(subject: Subject, data_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(data_folder))
        return get_tokens(subject, TEACHER)


def test_what_truth_reads_of_cached_tokens_is_the_response_that_was_made(
    subject, teacher, data_folder
) -> None:
    truth = load_truth("sim01-tiny", subject.vertices)
    rows = np.arange(len(teacher))
    read = forgetting_truth.read_from(truth, teacher, rows, rows)
    pictures = torch.from_numpy(subject.pictures(slice(None)))
    network = load_backbone(TEACHER)
    whole = noiseless(truth, network, token_standard(network, pictures), pictures)
    same = np.mean(read * whole, axis=0)
    assert np.median(same) > 0.9  # of tokens pooled to 8 x 8; the response is of all


def test_truth_says_that_nothing_is_lost_untuned_and_all_of_another_network(
    subject, teacher, page, data_folder, monkeypatch
) -> None:
    other = get_tokens(subject, "mae-mini")  # as wide and as deep
    truth = load_truth("sim01-tiny", subject.vertices)
    monkeypatch.setattr(forgetting_truth, "truth_of", lambda person: truth)
    split = SimpleNamespace(train=np.arange(20), test=np.arange(20, len(teacher)))
    r2 = np.full(len(subject.vertices), 0.2)

    def fit(tokens, share: float) -> Bare:
        scores = dataclasses.replace(
            page.readings["CLIP", ""].scores, r2=share * r2, ceiling=2 * r2
        )
        return Bare(
            subject=subject, tokens=tokens, split=split, scores=lambda part: scores,
            score=lambda part: SimpleNamespace(value=0.2 * share),
        )  # fmt: skip

    same = forgetting_truth.told("colour", fit(teacher, 1.0), fit(teacher, 1.0))
    assert np.abs(same.predicted).max() < 1e-4 and not same.lost.any()
    changed = forgetting_truth.told("colour", fit(teacher, 1.0), fit(other, 0.5))
    assert changed.predicted.mean() > 0.7
    table = changed.table()
    assert table.loc[0, "ROI"] == "all" and table.loc[0, "found"] == pytest.approx(0.25)
    assert table.loc[0, "by truth"] == pytest.approx(changed.predicted.mean())  # one ceiling
    planted = pd.DataFrame(
        [{"planted": p, "seed": 0, "layer": k, "accuracy": 1 - abs(p - k) / 4} for p in (1, 2)
         for k in (1, 2, 3)]
    )  # fmt: skip
    ranked = dataclasses.replace(changed, lost=changed.predicted * changed.ceiling)
    most, more = forgetting_truth.beyond(ranked, page)
    assert most == "SAM"  # which keeps least of what was planted
    text = forgetting_truth.truth_text(ranked, planted, page)
    assert "from R² 0.200 to 0.100" in text and "is 1.000 [1.000, 1.000]" in text
    assert "more than SAM" in text and "peaks at that layer for 2" in text
    assert ("not most" in text) == (more.value <= 0)
    assert "has no truth here" in forgetting_truth.truth_text(None, planted, page)
    plt.close(forgetting_truth.truth_figure(changed, planted))


def test_the_grid_finds_the_layer_that_labels_were_planted_in(monkeypatch) -> None:
    rng = torch.Generator().manual_seed(0)
    data = drawn_set("shape")
    layers = [torch.randn(len(data.labels), 16, generator=rng) for _ in range(3)]
    monkeypatch.setattr(forgetting_truth, "global_tokens", lambda *_: layers)
    quick = Tuning(method="head", epochs=10, batch=32, rates=(1e-2,))
    monkeypatch.setattr(forgetting_truth, "GRID", {"small": quick})
    grid = forgetting_truth.planted_grid("small", seeds=1)
    found = forgetting_truth.peaks(grid)
    assert found["found"].tolist() == found["planted"].tolist() == [1, 2, 3]
    assert (found["accuracy"] > 0.75).all()
    labels = forgetting_truth.planted_set(data, layers[0], 1).labels
    assert labels.mean() == 0.5


def test_the_grid_of_layers_has_a_row_per_network_layer_and_run(monkeypatch) -> None:
    two = {"CLIP": "clip-mini-s", "MAE": "mae-mini-s"}
    monkeypatch.setattr(forgetting, "NETWORKS", {"small": two})
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
    with pytest.raises(InputError, match="seeds=0: expected 1 or more"):
        forgetting.fine_tuned("sim01-tiny", "small", seeds=0)
    assert forgetting_truth.lessons("subj01") == []
    assert forgetting_truth.lessons("sim01")[0].backbone == TEACHER


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
