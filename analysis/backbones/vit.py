"""The vision transformers of open_clip, layer by layer."""

from pathlib import Path

import open_clip
import torch
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from torch import Tensor

from analysis.backbones.base import Backbone, Preprocessing
from analysis.backbones.drawn import patch_filters

open_clip.add_model_config(Path(__file__).parent / "configs")


class OpenClipViT(Backbone):
    """Tokens of every block: patch tokens as a map, the class token as the global one."""

    def __init__(self, name: str, visual: VisionTransformer, preprocess: Preprocessing):
        super().__init__(name, preprocess)
        self.visual = visual
        self.widths = [visual.transformer.width] * len(visual.transformer.resblocks)
        self.freeze()

    def tokens(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]:
        out = self.visual.forward_intermediates(
            x, intermediates_only=True, output_extra_tokens=True
        )
        prefix = [tokens[:, 0] for tokens in out["image_intermediates_prefix"]]
        return out["image_intermediates"], prefix


def visual_tower(architecture: str, source: str | None) -> VisionTransformer:
    """The vision half of an open_clip model: a checkpoint's tag or file, or seeded weights."""
    if source is not None:
        return open_clip.create_model(
            architecture, pretrained=source, require_pretrained=True, weights_only=True
        ).visual
    visual = empty_tower(architecture)
    draw_weights(visual, torch.Generator().manual_seed(0))
    return visual


def empty_tower(architecture: str) -> VisionTransformer:
    """The vision half of an open_clip model, its weights still to be filled."""
    with torch.random.fork_rng(devices=[]):
        return open_clip.CLIP(**open_clip.get_model_config(architecture)).visual


def draw_weights(visual: VisionTransformer, generator: torch.Generator) -> None:
    """Fill a tower with random weights, by the rules of drawn.py."""

    def normal(shape: tuple[int, ...], spread: float) -> Tensor:
        return torch.randn(shape, generator=generator) * spread

    with torch.no_grad():
        visual.class_embedding.copy_(normal(visual.class_embedding.shape, 1))
        visual.positional_embedding.copy_(normal(visual.positional_embedding.shape, 0.25))
        visual.proj.copy_(normal(visual.proj.shape, visual.proj.shape[0] ** -0.5))
        visual.conv1.weight.copy_(patch_filters(visual.conv1.weight.shape, generator))
        for block in visual.transformer.resblocks:
            width = block.attn.embed_dim
            block.attn.in_proj_weight.copy_(normal((3 * width, width), width**-0.5))
            block.attn.in_proj_weight[: 2 * width] *= 2**0.5
            block.attn.out_proj.weight.copy_(normal((width, width), width**-0.5))
            block.mlp.c_fc.weight.copy_(normal(block.mlp.c_fc.weight.shape, width**-0.5))
            hidden = block.mlp.c_proj.weight.shape
            block.mlp.c_proj.weight.copy_(normal(hidden, (2 / hidden[1]) ** 0.5))
            for part in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                part.bias.zero_()
            block.attn.in_proj_bias.zero_()
