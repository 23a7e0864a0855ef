"""What fine-tuning does to a network's maps: the page of Figs 7, 23 and 24, Tables 3 and 14.

    page = fine_tuned("sim01", "small", seeds=1)
    accuracy_table(page), forgetting_table(page), judged(page)

Each network is tuned to each task, and the one of the first seed is fitted to the cortex again as
if it were another network. How far a map moved is the mean absolute change of its vertices' depth;
how far those of two seeds of the same untuned network lie apart says how much of that is none.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from analysis import metrics
from analysis.alignment import LATE
from analysis.backbones import card_of, load_backbone
from analysis.evidence import evaluate, fine_tuning_accuracy, fine_tuning_layout
from analysis.files import InputError
from analysis.finetune import Tuned, global_tokens, head_grid
from analysis.fit import Fit
from analysis.labelled import get_labelled
from analysis.learner import Tuning
from analysis.lessons import Lesson
from analysis.readings import (
    EARLY,
    PATCHES,
    PICTURES,
    Reading,
    moved,
    over_pictures,
    read,
    roi_scores,
)
from analysis.sweep import get_fits, get_tuned, sized
from analysis.verdicts import Judged, Measured

# Those of the paper's Table 14. The small ones are each family's smallest, without SAM: tuning
# costs three times as much as running. Tasks: one that asks for something low-level, then one for
# shape.
NETWORKS = {
    "small": {
        "CLIP": "clip-mini-s",
        "MAE": "mae-mini-s",
        "DiNOv2": "dinov2-mini-s",
    },
    "paper": {"CLIP": "clip-l", "MAE": "mae-b", "SAM": "sam-b", "DiNOv2": "dinov2-b"},
}
TASKS = {"small": ("colour", "shape"), "paper": ("isic", "eurosat")}
SIDE = {"small": 128, "paper": 224}  # pixels that files are resized to
TUNING = {
    "small": Tuning(epochs=3, rates=(3e-4, 1e-3)),
    "paper": Tuning(epochs=20, batch=32, hidden=512, rates=(1e-5, 3e-5, 1e-4)),
}
# Epochs of the other methods, which are tried once
OTHERS = {"small": {"head": 20, "lora": 2}, "paper": {"head": 50, "lora": 20}}
GRID = {
    "small": Tuning(method="head", epochs=20, batch=64, rates=(3e-3,)),
    "paper": Tuning(method="head", epochs=50, batch=256, hidden=512),
}
GRID_SEEDS = 2


@dataclass(frozen=True)
class Page:
    """Networks before and after they were tuned to each task."""

    subject: str
    size: str
    tasks: tuple[str, ...]
    tuned: Mapping[tuple[str, str], list[Tuned]]  # by network and task, a seed each
    fits: Mapping[tuple[str, str], Fit]  # by network and task; task "" before
    readings: Mapping[tuple[str, str], Reading]
    methods: Mapping[str, Tuned]  # of the first network and the last task
    control: Mapping[tuple[str, str], Reading]  # of shuffled responses; of the first task alone
    other: Mapping[str, Reading]  # untuned, fitted by another seed: how far a map moves for nothing

    @property
    def first(self) -> Fit:
        """The first network's fit before it was tuned."""
        return next(iter(self.fits.values()))

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(network for network, _ in self.tuned))


def lessons(size: str, seeds: int) -> dict[tuple[str, str, int], Lesson]:
    """Each network tuned to each task, by so many seeds."""
    networks, tasks = NETWORKS[size], TASKS[size]
    return {
        (n, t, run): Lesson(networks[n], t, SIDE[size], replace(TUNING[size], seed=run))
        for n, t, run in itertools.product(networks, tasks, range(seeds))
    }


def other_lessons(size: str) -> dict[str, Lesson]:
    """The first network tuned to the last task by the other methods."""
    first, last = next(iter(NETWORKS[size].values())), TASKS[size][-1]
    return {
        method: Lesson(first, last, SIDE[size], Tuning(method=method, epochs=epochs))
        for method, epochs in OTHERS[size].items()
    }


def layer_lessons(size: str) -> dict[tuple[str, str, int, int], Lesson]:
    """Each network cut at each layer and tuned to each task: by network, task, seed and layer."""
    return {
        (network, task, seed, layer): Lesson(
            name, task, SIDE[size], replace(TUNING[size], layer=layer, seed=seed)
        )
        for network, name in NETWORKS[size].items()
        for task in TASKS[size]
        for seed in range(GRID_SEEDS)
        for layer in range(1, 1 + card_of(name).layers)
    }


def mapped(subject: str, size: str, seed: int = 0) -> dict[tuple[str, str, str], Fit]:
    """Fits of each network before and after each task, by what they are for, network and task.

    "maps"; "control", to shuffled responses, before and after the first task; "other", before,
    by another seed. The task is "" before.
    """
    before = {(n, ""): {"backbone": name} for n, name in NETWORKS[size].items()}
    after = {(n, t): lesson.names for (n, t, _), lesson in lessons(size, 1).items()}
    wanted: dict[tuple[str, str, str], dict[str, Any]] = {}
    for key, own in (before | after).items():
        wanted["maps", *key] = own | {"seed": seed}
        if key[1] in ("", TASKS[size][0]):
            wanted["control", *key] = own | {"seed": seed, "shuffle": True}
        if key in before:
            wanted["other", *key] = own | {"seed": seed + 1}
    return get_fits(wanted, subject=subject, **sized(size))


def fine_tuned(
    subject: str, size: str, seeds: int = 1, seed: int = 0, beside: Sequence[Lesson] = ()
) -> Page:
    """Each network of a size, tuned to each task by so many seeds, and mapped before and after.

    `seed`: of the fits. `beside`: what else is to be tuned at the same time.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    if seeds < 1:
        raise InputError(f"seeds={seeds}: expected 1 or more.")
    every, others = lessons(size, seeds), other_lessons(size)
    each = get_tuned({**dict(enumerate(beside)), **every, **others})
    tasks, first = TASKS[size], next(iter(NETWORKS[size]))
    tuned = {
        (n, t): [each[n, t, run] for run in range(seeds)]
        for n, t in itertools.product(NETWORKS[size], tasks)
    }
    methods = {"whole": each[first, tasks[-1], 0]} | {m: each[m] for m in others}
    fits = mapped(subject, size, seed)

    def of(kind: str) -> dict[tuple[str, str], Fit]:
        return {(n, t): fit for (k, n, t), fit in fits.items() if k == kind}

    control = {key: read(fit) for key, fit in of("control").items()}
    other = {n: read(fit) for (n, _), fit in of("other").items()}
    readings = {key: read(fit) for key, fit in of("maps").items()}
    return Page(subject, size, tasks, tuned, of("maps"), readings, methods, control, other)


def right(each: Sequence[Tuned]) -> Float[np.ndarray, " picture"]:
    """The share of runs that name each test picture."""
    return np.mean([done.labels == done.predicted for done in each], axis=0)


def accuracy_of(each: Sequence[Tuned]) -> Measured:
    """Mean accuracy over runs: Student's interval over them, or over test pictures of one."""
    values = np.array([done.accuracy for done in each])
    if len(values) < 2:
        return Measured.of(over_pictures(right(each)), PICTURES)
    low, high = metrics.over_runs(values)
    return Measured(float(values.mean()), float(low), float(high), "seeds")


def accuracy_table(page: Page) -> pd.DataFrame:
    """A row per network and task: accuracy with its interval, chance, what validation chose."""
    rows = []
    for (network, task), each in page.tuned.items():
        found = accuracy_of(each)
        rows.append(
            {
                "network": network,
                "task": task,
                "runs": len(each),
                "accuracy": found.value,
                "low": found.low,
                "high": found.high,
                "chance": each[0].result["chance"],
                "rate": each[0].result["rate"],
                "epoch": each[0].result["epoch"],
            }
        )
    return pd.DataFrame(rows)


def forgetting_table(page: Page) -> pd.DataFrame:
    """A row per network and task: R² before, after and lost, how far early and late maps moved."""
    rows = []
    for (network, task), after in page.readings.items():
        if not task:
            continue
        before = page.readings[network, ""]
        scores = [roi_scores(r)["all"] for r in (before, after)]
        lost = Measured.of(scores[0] - scores[1], PICTURES)
        row: dict[str, float | str] = {"network": network, "task": task}
        row |= {"before": float(scores[0][0]), "after": float(scores[1][0])}
        row |= {"lost": lost.value, "lost low": lost.low, "lost high": lost.high}
        for name, rois in (("early", EARLY), ("late", LATE)):
            found = Measured.of(moved(before, after, rois), PATCHES)
            row |= {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
            row[f"{name}, seeds"] = float(moved(before, page.other[network], rois)[0])
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(share=table["lost"] / table["before"])


def rank_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network, what forgets least first: mean over tasks of `forgetting_table`'s."""
    means = table.groupby("network", sort=False)[["share", "lost", "late", "early"]].mean()
    ranked = means.sort_values("lost").reset_index()
    return ranked.assign(rank=np.arange(1, len(ranked) + 1))


def judged(page: Page, run: str = "") -> tuple[Judged, Judged]:
    """Rows 12 and 13 of Table 5, recorded for the scoreboard."""
    share = {n: {t: right(page.tuned[n, t]) for t in page.tasks} for n in page.networks}
    layout = evaluate(
        "fine-tuning-layout",
        fine_tuning_layout,
        by_network(page.readings),
        by_network(page.control),
        page.subject,
        run,
    )
    accuracy = evaluate(
        "fine-tuning-accuracy",
        lambda some: fine_tuning_accuracy(some, share),
        by_network(page.readings),
        by_network(page.control),
        page.subject,
        run,
    )
    return layout, accuracy


def by_network(readings: Mapping[tuple[str, str], Reading]) -> dict[str, dict[str, Reading]]:
    """Readings by network, and then by task."""
    found: dict[str, dict[str, Reading]] = {}
    for (network, task), reading in readings.items():
        found.setdefault(network, {})[task] = reading
    return found


def layers_of(
    page: Page,
) -> dict[str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]] | None]:
    """Each network's layer weights and confidence, before and after each task (Fig. 7)."""
    return {
        f"{network}, {task or 'before'}": (r.maps.weights, r.maps.confidence())
        for network in page.networks
        for task in ("", *page.tasks)
        for r in (page.readings[network, task],)
    }


def _heads(size: str) -> dict[tuple[str, str, int, int], float]:
    """Accuracy of a head alone on each layer, by network, task, seed and layer."""
    found = {}
    for network, name in NETWORKS[size].items():
        backbone = load_backbone(name)
        tokens: dict[tuple[str, ...], list] = {}  # of the pictures, which tasks may share
        for task in TASKS[size]:
            data = get_labelled(task, SIDE[size])
            if data.digests not in tokens:
                tokens = {data.digests: global_tokens(backbone, data)}
            for seed in range(GRID_SEEDS):
                each = head_grid(tokens[data.digests], data, replace(GRID[size], seed=seed))
                found |= {(network, task, seed, layer): a for layer, a in enumerate(each, 1)}
    return found


def grids(size: str, method: str = "head") -> dict[str, pd.DataFrame]:
    """Accuracy by the layer that the head reads (Fig. 24): by task, a row per network, layer, run.

    `method`: "head" trains the head alone, on the network as it is; "whole" all up to its layer.

    Raises:
        InputError: for another method.
    """
    if method not in ("head", "whole"):
        raise InputError(f"grid={method!r}: expected 'head' or 'whole'.")
    if method == "head":
        found = _heads(size)
    else:
        found = {key: done.accuracy for key, done in get_tuned(layer_lessons(size)).items()}
    rows: dict[str, list[dict]] = {task: [] for task in TASKS[size]}
    for (network, task, seed, layer), accuracy in found.items():
        row = {"network": network, "seed": seed, "layer": layer, "accuracy": accuracy}
        rows[task].append(row)
    return {task: pd.DataFrame(own) for task, own in rows.items()}


def chances(size: str) -> dict[str, float]:
    """Each task's accuracy of who always says the commonest class."""
    return {task: get_labelled(task, SIDE[size]).chance for task in TASKS[size]}


def examples(size: str, count: int = 12) -> tuple[UInt8[np.ndarray, "n h w 3"], list[str]]:
    """The first test pictures of each task, or of both where they are the same; what they show."""
    sets = [get_labelled(task, SIDE[size]) for task in TASKS[size]]
    if sets[0].digests == sets[1].digests:
        rows = sets[0].parts["test"][:count]
        names = [", ".join(s.classes[s.labels[r]] for s in sets) for r in rows]
        return sets[0].pictures.read(rows), names
    each = [(s, s.parts["test"][: count // 2]) for s in sets]
    shown = np.concatenate([s.pictures.read(rows) for s, rows in each])
    return shown, [f"{s.name}: {s.classes[s.labels[r]]}" for s, rows in each for r in rows]
