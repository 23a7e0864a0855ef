"""The interactive page in a real browser: what it shows is the fit's, by mouse and by keyboard."""

import dataclasses
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import chromium, executable

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def fit(data_folder):
    from analysis.study import get_fit

    return get_fit("sim01-tiny", "clip-mini", recipe="check")


@pytest.fixture(scope="module")
def other(fit):
    """Another network's fit, which chose otherwise."""
    import copy

    import torch

    model = copy.deepcopy(fit.model)
    with torch.no_grad():
        for part in (model.layer, model.space, model.scale, model.size):
            part[-1].weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    record = fit.record | {"backbone": "</script><b>"}
    return dataclasses.replace(fit, model=model, record=record)


@pytest.fixture(scope="module")
def clusters(fit):
    return {"clip-mini": np.arange(len(fit.subject.vertices)) % 20}


@pytest.fixture(scope="module")
def page_file(fit, other, clusters, tmp_path_factory):
    from analysis.interactive import whole_page

    page = whole_page([fit, other], clusters)
    assert len(page.html.encode()) < MAX_BYTES
    return page.write(tmp_path_factory.mktemp("page") / "cortex.html")


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser, page_file):
    """Open the page in a window; what it asks for and complains of must stay empty."""
    contexts, wrong = [], []

    def open_page(width: int = 1280, scheme: str = "light", file=page_file):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: (
                wrong.append(r.url[:99])
                if r.url != file.as_uri() and not r.url.startswith("data:")
                else None
            ),
        )
        page.goto(file.as_uri())
        page.wait_for_function("document.querySelector('#brain').width > 300 || !window.chosen")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def drawn(page) -> np.ndarray:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    data = page.locator("#brain").screenshot()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def click_at(page, across: float, down: float) -> None:
    box = page.locator("#brain").bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def shown(page) -> dict[str, str]:
    return {
        tag.get_attribute("data-field"): tag.inner_text().replace("−", "-")
        for tag in page.locator("#facts dd").all()
    }


def vertex_of(page, subject) -> int:
    """The row of the vertex that the panel names."""
    panel = page.locator("#panel")
    hemi = ("lh", "rh").index(panel.get_attribute("data-hemi"))
    number = int(panel.get_attribute("data-vertex")) + hemi * subject.n_surface
    (row,) = np.flatnonzero(subject.vertices == number)
    return int(row)


def assert_told(page, fit, row: int) -> None:
    """The panel's numbers are the fit's."""
    chosen, scores, told = fit.selectors(), fit.scores("test"), shown(page)
    layer = chosen.layer[row].double().numpy()
    n = len(layer)
    entropy = -np.sum(layer * np.log(np.maximum(layer, 1e-30))) / np.log(n)
    expected = {
        "r2": scores.r2[row],
        "ceiling": scores.ceiling[row],
        "scale": chosen.scale[row, 0],
        "size": chosen.size[row, 0],
        "x": chosen.space[row, 0],
        "y": chosen.space[row, 1],
        "confidence": 1 - entropy,
        "depth": layer @ np.linspace(0, 1, n),
    }
    for name, value in expected.items():
        assert float(told[name]) == pytest.approx(float(value), abs=0.0006), name
    assert told["layer"] == f"{layer.argmax() + 1} of {n}"
    weights = [float(t.text_content()) for t in page.locator("#profile [data-weight]").all()]
    np.testing.assert_allclose(weights, layer, atol=0.0006)
    rois = {name for name in told["roi"].split(", ") if name in fit.subject.rois}
    from analysis.subject import AREAS

    assert rois == {a for a in AREAS if a in fit.subject.rois and fit.subject.rois[a][row]}


def test_the_cortex_is_drawn_and_another_map_changes_it(opened):
    page = opened()
    first = drawn(page)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 50
    seen = [first]
    for name in ("scale", "size", "x", "r2", "cluster", "weight 0"):
        page.select_option("#map", name)
        seen.append(drawn(page))
        assert all((seen[-1] != before).any(2).mean() > 0.01 for before in seen[:-1]), name
    page.uncheck("#outlines")
    assert (drawn(page) != seen[-1]).any(2).mean() > 0.001
    assert "weight" in page.inner_text("#unit")


@pytest.mark.parametrize("view", ["posterior", "lateral", "medial", "ventral", "flat"])
def test_every_view_shows_data_on_both_hemispheres(opened, view):
    page = opened()
    page.click(f"[data-view={view}]")
    page.uncheck("#outlines")
    page.select_option("#map", "cluster")
    picture = drawn(page)
    coloured = np.ptp(picture, axis=2) > 40
    half = coloured.shape[1] // 2
    assert coloured[:, :half].mean() > 0.005 and coloured[:, half:].mean() > 0.005


def test_a_click_tells_the_fits_numbers_of_that_vertex(opened, fit, other, clusters):
    page = opened()
    for across, hemi in ((0.25, "lh"), (0.75, "rh")):
        click_at(page, across, 0.5)
        assert page.locator("#panel").get_attribute("data-hemi") == hemi
        row = vertex_of(page, fit.subject)
        assert_told(page, fit, row)
        assert shown(page)["cluster"] == str(clusters["clip-mini"][row] + 1)
    page.select_option("#backbone", "1")  # the same vertex of the other network
    assert vertex_of(page, fit.subject) == row
    assert_told(page, other, row)
    assert "cluster" not in shown(page)
    assert "</script><b>: layer" in page.inner_text("#said")


def test_what_is_clicked_is_what_is_seen_there(opened, fit):
    """A click lands on the vertex whose colour is under the pointer."""
    page = opened()
    page.click("[data-view=flat]")
    page.select_option("#map", "y")
    page.uncheck("#outlines")
    picture, rows = drawn(page), []
    height, width = picture.shape[:2]
    for across, down in ((0.2, 0.4), (0.3, 0.55), (0.7, 0.4), (0.8, 0.6)):
        click_at(page, across, down)
        if not page.locator("#panel").get_attribute("data-vertex"):
            continue
        rows.append(vertex_of(page, fit.subject))
        place = float(fit.selectors().space[rows[-1], 1])
        import matplotlib

        from analysis.cortical import DIVERGING

        expected = np.array(matplotlib.colormaps[DIVERGING]((place + 1) / 2)[:3]) * 255
        found = picture[int(down * height), int(across * width)]
        np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=0.06)
    assert len(rows) >= 3


def test_the_keyboard_alone_turns_zooms_and_takes_a_vertex(opened, fit):
    page = opened()
    page.focus("#outlines")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "brain"
    before = drawn(page)
    for key in ("ArrowLeft", "+"):
        page.keyboard.press(key)
        after = drawn(page)
        assert (after != before).any(2).mean() > 0.02, key
        before = after
    page.keyboard.press("Enter")
    first = vertex_of(page, fit.subject)
    assert_told(page, fit, first)
    assert "R²" in page.inner_text("[role=status]")
    for _ in range(12):  # a tiny subject's vertex covers several of the mesh's
        page.keyboard.press("Shift+ArrowUp")
    second = vertex_of(page, fit.subject)
    assert second != first
    assert_told(page, fit, second)
    page.keyboard.press("h")
    page.keyboard.press("Enter")
    assert page.locator("#panel").get_attribute("data-hemi") == "rh"


def test_dragging_and_the_wheel_turn_and_zoom(opened):
    page = opened()
    before, said = drawn(page), page.inner_text("#said")
    assert "V1" in said
    box = page.locator("#brain").bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 10, steps=4)
    page.mouse.up()
    turned = drawn(page)
    assert page.inner_text("#said") == said  # a drag takes no vertex
    assert (turned != before).any(2).mean() > 0.05
    page.focus("#brain")
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(50)
    assert (drawn(page) != turned).any(2).mean() > 0.05


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_follows_the_system(opened, width, scheme):
    page = opened(width, scheme)
    click_at(page, 0.25, 0.5)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) > 380) == (scheme == "light")


def test_in_a_frame_it_follows_the_page_around_it(browser, fit):
    from analysis.interactive import whole_page

    html = whole_page([fit])._repr_html_()
    page = browser.new_page(color_scheme="light")
    page.set_content(f"<html data-theme='dark'><body>{html}</body></html>")
    frame = page.frame_locator("iframe")
    frame.locator("#said").wait_for()
    root = frame.locator("html")
    assert root.get_attribute("data-theme") == "dark"
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_timeout(50)
    assert root.get_attribute("data-theme") == "light"
    page.close()


def test_without_webgl_it_says_so_and_keeps_quiet(browser, page_file):
    flags = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]
    plain = browser.browser_type.launch(executable_path=executable(), args=flags)
    page, wrong = plain.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(page_file.as_uri())
    assert page.locator("#nothing").is_visible()
    page.select_option("#map", "scale")
    assert not wrong
    plain.close()


def test_a_persons_page_holds_no_picture_and_says_nothing_of_simulation(fit):
    from analysis.interactive import whole_page

    person = dataclasses.replace(fit, subject=dataclasses.replace(fit.subject, source="NSD"))
    for shown, there in ((fit, True), (person, False)):
        html = whole_page([shown]).html
        assert ("data:image/png" in html) == there == ("Simulated data" in html)
        data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
        assert (data["picture"] is not None) == there


def test_fits_that_do_not_belong_together_are_refused(fit):
    from analysis.files import InputError
    from analysis.interactive import whole_page

    stranger = dataclasses.replace(fit.subject, name="sim02-tiny", identity="other")
    with pytest.raises(InputError, match="of sim01-tiny, sim02-tiny"):
        whole_page([fit, dataclasses.replace(fit, subject=stranger)])
    nowhere = dataclasses.replace(fit.subject, n_surface=0)
    with pytest.raises(InputError, match="sim01-tiny: not on fsaverage"):
        whole_page([dataclasses.replace(fit, subject=nowhere)])
    with pytest.raises(InputError, match="fits: none"):
        whole_page([])


def test_in_the_book_it_is_a_file_framed_and_linked(fit, tmp_path):
    from types import SimpleNamespace

    from analysis.interactive import whole_page

    spec = importlib.util.spec_from_file_location("alone", ROOT / "book/_ext/alone.py")
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    page = whole_page([fit])
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    context = {
        "body": f"<p>Before</p>{page._repr_html_()}<p>After</p>",
        "pathto": lambda url, resource: f"../../{url}",
    }
    alone.stand_alone(app, "runs/sim02/cortex", "", context, None)
    assert (tmp_path / "_static/alone/runs-sim02-cortex.html").read_text("utf8") == page.html
    url = "../../_static/alone/runs-sim02-cortex.html"
    assert (
        f'<a href="{url}">' in context["body"] and f'<a href="{url}" download>' in context["body"]
    )
    assert re.search(
        rf'<iframe [^>]*title="Cortex of sim01-tiny"[^>]* src="{url}">', context["body"]
    )
    assert len(context["body"]) < 1000 and context["body"].endswith("<p>After</p>")
