"""`select` against Listing 1 written out plainly: values, every gradient, borders and errors."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from analysis import selection
from analysis.selection import select
from tests.blurring import blurred

NAMES = ("local", "global_", "space", "layer", "scale", "weight", "bias")


def listing_1(
    local: Float[Tensor, "batch layer channel height width"],
    global_: Float[Tensor, "batch layer channel"],
    space: Float[Tensor, "vertex 2"],
    layer: Float[Tensor, "vertex layer"],
    scale: Float[Tensor, "vertex 1"],
    weight: Float[Tensor, "vertex channel"],
    bias: Float[Tensor, " vertex"],
    padding: str = "zeros",
) -> Float[Tensor, "batch vertex"]:
    """Steps 4 and 5 of the paper's Listing 1, as printed: builds [B, N, D, L]."""
    batch, layers, channels, height, width = local.shape
    vertices = len(space)
    v_local = torch.nn.functional.grid_sample(
        local.reshape(batch, layers * channels, height, width),
        space.view(1, vertices, 1, 2).expand(batch, -1, -1, -1),
        mode="bilinear",
        padding_mode=padding,
        align_corners=False,
    )
    v_local = v_local.view(batch, layers, channels, vertices).permute(0, 3, 2, 1)
    v_global = global_.transpose(1, 2).unsqueeze(1).expand(-1, vertices, -1, -1)
    scale = scale.view(1, vertices, 1, 1)
    v = v_local * (1 - scale) + v_global * scale
    v = (v * layer.view(1, vertices, 1, layers)).sum(dim=-1)
    return (v * weight).mean(dim=-1) + bias


def with_size(
    local: Float[Tensor, "batch layer channel height width"],
    global_: Float[Tensor, "batch layer channel"],
    space: Float[Tensor, "vertex 2"],
    layer: Float[Tensor, "vertex layer"],
    scale: Float[Tensor, "vertex 1"],
    weight: Float[Tensor, "vertex channel"],
    bias: Float[Tensor, " vertex"],
    size: Float[Tensor, "vertex 1"],
    padding: str = "zeros",
) -> Float[Tensor, "batch vertex"]:
    """A mixture of what is read from the map and from the map blurred."""
    rest = space, layer, scale, weight, bias, padding
    narrow, wide = (listing_1(maps, global_, *rest) for maps in (local, blurred(local)))
    return (1 - size).T * narrow + size.T * wide


def arguments(
    batch: int = 2,
    layers: int = 3,
    channels: int = 4,
    height: int = 8,
    width: int = 8,
    vertices: int = 50,
    space: Float[Tensor, "vertex 2"] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Arguments of `select` in float64, spread beyond the image unless `space` is given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vertices = vertices if space is None else len(space)
    return {
        "local": normal(batch, layers, channels, height, width),
        "global_": normal(batch, layers, channels),
        "space": 1.3 * torch.tanh(normal(vertices, 2)) if space is None else space,
        "layer": torch.softmax(normal(vertices, layers), dim=1),
        "scale": torch.sigmoid(normal(vertices, 1)),
        "weight": normal(vertices, channels),
        "bias": normal(vertices),
    }


def value_and_gradients(
    function: Any, inputs: dict[str, Tensor], padding: str, wanted: tuple[str, ...] = NAMES
) -> dict[str, Tensor]:
    """The value and the gradients of a fixed random projection of it, by argument name."""
    leaves = {k: v.detach().clone().requires_grad_(k in wanted) for k, v in inputs.items()}
    value = function(**leaves, padding=padding)
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
    gradients = torch.autograd.grad(value, [leaves[name] for name in wanted], slope)
    return {"value": value.detach(), **dict(zip(wanted, gradients, strict=True))}


def assert_same(inputs: dict[str, Tensor], padding: str) -> None:
    """Fails unless value and every gradient agree with Listing 1 in float64."""
    ours = value_and_gradients(select, inputs, padding)
    for name, expected in value_and_gradients(listing_1, inputs, padding).items():
        torch.testing.assert_close(
            ours[name], expected, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    vertices=st.integers(1, 60),
    padding=st.sampled_from(["zeros", "border"]),
    seed=st.integers(0, 2**31),
)
def test_receptive_fields_of_a_size(padding: str, **shape: int) -> None:
    inputs = arguments(**shape)
    inputs["size"] = torch.rand_like(inputs["scale"])
    names = (*NAMES, "size")
    ours = value_and_gradients(select, inputs, padding, names)
    for name, expected in value_and_gradients(with_size, inputs, padding, names).items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-10, atol=1e-10)


paddings = pytest.mark.parametrize("padding", ["zeros", "border"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    layers=st.integers(1, 5),
    channels=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    vertices=st.integers(1, 80),
    padding=st.sampled_from(["zeros", "border"]),
    seed=st.integers(0, 2**31),
)
def test_any_shape(padding: str, **shape: int) -> None:
    assert_same(arguments(**shape), padding)


@paddings
def test_cell_borders_corners_and_beyond(padding: str) -> None:
    # On a grid of 4 by 8, every place below is exact in binary: token centres, the lines between
    # cells, the edges of the image, and up to where the padding is out of reach and further.
    x = torch.arange(-12, 13, dtype=torch.float64) / 8
    far = torch.tensor([-1e30, -40.0, 40.0, 1e30], dtype=torch.float64)
    places = torch.cartesian_prod(torch.cat([x, far]), torch.cat([x, far]))
    # torch's own grid_sample overflows its integers at 1e30, so the furthest are checked below.
    near = places[places.abs().amax(dim=1) < 1e3]
    assert_same(arguments(height=4, width=8, space=near), padding)
    inputs = arguments(height=4, width=8, space=places)
    moved = {**inputs, "space": places.clamp(-40, 40)}
    for name, gradient in value_and_gradients(select, inputs, padding).items():
        torch.testing.assert_close(gradient, value_and_gradients(select, moved, padding)[name])


@paddings
@pytest.mark.parametrize("place", [(0.0, 0.0), (-1.0, 1.0), (0.3, -0.9), (7.0, 0.0)])
def test_all_vertices_in_one_cell_and_in_pieces(
    padding: str, place: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = torch.tensor(place, dtype=torch.float64).repeat(300, 1)
    assert_same(arguments(space=space), padding)
    monkeypatch.setattr(selection, "PIECE_BYTES", 1)  # pieces of 64 vertices, the smallest
    assert_same(arguments(space=space), padding)


@paddings
def test_one_vertex(padding: str) -> None:
    assert_same(arguments(vertices=1, batch=1), padding)


@paddings
def test_float32_is_within_1e_5_of_float64(padding: str) -> None:
    # Places that are exact in float32 and off every border: the slope of space jumps at a border.
    generator = torch.Generator().manual_seed(2)
    space = torch.randint(-70, 70, (200, 2), generator=generator).double() / 64 + 1 / 128
    exact = arguments(batch=4, layers=12, channels=64, space=space)
    inputs = {name: tensor.float() for name, tensor in exact.items()}
    ours = value_and_gradients(select, inputs, padding)
    expected = value_and_gradients(listing_1, exact, padding)
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float32
        error = (tensor.double() - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


@paddings
def test_gradients_by_finite_differences(padding: str) -> None:
    inputs = arguments(batch=2, layers=2, channels=3, height=3, width=2, vertices=4, seed=3)
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]
    assert torch.autograd.gradcheck(lambda *tensors: select(*tensors, padding=padding), leaves)


@pytest.mark.parametrize("wanted", NAMES)
def test_one_wanted_gradient_is_the_same_alone(wanted: str) -> None:
    inputs = arguments()
    alone = value_and_gradients(select, inputs, "zeros", wanted=(wanted,))
    among_all = value_and_gradients(select, inputs, "zeros")
    torch.testing.assert_close(alone[wanted], among_all[wanted])


def test_no_gradient_wanted_keeps_no_graph() -> None:
    assert not select(**arguments()).requires_grad


def test_inputs_are_left_as_they_were() -> None:
    inputs = arguments()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    value_and_gradients(select, inputs, "zeros")
    assert all(torch.equal(inputs[name], before[name]) for name in NAMES)


def test_nothing_larger_than_batch_by_vertex_by_channel_is_kept() -> None:
    inputs = arguments(batch=4, layers=2, channels=64, vertices=500)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    leaves = [tensor.requires_grad_() for tensor in inputs.values()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        select(*leaves)
    assert max(kept) <= 4 * 500 * 64  # no number for each layer, nor for each of 5 tokens


def error_message(**changed: Any) -> str:
    """The ValueError that `select` raises with some arguments changed."""
    # Unwrapped, as the shape checks of a test run would refuse the call before the function could.
    with pytest.raises(ValueError) as error:
        inspect.unwrap(select)(**{**arguments(), **changed})
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("local", (0, 3, 4, 8, 8), "none of them 0"),
        ("local", (3, 4, 8, 8), "(batch, layer, channel, height, width)"),
        ("space", (0, 2), "1 or more"),
        ("space", (50, 3), "(50, 2)"),
        ("global_", (2, 3, 5), "(2, 3, 4)"),
        ("layer", (50, 2), "(50, 3)"),
        ("scale", (50,), "(50, 1)"),
        ("weight", (49, 4), "(50, 4)"),
        ("bias", (49,), "(50,)"),
    ],
)
def test_a_wrong_size_is_named(name: str, shape: tuple[int, ...], expected: str) -> None:
    message = error_message(**{name: torch.zeros(shape, dtype=torch.float64)})
    assert message.startswith(f"{name} has shape {shape}, expected ") and expected in message


def test_mixed_types_and_devices_are_named() -> None:
    message = error_message(weight=torch.zeros(50, 4))
    assert message.startswith("weight is torch.float32 on cpu, expected torch.float64 on cpu")
    message = error_message(bias=torch.zeros(50, dtype=torch.float64, device="meta"))
    assert message.startswith("bias is torch.float64 on meta, expected torch.float64 on cpu")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_place_that_is_not_finite_is_named(bad: float) -> None:
    space = torch.zeros(50, 2, dtype=torch.float64)
    space[7, 1] = bad
    assert error_message(space=space).startswith(f"space is [0.0, {bad}] at vertex 7, expected fin")


def test_unknown_padding_is_named() -> None:
    message = error_message(padding="reflection")
    assert message == "padding is 'reflection', expected 'zeros' or 'border'"
