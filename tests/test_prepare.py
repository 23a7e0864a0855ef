"""Prepared responses: the files' betas, standardised, once; killed anywhere, the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from analysis import mgh, prepare
from analysis.files import InputError, MissingFile

N, T, SESSIONS = 50, 12, 4
COLUMNS = (np.array([3, 4, 9, 40]), np.array([0, 7, 49]))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Session files of both hemispheres in a data folder of this test's own."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    pairs = []
    for session in range(SESSIONS):
        pair = tuple(tmp_path / f"{h}.betas_session{session + 1:02d}.mgh" for h in ("lh", "rh"))
        for path in pair:
            betas = rng.normal(session, 1 + rng.random(N)[:, None], (N, T))
            mgh.write(path, betas.astype(np.float32))
        pairs.append(pair)
    return pairs


def made(files, columns=COLUMNS):
    return prepare.prepare("someone", files, columns, N, T)


def by_hand(files):
    """The chosen betas [session, trial, vertex] in float64, bytes taken at the format's offset."""
    out = []
    for pair in files:
        halves = []
        for path, chosen in zip(pair, COLUMNS, strict=True):
            raw = np.frombuffer(path.read_bytes(), ">f4", N * T, 284).reshape(T, N)
            halves.append(raw[:, chosen])
        out.append(np.concatenate(halves, axis=1))
    return np.array(out, float)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def only_folder():
    (folder,) = (p for p in (prepare.data_root() / "prepared").iterdir() if p.is_dir())
    return folder


def test_responses_are_the_betas_standardised_in_each_session(files):
    prepared, betas = made(files), by_hand(files)
    expected = (betas - betas.mean(1, keepdims=True)) / betas.std(1, keepdims=True)
    assert prepared.responses.shape == (SESSIONS * T, 7)
    np.testing.assert_allclose(prepared.responses, expected.reshape(-1, 7), atol=1e-5)
    np.testing.assert_allclose(prepared.mean, betas.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prepared.sd, betas.std(1), rtol=1e-5)
    assert prepared.kept.all()
    assert not prepared.responses.flags.writeable


def test_what_is_there_is_not_read_again_nor_needed(files, monkeypatch):
    first = made(files)
    for pair in files[:2]:
        for path in pair:
            path.unlink()  # to free the disk

    def refuse(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(mgh, "read_series", refuse)
    again = made(files)
    assert again.identity == first.identity
    np.testing.assert_array_equal(again.responses, first.responses)


def test_a_changed_file_is_prepared_anew(files):
    first = made(files)
    betas = mgh.read_series(files[2][0], np.arange(N), N, T).T
    mgh.write(files[2][0], betas + np.eye(N, T, dtype=np.float32))
    again = made(files)
    assert again.identity != first.identity
    assert not np.array_equal(again.responses, first.responses)
    np.testing.assert_array_equal(again.responses[: 2 * T], first.responses[: 2 * T])


@pytest.mark.parametrize("fill", [np.nan, 3.5, 0.0, np.inf])
def test_vertices_without_data_are_left_out(files, fill):
    whole = made(files)
    betas = mgh.read_series(files[1][0], np.arange(N), N, T).T
    betas[9] = fill
    mgh.write(files[1][0], betas)
    fewer = made(files)
    assert list(np.flatnonzero(~fewer.kept)) == [2]
    np.testing.assert_array_equal(fewer.responses, np.delete(whole.responses, 2, 1))
    assert fewer.mean.shape == (SESSIONS, 7)
    assert sorted(content(only_folder())) == ["levels.npy", "record.json", "responses.npy"]


def test_an_error_keeps_the_sessions_before_it_and_the_next_run_goes_on(files, monkeypatch):
    whole = content_of_a_clean_run(files)
    raw = files[2][1].read_bytes()
    stat = files[2][1].stat()
    files[2][1].write_bytes(raw[: 284 + 4 * N])
    with pytest.raises(InputError, match=r"rh.betas_session03.mgh: .*truncated"):
        made(files)
    files[2][1].write_bytes(raw)
    os.utime(files[2][1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    read, real = [], mgh.read_series
    monkeypatch.setattr(mgh, "read_series", lambda p, *a: read.append(p.name) or real(p, *a))
    made(files)
    again = ["lh.betas_session03", "rh.betas_session03", "lh.betas_session04", "rh.betas_session04"]
    assert [name.removesuffix(".mgh") for name in read] == again
    assert content(only_folder()) == whole


def content_of_a_clean_run(files):
    made(files)
    whole = content(only_folder())
    shutil.rmtree(prepare.data_root())
    return whole


KILLED = """
import os, sys, time
import numpy as np
from pathlib import Path
from analysis import mgh, prepare
real = mgh.read_series
def slow(*a):
    time.sleep(0.25)
    os.write(1, b"read\\n")  # in one piece: two files are read at a time
    return real(*a)
mgh.read_series = slow
folder = Path(sys.argv[1])
files = [tuple(folder / f"{h}.betas_session{s:02d}.mgh" for h in ("lh", "rh")) for s in range(1, 5)]
prepare.prepare("someone", files, (np.array([3, 4, 9, 40]), np.array([0, 7, 49])), 50, 12)
"""


@pytest.mark.parametrize("reads", [1, 3, 5])
def test_a_killed_run_goes_on_to_the_same_bytes(files, tmp_path, reads):
    whole = content_of_a_clean_run(files)
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(reads):
        assert run.stdout.readline() == "read\n"
    time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert not (only_folder() / "record.json").exists()
    made(files)
    assert content(only_folder()) == whole


def test_a_doubled_session_is_refused(files):
    files[3][1].write_bytes(files[0][1].read_bytes())
    with pytest.raises(
        InputError, match=r"rh.betas_session04.mgh: the same betas as rh.betas_session01.mgh"
    ):
        made(files)


def test_missing_sessions_are_counted_before_anything_is_read(files):
    files[1][0].unlink()
    files[3][1].unlink()
    with pytest.raises(
        MissingFile, match=r"lh.betas_session02.mgh: not found.* 2 of 8 session files are missing"
    ):
        made(files)
    assert not content(only_folder())


def test_a_damaged_result_is_refused_with_the_mend(files):
    made(files)
    path = only_folder() / "responses.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"responses.npy: not a readable .* Delete its folder"):
        made(files)


def test_too_small_a_disk_is_told_before_anything_is_written(files, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(InputError, match="the prepared responses of someone needs"):
        made(files)
    assert not content(only_folder())


def test_another_region_is_prepared_beside(files):
    made(files)
    other = made(files, (COLUMNS[0][:2], COLUMNS[1]))
    np.testing.assert_array_equal(other.responses, np.delete(made(files).responses, [2, 3], 1))
