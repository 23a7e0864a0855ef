from html.parser import HTMLParser

import pytest

from analysis.findings import FINDINGS, record, scoreboard
from analysis.reported import evidence_of_paper
from analysis.scoreboard import SIGNS, shown, summary
from analysis.verdicts import PREDICTS, Measured, judge


class Cells(HTMLParser):
    """The text of each cell of a table, row by row."""

    def __init__(self, html: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


@pytest.fixture
def results(data_folder, tmp_path, monkeypatch):
    """One finding that holds, would be found by truth, and isn't claimed of the control."""
    monkeypatch.setattr("analysis.findings.data_root", lambda: tmp_path)
    finding = FINDINGS["seeds-agree"]
    (part,) = finding.parts
    predicts = {PREDICTS: Measured(0.2, 0.1, 0.3, "test pictures")}

    def of(value: float):
        return judge(
            finding, {part.name: Measured(value, value - 0.01, value + 0.01, "x")} | predicts
        )

    record("sim01-tiny", of(0.95), truth=of(1.0), control=of(0.1), run="a <run>")


def test_every_finding_has_a_row_with_its_verdict(results) -> None:
    board = scoreboard("sim01-tiny", evidence_of_paper())
    rows = [row for row in Cells(shown(board).html).rows[1:] if len(row) == 3]
    assert len(rows) == len(FINDINGS) == len(board)
    for row, (claim, here, _) in zip(board.to_dict("records"), rows, strict=True):
        assert row["Claim"] in claim and row["Source"] in claim
        assert f"{SIGNS[row['Verdict']]} {row['Verdict']}" in here
    (ran,) = [here for _, here, _ in rows if "0.950 [0.940, 0.960]" in here]
    assert "holds" in ran and "Truth: found" in ran and "Control: not claimed" in ran
    assert "a <run>" in ran and "a <run>" not in shown(board).html  # escaped


def test_the_summary_counts_verdicts_and_says_whose_data_they_are(results) -> None:
    text = summary("sim01-tiny", scoreboard("sim01-tiny"))
    assert "1 holds" in text and f"{len(FINDINGS) - 1} not run" in text
    assert "**Simulated data.**" in text and "0 would have been claimed" in text
