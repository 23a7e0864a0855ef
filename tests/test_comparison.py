"""Two models compared: loops by hand, false positives at the nominal rate, no finding in noise."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from analysis.comparison import (
    Paired,
    compare,
    false_discovery,
    gains,
    sign_flip,
    stands_out,
)
from analysis.explained import r2
from analysis.files import InputError


def trials(n_pictures: int, repeats: int = 3):
    return np.random.default_rng(0).permutation(np.repeat(np.arange(n_pictures), repeats))


def two_models(n_pictures: int, n_vertices: int, seed: int, apart: float = 0.0):
    """Predictions of a signal with errors of the same size, the second's larger by `apart`."""
    rng = np.random.default_rng(seed)
    shown = trials(n_pictures)
    signal = rng.normal(size=(n_pictures, n_vertices))
    y = signal[shown] + 1.5 * rng.normal(size=(len(shown), n_vertices))
    one, other = (
        0.8 * signal + size * rng.normal(size=signal.shape) for size in (0.4, 0.4 + apart)
    )
    return one, other, y, shown


def test_gains_sum_to_the_difference_of_r2_and_are_a_loop() -> None:
    one, other, y, shown = two_models(12, 3, seed=1)
    gain = gains(one, other, y, shown)
    np.testing.assert_allclose(gain.sum(0), r2(one[shown], y) - r2(other[shown], y), atol=1e-12)
    total = ((y[:, 1] - y[:, 1].mean()) ** 2).sum()
    expected = [
        sum((y[t, 1] - other[p, 1]) ** 2 - (y[t, 1] - one[p, 1]) ** 2
            for t in range(len(y)) if shown[t] == p) / total
        for p in range(12)
    ]  # fmt: skip
    np.testing.assert_allclose(gain[:, 1], expected)
    y[:, 2] = 0.1
    assert np.isnan(gains(one, other, y, shown)[:, 2]).all()


def test_sign_flips_agree_with_scipys_exact_test() -> None:
    gain = np.random.default_rng(2).normal(0.4, 1, size=(9, 4))
    exact = [
        scipy.stats.permutation_test(
            (gain[:, v],), np.sum, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        for v in range(4)
    ]
    found = sign_flip(gain, samples=20_000)
    np.testing.assert_allclose(found, exact, atol=4 * np.sqrt(0.25 / 20_000))


def test_equal_models_give_uniform_p_and_false_positives_at_the_nominal_rate() -> None:
    p = sign_flip(gains(*two_models(60, 3000, seed=3)), samples=999)
    for level in (0.01, 0.05, 0.2):
        spread = np.sqrt(level * (1 - level) / 3000)
        assert abs((p <= level).mean() - level) < 4 * spread
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.001


def test_false_discoveries_are_controlled_where_some_vertices_differ() -> None:
    wrong, found = [], []
    for seed in range(20):
        same = gains(*two_models(60, 150, seed=2 * seed))
        differ = gains(*two_models(60, 50, seed=2 * seed + 1, apart=1.0))
        called = false_discovery(sign_flip(np.concatenate([same, differ], 1), 999)) < 0.05
        wrong.append(called[:150].sum() / max(1, called.sum()))
        found.append(called[150:].mean())
    assert np.mean(wrong) < 0.06 and np.mean(found) > 0.8


def test_no_finding_in_shuffled_responses() -> None:
    claims, rois = 0, {"V1": np.arange(100) < 50, "V2": np.arange(100) >= 50}
    for seed in range(20):
        one, other, y, shown = two_models(60, 100, seed=seed)
        mixed = np.random.default_rng(seed).permutation(y)
        gain = gains(one, other, mixed, shown)
        paired = Paired(gain, sign_flip(gain, 499), rois, "test", 499, 0)
        claims += (paired.q < 0.05).any() or (paired.roi_table(["V1", "V2"])["q"] < 0.05).any()
    assert claims <= 4  # of 20; at most 1 in 10 is expected: two families at 0.05


def test_false_discovery_is_benjamini_and_hochbergs() -> None:
    p = np.array([0.001, np.nan, 0.03, 0.04, 0.9])
    known = sorted(p[np.isfinite(p)])
    expected = [min(known[j] * 4 / (j + 1) for j in range(i, 4)) for i in range(4)]
    np.testing.assert_allclose(false_discovery(p)[[0, 2, 3, 4]], expected)
    assert np.isnan(false_discovery(p)[1]) and np.isnan(false_discovery(p[1:2])).all()


def test_the_roi_table_is_of_the_mean_gain_and_keeps_what_vertices_share() -> None:
    one, other, y, shown = two_models(40, 30, seed=5, apart=0.6)
    rois = {"V1": np.arange(30) < 10, "FFA": np.arange(30) >= 25}
    gain = gains(one, other, y, shown)
    paired = Paired(gain, sign_flip(gain, 999), rois, "test", 999, 0)
    table = paired.roi_table(["V1", "FFA"], rest=True).set_index("ROI")
    assert table.index.tolist() == ["all", "V1", "FFA", "rest"]
    expected = (r2(one[shown], y) - r2(other[shown], y))[:10].mean()
    assert table.loc["V1", "difference of R²"] == pytest.approx(expected)
    assert table.loc["V1", "p"] == sign_flip(gain[:, :10].mean(1)[:, None], 999)[0]
    assert ((table["low"] < table["difference of R²"])
            & (table["difference of R²"] < table["high"])).all()  # fmt: skip
    better = ((paired.q < 0.05) & (paired.difference > 0))[:10].mean()
    assert table.loc["V1", "first better"] == better
    back = Paired(-gain, paired.p, rois, "test", 999, 0).roi_table(["V1"]).set_index("ROI")
    assert back.loc["V1", "second better"] == better and back.loc["V1", "first better"] == 0
    np.testing.assert_array_equal(paired.table()["q"], paired.q)


def test_what_stands_out_by_hand() -> None:
    scores = {"a": np.array([0.1, 0.2]), "b": np.array([0.4, 0.2]), "c": np.array([0.1, 0.5])}
    found = stands_out(scores)
    np.testing.assert_allclose(found["a"], [0.3, 0.3])
    np.testing.assert_allclose(found["b"], [np.sqrt(0.18), 0.3])
    with pytest.raises(InputError, match="expected two or more models"):
        stands_out({"a": scores["a"]})


def test_fits_are_compared_on_one_subject_and_split_alone(data_folder) -> None:
    from analysis.study import get_fit

    one = get_fit("sim01-tiny", "clip-mini", recipe="check")
    same = compare(one, one, samples=20)
    assert (same.difference == 0).all() and (same.p == 1).all()
    split = dataclasses.replace(one.split, test=one.split.validation)
    with pytest.raises(InputError, match="other test pictures"):
        compare(one, dataclasses.replace(one, split=split))
    other = dataclasses.replace(one.subject, identity="x", name="sim09")
    with pytest.raises(InputError, match="sim09"):
        compare(one, dataclasses.replace(one, subject=other))
