"""Labelled pictures to fine-tune on: drawn ones, ISIC, EuroSAT, or any folder of them.

    pictures = get_labelled("colour")          # or "shape": drawn from a seed
    pictures = get_labelled("isic", side=224)  # as `fetch --source isic2018` leaves it
    pictures = get_labelled("photos/birds")    # CLASS/*.jpg, or train|validation|test/CLASS/*.jpg

Every picture is read once and known by the sha256 of its pixels, so that none can be in two parts.
A set without parts of its own is divided, from a seed, within each class; pictures of one group
(the same pixels, or of ISIC the same lesion) stay together.
"""

import csv
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from analysis.features import picture_digests
from analysis.files import InputError, MissingFile, data_root, digest, require
from analysis.pictures import SUFFIXES, Held, Pictures, read_picture
from analysis.shapes import HUES, SHAPES, draw_shape

PARTS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)  # of a set that has no parts of its own
DRAWN = {"colour": tuple(HUES), "shape": SHAPES}
DRAWN_PARTS = (128, 64, 128)  # pictures
DRAWN_SIDE = 128  # pixels
NAMED = 5  # of pictures at fault, in a message


@dataclass(frozen=True)
class Scaled:
    """Picture files of any size, each resized whole to a square."""

    paths: Sequence[Path]
    side: int  # pixels

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        size = (self.side, self.side)
        found = (Image.fromarray(read_picture(self.paths[i])) for i in rows)
        return np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in found])


@dataclass(frozen=True)
class Labelled:
    """Pictures, the class of each, and which are trained on, validated and tested on."""

    name: str
    classes: tuple[str, ...]
    pictures: Pictures
    labels: Int[np.ndarray, " picture"]  # row of `classes`
    parts: Mapping[str, Int[np.ndarray, " _"]]  # rows of pictures, by PARTS
    digests: tuple[str, ...]  # sha256 of each picture's pixels
    skipped: tuple[str, ...] = ()  # why pictures were left out

    def __post_init__(self):
        """Raises: InputError for what can't be learnt from or told apart."""
        n = len(self.classes)
        if wrong := sorted({int(c) for c in self.labels if not 0 <= c < n}):
            raise InputError(
                f"{self.name}: labels {', '.join(map(str, wrong[:NAMED]))} are out of range;"
                f" expected 0 to {n - 1}, one for each of {n} classes. Mend the labels."
            )
        if n < 2:
            raise InputError(
                f"{self.name}: one class only ({', '.join(self.classes) or 'none'}); expected two"
                " or more. Give pictures of another class."
            )
        for part in PARTS:
            seen = Counter(self.labels[self.parts[part]].tolist())
            if absent := [c for i, c in enumerate(self.classes) if i not in seen]:
                raise InputError(
                    f"{self.name}, {part}: no pictures of {', '.join(absent)}; expected some of"
                    " each class in each part. Add some, or take the class out."
                )
        self._refuse_shared()

    def _refuse_shared(self) -> None:
        """Raises: InputError if a picture is in two parts, known by its pixels."""
        part_of: dict[str, tuple[str, int]] = {}
        shared = []
        for part in PARTS:
            for row in self.parts[part].tolist():
                other, first = part_of.setdefault(self.digests[row], (part, row))
                if other != part:
                    shared.append(
                        f"{self._called(first)} ({other}) and {self._called(row)} ({part})"
                    )
        if shared:
            more = f", and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
            raise InputError(
                f"{self.name}: {len(shared)} pictures are in two parts, by their pixels:"
                f" {'; '.join(shared[:NAMED])}{more}. A test on pictures that were trained on says"
                " nothing: take them out of one part."
            )

    def _called(self, row: int) -> str:
        paths = getattr(self.pictures, "paths", None)
        return str(paths[row]) if paths else f"picture {row}"

    @property
    def identity(self) -> str:
        """The sha256 of pictures, labels and parts."""
        parts = {part: rows.tolist() for part, rows in self.parts.items()}
        side = getattr(self.pictures, "side", 0)
        what = [self.classes, self.labels.tolist(), parts, self.digests, side]
        return digest(what)

    @property
    def chance(self) -> float:
        """The accuracy of who always says the commonest class of the training pictures."""
        trained = np.bincount(self.labels[self.parts["train"]], minlength=len(self.classes))
        return float((self.labels[self.parts["test"]] == trained.argmax()).mean())

    def counts(self) -> list[dict[str, str | int]]:
        """A row per class: how many pictures in each part."""
        return [
            {"class": name}
            | {part: int((self.labels[self.parts[part]] == i).sum()) for part in PARTS}
            for i, name in enumerate(self.classes)
        ]


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
    pictures, each = _drawn_pictures(seed, sum(sizes))
    labels = np.array([both[list(DRAWN).index(task)] for both in each])
    ends = np.cumsum((0, *sizes))
    parts = {p: np.arange(a, b) for p, a, b in zip(PARTS, ends[:-1], ends[1:], strict=True)}
    name = task if (seed, sizes) == (0, DRAWN_PARTS) else f"{task}-{seed}-{sizes[0]}"
    return Labelled(
        name, DRAWN[task], Held(pictures), labels, parts, tuple(picture_digests(pictures))
    )


def divided(
    labels: Int[np.ndarray, " picture"], groups: Sequence[Hashable], seed: int
) -> dict[str, Int[np.ndarray, " _"]]:
    """Rows of each part: so large a share of every class, groups kept whole."""
    rows_of: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    rng = np.random.default_rng((seed, 11))
    found: dict[str, list[int]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        own = [rows for rows in rows_of.values() if labels[rows[0]] == label]
        own = [own[i] for i in rng.permutation(len(own))]
        sizes = np.array([len(rows) for rows in own])
        middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        for rows, at in zip(own, middles, strict=True):
            found[PARTS[int(np.searchsorted(np.cumsum(SHARES)[:-1], at, "right"))]] += rows
    return {part: np.sort(np.array(rows, int)) for part, rows in found.items()}


def _readable(paths: Sequence[Path], skip: bool, name: str) -> tuple[dict[Path, str], list[str]]:
    """The pixels' sha256 of each picture that can be read, and what is wrong with the others.

    Raises:
        InputError: naming and counting those that can't, unless they are to be left out.
    """
    known, wrong = {}, []
    for path in paths:
        try:
            known[path] = picture_digests(read_picture(path)[None])[0]
        except InputError as error:
            wrong.append(str(error))
    if wrong and not skip:
        more = f" And {len(wrong) - NAMED} more." if len(wrong) > NAMED else ""
        raise InputError(
            f"{name}: {len(wrong)} of {len(paths)} pictures can't be read: "
            + " ".join(wrong[:NAMED])
            + f"{more} Or leave them out: --skip."
        )
    return known, wrong


def _of_files(
    name: str,
    classes: tuple[str, ...],
    files: Sequence[tuple[Path, int, str | None, Hashable]],
    side: int,
    seed: int,
    skip: bool,
) -> Labelled:
    """A set of files, each with its class, part (None: to be drawn) and group (None: itself).

    Raises:
        InputError: as `Labelled`, and for pictures that can't be read or have two classes.
    """
    known, skipped = _readable([path for path, *_ in files], skip, name)
    files = [file for file in files if file[0] in known]
    if not files:
        raise InputError(f"{name}: no pictures; expected some of each class.")
    digests = tuple(known[path] for path, *_ in files)
    labels = np.array([label for _, label, *_ in files])
    first: dict[str, int] = {}
    for row, seen in enumerate(digests):
        if labels[first.setdefault(seen, row)] != labels[row]:
            raise InputError(
                f"{files[row][0]}: the same picture as {files[first[seen]][0]}, which is of another"
                " class. Take one of them out."
            )
    if all(part is None for _, _, part, _ in files):
        groups = [
            group if group is not None else d for (*_, group), d in zip(files, digests, strict=True)
        ]
        parts = divided(labels, groups, seed)
    else:
        each = np.array([part for _, _, part, _ in files])
        parts = {part: np.flatnonzero(each == part) for part in PARTS}
    paths = [path for path, *_ in files]
    return Labelled(name, classes, Scaled(paths, side), labels, parts, digests, tuple(skipped))


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The pictures in each folder of a folder, by its name."""
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    return {
        f.name: sorted(p for p in f.rglob("*") if p.suffix.lower() in SUFFIXES) for f in folders
    }


def read_folder(
    root: Path, side: int, seed: int = 0, skip: bool = False, name: str | None = None
) -> Labelled:
    """CLASS/*.jpg, divided from the seed; or train, validation and test, each with its classes."""
    require(root, "a folder of labelled pictures", "Give one that has a folder for each class.")
    within = {part: root / part for part in PARTS if (root / part).is_dir()}
    if within and (missing := [part for part in PARTS if part not in within]):
        raise MissingFile(
            f"{root / missing[0]}: not found; expected {', '.join(PARTS)}, each with a folder per"
            " class, or folders of classes alone, which are divided here."
        )
    found = {part: _class_folders(f) for part, f in (within or {None: root}).items()}
    classes = tuple(sorted({c for own in found.values() for c in own}))
    files = [
        (path, classes.index(c), part, None)
        for part, own in found.items()
        for c, paths in own.items()
        for path in paths
    ]
    return _of_files(name or root.name, classes, files, side, seed, skip)


def read_eurosat(root: Path, side: int, seed: int = 0, skip: bool = False) -> Labelled:
    """EuroSAT's RGB pictures, 27,000 of 10 classes, in the parts of the lists that are fetched.

    Raises:
        InputError: for a list that names a picture which is not there, or leaves one out.
    """
    mend = "Run `python -m analysis fetch --source eurosat`."
    where = require(root / "2750", "EuroSAT's folders of classes", mend)
    part_of = {}
    for part, name in zip(PARTS, ("train", "val", "test"), strict=True):
        listed = require(root / f"eurosat-{name}.txt", "the pictures of a part", mend)
        part_of |= {Path(line).stem: part for line in listed.read_text().split()}
    found = _class_folders(where)
    classes, every = tuple(found), {p.stem for paths in found.values() for p in paths}
    if away := sorted(every ^ part_of.keys()):
        raise InputError(
            f"{root}: {len(away)} pictures are in a list alone or in a folder alone:"
            f" {', '.join(away[:NAMED])}; expected each in both. {mend}"
        )
    files = [(p, classes.index(c), part_of[p.stem], None) for c in classes for p in found[c]]
    return _of_files("eurosat", classes, files, side, seed, skip)


def read_isic(root: Path, side: int, seed: int = 0, skip: bool = False) -> Labelled:
    """ISIC 2018 task 3: 10,015 pictures of 7 diagnoses; pictures of one lesion in one part.

    Raises:
        InputError: for a row of labels that names no class or several, or a picture that is gone.
    """
    mend = "Run `python -m analysis fetch --source isic2018`."
    task = "ISIC2018_Task3_Training"
    truth = root / f"{task}_GroundTruth" / f"{task}_GroundTruth.csv"
    lesions = root / f"{task}_LesionGroupings.csv"
    require(truth, "ISIC's labels", mend)
    with require(lesions, "the lesion of each picture", mend).open(newline="") as f:
        lesion_of = {row["image"]: row["lesion_id"] for row in csv.DictReader(f)}
    files = []
    with truth.open(newline="") as f:
        rows = csv.DictReader(f)
        classes = tuple(rows.fieldnames or ())[1:]
        for line, row in enumerate(rows, 2):
            try:
                given = [float(row[c]) for c in classes]
                image, (label,) = row["image"], np.flatnonzero(given).tolist()
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{truth}, line {line}: labels {row}; expected an image and 1 for one of"
                    f" {', '.join(classes)}, 0 for the others. {mend}"
                ) from error
            path = root / f"{task}_Input" / f"{image}.jpg"
            files.append((path, label, None, lesion_of.get(image, image)))
    return _of_files("isic", classes, files, side, seed, skip)


def get_labelled(name: str, side: int = DRAWN_SIDE, seed: int = 0, skip: bool = False) -> Labelled:
    """A set by name: colour, shape, isic, eurosat, or a folder's path.

    `side`: pixels that files are resized to; `seed`: of drawn pictures, or of the parts.

    Raises:
        InputError: for an unknown name, or a set that can't be used: see `Labelled`.
    """
    if name in DRAWN:
        return drawn_set(name, seed)
    if name == "isic":
        return read_isic(data_root() / "isic2018", side, seed, skip)
    if name == "eurosat":
        return read_eurosat(data_root() / "eurosat", side, seed, skip)
    if not Path(name).is_dir():
        raise InputError(
            f"labelled pictures {name!r}: expected {', '.join(DRAWN)}, isic, eurosat, or a folder"
            " with a folder of pictures for each class."
        )
    return read_folder(Path(name), side, seed, skip)
