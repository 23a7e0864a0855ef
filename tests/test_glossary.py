"""The glossary's regions are those that the package uses."""

import re
from pathlib import Path

from analysis.subject import AREAS

ROOT = Path(__file__).resolve().parents[1]


def test_every_region_is_explained_with_its_labels() -> None:
    text = (ROOT / "book/glossary.md").read_text("utf8")
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in re.findall(r"^\|.+", text, re.M)
    ]
    explained = {roi: tuple(labels.split(", ")) for roi, _, labels, _ in rows[2:]}
    assert explained == AREAS and list(explained) == list(AREAS)
    assert all(name and known for _, name, _, known in rows)


def test_terms_are_in_order() -> None:
    text = (ROOT / "book/glossary.md").read_text("utf8")
    names = re.findall(r"^(\w.*)\n  \S", text.partition(":::{glossary}")[2], re.M)
    assert names == sorted(names, key=str.lower) and len(names) > 10
