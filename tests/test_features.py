"""The token cache: pooling by its definition, nothing made twice, nothing lost or mixed up."""

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from analysis import extraction, features
from analysis.backbones import Backbone, Preprocessing, View, card_of, load_backbone
from analysis.extraction import batch_size, extract, mend
from analysis.features import (
    Form,
    cache_folder,
    known,
    pool,
    read_manifest,
    read_tokens,
    verify,
)
from analysis.files import InputError, digest
from analysis.growing import stored
from analysis.pictures import picture_digests
from tests.damage import fuzzed

WIDTHS = [3, 2]


class Toy(Backbone):
    """A network of two layers, 16 x 16 and 7 x 7 tokens; counts the pictures it was shown."""

    def __init__(self, weight: float = 1.0):
        super().__init__("toy", Preprocessing((16, 16)))
        self.widths = WIDTHS
        self.weight = nn.Parameter(torch.tensor(weight))
        self.freeze()
        self.shown: list[int] = []

    def forward(self, pictures: UInt8[Tensor, "n h w 3"]) -> tuple[list[Tensor], list[Tensor]]:
        self.shown.append(len(pictures))
        x = pictures.permute(0, 3, 1, 2).float() * self.weight / 255
        local = [x, x[:, :2, :7, :7].sin()]
        return local, [t.mean((2, 3)) for t in local]


class Twins(Toy):
    """Its two layers are two views; the pass stops when nobody asks for the second."""

    @property
    def views(self) -> list[View]:
        return [
            View(f"toy@{i}", digest([self.identity, i]), slice(i, i + 1), (WIDTHS[i],), ("1",))
            for i in range(2)
        ]


PICTURES = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), np.uint8)
DIGESTS = picture_digests(PICTURES)


def cache_of(backbone: Toy) -> Path:
    (view,) = backbone.views
    return cache_folder(view)


def made(backbone: Toy, rows: list[int] | range = range(23), **options) -> features.Tokens:
    """The tokens of some pictures, by way of the cache."""
    rows = np.array(rows)
    digests = [DIGESTS[r] for r in rows]
    options = {"batch": 5} | options
    return extract(backbone, lambda some: PICTURES[rows[some]], digests, **options)[0]


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test, with five pictures in a part."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    monkeypatch.setattr(extraction, "PART_BYTES", 5 * (2 * sum(WIDTHS) * 65 + 16))


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


@pytest.mark.parametrize("side", [8, 16, 64, 7])
def test_the_papers_pooling_is_bilinear_between_the_centres_of_cells(side: int) -> None:
    maps = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(side))
    local, _ = pool([maps], [torch.zeros(1, 2)], Form(pooling="bilinear"))
    places = ((np.arange(8) + 0.5) * side / 8 - 0.5).clip(0, side - 1)
    low = np.minimum(np.floor(places).astype(int), side - 1)
    high, share = np.minimum(low + 1, side - 1), places - low
    rows = np.eye(side)[low] * (1 - share[:, None]) + np.eye(side)[high] * share[:, None]
    expected = rows @ maps[0].double().numpy() @ rows.T
    np.testing.assert_allclose(local[0].numpy(), expected, atol=1e-5)


def test_plain_bilinear_reads_a_sixteenth_of_a_large_map_and_the_area_all_of_it() -> None:
    for pooling, read in (("bilinear", 8 * 8 * 4), ("area", 64 * 64)):
        maps = torch.zeros(1, 1, 64, 64, requires_grad=True)
        local, _ = pool([maps], [torch.zeros(1, 1)], Form(pooling=pooling))
        local.sum().backward()
        assert int((maps.grad != 0).sum()) == read


def test_cached_tokens_are_the_networks_within_float16() -> None:
    backbone = load_backbone("clip-mini")
    pictures = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), np.uint8)
    digests = picture_digests(pictures)
    (tokens,) = extract(backbone, lambda rows: pictures[rows], digests, batch=2)
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
    for got, exact in ((local, expected[0]), (global_, expected[1])):
        torch.testing.assert_close(got, exact, rtol=2**-11, atol=1e-9)


def test_nothing_is_made_twice() -> None:
    backbone = Toy()
    assert_right(made(backbone, range(12), batch=3), range(12))
    assert backbone.shown == [3, 3, 3, 3]  # parts of 5 rounded to whole batches of 3
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
    assert cache_of(one) != cache_of(other)
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


def test_everything_that_determines_tokens_has_a_folder_of_its_own() -> None:
    (view,) = Toy().views
    forms = [Form(), Form(grid=4), Form(pooling="bilinear"), Form(precision="bfloat16")]
    assert len({cache_folder(view, form) for form in forms}) == 4
    pictures = [np.array(range(23))]
    made(Toy())
    for form in forms[1:]:
        backbone = Toy()
        made(backbone, pictures[0], form=form)
        assert sum(backbone.shown) == 23


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("pooling", "max", "pooling='max': expected 'area' or 'bilinear'"),
        ("precision", "float16", "precision='float16': expected 'float32' or 'bfloat16'"),
        ("grid", 0, "grid=0: expected 1 or more"),
    ],
)
def test_an_unknown_form_is_refused(field: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Form(**{field: value})


def test_low_precision_is_close_and_not_equal() -> None:
    backbone = load_backbone("clip-mini")
    pictures = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), np.uint8)
    arguments = (backbone, lambda rows: pictures[rows], picture_digests(pictures))
    full, low = (extract(*arguments, Form(precision=p))[0] for p in ("float32", "bfloat16"))
    one, two = (t[np.arange(2)][0] for t in (full, low))
    difference = ((one - two).norm() / one.norm()).item()
    assert 1e-4 < difference < 0.05 and full.identity != low.identity


# Range and precision


@fuzzed(60)
@given(st.integers(-30, 30), st.integers(0, 2**31))
def test_values_of_any_size_come_back_to_float16s_precision(exponent: int, seed: int) -> None:
    """Values over a factor of 2²⁸ in one layer, about 10⁻⁹ or 10⁹; another layer is of its own."""
    view = View("toy", "x", slice(None), (3, 2), ("1", "2"))
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(4, 5, 8, 8, generator=generator) * 27
    local = torch.randn(4, 5, 8, 8, generator=generator).sign() * 2 ** (exponent - sizes)
    local[:, :3] *= 3.0
    global_ = local.mean((2, 3))
    kept = stored(view, local, global_, ["a", "b", "c", "d"])
    assert np.isfinite(kept.local).all() and kept.local.dtype == np.float16
    scale = np.repeat(kept.scale, WIDTHS, axis=2)
    assert (np.log2(kept.scale) == np.rint(np.log2(kept.scale))).all()
    back = kept.local.astype(np.float64) * scale[:, 0, :, None, None]
    np.testing.assert_allclose(back, local.double().numpy(), rtol=2**-11)
    back = kept.global_.astype(np.float64) * scale[:, 1]
    largest = np.abs(global_.numpy()).max()
    np.testing.assert_allclose(back, global_.double().numpy(), rtol=2**-11, atol=2**-38 * largest)


class Wide(Toy):
    """Layers with activations that float16 can't hold, or not with all its digits."""

    def forward(self, pictures: UInt8[Tensor, "n h w 3"]) -> tuple[list[Tensor], list[Tensor]]:
        (one, two), _ = super().forward(pictures)
        local = [one * 1e6 + 1e5, two * 1e-8]
        return local, [t.mean((2, 3)) for t in local]


def test_layers_beyond_float16s_range_are_read_as_they_were() -> None:
    local, global_ = made(Wide())[np.arange(23)]
    with torch.no_grad():
        expected = pool(*Wide()(torch.from_numpy(PICTURES)))
    assert expected[0].max() > 1e6 and expected[0][:, 3:].abs().max() < 1e-7
    torch.testing.assert_close(local, expected[0], rtol=2**-11, atol=0)
    torch.testing.assert_close(global_, expected[1], rtol=2**-11, atol=0)


def test_a_layer_of_zeros_is_zeros() -> None:
    view = View("toy", "x", slice(None), (1,), ("1",))
    kept = stored(view, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1), ["a"])
    assert not kept.local.any() and np.isfinite(kept.scale).all()


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_tokens_that_are_not_finite_name_layer_and_picture(weight: float) -> None:
    with pytest.raises(
        InputError, match=f"tokens of toy: not finite in layer 1 .*{DIGESTS[0][:12]}"
    ):
        made(Toy(weight))
    assert not part_paths() and not known(cache_of(Toy(weight)))


# Statistics


@pytest.mark.parametrize("rows", [range(23), [4, 9, 2, 17]])
def test_statistics_are_numpys(rows: list[int] | range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STATISTICS_AT_ONCE", 6)
    tokens = made(Toy())
    found = tokens.statistics(np.array(rows))
    local, global_ = (t.double().numpy() for t in tokens[np.array(rows)])
    np.testing.assert_allclose(found.local_mean, local.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.local_sd, local.std((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.global_mean, global_.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.global_sd, global_.std(0), rtol=1e-6)
    for layer, channels in enumerate((slice(0, 3), slice(3, 5))):
        lengths = np.linalg.norm(local[:, channels], axis=1).mean()
        np.testing.assert_allclose(found.local_norm[layer], lengths, rtol=1e-6)
        lengths = np.linalg.norm(global_[:, channels], axis=1).mean()
        np.testing.assert_allclose(found.global_norm[layer], lengths, rtol=1e-6)


def test_statistics_do_not_depend_on_order_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = made(Toy())
    one = tokens.statistics(np.array([3, 8, 1]))
    monkeypatch.setattr(features, "_statistics", None)  # not reckoned again
    two = tokens.statistics(np.array([8, 1, 3, 3]))
    assert all(
        torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
    )
    with pytest.raises(TypeError):
        tokens.statistics(np.array([8, 1]))


# Files


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a cache but locks."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    }


def test_the_same_pictures_give_the_same_bytes_and_nothing_is_left_under_way() -> None:
    made(Toy())
    folder = cache_of(Toy())
    first = contents(folder)
    shutil.rmtree(folder)
    made(Toy())
    assert contents(folder) == first
    parts = read_manifest(folder)["parts"]
    assert sorted(len(p["pictures"]) for p in parts.values()) == [3, 5, 5, 5, 5]
    assert {name: p["sha256"] for name, p in parts.items()} == {
        name: digest for name, digest in first.items() if name != "manifest.json"
    }


def test_a_part_is_a_safetensors_file_of_what_it_says() -> None:
    made(Toy())
    for path in part_paths():
        arrays = load_file(path)
        n = len(arrays["local"])
        assert arrays["local"].shape == (n, 5, 8, 8) and arrays["local"].dtype == torch.half
        assert arrays["scale"].shape == (n, 2, 2) and arrays["scale"].dtype == torch.float32
        with safetensors.safe_open(path, "pt") as f:
            record = json.loads(f.metadata()["record"])
        assert record["pictures"] == read_manifest(path.parent)["parts"][path.name]["pictures"]
        assert path.stat().st_mode & 0o777 == 0o644


def part_paths() -> list[Path]:
    return sorted(cache_of(Toy()).glob("*.safetensors"))


@pytest.mark.parametrize("name", ["clip-mini", "mae-mini-s", "sd-mini@T20"])
def test_a_picture_takes_what_the_networks_card_says(name: str) -> None:
    (view,) = load_backbone(name).views
    assert extraction.row_bytes(view) == card_of(name).cache_bytes


# Damage: found and made again, and never read


def unlink(path: Path) -> None:
    path.unlink()


def cut_to(kept: int):
    return lambda path: path.write_bytes(path.read_bytes()[:kept])


def anothers(path: Path) -> None:
    shutil.copy(next(p for p in part_paths() if p != path), path)


def silent(path: Path) -> None:
    """A part that says nothing of itself."""
    save_file(load_file(path), path)


def other_network(path: Path) -> None:
    made(Toy(2.0))
    shutil.copy(cache_of(Toy(2.0)) / path.name, path)


DAMAGE = {
    "gone": (unlink, "not found"),
    "empty": (cut_to(0), "damaged"),
    "cut in its header": (cut_to(5), "damaged"),
    "cut in its values": (cut_to(-1), "damaged"),
    "another part": (anothers, "holds other pictures"),
    "another network's": (other_network, "holds other pictures"),
    "without record": (silent, "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_part_is_refused_by_readers_and_made_again(kind: str) -> None:
    made(Toy())
    whole, path = contents(cache_of(Toy())), part_paths()[1]
    damage, message = DAMAGE[kind]
    damage(path)
    with pytest.raises(InputError, match=rf"{path}: {message}.*Extract again"):
        read_tokens(cache_of(Toy()), DIGESTS)
    said, backbone = [], Toy()
    assert_right(made(backbone, report=said.append), range(23))
    assert sum(backbone.shown) == len(
        read_manifest(cache_of(Toy()))["parts"][path.name]["pictures"]
    )
    assert path.name in said[0] and said[0].endswith("Its pictures are made again.")
    assert contents(cache_of(Toy())) == whole


def test_a_flipped_bit_is_found_where_every_byte_is_read_and_made_again() -> None:
    made(Toy())
    folder = cache_of(Toy())
    whole = contents(folder)
    assert verify(folder) == [] == mend(folder, every_byte=True)
    path = part_paths()[3]
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes(raw)
    assert mend(folder, every_byte=False) == [] and verify(folder) == [path.name]
    backbone = Toy()
    assert_right(made(backbone, every_byte=True), range(23))
    assert backbone.shown and contents(folder) == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"parts": {',
        "[]",
        "3",
        "{}",
        '{"key": "k", "widths": [3, 2], "layer_names": [], "parts": []}',
        '{"key": "k", "widths": [3, 2], "layer_names": [], "parts": {"a.safetensors": {}}}',
        '{"key": "k", "widths": [3, 2], "layer_names": [], "parts": {"a.safetensors": 1}}',
    ],
)
def test_a_bad_manifest_is_named(text: str) -> None:
    made(Toy())
    path = cache_of(Toy()) / "manifest.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        made(Toy())
    assert str(path) in str(error.value) and "Delete this folder" in str(error.value)


def test_pictures_not_cached_are_counted() -> None:
    made(Toy(), range(5))
    with pytest.raises(InputError, match="3 of 4 pictures not cached"):
        read_tokens(cache_of(Toy()), DIGESTS[4:8])


def test_too_small_a_disk_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    backbone = Toy()
    with pytest.raises(InputError, match=r"0 MB free.*the token cache of toy needs"):
        made(backbone)
    assert backbone.shown == [] and not cache_of(backbone).exists()


def test_a_disk_that_fills_up_keeps_what_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = extraction.Growing.add, []

    def full(part: extraction.Growing, row: int, batch: object) -> None:
        calls.append(row)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(part, row, batch)

    with monkeypatch.context() as patch:
        patch.setattr(extraction.Growing, "add", full)
        with pytest.raises(InputError, match=r"the disk is full\. What was made before is kept"):
            made(Toy(), batch=2)
    backbone = Toy()
    assert_right(made(backbone, batch=2), range(23))
    assert sum(backbone.shown) == 17  # a part of 4 and the first batch of 2 were there


def test_the_forecast_says_how_many_how_large_and_how_long() -> None:
    said = []
    made(Toy(), report=said.append)
    assert said[0] == "toy: tokens of 23 pictures are made, 0.000 GB."
    assert "pictures a second; about" in said[1] and len(said) == 2
    made(Toy(), report=said.append)
    assert len(said) == 2  # nothing to do, nothing said


# Several views in one pass


def both(backbone: Twins, rows: range = range(23)) -> list[features.Tokens]:
    digests = [DIGESTS[r] for r in rows]
    return extract(backbone, lambda some: PICTURES[np.array(rows)[some]], digests, batch=5)


def test_one_pass_fills_the_cache_of_each_view() -> None:
    backbone = Twins()
    one, two = both(backbone)
    assert sum(backbone.shown) == 23 and (one.widths, two.widths) == ([3], [2])
    whole, _ = made(Toy())[np.arange(23)]
    assert torch.equal(one[np.arange(23)][0], whole[:, :3])
    assert torch.equal(two[np.arange(23)][0], whole[:, 3:])
    again = Twins()
    both(again)
    assert again.shown == []


def test_a_view_that_is_there_is_not_written_again() -> None:
    backbone = Twins()
    both(backbone)
    first, second = (cache_folder(view) for view in backbone.views)
    before = contents(first)
    whole = contents(second)
    shutil.rmtree(second)
    both(Twins())
    assert contents(first) == before and contents(second) == whole


# Bounded memory


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    """What Python and numpy hold at most, for 60 and for 480 pictures of 192 KB."""

    def peak(n: int) -> int:
        backbone = Toy(1.0 + n)
        digests = [f"picture {n} {i}" for i in range(n)]

        def read(rows: np.ndarray) -> np.ndarray:
            return np.zeros((len(rows), 256, 256, 3), np.uint8)

        tracemalloc.start()
        extract(backbone, read, digests, batch=4)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(8)  # what is loaded at the first use
    few, many = peak(60), peak(480)
    assert many < 1.25 * few + 200_000  # the digests themselves: 64 bytes and more each


def test_a_batch_is_as_large_as_its_tokens_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_size(Toy(), PICTURES) == extraction.MOST_AT_ONCE
    one = 4 * (3 * 256 + 2 * 49)
    monkeypatch.setattr(extraction, "BATCH_BYTES", 6 * one + 5)
    assert batch_size(Toy(), PICTURES) == 6
    monkeypatch.setattr(extraction, "BATCH_BYTES", 5)
    assert batch_size(Toy(), PICTURES) == 1


# Killed and several writers. In a process of its own, which forks a child for each.

WRITERS = """
import os, pathlib, random, signal, sys
import numpy as np, torch
sys.path.insert(0, sys.argv[2])
from analysis import extraction
from tests.test_features import DIGESTS, PICTURES, WIDTHS, Toy

torch.set_num_threads(1)
extraction.PART_BYTES = 5 * (2 * sum(WIDTHS) * 65 + 16)
events = 0

def counted(function, kill_at):
    def wrapped(*arguments):
        global events
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return wrapped

def fork(folder, rows, kill_at=None):
    child = os.fork()
    if child == 0:
        os.environ["BRAINMAPS_DATA"] = folder
        backbone = Toy()
        # before each pass, each writing of a batch, and each renaming of a part or record
        backbone.forward = counted(backbone.forward, kill_at)
        os.fdatasync = counted(os.fdatasync, kill_at)
        pathlib.Path.replace = counted(pathlib.Path.replace, kill_at)
        pictures, digests = PICTURES[rows], [DIGESTS[r] for r in rows]
        extraction.extract(backbone, lambda some: pictures[some], digests, batch=2)
        with open(f"{folder}/shown", "a") as f:
            print(sum(backbone.shown), events, file=f)
        os._exit(0)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

root, every = sys.argv[1], np.arange(23)
assert ended(fork(f"{root}/whole", every)) == 0
total = int(open(f"{root}/whole/shown").read().split()[1])
for i, moment in enumerate(random.Random(0).sample(range(1, total + 1), 20)):
    assert ended(fork(f"{root}/killed{i}", every, moment)) == -signal.SIGKILL
    second = random.Random(i).randrange(1, 20)  # the second try is killed too, if it gets that far
    ended(fork(f"{root}/killed{i}", every, second))
    assert ended(fork(f"{root}/killed{i}", every)) == 0
both = [fork(f"{root}/two", every) for _ in range(2)]
assert [ended(child) for child in both] == [0, 0]
both = [fork(f"{root}/overlap", rows) for rows in (every, np.arange(22, 2, -1))]
assert [ended(child) for child in both] == [0, 0]
"""


@pytest.fixture(scope="module")
def left_by_writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches as they were left by writers killed at 20 moments and resumed, and by two at once."""
    root = tmp_path_factory.mktemp("writers")
    here = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(root), here],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("name", [*(f"killed{i}" for i in range(20)), "two"])
def test_killed_or_two_at_once_the_bytes_are_those_of_one_whole_run(
    left_by_writers: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(left_by_writers / "whole"))
    whole = contents(cache_of(Toy()))
    assert len(whole) == 7  # six parts of four pictures and the manifest
    monkeypatch.setenv("BRAINMAPS_DATA", str(left_by_writers / name))
    backbone = Toy()
    assert_right(made(backbone, batch=2), range(23))
    assert backbone.shown == [] and contents(cache_of(backbone)) == whole


def test_two_at_once_share_the_work(left_by_writers: Path) -> None:
    lines = (left_by_writers / "two/shown").read_text().splitlines()
    shown = [int(line.split()[0]) for line in lines]
    assert len(shown) == 2 and sum(shown) == 23


def test_two_that_overlap_lose_nothing(
    left_by_writers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(left_by_writers / "overlap"))
    backbone = Toy()
    assert_right(made(backbone), range(23))
    assert backbone.shown == [] and verify(cache_of(backbone)) == []


class Dies(Exception):
    """In place of a kill, so that what was shown can be counted."""


def stopping(after: int) -> Toy:
    """A network that dies in the pass that follows so many."""
    backbone = Toy()
    forward = backbone.forward

    def counted(pictures: UInt8[Tensor, "n h w 3"]) -> tuple[list[Tensor], list[Tensor]]:
        if len(backbone.shown) == after:
            raise Dies
        return forward(pictures)

    backbone.forward = counted
    return backbone


@pytest.mark.parametrize("after", range(1, 12))
def test_a_run_goes_on_at_the_batch_where_it_stopped(after: int) -> None:
    backbone = stopping(after)
    with pytest.raises(Dies):
        made(backbone, batch=2)
    again = Toy()
    assert_right(made(again, batch=2), range(23))
    assert sum(again.shown) + sum(backbone.shown) == 23


def test_a_part_under_way_of_other_bytes_is_begun_anew() -> None:
    backbone = stopping(after=1)
    with pytest.raises(Dies):
        made(backbone, batch=2)
    (path,) = (cache_of(backbone) / "under_way").glob("*.safetensors")
    raw = path.read_bytes()
    path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    again = Toy()
    assert_right(made(again, batch=2), range(23))
    assert sum(again.shown) == 23


def test_what_was_begun_in_another_order_is_removed_when_its_pictures_are_there() -> None:
    backbone = stopping(after=1)
    with pytest.raises(Dies):
        made(backbone, range(22, -1, -1), batch=2)
    folder = cache_of(backbone) / "under_way"
    assert len(list(folder.glob("*.safetensors"))) == 1
    made(Toy(), range(4), batch=2)  # others of its pictures are still missing
    assert len(list(folder.glob("*.safetensors"))) == 1
    assert_right(made(Toy(), batch=2), range(23))
    assert list(folder.iterdir()) == []


def test_threads_that_extract_at_once_agree() -> None:
    backbones = [Toy(), Toy()]
    threads = [threading.Thread(target=made, args=(b,)) for b in backbones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_right(made(Toy()), range(23))
    assert sum(sum(b.shown) for b in backbones) == 23


def test_reading_is_in_any_order_and_the_same_each_time() -> None:
    tokens = made(Toy())
    local, global_ = tokens[np.arange(23)]
    for _ in range(5):
        rows = np.array(random.Random(3).choices(range(23), k=8))
        one, two = tokens[rows]
        assert torch.equal(one, local[rows]) and torch.equal(two, global_[rows])
    assert tokens[np.array([], int)][0].shape == (0, 5, 8, 8)


@pytest.mark.parametrize("network", [Toy, Wide])
def test_a_layer_alone_is_what_is_read_with_the_others(network: type[Toy]) -> None:
    tokens, rows = made(network()), np.array([4, 21, 4])
    local, global_ = tokens[rows]
    for layer, before in enumerate([0, WIDTHS[0]]):
        for some in (slice(None), slice(1, 2), slice(0, 99)):
            one, two = tokens.of_layer(rows, layer, some)
            here = np.arange(before, before + WIDTHS[layer])[some]
            assert torch.equal(one, local[:, here]) and torch.equal(two, global_[:, here])
