"""A study's cost as its page shows it: tables, a figure's data and what holds up, in words.

plan = planned("paper")
costs_shown(plan), limits(plan)
"""

import pandas as pd

from analysis.backbones import card_of
from analysis.files import ROOT, InputError
from analysis.jobs import Plan
from analysis.plan import draw_up
from analysis.study import Wanted
from analysis.study_cost import RATES, SITE, STEPS, Site, at_a_time, chain, expected, makespan, took
from analysis.study_file import read_study

AT_A_TIME = (10, 100, 1000)
LITTLE = 0.02  # of the time: what is not worth a word
DRAWN = (3, 10, 30, 100, 300, 1000)
FOLDER = ROOT / "workflow" / "studies"
HOLD_UPS = {
    "no overhead": "the engine's seconds for each job",
    "no queue": "jobs handed to the scheduler one after the other",
    "no disk": "the shared file system",
}


def planned(study: str) -> Plan:
    """The jobs of a study by name.

    Raises:
        InputError: for a name that is not there, with those that are.
    """
    path = FOLDER / f"{study}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise InputError(f"study {study!r}: expected one of {names}.")
    return draw_up(read_study(path))


def costs_shown(plan: Plan) -> pd.DataFrame:
    """A row per stage: jobs, hours and what is written, from nothing."""
    table = expected(plan).drop(columns="to do").reset_index()
    return table.rename(columns={"stage": "Stage", "jobs": "Jobs", "GB": "GB written"})


def limits(plan: Plan) -> pd.DataFrame:
    """A row per number of jobs at a time: simulated hours, and those without each hold-up."""
    return at_a_time(plan, AT_A_TIME).reset_index()


def curve(plan: Plan) -> pd.DataFrame:
    """Hours at more numbers of jobs, simulated and as if the work were shared evenly."""
    work = sum(took(job, Site(overhead=0.0)) for job in plan.jobs.values()) / 3600
    rows = [
        {
            "jobs at a time": n,
            "hours": makespan(plan, Site(largest=n))["hours"],
            "shared evenly": work / n,
        }
        for n in DRAWN
    ]
    return pd.DataFrame(rows)


def limits_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The same, to be read."""
    return pd.DataFrame(
        {
            "Jobs at a time": [f"{n:,}" for n in table["jobs at a time"]],
            "Hours": table["hours"],
            "slots in use, %": 100 * table["in use"],
            "without the engine's seconds": table["no overhead"],
            "without waiting to be handed over": table["no queue"],
            "without waiting for the disk": table["no disk"],
        }
    )


def finding(plan: Plan, table: pd.DataFrame) -> str:
    """What the study takes, in a box."""
    total = expected(plan).loc["all"]
    hours = ", ".join(
        f"{row['hours']:.1f} h with {row['jobs at a time']:,.0f}" for _, row in table.iterrows()
    )
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"The study `{plan.study}` is {len(plan.jobs):,} jobs: reckoned,"
        f" {total['core hours']:,.0f} core hours, {total['GPU hours']:,.0f} GPU hours and"
        f" {total['GB'] / 1000:,.1f} TB; simulated, {hours} jobs at a time. Rates are measured on"
        f" cores; that a GPU does the work of {RATES.gpu:g} of them is assumed.\n:::"
    )


def held_up(plan: Plan, table: pd.DataFrame) -> str:
    """What holds each number of jobs up, a line for each."""
    lines = []
    least = chain(plan)
    for _, row in table.iterrows():
        saved = {why: row["hours"] - row[name] for name, why in HOLD_UPS.items()}
        worst = max(saved, key=saved.__getitem__)
        share = saved[worst] / row["hours"]
        said = f"of what can be changed, most is {worst}: {100 * share:.0f} % of the time"
        if share < LITTLE:
            said = f"nothing beside the work itself holds it up by {100 * LITTLE:.0f} % or more"
        if row["hours"] < 1.2 * least:
            said += f"; the longest chain of jobs, {least:.1f} h, is near"
        lines.append(f"- **{row['jobs at a time']:,.0f} at a time**: {said}.")
    return "\n".join(lines)


def cache_text(plan: Plan) -> str:
    """What a fit asks of the token cache, at most, where nothing is kept in memory."""
    most, network, batch = 0.0, "", 0
    for job in plan.of("fit"):
        if not job.gpu:
            continue
        (wanted,) = (Wanted(**names) for names in job.about["wanted"])
        _, recipe = wanted.configured()
        steps = STEPS.get(wanted.recipe, recipe.max_steps)
        rate = steps * recipe.batch * card_of(wanted.backbone).cache_bytes * RATES.gpu / job.seconds
        if rate > most and wanted.variant == "factortopy":
            most, network, batch = rate, wanted.backbone, recipe.batch
    if not most:
        return "here no fit is of a size for that to matter."
    return (
        f"up to {most / 1e9:.1f} GB a second for `{network}`, {batch} pictures a step, where the"
        f" disk is taken to give {SITE.read / 1e9:g} GB a second to all jobs together. So give"
        " nodes memory for the tokens of the networks that they train on"
        f" (at most {max(j.n_read for j in plan.of('fit')) / 1e9:,.0f} GB), or run fewer at a time."
    )
