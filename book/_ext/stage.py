"""Sphinx extension: bring the top-level notebooks/ and runs/ into the book.

`jupyter-book build book/` reads only files under book/. Before Sphinx looks for pages, this copies
each text notebook to book/notebooks/ and each finished papermill run to book/runs/ (both
git-ignored), so that neither a symlink nor an extra command is needed.
"""

import ast
import copy
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.util import logging

BOOK = Path(__file__).resolve().parents[1]
ROOT = BOOK.parent
# The libraries that can change a number or a figure; the analysis itself is hashed.
KEYED = ("lightning", "matplotlib", "nibabel", "nilearn", "numpy", "open_clip_torch", "pandas")
KEYED += ("pillow", "scipy", "seaborn", "torch", "torchvision")
SCOREBOARD = "notebooks/scoreboard"
OF_OTHERS = ("index", SCOREBOARD, "status")  # pages that show what other pages found
MATHJAX = ("tex-chtml.js", "output/chtml/fonts")  # 1.7 of the package's 24 MB is ever asked for

log = logging.getLogger(__name__)


def remove(path: Path) -> None:
    path.chmod(0o666)  # Windows does not delete a read-only file
    path.unlink()


def write(path: Path, data: bytes) -> None:
    """Write a read-only copy, and only if it differs: an untouched page is not read again."""
    if path.exists():
        if path.read_bytes() == data:
            return
        remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o444)  # the one to edit is in notebooks/


def run_parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """What a run was asked for, its subject first; the notebook's own subject if none was asked."""
    passed = notebook["metadata"]["papermill"]["parameters"]
    subject = {}
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            found = re.search(r"^subject\b[^=\n]*=\s*(.+)$", "".join(cell["source"]), flags=re.M)
            if found:
                subject["subject"] = ast.literal_eval(found[1])
    return subject | passed


def run_page(notebook: dict[str, Any]) -> dict[str, Any] | None:
    """An executed run as a page titled by its parameters; None if it failed or did not finish.

    Labels are dropped: each would be defined a second time beside the notebook's own.
    """
    record = notebook["metadata"].get("papermill", {})
    if record.get("exception") or not record.get("end_time"):
        return None
    page = copy.deepcopy(notebook)
    parameters = run_parameters(notebook)
    subject = parameters.pop("subject", "unknown")
    label = ", ".join([str(subject), *(f"{k}={v}" for k, v in parameters.items())])
    note = f"A run for subject `{subject}`: not one of this book's own findings."
    titled = False
    for cell in page["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if "parameters" in tags and record["parameters"]:
            tags.append("hide-input")  # the injected values below it are the ones that ran
        cell["metadata"].get("mystnb", {}).get("figure", {}).pop("name", None)
        if cell["cell_type"] != "markdown":
            continue
        text = "".join(cell["source"])
        text = re.sub(r"^\([^)\s]+\)=[ \t]*$\n?", "", text, flags=re.M)
        text = re.sub(r"^:(label|name):.*$\n?", "", text, flags=re.M)
        title = re.search(r"^# .+$", text, flags=re.M)
        if title and not titled:
            above, below = text[: title.end()], text[title.end() :]
            text = f"{above} ({label})\n\n:::{{note}}\n{note}\n:::\n{below}"
            titled = True
        cell["source"] = text
    return page


def run_pages() -> dict[Path, bytes]:
    """The pages of runs/SUBJECT/FINDING.ipynb, by where they go in the book."""
    pages = {}
    for source in sorted((ROOT / "runs").rglob("*.ipynb")):
        place = source.relative_to(ROOT / "runs")
        if ".ipynb_checkpoints" in place.parts:
            continue
        if len(place.parts) != 2:
            log.warning("runs/%s left out: the book shows runs/SUBJECT/FINDING.ipynb", place)
            continue
        page = run_page(json.loads(source.read_text("utf8")))
        if page is None:
            log.warning("runs/%s left out: the run failed or did not finish", place.as_posix())
            continue
        pages[BOOK / "runs" / place] = json.dumps(page, indent=1).encode()
    return pages


def stage() -> None:
    sources = sorted((ROOT / "notebooks").glob("*.md"))
    pages = {BOOK / "notebooks" / s.name: s.read_bytes() for s in sources} | run_pages()
    for path, data in pages.items():
        write(path, data)
    for folder in (BOOK / "notebooks", BOOK / "runs"):
        for old in folder.rglob("*"):
            if old.is_file() and old not in pages:
                remove(old)


def key_cache(app, config) -> None:
    """Set the cache of executed notebooks to a folder named by the code, libraries and data.

    jupyter-cache looks at a notebook's own cells only. The folder's name is part of Sphinx's
    environment, so a new one also has every page read again.
    """
    key = hashlib.sha256(os.environ.get("BRAINMAPS_DATA", "").encode())  # another folder of data
    package = ROOT / "analysis"
    code = [*package.rglob("*.py"), *package.glob("backbones/configs/*.json")]
    code += package.glob("templates/*")
    for file in sorted(code):
        key.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    for name in KEYED:
        key.update(f"{name}={importlib.metadata.version(name)}\n".encode())
    config.nb_execution_cache_path = str(BOOK / "_build/.jupyter_cache" / key.hexdigest()[:12])


def read_anew(app, env, added, changed, removed) -> list[str]:
    """The pages that show what other pages found: they are read anew in every build.

    Sphinx reads pages by name, one at a time, so the scoreboard comes after those that record.
    """
    return [page for page in OF_OTHERS if page in env.found_docs]


def copy_mathjax(app) -> None:
    """Put MathJax into the site, so that no page asks another host for it."""
    if app.builder.format != "html":
        return
    package = importlib.metadata.distribution("sphinx-mathjax-offline")
    source = Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))
    target = Path(app.outdir) / "_static/mathjax"
    for name in MATHJAX:
        for file in [source / name, *(source / name).rglob("*")]:
            copied = target / file.relative_to(source)
            if file.is_file() and not copied.exists():
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copied)


def setup(app):
    stage()
    app.connect("config-inited", key_cache)
    app.connect("env-get-outdated", read_anew)
    app.connect("builder-inited", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
