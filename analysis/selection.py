"""What each vertex reads from a batch of images: Listing 1, exact, without its [B, N, D, L] array.

Sampling between four tokens, mixing layers and blending in the global token are all linear, so
vertex n reads 5 L tokens with weights that do not depend on the image. Vertices that sample between
the same four tokens (one cell) read the same ones: sorted by cell, each cell is one matrix product

    [vertices of the cell, D] x [D, B 5 L],

weighted by the mixture and summed over 5 L. The backward pass computes it again rather than keep
it, so memory stays near that of the inputs. Its speed: `python -m benchmarks.selection`.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in one piece's product. 2**19 float32 are 2 MB: it stays in cache, and one crowded cell
# (all vertices start at the centre) costs no more memory than many small ones.
PIECE_NUMBERS = 2**19


def _axis_taps(
    position: Float[Tensor, " vertex"], size: int, padding: str
) -> tuple[Int[Tensor, " vertex"], Float[Tensor, "vertex 2"]]:
    """The gap between tokens that each position falls in, and the weights of the two around it.

    Gap 0 lies before the first token, gap `size` after the last. A token off the grid weighs 0.
    """
    place = ((position + 1) * size - 1) / 2  # in tokens: the first has its centre at 0
    if padding == "border":
        inside = (place > 0) & (place < size - 1)
        # Both ends count as outside: grid_sample gives no gradient there either.
        place = torch.where(inside, place, place.detach().clamp(0, size - 1))
    before = place.detach().floor()
    fraction = place - before
    weights = [
        torch.where((before >= 0) & (before < size), 1 - fraction, 0),
        torch.where((before >= -1) & (before < size - 1), fraction, 0),
    ]
    return before.clamp(-1, size - 1).long() + 1, torch.stack(weights, dim=1)


def _tokens_of_cells(height: int, width: int) -> Int[Tensor, "cell 5"]:
    """The tokens around each cell, numbered by row, then the global token, numbered last.

    Tokens outside the grid have weight 0, so any other may stand in for them.
    """
    row, column = torch.arange(height + 1), torch.arange(width + 1)
    rows = torch.stack([row - 1, row]).clamp(0, height - 1)
    columns = torch.stack([column - 1, column]).clamp(0, width - 1)
    around = rows[:, None, :, None] * width + columns[None, :, None, :]  # [2, 2, H + 1, W + 1]
    return torch.nn.functional.pad(around.reshape(4, -1).T, (0, 1), value=height * width)


def _pieces(counts: list[int], most: int) -> Iterator[tuple[int, slice]]:
    """Each cell with the places of its vertices in sorted order, at most so many at a time."""
    start = 0
    for cell, count in enumerate(counts):
        for first in range(start, start + count, most):
            yield cell, slice(first, min(first + most, start + count))
        start += count


class _Reading(torch.autograd.Function):
    """y[b, n] = sum over k and d of mixture[n, k] * near[b, k, d] * weight[n, d], in a form that
    keeps nothing but its arguments; near are the 5 L tokens of the cell of n.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Float[Tensor, "batch token layer channel"],
        mixture: Float[Tensor, "vertex mixed"],
        weight: Float[Tensor, "vertex channel"],
        neighbours: Int[Tensor, "cell 5"],
        cell: Int[Tensor, " vertex"],
    ) -> Float[Tensor, "batch vertex"]:
        batch, _, _, channels = tokens.shape
        mixed = mixture.shape[1]
        order = torch.argsort(cell)
        ctx.counts = torch.bincount(cell, minlength=len(neighbours)).tolist()
        ctx.most = max(64, PIECE_NUMBERS // (batch * mixed))
        ctx.save_for_backward(tokens, mixture, weight, neighbours, order)

        reading = weight.new_empty(len(weight), batch)
        product = weight.new_empty(min(ctx.most, max(ctx.counts)), batch * mixed)
        for cell_number, piece in _pieces(ctx.counts, ctx.most):
            rows = order[piece]
            near = tokens.index_select(1, neighbours[cell_number]).view(-1, channels)
            read = torch.mm(weight.index_select(0, rows), near.T, out=product[: len(rows)])
            read = read.view(-1, batch, mixed).mul_(mixture.index_select(0, rows).unsqueeze(1))
            reading.index_copy_(0, rows, read.sum(2))
        return reading.T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "batch vertex"]) -> tuple[Tensor | None, ...]:
        tokens, mixture, weight, neighbours, order = ctx.saved_tensors
        wants_tokens, wants_mixture, wants_weight = ctx.needs_input_grad[:3]
        batch, _, layers, channels = tokens.shape
        mixed = mixture.shape[1]
        d_tokens = torch.zeros_like(tokens) if wants_tokens else None
        d_mixture = torch.empty_like(mixture) if wants_mixture else None
        d_weight = torch.empty_like(weight) if wants_weight else None

        slope = slope.T.contiguous()
        product = weight.new_empty(min(ctx.most, max(ctx.counts)), batch * mixed)
        for cell_number, piece in _pieces(ctx.counts, ctx.most):
            rows = order[piece]
            near = tokens.index_select(1, neighbours[cell_number]).view(-1, channels)
            part = product[: len(rows)]
            part_slope, part_weight = slope.index_select(0, rows), weight.index_select(0, rows)
            if d_mixture is not None:
                torch.mm(part_weight, near.T, out=part)
                read = part.view(-1, batch, mixed)
                d_mixture.index_copy_(0, rows, torch.bmm(part_slope.unsqueeze(1), read).squeeze(1))
            part_mixture = mixture.index_select(0, rows).unsqueeze(1)
            torch.mul(part_slope.unsqueeze(2), part_mixture, out=part.view(-1, batch, mixed))
            if d_weight is not None:
                d_weight.index_copy_(0, rows, part @ near)
            if d_tokens is not None:
                d_near = (part.T @ part_weight).view(batch, 5, layers, channels)
                d_tokens.index_add_(1, neighbours[cell_number], d_near)
        return d_tokens, d_mixture, d_weight, None, None


def _check(
    local: Float[Tensor, "..."],
    others: dict[str, tuple[Float[Tensor, "..."], tuple[int, ...]]],
    padding: str,
) -> None:
    """Nothing, once every size, type and device of `select`'s arguments is one it can work with."""
    for argument, (tensor, expected) in others.items():
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{argument} has shape {tuple(tensor.shape)}, expected {expected}: batch, layer "
                f"and channel as in local {tuple(local.shape)}, one row per row of space"
            )
        if (tensor.dtype, tensor.device) != (local.dtype, local.device):
            raise ValueError(
                f"{argument} is {tensor.dtype} on {tensor.device}, "
                f"expected {local.dtype} on {local.device} like local"
            )
    if padding not in ("zeros", "border"):
        raise ValueError(f"padding is {padding!r}, expected 'zeros' or 'border'")
    space = others["space"][0]
    if not space.isfinite().all():
        vertex = int((~space.isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"space is {space[vertex].tolist()} at vertex {vertex}, expected finite places: "
            "has training diverged?"
        )


def select(
    local: Float[Tensor, "batch layer channel height width"],
    global_: Float[Tensor, "batch layer channel"],
    space: Float[Tensor, "vertex 2"],
    layer: Float[Tensor, "vertex layer"],
    scale: Float[Tensor, "vertex 1"],
    weight: Float[Tensor, "vertex channel"],
    bias: Float[Tensor, " vertex"],
    padding: Literal["zeros", "border"] = "zeros",
) -> Float[Tensor, "batch vertex"]:
    """The response of each vertex to each image, in the unit of `bias`.

        v[b, n, l] = (1 - scale[n]) * local[b, l] at space[n] + scale[n] * global_[b, l]
        y[b, n] = mean over channels of (weight[n] * sum_l layer[n, l] * v[b, n, l]) + bias[n]

    `space` is (x right, y down); -1 and 1 are the outer edges of the image, as in `grid_sample`
    with `align_corners=False`, whose values and gradients these are. Beyond the centres of the
    outer tokens, `padding` "zeros" fades to 0 and "border" repeats the outer token. There are no
    second derivatives.

    Raises ValueError for an empty or mismatched size, mixed types or devices, or a place that is
    not finite.
    """
    if local.ndim != 5 or 0 in local.shape:
        raise ValueError(
            f"local has shape {tuple(local.shape)}, "
            "expected (batch, layer, channel, height, width), none of them 0"
        )
    batch, layers, channels, height, width = local.shape
    vertices = len(space)
    if vertices == 0:
        raise ValueError(
            f"space has shape {tuple(space.shape)}, expected 1 or more vertices: is the mask empty?"
        )
    others = {
        "global_": (global_, (batch, layers, channels)),
        "space": (space, (vertices, 2)),
        "layer": (layer, (vertices, layers)),
        "scale": (scale, (vertices, 1)),
        "weight": (weight, (vertices, channels)),
        "bias": (bias, (vertices,)),
    }
    _check(local, others, padding)

    gap_x, taps_x = _axis_taps(space[:, 0], width, padding)
    gap_y, taps_y = _axis_taps(space[:, 1], height, padding)
    around = (taps_y.unsqueeze(2) * taps_x.unsqueeze(1)).view(vertices, 4)
    taps = torch.cat([around * (1 - scale), scale], dim=1)
    mixture = (taps.unsqueeze(2) * layer.unsqueeze(1)).view(vertices, 5 * layers)

    tokens = torch.cat([local.flatten(3), global_.unsqueeze(3)], dim=3)
    tokens = tokens.permute(0, 3, 1, 2).contiguous()  # [batch, height * width + 1, layer, channel]
    neighbours = _tokens_of_cells(height, width).to(local.device)
    reading = _Reading.apply(tokens, mixture, weight, neighbours, gap_y * (width + 1) + gap_x)
    return reading / channels + bias
