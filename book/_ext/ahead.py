"""Sphinx extension: notebooks that are not in the cache are run two at a time, before any is read.

Reading runs them one after the other, and a page that draws its figures leaves a core to itself.
Those that run on every build (`execution_mode: force`) read what others recorded, and wait.
They share the machine's cores, unless OMP_NUM_THREADS says how many threads each has: threads that
wait for one another on cores that others work on would lose more than they win.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from sphinx.errors import ExtensionError
from sphinx.util import logging

from analysis.cores import machine_cores

AT_ONCE = 2

log = logging.getLogger(__name__)


def notebook_of(env, path: Path) -> NotebookNode | None:
    """The notebook of a page, if it is one that runs unless its outputs are in the cache."""
    text = path.read_text("utf8")
    reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
    if path.suffix == ".ipynb" or reader is None:
        return None
    notebook = reader.read(text)
    mode = notebook.metadata.get("mystnb", {}).get("execution_mode")
    return notebook if (mode or env.mystnb_config.execution_mode) == "cache" else None


@contextmanager
def sharing(notebooks: int) -> Iterator[None]:
    """Each of so many notebooks gets its share of the cores, by what its kernel inherits."""
    name = "OMP_NUM_THREADS"
    if name in os.environ or notebooks < 2:
        yield
        return
    os.environ[name] = str(max(1, machine_cores() // notebooks))
    try:
        yield
    finally:
        del os.environ[name]


def run(path: Path, notebook: NotebookNode, timeout: int) -> ExecutionResult:
    log.info(f"Executing {path.name}")
    return single_nb_execution(notebook, cwd=str(path.parent), timeout=timeout, allow_errors=False)


def run_ahead(app, env, docnames: list[str]) -> None:
    """Fill the cache with what these pages will ask of it."""
    cache = get_cache(env.mystnb_config.execution_cache_path)
    missing = {}
    for path in (Path(env.doc2path(name)) for name in sorted(docnames)):
        if (notebook := notebook_of(env, path)) is None:
            continue
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            missing[path] = notebook
    failed = []
    with sharing(min(AT_ONCE, len(missing))), ThreadPoolExecutor(AT_ONCE) as pool:
        timeout = env.mystnb_config.execution_timeout
        running = {pool.submit(run, path, nb, timeout): path for path, nb in missing.items()}
        for done in as_completed(running):
            path, result = running[done], done.result()
            if result.err is not None:
                failed.append(f"{path.name} failed:\n{result.exc_string}")
                continue
            log.info(f"Executed {path.name} in {result.time:.0f} seconds")
            bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    if failed:  # the others are kept
        raise ExtensionError("\n\n".join(failed))


def setup(app):
    app.connect("env-before-read-docs", run_ahead)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
