"""The cortical surface seen from a side, pixel by pixel: any map of it is then a lookup.

    view = seen("lh", "ventral")
    view.field(surface.sulc("lh", surface.FSAVERAGE5))  # [height, width], NaN beside the brain

The half of fsaverage5 behind its middle is shown, which holds visual cortex, of
nilearn's meshes.
"""

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Literal

import contourpy
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt

from analysis import surface
from analysis.files import Hemi

View = Literal["lateral", "medial", "ventral", "posterior", "flat"]
MM = 0.4  # of a pixel: finer than it is drawn, so that edges are smooth

# Which way is right and up in the picture of a left hemisphere, in FreeSurfer's axes (x right,
# y front, z up). The flat surface lies in x and y.
X, Y, Z = np.eye(3)
SIDES: dict[View, tuple[np.ndarray, np.ndarray]] = {
    "lateral": (-Y, Z),
    "medial": (Y, Z),
    "ventral": (-X, Y),
    "posterior": (X, Z),
    "flat": (X, Y),
}
MIRRORED = ("lateral", "medial")  # whose right is the other way in a right hemisphere


@dataclass(frozen=True)
class Seen:
    """A triangle for each pixel, as its corners (vertices of fsaverage5) and their shares."""

    corner: Int[np.ndarray, "height width 3"]  # -1 beside the brain; row 0 at the bottom
    share: Float[np.ndarray, "height width 3"]  # sums to 1 on the brain, to 0 beside it

    @cached_property
    def nearest(self) -> Int[np.ndarray, "height width"]:
        """The nearest vertex; -1 beside the brain."""
        return np.take_along_axis(self.corner, self.share.argmax(2)[..., None], 2)[..., 0]

    def part(self, rows: slice, columns: slice) -> "Seen":
        """Some of the pixels."""
        return Seen(self.corner[rows, columns], self.share[rows, columns])

    def field(self, values: Float[np.ndarray, " mesh"]) -> Float[np.ndarray, "height width"]:
        """Values of vertices between them; NaN beside the brain."""
        return np.where(self.corner[..., 0] < 0, np.nan, (values[self.corner] * self.share).sum(2))


def raster(
    points: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> tuple[Float[np.ndarray, "height width 3"], Int[np.ndarray, "height width 3"]]:
    """Shares and corners of the front triangle at each pixel; the picture fits its triangles.

    `points`: right, up and towards the eye, in pixels.
    """
    used = points[np.unique(faces), :2]
    start = np.floor(used.min(0)) - 1
    width, height = (np.ceil(used.max(0)) - start).astype(int) + 2
    across, up, near = (points - [*start, 0])[faces].transpose(2, 0, 1)  # [face, 3] each
    area = (across[:, 1] - across[:, 0]) * (up[:, 2] - up[:, 0])
    area = area - (across[:, 2] - across[:, 0]) * (up[:, 1] - up[:, 0])
    kept = np.abs(area) > 1e-9
    across, up, near, area, faces = across[kept], up[kept], near[kept], area[kept], faces[kept]
    left, low = (np.ceil(c.min(1)).astype(int) for c in (across, up))
    columns, rows = (np.ceil(c.max(1) - c.min(1)) + 1 for c in (across, up))
    found = []
    for dx in range(int(columns.max())):  # each pixel of the frame around a triangle,
        for dy in range(int(rows.max())):  # all triangles that are so large at once
            (some,) = np.nonzero((columns > dx) & (rows > dy))
            x, y = left[some] + dx, low[some] + dy
            parts = []
            for a, b in ((1, 2), (2, 0), (0, 1)):
                to_a = (across[some, a] - x) * (up[some, b] - y)
                parts.append((to_a - (across[some, b] - x) * (up[some, a] - y)) / area[some])
            share = np.stack(parts, 1)
            inside = (share >= 0).all(1)
            pixel, face, share = (y * width + x)[inside], some[inside], share[inside]
            found.append((pixel, (share * near[face]).sum(1), face, share))
    pixel, depth, face, share = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(depth, kind="stable")  # the nearest is written last
    shares, corners = np.zeros((height * width, 3)), np.full((height * width, 3), -1)
    shares[pixel[order]], corners[pixel[order]] = share[order], faces[face[order]]
    return shares.reshape(height, width, 3), corners.reshape(height, width, 3)


@cache
def seen(hemi: Hemi, view: View) -> Seen:
    """The back half of a hemisphere of fsaverage5 from a side, or laid flat."""
    inflated, faces = surface.inflated(hemi, surface.FSAVERAGE5)
    points = inflated
    if view == "flat":
        points, faces = surface.flat(hemi)
    right, up = SIDES[view]
    if hemi == "rh" and view in MIRRORED:
        right = -right
    basis = np.stack([right, up, np.cross(right, up)], 1)
    behind = faces[(inflated[faces, 1] < 0).all(1)]
    shares, corners = raster(points @ basis / MM, behind)
    return Seen(corners, shares)


@dataclass(frozen=True)
class Outline:
    """The border of an area in a view, and where its name goes."""

    lines: tuple[Float[np.ndarray, "_ 2"], ...]  # of points: column and row of the picture
    middle: tuple[int, int]  # column and row of the point farthest from the border
    room: float  # mm from there to the border


@lru_cache(maxsize=1024)  # the same in every map of a subject
def _outline(hemi: Hemi, view: View, member: bytes) -> Outline | None:
    of = seen(hemi, view)
    field = np.nan_to_num(of.field(np.frombuffer(member, bool).astype(float)))
    inside = field > 0.5
    if not inside.any():
        return None
    lines = contourpy.contour_generator(z=field).lines(0.5)
    (low_y, low_x), (y, x) = (f(np.nonzero(inside), 1) for f in (np.min, np.max))
    around = np.pad(inside[low_y : y + 1, low_x : x + 1], 1)
    depth = distance_transform_edt(around)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    middle = (int(low_x + column) - 1, int(low_y + row) - 1)
    return Outline(tuple(lines), middle, float(depth.max()) * MM)


def outline(hemi: Hemi, view: View, member: Bool[np.ndarray, " mesh"]) -> Outline | None:
    """Where some vertices of fsaverage5 end in a view; None if none of them is seen."""
    return _outline(hemi, view, np.ascontiguousarray(member).tobytes())
