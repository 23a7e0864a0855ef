"""The reader of the Algonauts 2023 challenge's tree: NSD's responses, averaged over repeats.

    subject = load_algonauts("algonauts-subj01", data_root() / "algonauts2023")

The test pictures' responses are withheld, so only the training split is read. The number of repeats
behind a response and the noise ceilings are not in the tree.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from analysis import surface
from analysis.files import HEMIS, Hemi, InputError, require
from analysis.npy import MEND, read_array, read_names
from analysis.pictures import Files
from analysis.subject import Space, Subject, apart, with_areas

FAMILIES = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words", "streams")
NAMES = tuple(f"algonauts-subj{i:02d}" for i in range(1, 9))
# Of the challenge's release: vertices of each hemisphere, and training pictures.
VERTICES = {6: (18978, 20220), 8: (18981, 20530)}
OTHERS = (19004, 20544)
PICTURES = {3: 9082, 6: 9082, 4: 8779, 8: 8779}
MOST = 9841
PICTURE = re.compile(r"train-(\d+)_nsd-(\d+)\.png")


def _mask(folder: Path, hemi: Hemi, number: int, n: int | None) -> Bool[np.ndarray, " mesh"]:
    """The vertices of fsaverage that a hemisphere's columns are."""
    path = folder / f"{hemi}.all-vertices_fsaverage_space.npy"
    mask = np.array(read_array(path, "0 or 1 per vertex of fsaverage", [n], "iufb"))
    if len(mask) not in surface.SIZES or not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"{path}: {len(mask)} values from {mask.min()} to {mask.max()}; expected 0 or 1 for"
            f" each vertex of fsaverage. {MEND}"
        )
    found = int(mask.sum())
    expected = VERTICES.get(number, OTHERS)[HEMIS.index(hemi)]
    if len(mask) == surface.FULL and found != expected:
        raise InputError(
            f"{path}: {found} vertices; expected {expected}, as the challenge's subject {number}"
            f" has in {hemi}. {MEND}"
        )
    return mask == 1


def _rois(folder: Path, hemi: Hemi, mask: Bool[np.ndarray, " mesh"]) -> dict[str, np.ndarray]:
    """A hemisphere's ROIs at its columns; the challenge gives each twice, and they must agree."""
    found = {}
    for family in FAMILIES:
        what = "a label per vertex"
        path = folder / f"{hemi}.{family}_fsaverage_space.npy"
        labels = np.array(read_array(path, what, [len(mask)], "iuf"))[mask]
        other = folder / f"{hemi}.{family}_challenge_space.npy"
        if not np.array_equal(labels, read_array(other, what, [int(mask.sum())], "iuf")):
            raise InputError(f"{other}: other labels than {path.name} has there. {MEND}")
        names = read_names(folder / f"mapping_{family}.npy")
        if unnamed := sorted(set(labels.tolist()) - set(names) - {0}):
            raise InputError(
                f"{path}: labels {unnamed} have no name in mapping_{family}.npy. {MEND}"
            )
        prefix = "streams/" if family == "streams" else ""
        found |= {prefix + name: labels == value for value, name in names.items() if value > 0}
    return found


def _pictures(folder: Path) -> tuple[Files, Int[np.ndarray, " picture"]]:
    """The training pictures in the order of the responses' rows, and their numbers in NSD."""
    require(folder, "the training pictures", MEND)
    found = {}
    for path in folder.iterdir():
        if match := PICTURE.fullmatch(path.name):
            row = int(match[1])
            if row in found:
                raise InputError(f"{path}: picture {row} is there twice, {found[row][0]}. {MEND}")
            found[row] = (path, int(match[2]))
    if sorted(found) != list(range(1, len(found) + 1)):
        gap = next(i for i in range(1, len(found) + 2) if i not in found)
        raise InputError(
            f"{folder}: {len(found)} pictures, but no train-{gap:04d}_nsd-*.png. {MEND}"
        )
    rows = [found[row] for row in sorted(found)]
    return Files([path for path, _ in rows]), np.array([number for _, number in rows], int)


def load_algonauts(name: str, root: Path, space: Space = "inflated") -> Subject:
    """A subject of the challenge: one trial per picture, its responses' mean over repeats.

    Raises:
        InputError: for an unknown name, or a missing, damaged or misfitting file.
    """
    if name not in NAMES:
        raise InputError(f"subject {name!r}: expected one of {', '.join(NAMES)}.")
    folder = root / name.removeprefix("algonauts-")
    require(folder, "the challenge's tree", "Ask for access by the challenge's form, and fetch it.")
    number = NAMES.index(name) + 1
    masks: list[np.ndarray] = []
    for hemi in HEMIS:
        masks.append(_mask(folder / "roi_masks", hemi, number, len(masks[0]) if masks else None))
    n_surface = len(masks[0])
    stimuli, picture_ids = _pictures(folder / "training_split/training_images")
    n_pictures = PICTURES.get(number, MOST) if n_surface == surface.FULL else len(stimuli)
    if len(stimuli) != n_pictures or not n_pictures:
        raise InputError(
            f"{folder / 'training_split/training_images'}: {len(stimuli)} pictures; expected"
            f" {n_pictures or 'some'}. {MEND}"
        )
    counts = [int(mask.sum()) for mask in masks]
    responses = np.empty((n_pictures, sum(counts)), np.float32)
    rois: dict[str, np.ndarray] = {}
    start = 0
    for hemi, mask, count in zip(HEMIS, masks, counts, strict=True):
        path = folder / f"training_split/training_fmri/{hemi}_training_fmri.npy"
        half = read_array(path, "responses of all pictures", [n_pictures, count], "f")
        here = slice(start, start := start + count)
        responses[:, here] = half
        for roi, where in _rois(folder / "roi_masks", hemi, mask).items():
            rois.setdefault(roi, np.zeros(sum(counts), bool))[here] = where
    kept = np.isfinite(responses).all(0) & (responses != responses[0]).any(0)
    if not kept.any():
        raise InputError(f"{folder}: all {len(kept)} vertices are NaN or constant. {MEND}")
    if not kept.all():
        responses = responses[:, kept]
    at = [np.flatnonzero(mask) for mask in masks]
    vertices = np.concatenate([at[0], at[1] + n_surface])[kept]
    coordinates = apart(n_surface, space)[vertices]
    hashed = hashlib.sha256(picture_ids.tobytes() + vertices.tobytes() + coordinates.tobytes())
    hashed.update(np.ascontiguousarray(responses).data)
    return Subject(
        name=name,
        source="Algonauts 2023",
        n_surface=n_surface,
        vertices=vertices,
        coordinates=coordinates,
        rois=with_areas({roi: mask[kept] for roi, mask in rois.items()}),
        ncsnr=np.full(len(vertices), np.nan, np.float32),
        responses=responses,
        trial_picture=np.arange(n_pictures),
        trial_session=np.full(n_pictures, -1),
        repeats=np.zeros(n_pictures, int),
        picture_ids=picture_ids,
        shared=np.zeros(n_pictures, bool),
        stimuli=stimuli,
        dropped=int((~kept).sum()),
        identity=hashed.hexdigest(),
    )
