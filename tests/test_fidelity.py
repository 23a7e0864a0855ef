"""What is said of simulated people beside NSD, by hand on small ones."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from analysis import fidelity, published, report
from analysis.prepare import Prepared


@pytest.fixture
def people(subject):
    """sim01-tiny, and one like it with half the signal; four sessions with known levels."""
    n = len(subject.vertices) + 1
    kept = np.ones(n, bool)
    kept[3] = False
    mean = np.repeat([[0.2], [0.4], [0.9], [0.5]], n, 1).astype(np.float32)
    prepared = Prepared(subject.responses, kept, mean, 2 * mean, "x")
    prepared.mean[:, 3] = np.nan
    noisy = dataclasses.replace(subject, ncsnr=subject.ncsnr / 2)
    return {"one": (subject, prepared), "noisy": (noisy, prepared)}


def test_ceilings_are_nsds_formula(subject):
    found = fidelity.ceilings(subject, [0.25, 0.5])
    ratios = np.quantile(subject.ncsnr, [0.25, 0.5]) / np.sqrt(10)  # a trial is worth ten of NSD's
    by_hand = [100 * s**2 / (s**2 + 1 / 3) for s in ratios]
    np.testing.assert_allclose(found, by_hand, rtol=1e-2)  # of a quantile, not its quantile


def test_session_levels_leave_out_vertices_without_data(people):
    levels = fidelity.session_levels(people)
    assert len(levels) == 8
    np.testing.assert_allclose(levels["mean"][:4], [0.2, 0.4, 0.9, 0.5], rtol=1e-6)
    np.testing.assert_allclose(levels["sd"], 2 * levels["mean"])


def test_the_table_says_who_lies_within_nsds_range(people):
    table = fidelity.fidelity_table(people).set_index("quantity")
    row = table.loc["median ncsnr of one of NSD's trials"]
    assert (row["NSD, least"], row["greatest"], row["known of"]) == (0.323, 0.542, 8)
    assert row["one"] == pytest.approx(2 * row["noisy"], rel=1e-6)
    inside = [0.323 <= row[name] <= 0.542 for name in people]
    assert row["within"] == f"{sum(inside)} of 2" and inside == [True, False]
    without = table.loc["vertices without data, %"]
    assert without["greatest"] == pytest.approx(100 * 350 / 39548)  # subject 6 of the challenge
    assert without["one"] == pytest.approx(100 / (len(people["one"][0].vertices) + 1))
    assert table.loc["mean of betas, % signal change", "one"] == pytest.approx(0.5)
    v1 = table.loc["V1, % of visual cortex"]
    assert v1["NSD, least"] == pytest.approx(11.257, abs=1e-3) and v1["within"] == ""
    assert v1["one"] == pytest.approx(100 * people["one"][0].roi("V1").mean())


def test_the_text_counts_what_the_table_says(people):
    table = fidelity.fidelity_table(people)
    said = report.fidelity_text(people, table)
    both = (table["within"] == "2 of 2").sum()
    assert f"{both} lie within it for all 2 simulated people" in said
    assert "Simulated data" in said and "Outside for some: median ncsnr" in said
    assert "The noisiest is noisy" in said
    inside = table.assign(within=["1 of 1" if w else "" for w in table["within"]])
    alone = {"one": people["one"]}
    assert "Outside" not in report.fidelity_text(alone, inside)


def test_published_ceilings_rise_with_the_percentile():
    assert (np.diff(published.NSD_CEILINGS.to_numpy(), axis=1) > 0).all()
    assert isinstance(published.NSD_NCSNR, pd.Series) and len(published.NSD_NCSNR) == 8
