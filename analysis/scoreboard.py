"""The scoreboard as a page shows it: a row for each finding of the paper's Table 5.

shown(scoreboard("sim01", evidence_of_paper()))
each_subject()    # the verdicts of all who were run, side by side
"""

import re
from dataclasses import dataclass
from html import escape

import pandas as pd

from analysis.downloads import csv
from analysis.findings import FINDINGS, counts, scoreboard, subjects
from analysis.study import get_subject
from analysis.verdicts import NOT_RUN, TRUTH_UNKNOWN

# A sign beside the word, so that colour is not needed to tell verdicts apart.
SIGNS = {"holds": "✓", "does not hold": "✗", "cannot be told": "?", "not run": "·"}


@dataclass(frozen=True)
class Board:
    """A table as HTML, with a link to what it says."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def badge(verdict: str) -> str:
    """A verdict in its colour, with its sign and word."""
    name = verdict.replace(" ", "-")
    return f'<span class="verdict {name}">{SIGNS[verdict]} {escape(verdict)}</span>'


def _numbers(text: str) -> str:
    """Numbers of several parts, a line for each; intervals are not broken over lines."""
    whole = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), text)
    return "<br>".join(escape(part) for part in whole.split("; ")) if text else "–"


def shown(board: pd.DataFrame) -> Board:
    """A row per finding: the claim, our verdict with its numbers, and the paper's by one rule.

    Below each, what truth says of the verdict and whether the shuffled control finds anything.
    """
    rows = []
    for about, some in board.groupby("About", sort=False):
        rows.append(f'<tr class="about"><th colspan="3" scope="rowgroup">{escape(about)}</th></tr>')
        for row in some.to_dict("records"):
            truth = row["Against truth"].removeprefix("truth ")
            checks = f"Truth: {truth}. Control: {row['Shuffled control']}."
            here = "<br>".join([_numbers(row["Measured"]), escape(checks), escape(row["Run"])])
            ran = f"<br><small>{here}</small>" if row["Measured"] else ""
            rows.append(
                f"<tr><td>{escape(row['Claim'])}<br><small>{escape(row['Source'])}</small></td>"
                f"<td data-label='Here: '>{badge(row['Verdict'])}{ran}</td>"
                f"<td data-label='The paper: '>{escape(row['by the same rule'])}<br>"
                f"<small>{_numbers(row['Published numbers'])}</small></td></tr>"
            )
    head = "<tr><th>Claim</th><th>Here</th><th>The paper's numbers, by the same rule</th></tr>"
    widths = "".join(f'<col style="width: {share}%">' for share in (36, 34, 30))
    return Board(
        f'<table class="scoreboard claims"><colgroup>{widths}</colgroup><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{csv(board, 'scoreboard').html}"
    )


def each_subject() -> Board:
    """A row per finding with its verdict for each subject that has any."""
    each = {name: scoreboard(name)["Verdict"].tolist() for name in subjects()}
    if not each:
        return Board("<p>No subject was run.</p>")
    table = pd.DataFrame({"Finding": [name.replace("-", " ") for name in FINDINGS], **each})
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table)
    rows = "".join(
        f'<tr><th scope="row">{escape(finding)}</th>'
        + "".join(f"<td>{badge(verdict)}</td>" for verdict in verdicts)
        + "</tr>"
        for finding, *verdicts in table.itertuples(index=False)
    )
    return Board(
        f'<table class="scoreboard"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        + csv(table, "subjects").html
    )


def whose(subject: str) -> str:
    """Whose data the scoreboard is of, in words."""
    source = get_subject(subject).source
    told = {
        "simulated": "a simulated person who saw simulated scenes",
        "NSD": "a person of the Natural Scenes Dataset, who saw photographs of natural scenes",
        "Algonauts 2023": "a person of the Algonauts 2023 challenge, averaged over repeats",
        "own": "the reader's own data",
    }
    return f"{subject}, {told[source]}"


def counted(board: pd.DataFrame) -> str:
    """How many findings have which verdict, in words."""
    plural = {"holds": "hold", "does not hold": "do not hold"}
    each = counts(board).items()
    return "; ".join(f"{plural.get(verdict, verdict)}: {n}" for verdict, n in each)


def held(board: pd.DataFrame) -> str:
    """How the verdicts stand against the truth, in words."""
    known = board.loc[board["Against truth"] != TRUTH_UNKNOWN, "Against truth"].value_counts()
    return "; ".join(f"{said}: {n}" for said, n in known.items()) or TRUTH_UNKNOWN


def in_shuffled(board: pd.DataFrame) -> str:
    """How many findings the shuffled control claims, of those that it was run for."""
    claimed = int(board["Shuffled control"].eq("claimed").sum())
    return f"{claimed} of {int(board['Shuffled control'].ne(NOT_RUN).sum())}"


def summary(subject: str, board: pd.DataFrame) -> str:
    """How many findings have which verdict, and whose data they are of, in boxes."""
    box = (
        ":::{admonition} Key finding\n:class: tip\n"
        f"The paper's {len(board)} findings on `{subject}`. {counted(board).capitalize()}."
        f" Held against the truth, {held(board)}."
        f" Claimed of shuffled responses, where nothing is there: {in_shuffled(board)}.\n:::"
    )
    if not get_subject(subject).simulated:
        return box
    warning = (
        ":::{warning}\n**Simulated data.** A verdict here says what the analysis finds in a subject"
        " that was made up, with networks that were never trained: nothing of a brain, and nothing"
        " against the paper.\n:::\n\n"
    )
    return warning + box
