"""Ridge against sklearn's, its choice of penalty against the definition and himalaya's, and what
can be known of its scores.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from himalaya.backend import set_backend
from himalaya.kernel_ridge import KernelRidgeCV
from jaxtyping import Float
from sklearn.linear_model import Ridge

from analysis import explained, ridge
from analysis.features import Tokens
from analysis.files import InputError
from analysis.fit import part_of
from analysis.ridge import PENALTIES, Eigenbasis, RidgeFit, ridge_fit, token_kernel
from analysis.saved import load_fit
from analysis.splits import Split, limit, split_pictures
from analysis.subject import Subject
from tests.random_tokens import random_tokens
from tests.test_fit import N_PICTURES, N_VERTICES, noise, person

WIDTHS = [4, 3]
TRAIN, OTHER = np.arange(40), np.arange(40, 60)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return random_tokens(tmp_path, WIDTHS, N_PICTURES)


def features(tokens: Tokens, layer: int, shown: np.ndarray) -> Float[np.ndarray, "picture feature"]:
    """Local and global tokens of a layer, standardised over trials, both of equal weight."""
    before = sum(WIDTHS[:layer])
    out = []
    for some in tokens[np.arange(60)]:
        x = some[:, before : before + WIDTHS[layer]].flatten(1).double().numpy()
        trials = x[shown]
        out.append((x - trials.mean(0)) / trials.std(0) / np.sqrt(2 * x.shape[1]))
    return np.concatenate(out, 1)


def problem(tokens: Tokens, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Eigenbasis]:
    """Trials of 40 pictures shown 1 to 3 times, responses to them, features, and our basis."""
    rng = np.random.default_rng(3)
    shown = np.concatenate([TRAIN, rng.choice(TRAIN, 40)])
    x = features(tokens, layer, shown)
    y = x[shown] @ rng.normal(size=(x.shape[1], 6)) + rng.normal(size=(80, 6)) + 2
    weight = torch.from_numpy(np.bincount(shown)).float()
    kernel = token_kernel(tokens, layer, np.arange(60), weight)
    return shown, y, x, Eigenbasis.of(kernel, weight)


def means(shown: np.ndarray, y: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([y[shown == p].mean(0) for p in TRAIN])).float()


@pytest.mark.parametrize("layer", [0, 1])
def test_predictions_are_sklearns_on_single_trials(tokens: Tokens, layer: int) -> None:
    shown, y, x, basis = problem(tokens, layer)
    predicted, penalty = ridge.ridge(basis, means(shown, y))
    per_mean = len(shown) / len(TRAIN)  # the mean eigenvalue
    for vertex in range(y.shape[1]):
        plain = Ridge(alpha=float(penalty[vertex]) * per_mean).fit(x[shown], y[:, vertex])
        np.testing.assert_allclose(predicted[:, vertex], plain.predict(x[OTHER]), atol=2e-4)
    assert predicted.std() > 0.05


def test_features_in_pieces_give_one_kernel(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.ones(40)
    whole = token_kernel(tokens, 0, np.arange(60), weight)
    monkeypatch.setattr(ridge, "FEATURES_AT_ONCE", 64)
    torch.testing.assert_close(token_kernel(tokens, 0, np.arange(60), weight), whole)
    x = features(tokens, 0, TRAIN)
    np.testing.assert_allclose(whole, x @ x[:40].T, atol=1e-5)


def test_a_constant_feature_is_left_out() -> None:
    x = torch.randn(10, 3)
    x[:, 1] = 5.3
    out = ridge._standardised(x, torch.ones(8), 3)
    assert torch.equal(out[:, 1], torch.zeros(10))
    assert out[:8, 0].square().mean().item() == pytest.approx(1 / 3, rel=1e-4)


def test_the_penalty_is_chosen_by_the_definition_over_pictures(tokens: Tokens) -> None:
    shown, y, x, basis = problem(tokens, 0)
    root = np.sqrt(np.bincount(shown))[:, None]
    design = root * np.column_stack([np.ones(40), x[:40]])
    target = root * means(shown, y).double().numpy()
    expected = []
    for relative in PENALTIES:
        penalty = np.full(design.shape[1], relative * len(shown) / 40)
        penalty[0] = 0  # the intercept
        hat = design @ np.linalg.solve(design.T @ design + np.diag(penalty), design.T)
        left = np.square(target - hat @ target).sum(0) / 40
        expected.append(left / (1 - np.trace(hat) / 40) ** 2)
    centred = means(shown, y) - torch.from_numpy(y.mean(0)).float()
    loadings = basis.vectors.T @ (basis.root[:, None] * centred)
    penalties = torch.tensor(PENALTIES) * basis.values.mean()
    found = ridge.generalised_cross_validation(basis.values, loadings, penalties)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    _, chosen = ridge.ridge(basis, means(shown, y))
    np.testing.assert_allclose(chosen, np.array(PENALTIES)[np.argmin(expected, 0)], rtol=1e-5)
    assert len(set(chosen.tolist())) > 1


def test_it_scores_as_himalaya_does_with_folds(tokens: Tokens) -> None:
    rng = np.random.default_rng(5)
    pictures, weight = np.arange(N_PICTURES), torch.ones(200)
    kernel = token_kernel(tokens, 0, pictures, weight).double()
    signal = kernel.numpy() @ rng.normal(size=(200, 100))
    signal /= signal.std(0)
    y = signal + 2 * rng.normal(size=signal.shape)
    ours, chosen = ridge.ridge(Eigenbasis.of(kernel, weight.double()), torch.from_numpy(y[:200]))
    set_backend("numpy")
    offset, grid = y[:200].mean(0), np.array(PENALTIES) * float(kernel[:200].trace()) / 200
    model = KernelRidgeCV(grid, kernel="precomputed", cv=5)
    theirs = model.fit(kernel[:200].numpy(), y[:200] - offset).predict(kernel[200:].numpy())
    scores = [explained.r2(np.asarray(p), signal[200:]).mean() for p in (ours, theirs + offset)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert scores[1] > 0.3
    assert len(set(chosen.tolist())) > 3


def fitted(subject: Subject, tokens: Tokens) -> RidgeFit:
    return ridge_fit(subject, "toy", tokens, split_pictures(subject, 0))


def test_noise_is_not_predicted(tokens: Tokens) -> None:
    fit = fitted(person(noise()), tokens)
    scores = fit.scores("test")
    everywhere = np.ones(N_VERTICES, bool)
    assert abs(scores.over(everywhere).value) < 0.02
    assert fit.score("test", normalised=True) == scores.over(everywhere, normalised=True)
    assert scores.part == "test" and scores.n_pictures == 50


def test_what_is_linear_in_a_layer_is_found_in_it(tokens: Tokens) -> None:
    local, global_ = tokens[np.arange(N_PICTURES)]
    sides = [
        torch.cat([t.flatten(1) for t in (local[:, c], global_[:, c])], 1).numpy()
        for c in (slice(0, 4), slice(4, 7))
    ]
    rng = np.random.default_rng(7)
    of_layer = np.arange(N_VERTICES) % 2
    signal = np.stack([sides[i] @ rng.normal(size=sides[i].shape[1]) for i in of_layer], 1)
    signal = (signal / signal.std(0)).astype(np.float32)
    fit = fitted(person(signal), tokens)
    np.testing.assert_array_equal(fit.layer, of_layer)
    assert fit.scores("test").r2.min() > 0.9
    assert fit.validation_r2.shape == (2, N_VERTICES)


def test_repeats_in_the_training_part_only_weigh(tokens: Tokens) -> None:
    subject = person(noise())
    split = limit(split_pictures(subject, 0), subject, 300)
    assert (np.bincount(part_of(subject, split, "train").trial_picture) > 1).any()
    fit = ridge_fit(subject, "toy", tokens, split)
    assert np.isfinite(fit.predicted("test")).all()


def test_it_is_computed_once_and_read_after(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitted(person(noise()), tokens)
    monkeypatch.setattr(ridge, "_solve", None)
    again = fitted(person(noise()), tokens)
    for name in ("layer", "penalty", "validation_r2"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(first.predicted("test"), again.predicted("test"))
    with pytest.raises(InputError, match="part 'train': of ridge expected validation or test"):
        again.predicted("train")


def test_another_split_is_another_fit(tokens: Tokens) -> None:
    subject = person(noise())
    one, other = (split_pictures(subject, seed) for seed in (0, 1))
    assert isinstance(one, Split)
    folders = {ridge_fit(subject, "toy", tokens, split).folder for split in (one, other)}
    assert len(folders) == 2


def test_damage_and_nan_are_refused(tokens: Tokens) -> None:
    subject = person(noise())
    fit = fitted(subject, tokens)
    path = fit.folder / "ridge.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged, or not what"):
        fitted(subject, tokens)
    spoilt = noise()
    spoilt[:, 3] = np.nan
    with pytest.raises(InputError, match="train: responses of 1 of 20 vertices"):
        fitted(dataclasses.replace(person(spoilt), identity="spoilt"), tokens)


def test_no_other_pictures_are_predicted_from_its_folder(tokens: Tokens) -> None:
    fit = fitted(person(noise()), tokens)
    with pytest.raises(InputError, match="a fit of ridge, which keeps no weights to predict other"):
        load_fit(fit.folder)
