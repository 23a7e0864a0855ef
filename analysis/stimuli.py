"""What simulated people see, and in which order: NSD's stimulus and design files.

The pictures are scenes drawn from a seed, or the reader's own photographs.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from jaxtyping import UInt8
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from tqdm import tqdm

from analysis.files import InputError, NSDTree, file_digest, require, whole_file
from analysis.pictures import SUFFIXES, read_picture
from analysis.scenes import draw_scene
from analysis.surface import FSAVERAGE5, FULL, TINY

Shown = tuple[UInt8[np.ndarray, "side side 3"], frozenset[str]]  # a picture and what it shows


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    n_surface: int  # vertices per hemisphere
    sessions: int  # of each subject
    trials_per_session: int  # each shows one picture
    shared: int  # pictures that all subjects see, each three times
    picture: int  # pixels
    runs: int = 12  # per session

    @property
    def pictures(self) -> int:
        """Of one subject; each is shown three times."""
        return self.sessions * self.trials_per_session // 3


SIZES = {
    "tiny": Size(TINY, 2, 60, shared=10, picture=32, runs=2),
    "fs5": Size(FSAVERAGE5, 4, 750, shared=100, picture=160),
    "full": Size(FULL, 4, 750, shared=100, picture=160),
}


@dataclass(frozen=True)
class Photographs:
    """Picture files of a folder; those in a folder within it show what that folder is named."""

    folder: Path
    files: tuple[Path, ...]
    identity: str  # sha256 of the files' names and bytes


def set_name(folder: Path) -> str:
    """What a set of photographs is called: its folder's name, of letters, digits and _."""
    return re.sub(r"\W+", "_", folder.resolve().name, flags=re.ASCII)


def photographs(folder: Path, least: int) -> Photographs:
    """The pictures of a folder, at least so many.

    Raises:
        InputError: if it is not there or holds fewer.
    """
    require(folder, "a folder of pictures", "Give one of .png or .jpg files.")
    files = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES))
    if len(files) < least:
        raise InputError(
            f"{folder}: {len(files)} pictures ({', '.join(SUFFIXES)}); expected {least} or more,"
            " as many as one simulated subject sees. Add some, or simulate a smaller size: -tiny."
        )
    hashed = hashlib.sha256()
    for path in files:
        hashed.update(f"{path.relative_to(folder)} {file_digest(path)}".encode())
    return Photographs(folder, files, hashed.hexdigest())


def shown_photographs(photos: Photographs, side: int) -> Iterator[Shown]:
    """Each as the largest square about its middle, `side` pixels, with its folder's name."""
    for path in photos.files:
        square = ImageOps.fit(Image.fromarray(read_picture(path)), (side, side))
        kinds = path.relative_to(photos.folder).parts[:-1]
        yield np.asarray(square), frozenset(kinds[:1])


def shown_scenes(count: int, side: int) -> Iterator[Shown]:
    """Scenes drawn from the seeds 0, 1, …, with the things in them."""
    processes = 2 if count > 1000 else 1  # to start one takes as long as some hundred scenes
    draw = Parallel(processes, return_as="generator")
    for scene in draw(delayed(draw_scene)(seed, side) for seed in range(count)):
        yield scene.picture, scene.labels


def write_pictures(path: Path, shown: Iterator[Shown], count: int, side: int) -> list[list[str]]:
    """Write imgBrick, and return what each picture shows."""
    labels = []
    with whole_file(path) as scratch, h5py.File(scratch, "w") as f:
        brick = f.create_dataset("imgBrick", (count, side, side, 3), np.uint8)
        bar = tqdm(shown, total=count, desc="pictures", unit="picture", disable=None)
        for i, (picture, kinds) in enumerate(bar):
            brick[i] = picture
            labels.append(sorted(kinds))
    return labels


def write_design(tree: NSDTree, spec: Size, count: int, people: int) -> None:
    """nsd_expdesign.mat, its variables, shapes, types and counting from 1 as in NSD's.

    Nobody's own picture is another's where there are enough; else each draws from all.
    """
    rng = np.random.default_rng(0)
    ids = rng.permutation(count) + 1
    shared, rest = np.sort(ids[: spec.shared]), ids[spec.shared :]
    each = spec.pictures - spec.shared
    if len(rest) >= people * each:
        own = [rest[i * each : (i + 1) * each] for i in range(people)]
    else:
        own = [np.random.default_rng((0, i)).permutation(rest)[:each] for i in range(people)]
    ordering = rng.permutation(np.repeat(np.arange(spec.pictures), 3))
    sessions = ordering.reshape(spec.sessions, -1)
    repeats = [np.unique(row, return_counts=True)[1] for row in sessions]
    slots = np.zeros((spec.sessions, spec.runs, 75), np.uint8)
    per_run = np.array_split(np.arange(spec.trials_per_session), spec.runs)
    for run, trials in enumerate(per_run):
        slots[:, run, : len(trials)] = 1
    with whole_file(tree.design) as scratch:
        scipy.io.savemat(
            scratch,
            {
                "masterordering": (ordering + 1)[None].astype(np.uint16),
                "subjectim": np.stack([np.r_[shared, o] for o in own]).astype(np.int32),
                "sharedix": shared[None].astype(np.int32),
                "stimpattern": slots,
                "basiccnt": np.array([[(r == n).sum() for r in repeats] for n in (1, 2, 3)], "u2"),
            },
        )
        with scratch.open("rb+") as f:  # over the time of day: a seed gives the same bytes
            f.write(b"MATLAB 5.0 MAT-file".ljust(116))
