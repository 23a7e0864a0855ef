"""Sphinx extension: a whole page shown in a frame becomes a file of the site, to open by itself.

A notebook holds an interactive page in `<iframe class="whole-page" srcdoc=...>`, which needs no
file beside it. In the book it is written once to _static/alone/, framed from there, and linked.
"""

import re
from html import unescape
from pathlib import Path

FRAME = re.compile(r'<iframe class="whole-page" title="([^"]*)"([^>]*?) srcdoc="([^"]*)"></iframe>')


def stand_alone(app, pagename, templatename, context, doctree) -> None:
    """Write each whole page of a page to a file, and frame and link that instead."""
    if app.builder.format != "html" or 'class="whole-page"' not in context.get("body", ""):
        return

    def moved(found: re.Match) -> str:
        title, attributes, source = found.groups()
        number = len(written)
        name = pagename.replace("/", "-") + (f"-{number + 1}" if number else "") + ".html"
        path = Path(app.outdir) / "_static/alone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unescape(source), "utf8")
        written.append(path)
        url = context["pathto"](f"_static/alone/{name}", resource=True)
        return (
            f'<p><a href="{url}">Open it alone</a> · <a href="{url}" download>Download it</a>'
            f" ({path.stat().st_size / 1e6:.1f} MB, one file)</p>"
            f'<iframe class="whole-page" title="{title}"{attributes} src="{url}"></iframe>'
        )

    written: list[Path] = []
    context["body"] = FRAME.sub(moved, context["body"])


def setup(app):
    app.connect("html-page-context", stand_alone)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
