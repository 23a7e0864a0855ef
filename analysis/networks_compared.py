"""What the pages on brain score and alignment compare: networks, time steps, people.

    fits = networks("sim01", "small")          # the paper's six, by its names
    steps = time_steps("sim01", "small")       # "SD T50", "SD T40", ...: one pass serves all
    judged_scores(readings(fits), readings(steps), control, "sim01", run_text("small"))

Pages that ask for the same fits share them. A control is fitted to responses in another order.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import evidence
from analysis.backbones.diffusion import ENCODER, LAYER_NAMES
from analysis.comparison import Paired, compare, false_discovery, sign_flip, stands_out
from analysis.files import InputError
from analysis.fit import Fit
from analysis.readings import Reading, named, read
from analysis.simulate import parse_name
from analysis.study import extract_tokens, get_subject
from analysis.sweep import BASE, DIFFUSION, get_fits, planning, sized
from analysis.truth import PEOPLE
from analysis.verdicts import Judged

Readings = dict[str, Reading]

AXES = {"SD encoder": "T40E", "SD decoder": "T40D", "SD time": "D6"}  # of Fig. 16
# Time steps that are fitted. The miniature takes larger steps of the same way, for time's sake.
STEPS = {"small": (50, 40, 30, 20, 10, 0), "paper": tuple(range(50, -1, -5))}
OPTIONS = {"small": ",steps=5", "paper": ""}
CONTROL_STEPS = ("SD T50", "SD T40", "SD T0")  # two late ones, and one that is not


def networks(subject: str, size: str, seed: int = 0, shuffle: bool = False) -> dict[str, Fit]:
    """Fits of the six networks of one size, by the paper's names.

    `shuffle`: a control, to responses in another order.

    Raises:
        InputError: for an unknown subject or size.
    """
    options = sized(size, shuffle)
    wanted = {name: {"backbone": backbone} for name, backbone in BASE[size].items()}
    return get_fits(wanted, subject=subject, seed=seed, **options)


def _diffusion(
    subject: str, size: str, views: Mapping[str, str], seed: int, shuffle: bool
) -> dict[str, Fit]:
    options = sized(size, shuffle)
    backbone = DIFFUSION[size] + OPTIONS[size]
    if not planning():
        person = get_subject(
            subject, sessions=options.get("sessions"), n_surface=options.get("n_surface")
        )
        every = "+".join([*(f"T{t}" for t in STEPS[size]), *AXES.values()])
        extract_tokens(person, f"{backbone}@{every}")  # in one pass, whatever is asked for first
    wanted = {name: {"backbone": f"{backbone}@{view}"} for name, view in views.items()}
    return get_fits(wanted, subject=subject, seed=seed, **options)


def time_steps(subject: str, size: str, seed: int = 0, shuffle: bool = False) -> dict[str, Fit]:
    """Fits of all of Stable Diffusion's blocks at one time step each, as "SD T40".

    `shuffle`: a control, of `CONTROL_STEPS` alone.

    Raises:
        InputError: for an unknown subject or size.
    """
    sized(size)  # a wrong one is told
    views = {f"SD T{t}": f"T{t}" for t in STEPS[size]}
    if shuffle:
        views = {name: views[name] for name in CONTROL_STEPS}
    return _diffusion(subject, size, views, seed, shuffle)


def axes(subject: str, size: str, seed: int = 0, shuffle: bool = False) -> dict[str, Fit]:
    """Fits of Stable Diffusion's encoder and decoder at T40, and of decoder layer 6 at each T.

    Raises:
        InputError: for an unknown subject or size.
    """
    sized(size)
    return _diffusion(subject, size, AXES, seed, shuffle)


def axis_layers(size: str) -> dict[str, tuple[str, ...]]:
    """The names of the layers of each of `axes`, in their order: T from noise to the picture."""
    times = tuple(f"T{t}" for t in sorted(STEPS[size]))
    layers = (LAYER_NAMES[:ENCODER], LAYER_NAMES[ENCODER:], times)
    return dict(zip(AXES, layers, strict=True))


def people(subject: str, others: str = "") -> list[str]:
    """Whom a subject is compared with, itself first: of a simulated one all three, or the others.

    `others`: names, with spaces between.
    """
    if not others and subject.startswith("sim"):
        parse_name(subject)  # a wrong name is told
        others = " ".join(name + subject[5:] for name in PEOPLE)
    return list(dict.fromkeys([subject, *others.split()]))


def by_person(
    subject: str, size: str, seeds: Sequence[int], others: str = "", shuffle: bool = False
) -> dict[str, list[Fit]]:
    """Fits of CLIP to each of `people`, one for each seed.

    `shuffle`: a control, of the first two people.

    Raises:
        InputError: for no seed, or the same one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={list(seeds)}: expected one or more different ones.")
    options = sized(size, shuffle)
    who = people(subject, others)[: 2 if shuffle else None]
    wanted = {(name, seed): {"subject": name, "seed": seed} for name in who for seed in seeds}
    fits = get_fits(wanted, backbone=BASE[size]["CLIP"], **options)
    return {name: [fits[name, seed] for seed in seeds] for name in who}


def readings(fits: Mapping[str, Any]) -> dict[str, Any]:
    """What fits say, by the same names; of lists of fits, lists."""
    return {
        name: [read(one) for one in fit] if isinstance(fit, list) else read(fit)
        for name, fit in fits.items()
    }


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


def run_text(size: str, seeds: Sequence[int] | int = 0) -> str:
    """What a result was read from, for the scoreboard."""
    each = [seeds] if isinstance(seeds, int) else seeds
    return f"size {size}, {'seed' if len(each) == 1 else 'seeds'} {', '.join(map(str, each))}"


def _judged(
    rows: Mapping[str, Callable], measured: Any, control: Any, subject: str, run: str
) -> dict[str, Judged]:
    return {
        name: evidence.evaluate(name, measure, measured, control, subject, run)
        for name, measure in rows.items()
    }


def judged_scores(
    each: Mapping[str, Reading], control: Mapping[str, Reading], subject: str = "", run: str = ""
) -> dict[str, Judged]:
    """Rows 1 to 3, of ViTs and time steps; recorded for the scoreboard if a subject is named."""
    rows = {
        "early-and-late": evidence.early_and_late,
        "diffusion-uniform": evidence.diffusion_uniform,
        "diffusion-steps": evidence.diffusion_steps,
    }
    return _judged(rows, each, control, subject, run)


def judged_layers(
    each: Mapping[str, Reading], control: Mapping[str, Reading], subject: str = "", run: str = ""
) -> dict[str, Judged]:
    """Rows 4 to 9, of ViTs and of Stable Diffusion's axes; recorded likewise."""
    rows = {
        "clip-best": evidence.clip_best,
        "last-layer-middle": evidence.last_layer_middle,
        "last-layer-unused": evidence.last_layer_unused,
        "moco-ventral": evidence.moco_ventral,
        "early-layers": evidence.early_layers,
        "diffusion-axes": evidence.diffusion_axes,
    }
    return _judged(rows, each, control, subject, run)


def judged_people(
    each: Mapping[str, Sequence[Reading]],
    control: Mapping[str, Sequence[Reading]],
    subject: str = "",
    run: str = "",
) -> dict[str, Judged]:
    """Rows 16 and 17, of people and seeds, as far as there are two of them; recorded likewise."""
    rows: dict[str, Callable] = {}
    if all(len(runs) > 1 for runs in each.values()):
        if len(each) > 1:
            rows["subjects-differ"] = evidence.subjects_differ
        rows["seeds-agree"] = evidence.seeds_agree
    return _judged(rows, [*each.values()], [*control.values()], subject, run)
