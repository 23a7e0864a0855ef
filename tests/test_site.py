"""Every page of the built book in a real browser; run after `jupyter-book build book/`.

Light and dark, wide and narrow: nothing fails, nothing is asked of another host, nothing is cut off
or empty, and what a machine can tell of accessibility is right but for what the theme itself does.
"""

import functools
import importlib.resources
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "book/_build/html"
PAGES = sorted(
    p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts
)
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
SETTLES = (100, 300, 1000, 3000)  # ms to wait while something is wrong: the theme moves its parts
# What the theme and docutils do on every page, whatever it holds: by axe's rule, in what tags.
THEIRS = {
    "label-content-name-mismatch": "search-button",
    "region": "",  # parts of the theme that are in no landmark
    "aria-required-children": "citation-list",
    "aria-allowed-role": "doc-biblioentry",
    "aria-deprecated-role": "doc-biblioentry",
}
# nothing fetched: axe would ask for the style sheets again, from the wrong folder
AXE = "axe.run({iframes: false, preload: false, resultTypes: ['violations']})"

pytestmark = pytest.mark.book
each_page = pytest.mark.parametrize("name", PAGES)

# By name, the visible pictures that are broken, or the same colour all over.
EMPTY = """() => [...document.querySelectorAll("article img")].filter((image) => {
  if (!image.checkVisibility()) return false;
  if (!image.complete || !image.naturalWidth) return true;
  const canvas = Object.assign(document.createElement("canvas"), {width: 200, height: 200});
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, 200, 200);
  const seen = new Set(new Uint32Array(pen.getImageData(0, 0, 200, 200).data.buffer));
  return seen.size < 5;
}).map((image) => image.alt || image.src.slice(0, 60))"""
# By name, the pictures of a pair of which not exactly one is shown: the one that fits the theme.
PAIRS = """(scheme) => [...document.querySelectorAll("article img.only-light")].filter((light) => {
  const dark = light.parentElement.querySelector("img.only-dark");
  const [fits, other] = scheme === "light" ? [light, dark] : [dark, light];
  return !fits || !fits.checkVisibility() || other?.checkVisibility();
}).map((image) => image.alt)"""
# What reaches over the right edge, were the page to scroll sideways.
OVERFLOW = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")].filter((tag) =>
    tag.checkVisibility() && tag.getBoundingClientRect().right > innerWidth + 1)
  .map((tag) => tag.tagName + "." + tag.className).slice(0, 5)"""
# Tables that have to be scrolled sideways where the page is wide.
CUT = """() => [...document.querySelectorAll("article table")].filter((table) =>
  table.checkVisibility() && table.parentElement.scrollWidth > table.parentElement.clientWidth + 1)
  .map((table) => table.tHead?.innerText.slice(0, 80) || "table")"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address that the built book is served at."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def axe() -> str:
    return (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text("utf8")


@pytest.fixture
def opened(browser, site):
    """Open a page of the book; what it complains of, or asks of others in vain, must be nothing."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 900})
    page = context.new_page()
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url[:120]}"))
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status > 399 else None)
    inside = (site, "data:", "blob:", "about:")
    page.on(
        "request",
        lambda r: None if r.url.startswith(inside) else wrong.append(f"outside: {r.url[:120]}"),
    )

    def open_page(name: str):
        page.goto(site + name)
        return page

    yield open_page
    context.close()
    assert not wrong, "\n".join(wrong)


def shown_in(page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
    page.evaluate(
        "Promise.all([...document.images].filter((i) => i.checkVisibility())"
        ".map((i) => (i.loading = 'eager', i.decode().catch(() => 0))))"
    )


def complaints(page, axe: str) -> list[str]:
    """What axe finds that the theme doesn't do on every page."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    return [
        f"{rule['id']}: {node['html'][:150]}"
        for rule in page.evaluate(AXE)["violations"]
        for node in rule["nodes"]
        if THEIRS.get(rule["id"], "\0") not in node["html"]
    ]


def wrong_with(page, axe: str, scheme: str, width: int) -> list[str]:
    """What is wrong with a page as it is shown now."""
    wrong = [f"over the edge: {tag}" for tag in page.evaluate(OVERFLOW)]
    wrong += complaints(page, axe)
    if width == max(WIDTHS):
        wrong += [f"empty: {alt}" for alt in page.evaluate(EMPTY)]
        wrong += [f"not the one of its pair: {alt}" for alt in page.evaluate(PAIRS, scheme)]
        wrong += [f"cut off: {table}" for table in page.evaluate(CUT)]
    return wrong


@each_page
def test_a_page_is_whole_in_every_window(opened, axe, name):
    page, bad = opened(name), []
    for scheme in SCHEMES:
        shown_in(page, scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for wait in SETTLES:
                page.wait_for_timeout(wait)
                if not (wrong := wrong_with(page, axe, scheme, width)):
                    break
            bad += [f"{scheme}, {width} wide: {what}" for what in wrong]
    assert not bad, "\n".join(bad)


@pytest.mark.skipif(not PAGES, reason="no built book")
def test_search_finds_a_word_of_the_book(opened):
    page = opened("search.html?q=retinotopy")
    page.locator("ul.search li").first.wait_for()
    assert page.locator("ul.search a", has_text="simulated").count()


@pytest.mark.skipif("notebooks/cortex.html" not in PAGES, reason="no built page to turn the cortex")
def test_the_framed_cortex_is_clicked_through(opened):
    page = opened("notebooks/cortex.html")
    page.set_viewport_size({"width": 600, "height": 800})  # fewer points to draw without a GPU
    frame = page.frame_locator("iframe.whole-page")
    brain, panel = frame.locator("#brain"), frame.locator("#panel[data-vertex]")
    brain.scroll_into_view_if_needed()
    for view in frame.locator("[data-view]").all():
        view.click()
    for shown in frame.locator("#map option").all()[::3]:  # of layers' weights one in three
        frame.locator("#map").select_option(shown.get_attribute("value"))
        assert frame.locator("#unit").inner_text().strip()
    frame.locator("[data-view=posterior]").click()
    box = brain.bounding_box()
    brain.click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    panel.wait_for()
    assert frame.locator("#facts dd").count() > 5 and panel.get_attribute("data-hemi") == "lh"
    brain.press("h")
    brain.press("Enter")
    frame.locator("#panel[data-hemi=rh]").wait_for()
    page.get_by_role("link", name="Open it alone").click()
    page.locator("#brain").wait_for()
    assert page.url.endswith("alone/notebooks-cortex.html")


@pytest.mark.skipif("notebooks/brain_score.html" not in PAGES, reason="no built page with tables")
def test_a_table_is_taken_away_as_csv(opened, tmp_path):
    page = opened("notebooks/brain_score.html")
    with page.expect_download() as started:
        page.locator("a[download$='.csv']").first.click()
    file = tmp_path / "table.csv"
    started.value.save_as(file)
    assert "ROI" in file.read_text("utf8").splitlines()[0]
