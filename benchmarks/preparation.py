"""Preparing a subject of NSD's full size, beside a plain read of the same bytes.

    python -m benchmarks.preparation FOLDER --sessions 40

Writes session files of the true size and format (two hemispheres of 163,842 vertices, 750 trials
each: 983 MB a session) into FOLDER, random values repeated from one session's with a session number
mixed in, then measures in turn, each session by session: reading all bytes into one buffer, and
`prepare`. Prints seconds, their ratio and the peak memory of the process that prepared.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from analysis import anatomy, mgh
from analysis.files import HEMIS
from analysis.surface import FULL

TRIALS = 750
HEADER_BYTES = 284  # of a .mgh
BUFFER = 2**24  # bytes of a plain read at a time


def paths(folder: Path, sessions: int) -> list[tuple[Path, Path]]:
    return [
        (
            folder / f"lh.betas_session{s + 1:02d}.mgh",
            folder / f"rh.betas_session{s + 1:02d}.mgh",
        )
        for s in range(sessions)
    ]


def write(folder: Path, sessions: int) -> None:
    """Session files of the true size; those that are there are kept."""
    rng = np.random.default_rng(0)
    betas = rng.normal(0.25, 1.75, (TRIALS, FULL)).astype(">f4")
    template = folder / "header.mgh"
    mgh.write(template, betas[:1].T.repeat(2, 1))
    header = bytearray(template.read_bytes()[:HEADER_BYTES])
    header[16:20] = np.array(TRIALS, ">i4").tobytes()  # the fourth dimension
    for session, pair in enumerate(paths(folder, sessions)):
        for side, path in enumerate(pair):
            if not path.exists():
                betas[:, :64] = rng.normal(session, 1 + side, (TRIALS, 64))  # sessions differ
                with path.open("wb") as f:
                    f.write(header)
                    f.write(betas.data)


def forget(files: list[tuple[Path, Path]]) -> None:
    """Drop the files from the page cache, so that both begin from the disk."""
    for pair in files:
        for path in pair:
            with path.open("rb") as f:
                os.fsync(f.fileno())
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain(files: list[tuple[Path, Path]]) -> float:
    """Seconds to read every byte."""
    buffer = bytearray(BUFFER)
    start = time.perf_counter()
    for pair in files:
        for path in pair:
            with path.open("rb", buffering=0) as f:
                while f.readinto(buffer):
                    pass
    return time.perf_counter() - start


def prepared(folder: Path, sessions: int) -> tuple[float, float]:
    """Seconds of `prepare` in a process of its own, and its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preparation", str(folder), "--sessions", str(sessions)]
        + ["--only"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"BRAINMAPS_DATA": str(folder / "data")},
    )
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["peak_bytes"]


def only(folder: Path, sessions: int) -> None:
    """Prepare here, and print seconds and peak memory."""
    from analysis.prepare import prepare

    columns = tuple(anatomy.visual_vertices(hemi, FULL) for hemi in HEMIS)
    start = time.perf_counter()
    made = prepare("benchmark", paths(folder, sessions), columns, FULL, TRIALS)
    seconds = time.perf_counter() - start
    assert made.responses.shape == (TRIALS * sessions, sum(map(len, columns)))
    status = Path("/proc/self/status").read_text()  # getrusage would start at the parent's
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="store_true", help="prepare once, in this process")
    options = parser.parse_args()
    if options.only:
        return only(options.folder, options.sessions)
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder, options.sessions)
    files = paths(options.folder, options.sessions)
    n_bytes = sum(path.stat().st_size for pair in files for path in pair)
    print(f"{options.sessions} sessions, {n_bytes / 1e9:.1f} GB, page cache dropped before each")
    ratios = []
    for _ in range(options.repeats):
        forget(files)
        read = plain(files)
        forget(files)
        for left in (options.folder / "data").rglob("*.*"):
            left.unlink()
        made, peak = prepared(options.folder, options.sessions)
        ratios.append(made / read)
        print(
            f"plain read {read:7.1f} s ({n_bytes / 1e6 / read:,.0f} MB/s)   prepare {made:7.1f} s"
            f"   ratio {made / read:.2f}   peak memory {peak / 1e9:.2f} GB",
            flush=True,
        )
    low, high = min(ratios), max(ratios)
    print(f"ratio: median {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
