"""How simulated people compare with what is known of NSD: `fidelity_table(people)`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

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
    """A row per person and session: the median vertex's mean and sd, per cent signal change."""
    rows = []
    for name, (_, prepared) in people.items():
        kept = prepared.kept
        levels = zip(prepared.mean[:, kept], prepared.sd[:, kept], strict=True)
        for session, (mean, sd) in enumerate(levels, 1):
            rows.append((name, session, float(np.median(mean)), float(np.median(sd))))
    return pd.DataFrame(rows, columns=["subject", "session", "mean", "sd"])


def _without_data() -> list[float]:
    """The share of the challenge's vertices that were left out of each subject, in per cent."""
    whole = sum(CHALLENGE_OTHERS)
    left_out = [
        whole - sum(CHALLENGE_VERTICES.get(number, CHALLENGE_OTHERS)) for number in range(1, 9)
    ]
    return [100 * n / whole for n in left_out]


def _area(subject: Subject, mask: Bool[np.ndarray, " vertex"]) -> float:
    return 100 * float(mask.mean())


def fidelity_table(people: Mapping[str, Person]) -> pd.DataFrame:
    """A row per quantity: NSD's least and greatest, how many it is known of, and each person's.

    ncsnr and noise ceilings are of a trial worth one of NSD's, whatever a simulated one is worth.
    The last column says how many of the people lie within NSD's range; it is empty where one value
    only is known.
    """
    percentiles = [int(c) for c in NSD_CEILINGS.columns]
    known: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    subjects = [subject for subject, _ in people.values()]
    mine = [float(np.median(nsd_ncsnr(s))) for s in subjects]
    known["median ncsnr of one of NSD's trials"] = (NSD_NCSNR.tolist(), mine)
    for p in percentiles:
        mine = [ceilings(s, [p / 100]).item() for s in subjects]
        known[f"noise ceiling of 3 of NSD's trials, {p}th percentile, %"] = (
            NSD_CEILINGS[p].tolist(),
            mine,
        )
    left_out = [100 * float((~prepared.kept).mean()) for _, prepared in people.values()]
    known["vertices without data, %"] = (_without_data(), left_out)
    levels = session_levels(people).groupby("subject", sort=False)[["mean", "sd"]].mean()
    for column, value in NSD_BETAS.items():
        quantity = f"{column} of betas, % signal change"
        known[quantity] = ([value], levels.loc[list(people), column].tolist())
    for area, (vertices, of) in NSD_AREAS.items():
        mine = [_area(s, s.rois.get(area, np.zeros(len(s.vertices), bool))) for s in subjects]
        known[f"{area}, % of visual cortex"] = ([100 * vertices / of], mine)
    rows = []
    for quantity, (theirs, mine) in known.items():
        low, high = min(theirs), max(theirs)
        row = {"quantity": quantity, "NSD, least": low, "greatest": high, "known of": len(theirs)}
        within = sum(low <= value <= high for value in mine)
        row |= dict(zip(people, mine, strict=True))
        rows.append(row | {"within": f"{within} of {len(mine)}" if len(theirs) > 1 else ""})
    return pd.DataFrame(rows)
