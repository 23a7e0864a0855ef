"""The stand-in anatomy: what must hold of any visual cortex, and NSD's counts and codes."""

import itertools

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra

from analysis.anatomy import (
    PEAKS,
    ROI_CODES,
    Shape,
    category_areas,
    distance_from_v1,
    random_rotation,
    retinotopy,
    visual_vertices,
)
from analysis.surface import FSAVERAGE5, FULL, SIZES, TINY, edges, pial, sphere

both = pytest.mark.parametrize("hemi", ["lh", "rh"])
VENTRAL, DORSAL = (1, 3, 5, 7), (2, 4, 6)


def seen(hemi, n_vertices=FSAVERAGE5):
    return retinotopy(hemi, sphere(hemi, n_vertices)[0])


def graph(hemi, n_vertices=FSAVERAGE5):
    """The mesh as a sparse symmetric matrix of edge lengths."""
    coordinates, faces = sphere(hemi, n_vertices)
    a, b = edges(faces)[0].T
    length = np.linalg.norm(coordinates[a] - coordinates[b], axis=1)
    half = coo_array((length, (a, b)), shape=(n_vertices, n_vertices)).tocsr()
    return half + half.T


@pytest.mark.parametrize(("hemi", "count"), [("lh", 18461), ("rh", 19523)])
def test_mask_has_the_counts_of_nsdgeneral(hemi, count):
    full = visual_vertices(hemi, FULL)
    assert len(full) == count and (np.diff(full) > 0).all()
    for n_vertices in SIZES:
        np.testing.assert_array_equal(visual_vertices(hemi, n_vertices), full[full < n_vertices])
    assert pial(hemi, FULL)[0][full, 1].max() < -30  # mm: the back of the brain


@both
@pytest.mark.parametrize("n_vertices", [TINY, FSAVERAGE5, FULL])
def test_mask_holds_every_early_vertex(hemi, n_vertices):
    early = np.flatnonzero(seen(hemi, n_vertices).area)
    assert np.isin(early, visual_vertices(hemi, n_vertices)).all()


@both
def test_every_area_is_one_piece(hemi):
    """Also at the smallest size, every area has a vertex."""
    area, links = seen(hemi).area, graph(hemi)
    for code in range(1, 8):
        inside = np.flatnonzero(area == code)
        assert len(inside) > 25
        assert connected_components(links[inside][:, inside])[0] == 1
    assert set(seen(hemi, TINY).area) == set(range(8))


@both
def test_areas_follow_each_other(hemi):
    """V1 borders on V2 far more than on V3, and V3 on V2 more than on V1."""
    field = seen(hemi)
    a, b = graph(hemi).nonzero()
    name = np.array([0, 1, 1, 2, 2, 3, 3, 4])[field.area]
    beside = {k: np.bincount(name[b[name[a] == k]], minlength=5) for k in (1, 2, 3)}
    assert beside[1][2] > 10 * beside[1][3]
    assert beside[2][1] > 0 and beside[2][3] > 0
    assert beside[3][2] > beside[3][1]


@both
def test_upper_field_is_ventral_and_on_the_other_side(hemi):
    field = seen(hemi)
    height = pial(hemi, FSAVERAGE5)[0][:, 2]
    upper, lower = np.isin(field.area, VENTRAL), np.isin(field.area, DORSAL)
    assert (field.y[upper] >= 0).all() and (field.y[lower] <= 0).all()
    assert (field.angle[upper] <= 90).all() and (field.angle[lower] >= 90).all()
    assert height[upper].mean() < height[lower].mean() - 10  # mm: ventral lies below
    assert ((field.x if hemi == "lh" else -field.x)[field.area > 0] >= 0).all()


@both
def test_centre_is_angle_and_eccentricity(hemi):
    field = seen(hemi)
    labelled = field.area > 0
    np.testing.assert_allclose(np.hypot(field.x, field.y)[labelled], field.eccentricity[labelled])
    from_top = np.degrees(np.arctan2(np.abs(field.x), field.y))
    off_centre = field.eccentricity > 0.01
    np.testing.assert_allclose(from_top[off_centre], field.angle[off_centre])
    assert all(np.isnan(values[~labelled]).all() for values in field[1:])


@both
def test_eccentricity_grows_from_the_fovea(hemi):
    """Walking along the mesh from the most foveal vertex, up to beyond NSD's pictures (4.2 deg)."""
    field = seen(hemi)
    fovea = np.nanargmin(field.eccentricity)
    walked = dijkstra(graph(hemi), indices=fovea)
    for area in ((1, 2), (3, 4), (5, 6)):
        inside = np.isin(field.area, area)
        ranks = [np.argsort(np.argsort(x[inside])) for x in (walked, field.eccentricity)]
        assert np.corrcoef(*ranks)[0, 1] > 0.85
    v1 = field.eccentricity[np.isin(field.area, (1, 2))]
    assert v1.min() < 1 and 4.2 < v1.max() < 12
    # The fovea lies at the pole's lateral side, the periphery of V1 on the medial wall.
    off_midline = np.abs(pial(hemi, FSAVERAGE5)[0][:, 0])
    edge = np.nanargmax(np.where(field.area <= 2, field.eccentricity, np.nan))
    assert off_midline[fovea] > off_midline[edge] + 10


@both
def test_polar_angle_turns_at_borders(hemi):
    """V1 and V2 meet at the vertical meridian, V2 and V3 at the horizontal one."""
    field = seen(hemi, SIZES[3])
    a, b = graph(hemi, SIZES[3]).nonzero()
    from_horizontal = np.abs(field.angle - 90)
    for inner, outer, expected in ((1, 3, 90), (2, 4, 90), (3, 5, 0), (4, 6, 0)):
        border = a[(field.area[a] == inner) & (field.area[b] == outer)]
        assert len(border) > 10
        assert abs(np.median(from_horizontal[border]) - expected) < 20


@both
@pytest.mark.parametrize("n_vertices", [TINY, FSAVERAGE5])
@pytest.mark.parametrize("seed", [None, 1])
def test_discs_lie_apart_in_free_visual_cortex(hemi, n_vertices, seed):
    rotation = np.eye(3) if seed is None else random_rotation(seed, 3.0)
    areas = category_areas(hemi, n_vertices, Shape(rotation))
    early = np.flatnonzero(retinotopy(hemi, sphere(hemi, n_vertices)[0], Shape(rotation)).area)
    for name, vertices in areas.items():
        assert len(vertices) > (6 if n_vertices > TINY else -1), name
        assert np.isin(vertices, visual_vertices(hemi, n_vertices)).all()
        assert not np.isin(vertices, early).any()
        assert len(set(vertices)) == len(vertices)
    for family in PEAKS.values():
        for one, other in itertools.combinations(family, 2):
            assert not np.isin(areas[one], areas[other]).any()


@both
def test_discs_are_nested_and_near_their_peaks(hemi):
    areas, small = category_areas(hemi, FSAVERAGE5), category_areas(hemi, TINY)
    for family in PEAKS.values():
        for name, peak in family.items():
            vertices = areas[name]
            np.testing.assert_array_equal(small[name], vertices[vertices < TINY])
            x, y, z = peak
            centre = pial(hemi, FSAVERAGE5)[0][vertices].mean(axis=0)
            assert np.linalg.norm(centre - [x if hemi == "rh" else -x, y, z]) < 12, name


def test_families_name_their_areas():
    for family, peaks in PEAKS.items():
        assert set(peaks) < set(ROI_CODES[family].values())
    assert ROI_CODES["prf-visualrois"][7] == "hV4" and ROI_CODES["floc-words"][1] == "OWFA"
    assert all(list(codes) == list(range(len(codes))) for codes in ROI_CODES.values())


@both
def test_distance_from_v1_is_the_nearest_arc(hemi):
    coordinates, area = sphere(hemi, TINY)[0], seen(hemi, TINY).area
    v1 = np.flatnonzero((area == 1) | (area == 2))
    cosine = np.clip(coordinates @ coordinates[v1].T / 1e4, -1, 1)
    expected = 100 * np.arccos(cosine).min(axis=1)
    distance = distance_from_v1(hemi, TINY)
    np.testing.assert_allclose(distance, expected, atol=1e-3)
    assert (distance[v1] == 0).all() and (np.delete(distance, v1) > 0).all()


def test_rotation_turns_by_its_angle_and_by_its_seed():
    rotation = random_rotation(3, 5.0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.trace(rotation), 1 + 2 * np.cos(np.radians(5)))
    assert np.linalg.det(rotation) > 0
    np.testing.assert_array_equal(rotation, random_rotation(3, 5.0))
    assert not np.allclose(rotation, random_rotation(4, 5.0))


def test_rotation_carries_the_map_with_it():
    """What lay at p lies at R p."""
    coordinates, rotation = sphere("rh", TINY)[0], random_rotation(0, 4.0)
    moved = retinotopy("rh", coordinates @ rotation.T, Shape(rotation))
    for before, after in zip(retinotopy("rh", coordinates), moved, strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    assert (retinotopy("rh", coordinates, Shape(rotation)).area != seen("rh", TINY).area).any()


def test_unknown_size_or_hemisphere_is_refused():
    for of in (visual_vertices, category_areas, distance_from_v1):
        with pytest.raises(ValueError, match="n_vertices=100"):
            of("lh", 100)
        with pytest.raises(ValueError, match="hemi='both'"):
            of("both", TINY)
