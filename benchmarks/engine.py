"""What the engine adds to each job, and how long it takes to see that there is nothing to do.

    python -m benchmarks.engine --json engine.json

Whole runs of the workflow on this machine over made-up plans, in which a job is a process that ends
at once: of no job, and of many. The difference, by the number of jobs, is what a job costs beside
its work. Then a run of the same plan where all is there, and the dry run of the paper's study. They
take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis.files import ROOT
from analysis.jobs import Job, Plan, write_plan
from benchmarks.selection import machine, spread, write_whole

STAND_IN = '#!/bin/sh\necho "$5" >> "$BRAINMAPS_DATA/done"\n'


def seconds(study: Path, data: Path, *more: str) -> float:
    """Of one run of the workflow; `more`: arguments of it."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflow/Snakefile")]
    command += ["--workflow-profile", str(ROOT / "workflow/profiles/local"), "-d", str(data)]
    command += [*more, "--config", f"study={study}", f"python={data / 'python'}"]
    changed = {"BRAINMAPS_DATA": str(data), "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def turn(n: int) -> dict[str, float]:
    """Seconds of each kind of run, once."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        (data / "python").write_text(STAND_IN)
        (data / "python").chmod(0o755)
        (data / "file").write_text("x")
        (data / "there.json").write_text(json.dumps({"files": {"file": 1}}))
        there = {f"fit-{i}": Job(f"fit-{i}", "fit", ["there.json"]) for i in range(n)}
        absent = {f"fit-{i}": Job(f"fit-{i}", "fit", [f"{i}.json"]) for i in range(n)}
        for name, jobs in (("none", {}), ("there", there), ("absent", absent)):
            write_plan(data / f"{name}.json", Plan(name, jobs))
        paper = ROOT / "workflow/studies/paper.yaml"
        start = seconds(data / "none.json", data)
        each = (seconds(data / "absent.json", data) - start) / n
        if len((data / "done").read_text().split()) != n:
            sys.exit(f"not all of {n} jobs were run")
        nothing = seconds(data / "there.json", data)
        seconds(paper, data, "-n")  # draws the plan up
        dry = seconds(paper, data, "-n")
    return {
        "start, no job": start,
        f"each of {n} jobs": each,
        f"{n} jobs, all there": nothing,
        "dry run of the paper's study": dry,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    turns = [turn(options.jobs) for _ in range(options.turns)]
    found = {name: spread([t[name] for t in turns]) for name in turns[0]}
    for name, of in found.items():
        print(f"{name:<32}{of['median']:.3g} ({of['min']:.3g} to {of['max']:.3g}) s")
    if options.json:
        write_whole(options.json, json.dumps({"machine": machine(), "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
