"""Training: its steps and batches, what it refuses, and that an interruption changes no bit."""

import dataclasses
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from analysis import metrics, trainer
from analysis.files import InputError
from analysis.model import FactorTopy, ModelConfig, regulariser
from analysis.trainer import Encoder, Part, Recipe, predict, train, validation_score
from tests.random_tokens import random_tokens

WIDTHS = [4, 3]
TOY = Recipe(batch=8, steps_per_epoch=10, max_steps=60, patience=10, decay_steps=20, checkpoints=3)


def toy_model(n_vertices: int = 12, seed: int = 0) -> FactorTopy:
    torch.manual_seed(seed)
    coordinates = torch.rand(n_vertices, 3) * 80
    return FactorTopy(ModelConfig(channels=8, hidden=16, frequencies=4), WIDTHS, coordinates)


def toy_part(pictures: range, n_vertices: int = 12, seed: int = 0) -> Part:
    """Random responses to each picture, twice."""
    rng = np.random.default_rng(seed)
    shown = rng.permutation(np.repeat(np.arange(len(pictures)), 2))
    responses = rng.normal(size=(len(shown), n_vertices)).astype(np.float32)
    return Part(np.array(pictures, int), shown, responses)


@pytest.mark.parametrize("field", ["batch", "steps_per_epoch", "max_steps", "decay_steps"])
def test_a_recipe_needs_whole_epochs_and_counts_of_at_least_1(field: str) -> None:
    with pytest.raises(InputError, match=f"recipe: {field}=0; expected at least 1"):
        Recipe(**{field: 0})
    with pytest.raises(InputError, match="checkpoints=-1"):
        Recipe(checkpoints=-1)
    with pytest.raises(InputError, match="max_steps=1500 is not a whole number of epochs of 1000"):
        Recipe(max_steps=1500)


def test_the_papers_recipe_is_appendix_e3s() -> None:
    recipe = Recipe()
    assert (recipe.learning_rate, recipe.weight_decay, recipe.betas) == (1e-3, 1e-2, (0.9, 0.999))
    assert (recipe.loss_beta, recipe.regularisation, recipe.decay_steps) == (0.1, 0.1, 6000)
    assert (recipe.batch, recipe.checkpoints) == (8, 10)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n_trials=st.integers(1, 60),
    batch=st.integers(1, 9),
    steps=st.integers(1, 12),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 99),
)
def test_every_trial_is_drawn_once_before_any_is_drawn_twice(
    n_trials: int, batch: int, steps: int, seed: int, epoch: int
) -> None:
    sampler = trainer._Shuffled(
        n_trials, Recipe(batch=batch, steps_per_epoch=steps, max_steps=steps, seed=seed)
    )
    sampler.set_epoch(epoch)
    batches = [b.tolist() for b in sampler]
    assert len(batches) == len(sampler) == steps and {len(b) for b in batches} == {batch}
    drawn: Counter[int] = Counter()
    for trial in (t for b in batches for t in b):
        assert drawn[trial] == min(drawn[t] for t in range(n_trials))
        drawn[trial] += 1


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = trainer._Shuffled(100, dataclasses.replace(TOY, seed=seed))
        sampler.set_epoch(epoch)
        return [b.tolist() for b in sampler]

    assert batches(0, 3) == batches(0, 3)
    assert len({str(batches(s, e)) for s in (0, 1) for e in (0, 1, 2)}) == 6


def plain_loss(
    model: FactorTopy, batch: tuple[Tensor, Tensor, Tensor], step: int, recipe: Recipe
) -> Float[Tensor, ""]:
    """Eq. 3: smooth L1 and the regulariser that fades."""
    local, global_, responses = batch
    error = (model(local, global_) - responses).abs()
    beta = recipe.loss_beta
    smooth = torch.where(error < beta, 0.5 * error**2 / beta, error - beta / 2).mean()
    fading = max(0.0, 1 - step / recipe.decay_steps)
    term = regulariser(model.selectors(), recipe.scale_penalty)
    return smooth + recipe.regularisation * fading * term


def adamw(model: FactorTopy, recipe: Recipe) -> Callable[[Tensor, int], None]:
    """AdamW's update written out (Loshchilov and Hutter, Algorithm 2), as a step on a loss."""
    one, two = recipe.betas
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}

    def step(loss: Tensor, t: int) -> None:
        gradients = torch.autograd.grad(loss, list(moments))
        with torch.no_grad():
            for (p, (m, v)), g in zip(moments.items(), gradients, strict=True):
                p *= 1 - recipe.learning_rate * recipe.weight_decay
                m += (1 - one) * (g - m)
                v += (1 - two) * (g * g - v)
                scaled = (m / (1 - one**t)) / ((v / (1 - two**t)).sqrt() + 1e-8)
                p -= recipe.learning_rate * scaled

    return step


def test_training_is_a_plain_loop_of_eq_3_and_adamw(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TOY, max_steps=20, decay_steps=15, checkpoints=1)
    tokens = random_tokens(tmp_path, WIDTHS, 30)
    training, validation = toy_part(range(20)), toy_part(range(20, 30))
    ours, plain = toy_model(), toy_model()
    train(ours, recipe, tokens, training, validation, tmp_path / "training")
    update, best, kept = adamw(plain, recipe), -math.inf, {}
    for epoch in range(2):
        sampler = trainer._Shuffled(len(training.responses), recipe)
        sampler.set_epoch(epoch)
        for i, trials in enumerate(sampler):
            pictures = training.pictures[training.trial_picture[trials]]
            batch = (*tokens[pictures], torch.from_numpy(training.responses[trials]))
            step = 10 * epoch + i
            update(plain_loss(plain, batch, step, recipe), step + 1)
        if (score := validation_score(plain, tokens, validation)) > best:
            best, kept = score, {k: v.clone() for k, v in plain.state_dict().items()}
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, kept[key], rtol=1e-3, atol=1e-4, msg=key)


def test_predictions_are_the_models_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "PREDICTED_AT_ONCE", 4)
    tokens, model = random_tokens(tmp_path, WIDTHS, 11), toy_model()
    rows = np.array([9, 0, 3, 3, 10, 1, 7])
    local, global_ = tokens[rows]
    expected = model(local, global_).detach().numpy()
    np.testing.assert_allclose(predict(model, tokens, rows), expected, rtol=1e-5, atol=1e-6)


def test_validation_score_is_the_mean_r2_on_single_trials(tmp_path: Path) -> None:
    tokens, model, part = random_tokens(tmp_path, WIDTHS, 30), toy_model(), toy_part(range(5, 25))
    predicted = predict(model, tokens, np.arange(30))
    shown = part.pictures[part.trial_picture]
    expected = metrics.r2(predicted[shown], part.responses).mean()
    assert validation_score(model, tokens, part) == pytest.approx(expected)


def fit_toy(folder: Path, recipe: Recipe = TOY) -> tuple[dict[str, Tensor], dict]:
    """The weights and record of a small training run, resumed if one was under way there."""
    folder.mkdir(exist_ok=True)
    tokens = random_tokens(folder, WIDTHS, 30)
    model = toy_model(seed=recipe.seed)
    parts = toy_part(range(20)), toy_part(range(20, 30))
    record = train(model, recipe, tokens, *parts, folder / "training")
    return model.state_dict(), record


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]


def test_the_same_seed_gives_the_same_bits_and_another_others(tmp_path: Path) -> None:
    one, record = fit_toy(tmp_path / "one")
    same, _ = fit_toy(tmp_path / "same")
    other, _ = fit_toy(tmp_path / "other", dataclasses.replace(TOY, seed=1))
    assert_identical(one, same)
    assert not torch.equal(one["weight"], other["weight"])
    assert record["steps"] == 60
    assert record["validation_r2"] >= record["best_checkpoint_r2"] - 1e-6  # one is in float32


def test_no_more_checkpoints_are_kept_than_the_recipe_says(tmp_path: Path) -> None:
    fit_toy(tmp_path)
    names = sorted(p.name for p in (tmp_path / "training").iterdir())
    assert len(names) == 4 and names[0] == "last.ckpt"


class Interrupted(Exception):
    """Stands for whatever ends a run."""


# Where a run ends: a function of trainer or of one of its classes, and at which call of it.
ENDS = {
    "in the first epoch": ((Encoder, "training_step"), 7),
    "in the third epoch": ((Encoder, "training_step"), 25),
    "in validation": ((trainer, "validation_score"), 4),
    "before a checkpoint": ((trainer.ModelCheckpoint, "_save_topk_checkpoint"), 3),
    "between the best and the last checkpoint": (
        (trainer.ModelCheckpoint, "_save_last_checkpoint"),
        3,
    ),
    "after training": ((trainer, "greedy_soup"), 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    expected, record = fit_toy(tmp_path / "whole")
    (place, name), at = ENDS[end]
    function, calls = getattr(place, name), 0

    def interrupted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Interrupted
        return function(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        with pytest.raises(Interrupted):
            fit_toy(tmp_path / "broken")
    resumed, resumed_record = fit_toy(tmp_path / "broken")
    assert_identical(resumed, expected)
    assert resumed_record == record


def test_a_run_interrupted_when_it_had_removed_a_checkpoint_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights shrink, so that each epoch is better than all before by this score.
    monkeypatch.setattr(
        trainer, "validation_score", lambda model, *_: -model.weight.square().sum().item()
    )
    recipe = dataclasses.replace(TOY, weight_decay=10.0)
    expected, record = fit_toy(tmp_path / "whole", recipe)
    remove = trainer.ModelCheckpoint._remove_checkpoint

    def interrupted(*arguments):
        remove(*arguments)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(trainer.ModelCheckpoint, "_remove_checkpoint", interrupted)
        with pytest.raises(Interrupted):
            fit_toy(tmp_path / "broken", recipe)
    resumed, resumed_record = fit_toy(tmp_path / "broken", recipe)
    assert_identical(resumed, expected)
    assert resumed_record == record


def test_a_run_that_had_lost_patience_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(TOY, patience=2, learning_rate=0.05, max_steps=400)
    expected, record = fit_toy(tmp_path / "whole", recipe)
    assert 20 < record["steps"] < 400

    def stop(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "greedy_soup", stop)
        with pytest.raises(Interrupted):
            fit_toy(tmp_path / "broken", recipe)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "training_step", stop)
        resumed, resumed_record = fit_toy(tmp_path / "broken", recipe)
    assert_identical(resumed, expected)
    assert resumed_record == record


KILLED = """
import importlib.util, os, pathlib, signal, sys, warnings
spec = importlib.util.spec_from_file_location("test_trainer", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
step = module.Encoder.training_step
def killed(self, *arguments):
    if self.global_step == 34:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)
module.Encoder.training_step = killed
module.fit_toy(pathlib.Path(sys.argv[2]))
"""


def test_a_killed_process_is_gone_on_from_in_another_to_the_same_bits(tmp_path: Path) -> None:
    expected, record = fit_toy(tmp_path / "whole")
    broken = tmp_path / "broken"
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, __file__, str(broken)]
    ended = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert (broken / "training/last.ckpt").exists()
    resumed, resumed_record = fit_toy(broken)
    assert_identical(resumed, expected)
    assert resumed_record == record


@pytest.mark.parametrize("rate", [1e4, 1e18, 1e38])
def test_a_diverging_run_says_at_which_step(tmp_path: Path, rate: float) -> None:
    recipe = dataclasses.replace(TOY, learning_rate=rate)
    with pytest.raises(InputError, match=r"diverged at step \d+: .*Try a lower learning_rate than"):
        fit_toy(tmp_path, recipe)


def refused(tmp_path: Path, training: Part, validation: Part) -> str:
    with pytest.raises(InputError) as error:
        tokens = random_tokens(tmp_path, WIDTHS, 30)
        train(toy_model(), TOY, tokens, training, validation, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    return str(error.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_responses_that_are_not_finite_are_counted(tmp_path: Path, bad: float) -> None:
    part, fine = toy_part(range(20)), toy_part(range(20, 30))
    part.responses[3, [2, 5]] = bad
    assert refused(tmp_path, part, fine).startswith("training: responses of 2 vertices are not fin")
    assert refused(tmp_path, fine, part).startswith("validation: responses of 2 vertices")


def test_too_few_trials_are_named(tmp_path: Path) -> None:
    few, none = toy_part(range(3)), toy_part(range(0))
    fine = toy_part(range(20, 30))
    message = refused(tmp_path, few, fine)
    assert "batch=8" in message and " 6 " in message
    assert refused(tmp_path, fine, none).startswith("validation: no trial")
    assert refused(tmp_path, none, fine).startswith("training: no trial")


def test_checkpoints_are_read_as_data_alone(tmp_path: Path) -> None:
    fit_toy(tmp_path)
    paths = [p for p in (tmp_path / "training").iterdir() if p.name != "last.ckpt"]
    state = trainer._model_state(paths[0])
    assert state.keys() == toy_model().state_dict().keys()
    mark = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (os.system, (f"touch {mark}",))

    torch.save({"state_dict": Trap()}, paths[0])
    with pytest.raises(Exception, match="Weights only load failed"):
        trainer._model_state(paths[0])
    assert not mark.exists()


def test_training_leaves_the_tokens_as_they_are(tmp_path: Path) -> None:
    cache = random_tokens(tmp_path, WIDTHS, 30).folder
    before = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    fit_toy(tmp_path)
    assert {p: p.read_bytes() for p in before} == before
