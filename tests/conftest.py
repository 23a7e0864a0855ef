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
def tree_copy(data_folder, tmp_path):
    """An NSDTree on this test's own copy of simulated/tiny/nsd."""
    from analysis.files import NSDTree

    return NSDTree(Path(shutil.copytree(data_folder / "simulated/tiny/nsd", tmp_path / "nsd")))
