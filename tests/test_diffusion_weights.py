"""Weights of Stable Diffusion: folders as diffusers writes them, old names, damage, Table 12."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.backbones import CARDS, Preprocessing, card_of, load_backbone
from analysis.backbones.diffusion import LAYER_NAMES, Diffusion, Inversion, load_diffusion
from analysis.backbones.diffusion_weights import ARCHITECTURES, bare_parts, read_parts
from analysis.extraction import extract
from analysis.files import InputError
from analysis.pictures import picture_digests

MINI = ARCHITECTURES["sd-mini"]

TABLE_12 = (  # encoder layers, decoder layers, width, side of the map at 512 pixels
    ((1, 2), (10, 11, 12), 320, 64),
    ((3, 4), (7, 8, 9), 640, 32),
    ((5, 6), (4, 5, 6), 1280, 16),
    ((7, 8), (1, 2, 3), 1280, 8),
)


def noise(side: int) -> UInt8[Tensor, "1 height width 3"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, side, side, 3), generator=generator, dtype=torch.uint8)


def test_the_architecture_is_table_12s() -> None:
    architecture = ARCHITECTURES["sd15"]
    with torch.device("meta"):
        inversion, size = Inversion(), (512, 512)
        backbone = Diffusion(
            "sd15",
            bare_parts(architecture),
            Preprocessing(size, (0.5,) * 3, (0.5,) * 3),
            inversion,
            (50, 49),
        )
        local, global_ = backbone(torch.empty(2, 425, 425, 3, dtype=torch.uint8))
    rows = {}
    for encoder, decoder, width, side in TABLE_12:
        rows |= {f"E{i}": (width, side) for i in encoder} | {
            f"D{i}": (width, side) for i in decoder
        }
    assert set(rows) == set(LAYER_NAMES) and len(rows) == 20
    assert architecture.widths == tuple(rows[name][0] for name in LAYER_NAMES)
    for view in backbone.views:
        assert view.widths == architecture.widths and view.layer_names == LAYER_NAMES
        for name, maps, vector in zip(
            LAYER_NAMES, local[view.layers], global_[view.layers], strict=True
        ):
            width, side = rows[name]
            assert maps.shape == (2, width, side, side), name
            assert vector.shape == (2, width), name
    assert (architecture.size, architecture.data) == (512, "LAION-5B")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_card_states_the_number_of_parameters(name: str) -> None:
    unet, vae, _ = bare_parts(ARCHITECTURES[name])
    weights = [*unet.parameters(), *vae.encoder.parameters(), *vae.quant_conv.parameters()]
    assert sum(w.numel() for w in weights) == ARCHITECTURES[name].parameters


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers and transformers write it, with weights of a trained spread."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        UNet2DConditionModel(**MINI.unet, sample_size=16).save_pretrained(folder / "unet")
        AutoencoderKL(**MINI.vae, sample_size=128).save_pretrained(folder / "vae")
        # the words that start and end a text are not those that this configuration names
        config = CLIPTextConfig(**MINI.text, bos_token_id=0, eos_token_id=2, pad_token_id=1)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "weights"))


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    state = {key: value.clone() for key, value in load_file(path).items()}
    save_file({k: v.contiguous() for k, v in change(state).items()}, path)


def unet_file(folder: Path) -> Path:
    return folder / "unet/diffusion_pytorch_model.safetensors"


def vae_file(folder: Path) -> Path:
    return folder / "vae/diffusion_pytorch_model.safetensors"


def test_a_folder_gives_its_weights(saved: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    ours = read_parts(saved, MINI)
    theirs = (
        (ours.unet, UNet2DConditionModel.from_pretrained(saved / "unet", local_files_only=True)),
        (ours.vae, AutoencoderKL.from_pretrained(saved / "vae", local_files_only=True)),
    )
    for mine, other in theirs:
        expected = other.state_dict()
        assert mine.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in mine.state_dict().items())
    text = CLIPTextModel.from_pretrained(saved / "text_encoder", local_files_only=True)
    with torch.inference_mode():
        expected = text(torch.tensor([[62] + [63] * 76])).last_hidden_state
    assert torch.equal(ours.empty, expected)
    backbone = load_diffusion("sd-mini@T50", str(saved))
    assert backbone.identity != load_diffusion("sd-mini@T50").identity
    for key, value in theirs[0][1].state_dict().items():
        assert torch.equal(backbone.unet.state_dict()[key], value), key
    assert torch.equal(backbone.empty, expected)
    with torch.inference_mode():
        x = backbone.preprocess(noise(128))
        clean = theirs[1][1].eval().encode(x).latent_dist.mode() * 0.18215
        assert torch.equal(backbone.latents(x), clean)


def test_names_of_older_files_are_understood(saved: Path, folder: Path) -> None:
    """Those of Stable Diffusion 1.5 were written when attention and text had other names."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older_vae(state: dict[str, Tensor]) -> dict[str, Tensor]:
        pattern = r"(mid_block\.attentions\.0)\.(to_[qkv]|to_out\.0)\."
        return {re.sub(pattern, lambda m: f"{m[1]}.{old[m[2]]}.", k): v for k, v in state.items()}

    def older_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in state.items()}
        return {**state, "text_model.embeddings.position_ids": torch.arange(77)[None]}

    before = read_parts(saved, MINI)
    rewrite(vae_file(folder), older_vae)
    rewrite(folder / "text_encoder/model.safetensors", older_text)
    assert any("proj_attn" in key for key in load_file(vae_file(folder)))
    after = read_parts(folder, MINI)
    expected = before.vae.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in after.vae.state_dict().items())
    assert torch.equal(before.empty, after.empty)


def test_configurations_of_older_versions_are_those_of_stable_diffusion(tmp_path: Path) -> None:
    """Written before most of today's settings were there; then the weights are asked for."""
    both = {"_diffusers_version": "0.6.0", "act_fn": "silu", "norm_num_groups": 32}
    both |= {"out_channels": 4, "layers_per_block": 2, "in_channels": 4}
    unet = {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }
    vae = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    for part, config in (("unet", both | unet), ("vae", both | vae)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"unet/diffusion_pytorch_model\.safetensors: not found"):
        load_diffusion("sd15", str(tmp_path))
    # Stable Diffusion 2's
    configure(tmp_path / "unet/config.json", attention_head_dim=[5, 10, 20, 20])
    with pytest.raises(InputError, match=r"attention_head_dim is \(5, 10, 20, 20\); expected 8"):
        load_diffusion("sd15", str(tmp_path))


def test_halves_are_read_as_floats(saved: Path, folder: Path) -> None:
    rewrite(unet_file(folder), lambda state: {k: v.half() for k, v in state.items()})
    expected = read_parts(saved, MINI).unet.state_dict()
    for key, value in read_parts(folder, MINI).unet.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[key].half().float())


def configure(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Trap:
    def __reduce__(self):
        return (os.system, ("touch ran",))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight is missing": (
        lambda f: rewrite(
            unet_file(f), lambda s: {k: v for k, v in s.items() if k != "conv_in.bias"}
        ),
        r"unet/diffusion_pytorch_model\.safetensors: .*1 missing \(conv_in\.bias\)",
    ),
    "a weight too many": (
        lambda f: rewrite(vae_file(f), lambda s: {**s, "extra": torch.zeros(1)}),
        r"vae/diffusion_pytorch_model\.safetensors: .*1 too many \(extra\)",
    ),
    "another shape": (
        lambda f: rewrite(unet_file(f), lambda s: {**s, "conv_in.bias": torch.zeros(33)}),
        r"1 of another shape \(conv_in\.bias \(33,\), expected \(32,\)\)",
    ),
    "a text weight is missing": (
        lambda f: rewrite(
            f / "text_encoder/model.safetensors",
            lambda s: {k: v for k, v in s.items() if "final_layer_norm" not in k},
        ),
        r"text_encoder/model\.safetensors: .*2 missing",
    ),
    "cut off": (
        lambda f: unet_file(f).write_bytes(unet_file(f).read_bytes()[:5000]),
        "not safetensors",
    ),
    "empty": (lambda f: vae_file(f).write_bytes(b""), "not safetensors"),
    "a pickle under its name": (
        lambda f: unet_file(f).write_bytes(pickle.dumps(Trap())),
        "not safetensors",
    ),
    "a pickle beside": (
        lambda f: (
            unet_file(f).unlink(),
            (f / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap())),
        ),
        r"unet/diffusion_pytorch_model\.safetensors: not found",
    ),
    "no text encoder": (
        lambda f: shutil.rmtree(f / "text_encoder"),
        r"text_encoder/config\.json: not found; expected the configuration of a CLIPTextModel",
    ),
    "not JSON": (lambda f: (f / "vae/config.json").write_text("<html>"), "not JSON"),
    "a list": (lambda f: (f / "vae/config.json").write_text("[]"), "an object"),
    "another class": (
        lambda f: configure(f / "unet/config.json", _class_name="UNet3DConditionModel"),
        "describes a UNet3DConditionModel; expected a UNet2DConditionModel",
    ),
    "other heads": (  # as Stable Diffusion 2's: the same weights' names and shapes
        lambda f: configure(f / "unet/config.json", attention_head_dim=8),
        "attention_head_dim is 8; expected 2: another architecture",
    ),
    "another scale": (
        lambda f: configure(f / "vae/config.json", scaling_factor=0.13025),
        r"scaling_factor is 0\.13025; expected 0\.18215",
    ),
    "another non-linearity": (
        lambda f: configure(f / "text_encoder/config.json", hidden_act="gelu"),
        "hidden_act is 'gelu'; expected 'quick_gelu'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named(
    folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        load_diffusion("sd-mini", str(folder))
    assert "python -m analysis fetch --backbone sd15" in str(error.value)
    assert not (folder / "ran").exists()


def test_without_its_files_it_says_how_to_get_them(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_diffusion("sd15@T20")
    assert str(tmp_path / "weights/sd15/unet/config.json") in str(error.value)
    assert "python -m analysis fetch --backbone sd15" in str(error.value)
    with pytest.raises(InputError, match=r"attention_head_dim is 2; expected 8: another"):
        load_diffusion("sd15", str(saved))


def test_what_fetch_gets_is_all_that_is_read(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small parts in the place of the large ones."""
    from analysis.manifest import data_manifest

    files = [file for file in data_manifest().files if file.backbone == "sd15"]
    assert files
    for file in files:
        path = tmp_path / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(saved / Path(file.path).relative_to("weights/sd15"), path)
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    sd15 = ARCHITECTURES["sd15"]
    small = replace(sd15, size=64, unet=MINI.unet, vae=MINI.vae, text=MINI.text)
    monkeypatch.setitem(ARCHITECTURES, "sd15", small)
    backbone = load_diffusion("sd15@T49")
    assert (backbone.name, backbone.inversion.steps) == ("sd15@T49", 50)
    with torch.inference_mode():
        local, _ = backbone(noise(64))
    assert len(local) == 20 and all(maps.isfinite().all() for maps in local)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_registrys_card_is_the_architectures(name: str) -> None:
    card, architecture = CARDS[name], ARCHITECTURES[name]
    assert card.widths == architecture.widths and card.layers == 20 == len(LAYER_NAMES)
    assert (card.title, card.data, card.licence) == (
        architecture.title,
        architecture.data,
        architecture.licence,
    )
    assert (card.input_size, card.parameters) == (architecture.size, architecture.parameters)
    assert (card.tag is not None) == architecture.checkpoint


def test_the_registry_gives_a_time_step_by_name() -> None:
    backbone = load_backbone("sd-mini@T20")
    assert [view.name for view in backbone.views] == ["sd-mini@T20"]
    whole = load_backbone("sd-mini")
    assert len(whole.views) == 11
    (same,) = (view for view in whole.views if view.name == "sd-mini@T20")
    assert same.identity == backbone.views[0].identity
    assert card_of("sd-mini@T20").title == "Stable Diffusion miniature T20"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sd-mini@T51", {}, "time steps T51: expected"),
        ("sd-mini@x", {}, "backbone 'sd-mini@x': expected one of sd-mini"),
        ("sd-mini,site=conv1", {}, "site='conv1': expected one of 'block', 'resnet', 'conv'"),
        ("sd-mini,places=3", {}, "option 'places=3': expected one of site, level, latent"),
        ("sd-mini,steps=many", {}, "option 'steps=many': expected a number"),
        ("sd-mini,site@T20", {}, "backbone 'sd-mini,site@T20': expected one of sd15, sd-mini"),
        ("sd-mini", {"weights": "gone"}, "weights='gone': no such folder"),
        ("sd-mini", {"normalisation": "imagenet"}, "takes pixels from -1 to 1 alone"),
        ("sd15", {}, "fetch --backbone sd15"),
    ],
)
def test_the_registry_refuses_what_is_not_there(
    name: str, options: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=said):
        load_backbone(name, **options)


def test_what_the_paper_leaves_open_can_be_named() -> None:
    plain, named = (load_backbone(n) for n in ("sd-mini@T50", "sd-mini,site=conv,steps=25@T50"))
    assert (named.inversion.site, named.inversion.steps) == ("conv", 25)
    (view,) = named.views
    assert view.name == "sd-mini,site=conv,steps=25@T50" == named.name
    assert view.identity != plain.views[0].identity
    asked = Inversion(site="conv", steps=25)
    same = load_diffusion("sd-mini@T50", inversion=asked)
    picture = noise(40)
    assert torch.equal(named(picture)[0][3], same(picture)[0][3])
    assert card_of("sd-mini,site=conv@T50").layers == 20


def test_one_chain_fills_the_cache_of_each_time_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    pictures = noise(40).numpy().repeat(3, 0)
    pictures[1:] //= 2
    pictures[2] //= 3
    digests = picture_digests(pictures)
    whole = load_backbone("sd-mini")
    names = [view.name for view in whole.views]
    made = dict(zip(names, extract(whole, pictures.__getitem__, digests), strict=True))
    alone = load_backbone("sd-mini@T45")
    monkeypatch.setattr(alone, "chain", None)  # nothing is made again
    (tokens,) = extract(alone, pictures.__getitem__, digests)
    every = np.arange(3)
    assert torch.equal(tokens[every][0], made["sd-mini@T45"][every][0])
    assert not torch.equal(tokens[every][0], made["sd-mini@T0"][every][0])
    assert tokens.layer_names == list(LAYER_NAMES)
