"""Checks on the built site; run after `jupyter-book build book/`. They need no network."""

import functools
import os
import re
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nibabel
import numpy as np
import pandas as pd
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
def test_tables_and_maps_can_be_taken_away(page):
    """Each table that a notebook made is followed by its numbers, and maps by their files."""
    bad = []
    for output in article(page).select("div.cell_output"):
        tables, links = len(output.find_all("table")), output.select("a[download$='.csv']")
        if len(links) != tables:
            bad.append(f"{tables} tables, {len(links)} links: {output.get_text()[:60]!r}")
    for link in article(page).select("p.download a"):
        file = page.parent / unquote(link["href"])
        if file.suffix == ".csv":
            assert len(pd.read_csv(file)) > 0, file
        else:
            with zipfile.ZipFile(file) as archive:
                names = [n for n in archive.namelist() if n.endswith(".gii")]
                image = nibabel.GiftiImage.from_bytes(archive.read(names[0]))
            assert np.isfinite(image.darrays[0].data).any(), file
    drawn = article(page).find_all("img", alt=re.compile("cortex of|flat maps", re.I))
    if drawn and not article(page).select("a[download$='.zip']"):
        bad.append(f"maps without their files: {drawn[0]['alt']}")
    assert not bad, "\n".join(bad)


@pytest.mark.skipif(not PAGES, reason=NOT_BUILT)
def test_the_landing_page_leads_to_every_page():
    links = article(SITE / "index.html").find_all("a", href=True)
    linked = {(SITE / urlsplit(a["href"]).path).resolve() for a in links}
    own = {p for p in PAGES if not p.is_relative_to(SITE / "runs") and p.stem != "search"}
    assert not {p.stem for p in own if p.resolve() not in linked} - {"index"}


def rows_of(table) -> list[list[str]]:
    return [[cell.get_text(strip=True) for cell in row.find_all("td")] for row in table("tr")][1:]


@pytest.mark.skipif(not PAGES, reason=NOT_BUILT)
def test_the_status_page_tells_of_every_page_with_code():
    pages, versions = article(SITE / "status.html").find_all("table")
    linked = {(SITE / a["href"]).resolve() for a in pages.find_all("a")}
    assert linked == {p.resolve() for p in PAGES if p.parent != SITE}
    for _, when, seconds, how, ended in rows_of(pages):
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", when) and int(seconds) >= 0
        assert how and ended == "well"
    told = dict(rows_of(versions))
    assert (
        told["Python"] and told["torch"] and re.match(r"[0-9a-f]{12}|v\d|not known", told["Commit"])
    )


@pytest.mark.skipif(not PAGES, reason=NOT_BUILT)
def test_runs_of_other_subjects_stand_beside_the_books_own():
    contents = soup(SITE / "index.html").select_one("nav.bd-links")
    parts = {p.get_text(strip=True): p.find_next("ul") for p in contents.select("p.caption")}
    runs = {p.relative_to(SITE).as_posix() for p in PAGES if p.is_relative_to(SITE / "runs")}
    of_others = parts.get("Runs of other subjects")
    assert (of_others is None) == (not runs)
    if runs:
        assert {a["href"] for a in of_others.find_all("a", href=True)} == runs
    for name in runs:
        assert Path(name).parent.name in soup(SITE / name).find("h1").get_text()


@each_page
def test_no_message_of_what_is_made_or_warned_of_is_shown(page):
    assert [block.get_text()[:200] for block in soup(page).select(".stderr")] == []


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
