"""The token cache: pooling by its definition, nothing made twice, nothing lost or mixed up."""

import hashlib
import inspect
import json
import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from analysis import features
from analysis.backbones import load_backbone
from analysis.features import cache_folder, extract, picture_digests, pool, read_tokens, verify
from analysis.files import InputError

WIDTHS = [3, 2]


class Toy(nn.Module):
    """A network of two layers, 16 x 16 and 7 x 7 tokens; counts the pictures it was shown."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.name, self.widths = "toy", WIDTHS
        self.weight = nn.Parameter(torch.tensor(weight))
        self.identity = f"toy {weight}"
        self.shown: list[int] = []

    def forward(self, pictures: UInt8[Tensor, "n h w 3"]) -> tuple[list[Tensor], list[Tensor]]:
        self.shown.append(len(pictures))
        x = pictures.permute(0, 3, 1, 2).float() * self.weight / 255
        local = [x, x[:, :2, :7, :7].sin()]
        return local, [t.mean((2, 3)) for t in local]


PICTURES = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), np.uint8)
DIGESTS = picture_digests(PICTURES)


def made(backbone: Toy, rows: list[int] | range = range(23), **options) -> features.Tokens:
    """The tokens of some pictures, by way of the cache."""
    rows = np.array(rows)
    digests = [DIGESTS[r] for r in rows]
    return extract(backbone, lambda some: PICTURES[rows[some]], digests, **options)


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test, with five pictures in a part."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    monkeypatch.setattr(features, "PART_BYTES", 5 * 2 * sum(WIDTHS) * 65)


def averaged(maps: Float[np.ndarray, "channel h w"]) -> Float[np.ndarray, "channel 8 8"]:
    """torch's definition: cell i holds the tokens from ⌊i n / 8⌋ to ⌈(i + 1) n / 8⌉, each once."""
    _, height, width = maps.shape
    out = np.empty((len(maps), 8, 8))
    for y in range(8):
        rows = slice(y * height // 8, math.ceil((y + 1) * height / 8))
        for x in range(8):
            columns = slice(x * width // 8, math.ceil((x + 1) * width / 8))
            out[:, y, x] = maps[:, rows, columns].mean((1, 2))
    return out


@pytest.mark.parametrize("side", [8, 16, 64, 7, 14, 9])
def test_pooling_is_the_mean_over_blocks_also_where_the_grid_does_not_divide(side: int) -> None:
    maps = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    vectors = [torch.randn(2, 3), torch.randn(2, 1)]
    local, global_ = pool([maps, maps[:, :1]], vectors)
    assert local.shape == (2, 4, 8, 8)
    for picture, exact in zip(local, maps.double().numpy(), strict=True):
        np.testing.assert_allclose(picture[:3].numpy(), averaged(exact), atol=1e-6)
        np.testing.assert_allclose(picture[3:].numpy(), averaged(exact[:1]), atol=1e-6)
    assert torch.equal(global_, torch.cat(vectors, 1))


def test_cached_tokens_are_the_networks_within_float16() -> None:
    backbone = load_backbone("clip-mini")
    pictures = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), np.uint8)
    tokens = extract(backbone, lambda rows: pictures[rows], picture_digests(pictures), batch=2)
    with torch.inference_mode():
        local, global_ = backbone(torch.from_numpy(pictures))
    local = torch.cat(local, 1).double().numpy()
    ours, vectors = tokens[np.array([2, 0])]
    assert ours.dtype == vectors.dtype == torch.float32
    for got, row in zip(ours.numpy(), (2, 0), strict=True):
        blocks = local[row].reshape(8 * 128, 8, 2, 8, 2).mean((2, 4))
        np.testing.assert_allclose(got, blocks, rtol=2**-10, atol=2e-3)
    expected = torch.cat(global_, 1)[[2, 0]]
    torch.testing.assert_close(vectors, expected, rtol=2**-10, atol=2e-3)


def assert_right(tokens: features.Tokens, rows: list[int] | range, weight: float = 1.0) -> None:
    """Fails unless every picture has its own tokens."""
    assert len(tokens) == len(rows) and tokens.widths == WIDTHS
    local, global_ = tokens[np.arange(len(rows))]
    with torch.no_grad():
        expected = pool(*Toy(weight)(torch.from_numpy(PICTURES[np.array(rows)])))
    assert torch.equal(local, expected[0].half().float())
    assert torch.equal(global_, expected[1].half().float())


def test_nothing_is_made_twice() -> None:
    backbone = Toy()
    assert_right(made(backbone, range(12), batch=3), range(12))
    assert backbone.shown == [3, 2, 3, 2, 2]  # parts of 5, batches of 3
    again = Toy()
    assert_right(made(again, range(12)), range(12))
    assert again.shown == []
    assert_right(made(again, [11, 3, 20, 0, 15]), [11, 3, 20, 0, 15])
    assert again.shown == [2]  # 20 and 15 were new


def test_order_and_repetition_of_pictures_are_those_asked_for() -> None:
    rows = [4, 2, 4, 22, 0, 2]
    assert_right(made(Toy(), rows), rows)
    assert_right(made(Toy(), range(23)), range(23))


def test_another_weight_has_a_folder_of_its_own() -> None:
    one, other = Toy(1.0), Toy(2.0)
    made(one)
    assert cache_folder(one) != cache_folder(other)
    assert_right(made(other), range(23), weight=2.0)
    assert other.shown
    assert_right(made(one), range(23))


def test_identity_is_that_of_network_and_pictures_in_their_order() -> None:
    same = made(Toy()).identity
    assert made(Toy()).identity == same
    others = [made(Toy(), range(22)).identity, made(Toy(), range(22, -1, -1)).identity]
    assert len({same, *others, made(Toy(2.0)).identity}) == 4


def test_a_picture_is_known_by_pixels_and_shape() -> None:
    tall = np.zeros((1, 4, 2, 3), np.uint8)
    assert picture_digests(tall) != picture_digests(tall.reshape(1, 2, 4, 3))
    other = tall.copy()
    other[0, 3, 1, 2] = 1
    assert picture_digests(np.concatenate([tall, other, tall]))[0::2] == picture_digests(tall) * 2
    assert picture_digests(other) != picture_digests(tall)


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a cache but the lock."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.iterdir()
        if p.name != ".manifest.lock"
    }


def test_the_same_pictures_give_the_same_bytes() -> None:
    made(Toy())
    folder = cache_folder(Toy())
    first = contents(folder)
    shutil.rmtree(folder)
    made(Toy(), batch=2)
    assert contents(folder) == first
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    assert sorted(len(p["pictures"]) for p in parts.values()) == [3, 5, 5, 5, 5]
    assert {name: p["sha256"] for name, p in parts.items()} == {
        name: digest for name, digest in first.items() if name != "manifest.json"
    }


def part_paths() -> list[Path]:
    return sorted(cache_folder(Toy()).glob("*.safetensors"))


def test_a_missing_part_is_named() -> None:
    made(Toy())
    part_paths()[2].unlink()
    with pytest.raises(InputError, match=f"{part_paths()[0].parent}.*not found"):
        made(Toy())
    assert verify(cache_folder(Toy()))


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_part_is_named(kept: int) -> None:
    made(Toy())
    path = part_paths()[1]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"{path}: damaged.*Delete this folder"):
        made(Toy())


def test_a_part_put_in_anothers_place_is_named() -> None:
    made(Toy())
    first, second = part_paths()[:2]
    shutil.copy(first, second)
    with pytest.raises(InputError, match=f"{second}: holds other pictures"):
        made(Toy())


def test_a_part_of_another_network_is_named() -> None:
    made(Toy(1.0))
    made(Toy(2.0))
    path = part_paths()[0]
    shutil.copy(cache_folder(Toy(2.0)) / path.name, path)
    with pytest.raises(InputError, match=f"{path}: holds other pictures"):
        made(Toy(1.0))


def test_a_part_that_says_nothing_of_itself_is_named() -> None:
    made(Toy())
    path = part_paths()[0]
    save_file(load_file(path), path)
    with pytest.raises(InputError, match=f"{path}: damaged"):
        made(Toy())


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"parts": {',
        "[]",
        "3",
        "{}",
        '{"key": "k", "widths": [3, 2], "parts": []}',
        '{"key": "k", "widths": [3, 2], "parts": {"a.safetensors": {}}}',
        '{"key": "k", "widths": [3, 2], "parts": {"a.safetensors": 1}}',
    ],
)
def test_a_bad_manifest_is_named(text: str) -> None:
    made(Toy())
    path = cache_folder(Toy()) / "manifest.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        made(Toy())
    assert str(path) in str(error.value) and "Delete this folder" in str(error.value)


def test_pictures_not_cached_are_counted() -> None:
    made(Toy(), range(5))
    with pytest.raises(InputError, match="3 of 4 pictures not cached"):
        read_tokens(cache_folder(Toy()), DIGESTS[4:8])


def test_a_flipped_bit_is_found_by_verify() -> None:
    made(Toy())
    assert verify(cache_folder(Toy())) == []
    path = part_paths()[3]
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes(raw)
    assert verify(cache_folder(Toy())) == [path.name]


def test_too_small_a_disk_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    backbone = Toy()
    with pytest.raises(InputError, match=r"0 MB free.*the token cache of toy needs"):
        made(backbone)
    assert backbone.shown == [] and not cache_folder(backbone).exists()


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e6])
def test_tokens_that_are_not_finite_in_float16_are_refused(weight: float) -> None:
    with pytest.raises(InputError, match="tokens of toy: not finite in float16"):
        made(Toy(weight))
    assert not part_paths()


# Run in a process of its own, which forks a writer for each death and two that write at once.
WRITERS = """
import os, signal, sys
import numpy as np, torch
from analysis import features
from analysis.features import extract, picture_digests

torch.set_num_threads(1)
features.PART_BYTES = {part_bytes}
PICTURES = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), np.uint8)

{toy}

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half(tensors, path, metadata):
    features.save_file_(tensors, path, metadata)
    open(path, "r+b").truncate(300)
    die()

features.save_file_ = features.save_file
DEATHS = {{"forward": 7, "part": 3, "manifest": 3}}

def writer(folder, death, rows):
    os.environ["BRAINMAPS_DATA"] = folder
    calls = 0
    def after(call, then):
        def wrapped(*arguments):
            nonlocal calls
            calls += 1
            return (then if calls == DEATHS[death] else call)(*arguments)
        return wrapped
    backbone = Toy()
    if death == "forward":
        backbone.forward = after(backbone.forward, die)
    if death == "part":
        features.save_file = after(features.save_file, half)
    if death == "manifest":
        features.write_json = after(features.write_json, die)
    pictures = PICTURES[rows]
    extract(backbone, lambda some: pictures[some], picture_digests(pictures), batch=2)

def fork(*arguments):
    child = os.fork()
    if child == 0:
        writer(*arguments)
        os._exit(0)
    return child

root = sys.argv[1]
for death in DEATHS:
    _, status = os.waitpid(fork(f"{{root}}/{{death}}", death, np.arange(23)), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, (death, status)
both = [fork(f"{{root}}/two", None, rows) for rows in (np.arange(23), np.arange(22, 2, -1))]
assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
"""


@pytest.fixture(scope="module")
def left_by_writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of caches as they were left by writers that were killed, and by two at once."""
    root = tmp_path_factory.mktemp("writers")
    toy = "from torch import nn\nWIDTHS = [3, 2]\n" + textwrap.dedent(inspect.getsource(Toy))
    toy = toy.replace('UInt8[Tensor, "n h w 3"]', "object")
    toy = toy.replace("tuple[list[Tensor], list[Tensor]]", "object")
    script = WRITERS.format(toy=toy, part_bytes=5 * 2 * sum(WIDTHS) * 65)
    subprocess.run([sys.executable, "-c", script, str(root)], check=True)
    return root


@pytest.mark.parametrize("death", ["forward", "part", "manifest"])
def test_a_run_that_was_killed_is_completed_as_if_it_had_not_been(
    left_by_writers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    made(Toy())
    whole = contents(cache_folder(Toy()))
    shutil.copytree(left_by_writers / death, tmp_path / death)
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / death))
    backbone = Toy()
    left = sorted(p.name for p in cache_folder(backbone).iterdir())
    assert any(".part" in name for name in left) == (death == "part")
    assert sum(name.endswith(".safetensors") for name in left) == 2 + (death != "forward")
    tokens = made(backbone)
    assert sum(backbone.shown) == 13  # two parts of five had been finished
    assert_right(tokens, range(23))
    assert contents(cache_folder(backbone)) == whole


def test_two_writers_at_once_lose_nothing(
    left_by_writers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(left_by_writers / "two"))
    backbone = Toy()
    assert_right(made(backbone), range(23))
    assert backbone.shown == [] and verify(cache_folder(backbone)) == []
    parts = json.loads((cache_folder(backbone) / "manifest.json").read_text())["parts"]
    assert parts.keys() == {p.name for p in part_paths()}
    assert {d for part in parts.values() for d in part["pictures"]} == set(DIGESTS)
