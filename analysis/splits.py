"""How a subject's pictures are split: by picture, never by trial, into three parts.

split = split_pictures(subject, seed=0)
small = limit(split, subject, 3000)   # the same, trained on 3,000 trials
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from analysis.files import InputError
from analysis.subject import Subject

Scheme = Literal["shared", "repository", "algonauts"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
HELD_SESSIONS = 3  # whose own pictures the Algonauts challenge tests on
HELD_OUT = 841 / 9841  # of the challenge's training pictures, by the authors' released code


@dataclass(frozen=True)
class Split:
    """Rows of a subject's pictures: no picture is in two parts, so no trial is either."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]
    trials: Int[np.ndarray, " trial"] | None = None  # those trained on; None: all of `train`


def default_scheme(subject: Subject) -> Scheme:
    """The split that a data set allows: of the challenge, the test responses are withheld."""
    return "repository" if subject.source == "Algonauts 2023" else "shared"


def _held_sessions(subject: Subject) -> Bool[np.ndarray, " picture"]:
    """Pictures not shown before the last sessions: the Algonauts challenge's test set."""
    if subject.trial_session.min() < 0:
        raise InputError(
            f"scheme='algonauts': {subject.name} has means over sessions, or test responses that"
            " are withheld; expected single trials. Use scheme='repository' or 'shared'."
        )
    early = subject.trial_session < subject.n_sessions - HELD_SESSIONS
    rows = np.arange(len(subject.picture_ids))
    return ~np.isin(rows, subject.trial_picture[early])


def split_pictures(
    subject: Subject,
    seed: int = 0,
    validation_share: float = 0.1,
    scheme: str = "shared",
) -> Split:
    """Test pictures by a scheme; of the others a seeded share validates and the rest trains.

    Pictures that the subject was never shown are in no part.

    `shared`: those that all subjects saw.
    `algonauts`: those shown in the last three sessions only, as in the challenge.
    `repository`: of the challenge's training pictures, 841 of 9,841 drawn by the seed. The authors'
    released code stops on these and reports them; here nothing but the test sees them.

    Raises:
        InputError: for an unknown scheme, one that the data don't allow, or an empty part.
    """
    if scheme not in SCHEMES:
        raise InputError(f"scheme={scheme!r}: expected one of {', '.join(SCHEMES)}.")
    rng = np.random.default_rng(seed)
    usable = np.isin(np.arange(len(subject.picture_ids)), subject.trial_picture)
    if scheme == "shared":
        test = subject.shared & usable
    elif scheme == "algonauts":
        test = _held_sessions(subject) & usable
    else:
        if subject.source != "Algonauts 2023":
            usable &= ~_held_sessions(subject)
        pool = rng.permutation(np.flatnonzero(usable))
        test = np.zeros(len(usable), bool)
        test[pool[: max(1, round(HELD_OUT * len(pool)))]] = True
    others = rng.permutation(np.flatnonzero(usable & ~test))
    n = round(validation_share * len(others))
    parts = Split(np.sort(others[n:]), np.sort(others[:n]), np.flatnonzero(test))
    if empty := [name for name, rows in vars(parts).items() if rows is not None and not len(rows)]:
        raise InputError(
            f"split of {subject.name}: no picture left for {empty[0]} ({len(others)} pictures of"
            f" its own, {int(test.sum())} {scheme}, validation_share={validation_share})."
        )
    return parts


def trials_of(subject: Subject, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " trial"]:
    """The trials in which these pictures were shown, in order of time."""
    return np.flatnonzero(np.isin(subject.trial_picture, rows))


def training_trials(subject: Subject, split: Split) -> Int[np.ndarray, " trial"]:
    """The trials that a split trains on, in order of time."""
    return trials_of(subject, split.train) if split.trials is None else split.trials


def limit(split: Split, subject: Subject, n_trials: int, seed: int = 0) -> Split:
    """The split with so many of its training trials, the first of a seeded order.

    The order doesn't depend on `n_trials`, so a smaller set lies within each larger one.
    Validation and test stay.

    Raises:
        InputError: if there are not so many training trials.
    """
    every = training_trials(subject, split)
    if not 1 <= n_trials <= len(every):
        raise InputError(
            f"trials={n_trials}: {subject.name} has {len(every):,} to train on; expected 1 to that."
        )
    order = np.random.default_rng((seed, 1)).permutation(every)
    kept = np.sort(order[:n_trials])
    return dataclasses.replace(split, train=np.unique(subject.trial_picture[kept]), trials=kept)
