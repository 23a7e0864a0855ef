"""The scoreboard as a page shows it: a row for each finding of the paper's Table 5.

run = run_of("sim01", "small")
shown(scoreboard("sim01", run, printed_numbers()))
each_subject(run)    # the verdicts of all who were run, side by side
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import pandas as pd

from analysis.downloads import csv
from analysis.findings import FINDINGS, Run, counts, scoreboard, subjects
from analysis.verdicts import NOT_RUN, SEEDS, Judged

# A sign beside the word, so that colour is not needed to tell verdicts apart.
SIGNS = {
    "holds": "✓",
    "does not hold": "✗",
    "cannot be told": "?",
    "not judged": "–",
    "not run": "·",
}
PAGES = {
    "Brain score": "brain_score",
    "Alignment": "alignment",
    "Model sizes": "model_size",
    "Fine-tuning": "fine_tuning",
    "Channels": "channels",
    "Consistency": "alignment",
    "limited-data": "limited_data",
    # of a page that is only run by papermill: none to link to
    "diffusion-uniform": "",
    "diffusion-steps": "",
    "diffusion-axes": "",
}
WHOSE = {
    "sim": "a simulated person who saw simulated scenes",
    "algonauts-": "a person of the Algonauts 2023 challenge, averaged over repeats",
    "own-": "the reader's own data",
    "": "a person of the Natural Scenes Dataset, who saw photographs of natural scenes",
}


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


def _here(judged: Judged, truth: str, run: str) -> str:
    """A verdict, each part with its interval and its bound, and what the intervals are over."""
    if judged.verdict == NOT_RUN:
        return badge(NOT_RUN)
    lines = [f"{judged.why}."] if judged.why else []
    for part in judged.finding.parts:
        if part.name in judged.measured:
            lines.append(f"{part.name}: {judged.measured[part.name]}; holds {part.rule}")
    over = dict.fromkeys(m.over for m in judged.measured.values() if m.known)
    lines.append(f"Intervals over {'; '.join(over)}." if over else "")
    if truth.startswith("truth"):
        truth = ""
    lines += [f"Truth: {truth}." if truth else "", run]
    unbroken = [escape(line).replace(" to ", "\u00a0to\u00a0") for line in lines if line]
    return f"{badge(judged.verdict)}<br><small>{'<br>'.join(unbroken)}</small>"


def _printed(numbers: Mapping[str, float]) -> str:
    return "<br>".join(f"{escape(part)}: {value:.3f}" for part, value in numbers.items()) or "–"


def parts_table(board: pd.DataFrame) -> pd.DataFrame:
    """A row per part of each finding: value, interval, bound, verdicts, truth, printed number."""
    rows = []
    for row in board.to_dict("records"):
        parts = row["Judged"].table().assign(Printed=lambda t, r=row: t["Part"].map(r["Printed"]))
        parts.insert(0, "Finding", row["Finding"])
        told = {"Finding's verdict": row["Verdict"], "Against truth": row["Against truth"]}
        rows.append(parts.assign(**told, Run=row["Run"]))
    return pd.concat(rows, ignore_index=True)


def shown(board: pd.DataFrame) -> Board:
    """A row per finding: the claim, our verdict with its numbers, and what the paper prints.

    Each claim links to its page, which lies beside the scoreboard's, where the book has one.
    """
    rows = []
    for about, some in board.groupby("About", sort=False):
        rows.append(f'<tr class="about"><th colspan="3" scope="rowgroup">{escape(about)}</th></tr>')
        for row in some.to_dict("records"):
            page = PAGES.get(row["Finding"], PAGES[about])
            here = _here(row["Judged"], row["Against truth"], row["Run"])
            claim = escape(row["Claim"])
            linked = f'<a href="{page}.html">{claim}</a>' if page else claim
            rows.append(
                f"<tr><td>{linked}"
                f"<br><small>{escape(row['Source'])}</small></td>"
                f"<td data-label='Here: '>{here}</td>"
                f"<td data-label='The paper prints: '>"
                f"<small>{_printed(row['Printed'])}</small></td></tr>"
            )
    head = "<tr><th>Claim</th><th>Here</th><th>The paper prints</th></tr>"
    widths = "".join(f'<col style="width: {share}%">' for share in (36, 42, 22))
    return Board(
        f'<table class="scoreboard claims"><colgroup>{widths}</colgroup><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{csv(parts_table(board), 'scoreboard').html}"
    )


def each_subject(run: Run | None = None) -> Board:
    """A row per finding with its verdict for each subject that has any, of one run."""
    each = {name: scoreboard(name, run)["Verdict"].tolist() for name in subjects()}
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
    return f"{subject}, {next(said for start, said in WHOSE.items() if subject.startswith(start))}"


def counted(board: pd.DataFrame) -> str:
    """How many findings have which verdict, in words."""
    plural = {"holds": "hold", "does not hold": "do not hold"}
    each = counts(board).items()
    return "; ".join(f"{plural.get(verdict, verdict)}: {n}" for verdict, n in each)


def held(board: pd.DataFrame) -> str:
    """How the verdicts stand against the truth, and how many rows were judged: a sentence."""
    told, verdicts = board["Against truth"].value_counts(), counts(board)
    found, missed, claimed, left = (
        int(told.get(said, 0))
        for said in ("found", "missed", "claimed, and is not there", "not there, and not claimed")
    )
    judged = len(board) - verdicts[NOT_RUN] - verdicts["not judged"]
    fewer = f", {n} measured over fewer" if (n := verdicts["not judged"]) else ""
    truth = ""
    if found + missed + claimed + left:
        truth = (
            f"Found: {found} of the {found + missed} claims known to be true of the simulated"
            f" person; claimed: {claimed} of the {claimed + left} known to be false. "
        )
    return (
        f"{truth}{judged} rows were judged over at least {SEEDS} seeds{fewer}, the others not run."
    )


def summary(subject: str, board: pd.DataFrame, run: Run | None) -> str:
    """How many findings have which verdict, whose data they are of and which run, in a box."""
    box = (
        ":::{admonition} Key finding\n:class: tip\n"
        f"The paper's {len(board)} findings on `{subject}` ({run or 'nothing was run'})."
        f" {counted(board).capitalize()}. {held(board)}\n:::"
    )
    if not subject.startswith("sim"):
        return box
    warning = (
        ":::{warning}\n**Simulated data.** A verdict here says what the analysis finds in a subject"
        " that was made up, with networks that were never trained: nothing of a brain, and nothing"
        " against the paper.\n:::\n\n"
    )
    return warning + box
