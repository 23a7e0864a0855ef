"""The stand-in anatomy of simulated subjects: where visual cortex and its areas lie on fsaverage.

Nothing here is measured in, or copied from, the Natural Scenes Dataset: the mask has nsdgeneral's
vertex counts but is a cap of the sphere, V1-V3 are a wedge fitted by us, hV4 is the band next to
V3v, and category areas are discs. Each is a function of the place on the sphere, so every size of
fsaverage gets the same anatomy. A `Shape` gives a subject areas of its own.

    areas = category_areas("lh", FSAVERAGE5, Shape(random_rotation(seed=1, degrees=2.0)))
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from analysis.surface import FSAVERAGE5, FULL, RADIUS, arc, check, pial, sphere

# The values of NSD's label files, by family.
ROI_CODES = {
    family: dict(enumerate(["Unknown", *names.split()]))
    for family, names in {
        "prf-visualrois": "V1v V1d V2v V2d V3v V3d hV4",
        "floc-faces": "OFA FFA-1 FFA-2 mTL-faces aTL-faces",
        "floc-bodies": "EBA FBA-1 FBA-2 mTL-bodies",
        "floc-places": "OPA PPA RSC",
        "floc-words": "OWFA VWFA-1 VWFA-2 mfs-words mTL-words",
    }.items()
}

# nsdgeneral's vertices at full size, and the centre of the cap that stands in for it: on the sphere
# (mm), where the cap holds all of V1-V3, hV4 and most of the category discs.
VISUAL_VERTICES = {"lh": 18461, "rh": 19523}
VISUAL_CENTRE = {"lh": (-11.9, -79.3, -59.8), "rh": (-36.3, -69.0, -62.6)}

# Peaks of category areas, MNI mm in the right hemisphere (the left is mirrored). Typical values,
# rounded by us to where the literature puts them; MNI152 is taken for the surface's MNI305.
# Faces: Rossion et al. 2012, Weiner et al. 2014 (pFus is FFA-1, mFus FFA-2). Bodies: Downing et al.
# 2001, Peelen and Downing 2005. Places: Epstein and Kanwisher 1998, Dilks et al. 2013. Words: Cohen
# et al. 2000, Stigliani et al. 2015 (pOTS is VWFA-1, mOTS VWFA-2), Strother et al. 2016 (OWFA).
PEAKS = {
    "floc-faces": {"OFA": (40, -80, -12), "FFA-1": (40, -66, -18), "FFA-2": (40, -52, -20)},
    "floc-bodies": {"EBA": (48, -72, 4), "FBA-1": (45, -62, -14), "FBA-2": (43, -48, -22)},
    "floc-places": {"OPA": (34, -82, 20), "PPA": (26, -52, -10)},
    "floc-words": {"OWFA": (42, -76, -14), "VWFA-1": (45, -64, -14), "VWFA-2": (45, -54, -17)},
}


class Shape(NamedTuple):
    """One subject's areas: the template's, turned and scaled."""

    rotation: Float[np.ndarray, "3 3"] = np.eye(3)  # of the sphere
    early: float = 1.0  # times the lengths of V1-V3 and hV4 on the sphere
    disc: float = 9.0  # mm along the sphere: radius of a category area


TEMPLATE = Shape()


class Wedge(NamedTuple):
    """Early visual cortex of one hemisphere, in a flat chart of the sphere.

    The chart keeps distance and direction from its origin. `along` runs with the horizontal
    meridian of V1, away from the fovea; `across` is the distance from that meridian.
    """

    origin: tuple[float, float, float]  # rad: azimuth, elevation, and the turn of the first axis
    meridian: tuple[float, float]  # mm, slope: where the horizontal meridian of V1 lies
    v1: tuple[float, float, float]  # half width: mm, per mm along, per sqrt(mm) along
    v2: tuple[float, float]  # width of one half of V2: mm, per mm along
    v3: tuple[float, float]
    length: float  # mm along
    ventral: int  # sign of the second axis on the ventral side
    magnification: tuple[float, float]  # per mm and offset of the log of eccentricity


# Fitted by us to published maps of V1-V3 on fsaverage.
WEDGES = {
    "lh": Wedge(
        origin=(1.435, -1.42, 3.153),
        meridian=(120.193, -0.334),
        v1=(-23.971, -0.589, 10.739),
        v2=(18.17, -0.165),
        v3=(21.27, -0.544),
        length=51.597,
        ventral=-1,
        magnification=(0.0416, -0.268),
    ),
    "rh": Wedge(
        origin=(-2.397, -1.257, -3.946),
        meridian=(-69.936, 0.307),
        v1=(-16.313, -0.231, 7.298),
        v2=(15.695, 0.057),
        v3=(18.024, -0.434),
        length=43.298,
        ventral=1,
        magnification=(0.0489, -0.371),
    ),
}
FOVEA = -8.0  # mm along: how far areas reach behind the foveal point
HV4_WIDTH = 18.0  # mm


class Retinotopy(NamedTuple):
    """What each vertex sees: its early visual area and the centre of its receptive field.

    All but `area` are NaN where `area` is 0.
    """

    area: Int[np.ndarray, " vertex"]  # 0 none, else the codes of prf-visualrois
    angle: Float[np.ndarray, " vertex"]  # deg: 0 upper vertical, 90 horizontal, 180 lower vertical
    eccentricity: Float[np.ndarray, " vertex"]  # deg of visual angle
    x: Float[np.ndarray, " vertex"]  # deg, right of the centre of gaze
    y: Float[np.ndarray, " vertex"]  # deg, above it


def random_rotation(seed: int, degrees: float) -> Float[np.ndarray, "3 3"]:
    """The turn of the sphere by that angle about a random axis: one subject's anatomy."""
    axis = np.random.default_rng(seed).normal(size=3)
    return Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


@cache
def visual_vertices(hemi: str, n_vertices: int) -> Int[np.ndarray, " visual"]:
    """The vertices of the stand-in for nsdgeneral, ascending; the same for every subject."""
    check(hemi, n_vertices)
    distance = arc(sphere(hemi, FULL)[0], np.array(VISUAL_CENTRE[hemi]))
    vertices = np.sort(np.argsort(distance, kind="stable")[: VISUAL_VERTICES[hemi]])
    vertices = vertices[vertices < n_vertices]
    vertices.setflags(write=False)
    return vertices


def chart(
    wedge: Wedge, coordinates: Float[np.ndarray, "vertex 3"]
) -> tuple[Float[np.ndarray, " vertex"], Float[np.ndarray, " vertex"]]:
    """Along and across (mm, signed) of each vertex: azimuthal equidistant, less the meridian."""
    azimuth, elevation, turn = wedge.origin
    outward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    origin = np.cos(elevation) * outward + np.sin(elevation) * np.array([0.0, 0.0, 1.0])
    east = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    first = np.cos(turn) * east + np.sin(turn) * np.cross(origin, east)
    second = np.cross(origin, first)
    a, b = coordinates @ first, coordinates @ second
    distance = arc(coordinates, origin) / np.maximum(np.hypot(a, b), 1e-9)
    along = distance * a
    return along, distance * b - wedge.meridian[0] - wedge.meridian[1] * along


def retinotopy(
    hemi: str, coordinates: Float[np.ndarray, "vertex 3"], shape: Shape = TEMPLATE
) -> Retinotopy:
    """Areas and receptive fields at points of the sphere, by arithmetic alone.

    From the horizontal meridian of V1 outwards lie V1, V2 and V3, ventral ones seeing the upper
    field, and polar angle turns back at each border: the vertical meridian between V1 and V2, the
    horizontal between V2 and V3, the vertical at the rim of V3. hV4, beyond V3v, is given the upper
    quarter only. Eccentricity is Horton and Hoyt's exp(a d + b) - 0.75 deg, d mm from the fovea.
    """
    wedge = WEDGES[hemi]
    along, across = (x / shape.early for x in chart(wedge, coordinates @ shape.rotation))
    side = np.sign(across) * wedge.ventral  # 1 ventral, -1 dorsal
    distance = np.abs(across)  # mm from the meridian
    v1 = wedge.v1[0] + wedge.v1[1] * along + wedge.v1[2] * np.sqrt(along.clip(min=0))
    v2 = v1 + wedge.v2[0] + wedge.v2[1] * along
    v3 = v2 + wedge.v3[0] + wedge.v3[1] * along

    inside = (along > FOVEA) & (along < wedge.length)
    ventral = side > 0
    bands = [  # outer rim, share of a quarter turn away from the horizontal meridian, ventral code
        (np.where(ventral, v3 + HV4_WIDTH, -np.inf), 1 - (distance - v3) / HV4_WIDTH, 7),
        (v3, (distance - v2) / (v3 - v2), 5),
        (v2, (v2 - distance) / (v2 - v1), 3),
        (v1, distance / v1, 1),
    ]
    area = np.zeros(len(coordinates), dtype=np.int64)
    angle = np.full(len(coordinates), np.nan)
    for rim, quarter, code in bands:  # from outside in: a band keeps what the next one leaves
        where = inside & (distance < rim)
        area[where] = np.where(ventral, code, code + 1)[where]
        angle[where] = (90 - 90 * side * quarter)[where]

    slope, offset = wedge.magnification
    from_fovea = np.hypot(along.clip(min=0), across)
    eccentricity = (np.exp(slope * from_fovea + offset) - 0.75).clip(min=0)
    eccentricity[area == 0] = np.nan
    right = {"lh": 1, "rh": -1}[hemi]  # each hemisphere sees the other side
    x = right * eccentricity * np.sin(np.radians(angle))
    return Retinotopy(area, angle, eccentricity, x, eccentricity * np.cos(np.radians(angle)))


def category_areas(
    hemi: str, n_vertices: int, shape: Shape = TEMPLATE
) -> dict[str, Int[np.ndarray, " area_vertex"]]:
    """The vertices of each category area by name, ascending, within the mask and outside V1-hV4.

    Discs about the pial vertex nearest to each peak. Areas of one family share no vertex
    (the nearest peak has it); areas of different families may. At 642 vertices one can be empty.
    """
    coordinates = sphere(hemi, n_vertices)[0]
    free = np.zeros(n_vertices, dtype=bool)
    free[visual_vertices(hemi, n_vertices)] = True
    free &= retinotopy(hemi, coordinates, shape).area == 0
    turned = coordinates @ shape.rotation

    areas = {}
    for peaks in PEAKS.values():
        mirrored = np.array(list(peaks.values())) * [1 if hemi == "rh" else -1, 1, 1]
        # Looked up at one size, so that a disc keeps its place at all others.
        nearest = KDTree(pial(hemi, FSAVERAGE5)[0]).query(mirrored)[1]
        centres = sphere(hemi, FSAVERAGE5)[0][nearest]
        distance = np.stack([arc(turned, centre) for centre in centres])  # (area, vertex)
        for i, name in enumerate(peaks):
            disc = (distance.argmin(axis=0) == i) & (distance[i] <= shape.disc)
            areas[name] = np.flatnonzero(disc & free)
    return areas


def roi_labels(hemi: str, n_vertices: int, shape: Shape) -> dict[str, Int[np.ndarray, " vertex"]]:
    """Each vertex's label in each family of ROIs; 0: none."""
    labels = {family: np.zeros(n_vertices, int) for family in ROI_CODES}
    labels["prf-visualrois"] = retinotopy(hemi, sphere(hemi, n_vertices)[0], shape).area
    areas = category_areas(hemi, n_vertices, shape)
    for family, codes in ROI_CODES.items():
        for code, name in codes.items():
            labels[family][areas.get(name, [])] = code
    return labels


def distance_from_v1(
    hemi: str, n_vertices: int, shape: Shape = TEMPLATE
) -> Float[np.ndarray, " vertex"]:
    """Distance along the sphere to the nearest vertex of V1, in mm; 0 within it."""
    coordinates = sphere(hemi, n_vertices)[0]
    v1 = np.isin(retinotopy(hemi, coordinates, shape).area, (1, 2))
    chord = KDTree(coordinates[v1]).query(coordinates)[0]
    return 2 * RADIUS * np.arcsin(np.clip(chord / (2 * RADIUS), 0.0, 1.0))
