"""Shared fixtures: one small simulated subject per worker, and copies of its tree to damage."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; read when torch starts


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """The data folder (BRAINMAPS_DATA) of this worker, with sim01-tiny in simulated/tiny."""
    from analysis.simulate import simulate  # not above: the shape checks hook into imports

    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(folder))
        simulate("sim01-tiny")
        yield folder


@pytest.fixture(scope="session")
def subject(data_folder):
    """The Subject sim01-tiny."""
    from analysis.study import get_subject

    return get_subject("sim01-tiny")


@pytest.fixture
def tree(data_folder):
    """The NSDTree of simulated/tiny."""
    from analysis.files import NSDTree

    return NSDTree(data_folder / "simulated/tiny/nsd")


@pytest.fixture(scope="session")
def whole_truth(data_folder):
    """The truth of sim01-tiny, of all visual vertices."""
    from safetensors.numpy import load_file

    from analysis.truth import Truth

    return Truth(**load_file(data_folder / "simulated/tiny/truth/sim01.safetensors"))


@pytest.fixture
def tree_copy(data_folder, tmp_path, monkeypatch):
    """An NSDTree on this test's own copy of simulated/tiny/nsd, prepared in a folder of its own."""
    from analysis.files import NSDTree

    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    return NSDTree(Path(shutil.copytree(data_folder / "simulated/tiny/nsd", tmp_path / "nsd")))


@pytest.fixture(scope="session")
def tiny_fit(subject, data_folder):
    """A Fit of sim01-tiny to mae-mini-s, trained for some steps; to be copied, not changed."""
    from analysis.fit import fit_model
    from analysis.model import ModelConfig
    from analysis.recipe import Recipe
    from analysis.splits import split_pictures
    from analysis.study import get_tokens

    config = ModelConfig(channels=8, hidden=16, frequencies=4)
    recipe = Recipe(batch=4, steps_per_epoch=10, max_steps=20, decay_steps=10, checkpoints=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(data_folder))
        tokens = get_tokens(subject, "mae-mini-s")
        return fit_model(subject, "mae-mini-s", tokens, config, recipe, split_pictures(subject))


@pytest.fixture
def fit_copy(tiny_fit, tmp_path, monkeypatch):
    """The folder of `tiny_fit`, copied alone; the data folder is empty."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "empty"))
    return Path(shutil.copytree(tiny_fit.folder, tmp_path / "fit"))
