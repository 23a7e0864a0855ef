"""Top channels of the reader's own pictures: those of the network's tokens, written whole."""

import json

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from analysis import picture_channels as module
from analysis.__main__ import main
from analysis.files import InputError
from analysis.picture_channels import local_tokens, write_channels
from analysis.pictures import read_picture
from analysis.predict import load_network
from analysis.saved import load_fit
from analysis.subject import AREAS
from analysis.top_channels import top_channels


@pytest.fixture
def fit(fit_copy):
    return load_fit(fit_copy)


@pytest.fixture
def photos(tmp_path):
    """Three drawn pictures of several sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate(((40, 40), (64, 48), (32, 32))):
        path = tmp_path / f"photo{i + 1}.png"
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1)))
        PIL.Image.fromarray(pixels.astype(np.uint8)).resize(size).save(path)
        paths.append(path)
    return paths


def test_maps_are_those_of_all_tokens_with_mean_0_and_sd_1(fit, photos, tmp_path):
    path = write_channels(fit, photos, tmp_path / "out")
    found, index = np.load(path), json.loads((tmp_path / "out/channels.json").read_text("utf8"))
    areas = [name for name in AREAS if name in fit.rois]
    assert index["areas"] == areas and index["simulated"] is True
    assert index["pictures"] == [str(p) for p in photos]
    network = load_network(fit)
    local = [local_tokens(network, read_picture(p)[None]) for p in photos]
    assert found.shape == (3, len(areas), 3, *local[0][0].shape[2:])
    assert found.shape[-1] > 8 or found.shape[-1] == local[0][0].shape[-1]
    np.testing.assert_allclose(found.mean((0, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(np.square(found).mean((0, 2, 3, 4)), 1, rtol=1e-4)
    for i, name in enumerate(areas):
        plain = np.concatenate([top_channels(fit.model, fit.rois[name]).maps(x) for x in local])
        plain -= plain.mean((0, 2, 3), keepdims=True)
        np.testing.assert_allclose(found[:, i], plain / index["sd"][i], rtol=1e-3, atol=1e-3)
    for i in range(3):
        with PIL.Image.open(tmp_path / f"out/channels/{i + 1:05d}_photo{i + 1}.png") as image:
            assert min(image.size) > 300


def test_the_same_again_is_the_same_bytes(fit, photos, tmp_path):
    one, other = (write_channels(fit, photos[:2], tmp_path / name) for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_a_fit_without_areas_is_refused(fit, photos, tmp_path):
    fit.rois.clear()
    with pytest.raises(InputError, match="has none of the areas V1, V2"):
        write_channels(fit, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_run_leaves_no_index(fit, photos, tmp_path, monkeypatch):
    write_channels(fit, photos[:1], tmp_path / "out")
    monkeypatch.setattr(module, "_sheet", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_channels(fit, photos, tmp_path / "out")
    assert not (tmp_path / "out/channels.json").exists()


def test_the_command_writes_them_beside_the_responses(fit_copy, photos, tmp_path):
    out = str(tmp_path / "out")
    command = ["predict", str(fit_copy), str(photos[0]), str(photos[1]), "--out", out, "--channels"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "top channels: " in done.output
    assert len(list((tmp_path / "out/channels").glob("*.png"))) == 2
    assert (tmp_path / "out/responses.npy").exists()
