"""Pictures to responses from a fit alone: its own predictions, written whole or not at all."""

import csv
import json
import shutil

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from analysis import predict as module
from analysis.__main__ import main
from analysis.backbones import load_backbone
from analysis.files import HEMIS, InputError, MissingFile
from analysis.predict import find_pictures, load_network, predict, responses
from analysis.saved import load_fit

SAME = 0.01  # of the sd over pictures: what float16's tokens may change


@pytest.fixture
def fit(fit_copy):
    return load_fit(fit_copy)


@pytest.fixture
def photos(tiny_fit, tmp_path):
    """The test pictures of the fit's own subject, as frame1.png, frame2.png, ..., frame10.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, row in enumerate(tiny_fit.split.test):
        picture = tiny_fit.subject.pictures(np.array([row]))[0]
        PIL.Image.fromarray(picture).save(folder / f"frame{i + 1}.png")
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Maps that are quick to draw."""
    monkeypatch.setattr(module, "cortex", lambda *_: plt.figure(figsize=(1, 1)))


def assert_same(found, expected):
    spread = expected.std(0).mean()
    assert np.abs(expected[0] - expected[1]).max() > 10 * SAME * spread  # or any order would do
    assert np.abs(found - expected).max() < SAME * spread


def test_own_pictures_give_the_fits_own_predictions_without_any_data(
    tiny_fit, fit, photos, tmp_path, undrawn
):
    made = predict(fit, [photos], tmp_path / "out")
    assert [p.name for p in made.pictures] == [f"frame{i + 1}.png" for i in range(10)]
    found = np.load(tmp_path / "out/responses.npy")
    assert found.dtype == np.float32
    assert_same(found, tiny_fit.predicted("test"))
    assert not (tmp_path / "empty").exists()  # the data folder


def test_means_over_rois_are_those_of_the_responses(fit, photos, subject, tmp_path, undrawn):
    predict(fit, [photos], tmp_path / "out")
    found = np.load(tmp_path / "out/responses.npy").astype(np.float64)
    with (tmp_path / "out/roi_means.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    index = json.loads((tmp_path / "out/roi_means.json").read_text("utf8"))
    assert len(rows) == len(found) * (1 + len(subject.rois))
    names = [str(photos / f"frame{i + 1}.png") for i in range(len(found))]
    assert [p["picture"] for p in index["pictures"]] == names
    for row in rows:
        mask = (
            np.ones(len(subject.vertices), bool)
            if row["roi"] == "all"
            else (subject.rois[row["roi"]])
        )
        picture = names.index(row["picture"])
        mean = sum(found[picture][mask]) / mask.sum()
        assert float(row["mean"]) == pytest.approx(mean, abs=1e-6)
        assert index["pictures"][picture]["means"][row["roi"]] == float(row["mean"])
        ceiling = np.mean(subject.ncsnr[mask] ** 2 / (1 + subject.ncsnr[mask] ** 2))
        assert int(row["vertices"]) == mask.sum()
        assert float(row["test_r2"]) == pytest.approx(fit.r2[mask].mean())
        assert float(row["noise_ceiling"]) == pytest.approx(ceiling, rel=1e-5)
    assert index["unit"] == "BOLD z-score" and index["simulated"] is True


def test_maps_hold_the_responses_where_they_belong(fit, photos, tmp_path, undrawn):
    predict(fit, [photos / "frame1.png", photos / "frame2.png"], tmp_path / "out", each=True)
    found = np.load(tmp_path / "out/responses.npy")
    maps = {"mean": found.mean(0)}
    maps |= {f"maps/*0000{i + 1}_frame{i + 1}": found[i] for i in range(2)}
    for name, values in maps.items():
        folder, _, stem = f"out/{name}".rpartition("/")
        assert len(list((tmp_path / folder).glob(f"{stem.strip('*')}.png"))) == 1
        for side, hemi in enumerate(HEMIS):
            path = tmp_path / folder / f"{hemi}.{stem.strip('*')}.func.gii"
            data = nibabel.load(path).agg_data()
            assert data.shape == (fit.n_surface,)
            here = fit.vertices // fit.n_surface == side
            own = fit.vertices[here] % fit.n_surface
            np.testing.assert_allclose(data[own], values[here], rtol=1e-5, atol=1e-7)
            assert np.isfinite(data).sum() == here.sum()


def test_the_map_is_drawn(fit, photos, tmp_path):
    predict(fit, [photos / "frame1.png"], tmp_path / "out")
    with PIL.Image.open(tmp_path / "out/mean.png") as image:
        pixels = np.asarray(image.convert("RGB"), int)
    assert min(pixels.shape[:2]) > 400
    assert (np.abs(pixels[..., 0] - pixels[..., 2]) > 40).sum() > 1000  # red or blue


def test_a_batch_of_pictures_of_several_sizes_is_each_alone(fit, photos, tmp_path):
    network = load_network(fit)
    paths = find_pictures([photos])[:3]
    with PIL.Image.open(paths[1]) as image:
        image.resize((90, 50)).save(paths[1])
    together = np.concatenate(list(responses(fit, network, paths)))
    alone = np.concatenate([next(responses(fit, network, [path])) for path in paths])
    assert_same(together, alone)


def test_frames_come_in_natural_order_and_other_files_are_left(tmp_path):
    names = ["f10.png", "f2.PNG", "f1.jpg", "notes.txt", ".f3.png", "a.jpeg"]
    for name in names:
        (tmp_path / name).touch()
    found = [p.name for p in find_pictures([tmp_path, tmp_path / "notes.txt"])]
    assert found == ["a.jpeg", "f1.jpg", "f2.PNG", "f10.png", "notes.txt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none: no pictures in this folder; expected .png"):
        find_pictures([tmp_path / "none"])
    with pytest.raises(MissingFile, match=r"gone.png: not found; expected a picture"):
        find_pictures([tmp_path / "gone.png"])


def test_unreadable_pictures_are_named_and_counted_before_anything_is_computed(
    fit, photos, tmp_path, monkeypatch, undrawn
):
    raw = (photos / "frame3.png").read_bytes()
    (photos / "frame3.png").write_bytes(raw[: len(raw) // 2])
    (photos / "frame4.png").write_text("no picture")
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_backbone", None)  # is not called
        with pytest.raises(InputError, match=r"2 of 10 .*nothing was predicted") as error:
            predict(fit, [photos], tmp_path / "out")
    assert "frame3.png" in str(error.value) and "frame4.png" in str(error.value)
    assert not (tmp_path / "out").exists()
    made = predict(fit, [photos], tmp_path / "out", skip=True)
    left = [f"frame{i}.png" for i in (1, 2, *range(5, 11))]
    assert [p.name for p in made.pictures] == left
    assert [p.name for p in made.skipped] == ["frame3.png", "frame4.png"]
    assert len(np.load(tmp_path / "out/responses.npy")) == 8
    with pytest.raises(InputError, match="1 of 1 pictures can't be read"):
        predict(fit, [photos / "frame4.png"], tmp_path / "out", skip=True)


def test_other_weights_than_the_fits_are_refused(fit, photos, tmp_path):
    state = load_backbone("mae-mini-s").network.state_dict()
    load_network(fit, "random")
    name = next(iter(state))
    state[name].view(-1)[0] += 1e-3
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"not the network that .* was fitted to: its weights"):
        predict(fit, [photos], tmp_path / "out", weights=str(tmp_path / "other.pt"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_stops_leaves_no_half_file(fit, photos, tmp_path, monkeypatch, undrawn):
    predict(fit, [photos / "frame1.png"], tmp_path / "out")
    before = (tmp_path / "out/responses.npy").read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pooled", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(fit, [photos], tmp_path / "out")
    assert (tmp_path / "out/responses.npy").read_bytes() == before
    assert not (tmp_path / "out/roi_means.json").exists()  # no longer whole
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_the_commands_say_what_they_made(fit_copy, photos, tmp_path, undrawn):
    out = str(tmp_path / "out")
    shutil.copy(photos / "frame1.png", photos / "one more.png")
    done = CliRunner().invoke(main, ["predict", str(fit_copy), str(photos), "--out", out])
    assert done.exit_code == 0, done.output
    assert f"152 vertices of sim01-tiny (simulated): {out}" in done.output
    assert "11 pictures, 0 left out" in done.output
    assert "roi  vertices  test_r2  noise_ceiling" in done.output
    done = CliRunner().invoke(main, ["export", str(fit_copy), "--out", out])
    assert done.exit_code == 0, done.output
    assert done.output == f"45 files of sim01-tiny (simulated): {out}\n"
