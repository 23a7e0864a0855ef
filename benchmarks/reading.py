"""Reading random batches of a token cache, beside a raw memory map of the same bytes.

    python -m benchmarks.reading FOLDER --gigabytes 1

Writes a cache of random tokens (12 layers of 768 channels: 1.2 MB a picture) into FOLDER and the
same rows into one plain file; then, taking turns, reads every picture once in random batches of 8,
as float32 tensors, from each. The map's reader copies rows out and turns them to float32; ours also
scales each layer. Prints the median and range of stored megabytes per second and of the ratio, and
beside it the map's rows copied out as they are stored, in float16.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from analysis.backbones import View
from analysis.features import Form, Tokens, read_tokens
from analysis.growing import Growing, stored

WIDTHS = (768,) * 12
PART, BATCH = 52, 8  # pictures: parts of 64 MB


def write(folder: Path, n: int) -> tuple[Tokens, np.memmap]:
    """The cache, and the plain file of the same local and global tokens, mapped."""
    names = tuple(str(i + 1) for i in range(len(WIDTHS)))
    view = View("random", f"benchmark {n}", slice(None), WIDTHS, names)
    digests = [f"{i:064x}" for i in range(n)]
    generator = torch.Generator().manual_seed(0)
    channels = sum(WIDTHS)
    plain = np.memmap(folder / "plain.f16", np.float16, "w+", shape=(n, channels * 65))
    for start in range(0, n, PART):
        pictures = digests[start : start + PART]
        part = Growing(view, Form(), folder / "cache", pictures)
        local = torch.randn(len(pictures), channels, 8, 8, generator=generator)
        rows = stored(view, local, local.mean((2, 3)), pictures)
        plain[start : start + PART, : channels * 64] = rows.local.reshape(len(pictures), -1)
        plain[start : start + PART, channels * 64 :] = rows.global_
        part.open()
        part.add(0, rows)
        part.finish()
    plain.flush()
    return read_tokens(folder / "cache", digests), np.memmap(
        folder / "plain.f16", np.float16, "r", shape=(n, channels * 65)
    )


def seconds(read: Callable[[np.ndarray], object], batches: np.ndarray) -> float:
    start = time.perf_counter()
    for rows in batches:
        read(rows)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    row_bytes = 2 * sum(WIDTHS) * 65
    n = int(options.gigabytes * 1e9 / row_bytes) // BATCH * BATCH
    tokens, plain = write(options.folder, n)
    rng = np.random.default_rng(0)
    speed: dict[str, list[float]] = {"map, float32": [], "map, float16": [], "ours": []}
    readers: dict[str, Callable[[np.ndarray], object]] = {
        "map, float32": lambda rows: torch.from_numpy(plain[rows]).float(),
        "map, float16": lambda rows: torch.from_numpy(plain[rows]),
        "ours": tokens.__getitem__,
    }
    for turn in range(options.turns + 1):  # the first brings the files into the page cache
        batches = rng.permutation(n).reshape(-1, BATCH)
        for name, read in readers.items():
            took = seconds(read, batches)
            if turn:
                speed[name].append(n * row_bytes / 1e6 / took)
    pairs = zip(speed["ours"], speed["map, float32"], strict=True)
    ratios = [ours / plainly for ours, plainly in pairs]
    print(f"{n} pictures, {n * row_bytes / 1e9:.2f} GB, {os.cpu_count()} cores")
    for name, values in (*speed.items(), ("ours / map, float32", ratios)):
        low, high = min(values), max(values)
        print(f"{name:<20}{statistics.median(values):10.2f} ({low:.2f} to {high:.2f})")
    if options.json:
        options.json.write_text(json.dumps({"MB_per_s": speed, "ratios": ratios, "pictures": n}))


if __name__ == "__main__":
    main()
