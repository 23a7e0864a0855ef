"""What each vertex reads from a batch of images: Listing 1, exact, without its [B, N, D, L] array.

Sampling between four tokens, mixing layers and blending in the global token are all linear, so
vertex n reads 5 L tokens with weights that do not depend on the image. Vertices that sample between
the same four tokens (one cell) read the same ones: sorted by cell, each cell is one matrix product

    [vertices of the cell, D] x [D, B 5 L],

weighted by the mixture and summed over 5 L. Cells of like size are taken together, small ones many
at a time, in room that is used again. The backward pass needs the products, [N, B 5 L], once more:
they are kept where it will come. Its speed: `python -m benchmarks.selection`.
"""

from collections.abc import Iterator
from itertools import accumulate, zip_longest
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in one block's product. 2**19 float32 are 2 MB: it stays in cache, and one crowded cell
# (all vertices start at the centre) costs no more memory than many small ones.
BLOCK_NUMBERS = 2**19


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


class _Block(NamedTuple):
    """Pieces of cells, of about one size. A smaller piece is filled up: `vertex` is then the number
    past the last, `held` the last.
    """

    vertex: Int[Tensor, " row"]  # of all pieces, one after the other
    held: Int[Tensor, " row"]
    token: Int[Tensor, " near"]  # rows of the tokens, of all pieces
    rows: int  # of each piece


def _blocks(
    cell: Int[Tensor, " vertex"], near: Int[Tensor, "cell near"], layers: int, channels: int
) -> list[_Block]:
    """All vertices, cell by cell; `near` are the rows of the tokens that a cell reads."""
    counts = torch.bincount(cell, minlength=len(near)).tolist()
    ends = list(accumulate(counts))
    mixed = near.shape[1] * layers
    most = max(64, BLOCK_NUMBERS // mixed)
    pieces = [
        (min(most, end - first), first, of)
        for of, (count, end) in enumerate(zip(counts, ends, strict=True))
        for first in range(end - count, end, most)
    ]
    pieces.sort(reverse=True)  # those of like size side by side
    order = torch.argsort(cell)
    blocks = []
    while pieces:
        rows = pieces[0][0]
        some = max(1, BLOCK_NUMBERS // (mixed * max(rows, channels)))
        size, first, of = torch.tensor(pieces[:some], device=cell.device).T
        del pieces[:some]
        row = torch.arange(rows, device=cell.device)
        place = (first[:, None] + row).clamp_(max=len(cell) - 1)
        vertex = torch.where(row < size[:, None], order[place], len(cell)).flatten()
        held = vertex.clamp(max=len(cell) - 1)
        blocks.append(_Block(vertex, held, near[of].flatten(), rows))
    return blocks


class _Near(NamedTuple):
    """A block's arguments."""

    vertex: Int[Tensor, " row"]
    token: Int[Tensor, " near"]
    taps: Float[Tensor, "row 5"]
    layer: Float[Tensor, "row layer"]
    weight: Float[Tensor, "piece vertex channel"]  # it and tokens in the products' precision
    tokens: Float[Tensor, "piece image_mixed channel"]

    def mixture(self) -> Float[Tensor, "row 1 mixed"]:
        """The weight of each of the 5 L tokens that a vertex reads."""
        return (self.taps.unsqueeze(2) * self.layer.unsqueeze(1)).flatten(1).unsqueeze(1)

    def by_piece(
        self, product: Float[Tensor, "row image mixed"]
    ) -> Float[Tensor, "piece vertex image_mixed"]:
        """Products of the weights and tokens above."""
        return product.view(*self.weight.shape[:2], -1)


def _by_block(
    blocks: list[_Block],
    tokens: Float[Tensor, "image_token layer channel"],
    taps: Float[Tensor, "vertex 5"],
    layer: Float[Tensor, "vertex layer"],
    weight: Float[Tensor, "vertex channel"],
) -> Iterator[_Near]:
    """Each block's arguments, gathered into room that all share: valid until the next."""
    most = max(len(block.vertex) for block in blocks)
    of_weight = weight.new_empty(most, weight.shape[1])
    of_tokens = weight.new_empty(max(len(b.token) for b in blocks), *tokens.shape[1:])
    for vertex, held, token, rows in blocks:
        near = torch.index_select(tokens, 0, token, out=of_tokens[: len(token)])
        yield _Near(
            vertex,
            token,
            taps.index_select(0, held),
            layer.index_select(0, held),
            torch.index_select(weight, 0, held, out=of_weight[: len(held)]).unflatten(
                0, (-1, rows)
            ),
            near.view(len(held) // rows, -1, weight.shape[1]),
        )


def _room(
    blocks: list[_Block], images: int, mixed: int, dtype: torch.dtype, own: bool = False
) -> list[Float[Tensor, "row image mixed"]]:
    """Room for the products of each block: its own, or one that all share, valid until the next."""
    rows = [len(block.held) for block in blocks]
    shape = sum(rows) if own else max(rows), images, mixed
    room = torch.empty(shape, dtype=dtype, device=blocks[0].held.device)
    return [*room.split(rows)] if own else [room[:some] for some in rows]


class _Reading(torch.autograd.Function):
    """y[b, n] = sum over t, l and d of taps[n, t] * layer[n, l] * near[b, t, l, d] * weight[n, d];
    near are the 5 x L tokens of the cell of n. `keep`: the sums over d, for a backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Float[Tensor, "batch token layer channel"],
        taps: Float[Tensor, "vertex 5"],
        layer: Float[Tensor, "vertex layer"],
        weight: Float[Tensor, "vertex channel"],
        neighbours: Int[Tensor, "cell 5"],
        cell: Int[Tensor, " vertex"],
        keep: bool,
    ) -> Float[Tensor, "batch vertex"]:
        batch, n_tokens, layers, channels = tokens.shape
        first = torch.arange(batch, device=cell.device) * n_tokens
        near = (first[:, None] + neighbours[:, None]).flatten(1)  # [cell, batch * 5]
        ctx.blocks = _blocks(cell, near, layers, channels)
        products = _room(ctx.blocks, batch, 5 * layers, weight.dtype, own=keep)
        ctx.save_for_backward(tokens, taps, layer, weight, *(products if keep else ()))

        # The row past the last vertex takes what pieces are filled up with.
        reading = taps.new_empty(len(weight) + 1, batch)
        room = _room(ctx.blocks, batch, 5 * layers, taps.dtype)
        near_all = _by_block(ctx.blocks, tokens.flatten(0, 1), taps, layer, weight)
        for here, product, mixed in zip(near_all, products, room, strict=True):
            torch.bmm(here.weight, here.tokens.mT, out=here.by_piece(product))
            torch.mul(product, here.mixture(), out=mixed)
            reading.index_copy_(0, here.vertex, mixed.sum(2))
        return reading[:-1].T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "batch vertex"]) -> tuple[Tensor | None, ...]:
        tokens, taps, layer, weight, *products = ctx.saved_tensors
        batch, _, layers, channels = tokens.shape
        wants_tokens, *wants = ctx.needs_input_grad[:4]
        d_tokens = torch.zeros_like(tokens) if wants_tokens else None
        d_taps, d_layer, d_weight = (
            one.new_empty(len(one) + 1, one.shape[1]) if wanted else None
            for one, wanted in zip((taps, layer, weight), wants, strict=True)
        )
        slope = torch.nn.functional.pad(slope.T, (0, 0, 0, 1))
        room = _room(ctx.blocks, batch, 5 * layers, weight.dtype)
        near_all = _by_block(ctx.blocks, tokens.flatten(0, 1), taps, layer, weight)
        for here, product, mixed in zip_longest(near_all, products, room):
            vertex, of_slope = here.vertex, slope.index_select(0, here.vertex)
            if product is not None:
                read = torch.bmm(of_slope.to(weight.dtype).unsqueeze(1), product)
                read = read.view(-1, 5, layers).to(taps.dtype)
                if d_taps is not None:
                    d_taps.index_copy_(0, vertex, (read @ here.layer.unsqueeze(2)).squeeze(2))
                if d_layer is not None:
                    d_layer.index_copy_(0, vertex, (here.taps.unsqueeze(1) @ read).squeeze(1))
            torch.mul(of_slope.unsqueeze(2), here.mixture(), out=mixed)
            if d_tokens is not None:
                d_near = torch.bmm(here.by_piece(mixed).mT, here.weight)
                d_near = d_near.view(-1, layers, channels)
                d_tokens.flatten(0, 1).index_add_(0, here.token, d_near)
            if d_weight is not None:
                torch.bmm(here.by_piece(mixed), here.tokens, out=here.weight)
                d_weight.index_copy_(0, vertex, here.weight.flatten(0, 1))
        of_vertices = (None if d is None else d[:-1] for d in (d_taps, d_layer, d_weight))
        return d_tokens, *of_vertices, None, None, None


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

    # [batch, height * width + 1, layer, channel]
    tokens = torch.cat([local.flatten(3).permute(0, 3, 1, 2), global_.unsqueeze(1)], dim=1)
    tokens = tokens.contiguous()
    neighbours = _tokens_of_cells(height, width).to(local.device)
    kind = local.device.type
    if torch.is_autocast_enabled(kind):  # products alone in lower precision
        tokens, weight = (t.to(torch.get_autocast_dtype(kind)) for t in (tokens, weight))
    cell = gap_y * (width + 1) + gap_x
    keep = torch.is_grad_enabled() and (taps.requires_grad or layer.requires_grad)
    reading = _Reading.apply(tokens, taps, layer, weight, neighbours, cell, keep)
    return reading / channels + bias
