"""FactorTopy against Listing 1 written out plainly, Eq. 3 by hand, and the selectors' promises."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from analysis import selectors
from analysis.features import Statistics
from analysis.files import InputError
from analysis.model import (
    VARIANTS,
    FactorTopy,
    ModelConfig,
    depth,
    entropy,
    scale_penalty,
)

WIDTHS = [5, 3, 4]


def places(n_vertices: int, seed: int = 0) -> Float[Tensor, "vertex 3"]:
    """Coordinates on a patch of 90 x 60 x 30 mm."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n_vertices, 3, generator=generator) * torch.tensor([90.0, 60, 30]) - 40


def toy(n_vertices: int = 40, **choices) -> FactorTopy:
    """A small model all of whose parameters are random, the selectors' last layers too."""
    model = FactorTopy(ModelConfig(channels=6, **choices), WIDTHS, places(n_vertices))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def tokens(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    local = torch.randn(batch, sum(WIDTHS), 8, 8, generator=generator, dtype=torch.float64)
    global_ = torch.randn(batch, sum(WIDTHS), generator=generator, dtype=torch.float64)
    return local, global_


def mlp(network: torch.nn.Sequential, x: Tensor) -> Tensor:
    """Linear, GELU, Linear, GELU, Linear without bias, written out."""
    first, _, second, _, last = network

    def gelu(z: Tensor) -> Tensor:
        return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))

    hidden = gelu(x @ first.weight.T + first.bias)
    hidden = gelu(hidden @ second.weight.T + second.bias)
    return hidden @ last.weight.T


def listing_1(
    model: FactorTopy, local: Tensor, global_: Tensor, separate: bool, padding: str
) -> Float[Tensor, "batch vertex"]:
    """Listing 1 line by line; tokens as they come, the layers' channels side by side."""
    pe = model.left @ model.right  # the encoding: a test below
    space, layer, scale = (mlp(m, pe) for m in (model.space, model.layer, model.scale))
    space = (space.exp() - (-space).exp()) / (space.exp() + (-space).exp())
    layer = layer.exp() / layer.exp().sum(1, keepdim=True)
    scale = 1 / (1 + (-scale).exp())
    v_local, v_global, start = [], [], 0
    for i, width in enumerate(WIDTHS):
        some = slice(start, start := start + width)
        squeeze = model.bottleneck.weights[i]
        maps = torch.einsum("bchw,dc->bdhw", local[:, some], squeeze)
        at = space.view(1, -1, 1, 2).expand(len(local), -1, -1, -1)
        sampled = torch.nn.functional.grid_sample(
            maps, at, mode="bilinear", padding_mode=padding, align_corners=False
        )  # [B, D, N, 1]
        v_local.append(sampled[..., 0].transpose(1, 2))
        if separate:
            squeeze = model.bottleneck_global.weights[i]
        v_global.append((global_[:, some] @ squeeze.T).unsqueeze(1).expand(-1, len(space), -1))
    v_local, v_global = torch.stack(v_local, -1), torch.stack(v_global, -1)  # [B, N, D, L]
    scale = scale.view(1, -1, 1, 1)
    v = v_local * (1 - scale) + v_global * scale
    v = (v * layer.view(1, len(layer), 1, -1)).sum(-1)  # [B, N, D]
    return (v * model.weight).mean(-1) + model.bias


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("bottleneck", ["shared", "separate"])
def test_forward_is_listing_1(bottleneck: str, padding: str) -> None:
    model = toy(bottleneck=bottleneck, padding=padding).double()
    local, global_ = tokens()
    expected = listing_1(model, local, global_, bottleneck == "separate", padding)
    torch.testing.assert_close(model(local, global_), expected, rtol=1e-10, atol=1e-12)
    assert expected.std() > 0.1
    assert model.selectors().layer.mean(0).min() > 0.1  # every layer is read


def statistics(local: Tensor, global_: Tensor) -> Statistics:
    """By numpy, of these tokens; norms are not read."""
    near, far = local.numpy(), global_.numpy()
    moments = near.mean((0, 2, 3)), near.std((0, 2, 3)), far.mean(0), far.std(0)
    norms = torch.zeros(len(WIDTHS)), torch.zeros(len(WIDTHS))
    return Statistics(*(torch.from_numpy(m).float() for m in moments), *norms)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("bottleneck", ["shared", "separate"])
def test_standardised_tokens_are_listing_1_on_standardised_tokens(
    bottleneck: str, padding: str
) -> None:
    model = toy(bottleneck=bottleneck, padding=padding, standardise=True).double()
    plain = toy(bottleneck=bottleneck, padding=padding).double()
    local, global_ = tokens(batch=5)
    local, global_ = 3 * local + 2, 0.5 * global_ - 1
    seen = statistics(local, global_)
    separate = bottleneck == "separate"
    torch.testing.assert_close(model(local, global_), plain(local, global_))  # none taken yet
    model.standard.measured(seen)
    near = (local - local.mean((0, 2, 3), keepdim=True)) / local.std((0, 2, 3), False, keepdim=True)
    far = (global_ - global_.mean(0)) / global_.std(0, False)
    expected = listing_1(plain, near, far, separate, padding)
    torch.testing.assert_close(model(local, global_), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.standard.local(local), near, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.standard.global_(global_), far, rtol=1e-5, atol=1e-6)


def test_a_saved_model_standardises_by_its_own_statistics() -> None:
    local, global_ = tokens(batch=5)
    model, other = toy(standardise=True), toy(standardise=True)
    model.standard.measured(statistics(10 * local + 1, global_))
    other.load_state_dict(model.state_dict())
    some = (local.float(), global_.float())
    torch.testing.assert_close(other(*some), model(*some), rtol=0, atol=0)
    assert not torch.allclose(toy(standardise=True)(*some), model(*some))


def test_a_channel_that_does_not_vary_is_left_out() -> None:
    local, global_ = tokens(batch=5)
    local[:, 2] = 7.0
    model = toy(standardise=True).double()
    model.standard.measured(statistics(local, global_))
    assert model.standard.local.per_sd[2] == 0
    other = local.clone()
    other[:, 2] = 1e6
    expected = model(local, global_)
    assert expected.isfinite().all()
    torch.testing.assert_close(model(other, global_), expected, rtol=1e-10, atol=1e-12)


def test_a_choice_that_there_is_not_is_told() -> None:
    with pytest.raises(InputError, match="model: padding='mirror'; expected zeros or border"):
        ModelConfig(padding="mirror")
    with pytest.raises(InputError, match="model: bottleneck='two'; expected shared or separate"):
        ModelConfig(bottleneck="two")


@pytest.mark.parametrize("rows", [1, 7, 40, 64])
def test_a_selector_in_pieces_is_its_network_written_out(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "PIECE_BYTES", rows * 128 * 8)
    torch.manual_seed(0)
    network = selectors.Selector(12, 128, 3).double()
    torch.nn.init.normal_(network[-1].weight)
    left, right = (torch.randn(size, dtype=torch.float64) for size in ((40, 9), (9, 12)))
    slope = torch.randn(40, 3, dtype=torch.float64)
    each = []
    for out in (network(left, right), mlp(network, left @ right)):
        gradients = torch.autograd.grad(out, list(network.parameters()), slope)
        each.append([out.detach(), *gradients])
    torch.testing.assert_close(*each)
    with torch.no_grad():
        torch.testing.assert_close(network(left, right), each[0][0], rtol=0, atol=0)


def test_selectors_given_are_those_used() -> None:
    model = toy().double()
    local, global_ = tokens()
    torch.testing.assert_close(
        model(local, global_, model.selectors()), model(local, global_), rtol=0, atol=0
    )
    chosen = model.selectors()._replace(scale=torch.ones(40, 1, dtype=torch.float64))
    torch.testing.assert_close(
        model(local, global_, chosen), model(local + 1, global_, chosen), rtol=1e-10, atol=1e-12
    )


def test_encoding_is_sines_and_cosines_along_each_axis() -> None:
    config = ModelConfig(frequencies=4, periods=50.0, steps=20.0)
    points = places(10)
    encoding = FactorTopy(config, WIDTHS, points).encoding
    exact = points.double().numpy()
    longest = (exact.max(0) - exact.min(0)).max()
    for row, point in zip(encoding(points).numpy(), exact, strict=True):
        expected = []
        for axis in range(3):
            position = (point[axis] - exact[:, axis].min()) * 20.0 / longest
            omega = [50.0 ** (-k / 4) for k in range(4)]
            expected += [math.sin(position * w) for w in omega]
            expected += [math.cos(position * w) for w in omega]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_an_encoding_is_the_product_of_its_factors_with_fewer_columns() -> None:
    coordinates = places(3000)
    model = FactorTopy(ModelConfig(), WIDTHS, coordinates)
    exact = model.encoding(coordinates).double()
    assert (model.left.double() @ model.right.double() - exact).abs().max() < 2e-6
    assert model.left.shape[1] < 100 < exact.shape[1] == 192
    u, values, v = torch.linalg.svd(exact, full_matrices=False)
    fewer = slice(model.left.shape[1] - 1)
    best = u[:, fewer] * values[fewer] @ v[fewer]
    assert (exact - best).abs().max() > 9e-7  # one column fewer would not do


def test_parameters_are_counted_as_by_hand_at_the_papers_size() -> None:
    config = ModelConfig(bottleneck="separate")
    model = FactorTopy(config, [768] * 12, places(37_984))

    def count(name: str) -> int:
        return sum(p.numel() for n, p in model.named_parameters() if n.split(".")[0] in name)

    assert count("bottleneck bottleneck_global") == 2 * 12 * 768 * 128 == 2_359_296
    selector = (192 + 1) * 128 + (128 + 1) * 128
    assert count("space layer scale") == 3 * selector + 128 * (2 + 12 + 1) == 125_568
    assert count("weight bias") == 37_984 * (128 + 1) == 4_899_936
    assert sum(p.numel() for p in model.parameters()) == 7_384_800


def test_vertices_start_at_the_centre_undecided() -> None:
    chosen = FactorTopy(ModelConfig(), WIDTHS, places(30)).selectors()
    assert torch.equal(chosen.space, torch.zeros(30, 2))
    torch.testing.assert_close(chosen.layer, torch.full((30, 3), 1 / 3))
    assert torch.equal(chosen.scale, torch.full((30, 1), 0.5))
    assert entropy(chosen.layer).tolist() == pytest.approx([1] * 30)


def test_a_subset_of_vertices_chooses_as_among_the_whole() -> None:
    whole, rows = toy(), torch.tensor([3, 7, 20, 21])
    state = whole.state_dict()
    some = {k: state[k][rows] for k in ("coordinates", "weight", "bias")}
    part = FactorTopy(whole.config, WIDTHS, whole.coordinates[rows])
    own = part.left @ part.right
    part.load_state_dict({**state, **some})
    assert not torch.allclose(part.left @ part.right, own)  # its own bounds are narrower
    for ours, theirs in zip(part.selectors()[:3], whole.selectors()[:3], strict=True):
        torch.testing.assert_close(ours, theirs[rows], rtol=1e-5, atol=1e-6)


def test_neighbours_choose_alike_and_distant_vertices_need_not() -> None:
    model = toy()
    points = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [30, 15, -20]])
    layer = torch.softmax(model.layer(model.encoding(points), torch.eye(192)), -1)
    near, far = (layer[0] - layer[1]).abs().sum(), (layer[0] - layer[2]).abs().sum()
    assert 20 * near < far


def test_entropy_is_a_share_of_the_largest() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    by_hand = [-sum(w * math.log(w) for w in row) / math.log(5) for row in weights]
    np.testing.assert_allclose(entropy(torch.from_numpy(weights)).numpy(), by_hand, rtol=1e-12)
    corners = entropy(torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]))
    torch.testing.assert_close(corners, torch.tensor([0, 1, math.log(2) / math.log(3)]))
    assert entropy(torch.ones(4, 1)).tolist() == [0] * 4  # a network of one layer


def test_a_vertex_that_has_decided_keeps_finite_gradients() -> None:
    logits = torch.tensor([[200.0, 0, -200]], requires_grad=True)  # softmax gives 1, 0, 0 exactly
    layer = torch.softmax(logits, -1)
    assert layer.tolist() == [[1, 0, 0]]
    layer.retain_grad()
    entropy(layer).sum().backward()
    assert layer.grad.isfinite().all() and logits.grad.isfinite().all()


def test_entropys_gradient_is_that_of_its_formula() -> None:
    layer = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    entropy(layer).sum().backward()
    expected = [[-(math.log(w) + 1) / math.log(3) for w in (0.7, 0.2, 0.1)]]
    np.testing.assert_allclose(layer.grad.numpy(), expected, rtol=1e-12)


def test_the_scales_penalty_is_its_distance_from_a_half_and_that_of_the_size() -> None:
    chosen = FactorTopy(ModelConfig(), WIDTHS, places(2)).selectors()
    scale, size = torch.tensor([[0.9], [0.2]]), torch.tensor([[0.6], [0.5]])
    apart, sizes = (0.4**2 + 0.3**2) / 2, 0.1**2 / 2
    for given, expected in ((None, apart), (size, apart + sizes)):
        found = scale_penalty(chosen._replace(scale=scale, size=given)).item()
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("channels", [32, 128])
def test_a_readout_starts_as_a_linear_layer_does(channels: int) -> None:
    torch.manual_seed(0)
    model = FactorTopy(ModelConfig(channels=channels), WIDTHS, places(2000))
    layer = torch.nn.Linear(channels, 2000).weight
    assert model.weight.std().item() == pytest.approx(layer.std().item(), rel=0.02)
    assert model.weight.abs().max() <= channels**-0.5
    drawn = FactorTopy(ModelConfig(channels=channels, readout_start="randn"), WIDTHS, places(2000))
    assert drawn.weight.std().item() == pytest.approx(1, rel=0.02)


def test_depth_is_the_expected_layer_from_0_to_1() -> None:
    layer = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0.5, 0, 0, 0.5, 0], [0.2] * 5])
    torch.testing.assert_close(depth(layer), torch.tensor([0, 1, 0.375, 0.5]))


# The ablations of Table 16


def by_definition(model: FactorTopy, local: Tensor, global_: Tensor) -> Tensor:
    """The response of each vertex by loops over vertices, layers and sampled points."""
    chosen, out = model.selectors(), torch.zeros(len(local), len(model.bias), dtype=torch.float64)
    points = chosen.space[:, None] if chosen.points is None else chosen.points
    for n in range(len(model.bias)):
        start, mixed = 0, 0
        for i, width in enumerate(WIDTHS):
            some = slice(start, start := start + width)
            squeeze = model.bottleneck.weights[i]
            maps = torch.einsum("bchw,dc->bdhw", local[:, some], squeeze)
            if model.config.select_space:
                at = points[n].view(1, -1, 1, 2).expand(len(local), -1, -1, -1)
                near = torch.nn.functional.grid_sample(maps, at, align_corners=False)
                near = near[..., 0].mean(-1)
            else:
                near = maps.mean((2, 3))
            far = global_[:, some] @ squeeze.T
            share = chosen.scale[n] if model.config.select_scale else 0.5
            weight = chosen.layer[n, i] if model.config.select_layer else 1 / len(WIDTHS)
            mixed = mixed + weight * ((1 - share) * near + share * far)
        out[:, n] = (mixed * model.weight[n]).mean(-1) + model.bias[n]
    return out


ABLATIONS = [name for name, config in VARIANTS.items() if config.model == "factortopy"]


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_variant_is_its_definition(name: str) -> None:
    choices = {
        f.name: getattr(VARIANTS[name], f.name)
        for f in dataclasses.fields(ModelConfig)
        if f.name not in ("channels",)
    }
    model = toy(12, **choices).double()
    local, global_ = tokens()
    expected = by_definition(model, local, global_)
    torch.testing.assert_close(model(local, global_), expected, rtol=1e-10, atol=1e-12)
    assert expected.std() > 0.05
    whole = toy(12).double()(local, global_)
    assert torch.allclose(whole, expected) == (name == "factortopy")


def test_a_variant_has_no_parameters_of_what_it_cannot_choose() -> None:
    for name in ("layer", "space", "scale"):
        model = toy(12, **{f"select_{name}": False})
        assert not any(key.split(".")[0] == name for key, _ in model.named_parameters())
        local, global_ = tokens()
        model.double()(local, global_).sum().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_without_topology_a_vertex_chooses_alone() -> None:
    model = toy(12, topology=False).double()
    local, global_ = tokens()
    before = model(local, global_)
    with torch.no_grad():
        model.space.value[3] += 0.5
        model.layer.value[3] += torch.tensor([1.0, 0, -1])
        model.coordinates[5] += 20  # nowhere used
    changed = (model(local, global_) != before).any(0)
    assert changed.nonzero().tolist() == [[3]]
    assert not hasattr(toy(12).space, "value")


def test_without_topology_vertices_start_undecided() -> None:
    chosen = FactorTopy(ModelConfig(topology=False), WIDTHS, places(30)).selectors()
    assert torch.equal(chosen.space, torch.zeros(30, 2))
    assert entropy(chosen.layer).tolist() == pytest.approx([1] * 30)


@pytest.mark.parametrize("topology", [True, False])
def test_several_points_start_near_the_centre_and_apart(topology: bool) -> None:
    torch.manual_seed(0)
    model = FactorTopy(ModelConfig(samples=3, topology=topology), WIDTHS, places(30))
    points = model.selectors().points
    assert points.shape == (30, 3, 2) and points.abs().max() < 0.5
    assert (points[:, 0] - points[:, 1]).norm(dim=1).min() > 0
    torch.testing.assert_close(points.mean(1), model.selectors().space)


def test_samples_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="samples=0; expected 1 or more"):
        ModelConfig(samples=0)
    with pytest.raises(InputError, match="samples=3 without select_space"):
        ModelConfig(samples=3, select_space=False)
