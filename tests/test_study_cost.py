"""What a study takes, against sums and schedules that can be done by hand."""

import pytest
import torch

from analysis.backbones import CARDS, load_backbone
from analysis.backbones.tuned import cut
from analysis.jobs import Job, Plan
from analysis.labelled import drawn_set
from analysis.learner import METHODS, Tuning, prepared, trained
from analysis.study_cost import (
    RATES,
    Site,
    at_a_time,
    chain,
    expected,
    fit_seconds,
    makespan,
    picture_seconds,
    said,
    tuning_seconds,
)

FREE = Site(overhead=-RATES.start, submit=1e9, read=1e18)  # the work alone


def jobs(*given: Job) -> Plan:
    return Plan("made-up", {job.name: job for job in given})


def fit(i: int, seconds: float = 3600.0, **more) -> Job:
    return Job(f"fit-{i}", "fit", [f"receipts/fit/{i}.json"], seconds=seconds, **more)


def test_sums_are_of_what_is_still_to_do() -> None:
    plan = jobs(fit(0), fit(1, gpu=True, n_bytes=3e9), Job("page-0", "page", [], seconds=1800))
    table = expected(plan)
    assert list(table.index) == ["fit", "page", "all"]
    assert table["core hours"].tolist() == [1.0, 0.5, 1.5]
    assert table.loc["fit", "GPU hours"] == pytest.approx(1 / RATES.gpu)
    assert table.loc["all", ["jobs", "to do", "GB"]].tolist() == [3, 3, 3.0]
    left = expected(plan, [plan.jobs["page-0"]])
    assert left["to do"].tolist() == [0, 1, 1] and left.loc["fit", "GPU hours"] == 0


def test_measured_rates_come_back() -> None:
    # benchmarks/README.md: a step of 0.326 s and 4.16 pictures a second, by 2 cores
    step = fit_seconds("factortopy", 1000, 8, 37_984, 12, 128) / 1000
    assert step == pytest.approx(2 * 0.326, rel=0.02)
    assert picture_seconds(CARDS["clip-l"]) == pytest.approx(2 / 4.16, rel=0.1)
    gnet = fit_seconds("gnet", 1000, 8, 37_984, 12, 128)
    assert gnet / 1000 == pytest.approx(step * 94 / 3)


def test_equal_jobs_take_as_many_rounds_as_they_need() -> None:
    plan = jobs(*(fit(i) for i in range(10)))
    hours = {n: makespan(plan, Site(-RATES.start, 1e9, 1e18, n)) for n in (1, 3, 10, 100)}
    assert [round(h["hours"], 3) for h in hours.values()] == [10, 4, 1, 1]
    assert hours[3]["in use"] == pytest.approx(10 / 12, abs=1e-3)


def test_a_job_waits_for_those_that_it_needs() -> None:
    plan = jobs(fit(0), fit(1, needs=["fit-0"]), fit(2, needs=["fit-1"]), fit(3))
    assert makespan(plan, FREE)["hours"] == pytest.approx(3, abs=1e-3)
    assert chain(plan, FREE) == pytest.approx(3)
    # the head of the chain goes first, though the one beside it takes longer
    longer = jobs(fit(9, seconds=5400), *plan.jobs.values())
    two = Site(FREE.overhead, FREE.submit, FREE.read, largest=2)
    assert makespan(longer, two)["hours"] == pytest.approx(3, abs=1e-3)


def test_a_slow_scheduler_and_disk_hold_up() -> None:
    plan = jobs(*(fit(i, seconds=1.0, n_bytes=1e9) for i in range(100)))
    one_a_second = Site(overhead=-RATES.start, submit=1.0, read=1e18)
    assert makespan(plan, one_a_second)["hours"] * 3600 == pytest.approx(100, abs=1.5)
    slow_disk = Site(overhead=-RATES.start, submit=1e9, read=1e8)
    assert makespan(plan, slow_disk)["hours"] * 3600 == pytest.approx(1000, rel=0.01)
    table = at_a_time(plan, [1, 100], Site())
    assert (table["hours"] >= table["no overhead"]).all()
    assert (table["hours"].diff().dropna() < 0).all()


def test_the_dry_run_says_jobs_hours_and_disk(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    text = said(jobs(fit(0), fit(1, gpu=True, n_bytes=3e9)))
    assert "study made-up: 2 jobs, 2 to do" in text
    assert "GPU hours" in text and "3.00" in text and "not measured" in text


@pytest.mark.parametrize("method", ["whole", "head"])
def test_a_tuning_is_reckoned_by_the_pictures_that_pass_through_the_network(method) -> None:
    data, tuning = drawn_set("colour", 0, (40, 20, 20)), Tuning(method=method, epochs=2, layer=1)
    short = cut(load_backbone("mae-mini-s"), 1)
    passes = []

    def count(_, pictures):
        passes.append(len(pictures[0]) * (RATES.trained if torch.is_grad_enabled() else 1))

    short.register_forward_pre_hook(count)
    learner, _ = prepared(short, data, tuning)
    trained(learner, tuning)
    for part in data.parts:
        learner.of_part(part)
    card = CARDS["mae-mini-s"]
    tried = len(METHODS[method])
    seconds = tuning_seconds(card, (40, 20, 20), tuning.epochs, tried, method, 1)
    each = (picture_seconds(card) - RATES.picture) / card.layers
    assert (seconds - RATES.start) / each == pytest.approx(sum(passes))
