"""How much of a simulated truth each recipe gives back, over seeds: what makes maps identifiable.

    table = sweep("sim01", "clip-mini", "small", seeds=[0, 1, 2])

Scores tell recipes apart that predict; only a known truth tells apart those whose maps are right.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from pandas.io.formats.style import Styler

from analysis import metrics
from analysis.files import InputError
from analysis.fit import Fit
from analysis.metrics import LEVEL
from analysis.recipe import Recipe
from analysis.report import plain_table, ranged, truth_pairs
from analysis.simulate import parse_name
from analysis.study import Wanted
from analysis.sweep import get_fits, sized

DEFAULT = "default: penalty on scale"
BLUR = 2.0  # tokens, of those recipes that go from coarse to fine
SCORE = "validation R²"


def variants(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What each row of the comparison changes of the default model and recipe."""
    blurred = {"blur": BLUR, "blur_steps": recipe.decay_steps}
    off = {"scale_penalty": 0.0}
    return {
        "no penalty on scale": off,
        "no penalty, coarse to fine": off | blurred,
        DEFAULT: {},
        "coarse to fine": blurred,
        "border padding": {"padding": "border"},
        "separate bottlenecks": {"bottleneck": "separate"},
        "decay three times as fast": {"decay_steps": max(1, recipe.decay_steps // 3)},
        "standardised tokens": {"standardise": True},
        "standardised, no penalty": {"standardise": True} | off,
    }


def options(size: str) -> dict[str, Any]:
    """The options of all fits: a size's, with tokens as they come.

    Whether these are standardised is a row of the comparison.
    """
    common = sized(size)
    return common | {"changes": common.get("changes", {}) | {"standardise": False}}


def recovered(fit: Fit) -> dict[str, float]:
    """The validation score of a fit, and the rank correlations of what it found with the truth."""
    found = {  # 0 where all vertices found the same, of which no correlation is defined
        name: metrics.rank_correlation(true, ours) if np.ptp(ours) else 0.0
        for name, true, ours in truth_pairs(fit)
    }
    return {SCORE: fit.record["result"]["validation_r2"]} | found


def sweep(subject: str, backbone: str, size: str, seeds: Sequence[int]) -> pd.DataFrame:
    """A row per variant and seed: validation R², and rank correlations with the truth.

    Raises:
        InputError: for an unknown name, a subject whose truth is not known, or fewer than 2 seeds.
    """
    if len(set(seeds)) < 2:
        raise InputError(f"seeds={list(seeds)}: expected two or more, for intervals over them.")
    parse_name(subject)  # the truth of others is not known
    common = options(size)
    _, recipe = Wanted(subject, backbone, **common).configured()
    wanted = {
        (name, seed): {"seed": seed, "changes": common["changes"] | change}
        for name, change in variants(recipe).items()
        for seed in seeds
    }
    fits = get_fits(wanted, **(common | {"subject": subject, "backbone": backbone}))
    return pd.DataFrame(
        [{"recipe": name, "seed": seed, **recovered(fit)} for (name, seed), fit in fits.items()]
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per recipe and quantity: mean over seeds, its interval, and that of the difference.

    Student's t over seeds, that of a correlation cut at -1 and 1; the difference is to the default
    with the same seed.
    """
    rows = []
    for quantity in table.columns.drop(["recipe", "seed"]):
        by_seed = table.pivot(index="seed", columns="recipe", values=quantity)
        t = scipy.stats.t.ppf((1 + LEVEL) / 2, len(by_seed) - 1) / np.sqrt(len(by_seed))
        away = by_seed.sub(by_seed[DEFAULT], axis=0)
        for recipe in dict.fromkeys(table["recipe"]):
            mean, half = by_seed[recipe].mean(), t * by_seed[recipe].std()
            low, high = mean - half, mean + half
            if quantity != SCORE:
                low, high = max(low, -1.0), min(high, 1.0)
            more, spread = away[recipe].mean(), t * away[recipe].std()
            rows.append(
                {
                    "recipe": recipe,
                    "quantity": quantity,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "difference": more,
                    "least": more - spread,
                    "most": more + spread,
                }
            )
    return pd.DataFrame(rows)


def shown(found: pd.DataFrame) -> Styler:
    """A row per recipe, a column per quantity: the mean over seeds and its interval."""
    cells = [
        ranged(m, low, high, 3 if q == SCORE else 2)
        for q, m, low, high in found[["quantity", "mean", "low", "high"]].itertuples(index=False)
    ]
    wide = found.assign(cell=cells).pivot(index="recipe", columns="quantity", values="cell")
    order, columns = dict.fromkeys(found["recipe"]), dict.fromkeys(found["quantity"])
    return plain_table(wide.loc[list(order), list(columns)].reset_index(names="recipe"), found)


def finding(subject: str, seeds: Sequence[int], size: str, found: pd.DataFrame) -> str:
    """What the comparison is of, and the recipes that find most, in boxes."""
    means = found.pivot(index="recipe", columns="quantity", values="mean")
    truth = means.columns.drop(SCORE)
    total, score = means[truth].mean(axis=1), means[SCORE]
    most, default = total.idxmax(), means.loc[DEFAULT]
    each = ", ".join(
        f"{name} {means.loc[most, name]:.2f} (default {default[name]:.2f})" for name in truth
    )
    common = options(size)
    mesh = common.get("n_surface")
    model, _ = Wanted(subject, "", **common).configured()
    where = f" on a mesh of {mesh:,} vertices per hemisphere" if mesh else ""
    return (
        ":::{warning}\n**Simulated data.** Nothing here is evidence about a brain.\n:::\n\n"
        ":::{admonition} Key finding\n:class: tip\n"
        f"Of {len(means)} recipes, `{most}` gives back most of the truth of `{subject}`{where}:"
        f" rank correlations, means over {len(seeds)} seeds, with channels {model.channels}, hidden"
        f" {model.hidden}: {each}. Scores alone range"
        f" from {score.min():.3f} to {score.max():.3f}; that of this recipe is {score[most]:.3f},"
        f" the default's {score[DEFAULT]:.3f}.\n:::"
    )


def said(found: pd.DataFrame) -> str:
    """What differs from the default by more than seeds do, a line per quantity, and the best; then
    what doesn't differ at all.
    """
    lines = []
    for quantity, rows in found.groupby("quantity", sort=False):
        digits = 3 if quantity == SCORE else 2
        base = rows.set_index("recipe").loc[DEFAULT]
        parts = []
        for word, sure in (("higher", rows["least"] > 0), ("lower", rows["most"] < 0)):
            named = [
                f"{r.recipe} ({r.difference:+.{digits}f}, {r.least:+.{digits}f} to"
                f" {r.most:+.{digits}f})"
                for r in rows[sure].itertuples()
            ]
            if named:
                parts.append(f"{word} with {'; '.join(named)}")
        best = rows.loc[rows["mean"].idxmax()]
        lines.append(
            f"- **{quantity}**: {base['mean']:.{digits}f} by default;"
            f" {'; '.join(parts) or 'no recipe differs by more than seeds do'}."
            f" The highest mean is {best['mean']:.{digits}f}, {best['recipe']}."
        )
    apart = (found.set_index("recipe")[["least", "most"]] != 0).any(axis=1).groupby(level=0).any()
    same = [name for name in dict.fromkeys(found["recipe"]) if not apart[name] and name != DEFAULT]
    if same:
        lines.append(f"- Equal to the default in every quantity and seed: {', '.join(same)}.")
    return "\n".join(lines)
