"""What fine-tuning does to a network's maps: the page of Figs 7, 23 and 24, Tables 3 and 14.

    page = fine_tuned("sim01", "small", runs=1, seeds=[0, 1], tuned_seeds=[0])
    accuracy_table(page), forgetting_table(page), judged(page)

Each network is tuned to each task, and the one of the first run is fitted to the cortex again as if
it were another network. How far a map moved is the mean absolute change of its vertices' depth
between fits of two seeds, one before and one after; that between two seeds before is no change.
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
from analysis.findings import FINDINGS, Run
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
from analysis.sweep import BASE, different, get_fits, get_tuned, sized
from analysis.verdicts import Judged, Measured

# Those of the paper's Table 14; of the small size without SAM, which takes longest to tune.
NETWORKS = {
    "small": {name: BASE["small"][name] for name in ("CLIP", "MAE", "DiNOv2")},
    "paper": {"CLIP": "clip-l", "MAE": "mae-b", "SAM": "sam-b", "DiNOv2": "dinov2-b"},
}
TASKS = {"small": ("shape",), "paper": ("isic", "eurosat")}
SIDE = {"small": 128, "paper": 224}  # pixels that files are resized to
TUNING = {
    "small": Tuning(epochs=3, rates=(3e-4, 1e-3)),
    "paper": Tuning(epochs=20, batch=32, hidden=512, rates=(1e-5, 3e-5, 1e-4)),
}
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
    tuned: Mapping[tuple[str, str], list[Tuned]]  # by network and task, one of each run
    # by network and task, one for each seed; task "" before, of which there are two seeds or more
    fits: Mapping[tuple[str, str], list[Fit]]
    readings: Mapping[tuple[str, str], list[Reading]]

    @property
    def first(self) -> Fit:
        """The first network's fit before it was tuned."""
        return next(iter(self.fits.values()))[0]

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(network for network, _ in self.tuned))


def lessons(size: str, runs: int) -> dict[tuple[str, str, int], Lesson]:
    """Each network tuned to each task, so many times."""
    networks, tasks = NETWORKS[size], TASKS[size]
    return {
        (n, t, run): Lesson(networks[n], t, SIDE[size], replace(TUNING[size], seed=run))
        for n, t, run in itertools.product(networks, tasks, range(runs))
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


def mapped(
    subject: str,
    size: str,
    seeds: Sequence[int],
    tuned_seeds: Sequence[int],
    recipe: str = "fast",
) -> dict[tuple[str, str], list[Fit]]:
    """Fits of each network before (task "", by `seeds`) and after each task (by `tuned_seeds`)."""
    options, seeds, after = sized(size, recipe), different(seeds, 2), different(tuned_seeds)
    wanted: dict[tuple[str, str, int], dict[str, Any]] = {
        (n, "", seed): {"backbone": name, "seed": seed}
        for n, name in NETWORKS[size].items()
        for seed in seeds
    }
    for (n, task, _), lesson in lessons(size, 1).items():
        wanted |= {(n, task, seed): lesson.names | {"seed": seed} for seed in after}
    found: dict[tuple[str, str], list[Fit]] = {}
    for (n, task, _), fit in get_fits(wanted, subject=subject, **options).items():
        found.setdefault((n, task), []).append(fit)
    return found


def fine_tuned(
    subject: str,
    size: str,
    runs: int = 1,
    seeds: Sequence[int] = (0, 1),
    tuned_seeds: Sequence[int] = (0,),
    recipe: str = "fast",
) -> Page:
    """Each network of a size, tuned to each task so many times, and mapped before and after.

    `seeds`, `tuned_seeds`: of the fits before and after.

    Raises:
        InputError: for an unknown name, data that can't be used, or fewer than 2 seeds before.
    """
    if runs < 1:
        raise InputError(f"runs={runs}: expected 1 or more.")
    sized(size)  # a wrong one is told
    each, tasks = get_tuned(lessons(size, runs)), TASKS[size]
    tuned = {
        (n, t): [each[n, t, run] for run in range(runs)]
        for n, t in itertools.product(NETWORKS[size], tasks)
    }
    fits = mapped(subject, size, seeds, tuned_seeds, recipe)
    readings = {key: [read(fit) for fit in some] for key, some in fits.items()}
    return Page(subject, size, tasks, tuned, fits, readings)


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
    """A row per network and task: R² before, after and lost, how far early and late maps moved.

    R² lost is of the first seed; how far maps moved is from the second seed before to the first
    after, beside how far two seeds before differ.
    """
    rows = []
    for (network, task), (after, *_) in page.readings.items():
        if not task:
            continue
        before, other = page.readings[network, ""][:2]
        scores = [roi_scores(r)["all"] for r in (before, after)]
        lost = Measured.of(scores[0] - scores[1], PICTURES)
        row: dict[str, float | str] = {"network": network, "task": task}
        row |= {"before": float(scores[0][0]), "after": float(scores[1][0])}
        row |= {"lost": lost.value, "lost low": lost.low, "lost high": lost.high}
        for name, rois in (("early", EARLY), ("late", LATE)):
            found = Measured.of(moved(other, after, rois), PATCHES)
            row |= {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
            row[f"{name}, seeds"] = float(moved(before, other, rois)[0])
        rows.append(row)
    return pd.DataFrame(rows)


def judged(page: Page, run: Run | None = None) -> tuple[Judged, Judged]:
    """Rows 12 and 13 of Table 5, recorded for the scoreboard if a run is named.

    Row 12 takes two seeds after and is not run with one.
    """
    share = {n: {t: right(page.tuned[n, t]) for t in page.tasks} for n in page.networks}
    subject, each = page.subject if run else "", by_network(page.readings)
    n = min(len(runs) for of in each.values() for runs in of.values())
    layout = Judged(FINDINGS["fine-tuning-layout"], {})
    if n > 1:
        layout = evaluate("fine-tuning-layout", fine_tuning_layout, [each], subject, run)
    accuracy = evaluate(
        "fine-tuning-accuracy",
        lambda some: fine_tuning_accuracy(some, share),
        [
            {name: {task: runs[i] for task, runs in of.items()} for name, of in each.items()}
            for i in range(n)
        ],
        subject,
        run,
    )
    return layout, accuracy


def by_network(
    readings: Mapping[tuple[str, str], list[Reading]],
) -> dict[str, dict[str, list[Reading]]]:
    """Readings by network, and then by task."""
    found: dict[str, dict[str, list[Reading]]] = {}
    for (network, task), each in readings.items():
        found.setdefault(network, {})[task] = each
    return found


def layers_of(
    page: Page,
) -> dict[str, tuple[Float[np.ndarray, "vertex layer"], Float[np.ndarray, " vertex"]] | None]:
    """Each network's layer weights and confidence, before and after each task (Fig. 7)."""
    return {
        f"{network}, {task or 'before'}": (r.maps.weights, r.maps.confidence())
        for network in page.networks
        for task in ("", *page.tasks)
        for r in page.readings[network, task][:1]
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
    """The first test pictures of each task, or of all where they are the same; what they show."""
    sets = [get_labelled(task, SIDE[size]) for task in TASKS[size]]
    if len({s.digests for s in sets}) == 1:
        rows = sets[0].parts["test"][:count]
        names = [", ".join(s.classes[s.labels[r]] for s in sets) for r in rows]
        return sets[0].pictures.read(rows), names
    each = [(s, s.parts["test"][: count // len(sets)]) for s in sets]
    shown = np.concatenate([s.pictures.read(rows) for s, rows in each])
    return shown, [f"{s.name}: {s.classes[s.labels[r]]}" for s, rows in each for r in rows]
