"""Each row of Table 5 found where it was planted, not where it was not, and never in noise."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from analysis import evidence
from analysis.alignment import LATE, LEVELS
from analysis.attribution import LayerMaps
from analysis.evidence import evaluate
from analysis.files import InputError
from analysis.findings import FAMILIES, FINDINGS, recorded, scoreboard
from analysis.metrics import Scores, brain_score
from analysis.readings import Reading, map_correlation, predicts, read, roi_scores, with_truth
from analysis.subject import Subject, shuffled
from analysis.verdicts import PREDICTS, judge

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
def person(subject) -> Subject:
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
        alike.append(np.mean([sum(a * b) for a in unit for b in unit]))
        x, y = one.space[group].T
        spread.append(np.sqrt(np.var(x) + np.var(y)))
    assert found["channels"].value == pytest.approx(alike[0] - alike[1])
    assert found["places"].value == pytest.approx(spread[0] - spread[1])
    scale = one.scale[late].mean() - one.scale[early].mean()
    assert found["global token"].value == pytest.approx(scale)
    planted = with_truth(dataclasses.replace(one, backbone="clip-mini"))
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
    alike = [reading(person, peaked(depth + rng.normal(0, 0.02, len(depth)))) for _ in range(3)]
    other = reading(person, peaked(rng.permutation(depth)))
    assert verdict("seeds-agree", evidence.seeds_agree([alike])) == "holds"
    assert verdict("seeds-agree", evidence.seeds_agree([alike, [alike[0], other]])) == (
        "does not hold"
    )
    with pytest.raises(InputError, match="two or more seeds"):
        evidence.seeds_agree([alike[:1]])
    assert verdict("limited-data", evidence.limited_data(alike[:2])) == "holds"
    worse = dataclasses.replace(alike[0], scores=scores(person, 0.2))
    assert verdict("limited-data", evidence.limited_data([worse, alike[1]])) == "does not hold"
    table = evidence.limited_table({3000: alike[0], 300: other}, alike[1])
    assert table["samples"].tolist() == [300, 3000]
    assert table["verdict"].tolist() == ["does not hold", "holds"]


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
    with pytest.raises(InputError, match="two or more seeds of one"):
        evidence.subjects_differ([subjects(0.4, first=0)[0]])


def test_truth_takes_the_place_of_what_the_teachers_network_read(person) -> None:
    from analysis.simulate import load_truth
    from analysis.study import get_subject

    guessed = np.full((len(person.vertices), 8), 1 / 8)
    mine, other = reading(person, guessed, "clip-mini"), reading(person, guessed, "mae-mini")
    nested = with_truth({"a": [mine, other]})["a"]
    truth = load_truth(person.name, person.vertices)
    np.testing.assert_allclose(nested[0].maps.weights, truth.layer)
    np.testing.assert_allclose(nested[0].scale, truth.scale)
    assert nested[0].scores is mine.scores and nested[1] is other
    coarse = get_subject(person.name, n_surface=642)
    (found,) = with_truth([reading(coarse, guessed[: len(coarse.vertices)], "clip-mini")])
    left = {v: i for i, v in enumerate(person.vertices)}
    same = [left[v + (v >= 642) * (person.n_surface - 642)] for v in coarse.vertices]
    np.testing.assert_allclose(found.maps.weights, truth.layer[same])
    real = dataclasses.replace(mine, subject=dataclasses.replace(person, source="NSD"))
    assert with_truth(real) is real


def test_an_evaluation_records_verdict_truth_and_control(person, tmp_path, monkeypatch) -> None:
    networks = {f: reading(person, peaked(hierarchy(person, 0.2, 0.4))) for f in FAMILIES}
    networks["CLIP"] = reading(person, peaked(hierarchy(person, 0.8, 0.1)), "clip-mini")
    noise = {f: dataclasses.replace(r, scores=scores(person, mixed=True))
             for f, r in networks.items()}  # fmt: skip
    truth = with_truth(networks)  # read before the data folder is another
    monkeypatch.setattr(evidence, "with_truth", lambda r: truth if r is networks else r)
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    judged = evaluate("clip-best", evidence.clip_best, networks, noise, "sim01", "planted")
    assert judged.verdict == "holds"
    found, run = recorded("sim01", FINDINGS["clip-best"])
    assert run == "planted" and PREDICTS not in found["truth"].measured
    assert found["truth"].verdict == "holds" and found["control"].verdict == "cannot be told"
    steps = {"SD T40": networks["MAE"], "CLIP": networks["CLIP"]}
    evaluate("diffusion-uniform", evidence.diffusion_uniform, steps, subject="sim01")
    row = scoreboard("sim01").set_index("Finding")
    assert row.loc["clip-best", "Against truth"] == "found"
    assert row.loc["clip-best", "Shuffled control"] == "not claimed"
    assert row.loc["diffusion-uniform", "Against truth"] == "truth not known"


def test_no_row_is_claimed_of_shuffled_responses(person) -> None:
    """However clear the maps: what predicts nothing is not read."""
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
        "limited-data": evidence.limited_data([steep, steep]),
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


def test_a_fit_is_read_and_one_to_shuffled_responses_predicts_nothing(data_folder) -> None:
    from analysis.study import get_fit

    fit = get_fit("sim01-tiny", "clip-mini", recipe="check", shuffle=True)
    found = read(fit)
    assert predicts([found])[PREDICTS].low < 0
    everywhere = roi_scores(found)["all"]
    assert everywhere[0] == pytest.approx(np.nanmean(fit.scores("test").r2))
    np.testing.assert_array_equal(found.channel, fit.model.weight.numpy())
    assert found.backbone == "clip-mini" and found.maps.weights.shape[1] == 8
