import subprocess
import sys

import pytest

from analysis.memory import keep_freed

PAGES = """
import resource, sys, torch
from analysis.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(20_000_000)
before = faults()
for _ in range(10):
    torch.ones(20_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    def pages(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PAGES, how], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    assert pages("given back") > 10 * 80_000_000 / 4096 * 0.9  # of 4 kB, each handed out anew
    assert pages("kept") < 1000


def test_where_there_is_no_glibc_nothing_is_done(monkeypatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("asked for a library"))
    keep_freed()
