"""A fit's folder is read without the data, as it was written, or refused with the reason."""

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from analysis import model as model_module
from analysis.files import InputError, MissingFile, file_digest, fits_root, write_json
from analysis.rivals import ClassToken
from analysis.saved import FILES, find_fit, load_fit, save_fit


def changed(folder: Path, **fields: object) -> Path:
    """The fit with other fields in fit.json."""
    record = json.loads((folder / "fit.json").read_text("utf8"))
    write_json(folder / "fit.json", record | fields)
    return folder


def signed(folder: Path) -> Path:
    """The fit with the checksums of the files as they are now, as who writes them could put."""
    return changed(folder, files={name: file_digest(folder / name) for name in FILES})


def test_a_fit_is_read_alone_as_it_was_made(tiny_fit, fit_copy, subject):
    read = load_fit(fit_copy)
    for name, value in tiny_fit.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value)
    for mine, its in zip(read.selectors()[:3], tiny_fit.selectors()[:3], strict=True):
        assert torch.equal(mine, its)
    np.testing.assert_array_equal(read.vertices, subject.vertices)
    np.testing.assert_array_equal(read.coordinates, subject.coordinates)
    np.testing.assert_array_equal(read.ncsnr, subject.ncsnr)
    assert read.rois.keys() == subject.rois.keys()
    for name, mask in subject.rois.items():
        np.testing.assert_array_equal(read.rois[name], mask)
    np.testing.assert_array_equal(read.r2, tiny_fit.scores("test").r2)
    assert (read.n_surface, read.simulated) == (subject.n_surface, True)


def test_its_scores_are_those_of_predictions_made_again(tiny_fit, fit_copy):
    read = load_fit(fit_copy)
    for part in ("test", "validation"):
        scores = tiny_fit.scores(part)
        for normalised in (False, True):
            again = scores.over(np.isfinite(scores.r2), normalised)
            assert dataclasses.asdict(read.score(part, normalised)) == dataclasses.asdict(again)


def test_its_record_says_what_made_it_and_of_what(tiny_fit, fit_copy):
    record = load_fit(fit_copy).record
    tokens = record["tokens"]
    assert (record["subject"], record["source"]) == ("sim01-tiny", "simulated")
    assert record["backbone"] == "mae-mini-s" and tokens["weights"] is None
    assert tokens["form"] == {"grid": 8, "pooling": "area", "precision": "float32"}
    assert tokens["widths"] == tiny_fit.tokens.widths and tokens["key"] == tiny_fit.tokens.key
    split = tiny_fit.split
    sizes = {part: len(getattr(split, part)) for part in ("train", "validation", "test")}
    trials = int(np.isin(tiny_fit.subject.trial_picture, split.train).sum())
    assert record["split"] == sizes | {"trials": trials}
    assert {"python", "torch", "safetensors"} <= record["versions"].keys()


def test_a_rival_is_read_too(tiny_fit, fit_copy):
    record = json.loads((fit_copy / "fit.json").read_text("utf8"))
    record["key"]["model"]["model"] = "class-token"
    config = dataclasses.replace(tiny_fit.model.config, model="class-token")
    rival = ClassToken(config, tiny_fit.tokens.widths, torch.from_numpy(tiny_fit.coordinates))
    arrays = safetensors.numpy.load_file(fit_copy / FILES[1])
    save_fit(fit_copy, rival, arrays, record)
    read = load_fit(fit_copy)
    assert isinstance(read.model, ClassToken)
    with pytest.raises(InputError, match="'class-token': selects nothing"):
        read.selectors()


@pytest.mark.parametrize("name", FILES)
def test_any_changed_bit_is_found(fit_copy, name):
    whole = (fit_copy / name).read_bytes()
    places = random.Random(1).sample(range(8 * len(whole)), 5)
    for at in places:
        raw = bytearray(whole)
        raw[at // 8] ^= 1 << at % 8
        (fit_copy / name).write_bytes(raw)
        with pytest.raises(InputError, match=f"{fit_copy / name}: damaged"):
            load_fit(fit_copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("raw", [b"", bytes(7), bytes(99), b"\x80\x04cposix\nsystem\n"])
def test_what_is_no_safetensors_is_refused_even_where_its_checksum_is_right(fit_copy, name, raw):
    (fit_copy / name).write_bytes(raw)
    with pytest.raises(InputError, match="not safetensors"):
        load_fit(signed(fit_copy))


def test_what_is_missing_or_unfinished_is_told(fit_copy, tmp_path):
    (fit_copy / FILES[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(MissingFile, match=r"vertices.safetensors: not found"):
        load_fit(fit_copy)
    (fit_copy / "fit.json").unlink()
    for folder in (fit_copy, tmp_path / "nowhere"):
        with pytest.raises(MissingFile, match=f"{folder}: not a fit; expected .* fit.json"):
            load_fit(folder)
    (fit_copy / "training").mkdir()
    with pytest.raises(MissingFile, match="a fit that is not finished"):
        load_fit(fit_copy)


@pytest.mark.parametrize(
    ("version", "age"), [(1, "an older"), (3, "a newer"), ("2", "an older"), (None, "an older")]
)
def test_another_version_of_the_folder_is_named(fit_copy, version, age):
    said = f"format {json.dumps(version)}, of {age} version .* reads format 2"
    with pytest.raises(InputError, match=said):
        load_fit(changed(fit_copy, format=version))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"subject": 1}, "subject: Input should be a valid string"),
        ({"source": "Mars"}, "source: Input should be 'NSD'"),
        ({"scores": [{"value": 1.0}]}, "scores.0.low: Field required"),
        ({"key": {}}, "not the weights of such a model"),
        ({"key": {"model": {"colour": 1}}}, "not the weights of such a model .*colour"),
    ],
)
def test_a_record_that_is_none_is_refused(fit_copy, fields, said):
    with pytest.raises(InputError, match=said):
        load_fit(changed(fit_copy, **fields))


def test_tensors_that_are_no_such_models_are_refused(fit_copy):
    state = safetensors.torch.load_file(fit_copy / FILES[0])
    bias = state["bias"]
    for wrong in (
        {k: v for k, v in state.items() if k != "bias"},
        state | {"more": bias.clone()},
        state | {"bias": bias[1:].clone()},
    ):
        safetensors.torch.save_file(wrong, fit_copy / FILES[0])
        with pytest.raises(InputError, match="not the weights of such a model"):
            load_fit(signed(fit_copy))


def test_arrays_of_vertices_that_do_not_belong_together_are_refused(fit_copy):
    arrays = safetensors.numpy.load_file(fit_copy / FILES[1])
    for wrong, named in (
        ({k: v for k, v in arrays.items() if k != "r2"}, "r2 missing or not expected"),
        (arrays | {"more": arrays["r2"]}, "more missing or not expected"),
        (arrays | {"ncsnr": arrays["ncsnr"][1:]}, "ncsnr of another kind or length"),
        (arrays | {"roi/V1": arrays["r2"]}, "V1 of another kind or length"),
        (arrays | {"vertices": arrays["r2"]}, "vertices of another kind or length"),
    ):
        safetensors.numpy.save_file(wrong, fit_copy / FILES[1])
        with pytest.raises(InputError, match=named):
            load_fit(signed(fit_copy))


def test_code_that_computes_other_responses_is_refused(fit_copy, monkeypatch):
    select = model_module.select
    monkeypatch.setattr(model_module, "select", lambda *a: 1.01 * select(*a))
    with pytest.raises(InputError, match="computes other responses than the one that made"):
        load_fit(fit_copy)


def test_a_fit_is_found_by_its_label_and_never_a_control_for_the_default(fit_copy):
    assert find_fit(str(fit_copy)) == fit_copy
    with pytest.raises(MissingFile, match=r"no finished fit of that .*, which has none"):
        find_fit("sim01/clip-mini")
    labels = [
        "clip-mini-seed1",
        "clip-mini-seed0",
        "clip-mini-s-seed0",
        "clip-mini-shuffled-by-0-seed0",
        "clip-mini-300-trials-seed0",
        "clip-mini-ridge",
    ]
    names = {label: f"{label}-{i:012x}" for i, label in enumerate(labels)}
    for age, name in enumerate(names.values()):
        folder = fits_root() / "sim01" / name
        shutil.copytree(fit_copy, folder)
        os.utime(folder / "fit.json", (100 + age, 100 + age))  # controls are newer
    (fits_root() / "sim01/clip-mini-seed0-00000000000d").mkdir()  # not finished
    assert find_fit("sim01/clip-mini").name == names["clip-mini-seed0"]
    for label, name in names.items():
        assert find_fit(f"sim01/{label}").name == name
    assert find_fit("sim01/clip-mini-300-trials").name == names["clip-mini-300-trials-seed0"]
    with pytest.raises(MissingFile, match="which has sim01/clip-mini-300-trials-seed0-"):
        find_fit("sim02/clip-mini")
    shutil.copytree(fit_copy, fits_root() / "sim01/clip-mini-seed0-00000000000e")
    with pytest.raises(MissingFile, match="stands for 2 fits"):
        find_fit("sim01/clip-mini")
