"""Scenes: the same seed the same bytes, and labels that name what was painted."""

import numpy as np
import pytest
from PIL import Image

from analysis import scenes
from analysis.scenes import PAINTERS, Pen, draw_scene


@pytest.mark.parametrize("size", [32, 75, 160])
def test_picture_is_square_colour_of_the_size(size):
    picture, labels = draw_scene(0, size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert picture.flags.writeable and picture.flags.c_contiguous
    assert labels <= {"face", "body", "word", "house", "object"}


def test_seed_fixes_every_byte():
    drawn = [draw_scene(seed, 64) for seed in range(20)]
    for seed in reversed(range(20)):
        again = draw_scene(seed, 64)
        assert again.picture.tobytes() == drawn[seed].picture.tobytes()
        assert again.labels == drawn[seed].labels
    assert len({scene.picture.tobytes() for scene in drawn}) == 20


def test_contents_do_not_depend_on_size():
    for seed in range(20):
        assert draw_scene(seed, 48).labels == draw_scene(seed, 96).labels


def test_labels_are_the_kinds_painted(monkeypatch):
    painted = []
    for kind in PAINTERS:

        def record(pen, rng, kind=kind, paint=PAINTERS[kind]):
            painted.append(kind)
            paint(pen, rng)

        monkeypatch.setitem(scenes.PAINTERS, kind, record)
    for seed in range(40):
        painted.clear()
        assert draw_scene(seed, 48).labels == set(painted)
        assert len(painted) <= 3


def test_every_kind_and_none_occur():
    found = [draw_scene(seed, 32).labels for seed in range(150)]
    shares = {kind: np.mean([kind in labels for labels in found]) for kind in PAINTERS}
    assert all(0.15 < share < 0.6 for share in shares.values()), shares
    assert 0 < sum(not labels for labels in found) < 40


@pytest.mark.parametrize("kind", list(PAINTERS))
@pytest.mark.parametrize("seed", range(5))
def test_thing_is_painted_where_the_pen_is(kind, seed):
    """Inside the pen's reach the canvas changes; outside twice its height it does not."""
    canvas = Image.new("RGB", (200, 200), (1, 2, 3))
    PAINTERS[kind](Pen(canvas, (70.0, 120.0), 60.0, 0.3), np.random.default_rng(seed))
    y, x = np.nonzero((np.asarray(canvas) != (1, 2, 3)).any(axis=2))
    assert len(x) > 200
    assert abs(np.median(x) - 70) < 20 and abs(np.median(y) - 120) < 20
    assert np.hypot(x - 70, y - 120).max() < 60


def test_pictures_are_lively():
    """Neither flat nor burnt out, and unlike each other."""
    pictures = np.stack([draw_scene(seed, 48).picture for seed in range(40)]).astype(float)
    assert (pictures.std(axis=(1, 2, 3)) > 8).all()
    assert 80 < pictures.mean() < 180
    flat = pictures.reshape(40, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(40)).mean() < 0.3
