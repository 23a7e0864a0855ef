"""What a link holds is the table or the maps, whole."""

import base64
import dataclasses
import importlib.util
import io
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest

from analysis.downloads import csv, fit_maps, layers, maps
from analysis.files import InputError
from analysis.links import Link
from analysis.maps import choices
from analysis.report import plain_table

ROOT = Path(__file__).resolve().parents[1]


def held(html: str) -> tuple[str, bytes]:
    """The name and the bytes of the one file that HTML holds."""
    ((name, data),) = re.findall(r'download="([^"]+)" href="data:[a-z/]+;base64,([^"]*)"', html)
    return name, base64.b64decode(data)


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_table_is_followed_by_its_numbers_unrounded() -> None:
    table = pd.DataFrame({"R²": [1 / 3, np.nan], "range": ["0\u2060–\u20601", 'a "b", c']})
    html = plain_table(table).format(precision=2)._repr_html_()
    assert "0.33<" in html and html.index("</table>") < html.index("download=")
    name, data = held(html)
    assert name == "table.csv" and b"\xe2\x81\xa0" not in data
    read = pd.read_csv(io.BytesIO(data))
    assert read["R²"][0] == 1 / 3 and np.isnan(read["R²"][1])
    assert read["range"].tolist() == ["0–1", 'a "b", c']
    assert held(csv(table, "x&y").html)[0] == "x&amp;y.csv"


def test_numbers_that_are_shown_as_text_come_as_numbers() -> None:
    shown, numbers = pd.DataFrame({"a": ["0.1 (0–1)"]}), pd.DataFrame({"a": [0.1234], "low": [0.0]})
    html = plain_table(shown, numbers).format(precision=2)._repr_html_()
    assert "0.1 (0–1)<" in html
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(held(html)[1])), numbers)


def test_a_fits_maps_come_as_gifti_with_what_they_are(tiny_fit) -> None:
    link = fit_maps(tiny_fit)
    name, data = held(link._repr_html_())
    assert name == "sim01-tiny-mae-mini-s-maps.zip" and data == link.data == fit_maps(tiny_fit).data
    files = unzipped(data)
    index = json.loads(files.pop("maps.json"))
    assert files.keys() == {row["file"] for row in index["files"]}
    assert all(name.endswith(".func.gii") for name in files) and index["simulated"] is True
    image = nibabel.GiftiImage.from_bytes(files["rh.depth.func.gii"])
    right = tiny_fit.subject.vertices >= tiny_fit.subject.n_surface
    at = tiny_fit.subject.vertices[right] - tiny_fit.subject.n_surface
    np.testing.assert_array_equal(image.darrays[0].data[at], choices(tiny_fit)["depth"][right])


def test_named_maps_come_as_arrays_of_one_file_a_hemisphere(subject) -> None:
    values = {"one": np.arange(len(subject.vertices)) * 1.0, "two": np.ones(len(subject.vertices))}
    link = maps(subject, values, "share", "difference")
    files = unzipped(link.data)
    assert list(files) == ["lh.difference.func.gii", "rh.difference.func.gii"]
    image = nibabel.GiftiImage.from_bytes(files["lh.difference.func.gii"])
    assert [a.meta["Name"] for a in image.darrays] == ["one", "two"]
    left = subject.vertices < subject.n_surface
    np.testing.assert_array_equal(
        image.darrays[0].data[subject.vertices[left]], values["one"][left].astype(np.float32)
    )
    assert np.isfinite(image.darrays[1].data).sum() == left.sum()


def test_layers_come_as_what_is_drawn_of_them(subject) -> None:
    n = len(subject.vertices)
    weights = np.tile([0.0, 0.5, 0.5], (n, 1)).astype(np.float32)
    sure = np.linspace(0, 1, n)
    files = unzipped(layers(subject, {"net": (weights, sure), "none": None}, "sheet").data)
    depth, confidence = nibabel.GiftiImage.from_bytes(files["rh.sheet.func.gii"]).darrays
    assert depth.meta["Name"] == "net, expected layer"
    assert confidence.meta["Name"] == "net, confidence"
    right = subject.vertices >= subject.n_surface
    at = subject.vertices[right] - subject.n_surface
    np.testing.assert_allclose(depth.data[at], 0.75)
    np.testing.assert_array_equal(confidence.data[at], sure[right].astype(np.float32))
    with pytest.raises(InputError, match="sheet: no maps"):
        layers(subject, {"none": None}, "sheet")


def test_maps_of_several_people_have_files_of_their_own(subject) -> None:
    few = SimpleNamespace(n_surface=subject.n_surface, vertices=subject.vertices[:2], rois={})
    few.coordinates = subject.coordinates[:2]
    values = {"sim01": np.ones(len(subject.vertices)), "sim02 b": np.array([2.0, 3.0])}
    files = unzipped(maps([subject, few], values, "R²", "score").data)
    assert list(files) == [
        f"{hemi}.score-{name}.func.gii" for hemi in ("lh", "rh") for name in ("sim01", "sim02_b")
    ]
    found = nibabel.GiftiImage.from_bytes(files["lh.score-sim02_b.func.gii"]).darrays[0].data
    np.testing.assert_array_equal(found[few.vertices], [2, 3])
    weights = np.ones((2, 3), np.float32) / 3
    halves = np.full((len(subject.vertices), 2), 0.5)
    sheet = {"a": (halves, values["sim01"]), "b": (weights, values["sim02 b"])}
    files = unzipped(layers([subject, few], sheet, "runs").data)
    depth = nibabel.GiftiImage.from_bytes(files["lh.runs-b__expected_layer.func.gii"]).darrays[0]
    np.testing.assert_allclose(depth.data[few.vertices], 0.5)


def test_maps_of_nothing_or_of_nowhere_are_refused(subject) -> None:
    nowhere = dataclasses.replace(subject, n_surface=0)
    with pytest.raises(InputError, match="difference: no maps"):
        maps(subject, {}, "share", "difference")
    with pytest.raises(InputError, match="difference: no mesh"):
        maps(nowhere, {"a": np.ones(len(subject.vertices))}, "share", "difference")


def test_in_the_book_files_are_the_sites_own(tmp_path) -> None:
    spec = importlib.util.spec_from_file_location("alone", ROOT / "book/_ext/alone.py")
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    links = [Link("table.csv", b"a\n1\n", "one"), Link("table.csv", b"b\n2\n", "two")]
    context = {
        "body": "<p>".join(link.html for link in links) + '<a href="data:x">',
        "pathto": lambda url, resource: f"../{url}",
    }
    alone.taken_away(app, "notebooks/some", "", context, None)
    found = re.findall(
        r'<a download="([^"]+)" href="\.\./_static/downloads/([^"]+)">', context["body"]
    )
    assert found == [("some-table.csv",) * 2, ("some-table-2.csv",) * 2]
    written = [(tmp_path / "_static/downloads" / name).read_bytes() for name, _ in found]
    assert written == [link.data for link in links]
