"""Splits are by picture: nothing is on two sides, whatever scheme, seed or limit."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.files import InputError
from analysis.pictures import ArrayPictures
from analysis.splits import (
    SCHEMES,
    default_scheme,
    limit,
    split_pictures,
    training_trials,
    trials_of,
)
from analysis.subject import Subject


def toy(n_pictures=60, n_sessions=6, source="NSD", seed=0, repeats=3):
    """A subject whose pictures are shown three times over the sessions; the last in the last 3."""
    order = np.random.default_rng(seed).permutation(np.repeat(np.arange(n_pictures - 6), repeats))
    late = np.repeat(np.arange(n_pictures - 6, n_pictures), repeats)  # the last 6, at the end
    shown = np.concatenate([order, late])
    n = len(shown)
    session = np.arange(n) * n_sessions // n
    if source == "Algonauts 2023":
        shown, n = np.arange(n_pictures), n_pictures
        session = np.full(n, -1)
    return Subject(
        name="toy",
        source=source,
        n_surface=0,
        vertices=np.arange(2),
        coordinates=np.zeros((2, 3)),
        rois={},
        ncsnr=np.ones(2, np.float32),
        responses=np.zeros((n, 2), np.float32),
        trial_picture=shown,
        trial_session=session,
        repeats=np.ones(n, int),
        picture_ids=np.arange(n_pictures),
        shared=np.arange(n_pictures) % 6 == 0,
        stimuli=ArrayPictures(np.zeros((n_pictures, 2, 2, 3), np.uint8)),
        dropped=0,
        identity="toy",
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n_pictures=st.integers(30, 90),
    seed=st.integers(0, 99),
    scheme=st.sampled_from(SCHEMES),
    share=st.floats(0.05, 0.5),
)
def test_no_picture_and_no_trial_is_in_two_parts(n_pictures, seed, scheme, share):
    subject = toy(n_pictures)
    split = split_pictures(subject, seed, share, scheme)
    parts = [split.train, split.validation, split.test]
    together = np.concatenate(parts)
    assert len(set(together)) == len(together)
    trials = np.concatenate([trials_of(subject, part) for part in parts])
    assert len(set(trials)) == len(trials)
    if scheme != "repository":
        assert len(together) == n_pictures and len(trials) == len(subject.trial_picture)
    again = split_pictures(subject, seed, share, scheme)
    assert all((a == b).all() for a, b in zip(parts, list(vars(again).values())[:3], strict=True))


def test_the_test_set_of_shared_is_the_shared_pictures():
    subject = toy()
    np.testing.assert_array_equal(split_pictures(subject).test, np.flatnonzero(subject.shared))


def test_the_challenges_test_set_is_shown_in_the_last_three_sessions_only():
    subject = toy()
    test = split_pictures(subject, scheme="algonauts").test
    for row in range(60):
        sessions = subject.trial_session[subject.trial_picture == row]
        assert (row in test) == (sessions.min() >= 3)
    assert {54, 55, 56, 57, 58, 59} <= set(test)
    repository = split_pictures(subject, scheme="repository")
    everything = np.concatenate(list(vars(repository).values())[:3])
    assert sorted(everything) == sorted(set(range(60)) - set(test))


def test_the_repositorys_split_has_its_sizes():
    subject = toy(9841, source="Algonauts 2023")
    assert default_scheme(subject) == "repository" and default_scheme(toy()) == "shared"
    split = split_pictures(subject, scheme="repository")
    assert len(split.test) == 841
    assert len(split.train) + len(split.validation) == 9000


def test_withheld_responses_and_unknown_schemes_are_refused():
    with pytest.raises(InputError, match=r"scheme='algonauts': toy has .*withheld"):
        split_pictures(toy(source="Algonauts 2023"), scheme="algonauts")
    with pytest.raises(InputError, match="scheme='half': expected one of shared, repository, alg"):
        split_pictures(toy(), scheme="half")


def test_seeds_draw_other_validation_pictures():
    drawn = {tuple(split_pictures(toy(), seed).validation) for seed in range(6)}
    assert len(drawn) > 4


@pytest.mark.parametrize(("share", "part"), [(0.0, "validation"), (1.0, "train")])
def test_a_split_with_an_empty_part_is_refused(share, part):
    with pytest.raises(InputError, match=f"no picture left for {part}.*50 pictures of its own"):
        split_pictures(toy(), validation_share=share)


def test_a_split_without_shared_pictures_is_refused():
    without = dataclasses.replace(toy(), shared=np.zeros(60, bool))
    with pytest.raises(InputError, match="no picture left for test"):
        split_pictures(without)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 9), sizes=st.lists(st.integers(1, 120), min_size=2, max_size=5))
def test_a_smaller_training_set_lies_in_every_larger_one(seed, sizes):
    subject = toy()
    split = split_pictures(subject, seed)
    assert len(training_trials(subject, split)) == 135
    sets = [limit(split, subject, n, seed) for n in sorted(sizes)]
    for small, large in itertools.pairwise(sets):
        assert set(small.trials) <= set(large.trials)
        assert set(small.train) <= set(large.train) <= set(split.train)
    for n, some in zip(sorted(sizes), sets, strict=True):
        assert len(set(some.trials)) == len(some.trials) == n
        assert set(some.train) == set(subject.trial_picture[some.trials])
        np.testing.assert_array_equal(training_trials(subject, some), some.trials)
        np.testing.assert_array_equal(some.validation, split.validation)
        np.testing.assert_array_equal(some.test, split.test)


def test_all_trials_are_the_largest_set_and_more_are_refused():
    subject = toy()
    split = split_pictures(subject)
    np.testing.assert_array_equal(
        limit(split, subject, 135).trials, training_trials(subject, split)
    )
    for n in (0, 136):
        with pytest.raises(InputError, match=f"trials={n}: toy has 135 to train on"):
            limit(split, subject, n)


def test_pictures_that_nobody_was_shown_are_in_no_part():
    subject = toy()
    some = np.flatnonzero(subject.trial_picture < 40)
    seen = dataclasses.replace(
        subject,
        responses=subject.responses[some],
        trial_picture=subject.trial_picture[some],
        trial_session=subject.trial_session[some],
        repeats=subject.repeats[some],
    )
    split = split_pictures(seen)
    parts = np.concatenate([split.train, split.validation, split.test])
    assert sorted(parts) == list(range(40))
    assert set(split.test) == {0, 6, 12, 18, 24, 30, 36}
