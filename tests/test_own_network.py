"""Your own network: tokens against plain hooks, identity, and what can't be used."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from analysis.backbones import Backbone, Preprocessing, from_function, from_module
from analysis.extraction import extract
from analysis.features import cache_folder
from analysis.files import InputError
from analysis.pictures import picture_digests

SMALL = Preprocessing((16, 16))


class Tower(nn.Module):
    """Convolutions, then tokens with a class token, then a vector; a module that is not reached."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True))
            self.norm = nn.BatchNorm2d(6)
            self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
            self.both = Both()
            self.head = nn.Linear(6, 5)
            self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.stem(x))
        tokens = maps.flatten(2).mT
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.head(self.both(tokens)[0][:, 0])


class Both(nn.Module):
    """Gives a tuple."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, int]:
        return tokens.tanh(), 1


def noise(n: int = 2, size: int = 16, seed: int = 1) -> UInt8[Tensor, "n size size 3"]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, size, size, 3), generator=generator, dtype=torch.uint8)


def test_tokens_are_what_plain_hooks_see() -> None:
    tower = Tower().eval()
    layers = ["norm", "blocks.*", "both", "head"]
    backbone = from_module("tower", tower, layers, SMALL, prefix=1)
    seen = {}
    for name in ("norm", "blocks.0", "blocks.1", "both", "head"):
        tower.get_submodule(name).register_forward_hook(
            lambda module, inputs, out, name=name: seen.__setitem__(name, out)
        )
    pictures = noise()
    with torch.no_grad():
        local, global_ = backbone(pictures)
        tower(SMALL(pictures))
    assert backbone.layer_names == list(seen)
    assert backbone.widths == [6, 6, 6, 6, 5]
    assert torch.equal(local[0], seen["norm"])
    torch.testing.assert_close(global_[0], seen["norm"].mean((2, 3)))
    for i, name in ((1, "blocks.0"), (2, "blocks.1"), (3, "both")):
        tokens = seen[name][0] if name == "both" else seen[name]
        assert torch.equal(global_[i], tokens[:, 0])
        for y in range(8):  # by row
            assert torch.equal(local[i][:, :, y].mT, tokens[:, 1 + 8 * y : 9 + 8 * y])
    assert torch.equal(global_[4], seen["head"])
    assert torch.equal(local[4][:, :, 0, 0], seen["head"]) and local[4].shape == (2, 5, 1, 1)


def test_a_layer_is_read_before_a_later_one_writes_into_it() -> None:
    tower = Tower()
    local, _ = from_module("tower", tower, ["stem.0", "stem.1"], SMALL)(noise())
    conv = tower.stem[0](SMALL(noise())).detach()
    assert conv.min() < 0
    assert torch.equal(local[0], conv)
    assert torch.equal(local[1], conv.clamp_min(0))


def test_of_a_layer_called_twice_the_last_call_counts() -> None:
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    twice = Twice()
    local, _ = from_module("twice", twice, ["conv"], SMALL)(noise())
    assert torch.equal(local[0], twice(SMALL(noise())).detach())


def test_maps_of_tokens_have_the_pictures_proportion_and_channels_last_maps_are_turned() -> None:
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rows, self.last = nn.Conv2d(3, 4, 4, 4), nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x)
            return self.rows(maps.flatten(2).mT) + self.last(maps.permute(0, 2, 3, 1)).sum()

    wide, size = Wide(), Preprocessing((8, 24))
    maps = wide.conv(size(noise())).detach()
    assert maps.shape == (2, 4, 2, 6)
    local, global_ = from_module("wide", wide, ["rows"], size)(noise())
    assert torch.equal(local[0], maps)
    torch.testing.assert_close(global_[0], maps.mean((2, 3)))
    local, _ = from_module("wide", wide, ["last"], size, channels_last=True)(noise())
    assert torch.equal(local[0], maps)


def test_layers_are_chosen_by_name_pattern_or_a_test() -> None:
    def names(layers) -> list[str]:
        return from_module("tower", Tower(), layers, SMALL, prefix=1).layer_names

    assert names(["blocks.1", "stem.0", "blocks.*"]) == ["blocks.1", "stem.0", "blocks.0"]
    assert names(["*em"]) == ["stem"]  # a star doesn't pass a dot
    assert names(lambda name, part: isinstance(part, nn.Conv2d)) == ["stem.0"]


def test_the_network_given_is_left_as_it_was() -> None:
    tower = Tower()
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    backbone = from_module("tower", tower, ["norm"], SMALL)
    assert tower.training and all(p.requires_grad for p in tower.parameters())
    assert all(torch.equal(v, before[k]) for k, v in tower.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.modules())
    first = backbone(noise())[0][0]
    with torch.no_grad():
        tower.stem[0].weight.zero_()
    assert torch.equal(backbone(noise())[0][0], first)


def two(x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A function of pictures: the picture, and its first two colours halved."""
    local = {"b": x, "a": x[:, :2, ::2, ::2] / 2}
    return local, {name: tokens.amax((2, 3)) for name, tokens in local.items()}


def test_a_functions_tokens_are_its_dictionaries_in_its_order() -> None:
    backbone = from_function("two", two, SMALL)
    assert (backbone.layer_names, backbone.widths) == (["b", "a"], [3, 2])
    local, global_ = backbone(noise())
    expected = two(SMALL(noise()))
    assert all(torch.equal(t, e) for t, e in zip(local, expected[0].values(), strict=True))
    assert all(torch.equal(t, e) for t, e in zip(global_, expected[1].values(), strict=True))


def test_a_functions_tokens_carry_no_gradient() -> None:
    weight = torch.ones(1, requires_grad=True)
    backbone = from_function("two", lambda x: two(x * weight), SMALL)
    assert not any(t.requires_grad for some in backbone(noise()) for t in some)


# identity


def test_identity_changes_with_all_that_determines_tokens() -> None:
    def identity(name="tower", layers=("norm",), size=16, std=0.2, version="1", change=None):
        tower = Tower()
        if change:
            change(tower)
        preprocess = Preprocessing((size, size), std=(std,) * 3)
        return from_module(name, tower, list(layers), preprocess, version=version).identity

    def weight(tower: Tower) -> None:
        with torch.no_grad():
            tower.stem[0].weight[2, 1, 0, 0] += 1e-6

    def buffer(tower: Tower) -> None:
        tower.norm.running_mean[0] += 1e-6

    def unsaved(tower: Tower) -> None:
        tower.register_buffer("position", torch.ones(3), persistent=False)

    def unsaved_other(tower: Tower) -> None:
        tower.register_buffer("position", torch.zeros(3), persistent=False)

    def activation(tower: Tower) -> None:  # no weight tells
        tower.stem[1] = nn.GELU()

    def forward(tower: Tower) -> None:
        class Other(Both):
            def forward(self, tokens: Tensor) -> tuple[Tensor, int]:
                return tokens.sin(), 1

        Other.__name__ = "Both"  # its name doesn't tell
        tower.both = Other()

    changed = [
        identity(name="other"),
        identity(layers=["norm", "stem"]),
        identity(layers=["stem"]),
        identity(size=18),
        identity(std=0.3),
        identity(version="2"),
        *(identity(change=c) for c in (weight, buffer, unsaved, unsaved_other)),
        *(identity(change=c) for c in (activation, forward)),
    ]
    assert identity() == identity()
    assert len({identity(), *changed}) == 1 + len(changed)


def test_identity_of_a_function_follows_its_version_and_of_a_module_its_weights() -> None:
    class Module(nn.Module):
        def __init__(self, value: float):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value))

        def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            return two(x * self.value)

    plain = [from_function("two", two, SMALL, version=v).identity for v in ("1", "1", "2")]
    assert plain[0] == plain[1] != plain[2]
    weighted = [from_function("two", Module(v), SMALL).identity for v in (1.0, 1.0, 2.0)]
    assert weighted[0] == weighted[1] != weighted[2]


IDENTITY = """
import torch
from torch import nn
from analysis.backbones import Preprocessing, from_module
torch.manual_seed(3)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())
identity = from_module("net", net, ["1"], Preprocessing((8, 8))).identity
"""


def test_identity_is_the_same_in_another_process() -> None:
    other = subprocess.run(
        [sys.executable, "-c", IDENTITY + "print(identity)"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "5"},
        check=True,
    )
    here: dict[str, str] = {}
    with torch.random.fork_rng():
        exec(IDENTITY, here)
    assert other.stdout.strip() == here["identity"]


def test_the_cache_never_gives_one_networks_tokens_to_another(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    pictures = noise(4).numpy()

    def cached(backbone: Backbone) -> Tensor:
        (made,) = extract(backbone, lambda rows: pictures[rows], picture_digests(pictures))
        return made[np.arange(4)][1]

    old, new = (from_module("same", Tower(seed), ["norm"], SMALL) for seed in (0, 1))
    assert cache_folder(old.views[0]) != cache_folder(new.views[0])
    for backbone in (old, new, old):
        expected = backbone(torch.from_numpy(pictures))[1][0].half().float()
        torch.testing.assert_close(cached(backbone), expected)
    # a function has no weights to tell where it lies
    function = from_function("two", two, SMALL)
    expected = torch.cat(function(torch.from_numpy(pictures))[1], 1).half().float()
    torch.testing.assert_close(cached(function), expected)


# networks that can't be used


def without_weights() -> Backbone:
    return from_module("net", nn.Sequential(nn.ReLU()), ["0"], SMALL)


def tower(*layers: str, size: int = 16, **options) -> Backbone:
    return from_module("net", Tower(), list(layers), Preprocessing((size, size)), **options)


class Flat(nn.Module):
    """Fits one input size only."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Odd(nn.Module):
    """Gives what no layer of a network should."""

    def __init__(self, out):
        super().__init__()
        self.weight, self.part, self.out = nn.Parameter(torch.ones(1)), nn.Identity(), out

    def forward(self, x: Tensor) -> object:
        return self.part(self.out(x))


def odd(out) -> Backbone:
    return from_module("net", Odd(out), ["part"], SMALL)


def always_dropping(x: Tensor) -> Tensor:
    return nn.functional.dropout(x)


MODULES = {
    "no weights": (without_weights, r"Sequential has no weights to know it by.*from_function"),
    "no shapes": (
        lambda: from_module("net", nn.LazyConv2d(4, 1), ["0"], SMALL),
        "some weights have no shape yet; run it once",
    ),
    "unknown layer": (lambda: tower("block.1"), r"no 'block\.1'; nearest of its \d+: blocks\.1"),
    "empty pattern": (lambda: tower("layers.*"), r"the module has no 'layers\.\*'; nearest"),
    "no layer": (lambda: tower(), "layers: none chosen of 10; expected at least one"),
    "a text": (lambda: from_module("net", Tower(), "norm", SMALL), r"expected a list.*\['norm'\]"),
    "not reached": (lambda: tower("norm", "spare"), "layers: spare not reached"),
    "no square": (lambda: tower("blocks.0"), r"65 tokens less prefix=0 .*prefix=1 would leave 64"),
    "all prefix": (lambda: tower("blocks.0", prefix=65), "65 tokens less prefix=65"),
    "negative": (lambda: tower("norm", prefix=-1), "prefix=-1: expected 0 or more"),
    "wrong size": (
        lambda: from_module("net", Flat(), ["linear"], Preprocessing((8, 8))),
        r"failed on prepared pictures \[3, 3, 8, 8\]: RuntimeError.*preprocess=\(8, 8\)",
    ),
    "no tensor": (lambda: odd(lambda x: "text"), "'part': its output is str; expected a tensor"),
    "no tensor inside": (lambda: odd(lambda x: (1, 2)), "'part': its output is tuple; expected"),
    "whole numbers": (lambda: odd(lambda x: x.long()), r"its output is torch\.int64"),
    "five axes": (lambda: odd(lambda x: x[..., None]), r"output is \[3, 3, 16, 16, 1\]; expected"),
    "empty map": (lambda: odd(lambda x: x[..., :0]), r"are \[3, 3, 16, 0\]; expected a tensor"),
    "NaN": (lambda: odd(lambda x: x / 0 * 0), r"local tokens \(torch.float32\) aren't all finite"),
    "other batch": (lambda: odd(lambda x: x[:1]), "expected a batch of 3, as given"),
    "dropout": (lambda: odd(always_dropping), "differ from run to run.*Is there dropout"),
    "batch mean": (lambda: odd(lambda x: x - x.mean(0)), "differ from batch to batch"),
    "name": (
        lambda: from_module("a/b", Tower(), ["norm"], SMALL),
        "backbone 'a/b': expected a name of letters",
    ),
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_that_cannot_be_used_is_told_why(kind: str) -> None:
    build, message = MODULES[kind]
    with pytest.raises(InputError, match=message):
        build()


def dictionaries(local: dict, global_: dict | None = None):
    """A function that gives these, made of the pictures by the functions in them."""

    def function(x: Tensor) -> tuple[dict, dict]:
        vectors = {k: lambda x, f=f: f(x).mean((2, 3)) for k, f in local.items()}
        chosen = vectors if global_ is None else global_
        return {k: f(x) for k, f in local.items()}, {k: f(x) for k, f in chosen.items()}

    return function


def vector(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def same(x: Tensor) -> Tensor:
    return x


def trained_norm():
    """Batch normalisation left in training mode, inside a function where it isn't seen."""
    norm = nn.BatchNorm2d(3)
    return dictionaries({"a": norm})


FUNCTIONS = {
    "no dictionaries": (lambda x: x, "gave Tensor; expected two dictionaries"),
    "one dictionary": (lambda x: ({"a": x},), "gave tuple; expected two dictionaries"),
    "three": (lambda x: ({}, {}, {}), "gave tuple; expected two dictionaries"),
    "nothing": (lambda x: ({}, {}), r"layers \[\] of local.*at least one"),
    "other keys": (dictionaries({"a": same}, {"b": vector}), r"\['a'\] of local and \['b'\] of"),
    "other order": (
        dictionaries({"a": same, "b": same}, {"b": vector, "a": vector}),
        "expected the same, in the same order",
    ),
    "local vector": (dictionaries({"a": vector}, {"a": vector}), "local tokens are .3, 3.; expec"),
    "global map": (dictionaries({"a": same}, {"a": same}), r"global tokens are \[3, 3, 16, 16\]"),
    "no tensor": (dictionaries({"a": same}, {"a": lambda x: 1}), "global tokens are int; expected"),
    "other width": (
        dictionaries({"a": same}, {"a": lambda x: x.mean((2, 3))[:, :2]}),
        "3 channels of local and 2 of global",
    ),
    "infinite": (dictionaries({"a": lambda x: x * float("inf")}), "aren't all finite floats"),
    "training mode": (trained_norm(), "differ from batch to batch.*normalisation in training mode"),
    "random": (dictionaries({"a": lambda x: x + torch.rand(1)}), "differ from run to run"),
    "its own error": (dictionaries({"a": lambda x: x.nothing}), "AttributeError: .*'nothing'"),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_that_cannot_be_used_is_told_why(kind: str) -> None:
    function, message = FUNCTIONS[kind]
    with pytest.raises(InputError, match=f"backbone 'mine'.*{message}"):
        from_function("mine", function, SMALL)


def test_a_function_that_changes_its_layers_later_is_stopped() -> None:
    names = ["a"]
    backbone = from_function("mine", lambda x: dictionaries({names[0]: same})(x), SMALL)
    names[0] = "b"
    with pytest.raises(InputError, match="gave the layers b; expected those of its first run: a"):
        backbone(noise())
