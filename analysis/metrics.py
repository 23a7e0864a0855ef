"""Brain score, and what makes it readable: targets, noise ceiling, pictures, interval.

Predictions are per picture, responses per trial; `trial_picture` says which row of the predictions
a trial showed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Bool, Float, Int

LEVEL = 0.95


def r2(
    predicted: Float[np.ndarray, "n vertex"], measured: Float[np.ndarray, "n vertex"]
) -> Float[np.ndarray, " vertex"]:
    """1 - Σ(y - ŷ)² / Σ(y - ȳ)² per vertex; NaN where the responses don't vary."""
    rest = np.square(measured - predicted).sum(0, dtype=np.float64)
    offset = measured - measured[0]  # exactly 0 where constant, as a difference to a mean is not
    total = np.square(offset - offset.mean(0)).sum(0, dtype=np.float64)
    return 1 - rest / np.where(total > 0, total, np.nan)


def noise_ceiling(
    ncsnr: Float[np.ndarray, " vertex"], repeats: float = 1.0
) -> Float[np.ndarray, " vertex"]:
    """Largest R² that a model can reach on the mean of `repeats` trials: s² / (s² + 1/n).

    Source: NSD's data manual, as a share instead of per cent.
    """
    signal = np.square(ncsnr, dtype=np.float64)
    return signal / (signal + 1 / repeats)


def ncsnr(
    responses: Float[np.ndarray, "trial vertex"],
    trial_picture: Int[np.ndarray, " trial"],
    trial_session: Int[np.ndarray, " trial"] | None = None,
) -> Float[np.ndarray, " vertex"]:
    """Signal sd over noise sd per vertex, from responses z-scored per session, by NSD's formula.

    v² is the unbiased variance over the trials of a picture shown three times, averaged over such
    pictures; the rest of the unit variance is signal: √max(0, 1 - v²) / v. NSD's z-score divides by
    the sample sd, the responses here by the population's: the first is √((n - 1) / n) of the second
    for a session of n trials (all trials one session, if `trial_session` is None).

    Raises:
        ValueError: if no picture was shown three times.
    """
    order = np.argsort(trial_picture, kind="stable")
    _, start, count = np.unique(trial_picture[order], return_index=True, return_counts=True)
    thrice = start[count == 3]
    if not len(thrice):
        raise ValueError("trial_picture: no picture shown three times; expected some.")
    trials = order[thrice[:, None] + np.arange(3)]  # [picture, 3]
    session = np.zeros(len(trial_picture), int) if trial_session is None else trial_session
    _, member, size = np.unique(session, return_inverse=True, return_counts=True)
    to_sample = np.sqrt((size - 1) / size)[member][trials]  # [picture, 3]
    noise = np.empty(responses.shape[1])
    for first in range(0, len(noise), 1024):  # bounds the memory at any number of vertices
        some = slice(first, first + 1024)
        shown = responses[:, some][trials] * to_sample[:, :, None]  # [picture, 3, vertex], float64
        noise[some] = shown.var(1, ddof=1).mean(0)
    return np.sqrt(np.maximum(0, 1 - noise) / noise)


@dataclass(frozen=True)
class Score:
    """A number with what makes it readable."""

    value: float
    low: float  # ends of the interval over pictures
    high: float
    metric: str  # R², or R² over noise ceiling
    targets: str  # single trials, or means over repeats
    part: str  # of the split
    n_pictures: int
    n_vertices: int

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
            f" ({self.targets}, {self.n_pictures} {self.part} pictures,"
            f" {self.n_vertices:,} vertices, {LEVEL:.0%} interval over pictures)"
        )


@dataclass(frozen=True)
class Scores:
    """Per-vertex R² of one model on one part of the split, and the same on resampled pictures."""

    r2: Float[np.ndarray, " vertex"]
    resampled: Float[np.ndarray, "sample vertex"]
    ceiling: Float[np.ndarray, " vertex"]  # of R² with these targets
    targets: str
    part: str
    n_pictures: int

    def over(self, vertices: Bool[np.ndarray, " vertex"], normalised: bool = False) -> Score:
        """The mean R² over some vertices, or that as a share of their mean noise ceiling."""
        by = self.ceiling[vertices].mean() if normalised else 1.0
        low, high = np.quantile(
            self.resampled[:, vertices].mean(1) / by, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        )
        return Score(
            value=float(self.r2[vertices].mean() / by),
            low=float(low),
            high=float(high),
            metric="R² / noise ceiling" if normalised else "R²",
            targets=self.targets,
            part=self.part,
            n_pictures=self.n_pictures,
            n_vertices=int(vertices.sum()),
        )


def _targets(behind: Int[np.ndarray, " target"]) -> tuple[float, str]:
    """How many showings a target is the mean of, NaN if not known, and in words."""
    if (behind == 0).any():
        return np.nan, "means over repeats, their number not known"
    shown = 1 / float(np.mean(1 / behind))  # NSD's rule for mixed repeats
    return shown, "single trials" if (behind == 1).all() else f"means of {shown:.3g} trials"


def brain_score(
    predicted: Float[np.ndarray, "picture vertex"],
    responses: Float[np.ndarray, "trial vertex"],
    trial_picture: Int[np.ndarray, " trial"],
    ncsnr: Float[np.ndarray, " vertex"],
    part: str,
    average: bool = False,
    repeats: Int[np.ndarray, " trial"] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Scores:
    """R² per vertex against single trials, or against means over repeats, resampled over pictures.

    `repeats`: showings behind each trial where they were averaged before; 0 if that is not known.

    Pictures, not trials, are drawn: the trials of one picture share its signal. A drawn set is
    scored about the mean of all, as the data are: about its own it would vary less, by the share
    1 / pictures, and the interval would lie too low.
    """
    n_pictures, n_vertices = predicted.shape
    behind = np.ones(len(trial_picture), int) if repeats is None else repeats
    if average:
        responses = np.stack([responses[trial_picture == p].mean(0) for p in range(n_pictures)])
        behind = np.bincount(trial_picture, behind).astype(int)
        trial_picture = np.arange(n_pictures)
    shown, targets = _targets(behind)
    member = np.zeros((n_pictures, len(trial_picture)))
    member[trial_picture, np.arange(len(trial_picture))] = 1
    drawn = np.random.default_rng(seed).multinomial(
        n_pictures, np.full(n_pictures, 1 / n_pictures), size=samples
    )
    draws = np.concatenate([np.ones((1, n_pictures)), drawn])  # the first is the data as it is
    scored = np.empty((samples + 1, n_vertices))
    for start in range(0, n_vertices, 4096):  # bounds the memory at any number of vertices
        some = slice(start, start + 4096)
        y = responses[:, some].astype(np.float64)
        rest = draws @ (member @ np.square(y - predicted[trial_picture, some]))
        y -= y[0]  # exactly 0 where constant, before a mean is rounded
        total = draws @ (member @ np.square(y - y.mean(0)))
        scored[:, some] = 1 - rest / np.where(total > 0, total, np.nan)
    return Scores(
        r2=scored[0],
        resampled=scored[1:],
        ceiling=noise_ceiling(ncsnr, shown),
        targets=targets,
        part=part,
        n_pictures=n_pictures,
    )


def roi_table(
    scores: Scores, rois: dict[str, Bool[np.ndarray, " vertex"]], names: Sequence[str]
) -> pd.DataFrame:
    """A row per ROI that has vertices, all of them first: R², its interval, ceiling and share."""
    masks = {"all": np.ones(len(scores.r2), bool)} | {n: rois[n] for n in names if n in rois}
    rows = []
    for name, mask in masks.items():
        if mask.any():
            score, share = scores.over(mask), scores.over(mask, normalised=True)
            rows.append(
                {
                    "ROI": name,
                    "vertices": score.n_vertices,
                    "R²": score.value,
                    "low": score.low,
                    "high": score.high,
                    "noise ceiling": float(scores.ceiling[mask].mean()),
                    "R² / ceiling": share.value,
                }
            )
    return pd.DataFrame(rows)


def rank_correlation(a: Float[np.ndarray, " vertex"], b: Float[np.ndarray, " vertex"]) -> float:
    """Spearman's rank correlation over vertices."""
    return float(scipy.stats.spearmanr(a, b).statistic)
