"""Verdicts follow from intervals, results come back whole, and the scoreboard only reads."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from analysis import findings, verdicts
from analysis.files import InputError
from analysis.findings import (
    FINDINGS,
    Run,
    counts,
    folder,
    record,
    recorded,
    run_of,
    runs,
    scoreboard,
)
from analysis.verdicts import (
    PREDICTS,
    Finding,
    Measured,
    Part,
    Rule,
    against_truth,
    judge,
    over_seeds,
)
from analysis.versions import VERSIONS

TWO = Finding(
    "two",
    "x",
    "claim",
    "1",
    "Fig. 1",
    (Part("a", "s"), Part("b", "s", Rule(1, "below"))),
    ("a", "b"),
)
RUN = Run("small", "fast", "factortopy", (0, 1, 2))
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
    assert str(m) == "3.000 (25.000 to 975.000)"
    assert str(Measured(3, math.nan, math.nan, "two patches")) == "3.000 (two patches)"
    assert str(Measured(math.nan, math.nan, math.nan, "no area")) == "no area"


def test_the_smallest_is_that_of_each_draw_and_ends_where_one_number_surely_does() -> None:
    rng = np.random.default_rng(0)
    draws = {name: m + rng.normal(0, 1, 1001) for name, m in (("a", 0.0), ("b", 0.0), ("c", 9.0))}
    for values, m in zip(draws.values(), (0.1, 0.0, 9.0), strict=True):
        values[0] = m
    least = Measured.smallest(draws, "x")
    each = np.min(list(draws.values()), axis=0)
    assert least.value == 0 and least.low == pytest.approx(np.quantile(each[1:], 0.025))
    by = scipy.stats.norm.ppf(1 - 0.025 / 3) / scipy.stats.norm.ppf(0.975)
    ends = [v[0] + by * (np.quantile(v[1:], 0.975) - v[0]) for v in draws.values()]
    assert least.high == pytest.approx(min(ends))
    most = Measured.largest({name: -values for name, values in draws.items()}, "x")
    assert (most.value, most.low, most.high) == (-least.value, -least.high, -least.low)


def test_what_speaks_against_a_claim_is_widened_for_how_many_numbers_could() -> None:
    """Of ten numbers at their bound one lies beyond it by chance in a fifth of draws, unwidened."""
    ten = Finding("ten", "x", "claim", "1", "Fig. 1", tuple(Part(str(i), "s") for i in range(10)))
    rng, told = np.random.default_rng(0), []
    for values in rng.normal(0, 1, (1000, 10)):
        parts = {str(i): Measured(v, v - 1.96, v + 1.96, "x") for i, v in enumerate(values)}
        told.append(judge(ten, parts).verdict)
    assert told.count("does not hold") < 40 and told.count("holds") == 0
    alone = Finding("one", "x", "claim", "1", "Fig. 1", (Part("0", "s"),))
    just = Measured(-2.0, -3.96, -0.04, "x")
    assert judge(alone, {"0": just}).verdict == "does not hold"
    assert judge(ten, {"0": just}).verdict == "cannot be told"


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


def test_an_interval_holds_the_spread_of_seeds_and_what_one_fits_is_over() -> None:
    each = [{"a": Measured(v, v - 1, v + 2, "x")} for v in (1.0, 2.0, 4.0)]
    found = over_seeds(each)["a"]
    low, high = scipy.stats.t.interval(0.95, 2, 7 / 3, scipy.stats.sem([1, 2, 4]))
    assert found.value == pytest.approx(7 / 3) and found.over == "x, 3 seeds"
    assert found.low == pytest.approx(7 / 3 - np.hypot(7 / 3 - low, 1))
    assert found.high == pytest.approx(7 / 3 + np.hypot(high - 7 / 3, 2))
    assert over_seeds(each[:1])["a"] == Measured(1, 0, 3, "x, 1 seed")
    none = {"a": Measured(3, math.nan, math.nan, "two patches")}
    assert str(over_seeds([*each, none])["a"]) == "2.500 (two patches)"


def test_fewer_than_three_seeds_are_not_judged() -> None:
    judged = judge(TWO, {"a": UP, "b": DOWN}, seeds=2)
    assert judged.verdict == "not judged" and judged.why == "2 seeds; a verdict is over 3"
    assert set(judged.table()["Verdict"]) == {"not judged"}
    assert judge(TWO, {}, seeds=1).verdict == "not run" and judge(TWO, {"a": UP}).why == ""


def test_truth_says_whether_a_claim_is_right() -> None:
    holds, fails, open_ = (judge(TWO, p) for p in (
        {"a": UP, "b": DOWN}, {"a": DOWN}, {"a": OPEN}))  # fmt: skip
    assert against_truth(holds, holds) == "found" and against_truth(open_, holds) == "missed"
    assert against_truth(holds, fails) == "claimed, and is not there"
    assert against_truth(fails, fails) == "not there, and not claimed"
    assert against_truth(holds, None) == against_truth(holds, open_) == "truth not known"
    few = judge(TWO, {"a": UP, "b": DOWN}, seeds=1)
    assert against_truth(few, holds) == against_truth(judge(TWO, {}), holds) == "truth not known"


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
    assert findings.subjects() == [] and run_of("sim01@photos") is None
    finding = FINDINGS["limited-data"]
    judged = judge(finding, {"map": UP, "score": Measured(0.95, math.nan, 1.0, "x")}, seeds=2)
    record("sim01@photos", judged, None, RUN)
    found = recorded("sim01@photos", finding, RUN)
    assert set(found) == {"judged"} and found["judged"].seeds == 2
    assert found["judged"].measured["map"] == UP
    assert math.isnan(found["judged"].measured["score"].low)
    assert recorded("sim02", finding, RUN) == {}
    assert findings.subjects() == ["sim01@photos"] and runs("sim01@photos") == [RUN]


def test_runs_do_not_mix_and_none_replaces_another(monkeypatch) -> None:
    finding = FINDINGS["seeds-agree"]
    paper, one = Run("paper", "paper", "factortopy", (0, 1, 2)), Run(*RUN.comparison, (0,))
    for value, run in ((0.9, RUN), (0.5, paper), (0.7, one)):
        m = Measured(value, value - 0.01, value + 0.01, "x")
        record("sim01", judge(finding, {"map": m}, len(run.seeds)), None, run)
    verdict = {run: scoreboard("sim01", run).set_index("Finding").loc["seeds-agree", "Verdict"]
               for run in (RUN, paper, one)}  # fmt: skip
    assert verdict == {
        RUN: "holds",
        paper: "does not hold",
        one: "holds",
    }  # one seed: the row of most seeds
    assert run_of("sim01", "small") == RUN and run_of("sim01", "paper") == paper
    with pytest.raises(InputError, match=r"several runs.*size paper.*size small"):
        run_of("sim01")
    monkeypatch.setitem(VERSIONS, "fit", 0)
    assert recorded("sim01", finding, RUN) == {} and runs("sim01") == findings.subjects() == []


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"seeds": 3}x', '{"judged": {"map": {"value": 1}}, "seeds": 3}',
     '{"judged": {"none": {"value": 1, "low": 1, "high": 1, "over": ""}}, "seeds": 3}',
     '{"judged": {}}'],
)  # fmt: skip
def test_a_damaged_result_is_named(damage) -> None:
    path = folder("sim01", RUN) / "limited-data.json"
    path.parent.mkdir(parents=True)
    path.write_text(damage)
    with pytest.raises(InputError, match=r"limited-data\.json"):
        recorded("sim01", FINDINGS["limited-data"], RUN)
    with pytest.raises(InputError, match=r"limited-data\.json"):
        runs("sim01")


def test_the_scoreboard_has_every_row_and_says_what_was_not_run() -> None:
    finding = FINDINGS["top-channels"]
    truth = judge(finding, {"category": Measured(1, 1, 1, "x")})
    record("sim01", judge(finding, {"category": UP, PREDICTS: UP}), truth, RUN)
    board = scoreboard("sim01", RUN, {"top-channels": {"category": 0.5}})
    assert board["Finding"].tolist() == list(FINDINGS)
    row = board.set_index("Finding").loc["top-channels"]
    assert row["Verdict"] == "holds" and row["Judged"].measured["category"] == UP
    assert row["Against truth"] == "found" and row["Printed"] == {"category": 0.5}
    assert row["Run"] == "size small, recipe fast, model factortopy, seeds 0, 1, 2"
    expected = {"holds": 1, "does not hold": 0, "cannot be told": 0, "not judged": 0, "not run": 17}
    assert counts(board) == expected
    assert counts(scoreboard("sim02"))["not run"] == 18
    assert set(json.loads((folder("sim01", RUN) / "top-channels.json").read_text())) == {
        "judged", "truth", "run", "seeds"
    }  # fmt: skip
    assert verdicts.NOT_RUN == "not run"
