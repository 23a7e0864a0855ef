"""Noise of a simulated subject's single trials, and the level of each session."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from analysis.explained import noise_ceiling
from analysis.files import HEMIS
from analysis.published import SUBJECTS, TABLE_13
from analysis.subject import AREAS
from analysis.surface import sphere
from analysis.truth import SubjectParameters, Truth, Values, smooth_field

SCORES = TABLE_13.loc[SUBJECTS[0]]
Rois = Mapping[str, Bool[np.ndarray, " vertex"]]
AREA_SCORES = tuple(float(SCORES[area]) for area in AREAS)


@dataclass(frozen=True)
class Noise:
    """How noisy trials are; figures are NSD's (its manual and published arrays)."""

    trials_worth: float = 10.0  # of NSD's trials: a trial's noise variance is divided by it
    shares: tuple[float, ...] = (0, 0.05, 0.25, 0.50, 0.75, 0.95, 1)  # of vertices below
    # signal sd over noise sd of one of NSD's trials at those shares: subj01 over nsdgeneral
    ncsnr: tuple[float, ...] = (0.0, 0.16, 0.33, 0.46, 0.60, 0.83, 1.2)
    areas: tuple[float, ...] = AREA_SCORES  # R² in V1 to VWFA: the paper's Table 13, subject #1
    overall: float = float(SCORES["all"])  # R² over all vertices: the same
    elsewhere: float = 0.105  # R² outside these areas, chosen to give about this mean over all
    smooth_share: float = 0.4  # of the variance within areas: changes smoothly; the rest by vertex
    smooth_length: float = 6.0  # mm over which it does
    fwhm: float = 3.5  # mm, of the noise along the sphere
    spread: tuple[float, float] = (1.75, 2.5)  # per cent signal change, sd of a vertex's betas
    level: tuple[float, float] = (0.25, 1.1)  # per cent signal change, mean of a session
    gain: float = 0.1  # sd over sessions of the log of a session's gain
    nan_share: float = 0.001  # of vertices, without data


def area_scores(n_vertices: int, rois: Rois, noise: Noise) -> Values:
    """Each vertex's R² in NSD by its area; the mean where areas overlap."""
    total, count = np.zeros(n_vertices), np.zeros(n_vertices)
    for area, score in zip(AREAS, noise.areas, strict=True):
        if area in rois:
            total[rois[area]] += score
            count[rois[area]] += 1
    return np.where(count > 0, total / np.maximum(count, 1), noise.elsewhere)


def draw_ncsnr(
    points: Float[np.ndarray, "vertex 3"], rois: Rois, noise: Noise, rng: np.random.Generator
) -> Values:
    """Signal sd over noise sd of one of NSD's trials, of a typical subject.

    Over all vertices exactly NSD's distribution. Which vertex has which value: the ncsnr that its
    area would have if a network explained the same share of every ceiling, plus what gives the
    variance that areas leave, in part smooth over the cortex; then by rank.
    """
    n = len(points)
    shares = (np.arange(n) + 0.5) / n
    values = np.interp(shares, noise.shares, noise.ncsnr)
    scores = area_scores(n, rois, noise)
    ceiling = scores / noise.overall * noise_ceiling(values).mean()
    expected = np.sqrt(ceiling / (1 - ceiling))
    rest = np.sqrt(max(values.var() - expected.var(), 0))
    smooth = np.sqrt(noise.smooth_share) * smooth_field(points, noise.smooth_length, rng)
    by_vertex = np.sqrt(1 - noise.smooth_share) * rng.standard_normal(n)
    drawn = expected + rest * (smooth + by_vertex)
    return values[np.argsort(np.argsort(drawn))]


def _apart(truth: Truth, n_surface: int) -> Float[np.ndarray, "vertex 3"]:
    """Places on the sphere (mm), the right hemisphere far from the left."""
    points = np.concatenate([sphere(hemi, n_surface)[0] for hemi in HEMIS])
    points[n_surface:] += [1000.0, 0, 0]  # noise of one hemisphere is not the other's
    return points[truth.vertices]


def signal_to_noise(
    truth: Truth, rois: Rois, n_surface: int, subject: SubjectParameters, noise: Noise
) -> Values:
    """Signal sd over noise sd of one of a subject's simulated trials."""
    rng = np.random.default_rng((subject.seed, 5))
    typical = draw_ncsnr(_apart(truth, n_surface), rois, noise, rng)
    first, last = subject.quality
    return typical * (first + (last - first) * truth.level) * np.sqrt(noise.trials_worth)


def draw_betas(
    truth: Truth,
    snr: Values,
    signal: Float[np.ndarray, "trial vertex"],
    n_surface: int,
    sessions: int,
    subject: SubjectParameters,
    noise: Noise,
) -> Float[np.ndarray, "trial vertex"]:
    """Single trials in per cent signal change: signal, noise, and each session's own level.

    `snr`: signal sd over noise sd of a trial.
    """
    rng = np.random.default_rng((subject.seed, 2))
    points, n_vertices = _apart(truth, n_surface), len(truth.vertices)

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
