"""A Fit: a trained model in a folder keyed by all that determined it, computed once.

    fit = fit_model(subject, backbone_name, tokens, ModelConfig(), Recipe(), split)
    fit.scores("test")

The folder appears under its name with `fit.json` written last, so a folder with that file is whole.
A run that was killed goes on from its last checkpoint. `saved.py` reads the folder without data.
"""

import dataclasses
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import filelock
import numpy as np
import torch
from jaxtyping import Float, Int

from analysis import metrics
from analysis.batches import Part
from analysis.cores import cores
from analysis.features import Tokens
from analysis.files import (
    InputError,
    digest,
    fits_root,
    folder_name,
    require_space,
)
from analysis.forward import predict
from analysis.model import VARIANTS, FactorTopy, ModelConfig
from analysis.recipe import Recipe
from analysis.recipes import DEFAULT_RECIPE, RECIPES
from analysis.rivals import Rival, make_model
from analysis.saved import MEND, ROI, Network, SavedFit, load_fit, save_fit, score_records
from analysis.splits import Split, training_trials, trials_of
from analysis.subject import Subject
from analysis.versions import VERSIONS

LIBRARIES = ("torch", "lightning", "numpy", "open_clip_torch", "safetensors")
PartName = Literal["train", "validation", "test"]
NATIVE = Network()
RIDGE = {"model": "ridge"}  # of a key
MOST_FIELDS = 3  # that a label names


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in LIBRARIES
    }


def trials_in(subject: Subject, split: Split, name: PartName) -> Int[np.ndarray, " trial"]:
    """The trials of one part of a split, in order of time."""
    if name == "train":
        return training_trials(subject, split)
    return trials_of(subject, getattr(split, name))


def part_of(subject: Subject, split: Split, name: PartName) -> Part:
    """The trials of one part of a split."""
    pictures = getattr(split, name)
    trials = trials_in(subject, split, name)
    row = np.searchsorted(pictures, subject.trial_picture[trials])
    return Part(pictures, row, subject.responses[trials])


def scores_of(
    predicted: Float[np.ndarray, "picture vertex"],
    subject: Subject,
    split: Split,
    part: PartName,
    average: bool = False,
    chose: bool = False,
) -> metrics.Scores:
    """Brain score of predictions on a part, against single trials or against means over repeats.

    `chose`: the part chose the soup, which is said with every score.
    """
    trials = part_of(subject, split, part)
    return metrics.brain_score(
        predicted,
        trials.responses,
        trials.trial_picture,
        subject.ncsnr,
        part=f"{part} (chose the soup)" if chose else part,
        average=average,
        repeats=subject.repeats[trials_in(subject, split, part)],
    )


@dataclass(frozen=True)
class Fit(SavedFit):
    """A saved fit with the subject and tokens that it was trained on."""

    subject: Subject
    tokens: Tokens
    split: Split

    def predicted(self, part: PartName) -> Float[np.ndarray, "picture vertex"]:
        """Predicted responses to the pictures of a part, in the order of the split."""
        return predict(self.model, self.tokens, getattr(self.split, part))

    def scores(self, part: PartName = "test", average: bool = False) -> metrics.Scores:
        """Brain score of each vertex on a part, with the resampled that an interval needs."""
        chose = part == self.record["key"]["recipe"]["soup"] == "test"
        return scores_of(self.predicted(part), self.subject, self.split, part, average, chose)


def fit_key(
    subject: Subject, tokens: Tokens, config: ModelConfig, recipe: Recipe, split: Split
) -> dict:
    """All that determines a fit."""
    return {
        "subject": subject.identity,
        "tokens": tokens.identity,
        "model": dataclasses.asdict(config),
        "recipe": dataclasses.asdict(recipe),
        "split": digest({k: rows.tolist() for k, rows in vars(split).items() if rows is not None}),
        "trials": None if split.trials is None else len(split.trials),
        "version": VERSIONS["fit"],
    }


def fit_label(backbone: str, key: Mapping[str, Any]) -> str:
    """The name by which people know a fit: its network, what is unusual of it, and its seed.

    clip-mini-seed0; clip-mini-no-scale-seed0; clip-mini-300-trials-seed1; clip-mini-ridge
    """
    parts = [folder_name(backbone)]
    parts += [word.replace(" ", "-") for word in key["subject"].split(", ")[1:]]  # shuffled by 0
    if key["trials"] is not None:
        parts.append(f"{key['trials']}-trials")
    if key["model"] == RIDGE:
        return "-".join([*parts, "ridge"])
    model, recipe = ModelConfig(**key["model"]), Recipe(**key["recipe"])
    parts += _difference(model, VARIANTS, "factortopy", "{}")
    seed, recipe = recipe.seed, dataclasses.replace(recipe, seed=0)
    parts += _difference(recipe, RECIPES, DEFAULT_RECIPE, "{}-recipe")
    return "-".join([*parts, f"seed{seed}"])


def _difference(settings: Any, named: Mapping[str, Any], default: str, form: str) -> list[str]:
    """What tells settings from the default's: nothing, their name, or the fields that differ."""
    name = next((name for name, known in named.items() if known == settings), None)
    if name is not None:
        return [] if name == default else [form.format(name)]
    usual = dataclasses.asdict(named[default])
    values = {k: v for k, v in dataclasses.asdict(settings).items() if v != usual[k]}
    return [folder_name(f"{field}-{value}") for field, value in values.items()][:MOST_FIELDS]


def fit_folder(subject: str, backbone: str, key: Mapping[str, Any]) -> Path:
    """Where the fit with a key lies."""
    return fits_root() / folder_name(subject) / f"{fit_label(backbone, key)}-{digest(key)[:12]}"


def fit_model(
    subject: Subject,
    backbone: str,
    tokens: Tokens,
    config: ModelConfig,
    recipe: Recipe,
    split: Split,
    network: Network = NATIVE,
) -> Fit:
    """The fit with this key: read if it is there, else trained, resumed if one was under way.

    `network`: how the backbone was loaded, for who predicts other pictures later.

    Raises:
        InputError: for data that can't be trained on, a damaged fit, or too small a disk.
    """
    key = fit_key(subject, tokens, config, recipe, split)
    folder = fit_folder(subject.name, backbone, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / "fit.json").exists():
            from analysis.trainer import train  # loads Lightning, which reading does without

            with torch.random.fork_rng():
                torch.manual_seed(recipe.seed)
                seen = tokens.statistics(split.train) if config.standardise else None
                at = torch.from_numpy(subject.coordinates)
                model = make_model(config, tokens.widths, at, seen)
            n_bytes = 4 * sum(p.numel() for p in model.parameters())
            need = 3 * n_bytes * (recipe.checkpoints + 2)
            require_space(folder, need, f"the fit of {subject.name} to {backbone}")
            started = time.time()
            threads = 1 if torch.cuda.is_available() else torch.get_num_threads()
            with cores(threads):
                result = train(
                    model,
                    recipe,
                    tokens,
                    part_of(subject, split, "train"),
                    part_of(subject, split, "validation"),
                    folder / "training",
                    part_of(subject, split, "test") if recipe.soup == "test" else None,
                )
            model.eval().requires_grad_(False)
            validated = _validated(model, subject, tokens, split)
            predicted = predict(model, tokens, split.test)
            chose = recipe.soup == "test"
            test = scores_of(predicted, subject, split, "test", chose=chose)
            record = _described(subject, tokens, split, network) | {
                "key": key,
                "backbone": backbone,
                "result": result,
                "scores": score_records(_both(test) + validated),
                "seconds": round(time.time() - started, 1),
                "versions": versions(),
            }
            save_fit(folder, model, _of_vertices(subject, test), record)
            shutil.rmtree(folder / "training")
    saved = load_fit(folder)
    if digest(saved.record["key"]) != digest(key):
        raise InputError(f"{folder / 'fit.json'}: of another fit than its folder's name. {MEND}")
    return Fit(**vars(saved), subject=subject, tokens=tokens, split=split)


def _described(subject: Subject, tokens: Tokens, split: Split, network: Network) -> dict:
    """Of `saved.Record`: whom a fit is of, what it reads, and how many pictures it learnt from."""
    pictures = {part: len(getattr(split, part)) for part in get_args(PartName)}
    made = {"key": tokens.key, "widths": tokens.widths, "layer_names": tokens.layer_names}
    return {
        "subject": subject.name,
        "source": subject.source,
        "n_surface": subject.n_surface,
        "tokens": dataclasses.asdict(network) | made,
        "split": pictures | {"trials": len(training_trials(subject, split))},
    }


def _both(scores: metrics.Scores) -> list[metrics.Score]:
    """The mean R² over all vertices, and its share of the noise ceiling."""
    everywhere = np.isfinite(scores.r2)
    return [scores.over(everywhere), scores.over(everywhere, normalised=True)]


def _validated(
    model: FactorTopy | Rival, subject: Subject, tokens: Tokens, split: Split
) -> list[metrics.Score]:
    """The two on the validation pictures, which chose the soup."""
    predicted = predict(model, tokens, split.validation)
    return _both(scores_of(predicted, subject, split, "validation"))


def _of_vertices(subject: Subject, test: metrics.Scores) -> dict[str, np.ndarray]:
    """What is kept of each vertex: `SavedFit`'s arrays."""
    return {
        "vertices": subject.vertices,
        "coordinates": subject.coordinates,
        "ncsnr": subject.ncsnr,
        "ceiling": test.ceiling,
        "r2": test.r2,
    } | {ROI + name: mask for name, mask in subject.rois.items()}
