"""Files damaged at places and with values that hypothesis chooses, and how they are read."""

import contextlib
import signal
import warnings

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from analysis.files import InputError

SECONDS = 60  # more than any reader takes; a hang ends here
DAMAGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
)


def fuzzed(n, **more):
    """Hypothesis' settings: the same examples in every run."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=n, deadline=None, derandomize=True, suppress_health_check=quiet, **more
    )


def damaged(raw, damages, header):
    """The bytes with some of the first `header` ones changed, or cut off after one."""
    out = bytearray(raw)
    for place, value in damages:
        out[int(place * min(header, len(out)))] = value
    place, value = damages[0]
    return bytes(out[: int(place * len(out))]) if value == 77 else bytes(out)


@contextlib.contextmanager
def within(seconds):
    """A hang is a failure."""

    def stop(number, frame):
        raise TimeoutError(f"not read in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(read, path):
    """What a reader makes of a file: the value, or None where it refused or warned by its name."""
    with within(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read()
        except (InputError, UserWarning) as said:
            assert path.name in str(said), f"{said} does not name {path.name}"
            return None


def same_subject(one, other):
    """Whether all that is read of a subject is equal."""
    arrays = ("vertices", "coordinates", "ncsnr", "responses", "trial_picture", "picture_ids")
    return (
        all(np.array_equal(getattr(one, a), getattr(other, a), equal_nan=True) for a in arrays)
        and one.rois.keys() == other.rois.keys()
        and all(np.array_equal(one.rois[k], other.rois[k]) for k in one.rois)
    )
