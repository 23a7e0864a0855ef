"""Networks by name: of libraries, of a user's functions, registered; identity without loading."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from analysis import study
from analysis.backbones import (
    CARDS,
    Backbone,
    Preprocessing,
    card_of,
    from_function,
    from_module,
    load,
    load_backbone,
    network_identity,
    register,
    require_backbone,
)
from analysis.files import InputError
from analysis.versions import VERSIONS

ROOT = Path(__file__).resolve().parents[1]
SMALL = Preprocessing((16, 16))
BY_NAME = ("clip-mini", "sam-mini-s", "sd-mini@T20", "sd-mini", "sd-mini,site=conv@T50+D6")
OF_LIBRARIES = ("timm:test_vit", "open_clip:ViT-B-32/openai")


def colours(x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {"colour": x}, {"colour": x.mean((2, 3))}


@pytest.fixture(autouse=True)
def registered_in_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_registered", {})


def named(name: str, seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.GELU())
    return from_module(name, network, ["1"], SMALL)


# Identity


@pytest.mark.parametrize("name", [*BY_NAME, *OF_LIBRARIES])
def test_a_loaded_networks_identity_is_known_without_loading_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(name, "random")

    def built(*_: object, **__: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(nn.Module, "__init__", built)
    started = time.perf_counter()
    assert network_identity(name, "random") == backbone.identity
    assert time.perf_counter() - started < 0.1
    if len(backbone.views) == 1:
        assert backbone.views[0].identity == backbone.identity


def test_an_identity_needs_no_weights_and_differs_with_all_that_determines_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("a.pth", "b.pth", "copy.pth")]
    for path, content in zip(files, (b"a", b"b", b"a"), strict=True):
        path.write_bytes(content)
    known = [
        network_identity("clip-l"),
        network_identity("clip-l", None, "imagenet"),
        network_identity("clip-l", "random"),
        network_identity("clip-m"),
        network_identity("timm:vit_base_patch16_224"),
        network_identity("sd15@T20"),
        network_identity("sd15@T25"),
        network_identity("clip-l", str(files[0])),
        network_identity("clip-l", str(files[1])),
    ]
    assert len(set(known)) == len(known)
    assert network_identity("clip-l", str(files[2])) == known[-2]  # a copy
    assert network_identity("clip-l", "pretrained") == known[0]
    assert network_identity("clip-mini") == network_identity("clip-mini", "random")
    monkeypatch.setitem(VERSIONS, "network", 0)
    assert network_identity("clip-l") != known[0]
    with pytest.raises(InputError, match="expected one of clip-"):
        network_identity("clip-ll")
    with pytest.raises(InputError, match="no such file"):
        network_identity("clip-l", str(tmp_path / "none.pth"))


def test_a_files_identity_is_the_loaded_networks(tmp_path: Path) -> None:
    path = tmp_path / "mae.pth"
    torch.save(load_backbone("mae-mini-s").network.state_dict(), path)
    assert (
        network_identity("mae-mini-s", str(path)) == load_backbone("mae-mini-s", str(path)).identity
    )
    folder = tmp_path / "sd"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/config.json").write_text("{}")
    before = network_identity("sd-mini@T20", str(folder))
    (folder / "unet/config.json").write_text("{ }")
    assert network_identity("sd-mini@T20", str(folder)) != before


GOLDEN = {  # mean magnitude of the last layer's local and global tokens
    "clip-mini": (2.51760, 2.61742),
    "sam-mini": (2.68334, 1.91234),
    "mae-mini": (2.58140, 2.86822),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_tokens_of_miniatures_are_as_they_were(name: str) -> None:
    pictures = torch.arange(2 * 40 * 40 * 3).remainder(251).view(2, 40, 40, 3).byte()
    with torch.inference_mode():
        local, global_ = load_backbone(name)(pictures)
    magnitudes = (local[-1].abs().mean().item(), global_[-1].abs().mean().item())
    assert magnitudes == pytest.approx(GOLDEN[name], rel=1e-3), "raise the network's version"


# Libraries


def test_a_network_of_a_library_is_built_once_and_its_card_without_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built, create = [], timm.create_model

    def counted(*arguments: object, **options: object) -> nn.Module:
        built.append(create(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(timm, "create_model", counted)
    load._card_by_name.cache_clear()
    load_backbone("timm:test_vit", "random")
    assert len(built) == 1
    card = card_of("timm:vit_large_patch16_224.augreg_in21k")
    assert (card.layers, card.widths[0], card.parameters) == (24, 1024, 303_301_632)
    assert len(built) == 2 and all(p.is_meta for p in built[1].parameters())
    assert card.tag == "augreg_in21k" and card.licence == "apache-2.0"


@pytest.mark.parametrize("name", ["timm:test_vit", "clip-mini", "open_clip:ViT-B-32/openai"])
def test_loading_leaves_random_streams_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    before = torch.random.get_rng_state()
    load_backbone(name, "random")
    assert not seeded and torch.equal(before, torch.random.get_rng_state())


def test_reading_the_widths_of_a_network_leaves_its_statistics_alone() -> None:
    backbone = load_backbone("open_clip:RN50", "random")
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all((norm.running_mean == 0).all() for norm in norms)


# A user's own, by name


def test_a_registered_network_is_loaded_by_its_name_and_can_be_replaced() -> None:
    with pytest.raises(InputError, match="'my-net'"):
        load_backbone("my-net")
    register(named("my-net"))
    require_backbone("my-net")
    assert load_backbone("my-net").identity == named("my-net").identity
    assert network_identity("my-net") == named("my-net").identity
    assert (card_of("my-net").layers, card_of("my-net").widths) == (1, (6,))
    register(from_function("my-net", colours, SMALL))
    assert load_backbone("my-net").widths == [3]
    with pytest.raises(InputError, match="weights='random': my-net brings its own"):
        load_backbone("my-net", "random")


def test_what_cannot_be_registered_is_told() -> None:
    class Unfrozen(Backbone):
        pass

    with pytest.raises(InputError, match="'clip-mini': one of this project's"):
        register(named("clip-mini"))
    with pytest.raises(InputError, match=r"no identity; expected freeze\(\)"):
        register(Unfrozen("my-net", SMALL))


MODULE = """
import torch
from torch import nn
from analysis.backbones import Preprocessing, from_module

def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 12, 3, 2, 1))
    return from_module("by-function", net, ["0", "2"], Preprocessing((32, 32)))

def text():
    return "a text"

def fails():
    return 1 / 0
"""


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with a module of the user's."""
    (tmp_path / "networks_of_a_user.py").write_text(MODULE)
    (tmp_path / "unfinished.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("module_folder")
def test_a_function_of_a_module_names_a_network() -> None:
    name = "networks_of_a_user:network"
    require_backbone(name)
    with torch.random.fork_rng():
        backbone = load_backbone(name)
        assert (backbone.name, backbone.widths) == (name, [8, 12])
        assert network_identity(name) == backbone.identity
        assert card_of(name).widths == (8, 12)
    with pytest.raises(InputError, match=r"normalisation='imagenet': .* has its own"):
        load_backbone(name, None, "imagenet")
    for wrong, message in (
        ("networks_of_a_user:text", "it is str; expected a Backbone"),
        ("networks_of_a_user:fails", "ZeroDivisionError: .* a function without arguments"),
        ("networks_of_a_user:absent", "AttributeError"),
        ("unfinished:network", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("no_such_module:network", "no module 'no_such_module'"),
        ("tim:resnet18", "no module 'tim'"),
    ):
        with pytest.raises(InputError, match=f"backbone '{wrong}': .*{message}"):
            load_backbone(wrong)
    with pytest.raises(InputError, match=r"no module 'no_such\.inner'"):
        require_backbone("no_such.inner:network")


def test_the_command_line_fits_a_users_network(module_folder: Path, data_folder: Path) -> None:
    path = os.pathsep.join([str(module_folder), str(ROOT)])
    command = [sys.executable, "-m", "analysis", "fit", "sim01-tiny", "--recipe", "check"]
    done = subprocess.run(
        [*command, "--backbone", "networks_of_a_user:network"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "BRAINMAPS_DATA": str(data_folder)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tokens of 40 pictures" in done.stderr and "R²" in done.stdout
    assert list((data_folder / "fits/sim01-tiny").glob("networks_of_a_user_network-*/fit.json"))


def test_a_fit_is_read_only_if_it_is_there(data_folder: Path) -> None:
    name, recipe = "sim01-tiny", "check"
    assert study.fit_if_there(name, "mine", recipe) is None
    register(named("mine"))
    assert study.fit_if_there(name, "mine", recipe) is None
    fit = study.get_fit(name, "mine", recipe=recipe)
    same = study.fit_if_there(name, "mine", recipe)
    assert same and same.folder == fit.folder and same.record == fit.record
    assert study.fit_if_there(name, "mine", recipe, seed=1) is None
    register(named("mine", seed=1))
    assert study.fit_if_there(name, "mine", recipe) is None  # of other weights
    with pytest.raises(InputError, match="recipe 'long': expected one of"):
        study.fit_if_there(name, "mine", "long")
    shutil.rmtree(fit.folder)


def test_every_card_is_of_a_network_that_can_be_had() -> None:
    assert len(CARDS) == 38 and all(card.title and card.architecture for card in CARDS.values())
