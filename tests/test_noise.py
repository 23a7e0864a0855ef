"""Betas of simulated subjects: levels, noise and ceilings as NSD's."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from analysis import explained, mgh, noise, truth
from analysis.files import HEMIS
from analysis.published import TABLE_13
from analysis.subject import add_area_unions
from tests.simulated import subjects


def session_betas(tree, truth_, session):
    """Betas of the visual vertices, [vertex, trial]."""
    files = [tree.betas("sim01", hemi, session) for hemi in HEMIS]
    halves = [mgh.read_series(path, np.arange(642), 642, 60).T for path in files]
    return np.concatenate(halves).astype(float)[truth_.vertices]


def test_betas_look_like_per_cent_signal_change(tree, whole_truth):
    for session in (1, 2):
        betas = session_betas(tree, whole_truth, session)
        without = np.isnan(betas).all(1)
        assert without.sum() == 1 and np.isfinite(betas[~without]).all()
        assert 0.15 < betas[~without].mean() < 1.2
        spread = betas[~without].std(1)
        low, middle, high = np.quantile(spread, [0.05, 0.5, 0.95])
        gain = np.exp(2 * noise.Noise().gain)  # a session's own, within two sds
        assert 1.4 < low < middle < high < 3.2 and 1.75 / gain < middle < 2.5 * gain


def test_sessions_have_levels_of_their_own(tree, whole_truth):
    one, two = (np.nanmean(session_betas(tree, whole_truth, s)) for s in (1, 2))
    assert abs(one - two) > 0.02  # per cent; what z-scoring in each session takes out


def test_ncsnr_file_follows_nsds_formula(subject, tree, whole_truth):
    """From the betas by NSD's definition: z-score by the sample sd, v² the mean variance."""
    stored = np.concatenate([mgh.read(tree.ncsnr("sim01", hemi), "ncsnr") for hemi in HEMIS])
    stored = stored[subject.vertices]
    rows = np.searchsorted(whole_truth.vertices, subject.vertices)
    sessions = [session_betas(tree, whole_truth, s)[rows] for s in (1, 2)]
    scored = [(x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in sessions]
    scored = np.concatenate(scored, axis=1)  # [vertex, trial]
    pictures = range(len(subject.picture_ids))
    variances = [scored[:, subject.trial_picture == p].var(1, ddof=1) for p in pictures]
    noise_variance = np.mean(variances, 0)
    expected = np.sqrt(np.maximum(0, 1 - noise_variance) / noise_variance)
    np.testing.assert_allclose(stored, expected, atol=1e-4)
    recomputed = explained.ncsnr(subject.responses, subject.trial_picture, subject.trial_session)
    np.testing.assert_allclose(stored, recomputed, atol=1e-4)


def test_noise_ratio_drawn_is_recovered_from_many_trials(whole_truth):
    """ncsnr of each vertex, measured from betas of 300 pictures in place of 40."""
    rng = np.random.default_rng(0)
    n_vertices = len(whole_truth.vertices)
    snr = rng.uniform(0.2, 3, n_vertices)
    signal = rng.standard_normal((300, n_vertices)).astype(np.float32)
    trial_picture = rng.permutation(np.repeat(np.arange(300), 3))
    person = truth.SIMULATED_SUBJECTS["sim01"]
    shown = signal[trial_picture]
    betas = noise.draw_betas(whole_truth, snr, shown, 642, 3, person, noise.Noise())
    sessions = betas.reshape(3, 300, -1)
    scored = (sessions - sessions.mean(1, keepdims=True)) / sessions.std(1, keepdims=True)
    found = explained.ncsnr(scored.reshape(900, -1), trial_picture)
    for rows in (snr < 0.6, (snr > 0.6) & (snr < 1.5), snr > 1.5):
        assert np.nanmedian(found[rows] / snr[rows]) == pytest.approx(1, abs=0.05)
        assert np.nanmedian(np.abs(found[rows] - snr[rows])) < 0.1


@pytest.fixture(scope="module")
def ratios():
    """Each subject's ROIs, and the ncsnr drawn for NSD's trials and for simulated ones."""
    ratios = {}
    for name, (cortex, one) in subjects().items():
        rois, subject = add_area_unions(cortex.rois), truth.SIMULATED_SUBJECTS[name]
        both = [
            noise.signal_to_noise(one, rois, 10242, subject, n) for n in (LIKE_NSD, noise.Noise())
        ]
        ratios[name] = SimpleNamespace(rois=rois, nsd=both[0], own=both[1], level=one.level)
    return ratios


def area_ceilings(one, ncsnr, areas):
    """The median noise ceiling of single trials in each area."""
    ceiling = ncsnr**2 / (ncsnr**2 + 1)
    return np.array([np.median(ceiling[one.rois[area]]) for area in areas])


LIKE_NSD = dataclasses.replace(noise.Noise(), trials_worth=1.0)
AREA_NAMES = list(TABLE_13.columns[1:])


def test_ncsnr_over_vertices_is_nsds(ratios):
    found = np.quantile(ratios["sim01"].nsd, noise.Noise().shares[1:-1])
    np.testing.assert_allclose(found, noise.Noise().ncsnr[1:-1], atol=0.002)
    for one in ratios.values():
        np.testing.assert_allclose(one.own / one.nsd, np.sqrt(10))


def test_every_area_of_everybody_can_be_predicted(ratios):
    for name, one in ratios.items():
        assert area_ceilings(one, one.own, AREA_NAMES).min() > 0.4
        left = subjects()[name][1].vertices < 10242
        for half in (left, ~left):
            rois = {area: mask[half] for area, mask in one.rois.items()}
            there = SimpleNamespace(rois=rois)
            assert area_ceilings(there, one.own[half], AREA_NAMES).min() > 0.3


def test_noise_ceilings_follow_the_area_as_the_papers_scores_do(ratios):
    """Of each person: the rank correlation over areas with Table 13, and areas against the rest."""
    published = TABLE_13.loc["CLIP (subject #1)", AREA_NAMES]
    for name in ("sim01", "sim02"):
        one = ratios[name]
        assert scipy.stats.spearmanr(area_ceilings(one, one.nsd, AREA_NAMES), published)[0] > 0.6
        outside = ~np.any([one.rois[area] for area in AREA_NAMES], axis=0)
        assert np.median(one.nsd[outside]) < 0.85 * np.median(one.nsd[~outside])


def test_score_outside_areas_leaves_the_papers_over_all(ratios):
    one = ratios["sim01"]
    scores = noise.area_scores(len(one.level), one.rois, noise.Noise())
    assert scores.mean() == pytest.approx(TABLE_13.loc["CLIP (subject #1)", "all"], abs=0.005)


def test_the_third_person_is_noisier_as_in_the_papers_table_13(ratios):
    """Ceilings of NSD's trials in early and category areas, as ratios of the published scores.

    Expected ones: the mean over people who differ in the seed alone.
    """
    rows = TABLE_13.loc[["CLIP (subject #1)", "CLIP (subject #3)"]]
    expected = {}
    for name in ("sim01", "sim03"):
        one, rois, ceilings = subjects()[name][1], ratios[name].rois, []
        for seed in range(100, 110):
            person = dataclasses.replace(truth.SIMULATED_SUBJECTS[name], seed=seed)
            drawn = noise.signal_to_noise(one, rois, 10242, person, LIKE_NSD)
            ceilings.append(area_ceilings(ratios[name], drawn, AREA_NAMES))
        expected[name] = dict(zip(AREA_NAMES, np.mean(ceilings, axis=0), strict=True))
    found = []
    for areas in (["V1", "V2", "V3"], AREA_NAMES[4:]):
        first, third = rows[areas].mean(axis=1)
        ours = [np.mean([expected[n][a] for a in areas]) for n in ("sim01", "sim03")]
        found.append(ours[1] / ours[0])
        assert found[-1] == pytest.approx(third / first, abs=0.05)
    assert found[0] < found[1] < 1
