"""What the pages on brain score and alignment compare: networks, time steps, people.

    fits = networks("sim01", "small", [0, 1, 2])       # the paper's six, by its names
    steps = time_steps("sim01", "small", [0])          # "SD T50", "SD T40", ...
    judged_scores(readings(fits), readings(steps), "sim01", run)

Each is fitted once for each seed, in the order of the seeds. Pages that ask for the same fits share
them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import evidence
from analysis.backbones.diffusion import ENCODER, LAYER_NAMES
from analysis.comparison import Paired, compare, false_discovery, sign_flip, stands_out
from analysis.files import InputError
from analysis.findings import Run
from analysis.fit import Fit
from analysis.readings import Reading, named, read, truth_reading
from analysis.simulate import TEACHER, parse_name
from analysis.study import extract_tokens, get_subject
from analysis.sweep import BASE, DIFFUSION, different, get_fits, planning, sized
from analysis.truth import SIMULATED_SUBJECTS
from analysis.verdicts import Judged

Fits = dict[str, list[Fit]]  # by name, then by seed
Readings = Mapping[str, Sequence[Reading]]

AXES = {"SD encoder": "T40E", "SD decoder": "T40D", "SD time": "D6"}  # of Fig. 16
# Time steps that a model of one layer at all times reads, and those that are fitted alone. The
# miniature takes larger steps of the same way, for time's sake.
TIMES = {"small": (50, 40, 30, 20, 10, 0), "paper": tuple(range(50, -1, -5))}
STEPS = {"small": (50, 40, 20, 0), "paper": TIMES["paper"]}
OPTIONS = {"small": ",steps=5", "paper": ""}


def networks(subject: str, size: str, seeds: Sequence[int], recipe: str = "fast") -> Fits:
    """Fits of the six networks of one size, by the paper's names, one for each seed.

    Raises:
        InputError: for an unknown name, no seed, or the same one twice.
    """
    options, seeds = sized(size, recipe), different(seeds)
    wanted = {
        (name, seed): {"backbone": backbone, "seed": seed}
        for name, backbone in BASE[size].items()
        for seed in seeds
    }
    fits = get_fits(wanted, subject=subject, **options)
    return {name: [fits[name, seed] for seed in seeds] for name in BASE[size]}


def _diffusion(
    subject: str, size: str, views: Mapping[str, str], seeds: Sequence[int], recipe: str
) -> Fits:
    options, seeds = sized(size, recipe), different(seeds)
    backbone = DIFFUSION[size] + OPTIONS[size]
    if not planning():
        every = "+".join([*(f"T{t}" for t in STEPS[size]), *AXES.values()])
        # in one pass, whatever is asked for first
        extract_tokens(get_subject(subject), f"{backbone}@{every}")
    wanted = {
        (name, seed): {"backbone": f"{backbone}@{view}", "seed": seed}
        for name, view in views.items()
        for seed in seeds
    }
    fits = get_fits(wanted, subject=subject, **options)
    return {name: [fits[name, seed] for seed in seeds] for name in views}


def time_steps(subject: str, size: str, seeds: Sequence[int], recipe: str = "fast") -> Fits:
    """Fits of all of Stable Diffusion's blocks at one time step each, as "SD T40".

    Raises:
        InputError: as `networks`.
    """
    sized(size)  # a wrong one is told
    views = {f"SD T{t}": f"T{t}" for t in STEPS[size]}
    return _diffusion(subject, size, views, seeds, recipe)


def axes(subject: str, size: str, seeds: Sequence[int], recipe: str = "fast") -> Fits:
    """Fits of Stable Diffusion's encoder and decoder at T40, and of decoder layer 6 at each T.

    Raises:
        InputError: as `networks`.
    """
    sized(size)
    return _diffusion(subject, size, AXES, seeds, recipe)


def axis_layers(size: str) -> dict[str, tuple[str, ...]]:
    """The names of the layers of each of `axes`, in their order: T from noise to the picture."""
    times = tuple(f"T{t}" for t in sorted(TIMES[size]))
    layers = (LAYER_NAMES[:ENCODER], LAYER_NAMES[ENCODER:], times)
    return dict(zip(AXES, layers, strict=True))


def people(subject: str, others: str = "") -> list[str]:
    """Whom a subject is compared with, itself first: of a simulated one all three, or the others.

    `others`: names, with spaces between.
    """
    if not others and subject.startswith("sim"):
        parse_name(subject)  # a wrong name is told
        others = " ".join(name + subject[5:] for name in SIMULATED_SUBJECTS)
    return list(dict.fromkeys([subject, *others.split()]))


def by_person(
    subject: str, size: str, seeds: Sequence[int], others: str = "", recipe: str = "fast"
) -> Fits:
    """Fits of CLIP to each of `people`, one for each seed.

    Raises:
        InputError: as `networks`.
    """
    options, seeds, who = sized(size, recipe), different(seeds), people(subject, others)
    wanted = {(name, seed): {"subject": name, "seed": seed} for name in who for seed in seeds}
    fits = get_fits(wanted, backbone=BASE[size]["CLIP"], **options)
    return {name: [fits[name, seed] for seed in seeds] for name in who}


def readings(fits: Mapping[str, Sequence[Fit]]) -> dict[str, list[Reading]]:
    """What fits say, by the same names, one for each seed."""
    return {name: [read(one) for one in each] for name, each in fits.items()}


def first_of(each: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What is of the first seed, by the same names: what maps are drawn of."""
    return {name: runs[0] for name, runs in each.items()}


def truth_known(reading: Reading) -> bool:
    """Whether it is known what the vertices read of this network: a simulation's own."""
    return reading.subject.simulated and reading.backbone == TEACHER


def per_seed(*groups: Readings) -> list[dict[str, Reading]]:
    """What rows of Table 5 are measured from, once for each seed that all groups have."""
    every = {name: runs for group in groups for name, runs in group.items()}
    return [dict(zip(every, each, strict=True)) for each in zip(*every.values(), strict=False)]


# comparisons


def standing_out(each: Mapping[str, Reading]) -> dict[str, Float[np.ndarray, " vertex"]]:
    """How far each network's R² is from all the others', per vertex (Fig. 4)."""
    return stands_out({name: reading.scores.r2 for name, reading in each.items()})


def pair_of(fits: Mapping[str, Fit], pair: Sequence[str]) -> Paired:
    """Two of the fits on the same test pictures.

    Raises:
        InputError: for another number of names, or unknown ones.
    """
    if len(pair) != 2:
        raise InputError(f"pair={list(pair)}: expected two of {', '.join(fits)}.")
    one, other = named(fits, *pair)
    return compare(one, other)


def against_table(fits: Mapping[str, Fit], one: str) -> pd.DataFrame:
    """A row per other network: mean difference of R² from one's, its interval over pictures, p, q.

    q is over networks; then the share of vertices, at q < 0.05 over vertices, where either is
    better.
    """
    rows, gains = [], []
    for name in (name for name in fits if name != one):
        paired = pair_of(fits, (one, name))
        row = paired.roi_table(()).iloc[0].drop(["ROI", "p", "q"])
        rows.append({"network": name} | row.to_dict())
        gains.append(np.nanmean(paired.gain, axis=1))
    p = sign_flip(np.stack(gains, 1))
    return pd.DataFrame(rows).assign(p=p, q=false_discovery(p))


# verdicts


def _judged(
    rows: Mapping[str, Callable], seeds: Sequence[Any], subject: str, run: Run | None
) -> dict[str, Judged]:
    if run is not None:
        run = replace(run, seeds=run.seeds[: len(seeds)])
    return {
        name: evidence.evaluate(name, measure, seeds, subject, run)
        for name, measure in rows.items()
    }


def seeds_of(judged: Judged, run: Run) -> Run:
    """The run with as many of its seeds as a row was judged over."""
    return replace(run, seeds=run.seeds[: judged.seeds])


def judged_scores(vits: Readings, subject: str = "", run: Run | None = None) -> dict[str, Judged]:
    """Row 1, of ViTs; recorded for the scoreboard if a subject is named."""
    return _judged({"early-and-late": evidence.early_and_late}, per_seed(vits), subject, run)


def judged_layers(vits: Readings, subject: str = "", run: Run | None = None) -> dict[str, Judged]:
    """Rows 4 to 8, of ViTs; recorded likewise."""
    rows = {
        "clip-best": evidence.clip_best,
        "last-layer-middle": evidence.last_layer_middle,
        "last-layer-unused": evidence.last_layer_unused,
        "moco-ventral": evidence.moco_ventral,
        "early-layers": evidence.early_layers,
    }
    return _judged(rows, per_seed(vits), subject, run)


def judged_diffusion(
    vits: Readings,
    steps: Readings,
    axes: Readings,
    subject: str = "",
    run: Run | None = None,
) -> dict[str, Judged]:
    """Rows 2, 3 and 9, of Stable Diffusion's time steps and axes and of ViTs; recorded likewise."""
    by_step = {
        "diffusion-uniform": evidence.diffusion_uniform,
        "diffusion-steps": evidence.diffusion_steps,
    }
    by_axis = {"diffusion-axes": evidence.diffusion_axes}
    return _judged(by_step, per_seed(vits, steps), subject, run) | _judged(
        by_axis, per_seed(vits, axes), subject, run
    )


def judged_people(each: Readings, subject: str = "", run: Run | None = None) -> dict[str, Judged]:
    """Rows 16 and 17, of people and seeds, as far as there are two of them; recorded likewise."""
    if any(len(runs) < 2 for runs in each.values()):
        return {}
    every, found = [*each.values()], {}
    if len(each) > 1:
        known = all(truth_known(r) for runs in every for r in runs)
        truth = [[truth_reading(r) for r in runs] for runs in every] if known else None
        found["subjects-differ"] = evidence.evaluate(
            "subjects-differ", evidence.subjects_differ, [every], subject, run, truth
        )
    found["seeds-agree"] = evidence.evaluate(
        "seeds-agree", evidence.seeds_agree, [every], subject, run
    )
    return found
