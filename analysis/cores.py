"""Fits at once share a machine: each holds as many of its cores as it has threads.

Two fits of two threads each, on two cores, take longer side by side than one after the other:
threads wait for each other. So a fit waits until the cores that it needs are free. Its numbers
can't depend on what else runs, as they would if the number of its threads did.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager

import filelock

from analysis.files import data_root
from analysis.progress import say

LOOK_AGAIN = 0.5  # seconds


def machine_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _begin(environment: Mapping[str, str]) -> None:
    import torch  # not by those who ask for cores alone

    os.environ.update(environment)  # of a server that was started under another one
    torch.set_num_threads(1)


def pool(workers: int, *preload: str) -> ProcessPoolExecutor:
    """So many processes of one thread each, forked from a server that has loaded these modules.

    The server stays while this process lasts: loading torch and all else takes a process 5 s.
    """
    forked = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(workers, context, _begin, (dict(os.environ),))


@contextmanager
def cores(threads: int) -> Iterator[None]:
    """Hold so many of this machine's cores, waiting for them; a process that dies lets go of its.

    Of all that use one data folder. More threads than cores hold all.
    """
    folder = data_root() / "cores" / socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    count = machine_cores()
    wanted, told = min(threads, count), False
    free = [filelock.FileLock(folder / f"{i}.lock") for i in range(count)]

    def taken(lock: filelock.FileLock) -> bool:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return False
        return True

    def wait() -> None:
        nonlocal told
        if not told:
            say(
                f"waiting for {wanted} of {count} cores, which other fits hold."
                " Fits of fewer --threads run side by side."
            )
            told = True
        time.sleep(LOOK_AGAIN)

    turn = filelock.FileLock(folder / "turn.lock")  # one waits for cores at a time: no deadlock
    with ExitStack() as held:
        while not taken(turn):
            wait()
        try:
            while wanted:
                if lock := next(filter(taken, free), None):
                    free.remove(lock)
                    held.callback(lock.release)
                    wanted -= 1
                else:
                    wait()
        finally:
            turn.release()
        yield
