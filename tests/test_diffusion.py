"""Stable Diffusion: its chain against hooks, diffusers' scheduler and equations."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from analysis.backbones import Backbone, Preprocessing, load_backbone
from analysis.backbones.catalogue import card_of
from analysis.backbones.diffusion import (
    LAYER_NAMES,
    TABLE_13,
    Diffusion,
    Inversion,
    load_diffusion,
    next_latent,
)
from analysis.backbones.diffusion_weights import (
    ARCHITECTURES,
    Parts,
    drawn_parts,
)
from analysis.backbones.inversion import signal
from analysis.files import InputError

MINI = ARCHITECTURES["sd-mini"]
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return drawn_parts(MINI)


@pytest.fixture(scope="module")
def build(parts: Parts) -> Callable[..., Diffusion]:
    """The miniature on shared weights, with other choices or time steps."""

    def built(*times: int, size: int = 64, **choices: object) -> Diffusion:
        inversion = Inversion(**{"steps": 10, **choices})
        return Diffusion(
            "sd-mini", parts, Preprocessing((size, size), HALF, HALF), inversion, times or TABLE_13
        )

    return built


def noise(*shape: int, seed: int = 0) -> UInt8[Tensor, "batch height width 3"]:
    """Pictures of coloured squares of eight pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = (shape[0], shape[1] // 8, shape[2] // 8, 3)
    squares = torch.randint(0, 256, coarse, generator=generator, dtype=torch.uint8)
    return squares.repeat_interleave(8, 1).repeat_interleave(8, 2)


def clean_latents(parts: Parts, backbone: Diffusion, pictures: Tensor) -> Tensor:
    """The scaled mean of diffusers' own encoder."""
    return parts.vae.encode(backbone.preprocess(pictures)).latent_dist.mode() * 0.18215


def noise_of(parts: Parts, latents: Tensor, level: int) -> Tensor:
    prompt = parts.empty.expand(len(latents), -1, -1)
    return parts.unet(latents, torch.tensor(level), encoder_hidden_states=prompt).sample


def module_name(layer: str, site: str) -> str:
    """Where a layer of Table 12 lies in diffusers' U-Net."""
    number = int(layer[1:]) - 1
    block, j = divmod(number, 2) if layer[0] == "E" else divmod(number, 3)
    plain = block == 3 if layer[0] == "E" else block == 0
    side = "down_blocks" if layer[0] == "E" else "up_blocks"
    kind = "attentions" if site == "block" and not plain else "resnets"
    return f"{side}.{block}.{kind}.{j}" + (".conv2" if site == "conv" else "")


def hooked(parts: Parts, latents: Tensor, level: int, site: str) -> list[Tensor]:
    """What forward hooks see of each layer, by its name in the U-Net."""
    seen: dict[str, Tensor] = {}
    handles = [
        parts.unet.get_submodule(module_name(name, site)).register_forward_hook(
            lambda module, inputs, out, name=name: seen.__setitem__(
                name, (out[0] if isinstance(out, tuple) else out).clone()
            )
        )
        for name in LAYER_NAMES
    ]
    noise_of(parts, latents, level)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in LAYER_NAMES]


@pytest.mark.parametrize("site", ["block", "resnet", "conv"])
def test_tokens_are_what_hooks_see_on_the_way_from_the_picture(
    parts: Parts, build: Callable[..., Diffusion], site: str
) -> None:
    backbone, pictures = build(50, 45, site=site), noise(2, 64, 64)
    with torch.inference_mode():
        local, global_ = backbone(pictures)
        clean = clean_latents(parts, backbone, pictures)
        expected = hooked(parts, clean, 0, site)  # T50: the picture's own latent
        later = next_latent(clean, noise_of(parts, clean, 0), 0, 81)
        expected += hooked(parts, later, 81, site)  # T45, in one step of ten
    assert len(local) == len(global_) == 40
    for maps, vector, hook in zip(local, global_, expected, strict=True):
        assert torch.equal(maps, hook)
        torch.testing.assert_close(vector, hook.flatten(2).sum(2) / hook[0, 0].numel())


def test_a_step_is_that_of_diffusers_inverse_scheduler() -> None:
    scheduler = inverse_scheduler()
    generator = torch.Generator().manual_seed(0)
    latent, seen = torch.randn(2, 2, 4, 8, 8, generator=generator)
    levels = [Inversion().noise_level(t) for t in Inversion().times()]
    assert levels[1:] == scheduler.timesteps.tolist() == [*range(1, 982, 20)]
    assert levels[0] == 0 and signal(0) == pytest.approx(0.99915)
    for level, ahead in pairwise(levels):
        expected = scheduler.step(seen, ahead, latent).prev_sample
        torch.testing.assert_close(
            next_latent(latent, seen, level, ahead), expected, rtol=0, atol=2e-6
        )


def inverse_scheduler():
    """Stable Diffusion's noise, taken to by diffusers in 50 steps."""
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,  # as in the configuration that was released with Stable Diffusion 1.5
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(50)
    return scheduler


@pytest.mark.parametrize("level", ["source", "target"])
def test_a_chain_is_that_of_diffusers_inverse_scheduler(
    parts: Parts, build: Callable[..., Diffusion], level: str
) -> None:
    backbone, pictures = build(45, steps=50, level=level), noise(1, 64, 64)
    scheduler = inverse_scheduler()
    with torch.inference_mode():
        local, _ = backbone(pictures)
        latent = clean_latents(parts, backbone, pictures)
        for ahead in scheduler.timesteps.tolist()[:5]:  # 1 to 81
            told = ahead if level == "target" else max(ahead - 20, 0)
            latent = scheduler.step(noise_of(parts, latent, told), ahead, latent).prev_sample
        expected = hooked(parts, latent, {"source": 81, "target": 101}[level], "block")
    for maps, hook in zip(local, expected, strict=True):
        torch.testing.assert_close(maps, hook, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("level", "expected"), [("source", [0, 481, 981]), ("target", [481, 981, 981])]
)
def test_the_network_is_told_the_levels_of_the_whole_way(
    build: Callable[..., Diffusion], level: str, expected: list[int]
) -> None:
    """At the end of the way no level lies ahead."""
    told: list[int] = []
    backbone = build(0, steps=2, level=level)
    handle = backbone.unet.register_forward_pre_hook(lambda module, inputs: told.append(inputs[1]))
    with torch.inference_mode():
        backbone(noise(1, 64, 64))
    handle.remove()
    assert told == expected


def test_the_way_back_with_the_same_noise_leads_to_the_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, seen = torch.randn(2, 1, 4, 8, 8, generator=generator, dtype=torch.float64)
    levels = [Inversion().noise_level(t) for t in Inversion().times()]
    latent = clean
    for level, ahead in pairwise(levels):
        latent = next_latent(latent, seen, level, ahead)
    assert (latent - clean).norm() > 0.9 * clean.norm()
    for level, ahead in pairwise(reversed(levels)):
        latent = next_latent(latent, seen, level, ahead)
    torch.testing.assert_close(latent, clean, rtol=1e-11, atol=1e-11)


def test_more_steps_converge_on_the_flow_that_they_follow() -> None:
    """noise = k · latent has a solution in closed form; the error of a step is of first order.

    In u = latent / √signal and s = √(1/signal − 1), du/ds = noise = k·u / √(1 + s²).
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    clean, left = (1 - betas).cumprod(0)[[0, 981]].tolist()
    k = 0.5
    way = math.asinh((1 / left - 1) ** 0.5) - math.asinh((1 / clean - 1) ** 0.5)
    exact = (left / clean) ** 0.5 * math.exp(k * way)

    def error(steps: int) -> float:
        inversion = Inversion(steps=steps)
        latent = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        for level, ahead in pairwise(inversion.noise_level(t) for t in inversion.times()):
            latent = next_latent(latent, k * latent, level, ahead)
        return abs(float(latent) - exact)

    errors = {steps: error(steps) for steps in (5, 10, 25, 50)}
    for few, many in pairwise(errors):
        order = math.log(errors[few] / errors[many]) / math.log(many / few)
        assert 0.8 < order < 1.2, errors
    assert errors[50] < 0.03 * exact


def test_t_counts_from_noise_to_the_picture_unless_asked_otherwise(
    build: Callable[..., Diffusion],
) -> None:
    pictures = noise(1, 64, 64)
    with torch.inference_mode():
        usual, _ = build(50, 40)(pictures)
        turned, _ = build(0, 10, clean=0)(pictures)
    assert [view.name for view in build(50, 40).views] == ["sd-mini@T50", "sd-mini@T40"]
    assert [view.name for view in build(0, 10, clean=0).views] == ["sd-mini@T0", "sd-mini@T10"]
    for a, b in zip(usual, turned, strict=True):
        assert torch.equal(a, b)


def test_one_chain_serves_several_times_and_ends_with_the_last(
    build: Callable[..., Diffusion],
) -> None:
    pictures, calls = noise(2, 64, 64), []
    together = build(30, 50, 35)
    assert together.times == (50, 35, 30)
    handle = together.unet.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        local, global_ = together(pictures)
        assert len(calls) == 5  # T50, 45, 40, 35, 30
        handle.remove()
        for view in together.views:
            alone = build(int(view.name.split("@T")[1]))
            assert alone.name == view.name and alone.identity == view.identity
            maps, vectors = alone(pictures)
            assert all(map(torch.equal, maps, local[view.layers]))
            assert all(map(torch.equal, vectors, global_[view.layers]))


def test_views_are_streamed_in_turn_and_are_slices_of_the_whole(
    build: Callable[..., Diffusion],
) -> None:
    backbone, pictures = build(50, 45), noise(1, 64, 64)
    with torch.inference_mode():
        local, global_ = backbone(pictures)
        streamed = list(backbone.stream(pictures))
        sliced = list(Backbone.stream(backbone, pictures))  # what others do
    assert len(streamed) == len(backbone.views) == 2
    assert [c.shape[1] for c in global_] == backbone.widths == list(MINI.widths) * 2
    assert backbone.layer_names == [f"T{t} {name}" for t in (50, 45) for name in LAYER_NAMES]
    for view, (maps, vectors) in zip(backbone.views * 2, streamed + sliced, strict=True):
        assert view.widths == MINI.widths and view.layer_names == LAYER_NAMES
        assert all(map(torch.equal, maps, local[view.layers]))
        assert all(map(torch.equal, vectors, global_[view.layers]))


def test_parts_and_axes_are_layers_of_the_whole(parts: Parts) -> None:
    def built(*shown: str) -> Diffusion:
        return Diffusion(
            "sd-mini", parts, Preprocessing((64, 64), HALF, HALF), Inversion(steps=5), (), shown
        )

    pictures, shown = noise(1, 64, 64), ("D6", "T40D", "E3", "T40E", "T50")
    with torch.inference_mode():
        whole = load_diffusion("sd-mini", inversion=Inversion(steps=5)).views
        local, global_ = built(*(f"T{t}" for t in (50, 40, 30, 20, 10, 0)))(pictures)
        several = built(*shown)
        streamed = list(several.stream(pictures))
        maps, vectors = several(pictures)
    # layers of the whole by place: T50 first, 20 to a time step, the encoder's 8 first
    over_time = [100, 80, 60, 40, 20, 0]  # T0, T10, ... T50
    places = {
        "T50": [*range(20)],
        "T40E": [*range(20, 28)],
        "T40D": [*range(28, 40)],
        "E3": [at + 2 for at in over_time],
        "D6": [at + 13 for at in over_time],
    }
    order = [view.name.removeprefix("sd-mini@") for view in several.views]
    assert set(order[:3]) == {"T50", "T40D", "T40E"} and order[0] == "T50"  # as they are complete
    for view, name, (some, means) in zip(several.views, order, streamed, strict=True):
        assert len(some) == len(places[name]) == len(view.widths)
        assert view.widths == tuple(MINI.widths[i % 20] for i in places[name])
        for i, tokens, mean in zip(places[name], some, means, strict=True):
            assert torch.equal(tokens, local[i]) and torch.equal(mean, global_[i])
        assert all(map(torch.equal, maps[view.layers], some))
        assert all(map(torch.equal, vectors[view.layers], means))
        alone = built(name)
        assert alone.identity == view.identity and alone.name == view.name
        assert alone.layer_names == list(view.layer_names)
    times = dict(zip(order, several.views, strict=True))
    assert times["D6"].layer_names == ("T0", "T10", "T20", "T30", "T40", "T50")
    assert times["T40E"].layer_names == LAYER_NAMES[:8]
    assert len({view.identity for view in (*several.views, *whole)}) == 11
    assert built("T40E").times == (40,)  # the chain ends there


def test_views_by_name_are_told_from_others() -> None:
    named = load_diffusion("sd-mini,steps=5@T50+T40D+T50")
    assert [view.name for view in named.views] == ["sd-mini,steps=5@T50", "sd-mini,steps=5@T40D"]
    assert named.layer_names[:2] == ["T50 E1", "T50 E2"] and named.layer_names[-1] == "T40D D12"
    with pytest.raises(InputError, match="time steps T45: expected one or more of T0, T10"):
        load_diffusion("sd-mini,steps=5@T50+T45E")
    for name in ("sd-mini@T40F", "sd-mini@E9", "sd-mini@D13", "sd-mini@D", "sd-mini@T50+"):
        with pytest.raises(InputError, match=r"expected one of sd15, sd-mini, or one with"):
            load_diffusion(name)
    assert card_of("sd-mini,steps=5@D6").title == "Stable Diffusion miniature steps=5,D6"


def test_a_stream_holds_one_view_at_a_time(build: Callable[..., Diffusion]) -> None:
    calls: list[int] = []
    backbone = build(50, 45, 40)
    handle = backbone.unet.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        for n, _ in enumerate(backbone.stream(noise(1, 64, 64))):
            assert len(calls) == n + 1  # later views are not made yet
    handle.remove()


def test_any_backbone_streams_its_views() -> None:
    backbone = load_backbone("clip-mini")
    pictures = noise(1, 64, 64)
    with torch.inference_mode():
        local, global_ = backbone(pictures)
        [(maps, vectors)] = backbone.stream(pictures)
    assert all(map(torch.equal, maps, local)) and all(map(torch.equal, vectors, global_))


@pytest.mark.parametrize("latent", ["mean", "sample"])
def test_a_picture_gets_the_same_tokens_in_any_batch(
    build: Callable[..., Diffusion], latent: str
) -> None:
    backbone, pictures = build(50, 40, latent=latent), noise(3, 64, 64)
    with torch.inference_mode():
        together, _ = backbone(pictures)
        alone, _ = backbone(pictures[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-3, atol=1e-3)


def test_a_sample_adds_the_encoders_spread_times_seeded_noise(
    parts: Parts, build: Callable[..., Diffusion]
) -> None:
    pictures = noise(2, 64, 64)
    backbone = build(50, latent="sample", seed=3)
    x = backbone.preprocess(pictures)
    with torch.inference_mode():
        distribution = parts.vae.encode(x).latent_dist
        drawn = (backbone.latents(x) / 0.18215 - distribution.mean) / distribution.std
        other = build(50, latent="sample", seed=4).latents(x)
        assert not torch.allclose(other, backbone.latents(x))
        assert torch.equal(build(50, latent="sample", seed=3).latents(x), backbone.latents(x))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-3, atol=1e-3)
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 1) < 0.1
    spread = 0.18215 * distribution.std  # of weights that are drawn so
    torch.testing.assert_close(spread, torch.full_like(spread, 0.1))
    assert 0.7 < float((0.18215 * distribution.mean).std()) < 1.4


def test_layers_times_and_pictures_differ_in_drawn_weights() -> None:
    backbone = load_diffusion("sd-mini")
    assert backbone.name == "sd-mini" and backbone.preprocess.size == (128, 128)
    assert [view.name for view in backbone.views] == [f"sd-mini@T{t}" for t in TABLE_13[::-1]]
    smooth = noise(2, 32, 32).repeat_interleave(4, 1).repeat_interleave(4, 2)  # as pictures are
    with torch.inference_mode():
        local, global_ = backbone(smooth)
    for maps, vector in zip(local, global_, strict=True):
        assert maps.isfinite().all() and vector.isfinite().all()
        assert (maps[0] - maps[1]).norm() > 0.1 * maps.norm()
        assert (vector[0] - vector[1]).norm() > 0.02 * vector.norm()
        assert 0.5 < maps.square().mean().sqrt() < 10
    for i in range(20):  # one layer at all times
        steps = [maps[0].flatten() for maps in local[i::20]]
        assert torch.cosine_similarity(steps[0], steps[-1], 0) < 0.6
        for a, b in pairwise(steps):
            assert (a - b).norm() > 0.2 * a.norm()
    for a, b in pairwise(local[:20]):  # neighbours with maps of one size
        if a.shape == b.shape:
            assert torch.cosine_similarity(a[0].flatten(), b[0].flatten(), 0) < 0.9


def test_drawn_latents_follow_the_colours_of_a_picture(build: Callable[..., Diffusion]) -> None:
    smooth = noise(12, 32, 32).repeat_interleave(4, 1).repeat_interleave(4, 2)
    backbone = build(50, size=128)
    with torch.inference_mode():
        x = backbone.preprocess(smooth)
        latents = backbone.latents(x)
    colours = torch.nn.functional.adaptive_avg_pool2d(x, latents.shape[-1])
    a, y = (t.permute(0, 2, 3, 1).flatten(0, 2).double() for t in (colours, latents))
    a = torch.cat([a, torch.ones(len(a), 1)], 1)
    left = y - a @ torch.linalg.lstsq(a, y).solution
    assert (1 - left.var(0) / y.var(0) > 0.5).all()  # of white kernels, 0.02


IDENTITY = (
    "import sys; from analysis.backbones.diffusion import load_diffusion;"
    "assert 'diffusers' not in sys.modules; print(load_diffusion('sd-mini@T20').identity)"
)


def test_identity_is_the_same_in_another_process() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", IDENTITY]
    other = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    views = {view.name: view.identity for view in load_diffusion("sd-mini").views}
    assert other.stdout.strip() == views["sd-mini@T20"]


def test_identity_changes_with_each_choice_but_not_with_the_other_times(
    parts: Parts, build: Callable[..., Diffusion]
) -> None:
    def identity(**choices: object) -> str:
        return build(50, **choices).identity

    other = build(50, 40, 30)
    assert identity() == other.views[0].identity
    assert len({v.identity for v in other.views} | {other.identity}) == 4
    assert other.identity != build(50, 40).identity
    assert identity(seed=1) == identity()  # there is no noise that it could change
    changed = [
        identity(site="resnet"),
        identity(site="conv"),
        identity(level="target"),
        identity(latent="sample"),
        identity(latent="sample", seed=1),
        identity(steps=50),
        identity(size=72),
        build(0, clean=0).identity,
    ]
    for weight in (parts.unet.conv_in.bias, parts.vae.encoder.conv_in.bias):
        weight.data[0] = 1
        changed.append(identity())
        weight.data[0] = 0  # as it was drawn
    other_prompt = parts._replace(empty=parts.empty + 1e-3)
    changed.append(
        Diffusion("sd-mini", other_prompt, build().preprocess, build().inversion, (50,)).identity
    )
    assert len({identity(), *changed}) == 12
    # what is decoded from latents plays no part
    parts.vae.decoder.conv_in.bias.data[0] += 1
    assert identity() == build(50, 45).views[0].identity


def test_weights_are_frozen_and_in_evaluation_mode(build: Callable[..., Diffusion]) -> None:
    backbone = build(50)
    assert not backbone.unet.training and not backbone.encoder.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_what_the_paper_leaves_open_is_stated_with_its_reason() -> None:
    stated = {f.name: f for f in fields(Inversion)}
    assert set(stated) == {"site", "level", "latent", "clean", "steps", "seed"}
    for f in stated.values():
        assert f.metadata["reason"]
        assert f.default in f.metadata["choices"] or f.name == "seed"
    for name, value in {
        "site": "attention",
        "level": "next",
        "latent": "median",
        "clean": 25,
        "steps": 20,
    }.items():
        with pytest.raises(InputError, match=rf"^{name}={value!r}: expected one of .*\d|'"):
            Inversion(**{name: value})


def test_unknown_names_and_times_say_what_is_known() -> None:
    for name in ("sd21", "sd15@20", "sd15@T", "sd15@T20@T30", "sd15@T-5"):
        with pytest.raises(InputError, match=r"expected one of sd15, sd-mini, or one with a time"):
            load_diffusion(name)
    with pytest.raises(InputError, match=r"time steps T21: expected .* T0, T5, .*T50, .*steps=10"):
        load_diffusion("sd-mini@T21")
    with pytest.raises(InputError, match=r"time steps T51: expected"):
        load_diffusion("sd-mini@T51", inversion=Inversion())
    with pytest.raises(InputError, match="sd-mini has no checkpoint; expected 'random'"):
        load_diffusion("sd-mini", "pretrained")
    coarse = load_diffusion("sd-mini", inversion=Inversion(steps=5))
    assert coarse.times == (50, 40, 30, 20, 10, 0)
