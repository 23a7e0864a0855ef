"""Backbones that are added by name: registered in Python, or offered by an installed package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analysis.backbones import (
    Backbone,
    Preprocessing,
    from_function,
    from_module,
    load_backbone,
    plugins,
    register,
    require_backbone,
)
from analysis.files import InputError

ROOT = Path(__file__).resolve().parents[1]
SMALL = Preprocessing((16, 16))


def colours(x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {"colour": x}, {"colour": x.mean((2, 3))}


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is known in that test only."""
    monkeypatch.setattr(plugins, "_registered", {})


def named(name: str, seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.GELU())
    return from_module(name, network, ["1"], SMALL)


@pytest.mark.usefixtures("forgotten")
def test_a_registered_backbone_is_loaded_by_its_name_and_can_be_replaced() -> None:
    with pytest.raises(InputError, match="'my-net'"):
        load_backbone("my-net")
    register("my-net", lambda: named("my-net"))
    require_backbone("my-net")
    assert load_backbone("my-net").identity == named("my-net").identity
    assert plugins.plugin_names()["my-net"] == "registered"
    with pytest.raises(InputError, match=r"Added: .*my-net"):
        load_backbone("my-nett")
    register("my-net", lambda: from_function("my-net", colours, SMALL))
    assert load_backbone("my-net").widths == [3]
    with pytest.raises(InputError, match="weights='random': my-net brings its own"):
        load_backbone("my-net", "random")


@pytest.mark.usefixtures("forgotten")
def test_a_builder_that_gives_no_backbone_of_that_name_is_told() -> None:
    class Unfrozen(Backbone):
        pass

    with pytest.raises(InputError, match="'clip-mini': one of this project's own"):
        register("clip-mini", lambda: named("clip-mini"))
    with pytest.raises(InputError, match="its builder is OwnBackbone; expected a function"):
        register("my-net", named("my-net"))
    for builder, message in (
        (lambda: None, "its registered builder gave NoneType; expected a Backbone"),
        (lambda: named("other"), "gave is named 'other'; expected 'my-net'"),
        (lambda: Unfrozen("my-net", SMALL), "gave has no identity; expected freeze"),
        (lambda: 1 / 0, "its registered builder failed: ZeroDivisionError"),
    ):
        register("my-net", builder)
        with pytest.raises(InputError, match=f"backbone 'my-net': .*{message}"):
            load_backbone("my-net")


PACKAGE = """
import torch
from torch import nn
from analysis.backbones import Preprocessing, from_module

def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 12, 3, 2, 1))
    return from_module("packed", net, ["0", "2"], Preprocessing((32, 32)))

def text():
    return "a text"
"""


def install(folder: Path, package: str, offers: dict[str, str], source: str) -> None:
    """A distribution as an installer leaves it: a module, and its record beside it."""
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = [f"{name} = {where}" for name, where in offers.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{plugins.GROUP}]", *lines]) + "\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with a good package and two that fail."""
    folder = tmp_path / "site"
    folder.mkdir()
    offers = {"packed": "packnet:network", "words": "packnet:text", "clip-mini": "packnet:text"}
    install(folder, "packnet", offers, PACKAGE)
    broken = {"broken": "brokennet:network", "torn": "brokennet:network"}
    install(folder, "brokennet", broken, "import no_such_library\n")
    install(folder, "second", {"torn": "second:network"}, PACKAGE)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.usefixtures("installed", "forgotten")
def test_a_packages_backbone_is_found_and_a_broken_package_harms_no_other() -> None:
    packed = load_backbone("packed")
    assert (packed.name, packed.widths) == ("packed", [8, 12])
    assert "brokennet" not in sys.modules  # only what is asked for is imported
    assert plugins.plugin_names() == {
        "broken": "brokennet 1.2",
        "packed": "packnet 1.2",
        "torn": plugins.plugin_names()["torn"],
        "words": "packnet 1.2",
    }
    for name, message in (
        ("broken", r"brokennet 1\.2 \(brokennet:network\) can't be imported: ModuleNotFoundError"),
        ("words", r"packnet 1\.2 \(packnet:text\) gave str; expected a Backbone"),
        ("torn", r"offered by (brokennet|second) 1\.2 and (brokennet|second) 1\.2; expected one"),
    ):
        with pytest.raises(InputError, match=f"backbone '{name}': .*{message}"):
            load_backbone(name)
    with pytest.raises(InputError, match=r"the package packnet 1\.2 has it; register another"):
        register("packed", lambda: named("packed"))
    assert load_backbone("clip-mini").widths == [128] * 8  # the project's own name stays its own


def test_the_command_line_fits_a_packages_backbone(installed: Path, data_folder: Path) -> None:
    path = os.pathsep.join([str(installed), str(ROOT)])
    command = [sys.executable, "-m", "analysis", "fit", "sim01-tiny", "--recipe", "check"]
    done = subprocess.run(
        [*command, "--backbone", "packed"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "BRAINMAPS_DATA": str(data_folder)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "packed: tokens of 40 pictures" in done.stderr and "R²" in done.stdout
    assert list((data_folder / "fits/sim01-tiny").glob("packed-*/fit.json"))


def test_a_fit_is_read_only_if_it_is_there(data_folder: Path) -> None:
    from analysis import study

    name, recipe = "sim01-tiny", "check"
    assert study.fit_if_there(name, "mine", recipe) is None
    backbone = named("mine")
    register("mine", lambda: backbone)
    try:
        assert study.fit_if_there(name, "mine", recipe) is None
        made = study.get_fit(name, "mine", recipe=recipe)
        found = study.fit_if_there(name, "mine", recipe)
        assert found and found.folder == made.folder and found.record == made.record
        assert study.fit_if_there(name, "mine", recipe, seed=1) is None
        register("mine", lambda: named("mine", seed=1))
        assert study.fit_if_there(name, "mine", recipe) is None  # of other weights
        with pytest.raises(InputError, match="recipe 'long': expected one of"):
            study.fit_if_there(name, "mine", "long")
    finally:
        plugins.unregister("mine")
