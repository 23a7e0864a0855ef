from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis.findings import FINDINGS, Run, record, scoreboard
from analysis.reported import printed_numbers
from analysis.scoreboard import PAGES, SIGNS, each_subject, held, parts_table, shown, summary, whose
from analysis.verdicts import PREDICTS, Measured, judge

RUN = Run("small", "fast", "factortopy", (0, 1, 2))


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
def results(tmp_path, monkeypatch):
    """A finding that holds, and would of the truth; another measured over one seed."""
    monkeypatch.setattr("analysis.findings.data_root", lambda: tmp_path)

    def of(name: str, value: float, seeds: int = 3):
        parts = {part.name: Measured(value, value - 0.01, value + 0.01, "9 <patches>")
                 for part in FINDINGS[name].parts}  # fmt: skip
        return judge(FINDINGS[name], parts | {PREDICTS: Measured(0.2, 0.1, 0.3, "y")}, seeds)

    record("sim01-tiny", of("top-channels", 0.95), of("top-channels", 1.0), RUN)
    record("sim01-tiny", of("seeds-agree", 0.9, seeds=1), None, RUN)


def test_every_finding_has_a_row_with_its_verdict_bound_and_page(results) -> None:
    board = scoreboard("sim01-tiny", RUN, printed_numbers())
    html = shown(board).html
    rows = [row for row in Cells(html).rows[1:] if len(row) == 3]
    assert len(rows) == len(FINDINGS) == len(board)
    for row, (claim, here, paper) in zip(board.to_dict("records"), rows, strict=True):
        assert row["Claim"] in claim and row["Source"] in claim
        assert f"{SIGNS[row['Verdict']]} {row['Verdict']}" in here
        assert all(f"{value:.3f}" in paper for value in row["Printed"].values())
        assert "holds" not in paper
    (ran,) = [here for _, here, _ in rows if "0.950 (0.940\u00a0to\u00a00.960)" in here]
    assert "holds above 0.5" in ran and "Truth: found" in ran and str(RUN) in ran
    assert "Intervals over 9 <patches>; y." in ran and "<patches>" not in html  # escaped
    (one,) = [here for _, here, _ in rows if "0.900" in here]
    assert "not judged" in one and "1 seed; a verdict is over 3" in one and "Truth" not in one
    assert html.count('href="limited_data.html"') == 1 and set(PAGES) > set(board["About"])
    parts = parts_table(board).set_index(["Finding", "Part"])
    assert parts.loc[("diffusion-steps", "steps between"), "Printed"] == 10
    assert len(parts) == sum(len(f.parts) for f in FINDINGS.values()) + 2  # and what predicts


def test_the_summary_counts_verdicts_and_says_whose_data_they_are(results) -> None:
    text = summary("sim01-tiny", scoreboard("sim01-tiny", RUN), RUN)
    assert "Hold: 1; do not hold: 0; cannot be told: 0; not judged: 1; not run: 16." in text
    assert "**Simulated data.**" in text and f"({RUN})" in text
    assert "Found: 1 of the" in text and "claimed: 0 of the 0 known to be false" in text
    assert "1 rows were judged over at least 3 seeds, 1 measured over fewer" in text
    assert "Simulated" not in summary("subj01", scoreboard("subj01"), None)


def test_whose_data_it_is_is_said() -> None:
    assert "sim01-tiny, a simulated person" in whose("sim01-tiny")
    for name, said in (("subj01", "photographs"), ("own-me", "own data"),
                       ("algonauts-subj01", "averag")):  # fmt: skip
        assert said in whose(name) and "simulated" not in whose(name)


def test_what_truth_says_is_counted() -> None:
    told = ["found", "missed", "found", "truth not known", "claimed, and is not there"]
    board = pd.DataFrame({"Against truth": told, "Verdict": ["holds"] * 4 + ["not run"]})
    said = held(board)
    assert "Found: 2 of the 3 claims known to be true of the simulated person" in said
    assert "claimed: 1 of the 1 known to be false. 4 rows were judged" in said
    assert held(board[3:4]).startswith("1 rows were judged over at least 3 seeds, the others")


def test_subjects_stand_side_by_side(results) -> None:
    record("sim02", judge(FINDINGS["clip-best"], {}), None, RUN)
    head, *rows = Cells(each_subject(RUN).html).rows
    assert head == ["Finding", "sim01-tiny", "sim02"] and len(rows) == len(FINDINGS)
    told = {name.replace(" ", "-"): verdicts for name, *verdicts in rows}
    assert told["top-channels"] == ["✓ holds", "· not run"]
    assert told["clip-best"] == ["· not run"] * 2


def test_where_none_was_run_it_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("analysis.findings.data_root", lambda: tmp_path)
    assert each_subject().html == "<p>No subject was run.</p>"
