"""Two models on the same test pictures: where one predicts better, and how sure that is.

    paired = compare(fit_a, fit_b)
    paired.table()          # a row per vertex: difference of R², p, q
    paired.roi_table(names) # a row per ROI

Both models' squared errors are taken at the same trials, so what pictures and noise have in common
cancels. The unit is a picture: the trials of one share its signal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float, Int

from analysis import metrics
from analysis.files import InputError
from analysis.fit import Fit, PartName, part_of
from analysis.metrics import Masks
from analysis.ridge import RidgeFit

VERTICES_AT_ONCE = 4096


def gains(
    one: Float[np.ndarray, "picture vertex"],
    other: Float[np.ndarray, "picture vertex"],
    responses: Float[np.ndarray, "trial vertex"],
    trial_picture: Int[np.ndarray, " trial"],
) -> Float[np.ndarray, "picture vertex"]:
    """What each picture adds to the first model's R² less the second's; their sum over pictures.

    [Σ (y - ŷ₂)² - Σ (y - ŷ₁)²] / Σ (y - ȳ)², the first two sums over the trials of the picture, the
    last over all. NaN where the responses don't vary.
    """
    member = np.zeros((len(one), len(trial_picture)))
    member[trial_picture, np.arange(len(trial_picture))] = 1
    out = np.empty(one.shape)
    for start in range(0, one.shape[1], VERTICES_AT_ONCE):  # bounds the memory
        some = slice(start, start + VERTICES_AT_ONCE)
        y = responses[:, some].astype(np.float64)
        better = np.square(y - other[trial_picture, some]) - np.square(y - one[trial_picture, some])
        y -= y[0]  # exactly 0 where constant
        total = np.square(y - y.mean(0)).sum(0)
        out[:, some] = member @ better / np.where(total > 0, total, np.nan)
    return out


def sign_flip(
    gain: Float[np.ndarray, "picture column"], samples: int = 5000, seed: int = 0
) -> Float[np.ndarray, " column"]:
    """Two-sided p of Σ gain being 0: the share of sign flips of whole pictures that reach it.

    If neither model is better, a picture's gain is as likely to be minus itself. All columns are
    flipped alike, so that what they have in common stays. The data count as one of the flips, so
    the smallest p is 1 / (samples + 1). NaN where a gain is NaN; 1 where all are 0.
    """
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(samples, len(gain)))
    p = np.empty(gain.shape[1])
    for start in range(0, len(p), VERTICES_AT_ONCE):  # bounds the memory
        some = gain[:, start : start + VERTICES_AT_ONCE]
        reached = np.abs(some.sum(0)) * (1 - 1e-12)  # a flip of none or all reaches it
        beyond = (np.abs(signs @ some) >= reached).sum(0)
        p[start : start + VERTICES_AT_ONCE] = (1 + beyond) / (1 + samples)
    return np.where(np.isfinite(gain).all(0), p, np.nan)


def false_discovery(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """q: the share of false ones among all tests called at this p or less; NaN where p is.

    Benjamini and Hochberg's, which holds for tests that rise and fall together, as vertices do.
    """
    q = np.full_like(p, np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = scipy.stats.false_discovery_control(p[known])
    return q


@dataclass(frozen=True)
class Paired:
    """Two models compared on the same trials."""

    gain: Float[np.ndarray, "picture vertex"]  # each picture's part in the difference of R²
    p: Float[np.ndarray, " vertex"]  # two-sided, by sign flips
    rois: Masks
    part: str
    samples: int
    seed: int

    @property
    def difference(self) -> Float[np.ndarray, " vertex"]:
        """R² of the first model less that of the second."""
        return self.gain.sum(0)

    @property
    def q(self) -> Float[np.ndarray, " vertex"]:
        """p under control of the false discovery rate over vertices."""
        return false_discovery(self.p)

    def table(self) -> pd.DataFrame:
        """A row per vertex."""
        return pd.DataFrame({"difference of R²": self.difference, "p": self.p, "q": self.q})

    def roi_table(self, names: Sequence[str], rest: bool = False) -> pd.DataFrame:
        """A row per ROI, all vertices first: mean difference of R² with its interval, p and q.

        The interval is over pictures drawn with replacement, p by sign flips of the ROI's mean, q
        over the ROIs. Then the share of its vertices where either model is better at q < 0.05.
        """
        q, rows, gains = self.q, [], []
        n = len(self.gain)
        drawn = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=1000)
        masks = metrics.regions(self.rois, names, self.gain.shape[1], rest)
        for name, mask in masks.items():
            gain = np.nanmean(self.gain[:, mask], axis=1)
            low, high = metrics.quantiles(drawn @ gain)
            better = [(q[mask] < 0.05) & (self.difference[mask] * sign > 0) for sign in (1, -1)]
            gains.append(gain)
            rows.append(
                {
                    "ROI": name,
                    "vertices": int(mask.sum()),
                    "difference of R²": gain.sum(),
                    "low": low,
                    "high": high,
                    "first better": better[0].mean(),
                    "second better": better[1].mean(),
                }
            )
        p = sign_flip(np.stack(gains, 1), self.samples, self.seed)
        table = pd.DataFrame(rows)
        table.insert(5, "p", p)
        table.insert(6, "q", false_discovery(p))
        return table


def compare(
    one: Fit | RidgeFit,
    other: Fit | RidgeFit,
    part: PartName = "test",
    samples: int = 5000,
    seed: int = 0,
) -> Paired:
    """Two fits of one subject and split, against its single trials.

    Raises:
        InputError: if they are of different subjects or different pictures.
    """
    if one.subject.identity != other.subject.identity:
        raise InputError(
            f"{one.folder.name} is of {one.subject.name}, {other.folder.name} of"
            f" {other.subject.name}: expected two fits of one subject, read alike."
        )
    if not np.array_equal(getattr(one.split, part), getattr(other.split, part)):
        raise InputError(
            f"{one.folder.name}, {other.folder.name}: other {part} pictures; expected one split."
        )
    shown = part_of(one.subject, one.split, part)
    predicted = one.predicted(part), other.predicted(part)
    gain = gains(*predicted, shown.responses, shown.trial_picture)
    return Paired(gain, sign_flip(gain, samples, seed), one.subject.rois, part, samples, seed)


def stands_out(
    scores: Mapping[str, Float[np.ndarray, " vertex"]],
) -> dict[str, Float[np.ndarray, " vertex"]]:
    """How far each model's score is from all others', per vertex: √Σ_k (R²_m - R²_k)².

    The root of summed squared differences of brain score, by its name in the paper (Fig. 4 and
    Table 1); its text is not at hand, so that the sum is over the other models is our reading. It
    has no sign: a model that is worse everywhere stands out as one that is better.
    """
    if len(scores) < 2:
        raise InputError(f"scores: {', '.join(scores) or 'none'}; expected two or more models.")
    each = np.stack(list(scores.values()))
    return {
        name: np.sqrt(np.square(own - each).sum(0)) for name, own in zip(scores, each, strict=True)
    }
