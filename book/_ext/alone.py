"""Sphinx extension: what a page holds whole becomes a file of the site, to open or take by itself.

A notebook holds an interactive page in `<iframe class="whole-page" srcdoc=...>`, and tables and
maps to download in `<a download=... href="data:...">`, which need no file beside it. In the book
they are written once to _static/alone/ and _static/downloads/, and framed or linked from there.
Tables that a notebook writes as Markdown get such a link here.
"""

import csv
import io
import re
from base64 import b64decode
from html import escape, unescape
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from analysis.files import whole_file
from analysis.links import Link

FRAME = re.compile(r'<iframe class="whole-page" title="([^"]*)"([^>]*?) srcdoc="([^"]*)"></iframe>')
DOWNLOAD = re.compile(r'<a download="([^"]+)" href="data:[a-z/]+;base64,([^"]*)">')


def stand_alone(app, pagename, templatename, context, doctree) -> None:
    """Write each whole page of a page to a file, and frame and link that instead."""
    if app.builder.format != "html" or 'class="whole-page"' not in context.get("body", ""):
        return

    def moved(found: re.Match) -> str:
        title, attributes, source = found.groups()
        number = len(written)
        name = pagename.replace("/", "-") + (f"-{number + 1}" if number else "") + ".html"
        path = Path(app.outdir) / "_static/alone" / name
        with whole_file(path) as scratch:
            scratch.write_text(unescape(source), "utf8")
        written.append(path)
        url = context["pathto"](f"_static/alone/{name}", resource=True)
        return (
            f'<p><a href="{url}">Open it alone</a> · <a href="{url}" download>Download it</a>'
            f" ({path.stat().st_size / 1e6:.1f} MB, one file)</p>"
            f'<iframe class="whole-page" title="{title}"{attributes} src="{url}"></iframe>'
        )

    written: list[Path] = []
    context["body"] = FRAME.sub(moved, context["body"])


def taken_away(app, pagename, templatename, context, doctree) -> None:
    """Write each file that a page's links hold, named by the page, and link that instead."""
    if app.builder.format != "html" or 'href="data:' not in context.get("body", ""):
        return

    def moved(found: re.Match) -> str:
        stem, suffix = Path(unescape(found[1])).stem, Path(unescape(found[1])).suffix
        page = pagename.removeprefix("notebooks/").replace("/", "-")
        times = stems.count(stem)
        stems.append(stem)
        name = f"{page}-{stem}{f'-{times + 1}' if times else ''}{suffix}"
        path = Path(app.outdir) / "_static/downloads" / name
        with whole_file(path) as scratch:
            scratch.write_bytes(b64decode(found[2]))
        url = context["pathto"](f"_static/downloads/{quote(name)}", resource=True)
        return f'<a download="{escape(name)}" href="{url}">'

    stems: list[str] = []
    context["body"] = DOWNLOAD.sub(moved, context["body"])


def csv_of(table: nodes.table) -> bytes:
    """A table's text."""
    text = io.StringIO()
    for row in table.findall(nodes.row):
        csv.writer(text, lineterminator="\n").writerow([e.astext() for e in row.children])
    return text.getvalue().encode("utf8")


class LinkTables(SphinxPostTransform):
    """A link to its numbers below each table of Markdown that a cell has put out."""

    default_priority = 900  # the format of each output is chosen by then
    formats = ("html",)

    def run(self, **kwargs) -> None:
        outputs = [
            n for n in self.document.findall(nodes.container) if "cell_output" in n["classes"]
        ]
        for table in [table for output in outputs for table in output.findall(nodes.table)]:
            link = Link("table.csv", csv_of(table), "Table as CSV")
            table.parent.insert(
                table.parent.index(table) + 1, nodes.raw("", link.html, format="html")
            )


def setup(app):
    app.add_post_transform(LinkTables)
    app.connect("html-page-context", stand_alone)
    app.connect("html-page-context", taken_away)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
