"""The tiny study on a real Slurm, one job of it killed: the same results as on this machine alone.

    make test-slurm

Needs root, Debian's packages and some minutes, so it is not among the tests of `make test`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STUDY = "workflow/studies/tiny.yaml"
WAIT = 1200.0  # seconds


def run(data: Path, profile: str) -> subprocess.Popen:
    """The study, started into a data folder."""
    log = (data / "log").open("w")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "snakemake", "--workflow-profile", profile),
            *("--config", f"study={STUDY}"),
        ],
        cwd=ROOT,
        env=os.environ | {"BRAINMAPS_DATA": str(data), "PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def results(data: Path) -> dict[str, dict]:
    """What each fit found and the sha256 of its files, by its folder's name."""
    found = {}
    for path in sorted((data / "fits").glob("*/*/fit.json")):
        record = json.loads(path.read_text())
        files = sorted(path.parent.glob("*.safetensors"))
        sums = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        found[path.parent.name] = {"result": record["result"], "files": sums}
    return found


def queue() -> list[tuple[str, str, str]]:
    """Number, state and what it is, of each job of the cluster."""
    said = subprocess.run(
        ["squeue", "-h", "-o", "%i|%t|%k"], capture_output=True, text=True, check=True
    )
    return [tuple(line.split("|", 2)) for line in said.stdout.splitlines()]


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A Slurm of one node."""
    subprocess.run([HERE / "cluster.sh", "start", folder], check=True)
    try:
        yield
    finally:
        subprocess.run([HERE / "cluster.sh", "stop", folder], check=True)


def test_a_killed_job_is_tried_again_and_all_is_as_run_here(tmp_path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    started = time.monotonic()
    assert run(here, "workflow/profiles/local").wait(WAIT) == 0, (here / "log").read_text()
    print(f"\nlocally: {time.monotonic() - started:.0f} s")
    with cluster(tmp_path / "slurm"):
        started, killed = time.monotonic(), ""
        running = run(there, "workflow/slurm_test")
        while running.poll() is None and time.monotonic() - started < WAIT:
            fits = [n for n, state, what in queue() if state == "R" and "rule_fit" in what]
            if fits and not killed:
                time.sleep(3)  # it is at work
                killed = fits[0]
                subprocess.run(["scancel", "--signal=KILL", "--full", killed], check=True)
            time.sleep(0.5)
        log = (there / "log").read_text()
        running.kill()
        assert running.wait() == 0, log
    print(f"on Slurm: {time.monotonic() - started:.0f} s, job {killed} killed")
    jobs = {int(n) for n in re.findall(r"has been submitted with SLURM jobid (\d+)", log)}
    print(f"{len(jobs)} Slurm jobs, of {len(list((there / 'receipts/jobs').rglob('*-*')))} jobs")
    assert killed and "Trying to restart" in log
    assert results(there) == results(here) and len(results(here)) >= 5
