"""Random weights under which a transformer's layers differ as those of a trained one do.

Every matrix keeps variance (normal, 1 / inputs), with three exceptions in place of what training
does: patch filters have a spectrum inverse to that of natural pictures, else every channel is the
patch's mean colour; queries and keys are √2 larger, so that attention picks few tokens, about 5
of clip-mini's 256, and the class token depends on the picture; the second layer of each MLP is √2
larger, so that a block adds about as much variance as its input had.
"""

import scipy.fft
import torch
from jaxtyping import Float
from torch import Tensor, nn


def patch_filters(
    shape: torch.Size, generator: torch.Generator
) -> Float[Tensor, "channel colour y x"]:
    """Random filters whose power rises with spatial frequency as that of pictures falls."""
    waves = torch.randn(shape, generator=generator)
    y, x = torch.meshgrid(torch.arange(shape[2]), torch.arange(shape[3]), indexing="ij")
    waves = waves * (1 + y**2 + x**2).sqrt()
    filters = torch.from_numpy(scipy.fft.idctn(waves.numpy(), axes=(2, 3), norm="ortho"))
    return filters / filters.square().sum((1, 2, 3), keepdim=True).sqrt()


def draw_weights(network: nn.Module, seed: int) -> None:
    """Fill a vision transformer of timm or open_clip with weights, the same for the same seed.

    Norms and layer scales are 1, biases 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, spread: float) -> Tensor:
        return torch.randn(shape, generator=generator) * spread

    with torch.no_grad():
        for key, value in network.named_parameters():  # timm's names, and open_clip's
            if key in ("patch_embed.proj.weight", "conv1.weight"):
                value.copy_(patch_filters(value.shape, generator))
            elif key in ("cls_token", "reg_token", "class_embedding"):
                value.copy_(normal(value.shape, 1))
            elif key in ("pos_embed", "positional_embedding"):
                value.copy_(normal(value.shape, 0.25))
            elif "rel_pos" in key:
                value.copy_(normal(value.shape, value.shape[-1] ** -0.5))
            elif value.ndim < 2:
                value.fill_(float(key.endswith((".weight", ".gamma"))))
            elif key == "proj":  # open_clip's, [input, output]
                value.copy_(normal(value.shape, len(value) ** -0.5))
            elif key.endswith("mlp.c_proj.weight"):
                value.copy_(normal(value.shape, (2 / value.shape[1]) ** 0.5))
            else:
                inputs = value[0].numel()
                value.copy_(normal(value.shape, inputs**-0.5))
                if key.endswith(("attn.qkv.weight", "attn.in_proj_weight")):
                    value[: 2 * inputs] *= 2**0.5
                elif key.endswith("mlp.fc2.weight"):
                    value *= 2**0.5
