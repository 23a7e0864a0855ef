"""The recipe of Appendix E.3: what a training step does, and how long it goes on.

`train` leaves the best checkpoints in a folder and goes on from the last one it finds there.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from analysis.batches import Part, Resident, Shuffled, Trials, check_part, nearest
from analysis.callbacks import Progress, quiet
from analysis.features import Tokens
from analysis.files import InputError
from analysis.forward import halved, validation_score
from analysis.memory import keep_freed
from analysis.model import FactorTopy, Selectors, entropy, scale_penalty
from analysis.optimiser import MuonAndAdamW, matrices_of
from analysis.recipe import Recipe
from analysis.rivals import Rival
from analysis.soup import greedy_soup

MOST_PASSES = 300  # over the trials, in which a one-cycle rate may take its steps


class Encoder(lightning.LightningModule):
    """A training step of FactorTopy (Eq. 3) or of a rival, and its validation."""

    def __init__(
        self,
        model: FactorTopy | Rival,
        recipe: Recipe,
        tokens: Tokens | Resident,
        validation: Part,
    ):
        super().__init__()
        self.automatic_optimization = False  # so that a step can be taken in pieces
        self.model, self.recipe = model, recipe
        self.tokens, self.validation = tokens, validation
        self.at_once = recipe.batch  # trials

    def training_step(self, batch: list[Tensor], _: int) -> dict[str, Tensor]:
        optimizer = self.optimizers()
        while True:
            optimizer.zero_grad()
            try:
                loss = self.backward_pass(*batch)
                break
            except torch.OutOfMemoryError as error:
                self.at_once = halved(self.at_once, "training on", error)
        if not torch.isfinite(loss):
            raise self.diverged(f"loss {loss.item()}")
        optimizer.step()
        if (rate := self.lr_schedulers()) is not None:
            rate.step()
        return {"loss": loss}

    def backward_pass(
        self,
        local: Float[Tensor, "batch channels height width"],
        global_: Float[Tensor, "batch channels"],
        responses: Float[Tensor, "batch vertex"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch; its gradients are left on the parameters.

        In pieces of `at_once` trials, whose losses are weighted by their share of the batch.
        """
        recipe = self.recipe
        with self.arithmetic():
            chosen = self.model.selectors()
        penalty = 0.0
        if chosen is not None:  # a rival selects nothing
            if not chosen.space.isfinite().all():
                raise self.diverged("places")
            penalty = self.penalty(chosen)
        whole, done = torch.zeros((), device=local.device), 0
        while done < len(responses):
            some = slice(done, done + self.at_once)
            measured = responses[some]
            with self.arithmetic():
                predicted = self.model(local[some], global_[some], chosen)
            loss = smooth_l1_loss(predicted.float(), measured, beta=recipe.loss_beta)
            loss = loss * (len(measured) / len(responses)) + (0.0 if done else penalty)
            done += len(measured)
            self.manual_backward(loss, retain_graph=done < len(responses))  # of the selectors
            whole += loss.detach()
        return whole

    def penalty(self, chosen: Selectors) -> Float[Tensor, ""]:
        """Eq. 3's term, - λ mean entropy / log L, and that of the scale, each as it fades."""
        recipe, step = self.recipe, self.global_step
        layer, scale = (
            max(0.0, 1 - step / steps) for steps in (recipe.decay_steps, recipe.scale_decay_steps)
        )
        return (
            recipe.scale_penalty * scale * scale_penalty(chosen)
            - recipe.regularisation * layer * entropy(chosen.layer).mean()
        )

    def arithmetic(self) -> AbstractContextManager:
        """The precision of matrix products."""
        low = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def diverged(self, what: str) -> InputError:
        """The error that says at which step training diverged."""
        return InputError(
            f"training diverged at step {self.global_step}: {what}, not finite."
            f" Try a lower learning_rate than {self.recipe.learning_rate:g}, or a lower"
            f" readout_rate than {self.recipe.readout_rate:g}."
        )

    def on_validation_epoch_end(self) -> None:
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise self.diverged("weights")
        with np.errstate(over="ignore", invalid="ignore"):
            value = validation_score(self.model, self.tokens, self.validation)
        if not np.isfinite(value):
            raise self.diverged(f"validation score {value}")
        self.log("validation_r2", value)

    def validation_step(self, *_: object) -> None:
        """Nothing a batch: the score is over all pictures at once."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        recipe = self.recipe
        readout = [self.model.weight, self.model.bias]
        matrices = matrices_of(self.model) if recipe.optimiser == "muon" else []
        apart = {id(p) for p in readout + matrices}
        rest = [p for p in self.model.parameters() if id(p) not in apart]
        rates = [recipe.learning_rate, recipe.learning_rate * recipe.readout_rate]
        groups = [
            {"params": some, "lr": rate}
            for some, rate in zip((rest, readout), rates, strict=True)
            if some
        ]
        settings = {"betas": recipe.betas, "weight_decay": recipe.weight_decay}
        if matrices:
            optimizer = MuonAndAdamW(matrices, groups, recipe.learning_rate, **settings)
        else:
            optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        if recipe.schedule == "constant":
            return optimizer
        cycle = OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            recipe.max_steps,
            pct_start=recipe.warm_up,
            cycle_momentum=False,
        )
        return [optimizer], [cycle]


def _check_tokens(tokens: Tokens, pictures: Int[np.ndarray, " n"]) -> None:
    """Pass if all tokens of these pictures are numbers."""
    each = ((p, tokens[np.array([p])]) for p in np.unique(pictures))
    wrong = [p for p, both in each if not all(t.isfinite().all() for t in both)]
    if wrong:
        raise InputError(
            f"{tokens.folder}: tokens of {len(wrong):,} of {len(np.unique(pictures)):,} pictures"
            f" are not finite, the first of {tokens.digests[wrong[0]][:12]}…; expected numbers."
            " `python -m analysis extract SUBJECT --verify` makes damaged parts again."
        )


class _Patience(EarlyStopping):
    """Stops at once if the run that it goes on from had stopped."""

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


def train(
    model: FactorTopy | Rival,
    recipe: Recipe,
    tokens: Tokens,
    training: Part,
    validation: Part,
    folder: Path,
    test: Part | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict:
    """Train `model` in place to the soup of its best checkpoints; returns how it went.

    On a GPU if there is one. `test` is for a recipe whose soup is chosen on test pictures; no other
    sees them. `callbacks` see each epoch.

    Raises:
        InputError: for responses or tokens that are not finite, responses that don't vary, a batch
            or a one-cycle rate larger than the data, a loss that is not finite, or a GPU without
            room for one picture.
    """
    check_part(training, "training")
    check_part(validation, "validation")
    keep_freed()
    if recipe.batch > len(training.responses):
        raise InputError(
            f"recipe: batch={recipe.batch}, but only {len(training.responses)} trials train."
        )
    passes = recipe.max_steps * recipe.batch / len(training.responses)
    if recipe.schedule == "one-cycle" and passes > MOST_PASSES:
        most = int(MOST_PASSES * len(training.responses) / recipe.batch)
        raise InputError(
            f"recipe: a one-cycle rate over max_steps={recipe.max_steps} steps of"
            f" {recipe.batch} trials passes {passes:,.0f} times over {len(training.responses)}"
            f" trials; expected at most {MOST_PASSES} passes: max_steps={most} or fewer."
        )
    if (test is not None) != (recipe.soup == "test"):
        raise InputError(
            f"soup={recipe.soup!r}: the test part is given if, and only if, it is test."
        )
    best = ModelCheckpoint(
        folder,
        "{step}",
        monitor="validation_r2",
        mode="max",
        save_top_k=recipe.checkpoints,
        save_last=True,
        save_on_train_epoch_end=False,  # but after validation: Lightning can't resume from there
    )
    epochs = recipe.max_steps // recipe.steps_per_epoch
    patience = recipe.patience if recipe.schedule == "constant" else epochs
    stop = _Patience("validation_r2", mode="max", patience=patience, check_on_train_epoch_end=False)
    last = folder / "last.ckpt"
    with quiet():
        trainer = lightning.Trainer(
            max_steps=recipe.max_steps,
            callbacks=[best, stop, Progress(patience), *callbacks],
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            default_root_dir=folder,
            devices=1,
            num_sanity_val_steps=0,
        )
        device = trainer.strategy.root_device
        needed = [part.pictures for part in (training, validation, test) if part is not None]
        near = nearest(tokens, np.concatenate(needed), device)
        trials = Shuffled(
            len(training.responses), recipe.batch, recipe.steps_per_epoch, recipe.seed
        )
        try:
            trainer.fit(
                Encoder(model, recipe, near, validation),
                DataLoader(Trials(near, training), batch_size=None, sampler=trials),
                DataLoader([0]),
                ckpt_path=str(last) if last.exists() else None,
                weights_only=True,
            )
        except InputError:  # it diverged: was it the tokens? A pass over all is not made before
            _check_tokens(tokens, training.pictures)
            raise
    model.to(device)  # Lightning took it from there
    ranked = sorted(best.best_k_models, key=lambda path: -best.best_k_models[path].item())
    states = [_model_state(Path(path)) for path in ranked]
    chosen_on = validation if test is None else test

    def score(state: dict[str, Tensor]) -> float:
        model.load_state_dict(state)
        return validation_score(model, near, chosen_on)

    if test is not None:  # ranked by the score that the soup must not fall below
        states.sort(key=score, reverse=True)
    soup, value = greedy_soup(states, score)
    model.load_state_dict(soup)
    result = {
        "steps": trainer.global_step,
        "validation_r2": value if test is None else validation_score(model, near, validation),
        "best_checkpoint_r2": best.best_model_score.item(),
        "soup_chosen_on": recipe.soup,
    }
    model.cpu().eval()
    return result if test is None else result | {"test_r2": value}


def _model_state(path: Path) -> dict[str, Tensor]:
    """The model's weights in a Lightning checkpoint."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
