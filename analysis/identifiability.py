"""How much of a simulated truth each choice of model gives back, over seeds.

    table = sweep("sim01", "clip-mini", "small", seeds=[0, 1, 2])

Scores tell apart which models predict; only a known truth tells apart those whose maps are right.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from pandas.io.formats.style import Styler

from analysis import metrics
from analysis.comparison import false_discovery
from analysis.fit import Fit
from analysis.metrics import LEVEL
from analysis.report import plain_table, ranged, truth_pairs
from analysis.simulate import parse_name
from analysis.sweep import different, get_fits, sized

DEFAULT = "default"
SCORE = "validation R²"
Q = 0.05  # false discovery rate at which a difference is said to be there

# What each row of the comparison changes of the default model and recipe.
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no penalty on scale": {"scale_penalty": 0.0},
    "tokens as they come": {"standardise": False},
    "read-out starts at randn": {"readout_start": "randn"},
}


def recovered(fit: Fit) -> dict[str, float]:
    """The validation score of a fit, and the rank correlations of what it found with the truth."""
    found = {  # 0 where all vertices found the same, of which no correlation is defined
        name: metrics.rank_correlation(true, ours) if np.ptp(ours) else 0.0
        for name, true, ours in truth_pairs(fit)
    }
    return {SCORE: fit.record["result"]["validation_r2"]} | found


def sweep(
    subject: str, backbone: str, size: str, seeds: Sequence[int], recipe: str = "fast"
) -> pd.DataFrame:
    """A row per variant and seed: validation R², and rank correlations with the truth.

    The default has all seeds, others the first.

    Raises:
        InputError: for an unknown name, a subject whose truth is not known, or fewer than 2 seeds.
    """
    options, seeds = sized(size, recipe), different(seeds, 2)
    parse_name(subject)  # the truth of others is not known
    wanted = {
        (name, seed): {"seed": seed, "changes": change}
        for name, change in VARIANTS.items()
        for seed in (seeds if name == DEFAULT else seeds[:1])
    }
    fits = get_fits(wanted, subject=subject, backbone=backbone, **options)
    return pd.DataFrame(
        [{"variant": name, "seed": seed, **recovered(fit)} for (name, seed), fit in fits.items()]
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per variant and quantity: mean over seeds, its difference to the default's, intervals
    of both, and p and q of the difference.

    By Student's t with the variance between seeds pooled over variants, as in an analysis of
    variance: where only the default has several, it is the default's. Intervals of correlations
    are cut at -1 and 1; q is over all rows.
    """
    rows = []
    for quantity in table.columns.drop(["variant", "seed"]):
        by_variant = table.groupby("variant", sort=False)[quantity]
        count, mean = by_variant.count(), by_variant.mean()
        free = int((count - 1).sum())
        sd = float(np.sqrt(((count - 1) * by_variant.var()).sum() / free))
        t = scipy.stats.t.ppf((1 + LEVEL) / 2, free)
        for variant in count.index:
            half = t * sd / np.sqrt(count[variant])
            low, high = mean[variant] - half, mean[variant] + half
            if quantity != SCORE:
                low, high = max(low, -1.0), min(high, 1.0)
            away = mean[variant] - mean[DEFAULT]
            error = sd * np.sqrt(1 / count[variant] + 1 / count[DEFAULT])
            rows.append(
                {
                    "variant": variant,
                    "quantity": quantity,
                    "seeds": count[variant],
                    "mean": mean[variant],
                    "low": low,
                    "high": high,
                    "difference": away,
                    "least": away - t * error,
                    "most": away + t * error,
                    "p": 2 * scipy.stats.t.sf(abs(away) / error, free) if error else 1.0,
                }
            )
    found = pd.DataFrame(rows)
    others = found["variant"] != DEFAULT
    found.loc[others, "q"] = false_discovery(found.loc[others, "p"].to_numpy())
    return found


def shown(found: pd.DataFrame) -> Styler:
    """A row per variant, a column per quantity: the mean over seeds and its interval."""
    cells = [
        ranged(m, low, high, 3 if q == SCORE else 2)
        for q, m, low, high in found[["quantity", "mean", "low", "high"]].itertuples(index=False)
    ]
    wide = found.assign(cell=cells).pivot(index="variant", columns="quantity", values="cell")
    order, columns = dict.fromkeys(found["variant"]), dict.fromkeys(found["quantity"])
    return plain_table(wide.loc[list(order), list(columns)].reset_index(names="variant"), found)


def finding(subject: str, found: pd.DataFrame) -> str:
    """What the default gives back of the truth, and what differs from it, in a box."""
    own = found[(found["variant"] == DEFAULT) & (found["quantity"] != SCORE)]
    each = "; ".join(f"{r.quantity} {ranged(r.mean, r.low, r.high)}" for r in own.itertuples())
    some = found[found["q"] < Q]
    named = ", ".join(dict.fromkeys(some["variant"])) or "none"
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"What the default gives back of the truth of `{subject}`, as rank correlations, means of"
        f" {own['seeds'].iloc[0]} seeds: {each}. Of {found['variant'].nunique() - 1} other choices"
        f" these differ from it in something (q < {Q:g} over {found['q'].count()} differences):"
        f" {named}.\n:::"
    )


def differences_text(found: pd.DataFrame) -> str:
    """What differs from the default at q < 0.05, a line per quantity."""
    lines = []
    for quantity, rows in found.groupby("quantity", sort=False):
        digits = 3 if quantity == SCORE else 2
        base = rows.set_index("variant").loc[DEFAULT]
        parts = []
        for word, sign in (("higher", 1), ("lower", -1)):
            named = [
                f"{r.variant} ({r.difference:+.{digits}f}, {r.least:+.{digits}f} to"
                f" {r.most:+.{digits}f})"
                for r in rows[(rows["q"] < Q) & (sign * rows["difference"] > 0)].itertuples()
            ]
            if named:
                parts.append(f"{word} with {'; '.join(named)}")
        lines.append(
            f"- **{quantity}**: {base['mean']:.{digits}f} by default;"
            f" {'; '.join(parts) or f'no difference at q < {Q:g}'}."
        )
    return "\n".join(lines)
