"""What a study takes, reckoned from measured rates: core hours, GPU hours, disk; and in what time.

    expected(plan)                 # a row per stage
    makespan(plan, slots=100)      # hours at so many jobs at a time, the order of jobs simulated

Rates are of benchmarks/README.md, taken on cores; nothing here was measured on a GPU. One is taken
to do the work of `Rates.gpu` such cores, which is an assumption and named so wherever it shows.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.backbones import Card
from analysis.jobs import STAGES, Job, Plan

TABLE_16 = {"class-token": 1, "patch-token": 1, "gnet": 94, "three-samples": 7}  # × time; others 3
OURS = 3


@dataclass(frozen=True)
class Rates:
    """Seconds of one core. `training`, `extraction`, `tuning`, `preparation`: those benchmarks."""

    # training: 0.326 s a step on 2 cores, 8 pictures × 37,984 vertices × 12 layers × 128 channels,
    # of which the selectors of vertices, whatever the batch, take 0.170
    step: float = 0.005
    step_vertex: float = 2 * 0.170 / 37_984
    step_read: float = 2 * (0.326 - 0.170) / (8 * 37_984 * 12 * 128)
    # extraction: 4.16 pictures a second of clip-l on 2 cores: 86 million weights at 197 tokens
    picture: float = 0.02
    weight_token: float = 2 / 4.16 / (86e6 * 197)
    # tuning: what a picture of clip-l that is trained on takes, in passes
    trained: float = 3.4
    # preparation: 24.7 s for 40 sessions, by 2 cores
    session: float = 2 * 24.7 / 40
    page: float = 20.0  # of the small size
    paper_page: float = 1800.0  # assumed, not measured
    start: float = 4.0  # of a process that loads torch, a subject and tokens
    gpu: float = 100.0  # cores that a GPU is worth: assumed, not measured


RATES = Rates()
STEPS = dict.fromkeys(("paper", "released"), 70_000)  # best at 40,000 to 60,000 (E.3), + patience


def fit_seconds(
    model: str, steps: int, batch: int, vertices: int, layers: int, channels: int,
    rates: Rates = RATES,
) -> float:  # fmt: skip
    """Core seconds of a fit; of another model by Table 16's times."""
    if model == "ridge":
        return rates.start + layers * vertices / 500
    read = batch * vertices * layers * channels
    step = rates.step + rates.step_vertex * vertices + rates.step_read * read
    return steps * step * TABLE_16.get(model, OURS) / OURS


def picture_seconds(card: Card, rates: Rates = RATES) -> float:
    """Core seconds of a network's pass over one picture; of a diffusion model's 50 passes."""
    if card.library == "diffusers":
        return rates.picture + 50 * rates.weight_token * card.parameters * 470
    tokens = (card.input_size / (card.patch or 16)) ** 2
    return rates.picture + rates.weight_token * card.parameters * tokens


def tuning_seconds(
    card: Card, parts: Sequence[int], epochs: int, tried: int, method: str,
    layer: int | None = None, rates: Rates = RATES,
) -> float:  # fmt: skip
    """Core seconds of a network tuned to labelled pictures, up to a layer: its passes alone.

    `parts`: pictures to train on, to validate by, to test on; `tried`: rates, an epoch each.
    """
    train, validation, test = parts
    passes, epochs = float(sum(parts)), epochs - 1 + tried
    if method != "head":
        passes = train * (2 + rates.trained * epochs) + validation * (1 + epochs) + test
    share = (layer or card.layers) / card.layers
    return rates.start + passes * picture_seconds(card, replace(rates, picture=0.0)) * share


def expected(
    plan: Plan, missing: Sequence[Job] | None = None, rates: Rates = RATES
) -> pd.DataFrame:
    """A row per stage and one of all: jobs, those still to do, and what these take.

    Columns: jobs, to do, core hours, GPU hours, GB written.
    """
    todo = list(plan.jobs.values()) if missing is None else missing
    rows = []
    for stage in STAGES:
        if not (jobs := plan.of(stage)):
            continue
        left = [job for job in todo if job.stage == stage]
        rows.append(
            {
                "stage": stage,
                "jobs": len(jobs),
                "to do": len(left),
                "core hours": sum(j.seconds for j in left if not j.gpu) / 3600,
                "GPU hours": sum(j.seconds for j in left if j.gpu) / rates.gpu / 3600,
                "GB": sum(j.n_bytes for j in left) / 1e9,
            }
        )
    columns = ["stage", "jobs", "to do", "core hours", "GPU hours", "GB"]
    table = pd.DataFrame(rows, columns=columns).set_index("stage")
    table.loc["all"] = table.sum()
    return table.astype({"jobs": int, "to do": int})


@dataclass(frozen=True)
class Site:
    """What holds up a run beside the work."""

    overhead: float = 6.0  # seconds a job of the engine on Slurm (5 to 7 measured)
    submit: float = 5.0  # jobs handed over a second
    read: float = 2e9  # bytes a second that the shared file system gives to all together
    largest: int = 10**9  # jobs at a time


SITE = Site()


def took(job: Job, site: Site = SITE, rates: Rates = RATES) -> float:
    """Seconds of a job by itself, with what the engine and its start add."""
    return site.overhead + rates.start + job.seconds / (rates.gpu if job.gpu else 1.0)


def _chains(plan: Plan, site: Site, rates: Rates) -> dict[str, float]:
    """Seconds from each job's start to the end of the longest chain of jobs that wait for it."""
    behind = {name: took(job, site, rates) for name, job in plan.jobs.items()}
    for name, job in reversed(list(plan.jobs.items())):
        for need in job.needs:
            alone = took(plan.jobs[need], site, rates)
            behind[need] = max(behind[need], alone + behind[name])
    return behind


def chain(plan: Plan, site: Site = SITE, rates: Rates = RATES) -> float:
    """Hours of the longest chain of jobs that wait for each other: no number of jobs beats it."""
    return max(_chains(plan, site, rates).values()) / 3600


def makespan(plan: Plan, site: Site, rates: Rates = RATES) -> dict[str, float]:
    """Hours of a whole run with `site.largest` jobs at a time, and the share of slots in use.

    Each job starts as soon as those that it needs are done and a slot is free, that with the
    longest chain behind it first, and is handed over after the one before it; reading and writing
    wait for the file system in turn.
    """
    behind = _chains(plan, site, rates)
    needed_by: dict[str, list[str]] = {name: [] for name in plan.jobs}
    waiting = {name: len(job.needs) for name, job in plan.jobs.items()}
    for name, job in plan.jobs.items():
        for need in job.needs:
            needed_by[need].append(name)

    ready = [(-behind[name], name) for name, n in waiting.items() if not n]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = free_disk = next_submit = busy = 0.0
    while ready or running:
        while ready and len(running) < site.largest and next_submit <= now:
            _, name = heapq.heappop(ready)
            free_disk = (
                max(free_disk, now) + (plan.jobs[name].n_bytes + plan.jobs[name].n_read) / site.read
            )
            end = max(now + took(plan.jobs[name], site, rates), free_disk)
            busy += end - now
            heapq.heappush(running, (end, name))
            next_submit = now + 1 / site.submit
        if ready and len(running) < site.largest:
            now = next_submit if not running else min(next_submit, running[0][0])
        else:
            now = running[0][0]
        while running and running[0][0] <= now:
            _, name = heapq.heappop(running)
            for other in needed_by[name]:
                waiting[other] -= 1
                if not waiting[other]:
                    heapq.heappush(ready, (-behind[other], other))
    return {"hours": now / 3600, "in use": busy / max(now * site.largest, 1e-9)}


def at_a_time(
    plan: Plan, counts: Sequence[int], site: Site = SITE, rates: Rates = RATES
) -> pd.DataFrame:
    """A row per number of jobs at a time: hours, and what it would be without each hold-up."""
    rows = []
    for n in counts:
        here = replace(site, largest=n)
        row = {"jobs at a time": n, **makespan(plan, here, rates)}
        row["no overhead"] = makespan(plan, replace(here, overhead=0.0), rates)["hours"]
        row["no queue"] = makespan(plan, replace(here, submit=1e9), rates)["hours"]
        row["no disk"] = makespan(plan, replace(here, read=1e18), rates)["hours"]
        rows.append(row)
    return pd.DataFrame(rows).set_index("jobs at a time")


def said(plan: Plan, rates: Rates = RATES) -> str:
    """What a study takes, for who starts it."""
    missing = [job for job in plan.jobs.values() if not job.there()]
    table = expected(plan, missing, rates)
    return (
        f"study {plan.study}: {len(plan.jobs):,} jobs, {len(missing):,} to do\n"
        + table.to_string(float_format="{:,.2f}".format)
        + "\nReckoned from measured rates of cores (benchmarks/README.md). GPU hours take a GPU to"
        f"\ndo the work of {rates.gpu:g} cores, which was not measured."
    )
