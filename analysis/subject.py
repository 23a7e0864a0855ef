"""A subject's responses to pictures, whatever data set they came from.

The readers return one: `nsd.read_subject` (NSD, real or simulated), `algonauts.load_algonauts` and
`own.load_own`. Everything after reading knows only this.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int, UInt8

from analysis import surface
from analysis.files import HEMIS, InputError
from analysis.pictures import Pictures, picture_digests

PICTURES_AT_ONCE = 500  # hashed at a time
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
# Each area, followed by its parts where it has several: V1, V1v, V1d, ...
AREAS_AND_PARTS = tuple(
    name for area, parts in AREAS.items() for name in (area, *(parts if len(parts) > 1 else ()))
)
HIGHEST_NCSNR = 10  # more is likely a percentage
Source = Literal["NSD", "Algonauts 2023", "simulated", "own"]
Space = Literal["inflated", "sphere"]


@dataclass(frozen=True)
class Subject:
    """Responses of visual cortex to pictures, with all that is needed to read them.

    A trial is one showing of a picture, or the mean over several where `repeats` says so.
    """

    name: str
    source: Source
    n_surface: int  # vertices per hemisphere of the mesh; 0: not on fsaverage
    vertices: Int[np.ndarray, " vertex"]  # index on the mesh, lh then rh (rh + n_surface)
    coordinates: Float[np.ndarray, "vertex 3"]  # mm, the hemispheres apart
    rois: dict[str, Bool[np.ndarray, " vertex"]]  # labels, and the areas of Table 4
    ncsnr: Float[np.ndarray, " vertex"]  # signal sd / noise sd of a single trial; NaN: not known
    responses: Float[np.ndarray, "trial vertex"]  # z-score per session
    trial_picture: Int[np.ndarray, " trial"]  # row of picture_ids
    trial_session: Int[np.ndarray, " trial"]  # from 0; -1: over sessions
    repeats: Int[np.ndarray, " trial"]  # showings averaged in a trial; 0: not known
    picture_ids: Int[np.ndarray, " picture"]  # the data set's own number, from 0
    shared: Bool[np.ndarray, " picture"]  # shown to every subject: the test set
    stimuli: Pictures
    dropped: int  # vertices left out: NaN or constant in a session
    identity: str  # sha256 of the responses, design and anatomy that were read

    @property
    def simulated(self) -> bool:
        return self.source == "simulated"

    @property
    def n_sessions(self) -> int:
        return int(self.trial_session.max()) + 1

    def roi(self, name: str) -> Bool[np.ndarray, " vertex"]:
        """The vertices of an ROI.

        Raises:
            InputError: for an unknown name, with the known ones.
        """
        if name not in self.rois:
            raise InputError(f"roi {name!r}: {self.name} has {', '.join(self.rois)}.")
        return self.rois[name]

    @cached_property
    def picture_digests(self) -> list[str]:
        """The sha256 of each picture's pixels; all are read, once."""
        rows = range(0, len(self.picture_ids), PICTURES_AT_ONCE)
        batches = (self.pictures(slice(r, r + PICTURES_AT_ONCE)) for r in rows)
        return [digest for batch in batches for digest in picture_digests(batch)]

    def pictures(
        self, rows: Int[np.ndarray, " n"] | slice
    ) -> UInt8[np.ndarray, "n height width 3"]:
        """The pictures at rows of `picture_ids`."""
        return self.stimuli.read(np.arange(len(self.picture_ids))[rows])


def average_repeats(subject: Subject) -> Subject:
    """The subject with one trial per picture: the mean over its showings."""
    picture = subject.trial_picture
    n_pictures, n_trials = len(subject.picture_ids), len(picture)
    weight = np.maximum(subject.repeats, 1).astype(np.float32)
    member = scipy.sparse.csr_matrix(
        (weight, (picture, np.arange(n_trials))), shape=(n_pictures, n_trials)
    )
    shown = np.asarray(member.sum(1)).ravel()
    there = np.flatnonzero(shown)
    means = np.empty((len(there), len(subject.vertices)), np.float32)
    for start in range(0, means.shape[1], 4096):  # bounds the memory at any number of vertices
        some = slice(start, start + 4096)
        means[:, some] = (member[there] @ subject.responses[:, some]) / shown[there, None]
    known = not (subject.repeats == 0).any()
    return dataclasses.replace(
        subject,
        responses=means,
        trial_picture=there,
        trial_session=np.full(len(there), -1),
        repeats=shown[there].astype(int) if known else np.zeros(len(there), int),
        identity=f"{subject.identity}, means over repeats",
    )


def shuffled(subject: Subject, seed: int = 0) -> Subject:
    """The subject with each session's responses in another order: a control with no signal.

    What was shown and how responses vary stays; whatever is found of the one in the other is not
    there.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(len(subject.responses))
    for session in np.unique(subject.trial_session):
        trials = np.flatnonzero(subject.trial_session == session)
        order[trials] = rng.permutation(trials)
    return dataclasses.replace(
        subject,
        responses=subject.responses[order],
        repeats=subject.repeats[order],
        identity=f"{subject.identity}, shuffled by {seed}",
    )


def standardise(
    betas: Float[np.ndarray, "trial vertex"],
) -> tuple[
    Float[np.ndarray, "trial vertex"], Float[np.ndarray, " vertex"], Float[np.ndarray, " vertex"]
]:
    """Betas of one session with mean 0 and sd 1 over its trials, and the mean and sd they had.

    The sd is the population's. A vertex whose sd is 0 or NaN gets NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = betas.mean(0, dtype=np.float64).astype(betas.dtype)
        away = betas - mean
        variance = np.einsum("ij,ij->j", away, away, dtype=np.float64) / len(away)
        sd = np.sqrt(variance).astype(betas.dtype)
        sd[~(betas != betas[0]).any(0)] = 0  # exact, where a rounded sd is not
        away /= np.where(sd > 0, sd, np.nan)
        return away, mean, sd


def require_varying(betas: Float[np.ndarray, "trial vertex"], where: str) -> None:
    """Raise InputError if no vertex varies over a session's trials, naming the trials at fault."""
    finite = np.isfinite(betas)
    if (finite.all(0) & (betas != betas[0]).any(0)).any():
        return
    empty = np.flatnonzero(~finite.any(1))
    cause = f"all {betas.shape[1]} vertices NaN or constant"
    if len(betas) < 2:
        cause = "one trial only"
    elif len(empty):
        rows = ", ".join(str(trial) for trial in empty[:5])
        cause = f"no data in {len(empty)} of {len(betas)} trials (from 0: {rows})"
    raise InputError(
        f"{where}: {cause}; expected a session of several trials with responses that vary."
        " Leave these trials, or this session, out."
    )


def require_ncsnr(ncsnr: Float[np.ndarray, " vertex"], where: str) -> None:
    """Raise InputError unless all are ratios of two standard deviations, or NaN: not known."""
    wrong = (ncsnr < 0) | (ncsnr > HIGHEST_NCSNR)  # False for NaN
    if wrong.any():
        raise InputError(
            f"{where}: {ncsnr[wrong][0]:g} among its values; expected ncsnr, the sd of the signal"
            f" over that of the noise of a trial: 0 to {HIGHEST_NCSNR}, or NaN where not known."
            " A noise ceiling c in per cent, of one trial, is ncsnr = sqrt(c / (100 - c))."
        )


def zscore(betas: Float[np.ndarray, "trial vertex"]) -> Float[np.ndarray, "trial vertex"]:
    """Betas of one session, mean 0 and sd 1 over its trials; NaN where the sd is 0 or NaN."""
    return standardise(betas)[0]


def add_area_unions(rois: dict[str, Bool[np.ndarray, " vertex"]]) -> dict[str, np.ndarray]:
    """The ROIs that have vertices, and those of Table 4's areas that are missing, as unions."""
    named = dict(rois)
    for area, parts in AREAS.items():
        members = [rois[part] for part in parts if part in rois]
        if members and area not in rois:
            named[area] = np.any(members, axis=0)
    return {name: mask for name, mask in named.items() if mask.any()}


def surface_coordinates(n_surface: int, space: Space) -> Float[np.ndarray, "both 3"]:
    """Coordinates of both hemispheres (mm), the right moved aside by half a width's gap."""
    make = {"inflated": surface.inflated, "sphere": surface.sphere}
    if space not in make:
        raise InputError(f"space={space!r}: expected {' or '.join(make)}.")
    left, right = (make[space](hemi, n_surface)[0].copy() for hemi in HEMIS)
    low, high = left[:, 0].min(), left[:, 0].max()
    right[:, 0] += low + 1.5 * (high - low) - right[:, 0].min()
    return np.concatenate([left, right])
