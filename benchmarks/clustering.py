"""What clustering N vertices by the rows of their kernel costs, with the kernel and without.

kernel   W Wᵀ, N x N, and k-means of its rows (Appendix E.2 to the letter)
factor   W (WᵀW)^½, N x D, whose rows lie as far apart (`analysis.channels.kernel_factor`)

Both are scikit-learn's KMeans (Lloyd's) in float32, from the same vertices as first centres and for
as many iterations; then Ward's joining of the centres to 20 clusters. Each run is a process of its
own, in turns; seconds are the processor's, on one thread, from W to the clusters; peak memory is
what the process came to hold beyond W and its libraries.

    python -m benchmarks.clustering --json clustering.json

At 37,984 vertices the kernel alone is 5.8 GB, and a run with it takes about an hour.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from analysis.channels import CLUSTERS, kernel_factor
from benchmarks.selection import machine, ratio, spread, write_whole

FORMS = ("factor", "kernel")


def weights(vertices: int, channels: int) -> Float[np.ndarray, "vertex channel"]:
    """Random weights about 40 directions, as of regions that read alike."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(40, channels))[rng.integers(40, size=vertices)]
    return (kinds + rng.normal(size=kinds.shape)).astype(np.float32)


def run(form: str, given: argparse.Namespace) -> dict[str, Any]:
    """Seconds by step, peak bytes and clusters of one form, in a process that did nothing else."""
    weight = weights(given.vertices, given.channels)
    _cluster(weight[: 4 * given.centres], np.arange(given.centres), 1)  # libraries are not counted
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    started = time.process_time()
    rows = kernel_factor(weight) if form == "factor" else weight @ weight.T
    made = time.process_time()
    first = np.random.default_rng(1).choice(given.vertices, given.centres, replace=False)
    found, iterations = _cluster(rows.astype(np.float32, copy=False), first, given.iterations)
    ended = time.process_time()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": ended - started,
        "seconds_rows": made - started,
        "seconds_iteration": (ended - made) / iterations,
        "iterations": iterations,
        "added_bytes": peak - held,
        "clusters": found.tolist(),
    }


def _cluster(rows: np.ndarray, first: np.ndarray, iterations: int) -> tuple[np.ndarray, int]:
    """Clusters of rows from these as first centres; `rows` is changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = rows[first].copy()
        near = KMeans(len(first), init=centres, n_init=1, max_iter=iterations, copy_x=False, tol=0)
        near.fit(rows)
    joined = AgglomerativeClustering(CLUSTERS, linkage="ward").fit_predict(near.cluster_centers_)
    return joined[near.labels_], near.n_iter_


def alone(form: str, given: argparse.Namespace) -> dict[str, Any]:
    """`run` in a new process."""
    sizes = [f"--{name}={getattr(given, name)}" for name in SIZES]
    command = [sys.executable, "-m", "benchmarks.clustering", *sizes, f"--form={form}"]
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return json.loads(subprocess.check_output(command, env=os.environ | threads, text=True))


SIZES = ("vertices", "channels", "centres", "iterations")


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--vertices", type=int, default=37984)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--centres", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--form", choices=FORMS, help="only run this one, and print its numbers")
    given = parser.parse_args()
    if given.form:
        with threadpool_limits(1):
            print(json.dumps(run(given.form, given)))
        return
    results: dict[str, list[dict]] = {form: [] for form in FORMS}
    for _ in range(given.repeats):
        for form in FORMS:
            results[form].append(alone(form, given))
    report: dict[str, Any] = {
        "times_faster": ratio(*([r["seconds"] for r in results[f]] for f in ("kernel", "factor"))),
        "times_smaller": ratio(
            *([r["added_bytes"] for r in results[f]] for f in ("kernel", "factor"))
        ),
        "same_clusters_rand": adjusted_rand_score(*(results[f][0]["clusters"] for f in FORMS)),
    }
    for key in ("seconds", "seconds_rows", "seconds_iteration", "added_bytes", "iterations"):
        report[key] = {form: spread([r[key] for r in each]) for form, each in results.items()}
    report |= {"shape": {name: getattr(given, name) for name in SIZES}, "machine": machine()}
    print(json.dumps(report, indent=1))
    if given.json:
        write_whole(given.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
