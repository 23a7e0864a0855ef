"""How a vertex chooses: from its place on the cortex, through a small network for each choice.

Appendix E.2 and the released code. The networks run on all vertices in every step of training, more
arithmetic than the selection itself; what they are given never changes, so it is put once into a
form with fewer columns.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

SAME = 8  # rounding errors: the largest of the factors of an encoding, whose entries are 1 or less


class PositionalEncoding(nn.Module):
    """Sines and cosines of each axis at F wavelengths: [vertex, 3] to [vertex, 6 F].

    The bounds that scale the coordinates are those of the vertices it was made with, and are saved
    with it, so that a subset of vertices gets the same encoding as the whole.
    """

    def __init__(
        self, coordinates: Float[Tensor, "vertex 3"], frequencies: int, periods: float, steps: float
    ):
        super().__init__()
        low = coordinates.amin(0)
        extent = (coordinates.amax(0) - low).amax().clamp_min(1e-6)
        self.register_buffer("low", low)
        self.register_buffer("per_mm", steps / extent)
        exponent = torch.arange(frequencies) / frequencies
        self.register_buffer("omega", periods**-exponent)

    def forward(self, coordinates: Float[Tensor, "vertex 3"]) -> Float[Tensor, "vertex feature"]:
        angle = ((coordinates - self.low) * self.per_mm).unsqueeze(-1) * self.omega
        return torch.cat([angle.sin(), angle.cos()], -1).flatten(1)


def factors(
    encoded: Float[Tensor, "vertex feature"],
) -> tuple[Float[Tensor, "vertex rank"], Float[Tensor, "rank feature"]]:
    """Two matrices of the least rank whose product is `encoded`, to within `SAME` rounding errors.

    Slow waves are almost straight lines over the extent of a brain: of 192 columns, 70 remain.
    """
    exact = encoded.double()
    _, vectors = torch.linalg.eigh(exact.T @ exact)  # by growing eigenvalue
    low, high = 1, exact.shape[1]
    tolerance = SAME * torch.finfo(encoded.dtype).eps
    while low < high:
        rank = (low + high) // 2
        basis = vectors[:, -rank:]
        if (exact - exact @ basis @ basis.T).abs().max() <= tolerance:
            high = rank
        else:
            low = rank + 1
    basis = vectors[:, -low:]
    return (exact @ basis).to(encoded.dtype), basis.T.to(encoded.dtype).contiguous()


class Selector(nn.Sequential):
    """A selector's network; its last layer starts at zero, so that all vertices start alike."""

    def __init__(self, features: int, hidden: int, out: int):
        last = nn.Linear(hidden, out, bias=False)
        nn.init.zeros_(last.weight)
        first, second = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        super().__init__(first, nn.GELU(), second, nn.GELU(), last)

    def forward(
        self, left: Float[Tensor, "vertex rank"], right: Float[Tensor, "rank feature"]
    ) -> Float[Tensor, "vertex out"]:
        """What each vertex is given, `left @ right`, through the network."""
        first, *rest = self
        x = linear(left, first.weight @ right.T, first.bias)
        for module in rest:
            x = module(x)
        return x


class Free(nn.Module):
    """A selector whose value at each vertex is a parameter of its own: the model without topology.

    All start at zero, as a selector does.
    """

    def __init__(self, n_vertices: int, out: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(n_vertices, out))

    def forward(self, *_: Tensor) -> Float[Tensor, "vertex out"]:
        return self.value
