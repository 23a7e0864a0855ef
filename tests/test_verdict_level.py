"""Each rule says "holds" of a false claim in at most 5 % of draws, and of a true one in most.

A draw is a person: areas of a few patches of cortex, networks whose maps wander from patch to
patch, and three seeds whose fits wander once more, patch by patch and area by area. A false claim
is false at its bound: one of its parts, drawn anew each time, has just the number that it is judged
against, and the others are clearly true.
"""

from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest

from analysis import evidence, readings
from analysis.alignment import PATCH
from analysis.attribution import LayerMaps
from analysis.findings import FAMILIES, FINDINGS
from analysis.metrics import Scores
from analysis.readings import Reading
from analysis.subject import Subject

AREAS = ("V1", "V2", "V3", "V4", "EBA", "FFA", "OPA", "PPA")
LAYERS, PICTURES, SAMPLES, SEEDS = 6, 40, 100, 3
NULL, TRUE = 200, 20  # draws
N_PATCHES, N_EACH = 8, 3  # patches of an area, vertices of a patch
N = len(AREAS) * N_PATCHES * N_EACH
AREA = np.repeat(np.arange(len(AREAS)), N_PATCHES * N_EACH)
PATCHES = np.repeat(np.arange(len(AREAS) * N_PATCHES), N_EACH)
PLACE = np.arange(len(AREAS))
EARLY, MIDDLE, LATE = PLACE < 3, PLACE == 3, PLACE > 3
LEVEL = np.array([0, 0.25, 0.5, 0.75, *[1.0] * 4])
DRAWN = np.random.default_rng(0).multinomial(PICTURES, np.full(PICTURES, 1 / PICTURES), SAMPLES)
DRAWN = np.concatenate([np.ones((1, PICTURES)), DRAWN]) / PICTURES


class NoPictures:
    def __len__(self) -> int:
        return 0

    def read(self, rows):
        raise NotImplementedError


def made_person() -> Subject:
    """A person whose areas lie side by side, a row of patches each."""
    place = np.stack([PATCHES % N_PATCHES, AREA, np.zeros(N)], 1) * PATCH
    place[:, 0] += np.tile(np.arange(N_EACH), N // N_EACH) * PATCH / 4
    none = np.zeros(0, int)
    rois = {name: i == AREA for i, name in enumerate(AREAS)}
    return Subject("planted", "own", 0, np.arange(N), place, rois, np.ones(N), np.zeros((0, N)),
                   none, none, none, none, np.zeros(0, bool), NoPictures(), 0, "")  # fmt: skip


PERSON = made_person()


def scores(skill: np.ndarray, ceiling: float = 1.0) -> Scores:
    """Scores whose R² over a set of pictures is the mean of these, [picture, area]."""
    draws = (DRAWN @ skill)[:, AREA]
    of_r = np.zeros(N), np.zeros((SAMPLES, N))
    return Scores(draws[0], draws[1:], *of_r, np.full(N, ceiling), "", "test", PICTURES)


GOOD = scores(np.full((PICTURES, len(AREAS)), 0.5))


def wander(rng, sd: float) -> np.ndarray:
    """A map that differs from patch to patch."""
    return rng.normal(0, sd, len(AREAS) * N_PATCHES)[PATCHES]


def network(rng, means, own: float = 0.08) -> np.ndarray:
    """A network's map: its areas' means, and what its patches are beside them."""
    return np.broadcast_to(means, len(AREAS))[AREA] + wander(rng, own)


def fitted(rng, depth: np.ndarray, noise: float = 0.04, **more) -> Reading:
    """What one seed's fit says of a map: the depth is the weight of the last of the layers."""
    area = rng.normal(0, noise / 4, len(AREAS))[AREA]
    depth = np.clip(depth + area + wander(rng, noise) + rng.normal(0, noise / 2, N), 0, 1)
    weights = np.zeros((N, LAYERS))
    weights[:, 0], weights[:, -1] = 1 - depth, depth
    nothing = np.full(N, np.nan)
    rest = {"scores": GOOD, "channel": np.ones((N, 2)), "space": np.zeros((N, 2)),
            "scale": np.zeros(N)} | more  # fmt: skip
    maps = LayerMaps(weights, weights, nothing, nothing, "test", PICTURES)
    return Reading(PERSON, "other", maps=maps, **rest)


def seeds_of(rng, maps: dict[str, np.ndarray], noise: float = 0.04) -> list[dict[str, Reading]]:
    return [{n: fitted(rng, d, noise) for n, d in maps.items()} for _ in range(SEEDS)]


def lines(start: float, slope: float) -> np.ndarray:
    return start + slope * LEVEL


def scored(rng, means: dict[str, np.ndarray], noise: float = 0.2) -> list[dict[str, Reading]]:
    """Networks with these R² by area: pictures differ, alike for all and in each; so do seeds."""
    shared = rng.normal(0, noise, (PICTURES, len(AREAS)))
    own = {n: rng.normal(0, noise / 2, (PICTURES, len(AREAS))) for n in means}
    dull = np.full(N, 0.5)
    return [
        {n: fitted(rng, dull, scores=scores(
            m + shared + own[n] + rng.normal(0, 0.01, len(AREAS)))) for n, m in means.items()}
        for _ in range(SEEDS)
    ]  # fmt: skip


# Each case: what `evaluate` takes for its seeds. `false`: the part at its bound; None: all true.


def early_and_late(rng, false):
    gap = np.where(EARLY, 0.0 if false == 0 else 0.1, 0)
    return scored(rng, {"MAE": 0.4 + gap, "SAM": 0.4 + gap, "CLIP": 0.4 - gap, "DiNOv2": 0.4 - gap})


def diffusion_uniform(rng, false):
    best = np.full(len(AREAS), 0.5)
    late = best * np.where(rng.integers(len(AREAS)) == PLACE, 0.8, 1.0) if false == 0 else best
    return scored(rng, {"SD T0": best * 0, "SD T40": late, "SD T45": late, "CLIP": best,
                        "SAM": best - 0.2}, noise=0.1)  # fmt: skip


def diffusion_steps(rng, false):
    at = {0: 0.0, 25: 0.3, 45: 0.3}
    tilt = 0.0 if false == 0 else 0.1
    return scored(rng, {f"SD T{t}": mean + tilt * np.where(EARLY, 1, -1) * (t - 35) / 10 * (t > 0)
                        for t, mean in at.items()})  # fmt: skip


def clip_best(rng, false):
    maps = {name: network(rng, lines(0.4, 0.1)) for name in FAMILIES}
    maps["CLIP"] = network(rng, lines(0.2, 0.6))
    if false is not None:
        maps[FAMILIES[1 + false]] = network(rng, lines(0.2, 0.6))
    return seeds_of(rng, maps)


def last_layer_middle(rng, false):
    maps = {}
    for i, name in enumerate(("ImageNet", "SAM")):
        means = np.where(MIDDLE, 0.7, 0.35)
        if false is not None and false // 2 == i:
            means = np.where(EARLY if false % 2 == 0 else LATE, 0.7, means)
        maps[name] = network(rng, means)
    return seeds_of(rng, maps)


def last_layer_unused(rng, false):
    maps = {}
    for i, name in enumerate(("DiNOv2", "MAE")):
        means = np.full(len(AREAS), 0.08)
        if false == i:
            means[rng.integers(len(AREAS))] = 1 / LAYERS
        maps[name] = network(rng, means, 0.02)
    return seeds_of(rng, maps, 0.01)


def moco_ventral(rng, false):
    ventral = np.isin(AREAS, readings.VENTRAL) & (false is None)
    return seeds_of(rng, {"MoCov3": network(rng, np.where(ventral, 0.7, 0.4))})


def early_layers(rng, false):
    used = {name: 0.2 if name in ("CLIP", "ImageNet") else 0.6 for name in FAMILIES}
    if false is not None:
        used[("SAM", "DiNOv2", "MAE", "MoCov3")[false % 4]] = 0.2
    return seeds_of(rng, {name: network(rng, depth) for name, depth in used.items()})


def diffusion_axes(rng, false):
    away = np.where(EARLY, 1, -0.6)
    encoder, decoder, time = 0.5 - 0.15 * away, 0.5 - 0.05 * away, 0.5 + 0.3 * away
    sharp = np.where(PLACE % 2, 0.1, 0.9)
    vits = sharp, sharp
    if false == 0:
        time = 0.5 + 0.1 * away
    elif false == 1:
        decoder = 0.5 - 0.15 * away[::-1]
    elif false == 2:
        vits = encoder, decoder
    elif false == 3:
        other = np.where(PLACE % 2, 0.2, -0.2)
        time = 0.5 + other - np.where(EARLY, other[EARLY].mean(), other[LATE].mean())
    maps = {"SD encoder": encoder, "SD decoder": decoder, "SD time": time}
    maps |= {"CLIP": vits[0], "SAM": vits[1]}
    return seeds_of(rng, {name: network(rng, m, 0.06) for name, m in maps.items()}, 0.03)


def clip_size(rng, false):
    small = {0: (0.3, 0.5), 1: (0.2, 0.4), 2: (0.3, 0.5)}.get(false, (0.4, 0.2))
    large = {0: (0.2, 0.5), 1: (0.2, 0.6), 2: (0.2, 0.6)}.get(false, (0.2, 0.6))
    sizes = seeds_of(rng, {"s": network(rng, lines(*small)), "l": network(rng, lines(*large))})
    return [list(each.values()) for each in sizes]


def other_sizes(rng, false):
    families = FAMILIES[1:]
    at_bound = None if false is None else FINDINGS["other-sizes"].parts[false].name.split()[0]
    maps = {}
    for name in families:
        maps[name, 0] = network(rng, lines(0.2, 0.6))
        falls = (0.2, 0.6) if name == at_bound else (0.4, 0.2)
        maps[name, 1] = network(rng, lines(*falls))
    return [{n: [each[n, 0], each[n, 1]] for n in families} for each in seeds_of(rng, maps)]


def fine_tuning_layout(rng, false):
    change = {"CLIP": 0.1, "DiNOv2": 0.3, "MAE": 0.3}
    if false is not None:
        change[("DiNOv2", "MAE")[false]] = 0.1
    noise = {"CLIP": 0.03, "DiNOv2": 0.06, "MAE": 0.06}  # the less certain map moves no more
    networks = {}
    for name, by in change.items():
        before = network(rng, 0.4)
        # of patches of either sign, so that the mean square is the same in all
        after = before + by * rng.choice([0.8, 1.166], len(AREAS) * N_PATCHES)[PATCHES]
        networks[name] = {task: [fitted(rng, m, noise[name]) for _ in range(SEEDS)]
                          for task, m in (("", before), ("colour", after))}  # fmt: skip
    return [networks]


def fine_tuning_accuracy(rng, false):
    """`right` travels with the readings; accuracy and change are related where part 1 is false."""
    n = 8 if false == 1 else 30 if false == 0 else 80
    mixed = rng.normal(size=(2, n))
    if false == 1:
        related = 2 * np.sin(np.pi / 6 * 0.5)  # of normal numbers whose ranks correlate by .5
        mixed[1] = related * mixed[0] + np.sqrt(1 - related**2) * mixed[1]
    accuracy, change = 0.5 + 0.04 * np.clip(mixed[0], -2, 2), 0.2 + 0.04 * np.clip(mixed[1], -2, 2)
    accuracy[0] = accuracy[1:].max() + (0 if false == 0 else 0.3)
    names = ["CLIP", *(f"N{i}" for i in range(1, n))]
    before, pictures = fitted(rng, np.full(N, 0.4)), rng.normal(0, 0.2, PICTURES)
    both = {name: {"": before, "t": fitted(rng, np.full(N, 0.4 + by))}
            for name, by in zip(names, change, strict=True)}  # fmt: skip
    return [
        (both, {name: {"t": a + pictures + rng.normal(0, 0.2, PICTURES)}
                for name, a in zip(names, accuracy, strict=True)})
        for _ in range(SEEDS)
    ]  # fmt: skip


def channels_and_places(rng, false):
    early = np.repeat(EARLY, N_PATCHES * N_EACH)
    shared = np.where(early, 1.0, 1.0 if false == 0 else 0.3)[:, None]
    spread = np.where(early, 0.5, 0.5 if false == 1 else 0.2)[:, None]
    scale = np.where(early, 0.3, 0.3 if false == 2 else 0.6)
    several = lambda sd, n: np.stack([wander(rng, sd) for _ in range(n)], 1)  # noqa: E731
    channel, place, scale = several(0.4, 6), spread * several(1, 2), scale + wander(rng, 0.1)
    channel[:, 0] += shared[:, 0]
    return [
        fitted(rng, np.full(N, 0.5), channel=channel + several(0.1, 6),
               space=place + several(0.1, 2), scale=scale + wander(rng, 0.03))
        for _ in range(SEEDS)
    ]  # fmt: skip


def top_channels(rng, false):
    areas = {a: 0.8 for a in ("EBA", "FFA", "PPA", "VWFA")}
    if false == 0:
        areas[rng.choice([*areas])] = 0.5
    each = {a: rng.normal(m, 0.4, PICTURES) for a, m in areas.items()}
    return [{a: DRAWN @ (v + rng.normal(0, 0.1, PICTURES) + rng.normal(0, 0.02))
             for a, v in each.items()} for _ in range(SEEDS)]  # fmt: skip


def subjects_differ(rng, false):
    """A person's R² is lower where there is more noise: that alone is no difference."""
    people = []
    for i in range(3):
        share = 0.8 + (0 if false == 0 else 0.3 * rng.normal(0, 1, len(AREAS)).clip(-1, 1))
        depth = network(
            rng, 0.5 + (0 if false == 1 else 0.25 * rng.normal(0, 1, len(AREAS)).clip(-1, 1))
        )
        ceiling, noise = (0.6, 0.4, 0.2)[i], rng.normal(0, 0.2, (PICTURES, len(AREAS)))
        people.append([
            fitted(rng, depth, scores=scores(
                ceiling * (share + noise + rng.normal(0, 0.02, len(AREAS))), ceiling))
            for _ in range(SEEDS)
        ])  # fmt: skip
    return [people]


def seeds_agree(rng, false):
    alike = 2 * np.sin(np.pi / 6 * (0.8 if false == 0 else 0.97))
    people = []
    for person in range(2):
        own = wander(rng, np.sqrt(alike if person == 0 else 0.99)) / 10
        noise = np.sqrt(1 - alike if person == 0 else 0.01) / 10
        people.append([fitted(rng, 0.5 + own + wander(rng, noise), 0) for _ in range(SEEDS)])
    return [people]


def limited_data(rng, false):
    alike = 2 * np.sin(np.pi / 6 * (0.8 if false == 0 else 0.97))
    own = wander(rng, np.sqrt(alike)) / 10
    share = 0.9 if false == 1 else 1.0
    each = []
    pictures = rng.normal(0, 0.2, (PICTURES, len(AREAS)))
    for _ in range(SEEDS):
        maps = [own + wander(rng, np.sqrt(1 - alike)) / 10 for _ in range(3)]
        small, whole = (
            scores(0.5 * r + pictures + rng.normal(0, 0.05, (PICTURES, len(AREAS))))
            for r in (share, 1)
        )
        each.append((fitted(rng, 0.5 + maps[0], 0, scores=small),
                     fitted(rng, 0.5 + maps[1], 0, scores=whole),
                     fitted(rng, 0.5 + maps[2], 0)))  # fmt: skip
    return each


CASES = {
    "early-and-late": (early_and_late, evidence.early_and_late),
    "diffusion-uniform": (diffusion_uniform, evidence.diffusion_uniform),
    "diffusion-steps": (diffusion_steps, evidence.diffusion_steps),
    "clip-best": (clip_best, evidence.clip_best),
    "last-layer-middle": (last_layer_middle, evidence.last_layer_middle),
    "last-layer-unused": (last_layer_unused, evidence.last_layer_unused),
    "moco-ventral": (moco_ventral, evidence.moco_ventral),
    "early-layers": (early_layers, evidence.early_layers),
    "diffusion-axes": (diffusion_axes, evidence.diffusion_axes),
    "clip-size": (clip_size, evidence.clip_size),
    "other-sizes": (other_sizes, evidence.other_sizes),
    "fine-tuning-layout": (fine_tuning_layout, evidence.fine_tuning_layout),
    "fine-tuning-accuracy": (
        fine_tuning_accuracy,
        lambda both: evidence.fine_tuning_accuracy(*both),
    ),
    "channels-and-places": (channels_and_places, evidence.channels_and_places),
    "top-channels": (top_channels, evidence.top_channels),
    "subjects-differ": (subjects_differ, evidence.subjects_differ),
    "seeds-agree": (seeds_agree, evidence.seeds_agree),
    "limited-data": (limited_data, lambda three: evidence.limited_data(*three)),
}


def share_that_holds(name: str, draws: int, false: bool) -> float:
    make, measure = CASES[name]
    held = []
    for i in range(draws):
        rng = np.random.default_rng((i, int(false)))
        part = int(rng.integers(len(FINDINGS[name].parts))) if false else None
        held.append(evidence.evaluate(name, measure, make(rng, part)).verdict == "holds")
    return float(np.mean(held))


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> Iterator[None]:
    """Few draws, and no shape checks, which other tests make and which take half of the time."""
    monkeypatch.setattr(readings, "DRAWS", SAMPLES)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_every_row_has_a_case() -> None:
    assert set(CASES) == set(FINDINGS)


@pytest.mark.parametrize("name", CASES)
def test_a_false_claim_holds_in_at_most_one_of_twenty_draws(name) -> None:
    assert share_that_holds(name, NULL, false=True) <= 0.05


@pytest.mark.parametrize("name", CASES)
def test_a_true_claim_holds_in_most_draws(name) -> None:
    assert share_that_holds(name, TRUE, false=False) > 0.75
