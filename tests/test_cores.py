"""Cores held by fits: as many as there are, waited for, and let go of by one that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis import cores as module
from analysis.cores import cores, pool

HOLD = """
import sys
from analysis.cores import cores
with cores(int(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, looked at often."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.01)


@pytest.fixture
def other():
    """Another process that holds a core until it is ended."""
    command = [sys.executable, "-c", HOLD, "1"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


class Waited(Exception):
    pass


def waits(threads: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether that many cores have to be waited for."""

    def sleep(_: float) -> None:
        raise Waited

    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", sleep)
        try:
            with cores(threads):
                return False
        except Waited:
            return True


def test_there_is_room_for_as_many_threads_as_cores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with cores(1):
        assert not waits(1, monkeypatch)
        assert capsys.readouterr().err == ""
        assert waits(2, monkeypatch)
        assert capsys.readouterr().err.startswith("waiting for 1 of 2 cores, which other fits hold")
        with cores(1):
            assert waits(1, monkeypatch)
        assert not waits(1, monkeypatch)
    assert not waits(2, monkeypatch)
    assert not waits(64, monkeypatch)  # more than there are: all of them


def test_a_process_that_is_killed_lets_go(
    other: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not waits(1, monkeypatch)
    assert waits(2, monkeypatch)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not waits(2, monkeypatch)


def test_cores_that_become_free_are_taken(
    other: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = []

    def sleep(_: float) -> None:
        naps.append(1)
        if len(naps) == 3:
            other.communicate("")  # it ends

    monkeypatch.setattr(module.time, "sleep", sleep)
    with cores(2):
        assert len(naps) >= 3


def test_an_error_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Waited), cores(2):
        raise Waited
    assert not waits(2, monkeypatch)


def test_processes_of_a_pool_have_one_thread_and_the_environment_of_now(monkeypatch) -> None:
    loaded = "'analysis.sweep' in __import__('sys').modules"
    for value in ("first", "second"):  # the server of both was started under the first
        monkeypatch.setenv("BRAINMAPS_DATA", value)
        with pool(2, "analysis.sweep") as processes:
            assert processes.submit(os.getenv, "BRAINMAPS_DATA").result() == value
            assert processes.submit(torch.get_num_threads).result() == 1
            assert processes.submit(eval, loaded).result()
