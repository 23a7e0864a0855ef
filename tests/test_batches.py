"""Tokens in a device's memory: the cache's own numbers, where they fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import batches
from analysis.batches import Part, Resident, Trials, nearest, resident
from tests.random_tokens import random_tokens

CPU = torch.device("cpu")


@pytest.mark.parametrize("widths", [[4, 4], [4, 3]])
def test_resident_tokens_are_the_caches_bit_for_bit(tmp_path: Path, widths: list[int]) -> None:
    tokens = random_tokens(tmp_path, widths, 12)
    held = resident(tokens, np.array([7, 3, 3, 0, 11]), CPU)
    assert held.local.shape[0] == 4 and held.local.dtype == torch.float16
    rows = np.array([11, 3, 0, 3])
    for ours, cached in zip(held[rows], tokens[rows], strict=True):
        assert torch.equal(ours, cached)


def test_a_batch_is_the_same_from_either(tmp_path: Path) -> None:
    tokens = random_tokens(tmp_path, [4, 3], 12)
    rng = np.random.default_rng(0)
    part = Part(np.array([2, 5, 9]), np.array([1, 0, 2, 2]), rng.normal(size=(4, 6)))
    trials = np.array([3, 0])
    ours = Trials(resident(tokens, part.pictures, CPU), part)[trials]
    for a, b in zip(ours, Trials(tokens, part)[trials], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(ours[0], tokens[np.array([9, 5])][0])
    np.testing.assert_array_equal(ours[2].numpy(), part.responses[[3, 0]])


@pytest.mark.parametrize("room", [True, False])
def test_tokens_go_to_the_gpu_where_they_fit_and_are_streamed_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, room: bool
) -> None:
    tokens = random_tokens(tmp_path, [4, 3], 12)
    n_bytes = 10 * 7 * 65 * 2  # ten pictures of seven channels, 64 places and a global token
    free = int(n_bytes / batches.GPU_SHARE) + (1 if room else -1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10 * free))
    made = []

    def on_a_gpu(*given: object) -> Resident:
        made.append(given)
        return resident(*given[:2], CPU)

    monkeypatch.setattr(batches, "resident", on_a_gpu)
    rows = np.repeat(np.arange(10), 2)
    found = nearest(tokens, rows, torch.device("cuda"))
    assert (found is tokens) is not room and bool(made) is room
    assert ("they are streamed from the cache" in capsys.readouterr().err) is not room


def test_on_a_cpu_tokens_stay_in_the_cache(tmp_path: Path) -> None:
    tokens = random_tokens(tmp_path, [4, 3], 12)
    assert nearest(tokens, np.arange(12), CPU) is tokens
