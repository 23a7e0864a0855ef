"""Each row of Table 5 found where it was planted, and not where it was not."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from analysis import evidence, readings
from analysis.alignment import LATE, LEVELS
from analysis.attribution import LayerMaps
from analysis.evidence import evaluate
from analysis.files import InputError
from analysis.findings import FAMILIES, FINDINGS, Run, recorded, scoreboard
from analysis.metrics import Scores, brain_score
from analysis.readings import (
    Reading,
    changed,
    map_correlation,
    n_patches,
    predicts,
    read,
    roi_scores,
    separation,
    truth_reading,
)
from analysis.subject import Subject, shuffled
from analysis.verdicts import PREDICTS, Measured, judge

N_LAYERS = 12
EARLY, HIGH = ("V1", "V2", "V3"), tuple(LATE)


def in_any(person: Subject, rois) -> np.ndarray:
    return np.any([person.rois[r] for r in rois if r in person.rois], axis=0)


def peaked(depth, width=0.12) -> np.ndarray:
    """Layer weights about a depth for each vertex."""
    layers = np.linspace(0, 1, N_LAYERS)
    weights = np.exp(-(((layers - np.asarray(depth)[:, None]) / width) ** 2) / 2)
    return weights / weights.sum(1, keepdims=True)


def hierarchy(person: Subject, slope: float, start: float) -> np.ndarray:
    """A depth that rises along the hierarchy, with noise between vertices."""
    level = np.full(len(person.vertices), 0.5)
    for roi, value in LEVELS["all areas"].items():
        level[person.rois.get(roi, np.zeros(len(level), bool))] = value
    return start + slope * level + np.random.default_rng(0).normal(0, 0.02, len(level))


def scores(person: Subject, share=0.6, seed=0, mixed=False) -> Scores:
    """Of a prediction that holds a share of each vertex's signal, or none of it."""
    rng = np.random.default_rng(seed)
    n = len(person.vertices)
    signal = np.random.default_rng(99).normal(size=(40, n))
    y = signal[np.repeat(np.arange(40), 3)] + rng.normal(size=(120, n))
    if mixed:
        y = rng.permutation(y)
    shown = np.repeat(np.arange(40), 3)
    return brain_score(signal * share, y, shown, np.ones(n), "test", samples=200)


def reading(person: Subject, weights, backbone="other", **given) -> Reading:
    n = len(person.vertices)
    maps = LayerMaps(weights, weights, "test", 40)
    rest = {"scores": scores(person), "channel": np.ones((n, 4)),
            "space": np.zeros((n, 2)), "scale": np.full(n, 0.5)} | given  # fmt: skip
    return Reading(person, backbone, maps=maps, **rest)


def verdict(name: str, measured) -> str:
    return judge(FINDINGS[name], measured).verdict


@pytest.fixture
def person(subject, monkeypatch) -> Subject:
    """Of so few vertices that every area is read, however few patches it has."""
    monkeypatch.setattr(readings, "LEAST", 1)
    return subject


def test_clip_is_best_only_if_its_slope_is_the_largest(person) -> None:
    networks = {f: reading(person, peaked(hierarchy(person, 0.2, 0.4))) for f in FAMILIES}
    assert verdict("clip-best", evidence.clip_best(networks)) == "cannot be told"  # all alike
    best = networks | {"CLIP": reading(person, peaked(hierarchy(person, 0.8, 0.1)))}
    assert verdict("clip-best", evidence.clip_best(best)) == "holds"
    beaten = best | {"MAE": reading(person, peaked(hierarchy(person, 1.0, 0.0)))}
    assert verdict("clip-best", evidence.clip_best(beaten)) == "does not hold"
    with pytest.raises(InputError, match="SAM missing"):
        evidence.clip_best({f: r for f, r in networks.items() if f != "SAM"})


def test_last_and_early_layers_are_found_where_they_are_read(person) -> None:
    n = len(person.vertices)
    middle, early, ventral = (
        in_any(person, rois) for rois in (("V4",), EARLY, ("FBA", "FFA", "PPA", "VWFA"))
    )
    ventral &= ~in_any(person, ("OPA",))
    to_middle, nowhere = (reading(person, peaked(d)) for d in (
        np.where(middle, 1, 0.4), np.full(n, 0.5)))  # fmt: skip
    to_ventral, first, late = (reading(person, peaked(d)) for d in (
        np.where(ventral, 1, 0.3), np.where(early, 0, 0.6), np.full(n, 0.8)))  # fmt: skip
    assert verdict("last-layer-middle", evidence.last_layer_middle(
        {"ImageNet": to_middle, "SAM": to_middle})) == "holds"  # fmt: skip
    assert verdict("last-layer-middle", evidence.last_layer_middle(
        {"ImageNet": to_middle, "SAM": to_ventral})) == "does not hold"  # fmt: skip
    assert verdict("last-layer-unused", evidence.last_layer_unused(
        {"DiNOv2": nowhere, "MAE": nowhere})) == "holds"  # fmt: skip
    found = evidence.last_layer_unused({"DiNOv2": nowhere, "MAE": to_middle})
    expected = N_LAYERS * to_middle.maps.weights[middle, -1].mean()
    assert found["MAE"].value == pytest.approx(expected)
    assert verdict("last-layer-unused", found) == "does not hold"
    assert verdict("moco-ventral", evidence.moco_ventral({"MoCov3": to_ventral})) == "holds"
    networks = dict.fromkeys(FAMILIES, late) | {"CLIP": first, "ImageNet": first}
    assert verdict("early-layers", evidence.early_layers(networks)) == "holds"
    found = evidence.early_layers(networks | {"MAE": first})
    assert verdict("early-layers", found) == "cannot be told"
    expected = first.maps.weights[:, :3].sum(1) - late.maps.weights[:, :3].sum(1)
    by_roi = [expected[person.rois[r]].mean() for r in EARLY]
    assert found["CLIP over SAM"].value == pytest.approx(np.mean(by_roi))


def test_sizes_are_compared_from_the_smallest_to_the_largest(person) -> None:
    steep, flat = (reading(person, peaked(hierarchy(person, *line))) for line in (
        (0.8, 0.1), (0.3, 0.4)))  # fmt: skip
    assert verdict("clip-size", evidence.clip_size([flat, steep])) == "holds"
    assert verdict("clip-size", evidence.clip_size([steep, flat])) == "does not hold"
    found = evidence.other_sizes({f: [steep, flat] for f in FAMILIES[1:]})
    assert verdict("other-sizes", found) == "holds"
    assert verdict("other-sizes", evidence.other_sizes({"SAM": [steep, flat]})) == "cannot be told"
    rising = {f: [steep, flat] for f in FAMILIES[1:]} | {"MAE": [flat, steep]}
    assert verdict("other-sizes", evidence.other_sizes(rising)) == "does not hold"


def test_axes_of_stable_diffusion_are_told_apart(person) -> None:
    readings = {
        "SD encoder": reading(person, peaked(hierarchy(person, 0.3, 0.3), 0.3)),
        "SD decoder": reading(person, peaked(hierarchy(person, 0.1, 0.4), 0.3)),
        "SD time": reading(person, peaked(hierarchy(person, -0.8, 0.9), 0.3)),
        "CLIP": reading(person, peaked(hierarchy(person, 0.5, 0.2))),
    }
    assert verdict("diffusion-axes", evidence.diffusion_axes(readings)) == "holds"
    swapped = readings | {"SD decoder": readings["SD encoder"],
                          "SD encoder": readings["SD decoder"]}  # fmt: skip
    found = evidence.diffusion_axes(swapped)
    assert verdict("diffusion-axes", found) == "does not hold"
    means = [readings["SD time"].maps.depth()[person.rois[r]].mean() for r in EARLY]
    beyond = [readings["SD time"].maps.depth()[person.rois[r]].mean()
              for r in HIGH if r in person.rois]  # fmt: skip
    assert found["last steps early"].value == pytest.approx(np.mean(means) - np.mean(beyond))


def test_rows_of_scores_are_found_where_they_were_planted(person) -> None:
    early = in_any(person, EARLY)
    at = {"early": np.where(early, 0.9, 0.25), "late": np.where(early, 0.25, 0.9),
          "even": np.full(len(early), 0.5), "poor": np.full(len(early), 0.1)}  # fmt: skip
    made = {k: reading(person, peaked(np.full(len(early), 0.5)), scores=scores(person, s))
            for k, s in at.items()}  # fmt: skip
    networks = {"MAE": made["early"], "SAM": made["early"],
                "CLIP": made["late"], "DiNOv2": made["late"]}  # fmt: skip
    found = evidence.early_and_late(networks)
    assert verdict("early-and-late", found) == "holds"
    gap = {}
    for name, r in made.items():
        each = {a: r.scores.r2[person.rois[a]].mean() for a in (*EARLY, *HIGH) if a in person.rois}
        gap[name] = np.mean([each[a] for a in EARLY]) - np.mean(
            [value for a, value in each.items() if a in HIGH]
        )
    part = found["MAE, SAM against CLIP, DiNOv2"]
    assert part.value == pytest.approx(gap["early"] - gap["late"])
    back = dict(zip(networks, reversed(networks.values()), strict=True))
    assert verdict("early-and-late", evidence.early_and_late(back)) == "does not hold"
    steps = {"SD T0": made["poor"], "SD T25": made["late"], "SD T45": made["early"]}
    assert verdict("diffusion-steps", evidence.diffusion_steps(steps)) == "holds"
    assert evidence.diffusion_steps(steps)["steps between"].value == 20
    even = {"SD T0": made["poor"], "SD T40": made["even"], "CLIP": made["even"]}
    assert verdict("diffusion-uniform", evidence.diffusion_uniform(even)) == "holds"
    uneven = even | {"SD T40": made["early"], "CLIP": made["late"]}
    assert verdict("diffusion-uniform", evidence.diffusion_uniform(uneven)) == "does not hold"
    with pytest.raises(InputError, match="expected some as 'SD T40'"):
        evidence.diffusion_steps(networks)


def test_channels_and_places_are_loops_over_pairs_and_found_in_a_simulated_truth(person) -> None:
    rng = np.random.default_rng(3)
    n, early, late = len(person.vertices), in_any(person, EARLY), in_any(person, LATE)
    one = reading(person, peaked(np.full(n, 0.5)), channel=rng.normal(size=(n, 5)) + 0.3,
                  space=rng.uniform(-1, 1, (n, 2)), scale=rng.random(n))  # fmt: skip
    found = evidence.channels_and_places(one)
    alike, spread = [], []
    for group in (early, late):
        unit = [w / np.sqrt(sum(w**2)) for w in one.channel[group]]
        alike.append(np.mean([sum(a * b) for i, a in enumerate(unit) for b in unit[:i]]))
        spread.append(np.sqrt(np.var(one.space[group], axis=0, ddof=1).sum()))
    assert found["channels"].value == pytest.approx(alike[0] - alike[1])
    assert found["places"].value == pytest.approx(spread[0] - spread[1])
    scale = one.scale[late].mean() - one.scale[early].mean()
    assert found["global token"].value == pytest.approx(scale)
    planted = truth_reading(dataclasses.replace(one, backbone="clip-mini"))
    in_truth = judge(FINDINGS["channels-and-places"], evidence.channels_and_places(planted))
    parts = {p.name: in_truth.part(p) for p in in_truth.finding.parts}
    assert parts["places"] == parts["global token"] == "holds"


def test_maps_are_compared_by_rank_over_the_same_vertices(person) -> None:
    rng = np.random.default_rng(4)
    one, two = (reading(person, rng.dirichlet(np.ones(N_LAYERS), len(person.vertices)))
                for _ in range(2))  # fmt: skip
    expected = scipy.stats.spearmanr(one.maps.depth(), two.maps.depth()).statistic
    assert map_correlation(one, two)[0] == pytest.approx(expected)
    other = dataclasses.replace(person, vertices=person.vertices + 1)
    with pytest.raises(InputError, match="not the same vertices"):
        map_correlation(one, reading(other, one.maps.weights))


def test_seeds_agree_and_little_data_is_enough_only_where_maps_are_alike(person) -> None:
    rng, depth = np.random.default_rng(5), hierarchy(person, 0.8, 0.1)
    alike = [reading(person, peaked(depth + rng.normal(0, 0.01, len(depth)))) for _ in range(3)]
    other = reading(person, peaked(rng.permutation(depth)))
    assert verdict("seeds-agree", evidence.seeds_agree([alike])) == "holds"
    assert verdict("seeds-agree", evidence.seeds_agree([alike, [alike[0], other]])) == (
        "does not hold"
    )
    with pytest.raises(InputError, match="two or more seeds"):
        evidence.seeds_agree([alike[:1]])
    assert verdict("limited-data", evidence.limited_data(*alike)) == "holds"
    worse = dataclasses.replace(alike[0], scores=scores(person, 0.2))
    assert verdict("limited-data", evidence.limited_data(worse, *alike[1:])) == "does not hold"
    assert verdict("limited-data", evidence.limited_data(*alike[:2], other)) == "does not hold"


def test_subjects_differ_where_they_do_and_rarely_by_chance_alone(person) -> None:
    def subjects(*shares, first):
        """Two seeds of each, which share their subject's noise; the depth with noise of its own."""
        out = []
        for i, share in enumerate(shares):
            score = scores(person, share, seed=first + i)
            rng = np.random.default_rng(first + i)
            depths = [hierarchy(person, share, 0.1) + rng.normal(0, 0.05, len(person.vertices))
                      for _ in range(2)]  # fmt: skip
            out.append([reading(person, peaked(d), scores=score) for d in depths])
        return out

    assert verdict("subjects-differ", evidence.subjects_differ(subjects(0.4, 0.9, first=0))) == (
        "holds"
    )
    claims = sum(
        judge(FINDINGS["subjects-differ"],
              evidence.subjects_differ(subjects(0.6, 0.6, first=10 * i))).verdict == "holds"
        for i in range(1, 16)
    )  # fmt: skip
    assert claims <= 1
    with pytest.raises(InputError, match="two or more seeds of each"):
        evidence.subjects_differ([subjects(0.4, first=0)[0]])


def test_truth_takes_the_place_of_what_the_teachers_network_read(person) -> None:
    from analysis.simulate import load_truth
    from analysis.study import get_subject

    guessed = np.full((len(person.vertices), 8), 1 / 8)
    mine, other = reading(person, guessed, "clip-mini"), reading(person, guessed, "mae-mini")
    true, truth = truth_reading(mine), load_truth(person.name, person.vertices)
    np.testing.assert_allclose(true.maps.weights, truth.layer)
    np.testing.assert_allclose(true.scale, truth.scale)
    assert true.scores is mine.scores
    coarse = get_subject(person.name, n_surface=642)
    found = truth_reading(reading(coarse, guessed[: len(coarse.vertices)], "clip-mini"))
    left = {v: i for i, v in enumerate(person.vertices)}
    same = [left[v + (v >= 642) * (person.n_surface - 642)] for v in coarse.vertices]
    np.testing.assert_allclose(found.maps.weights, truth.layer[same])
    real = dataclasses.replace(mine, subject=dataclasses.replace(person, source="NSD"))
    for unknown in (real, other):
        with pytest.raises(InputError, match="no truth is known"):
            truth_reading(unknown)


RUN = Run("small", "fast", "factortopy", (0, 1, 2))


def test_a_row_is_judged_over_three_seeds_and_recorded(person, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    networks = {f: reading(person, peaked(hierarchy(person, 0.2, 0.4))) for f in FAMILIES}
    networks["CLIP"] = reading(person, peaked(hierarchy(person, 0.8, 0.1)), "clip-mini")
    judged = evaluate("clip-best", evidence.clip_best, [networks] * 3, "sim01", RUN)
    assert judged.verdict == "holds"
    assert recorded("sim01", FINDINGS["clip-best"], RUN)["judged"] == judged
    few = evaluate("clip-best", evidence.clip_best, [networks] * 2)
    assert few.verdict == "not judged" and few.why == "2 seeds; a verdict is over 3"
    assert few.measured.keys() == judged.measured.keys()
    row = scoreboard("sim01", RUN).set_index("Finding").loc["clip-best"]
    assert row["Verdict"] == "holds" and row["Against truth"] == "truth not known"
    for wrong, said in (({"seeds": []}, "no readings"), ({"subject": "sim01"}, "without a run"),
                        ({"truth": networks}, "has none")):  # fmt: skip
        given = {"seeds": [networks], "measure": evidence.clip_best} | wrong
        with pytest.raises(InputError, match=said):
            evaluate("clip-best", **given)


def test_rows_that_compare_seeds_take_one_element_of_them_all(person) -> None:
    depth = hierarchy(person, 0.8, 0.1)
    runs = [reading(person, peaked(depth + np.random.default_rng(i).normal(0, 0.01, len(depth))))
            for i in range(3)]  # fmt: skip
    for n, verdict_ in ((3, "holds"), (2, "not judged")):
        judged = evaluate("seeds-agree", evidence.seeds_agree, [[runs, runs[:n]]])
        assert judged.verdict == verdict_ and judged.seeds == n
    tuned = {"": runs, "task": runs}
    networks = {"CLIP": tuned, "DiNOv2": tuned, "MAE": tuned | {"task": runs[:2]}}
    networks["MAE"] = {"": runs[:2], "task": runs[:2]}
    judged = evaluate("fine-tuning-layout", evidence.fine_tuning_layout, [networks])
    assert judged.seeds == 2 and "2 seeds" in judged.measured["MAE"].over


def test_parts_of_fits_are_not_held_against_truth(person, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    steep, flat = (reading(person, peaked(hierarchy(person, *line))) for line in (
        (0.8, 0.1), (0.0, 0.5)))  # fmt: skip
    people = [[steep] * 3, [flat] * 3]
    evaluate("subjects-differ", evidence.subjects_differ, [people], "sim01", RUN, truth=people)
    kept = recorded("sim01", FINDINGS["subjects-differ"], RUN)
    assert set(kept["truth"].measured) == {"alignment"}
    row = scoreboard("sim01", RUN).set_index("Finding").loc["subjects-differ"]
    assert row["Verdict"] != "holds" and row["Against truth"] == "found"  # equal scores


def test_a_change_is_what_two_seeds_agree_on(person) -> None:
    rng, n = np.random.default_rng(1), len(person.vertices)
    before, after = ([reading(person, peaked(depth + rng.normal(0, 0.05, n))) for _ in range(3)]
                     for depth in (np.full(n, 0.4), np.full(n, 0.5)))  # fmt: skip
    each = [a.maps.depth() - b.maps.depth() for b, a in zip(before, after, strict=True)]
    expected = np.mean([each[i] * each[j] for i, j in ((0, 1), (0, 2), (1, 2))], axis=0)
    late = in_any(person, LATE)
    assert changed(before, after, LATE)[0] == pytest.approx(expected[late].mean())
    with pytest.raises(InputError, match="1 before and 1 after"):
        changed(before[:1], after[:1])


def test_the_spread_of_areas_is_less_what_chance_adds(person, monkeypatch) -> None:
    """Areas of one depth and noisy vertices: a spread of nothing, where the plain sd has some."""
    rng = np.random.default_rng(2)
    noisy = [reading(person, peaked(0.5 + rng.normal(0, 0.1, len(person.vertices))))
             for _ in range(20)]  # fmt: skip
    spread, plain = [], []
    monkeypatch.setattr(readings, "LEAST", 4)
    for one in noisy:
        draws, depth = separation(one)
        spread.append(draws[0] ** 2)
        plain.append(np.std([d[0] for d in depth.values() if np.isfinite(d).all()]) ** 2)
    assert np.mean(spread) < np.mean(plain) / 2


def test_an_area_of_few_patches_has_no_interval(person, monkeypatch) -> None:
    monkeypatch.setattr(readings, "LEAST", 4)  # sim01-tiny has three patches of OPA
    one = reading(person, peaked(hierarchy(person, 0.8, 0.1)))
    found = evidence.moco_ventral({"MoCov3": one})["ventral less dorsal"]
    assert np.isfinite(found.value) and not found.known
    assert "without PPA 1, OPA 3; 4 or more are needed" in str(found)
    assert n_patches(person, ["OPA"]).startswith("no interval: too few")
    assert verdict("moco-ventral", {"ventral less dorsal": found}) == "cannot be told"
    # a mean over several areas is of those that have enough
    (gap,) = (m for name, m in evidence.last_layer_middle({"ImageNet": one, "SAM": one}).items()
              if name == "SAM, not late")  # fmt: skip
    large = [person.rois[r] for r in ("FBA", "FFA", "VWFA")]
    last = one.maps.weights[:, -1]
    expected = last[person.rois["V4"]].mean() - np.mean([last[roi].mean() for roi in large])
    assert gap.value == pytest.approx(expected)


def test_a_family_that_predicts_nothing_leaves_its_own_parts_open(person) -> None:
    steep, flat = (reading(person, peaked(hierarchy(person, *line))) for line in (
        (0.8, 0.1), (0.3, 0.4)))  # fmt: skip
    noise = dataclasses.replace(flat, scores=scores(person, mixed=True))
    found = evidence.other_sizes({f: [steep, flat] for f in FAMILIES[1:]} | {"SAM": [steep, noise]})
    judged = judge(FINDINGS["other-sizes"], found)
    parts = {part.name: judged.part(part) for part in judged.finding.parts}
    assert {name for name, v in parts.items() if v != "holds"} == {"SAM slope", "SAM late"}
    assert judged.verdict == "cannot be told"


def test_a_step_that_predicts_nothing_does_not_close_the_row_and_a_dark_region_is_left_out(person):
    early = in_any(person, EARLY)
    nothing = np.full(len(early), 0.5)
    at = {"early": np.where(early, 0.9, 0.25), "late": np.where(early, 0.25, 0.9)}
    made = {k: reading(person, peaked(nothing), scores=scores(person, s)) for k, s in at.items()}
    noise = reading(person, peaked(nothing), scores=scores(person, mixed=True))
    steps = {"SD T0": noise, "SD T25": made["late"], "SD T45": made["early"]}
    assert verdict("diffusion-steps", evidence.diffusion_steps(steps)) == "holds"
    whole = made["late"].scores
    r2, resampled = (np.where(early, -0.01, values) for values in (whole.r2, whole.resampled))
    dark = dataclasses.replace(whole, r2=r2, resampled=resampled)
    vit = dataclasses.replace(made["late"], scores=dark)
    found = evidence.diffusion_uniform({"SD T40": made["late"], "CLIP": vit})
    n = len([r for r in (*EARLY, "V4", *HIGH) if r in person.rois]) - len(EARLY)
    assert f"{n} regions" in found["worst region"].over
    assert found["worst region"].value == pytest.approx(1)


def test_few_networks_have_no_rank_correlation(person) -> None:
    depth = np.linspace(0.2, 0.6, 9)
    readings_ = {f"N{i}": {"": reading(person, peaked(np.full(len(person.vertices), 0.2))),
                           "t": reading(person, peaked(np.full(len(person.vertices), d)))}
                 for i, d in enumerate(depth)}  # fmt: skip
    readings_ = {"CLIP": readings_.pop("N0")} | readings_
    rng = np.random.default_rng(0)
    right = {name: {"t": rng.random(30)} for name in readings_}
    found = evidence.fine_tuning_accuracy(readings_, right)["no relation"]
    accuracy = [right[name]["t"].mean() for name in readings_]
    related = abs(scipy.stats.spearmanr(accuracy, depth).statistic)
    assert found.value == pytest.approx(related)
    half = 1.96 * 1.03 / 6**0.5
    assert found.high == pytest.approx(np.tanh(np.arctanh(related) + half), abs=1e-3)
    three = {name: readings_[name] for name in ("CLIP", "N1", "N2")}
    found = evidence.fine_tuning_accuracy(three, right)["no relation"]
    assert str(found).startswith("not judged: 3 networks; 8 or more") and not found.known


def test_the_region_that_shows_least_is_looked_for_in_each_draw() -> None:
    one, two = np.array([0.6, 0.5, 0.9]), np.array([0.7, 0.8, 0.4])
    found = evidence.top_channels({"FFA": one, "PPA": two})["category"]
    assert found.value == 0.6 and found.low == pytest.approx(
        Measured.of(np.array([0.6, 0.5, 0.4]), "").low
    )


def test_nothing_is_read_from_networks_that_predict_nothing(person) -> None:
    """However clear the maps."""
    noise = scores(person, mixed=True)
    steep, flat = (reading(person, peaked(hierarchy(person, *line)), scores=noise)
                   for line in ((0.8, 0.1), (0.3, 0.4)))  # fmt: skip
    networks = dict.fromkeys(FAMILIES, flat) | {"CLIP": steep}
    axes = {"SD encoder": flat, "SD decoder": flat, "SD time": steep, "CLIP": steep}
    measured = {
        "early-and-late": evidence.early_and_late(networks),
        "diffusion-uniform": evidence.diffusion_uniform({"SD T40": flat, "CLIP": flat}),
        "diffusion-steps": evidence.diffusion_steps({"SD T0": flat, "SD T40": steep}),
        "clip-best": evidence.clip_best(networks),
        "last-layer-middle": evidence.last_layer_middle(networks),
        "last-layer-unused": evidence.last_layer_unused(networks),
        "moco-ventral": evidence.moco_ventral(networks),
        "early-layers": evidence.early_layers(networks),
        "diffusion-axes": evidence.diffusion_axes(axes),
        "clip-size": evidence.clip_size([flat, steep]),
        "other-sizes": evidence.other_sizes({f: [steep, flat] for f in FAMILIES[1:]}),
        "channels-and-places": evidence.channels_and_places(steep),
        "subjects-differ": evidence.subjects_differ([[steep, steep], [flat, flat]]),
        "seeds-agree": evidence.seeds_agree([[steep, steep]]),
        "limited-data": evidence.limited_data(steep, steep, steep),
    }
    not_from_maps = {"fine-tuning-layout", "fine-tuning-accuracy", "top-channels"}
    assert set(FINDINGS) - set(measured) == not_from_maps
    assert {verdict(name, found) for name, found in measured.items()} == {"cannot be told"}


def test_shuffled_responses_are_the_sessions_own_in_another_order(person) -> None:
    mixed = shuffled(person, 3)
    assert mixed.identity != person.identity
    for session in range(person.n_sessions):
        trials = np.flatnonzero(person.trial_session == session)
        before, after = person.responses[trials], mixed.responses[trials]
        assert not np.array_equal(before, after)
        order = [np.lexsort(r.T) for r in (before, after)]
        np.testing.assert_array_equal(before[order[0]], after[order[1]])
    np.testing.assert_array_equal(shuffled(person, 3).responses, mixed.responses)


def test_a_fit_is_read(tiny_fit) -> None:
    found = read(tiny_fit)
    everywhere = roi_scores(found)["all"]
    assert everywhere[0] == pytest.approx(np.nanmean(tiny_fit.scores("test").r2))
    assert predicts([found])[PREDICTS].value == pytest.approx(everywhere[0])
    assert found.backbone == "mae-mini-s"


def test_what_is_read_is_what_channels_make_of_tokens_wherever_they_are(tiny_fit) -> None:
    """Inner products are correlations over local tokens at drawn places and global tokens."""
    found, model, n = readings.what_is_read(tiny_fit), tiny_fit.model, readings.PICTURES_READ
    local, global_ = (t.double().numpy() for t in tiny_fit.tokens[tiny_fit.split.train[:n]])
    at = np.random.default_rng(0).integers(0, 64, (len(local), readings.PLACES))
    flat = local.reshape(*local.shape[:2], -1)
    places = np.stack([flat[i, :, j] for i, row in enumerate(at) for j in row])
    weight, layer = model.weight.double().numpy(), model.selectors().layer.double().numpy()
    halves = []
    for tokens, standard in ((places, model.standard.local), (global_, model.standard.global_)):
        standardised = (tokens - standard.mean.numpy()) * standard.per_sd.numpy()
        response, done = np.zeros((len(weight), len(tokens))), 0
        for i, (width, b) in enumerate(
            zip(tiny_fit.tokens.widths, model.bottleneck.weights, strict=True)
        ):
            one = standardised[:, done : done + width] @ b.double().numpy().T
            response += layer[:, i, None] * (weight @ one.T)
            done += width
        response -= response.mean(1, keepdims=True)
        halves.append(response / np.sqrt(np.square(response).sum()))
    whole = np.concatenate(halves, 1)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, whole @ whole.T, atol=2e-3)
