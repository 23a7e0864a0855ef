"""What Lightning says: how far a fit is, as a bar or a line for each epoch, and nothing else."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from analysis.progress import duration, say


class Progress(Callback):
    """Steps, loss, validation score, patience and the time that is left at most."""

    def __init__(self, patience: int):
        self.patience, self.bar = patience, None
        self.best, self.waited = -float("inf"), 0

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        self.start, self.first = time.monotonic(), trainer.global_step
        self.loss, self.steps = torch.zeros(()), 0
        if sys.stderr.isatty():
            self.bar = tqdm(total=trainer.max_steps, initial=self.first, unit="step")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, _: lightning.LightningModule, outputs: dict, *__: object
    ) -> None:
        self.loss = self.loss.to(outputs["loss"].device) + outputs["loss"]  # not read: no GPU waits
        self.steps += 1
        if self.bar is not None:
            self.bar.update()

    def on_validation_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        score = trainer.callback_metrics["validation_r2"].item()
        self.waited = 0 if score > self.best else self.waited + 1
        self.best = max(self.best, score)
        done, mean = trainer.global_step, self.loss.item() / max(self.steps, 1)
        rate = (time.monotonic() - self.start) / max(done - self.first, 1)
        left = duration(rate * (trainer.max_steps - done))
        said = (
            f"loss {mean:.4f}, validation R² {score:.4f} (best {self.best:.4f},"
            f" {self.waited} of {self.patience} epochs ago)"
        )
        self.loss, self.steps = torch.zeros(()), 0
        if self.bar is not None:
            self.bar.set_postfix_str(said)
        else:
            say(f"step {done:,} of at most {trainer.max_steps:,}: {said}, at most {left} left")

    def on_train_end(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def state_dict(self) -> dict:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.waited = state["best"], state["waited"]


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning says of itself, of the machine, and of choices made on purpose."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # one process: tokens come from the page cache, and several fits share a machine
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
            yield
    finally:
        log.setLevel(level)
