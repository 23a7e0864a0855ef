"""Studies: their schema, the jobs that they become, and pages that compute nothing afterwards."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import pytest
import yaml

from analysis import finetune, forgetting, lessons, trainer
from analysis import jobs as jobs_module
from analysis.backbones.tuned import tuned_names
from analysis.extraction import _Run
from analysis.files import ROOT, InputError, data_root
from analysis.jobs import STAGES, Job, Plan, get_plan, plan_file, read_plan, write_plan
from analysis.labelled import drawn_set
from analysis.learner import Tuning
from analysis.making import make
from analysis.page_needs import ALONE, NEEDS
from analysis.plan import draw_up
from analysis.study import Wanted, get_fit
from analysis.study_file import parameters_of, read_study

STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
GOOD = "subjects: [sim01-tiny]\nsize: paper\n"
GRID = "fits:\n  - {backbones: [clip-mini], seeds: [0, 1], recipe: check}\n"


@pytest.fixture
def study(tmp_path):
    """A file with a text of a study."""

    def write(text: str) -> Path:
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- sim01", "found list; expected settings by name"),
        ("subjects: [", "not YAML"),
        ("size: small", "subjects: not given"),
        ("subjects: []\nsize: small", r"subjects: found \[\]; list should have at least 1"),
        ("subjects: [sim01]\nsize: big", "size: found 'big'; input should be 'small' or 'paper'"),
        (GOOD + "seeds: [0]", "seeds: no such setting"),
        (GOOD + "fits: [{seeds: [0]}]", "fits.0.backbones: not given"),
        (GOOD + "fits: [{backbones: [a], seeds: [x]}]", "fits.0.seeds.0: found 'x'"),
        (GOOD + "fits: [{backbones: [a], seeds: [-1]}]", "fits.0.seeds.0: found -1; .*equal to 0"),
        (GOOD + "fits: [{backbones: [a], model: x}]", "fits.0.model: no such setting"),
        (GOOD + "pages: [brain_scores]", "page 'brain_scores': expected one of .*brain_score"),
        (GOOD + "pages: {cortex: {seeds: 1}}", "pages.cortex: no such parameter: seeds; expected"),
    ],
)
def test_a_wrong_study_is_told_with_its_file_and_what_is_expected(study, text, said) -> None:
    with pytest.raises(InputError, match=rf"some.yaml: .*{said}"):
        read_study(study(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("sim01-tiny", "sim09"), "subject 'sim09'"),
        (GOOD + GRID.replace("clip-mini", "clip-mimi"), "backbone 'clip-mimi'.*clip-mini"),
        (GOOD + GRID.replace("check", "long"), "recipe 'long'"),
        (GOOD + GRID.replace("seeds: [0, 1]", "models: [mlp]"), "variant 'mlp'"),
    ],
)
def test_wrong_names_are_told_before_anything_is_made(study, text, said) -> None:
    with pytest.raises(InputError, match=said):
        draw_up(read_study(study(text + "pages: [networks]\n")))


@functools.cache
def drawn(name: str) -> Plan:
    """The plan of a study of workflow/studies."""
    return draw_up(read_study(ROOT / f"workflow/studies/{name}.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_job_comes_after_those_that_it_needs(path) -> None:
    plan, seen, makes = drawn(path.stem), set(), set()
    for job in plan.jobs.values():
        assert set(job.needs) <= seen
        assert job.stage == "extract" or not makes & set(job.makes)
        assert job.makes
        later = STAGES.index(job.stage)
        assert all(STAGES.index(plan.jobs[need].stage) <= later for need in job.needs)
        seen.add(job.name)
        makes |= set(job.makes)


def test_the_books_study_has_all_pages_of_the_book() -> None:
    study = read_study(ROOT / "workflow/studies/default.yaml")
    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text("utf8"))
    files = [c["file"] for part in contents["parts"] for c in part["chapters"] if "file" in c]
    assert set(study.pages) == {Path(f).name for f in files if f.startswith("notebooks/")}
    assert all(study.is_book_page(page, "sim01") for page in study.pages)
    assert not study.is_book_page("cortex", "sim02")
    plan = drawn("default")
    last = plan.jobs["page-sim01-scoreboard"]
    assert {f"page-sim01-{page}" for page in study.pages} - {last.name} <= set(last.needs)
    assert all(not job.gpu for job in plan.jobs.values())


def test_the_papers_study_has_every_person_and_network() -> None:
    plan = drawn("paper")
    wanted = [Wanted(**names) for job in plan.of("fit") for names in job.about["wanted"]]
    assert {w.subject for w in wanted} == {f"subj0{i}" for i in range(1, 9)}
    assert len({w.backbone.partition("@")[0] for w in wanted}) == 19
    assert {w.variant for w in wanted} >= {"factortopy", "gnet", "ridge", "no-layer", "layer-24"}
    assert len(plan.of("prepare")) == 8
    # ten runs; of the grid's twelve layers, the last is run anyway
    assert len(plan.of("finetune")) == 4 * 2 * 10 + 4 * 2 * 2 * 11
    assert {w.recipe for w in wanted} == {"paper"}
    for job in plan.of("finetune"):
        source = {"isic": "isic2018", "eurosat": "eurosat"}[job.about["tuned"]["task"]]
        assert {f"fetch-{source}", f"fetch-{job.about['backbone']}"} == set(job.needs) and job.gpu
    for job in plan.of("extract"):
        own = {names["backbone"] for names in job.about["wanted"] if "tuned" in names}
        waits = [need for need in job.needs if need.startswith("finetune-")]
        assert len(waits) == len(own) <= 1  # for its own network alone
    big = [job for job in plan.of("fit") if job.gpu]
    assert all(len(job.about["wanted"]) == 1 for job in big) and len(big) > 1000


def test_views_of_one_network_are_run_together(study) -> None:
    grid = "fits:\n  - backbones: [sd-mini@T10, sd-mini@T20, clip-mini]\n"
    plan = draw_up(read_study(study(GOOD + grid)))
    each = [[names["backbone"] for names in job.about["wanted"]] for job in plan.of("extract")]
    assert sorted(each) == [["clip-mini"], ["sd-mini@T10", "sd-mini@T20"]]


def test_the_book_trains_few_fits_each_by_the_whole_recipe_on_all_data() -> None:
    study = read_study(ROOT / "workflow/studies/default.yaml")
    asked = {**ALONE, **NEEDS}
    wanted = {
        w.receipt(): w
        for page in study.pages
        if page in asked
        for w in asked[page](study.parameters(page, "sim01"))
    }
    assert len(wanted) + 1 <= 80  # and that of your network
    for w in wanted.values():
        assert w.recipe == "fast" and w.sessions is None and w.n_surface is None
        assert not w.shuffle


def test_what_pages_ask_for_is_what_they_are_given(monkeypatch) -> None:
    for page, needs in (*NEEDS.items(), *ALONE.items()):
        parameters = parameters_of(page) | {"subject": "sim02"}
        wanted = needs(parameters)
        assert wanted and {w.subject for w in wanted} >= {"sim02"}
        assert len({w.receipt() for w in wanted}) > (needs not in ALONE.values())


def test_a_plan_is_kept_until_the_study_changes(study, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    path = study(GOOD + GRID)
    plan = draw_up(read_study(path))
    write_plan(plan_file(path), plan)
    assert get_plan(path) == plan == read_plan(plan_file(path))
    before = plan_file(path)
    assert plan_file(study(GOOD)) != before
    monkeypatch.setattr(jobs_module, "package_digest", lambda: "other code")
    assert plan_file(study(GOOD + GRID)) != before


def test_a_stamp_mirrors_what_is_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    (tmp_path / "made").write_text("x")
    (tmp_path / "r.json").write_text(json.dumps({"files": {"made": 1}}))
    job = Job("fit-a", "fit", ["r.json"])
    assert job.mirror() and job.stamp.exists()
    (tmp_path / "made").unlink()
    assert not job.mirror() and not job.stamp.exists()
    assert not dataclasses.replace(job, makes=["r.json", "other.json"]).there()


def test_after_its_jobs_a_page_computes_nothing_and_the_other_way_round(
    study, data_folder, monkeypatch
) -> None:
    def never(*_, **__):
        raise AssertionError("made again")

    plan = draw_up(read_study(study(GOOD + GRID.replace("clip-mini", "mae-mini-s"))))
    first, second = plan.of("fit")[0].about["wanted"]
    get_fit(**first)  # as a page would
    fits = [job for job in plan.jobs.values() if job.stage == "fit"]
    assert not fits[0].there()
    assert all(job.there() for job in plan.jobs.values() if job.stage in ("prepare", "extract"))
    for job in plan.jobs.values():
        make(job)
    assert all(job.there() for job in plan.jobs.values())
    monkeypatch.setattr(trainer, "train", never)
    monkeypatch.setattr(_Run, "fill", never)
    made = get_fit(**second)
    for job in plan.jobs.values():
        make(job)
    (made.folder / "fit.json").rename(made.folder / "moved")
    assert [job.stage for job in plan.jobs.values() if not job.there()] == ["fit"]
    (made.folder / "moved").rename(made.folder / "fit.json")


@pytest.fixture
def quick(data_folder, tmp_path, monkeypatch) -> None:
    """A data folder of its own, and a page on fine-tuning of one network that takes seconds."""
    shutil.copytree(data_folder / "simulated", tmp_path / "data/simulated")
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(lessons, "_labelled", lambda task, *_: drawn_set(task, 0, (40, 20, 20)))
    monkeypatch.setitem(forgetting.NETWORKS, "small", {"MAE": "mae-mini-s"})
    monkeypatch.setitem(forgetting.TUNING, "small", Tuning(epochs=1, rates=(1e-4,)))
    monkeypatch.setattr(forgetting, "GRID_SEEDS", 1)


def test_after_its_jobs_the_page_on_fine_tuning_trains_nothing_and_the_other_way_round(
    study, quick, monkeypatch
) -> None:
    def never(*_, **__):
        raise AssertionError("made again")

    def page() -> set[str]:
        """What the page does; the names of the tuned networks that it reads."""
        names, tuned = set(), lessons.Lesson.tuned

        def told(lesson):
            made = tuned(lesson)
            names.add(made.name)
            return made

        with monkeypatch.context() as patch:
            patch.setattr(lessons.Lesson, "tuned", told)
            forgetting.fine_tuned("sim01-tiny", "small", 2, recipe="check")
            forgetting.grids("small", "whole")
        return names

    own = "{runs: 2, seeds: [0, 1], grid: whole}"
    text = f"subjects: [sim01-tiny]\nsize: small\nrecipe: check\npages: {{fine_tuning: {own}}}\n"
    plan = draw_up(read_study(study(text)))
    jobs = [job for job in plan.jobs.values() if job.stage != "page"]
    for job in jobs:
        make(job)
    assert all(job.there() for job in jobs)
    # two runs, and three layers before the last
    assert len(plan.of("finetune")) == len(tuned_names()) == 2 + 3
    (last,) = plan.of("page")
    assert {job.name for job in jobs if job.stage in ("finetune", "fit")} <= set(last.needs)

    monkeypatch.setattr(finetune, "_make", never)
    monkeypatch.setattr(trainer, "train", never)
    monkeypatch.setattr(_Run, "fill", never)
    assert page() == set(tuned_names())
    shutil.rmtree(data_root() / "receipts")
    assert not any(job.there() for job in jobs)
    page()
    assert all(job.there() for job in jobs)  # by the receipts that the page left
    for job in jobs:
        make(job)
