"""The vision transformers of Tables 7 to 11: cards, silent errors, publishers' files, any name."""

import dataclasses
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from analysis.backbones import CARDS, Card, card_of, load_backbone
from analysis.backbones.base import Preprocessing
from analysis.backbones.libraries import timm_network
from analysis.backbones.network import VisionNetwork
from analysis.backbones.random_init import draw_weights
from analysis.backbones.weights import LAYOUTS, load_published, resized_positions
from analysis.files import InputError

TABLES = {  # 7 to 11: title, layers, width, input, patch, data; as printed
    "sam-h": ("SAM H", 32, 1280, 1024, 16, "SA-1B"),
    "sam-l": ("SAM L", 24, 1024, 1024, 16, "SA-1B"),
    "sam-b": ("SAM B", 12, 768, 1024, 16, "SA-1B"),
    "imagenet-l": ("ImageNet L", 24, 1024, 224, 16, "IN-1K"),
    "imagenet-b": ("ImageNet B", 12, 768, 224, 16, "IN-1K"),
    "dinov2-g": ("DiNOv2 G", 40, 1536, 224, 14, "LVD-142M"),
    "dinov2-l": ("DiNOv2 L", 24, 1024, 224, 14, "LVD-142M"),
    "dinov2-b": ("DiNOv2 B", 12, 768, 224, 14, "LVD-142M"),
    "mocov3-l": ("MoCov3 L", 24, 1024, 224, 16, "IN-1K"),
    "mocov3-b": ("MoCov3 B", 12, 768, 224, 16, "IN-1K"),
    "mocov3-s": ("MoCov3 S", 12, 384, 224, 16, "IN-1K"),
    "mae-h": ("MAE H", 32, 1280, 224, 16, "IN-1K"),
    "mae-l": ("MAE L", 24, 1024, 224, 16, "IN-1K"),
    "mae-b": ("MAE B", 12, 768, 224, 16, "IN-1K"),
}
MINIS = [n for n, card in CARDS.items() if card.tag is None and card.family != "sd"]
TIMM_MINIS = [name for name in MINIS if CARDS[name].library == "timm"]


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", TABLES)
def test_the_network_is_its_tables(name: str) -> None:
    card, (title, layers, width, size, patch, data) = CARDS[name], TABLES[name]
    otherwise = {d.field: d for d in card.disagreements}
    assert (card.title, card.layers, card.width, card.data) == (title, layers, width, data)
    assert (otherwise["patch"].paper if "patch" in otherwise else card.patch) == patch
    assert card.input_size == size
    with torch.device("meta"):
        network = timm_network(card)
    assert network.patch_embed.proj.weight.shape == (width, 3, card.patch, card.patch)
    assert network.patch_embed.grid_size == (size // card.patch,) * 2
    assert len(network.blocks) == layers
    assert sum(p.numel() for p in network.parameters()) == card.parameters


def test_where_paper_and_released_network_differ_both_are_told() -> None:
    said = {n: [(d.field, d.paper, d.released) for d in CARDS[n].disagreements] for n in TABLES}
    assert said["mae-h"] == [("patch", 16, 14)] and CARDS["mae-h"].patch == 14
    assert said["imagenet-b"] == [("accuracy", 81.9, 81.072)]
    assert all(said[f"dinov2-{s}"] == [("input_size", 224, 518)] for s in "glb")
    assert said["mae-l"] == said["sam-b"] == []


@pytest.mark.parametrize("name", ["mocov3-s", "timm:test_vit", *MINIS])
def test_tokens_are_exactly_what_hooks_see(name: str) -> None:
    backbone, card = load_backbone(name, "random"), card_of(name)
    network = backbone.network
    blocks = getattr(network, "blocks", None) or network.transformer.resblocks
    outputs: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    generator = torch.Generator().manual_seed(0)
    size = (2, *backbone.preprocess.size, 3)
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        network(backbone.preprocess(pictures))  # the network's own pass
        expected, outputs = outputs, []
        local, global_ = backbone(pictures)
    assert tuple(backbone.widths) == card.widths and len(local) == len(expected) == card.layers
    assert sum(p.numel() for p in backbone.parameters()) == card.parameters
    side = card.input_size // card.patch
    for maps, vector, out in zip(local, global_, expected, strict=True):
        if out.ndim == 4:  # SAM's blocks give [picture, y, x, channel]
            assert torch.equal(maps, out.permute(0, 3, 1, 2))
            assert torch.equal(vector, maps.mean((2, 3)))
        else:
            assert torch.equal(maps.flatten(2).mT, out[:, -(side**2) :])
            assert torch.equal(vector, out[:, 0])


@pytest.mark.parametrize("name", MINIS)
def test_layers_differ_and_pictures_matter_in_miniatures(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 12, 12, generator=generator)
    pictures = nn.functional.interpolate(coarse, size=128, mode="bicubic").clamp(0, 1) * 255
    with torch.inference_mode():
        local, global_ = load_backbone(name)(pictures.byte().permute(0, 2, 3, 1))
    for maps, vector in zip(local, global_, strict=True):
        assert maps.isfinite().all() and maps.abs().max() < 65504
        assert (vector[0] - vector[1]).norm() / vector.norm() > 0.05
        assert (maps - maps.mean((2, 3), keepdim=True)).norm() / maps.norm() > 0.1
    for below, above in pairwise(global_):
        assert torch.cosine_similarity(below[0], above[0], 0) < 0.97


def test_each_family_has_sizes_and_none_is_another() -> None:
    families = {CARDS[n].family for n in MINIS}
    assert families == {"clip", "sam", "imagenet", "dinov2", "mocov3", "mae"}
    for family in families:
        cards = [CARDS[n] for n in MINIS if CARDS[n].family == family]
        assert sorted((c.layers, c.width) for c in cards) == [(4, 64), (8, 128), (12, 128)]
    weights = [load_backbone(n).state_dict() for n in TIMM_MINIS if not n.endswith(("-s", "-l"))]
    filters = [w["network.patch_embed.proj.weight"].flatten()[:100] for w in weights]
    for i, one in enumerate(filters):
        assert not any(torch.equal(one, other) for other in filters[:i])


# Silent errors


def test_mocov3_s_has_12_heads() -> None:
    network = load_backbone("mocov3-s", "random").network
    assert {b.attn.num_heads for b in network.blocks} == {12}
    six = timm.create_model("vit_small_patch16_224", num_classes=0)
    six.load_state_dict(network.state_dict())  # the same keys and shapes
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = (n.eval().forward_features(x) for n in (network, six))
    assert (ours - theirs).norm() / ours.norm() > 0.01


@pytest.mark.parametrize("name", ["sam-h", "sam-l", "sam-b", "sam-mini"])
def test_sams_norms_have_an_epsilon_of_1e_6(name: str) -> None:
    with torch.device("meta"):
        network = timm_network(CARDS[name])
    norms = [m for b in network.blocks for m in b.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * CARDS[name].layers and {n.eps for n in norms} == {1e-6}


def test_positions_are_resized_as_dinov2_does() -> None:
    old, new = 37, 16
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1, 1 + old**2, 3, generator=generator)

    def kernel(t: float) -> float:  # Keys' cubic, a = -3/4
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    weights = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) * old / (new + 0.1) - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            weights[i, min(max(j, 0), old - 1)] += kernel(at - j)
    grid = given[0, 1:].double().numpy().reshape(old, old, 3)
    expected = np.einsum("iy,jx,yxc->ijc", weights, weights, grid).reshape(-1, 3)
    ours = resized_positions(given, (new, new), 0.1)
    assert torch.equal(ours[:, 0], given[:, 0])
    np.testing.assert_allclose(ours[0, 1:].numpy(), expected, atol=1e-4)
    plain = resized_positions(given, (new, new), 0.0)
    assert (plain - ours).norm() / ours.norm() > 0.02  # it matters


def test_each_family_has_its_own_preprocessing_and_nothing_is_cropped() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    modes = {
        "clip": "bicubic", "sam": "bilinear", "imagenet": "bilinear",
        "dinov2": "bicubic", "mocov3": "bicubic", "mae": "bicubic", "sd": "bicubic",
    }  # fmt: skip
    for card in CARDS.values():
        assert card.interpolation == modes[card.family]
        assert ((card.mean, card.std) == imagenet) == (card.family not in ("clip", "sd"))
    plain = torch.full((1, 425, 425, 3), 128, dtype=torch.uint8)
    framed = plain.clone()
    framed[:, [0, 1, -2, -1]] = framed[:, :, [0, 1, -2, -1]] = 255
    for name in ("mae-mini-s", "timm:test_vit.r160_in1k"):  # timm's own transform would crop it
        preprocess = load_backbone(name, "random").preprocess
        changed = (preprocess(framed) - preprocess(plain)).abs().amax((0, 1)) > 1e-3
        assert changed[0].all() and changed[-1].all() and changed[:, 0].all()


def test_one_normalisation_for_all_is_an_option_and_another_identity() -> None:
    native, one = load_backbone("clip-mini-s"), load_backbone("clip-mini-s", None, "imagenet")
    assert one.preprocess.mean == (0.485, 0.456, 0.406) != native.preprocess.mean
    assert one.identity != native.identity
    with pytest.raises(InputError, match="normalisation='none': expected 'native' or 'imagenet'"):
        load_backbone("clip-mini-s", None, "none")


# Publishers' files


def drawn(card: Card, seed: int = 0) -> nn.Module:
    network = timm_network(card)
    draw_weights(network, seed)
    return network


def published(layout: str, network: nn.Module) -> dict:
    """A file's content as the publisher lays it out, with what its training left beside."""
    state, extra = {k: v.clone() for k, v in network.state_dict().items()}, torch.zeros(2, 2)

    def renamed(*pairs: tuple[str, str]) -> dict:
        out = {}
        for key, value in state.items():
            for a, b in pairs:
                key = key.replace(a, b)
            out[key] = value
        return out

    if layout == "mae":
        return {"model": state}
    if layout == "dinov2":
        return {**state, "mask_token": extra}
    if layout == "sam":
        vision = {f"image_encoder.{k}": v for k, v in renamed(("mlp.fc", "mlp.lin")).items()}
        return {**vision, "prompt_encoder.no_mask_embed.weight": extra, "mask_decoder.x": extra}
    if layout == "mmpretrain":
        names = renamed(
            ("patch_embed.proj", "patch_embed.projection"), (".norm1.", ".ln1."),
            (".norm2.", ".ln2."), ("norm.", "ln1."), ("mlp.fc1", "ffn.layers.0.0"),
            ("mlp.fc2", "ffn.layers.1"), ("blocks.", "layers."),
        )  # fmt: skip
        vision = {f"backbone.{k}": v for k, v in names.items()}
        more = {"neck.fc0.weight": extra, "momentum_encoder.module.0.cls_token": extra}
        return {"meta": {"epoch": 300}, "state_dict": {**vision, **more}}
    if layout == "moco-v3":
        vision = {f"module.base_encoder.{k}": v for k, v in state.items()}
        more = {"module.base_encoder.head.0.weight": extra, "module.predictor.0.weight": extra}
        return {"epoch": 300, "state_dict": {**vision, **more}}
    raise AssertionError(layout)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("mae-mini-s", "mae"),
        ("dinov2-mini-s", "dinov2"),
        ("sam-mini-s", "sam"),
        ("mocov3-mini-s", "mmpretrain"),
        ("mocov3-mini-s", "moco-v3"),
    ],
)
def test_a_publishers_file_gives_its_weights(name: str, layout: str, tmp_path: Path) -> None:
    assert layout in LAYOUTS
    network = drawn(CARDS[name], seed=77)
    path = tmp_path / "file.pth"
    torch.save(published(layout, network), path)
    loaded = load_backbone(name, str(path)).network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvisions_network_and_ours_give_the_same_tokens(
    old_names: bool, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.VisionTransformer(
        image_size=128, patch_size=16, num_layers=4, num_heads=2, hidden_dim=64, mlp_dim=256
    ).eval()
    state = theirs.state_dict()
    if old_names:  # as in the published files
        pairs = (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2."))
        state = {k.replace(*pairs[0]).replace(*pairs[1]): v for k, v in state.items()}
    torch.save(state, tmp_path / "vit.pth")
    ours = load_backbone("imagenet-mini-s", str(tmp_path / "vit.pth"))
    seen = []
    for layer in theirs.encoder.layers:
        layer.register_forward_hook(lambda m, i, out: seen.append(out))
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs(x)
        local, global_ = ours.tokens(x)
    for maps, vector, block in zip(local, global_, seen, strict=True):
        torch.testing.assert_close(vector, block[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(maps.flatten(2).mT, block[:, 1:], rtol=1e-4, atol=1e-4)


def test_dinov2s_gated_layers_and_large_grid_are_converted(tmp_path: Path) -> None:
    options = {"img_size": 112, "patch_size": 7, "embed_dim": 96, "depth": 2, "num_heads": 2}
    card = dataclasses.replace(
        CARDS["dinov2-g"], options=options, layers=2, width=96, input_size=112, patch=7
    )
    network, loaded = drawn(card), timm_network(card)
    state = {
        k.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): v
        for k, v in network.state_dict().items()
    }
    state["pos_embed"] = torch.randn(1, 1 + 37**2, 96)
    save_file(state | {"mask_token": torch.zeros(1, 96)}, tmp_path / "g.safetensors")
    load_published(loaded, tmp_path / "g.safetensors", "dinov2", "dinov2-g")
    assert torch.equal(loaded.blocks[1].mlp.fc2.weight, network.blocks[1].mlp.fc2.weight)
    assert torch.equal(loaded.pos_embed, resized_positions(state["pos_embed"], (16, 16), 0.1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r'(?s)not mae-mini-s.s weights.*Missing.*"blocks\.2\.mlp\.fc1\.weight"'),
        ("surplus", r'(?s)Unexpected.*"other"'),
        ("shape", r"(?s)size mismatch for cls_token.*\[1, 1, 32\].*\[1, 1, 64\]"),
        ("list", "expected named tensors"),
        ("html", "expected a checkpoint of tensors alone"),
        ("code", "expected a checkpoint of tensors alone"),
    ],
)
def test_a_wrong_file_is_named(damage: str, message: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "file.pth"

    class Trap:
        def __reduce__(self):
            return (os.system, (f"touch {mark}",))

    state = dict(drawn(CARDS["mae-mini-s"]).state_dict())
    if damage == "missing":
        del state["blocks.2.mlp.fc1.weight"]
    if damage == "surplus":
        state["other"] = torch.zeros(1)
    if damage == "shape":
        state["cls_token"] = torch.zeros(1, 1, 32)
    torch.save({"model": {"list": [1], "code": Trap()}.get(damage, state)}, path)
    if damage == "html":
        path.write_text("<html>Not found</html>")
    with pytest.raises(InputError, match=message) as error:
        load_backbone("mae-mini-s", str(path))
    assert str(path) in str(error.value) and not mark.exists()


def test_pretrained_is_what_fetch_got_and_has_the_published_checksum(own_data: Path) -> None:
    with pytest.raises(InputError, match="python -m analysis fetch --backbone mae-b"):
        load_backbone("mae-b")
    path = own_data / "weights/mae_pretrain_vit_base.pth"
    path.parent.mkdir()
    path.write_bytes(b"another file")
    with pytest.raises(InputError, match=r"vit_base\.pth: md5 \w{32}; expected 8cad7c,"):
        load_backbone("mae-b")
    (own_data / "weights/clip-s.bin").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"weights/clip-s\.bin"):
        load_backbone("clip-s")


# Any name


def test_any_name_of_timm_is_a_backbone() -> None:
    card = card_of("timm:test_resnet")
    assert card.layers == len(card.widths) > 3 and len(set(card.widths)) > 1 and card.patch is None
    backbone = load_backbone("timm:test_resnet", "random")
    pictures = torch.randint(0, 256, (2, 70, 90, 3), dtype=torch.uint8)
    with torch.inference_mode():
        local, global_ = backbone(pictures)
    assert [t.shape[1] for t in local] == list(card.widths)
    assert all(torch.equal(g, t.mean((2, 3))) for t, g in zip(local, global_, strict=True))
    with_class = load_backbone("timm:test_vit", "random")
    known = timm.get_pretrained_cfg("test_vit")
    assert with_class.preprocess == Preprocessing((160, 160), known.mean, known.std, "bicubic")


def test_any_name_of_open_clip_is_a_backbone_with_its_own_activation() -> None:
    name = "open_clip:ViT-B-32/openai"  # trained with QuickGELU, which the plain name has not
    backbone = load_backbone(name, "random")
    assert {type(b.mlp.gelu).__name__ for b in backbone.network.transformer.resblocks} == {
        "QuickGELU"
    }
    assert (card_of(name).layers, card_of(name).width[0], card_of(name).patch) == (12, 768, 32)


RANDOM = (
    "from analysis.backbones import load_backbone; "
    "nets = [load_backbone(n, 'random') for n in ('timm:test_resnet', 'sam-mini-s')]; "
    "[net.freeze() for net in nets]; print(*(net.identity for net in nets))"  # hashes of weights
)


def test_random_weights_are_the_same_in_another_process() -> None:
    command = [sys.executable, "-W", "ignore", "-c", RANDOM]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    state = torch.random.get_rng_state()
    ours = [load_backbone(n, "random") for n in ("timm:test_resnet", "sam-mini-s")]
    for backbone in ours:
        backbone.freeze()
    assert said == [backbone.identity for backbone in ours]
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mae-bb", r"'mae-bb': expected one of mae-b, "),
        ("timm:resnet19", "expected a name such as timm:resnet1"),
        ("open_clip:ViT-B-99", "expected a name such as open_clip:ViT-B"),
        ("open_clip:ViT-B-32/opnai", "no such checkpoint; expected one of openai"),
        ("open_clip:RN50", "has no checkpoint; expected 'random'"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backbone(name)


def test_no_connection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError, match=r"no route to host.*check the connection"):
        load_backbone("timm:test_vit.r160_in1k", "pretrained")


def test_the_adapter_keeps_registers_out_of_the_map() -> None:
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, reg_tokens=3, num_classes=0
    )
    backbone = VisionNetwork("registers", network, Preprocessing((32, 32)))
    seen = []
    network.blocks[1].register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.inference_mode():
        local, global_ = backbone.tokens(torch.randn(1, 3, 32, 32))
    assert seen[0].shape[1] == 1 + 3 + 16
    assert torch.equal(local[1].flatten(2).mT, seen[0][:, 4:])
    assert torch.equal(global_[1], seen[0][:, 0])
