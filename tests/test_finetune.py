"""Fine-tuning: heads on layers, methods, what is saved, and the tuned network as a backbone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

from analysis.__main__ import main
from analysis.backbones import (
    Preprocessing,
    from_module,
    load_backbone,
    network_identity,
    register,
    require_backbone,
)
from analysis.backbones.tuned import cut, tuned_names
from analysis.extraction import extract
from analysis.files import InputError
from analysis.finetune import global_tokens, head_grid, is_tuned, tune
from analysis.labelled import Labelled, drawn_set
from analysis.learner import Head, Tuning, learner_of, prepared, trained
from analysis.pictures import picture_digests

SIZES = (16, 8, 8)
QUICK = Tuning(layer=1, epochs=2, batch=8, hidden=8)


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))


@pytest.fixture(scope="module")
def data() -> Labelled:
    """A few drawn pictures of which each class is in each part."""
    for seed in range(1, 50):
        try:
            return drawn_set("colour", seed, SIZES)
        except InputError:  # a class is missing in a part
            continue
    raise AssertionError


@pytest.mark.parametrize("name", ["clip-mini-s", "sam-mini-s", "mae-mini-s"])
def test_layers_after_the_heads_are_gone_and_those_before_unchanged(
    name: str, data: Labelled
) -> None:
    whole = load_backbone(name)
    pixels = torch.from_numpy(data.pictures.read(np.arange(2)))
    local, global_ = whole(pixels)
    short = cut(whole, 2)
    few, vectors = short(pixels)
    assert len(few) == len(vectors) == len(short.widths) == len(short.layer_names) == 2
    for mine, other in zip((*few, *vectors), (*local[:2], *global_[:2]), strict=True):
        torch.testing.assert_close(mine, other)
    assert len(whole.widths) == 4  # the network that was given is as it was
    n_cut, n_whole = (sum(p.numel() for p in b.parameters()) for b in (short, whole))
    assert n_cut < n_whole


@pytest.mark.parametrize("method", ["whole", "head", "lora"])
def test_what_a_method_trains_and_what_it_leaves(method: str, data: Labelled) -> None:
    name = "clip-mini-s"
    done = tune(name, data, dataclasses.replace(QUICK, method=method))
    tuned, base = load_backbone(done.name), cut(load_backbone(name), 1)
    changed = {k for k, v in base.state_dict().items() if not torch.equal(v, tuned.state_dict()[k])}
    assert tuned.state_dict().keys() == base.state_dict().keys()
    if method == "head":
        assert not changed
    else:
        assert any("mlp" in k for k in changed) and any("attn" in k for k in changed)
        assert ("network.conv1.weight" in changed) == (method == "whole")
    assert not tuned.training and not any(p.requires_grad for p in tuned.parameters())
    head = load_file(done.folder / "head.safetensors")
    rebuilt = Head(torch.randn(3, 64), 8, 4)
    rebuilt.load_state_dict({k[5:]: v for k, v in head.items() if k.startswith("head.")})
    pixels = torch.from_numpy(data.pictures.read(data.parts["test"]))
    with torch.no_grad():
        said = rebuilt(tuned(pixels)[1][-1]).argmax(1).numpy()
    assert np.array_equal(said, done.predicted)  # what was saved is what was tested
    assert done.accuracy == (said == data.labels[data.parts["test"]]).mean()


def test_a_tuned_network_is_a_backbone_with_a_cache_of_its_own(data: Labelled) -> None:
    done = tune("mae-mini-s", data, dataclasses.replace(QUICK, layer=2))
    require_backbone(done.name)
    assert tuned_names() == [done.name]
    pixels = data.pictures.read(np.arange(3))
    kept = [
        extract(load_backbone(name), lambda rows: pixels[rows], picture_digests(pixels))[0]
        for name in (done.name, "mae-mini-s")
    ]
    assert kept[0].folder != kept[1].folder and kept[0].widths == [64, 64]
    assert network_identity(done.name) == load_backbone(done.name).identity
    other = tune("mae-mini-s", data, dataclasses.replace(QUICK, layer=2, seed=1))
    assert load_backbone(other.name).identity != load_backbone(done.name).identity
    with pytest.raises(InputError, match=r"weights='random': tuned:mae.* brings its own"):
        load_backbone(done.name, "random")


def test_the_same_is_made_once_and_the_same_again(data: Labelled, tmp_path, monkeypatch) -> None:
    assert not is_tuned("mae-mini-s", data, QUICK)
    first = tune("mae-mini-s", data, QUICK)
    assert is_tuned("mae-mini-s", data, QUICK)
    made = (first.folder / "tuned.json").stat().st_mtime_ns
    again = tune("mae-mini-s", data, QUICK)
    assert again == dataclasses.replace(first, labels=again.labels, predicted=again.predicted)
    assert (first.folder / "tuned.json").stat().st_mtime_ns == made
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "elsewhere"))
    fresh = tune("mae-mini-s", data, QUICK)
    assert fresh.name == first.name and fresh.folder != first.folder
    assert fresh.result["log"] == first.result["log"]
    names = ("network.safetensors", "head.safetensors")
    assert all((fresh.folder / n).read_bytes() == (first.folder / n).read_bytes() for n in names)


@pytest.fixture(scope="module")
def telling() -> tuple[Labelled, torch.Tensor, torch.Tensor]:
    """Pictures, tokens of noise, and tokens that tell the class."""
    many = drawn_set("colour")
    labels = torch.from_numpy(many.labels)
    noise = torch.randn(len(labels), 12, generator=torch.Generator().manual_seed(0))
    return many, noise, noise + 3 * nn.functional.one_hot(labels, 12)


def test_validation_chooses_rate_and_epoch(telling) -> None:
    many, _, token = telling
    held = {part: token[torch.from_numpy(rows)] for part, rows in many.parts.items()}
    tuning = Tuning(method="head", epochs=6, rates=(1e-7, 1e-2))
    learner = learner_of(nn.Identity(), many, tuning, "cpu", held)
    result = trained(learner, tuning)
    assert result["rate"] == 1e-2  # the other learns nothing
    log = result["log"]
    assert len(log) == 6
    best = max(log, key=lambda e: (e["accuracy"], -e["validation loss"]))
    assert log.index(best) == result["epoch"] - 1
    assert best["accuracy"] == result["validation"]
    said = learner.of_part("validation").argmax(1).numpy()  # of the epoch that was kept
    assert (said == many.labels[many.parts["validation"]]).mean() == pytest.approx(best["accuracy"])


def test_a_head_learns_what_its_layer_holds_and_only_that(telling) -> None:
    many, noise, token = telling
    blind, seeing = head_grid([noise, token], many, Tuning(epochs=10, rates=(1e-2,)))
    assert seeing > 0.85 and blind < 0.45


def test_tokens_are_those_of_each_layer(data: Labelled) -> None:
    backbone = load_backbone("mae-mini-s")
    tokens = global_tokens(backbone, data)
    assert [tuple(t.shape) for t in tokens] == [(32, 64)] * 4
    alone = backbone(torch.from_numpy(data.pictures.read(np.array([31]))))[1]
    torch.testing.assert_close(tokens[2][31:], alone[2], rtol=1e-4, atol=1e-4)


def test_the_head_sees_tokens_as_they_were_standardised(data: Labelled) -> None:
    learner, _ = prepared(cut(load_backbone("mae-mini-s"), 1), data, QUICK)
    token = learner.tokens("train")
    torch.testing.assert_close(learner.head.mean, token.mean(0))
    own = learner_of(nn.Identity(), data, QUICK, "cpu", {"train": token})
    assert torch.equal(own.head.out.weight, learner.head.out.weight)  # drawn from the seed
    again = learner_of(
        nn.Identity(), data, dataclasses.replace(QUICK, seed=1), "cpu", {"train": token}
    )
    assert not torch.equal(again.head.out.weight, own.head.out.weight)


def test_bad_settings_are_told(data: Labelled) -> None:
    for layer in (0, 5):
        with pytest.raises(InputError, match=rf"layer={layer}: mae-mini-s has layers 1 to 4"):
            tune("mae-mini-s", data, dataclasses.replace(QUICK, layer=layer))
    with pytest.raises(InputError, match="method='all': expected one of whole, head, lora"):
        Tuning(method="all")
    with pytest.raises(InputError, match="epochs=0: expected 1 or more"):
        Tuning(epochs=0)
    with pytest.raises(InputError, match="rates="):
        Tuning(rates=(0.0,))


def test_a_network_of_other_layers_is_told(data: Labelled) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.GELU())
    register(from_module("no-vit", network, ["1"], Preprocessing((16, 16))))
    with pytest.raises(InputError, match="'no-vit': not a vision transformer"):
        tune("no-vit", data, QUICK)


def test_a_loss_that_diverges_is_told_and_nothing_is_left(data: Labelled, tmp_path) -> None:
    with pytest.raises(InputError, match=r"diverges in the first epoch at 1e\+06.*smaller rates"):
        tune("mae-mini-s", data, dataclasses.replace(QUICK, rates=(1e6,)))
    assert not tuned_names()
    kept = tune("mae-mini-s", data, dataclasses.replace(QUICK, rates=(1e6, 1e-4)))
    assert kept.result["rate"] == 1e-4  # the one that doesn't is gone on with


def test_damaged_or_absent_networks_are_told(data: Labelled) -> None:
    with pytest.raises(InputError, match=r"'tuned:nothing': no such tuned network.*finetune"):
        load_backbone("tuned:nothing")
    with pytest.raises(InputError, match=r"no such tuned network"):
        require_backbone("tuned:../mae")
    done = tune("mae-mini-s", data, QUICK)
    path = done.folder / "network.safetensors"
    state = load_file(path)
    save_file({k: v + 1 for k, v in state.items()}, path)
    with pytest.raises(InputError, match=r"network\.safetensors: missing or damaged"):
        load_backbone(done.name)
    path.unlink()
    with pytest.raises(InputError, match=r"missing or damaged"):
        tune("mae-mini-s", data, QUICK)


def test_the_command_prints_the_recipe_and_a_name_to_go_on_with(tmp_path: Path) -> None:
    for i in range(30):
        where = tmp_path / "pictures" / ("dark" if i % 2 else "light")
        where.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 60, (8, 8, 3)) + (0 if i % 2 else 190)
        from PIL import Image

        Image.fromarray(pixels.astype(np.uint8)).save(where / f"{i}.png")
    options = "--backbone mae-mini-s --layer 1 --method head --epochs 5 --seeds 2 --side 32"
    run = CliRunner().invoke(
        main, ["finetune", str(tmp_path / "pictures"), *options.split(), "--rate", "0.01"]
    )
    assert run.exit_code == 0, run.output
    assert "2 classes; 18 train, 6 validation, 6 test" in run.output
    assert "rate 0.01 of 0.01, epoch" in run.output and "interval over seeds" in run.output
    name = run.output.split("tuned:")[1].split()[0].rstrip(":")
    assert len(load_backbone(f"tuned:{name}").widths) == 1
    wrong = CliRunner().invoke(main, ["finetune", str(tmp_path / "pictures"), "--layer", "99"])
    assert wrong.exit_code == 2 and "layer=99" in wrong.output
