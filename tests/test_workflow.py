"""The workflow on this machine: what it runs, and that it goes on after all of it was killed."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analysis.files import ROOT, data_root
from analysis.jobs import STAGES, Plan, plan_file, write_plan
from analysis.making import make
from analysis.plan import draw_up
from analysis.study import Wanted
from analysis.study_file import read_study

if not os.environ.get("CI"):
    pytest.importorskip("snakemake")

STUDY = """
subjects: [sim01-tiny]
size: paper
fits:
  - {backbones: [clip-mini], seeds: [31, 32], recipe: check}
"""
NAME = "so me $(touch executed)"  # no shell reads more than a name in it
WAIT = 240.0  # seconds


@contextmanager
def started(study: Path, where: Path, *more: str) -> Iterator[subprocess.Popen]:
    """The workflow, with all that it starts in a group of its own, run in another folder."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflow/Snakefile")]
    command += ["--workflow-profile", str(ROOT / "workflow/profiles/local"), "-d", str(where)]
    command += ["--config", f"study={study}", *more]
    other = where / "bin/python"  # no job may be run by whatever is called python
    other.parent.mkdir(exist_ok=True)
    other.write_text("#!/bin/sh\necho not the interpreter of the workflow >&2\nexit 1\n")
    other.chmod(0o755)
    path = f"{other.parent}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    with (where / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def said(study: Path, where: Path, *more: str) -> str:
    """What a whole run wrote."""
    with started(study, where, *more) as process:
        code = process.wait(WAIT)
    text = (where / "log").read_text()
    assert code == 0, text
    return text


@pytest.fixture
def drawn(tmp_path, data_folder) -> tuple[Path, Plan]:
    """A study whose tokens are there and whose two fits, of one job, are not."""
    study = tmp_path / f"{NAME}.yaml"
    study.write_text(STUDY)
    plan = draw_up(read_study(study))
    write_plan(plan_file(study), plan)
    for job in plan.jobs.values():
        if job.stage != "fit":
            make(job)
    return study, plan


def test_killed_with_all_its_jobs_it_goes_on_and_makes_nothing_again(drawn, tmp_path) -> None:
    study, plan = drawn
    (job,) = plan.of("fit")
    first, second = (Wanted(**names).receipt() for names in job.about["wanted"])
    with started(study, tmp_path) as process:
        end = time.monotonic() + WAIT
        while not first.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert first.exists() and not second.exists() and not job.there(), (
        tmp_path / "log"
    ).read_text()
    made = first.stat().st_mtime_ns
    text = said(study, tmp_path)
    assert re.search(rf"study {re.escape(NAME)}: \d jobs, 1 to do", text)
    assert "1 of 2 steps" in text and not list(tmp_path.rglob("executed"))
    assert first.stat().st_mtime_ns == made and job.there()
    log = (tmp_path / f"logs/{NAME}/fit/{job.name}.log").read_text()
    assert log.count("no such fit is there") == 1  # the second, which was under way
    assert "Nothing to be done" in said(study, tmp_path, "-n")
    (tokens,) = plan.of("extract")[0].makes
    (data_root() / tokens).unlink()
    counts = said(study, tmp_path, "-n").split("Job stats")[1]
    assert re.search(r"^extract +1$", counts, re.M)  # and no fit: those stand without it
    assert not re.search(r"^fit ", counts, re.M)


def test_each_stage_has_a_rule_with_a_log_and_a_benchmark() -> None:
    text = (ROOT / "workflow/Snakefile").read_text()
    rules = re.findall(r"^rule (\w+):\n(.*?)(?=^\S)", text + "\nend", re.M | re.S)
    assert {"all", *STAGES} == {name for name, _ in rules}
    for name, body in rules:
        if name != "all":
            assert "log:" in body and "benchmark:" in body and "threads:" in body


def test_the_package_does_not_need_the_engine() -> None:
    texts = [path.read_text("utf8") for path in (ROOT / "analysis").rglob("*.py")]
    assert not any(re.search(r"^\s*(import|from) snakemake", text, re.M) for text in texts)
    code = "import sys, analysis.jobs, analysis.study_cost; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"


def test_the_container_has_what_the_package_says_it_needs() -> None:
    text = (ROOT / "Containerfile").read_text()
    version = re.search(r"^FROM python:3\.(\d+)", text, re.M)
    assert version and 11 <= int(version[1]) <= 13
    for name in re.search(r"^COPY (.+) \./$", text, re.M)[1].split():
        assert (ROOT / name).is_file()


def test_what_a_checkout_gathers_stays_out_of_the_image() -> None:
    ignored, left_out = (
        {line.strip("/").removeprefix("**/") for line in (ROOT / name).read_text().splitlines()}
        for name in (".gitignore", ".dockerignore")
    )
    assert ignored <= left_out


@pytest.fixture
def page():
    """The script that runs pages."""
    spec = importlib.util.spec_from_file_location("page", ROOT / "workflow/page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_of_the_book_is_run_once_by_whoever_asks_first(page, tmp_path, monkeypatch) -> None:
    from jupyter_cache import get_cache
    from myst_nb.core.execute import cache as executing

    notebooks, cache = tmp_path / "notebooks", tmp_path / "cache"
    notebooks.mkdir()
    text = (ROOT / "notebooks/networks.md").read_text().split("```{code-cell}")[0]
    cell = '```{code-cell} ipython3\n:tags: [parameters]\n\nsubject = "sim01"\nsubject\n```\n'
    (notebooks / "short.md").write_text(text + cell)
    stage = type(
        "Stage", (), {
            "write": staticmethod(lambda path, data: path.write_bytes(data)),
            "key_cache": staticmethod(
                lambda app, config: setattr(config, "nb_execution_cache_path", str(cache))
            ),
        },
    )  # fmt: skip
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "BOOK", tmp_path)
    monkeypatch.setattr(page, "_stage", lambda: stage)
    (made,) = page.run_own("short")
    assert "sim01" in made.read_text() and len(get_cache(cache).list_cache_records()) == 1
    monkeypatch.setattr(executing, "single_nb_execution", None)  # what runs a page
    assert page.run_own("short") == [made]


def test_the_job_of_the_book_builds_it(page, tmp_path, monkeypatch) -> None:
    book = tmp_path / "book"
    book.mkdir()
    (book / "_config.yml").write_text("title: A book\n")
    (book / "_toc.yml").write_text("format: jb-book\nroot: first\n")
    (book / "first.md").write_text("# The first page\n")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "BOOK", book)
    assert page.build() == [book / "_build/html/index.html"]
    assert (book / "_build/html/first.html").is_file()
