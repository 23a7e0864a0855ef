"""What pages say: the scores' own numbers, tables a reader can parse, figures for both themes."""

import base64
import dataclasses
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def fit(data_folder):
    from analysis.study import get_fit

    return get_fit("sim01-tiny", "clip-mini", recipe="check")


@pytest.fixture(scope="module")
def scores(fit):
    return fit.scores("test")


def test_a_simulated_subject_is_named_so_and_its_parts_add_up(fit):
    from analysis.report import provenance

    text = provenance(fit)
    assert "**Simulated data.**" in text and "evidence" in text
    train, validation, test = map(
        int, re.search(r"(\d+) to train on, (\d+) to validate, (\d+) to test", text).groups()
    )
    assert train + validation + test == len(fit.subject.picture_ids)
    steps, key = fit.record["result"]["steps"], fit.record["key"]
    tokens = "standardised" if key["model"]["standardise"] else "as they come"
    assert (
        f"Model factortopy ({key['model']['channels']} channels, tokens {tokens}), recipe check"
        f" ({steps} steps of {key['recipe']['batch']} trials)." in text
    )


def test_a_recipe_is_named_as_it_was_recorded(fit):
    from analysis.recipes import RECIPES
    from analysis.report import recipe_name

    assert recipe_name(fit) == "check" and "check" in RECIPES
    key = fit.record["key"]
    changed = key | {"recipe": key["recipe"] | {"batch": 3}}
    assert recipe_name(dataclasses.replace(fit, record=fit.record | {"key": changed})) == (
        "of its own"
    )


def test_the_key_finding_states_the_scores_own_numbers(fit, scores):
    from analysis import metrics, report

    averaged = fit.scores("test", average=True)
    table = metrics.roi_table(scores, fit.subject.rois, report.AREA_NAMES)
    text = report.key_finding(fit, scores, averaged, table)
    assert f"**{np.mean(scores.r2):.3f}**" in text
    assert f"mean ceiling {np.mean(scores.ceiling):.3f}" in text
    assert "simulated" in text and "means of 3 trials" in text


def test_the_table_holds_the_published_row_and_refuses_an_unknown_one(fit, scores):
    from analysis import metrics, report
    from analysis.files import InputError

    table = metrics.roi_table(scores, fit.subject.rois, report.AREA_NAMES)
    shown = report.table_beside_published(table, "CLIP (subject #2)")
    assert shown.data.set_index("ROI")["paper: CLIP (subject #2)"]["V1"] == 0.247
    assert "<th" in shown.to_html() and "level0_row0" not in shown.to_html().split("<tbody>")[0]
    with pytest.raises(
        InputError, match=r"published='CLIP XXL': expected one of CLIP \(subject #1\)"
    ):
        report.table_beside_published(table, "CLIP XXL")


def test_every_setting_of_the_simulation_is_explained():
    from analysis import noise, simulate, truth
    from analysis.report import settings_table

    for settings in (simulate.SIZES["fs5"], truth.TruthParameters(), noise.Noise()):
        table = settings_table(settings).data
        assert list(table["Setting"]) == [f.name for f in dataclasses.fields(settings)]
        assert table["Meaning"].str.len().min() > 5


def test_truth_is_told_of_a_simulated_subject_only(fit, scores):
    from analysis import report

    pairs = report.truth_pairs(fit)
    names = ["layer", "scale", "x in V1–V3", "y in V1–V3", "field size in V1–V3"]
    assert [name for name, *_ in pairs] == names
    assert "| layer |" in report.truth_text(fit, pairs, scores)
    person = dataclasses.replace(
        fit, subject=dataclasses.replace(fit.subject, name="subj01", source="NSD")
    )
    assert report.truth_pairs(person) == []
    assert "is a person" in report.truth_text(person, [], scores)


def test_the_truth_on_a_coarser_mesh_is_that_of_the_same_vertices(fit, monkeypatch):
    from analysis import report

    def at(vertices, n_surface):
        subject = fit.subject
        part = dataclasses.replace(
            subject,
            vertices=vertices,
            n_surface=n_surface,
            coordinates=subject.coordinates[kept],
            ncsnr=subject.ncsnr[kept],
            responses=subject.responses[:, kept],
            rois={},
        )
        return report.truth_pairs(dataclasses.replace(fit, subject=part))

    whole, n = fit.subject.vertices, fit.subject.n_surface
    kept = whole % n < 162  # the first 162 of each hemisphere are a coarser mesh
    some = {name: values[kept] for name, values in report.choices(fit).items()}
    monkeypatch.setattr(report, "choices", lambda _: some)
    coarse = whole[kept] // n * 162 + whole[kept] % n
    for ours, theirs in zip(at(coarse, 162), at(whole[kept], n), strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert 10 < kept.sum() < len(whole)


def test_depth_and_confidence_are_those_of_the_selectors(fit):
    from analysis.report import choices

    found, layer = choices(fit), fit.selectors().layer.numpy()
    np.testing.assert_allclose(found["depth"], layer @ np.linspace(0, 1, 8), atol=1e-6)
    entropy = -(layer * np.log(layer)).sum(1) / np.log(8)
    np.testing.assert_allclose(found["confidence"], 1 - entropy, atol=1e-5)


# figures


def images(pair) -> list[Image.Image]:
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', pair._repr_html_())
    return [Image.open(io.BytesIO(base64.b64decode(d))).convert("RGBA") for d in data]


def test_a_figure_comes_for_a_light_and_a_dark_page_with_its_words():
    from analysis.figures import light_dark

    def draw():
        figure, axis = plt.subplots(figsize=(2, 1))
        axis.set_xlabel("words")
        return figure

    before = plt.get_fignums()
    pair = light_dark(draw, 'a "quoted" plot')
    html = pair._repr_html_()
    assert html.count('alt="a &quot;quoted&quot; plot"') == 2
    assert html.index("only-light") < html.index("only-dark")
    light, dark = (np.asarray(image) for image in images(pair))
    opaque = [image[image[..., 3] > 250][:, :3].mean() for image in (light, dark)]
    assert opaque[0] < 100 < opaque[1]  # dark ink on a light page, light ink on a dark one
    assert (light[..., 3] == 0).mean() > 0.3  # the page shows through
    assert plt.get_fignums() == before


def test_bars_reach_the_scores():
    from analysis.figures import roi_bars

    table = pd.DataFrame(
        {"ROI": ["V1"], "R²": [0.2], "low": [0.15], "high": [0.3], "noise ceiling": [0.4]}
    )
    figure = roi_bars(table)
    assert sorted(patch.get_height() for patch in figure.axes[0].patches) == [0.2, 0.4]
    (bar,) = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(bar[:, 1], [0.15, 0.3])
    plt.close(figure)
