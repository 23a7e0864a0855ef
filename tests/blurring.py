"""The map that a large receptive field reads."""

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor


def blurred(maps: Tensor) -> Tensor:
    """By scipy, a Gaussian of 1.5 tokens whose weights within the map sum to 1."""
    options = {"sigma": 1.5, "axes": (2, 3), "mode": "constant", "radius": 8}
    inside = scipy.ndimage.gaussian_filter(np.ones(maps.shape), **options)
    return torch.from_numpy(scipy.ndimage.gaussian_filter(maps.numpy(), **options) / inside)
