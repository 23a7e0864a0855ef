"""Checks on the text notebooks, and on how they and their runs reach papermill and the book.

That they run for the default subject is shown by building the book.
"""

import ast
import copy
import importlib.util
import json
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
yaml = pytest.importorskip("yaml")

from analysis.papermill_io import TextNotebooks  # noqa: E402  after the skips

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))
RUN_ONLY = {"diffusion"}  # by papermill, where somebody wants it: it takes as long as all others
MAX_LINES = 12
OPENERS = {"open", "Path", "load", "loadtxt", "genfromtxt", "imread", "File"}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def python(cell) -> ast.Module:
    """A cell's syntax tree, without IPython's % and ! lines."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M))


def opened_literals(tree: ast.Module) -> list[str]:
    """The paths that are written out in calls that open files."""
    found = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        first = getattr(call.args[0], "value", None)
        if (name in OPENERS or name.startswith("read_")) and isinstance(first, str):
            found.append(first)
    return found


def test_the_contents_list_every_notebook_but_those_that_are_only_run():
    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text("utf8"))
    listed = {c["file"] for part in contents["parts"] for c in part["chapters"] if "file" in c}
    assert {p.stem for p in NOTEBOOKS} - RUN_ONLY == {
        Path(f).name for f in listed if f.startswith("notebooks/")
    }


def test_the_scoreboard_comes_after_the_findings_in_a_build(stage):
    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text("utf8"))
    (findings,) = [p["chapters"] for p in contents["parts"] if p["caption"] == "Findings"]
    names = {chapter["file"] for chapter in findings}
    # pages are read, and so executed, by name
    assert max(names) == stage.SCOREBOARD
    env = types.SimpleNamespace(found_docs=names)
    assert stage.read_anew(None, env, set(), set(), set()) == [stage.SCOREBOARD]


@each_notebook
def test_one_parameters_cell_names_the_subject(path):
    tagged = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assigned = {
        target.id
        for statement in python(tagged[0]).body
        for target in getattr(statement, "targets", [getattr(statement, "target", None)])
        if isinstance(target, ast.Name)
    }
    assert "subject" in assigned


@each_notebook
def test_cells_are_short(path):
    long = [cell.source for cell in code_cells(path) if len(cell.source.splitlines()) > MAX_LINES]
    assert not long, f"longer than {MAX_LINES} lines; does this belong in analysis/?\n{long[0]}"


@each_notebook
def test_no_cell_opens_a_literal_path(path):
    # the book runs a notebook in another folder than papermill does
    found = [literal for cell in code_cells(path) for literal in opened_literals(python(cell))]
    assert not found, f"{found}: ask analysis.files for paths"


def test_opened_literals_are_found():
    source = 'open("a.txt"); pd.read_csv("b.csv"); np.load(file); Path("c") / "d"; print("e.csv")'
    assert opened_literals(ast.parse(source)) == ["a.txt", "b.csv", "c"]


@each_notebook
def test_links_to_other_pages_start_at_the_book(path):
    # a run's page lies one folder deeper, where a relative link would lead elsewhere
    text = "\n".join(c.source for c in jupytext.read(path).cells if c.cell_type == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)", text)
    relative = [link for link in links if not re.match(r"/|#|https?:|mailto:", link)]
    assert not relative, f"{relative}: write /data.md or /notebooks/brain_score.md"


# papermill


@pytest.fixture
def text_notebook(tmp_path) -> Path:
    path = tmp_path / "notebook.md"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title"),
            nbformat.v4.new_code_cell('subject = "sim01"', metadata={"tags": ["parameters"]}),
        ]
    )
    jupytext.write(notebook, path, fmt="md:myst")
    return path


def test_papermill_reads_a_text_notebook_and_writes_where_no_folder_is(text_notebook, tmp_path):
    text = TextNotebooks.read(str(text_notebook))
    cells = nbformat.reads(text, as_version=4).cells
    assert [c.cell_type for c in cells] == ["markdown", "code"]
    assert cells[1].metadata.tags == ["parameters"]

    written = tmp_path / "runs/sim02/notebook.ipynb"
    TextNotebooks.write(text, str(written))
    assert TextNotebooks.read(str(written)) == text
    assert TextNotebooks.listdir(str(written.parent)) == [str(written)]
    assert TextNotebooks.pretty_path(str(written)) == str(written)


def papermill_run(name: str, out: Path, **parameters: str) -> dict:
    """A notebook, run as the README says."""
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.md", str(out)]
    command += ["--no-progress-bar"]
    for parameter, value in parameters.items():
        command += ["-p", parameter, value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text("utf8"))


@pytest.fixture(scope="module")
def executed(data_folder, tmp_path_factory) -> dict:
    """The finding, run for another subject on the smallest data."""
    out = tmp_path_factory.mktemp("run") / "cortex.ipynb"
    return papermill_run("cortex", out, subject="sim02-tiny", recipe="check")


def markdown_of(notebook: dict) -> str:
    outputs = [o for c in notebook["cells"] for o in c.get("outputs", [])]
    return "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)


def test_a_run_for_another_subject_says_whose_data_these_are(executed):
    text = markdown_of(executed)
    assert "**Simulated data.**" in text and "`sim02-tiny`" in text


@pytest.mark.usefixtures("executed")  # its fit is there to stand beside
def test_your_network_is_scored_and_stands_beside_the_default_one(data_folder, tmp_path):
    page = papermill_run(
        "your_network",
        tmp_path / "your_network.ipynb",
        subject="sim02-tiny",
        recipe="check",
    )
    text = markdown_of(page)
    assert "**Simulated data.**" in text and "`my-net` predicts single trials" in text
    assert "Beside it is `clip-mini` trained by the check recipe on `sim02-tiny`" in text
    outputs = [o for c in page["cells"] for o in c.get("outputs", [])]
    html = "".join(line for o in outputs for line in o.get("data", {}).get("text/html", []))
    rows = [re.sub("<[^>]+>", " ", row).split() for row in html.split("<tr>")]
    assert [row[:4] for row in rows if row[:1] in (["my-net"], ["clip-mini"])] == [
        ["my-net", "4", "320", "60"],
        ["clip-mini", "8", "1,024", "60"],
    ]
    assert html.count("Expected layer of my-net") == 2  # for a light page and a dark one


def test_the_cortex_of_another_subject_is_a_page_to_turn(executed):
    outputs = [o for c in executed["cells"] for o in c.get("outputs", [])]
    html = "".join(line for o in outputs for line in o.get("data", {}).get("text/html", []))
    assert '<iframe class="whole-page" title="Cortex of sim02-tiny"' in html
    assert html.count("with ROIs.") == 2  # for a light page and a dark one


def test_a_run_for_another_subject_becomes_a_page(executed, stage):
    page = stage.run_page(executed)
    headings = [line for c in page["cells"] for line in "".join(c["source"]).splitlines()]
    assert "# Turn the cortex (sim02-tiny, recipe=check)" in headings


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"subject": "sim09"}, "subject 'sim09'.*sim01, sim02, sim03"),
        ({"subject": "subj01"}, "nsd: not found; expected the NSD tree of subj01"),
        ({"backbone": "resnet"}, "backbone 'resnet': expected one of .*clip-xl"),
        ({"recipe": "long"}, "recipe 'long': expected"),
    ],
)
def test_a_wrong_parameter_ends_a_notebook_with_our_message(data_folder, parameters, told):
    papermill = pytest.importorskip("papermill")
    notebook = jupytext.read(ROOT / "notebooks/brain_score.md")
    with (
        warnings.catch_warnings(),
        pytest.raises(papermill.PapermillExecutionError, match=told) as caught,
    ):
        warnings.simplefilter("ignore")  # of the kernel's own, at its start and end
        papermill.execute_notebook(notebook, None, parameters=parameters, progress_bar=False)
    assert caught.value.ename in ("InputError", "MissingFile")


# runs as pages


@pytest.fixture
def stage(monkeypatch):
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("stage", ROOT / "book/_ext/stage.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stage", module)
    spec.loader.exec_module(module)
    return module


def run(parameters: dict, **record) -> dict:
    """An executed notebook as papermill leaves it, read as JSON."""
    record = {"parameters": parameters, "exception": None, "end_time": "2026-01-01"} | record
    return {
        "metadata": {"papermill": record},
        "cells": [
            {
                "cell_type": "markdown",
                "metadata": {},
                "source": ["(score)=\n", "# Brain score\n", "\n", ":name: table\n", "Why.\n"],
            },
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"], "mystnb": {"figure": {"name": "map"}}},
                "source": ['subject = "sim01"  # who\n', "seed = 0\n"],
            },
            {"cell_type": "markdown", "metadata": {}, "source": "# Not the title\n"},
        ],
    }


def test_a_run_is_titled_by_its_parameters_and_keeps_no_label(stage):
    notebook = run({"seed": 3, "subject": "sim02"})
    before = copy.deepcopy(notebook)
    first, parameters, last = stage.run_page(notebook)["cells"]
    assert notebook == before
    assert first["source"].startswith("# Brain score (sim02, seed=3)\n")
    assert "subject `sim02`" in first["source"] and "Why." in first["source"]
    assert ")=" not in first["source"] and ":name:" not in first["source"]
    assert "hide-input" in parameters["metadata"]["tags"]
    assert parameters["metadata"]["mystnb"]["figure"] == {}
    assert last["source"] == "# Not the title\n"


def test_a_run_with_the_defaults_names_their_subject(stage):
    page = stage.run_page(run({}))
    assert page["cells"][0]["source"].startswith("# Brain score (sim01)\n")
    assert "hide-input" not in page["cells"][1]["metadata"]["tags"]


@pytest.mark.parametrize("record", [{"exception": True}, {"end_time": None}])
def test_a_run_that_failed_or_did_not_finish_is_no_page(stage, record):
    assert stage.run_page(run({"subject": "sim02"}, **record)) is None


def test_a_notebook_that_papermill_did_not_run_is_no_page(stage):
    assert stage.run_page({"metadata": {}, "cells": []}) is None


def test_staging_copies_what_changed_and_removes_what_is_gone(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    monkeypatch.setattr(stage, "BOOK", tmp_path / "book")
    source, staged = tmp_path / "notebooks/a.md", tmp_path / "book/notebooks/a.md"
    source.parent.mkdir()
    source.write_text("# A")
    stage.stage()
    assert staged.read_text() == "# A"
    assert not staged.stat().st_mode & 0o222

    first = staged.stat()
    stage.stage()
    assert staged.stat().st_mtime_ns == first.st_mtime_ns  # an untouched page is not read again
    source.write_text("# B")
    stage.stage()
    assert staged.read_text() == "# B"
    source.unlink()
    stage.stage()
    assert not staged.exists()


def test_the_execution_cache_follows_the_code(stage, tmp_path, monkeypatch):
    class Config:
        nb_execution_cache_path = ""

    def cache() -> str:
        stage.key_cache(None, Config)
        return Config.nb_execution_cache_path

    monkeypatch.setattr(stage, "ROOT", tmp_path)
    module, shape = tmp_path / "analysis/a.py", tmp_path / "analysis/backbones/configs/b.json"
    shape.parent.mkdir(parents=True)
    module.write_text("a = 1")
    shape.write_text("{}")
    seen = [cache()]
    assert cache() == seen[0]
    module.write_text("a = 2")
    seen.append(cache())
    shape.write_text('{"width": 1}')
    seen.append(cache())
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    seen.append(cache())
    assert len(set(seen)) == 4
