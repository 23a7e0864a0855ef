"""What the page on fine-tuning says in words and tables."""

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from analysis.findings import FINDINGS
from analysis.forgetting import Page, rank_table
from analysis.published import FINE_TUNED, TABLE_14
from analysis.report import plain_table, ranged
from analysis.verdicts import Judged


def key_finding(
    page: Page, accuracy: pd.DataFrame, lost: pd.DataFrame, layout: Judged, related: Judged
) -> str:
    """What is forgotten, in a box; every number from the tables and the verdicts."""
    ranked = rank_table(lost)
    least, most = ranked.iloc[0], ranked.iloc[-1]
    means = accuracy.groupby("network", sort=False)["accuracy"].mean()
    beyond = int((lost["lost low"] > 0).sum())
    simulated = " of a simulated subject" if page.first.subject.simulated else ""
    rows = "\n".join(
        f"- **{judged.finding.claim}** {judged.verdict.capitalize()}."
        for judged in (layout, related)
    )
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"Tuned to {' and to '.join(page.tasks)}, {least['network']} loses least R²{simulated}"
        f" ({least['lost']:+.3f}, mean over tasks; {100 * least['share']:.0f} % of what it had) and"
        f" {most['network']} most ({most['lost']:+.3f}; {100 * most['share']:.0f} %). The most"
        f" accurate is {means.idxmax()} ({means.max():.2f}), the least {means.idxmin()}"
        f" ({means.min():.2f}). In {beyond} of {len(lost)} cases the loss lies beyond its interval."
        f"\n\n{rows}\n:::"
    )


def accuracy_shown(table: pd.DataFrame) -> Styler:
    """A row per network: accuracy in each task, what validation chose, and the paper's."""
    rows = []
    for network, own in table.groupby("network", sort=False):
        row: dict[str, str | int | float] = {"Network": str(network), "Runs": own["runs"].iloc[0]}
        for r in own.to_dict("records"):
            row[r["task"].capitalize()] = ranged(r["accuracy"], r["low"], r["high"])
            row[f"Rate, epoch ({r['task']})"] = f"{r['rate']:g}, {r['epoch']}"
        for task in TABLE_14.index:
            row[f"Paper: {task}"] = TABLE_14.loc[task].get(network, np.nan)
        rows.append(row)
    chance = {
        str(task).capitalize(): f"{own['chance'].iloc[0]:.2f}"
        for task, own in table.groupby("task", sort=False)
    }
    rows.append({"Network": "chance", **chance})
    return plain_table(pd.DataFrame(rows)).format(
        {"Runs": "{:.0f}"}, precision=3, na_rep="–", subset=None
    )


def methods_shown(page: Page) -> Styler:
    """A row per method, of the first network and the last task: accuracy and what was chosen."""
    rows = [
        {
            "Method": method,
            "Accuracy, test": done.accuracy,
            "Accuracy, training": done.result["accuracy"]["train"],
            "Chosen by validation": done.recipe,
        }
        for method, done in page.methods.items()
    ]
    return plain_table(pd.DataFrame(rows))


def forgetting_shown(table: pd.DataFrame) -> Styler:
    """A row per network and task: R² before, lost, and how far early and late vertices moved."""
    order = {n: i for i, n in enumerate(rank_table(table)["network"])}
    rows = [
        {
            "Network": r["network"],
            "Task": r["task"],
            "R² before": f"{r['before']:.3f}",
            "R² lost": ranged(r["lost"], r["lost low"], r["lost high"], 3),
            "Early moved": ranged(r["early"], r["early low"], r["early high"]),
            "by seed": f"{r['early, seeds']:.2f}",
            "Late moved": ranged(r["late"], r["late low"], r["late high"]),
            "by seed ": f"{r['late, seeds']:.2f}",
        }
        for r in sorted(table.to_dict("records"), key=lambda r: order[r["network"]])
    ]
    return plain_table(pd.DataFrame(rows))


def ranks_shown(table: pd.DataFrame) -> Styler:
    """A row per network, what forgets least first, beside the paper's Fig. 23."""
    paper = FINE_TUNED["before"] - FINE_TUNED["after"]
    ranks = paper.rank().astype(int)
    rows = [
        {
            "Rank": r["rank"],
            "Network": r["network"],
            "R² lost": r["lost"],
            "Share lost": r["share"],
            "Late moved": r["late"],
            "Paper: R² lost": paper.get(r["network"], np.nan),
            "Paper: rank": ranks.get(r["network"], np.nan),
        }
        for r in rank_table(table).to_dict("records")
    ]
    return plain_table(pd.DataFrame(rows)).format(
        {"Paper: rank": "{:.0f}"}, precision=3, na_rep="–"
    )


def verdicts_table(*judged: Judged) -> Styler:
    """A row per part of the claims: measured, the rule, the verdict."""
    rows = [
        {
            "Claim": {"fine-tuning-layout": "layout", "fine-tuning-accuracy": "accuracy"}[
                found.finding.name
            ],
            "Part": part.name,
            "What": part.statistic,
            "Measured": ranged(m.value, m.low, m.high),
            "Holds if": str(part.rule),
            "Verdict": found.part(part),
        }
        for found in judged
        for part in FINDINGS[found.finding.name].parts
        for m in [found.measured[part.name]]
    ]
    return plain_table(pd.DataFrame(rows))
