"""The backbones: tokens against hooks, Table 6, open_clip's checkpoints, preprocessing."""

import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from jaxtyping import UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import functional as pil_functional

from analysis.backbones import CARDS, Preprocessing, load_backbone
from analysis.backbones.libraries import open_clip_tower
from analysis.backbones.network import VisionNetwork
from analysis.files import InputError

FULL_SIZE = {  # Table 6
    "clip-xl": ("CLIP XL", 24, 1024, 224, 14, "DataComp-1B"),
    "clip-l": ("CLIP L", 12, 768, 224, 16, "DataComp-140M"),
    "clip-m": ("CLIP M", 12, 768, 224, 32, "DataComp-14M"),
    "clip-s": ("CLIP S", 12, 768, 224, 32, "DataComp-1.4M"),
}


@pytest.fixture(scope="module")
def mini() -> VisionNetwork:
    return load_backbone("clip-mini")


def noise(*shape: int, seed: int = 0) -> UInt8[Tensor, "batch height width 3"]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def hooked(visual: nn.Module, x: Tensor) -> list[Tensor]:
    """What forward hooks see leave each block, [batch, 1 + patches, channel]."""
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, inputs, out: seen.append(out))
        for block in visual.transformer.resblocks
    ]
    visual(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["clip-mini", "clip-l"])
def test_tokens_are_what_hooks_see(name: str) -> None:
    backbone = load_backbone(name, "random")
    pictures = noise(1, 100, 100)
    side = backbone.preprocess.size[0] // CARDS[name].patch
    with torch.inference_mode():
        local, global_ = backbone(pictures)
        blocks = hooked(backbone.network, backbone.preprocess(pictures))
    assert len(local) == len(global_) == len(blocks) == CARDS[name].layers
    for maps, vector, block in zip(local, global_, blocks, strict=True):
        assert torch.equal(vector, block[:, 0])
        assert maps.shape == (1, CARDS[name].width, side, side)
        for y in range(side):  # patch tokens lie by row
            assert torch.equal(maps[:, :, y].mT, block[:, 1 + y * side : 1 + (y + 1) * side])


def test_layers_differ_and_pictures_matter_in_drawn_weights(mini: VisionNetwork) -> None:
    with torch.inference_mode():
        local, global_ = mini(noise(2, 128, 128))
    for maps, vector in zip(local, global_, strict=True):
        assert maps.isfinite().all() and vector.isfinite().all()
        difference = (vector[0] - vector[1]).norm() / vector.norm()
        assert difference > 0.05
    for below, above in pairwise(global_):
        assert torch.cosine_similarity(below[0], above[0], 0) < 0.95


def test_a_picture_gets_the_same_tokens_in_any_batch(mini: VisionNetwork) -> None:
    pictures = noise(3, 128, 128)
    with torch.inference_mode():
        together, _ = mini(pictures)
        alone, _ = mini(pictures[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_weights_are_frozen_and_in_evaluation_mode(mini: VisionNetwork) -> None:
    assert not mini.network.training
    assert not any(p.requires_grad for p in mini.parameters())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_architecture_is_table_6s(name: str) -> None:
    title, layers, width, input_size, patch, data = FULL_SIZE[name]
    card = CARDS[name]
    assert (card.title, card.data) == (title, data)
    assert (card.layers, card.width, card.input_size, card.patch) == (
        layers,
        width,
        input_size,
        patch,
    )
    with torch.device("meta"):
        visual = open_clip_tower(card.architecture, None)
    preprocess = Preprocessing((input_size, input_size), card.mean, card.std, card.interpolation)
    backbone = VisionNetwork(name, visual, preprocess)
    assert backbone.widths == [width] * layers
    assert backbone.preprocess.size == (input_size, input_size)
    assert visual.conv1.weight.shape == (width, 3, patch, patch)
    assert visual.positional_embedding.shape == ((input_size // patch) ** 2 + 1, width)
    local, global_ = backbone(torch.empty(2, 425, 425, 3, dtype=torch.uint8, device="meta"))
    side = input_size // patch
    assert [t.shape for t in local] == [(2, width, side, side)] * layers
    assert [t.shape for t in global_] == [(2, width)] * layers
    # DataComp's networks were trained with GELU; QuickGELU has the same weights' names
    assert all(type(block.mlp.gelu) is nn.GELU for block in visual.transformer.resblocks)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_checkpoint_is_known_to_open_clip_with_the_cards_preprocessing(name: str) -> None:
    card = CARDS[name]
    published = open_clip.get_pretrained_cfg(card.architecture, card.tag)
    assert not published.get("quick_gelu", False)
    assert (published["mean"], published["std"]) == (card.mean, card.std)
    assert published["interpolation"] == card.interpolation
    pool = {"DataComp-1B": "xl", "DataComp-140M": "l", "DataComp-14M": "m", "DataComp-1.4M": "s"}
    assert card.tag.startswith(f"datacomp_{pool[card.data]}_")


IDENTITY = (
    "from analysis.backbones import load_backbone; print(load_backbone('clip-mini').identity)"
)


def test_identity_is_the_same_in_another_process(mini: VisionNetwork) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", IDENTITY]
    other = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert other.stdout.strip() == mini.identity


def test_identity_changes_with_all_that_determines_tokens(mini: VisionNetwork) -> None:
    card = CARDS["clip-mini"]

    def identity(
        name: str = "clip-mini",
        mean: tuple[float, float, float] = card.mean,
        interpolation: str = "bicubic",
        size: int = 128,
        weight: float = 0.0,
    ) -> str:
        visual = load_backbone("clip-mini").network
        with torch.no_grad():
            visual.transformer.resblocks[3].mlp.c_fc.weight[5, 7] += weight
        preprocess = Preprocessing((size, size), mean, card.std, interpolation)
        return VisionNetwork(name, visual, preprocess).identity

    changed = [
        identity(name="other"),
        identity(mean=(0.5, 0.5, 0.5)),
        identity(interpolation="bilinear"),
        identity(size=120),
        identity(weight=1e-6),
    ]
    assert len({identity(), *changed}) == 6


@pytest.fixture(scope="module")
def trained(mini: VisionNetwork) -> open_clip.CLIP:
    """A whole CLIP, picture and text, with other weights than those that are drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return open_clip.CLIP(**open_clip.get_model_config("clip-mini"))


def write(path: Path, clip: open_clip.CLIP, layout: str) -> Path:
    state = clip.state_dict()
    if layout == "bare":
        torch.save(state, path)
    elif layout == "training":  # as open_clip's own training writes it, on several devices
        state = {f"module.{k}": v for k, v in state.items()}
        torch.save({"epoch": 3, "name": "a run", "state_dict": state, "optimizer": {}}, path)
    else:
        save_file({k: v.clone() for k, v in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("open_clip_pytorch_model.bin", "bare"),
        ("epoch_3.pt", "training"),
        ("open_clip_model.safetensors", "safetensors"),
    ],
)
def test_a_checkpoint_file_gives_its_weights(
    trained: open_clip.CLIP, mini: VisionNetwork, tmp_path: Path, name: str, layout: str
) -> None:
    backbone = load_backbone("clip-mini", str(write(tmp_path / name, trained, layout)))
    expected = trained.visual.state_dict()
    assert backbone.network.state_dict().keys() == expected.keys()
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert backbone.identity != mini.identity
    assert not backbone.network.training


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (os.system, (f"touch {mark}",))

    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(InputError, match=r"checkpoint\.pt.*UnpicklingError"):
        load_backbone("clip-mini", str(path))
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(InputError, match=r"checkpoint\.pt.*UnpicklingError"):
        load_backbone("clip-mini", str(path))
    assert not mark.exists()


def damaged(path: Path, clip: open_clip.CLIP, damage: str) -> Path:
    state = clip.state_dict()
    if damage == "a key is missing":
        del state["visual.transformer.resblocks.5.mlp.c_fc.weight"]
    elif damage == "a key too many":
        state["visual.extra"] = torch.zeros(1)
    elif damage == "another width":
        state["visual.proj"] = torch.zeros(64, 64)
    elif damage == "empty state":
        state = {}
    torch.save({"state_dict": [1] if damage == "a list" else state}, path)
    if damage in ("truncated", "empty file"):
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    if damage == "another format":
        path.write_text("<html>Not found</html>")
    if damage == "truncated safetensors":
        path = path.with_suffix(".safetensors")
        save_file({k: v.clone() for k, v in clip.state_dict().items()}, path)
        path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(
    "damage",
    [
        "a key is missing",
        "a key too many",
        "another width",
        "empty state",
        "a list",
        "truncated",
        "empty file",
        "another format",
        "truncated safetensors",
    ],
)
def test_a_damaged_checkpoint_is_named(
    trained: open_clip.CLIP, tmp_path: Path, damage: str
) -> None:
    path = damaged(tmp_path / "checkpoint.pt", trained, damage)
    with pytest.raises(InputError) as error:
        load_backbone("clip-mini", str(path))
    assert str(path) in str(error.value) and "open_clip's format for clip-mini" in str(error.value)


def test_unknown_names_and_weights_say_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'clip-xxl': expected one of clip-xl, clip-"):
        load_backbone("clip-xxl")
    with pytest.raises(InputError, match="no such file; expected 'pretrained', 'random' or a"):
        load_backbone("clip-mini", str(tmp_path / "absent.pt"))
    with pytest.raises(InputError, match="clip-mini has no checkpoint; expected 'random'"):
        load_backbone("clip-mini", "pretrained")


def test_without_a_connection_it_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("open_clip.factory.download_pretrained", offline)
    with pytest.raises(InputError) as error:
        load_backbone("clip-s")
    message = str(error.value)
    assert "no route to host" in message and "check the connection" in message
    assert "weights= a file in open_clip's format for ViT-B-32, or 'random'" in message


def waves(size: int, contrast: float) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of waves; clipped to flat black and white with sharp edges if contrast is high."""
    y, x = np.mgrid[:size, :size] / size
    colours = np.stack(
        [np.sin(20 * x * y), np.sin(25 * (x - y)), np.sin(30 * x) * np.cos(9 * y)], -1
    )
    return np.clip(colours * contrast + 128, 0, 255).astype(np.uint8)


def cubic(size: int, new: int) -> np.ndarray:
    """Weights [new, size] of Keys' cubic (a = -1/2), widened by the factor of shrinking."""
    ratio = size / new
    wide = max(ratio, 1.0)
    weights = np.zeros((new, size))
    for i in range(new):
        centre = (i + 0.5) * ratio
        first, last = int(centre - 2 * wide + 0.5), int(centre + 2 * wide + 0.5)
        for j in range(max(first, 0), min(last, size)):
            t = abs(j + 0.5 - centre) / wide
            if t < 1:
                weights[i, j] = 1.5 * t**3 - 2.5 * t**2 + 1
            elif t < 2:
                weights[i, j] = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return weights / weights.sum(1, keepdims=True)


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


@pytest.mark.parametrize("size", [425, 160, 128, 60])
def test_preprocessing_is_pils_bicubic_resize_of_the_whole_square(
    mini: VisionNetwork, size: int
) -> None:
    picture = waves(size, contrast=110)
    ours = mini.preprocess(torch.from_numpy(picture)[None])[0]
    resized = PIL.Image.fromarray(picture).resize((128, 128), PIL.Image.Resampling.BICUBIC)
    theirs = pil_functional.normalize(pil_functional.to_tensor(resized), MEAN, STD)
    difference = (ours - theirs).abs().amax((1, 2)) * torch.tensor(STD)
    assert (difference < 1.1 / 255).all()  # PIL rounds to 255ths, twice: by row and by column


@pytest.mark.parametrize("size", [425, 160, 60])
def test_preprocessing_is_bicubic_with_antialiasing_at_sharp_edges_too(
    mini: VisionNetwork, size: int
) -> None:
    picture = waves(size, contrast=2000)
    weights = cubic(size, 128)
    resized = weights @ picture.astype(float).transpose(2, 0, 1) @ weights.T
    assert resized.min() < -5 and resized.max() > 260  # it overshoots, and has to be clipped
    expected = np.clip(resized, 0, 255) / 255
    expected = (expected - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    ours = mini.preprocess(torch.from_numpy(picture)[None])[0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_every_border_token_sees_the_border_and_no_inner_one_does(mini: VisionNetwork) -> None:
    plain = torch.full((1, 160, 160, 3), 128, dtype=torch.uint8)
    marked = plain.clone()
    marked[:, [0, 1, -2, -1]] = marked[:, :, [0, 1, -2, -1]] = 255
    patches = [mini.network.conv1(mini.preprocess(p)) for p in (plain, marked)]
    changed = (patches[0] - patches[1]).abs().amax((0, 1)) > 1e-3
    border = torch.ones(16, 16, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert torch.equal(changed, border)


def test_a_mark_lies_in_the_token_of_its_place(mini: VisionNetwork) -> None:
    for row, column in ((0, 0), (3, 12), (15, 7)):
        pictures = torch.full((1, 160, 160, 3), 128, dtype=torch.uint8)
        pictures[:, row * 10 + 3 : row * 10 + 7, column * 10 + 3 : column * 10 + 7] = 0
        patches = mini.network.conv1(
            mini.preprocess(pictures) - mini.preprocess(pictures * 0 + 128)
        )
        strength = patches.square().sum((0, 1))
        assert divmod(int(strength.argmax()), 16) == (row, column)
