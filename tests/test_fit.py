"""A Fit: made once, read after, keyed by all that determined it; it finds what there is to find."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file

from analysis import explained, saved, trainer
from analysis.features import Tokens
from analysis.files import InputError
from analysis.fit import Fit, fit_folder, fit_key, fit_label, fit_model, part_of
from analysis.forward import predict
from analysis.model import VARIANTS, FactorTopy, ModelConfig
from analysis.pictures import ArrayPictures
from analysis.recipe import Recipe
from analysis.recipes import RECIPES
from analysis.report import provenance
from analysis.splits import Split, limit, split_pictures
from analysis.study import get_tokens
from analysis.subject import Subject, shuffled
from analysis.versions import VERSIONS
from tests.random_tokens import random_tokens

WIDTHS = [4, 3]
CONFIG = ModelConfig(channels=8, hidden=16, frequencies=4)
QUICK = Recipe(batch=8, steps_per_epoch=5, max_steps=20, decay_steps=10, checkpoints=2)
N_PICTURES, N_VERTICES = 300, 20


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return random_tokens(tmp_path, WIDTHS, N_PICTURES)


def person(responses: Float[np.ndarray, "trial vertex"], repeats: int = 3) -> Subject:
    """A subject who saw each picture some times, the last 50 pictures being the shared ones."""
    rng = np.random.default_rng(1)
    n_vertices = responses.shape[1]
    shown = rng.permutation(np.repeat(np.arange(N_PICTURES), repeats))
    return Subject(
        name="sim-toy",
        source="simulated",
        n_surface=n_vertices,
        vertices=np.arange(n_vertices),
        coordinates=(rng.random((n_vertices, 3)) * 80).astype(np.float32),
        rois={},
        ncsnr=np.ones(n_vertices, np.float32),
        responses=responses[shown] if len(responses) == N_PICTURES else responses,
        trial_picture=shown,
        trial_session=np.zeros(len(shown), int),
        repeats=np.ones(len(shown), int),
        picture_ids=np.arange(N_PICTURES),
        shared=np.arange(N_PICTURES) >= 250,
        stimuli=ArrayPictures(np.zeros((N_PICTURES, 4, 4, 3), np.uint8)),
        dropped=0,
        identity="a toy",
    )


def noise(seed: int = 2) -> Float[np.ndarray, "trial vertex"]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3 * N_PICTURES, N_VERTICES)).astype(np.float32)


@pytest.fixture
def toy() -> Subject:
    return person(noise())


def made(subject: Subject, tokens: Tokens, recipe: Recipe = QUICK, split_seed: int = 0) -> Fit:
    split = split_pictures(subject, split_seed)
    return fit_model(subject, "toy", tokens, CONFIG, recipe, split)


def test_parts_of_the_split_hold_each_trial_once_and_share_no_picture(subject: Subject) -> None:
    split = split_pictures(subject, 3)
    parts = [part_of(subject, split, name) for name in ("train", "validation", "test")]
    pictures = [set(p.pictures[p.trial_picture].tolist()) for p in parts]
    assert sum(len(p) for p in pictures) == len(set.union(*pictures))
    assert sum(len(p.responses) for p in parts) == len(subject.responses)
    for part in parts:
        for trial in range(0, len(part.responses), 7):
            picture = part.pictures[part.trial_picture[trial]]
            own = subject.responses[subject.trial_picture == picture]
            assert (own == part.responses[trial]).all(1).any()


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_trained_and_read_again(toy: Subject, tokens: Tokens, name: str) -> None:
    config = dataclasses.replace(VARIANTS[name], channels=8, hidden=16, frequencies=4)
    split = split_pictures(toy, 0)
    first, again = (fit_model(toy, "toy", tokens, config, QUICK, split) for _ in range(2))
    assert first.folder == again.folder
    np.testing.assert_array_equal(first.predicted("test"), again.predicted("test"))
    if config.model != "factortopy":
        with pytest.raises(InputError, match=f"model '{name}': selects nothing"):
            again.selectors()
        return
    found = again.selectors()
    start = (0.0, 1 / len(WIDTHS), 0.5)
    moved = [bool((a - b).abs().max() > 1e-6) for a, b in zip(found[:3], start, strict=True)]
    assert moved == [name != "no-space", name != "no-layer", name != "no-scale"]


def test_a_simulated_subject_is_fitted_once_and_then_read(
    subject: Subject, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(data_folder))
    real = get_tokens(subject, "clip-mini")
    recipe = dataclasses.replace(QUICK, batch=4)
    written: list[str] = []
    write, save = saved.write_json, saved.save_file
    monkeypatch.setattr(saved, "write_json", lambda *a: (written.append("fit.json"), write(*a)))
    monkeypatch.setattr(saved, "save_file", lambda *a: (written.append("weights"), save(*a)))
    config = dataclasses.replace(CONFIG, bottleneck="separate")
    first = fit_model(subject, "clip-mini", real, config, recipe, split_pictures(subject))
    assert written == ["weights", "fit.json"]
    assert {p.name for p in first.folder.iterdir()} == {"fit.json", *saved.FILES}

    def fail(*_) -> dict:
        raise AssertionError("trained again")

    monkeypatch.setattr(trainer, "train", fail)
    second = fit_model(subject, "clip-mini", real, config, recipe, split_pictures(subject))
    assert second.record == first.record and second.folder == first.folder
    predicted = first.predicted("test")
    assert predicted.shape == (len(first.split.test), len(subject.vertices))
    assert np.array_equal(predicted, second.predicted("test"))
    for a, b in zip(first.selectors()[:3], second.selectors()[:3], strict=True):
        assert torch.equal(a, b) and not a.requires_grad
    scores = second.scores("validation")
    trials = part_of(subject, second.split, "validation")
    expected = explained.r2(second.predicted("validation")[trials.trial_picture], trials.responses)
    np.testing.assert_allclose(scores.r2, expected, rtol=1e-4, atol=1e-5)
    assert second.record["result"]["validation_r2"] == pytest.approx(expected.mean(), abs=1e-5)
    assert (scores.part, scores.n_pictures) == ("validation", len(second.split.validation))
    np.testing.assert_allclose(scores.ceiling, subject.ncsnr**2 / (subject.ncsnr**2 + 1), rtol=1e-5)


def test_the_same_seed_gives_the_same_bits(toy: Subject, tokens: Tokens, tmp_path: Path) -> None:
    first = made(toy, tokens).folder
    first.rename(tmp_path / "first")
    second = made(toy, tokens).folder
    assert second == first
    weights = [p / "model.safetensors" for p in (tmp_path / "first", second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    other = made(toy, tokens, dataclasses.replace(QUICK, seed=1))
    assert other.folder != first
    assert not torch.equal(other.model.weight, load_file(weights[0])["weight"])


def test_the_record_says_what_was_made_by_what(toy: Subject, tokens: Tokens) -> None:
    record = json.loads((made(toy, tokens, split_seed=4).folder / "fit.json").read_text())
    assert (record["subject"], record["backbone"]) == ("sim-toy", "toy")
    assert record["key"]["recipe"]["steps_per_epoch"] == 5
    assert record["key"]["model"]["channels"] == 8
    assert record["result"]["steps"] == 20
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["seconds"] > 0


def test_the_key_changes_with_all_that_determines_a_fit(toy: Subject, tokens: Tokens) -> None:
    def folder(
        who: Subject = toy,
        what: Tokens = tokens,
        config: ModelConfig = CONFIG,
        recipe: Recipe = QUICK,
        split: Split = split_pictures(toy),  # noqa: B008  not changed by anyone
    ) -> Path:
        return fit_folder("sim-toy", "toy", fit_key(who, what, config, recipe, split))

    replace = dataclasses.replace
    others = [
        folder(who=replace(toy, identity="another")),
        folder(what=replace(tokens, identity="others")),
        folder(split=split_pictures(toy, seed=1)),
        *(folder(recipe=replace(QUICK, **{f.name: v})) for f, v in changed(QUICK)),
        *(folder(config=replace(CONFIG, **{f.name: v})) for f, v in changed(CONFIG)),
    ]
    assert folder() == folder()
    assert len({folder(), *others}) == 1 + len(others)


def test_labels_say_what_is_unusual(toy: Subject, tokens: Tokens) -> None:
    def label(
        who: Subject = toy,
        config: ModelConfig = VARIANTS["factortopy"],
        recipe: Recipe = RECIPES["fast"],
        trials: int | None = None,
    ) -> str:
        split = split_pictures(toy)
        split = split if trials is None else limit(split, toy, trials)
        return fit_label("open_clip:ViT/x", fit_key(who, tokens, config, recipe, split))

    replace = dataclasses.replace
    assert label() == "open_clip_ViT_x-seed0"
    assert label(trials=12).endswith("x-12-trials-seed0")
    assert label(who=shuffled(toy)).endswith("x-shuffled-by-0-seed0")
    assert label(config=VARIANTS["no-scale"]).endswith("x-no-scale-seed0")
    paper = replace(RECIPES["paper"], seed=2)
    assert label(config=VARIANTS["paper"], recipe=paper).endswith("x-paper-paper-recipe-seed2")
    assert label(recipe=replace(RECIPES["fast"], decay_steps=67)).endswith("decay_steps-67-seed0")


def changed(config: Recipe | ModelConfig) -> list[tuple[dataclasses.Field, object]]:
    """Each field of a configuration with a value that is not its own but allowed."""
    words = {
        "model": "gnet",
        "bottleneck": "separate",
        "padding": "border",
        "readout_start": "randn",
        "optimiser": "muon",
        "schedule": "one-cycle",
        "warm_up": 0.3,
        "max_steps": 25,
        "steps_per_epoch": 10,
        "soup": "test",
        "precision": "bfloat16",
    }
    out = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        other = (0.8, 0.99) if isinstance(value, tuple) else words.get(field.name)
        if isinstance(value, bool):
            other = not value
        out.append((field, other if other is not None else value + 1))
    return out


def test_the_key_changes_with_the_version(
    toy: Subject, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_pictures(toy)
    key = fit_key(toy, tokens, CONFIG, QUICK, split)
    monkeypatch.setitem(VERSIONS, "fit", 0)
    assert fit_key(toy, tokens, CONFIG, QUICK, split) == key | {"version": 0} != key


def test_an_interrupted_fit_goes_on_to_the_same_bits(
    toy: Subject, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    whole = made(toy, tokens)
    whole.folder.rename(tmp_path / "whole")
    for name in ("save_file", "write_json"):  # when trained, and when the weights are written
        with monkeypatch.context() as patch:
            patch.setattr(saved, name, interrupt)
            with pytest.raises(Interrupted):
                made(toy, tokens)
        assert not (whole.folder / "fit.json").exists()
        assert (whole.folder / "training/last.ckpt").exists()
    resumed = made(toy, tokens)
    assert resumed.record["result"] == whole.record["result"]
    weights = [p / "model.safetensors" for p in (tmp_path / "whole", resumed.folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_that_ask_at_once_train_once(toy: Subject, tokens: Tokens, tmp_path: Path) -> None:
    script = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("test_fit", {__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
tokens = module.random_tokens(Path({str(tmp_path)!r}), module.WIDTHS, module.N_PICTURES)
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        train = module.trainer.train
        def counted(*arguments):
            open({str(tmp_path / "trained")!r}, "a").write("once\\n")
            return train(*arguments)
        module.trainer.train = counted
        module.made(module.person(module.noise()), tokens)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "trained").read_text() == "once\n"


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: raw[:-5], lambda raw: raw[:100], lambda raw: flip(raw, -9)],
    ids=["empty", "truncated", "header alone", "a bit"],
)
def test_damaged_weights_are_named(
    toy: Subject, tokens: Tokens, damage: Callable[[bytes], bytes]
) -> None:
    path = made(toy, tokens).folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"{path}: damaged.*Delete its folder"):
        made(toy, tokens)


def test_absent_or_another_models_weights_are_named(toy: Subject, tokens: Tokens) -> None:
    path = made(toy, tokens).folder / "model.safetensors"
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: not found; expected a file of the fit"):
        made(toy, tokens)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=f"{path}: damaged, or not of the fit that fit.json is of"):
        made(toy, tokens)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", '{"key": {"subject": "another"}}'])
def test_a_damaged_record_is_named(toy: Subject, tokens: Tokens, text: str) -> None:
    path = made(toy, tokens).folder / "fit.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}: .*[Dd]elete (its|the) folder"):
        made(toy, tokens)


def test_too_small_a_disk_is_refused_before_training(
    toy: Subject, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(trainer, "train", None)
    with pytest.raises(InputError, match="the fit of sim-toy to toy needs"):
        made(toy, tokens)


LONGER = Recipe(
    learning_rate=1e-2, batch=16, steps_per_epoch=100, max_steps=500, decay_steps=100, checkpoints=3
)


def test_noiseless_responses_of_its_own_family_are_learnt(tokens: Tokens) -> None:
    torch.manual_seed(5)
    anywhere = person(np.zeros((N_PICTURES, N_VERTICES), np.float32)).coordinates
    teacher = FactorTopy(CONFIG, WIDTHS, torch.from_numpy(anywhere))
    with torch.no_grad():
        for network in (teacher.space, teacher.layer, teacher.scale):
            network[-1].weight.normal_()
        teacher.weight.normal_()
    responses = predict(teacher, tokens, np.arange(N_PICTURES))
    responses = (responses - responses.mean(0)) / responses.std(0)
    learnt = made(person(responses), tokens, LONGER)
    scores = learnt.scores("test")
    assert scores.r2.mean() > 0.95 and np.median(scores.r2) > 0.98
    assert scores.n_pictures == 50
    distance = (learnt.selectors().space - teacher.selectors().space).norm(dim=1)
    local = teacher.selectors().scale[:, 0] < 0.5
    assert distance[local].median() < 0.1  # of a picture that is 2 wide
    assert learnt.scores("test", average=True).r2.mean() > 0.95


def test_pure_noise_gives_no_score(tokens: Tokens) -> None:
    fitted = made(person(noise(seed=6)), tokens, dataclasses.replace(LONGER, max_steps=300))
    assert abs(fitted.scores("test").r2.mean()) < 0.06


def test_a_fit_that_standardises_is_read_with_the_statistics_of_its_training_pictures(
    toy: Subject, tokens: Tokens
) -> None:
    split = split_pictures(toy)
    config = dataclasses.replace(CONFIG, standardise=True)
    first, again = (fit_model(toy, "toy", tokens, config, QUICK, split) for _ in range(2))
    local, _ = tokens[split.train]
    expected = local.double().mean((0, 2, 3)).float()
    torch.testing.assert_close(again.model.standard.local.mean, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(first.predicted("test"), again.predicted("test"))
    assert "standard.global_.per_sd" in load_file(first.folder / "model.safetensors")


def test_a_soup_chosen_on_test_pictures_is_labelled_wherever_its_score_is(
    toy: Subject, tokens: Tokens
) -> None:
    fitted = made(toy, tokens, dataclasses.replace(QUICK, soup="test"))
    assert fitted.record["result"]["soup_chosen_on"] == "test"
    scores = fitted.scores("test")
    assert fitted.record["result"]["test_r2"] == pytest.approx(scores.r2.mean(), abs=1e-6)
    said = str(scores.over(np.ones(N_VERTICES, bool)))
    assert "50 test (chose the soup) pictures" in said
    assert fitted.scores("validation").part == "validation"
    assert "The test pictures chose the soup" in provenance(fitted)
    plain = made(toy, tokens)
    assert plain.scores("test").part == "test" and "chose the soup" not in provenance(plain)
    assert "test_r2" not in plain.record["result"]


def test_vertices_without_numbers_are_told(tokens: Tokens) -> None:
    bad = noise()
    bad[5, 3] = np.nan
    bad[7, 4] = np.inf
    bad[:, 11] = 0.3
    subject = person(bad)
    said = r"training: responses of [12] of 20 vertices \(rows .*\) are not finite, [12] values"
    with pytest.raises(InputError, match=said):
        made(subject, tokens)


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("test_fit", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from analysis.trainer import Encoder
step = Encoder.training_step
def killed(self, *arguments):
    if self.global_step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)
Encoder.training_step = killed
tokens = module.random_tokens(module.Path(sys.argv[2]), module.WIDTHS, module.N_PICTURES)
module.with_options(tokens)
"""


def with_options(tokens: Tokens) -> Fit:
    """A fit with each option that changes training."""
    config = dataclasses.replace(
        CONFIG, bottleneck="separate", padding="border", readout_start="randn"
    )
    recipe = dataclasses.replace(
        QUICK,
        schedule="one-cycle",
        readout_rate=5.0,
        scale_penalty=0.1,
        scale_decay_steps=16,
        soup="test",
        precision="bfloat16",
    )
    subject = person(noise())
    return fit_model(subject, "toy", tokens, config, recipe, split_pictures(subject))


def test_with_options_a_killed_process_is_gone_on_from_to_the_same_bits(
    tokens: Tokens, tmp_path: Path
) -> None:
    whole = with_options(tokens)
    whole.folder.rename(tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, __file__, str(tmp_path)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    ended = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert (whole.folder / "training/last.ckpt").exists()
    resumed = with_options(tokens)
    assert resumed.record["result"] == whole.record["result"]
    weights = [p / "model.safetensors" for p in (tmp_path / "whole", resumed.folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
