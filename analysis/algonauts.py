"""The reader of the Algonauts 2023 challenge's tree: NSD's responses, averaged over repeats.

    subject = load_algonauts("algonauts-subj01", data_root() / "algonauts2023")

The test pictures' responses are withheld, so only the training split is read. The number of repeats
behind a response and the noise ceilings are not in the tree. The names of labels are constants of
NSD, so the challenge's pickled mapping files are not opened.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from analysis import surface
from analysis.anatomy import ROI_CODES
from analysis.files import HEMIS, Hemi, InputError, read_array, require
from analysis.pictures import FilePictures
from analysis.subject import Space, Subject, add_area_unions, surface_coordinates

NAMES = tuple(f"algonauts-subj{i:02d}" for i in range(1, 9))
STREAMS = ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
CODES = ROI_CODES | {"streams": {i: f"streams/{name}" for i, name in enumerate(STREAMS, 1)}}
PICTURE = re.compile(r"train-(\d+)_nsd-(\d+)\.png")
MEND = "Put the challenge's own file there again."


def _mask(folder: Path, hemi: Hemi) -> Bool[np.ndarray, " mesh"]:
    """The vertices of fsaverage that a hemisphere's columns are."""
    path = folder / f"{hemi}.all-vertices_fsaverage_space.npy"
    mask = read_array(path, "0 or 1 per vertex of fsaverage", (None,), "biuf", MEND)
    if mask.size not in surface.SIZES or not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"{path}: {mask.shape} values; expected 0 or 1 for each vertex of fsaverage. {MEND}"
        )
    return mask == 1


def _rois(folder: Path, hemi: Hemi, mask: Bool[np.ndarray, " mesh"]) -> dict[str, np.ndarray]:
    """A hemisphere's ROIs at its columns."""
    rois = {}
    for family, names in CODES.items():
        path = folder / f"{hemi}.{family}_fsaverage_space.npy"
        labels = read_array(path, "a label per vertex", mask.shape, "biuf", MEND)[mask]
        if unnamed := sorted(set(labels.tolist()) - set(names) - {0}):
            raise InputError(f"{path}: labels {unnamed}; expected 0 to {max(names)}. {MEND}")
        rois |= {name: labels == value for value, name in names.items() if value > 0}
    return rois


def _pictures(folder: Path) -> tuple[FilePictures, Int[np.ndarray, " picture"]]:
    """The training pictures in the order of the responses' rows, and their numbers in NSD."""
    require(folder, "the training pictures", MEND)
    matches = [(PICTURE.fullmatch(path.name), path) for path in folder.iterdir()]
    rows = sorted((int(m[1]), int(m[2]), path) for m, path in matches if m)
    for expected, (row, _, _) in enumerate(rows, 1):
        if row != expected:
            raise InputError(
                f"{folder}: {len(rows)} pictures, but no train-{expected:04d}_nsd-*.png, or two"
                f" of the one before. {MEND}"
            )
    return FilePictures([path for *_, path in rows]), np.array([n for _, n, _ in rows], int)


def load_algonauts(name: str, root: Path, space: Space = "inflated") -> Subject:
    """A subject of the challenge: one trial per picture, its responses' mean over repeats.

    Raises:
        InputError: for an unknown name, or a missing, damaged or misfitting file.
    """
    if name not in NAMES:
        raise InputError(f"subject {name!r}: expected one of {', '.join(NAMES)}.")
    folder = root / name.removeprefix("algonauts-")
    require(folder, "the challenge's tree", "Ask for access by the challenge's form, and fetch it.")
    masks = {hemi: _mask(folder / "roi_masks", hemi) for hemi in HEMIS}
    n_surface = len(masks["lh"])
    stimuli, picture_ids = _pictures(folder / "training_split/training_images")
    n_pictures = len(stimuli)
    counts = {hemi: int(mask.sum()) for hemi, mask in masks.items()}
    halves = [
        read_array(
            folder / f"training_split/training_fmri/{hemi}_training_fmri.npy",
            "responses of all pictures",
            (n_pictures, counts[hemi]),
            "biuf",
            MEND,
        )
        for hemi in HEMIS
    ]
    responses = np.concatenate(halves, axis=1, dtype=np.float32)
    if not responses.size:
        raise InputError(f"{folder}: no pictures, or no vertices. {MEND}")
    rois = {hemi: _rois(folder / "roi_masks", hemi, masks[hemi]) for hemi in HEMIS}
    both = {roi: np.concatenate([rois[hemi][roi] for hemi in HEMIS]) for roi in rois["lh"]}
    kept = np.isfinite(responses).all(0) & (responses != responses[0]).any(0)
    if not kept.any():
        raise InputError(f"{folder}: all {len(kept)} vertices are NaN or constant. {MEND}")
    if not kept.all():
        responses = responses[:, kept]
    vertices = np.flatnonzero(np.concatenate([masks[hemi] for hemi in HEMIS]))[kept]
    coordinates = surface_coordinates(n_surface, space)[vertices]
    hashed = hashlib.sha256(picture_ids.tobytes() + vertices.tobytes() + coordinates.tobytes())
    hashed.update(np.ascontiguousarray(responses).data)
    return Subject(
        name=name,
        source="Algonauts 2023",
        n_surface=n_surface,
        vertices=vertices,
        coordinates=coordinates,
        rois=add_area_unions({roi: mask[kept] for roi, mask in both.items()}),
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
