"""What a prediction explains of responses, and how much of them there is to be explained.

These decide what simulated subjects and fits are, and are part of their keys; what is only read
off afterwards is in `metrics`.
"""

import numpy as np
from jaxtyping import Float, Int


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
