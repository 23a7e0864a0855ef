"""The parts of a latent diffusion network: their architectures, weights from files or drawn.

    unet, vae, empty = read_parts(data_root() / "weights/sd15", ARCHITECTURES["sd15"])

A folder has the layout that diffusers saves: unet/, vae/ and text_encoder/, each with config.json
and safetensors. Nothing else is read, and nothing is downloaded.
"""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.files import InputError, read_json, require

MEND = (
    "`python -m analysis fetch --backbone sd15` gets the parts of Stable Diffusion 1.5; weights="
    " takes another folder of that layout."
)
SCALE = 0.18215  # of Stable Diffusion's latents: makes their variance about 1

# What a configuration says beside the function that the weights compute.
NO_MATTER = {"sample_size", "force_upcast", "dropout"}

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Over the variance that keeps that of the inputs: what comes before halves it, or more.
GAINS = dict.fromkeys(("conv1", "conv2", "conv_out", "time_emb_proj", "linear_2"), 2.8)  # SiLU
GAINS["conv"] = 0.1  # between levels: else what a level's layers add is little beside its input
GAINS |= {"linear_1": 2, "net.2": 2.35, "to_q": 2, "to_k": 2}  # waves of time, gated GELU
BLUR = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]  # in sixteenths
DETAIL = 0.3  # of kernels, that is no blur
NEAR_ZERO = 0.3  # sd of what an encoder's SiLU is given
LATENT_GAIN = 1.4  # brings latents to a spread of 1


@dataclass(frozen=True)
class Architecture:
    """A network of Stable Diffusion's kind: what its card says, and where it differs from the
    defaults of diffusers' and transformers' classes."""

    title: str
    data: str
    licence: str
    size: int  # pixels of its pictures
    steps: int  # of the inversion, unless asked for otherwise
    parameters: int  # of the U-Net and the encoder of pictures
    checkpoint: bool  # False: its weights are drawn
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of layers E1 to E8 and D1 to D12."""
        blocks = self.unet["block_out_channels"]
        down = [width for width in blocks for _ in range(2)]
        return (*down, *(width for width in reversed(blocks) for _ in range(3)))


ARCHITECTURES = {
    "sd15": Architecture(
        title="Stable Diffusion 1.5",
        data="LAION-5B",
        licence="CreativeML OpenRAIL-M",
        size=512,
        steps=50,
        parameters=893_684_628,
        checkpoint=True,
        unet={"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        vae={
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "latent_channels": 4,
            "scaling_factor": SCALE,
        },
        text={
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
    ),
    # Four levels of two layers each, so that its layers are Stable Diffusion's by number and name;
    # its latents, as there, an eighth of the picture in size.
    "sd-mini": Architecture(
        title="Stable Diffusion miniature",
        data="none: drawn weights",
        licence="BSD-3-Clause",
        size=128,
        steps=10,
        parameters=2_877_468,
        checkpoint=False,
        unet={
            "block_out_channels": (32, 48, 64, 64),
            "cross_attention_dim": 32,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        },
        vae={
            "block_out_channels": (8, 16, 32, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "scaling_factor": SCALE,
        },
        text={
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
    ),
}


class Parts(NamedTuple):
    unet: nn.Module
    vae: nn.Module
    empty: Float[Tensor, "1 word width"]  # the embedding of the empty prompt


def bare_parts(architecture: Architecture) -> Parts:
    """The networks without memory for their weights, on the meta device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        words, width = (
            architecture.text["max_position_embeddings"],
            architecture.text["hidden_size"],
        )
        unet, vae = UNet2DConditionModel(**architecture.unet), AutoencoderKL(**architecture.vae)
        return Parts(unet, vae, torch.empty(1, words, width))


def read_parts(folder: Path, architecture: Architecture) -> Parts:
    """The networks with the weights of a folder, float32; the text encoder is used and let go.

    Raises:
        InputError: if a part is missing, damaged, or of another architecture.
    """
    unet, vae, _ = bare_parts(architecture)
    _check_config(folder / "unet/config.json", unet, architecture.unet)
    _check_config(folder / "vae/config.json", vae, architecture.vae)
    _fill(unet, folder / "unet/diffusion_pytorch_model.safetensors")
    _fill(vae, folder / "vae/diffusion_pytorch_model.safetensors")
    return Parts(unet, vae, _empty_prompt(folder / "text_encoder", architecture))


def _empty_prompt(folder: Path, architecture: Architecture) -> Float[Tensor, "1 word width"]:
    """What the text encoder makes of no text: a start word, then end words to the full length.

    These are the last two of its vocabulary, which is why no tokenizer is needed; its config.json
    may name others, of before they were set right.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = architecture.text
    start, end = config["vocab_size"] - 2, config["vocab_size"] - 1
    ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    text = CLIPTextModel(CLIPTextConfig(**config, **ends)).eval()
    _check_config(folder / "config.json", text, config)
    _fill(text, folder / "model.safetensors")
    words = torch.full((1, config["max_position_embeddings"]), end)
    words[0, 0] = start
    with torch.no_grad():
        return text(words).last_hidden_state


def _check_config(path: Path, module: nn.Module, expected: dict[str, Any]) -> None:
    """Pass if a config.json describes the network that was built.

    Raises:
        InputError: naming the first setting that differs.
    """
    kind = type(module).__name__
    found = read_json(path, f"the configuration of a {kind}", MEND)
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected the configuration of a {kind}, an object. {MEND}")
    said = found.get("_class_name") or (found.get("architectures") or [None])[0]
    if said != kind:
        raise InputError(f"{path}: describes a {said}; expected a {kind}. {MEND}")
    arguments = inspect.signature(type(module).__init__).parameters
    defaults = {key: argument.default for key, argument in arguments.items()}
    for key in sorted((found.keys() & defaults.keys() | expected.keys()) - NO_MATTER):
        ours = expected.get(key, defaults.get(key))
        theirs = found.get(key, defaults.get(key))
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if theirs != ours:
            raise InputError(
                f"{path}: {key} is {theirs!r}; expected {ours!r}: another architecture. {MEND}"
            )


def _plain(key: str) -> str:
    """A weight's name whatever the version that saved it."""
    key = key.removeprefix("text_model.")
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.",
        lambda m: f"{m[1]}{OLD_ATTENTION[m[2]]}.",
        key,
    )


def _fill(module: nn.Module, path: Path) -> None:
    """Give a network the weights of a file, all of them and no others.

    Raises:
        InputError: if the file is missing or damaged, or has other weights.
    """
    require(path, f"weights of a {type(module).__name__}", MEND)
    try:
        read = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not safetensors ({error}). Delete it. {MEND}") from error
    expected = {_plain(key): key for key in module.state_dict()}
    # numbers of the words' places, which old versions saved beside the weights
    state = {_plain(k): v.float() for k, v in read.items() if not k.endswith("position_ids")}
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "too many": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(value.shape)}, expected {shapes[expected[key]]}"
            for key, value in sorted(state.items())
            if key in expected and tuple(value.shape) != shapes[expected[key]]
        ],
    }
    if said := [
        f"{len(keys)} {what} ({'; '.join(keys[:3])}{' …' if keys[3:] else ''})"
        for what, keys in wrong.items()
        if keys
    ]:
        raise InputError(
            f"{path}: expected the {len(expected)} weights of a {type(module).__name__}; found"
            f" {', '.join(said)}. {MEND}"
        )
    module.load_state_dict({expected[key]: value for key, value in state.items()}, assign=True)


def drawn_parts(architecture: Architecture, seed: int = 0) -> Parts:
    """The networks with random weights under which layers, times and pictures differ.

    Latents spread by about 1, as a trained network's, and samples of one by a tenth of that.
    The empty prompt is as a text encoder's last normalisation would leave it.
    """
    generator = torch.Generator().manual_seed(seed)
    unet, vae, empty = bare_parts(architecture)
    for network in (unet, vae):
        draw_weights(network.to_empty(device="cpu"), generator)
    with torch.no_grad():
        make_linear(vae.encoder)
        vae.quant_conv.weight.copy_(
            torch.eye(8)[:, :, None, None] * LATENT_GAIN / architecture.vae["scaling_factor"]
        )
        vae.quant_conv.weight[4:] = 0
        spread = 0.1 / architecture.vae["scaling_factor"]
        vae.quant_conv.bias[4:] = 2 * torch.tensor(spread).log()
    words = torch.randn(empty.shape, generator=generator)
    return Parts(unet, vae, nn.functional.layer_norm(words, words.shape[-1:]))


def make_linear(encoder: nn.Module) -> None:
    """Let a drawn encoder of pictures do nearly what a trained one does: mix and average colours.

    What its layers add to their input is small, and SiLU is given values near 0, where it is x / 2.
    """
    for name, part in encoder.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(part, nn.GroupNorm):
            part.weight.mul_(NEAR_ZERO)
        elif last in ("conv1", "conv2", "conv_out"):
            part.weight.div_(NEAR_ZERO)
        if last == "conv2" or name.endswith("to_out.0"):
            part.weight.mul_(0.1)
        elif last == "conv":
            part.weight.div_(GAINS["conv"] ** 0.5)


def kernels(shape: torch.Size, generator: torch.Generator) -> Float[Tensor, "channel input y x"]:
    """Random kernels, over the root of their inputs; those of 3 x 3 mostly blur.

    Pictures are smooth: of white kernels, one after another, little of a picture would be left.
    """
    white = torch.randn(shape, generator=generator)
    if shape[2:] != (3, 3):
        return white
    mixed = torch.randn(*shape[:2], 1, 1, generator=generator)
    blurred = mixed * torch.tensor(BLUR) / 16  # keeps what is smooth as it is
    return 3 * (1 - DETAIL**2) ** 0.5 * blurred + DETAIL * white


def draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Fill a network so that every matrix keeps variance, whatever non-linearity lies before it.

    Queries and keys are √2 larger, so that attention picks a few places. What one level hands to
    the next is smaller, so that what the next one's layers add shows.
    """
    with torch.no_grad():
        for name, part in network.named_modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                gain = GAINS.get(name.rsplit(".", 1)[-1]) or GAINS.get(name[-5:], 1)
                draw = kernels if isinstance(part, nn.Conv2d) else torch.randn
                weights = draw(part.weight.shape, generator=generator)
                part.weight.copy_(weights * (gain / part.weight[0].numel()) ** 0.5)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.GroupNorm | nn.LayerNorm):
                part.reset_parameters()
