"""How soon recipes find what is true: `paper`, `released` and `fast` on one simulated person.

    python -m benchmarks.convergence --json benchmarks/convergence-sim01-full.json
    python -m benchmarks.convergence --subject sim01 --steps 2000    # a quick look

`paper` and `released` train the paper's model, `fast` the default one, and that with tokens as they
come, each as `python -m analysis fit` does. They run in processes of one core, two at a time.
Seconds are the processor's, so that other work doesn't count; the clock stands still while the
validation score and the rank correlations with the truth are taken.
"""

import argparse
import dataclasses
import json
import platform
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback

from analysis import metrics, model
from analysis.fit import part_of
from analysis.model import VARIANTS, FactorTopy
from analysis.readings import truth_of
from analysis.recipes import named_recipe
from analysis.rivals import make_model
from analysis.splits import default_scheme, split_pictures
from analysis.study import get_subject, get_tokens
from analysis.subject import Subject
from analysis.trainer import train

AS_THEY_COME = "fast, tokens as they come"
FORMS = {  # recipe and model
    "fast": ("fast", VARIANTS["factortopy"]),
    AS_THEY_COME: ("fast", dataclasses.replace(VARIANTS["factortopy"], standardise=False)),
    "paper": ("paper", VARIANTS["paper"]),
    "released": ("released", VARIANTS["paper"]),
}
EPOCHS = 20  # at whose ends all is measured
RIVAL = "paper"


class Recovery(Callback):
    """At the end of every epoch: seconds of training so far, and how much of the truth is found."""

    def __init__(self, subject: Subject):
        truth = truth_of(subject)
        self.early, self.space, self.scale = truth.early, truth.space, truth.scale
        self.depth = model.depth(torch.from_numpy(truth.layer)).numpy()
        self.rows: list[dict[str, float]] = []
        self.seconds, self.started = 0.0, 0.0

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.process_time()

    def on_validation_start(self, *_: object) -> None:
        self.seconds += time.process_time() - self.started

    def on_validation_end(
        self, trainer: lightning.Trainer, encoder: lightning.LightningModule
    ) -> None:
        with torch.inference_mode():
            chosen = encoder.model.selectors()
        pairs = {
            "depth": (self.depth, model.depth(chosen.layer).numpy()),
            "scale": (self.scale, chosen.scale[:, 0].numpy()),
            "x": (self.space[self.early, 0], chosen.space[self.early, 0].numpy()),
            "y": (self.space[self.early, 1], chosen.space[self.early, 1].numpy()),
        }
        row = {"step": trainer.global_step, "seconds": self.seconds}
        row["validation R²"] = trainer.callback_metrics["validation_r2"].item()
        for name, (true, found) in pairs.items():
            row[name] = metrics.rank_correlation(true, found) if np.ptp(found) else 0.0
        self.rows.append(row)
        self.started = time.process_time()


def run(name: str, subject: str, backbone: str, steps: int, seed: int) -> list[dict[str, float]]:
    """A row per epoch of one of `FORMS`."""
    torch.set_num_threads(1)
    person = get_subject(subject)
    tokens = get_tokens(person, backbone)
    split = split_pictures(person, 0, scheme=default_scheme(person))
    recipe_name, config = FORMS[name]
    recipe = named_recipe(recipe_name, seed)
    most = steps if recipe.schedule == "constant" else recipe.max_steps
    recipe = dataclasses.replace(
        recipe, max_steps=most, steps_per_epoch=most // EPOCHS, patience=EPOCHS, checkpoints=1
    )
    torch.manual_seed(seed)
    seen = tokens.statistics(split.train) if config.standardise else None
    fitted = make_model(config, tokens.widths, torch.from_numpy(person.coordinates), seen)
    assert isinstance(fitted, FactorTopy)
    recovery = Recovery(person)
    parts = (part_of(person, split, part) for part in ("train", "validation"))
    with tempfile.TemporaryDirectory() as folder:
        train(fitted, recipe, tokens, *parts, Path(folder), callbacks=[recovery])
    return recovery.rows


def times_sooner(rows: pd.DataFrame, measure: str) -> float:
    """Seconds of the rival's whole run over those in which `fast` first has as much; NaN: never."""
    rival = rows[rows["recipe"] == RIVAL].iloc[-1]
    fast = rows[rows["recipe"] == "fast"]
    reached = fast[fast[measure] >= rival[measure]]
    return float(rival["seconds"] / reached["seconds"].iloc[0]) if len(reached) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="sim01-full")
    parser.add_argument("--backbone", default="clip-mini")
    parser.add_argument("--steps", type=int, default=10_000, help="of paper and released")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.steps % EPOCHS:
        parser.error(f"--steps {options.steps}: expected a multiple of {EPOCHS}")
    person = get_subject(options.subject)  # made once, before two processes ask for it
    get_tokens(person, options.backbone)
    asked = options.subject, options.backbone, options.steps, options.seed
    longest_first = sorted(FORMS, key=lambda name: FORMS[name][0] == "fast")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = {name: pool.submit(run, name, *asked) for name in longest_first}
        rows = pd.DataFrame(
            [{"recipe": name, **row} for name, job in jobs.items() for row in job.result()]
        )
    print(rows.groupby("recipe", sort=False).tail(1).round(3).to_string(index=False))
    sooner = {name: times_sooner(rows, name) for name in ("validation R²", "depth", "scale")}
    for name, ratio in sooner.items():
        print(
            f"{name}: fast has what {RIVAL} has after {options.steps:,} steps {ratio:.1f} x sooner"
        )
    if options.json:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        about = {
            "subject": options.subject,
            "vertices": len(person.vertices),
            "backbone": options.backbone,
            "commit": commit.stdout.strip(),
            "machine": f"{platform.machine()}, one core a recipe, torch {torch.__version__}",
        }
        known = {name: ratio if np.isfinite(ratio) else None for name, ratio in sooner.items()}
        options.json.write_text(
            json.dumps(about | {"sooner": known, "rows": rows.round(4).to_dict("records")}) + "\n"
        )


if __name__ == "__main__":
    main()
