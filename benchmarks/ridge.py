"""How fast ridge with a penalty for each vertex is, beside himalaya's, at what test score.

ours         `analysis.ridge`: generalised cross-validation in the kernel's eigenbasis
kernel_cv    himalaya's KernelRidgeCV, five folds over pictures
ridge_cv     himalaya's RidgeCV, the same folds

All solve the same least squares for one layer: standardised features and mean responses of a
subject's training pictures, weighted by how often each was shown, and the same penalties to choose
from; so what differs is how a penalty is chosen. A time is from features and responses to predicted
responses to validation and test pictures. The forms take turns in one process, on one thread, and
are timed by the processor's clock, which others on the machine don't move; peak memory is of a
process per form, over what it held with its inputs in place.

    python -m benchmarks.ridge --json ridge.json

`--vertices` repeats the subject's vertices up to so many. `--paper` times ours alone at the paper's
size, one layer of 768 channels on random tokens: on one thread an hour, and 4 GB.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from himalaya.backend import set_backend
from himalaya.kernel_ridge import KernelRidgeCV
from himalaya.ridge import RidgeCV
from jaxtyping import Float
from sklearn.model_selection import KFold
from torch import Tensor

from analysis import explained
from analysis import ridge as own
from analysis.fit import part_of
from analysis.splits import split_pictures
from analysis.study import get_subject, get_tokens
from benchmarks.selection import machine, ratio, spread, write_whole

FORMS = ("ours", "kernel_cv", "ridge_cv")
FOLDS = 5


@dataclass(frozen=True)
class Problem:
    """One layer's: what all forms are given."""

    features: Float[Tensor, "picture feature"]  # of training, validation and test pictures
    weight: Float[Tensor, " train"]
    means: Float[Tensor, "train vertex"]
    test: own.Part


def problem(subject: str, backbone: str, layer: int, vertices: int | None) -> Problem:
    """A layer's features and a subject's responses."""
    person = get_subject(subject)
    tokens, split = get_tokens(person, backbone), split_pictures(person)
    train, validation, test = (part_of(person, split, n) for n in ("train", "validation", "test"))
    weight = torch.from_numpy(np.bincount(train.trial_picture)).float()
    pictures = np.concatenate([train.pictures, validation.pictures, test.pictures])
    features = torch.cat(own.layer_features(tokens, layer, pictures, weight), 1)
    columns = np.arange(vertices or train.responses.shape[1]) % train.responses.shape[1]
    means = torch.from_numpy(own.mean_responses(train, slice(None))[:, columns])
    test = own.Part(test.pictures, test.trial_picture, test.responses[:, columns])
    return Problem(features, weight, means, test)


def ours(given: Problem) -> Float[np.ndarray, "other vertex"]:
    """In pieces of vertices, as `analysis.ridge` does."""
    kernel = given.features @ given.features[: len(given.weight)].T
    basis = own.Eigenbasis.of(kernel, given.weight)
    pieces = given.means.split(own.VERTICES_AT_ONCE, 1)
    return torch.cat([own.ridge(basis, piece)[0] for piece in pieces], 1).numpy()


def himalaya(given: Problem, kind: type, **options: Any) -> Float[np.ndarray, "other vertex"]:
    """The same weighted least squares, centred beforehand as an intercept would."""
    set_backend("torch")
    weight = given.weight
    root, offset = weight.sqrt()[:, None], weight @ given.means / weight.sum()
    x = root * given.features[: len(weight)]
    penalties = torch.tensor(own.PENALTIES) * x.square().sum() / len(weight)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    solver = {"n_targets_batch": own.VERTICES_AT_ONCE}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solving ridge is slower than solving kernel ridge")
        model = kind(penalties, cv=folds, solver_params=solver, **options)
        model.fit(x, root * (given.means - offset))
    return (model.predict(given.features[len(weight) :]) + offset).numpy()


def predicted(form: str, given: Problem) -> Float[np.ndarray, "other vertex"]:
    """Predicted responses to validation and test pictures."""
    if form == "ours":
        return ours(given)
    return himalaya(given, {"kernel_cv": KernelRidgeCV, "ridge_cv": RidgeCV}[form])


def score(form: str, given: Problem) -> tuple[float, float]:
    """Processor seconds, and mean R² on single test trials."""
    started = time.process_time()
    out = predicted(form, given)
    taken = time.process_time() - started
    shown = out[-len(given.test.pictures) :][given.test.trial_picture]
    return taken, float(np.nanmean(explained.r2(shown, given.test.responses)))


def peak() -> int:
    """The most bytes that this process has held since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    """Count the peak from what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


class RandomTokens:
    """One layer of tokens of the paper's size, drawn as they are asked for."""

    widths = (768,)

    class _Part:
        local = torch.empty(0, 768, 8, 8)

    parts = (_Part(),)

    def of_layer(self, rows: np.ndarray, layer: int, channels: slice) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(channels.start)
        n = len(range(*channels.indices(768)))
        local = torch.randn(len(rows), n, 8, 8, generator=generator)
        return local, torch.randn(len(rows), n, generator=generator)


def papers_size(pictures: int, vertices: int) -> dict[str, float]:
    """Processor seconds of the steps of one layer, and the peak of this process."""
    others = pictures // 9
    weight = torch.randint(1, 4, (pictures,)).float()
    clock, taken = time.process_time(), {}

    def lap(name: str) -> None:
        nonlocal clock
        taken[name] = time.process_time() - clock
        clock += taken[name]

    kernel = own.token_kernel(RandomTokens(), 0, np.arange(pictures + others), weight)
    lap("kernel")
    basis = own.Eigenbasis.of(kernel, weight)
    lap("eigenbasis")
    for start in range(0, vertices, own.VERTICES_AT_ONCE):
        own.ridge(basis, torch.randn(pictures, min(own.VERTICES_AT_ONCE, vertices - start)))
    lap("penalties and predictions")
    return taken | {"peak_bytes": peak()}


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--subject", default="sim01")
    parser.add_argument("--backbone", default="clip-mini")
    parser.add_argument("--layer", type=int, default=4, help="from 1")
    parser.add_argument("--vertices", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=FORMS, help="only print the bytes one form adds")
    parser.add_argument("--paper", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.paper:
        print(json.dumps(papers_size(8265, 37984), indent=1))
        return
    inputs = problem(given.subject, given.backbone, given.layer - 1, given.vertices)
    if given.peak:
        forget_peak()
        before = peak()
        predicted(given.peak, inputs)
        print(peak() - before)
        return
    asked = [f"--{k}={v}" for k, v in vars(given).items() if k in WHICH and v is not None]
    memory = {
        form: int(
            subprocess.check_output(
                [sys.executable, "-m", "benchmarks.ridge", f"--peak={form}", *asked], text=True
            )
        )
        for form in FORMS
    }
    results = {form: [] for form in FORMS}
    for _ in range(given.repeats):
        for form in FORMS:
            results[form].append(score(form, inputs))
    seconds = {form: [taken for taken, _ in each] for form, each in results.items()}
    report = {
        "speedup_vs_ridge_cv": ratio(seconds["ridge_cv"], seconds["ours"]),
        "speedup_vs_kernel_cv": ratio(seconds["kernel_cv"], seconds["ours"]),
        "test_r2": {form: each[0][1] for form, each in results.items()},
        "seconds": {form: spread(taken) for form, taken in seconds.items()},
        "added_bytes": memory,
        "shape": {
            "train": len(inputs.weight),
            "other": len(inputs.features) - len(inputs.weight),
            "features": inputs.features.shape[1],
            "vertices": inputs.means.shape[1],
            "penalties": len(own.PENALTIES),
        },
        "machine": machine(),
    }
    print(json.dumps(report, indent=1))
    if given.json:
        write_whole(given.json, json.dumps(report, indent=2) + "\n")


WHICH = ("subject", "backbone", "layer", "vertices")

if __name__ == "__main__":
    main()
