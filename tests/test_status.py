"""The page that says of what the book was made, and the runs of other subjects in a small book."""

import importlib.util
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from analysis.links import Link

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("sphinx")


@pytest.fixture
def made(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    spec = importlib.util.spec_from_file_location("made", ROOT / "book/_ext/made.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.delitem(sys.modules, "stage", raising=False)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("stage", None)


def test_a_page_of_the_book_and_a_run_have_a_row(made):
    data = {"mtime": 0.0, "runtime": 61.7, "method": "force", "succeeded": True, "error": None}
    row = ("notebooks/a", "1970-01-01 00:00", "62", "in every build", "well")
    assert made.of_book("notebooks/a", data) == row
    failed = made.of_book("a", data | {"succeeded": False, "runtime": None, "method": "inline"})
    assert failed == ("a", "1970-01-01 00:00", "", "inline", "failed")
    of_cache = data | {"mtime": datetime(2026, 1, 2, 3, 4).timestamp(), "method": "cache"}
    assert made.of_book("a", of_cache)[1] == "2026-01-02 03:04"  # wherever this runs
    record = {"end_time": "2026-01-02T05:04:05+02:00", "duration": 11.07, "version": "2.7.0"}
    run = made.of_run("runs/sim02/a", {"metadata": {"papermill": record}})
    assert run == ("runs/sim02/a", "2026-01-02 03:04", "11", "by papermill 2.7.0", "well")


def test_the_commit_is_named_with_changes_that_are_not_in_it(made, tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert made.commit(tmp_path) == "not known: no git repository"
    git("init", "-q")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-qm", "a")
    name = git("rev-parse", "--short=12", "HEAD")
    assert made.commit(tmp_path) == name
    (tmp_path / "a").write_text("b")
    assert made.commit(tmp_path) == f"{name}, with changes that are not committed"


def test_the_libraries_that_can_change_a_number_are_named(made):
    import torch

    told = dict(made.versions())
    assert torch.__version__.startswith(told["torch"])
    assert set(made.stage.KEYED) < told.keys()
    assert str(Path.home()) not in str(told) and "jupyter-book" in told


CONTENTS = """
format: jb-book
root: index
parts:
- caption: Runs of other subjects
  chapters:
  - glob: runs/*/*
- caption: Reference
  chapters:
  - file: status
"""


@pytest.fixture(scope="module")
def small_book(tmp_path_factory) -> Path:
    """Where a book of a landing page, the status page and a run of another subject was built."""
    root = tmp_path_factory.mktemp("small")
    shutil.copytree(ROOT / "book/_ext", root / "book/_ext", ignore=shutil.ignore_patterns("__*"))
    for name in ("_config.yml", "references.bib", "favicon.svg", "status.md"):
        shutil.copy(ROOT / "book" / name, root / "book")
    (root / "book/_toc.yml").write_text(CONTENTS)
    (root / "book/index.md").write_text("# Small\n\n[A run](runs/sim02/score)\n")
    link = Link("table.csv", b"a,b\n1,2\n", "Table as CSV").html
    output = new_output("display_data", {"text/html": f"<table><tr><td>1</td></tr></table>{link}"})
    truth = new_output("display_data", {"text/markdown": "| A, B | C |\n|:--|--:|\n| `x` | 0.5 |"})
    cells = [
        new_markdown_cell("# Score\n\nText."),
        new_code_cell('subject = "sim01"', metadata={"tags": ["parameters"]}),
        new_code_cell('subject = "sim02"', metadata={"tags": ["injected-parameters"]}),
        new_code_cell("1 / 0", outputs=[output, truth], execution_count=1),  # not executed again
    ]
    record = {"parameters": {"subject": "sim02"}, "exception": None, "version": "2.7.0"}
    record |= {"end_time": "2026-01-02T03:04:05+00:00", "duration": 61.5}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    run = new_notebook(cells=cells, metadata={"papermill": record, "kernelspec": kernel})
    for name in ("score", "failed"):
        run.metadata.papermill["exception"] = name == "failed"
        path = root / "runs/sim02" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(run, path)
    command = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [command, "build", root / "book", "--quiet"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "runs/sim02/failed.ipynb left out" in done.stderr
    return root / "book/_build/html"


def test_a_run_of_another_subject_is_a_page_of_its_own_part(small_book):
    bs4 = pytest.importorskip("bs4")
    page = bs4.BeautifulSoup((small_book / "index.html").read_text("utf8"), "html.parser")
    (caption,) = [c for c in page.select("p.caption") if "Runs of other" in c.get_text()]
    (link,) = caption.find_next("ul").find_all("a", href=True)
    assert (link["href"], link.get_text(strip=True)) == ("runs/sim02/score.html", "Score (sim02)")
    run = bs4.BeautifulSoup((small_book / link["href"]).read_text("utf8"), "html.parser")
    assert "A run for subject sim02" in run.find("article").get_text()
    held = []
    for table in run.select("p.download a"):
        assert table["href"] == f"../../_static/downloads/{table['download']}"
        held.append((small_book / "_static/downloads" / table["download"]).read_text("utf8"))
    assert held == ["a,b\n1,2\n", '"A, B",C\nx,0.5\n']
    assert table["download"] == "runs-sim02-score-table-2.csv"


def test_the_status_page_of_a_book_names_its_runs(small_book):
    text = re.sub(r"<[^>]+>", " ", (small_book / "status.html").read_text("utf8"))
    row = r"Score \(sim02\)\s+2026-01-02 03:04\s+62\s+by papermill 2\.7\.0\s+well"
    assert re.search(row, text) and re.search(r"Commit\s+not known", text)
