"""Pictures for two tasks: a grey shape on ground of some hue.

    drawn = draw_shape(seed=1, size=128)
    drawn.colour, drawn.shape  # which of HUES and of SHAPES

The same pictures serve both tasks, and neither label tells of the other. The hue of the ground is
there in almost any patch; a shape has to be followed along its outline, whatever the hue.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from analysis.scenes import OVERSAMPLING, coloured_noise, rgb

SHAPES = ("disc", "triangle", "cross", "bar")
HUES: Mapping[str, float] = {"red": 0.0, "yellow": 0.16, "green": 0.36, "blue": 0.62}
HUE_SPREAD = 0.04  # either side of a hue
AREA = (0.18, 0.3)  # of the picture, the same for every shape
PLACE = 0.05  # of the picture, from its middle
TURN = np.pi / 16  # either way
SATURATION = (0.08, 0.3)  # of the ground
GREY = (0, 60)  # levels of a shape: darker than any ground


class Drawn(NamedTuple):
    """A picture, the hue of its ground and its shape."""

    picture: UInt8[np.ndarray, "h w 3"]
    colour: int
    shape: int


def _inside(
    shape: str, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Where a shape of area 1 about the origin lies."""
    if shape == "disc":
        return x**2 + y**2 < 1 / np.pi
    if shape == "triangle":
        side = 2 / 3**0.25  # of the equilateral one
        low = -side / (2 * np.sqrt(3))
        return (y > low) & (y + np.sqrt(3) * np.abs(x) < -2 * low)
    if shape == "cross":
        arm = 1 / np.sqrt(5)  # five squares
        near = np.maximum(np.abs(x), np.abs(y)) < 1.5 * arm
        return near & (np.minimum(np.abs(x), np.abs(y)) < arm / 2)
    return (np.abs(x) < np.sqrt(3) / 2) & (np.abs(y) < 1 / np.sqrt(12))  # a bar, 1 : 3


def draw_shape(seed: int, size: int) -> Drawn:
    """The picture of that seed, `size` pixels square."""
    rng = np.random.default_rng((seed, 7))
    colour, shape = int(rng.integers(len(HUES))), int(rng.integers(len(SHAPES)))
    length = np.sqrt(rng.uniform(*AREA))
    middle = 0.5 + rng.uniform(-PLACE, PLACE, size=2)
    turn = rng.uniform(-TURN, TURN)
    hue = list(HUES.values())[colour] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
    ground = np.array(rgb(hue % 1, rng.uniform(*SATURATION), rng.uniform(0.45, 0.9)), float)
    grey = rng.uniform(*GREY)
    noise = coloured_noise(np.random.default_rng((seed, 8)), size)
    noise = (noise - noise.mean((0, 1))).mean(2, keepdims=True)  # light and dark alone

    at = (np.arange(OVERSAMPLING * size) + 0.5) / (OVERSAMPLING * size)
    x, y = np.meshgrid(at - middle[0], at - middle[1])
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    mask = _inside(SHAPES[shape], u / length, v / length).astype(float)
    cover = mask.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean((1, 3))[..., None]
    picture = (1 - cover) * (ground + noise) + cover * grey
    return Drawn(picture.clip(0, 255).astype(np.uint8), colour, shape)
