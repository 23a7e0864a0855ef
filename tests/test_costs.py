"""Counts against formulas written out by hand, and the table that they go into."""

import pytest

from analysis.costs import (
    BASE,
    PUBLISHED,
    _model,
    costs,
    multiply_accumulates,
    ridge_multiply_accumulates,
)
from analysis.model import VARIANTS, ModelConfig

B, D, H = 8, 128, 128


def by_hand(config: ModelConfig, widths: list[int], n: int) -> int:
    """Products of one forward pass of a batch."""
    channels, layers, places = sum(widths), len(widths), config.grid**2
    if config.model == "class-token":
        return B * channels * D + B * D * n
    if config.model == "patch-token":
        return B * places * channels * D + B * layers * D * D + B * D * n
    if config.model == "gnet":
        return B * places * channels * D + B * places * layers * D * n
    if not config.select_space:
        places = 1
    outs = [2 * config.samples] * config.select_space + [layers] * config.select_layer
    outs += [1] * config.select_scale
    sized = config.select_size and config.select_space
    outs += [1] * sized
    rank = _model(config, widths, n).left.shape[1]  # of the encoding
    networks = sum(
        H * 6 * config.frequencies * rank + n * (rank * H + H * H + H * out) for out in outs
    )
    squeezed = B * (places + 1) * channels * D
    squeezed += B * layers * D * places**2 * sized  # maps blurred
    read = B * (9 if sized else 5) * layers * D * n * config.samples
    return networks * config.topology + squeezed + read


ABLATIONS = [name for name, config in VARIANTS.items() if config.model == "factortopy"]


@pytest.mark.parametrize("name", ABLATIONS)
def test_counts_are_those_of_the_formulas(name: str) -> None:
    config, widths, n = VARIANTS[name], [16] * 4, 12_000
    ratio = multiply_accumulates(config, widths, n, B) / by_hand(config, widths, n)
    assert 1 <= ratio < 1.2  # products of cells of like size are padded to one


@pytest.mark.parametrize("name", ["class-token", "patch-token", "gnet"])
def test_rivals_are_counted_at_the_papers_size_without_the_work(name: str) -> None:
    widths, n = [768] * 12, 37_984
    assert multiply_accumulates(VARIANTS[name], widths, n, B) == by_hand(VARIANTS[name], widths, n)


@pytest.mark.parametrize("name", ["class-token", "gnet"])
def test_one_layer_costs_a_part_of_all(name: str) -> None:
    single = multiply_accumulates(ModelConfig(model=name, only_layer=2), [12, 7, 5], 100, B)
    assert single == by_hand(ModelConfig(model=name), [7], 100)


def test_ridge_reads_every_token_of_a_layer() -> None:
    assert ridge_multiply_accumulates(768, 37_984, B) == B * 65 * 768 * 37_984


def test_the_table_stands_beside_table_16() -> None:
    models = {name: VARIANTS[name] for name in (BASE, "factortopy", "gnet")}
    table = costs([6, 6], 50, batch=2, turns=2, models=models)
    assert list(table.index) == [*models, "ridge"]
    assert table.loc[BASE, "× MACs"] == table.loc[BASE, "× step"] == 1
    assert table.loc["gnet", "Table 16: × MACs"] == 17
    assert table.loc["factortopy", "× MACs"] > 1
    assert PUBLISHED.keys() == VARIANTS.keys()
