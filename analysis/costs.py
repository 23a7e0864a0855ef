"""What each model of Table 16, and ridge, costs: multiply-accumulates counted by a tool, and time.

    costs(widths=[768] * 12, n_vertices=37_984)

Counted by torch's FlopCounterMode, which sees every product of matrices: two operations are one
multiply-accumulate. So the count is of what is done, with the padding of cells of vertices: 1 % at
the paper's size, 9 % at a few hundred vertices. What goes element by element, such
as a mixture's weights, is about 1 / D of it. Table 16 gives time and multiply-accumulates as
multiples of classToken's, and doesn't say what its tool counted; here reading the tokens around a
place counts as what it is.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from analysis.model import VARIANTS, FactorTopy, ModelConfig
from analysis.rivals import Rival, make_model

BASE = "class-token"  # whose cost Table 16 counts in
SEED = 0
# Table 16: time and multiply-accumulates in classToken's.
PUBLISHED = {
    "factortopy": (3, 1.2),
    "without-topology": (3, 1.4),
    "no-layer": (3, 1.2),
    "no-space": (3, 1.2),
    "no-scale": (3, 1.2),
    "three-samples": (7, 1.6),
    "class-token": (1, 1),
    "patch-token": (1, 1),
    "gnet": (94, 17),
}
# The models that these are of, as the paper has them.
_AS_PAPER = {"channels": 128, "hidden": 128, "standardise": False, "select_size": False}
PAPERS = {name: dataclasses.replace(VARIANTS[name], **_AS_PAPER) for name in PUBLISHED}


def _model(config: ModelConfig, widths: list[int], n_vertices: int) -> FactorTopy | Rival:
    """A model of vertices spread at random, whose places are spread as in a trained one."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = make_model(config, widths, 100 * torch.rand(n_vertices, 3, generator=generator))
    if isinstance(model, FactorTopy) and config.select_space:
        last = model.space[-1].weight if config.topology else model.space.value
        torch.nn.init.normal_(last, std=0.7, generator=generator)
    return model


def _tokens(
    config: ModelConfig, widths: list[int], batch: int
) -> tuple[Float[Tensor, "batch channels grid grid"], Float[Tensor, "batch channels"]]:
    generator = torch.Generator().manual_seed(SEED)
    local = torch.randn(batch, sum(widths), config.grid, config.grid, generator=generator)
    return local, torch.randn(batch, sum(widths), generator=generator)


def _counted(run: Callable[[], object]) -> int:
    """Multiply-accumulates of the products of matrices in a function."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def multiply_accumulates(
    config: ModelConfig, widths: list[int], n_vertices: int, batch: int = 8
) -> int:
    """Of one forward pass of a batch; without the work where no value decides what is done."""
    device = "cpu" if config.model == "factortopy" else "meta"  # vertices are sorted by place
    with torch.device(device):
        if device == "meta":
            model = make_model(config, widths, torch.empty(n_vertices, 3))
            tokens = torch.empty(batch, sum(widths), config.grid, config.grid)
            return _counted(lambda: model(tokens, tokens[:, :, 0, 0]))
        model, tokens = _model(config, widths, n_vertices), _tokens(config, widths, batch)
        return _counted(lambda: model(*tokens))


def ridge_multiply_accumulates(width: int, n_vertices: int, batch: int = 8, grid: int = 8) -> int:
    """Of predicting a batch by ridge: each vertex reads all tokens of one layer."""
    n_features = width * (grid**2 + 1)
    features = torch.empty(batch, n_features, device="meta")
    weights = torch.empty(n_features, n_vertices, device="meta")
    return _counted(lambda: features @ weights)


class _Timed:
    """A model and a batch, to be timed in turn with others."""

    def __init__(self, config: ModelConfig, widths: list[int], n_vertices: int, batch: int):
        self.model = _model(config, widths, n_vertices)
        self.tokens = _tokens(config, widths, batch)

    def forward(self) -> float:
        """Seconds of a forward pass of a trained model: its selectors are computed once."""
        with torch.inference_mode():
            chosen = self.model.selectors()
            start = time.perf_counter()
            self.model(*self.tokens, chosen)
            return time.perf_counter() - start

    def step(self) -> float:
        """Seconds of a forward and a backward pass, selectors included."""
        self.model.zero_grad()
        start = time.perf_counter()
        self.model(*self.tokens, self.model.selectors()).square().mean().backward()
        return time.perf_counter() - start


def _spread(seconds: list[float]) -> str:
    """Median and range, in milliseconds."""
    middle, low, high = (1e3 * f(seconds) for f in (statistics.median, min, max))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def costs(
    widths: list[int],
    n_vertices: int,
    batch: int = 8,
    turns: int = 3,
    models: dict[str, ModelConfig] = PAPERS,
) -> pd.DataFrame:
    """A row per model and one of ridge, of a batch of pictures on this machine.

    The models take turns, after one that isn't timed. "× MACs" and "× step" are in classToken's,
    beside what Table 16 printed. Ridge's widest layer is counted; it has no training step.
    """
    timed = {name: _Timed(config, widths, n_vertices, batch) for name, config in models.items()}
    forward = {name: [] for name in models}
    step = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, one in timed.items():
            passes = one.forward(), one.step()
            if turn:
                forward[name].append(passes[0])
                step[name].append(passes[1])
    counts = {n: multiply_accumulates(c, widths, n_vertices, batch) for n, c in models.items()}
    rows = []
    for name in models:
        times, macs = PUBLISHED.get(name, (float("nan"), float("nan")))
        relative = statistics.median(step[name]) / statistics.median(step[BASE])
        rows.append(
            {
                "model": name,
                "GMACs": counts[name] / 1e9,
                "× MACs": counts[name] / counts[BASE],
                "Table 16: × MACs": macs,
                "forward, ms": _spread(forward[name]),
                "step, ms": _spread(step[name]),
                "× step": relative,
                "Table 16: × time": times,
            }
        )
    of_ridge = ridge_multiply_accumulates(max(widths), n_vertices, batch)
    ridge = {"model": "ridge", "GMACs": of_ridge / 1e9, "× MACs": of_ridge / counts[BASE]}
    return pd.DataFrame([*rows, ridge]).set_index("model")
