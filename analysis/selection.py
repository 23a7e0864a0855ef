"""What each vertex reads from a batch of images: Listing 1, exact, without its [B, N, D, L] array.

Sampling between four tokens, mixing layers and blending in the global token are all linear, so
vertex n reads T L tokens with weights that do not depend on the image: T = 5, or 9 where a blurred
map is read beside the map itself. Vertices that sample between the same four tokens (one cell) read
the same ones: sorted by cell, each cell is one matrix product

    [vertices of the cell, D] x [D, B T L],

weighted by the mixture and summed over T L. Cells of like size are taken together, in blocks that
stay in cache; what goes vertex by vertex is done for all at once. The backward pass needs the
products, [N, B T L], once more: they are kept where it will come. Its speed:
`python -m benchmarks.selection`.
"""

from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of one block's product: it stays in cache, and one crowded cell (all vertices start at the centre)
# costs no more memory than many small ones.
BLOCK_BYTES = 3 * 2**20
# bfloat16's library compiles a product for each new shape, which takes as long as two of them, and
# cells change at every step: but in float32, larger pieces have a multiple of so many rows.
LOW_ROWS = 32
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


class _Block(NamedTuple):
    """Pieces of cells, of about one size; rows that a smaller piece lacks are filled up."""

    rows: slice  # among those of all blocks
    count: int  # of these rows
    size: int  # of each piece
    token: Int[Tensor, " near"]  # rows of the tokens, of all pieces


class _Order(NamedTuple):
    """All vertices cell by cell, as rows of blocks."""

    blocks: list[_Block]
    vertex: Int[Tensor, " row"]  # of each row; where filled up, the number past the last
    held: Int[Tensor, " row"]  # the same; where filled up, the last
    row: Int[Tensor, " vertex"]  # of each vertex

    def room(self, own: bool) -> list[slice]:
        """Rows of an array for each block: its own, or of one that all share."""
        return [block.rows if own else slice(block.count) for block in self.blocks]

    def most(self) -> int:
        """Rows of the largest block."""
        return max(block.count for block in self.blocks)


def _order(
    cell: Int[Tensor, " vertex"],
    near: Int[Tensor, "cell near"],
    layers: int,
    channels: int,
    dtype: torch.dtype,
) -> _Order:
    """Of vertices in these cells; `near` are the rows of the tokens that a cell reads, `dtype` the
    precision of the products.
    """
    counts = torch.bincount(cell, minlength=len(near)).tolist()
    ends = list(accumulate(counts))
    mixed = near.shape[1] * layers
    numbers = BLOCK_BYTES // dtype.itemsize
    most = max(64, numbers // mixed // LOW_ROWS * LOW_ROWS)
    pieces = [
        (min(most, end - first), first, of)
        for of, (count, end) in enumerate(zip(counts, ends, strict=True))
        for first in range(end - count, end, most)
    ]
    pieces.sort(reverse=True)  # those of like size side by side
    order = torch.argsort(cell)
    blocks, vertices, done = [], [], 0
    while pieces:
        largest = rows = pieces[0][0]
        if dtype != torch.float32 and rows > 8 * LOW_ROWS:
            rows = -(-rows // LOW_ROWS) * LOW_ROWS
        room = max(1, numbers // (mixed * max(rows, channels)))
        like = sum(size >= largest - max(16, largest // 4) for size, *_ in pieces[:room])
        size, first, of = torch.tensor(pieces[:like], device=cell.device).T
        del pieces[:like]
        each = torch.arange(rows, device=cell.device)
        place = (first[:, None] + each).clamp_(max=len(cell) - 1)
        vertices.append(torch.where(each < size[:, None], order[place], len(cell)).flatten())
        here = slice(done, done := done + like * rows)
        blocks.append(_Block(here, like * rows, rows, near[of].flatten()))
    vertex = torch.cat(vertices)
    row = torch.empty(len(cell) + 1, dtype=torch.long, device=cell.device)
    row[vertex] = torch.arange(done, device=cell.device)
    return _Order(blocks, vertex, vertex.clamp(max=len(cell) - 1), row[:-1])


def _by_piece(
    array: Float[Tensor, "row image mixed"], block: _Block
) -> Float[Tensor, "piece vertex image_mixed"]:
    """A block's rows as factors of its products."""
    return array.view(-1, block.size, array.shape[1] * array.shape[2])


class _Gathered:
    """What the products of a block are of, in room that all blocks share: valid until the next."""

    def __init__(
        self,
        order: _Order,
        tokens: Float[Tensor, "batch token layer channel"],
        weight: Float[Tensor, "vertex channel"],
    ):
        self._held, self._tokens, self._of_vertices = order.held, tokens.flatten(0, 1), weight
        near = max(len(block.token) for block in order.blocks)
        self._near = tokens.new_empty(near, *tokens.shape[2:])
        self._weight = weight.new_empty(order.most(), weight.shape[1])

    def near(self, block: _Block) -> Float[Tensor, "piece image_mixed channel"]:
        """The tokens that a piece's vertices read."""
        room = self._near[: len(block.token)]
        taken = torch.index_select(self._tokens, 0, block.token, out=room)
        return taken.view(block.count // block.size, -1, taken.shape[2])

    def weight(
        self, block: _Block, room: Float[Tensor, "row channel"] | None = None
    ) -> Float[Tensor, "piece vertex channel"]:
        """The read-out of a piece's vertices."""
        held = self._held[block.rows]
        room = self._weight[: len(held)] if room is None else room
        taken = torch.index_select(self._of_vertices, 0, held, out=room)
        return taken.unflatten(0, (-1, block.size))


class _Reading(torch.autograd.Function):
    """y[b, n] = sum over t, l and d of taps[n, t] * layer[n, l] * near[b, t, l, d] * weight[n, d];
    near are the T x L tokens of the cell of n. `keep`: the sums over d, for a backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Float[Tensor, "batch token layer channel"],
        taps: Float[Tensor, "vertex tap"],
        layer: Float[Tensor, "vertex layer"],
        weight: Float[Tensor, "vertex channel"],
        neighbours: Int[Tensor, "cell tap"],
        cell: Int[Tensor, " vertex"],
        keep: bool,
    ) -> Float[Tensor, "batch vertex"]:
        batch, n_tokens, layers, channels = tokens.shape
        n_taps = taps.shape[1]
        first = torch.arange(batch, device=cell.device) * n_tokens
        near_rows = (first[:, None] + neighbours[:, None]).flatten(1)  # [cell, batch * T]
        order = _order(cell, near_rows, layers, channels, weight.dtype)
        mixture = (
            taps.index_select(0, order.held).unsqueeze(2)
            * layer.index_select(0, order.held).unsqueeze(1)
        ).view(-1, 1, n_taps * layers)  # the weight of each of the T L tokens that a row reads

        most = order.most()
        products = weight.new_empty(len(order.held) if keep else most, batch, n_taps * layers)
        mixed = taps.new_empty(most, batch, n_taps * layers)
        reading = taps.new_empty(len(order.held), batch)
        low = weight.dtype != taps.dtype  # products in lower precision than sums
        gathered = _Gathered(order, tokens, weight)
        for block, kept in zip(order.blocks, order.room(own=keep), strict=True):
            rows, product, weighted = block.rows, products[kept], mixed[: block.count]
            near, read_out = gathered.near(block), gathered.weight(block)
            torch.bmm(read_out, near.mT, out=_by_piece(product, block))
            read = weighted.copy_(product) if low else product
            torch.sum(torch.mul(read, mixture[rows], out=weighted), 2, out=reading[rows])
        ctx.order = order
        ctx.save_for_backward(tokens, taps, layer, weight, mixture, products if keep else None)
        return reading.index_select(0, order.row).T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "batch vertex"]) -> tuple[Tensor | None, ...]:
        tokens, taps, layer, weight, mixture, products = ctx.saved_tensors
        wants_tokens, wants_taps, wants_layer, wants_weight = ctx.needs_input_grad[:4]
        order, (batch, _, layers, channels) = ctx.order, tokens.shape
        n_taps = taps.shape[1]
        n_rows = len(order.held)
        d_tokens = torch.zeros_like(tokens) if wants_tokens else None
        d_weight = weight.new_empty(n_rows if wants_weight else order.most(), channels)
        read = None if products is None else weight.new_empty(n_rows, 1, n_taps * layers)
        mixed_all = weight.new_empty(order.most(), batch, n_taps * layers)
        # No slope where rows are filled up.
        slope = torch.nn.functional.pad(slope.T, (0, 0, 0, 1)).index_select(0, order.vertex)
        low = slope.to(weight.dtype).unsqueeze(1)
        gathered = _Gathered(order, tokens, weight)
        for block, here in zip(order.blocks, order.room(own=wants_weight), strict=True):
            rows = block.rows
            if read is not None:
                torch.bmm(low[rows], products[rows], out=read[rows])
            of_block = mixed_all[: block.count]
            torch.mul(slope[rows].unsqueeze(2), mixture[rows], out=of_block)
            mixed = _by_piece(of_block, block)
            read_out = gathered.weight(block, d_weight[here])
            if d_tokens is not None:
                d_near = torch.bmm(mixed.mT, read_out).view(-1, layers, channels)
                d_tokens.flatten(0, 1).index_add_(0, block.token, d_near)
            if wants_weight:
                torch.bmm(mixed, gathered.near(block), out=read_out)
        d_taps = d_layer = None
        if read is not None:
            read = read.index_select(0, order.row).view(-1, n_taps, layers).to(taps.dtype)
            if wants_taps:
                d_taps = (read @ layer.unsqueeze(2)).squeeze(2)
            if wants_layer:
                d_layer = (taps.unsqueeze(1) @ read).squeeze(1)
        d_weight = d_weight.index_select(0, order.row) if wants_weight else None
        return d_tokens, d_taps, d_layer, d_weight, None, None, None


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

    # [batch, maps * height * width + 1, layer, channel]
    tokens = torch.cat([torch.cat(maps, 3).permute(0, 3, 1, 2), global_.unsqueeze(1)], dim=1)
    tokens = tokens.contiguous()
    neighbours = _tokens_of_cells(height, width, len(maps)).to(local.device)
    kind = local.device.type
    if torch.is_autocast_enabled(kind):  # products alone in lower precision
        tokens, weight = (t.to(torch.get_autocast_dtype(kind)) for t in (tokens, weight))
    cell = gap_y * (width + 1) + gap_x
    keep = torch.is_grad_enabled() and (taps.requires_grad or layer.requires_grad)
    reading = _Reading.apply(tokens, taps, layer, weight, neighbours, cell, keep)
    return reading / channels + bias
