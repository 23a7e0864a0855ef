"""The truth of simulated subjects: what each vertex reads, and in what subjects differ."""

import dataclasses
import itertools

import numpy as np
import pytest
from safetensors.numpy import load_file

from analysis import anatomy, simulate, truth
from analysis.files import HEMIS, InputError
from analysis.nsd import SIMULATED
from analysis.surface import sphere
from tests.simulated import subjects


@pytest.fixture(scope="module")
def whole_truth(data_folder):
    return truth.Truth(**load_file(data_folder / "simulated/tiny/truth/sim01.safetensors"))


def test_names_of_subjects_are_those_the_reader_knows():
    assert tuple(truth.SIMULATED_SUBJECTS) == SIMULATED


def test_subjects_differ_in_anatomy():
    rois = {name: cortex.rois for name, (cortex, _) in subjects().items()}
    v1 = {name: areas["V1v"] | areas["V1d"] for name, areas in rois.items()}
    sizes = {name: mask.sum() for name, mask in v1.items()}
    assert sizes["sim02"] < 0.95 * sizes["sim01"] < sizes["sim01"] < sizes["sim03"]
    for one, other in itertools.combinations(v1.values(), 2):
        assert 0.3 < (one & other).sum() / (one | other).sum() < 0.95
    category = [area for areas in truth.CATEGORY.values() for area in areas]
    discs = {name: sum(areas[area].sum() for area in category) for name, areas in rois.items()}
    assert discs["sim02"] < discs["sim03"] < discs["sim01"]


def test_areas_are_labelled_on_the_visual_vertices_that_they_hold():
    cortex = subjects()["sim02"][0]
    shape = truth.SIMULATED_SUBJECTS["sim02"].shape
    for i, hemi in enumerate(HEMIS):
        columns = cortex.vertices // 10242 == i
        vertices = cortex.vertices[columns] - 10242 * i
        np.testing.assert_array_equal(vertices, anatomy.visual_vertices(hemi, 10242))
        area = anatomy.retinotopy(hemi, sphere(hemi, 10242)[0], shape).area
        np.testing.assert_array_equal(
            vertices[cortex.rois["V3d"][columns]], np.flatnonzero(area == 6)
        )
        discs = anatomy.category_areas(hemi, 10242, shape)
        np.testing.assert_array_equal(vertices[cortex.rois["PPA"][columns]], discs["PPA"])


def test_subjects_differ_in_receptive_fields():
    size = {name: np.median(found.field) for name, (_, found) in subjects().items()}
    assert size["sim02"] / size["sim01"] == pytest.approx(0.8, rel=0.1)
    assert size["sim03"] / size["sim01"] == pytest.approx(1.3, rel=0.1)


def test_subjects_differ_in_layers():
    depth = {name: found.layer @ np.arange(8) for name, (_, found) in subjects().items()}
    assert depth["sim03"].mean() < depth["sim01"].mean() - 0.1
    assert depth["sim02"].mean() > depth["sim01"].mean() + 0.1
    for _, found in subjects().values():  # beside the place in the hierarchy, all wander
        middle = (found.level > 0.3) & (found.level < 0.7)
        own = (found.layer @ np.arange(8))[middle] / 7 - found.level[middle]
        assert 0.015 < own.std() < 0.06 and abs(own.mean()) < 0.03


def test_a_subject_that_does_not_wander_follows_the_hierarchy():
    first = truth.SIMULATED_SUBJECTS["sim01"]
    still = dataclasses.replace(first, field_wander=0.0, layer_wander=0.0)
    directions = dict.fromkeys(truth.CATEGORY, np.eye(128)[0])
    cortex = subjects()["sim01"][0]
    found = truth.draw_truth(cortex, 8, directions, still, truth.TruthParameters())
    peak = found.layer.argmax(1)
    np.testing.assert_array_equal(peak, np.rint(7 * found.level).astype(int))
    ecc = 4.2 * np.linalg.norm(found.space, axis=1)
    expected = (0.3 + 0.12 * ecc) * (1 + 2 * found.level) / 4.2
    np.testing.assert_allclose(found.field, expected, rtol=1e-12)


def test_receptive_fields_lie_in_the_picture_and_not_on_its_border():
    for _, found in subjects().values():
        away = np.linalg.norm(found.space[found.early], axis=1)
        assert away.max() < 0.97
        counts = np.histogram(away, np.linspace(0, 1, 11))[0]
        assert counts[:8].min() > 0.05 * len(away) and counts.max() < 0.16 * len(away)
        assert len(np.unique(away[away > 0])) == (away > 0).sum()


def test_truth_is_aligned_with_the_vertices_asked_for(subject, whole_truth):
    asked = subject.vertices[[100, 3, 57]]
    some = simulate.load_truth("sim01-tiny", asked)
    np.testing.assert_array_equal(some.vertices, asked)
    for i, vertex in enumerate(asked):
        (row,) = np.flatnonzero(whole_truth.vertices == vertex)
        for field in ("early", "space", "field", "layer", "scale", "level", "channel"):
            expected = getattr(whole_truth, field)[row]
            np.testing.assert_array_equal(getattr(some, field)[i], expected)


def test_a_vertex_without_truth_is_refused(whole_truth):
    outside = np.setdiff1d(np.arange(1284), whole_truth.vertices)[[0, -1]]
    with pytest.raises(InputError, match=r"vertices: .* are not among those of .*sim01\.safetens"):
        simulate.load_truth("sim01-tiny", outside)


def test_truth_keeps_its_promises(whole_truth):
    np.testing.assert_allclose(whole_truth.layer.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(whole_truth.channel, axis=1), 1, rtol=1e-12)
    assert whole_truth.layer.min() >= 0 and whole_truth.layer.shape[1] == 8
    assert whole_truth.scale.min() >= 0.1 and whole_truth.scale.max() <= 0.9
    assert np.abs(whole_truth.space).max() <= 1 and whole_truth.field.min() > 0
    assert (np.diff(whole_truth.vertices) > 0).all()


def test_early_vertices_see_the_other_half_of_the_visual_field(whole_truth):
    left = whole_truth.vertices < 642
    x = whole_truth.space[:, 0]
    assert (x[left & whole_truth.early] >= 0).all() and (x[~left & whole_truth.early] <= 0).all()
    assert (np.abs(x[whole_truth.early]) > 0.05).mean() > 0.5


def test_ventral_areas_see_the_upper_field_and_dorsal_ones_the_lower(subject):
    y = simulate.load_truth("sim01-tiny", subject.vertices).space[:, 1]  # down
    for area in ("V1", "V2", "V3"):
        assert y[subject.roi(area + "v")].max() <= 1e-9
        assert y[subject.roi(area + "d")].min() >= -1e-9


def test_early_means_v1_to_v3(subject):
    early = simulate.load_truth("sim01-tiny", subject.vertices).early
    expected = subject.roi("V1") | subject.roi("V2") | subject.roi("V3")
    np.testing.assert_array_equal(early, expected)


def test_early_areas_read_earlier_layers_and_smaller_fields_than_category_areas(subject):
    found = simulate.load_truth("sim01-tiny", subject.vertices)
    depth = found.layer @ np.arange(8)
    late = subject.roi("EBA") | subject.roi("FFA") | subject.roi("PPA")
    assert depth[subject.roi("V1")].max() < depth[late].min()
    assert found.scale[subject.roi("V1")].max() < found.scale[late].min()
    assert np.median(found.field[subject.roi("V1")]) < np.median(found.field[late])
