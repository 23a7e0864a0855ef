"""Extraction with the cache writing, beside the bare forward pass of the same network.

    python -m benchmarks.extraction FOLDER --backbone clip-l --pictures 64

Random weights and pictures; the two take turns in one process, in the same batches. Prints pictures
per second and the ratio of each turn; then the peak memory of extracting so many pictures, and four
times as many, each in a process of its own.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from analysis.backbones import Backbone, load_backbone
from analysis.extraction import MOST_AT_ONCE, extract
from analysis.features import cache_folder


def drawn(rows: np.ndarray) -> np.ndarray:
    """Pictures by row, drawn when asked for, so that they take no memory."""
    return np.stack([np.random.default_rng(r).integers(0, 256, (224, 224, 3), "u1") for r in rows])


def bare(backbone: Backbone, pictures: np.ndarray) -> float:
    """Seconds of the forward pass alone."""
    device = next(backbone.parameters()).device
    start = time.perf_counter()
    with torch.inference_mode():
        for some in range(0, len(pictures), MOST_AT_ONCE):
            backbone(torch.from_numpy(pictures[some : some + MOST_AT_ONCE]).to(device))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def cached(backbone: Backbone, read: object, n: int, name: str) -> float:
    """Seconds of extracting n pictures into an empty cache."""
    for view in backbone.views:
        shutil.rmtree(cache_folder(view), ignore_errors=True)
    digests = [f"{name} {i}" for i in range(n)]
    start = time.perf_counter()
    extract(backbone, read, digests, batch=MOST_AT_ONCE)
    return time.perf_counter() - start


def peak(folder: Path, backbone: str, n: int) -> float:
    """Peak memory (bytes) of a process that extracts n pictures."""
    command = [sys.executable, "-m", "benchmarks.extraction", str(folder), "--backbone", backbone]
    command += ["--pictures", str(n), "--only"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="clip-l")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", action="store_true", help="extract once, in this process")
    options = parser.parse_args()
    os.environ["BRAINMAPS_DATA"] = str(options.folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(options.backbone, "random").to(device)
    if options.only:
        cached(backbone, drawn, options.pictures, "only")
        status = Path("/proc/self/status").read_text()  # getrusage would start at the parent's
        high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return print(json.dumps({"peak_bytes": 1024 * int(high.split()[1])}))
    pictures = drawn(np.arange(options.pictures))
    n, ratios = len(pictures), []
    for turn in range(options.turns + 1):  # the first warms up
        alone = bare(backbone, pictures)
        ours = cached(backbone, lambda rows: pictures[rows], n, "timed")
        if turn:
            ratios.append(alone / ours)
            print(
                f"bare {n / alone:6.2f}/s   with the cache {n / ours:6.2f}/s"
                f"   ratio {alone / ours:.3f}",
                flush=True,
            )
    low, high = min(ratios), max(ratios)
    print(f"ratio: median {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}), {device}")
    peaks = [peak(options.folder, options.backbone, count) for count in (n, 4 * n)]
    print(f"peak memory: {n} pictures {peaks[0] / 1e9:.3f} GB, {4 * n} {peaks[1] / 1e9:.3f} GB")
    if options.json:
        found = {"ratios": ratios, "peak_bytes": peaks, "pictures": n, "device": device}
        options.json.write_text(json.dumps(found | {"backbone": options.backbone}))


if __name__ == "__main__":
    main()
