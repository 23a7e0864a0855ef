"""The recipe of Appendix E.3: what a training step does, and how long it goes on.

`train` leaves the best checkpoints in a folder and goes on from the last one it finds there.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torch.utils.data import DataLoader, Dataset, Sampler

from analysis import metrics
from analysis.features import Tokens
from analysis.files import InputError
from analysis.model import FactorTopy, regulariser
from analysis.rivals import Rival
from analysis.soup import greedy_soup

PREDICTED_AT_ONCE = 32  # pictures


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's, but for the scale penalty."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    batch: int = 8  # trials
    steps_per_epoch: int = 1000
    max_steps: int = 100_000  # the paper's models were best at 40,000 to 60,000
    patience: int = 20  # epochs without a better validation score
    loss_beta: float = 0.1  # where smooth L1 turns from square to absolute (BOLD z-score)
    regularisation: float = 0.1  # λ of Eq. 3
    decay_steps: int = 6000  # until Eq. 3's term is gone
    scale_penalty: float = 1.0  # of (k - 1/2)², as in the released code; the paper's text has none
    checkpoints: int = 10  # best ones kept for the soup
    seed: int = 0

    def __post_init__(self):
        for field in ("batch", "steps_per_epoch", "max_steps", "decay_steps", "checkpoints"):
            if (value := getattr(self, field)) < 1:
                raise InputError(f"recipe: {field}={value}; expected at least 1.")
        if self.max_steps % self.steps_per_epoch:
            raise InputError(
                f"recipe: max_steps={self.max_steps} is not a whole number of epochs of"
                f" {self.steps_per_epoch} steps."
            )


@dataclass(frozen=True)
class Part:
    """Trials of one part of the split: which pictures, and the responses to them."""

    pictures: Int[np.ndarray, " picture"]  # rows of the tokens
    trial_picture: Int[np.ndarray, " trial"]  # row of `pictures`
    responses: Float[np.ndarray, "trial vertex"]  # BOLD z-score


class _Trials(Dataset):
    def __init__(self, tokens: Tokens, part: Part):
        self.tokens, self.part = tokens, part

    def __getitem__(self, trials: Int[np.ndarray, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
        pictures = self.part.pictures[self.part.trial_picture[trials]]
        return *self.tokens[pictures], torch.from_numpy(self.part.responses[trials])


class _Shuffled(Sampler):
    """Batches of trials for one epoch, a function of seed and epoch alone, so that a fit resumes.

    Within an epoch every trial is drawn once before any is drawn again.
    """

    def __init__(self, n_trials: int, recipe: Recipe):
        self.n_trials, self.recipe, self.epoch = n_trials, recipe, 0

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return self.recipe.steps_per_epoch

    def __iter__(self) -> Iterator[Int[np.ndarray, " batch"]]:
        generator = np.random.default_rng((self.recipe.seed, self.epoch))
        needed = len(self) * self.recipe.batch
        passes = [generator.permutation(self.n_trials) for _ in range(-(-needed // self.n_trials))]
        yield from np.concatenate(passes)[:needed].reshape(len(self), self.recipe.batch)


def predict(
    model: FactorTopy | Rival, tokens: Tokens, pictures: Int[np.ndarray, " picture"]
) -> Float[np.ndarray, "picture vertex"]:
    """Predicted responses to pictures (BOLD z-score)."""
    device = model.weight.device
    out = np.empty((len(pictures), len(model.bias)), np.float32)
    with torch.inference_mode():
        chosen = model.selectors()
        for start in range(0, len(pictures), PREDICTED_AT_ONCE):
            some = slice(start, start + PREDICTED_AT_ONCE)
            local, global_ = tokens[pictures[some]]
            out[some] = model(local.to(device), global_.to(device), chosen).cpu().numpy()
    return out


def validation_score(model: FactorTopy | Rival, tokens: Tokens, part: Part) -> float:
    """Mean R² over vertices on single trials."""
    predicted = predict(model, tokens, part.pictures)
    return float(np.nanmean(metrics.r2(predicted[part.trial_picture], part.responses)))


class Encoder(lightning.LightningModule):
    """A training step of FactorTopy (Eq. 3) or of a rival, and its validation."""

    def __init__(self, model: FactorTopy | Rival, recipe: Recipe, tokens: Tokens, validation: Part):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.tokens, self.validation = tokens, validation

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        local, global_, responses = batch
        chosen = self.model.selectors()
        if chosen is not None and not chosen.space.isfinite().all():
            raise self.diverged("places")
        predicted = self.model(local, global_, chosen)
        loss = smooth_l1_loss(predicted, responses, beta=self.recipe.loss_beta)
        if chosen is not None:  # a rival selects nothing
            decay = max(0.0, 1 - self.global_step / self.recipe.decay_steps)
            term = regulariser(chosen, self.recipe.scale_penalty)
            loss = loss + self.recipe.regularisation * decay * term
        if not torch.isfinite(loss):
            raise self.diverged(f"loss {loss.item()}")
        return loss

    def diverged(self, what: str) -> InputError:
        """The error that says at which step training diverged."""
        return InputError(
            f"training diverged at step {self.global_step}: {what}, not finite."
            f" Try a lower learning_rate than {self.recipe.learning_rate}."
        )

    def on_validation_epoch_end(self) -> None:
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise self.diverged("weights")
        with np.errstate(over="ignore", invalid="ignore"):
            value = validation_score(self.model, self.tokens, self.validation)
        if not np.isfinite(value):
            raise self.diverged(f"validation score {value}")
        self.log("validation_r2", value, prog_bar=True)

    def validation_step(self, *_: object) -> None:
        """Nothing a batch: the score is over all pictures at once."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            betas=self.recipe.betas,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )


class _Patience(EarlyStopping):
    """Stops at once if the run that it goes on from had stopped."""

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


@contextmanager
def _quiet() -> Iterator[None]:
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


def _check(part: Part, name: str) -> None:
    if not len(part.responses):
        raise InputError(f"{name}: no trial; expected some. Check the split and the sessions.")
    if not np.isfinite(part.responses).all():
        wrong = int((~np.isfinite(part.responses)).any(0).sum())
        raise InputError(f"{name}: responses of {wrong} vertices are not finite; leave these out.")


def train(
    model: FactorTopy | Rival,
    recipe: Recipe,
    tokens: Tokens,
    training: Part,
    validation: Part,
    folder: Path,
) -> dict:
    """Train `model` in place to the soup of its best checkpoints; returns how it went.

    Raises:
        InputError: for responses that are not finite, a batch larger than the data, or a loss that
            is not finite.
    """
    _check(training, "training")
    _check(validation, "validation")
    if recipe.batch > len(training.responses):
        raise InputError(
            f"recipe: batch={recipe.batch}, but only {len(training.responses)} trials train."
        )
    encoder = Encoder(model, recipe, tokens, validation)
    best = ModelCheckpoint(
        folder,
        "{step}",
        monitor="validation_r2",
        mode="max",
        save_top_k=recipe.checkpoints,
        save_last=True,
        save_on_train_epoch_end=False,  # but after validation: Lightning can't resume from there
    )
    stop = _Patience(
        "validation_r2", mode="max", patience=recipe.patience, check_on_train_epoch_end=False
    )
    trials = _Shuffled(len(training.responses), recipe)
    loader = DataLoader(_Trials(tokens, training), batch_size=None, sampler=trials)
    last = folder / "last.ckpt"
    watched = sys.stderr.isatty()
    with _quiet():
        trainer = lightning.Trainer(
            max_steps=recipe.max_steps,
            callbacks=[best, stop, *([TQDMProgressBar()] if watched else [])],
            enable_progress_bar=watched,
            enable_model_summary=False,
            logger=False,
            default_root_dir=folder,
            devices=1,
            num_sanity_val_steps=0,
        )
        trainer.fit(
            encoder,
            loader,
            DataLoader([0]),
            ckpt_path=str(last) if last.exists() else None,
            weights_only=True,
        )
    ranked = sorted(best.best_k_models, key=lambda path: -best.best_k_models[path].item())
    states = [_model_state(Path(path)) for path in ranked]

    def score(state: dict[str, Tensor]) -> float:
        model.load_state_dict(state)
        return validation_score(model, tokens, validation)

    soup, value = greedy_soup(states, score)
    model.load_state_dict(soup)
    model.eval()
    return {
        "steps": trainer.global_step,
        "validation_r2": value,
        "best_checkpoint_r2": best.best_model_score.item(),
    }


def _model_state(path: Path) -> dict[str, Tensor]:
    """The model's weights in a Lightning checkpoint."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
