"""Prepared responses: the files' betas, standardised, once; nothing that is whole is removed."""

import errno
import signal
import subprocess
import sys

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


def test_what_is_prepared_is_read_whatever_became_of_files_code_and_folder(
    files, tmp_path, monkeypatch
):
    first = made(files)
    files[0][0].touch()
    files[1][0].write_bytes(b"another file")
    for path in files[2]:
        path.unlink()
    (tmp_path / "data").rename(tmp_path / "larger disk")
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "larger disk"))
    elsewhere = [tuple(tmp_path / "elsewhere" / p.name for p in pair) for pair in files]
    again = made(elsewhere)
    assert again.identity == first.identity
    np.testing.assert_array_equal(again.mean, first.mean)
    assert not [p for p in (tmp_path / "larger disk/prepared").rglob("*") if "elsewhere" in str(p)]


def test_another_source_or_number_of_sessions_is_prepared_beside(files):
    first = made(files)
    betas = mgh.read_series(files[2][0], np.arange(N), N, T).T
    mgh.write(files[2][0], betas + np.eye(N, T, dtype=np.float32))
    again = prepare.prepare("someone", files, COLUMNS, N, T, source="another simulation")
    assert again.identity != first.identity
    np.testing.assert_array_equal(again.responses[: 2 * T], first.responses[: 2 * T])
    np.testing.assert_array_equal(made(files[:2]).responses, first.responses[: 2 * T])
    np.testing.assert_array_equal(made(files).responses, first.responses)


@pytest.mark.parametrize("fill", [np.nan, 3.5, 0.0, np.inf])
def test_vertices_without_data_are_left_out(files, fill):
    whole = made(files)
    betas = mgh.read_series(files[1][0], np.arange(N), N, T).T
    betas[9] = fill
    mgh.write(files[1][0], betas)
    fewer = prepare.prepare("another", files, COLUMNS, N, T)
    assert list(np.flatnonzero(~fewer.kept)) == [2]
    np.testing.assert_array_equal(fewer.responses, np.delete(whole.responses, 2, 1))
    assert fewer.mean.shape == (SESSIONS, 7)
    for folder in (prepare.data_root() / "prepared").glob("*-*"):
        assert sorted(content(folder)) == ["levels.npy", "record.json", "responses.npy"]


def test_an_error_in_a_session_leaves_nothing(files):
    raw = files[2][1].read_bytes()
    files[2][1].write_bytes(raw[: 284 + 4 * N])
    with pytest.raises(InputError, match=r"rh.betas_session03.mgh: Expected .* bytes"):
        made(files)
    assert [p.name for p in (prepare.data_root() / "prepared").iterdir()] == [".lock"]
    files[2][1].write_bytes(raw)
    made(files)


def test_an_error_of_the_disk_is_passed_on_and_nothing_prepared_is_touched(files, monkeypatch):
    made(files)
    before = content(only_folder())

    def fail(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle", "responses.npy")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Stale file") as caught:
        patch.setattr(np, "load", fail)
        made(files)
    assert not isinstance(caught.value, InputError)
    assert content(only_folder()) == before


def test_a_full_disk_is_named_and_leaves_nothing(files, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "standardise", fail)
    with pytest.raises(InputError, match="the disk is full, the responses need"):
        made(files)
    assert [p.name for p in (prepare.data_root() / "prepared").iterdir()] == [".lock"]


def test_a_disk_without_locks_is_used_with_a_word(files, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(prepare.filelock.FileLock, "acquire", fail)
    assert made(files).responses.shape == (SESSIONS * T, 7)
    assert "no file locks" in capsys.readouterr().err


KILLED = """
import sys, time
import numpy as np
from pathlib import Path
from analysis import mgh, prepare
real = mgh.read_series
def slow(*a):
    time.sleep(0.25)
    print("read", flush=True)
    return real(*a)
mgh.read_series = slow
folder = Path(sys.argv[1])
files = [tuple(folder / f"{h}.betas_session{s:02d}.mgh" for h in ("lh", "rh")) for s in range(1, 5)]
prepare.prepare("someone", files, (np.array([3, 4, 9, 40]), np.array([0, 7, 49])), 50, 12)
"""


@pytest.mark.parametrize("reads", [1, 5])
def test_what_a_killed_run_left_is_removed_by_the_next(files, tmp_path, reads):
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(reads):
        assert run.stdout.readline() == "read\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    (leftover,) = (prepare.data_root() / "prepared").glob(".*.part")
    other = prepare.prepare("another", files, COLUMNS, N, T)
    assert not leftover.exists()
    np.testing.assert_array_equal(made(files).responses, other.responses)


def test_missing_sessions_are_counted_before_anything_is_read(files):
    files[1][0].unlink()
    files[3][1].unlink()
    with pytest.raises(
        MissingFile, match=r"lh.betas_session02.mgh: not found.* 2 of 8 session files are missing"
    ):
        made(files)


@pytest.mark.parametrize("name", ["responses.npy", "record.json", "levels.npy"])
def test_a_damaged_result_is_refused_and_kept(files, name):
    made(files)
    path = only_folder() / name
    path.write_bytes(path.read_bytes()[:-20])
    before = content(only_folder())
    with pytest.raises(InputError, match=r"prepared/someone.* Rename this folder"):
        made(files)
    assert content(only_folder()) == before


def test_another_region_is_prepared_beside(files):
    made(files)
    other = made(files, (COLUMNS[0][:2], COLUMNS[1]))
    np.testing.assert_array_equal(other.responses, np.delete(made(files).responses, [2, 3], 1))
