"""Labelled pictures: the drawn ones, their layouts on disk, and what can't be used."""

import colorsys
import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import shapes
from analysis.files import InputError, MissingFile
from analysis.labelled import PARTS, divided, drawn_set, get_labelled, read_folder, read_isic


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten pictures each."""
    for i in range(20):
        picture(tmp_path / "birds" / ("crow" if i < 10 else "owl") / f"{i}.png", i)
    return tmp_path / "birds"


@pytest.fixture
def in_parts(tmp_path: Path) -> Path:
    """Two classes of two pictures in each part."""
    for i in range(12):
        where = tmp_path / "set" / PARTS[i // 4] / ("crow" if i % 2 else "owl")
        picture(where / f"{i}.png", i)
    return tmp_path / "set"


def test_every_shape_has_the_same_area() -> None:
    at = np.linspace(-1.5, 1.5, 1500)
    for shape in shapes.SHAPES:
        inside = shapes._inside(shape, *np.meshgrid(at, at))
        assert inside.mean() * 3.0**2 == pytest.approx(1, abs=0.01)


def test_the_ground_has_the_hue_and_the_middle_the_shape() -> None:
    seen = set()
    for seed in range(24):
        drawn = shapes.draw_shape(seed, 64)
        assert np.array_equal(drawn.picture, shapes.draw_shape(seed, 64).picture)
        red, green, blue = drawn.picture[:6].reshape(-1, 3).mean(0) / 255
        hue = colorsys.rgb_to_hsv(red, green, blue)[0]
        away = {name: abs((hue - h + 0.5) % 1 - 0.5) for name, h in shapes.HUES.items()}
        assert min(away, key=lambda name: away[name]) == list(shapes.HUES)[drawn.colour]
        middle = drawn.picture[30:34, 30:34].astype(int)  # inside any of them, and grey
        assert np.ptp(middle) == 0 and middle.max() <= shapes.GREY[1]
        seen |= {("hue", drawn.colour), ("shape", drawn.shape)}
    assert len(seen) == 8


def test_both_tasks_are_about_the_same_pictures_and_tell_nothing_of_each_other() -> None:
    colour, shape = (drawn_set(task, 1, (60, 20, 20)) for task in ("colour", "shape"))
    assert colour.digests == shape.digests and colour.identity != shape.identity
    assert drawn_set("colour", 2, (60, 20, 20)).digests != colour.digests
    together = np.histogram2d(colour.labels, shape.labels, 4)[0]
    expected = np.outer(together.sum(1), together.sum(0)) / together.sum()
    assert (np.square(together - expected) / expected).sum() < 27.9  # chi², 9 df, p = 0.001
    assert [len(colour.parts[p]) for p in PARTS] == [60, 20, 20]
    assert colour.chance == (colour.labels[80:] == np.bincount(colour.labels[:60]).argmax()).mean()


def test_a_folder_is_divided_within_classes_and_scaled_whole(folder: Path) -> None:
    data = read_folder(folder, side=8)
    assert data.classes == ("crow", "owl")
    counts = [np.bincount(data.labels[data.parts[part]]).tolist() for part in PARTS]
    assert counts == [[6, 6], [2, 2], [2, 2]]
    assert sorted(np.concatenate(list(data.parts.values()))) == list(range(20))
    own = Image.open(folder / "crow" / "0.png").resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(data.pictures.read(np.array([0]))[0], np.asarray(own))
    assert read_folder(folder, side=8, seed=1).identity != data.identity
    assert get_labelled(str(folder), side=8).identity == data.identity


def test_pictures_of_one_group_stay_together() -> None:
    labels, groups = np.repeat([0, 1], 60), [i // 3 for i in range(120)]
    parts = divided(labels, groups, seed=0)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(120))
    owners = [{groups[row] for row in rows} for rows in parts.values()]
    assert not (owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2])
    assert [len(rows) for rows in parts.values()] == [72, 24, 24]


def test_the_same_pixels_in_one_folder_stay_together(folder: Path) -> None:
    (folder / "crow" / "again.png").write_bytes((folder / "crow" / "3.png").read_bytes())
    data = read_folder(folder, side=8)
    rows = [i for i, d in enumerate(data.digests) if data.digests.count(d) > 1]
    assert len(rows) == 2
    assert any(set(rows) <= set(part.tolist()) for part in data.parts.values())
    (folder / "owl" / "too.png").write_bytes((folder / "crow" / "3.png").read_bytes())
    with pytest.raises(
        InputError, match=r"3\.png \(crow, .*too\.png \(owl, .* have the same pixels"
    ):
        read_folder(folder, side=8)


def test_the_same_pixels_in_two_parts_are_refused(in_parts: Path) -> None:
    assert {p: len(r) for p, r in read_folder(in_parts, side=8).parts.items()} == dict.fromkeys(
        PARTS, 4
    )
    pixels = Image.open(in_parts / "train" / "owl" / "0.png")
    pixels.save(in_parts / "test" / "owl" / "other.png", compress_level=1)  # other bytes
    with pytest.raises(InputError, match=r"other\.png \(owl, test\) and .*0\.png \(owl, train\)"):
        read_folder(in_parts, side=8)


def test_one_class_and_a_class_missing_in_a_part_are_told(in_parts: Path, tmp_path: Path) -> None:
    for path in (in_parts / "validation" / "crow").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="set, validation: no pictures of crow"):
        read_folder(in_parts, side=8)
    for i in range(5):
        picture(tmp_path / "one" / "crow" / f"{i}.png", i)
    with pytest.raises(InputError, match=r"one: classes crow, .*expected two classes"):
        read_folder(tmp_path / "one", side=8)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none: no pictures"):
        read_folder(tmp_path / "none", side=8)
    (in_parts / "validation").rename(in_parts / "valid")
    with pytest.raises(MissingFile, match="validation: not found"):
        read_folder(in_parts, side=8)


def test_labels_out_of_range_are_told() -> None:
    data = drawn_set("colour", 1, (60, 20, 20))
    labels = data.labels.copy()
    labels[[3, 5]] = 4, -1
    with pytest.raises(InputError, match=r"labels \[-1, 0, 1, 2, 3, 4\]; expected"):
        dataclasses.replace(data, labels=labels)


def test_an_unreadable_picture_is_named_and_hidden_ones_are_left_out(folder: Path) -> None:
    (folder / "crow" / "._1.png").write_bytes(b"of macOS")
    (folder / ".ipynb_checkpoints").mkdir()
    picture(folder / ".ipynb_checkpoints" / "a.png", 99)
    assert len(read_folder(folder, side=8).labels) == 20
    (folder / "crow/1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"crow/1\.png: not a readable picture"):
        read_folder(folder, side=8)


def test_an_unknown_set_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected colour, shape, isic, eurosat, or a folder"):
        get_labelled(str(tmp_path / "nowhere"))


@pytest.fixture
def isic(tmp_path: Path) -> Path:
    """ISIC's layout: 30 pictures of 10 lesions, three classes."""
    name, root = "ISIC2018_Task3_Training", tmp_path / "isic2018"
    truth = root / f"{name}_GroundTruth" / f"{name}_GroundTruth.csv"
    truth.parent.mkdir(parents=True)
    with truth.open("w") as f, (root / f"{name}_LesionGroupings.csv").open("w") as g:
        labels, lesions = csv.writer(f), csv.writer(g)
        labels.writerow(["image", "MEL", "NV", "BCC"])
        lesions.writerow(["image", "lesion_id", "diagnosis_confirm_type"])
        for i in range(30):
            kind = (i // 3) % 2 if i < 24 else 2
            lesion = f"HAM_{i // 3}" if i < 24 else f"HAM_{i}"
            labels.writerow([f"ISIC_{i:07d}", *(float(kind == k) for k in range(3))])
            lesions.writerow([f"ISIC_{i:07d}", lesion, "histopathology"])
            picture(root / f"{name}_Input" / f"ISIC_{i:07d}.jpg", i)
    return root


def test_isic_keeps_the_pictures_of_a_lesion_in_one_part(isic: Path) -> None:
    data = read_isic(isic, side=8)
    assert data.classes == ("BCC", "MEL", "NV") and len(data.labels) == 30
    assert data.labels[:6].tolist() == [1, 1, 1, 2, 2, 2]
    for rows in data.parts.values():
        assert all({3 * (r // 3) + k for k in range(3)} <= set(rows) for r in rows if r < 24)


@pytest.mark.parametrize("row", ["ISIC_0000001,1.0,1.0,0.0", "ISIC_0000001,0,0,0"])
def test_a_row_of_no_class_or_several_is_named(isic: Path, row: str) -> None:
    (truth,) = isic.glob("*GroundTruth/*.csv")
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join([lines[0], lines[1], row, *lines[3:]]))
    with pytest.raises(InputError, match=r"GroundTruth\.csv: ISIC_0000001 and 0 other"):
        read_isic(isic, side=8)


def test_eurosat_has_the_parts_of_its_lists(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(MissingFile, match="fetch --source eurosat"):
        get_labelled("eurosat")
    root, lists = tmp_path / "eurosat", {"train": [], "val": [], "test": []}
    for i in range(12):
        kind = "Forest" if i % 2 else "River"
        picture(root / "2750" / kind / f"{kind}_{i}.jpg", i)
        list(lists.values())[i // 4].append(f"{kind}_{i}.jpg")
    for part, names in lists.items():
        (root / f"eurosat-{part}.txt").write_text("\n".join(names))
    data = get_labelled("eurosat", side=8)
    assert data.classes == ("Forest", "River")
    tested = {data.pictures.paths[row].name for row in data.parts["test"]}
    assert tested == set(lists["test"])
    (root / "2750" / "River" / "River_0.jpg").unlink()
    with pytest.raises(InputError, match=r"River_0\.jpg: not found; .*eurosat-train\.txt"):
        get_labelled("eurosat", side=8)
