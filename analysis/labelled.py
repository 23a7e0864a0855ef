"""Labelled pictures to fine-tune on: drawn ones, ISIC, EuroSAT, or any folder of them.

    pictures = get_labelled("colour")          # or "shape": drawn from a seed
    pictures = get_labelled("isic", side=224)  # as `fetch --source isic2018` leaves it
    pictures = get_labelled("photos/birds")    # CLASS/*.jpg, or train|validation|test/CLASS/*.jpg

Every picture is read once and known by the sha256 of its pixels, so that none can be in two parts.
A set without parts of its own is divided, from a seed, within each class; pictures of one group
(the same pixels, or of ISIC the same lesion) stay together.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8

from analysis.files import InputError, MissingFile, data_root, digest, require
from analysis.pictures import (
    ArrayPictures,
    FilePictures,
    Pictures,
    picture_digests,
    picture_files,
    read_picture,
)
from analysis.shapes import HUES, SHAPES, draw_shape

PARTS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)  # of a set that has no parts of its own
DRAWN = {"colour": tuple(HUES), "shape": SHAPES}
DRAWN_PARTS = (128, 64, 128)  # pictures
DRAWN_SIDE = 128  # pixels
Parts = Mapping[str, Int[np.ndarray, " _"]]  # rows of pictures, by PARTS


@dataclass(frozen=True)
class Labelled:
    """Pictures, the class of each, and which are trained on, validated and tested on.

    Raises:
        InputError: for a class missing in a part, or a picture of two classes or in two parts.
    """

    name: str
    classes: tuple[str, ...]
    pictures: Pictures
    labels: Int[np.ndarray, " picture"]  # row of `classes`
    parts: Parts
    digests: tuple[str, ...]  # sha256 of each picture's pixels

    def __post_init__(self):
        n = len(self.classes)
        if n < 2 or not np.isin(self.labels, np.arange(n)).all():
            raise InputError(
                f"{self.name}: classes {', '.join(self.classes) or 'none'}, labels"
                f" {sorted(set(self.labels.tolist()))}; expected two classes or more, and labels"
                " from 0 that count them."
            )
        part_of = np.full(len(self.labels), "", object)
        for part in PARTS:
            part_of[self.parts[part]] = part
            for row in sorted(set(range(n)) - set(self.labels[self.parts[part]].tolist())):
                raise InputError(
                    f"{self.name}, {part}: no pictures of {self.classes[row]}; expected some of"
                    " each class in each part. Add some, or take the class out."
                )
        first: dict[str, int] = {}
        for row, seen in enumerate(self.digests):
            other = first.setdefault(seen, row)
            if self.labels[other] != self.labels[row] or part_of[other] != part_of[row]:
                pair = [getattr(self.pictures, "paths", range(row + 1))[i] for i in (other, row)]
                raise InputError(
                    f"{self.name}: {pair[0]} ({self.classes[self.labels[other]]},"
                    f" {part_of[other]}) and {pair[1]} ({self.classes[self.labels[row]]},"
                    f" {part_of[row]}) have the same pixels; expected a picture in one class and"
                    " one part. Take one of them out."
                )

    @property
    def identity(self) -> str:
        """The sha256 of pictures, labels and parts."""
        parts = {part: rows.tolist() for part, rows in self.parts.items()}
        side = getattr(self.pictures, "side", 0)
        return digest([self.classes, self.labels.tolist(), parts, self.digests, side])

    @property
    def chance(self) -> float:
        """The test accuracy of always answering the commonest class of the training pictures."""
        counts = np.bincount(self.labels[self.parts["train"]], minlength=len(self.classes))
        return float((self.labels[self.parts["test"]] == counts.argmax()).mean())


@cache
def _drawn_pictures(
    seed: int, count: int
) -> tuple[UInt8[np.ndarray, "n h w 3"], list[tuple[int, int]]]:
    drawn = [draw_shape(seed * 100_000 + i, DRAWN_SIDE) for i in range(count)]
    return np.stack([d.picture for d in drawn]), [(d.colour, d.shape) for d in drawn]


def drawn_set(task: str, seed: int = 0, sizes: tuple[int, int, int] = DRAWN_PARTS) -> Labelled:
    """Drawn pictures whose colour, or whose shape, is asked for: the same pictures for both.

    `sizes`: of training, validation and test.
    """
    pictures, attributes = _drawn_pictures(seed, sum(sizes))
    labels = np.array(attributes)[:, list(DRAWN).index(task)]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    name = task if (seed, sizes) == (0, DRAWN_PARTS) else f"{task}-{seed}-{sizes[0]}"
    digests = tuple(picture_digests(pictures))
    parts = dict(zip(PARTS, rows, strict=True))
    return Labelled(name, DRAWN[task], ArrayPictures(pictures), labels, parts, digests)


def divided(labels: Int[np.ndarray, " picture"], groups: Sequence[Hashable], seed: int) -> Parts:
    """Rows of each part: so large a share of every class, groups kept whole.

    Also where a class has fewer groups than scikit-learn's StratifiedGroupKFold needs.
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    rng = np.random.default_rng((seed, 11))
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        members = [rows for rows in rows_of.values() if labels[rows[0]] == label]
        members = [members[i] for i in rng.permutation(len(members))]
        sizes = np.array([len(rows) for rows in members])
        middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        ends = np.searchsorted(np.cumsum(SHARES)[:-1], middles, "right")
        for rows, end in zip(members, ends, strict=True):
            parts[PARTS[end]] += rows
    return {part: np.sort(np.array(rows, int)) for part, rows in parts.items()}


def _of_files(
    name: str,
    files: pd.DataFrame,
    side: int,
    seed: int,
) -> Labelled:
    """A set of files: a row each of path, class, and part or else, to be divided, group.

    Raises:
        InputError: as `Labelled`, and for a picture that can't be read.
    """
    classes, labels = np.unique(files["class"].to_numpy(str), return_inverse=True)
    digests = tuple(picture_digests(read_picture(path)[None])[0] for path in files["path"])
    if "part" in files:
        parts = {part: np.flatnonzero(files["part"] == part) for part in PARTS}
    else:
        parts = divided(labels, files["group"].tolist() if "group" in files else digests, seed)
    paths = tuple(files["path"])
    names = tuple(classes.tolist())
    return Labelled(name, names, FilePictures(paths, side), labels, parts, digests)


def read_folder(root: Path, side: int, seed: int = 0, name: str | None = None) -> Labelled:
    """CLASS/*.jpg, divided from the seed; or train, validation and test, each with its classes."""
    require(root, "a folder of labelled pictures", "Give one that has a folder for each class.")
    paths = [(path, path.relative_to(root).parts) for path in picture_files(root)]
    in_parts = (root / "train").is_dir()
    if in_parts and (missing := [part for part in PARTS if not (root / part).is_dir()]):
        raise MissingFile(
            f"{root / missing[0]}: not found; expected {', '.join(PARTS)}, each with a folder per"
            " class, or folders of classes alone, which are divided here."
        )
    depth = 3 if in_parts else 2
    rows = [(path, *names[: depth - 1][::-1]) for path, names in paths if len(names) >= depth]
    if not rows:
        raise InputError(f"{root}: no pictures; expected some in a folder for each class.")
    columns = ["path", "class", "part"][:depth]
    return _of_files(name or root.name, pd.DataFrame(rows, columns=columns), side, seed)


def read_eurosat(root: Path, side: int, seed: int = 0) -> Labelled:
    """EuroSAT's RGB pictures, 27,000 of 10 classes, in the parts of the lists that are fetched.

    Raises:
        InputError: for a list that names a picture which is not there.
    """
    mend = "Run `python -m analysis fetch --source eurosat`."
    folder = require(root / "2750", "EuroSAT's folders of classes", mend)
    rows = []
    for part, name in zip(PARTS, ("train", "val", "test"), strict=True):
        listed = require(root / f"eurosat-{name}.txt", "the pictures of a part", mend)
        for stem in (Path(line).stem for line in listed.read_text().split()):
            path = folder / stem.rsplit("_", 1)[0] / f"{stem}.jpg"
            rows.append(
                (require(path, f"a picture of {listed.name}", mend), path.parent.name, part)
            )
    return _of_files("eurosat", pd.DataFrame(rows, columns=["path", "class", "part"]), side, seed)


def read_isic(root: Path, side: int, seed: int = 0) -> Labelled:
    """ISIC 2018 task 3: 10,015 pictures of 7 diagnoses; pictures of one lesion in one part.

    Raises:
        InputError: for pictures that have no class or several, or a picture that is missing.
    """
    mend = "Run `python -m analysis fetch --source isic2018`."
    task = "ISIC2018_Task3_Training"
    truth = root / f"{task}_GroundTruth" / f"{task}_GroundTruth.csv"
    lesions = root / f"{task}_LesionGroupings.csv"
    table = pd.read_csv(require(truth, "ISIC's labels", mend)).set_index("image")
    lesion_of = pd.read_csv(require(lesions, "the lesion of each picture", mend)).set_index("image")
    ones = table == 1
    if (wrong := ones.sum(axis=1) != 1).any():
        raise InputError(
            f"{truth}: {wrong.idxmax()} and {wrong.sum() - 1} other pictures don't have a 1 for one"
            f" of {', '.join(table)}; expected one diagnosis each. {mend}"
        )
    files = pd.DataFrame({"class": ones.idxmax(axis=1)})
    files["path"] = [root / f"{task}_Input" / f"{image}.jpg" for image in files.index]
    files["group"] = lesion_of["lesion_id"].reindex(files.index).fillna(files.index.to_series())
    return _of_files("isic", files, side, seed)


def get_labelled(name: str, side: int = DRAWN_SIDE, seed: int = 0) -> Labelled:
    """A set by name: colour, shape, isic, eurosat, or a folder's path.

    `side`: pixels that files are resized to; `seed`: of drawn pictures, or of the parts.

    Raises:
        InputError: for an unknown name, or a set that can't be used: see `Labelled`.
    """
    if name in DRAWN:
        return drawn_set(name, seed)
    if name == "isic":
        return read_isic(data_root() / "isic2018", side, seed)
    if name == "eurosat":
        return read_eurosat(data_root() / "eurosat", side, seed)
    if not Path(name).is_dir():
        raise InputError(
            f"labelled pictures {name!r}: expected {', '.join(DRAWN)}, isic, eurosat, or a folder"
            " with a folder of pictures for each class."
        )
    return read_folder(Path(name), side, seed)
