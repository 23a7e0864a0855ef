"""Verdicts follow from intervals, results come back whole, and the scoreboard only reads."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from analysis import findings, verdicts
from analysis.files import InputError
from analysis.findings import FINDINGS, counts, folder, record, recorded, scoreboard
from analysis.verdicts import (
    PREDICTS,
    Finding,
    Measured,
    Part,
    Rule,
    against_truth,
    in_control,
    judge,
    over_runs,
)

TWO = Finding(
    "two", "x", "claim", "1", "Fig. 1", (Part("a", "s"), Part("b", "s", Rule(1, "below")))
)
UP, DOWN = Measured(2, 1.5, 2.5, "x"), Measured(-2, -2.5, -1.5, "x")
OPEN = Measured(0.5, -1.0, 2.0, "x")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))


@pytest.mark.parametrize(
    "interval, above, below",
    [
        ((1.1, 1.2), "holds", "does not hold"),
        ((0.1, 0.9), "does not hold", "holds"),
        ((0.9, 1.1), "cannot be told", "cannot be told"),
        ((1.0, 1.1), "cannot be told", "cannot be told"),
        ((math.nan, 3.0), "cannot be told", "cannot be told"),
    ],
)
def test_a_part_holds_if_its_whole_interval_does(interval, above, below) -> None:
    m = Measured(1.0, *interval, "x")
    assert Rule(1.0).judge(m) == above and Rule(1.0, "below").judge(m) == below


@pytest.mark.parametrize(
    "parts, verdict",
    [
        ({}, "not run"),
        ({"a": UP, "b": DOWN}, "holds"),
        ({"a": UP}, "cannot be told"),
        ({"a": UP, "b": OPEN}, "cannot be told"),
        ({"a": OPEN, "b": UP}, "does not hold"),
        ({"a": DOWN}, "does not hold"),
        ({"a": UP, "b": DOWN, PREDICTS: UP}, "holds"),
        ({"a": UP, "b": DOWN, PREDICTS: OPEN}, "cannot be told"),
        ({"a": DOWN, "b": DOWN, PREDICTS: DOWN}, "cannot be told"),
    ],
)
def test_all_parts_have_to_hold_and_the_networks_to_predict(parts, verdict) -> None:
    judged = judge(TWO, parts)
    assert judged.verdict == verdict
    assert judged.table()["Part"].tolist() == ([PREDICTS] if PREDICTS in parts else []) + ["a", "b"]
    with pytest.raises(InputError, match="no part c; expected a, b, predicts"):
        judge(TWO, parts | {"c": UP})


def test_a_numbers_interval_is_the_middle_of_its_draws() -> None:
    draws = np.concatenate([[3.0], np.arange(1001.0)])
    m = Measured.of(draws, "x")
    assert (m.value, m.low, m.high) == pytest.approx((3, 25, 975))
    assert str(m) == "3.000 [25.000, 975.000]"


def test_an_unbiased_square_has_its_level_where_chance_alone_raises_it() -> None:
    rng, covered, values = np.random.default_rng(0), [], []
    for _ in range(300):  # the mean of squares of 12 numbers that are 0 but for noise
        seen = rng.normal(0, 1, 12)
        drawn = seen + rng.normal(0, 1, (400, 12))
        m = Measured.unbiased(np.concatenate([[np.square(seen).mean()],
                                              np.square(drawn).mean(1)]), "x")  # fmt: skip
        covered.append(Rule().judge(m) == "holds")
        values.append(m.value)
    assert np.mean(covered) < 0.06
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / 300**0.5)


def test_runs_are_averaged_with_students_interval_and_the_least_score_kept() -> None:
    runs = [{"a": Measured(v, 0, 0, "x"), PREDICTS: Measured(v, v - 1, v + 1, "y")}
            for v in (1.0, 2.0, 4.0)]  # fmt: skip
    found = over_runs(runs, "seeds")
    low, high = scipy.stats.t.interval(0.95, 2, 7 / 3, scipy.stats.sem([1, 2, 4]))
    assert (found["a"].low, found["a"].high) == pytest.approx((low, high))
    assert found["a"].over == "seeds" and found[PREDICTS] == runs[0][PREDICTS]


def test_truth_and_control_say_whether_a_claim_is_right() -> None:
    holds, fails, open_ = (judge(TWO, p) for p in (
        {"a": UP, "b": DOWN}, {"a": DOWN}, {"a": OPEN}))  # fmt: skip
    assert against_truth(holds, holds) == "found" and against_truth(open_, holds) == "missed"
    assert against_truth(holds, fails) == "claimed, and is not there"
    assert against_truth(fails, fails) == "not there, and not claimed"
    assert against_truth(holds, None) == against_truth(holds, open_) == "truth not known"
    assert in_control(holds) == "claimed" and in_control(open_) == "not claimed"
    assert in_control(None) == "not run"


def test_every_row_of_table_5_is_there_and_whole() -> None:
    groups = [f.about for f in FINDINGS.values()]
    expected = {"Brain score": 3, "Alignment": 6, "Model sizes": 2, "Fine-tuning": 2,
                "Channels": 2, "Consistency": 3}  # fmt: skip
    assert {g: groups.count(g) for g in expected} == expected and len(groups) == 18
    for finding in FINDINGS.values():
        names = [part.name for part in finding.parts]
        assert names and len(set(names)) == len(names) and PREDICTS not in names
        assert finding.claim.endswith(".") and ("Fig" in finding.source or "Tab" in finding.source)


def test_results_come_back_as_they_were_recorded() -> None:
    assert findings.subjects() == []
    finding = FINDINGS["limited-data"]
    judged = judge(finding, {"map": UP, "score": Measured(0.95, math.nan, 1.0, "x")})
    record("sim01@photos", judged, control=judge(finding, {}), run="short recipe, seed 0")
    found, run = recorded("sim01@photos", finding)
    assert run == "short recipe, seed 0" and set(found) == {"judged", "control"}
    assert found["judged"].measured["map"] == UP
    assert math.isnan(found["judged"].measured["score"].low)
    assert recorded("sim02", finding) == ({}, "")
    assert findings.subjects() == ["sim01@photos"]


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"run": ""}x', '{"judged": {"map": {"value": 1}}, "run": ""}',
     '{"judged": {"none": {"value": 1, "low": 1, "high": 1, "over": ""}}, "run": ""}',
     '{"judged": {}}'],
)  # fmt: skip
def test_a_damaged_result_is_named(damage) -> None:
    path = folder("sim01") / "limited-data.json"
    path.parent.mkdir(parents=True)
    path.write_text(damage)
    with pytest.raises(InputError, match=r"limited-data\.json"):
        recorded("sim01", FINDINGS["limited-data"])


def test_the_scoreboard_has_every_row_and_says_what_was_not_run() -> None:
    finding = FINDINGS["seeds-agree"]
    truth = judge(finding, {"map": Measured(1, 1, 1, "x")})
    record("sim01", judge(finding, {"map": UP, PREDICTS: UP}), truth, judge(finding, {"map": DOWN}))
    paper = {"seeds-agree": {"map": OPEN}}
    board = scoreboard("sim01", paper)
    assert board["Finding"].tolist() == list(FINDINGS)
    row = board.set_index("Finding").loc["seeds-agree"]
    assert row["Verdict"] == "holds" and row["Measured"] == f"map {UP}"
    assert row["Against truth"] == "found" and row["Shuffled control"] == "not claimed"
    assert row["by the same rule"] == "cannot be told" and row["Published numbers"] == f"map {OPEN}"
    assert counts(board) == {"holds": 1, "does not hold": 0, "cannot be told": 0, "not run": 17}
    assert counts(scoreboard("sim02"))["not run"] == 18
    assert set(json.loads((findings.folder("sim01") / "seeds-agree.json").read_text())) == {
        "judged", "truth", "control", "run"
    }  # fmt: skip
    assert verdicts.NOT_RUN == "not run"
