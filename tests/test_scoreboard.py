import dataclasses
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis.findings import FINDINGS, record, scoreboard
from analysis.reported import evidence_of_paper
from analysis.scoreboard import SIGNS, each_subject, held, in_shuffled, shown, summary, whose
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
    (ran,) = [here for _, here, _ in rows if "0.950 [0.940,\u00a00.960]" in here]
    assert "holds" in ran and "Truth: found" in ran and "Control: not claimed" in ran
    assert "a <run>" in ran and "a <run>" not in shown(board).html  # escaped


def test_the_summary_counts_verdicts_and_says_whose_data_they_are(results) -> None:
    text = summary("sim01-tiny", scoreboard("sim01-tiny"))
    assert f"Hold: 1; do not hold: 0; cannot be told: 0; not run: {len(FINDINGS) - 1}" in text
    assert "**Simulated data.**" in text and "Held against the truth, found: 1." in text
    assert "where nothing is there: 0 of 1." in text


def test_whose_data_it_is_is_said(subject, monkeypatch) -> None:
    assert "sim01-tiny, a simulated person" in whose("sim01-tiny")
    for source, said in (("NSD", "photographs"), ("own", "own data"), ("Algonauts 2023", "averag")):
        person = dataclasses.replace(subject, source=source)
        monkeypatch.setattr("analysis.scoreboard.get_subject", lambda name, p=person: p)
        assert said in whose("subj01") and "simulated" not in whose("subj01")


def test_what_truth_and_control_say_is_counted() -> None:
    told = ["found", "missed", "found", "truth not known", "claimed, and is not there"]
    control = ["claimed", "not claimed", "not run", "not run", "not claimed"]
    board = pd.DataFrame({"Against truth": told, "Shuffled control": control})
    assert held(board) == "found: 2; missed: 1; claimed, and is not there: 1"
    assert in_shuffled(board) == "1 of 3"
    assert held(board[3:4]) == "truth not known" and in_shuffled(board[3:4]) == "0 of 0"


def test_subjects_stand_side_by_side(results) -> None:
    record("sim02", judge(FINDINGS["clip-best"], {}))
    head, *rows = Cells(each_subject().html).rows
    assert head == ["Finding", "sim01-tiny", "sim02"] and len(rows) == len(FINDINGS)
    told = {name.replace(" ", "-"): verdicts for name, *verdicts in rows}
    assert told["seeds-agree"] == ["✓ holds", "· not run"]
    assert told["clip-best"] == ["· not run"] * 2


def test_where_none_was_run_it_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("analysis.findings.data_root", lambda: tmp_path)
    assert each_subject().html == "<p>No subject was run.</p>"
