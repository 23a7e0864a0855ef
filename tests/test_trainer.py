"""Training: its steps and batches, what it refuses, and that an interruption changes no bit."""

import copy
import dataclasses
import math
import os
import re
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

from analysis import explained, forward, trainer
from analysis.batches import Part, Shuffled
from analysis.features import Tokens
from analysis.files import InputError
from analysis.forward import predict, validation_score
from analysis.model import FactorTopy, ModelConfig
from analysis.progress import duration
from analysis.recipe import Recipe
from analysis.recipes import named_recipe
from analysis.trainer import Encoder, train
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


@pytest.mark.parametrize("field", ["batch", "steps_per_epoch", "decay_steps", "scale_decay_steps"])
def test_a_recipe_needs_whole_epochs_and_counts_of_at_least_1(field: str) -> None:
    with pytest.raises(InputError, match=f"recipe: {field}=0; expected at least 1"):
        Recipe(**{field: 0})
    with pytest.raises(InputError, match="checkpoints=-1"):
        Recipe(checkpoints=-1)
    with pytest.raises(InputError, match="max_steps=1500 is not a whole number of epochs of 1000"):
        Recipe(max_steps=1500)
    with pytest.raises(InputError, match="recipe: readout_rate=0; expected more than 0"):
        Recipe(readout_rate=0)
    with pytest.raises(InputError, match=r"recipe: warm_up=1\.0; expected a share between 0 and 1"):
        Recipe(warm_up=1.0)
    with pytest.raises(InputError, match="schedule='cosine'; expected constant or one-cycle"):
        Recipe(schedule="cosine")
    with pytest.raises(InputError, match="recipe: soup='train'; expected validation or test"):
        Recipe(soup="train")
    with pytest.raises(InputError, match="recipe: precision='fp8'; expected float32 or bfloat16"):
        Recipe(precision="fp8")


def test_the_papers_recipe_is_appendix_e3s() -> None:
    recipe = named_recipe("paper", seed=0)
    assert recipe == Recipe()
    assert (recipe.learning_rate, recipe.weight_decay, recipe.betas) == (1e-3, 1e-2, (0.9, 0.999))
    assert (recipe.loss_beta, recipe.regularisation, recipe.decay_steps) == (0.1, 0.1, 6000)
    assert (recipe.batch, recipe.checkpoints, recipe.patience) == (8, 10, 20)
    assert (recipe.schedule, recipe.readout_rate, recipe.scale_penalty) == ("constant", 1, 0)
    released = named_recipe("released", seed=0)
    assert released == dataclasses.replace(recipe, scale_penalty=recipe.regularisation)


@pytest.mark.parametrize("name", ["short", "brief"])
def test_recipes_of_before_say_what_replaced_them(name: str) -> None:
    with pytest.raises(InputError, match=f"recipe '{name}': replaced by 'fast'"):
        named_recipe(name, seed=0)


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
    sampler = Shuffled(n_trials, batch, steps, seed)
    sampler.set_epoch(epoch)
    batches = [b.tolist() for b in sampler]
    assert len(batches) == len(sampler) == steps and {len(b) for b in batches} == {batch}
    drawn: Counter[int] = Counter()
    for trial in (t for b in batches for t in b):
        assert drawn[trial] == min(drawn[t] for t in range(n_trials))
        drawn[trial] += 1


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = Shuffled(100, 8, 10, seed)
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
    chosen = model.selectors()
    layer, scale = (max(0.0, 1 - step / n) for n in (recipe.decay_steps, recipe.scale_decay_steps))
    entropy = -(chosen.layer * chosen.layer.log()).sum(1).mean() / math.log(chosen.layer.shape[1])
    centred = (chosen.scale - 0.5).square().mean() + (chosen.size - 0.5).square().mean()
    return smooth - recipe.regularisation * layer * entropy + recipe.scale_penalty * scale * centred


def adamw(model: FactorTopy, recipe: Recipe) -> Callable[[Tensor, int], None]:
    """AdamW's update written out (Loshchilov and Hutter, Algorithm 2), as a step on a loss."""
    one, two = recipe.betas
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    readout = {id(model.weight), id(model.bias)}

    def rate(p: Tensor, t: int) -> float:
        """At step t, from 1: a one-cycle rate rises on a cosine from 1/25, then falls to 0."""
        base = recipe.learning_rate * (recipe.readout_rate if id(p) in readout else 1)
        if recipe.schedule == "constant":
            return base
        top = recipe.warm_up * recipe.max_steps - 1
        if t - 1 <= top:
            low, share = 1 / 25, (t - 1) / top
            return base * (1 + (low - 1) * (1 + math.cos(math.pi * share)) / 2)
        share = (t - 1 - top) / (recipe.max_steps - 1 - top)
        return base * (1 + math.cos(math.pi * share)) / 2

    def step(loss: Tensor, t: int) -> None:
        gradients = torch.autograd.grad(loss, list(moments))
        with torch.no_grad():
            for (p, (m, v)), g in zip(moments.items(), gradients, strict=True):
                p *= 1 - rate(p, t) * recipe.weight_decay
                m += (1 - one) * (g - m)
                v += (1 - two) * (g * g - v)
                scaled = (m / (1 - one**t)) / ((v / (1 - two**t)).sqrt() + 1e-8)
                p -= rate(p, t) * scaled

    return step


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_training_is_a_plain_loop_of_eq_3_and_adamw(tmp_path: Path, schedule: str) -> None:
    recipe = dataclasses.replace(
        TOY,
        max_steps=20,
        decay_steps=15,
        checkpoints=1,
        schedule=schedule,
        readout_rate=3.0,
        scale_penalty=0.3,
        scale_decay_steps=8,
    )
    tokens = random_tokens(tmp_path, WIDTHS, 30)
    training, validation = toy_part(range(20)), toy_part(range(20, 30))
    ours, plain = toy_model(), toy_model()
    train(ours, recipe, tokens, training, validation, tmp_path / "training")
    update, best, kept = adamw(plain, recipe), -math.inf, {}
    for epoch in range(2):
        sampler = Shuffled(len(training.responses), recipe.batch, 10, recipe.seed)
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


def test_muon_takes_linear_maps_and_adamw_the_rest(tmp_path: Path) -> None:
    """Each as alone; saved and loaded, it goes on by the same bits."""
    recipe = dataclasses.replace(TOY, optimiser="muon", readout_rate=3.0, learning_rate=1e-2)
    tokens = random_tokens(tmp_path, WIDTHS, 30)
    batch = tokens[np.arange(20)]

    def loss(model: FactorTopy) -> Tensor:
        return (model(*batch) - 1).square().mean()

    together, apart = toy_model(), toy_model()
    ours = Encoder(together, recipe, tokens, toy_part(range(20))).configure_optimizers()
    linear = {
        n: p
        for n, p in apart.named_parameters()
        if n.startswith("bottleneck") or (n.split(".")[-1] == "weight" and n != "weight")
    }
    rest = [p for n, p in apart.named_parameters() if n not in (*linear, "weight", "bias")]
    assert len(linear) == 2 + 4 * 3
    decay = {"weight_decay": recipe.weight_decay}
    theirs = [
        torch.optim.Muon(
            linear.values(), 1e-2, momentum=0.9, adjust_lr_fn="match_rms_adamw", **decay
        ),
        torch.optim.AdamW(rest, 1e-2, **decay),
        torch.optim.AdamW([apart.weight, apart.bias], 3e-2, **decay),
    ]
    for step in range(6):
        if step == 3:
            state = copy.deepcopy(ours.state_dict())
            ours = Encoder(together, recipe, tokens, toy_part(range(20))).configure_optimizers()
            ours.load_state_dict(state)
        for model, optimisers in ((together, [ours]), (apart, theirs)):
            model.zero_grad()
            loss(model).backward()
            for one in optimisers:
                one.step()
    for (name, p), q in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=name)


def test_a_one_cycle_rate_longer_than_the_data_is_refused(tmp_path: Path) -> None:
    tokens, part = random_tokens(tmp_path, WIDTHS, 30), toy_part(range(20))
    recipe = dataclasses.replace(TOY, max_steps=2000, schedule="one-cycle")
    with pytest.raises(InputError, match="passes 400 times over 40 trials; expected at most 300"):
        train(toy_model(), recipe, tokens, part, part, tmp_path / "training")


def test_predictions_are_the_models_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "PREDICTED_AT_ONCE", 4)
    tokens, model = random_tokens(tmp_path, WIDTHS, 11), toy_model()
    rows = np.array([9, 0, 3, 3, 10, 1, 7])
    local, global_ = tokens[rows]
    expected = model(local, global_).detach().numpy()
    np.testing.assert_allclose(predict(model, tokens, rows), expected, rtol=1e-5, atol=1e-6)


def test_validation_score_is_the_mean_r2_on_single_trials(tmp_path: Path) -> None:
    tokens, model, part = random_tokens(tmp_path, WIDTHS, 30), toy_model(), toy_part(range(5, 25))
    predicted = predict(model, tokens, np.arange(30))
    shown = part.pictures[part.trial_picture]
    expected = explained.r2(predicted[shown], part.responses).mean()
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


def test_tokens_that_are_no_numbers_are_counted_and_not_taken_for_divergence(
    tmp_path: Path,
) -> None:
    tokens = random_tokens(tmp_path, WIDTHS, 30)
    tokens.parts[0].local[[2, 17, 25], 2, 0, 0] = math.nan  # in memory: the file stays
    parts = toy_part(range(20)), toy_part(range(20, 30))
    said = r"tokens of 2 of 20 pictures are not finite, the first of picture 2…; expected numbers"
    with pytest.raises(InputError, match=said):
        train(toy_model(), TOY, tokens, *parts, tmp_path / "t")


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
    said = "responses of 2 of 12 vertices (rows 2, 5) are not finite, 2 values. Leave these out"
    assert refused(tmp_path, part, fine).startswith(f"training: {said}")
    assert refused(tmp_path, fine, part).startswith(f"validation: {said}")


def test_vertices_without_variance_are_named(tmp_path: Path) -> None:
    part, fine = toy_part(range(20)), toy_part(range(20, 30))
    part.responses[:, 1:8] = 0.1
    said = refused(tmp_path, part, fine)
    assert said.startswith("training: responses of 7 of 12 vertices (rows 1, 2, 3, 4, 5, …) don't")
    assert "over 40 trials" in said


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


def in_steps(model: FactorTopy, recipe: Recipe, tokens: Tokens, part: Part, *batch: Tensor):
    """The gradients of one batch, as the trainer leaves them; returns the encoder."""
    encoder = Encoder(model, recipe, tokens, part)
    encoder.manual_backward = lambda loss, **options: loss.backward(**options)
    encoder.backward_pass(*batch)
    return encoder


# Memory that runs out, stood for by an error at more pictures than there is room for


class Small(FactorTopy):
    """A model that has room for so many pictures."""

    room = 3

    def forward(self, local: Tensor, *others: object) -> Tensor:
        if len(local) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(local, *others)


def small(room: int = 3) -> Small:
    model = toy_model()
    model.__class__, model.room = Small, room
    return model


def test_memory_that_runs_out_means_fewer_pictures_at_once_and_the_same_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tokens, rows = random_tokens(tmp_path, WIDTHS, 30), np.arange(30)
    expected = predict(toy_model(), tokens, rows)
    np.testing.assert_allclose(predict(small(), tokens, rows), expected, rtol=1e-5, atol=1e-6)
    said = capsys.readouterr().err
    assert "GPU memory ran out while predicting 32 pictures at once: 16 from now on" in said
    assert "4 pictures at once: 2 from now on" in said
    with pytest.raises(InputError, match="ran out while predicting one picture at once"):
        predict(small(room=0), tokens, rows)


def test_memory_that_runs_out_means_a_step_in_pieces_and_the_same_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tokens = random_tokens(tmp_path, WIDTHS, 30)
    parts = toy_part(range(20)), toy_part(range(20, 30))
    whole, pieces = toy_model(), small()
    recipe = dataclasses.replace(TOY, max_steps=10)
    losses: list[list[float]] = []
    step = Encoder.training_step

    def watched(self: Encoder, *arguments: object) -> dict[str, Tensor]:
        out = step(self, *arguments)
        losses[-1].append(out["loss"].item())
        return out

    monkeypatch.setattr(Encoder, "training_step", watched)
    for name, model in (("whole", whole), ("pieces", pieces)):
        losses.append([])
        train(model, recipe, tokens, *parts, tmp_path / name)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for key, value in pieces.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-3, atol=1e-4, msg=key)
    said = capsys.readouterr().err
    assert "while training on 8 pictures at once: 4 from now on" in said
    assert "while training on 4 pictures at once: 2 from now on" in said
    with pytest.raises(InputError, match="ran out while training on one picture at once"):
        train(small(room=0), recipe, tokens, *parts, tmp_path / "none")


def test_half_precision_is_that_of_bfloat16(tmp_path: Path) -> None:
    tokens, part = random_tokens(tmp_path, WIDTHS, 30), toy_part(range(20))
    local, global_ = tokens[part.pictures[part.trial_picture[:8]]]
    batch = (local, global_, torch.from_numpy(part.responses[:8]))
    grads = []
    for precision in ("float32", "bfloat16"):
        model = toy_model()
        in_steps(model, dataclasses.replace(TOY, precision=precision), tokens, part, *batch)
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    off = (grads[0] - grads[1]).norm() / grads[0].norm()
    assert 1e-5 < off < 0.02
    assert all(g.dtype == torch.float32 for g in grads)


# The soup


def test_a_soup_on_test_pictures_is_chosen_there_and_says_so(tmp_path: Path) -> None:
    tokens = random_tokens(tmp_path, WIDTHS, 40)
    parts = toy_part(range(20)), toy_part(range(20, 30))
    test = toy_part(range(30, 40), seed=3)
    recipe = dataclasses.replace(TOY, soup="test", learning_rate=1e-2)
    model = toy_model()
    record = train(model, recipe, tokens, *parts, tmp_path / "t", test)
    assert record["soup_chosen_on"] == "test"
    assert record["test_r2"] == validation_score(model, tokens, test)
    assert record["validation_r2"] == validation_score(model, tokens, parts[1])
    members = [p for p in (tmp_path / "t").iterdir() if p.name != "last.ckpt"]
    each = []
    for path in members:
        model.load_state_dict(trainer._model_state(path))
        each.append(validation_score(model, tokens, test))
    assert len(set(each)) == 3 and record["test_r2"] >= max(each)


def test_no_test_picture_is_given_to_a_soup_on_validation(tmp_path: Path) -> None:
    tokens, part = random_tokens(tmp_path, WIDTHS, 30), toy_part(range(20))
    with pytest.raises(InputError, match="soup='validation': the test part is given if, and only"):
        train(toy_model(), TOY, tokens, part, part, tmp_path / "t", part)
    with pytest.raises(InputError, match="soup='test': the test part is given if, and only if"):
        soup = dataclasses.replace(TOY, soup="test")
        train(toy_model(), soup, tokens, part, part, tmp_path / "t")


# Progress


def test_each_epoch_is_a_line_where_nobody_watches(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, record = fit_toy(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    number = r"-?\d\.\d{4}"
    for i, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"step {10 * i} of at most 60: loss {number}, validation R² {number} \(best {number},"
            r" \d of 10 epochs ago\), at most \d+ s left",
            line,
        ), line
    assert len(lines) == 6
    best = max(float(re.search(r"R² (\S+)", line)[1]) for line in lines)
    assert best == pytest.approx(record["best_checkpoint_r2"], abs=1e-4)


def test_a_bar_is_drawn_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit_toy(tmp_path)
    said = capsys.readouterr().err
    assert "60/60" in said and "validation R²" in said and "step 10 of" not in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(12.4, "12 s"), (200, "3 min"), (3600, "1 h 00 min"), (7499, "2 h 05 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
