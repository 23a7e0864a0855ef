"""The geometry against nilearn's own files, Euler's formula and the area of a sphere."""

import numpy as np
import pytest
from nilearn.datasets import load_fsaverage, load_fsaverage_data

from analysis.surface import (
    FSAVERAGE5,
    FULL,
    RADIUS,
    SIZES,
    TINY,
    arc,
    edges,
    inflated,
    pial,
    sphere,
    sulc,
)

both = pytest.mark.parametrize("hemi", ["lh", "rh"])
every_size = pytest.mark.parametrize("n_vertices", SIZES)
SIDE = {"lh": "left", "rh": "right"}


@both
@every_size
def test_sphere_is_closed_round_and_outward(hemi, n_vertices):
    coordinates, faces = sphere(hemi, n_vertices)
    assert coordinates.shape == (n_vertices, 3) and coordinates.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(coordinates, axis=1), RADIUS)
    assert set(np.unique(faces)) == set(range(n_vertices))

    a, b, c = np.moveaxis(coordinates[faces], 1, 0)
    normals = np.cross(b - a, c - a)
    assert ((normals * (a + b + c)).sum(axis=1) > 0).all()
    area = np.linalg.norm(normals, axis=1).sum() / 2
    np.testing.assert_allclose(area, 4 * np.pi * RADIUS**2, rtol=0.01)


@pytest.mark.parametrize("n_vertices", SIZES[:4])
def test_mesh_is_an_icosphere(n_vertices):
    faces = sphere("lh", n_vertices)[1]
    found, edge_of = edges(faces)
    assert n_vertices - len(found) + len(faces) == 2
    assert len(np.unique(found, axis=0)) == len(found) and (found[:, 0] < found[:, 1]).all()
    assert (np.bincount(edge_of.ravel()) == 2).all()  # closed: every edge lies in two faces
    degree = np.bincount(found.ravel())
    assert (degree == 5).sum() == 12 and (degree == 6).sum() == n_vertices - 12


def test_edges_name_the_sides_of_each_face():
    faces = sphere("rh", TINY)[1]
    found, edge_of = edges(faces)
    for face, named in zip(faces[:50], edge_of[:50], strict=True):
        sides = [tuple(sorted(face[[i, j]])) for i, j in ((2, 0), (1, 2), (0, 1))]
        assert [tuple(edge) for edge in found[named]] == sides


@both
def test_sizes_are_nested_about_nilearns_own(hemi):
    packaged = load_fsaverage("fsaverage5")["sphere"].parts[SIDE[hemi]]
    full = sphere(hemi, FULL)[0]
    np.testing.assert_allclose(full[:FSAVERAGE5], packaged.coordinates, atol=0.01)
    np.testing.assert_array_equal(sphere(hemi, FSAVERAGE5)[1], packaged.faces)
    for n_vertices in SIZES:
        np.testing.assert_array_equal(sphere(hemi, n_vertices)[0], full[:n_vertices])


@pytest.mark.parametrize("n_vertices", SIZES[1:4])
def test_added_vertices_lie_between_their_neighbours(n_vertices):
    """Each vertex that a size adds is next to exactly two of the size below."""
    coordinates, faces = sphere("lh", n_vertices)
    smaller = (n_vertices - 2) // 4 + 2
    found = edges(faces)[0]
    joined = found[(found[:, 0] < smaller) & (found[:, 1] >= smaller)]
    joined = joined[np.argsort(joined[:, 1], kind="stable")]
    np.testing.assert_array_equal(joined[:, 1], np.repeat(np.arange(smaller, n_vertices), 2))
    middle = coordinates[joined[:, 0]].reshape(-1, 2, 3).mean(axis=1)
    middle *= RADIUS / np.linalg.norm(middle, axis=1, keepdims=True)
    assert np.abs(middle - coordinates[smaller:]).max() < 0.02


@both
@pytest.mark.parametrize(("surface", "name"), [(inflated, "inflated"), (pial, "pial")])
def test_display_surfaces_pass_through_nilearns(hemi, surface, name):
    packaged = load_fsaverage("fsaverage5")[name].parts[SIDE[hemi]]
    coordinates, faces = surface(hemi, SIZES[3])
    np.testing.assert_allclose(coordinates[:FSAVERAGE5], packaged.coordinates, rtol=1e-6)
    np.testing.assert_array_equal(faces, sphere(hemi, SIZES[3])[1])
    long = np.linalg.norm(np.diff(coordinates[edges(faces)[0]], axis=1), axis=2)
    assert long.max() < 10  # mm: no vertex thrown across the brain


@both
def test_sulcal_depth_is_nilearns(hemi):
    packaged = load_fsaverage_data("fsaverage5", data_type="sulcal").data.parts[SIDE[hemi]]
    np.testing.assert_allclose(sulc(hemi, FSAVERAGE5), packaged)
    np.testing.assert_allclose(sulc(hemi, TINY), packaged[:TINY])
    assert sulc(hemi, FULL).shape == (FULL,)


def test_arc_is_the_angle_times_the_radius():
    poles = np.array([[0.0, 0.0, 100.0], [100.0, 0.0, 0.0], [0.0, 0.0, -100.0]])
    quarter = np.pi * RADIUS / 2
    np.testing.assert_allclose(arc(poles, np.array([0.0, 0.0, 1.0])), [0, quarter, 2 * quarter])


def test_arrays_are_shared_and_read_only():
    assert sphere("lh", TINY)[0] is sphere("lh", TINY)[0]
    for array in (*sphere("lh", TINY), *pial("lh", TINY), sulc("lh", TINY)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("surface", [sphere, inflated, pial, sulc])
def test_unknown_size_names_the_known(surface):
    with pytest.raises(ValueError, match=r"n_vertices=10000 .*642, 2562, 10242, 40962, 163842"):
        surface("lh", 10000)


def test_unknown_hemisphere_names_the_known():
    with pytest.raises(ValueError, match=r"hemi='left' .*lh.*rh"):
        sphere("left", TINY)
