"""How simulated subjects compare with what is known of NSD: `fidelity_table(people)`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import explained
from analysis.prepare import Prepared
from analysis.published import (
    CHALLENGE_OTHERS,
    CHALLENGE_VERTICES,
    NSD_AREAS,
    NSD_BETAS,
    NSD_CEILINGS,
    NSD_NCSNR,
)
from analysis.simulate import parse_name
from analysis.subject import Subject

TRIALS = 3  # behind the published ceilings
Person = tuple[Subject, Prepared]


def nsd_ncsnr(subject: Subject) -> Float[np.ndarray, " vertex"]:
    """ncsnr of a simulated subject if a trial were worth one of NSD's, not several."""
    return subject.ncsnr / np.sqrt(parse_name(subject.name).noise.trials_worth)


def ceilings(subject: Subject, shares: Sequence[float]) -> Float[np.ndarray, " share"]:
    """Quantiles over vertices of the noise ceiling of three of NSD's trials, in per cent."""
    return 100 * np.quantile(explained.noise_ceiling(nsd_ncsnr(subject), TRIALS), shares)


def session_levels(people: Mapping[str, Person]) -> pd.DataFrame:
    """A row per subject and session: the median vertex's mean and sd, per cent signal change."""
    levels = [
        (name, session, float(np.median(mean)), float(np.median(sd)))
        for name, (_, prepared) in people.items()
        for session, (mean, sd) in enumerate(
            zip(prepared.mean[:, prepared.kept], prepared.sd[:, prepared.kept], strict=True), 1
        )
    ]
    return pd.DataFrame(levels, columns=["subject", "session", "mean", "sd"])


def fidelity_table(people: Mapping[str, Person]) -> pd.DataFrame:
    """A row per quantity: NSD's least and greatest, how many it is known of, and each subject's.

    ncsnr and noise ceilings are of a trial worth one of NSD's, whatever a simulated one is worth.
    The last column says how many of the subjects lie within NSD's range; it is empty where one
    value only is known. NSD's vertices without data are those that the Algonauts challenge lacks.
    """
    quantities: dict[str, tuple[Sequence[float], Sequence[float]]] = {}  # of NSD, of the subjects
    subjects = [subject for subject, _ in people.values()]
    medians = [float(np.median(nsd_ncsnr(s))) for s in subjects]
    quantities["median ncsnr of one of NSD's trials"] = (NSD_NCSNR.tolist(), medians)
    for p in NSD_CEILINGS.columns:
        quantities[f"noise ceiling of 3 of NSD's trials, {p}th percentile, %"] = (
            NSD_CEILINGS[p].tolist(),
            [ceilings(s, [int(p) / 100]).item() for s in subjects],
        )
    n_all = sum(CHALLENGE_OTHERS)
    lacking = [
        100 * (1 - sum(CHALLENGE_VERTICES.get(n, CHALLENGE_OTHERS)) / n_all) for n in range(1, 9)
    ]
    without = [100 * float((~prepared.kept).mean()) for _, prepared in people.values()]
    quantities["vertices without data, %"] = (lacking, without)
    levels = session_levels(people).groupby("subject", sort=False)[["mean", "sd"]].mean()
    for column, value in NSD_BETAS.items():
        of_subjects = levels.loc[list(people), column].tolist()
        quantities[f"{column} of betas, % signal change"] = ([value], of_subjects)
    for area, (vertices, n) in NSD_AREAS.items():
        shares = [100 * float(np.mean(s.rois.get(area, False))) for s in subjects]
        quantities[f"{area}, % of visual cortex"] = ([100 * vertices / n], shares)
    rows = []
    for quantity, (nsd, values) in quantities.items():
        low, high = min(nsd), max(nsd)
        row = {"quantity": quantity, "NSD, least": low, "greatest": high, "known of": len(nsd)}
        within = f"{sum(low <= v <= high for v in values)} of {len(values)}"
        row |= dict(zip(people, values, strict=True))
        rows.append(row | {"within": within if len(nsd) > 1 else ""})
    return pd.DataFrame(rows)
