"""Run a page of a study, or build the book of its pages.

    python workflow/page.py workflow/studies/default.yaml page-sim01-brain_score

A page with the notebook's own parameters is one of the book's own: it is run as the book runs it,
and kept in the book's cache, so that neither makes what the other did. Any other is run by
papermill to runs/SUBJECT/PAGE.ipynb.
"""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from analysis.files import ROOT, data_root
from analysis.jobs import Job, get_plan
from analysis.receipts import note

BOOK = ROOT / "book"


def _stage() -> ModuleType:
    """The book's extension that knows where it keeps its pages and their cache."""
    spec = importlib.util.spec_from_file_location("stage", BOOK / "_ext" / "stage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_own(page: str) -> list[Path]:
    """The files of a page of the book in the book's cache, where it is run if it isn't there."""
    from jupyter_cache import get_cache
    from myst_nb.core.config import NbParserConfig
    from myst_nb.core.execute import create_client
    from myst_nb.core.read import create_nb_reader
    from myst_parser.config.main import MdParserConfig

    stage, config = _stage(), SimpleNamespace()
    stage.key_cache(None, config)
    source = BOOK / "notebooks" / f"{page}.md"
    text = (ROOT / "notebooks" / f"{page}.md").read_text("utf8")
    stage.write(source, text.encode())
    options = NbParserConfig(
        execution_mode="cache",
        execution_cache_path=config.nb_execution_cache_path,
        execution_timeout=-1,
        execution_raise_on_error=True,
        execution_show_tb=True,
    )
    reader = create_nb_reader(str(source), MdParserConfig(), options, text)
    notebook = reader.read(text)
    logging.basicConfig(level=logging.INFO)
    log = SimpleNamespace(info=logging.info, warning=lambda text, **_: logging.warning(text))
    with create_client(notebook, str(source), options, log, reader.read_fmt):
        pass
    cache = get_cache(config.nb_execution_cache_path)
    record = cache.match_cache_notebook(reader.read(text))
    return [Path(config.nb_execution_cache_path) / "executed" / record.hashkey / "base.ipynb"]


def run_other(page: str, parameters: dict) -> list[Path]:
    """The executed notebook of a page with parameters of its own."""
    import papermill

    out = f"runs/{parameters['subject']}/{page}.ipynb"
    papermill.execute_notebook(
        f"notebooks/{page}.md", out, parameters, progress_bar=False, cwd=str(ROOT)
    )
    return [ROOT / out]


def build() -> list[Path]:
    """The first page of the book, built of what is there."""
    command = Path(sys.executable).with_name("jupyter-book")  # its modules can't be run by -m
    subprocess.run([command, "build", "book/"], cwd=ROOT, check=True)
    return [BOOK / "_build" / "html" / "index.html"]


def run(job: Job) -> None:
    """Make what a job of the stages page and book makes, and note it."""
    if job.stage == "book":
        files = build()
    elif job.about["own"]:
        files = run_own(job.about["page"])
    else:
        files = run_other(job.about["page"], job.about["parameters"])
    for made in job.makes:
        note(data_root() / made, files)


if __name__ == "__main__":
    run(get_plan(Path(sys.argv[1])).jobs[sys.argv[2]])
