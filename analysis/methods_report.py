"""What the page of methods says of its tables, in words.

    finding(fits, differences(fits), decays(fits))

Every number is a table's.
"""

import pandas as pd

from analysis.methods_compared import NAMES, OURS, Compared, Q, layer_found, seeds_table


def finding(fits: Compared, table: pd.DataFrame, by_decay: pd.DataFrame) -> str:
    """The page's finding, in a box; every number from the tables."""
    score, rows = fits.ours.score("test"), table[table["ROI"] == "all"]
    sure = rows["q"] < Q
    worse = rows.loc[sure & (rows["difference of R²"] < 0), "method"].tolist()
    better = rows.loc[sure & (rows["difference of R²"] > 0), "method"].tolist()
    printed = table[table["beside the paper"] != "not printed"]
    counts = printed["beside the paper"].value_counts()
    each = "; ".join(f"{n} {verdict}" for verdict, n in counts.items())
    shares = by_decay.pivot(index="network", columns="steps", values="R²").idxmax(axis=1)
    best = ", ".join(f"{steps:,} for {network}" for network, steps in shares.items())
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"FactorTopy predicts single trials with R² = **{score.value:.3f}** [{score.low:.3f},"
        f" {score.high:.3f}]. On the same test pictures that is higher than of"
        f" {_methods(worse)} and lower than of {_methods(better)} (q < {Q:g}, all vertices, one"
        f" seed of each). Of {len(printed)}"
        f" differences to FactorTopy that Table 16 prints: {each}. The decay of the highest R², in"
        f" the paper's steps: {best}.\n:::"
    )


def _methods(names: list[str]) -> str:
    return ", ".join(names) or "no other method"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def rivals_text(table: pd.DataFrame) -> str:
    """What agrees with Table 16 and what doesn't, by name and region."""
    lines = []
    for verdict, rows in table.groupby("beside the paper", sort=False):
        if verdict == "not printed":
            continue
        named = rows.groupby("method", sort=False)["ROI"].agg(", ".join)
        each = "; ".join(f"{method} ({rois})" for method, rois in named.items())
        lines.append(f"- **{verdict[0].upper()}{verdict[1:]}**: {each}.")
    return (
        f"Which differences to FactorTopy have the sign that Table 16 prints, at q < {Q:g}; one"
        f" within the ± of the table counts as none:\n\n{chr(10).join(lines)}"
    )


def costs_text(table: pd.DataFrame) -> str:
    """What is counted, and how far that is from what the paper printed."""
    rows = table.set_index("Method")
    row, at, printed = rows.loc[NAMES[OURS]], "at the paper's size, ×", "Table 16: MACs, ×"
    gnet = ""
    if NAMES["gnet"] in rows.index:
        own = rows.loc[NAMES["gnet"]]
        gnet = (
            f" GNetViT {own['MACs here, ×']:.1f} and {own[at]:.1f}, where it has {own[printed]:g}."
        )
    return (
        f"**This differs from the paper.** By our count FactorTopy does {row['MACs here, ×']:.1f}"
        f" times classToken's multiply-accumulates here and {row[at]:.1f} times at the paper's"
        f" size, where Table 16 has {row[printed]:g}.{gnet} We count every product of matrices"
        " of a forward pass behind the frozen network: classToken takes one token of each layer"
        " through the bottleneck, FactorTopy all 65, and reads four of them and the global one at"
        " each layer for each vertex. What Table 16 counted it doesn't say; a count that leaves"
        " out the reading of tokens at places, which no layer of a network does, comes out lower."
        " Nor does it say whether its time includes running the frozen network, which would bring"
        f" all rows closer. A training step takes {row['Time here, ×']:.1f} times classToken's"
        f" here, where it has {row['Table 16: time, ×']:g}."
    )


def truth_text(fits: Compared, table: pd.DataFrame) -> str:
    """Who finds the layer that a vertex reads in truth."""
    if not len(table):
        return (
            f"What the vertices of `{fits.ours.subject.name}` read of"
            f" `{fits.ours.record['backbone']}` is not known."
        )
    ours = table.set_index("Method").loc[NAMES[OURS]]
    more = table.loc[table["layer"] > ours["layer"], "Method"].tolist()
    return (
        "The responses were made from this network: rank correlations over vertices of what each"
        " method says with what is true. The layer is the expected one of the selector, or that"
        " which is best alone on validation pictures. FactorTopy's correlates with the true one by"
        f" {ours['layer']:.2f}, the mean of {ours['Seeds']:.0f} seeds. Higher, by their one seed:"
        f" {_listed(more)}. A method without a number doesn't choose."
    )


def seeds_text(fits: Compared) -> str:
    """How far seeds agree, and on what of it the comparison of methods depends."""
    table = seeds_table(fits)
    rank, away = table["rank correlation by weight"], table["difference of R²"].abs()
    truth = ", ".join(f"{layer_found(fit):.2f}" for fit in fits.seeds.values())
    known = f" Rank correlations of layers with the truth, by seed: {truth}."
    return (
        f"Over {len(fits.seeds)} seeds the maps' rank correlations are {rank.min():.2f} to"
        f" {rank.max():.2f} by weight, and R² differs by up to {away.max():.3f}."
        f"{known if fits.truth_known else ''} A method's lead smaller than that is no finding."
    )
