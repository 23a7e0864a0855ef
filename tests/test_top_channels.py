"""Top channels: Listing 2 by a loop, colours that planted rotations don't change, descriptions."""

import numpy as np
import pytest
import torch

from analysis.files import InputError
from analysis.model import FactorTopy, ModelConfig
from analysis.top_channels import (
    LIMIT,
    Top,
    alike,
    covered,
    directions,
    in_same_colours,
    rgb,
    top_channels,
)

WIDTHS = [6, 5]


@pytest.fixture(params=[False, True], ids=["plain", "standardised"])
def model(request):
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(channels=8, hidden=4, frequencies=2, standardise=request.param)
    made = FactorTopy(config, WIDTHS, 50 * torch.rand(30, 3, generator=generator))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        for standard in (made.standard.local, made.standard.global_) if request.param else ():
            standard.mean.copy_(torch.randn(11, generator=generator))
            standard.per_sd.copy_(torch.rand(11, generator=generator) + 0.5)
    return made


@pytest.fixture
def local():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, width, 4, 6, generator=generator) for width in WIDTHS]


def test_maps_are_those_of_listing_2(model, local):
    """Step by step as printed, in float64."""
    roi = np.zeros(30, bool)
    roi[3:20] = True
    found = top_channels(model, roi).maps(local)
    layer = model.selectors().layer.detach().double()[roi].mean(0)
    weight = model.weight.detach().double()[roi].T  # [D, N']
    centred = weight - weight.mean(0)  # pca's: channels are its samples
    u, s, vt = torch.linalg.svd(centred, full_matrices=False)
    components = (u * s)[:, :3] * torch.sign(vt[:3].sum(1))
    mean, per_sd = torch.zeros(11), torch.ones(11)
    if model.standard.local is not None:
        mean, per_sd = model.standard.local.mean, model.standard.local.per_sd
    expected = np.zeros((2, 3, 4, 6))
    for b in range(2):
        for y in range(4):
            for x in range(6):
                mixed = torch.zeros(8, dtype=torch.float64)
                for i, tokens in enumerate(local):
                    here = slice(0, 6) if i == 0 else slice(6, 11)
                    token = ((tokens[b, :, y, x] - mean[here]) * per_sd[here]).double()
                    mixed += layer[i] * (model.bottleneck.weights[i].detach().double() @ token)
                expected[b, :, y, x] = (components.T @ mixed).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_layer_of_a_coarser_grid_is_resized(model, local):
    roi = np.ones(30, bool)
    fine = [local[0], torch.nn.functional.interpolate(local[1][:, :, :1, :1], (4, 6))]
    coarse = [local[0], local[1][:, :, :1, :1]]
    top = top_channels(model, roi)
    np.testing.assert_allclose(top.maps(coarse), top.maps(fine), rtol=1e-4, atol=1e-4)


def test_signs_are_those_of_the_vertices_mean_weight():
    weight = np.random.default_rng(0).normal(size=(12, 9)) + 1.5 * np.arange(9)
    found = directions(weight)
    assert np.array_equal(found, directions(weight.copy()))
    # what a component adds to the mean response of the region
    assert ((weight - weight.mean(1, keepdims=True)).mean(0) @ found.T > 0).all()
    few = directions(weight[:2])
    assert few.shape == (3, 9) and not few[2].any() and few[:2].any(1).all()


def test_components_of_what_is_read_are_those_of_the_vertices_own_maps():
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(12, 9))
    tokens = rng.normal(size=(400, 9)) * np.geomspace(0.05, 2, 9)
    tokens -= tokens.mean(0)
    found = tokens @ directions(weight, np.cov(tokens.T)).T
    u, s, vt = np.linalg.svd(tokens @ weight.T, full_matrices=False)  # of 12 vertices' maps
    expected = (u * s)[:, :3] * np.sign(vt[:3].sum(1))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert not np.allclose(found, tokens @ directions(weight).T, rtol=0.1)
    few = directions(weight[:2], np.cov(tokens.T))
    assert few.shape == (3, 9) and not few[2].any() and few[:2].any(1).all()


def test_no_vertices_or_a_model_without_selectors_are_refused(model):
    with pytest.raises(InputError, match="roi: no vertices"):
        top_channels(model, np.zeros(30, bool))
    with pytest.raises(InputError, match="Linear: reads no channels by layer; expected factortopy"):
        top_channels(torch.nn.Linear(1, 1), np.ones(30, bool))


def test_turned_and_mirrored_maps_get_the_colours_of_the_reference(model, local):
    top = top_channels(model, np.ones(30, bool))
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn[:, 0] *= -np.sign(np.linalg.det(turn))  # a mirror
    other = top.turned(7 * turn, np.array([1.0, -2.0, 3.0]))
    maps = {"a": top.maps(local), "b": other.maps(local)}
    assert abs(alike(maps["a"], maps["b"])) < 0.9
    turned, same = in_same_colours({"a": top, "b": other}, maps)
    np.testing.assert_allclose(same["a"], same["b"], atol=1e-4)
    assert np.sqrt(np.square(same["a"]).mean()) == pytest.approx(1, rel=1e-5)
    for name, one in turned.items():  # the same of any pictures
        np.testing.assert_allclose(one.maps(local), same[name], atol=1e-4)
    # the reference itself is only scaled
    plain = maps["a"] - maps["a"].mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(same["a"] / plain, np.full_like(plain, 1 / plain.std()), rtol=1e-3)


def test_colours_are_grey_at_none_and_full_at_the_limit():
    maps = np.zeros((1, 3, 1, 2), np.float32)
    maps[0, :, 0, 1] = LIMIT, -LIMIT, 9 * LIMIT
    found = rgb(maps)
    np.testing.assert_allclose(found[0, 0], [[0.5, 0.5, 0.5], [1, 0, 1]])


def test_descriptions_of_known_maps():
    everywhere, one = np.ones((2, 3, 4, 4)), np.zeros((2, 3, 4, 4))
    one[:, 0, 1, 1] = one[:, 0, 2, 2] = 3.0
    np.testing.assert_allclose(covered(everywhere), 1)
    np.testing.assert_allclose(covered(one), 2 / 16)
    assert alike(one, -one) == pytest.approx(-1)


def test_a_map_that_is_the_same_everywhere_has_no_scale():
    top = Top((torch.zeros(3, 2),), torch.zeros(3))
    flat = {"a": np.zeros((1, 3, 2, 2), np.float32)}
    _, same = in_same_colours({"a": top}, flat)
    assert not same["a"].any()
