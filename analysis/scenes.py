"""Synthetic scenes for simulated subjects: drawn pictures with something for each category area.

A background (coloured 1/f noise, dead leaves, or land under a sky) with up to three of a face, a
body, a word, a house and a nameless object, at any place, size, colour and tilt.

    picture, labels = draw_scene(seed=1, size=160)
"""

from collections.abc import Callable
from colorsys import hsv_to_rgb
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Length = float | int  # in a thing's own units
OVERSAMPLING = 2  # drawn so many times larger, then averaged: smooth outlines
COUNTS = (0.08, 0.37, 0.35, 0.2)  # share of pictures with 0, 1, 2, 3 things
SMALLEST, LARGEST = 0.15, 0.8  # of a thing, as share of the picture
LETTERS = "ABCDEFGHIKLMNOPRSTUVWXYZ"
LEAVES = 110


class Scene(NamedTuple):
    """A picture and the kinds of things in it, a subset of `PAINTERS`."""

    picture: UInt8[np.ndarray, "h w 3"]
    labels: frozenset[str]


class Pen(NamedTuple):
    """Draws on a canvas in a thing's own units: 1 is its height, (0, 0) its middle, y down."""

    canvas: Image.Image
    middle: tuple[float, float]  # pixels
    height: float  # pixels
    tilt: float  # rad, clockwise

    def pixels(self, points: Float[np.ndarray, "point 2"]) -> list[tuple[float, float]]:
        cos, sin = np.cos(self.tilt) * self.height, np.sin(self.tilt) * self.height
        x, y = np.asarray(points, dtype=float).T
        moved = np.stack([self.middle[0] + cos * x - sin * y, self.middle[1] + sin * x + cos * y])
        return [tuple(point) for point in moved.T.tolist()]

    def polygon(self, points: Float[np.ndarray, "point 2"], colour: Colour) -> None:
        ImageDraw.Draw(self.canvas).polygon(self.pixels(points), fill=colour)

    def box(self, left: Length, top: Length, right: Length, bottom: Length, colour: Colour) -> None:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(np.array(corners), colour)

    def oval(self, x: Length, y: Length, half_width: Length, half_height: Length, colour: Colour):
        self.polygon(CIRCLE * (half_width, half_height) + (x, y), colour)

    def limb(self, joints: list[tuple[float, float]], width: Length, colour: Colour) -> None:
        line = self.pixels(np.array(joints))
        thick = max(1, round(width * self.height))
        ImageDraw.Draw(self.canvas).line(line, fill=colour, width=thick, joint="curve")
        self.oval(*joints[-1], width * 0.6, width * 0.6, colour)


TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)
SKINS = ((0.07, 0.25, 0.98), (0.06, 0.4, 0.88), (0.06, 0.5, 0.7), (0.05, 0.55, 0.48))  # hsv


def rgb(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = hsv_to_rgb(hue, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def shade(of: Colour, factor: float) -> Colour:
    """The colour that much lighter (above 1) or darker."""
    r, g, b = (min(255, int(channel * factor)) for channel in of)
    return r, g, b


def colour(
    rng: np.random.Generator,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.3, 0.95),
    value: tuple[float, float] = (0.25, 1.0),
) -> Colour:
    """A random colour within these ranges (all of [0, 1])."""
    return rgb(*(rng.uniform(*span) for span in (hue, saturation, value)))


def paint_face(pen: Pen, rng: np.random.Generator) -> None:
    skin = shade(rgb(*SKINS[rng.integers(len(SKINS))]), rng.uniform(0.88, 1.0))
    hair = colour(rng, (0.02, 0.13), (0.1, 0.8), (0.05, 0.8))
    wide = rng.uniform(0.3, 0.38)
    if rng.random() < 0.5:  # long hair, behind the head
        pen.box(-wide * 1.15, -0.15, wide * 1.15, rng.uniform(0.25, 0.5), hair)
    pen.oval(0, -0.12, wide * 1.15, 0.38, hair)
    for side in (-1, 1):
        pen.oval(side * wide, 0.04, 0.06, 0.1, shade(skin, 0.9))
    pen.oval(0, 0.04, wide, 0.44, skin)
    fringe = CIRCLE[CIRCLE[:, 1] <= 0.01] * (wide, 0.36) + (0, rng.uniform(-0.2, -0.12))
    pen.polygon(fringe, hair)
    gaze, iris = rng.uniform(-0.02, 0.02), colour(rng, (0.05, 0.6), (0.3, 0.8), (0.2, 0.6))
    for side in (-1, 1):
        x = side * wide * 0.45
        pen.oval(x, 0.0, 0.085, 0.05, (250, 250, 250))
        pen.oval(x + gaze, 0.0, 0.04, 0.045, iris)
        pen.oval(x + gaze, 0.0, 0.02, 0.022, (10, 10, 10))
        pen.box(x - 0.1, -0.11, x + 0.1, -0.08, shade(hair, 0.7))
    pen.polygon(np.array([(0, 0.02), (0.055, 0.18), (-0.055, 0.18)]), shade(skin, 0.8))
    pen.oval(0, 0.29, rng.uniform(0.1, 0.16), 0.055, (170, 50, 60))
    if rng.random() < 0.6:
        pen.box(-0.09, 0.265, 0.09, 0.295, (250, 245, 240))


def paint_body(pen: Pen, rng: np.random.Generator) -> None:
    skin = shade(rgb(*SKINS[rng.integers(len(SKINS))]), rng.uniform(0.88, 1.0))
    shirt, trousers = colour(rng), colour(rng)
    for side in (-1, 1):
        spread, bend = rng.uniform(0.03, 0.16, size=2)
        leg = [(side * 0.06, 0.08), (side * (0.06 + spread), 0.28), (side * (0.02 + bend), 0.47)]
        pen.limb(leg, 0.085, trousers)
        pen.oval(leg[-1][0] + side * 0.03, 0.48, 0.06, 0.025, (40, 30, 30))
        elbow = np.array([side * 0.13, -0.25]) + 0.17 * direction(rng.uniform(0.0, 1.4), side)
        hand = elbow + 0.16 * direction(rng.uniform(-0.5, 2.6), side)
        pen.limb([(side * 0.12, -0.26), tuple(elbow)], 0.065, shirt)
        pen.limb([tuple(elbow), tuple(hand)], 0.05, skin)
    torso = [(-0.15, -0.29), (0.15, -0.29), (0.1, 0.0), (0.11, 0.12), (-0.11, 0.12), (-0.1, 0.0)]
    pen.box(-0.03, -0.36, 0.03, -0.26, skin)
    pen.polygon(np.array(torso), shirt)
    pen.oval(0, -0.42, 0.065, 0.085, skin)
    pen.oval(0, -0.46, 0.07, 0.055, colour(rng, (0.02, 0.13), (0.1, 0.8), (0.05, 0.7)))


def direction(angle: float, side: int) -> Float[np.ndarray, " 2"]:
    """The unit step at an angle (rad) from straight down, out to a side."""
    return np.array([side * np.sin(angle), np.cos(angle)])


def paint_house(pen: Pen, rng: np.random.Generator) -> None:
    wall, roof = colour(rng, saturation=(0.1, 0.7), value=(0.5, 1.0)), colour(rng, value=(0.2, 0.7))
    half, eaves = rng.uniform(0.35, 0.55), rng.uniform(-0.25, -0.08)
    if rng.random() < 0.6:
        pen.box(half * 0.35, -0.48, half * 0.55, eaves, shade(roof, 0.7))
    pen.box(-half, eaves, half, 0.5, wall)
    ridge = rng.uniform(0.0, 0.6) * half
    corners = [(-half - 0.06, eaves), (-ridge, -0.5), (ridge, -0.5), (half + 0.06, eaves)]
    pen.polygon(np.array(corners), roof)
    glass, frame = colour(rng, (0.1, 0.6), (0.1, 0.6), (0.3, 0.95)), shade(wall, 0.6)
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    door = int(rng.integers(columns))
    step, floor = 2 * half / columns, (0.5 - eaves) / rows
    for row in range(rows):
        for column in range(columns):
            x, y = -half + (column + 0.5) * step, eaves + (row + 0.5) * floor
            if row == rows - 1 and column == door:
                pen.box(x - 0.3 * step, y - 0.25 * floor, x + 0.3 * step, 0.5, shade(roof, 0.8))
                continue
            pen.box(x - 0.32 * step, y - 0.32 * floor, x + 0.32 * step, y + 0.32 * floor, frame)
            for side in (-1, 1):
                a, b = sorted((x + side * 0.03 * step, x + side * 0.26 * step))
                pen.box(a, y - 0.26 * floor, b, y + 0.26 * floor, glass)


@cache
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font."""
    scalable = ImageFont.load_default(pixels)
    assert isinstance(scalable, ImageFont.FreeTypeFont)
    return scalable


def paint_word(pen: Pen, rng: np.random.Generator) -> None:
    """Letters in a row, on a sign or bare, with a rim and a least height that keep them legible."""
    text = "".join(rng.choice(list(LETTERS), size=rng.integers(3, 7)))
    ink, paper = colour(rng, value=(0.0, 0.3)), colour(rng, saturation=(0.0, 0.4), value=(0.8, 1.0))
    if rng.random() < 0.5:
        ink, paper = paper, ink
    signed = rng.random() < 0.6
    tall = round(max(1.35 * pen.height / len(text), pen.canvas.width / 14, 6))  # pixels
    letters, rim, margin = font(tall), max(1, tall // 14), tall // 4
    left, top, right, bottom = letters.getbbox(text, stroke_width=rim)
    extent = (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin)
    word = Image.new("RGBA", extent, (*paper, 255 if signed else 0))
    ImageDraw.Draw(word).text(
        (margin - left, margin - top), text, ink, letters, stroke_width=rim, stroke_fill=paper
    )
    word = word.rotate(-np.degrees(pen.tilt), Image.Resampling.BILINEAR, expand=True)
    corner = [  # moved so that no letter is cut off
        max(0, min(round(middle - length / 2), room - length))
        for middle, length, room in zip(pen.middle, word.size, pen.canvas.size, strict=True)
    ]
    pen.canvas.paste(word, (corner[0], corner[1]), word)


def paint_object(pen: Pen, rng: np.random.Generator) -> None:
    """A smooth blob, plain or covered with stripes or spots."""
    waves = np.arange(2, 6)
    size, phase = rng.normal(size=4) * 0.32 / waves, rng.uniform(0, 2 * np.pi, size=4)
    radius = 1 + (size * np.cos(np.outer(TURN, waves) + phase)).sum(axis=1)
    outline = CIRCLE * np.clip(radius, 0.3, None)[:, None] * (1, rng.uniform(0.5, 1.0))
    outline /= 2 * np.abs(outline).max()
    body, mark = colour(rng), colour(rng)
    surface = Image.new("RGB", pen.canvas.size, body)
    on_surface = pen._replace(canvas=surface, tilt=pen.tilt + rng.uniform(0, np.pi))
    pattern = rng.integers(3)
    for at in np.arange(-0.7, 0.7, rng.uniform(0.12, 0.3)):
        if pattern == 1:
            on_surface.box(-1, at, 1, at + 0.07, mark)
        elif pattern == 2:
            for across in rng.uniform(-0.5, 0.5, size=3):
                on_surface.oval(across, at, 0.06, 0.06, mark)
    mask = Image.new("L", pen.canvas.size)
    ImageDraw.Draw(mask).polygon(pen.pixels(outline), fill=255)
    pen.polygon(outline * 1.05, shade(body, 0.5))
    pen.canvas.paste(surface, (0, 0), mask)


PAINTERS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "face": paint_face,
    "body": paint_body,
    "word": paint_word,
    "house": paint_house,
    "object": paint_object,
}


@cache
def fall_off(side: int) -> Float[np.ndarray, "side half"]:
    """1 / spatial frequency over the half plane of a real transform, 0 for the mean."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    return (1 / frequency).astype(np.float32)


def coloured_noise(rng: np.random.Generator, side: int) -> Float[np.ndarray, "side side 3"]:
    """1/f noise, fine or coarse, its colours varying about a random one; in grey levels."""
    white = rng.standard_normal((3, side, side), dtype=np.float32)
    spectrum = np.fft.rfft2(white) * fall_off(side) ** np.float32(rng.uniform(0.9, 1.5))
    noise = np.fft.irfft2(spectrum, s=(side, side))
    noise /= np.sqrt(np.square(noise).mean())
    mixing = rng.normal(scale=9, size=(3, 3)) + np.array([24.0, 0, 0])  # mostly light and dark
    coloured = np.tensordot(mixing.astype(np.float32), noise, 1)  # (3, side, side)
    return rng.uniform(70, 180, size=3).astype(np.float32) + coloured.transpose(1, 2, 0)


def background(rng: np.random.Generator, side: int) -> Image.Image:
    """Noise, dead leaves (discs of all sizes over each other), or land under a sky."""
    kind = rng.choice(["noise", "leaves", "land"], p=[0.4, 0.3, 0.3])
    # From a stream of its own, since how much is drawn depends on the size.
    noise = coloured_noise(np.random.default_rng(rng.integers(2**32)), side)
    if kind == "land":
        horizon = rng.uniform(0.35, 0.75)
        sky = colour(rng, (0.5, 0.65), (0.1, 0.6), (0.6, 1.0))
        land = colour(rng, (0.08, 0.4), (0.2, 0.7), (0.25, 0.7))
        height = np.arange(side)[:, None, None] / side
        below = height > horizon
        texture = (noise - noise.mean(axis=(0, 1))) * np.where(below, 0.8, 0.3)
        noise = np.where(below, land, sky) * (1.1 - 0.4 * np.abs(height - horizon)) + texture
    canvas = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    canvas = canvas.resize((OVERSAMPLING * side, OVERSAMPLING * side), Image.Resampling.NEAREST)
    if kind == "leaves":
        hue = rng.uniform()
        for radius in 0.025 * rng.uniform(0.02, 1.0, size=LEAVES) ** -0.6:
            pen = Pen(canvas, tuple(rng.uniform(0, canvas.width, size=2)), canvas.width, 0.0)
            pen.oval(0, 0, radius, radius, colour(rng, (hue, hue + 0.25), (0.1, 0.7), (0.15, 0.9)))
    return canvas


def free_place(
    rng: np.random.Generator, size: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float]:
    """Of some random places for a thing's middle, the one farthest from the things there."""
    places = rng.uniform(0.4 * size, 1 - 0.4 * size, size=(12, 2))
    gaps = [
        min((np.hypot(x - u, y - v) - r / 2 for u, v, r in taken), default=0) for x, y in places
    ]
    return tuple(places[np.argmax(gaps)].tolist())


def draw_scene(seed: int, size: int) -> Scene:
    """The scene of that seed, `size` pixels square; the same contents at any size."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(PAINTERS), size=rng.choice(len(COUNTS), p=COUNTS))
    sizes = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), size=len(kinds)))
    canvas = background(rng, size)
    taken: list[tuple[float, float, float]] = []
    for kind, share in zip(kinds, -np.sort(-sizes), strict=True):  # small ones in front
        place = free_place(rng, share, taken)
        taken.append((*place, share))
        middle = (place[0] * canvas.width, place[1] * canvas.width)
        pen = Pen(canvas, middle, share * canvas.width, rng.normal(scale=0.2))
        PAINTERS[kind](pen, rng)
    picture = np.asarray(canvas.reduce(OVERSAMPLING)).copy()
    return Scene(picture, frozenset(kinds.tolist()))
