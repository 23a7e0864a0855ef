"""Sphinx extension: of what this book was made, and how each page with code was executed.

    ```{made} pages
    ```
    ```{made} versions
    ```

`pages` lists every page with code: those of the book, and papermill's runs of other subjects.
`versions` gives the commit, the machine and the libraries.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import stage
from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

BUILDERS = ("jupyter-book", "sphinx", "myst-nb")
HEAD = ("Page", "Executed (UTC)", "Seconds", "How", "Ended")
HOW = {"cache": "once, then kept", "force": "in every build"}


class Placeholder(nodes.General, nodes.Element):
    """Where a table comes once all pages are read."""


class Made(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        about = directives.choice(self.arguments[0], ("pages", "versions"))
        return [Placeholder(about=about)]


def moment(seconds: float, zone: tzinfo | None = UTC) -> str:
    return datetime.fromtimestamp(seconds, zone).strftime("%Y-%m-%d %H:%M")


def of_book(name: str, data: dict[str, Any]) -> tuple[str, ...]:
    """A page's row, from what myst-nb keeps of its execution."""
    seconds = "" if data["runtime"] is None else f"{data['runtime']:.0f}"
    how = HOW.get(data["method"], data["method"])
    # the cache keeps UTC without saying so, and myst-nb takes it for local time
    when = moment(data["mtime"], None if data["method"] == "cache" else UTC)
    return name, when, seconds, how, "well" if data["succeeded"] else "failed"


def of_run(name: str, notebook: dict[str, Any]) -> tuple[str, ...]:
    """A run's row, from what papermill keeps; only those that ended well become pages."""
    record = notebook["metadata"]["papermill"]
    ended = datetime.fromisoformat(record["end_time"]).timestamp()
    how = f"by papermill {record['version']}"
    return name, moment(ended), f"{record['duration']:.0f}", how, "well"


def pages(env) -> list[tuple[str, ...]]:
    """A row for each page with code, by name; the book's own first."""
    kept = NbMetadataCollector.get_doc_data(env)
    rows = [of_book(n, kept[n]["exec_data"]) for n in sorted(kept) if kept[n].get("exec_data")]
    for name in sorted(n for n in env.found_docs if n.startswith("runs/")):
        rows.append(of_run(name, json.loads(Path(env.doc2path(name)).read_text("utf8"))))
    return rows


def commit(folder: Path) -> str:
    """The commit that is checked out, and whether files of it were changed; if git knows one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except OSError:
        return "not known: no git"
    if done.returncode:
        return "not known: no git repository"
    return done.stdout.strip().replace("-dirty", ", with changes that are not committed")


def versions() -> list[tuple[str, str]]:
    """What made the book: commit, time, machine and libraries."""
    about = [
        ("Commit", commit(stage.ROOT)),
        ("Built (UTC)", moment(datetime.now(UTC).timestamp())),
        ("Machine", f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores"),
        ("Python", platform.python_version()),
    ]
    libraries = sorted({*stage.KEYED, *BUILDERS})
    return about + [(name, importlib.metadata.version(name)) for name in libraries]


def table(head: Sequence[str], rows: Iterable[Sequence[nodes.Node]]) -> nodes.table:
    """A table of cells."""
    body = [nodes.row("", *(nodes.entry("", cell) for cell in row)) for row in rows]
    first = nodes.row("", *(nodes.entry("", nodes.paragraph(text=name)) for name in head))
    group = nodes.tgroup("", cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += [nodes.thead("", first), nodes.tbody("", *body)]
    return nodes.table("", group, classes=["colwidths-auto"])


class Fill(SphinxPostTransform):
    """Put the tables in, when every page has been read."""

    default_priority = 8  # before links are resolved

    def linked(self, name: str) -> nodes.Node:
        uri = self.app.builder.get_relative_uri(self.env.docname, name)
        text = self.env.titles[name].astext()
        return nodes.paragraph("", "", nodes.reference("", text, refuri=uri, internal=True))

    def run(self, **kwargs) -> None:
        for place in list(self.document.findall(Placeholder)):
            if place["about"] == "versions":
                rows = [[nodes.paragraph(text=text) for text in row] for row in versions()]
                place.replace_self(table(("What", "Which"), rows))
                continue
            rows = [
                [self.linked(name), *(nodes.paragraph(text=text) for text in rest)]
                for name, *rest in pages(self.env)
            ]
            place.replace_self(table(HEAD, rows))


def setup(app):
    app.add_node(Placeholder)
    app.add_directive("made", Made)
    app.add_post_transform(Fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
