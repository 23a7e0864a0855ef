"""What simulated subjects see, and in which order: NSD's stimulus and design files.

The pictures are scenes drawn from a seed, or the reader's own photographs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from jaxtyping import Int, UInt8
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from tqdm import tqdm

from analysis import mgh
from analysis.anatomy import visual_vertices
from analysis.files import HEMIS, InputError, NSDTree, require, whole_file
from analysis.pictures import SUFFIXES, read_picture
from analysis.scenes import draw_scene
from analysis.surface import FSAVERAGE5, FULL, TINY

Stimulus = tuple[UInt8[np.ndarray, "side side 3"], frozenset[str]]  # a picture and what it shows


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

    @property
    def unshared(self) -> int:
        return self.pictures - self.shared


SIZES = {
    "tiny": Size(TINY, 2, 60, shared=10, picture=32, runs=2),
    "fs5": Size(FSAVERAGE5, 4, 750, shared=100, picture=160),
    "full": Size(FULL, 4, 750, shared=100, picture=160),
}


def set_name(folder: Path) -> str:
    """The name of a set of photographs: its folder's, in letters, digits and _."""
    return re.sub(r"\W+", "_", folder.resolve().name, flags=re.ASCII)


def photographs(folder: Path, least: int) -> dict[str, Path]:
    """The pictures in and under a folder by their path there, at least so many; no hidden ones.

    Raises:
        InputError: if it is not there or holds fewer.
    """
    require(folder, "a folder of pictures", "Give one of .png or .jpg files.")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    files = {p.relative_to(folder).as_posix(): p for p in paths}
    files = {name: path for name, path in files.items() if not re.search(r"(^|/)\.", name)}
    if len(files) < least:
        raise InputError(
            f"{folder}: {len(files)} pictures ({', '.join(SUFFIXES)}); expected {least} or more,"
            " as many as one simulated subject sees. Add some, or simulate a smaller size: -tiny."
        )
    return files


def photograph_stimuli(files: dict[str, Path], side: int) -> Iterator[Stimulus]:
    """The largest square about each one's middle, `side` pixels, and its folder's name."""
    for name, path in files.items():
        square = ImageOps.fit(Image.fromarray(read_picture(path)), (side, side))
        yield np.asarray(square), frozenset(Path(name).parts[:-1][:1])


def scene_stimuli(count: int, side: int) -> Iterator[Stimulus]:
    """Scenes drawn from the seeds 0, 1, …, with the things in them."""
    processes = 2 if count > 1000 else 1  # to start one takes as long as some hundred scenes
    draw = Parallel(processes, return_as="generator")
    for scene in draw(delayed(draw_scene)(seed, side) for seed in range(count)):
        yield scene.picture, scene.labels


def write_stimuli(
    tree: NSDTree, spec: Size, photos: dict[str, Path], n_subjects: int
) -> list[list[str]]:
    """What each picture shows; imgBrick, the design and the visual mask are written."""
    count, side = len(photos) or spec.shared + n_subjects * spec.unshared, spec.picture
    stimuli = photograph_stimuli(photos, side) if photos else scene_stimuli(count, side)
    labels = []
    with whole_file(tree.stimuli) as scratch, h5py.File(scratch, "w") as f:
        brick = f.create_dataset("imgBrick", (count, side, side, 3), np.uint8)
        bar = tqdm(stimuli, total=count, desc="pictures", unit="picture", disable=None)
        for i, (picture, kinds) in enumerate(bar):
            brick[i] = picture
            labels.append(sorted(kinds))
    write_design(tree, spec, count, n_subjects)
    for hemi in HEMIS:
        mask = np.zeros(spec.n_surface, int)
        mask[visual_vertices(hemi, spec.n_surface)] = 1
        path = tree.group_label(hemi, "nsdgeneral")
        mgh.write_labels(path, mask, {0: "Unknown", 1: "nsdgeneral"})
    return labels


def write_design(tree: NSDTree, spec: Size, count: int, n_subjects: int) -> None:
    """Write nsd_expdesign.mat, its variables, shapes, types and counting from 1 as in NSD's.

    No subject's unshared picture is another's where there are enough; else each draws from all.
    """
    rng = np.random.default_rng(0)
    ids, n = rng.permutation(count) + 1, spec.unshared
    shared, rest = np.sort(ids[: spec.shared]), ids[spec.shared :]
    if len(rest) >= n_subjects * n:
        unshared = [rest[i * n : (i + 1) * n] for i in range(n_subjects)]
    else:
        draws = [np.random.default_rng((0, i)) for i in range(n_subjects)]
        unshared = [draw.permutation(rest)[:n] for draw in draws]
    ordering = rng.permutation(np.repeat(np.arange(spec.pictures), 3))
    sessions = ordering.reshape(spec.sessions, -1)
    repeats = [np.unique(row, return_counts=True)[1] for row in sessions]
    slots = np.zeros((spec.sessions, spec.runs, 75), np.uint8)
    per_run = np.array_split(np.arange(spec.trials_per_session), spec.runs)
    for run, trials in enumerate(per_run):
        slots[:, run, : len(trials)] = 1
    variables = {
        "masterordering": (ordering + 1)[None].astype(np.uint16),
        "subjectim": np.stack([np.r_[shared, row] for row in unshared]).astype(np.int32),
        "sharedix": shared[None].astype(np.int32),
        "stimpattern": slots,
        "basiccnt": np.array([[(r == k).sum() for r in repeats] for k in (1, 2, 3)], "u2"),
    }
    with whole_file(tree.design) as scratch:
        scipy.io.savemat(scratch, variables)
        with scratch.open("rb+") as f:  # over the time of day: a seed gives the same bytes
            f.write(b"MATLAB 5.0 MAT-file".ljust(116))


def read_stimuli(
    tree: NSDTree, row: int
) -> tuple[
    Int[np.ndarray, " picture"], UInt8[np.ndarray, "picture h w 3"], Int[np.ndarray, " trial"]
]:
    """The pictures of a row of the design: their rows of imgBrick, pixels, and showing by trial."""
    design = scipy.io.loadmat(tree.design)
    ids = design["subjectim"][row].astype(int) - 1
    rows, back = np.unique(ids, return_inverse=True)  # HDF5 wants rising rows
    with h5py.File(tree.stimuli, "r") as f:
        return ids, f["imgBrick"][rows][back], design["masterordering"][0].astype(int) - 1
