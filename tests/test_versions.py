"""Numbers of each kind of thing that is made, kept here: where they change, a version is raised."""

from collections.abc import Callable

import numpy as np
import pytest

from analysis.fit import Fit
from analysis.study import get_fit, get_tokens
from analysis.subject import Subject
from analysis.versions import VERSIONS

# As they are at these versions, on one machine; another gives them to within the tolerance.
KEPT = {
    ("subject", 1): [2.1044, 1.0245, -0.4747, -26.9106, -64.3053, -8.3726, 1.4615],
    ("tokens", 3): [
        0.3625,
        0.5557,
        -2.4531,
        -1.082,
        -0.2319,
        -0.343,
        -1.6797,
        3.3457,
        2.8418,
        -1.9023,
    ],
    ("fit", 1): [
        -0.6743,
        0.0302,
        -0.379,
        0.1582,
        0.1214,
        0.0812,
        0.6724,
        0.4945,
        -0.5088,
        0.0879,
    ],
    ("ridge", 1): [-0.3846, 0.0739],
}


def subject_numbers(subject: Subject, fit: Fit) -> list[float]:
    responses = np.asarray(subject.responses)
    return [*responses[3, ::60][:5], *subject.coordinates[10], np.nanmean(subject.ncsnr)]


def token_numbers(subject: Subject, fit: Fit) -> list[float]:
    local, global_ = get_tokens(subject, "clip-mini")[np.array([0, 7])]
    return [*local[1, ::200, 3, 4].tolist(), *global_[0, ::300].tolist()]


def fit_numbers(subject: Subject, fit: Fit) -> list[float]:
    chosen = fit.model.selectors()
    return [
        fit.record["result"]["validation_r2"],
        *chosen.space[20].tolist(),
        *chosen.layer[20, :3].tolist(),
        chosen.scale[20, 0].item(),
        chosen.size[20, 0].item(),
        *fit.predicted("test")[0, ::100].tolist(),
    ]


def ridge_numbers(subject: Subject, fit: Fit) -> list[float]:
    ridge = get_fit("sim01-tiny", "clip-mini", variant="ridge", trials=60)
    return ridge.predicted("test")[0, ::100].tolist()


NUMBERS: dict[str, Callable[[Subject, Fit], list[float]]] = {
    "subject": subject_numbers,
    "tokens": token_numbers,
    "fit": fit_numbers,
    "ridge": ridge_numbers,
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_change_with_their_version(kind: str, subject: Subject) -> None:
    changes = {"max_steps": 20, "steps_per_epoch": 10}
    fit = get_fit("sim01-tiny", "clip-mini", changes=changes)
    now = NUMBERS[kind](subject, fit)
    kept = KEPT[kind, VERSIONS[kind]]
    told = f"numbers of {kind!r} changed: raise its version, and keep these: {np.round(now, 4)}"
    np.testing.assert_allclose(now, kept, rtol=2e-2, atol=1e-2, err_msg=told)
