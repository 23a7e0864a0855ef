"""The map that a large receptive field reads."""

import torch
from torch import Tensor


def blurred(maps: Tensor) -> Tensor:
    """By convolution, under a Gaussian of 1.5 tokens whose weights within the map sum to 1."""
    height, width = maps.shape[-2:]
    away = torch.arange(-8, 9, dtype=maps.dtype)
    line = torch.exp(-0.5 * (away / 1.5) ** 2)
    kernel = (line[:, None] * line)[None, None]

    def convolved(some: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(some.reshape(-1, 1, height, width), kernel, padding=8)

    inside = convolved(torch.ones(height, width, dtype=maps.dtype))
    return (convolved(maps) / inside).view_as(maps)
