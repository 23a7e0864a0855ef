"""Contributions of layers against loops in float64, and what is said of them by hand."""

import numpy as np
import pytest
import torch

from analysis import attribution, model
from analysis.attribution import (
    LayerMaps,
    agreement_table,
    contributions,
    depth,
    layer_maps,
    layer_responses,
    shares,
)
from analysis.files import InputError
from analysis.model import FactorTopy, ModelConfig
from analysis.rivals import make_model
from tests.blurring import blurred
from tests.random_tokens import random_tokens

WIDTHS, N_VERTICES = [5, 3, 4], 23
SMALL = {"channels": 6, "hidden": 8, "frequencies": 3}
VARIANTS = {
    "factortopy": {},
    "separate": {"bottleneck": "separate"},
    "border": {"padding": "border"},
    "no-space": {"select_space": False},
    "three-samples": {"samples": 3},
    "free": {"topology": False},
    "no-size": {"select_size": False},
    "as-they-come": {"standardise": False},
}


def drawn_model(**config) -> FactorTopy:
    """A model whose vertices choose differently."""
    torch.manual_seed(0)
    made = make_model(ModelConfig(**SMALL, **config), WIDTHS, 50 * torch.randn(N_VERTICES, 3))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    if made.config.standardise:
        for standard in (made.standard.local, made.standard.global_):
            standard.measured(torch.randn(12), torch.rand(12) + 0.5)
    return made.requires_grad_(False)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_layers_sum_to_the_models_response(config) -> None:
    made = drawn_model(**config)
    local, global_ = torch.randn(4, 12, 8, 8), torch.randn(4, 12)
    chosen = made.selectors()
    each = layer_responses(made, local, global_, chosen)
    torch.testing.assert_close(each.sum(0) + made.bias, made(local, global_), rtol=1e-4, atol=1e-4)
    some = layer_responses(made, local, global_, chosen, slice(5, 9))
    torch.testing.assert_close(some, each[:, :, 5:9])


def test_a_layers_response_is_listing_1_with_that_layer_alone() -> None:
    made = drawn_model(standardise=False)
    local, global_ = torch.randn(2, 12, 8, 8), torch.randn(2, 12)
    chosen = made.selectors()
    each = layer_responses(made, local, global_, chosen)
    start = 0
    for layer, width in enumerate(WIDTHS):
        squeeze = made.bottleneck.weights[layer].double()
        some = slice(start, start + width)
        start += width
        maps = torch.einsum("dc,bchw->bdhw", squeeze, local[:, some].double())
        at = chosen.space.double().view(1, -1, 1, 2).expand(2, -1, -1, -1)
        narrow, wide = (
            torch.nn.functional.grid_sample(m, at, align_corners=False)[..., 0]
            for m in (maps, blurred(maps))
        )
        field = chosen.size[:, 0].double()
        near = (1 - field) * narrow + field * wide
        far = (global_[:, some].double() @ squeeze.T)[:, :, None]
        scale = chosen.scale[:, 0].double()
        mixed = (1 - scale) * near + scale * far  # [batch, d, vertex]
        expected = chosen.layer[:, layer] * (mixed * made.weight.T.double()).mean(1)
        torch.testing.assert_close(each[layer].double(), expected, rtol=1e-3, atol=1e-4)


def test_shares_are_covariances_over_pictures_and_sum_to_1() -> None:
    responses = np.random.default_rng(0).normal(3, 2, size=(4, 9, 5)).astype(np.float32)
    found = shares(responses)
    for v in range(5):
        y = [sum(float(responses[a, p, v]) for a in range(4)) for p in range(9)]
        for a in range(4):
            c = [float(responses[a, p, v]) for p in range(9)]
            expected = np.cov(c, y)[0, 1] / np.var(y, ddof=1)
            assert found[v, a] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def test_no_share_where_nothing_varies() -> None:
    responses = np.random.default_rng(1).normal(size=(2, 6, 2)).astype(np.float32)
    responses[:, :, 1] = 0.1
    found = shares(responses)
    assert np.isnan(found[1]).all() and np.isfinite(found[0]).all()


def test_contributions_come_in_pieces_that_change_nothing(tmp_path, monkeypatch) -> None:
    made, tokens = drawn_model(), random_tokens(tmp_path, WIDTHS, 40)
    pictures = np.arange(3, 40)
    ((_, whole),) = contributions(made, tokens, pictures)
    monkeypatch.setattr(attribution, "NUMBERS", 3 * 37 * 10)  # ten vertices at a time
    pieces = list(contributions(made, tokens, pictures))
    assert [some.stop - some.start for some, _ in pieces] == [10, 10, 3]
    np.testing.assert_allclose(np.concatenate([p for _, p in pieces]), whole, atol=1e-5)
    local, global_ = tokens[pictures]
    responses = layer_responses(made, local, global_, made.selectors()).numpy()
    np.testing.assert_allclose(whole, shares(responses), atol=1e-5)


def maps_of(weights, part_shares=None) -> LayerMaps:
    weights = np.asarray(weights, float)
    given = weights if part_shares is None else np.asarray(part_shares, float)
    return LayerMaps(weights, given, "test", 10)


def test_depth_layer_and_confidence_by_hand() -> None:
    maps = maps_of(
        [[1, 0, 0], [1 / 3] * 3, [0.2, 0.3, 0.5]], [[0.5, -0.5, 1], [0, 1, 0], [1, 0, 0]]
    )
    np.testing.assert_allclose(maps.depth(), [0, 0.5, 0.65], atol=1e-12)
    np.testing.assert_allclose(maps.depth("contribution"), [1 / 1.5, 0.5, 0], atol=1e-12)
    assert maps.argmax().tolist() == [0, 0, 2] and maps.argmax("contribution").tolist() == [2, 1, 0]
    entropy = -sum(w * np.log(w) for w in (0.2, 0.3, 0.5)) / np.log(3)
    np.testing.assert_allclose(maps.confidence(), [1, 0, 1 - entropy], atol=1e-12)
    by_torch = model.depth(torch.from_numpy(maps.weights)).numpy()
    np.testing.assert_allclose(maps.depth(), by_torch, atol=1e-12)  # the model's own
    assert maps.confidence("contribution")[0] == pytest.approx(
        1 + (1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3)) / np.log(3)
    )
    with pytest.raises(InputError, match="attribution='both'"):
        maps.of("both")


def test_pairs_of_runs_are_compared_on_the_same_vertices() -> None:
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.ones(4), 30)
    one, same, other = maps_of(weights), maps_of(weights), maps_of(weights[:, ::-1])
    table = agreement_table([one, same, other], ["a", "b", "c"])
    assert table[["run", "and"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert table["rank correlation by weight"].tolist() == pytest.approx([1, -1, -1])
    assert table["same layer"][0] == 1 and table["difference of depth"][0] == 0
    expected = np.mean([abs(1 - 2 * d) for d in depth(weights)])
    assert table["difference of depth"][1] == pytest.approx(expected)


def test_maps_of_a_fit_hold_its_selectors_and_shares(data_folder) -> None:
    from analysis.study import get_fit

    fit = get_fit("sim01-tiny", "clip-mini", recipe="check")
    maps = layer_maps(fit)
    np.testing.assert_allclose(maps.weights, fit.selectors().layer, rtol=1e-6)
    np.testing.assert_allclose(maps.shares.sum(1), 1, rtol=1e-6)
    assert maps.n_pictures == len(fit.split.test)
