"""Checks on the built site; run after `jupyter-book build book/`. They need no network."""

import functools
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "book/_build/html"
# genindex is Sphinx's own and empty
PAGES = sorted(p for p in SITE.rglob("*.html") if "_static" not in p.parts and p.stem != "genindex")
NOT_BUILT = "no built book: run `jupyter-book build book/` first"
LOADED = (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"))

bs4 = pytest.importorskip("bs4")
pytestmark = pytest.mark.book
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(SITE).as_posix())


@functools.cache
def soup(page: Path):
    return bs4.BeautifulSoup(page.read_text("utf8"), "html.parser")


@functools.cache
def anchors(page: Path) -> set[str]:
    return {tag["id"] for tag in soup(page).find_all(id=True)}


def article(page: Path):
    return soup(page).find("article") or soup(page)


def test_the_book_is_built():
    if not (SITE / "index.html").exists():
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(NOT_BUILT)


@each_page
def test_all_that_a_page_loads_is_in_the_site(page):
    bad = []
    for name, attribute in LOADED:
        for tag in soup(page).find_all(name, **{attribute: True}):
            url = urlsplit(tag[attribute])
            if url.netloc or url.scheme in {"http", "https"}:
                bad.append(f"remote {name}: {tag[attribute]}")
            elif not url.scheme and not (page.parent / unquote(url.path)).exists():
                bad.append(f"missing {name}: {tag[attribute]}")
    assert not bad, "\n".join(bad)


@each_page
def test_links_within_the_site_lead_somewhere(page):
    bad = []
    for tag in soup(page).find_all("a", href=True):
        url = urlsplit(tag["href"])
        if url.scheme or url.netloc:
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        if not target.exists():
            bad.append(f"no such page: {tag['href']}")
        elif (
            url.fragment
            and target.suffix == ".html"
            and unquote(url.fragment) not in anchors(target)
        ):
            bad.append(f"no such place on the page: {tag['href']}")
    assert not bad, "\n".join(bad)


@each_page
def test_images_and_frames_are_described(page):
    bad = []
    for image in article(page).find_all("img"):
        text = image.get("alt", "").strip()
        # myst-nb's fallback is the path of the file
        if not text or "_images/" in text or re.fullmatch(r"\S+\.(png|svg|jpe?g)", text):
            bad.append(f"no alt text: {image.get('src', '')[:60]}")
    bad += [f"no title: {str(f)[:60]}" for f in article(page).find_all("iframe", title=False)]
    assert not bad, "\n".join(bad)


@each_page
def test_numbers_are_there_and_no_cell_failed(page):
    glued = [tag.get_text(strip=True) for tag in article(page).select(".pasted-text")]
    assert not {"", "nan", "inf", "None"} & set(glued), glued
    assert not article(page).select(".output.traceback")


@each_page
def test_no_path_of_this_machine_is_shown(page):
    assert f"{ROOT}{os.sep}" not in soup(page).get_text()


@pytest.mark.skipif(not PAGES, reason=NOT_BUILT)
def test_the_landing_page_shows_the_findings_numbers():
    source = (ROOT / "book/index.md").read_text("utf8")
    asked = re.findall(r"\{glue:text\}`[^`]+`", source)
    shown = [
        tag.get_text(strip=True) for tag in article(SITE / "index.html").select(".pasted-text")
    ]
    # a key that is not found leaves no tag at all
    assert len(shown) == len(asked) > 0, f"asked for {asked}, shown {shown}"
    assert all(shown)
