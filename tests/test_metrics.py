"""Brain score and its parts against loops over NSD's formulas, and against planted truths."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int

from analysis.explained import ncsnr, noise_ceiling, r2
from analysis.metrics import (
    brain_score,
    over_runs,
    rank_correlation,
    roi_table,
    runs_table,
)


def repeated(n_pictures: int, repeats: int = 3, seed: int = 0) -> Int[np.ndarray, " trial"]:
    """Which picture each trial showed, in random order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(n_pictures), repeats))


def test_r2_is_its_formula_and_scipys_where_it_is_a_fit() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(50, 4)) + 3, rng.normal(size=(50, 4))
    predicted = y * 0.5 + x
    by_hand = []
    for v in range(4):
        mean = sum(y[:, v]) / 50
        rest = sum((a - b) ** 2 for a, b in zip(y[:, v], predicted[:, v], strict=True))
        by_hand.append(1 - rest / sum((a - mean) ** 2 for a in y[:, v]))
    np.testing.assert_allclose(r2(predicted, y), by_hand, rtol=1e-12)
    lines = [scipy.stats.linregress(x[:, v], y[:, v]) for v in range(4)]
    fitted = np.stack([f.intercept + f.slope * x[:, v] for v, f in enumerate(lines)], 1)
    np.testing.assert_allclose(r2(fitted, y), [f.rvalue**2 for f in lines], rtol=1e-10)


def test_r2_of_the_truth_is_1_of_the_mean_0_and_of_worse_below() -> None:
    y = np.random.default_rng(1).normal(size=(30, 2))
    assert r2(y, y).tolist() == [1, 1]
    np.testing.assert_allclose(r2(np.broadcast_to(y.mean(0), y.shape), y), 0, atol=1e-12)
    assert (r2(-y, y) < -2).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    level=st.floats(-1e3, 1e3, width=32), n=st.integers(1, 500), kind=st.sampled_from(["f4", "f8"])
)
def test_no_score_where_responses_do_not_vary(level: float, n: int, kind: str) -> None:
    y = np.full((n, 1), level, kind)
    assert np.isnan(r2(np.zeros_like(y), y)).all()
    scores = brain_score(np.zeros_like(y), y, np.arange(n), np.ones(1), part="test", samples=3)
    assert np.isnan(scores.r2).all() and np.isnan(scores.resampled).all()


def test_noise_ceiling_is_nsds_formula() -> None:
    snr = np.array([0.0, 0.1, 0.46, 1.0, 1.2])
    for n in (1, 2, 3):  # NSD's manual: 100 * ncsnr^2 / (ncsnr^2 + 1/n) per cent
        expected = [100 * s**2 / (s**2 + 1 / n) / 100 for s in snr]
        np.testing.assert_allclose(noise_ceiling(snr, n), expected, rtol=1e-12)
    assert noise_ceiling(np.ones(1)) == 0.5


def planted(snr: Float[np.ndarray, " vertex"], trial_picture: np.ndarray, seed: int):
    """Signal [picture, vertex] and responses of unit variance in all, with noise of its own."""
    rng = np.random.default_rng(seed)
    noise = 1 / np.hypot(snr, 1)
    signal = snr * noise * rng.normal(size=(trial_picture.max() + 1, len(snr)))
    return signal, signal[trial_picture] + noise * rng.normal(size=(len(trial_picture), len(snr)))


def test_ncsnr_recovers_what_was_planted() -> None:
    snr = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    shown = repeated(20_000)
    found = ncsnr(planted(snr, shown, seed=0)[1], shown)
    spread = (1 + snr**2) / 20_000**0.5  # sd of an estimate of ncsnr²
    assert (np.abs(found**2 - snr**2) < 4 * spread).all()


def test_ncsnr_is_nsds_formula_over_pictures_shown_thrice() -> None:
    rng = np.random.default_rng(2)
    shown = rng.permutation(np.repeat(np.arange(40), [1] * 10 + [2] * 10 + [3] * 20))
    y = planted(np.array([0.5, 2.0, 0.0]), shown, seed=3)[1]
    expected = []
    for v in range(3):
        variances = []
        for picture in range(40):
            trials = [y[t, v] for t in range(len(y)) if shown[t] == picture]
            if len(trials) == 3:
                mean = sum(trials) / 3
                variances.append(sum((a - mean) ** 2 for a in trials) / 2)
        noise_sd = (sum(variances) / len(variances)) ** 0.5
        signal_sd = max(0.0, 1 - noise_sd**2) ** 0.5
        expected.append(signal_sd / noise_sd)
    # the formula's z-score divides by the sample sd, what `ncsnr` is given by the population's
    session = np.arange(len(y)) % 2
    given = (
        y
        / np.array([np.sqrt((sum(session == s) - 1) / sum(session == s)) for s in session])[:, None]
    )
    np.testing.assert_allclose(ncsnr(given, shown, session), expected, rtol=1e-12)
    given = y / np.sqrt((len(y) - 1) / len(y))
    np.testing.assert_allclose(ncsnr(given, shown), expected, rtol=1e-12)


def test_ceiling_and_words_follow_the_showings_behind_a_trial() -> None:
    rng = np.random.default_rng(0)
    predicted, responses = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    ratio, shown = np.array([0.3, 0.5, 1.0]), np.arange(6)

    def scored(repeats: list[int]):
        return brain_score(
            predicted, responses, shown, ratio, "test", repeats=np.array(repeats), samples=10
        )

    one = scored([1] * 6)
    assert one.targets == "single trials"
    three = scored([3] * 6)
    assert three.targets == "means of 3 trials"
    np.testing.assert_allclose(three.ceiling, ratio**2 / (ratio**2 + 1 / 3))
    mixed = scored([3, 3, 2, 2, 1, 1])
    np.testing.assert_allclose(mixed.ceiling, ratio**2 / (ratio**2 + (2 / 3 + 2 / 2 + 2) / 6))
    unknown = scored([0] * 6)
    assert unknown.targets == "means over repeats, their number not known"
    everywhere = np.ones(3, bool)
    assert np.isnan(unknown.over(everywhere, normalised=True).value)
    assert unknown.over(everywhere).value == one.over(everywhere).value


def test_ncsnr_without_a_picture_shown_thrice_says_so() -> None:
    with pytest.raises(ValueError, match="trial_picture: no picture shown three times"):
        ncsnr(np.zeros((4, 1)), np.array([0, 0, 1, 1]))


def test_the_bootstrap_is_a_loop_that_repeats_the_trials_of_drawn_pictures() -> None:
    rng = np.random.default_rng(4)
    shown = rng.permutation(np.repeat(np.arange(7), [3, 1, 2, 3, 3, 2, 1]))
    signal, y = planted(np.array([1.0, 0.5]), shown, seed=5)
    scores = brain_score(signal, y, shown, np.ones(2), part="test", samples=20, seed=6)
    counts = np.random.default_rng(6).multinomial(7, np.full(7, 1 / 7), size=20)
    for count, resampled in zip(counts, scores.resampled, strict=True):
        drawn = [p for p in range(7) for _ in range(count[p])]
        trials = [t for p in drawn for t in range(len(y)) if shown[t] == p]
        rest = sum((y[t] - signal[shown[t]]) ** 2 for t in trials)
        total = sum((y[t] - y.mean(0)) ** 2 for t in trials)  # about the mean of all trials
        np.testing.assert_allclose(resampled, 1 - rest / total, rtol=1e-9)
    np.testing.assert_allclose(scores.r2, r2(signal[shown], y), rtol=1e-12)


def test_scores_of_many_vertices_are_those_of_each_alone() -> None:
    shown = repeated(5)
    signal, y = planted(np.full(5000, 0.7), shown, seed=7)
    all_, few = (
        brain_score(signal[:, some], y[:, some], shown, np.ones(n), part="test", samples=2)
        for some, n in ((slice(None), 5000), (slice(4090, 4100), 10))
    )
    np.testing.assert_allclose(all_.r2[4090:4100], few.r2, rtol=1e-9)
    np.testing.assert_allclose(all_.resampled[:, 4090:4100], few.resampled, rtol=1e-9)


def test_a_high_level_costs_no_digits() -> None:
    shown = repeated(20)
    signal, y = planted(np.array([0.7]), shown, seed=8)
    plain, raised = (
        brain_score(signal + level, y + level, shown, np.ones(1), part="test", samples=5)
        for level in (0.0, 1e6)
    )
    np.testing.assert_allclose(raised.r2, plain.r2, rtol=1e-7)
    np.testing.assert_allclose(raised.resampled, plain.resampled, rtol=1e-7)


def test_the_interval_covers_the_planted_r2_about_as_often_as_it_says() -> None:
    snr, tries, shown = 0.8, 300, repeated(100)
    variance = snr**2 / (snr**2 + 1)  # of the signal; all is 1
    truth = 1 - (variance * 0.3**2 + (1 - variance))  # of a prediction of 0.7 x the signal
    signal, y = planted(np.full(tries, snr), shown, seed=9)  # a vertex is a new experiment
    scores = brain_score(0.7 * signal, y, shown, np.full(tries, snr), part="test", samples=400)
    low, high = np.quantile(scores.resampled, [0.025, 0.975], axis=0)
    covered = np.mean((low <= truth) & (truth <= high))
    assert 0.88 <= covered <= 0.985  # percentile intervals of 100 pictures are a little narrow
    shift = scores.resampled.mean() - scores.r2.mean()
    assert abs(shift) < 0.002  # about its own mean each draw would lie (1 - R²) / 100 lower
    one = scores.over(np.arange(tries) == 0)
    assert (one.low, one.high) == pytest.approx((low[0], high[0]))
    assert one.low < one.value < one.high


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("repeats", [[3] * 600, [1] * 200 + [2] * 200 + [3] * 200])
def test_the_true_signal_reaches_the_ceiling(repeats: list[int], average: bool) -> None:
    shown = np.repeat(np.arange(600), repeats)
    snr = np.linspace(0.2, 1.2, 200)
    signal, y = planted(snr, shown, seed=10)
    scores = brain_score(signal, y, shown, snr, part="test", average=average, samples=2)
    for some in (snr < 0.5, snr > 0.5, snr > 0):
        share = scores.over(some, normalised=True)
        assert share.value == pytest.approx(1, abs=0.03)
        assert share.metric == "R² / noise ceiling"


def test_averaging_scores_means_over_repeats_under_nsds_ceiling_for_mixed_repeats() -> None:
    shown = np.array([0, 1, 2, 3, 1, 2, 3, 2, 3, 0, 0, 4])  # 3, 2, 3, 3 and 1 times
    snr = np.array([0.4, 1.1])
    signal, y = planted(snr, shown, seed=11)
    scores = brain_score(signal, y, shown, snr, part="test", average=True, samples=2)
    means = np.stack([np.mean([y[t] for t in np.flatnonzero(shown == p)], 0) for p in range(5)])
    np.testing.assert_allclose(scores.r2, r2(signal, means), rtol=1e-9)
    once, twice, thrice = 1, 1, 3  # pictures; NSD: s² / (s² + (A/3 + B/2 + C/1) / (A + B + C))
    noise = (thrice / 3 + twice / 2 + once / 1) / (thrice + twice + once)
    np.testing.assert_allclose(scores.ceiling, snr**2 / (snr**2 + noise), rtol=1e-12)
    assert scores.targets == "means of 2 trials"
    single = brain_score(signal, y, shown, snr, part="test", samples=2)
    np.testing.assert_allclose(single.ceiling, snr**2 / (snr**2 + 1), rtol=1e-12)
    assert single.targets == "single trials"


def test_shuffled_responses_give_no_score() -> None:
    shown = repeated(300)
    snr = np.full(50, 1.0)
    signal, y = planted(snr, shown, seed=12)
    ordered = brain_score(signal, y, shown, snr, part="test", samples=50)
    mixed = np.random.default_rng(13).permutation(y)
    scores = brain_score(signal, mixed, shown, snr, part="test", samples=50)
    everywhere = np.ones(50, bool)
    assert ordered.over(everywhere).low > 0.4
    assert (
        scores.over(everywhere).high < 0
    )  # half of the variance is predicted, and none of it right


def test_seed_decides_the_resampled_and_nothing_else() -> None:
    shown = repeated(10)
    signal, y = planted(np.ones(2), shown, seed=14)
    one, same, other = (
        brain_score(signal, y, shown, np.ones(2), part="test", samples=5, seed=s) for s in (1, 1, 2)
    )
    assert np.array_equal(one.resampled, same.resampled)
    assert not np.array_equal(one.resampled, other.resampled)
    assert np.array_equal(one.r2, other.r2)


def test_a_scores_text_names_metric_targets_pictures_and_vertices() -> None:
    shown = repeated(10)
    snr = np.full(1200, 1.0)
    signal, y = planted(snr, shown, seed=15)
    scores = brain_score(signal, y, shown, snr, part="test", samples=20)
    score = scores.over(np.arange(1200) >= 100)
    assert str(score) == (
        f"R² {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
        " (single trials, 10 test pictures, 1,100 vertices, 95% interval over pictures)"
    )
    share = brain_score(signal, y, shown, snr, part="validation", average=True, samples=20)
    text = str(share.over(snr > 0, normalised=True))
    assert text.startswith("R² / noise ceiling ")
    assert "(means of 3 trials, 10 validation pictures, 1,200 vertices" in text


def test_roi_table_has_a_row_for_all_and_for_each_roi_that_has_vertices() -> None:
    shown = repeated(30)
    snr = np.linspace(0.5, 1, 6)
    signal, y = planted(snr, shown, seed=16)
    scores = brain_score(signal, y, shown, snr, part="test", samples=20)
    masks = {"V1": np.arange(6) < 2, "FFA": np.arange(6) == 5, "none": np.zeros(6, bool)}
    table = roi_table(scores, masks, ["FFA", "absent", "none", "V1"])
    assert isinstance(table, pd.DataFrame)
    assert table["ROI"].tolist() == ["all", "FFA", "V1"]
    assert table["vertices"].tolist() == [6, 1, 2]
    single = r2(signal[shown], y)
    expected = [single.mean(), single[5], single[:2].mean()]
    np.testing.assert_allclose(table["R²"], expected, rtol=1e-9)
    ceiling = snr**2 / (snr**2 + 1)
    expected = [ceiling.mean(), ceiling[5], ceiling[:2].mean()]
    np.testing.assert_allclose(table["noise ceiling"], expected, rtol=1e-9)
    np.testing.assert_allclose(table["R² / ceiling"], table["R²"] / expected, rtol=1e-9)
    assert ((table["low"] < table["R²"]) & (table["R²"] < table["high"])).all()


def test_rank_correlation_is_pearsons_of_the_ranks() -> None:
    rng = np.random.default_rng(17)
    a = rng.permutation(20).astype(float)
    b = a + 8 * rng.normal(size=20)
    ranks = [np.array([sum(x < y for x in v) for y in v]) for v in (a, b)]
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert rank_correlation(a, a**3) == pytest.approx(1)


def test_over_runs_is_scipys_t_interval_and_covers_as_often_as_it_says() -> None:
    values = np.random.default_rng(23).normal(5, 2, size=(3, 4000))
    low, high = over_runs(values)
    expected = scipy.stats.t.interval(0.95, 2, values[:, 0].mean(), scipy.stats.sem(values[:, 0]))
    assert (low[0], high[0]) == pytest.approx(expected)
    assert np.mean((low < 5) & (high > 5)) == pytest.approx(0.95, abs=0.012)
    assert np.isnan(over_runs(values[:1])).all()


def test_the_runs_table_averages_runs_and_their_draws_and_shows_both_intervals() -> None:
    shown, snr = repeated(30), np.full(4, 0.9)
    signal, y = planted(snr, shown, seed=24)
    shares = (1.0, 0.8, 0.6)
    each = [brain_score(a * signal, y, shown, snr, "test", samples=50) for a in shares]
    rois = {"V1": np.arange(4) < 2, "FFA": np.arange(4) == 2}
    runs = [(each[0], rois), (each[1], rois), (each[2], {"V1": rois["V1"]})]
    table = runs_table(runs, ["V1", "FFA", "absent"], rest=True).set_index("ROI")
    assert table.index.tolist() == ["all", "V1", "FFA", "rest"]
    assert table["runs"].tolist() == [3, 3, 2, 3]
    v1 = [s.r2[:2].mean() for s in each]
    assert table.loc["V1", "R²"] == pytest.approx(np.mean(v1))
    assert table.loc["V1", "sd over runs"] == pytest.approx(np.std(v1, ddof=1))
    ends = scipy.stats.t.interval(0.95, 2, np.mean(v1), scipy.stats.sem(v1))
    assert tuple(table.loc["V1", ["runs low", "runs high"]]) == pytest.approx(ends)
    drawn = np.mean([s.resampled[:, :2].mean(1) for s in each], axis=0)
    ends = np.quantile(drawn, [0.025, 0.975])
    assert tuple(table.loc["V1", ["low", "high"]]) == pytest.approx(ends)
    alone = runs_table(runs[:1], ["V1"])
    assert alone["sd over runs"].isna().all() and alone["runs low"].isna().all()


def test_parts_of_areas_and_the_rest_have_rows_of_their_own() -> None:
    from analysis.subject import AREAS_AND_PARTS, add_area_unions

    one = np.arange(6)
    rois = add_area_unions({"V1v": one == 0, "V1d": one == 1, "hV4": one == 2, "OFA": one == 3})
    shown, snr = repeated(20), np.ones(6)
    signal, y = planted(snr, shown, seed=25)
    scores = brain_score(signal, y, shown, snr, "test", samples=5)
    table = roi_table(scores, rois, AREAS_AND_PARTS, rest=True).set_index("ROI")
    assert table.index.tolist() == ["all", "V1", "V1v", "V1d", "V4", "OFA", "rest"]
    assert table.loc["rest", "vertices"] == 2
    assert table.loc["rest", "R²"] == pytest.approx(scores.r2[4:].mean())
    assert table.loc["V1d", "R² / ceiling"] == pytest.approx(scores.r2[1] / 0.5)
