"""What each vertex reads from a batch of images: Listing 1, exact, without its [B, N, D, L] array.

Sampling between four tokens, mixing layers and blending in the global token are all linear, so
vertex n reads T L tokens with weights that do not depend on the image: T = 5, or 9 where a blurred
map is read beside the map itself. Vertices that sample between the same four tokens (one cell) read
the same ones: sorted by cell, each cell is one matrix product

    [vertices of the cell, T L] x [T L, B D],

which the read-out weighs and sums over D while it is in cache. The backward pass needs the
products, [N, B D], once more: they are kept where it will come. Its speed:
`python -m benchmarks.selection`.
"""

from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of a piece's product: it stays in a processor's cache, and one crowded cell (all vertices start at
# the centre) is taken in pieces like the others.
PIECE_BYTES = 2 * 2**20
LEAST_ROWS = 64
BLUR = 1.5  # tokens: sd of the Gaussian under which a map is blurred for large receptive fields


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


def _tokens_of_cells(height: int, width: int, maps: int) -> Int[Tensor, "cell tap"]:
    """The tokens around each cell in each map, numbered by row, then the global token, the last.

    Tokens outside the grid have weight 0, so any other may stand in for them.
    """
    row, column = torch.arange(height + 1), torch.arange(width + 1)
    rows = torch.stack([row - 1, row]).clamp(0, height - 1)
    columns = torch.stack([column - 1, column]).clamp(0, width - 1)
    around = rows[:, None, :, None] * width + columns[None, :, None, :]  # [2, 2, H + 1, W + 1]
    around, tokens = around.reshape(4, -1).T, height * width
    each = torch.cat([around + i * tokens for i in range(maps)], dim=1)
    return torch.nn.functional.pad(each, (0, 1), value=maps * tokens)


def _gaussian(height: int, width: int) -> Float[Tensor, "token token"]:
    """What each token of the blurred map is of the map's: a Gaussian, of sum 1 within the map."""
    axes = []
    for size in (height, width):
        away = torch.arange(size, dtype=torch.float64)
        weights = torch.exp(-0.5 * ((away[:, None] - away) / BLUR).square())
        axes.append(weights / weights.sum(1, keepdim=True))
    return torch.kron(*axes)


class _Piece(NamedTuple):
    """Vertices that sample between the same tokens."""

    rows: slice  # among the vertices sorted by cell
    tokens: Int[Tensor, " tap"]


def _pieces(
    cell: Int[Tensor, " vertex"], neighbours: Int[Tensor, "cell tap"], most: int
) -> list[_Piece]:
    """Of vertices sorted by cell, at most so many in one."""
    ends = list(accumulate(torch.bincount(cell, minlength=len(neighbours)).tolist()))
    return [
        _Piece(slice(first, min(first + most, end)), tokens)
        for tokens, start, end in zip(neighbours, [0, *ends], ends, strict=False)
        for first in range(start, end, most)
    ]


class _Reading(torch.autograd.Function):
    """y[b, n] = sum over t, l and d of taps[n, t] * layer[n, l] * near[t, l, b, d] * weight[n, d];
    near are the T tokens of the cell of n. `keep`: the sums over t and l, for a backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Float[Tensor, "token layer batch channel"],
        taps: Float[Tensor, "vertex tap"],
        layer: Float[Tensor, "vertex layer"],
        weight: Float[Tensor, "vertex channel"],
        neighbours: Int[Tensor, "cell tap"],
        cell: Int[Tensor, " vertex"],
        keep: bool,
    ) -> Float[Tensor, "vertex batch"]:
        n, (batch, channels) = len(cell), tokens.shape[2:]
        most = n
        if tokens.device.type == "cpu":
            most = max(LEAST_ROWS, PIECE_BYTES // (4 * batch * channels))
        order = torch.argsort(cell)
        pieces = _pieces(cell, neighbours, most)
        most = max(rows.stop - rows.start for rows, _ in pieces)
        taps, layer, weight = (t.index_select(0, order) for t in (taps, layer, weight))
        mixture = (taps.unsqueeze(2) * layer.unsqueeze(1)).flatten(1)  # of the T L tokens read
        mixed = tokens.new_empty(n if keep else most, batch, channels)
        room, reading = weight.new_empty(most, batch, channels), weight.new_empty(n, batch)
        for rows, near in pieces:
            count = rows.stop - rows.start
            product = mixed[rows] if keep else mixed[:count]
            read = tokens.index_select(0, near).view(-1, batch * channels)
            torch.mm(mixture[rows].type_as(read), read, out=product.view(count, -1))
            read_out = torch.mul(product, weight[rows].unsqueeze(1), out=room[:count])
            torch.sum(read_out, 2, out=reading[rows])
        ctx.pieces, ctx.most = pieces, most
        ctx.save_for_backward(tokens, taps, layer, weight, mixture, order, mixed if keep else None)
        return torch.empty_like(reading).index_copy_(0, order, reading)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "vertex batch"]) -> tuple[Tensor | None, ...]:
        tokens, taps, layer, weight, mixture, order, mixed = ctx.saved_tensors
        batch, channels = tokens.shape[2:]
        slope = slope.index_select(0, order).unsqueeze(2)
        d_tokens, d_mixture = torch.zeros_like(tokens), torch.empty_like(mixture)
        d_weight, room = torch.empty_like(weight), weight.new_empty(ctx.most, batch, channels)
        for rows, near in ctx.pieces:
            here = room[: rows.stop - rows.start]
            torch.sum(torch.mul(slope[rows], mixed[rows], out=here), 1, out=d_weight[rows])
            d_mixed = torch.mul(slope[rows], weight[rows].unsqueeze(1), out=here)
            d_mixed = d_mixed.flatten(1).type_as(tokens)
            read = tokens.index_select(0, near)
            d_mixture[rows] = d_mixed @ read.view(-1, batch * channels).T
            d_near = mixture[rows].T.type_as(tokens) @ d_mixed
            d_tokens.index_add_(0, near, d_near.view_as(read))
        d_mixture = d_mixture.view(len(order), taps.shape[1], -1)
        sorted_slopes = (
            (d_mixture @ layer.unsqueeze(2)).squeeze(2),
            (taps.unsqueeze(1) @ d_mixture).squeeze(1),
            d_weight,
        )
        own = (torch.empty_like(t).index_copy_(0, order, t) for t in sorted_slopes)
        return d_tokens, *own, None, None, None


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
    size: Float[Tensor, "vertex 1"] | None = None,
) -> Float[Tensor, "batch vertex"]:
    """The response of each vertex to each image, in the unit of `bias`.

        v[b, n, l] = (1 - scale[n]) * local[b, l] at space[n] + scale[n] * global_[b, l]
        y[b, n] = mean over channels of (weight[n] * sum_l layer[n, l] * v[b, n, l]) + bias[n]

    `space` is (x right, y down); -1 and 1 are the outer edges of the image, as in `grid_sample`
    with `align_corners=False`, whose values and gradients these are. Beyond the centres of the
    outer tokens, `padding` "zeros" fades to 0 and "border" repeats the outer token. There are no
    second derivatives.

    With `size`, a receptive field has one: in place of local stands

        (1 - size[n]) * local + size[n] * (local under a Gaussian of sd `BLUR` tokens).

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
    if size is not None:
        others["size"] = (size, (vertices, 1))
    _check(local, others, padding)

    gap_x, taps_x = _axis_taps(space[:, 0], width, padding)
    gap_y, taps_y = _axis_taps(space[:, 1], height, padding)
    around = (taps_y.unsqueeze(2) * taps_x.unsqueeze(1)).view(vertices, 4)
    near, maps = around * (1 - scale), [local.flatten(3)]
    taps = [near, scale]
    if size is not None:
        taps = [near * (1 - size), near * size, scale]
        maps.append(maps[0] @ _gaussian(height, width).to(local).T)
    taps = torch.cat(taps, dim=1)

    # [maps * height * width + 1, layer, batch, channel]
    tokens = torch.cat([torch.cat(maps, 3).permute(3, 1, 0, 2), global_.transpose(0, 1)[None]])
    neighbours = _tokens_of_cells(height, width, len(maps)).to(local.device)
    kind = local.device.type
    if torch.is_autocast_enabled(kind):  # products alone in lower precision
        tokens = tokens.to(torch.get_autocast_dtype(kind))
    cell = gap_y * (width + 1) + gap_x
    wanted = (tokens, taps, layer, weight)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in wanted)
    reading = _Reading.apply(*wanted, neighbours, cell, keep)
    return reading.T.contiguous() / channels + bias
