"""The scoreboard as a page shows it: a row for each finding of the paper's Table 5.

shown(scoreboard("sim01", evidence_of_paper()))
"""

from dataclasses import dataclass
from html import escape

import pandas as pd

from analysis.findings import counts
from analysis.study import get_subject

# A sign beside the word, so that colour is not needed to tell verdicts apart.
SIGNS = {"holds": "✓", "does not hold": "✗", "cannot be told": "?", "not run": "·"}


@dataclass(frozen=True)
class Board:
    """A table as HTML."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def badge(verdict: str) -> str:
    """A verdict in its colour, with its sign and word."""
    name = verdict.replace(" ", "-")
    return f'<span class="verdict {name}">{SIGNS[verdict]} {escape(verdict)}</span>'


def _numbers(text: str) -> str:
    """Numbers of several parts, a line for each."""
    return "<br>".join(escape(part) for part in text.split("; ")) if text else "–"


def shown(board: pd.DataFrame) -> Board:
    """A row per finding: the claim, our verdict with its numbers, and the paper's by one rule.

    Below each, what truth says of the verdict and whether the shuffled control finds anything.
    """
    rows = []
    for about, some in board.groupby("About", sort=False):
        rows.append(f'<tr class="about"><th colspan="3" scope="rowgroup">{escape(about)}</th></tr>')
        for row in some.to_dict("records"):
            checks = f"Truth: {row['Against truth']}. Control: {row['Shuffled control']}."
            here = "<br>".join([_numbers(row["Measured"]), escape(checks), escape(row["Run"])])
            ran = f"<br><small>{here}</small>" if row["Measured"] else ""
            rows.append(
                f"<tr><td>{escape(row['Claim'])}<br><small>{escape(row['Source'])}</small></td>"
                f"<td>{badge(row['Verdict'])}{ran}</td>"
                f"<td>{escape(row['by the same rule'])}<br>"
                f"<small>{_numbers(row['Published numbers'])}</small></td></tr>"
            )
    head = "<tr><th>Claim</th><th>Here</th><th>The paper's numbers, by the same rule</th></tr>"
    widths = "".join(f'<col style="width: {share}%">' for share in (36, 34, 30))
    return Board(
        f'<table class="scoreboard"><colgroup>{widths}</colgroup><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def summary(subject: str, board: pd.DataFrame) -> str:
    """How many findings have which verdict, and whose data they are of, in boxes."""
    each = ", ".join(f"{n} {verdict}" for verdict, n in counts(board).items())
    claimed = board["Shuffled control"].eq("claimed").sum()
    box = (
        ":::{admonition} Key finding\n:class: tip\n"
        f"Of {len(board)} findings, on `{subject}`: {each}."
        f" Of shuffled responses, {claimed} would have been claimed.\n:::"
    )
    if not get_subject(subject).simulated:
        return box
    warning = (
        ":::{warning}\n**Simulated data.** A verdict here says what the analysis finds in a subject"
        " that was made up, with networks that were never trained: nothing of a brain, and nothing"
        " against the paper.\n:::\n\n"
    )
    return warning + box
