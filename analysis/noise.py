"""What lies over a simulated subject's signal: noise of single trials, and each session's level."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from jaxtyping import Float
from scipy.spatial import KDTree

from analysis.files import HEMIS
from analysis.surface import sphere
from analysis.truth import Person, Truth


@dataclass(frozen=True)
class Noise:
    """What lies over the signal; figures are NSD's (its manual and published arrays)."""

    shares: tuple[float, ...] = (0, 0.05, 0.25, 0.50, 0.75, 0.95, 1)  # of vertices below
    # signal sd over noise sd of a trial at those shares: NSD's subj01 over nsdgeneral
    ncsnr: tuple[float, ...] = (0.0, 0.16, 0.33, 0.46, 0.60, 0.83, 1.2)
    ncsnr_length: float = 25.0  # mm over which ncsnr changes
    fwhm: float = 3.5  # mm, of the noise along the sphere
    spread: tuple[float, float] = (1.75, 2.5)  # per cent signal change, sd of a vertex's betas
    level: tuple[float, float] = (0.25, 1.1)  # per cent signal change, mean of a session
    gain: float = 0.1  # sd over sessions of the log of a session's gain
    nan_share: float = 0.001  # of vertices, without data


def draw_betas(
    truth: Truth,
    signal: Float[np.ndarray, "trial vertex"],
    n_surface: int,
    sessions: int,
    person: Person,
    noise: Noise,
) -> Float[np.ndarray, "trial vertex"]:
    """Single trials in per cent signal change: signal, noise, and each session's own level."""
    rng = np.random.default_rng((person.seed, 2))
    points = np.concatenate([sphere(hemi, n_surface)[0] for hemi in HEMIS])
    points[n_surface:] += [1000.0, 0, 0]  # noise of one hemisphere is not the other's
    points = points[truth.vertices]
    n_vertices = len(points)

    waves = rng.normal(size=(3, 64)) / noise.ncsnr_length
    rank = np.cos(points @ waves + rng.uniform(0, 2 * np.pi, 64)).mean(1)
    share = (np.argsort(np.argsort(rank)) + 0.5) / n_vertices
    first, last = person.quality
    snr = np.interp(share, noise.shares, noise.ncsnr) * (first + (last - first) * truth.level)

    sd = noise.fwhm / np.sqrt(8 * np.log(2))
    pairs = KDTree(points).sparse_distance_matrix(KDTree(points), 3 * sd, output_type="coo_matrix")
    weights = scipy.sparse.coo_matrix(
        (np.exp(-np.square(pairs.data / sd) / 2), (pairs.row, pairs.col)), pairs.shape
    ).tocsr()
    weights.setdiag(1)
    norm = np.sqrt(np.asarray(weights.power(2).sum(1)).ravel())
    smooth = scipy.sparse.diags(1 / norm) @ weights  # unit variance at every vertex

    spread = rng.uniform(*noise.spread, n_vertices) / np.hypot(snr, 1)
    out = np.empty(signal.shape, np.float32)
    for trials in np.array_split(np.arange(len(signal)), sessions):
        raw = rng.standard_normal((n_vertices, len(trials)), np.float32)
        gain = np.exp(noise.gain * rng.normal())
        level = rng.uniform(*noise.level)
        out[trials] = gain * spread * (snr * signal[trials] + (smooth @ raw).T) + level
    without = rng.choice(n_vertices, max(1, round(noise.nan_share * n_vertices)), replace=False)
    out[:, without] = np.nan
    return out
