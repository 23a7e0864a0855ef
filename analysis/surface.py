"""The fsaverage surface at every nested size, built from the fsaverage5 packaged with nilearn.

fsaverage is an icosahedron subdivided again and again: vertex i of a size is vertex i of every
larger size, so `values[:10242]` of any fsaverage map is its fsaverage5 version. Nothing is fetched.

    coordinates, faces = sphere("lh", FSAVERAGE5)

Sizes below fsaverage5 keep this nesting; FreeSurfer's own fsaverage3 and fsaverage4 files hold the
same points in another order.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, Int
from nibabel.gifti.gifti import GiftiImage
from nilearn.datasets import fetch_surf_fsaverage

from analysis.files import HEMIS, InputError

SIZES = (642, 2562, 10242, 40962, 163842)  # vertices of one hemisphere
TINY, FSAVERAGE5, FULL = SIZES[0], SIZES[2], SIZES[4]
RADIUS = 100.0  # mm, of the sphere

# The corners of the triangle whose midpoints FreeSurfer visits, in its order.
SIDES = ((2, 0), (1, 2), (0, 1))


def edges(
    faces: Int[np.ndarray, "face 3"],
) -> tuple[Int[np.ndarray, "edge 2"], Int[np.ndarray, "face 3"]]:
    """Each edge once (lower vertex first), and the edges of each face.

    Both follow `SIDES`: edges come in order of first appearance over the faces, which is the order
    in which FreeSurfer numbers the vertices it puts on them.
    """
    ends = np.sort(faces[:, SIDES].reshape(-1, 2), axis=1).astype(np.int64)
    key = ends[:, 0] * (ends.max() + 1) + ends[:, 1]
    _, first, edge_of = np.unique(key, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return ends[np.sort(first)], rank[edge_of].reshape(-1, 3)


def finer_faces(
    faces: Int[np.ndarray, "face 3"], n_vertices: int
) -> tuple[Int[np.ndarray, "finer_face 3"], Int[np.ndarray, "new_vertex 2"]]:
    """The faces of the next larger size, and the two parents of each vertex it adds.

    Every triangle becomes four: first come the pieces at corner 0 of all parents, then for each
    parent the pieces at corner 2, in the middle and at corner 1.
    """
    parents, edge_of = edges(faces)
    v0, v1, v2 = faces.T
    m20, m12, m01 = (n_vertices + edge_of).T
    first = np.stack([v0, m01, m20], axis=1)
    rest = np.stack([m20, m12, v2, m01, m12, m20, m01, v1, m12], axis=1)  # (face, 3 * 3)
    return np.concatenate([first, rest.reshape(-1, 3)]), parents


def coarser_faces(finer: Int[np.ndarray, "finer_face 3"]) -> Int[np.ndarray, "face 3"]:
    """The faces of the next smaller size: the inverse of `finer_faces`."""
    n_faces = len(finer) // 4
    first, rest = finer[:n_faces], finer[n_faces:].reshape(n_faces, 3, 3)
    return np.stack([first[:, 0], rest[:, 2, 1], rest[:, 0, 2]], axis=1)


def read_packaged(kind: str, hemi: str) -> list[np.ndarray]:
    """The arrays of one of nilearn's fsaverage5 files; coordinates and faces for a mesh."""
    side = {"lh": "left", "rh": "right"}[hemi]
    image = GiftiImage.from_filename(fetch_surf_fsaverage("fsaverage5")[f"{kind}_{side}"])
    return [array.data for array in image.darrays]


def check(hemi: str, n_vertices: int) -> None:
    """Pass if fsaverage has this hemisphere and this size.

    Raises:
        InputError: naming those it has.
    """
    if hemi not in HEMIS:
        raise InputError(f"hemi={hemi!r} is not a hemisphere; expected one of {HEMIS}.")
    if n_vertices not in SIZES:
        raise InputError(
            f"n_vertices={n_vertices} is not a size of fsaverage; expected one of {SIZES},"
            " the vertices of one hemisphere."
        )


@cache
def topology(
    n_vertices: int,
) -> tuple[Int[np.ndarray, "face 3"], Int[np.ndarray, "new_vertex 2"] | None]:
    """The faces of one size, the same in both hemispheres, and the parents of the vertices it adds.

    The parents are known above fsaverage5 only, where coordinates have to be made from them.
    """
    parents = None
    if n_vertices == FSAVERAGE5:
        faces = read_packaged("sphere", "lh")[1].astype(np.int64)
    elif n_vertices < FSAVERAGE5:
        faces = coarser_faces(topology(SIZES[SIZES.index(n_vertices) + 1])[0])
    else:
        smaller = SIZES[SIZES.index(n_vertices) - 1]
        faces, parents = finer_faces(topology(smaller)[0], smaller)
        parents.setflags(write=False)
    faces.setflags(write=False)
    return faces, parents


def resampled(
    values: Float[np.ndarray, "fsaverage5 ..."], n_vertices: int
) -> Float[np.ndarray, "vertex ..."]:
    """fsaverage5 values at another size: the first vertices, or midpoints of edges added."""
    values = values[:n_vertices]
    for size in SIZES:
        if FSAVERAGE5 < size <= n_vertices:
            parents = topology(size)[1]
            values = np.concatenate([values, values[parents].mean(axis=1)])
    return values


def on_sphere(coordinates: Float[np.ndarray, "vertex 3"]) -> Float[np.ndarray, "vertex 3"]:
    """The points pushed out (or in) to the sphere of 100 mm."""
    return RADIUS * coordinates / np.linalg.norm(coordinates, axis=1, keepdims=True)


def arc(
    coordinates: Float[np.ndarray, "vertex 3"], point: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, " vertex"]:
    """Distance along the sphere from each vertex to one point of it, in mm."""
    cosine = coordinates @ point / (RADIUS * np.linalg.norm(point))
    return RADIUS * np.arccos(np.clip(cosine, -1.0, 1.0))


@cache
def shape(
    kind: str, hemi: str, n_vertices: int
) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """Coordinates (mm) and faces of a packaged mesh, flat between the vertices of fsaverage5."""
    check(hemi, n_vertices)
    coordinates = resampled(read_packaged(kind, hemi)[0].astype(np.float64), n_vertices)
    coordinates.setflags(write=False)
    return coordinates, topology(n_vertices)[0]


@cache
def sphere(
    hemi: str, n_vertices: int
) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """Coordinates (mm, radius 100, FreeSurfer axes) and faces of the spherical surface.

    Read-only, within 0.02 mm of FreeSurfer's own files.

    Raises:
        InputError: for an unknown hemisphere or size.
    """
    # One push at the end is within 0.0002 mm of one after each subdivision.
    coordinates, faces = shape("sphere", hemi, n_vertices)
    coordinates = on_sphere(coordinates)
    coordinates.setflags(write=False)
    return coordinates, faces


def inflated(
    hemi: str, n_vertices: int
) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """Coordinates (mm) and faces of the inflated surface, for display. Read-only."""
    return shape("infl", hemi, n_vertices)


@cache
def flat(hemi: str) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """Coordinates (mm, z = 0) and faces of fsaverage5 cut open and laid flat, for display.

    Up is dorsal. The faces are those of the other surfaces less some along the cuts. Read-only.
    """
    check(hemi, FSAVERAGE5)
    coordinates, faces = read_packaged("flat", hemi)
    coordinates = coordinates.astype(np.float64) * [1, 1, 0]
    faces = faces.astype(np.int64)
    for array in (coordinates, faces):
        array.setflags(write=False)
    return coordinates, faces


def pial(
    hemi: str, n_vertices: int
) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """Coordinates (mm, MNI305: x right, y front, z up) and faces of the pial surface. Read-only."""
    return shape("pial", hemi, n_vertices)


@cache
def sulc(hemi: str, n_vertices: int) -> Float[np.ndarray, " vertex"]:
    """Sulcal depth (arbitrary units; above 0 in a sulcus), for shading. Read-only."""
    check(hemi, n_vertices)
    depth = resampled(read_packaged("sulc", hemi)[0].astype(np.float64), n_vertices)
    depth.setflags(write=False)
    return depth
