"""A Fit: a trained model in a folder keyed by all that determined it, computed once.

    fit = fit_model(subject, backbone_name, tokens, ModelConfig(), Recipe(), split)
    fit.scores("test")

The folder appears under its name with `fit.json` written last, so a folder with that file is whole.
A run that was killed goes on from its last checkpoint.
"""

import dataclasses
import importlib.metadata
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock
import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file

from analysis import metrics
from analysis.batches import Part
from analysis.cores import cores
from analysis.features import Tokens
from analysis.files import (
    InputError,
    code_digest,
    digest,
    file_digest,
    fits_root,
    folder_name,
    read_json,
    require,
    require_space,
    whole_file,
    write_json,
)
from analysis.model import FactorTopy, ModelConfig, Selectors
from analysis.rivals import Rival, make_model
from analysis.splits import Split, training_trials, trials_of
from analysis.subject import Subject
from analysis.trainer import Recipe, predict, train

MEND = "Delete its folder: the fit is made again when asked for."
# What decides a fit's numbers: another text of these (but comments) is another fit.
CODE = (
    "batches.py",
    "metrics.py",
    "model.py",
    "rivals.py",
    "selection.py",
    "soup.py",
    "trainer.py",
)
LIBRARIES = ("torch", "lightning", "numpy", "open_clip_torch", "safetensors")
PartName = Literal["train", "validation", "test"]


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


@dataclass(frozen=True)
class Fit:
    """A trained model with the subject and tokens that it was trained on."""

    folder: Path
    subject: Subject
    tokens: Tokens
    split: Split
    model: FactorTopy | Rival
    record: dict  # fit.json

    def selectors(self) -> Selectors:
        """What each vertex chose.

        Raises:
            InputError: for a rival, which selects nothing.
        """
        with torch.inference_mode():
            chosen = self.model.selectors()
        if chosen is None:
            kind = self.record["key"]["model"]["model"]
            raise InputError(f"model {kind!r}: selects nothing; expected a fit of factortopy.")
        return chosen

    def predicted(self, part: PartName) -> Float[np.ndarray, "picture vertex"]:
        """Predicted responses to the pictures of a part, in the order of the split."""
        return predict(self.model, self.tokens, getattr(self.split, part))

    def scores(self, part: PartName = "test", average: bool = False) -> metrics.Scores:
        """Brain score on a part, against single trials or against means over repeats."""
        chose = part == self.record["key"]["recipe"]["soup"] == "test"
        trials = part_of(self.subject, self.split, part)
        shown = trials_in(self.subject, self.split, part)
        return metrics.brain_score(
            self.predicted(part),
            trials.responses,
            trials.trial_picture,
            self.subject.ncsnr,
            part=f"{part} (chose the soup)" if chose else part,
            average=average,
            repeats=self.subject.repeats[shown],
        )


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
        "code": code_digest(CODE),
    }


def fit_folder(subject: str, backbone: str, key: dict) -> Path:
    """Where the fit with a key lies."""
    return fits_root() / folder_name(subject) / f"{folder_name(backbone)}-{digest(key)[:12]}"


def fit_model(
    subject: Subject,
    backbone: str,
    tokens: Tokens,
    config: ModelConfig,
    recipe: Recipe,
    split: Split,
) -> Fit:
    """The fit with this key: read if it is there, else trained, resumed if one was under way.

    Raises:
        InputError: for data that can't be trained on, a damaged fit, or too small a disk.
    """
    key = fit_key(subject, tokens, config, recipe, split)
    folder = fit_folder(subject.name, backbone, key)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        seen = tokens.statistics(split.train) if config.standardise else None
        model = make_model(config, tokens.widths, torch.from_numpy(subject.coordinates), seen)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / "fit.json").exists():
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
            with whole_file(folder / "model.safetensors") as scratch:
                save_file({k: v.contiguous() for k, v in model.state_dict().items()}, scratch)
            write_json(
                folder / "fit.json",
                {
                    "key": key,
                    "subject": subject.name,
                    "backbone": backbone,
                    "result": result,
                    "weights": file_digest(folder / "model.safetensors"),
                    "seconds": round(time.time() - started, 1),
                    "versions": versions(),
                },
            )
            shutil.rmtree(folder / "training")
    return _read(folder, key, subject, tokens, split, model)


def _read(
    folder: Path,
    key: dict,
    subject: Subject,
    tokens: Tokens,
    split: Split,
    model: FactorTopy | Rival,
) -> Fit:
    """The finished fit in a folder, checked against what it should be."""
    record = read_json(folder / "fit.json", "the record of a fit", MEND)
    if not isinstance(record, dict) or digest(record.get("key")) != digest(key):
        raise InputError(f"{folder / 'fit.json'}: of another fit than its folder's name. {MEND}")
    path = require(folder / "model.safetensors", "the weights of a fit", MEND)
    if file_digest(path) != record.get("weights"):
        raise InputError(f"{path}: damaged, or not the weights that fit.json is of. {MEND}")
    model.load_state_dict(load_file(path))
    model.eval().requires_grad_(False)
    return Fit(folder, subject, tokens, split, model, record)
