"""A file to be taken away from a page, held by the link itself.

A notebook needs no file beside it then. In the book it is moved to a file of the site:
book/_ext/alone.py.
"""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

KINDS = {".csv": "text/csv", ".zip": "application/zip"}


@dataclass(frozen=True)
class Link:
    """A file to be taken away, in a link."""

    name: str  # of the file
    data: bytes
    text: str  # of the link

    @property
    def html(self) -> str:
        kind = KINDS[Path(self.name).suffix]
        held = base64.b64encode(self.data).decode()
        size = max(1, round(len(self.data) / 1000))
        return (
            f'<p class="download"><a download="{escape(self.name)}" '
            f'href="data:{kind};base64,{held}">{escape(self.text)}</a> ({size:,} kB)</p>'
        )

    def _repr_html_(self) -> str:
        return self.html
