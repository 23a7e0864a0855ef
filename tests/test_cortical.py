"""Maps on the cortex: what is seen, in which colour, and where the borders of areas lie."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from analysis import cortical, surface, views


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_larger_mesh_is_cut_to_fsaverage5(subject):
    large = subject.n_surface * 64  # fsaverage6, of which a small mesh's vertices are the first
    right = subject.vertices >= subject.n_surface
    vertices = subject.vertices + right * (large - subject.n_surface)
    vertices[-1] = large + 20000  # beyond fsaverage5
    person = dataclasses.replace(subject, n_surface=large, vertices=vertices)
    for hemi, here in (("lh", ~right), ("rh", right)):
        rows = cortical.rows_on_mesh(person, hemi)
        assert rows.shape == (10242,)
        kept = here & (vertices % large < 10242)
        np.testing.assert_array_equal(rows[vertices[kept] % large], np.flatnonzero(kept))
        assert (rows >= 0).sum() == kept.sum()


def test_a_smaller_mesh_is_shown_by_its_nearest_vertex(subject):
    right = subject.vertices >= subject.n_surface
    whole = np.full(642, -1)
    whole[subject.vertices[right] - 642] = np.flatnonzero(right)
    rows, points = cortical.rows_on_mesh(subject, "rh"), surface.sphere("rh", 10242)[0]
    for vertex in range(0, 10242, 97):
        nearest = np.linalg.norm(points[vertex] - points[:642], axis=1)
        if np.diff(np.sort(nearest)[:2]) > 1e-6:  # midpoints have two
            assert rows[vertex] == whole[nearest.argmin()]


def test_the_front_triangle_is_seen_and_values_lie_between_corners():
    # a large triangle, a smaller one in front of a part of it, and one seen edge on
    points = np.array(
        [[0, 0, 0], [20, 0, 0], [0, 20, 0], [2, 2, 5], [8, 2, 5], [2, 8, 5], [1, 1, 9], [1, 1, -9]]
    )
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 6, 7]])
    share, corner = views.raster(points.astype(float), faces)
    seen = views.Seen(corner, share)
    x, y = (seen.field(points[:, k].astype(float)) for k in (0, 1))
    z = seen.field(points[:, 2].astype(float))
    height, width = x.shape
    columns, rows = np.meshgrid(np.arange(width) - 1, np.arange(height) - 1)
    inside = (columns >= 0) & (rows >= 0) & (columns + rows <= 20)
    in_front = (columns >= 2) & (rows >= 2) & (columns + rows <= 10)
    np.testing.assert_array_equal(np.isfinite(x), inside)
    np.testing.assert_allclose(x[inside], columns[inside], atol=1e-9)
    np.testing.assert_allclose(y[inside], rows[inside], atol=1e-9)
    np.testing.assert_allclose(z[inside], np.where(in_front, 5, 0)[inside], atol=1e-9)


@pytest.mark.parametrize("hemi", ["lh", "rh"])
def test_each_view_is_from_its_side_and_upright(hemi):
    points = surface.inflated(hemi, 10242)[0]
    outward = -1 if hemi == "lh" else 1
    towards = {"lateral": outward * points[:, 0], "medial": -outward * points[:, 0]}
    towards |= {"ventral": -points[:, 2], "posterior": -points[:, 1]}
    for view, depth in towards.items():
        seen = views.seen(hemi, view)
        shown = np.unique(seen.nearest[seen.nearest >= 0])
        behind = points[:, 1] < 0
        assert depth[shown].mean() > depth[behind].mean() + 5, view
        up = seen.field(points[:, 1 if view == "ventral" else 2])
        assert np.nanmean(up[-up.shape[0] // 4 :]) > np.nanmean(up[: up.shape[0] // 4]) + 20
    flat = views.seen(hemi, "flat").field(points[:, 2])  # dorsal is up
    assert np.nanmean(flat[-200:]) > np.nanmean(flat[:200]) + 20


def test_what_is_drawn_holds_all_of_visual_cortex():
    from analysis.anatomy import visual_vertices

    for hemi in ("lh", "rh"):
        seen = {int(v) for view in views.SIDES for v in np.unique(views.seen(hemi, view).corner)}
        assert set(visual_vertices(hemi, 10242).tolist()) <= seen


def test_an_outline_runs_where_membership_changes():
    points = surface.inflated("lh", 10242)[0]
    member = np.linalg.norm(points - points[points[:, 1].argmin()], axis=1) < 20  # mm
    edge = views.outline("lh", "posterior", member)
    inside = views.seen("lh", "posterior").field(member.astype(float))
    x, y = edge.middle
    assert inside[y, x] == 1
    on_it = np.concatenate(edge.lines).round().astype(int)
    values = inside[on_it[:, 1], on_it[:, 0]]
    assert np.nanmedian(np.abs(values - 0.5)) < 0.2
    half = views.MM * np.ptp(np.argwhere(inside > 0.5), axis=0).min() / 2
    assert edge.room == pytest.approx(half, rel=0.15)
    assert views.outline("lh", "posterior", points[:, 1] > 50) is None


def test_pixels_have_the_colour_of_their_vertex_and_bare_cortex_is_grey(subject):
    rows, folds = cortical.rows_on_mesh(subject, "lh"), surface.sulc("lh", 10242)
    view = views.seen("lh", "posterior")
    colours = np.ones((len(subject.vertices), 4))
    colours[:, :3] = np.random.default_rng(0).random((len(colours), 3))
    colours[::7] = 0  # NaN's
    picture = cortical.painted(view, rows, folds, colours, blend=False)
    brain = view.nearest >= 0
    row = np.where(brain, rows[view.nearest], -1)
    has = (row >= 0) & (colours[row, 3] > 0)
    np.testing.assert_allclose(picture[has], colours[row[has]])
    np.testing.assert_allclose(np.ptp(picture[brain & ~has][:, :3], axis=1), 0, atol=1e-12)
    assert (picture[~brain] == 0).all() and has.any() and (brain & ~has).any()
    even = np.tile([0.2, 0.5, 0.9, 1.0], (len(colours), 1))
    blended = cortical.painted(view, rows, folds, even, blend=True)
    np.testing.assert_allclose(blended[row >= 0], np.tile(even[0], ((row >= 0).sum(), 1)))


def test_a_sheet_has_every_view_the_areas_names_and_its_scale(subject):
    figure = cortical.cortex(subject, subject.ncsnr, "ncsnr", limits=(0.0, 1.0))
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert set(titles) == {"left, flat", "right, flat", "lateral", "medial", "ventral", "posterior"}
    assert figure.axes[-1].get_ylabel() == "ncsnr" and figure.axes[-1].get_ylim() == (0, 1)
    names = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert {"V1", "V2", "V3", "V4"} <= names


def test_the_layers_key_has_two_dimensions_and_dark_means_not_sure(subject):
    n = len(subject.vertices)
    layer = np.full((n, 5), 0.1)
    layer[np.arange(n), np.arange(n) % 5] = 0.6
    sure, not_sure = (cortical.layer_colours(layer, np.full(n, c)) for c in (1.0, 0.0))
    np.testing.assert_allclose(sure, plt.get_cmap("coolwarm")((np.arange(n) % 5) / 4))
    assert (not_sure[:, :3] == 0).all()
    figure = cortical.layers(subject, layer, np.full(n, 0.5))
    (key,) = [axis for axis in figure.axes if axis.get_ylabel().startswith("confidence")]
    assert key.get_xlabel() == "layer of\ngreatest weight" and list(key.get_xticks()) == [1, 5]


def test_a_difference_is_0_in_the_middle_of_its_scale(subject):
    values = np.linspace(-1, 3, len(subject.vertices))
    figure = cortical.difference(subject, values, "R² of one less R² of the other")
    low, high = figure.axes[-1].get_ylim()
    assert low == -high and 2.8 < high <= 3


def test_categories_keep_their_colours_whatever_their_number(subject):
    few, many = cortical.category_colours(3), cortical.category_colours(20)
    assert few == many[:3] and len(set(many)) == 20
    names = [f"cluster {i + 1}" for i in range(9)]
    figure = cortical.categories(subject, np.arange(len(subject.vertices)) % 9, names, "channels")
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert [p.get_facecolor() for p in legend.get_patches()] == [
        plt.matplotlib.colors.to_rgba(c) for c in cortical.category_colours(9)
    ]


def test_each_small_map_stands_under_its_name(subject):
    maps = {f"layer {i + 1}": np.full(len(subject.vertices), i / 5) for i in range(5)}
    figure = cortical.small_maps(subject, maps, "weight")
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == list(maps)
    assert figure.axes[-1].get_ylabel() == "weight"


def test_who_is_not_on_fsaverage_is_drawn_where_the_coordinates_are(subject):
    person = dataclasses.replace(subject, n_surface=0)
    n = len(subject.vertices)
    layer = np.full((n, 4), 0.25)
    for figure in (
        cortical.layers(person, layer, np.ones(n)),
        cortical.categories(person, np.zeros(n, int), ["one"], "all"),
        cortical.small_maps(person, {"a": np.ones(n)}, "weight"),
    ):
        dots = [c for axis in figure.axes for c in axis.collections if len(c.get_offsets()) == n]
        assert dots
