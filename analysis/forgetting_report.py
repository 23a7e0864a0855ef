"""What the page on fine-tuning says in words and tables."""

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from analysis.forgetting import Page
from analysis.published import FINE_TUNED, TABLE_14
from analysis.report import DASH, plain_table, ranged
from analysis.verdicts import Judged


def key_finding(
    page: Page, accuracy: pd.DataFrame, lost: pd.DataFrame, layout: Judged, related: Judged
) -> str:
    """What is forgotten, in a box; every number from the tables and the verdicts."""
    simulated = " of a simulated subject" if page.first.subject.simulated else ""
    lost_by = lost.loc[lost["lost low"] > 0, "network"].unique().tolist()
    gained_by = lost.loc[lost["lost high"] < 0, "network"].unique().tolist()
    gained = f" R² rose beyond its interval for {', '.join(gained_by)}." if gained_by else ""
    above = accuracy["low"] > accuracy["chance"]
    learned = accuracy.loc[above, "network"].unique().tolist()
    rows = "\n".join(
        f"- **{judged.finding.claim}** {judged.verdict.capitalize()}"
        + (f" ({judged.why})." if judged.why else ".")
        for judged in (layout, related)
    )
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"Tuned to {' and to '.join(page.tasks)}, {', '.join(lost_by) or 'no network'} lost R²"
        f"{simulated} beyond its interval.{gained} The interval of accuracy on test pictures lies"
        f" above chance for {', '.join(learned) or 'no network'}; where tuning taught nothing,"
        f" nothing can be said of forgetting.\n\n{rows}\n:::"
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


def forgetting_shown(table: pd.DataFrame) -> Styler:
    """A row per network and task: R² before, lost, and how far early and late vertices moved."""
    paper = FINE_TUNED["before"] - FINE_TUNED["after"]
    rows = [
        {
            "Network": r["network"],
            "Task": r["task"],
            "R² before": f"{r['before']:.3f}",
            "R² lost": ranged(r["lost"], r["lost low"], r["lost high"], 3),
            "Paper: R² lost": paper.get(r["network"], np.nan),
            "Early moved": ranged(r["early"], r["early low"], r["early high"]),
            "two seeds before": f"{r['early, seeds']:.2f}",
            "Late moved": ranged(r["late"], r["late low"], r["late high"]),
            "two seeds before ": f"{r['late, seeds']:.2f}",
        }
        for r in table.to_dict("records")
    ]
    return plain_table(pd.DataFrame(rows))


def verdicts_table(*judged: Judged) -> Styler:
    """A row per part of the claims: measured, the rule, the verdict."""
    rows = [
        {
            "Claim": {"fine-tuning-layout": "layout", "fine-tuning-accuracy": "accuracy"}[
                found.finding.name
            ],
            "Part": part.name,
            "What": part.statistic,
            "Measured": str(m or DASH),
            "Holds if": str(part.rule),
            "Verdict": found.part(part),
        }
        for found in judged
        for part in found.finding.parts
        for m in [found.measured.get(part.name)]
    ]
    return plain_table(pd.DataFrame(rows))
