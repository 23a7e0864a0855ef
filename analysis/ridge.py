"""Ridge regression of every vertex on a layer's tokens: the rival that is not trained by steps.

    fit = ridge_fit(subject, backbone_name, tokens, split)
    fit.scores("test")

For each layer, a vertex's response is a linear function of all local tokens of the picture and its
global token, with a penalty of the vertex's own; validation chooses each vertex's layer.

* Features are standardised over the training trials. Local and global tokens weigh equally: each
  of the two is divided by the square root of its number of features, or 64 places would drown the
  one global token.
* A picture shown n times enters once, as the mean of its responses with weight n: the same least
  squares. The penalty is chosen by generalised cross-validation over *pictures*, of which it leaves
  out one with all its repeats; over trials the other repeats would stay, and the penalty come out
  too small.
* With more features than pictures everything is had from the pictures' kernel K. In the eigenbasis
  of S K S, S = diag(√n), with eigenvalues λ and loadings z = Uᵀ S y of P pictures, the residual is
  z α / (λ + α), so that all penalties together cost two products with P² numbers per vertex and one
  of penalties x P:

      GCV(α) = Σ z² α² / (λ + α)² / (1 - (1 + Σ λ / (λ + α)) / P)²,

  the 1 being the intercept's, which is not penalised.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.numpy import load_file, save_file
from torch import Tensor

from analysis import explained, metrics
from analysis.batches import Part, check_part
from analysis.features import Tokens
from analysis.files import (
    InputError,
    digest,
    file_digest,
    read_json,
    require,
    require_space,
    whole_file,
    write_json,
)
from analysis.fit import RIDGE, PartName, fit_folder, part_of, scores_of, versions
from analysis.saved import MEND
from analysis.splits import Split
from analysis.subject import Subject
from analysis.versions import VERSIONS

# In mean eigenvalues of the kernel: from hardly any penalty to a prediction of the mean.
PENALTIES = tuple(float(p) for p in np.logspace(-3, 5, 33))
FEATURES_AT_ONCE = 4096  # of the local tokens: bounds the memory at any width
VERTICES_AT_ONCE = 2048
KEPT = ("validation", "test")  # parts whose predictions are saved


def _standardised(
    features: Float[Tensor, "picture feature"], weight: Float[Tensor, " train"], n_features: int
) -> Float[Tensor, "picture feature"]:
    """Features with weighted mean 0 and square 1 / n_features over the first pictures, in place.

    One that is constant to float32's precision is left out.
    """
    share = weight / weight.sum()
    mean = share @ features[: len(weight)]
    features -= mean
    sd = (share @ features[: len(weight)].square()).sqrt()
    return features.mul_(torch.where(sd > 1e-6 * mean.abs(), (sd * n_features**0.5) ** -1, 0))


def layer_features(
    tokens: Tokens,
    layer: int,
    pictures: Int[np.ndarray, " picture"],
    weight: Float[Tensor, " train"],
    channels: slice = slice(None),
) -> tuple[Float[Tensor, "picture local"], Float[Tensor, "picture global"]]:
    """What ridge reads of some channels of a layer, from 0: local and global tokens, standardised.

    `weight`: how often each of the first of the pictures was shown; these train.
    """
    local, global_ = (t.flatten(1).to(weight) for t in tokens.of_layer(pictures, layer, channels))
    width, places = tokens.widths[layer], tokens.parts[0].local.shape[2:].numel()
    return (
        _standardised(local, weight, 2 * width * places),
        _standardised(global_, weight, 2 * width),
    )


def token_kernel(
    tokens: Tokens,
    layer: int,
    pictures: Int[np.ndarray, " picture"],
    weight: Float[Tensor, " train"],
) -> Float[Tensor, "picture train"]:
    """Products of the features of pictures with those of the first of them, which train.

    Mean over training trials of a picture's product with itself: 1.
    """
    kernel = weight.new_zeros(len(pictures), len(weight))
    step = max(1, FEATURES_AT_ONCE // tokens.parts[0].local.shape[2:].numel())
    for start in range(0, tokens.widths[layer], step):
        for x in layer_features(tokens, layer, pictures, weight, slice(start, start + step)):
            kernel.addmm_(x, x[: len(weight)].T)
    return kernel


@dataclass(frozen=True)
class Eigenbasis:
    """The kernel of the training pictures, taken apart, and the others' products with it."""

    values: Float[Tensor, " mode"]  # λ
    vectors: Float[Tensor, "train mode"]  # U
    others: Float[Tensor, "other mode"]  # K S U of pictures that don't train
    root: Float[Tensor, " train"]  # S's diagonal

    @classmethod
    def of(
        cls, kernel: Float[Tensor, "picture train"], weight: Float[Tensor, " train"]
    ) -> "Eigenbasis":
        """Of the kernel of all pictures with the first of them, shown so many times."""
        root, n = weight.sqrt(), len(weight)
        values, vectors = torch.linalg.eigh(root[:, None] * kernel[:n] * root)
        return cls(values.clamp_min(0), vectors, kernel[n:] @ (root[:, None] * vectors), root)


def generalised_cross_validation(
    values: Float[Tensor, " mode"],
    loadings: Float[Tensor, "mode vertex"],
    penalties: Float[Tensor, " penalty"],
) -> Float[Tensor, "penalty vertex"]:
    """The expected squared error per picture left out, by GCV (see the head of this module)."""
    n = len(values)
    rest = penalties[:, None] / (values + penalties[:, None])  # [penalty, mode]
    free = (rest.sum(1) - 1) / n  # of the intercept too
    return rest.square() @ loadings.square() / (n * free.square()[:, None])


def ridge(
    basis: Eigenbasis, means: Float[Tensor, "train vertex"]
) -> tuple[Float[Tensor, "other vertex"], Float[Tensor, " vertex"]]:
    """Predicted responses to the other pictures, and each vertex's penalty (in mean eigenvalues).

    `means`: mean responses to the training pictures, as often shown as the basis's.
    """
    weight = basis.root.square()
    offset = weight @ means / weight.sum()
    loadings = basis.vectors.T @ (basis.root[:, None] * (means - offset))
    relative = torch.tensor(PENALTIES).to(means)
    penalties = relative * basis.values.mean()
    chosen = generalised_cross_validation(basis.values, loadings, penalties).argmin(0)
    loadings /= basis.values[:, None] + penalties[chosen]
    return basis.others @ loadings + offset, relative[chosen]


@dataclass(frozen=True)
class RidgeFit:
    """A finished regression with the subject and tokens that it is of."""

    folder: Path
    subject: Subject
    tokens: Tokens
    split: Split
    layer: Int[np.ndarray, " vertex"]  # that validation chose, from 0
    penalty: Float[np.ndarray, " vertex"]  # at that layer, in mean eigenvalues of its kernel
    validation_r2: Float[np.ndarray, "layer vertex"]  # of single trials
    predictions: dict[str, Float[np.ndarray, "picture vertex"]]  # by part
    record: dict  # fit.json

    def predicted(self, part: PartName) -> Float[np.ndarray, "picture vertex"]:
        """Predicted responses to the pictures of a part, in the order of the split.

        Raises:
            InputError: for the pictures trained on, whose predictions are not kept.
        """
        if part not in KEPT:
            raise InputError(f"part {part!r}: of ridge expected {' or '.join(KEPT)}.")
        return self.predictions[part]

    def scores(self, part: PartName = "test", average: bool = False) -> metrics.Scores:
        """Brain score on a part, against single trials or against means over repeats."""
        return scores_of(self.predicted(part), self.subject, self.split, part, average)

    def score(self, part: PartName = "test", normalised: bool = False) -> metrics.Score:
        """The mean R² over vertices, or that as a share of the noise ceiling."""
        scores = self.scores(part)
        return scores.over(np.isfinite(scores.r2), normalised)


def mean_responses(part: Part, some: slice) -> Float[np.ndarray, "picture vertex"]:
    """Means over the trials of each picture, of some vertices."""
    order = np.argsort(part.trial_picture, kind="stable")
    starts = np.searchsorted(part.trial_picture[order], np.arange(len(part.pictures)))
    summed = np.add.reduceat(part.responses[order, some], starts)
    return summed / np.bincount(part.trial_picture)[:, None].astype(np.float32)


def _solve(tokens: Tokens, parts: dict[str, Part]) -> dict[str, np.ndarray]:
    """Layer, penalty, validation score and predictions of each vertex, a layer at a time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training, validation = parts["train"], parts["validation"]
    pictures = np.concatenate([part.pictures for part in parts.values()])
    weight = torch.from_numpy(np.bincount(training.trial_picture)).float().to(device)
    n_other, n_vertices = len(pictures) - len(weight), training.responses.shape[1]
    layers = len(tokens.widths)
    best = np.empty((n_other, n_vertices), np.float32)
    penalty, layer = np.empty(n_vertices, np.float32), np.zeros(n_vertices, np.int64)
    scores = np.empty((layers, n_vertices))
    for now in range(layers):
        basis = Eigenbasis.of(token_kernel(tokens, now, pictures, weight), weight)
        for start in range(0, n_vertices, VERTICES_AT_ONCE):
            some = slice(start, start + VERTICES_AT_ONCE)
            means = torch.from_numpy(mean_responses(training, some)).to(device)
            predicted, chosen = (t.cpu().numpy() for t in ridge(basis, means))
            shown = predicted[validation.trial_picture]
            scores[now, some] = explained.r2(shown, validation.responses[:, some])
            before = scores[:now, some].max(0, initial=-np.inf)
            better = np.flatnonzero((now == 0) | (scores[now, some] > before))
            best[:, start + better] = predicted[:, better]
            penalty[start + better], layer[start + better] = chosen[better], now
    n = len(validation.pictures)
    return {
        "layer": layer,
        "penalty": penalty,
        "validation_r2": scores,
        "validation": best[:n],
        "test": best[n:],
    }


def ridge_key(subject: Subject, tokens: Tokens, split: Split) -> dict:
    """All that determines a regression."""
    return {
        "subject": subject.identity,
        "tokens": tokens.identity,
        "model": RIDGE,
        "split": digest({k: rows.tolist() for k, rows in vars(split).items() if rows is not None}),
        "trials": None if split.trials is None else len(split.trials),
        "version": VERSIONS["ridge"],
    }


def ridge_fit(subject: Subject, backbone: str, tokens: Tokens, split: Split) -> RidgeFit:
    """The regression of a subject on tokens: read if it is there, else computed.

    Raises:
        InputError: for responses that are not finite, a damaged fit, or too small a disk.
    """
    key = ridge_key(subject, tokens, split)
    folder = fit_folder(subject.name, backbone, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / "fit.json").exists():
            _make(folder, key, subject, backbone, tokens, split)
    return _read(folder, key, subject, tokens, split)


def _make(
    folder: Path, key: dict, subject: Subject, backbone: str, tokens: Tokens, split: Split
) -> None:
    """Compute it and write it, fit.json last."""
    n_kept = sum(len(getattr(split, name)) for name in KEPT)
    n_bytes = len(subject.vertices) * (4 * n_kept + 8 * len(tokens.widths) + 12)
    require_space(folder, n_bytes, f"ridge of {subject.name} on {backbone}")
    started = time.time()
    parts = {name: part_of(subject, split, name) for name in ("train", "validation", "test")}
    for name in ("train", "validation"):
        check_part(parts[name], name)
    found = _solve(tokens, parts)
    with whole_file(folder / "ridge.safetensors") as scratch:
        save_file({k: np.ascontiguousarray(v) for k, v in found.items()}, scratch)
    result = {"steps": 0, "validation_r2": float(np.nanmean(found["validation_r2"].max(0)))}
    write_json(
        folder / "fit.json",
        {
            "key": key,
            "subject": subject.name,
            "backbone": backbone,
            "result": result,
            "weights": file_digest(folder / "ridge.safetensors"),
            "seconds": round(time.time() - started, 1),
            "versions": versions(),
        },
    )


def _read(folder: Path, key: dict, subject: Subject, tokens: Tokens, split: Split) -> RidgeFit:
    """The finished regression in a folder, checked against what it should be."""
    record = read_json(folder / "fit.json", "the record of a fit", MEND)
    if not isinstance(record, dict) or digest(record.get("key")) != digest(key):
        raise InputError(f"{folder / 'fit.json'}: of another fit than its folder's name. {MEND}")
    path = require(folder / "ridge.safetensors", "what ridge found", MEND)
    if file_digest(path) != record.get("weights"):
        raise InputError(f"{path}: damaged, or not what fit.json is of. {MEND}")
    found = load_file(path)
    predictions = {name: found.pop(name) for name in KEPT}
    return RidgeFit(folder, subject, tokens, split, predictions=predictions, record=record, **found)
