"""How a vertex chooses: from its place on the cortex, through a small network for each choice.

Appendix E.2 and the released code. The networks run on all vertices in every step of training, more
arithmetic than the selection itself; what they are given never changes, so it is put once into a
form with fewer columns, and they go through it by pieces that stay in cache.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PIECE_BYTES = 2 * 2**20  # of one layer's values: a piece of the vertices stays in cache
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


class _Network(torch.autograd.Function):
    """Two hidden layers and a linear one, of some vertices at a time; `keep`: for a backward pass.

    Weights are [out, in]. The exact GELU, x Φ(x).
    """

    @staticmethod
    def forward(
        ctx: Any,
        left: Float[Tensor, "vertex rank"],
        first: Float[Tensor, "hidden rank"],
        first_bias: Float[Tensor, " hidden"],
        second: Float[Tensor, "hidden hidden"],
        second_bias: Float[Tensor, " hidden"],
        last: Float[Tensor, "out hidden"],
        keep: bool,
    ) -> Float[Tensor, "vertex out"]:
        pieces = _pieces(left, len(first))
        held = len(left) if keep else pieces[0].stop
        sums, values = (left.new_empty(2, held, len(first)) for _ in range(2))
        out = left.new_empty(len(left), len(last))
        for here in pieces:
            x, room = left[here], here if keep else slice(here.stop - here.start)
            layers = (first, first_bias), (second, second_bias)
            for (weight, bias), total, value in zip(
                layers, sums[:, room], values[:, room], strict=True
            ):
                torch.addmm(bias, x, weight.T, out=total)
                x = torch.ops.aten.gelu.out(total, out=value)
            torch.mm(x, last.T, out=out[here])
        ctx.pieces = pieces
        ctx.save_for_backward(left, first, second, last, *((sums, values) if keep else ()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "vertex out"]) -> tuple[Tensor | None, ...]:
        left, first, second, last, sums, values = ctx.saved_tensors
        total = torch.promote_types(left.dtype, torch.float32)  # over pieces
        d_first, d_second, d_last = (
            w.new_zeros(w.shape, dtype=total) for w in (first, second, last)
        )
        d_biases = left.new_zeros(2, len(first), dtype=total)
        rooms = left.new_empty(2, ctx.pieces[0].stop, len(first))
        for here in ctx.pieces:
            inner, outer = rooms[:, : here.stop - here.start]
            d_last += slope[here].T @ values[1, here]
            torch.mm(slope[here], last, out=outer)
            torch.ops.aten.gelu_backward.grad_input(outer, sums[1, here], grad_input=outer)
            d_second += outer.T @ values[0, here]
            torch.mm(outer, second, out=inner)
            torch.ops.aten.gelu_backward.grad_input(inner, sums[0, here], grad_input=inner)
            d_first += inner.T @ left[here]
            d_biases += torch.stack([inner.sum(0), outer.sum(0)])
        each = (d_first, d_biases[0], d_second, d_biases[1], d_last)
        return None, *(one.to(left.dtype) for one in each), None


def _pieces(left: Float[Tensor, "vertex rank"], hidden: int) -> list[slice]:
    """Of the vertices: as many as stay in a processor's cache; all of them on a GPU."""
    n = len(left)
    some = max(1, PIECE_BYTES // (hidden * left.element_size())) if left.device.type == "cpu" else n
    return [slice(start, min(start + some, n)) for start in range(0, n, some)]


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
        first, _, second, _, last = self
        given = (left, first.weight @ right.T, first.bias, second.weight, second.bias, last.weight)
        kind = left.device.type
        if torch.is_autocast_enabled(kind):
            given = (t.to(torch.get_autocast_dtype(kind)) for t in given)
        return _Network.apply(*given, torch.is_grad_enabled())


class Free(nn.Module):
    """A selector whose value at each vertex is a parameter of its own: the model without topology.

    All start at zero, as a selector does.
    """

    def __init__(self, n_vertices: int, out: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(n_vertices, out))

    def forward(self, *_: Tensor) -> Float[Tensor, "vertex out"]:
        return self.value
