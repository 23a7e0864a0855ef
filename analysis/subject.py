"""A person of the Natural Scenes Dataset, real or simulated: pictures, trials, responses, anatomy.

    subject = load_subject("subj01", NSDTree(data_root() / "nsd"))

Both kinds lie in NSD's own tree, so one reader serves both.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import scipy.io
from jaxtyping import Bool, Float, Int, UInt8
from scipy.io.matlab import MatReadError

from analysis import mgh, surface
from analysis.files import HEMIS, Hemi, InputError, MissingFile, NSDTree, require

GET = "See the book's page on data for what goes where, or use a simulated subject such as sim01."
# NSD's own count of sessions; a simulated subject has those of its design.
SESSIONS = {f"subj{i:02d}": n for i, n in enumerate((40, 40, 32, 30, 40, 32, 40, 30), 1)}
SIMULATED = ("sim01", "sim02", "sim03")
FAMILIES = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words")
# Table 4's areas, as unions of NSD's labels.
AREAS = {
    "V1": ("V1v", "V1d"),
    "V2": ("V2v", "V2d"),
    "V3": ("V3v", "V3d"),
    "V4": ("hV4",),
    "EBA": ("EBA",),
    "FBA": ("FBA-1", "FBA-2"),
    "OFA": ("OFA",),
    "FFA": ("FFA-1", "FFA-2"),
    "OPA": ("OPA",),
    "PPA": ("PPA",),
    "OWFA": ("OWFA",),
    "VWFA": ("VWFA-1", "VWFA-2"),
}
Space = Literal["inflated", "sphere"]


@dataclass(frozen=True)
class Subject:
    """Single-trial responses of visual cortex to pictures, with all that is needed to read them."""

    name: str
    n_surface: int  # vertices per hemisphere of the mesh
    vertices: Int[np.ndarray, " vertex"]  # index on the mesh, lh then rh (rh + n_surface)
    coordinates: Float[np.ndarray, "vertex 3"]  # mm, the hemispheres apart
    rois: dict[str, Bool[np.ndarray, " vertex"]]  # NSD's labels, and the areas of Table 4
    ncsnr: Float[np.ndarray, " vertex"]  # signal sd / noise sd of a single trial
    responses: Float[np.ndarray, "trial vertex"]  # z-score per session
    trial_picture: Int[np.ndarray, " trial"]  # row of picture_ids
    trial_session: Int[np.ndarray, " trial"]  # from 0
    picture_ids: Int[np.ndarray, " picture"]  # row of the stimulus file, from 0
    shared: Bool[np.ndarray, " picture"]  # shown to every subject: the test set
    stimuli: Path
    dropped: int  # vertices left out: NaN or constant in a session
    identity: str  # sha256 of the betas, design and anatomy that were read

    @property
    def simulated(self) -> bool:
        return self.name.startswith("sim")

    def roi(self, name: str) -> Bool[np.ndarray, " vertex"]:
        """The vertices of an ROI.

        Raises:
            InputError: for an unknown name, with the known ones.
        """
        if name not in self.rois:
            raise InputError(f"roi {name!r}: {self.name} has {', '.join(self.rois)}.")
        return self.rois[name]

    def pictures(
        self, rows: Int[np.ndarray, " n"] | slice
    ) -> UInt8[np.ndarray, "n height width 3"]:
        """The pictures at rows of `picture_ids`."""
        ids, back = np.unique(self.picture_ids[rows], return_inverse=True)
        with h5py.File(self.stimuli, "r") as f:
            return f["imgBrick"][ids][back]  # HDF5 wants rising rows

    def averaged(
        self, rows: Int[np.ndarray, " n"], trials: Bool[np.ndarray, " trial"] | None = None
    ) -> Float[np.ndarray, "n vertex"]:
        """Responses to pictures, each the mean over its trials."""
        chosen = np.ones(len(self.trial_picture), bool) if trials is None else trials
        return np.stack([self.responses[chosen & (self.trial_picture == r)].mean(0) for r in rows])


@dataclass(frozen=True)
class Split:
    """Rows of a subject's pictures: no picture is in two parts, so no trial is either."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


def split_pictures(subject: Subject, seed: int = 0, validation_share: float = 0.1) -> Split:
    """Test = the shared pictures; of the others a seeded share validates and the rest trains.

    Raises:
        InputError: if a part would be empty.
    """
    others = np.random.default_rng(seed).permutation(np.flatnonzero(~subject.shared))
    n = round(validation_share * len(others))
    parts = Split(np.sort(others[n:]), np.sort(others[:n]), np.flatnonzero(subject.shared))
    for part in ("train", "validation", "test"):
        if not len(getattr(parts, part)):
            raise InputError(
                f"split of {subject.name}: no picture left for {part}"
                f" ({len(others)} pictures of its own, {int(subject.shared.sum())} shared,"
                f" validation_share={validation_share})."
            )
    return parts


def trials_of(subject: Subject, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " trial"]:
    """The trials in which these pictures were shown, in order of time."""
    return np.flatnonzero(np.isin(subject.trial_picture, rows))


@dataclass(frozen=True)
class Design:
    """Which picture was shown in each trial, from nsd_expdesign.mat; all indices from 0."""

    trial_picture: Int[np.ndarray, " trial"]  # row of picture_ids
    picture_ids: Int[np.ndarray, " picture"]
    shared: Bool[np.ndarray, " picture"]
    sessions: int
    trials_per_session: int


def read_design(tree: NSDTree, subject: str, sessions: int | None = None) -> Design:
    """The first `sessions` sessions of a subject's design (all, if None).

    Raises:
        InputError: if the file is missing, damaged or another shape, or has fewer sessions.
    """
    path = require(tree.design, "NSD's experimental design", GET)
    try:
        raw = scipy.io.loadmat(path)
        ordering = raw["masterordering"].ravel().astype(int) - 1  # uint16: no arithmetic before
        ids = raw["subjectim"].astype(int) - 1
        shared = raw["sharedix"].ravel().astype(int) - 1
        recorded = raw["stimpattern"].shape[0]
    except (
        ValueError,
        TypeError,
        LookupError,
        OSError,
        NotImplementedError,  # what scipy raises for a MATLAB 7.3 file
        MatReadError,
    ) as error:
        raise InputError(
            f"{path}: {error}; expected a MATLAB 5 file with masterordering, subjectim, sharedix"
            f" and stimpattern. {mgh.FETCH}"
        ) from error
    row = int(subject.removeprefix("subj").removeprefix("sim")) - 1
    low, high = (ordering.min(), ordering.max()) if len(ordering) else (-1, -1)
    if (
        row >= len(ids)
        or not 0 <= low <= high < ids.shape[1]
        or recorded == 0
        or len(ordering) % recorded
        or ids[row].min() < 0
    ):
        raise InputError(
            f"{path}: subjectim {ids.shape} from {ids.min(initial=0) + 1}, masterordering"
            f" {ordering.shape} from {low + 1} to {high + 1}, stimpattern of {recorded} sessions;"
            f" {subject} needs row {row + 1} of subjectim, whole sessions, and all counted from 1."
            f" {mgh.FETCH}"
        )
    count = SESSIONS.get(subject, recorded) if sessions is None else sessions
    per_session = len(ordering) // recorded
    if not 1 <= count <= recorded:
        raise InputError(f"sessions={count}: {path} holds {recorded}.")
    seen, trial_picture = np.unique(ordering[: count * per_session], return_inverse=True)
    picture_ids = ids[row, seen]
    return Design(trial_picture, picture_ids, np.isin(picture_ids, shared), count, per_session)


def _visual(
    tree: NSDTree, hemi: Hemi, n_surface: int | None
) -> tuple[int, Int[np.ndarray, " vertex"]]:
    """The mesh's size, that of the other hemisphere if known, and the vertices of nsdgeneral."""
    labels, _ = mgh.read_labels(tree.group_label(hemi, "nsdgeneral"), n_surface)
    return len(labels), np.flatnonzero(labels == 1)


def _rois(
    tree: NSDTree, subject: str, hemi: Hemi, vertices: Int[np.ndarray, " vertex"], n_surface: int
) -> dict[str, Bool[np.ndarray, " vertex"]]:
    """A subject's own ROIs, taken from the native surface to fsaverage by nearest neighbour."""
    transform = tree.to_fsaverage(subject, hemi)
    what = "the native vertex of each fsaverage vertex"
    source = mgh.read_integers(transform, what, n_surface) - 1  # MATLAB counts from 1
    found = {}
    for family in FAMILIES:
        path = tree.native_label(subject, hemi, family)
        labels, names = mgh.read_labels(path)
        if source.min() < 0 or source.max() >= len(labels):
            raise InputError(
                f"{transform}: points to vertices {source.min() + 1}..{source.max() + 1}, but"
                f" {path} has {len(labels)}. {mgh.FETCH}"
            )
        here = labels[source[vertices]]
        found |= {name: here == value for value, name in names.items() if value > 0}
    return found


def _session(
    path: Path, vertices: Int[np.ndarray, " vertex"], n_surface: int, n_trials: int
) -> Float[np.ndarray, "trial vertex"]:
    """Betas of the chosen vertices (percent signal change), as stored."""
    series = mgh.open_series(path, f"betas of {n_trials} trials")
    if series.shape != (n_surface, n_trials):
        raise InputError(
            f"{path}: {series.shape[0]} vertices x {series.shape[1]} trials; expected {n_surface} x"
            f" {n_trials}, as nsdgeneral and the design have. {mgh.FETCH}"
        )
    return np.ascontiguousarray(series.T[:, vertices])


def zscore(betas: Float[np.ndarray, "trial vertex"]) -> Float[np.ndarray, "trial vertex"]:
    """Betas of one session, mean 0 and sd 1 over its trials; NaN where the sd is 0 or NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = betas.std(0)
        return (betas - betas.mean(0)) / np.where(spread > 0, spread, np.nan)


def load_subject(
    name: str,
    tree: NSDTree,
    sessions: int | None = None,
    space: Space = "inflated",
) -> Subject:
    """A subject read from an NSD tree; vertices that are NaN or constant in a session are left out.

    `space`: the surface whose coordinates place the vertices. The paper's text says inflated
    (Appendix E.1), the authors' released code uses the sphere.

    Raises:
        InputError: for an unknown subject, a missing or damaged file, sessions that don't match
            the design, or if no vertex is left; the message names the file and what to do.
    """
    if name not in (*SESSIONS, *SIMULATED):
        raise InputError(f"subject {name!r}: expected {', '.join((*SESSIONS, *SIMULATED))}.")
    if not tree.root.is_dir():
        raise MissingFile(f"{tree.root}: not found; expected the NSD tree of {name}. {GET}")
    design = read_design(tree, name, sessions)
    hashed = hashlib.sha256(design.picture_ids.tobytes() + design.trial_picture.tobytes())
    n_surface, halves, rois, ncsnr, responses = 0, [], [], [], []
    for hemi in HEMIS:
        n_surface, vertices = _visual(tree, hemi, n_surface or None)
        halves.append(vertices)
        rois.append(_rois(tree, name, hemi, vertices, n_surface))
        ncsnr.append(mgh.read(tree.ncsnr(name, hemi), "ncsnr per vertex", n_surface)[vertices])
        half = np.empty((len(design.trial_picture), len(vertices)), np.float32)
        for session in range(design.sessions):
            path = tree.betas(name, hemi, session + 1)
            betas = _session(path, vertices, n_surface, design.trials_per_session)
            hashed.update(betas.tobytes())
            start = session * design.trials_per_session
            half[start : start + len(betas)] = zscore(betas.astype(np.float32))
        responses.append(half)
    both = np.concatenate(responses, axis=1)
    kept = np.isfinite(both).all(0)
    if not kept.any():
        raise InputError(
            f"{tree.beta_folder(name)}: all {len(kept)} visual vertices are NaN or constant in some"
            f" session. {mgh.FETCH}"
        )
    named = {roi: np.zeros(len(kept), bool) for half in rois for roi in half}
    for half, start in zip(rois, (0, len(halves[0])), strict=True):
        for roi, mask in half.items():
            named[roi][start : start + len(mask)] = mask
    for area, parts in AREAS.items():
        if members := [named[part] for part in parts if part in named]:
            named[area] = np.any(members, axis=0)
    vertices = np.concatenate([halves[0], halves[1] + n_surface])[kept]
    coordinates = apart(n_surface, space)[vertices]
    hashed.update(vertices.tobytes() + coordinates.tobytes())
    return Subject(
        name=name,
        n_surface=n_surface,
        vertices=vertices,
        coordinates=coordinates,
        rois={roi: mask[kept] for roi, mask in named.items() if mask[kept].any()},
        ncsnr=np.concatenate(ncsnr)[kept],
        responses=both[:, kept] if not kept.all() else both,
        trial_picture=design.trial_picture,
        trial_session=np.arange(len(design.trial_picture)) // design.trials_per_session,
        picture_ids=design.picture_ids,
        shared=design.shared,
        stimuli=_stimuli(tree, design),
        dropped=int((~kept).sum()),
        identity=hashed.hexdigest(),
    )


def apart(n_surface: int, space: Space) -> Float[np.ndarray, "both 3"]:
    """Coordinates of both hemispheres (mm), the right moved aside by half a width's gap."""
    make = {"inflated": surface.inflated, "sphere": surface.sphere}
    if space not in make:
        raise InputError(f"space={space!r}: expected {' or '.join(make)}.")
    left, right = (make[space](hemi, n_surface)[0].copy() for hemi in HEMIS)
    low, high = left[:, 0].min(), left[:, 0].max()
    right[:, 0] += low + 1.5 * (high - low) - right[:, 0].min()
    return np.concatenate([left, right])


def _stimuli(tree: NSDTree, design: Design) -> Path:
    """The stimulus file, if it holds every picture of the design."""
    path = require(tree.stimuli, "NSD's pictures", GET)
    try:
        with h5py.File(path, "r") as f:
            shape, kind = f["imgBrick"].shape, f["imgBrick"].dtype
    except (OSError, KeyError, AttributeError) as error:  # the last: a group
        raise InputError(f"{path}: {error}; expected HDF5 with imgBrick. {mgh.FETCH}") from error
    right = len(shape) == 4 and shape[3] == 3 and kind == np.uint8
    if not right or shape[0] <= design.picture_ids.max():
        raise InputError(
            f"{path}: imgBrick {shape} {kind}; expected uint8 [pictures, height, width, 3] with"
            f" more than {design.picture_ids.max()} pictures. {mgh.FETCH}"
        )
    return path
