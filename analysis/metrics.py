"""Brain score, and what makes it readable: targets, noise ceiling, pictures, interval.

Predictions are per picture, responses per trial; `trial_picture` says which row of the predictions
a trial showed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Bool, Float, Int

from analysis.explained import noise_ceiling

LEVEL = 0.95
Masks = Mapping[str, Bool[np.ndarray, " vertex"]]


def quantiles(samples: Float[np.ndarray, "sample ..."]) -> Float[np.ndarray, "2 ..."]:
    """The ends of the middle 95 % of samples."""
    return np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def over_runs(values: Float[np.ndarray, "run ..."]) -> Float[np.ndarray, "2 ..."]:
    """Student's 95 % interval of the mean over runs: seeds or subjects, drawn from more of them.

    Of three runs a bootstrap has ten different draws and lies far too narrow; Student's has its
    level if runs are about normal, and is wide, as it should. NaN of one run.
    """
    runs = len(values)
    if runs < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, runs - 1) * values.std(0, ddof=1) / runs**0.5
    return np.stack([values.mean(0) - half, values.mean(0) + half])


@dataclass(frozen=True)
class Score:
    """A number with what makes it readable."""

    value: float
    low: float  # ends of the interval over pictures
    high: float
    metric: str  # R², or R² / noise ceiling
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
    """Per-vertex scores of one model on one part of the split, and on resampled pictures."""

    r2: Float[np.ndarray, " vertex"]
    resampled: Float[np.ndarray, "sample vertex"]  # of r2
    ceiling: Float[np.ndarray, " vertex"]  # of R² with these targets
    targets: str
    part: str
    n_pictures: int

    def samples(self, vertices: Bool[np.ndarray, " vertex"]) -> Float[np.ndarray, " draw"]:
        """The mean over some vertices: of the data as they are first, then of each drawn set.

        Draw for draw the pictures are those of any other model's scores on the same part.
        """
        drawn = self.resampled[:, vertices].mean(1)
        return np.concatenate([[self.r2[vertices].mean()], drawn])

    def over(self, vertices: Bool[np.ndarray, " vertex"], normalised: bool = False) -> Score:
        """The mean over some vertices, or that as a share of their mean noise ceiling."""
        by = self.ceiling[vertices].mean() if normalised else 1.0
        samples = self.samples(vertices) / by
        low, high = quantiles(samples[1:])
        return Score(
            value=float(samples[0]),
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
    """R² per vertex against single trials or means over repeats, resampled over pictures.

    `repeats`: showings behind each trial where they were averaged before; 0 if that is not known.

    Pictures, not trials, are drawn: the trials of one picture share its signal. R² of a drawn set
    is about the mean of all, as that of the data is: about its own it would vary less, by the share
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
        y -= y.mean(0)
        total = draws @ (member @ np.square(y))
        scored[:, some] = 1 - rest / np.where(total > 0, total, np.nan)
    return Scores(
        r2=scored[0],
        resampled=scored[1:],
        ceiling=noise_ceiling(ncsnr, shown),
        targets=targets,
        part=part,
        n_pictures=n_pictures,
    )


def regions(rois: Masks, names: Sequence[str], n_vertices: int, rest: bool = False) -> Masks:
    """All vertices, then those of each named ROI that has some, then those in none of them."""
    masks = {"all": np.ones(n_vertices, bool)}
    masks |= {name: rois[name] for name in names if name in rois}
    if rest:
        masks["rest"] = ~np.any([*list(masks.values())[1:], np.zeros(n_vertices, bool)], axis=0)
    return {name: mask for name, mask in masks.items() if mask.any()}


def roi_table(
    scores: Scores,
    rois: Masks,
    names: Sequence[str],
    rest: bool = False,
) -> pd.DataFrame:
    """A row per ROI that has vertices, all of them first: score, interval, ceiling and share.

    `rest` adds a row of the vertices in none of them. Names: `subject.AREAS`, and with the ventral
    and dorsal parts `subject.AREAS_AND_PARTS`.
    """
    rows = []
    for name, mask in regions(rois, names, len(scores.r2), rest).items():
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


def runs_table(
    runs: Sequence[tuple[Scores, Masks]],
    names: Sequence[str],
    rest: bool = False,
) -> pd.DataFrame:
    """A row per ROI: mean and sd over runs (seeds or subjects), with two intervals.

    low, high: over test pictures, with these runs; pictures are drawn alike in all of them.
    runs low, runs high: over runs (Student's; empty for one run). A ROI that a subject doesn't have
    is averaged over the others.
    """
    found: dict[str, list[np.ndarray]] = {}
    for scores, rois in runs:
        for name, mask in regions(rois, names, len(scores.r2), rest).items():
            found.setdefault(name, []).append(scores.samples(mask))
    rows = []
    for name in [n for n in ("all", *names, "rest") if n in found]:
        samples = np.stack(found[name])  # [run, draw]
        low, high = quantiles(samples[:, 1:].mean(0))
        runs_low, runs_high = over_runs(samples[:, 0])
        rows.append(
            {
                "ROI": name,
                "runs": len(samples),
                "R²": samples[:, 0].mean(),
                "low": low,
                "high": high,
                "sd over runs": samples[:, 0].std(ddof=1) if len(samples) > 1 else np.nan,
                "runs low": runs_low,
                "runs high": runs_high,
            }
        )
    return pd.DataFrame(rows)


def rank_correlation(a: Float[np.ndarray, " vertex"], b: Float[np.ndarray, " vertex"]) -> float:
    """Spearman's rank correlation over vertices."""
    return float(scipy.stats.spearmanr(a, b).statistic)
