"""The line of depth over the hierarchy against numpy, scipy, loops and known truth."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import reported
from analysis.alignment import (
    CHOICES,
    DEFINITIONS,
    LEVELS,
    OURS,
    Definition,
    align,
    alignment_table,
    depth_table,
    line,
    over_runs_table,
    patches_of,
    ranking_table,
    roi_means,
    roi_sums,
)
from analysis.attribution import LayerMaps
from analysis.files import InputError
from analysis.subject import Subject

# What another program computed of the same digitised figure: panel, network, slope, start, end,
# confidence, to two places.
BY_ANOTHER = """
mean base,CLIP,0.43,0.31,0.74,0.32
mean base,ImageNet,0.48,0.29,0.77,0.30
mean base,SAM,0.14,0.63,0.77,0.39
mean base,DiNOv2,0.48,0.34,0.83,0.39
mean base,MAE,0.36,0.51,0.87,0.30
mean base,MoCov3,0.26,0.64,0.90,0.25
#1 base,CLIP,0.43,0.31,0.74,0.39
#1 base,ImageNet,0.42,0.31,0.73,0.41
#1 base,SAM,0.22,0.58,0.79,0.45
#1 base,DiNOv2,0.34,0.42,0.76,0.45
#1 base,MAE,0.35,0.51,0.86,0.37
#1 base,MoCov3,0.30,0.58,0.88,0.41
#1 large,CLIP,0.54,0.18,0.71,0.42
#1 large,ImageNet,0.27,0.48,0.76,0.34
#1 large,SAM,0.10,0.46,0.56,0.29
#1 large,DiNOv2,0.12,0.75,0.87,0.66
#1 large,MAE,0.25,0.34,0.59,0.41
#1 large,MoCov3,0.14,0.48,0.61,0.32
#2 base,CLIP,0.46,0.26,0.72,0.37
#2 base,ImageNet,0.43,0.26,0.69,0.38
#2 base,SAM,0.16,0.64,0.80,0.43
#2 base,DiNOv2,0.18,0.56,0.74,0.44
#2 base,MAE,0.30,0.54,0.84,0.34
#2 base,MoCov3,0.45,0.39,0.84,0.33
#3 base,CLIP,0.07,0.58,0.65,0.33
#3 base,ImageNet,0.46,0.32,0.78,0.29
#3 base,SAM,0.10,0.67,0.77,0.41
#3 base,DiNOv2,0.51,0.34,0.86,0.38
#3 base,MAE,0.03,0.78,0.81,0.33
#3 base,MoCov3,0.09,0.77,0.87,0.25
"""


def maps_of(weights, share=None) -> LayerMaps:
    return LayerMaps(weights, weights if share is None else share, "test", 10)


@pytest.fixture
def person(subject) -> Subject:
    return subject


@pytest.fixture
def maps(person) -> LayerMaps:
    rng = np.random.default_rng(0)
    weights, share = rng.dirichlet(np.ones(6), (2, len(person.vertices)))
    return maps_of(weights, share)


def by_hand(person, maps, definition):
    """Weighted least squares over all vertices of all ROIs, one row for each membership."""
    rows = []
    for roi, level in definition.levels.items():
        for v in np.flatnonzero(person.rois.get(roi, [])):
            layers = maps.weights if definition.attribution == "weight" else maps.shares
            z = layers[v] @ np.linspace(0, 1, 6)
            if definition.layer == "argmax":
                z = np.argmax(layers[v]) / 5
            entropy = -(layers[v] * np.log(layers[v])).sum() / np.log(6)
            snr = person.ncsnr[v]
            w = {"equal": 1, "confidence": 1 - entropy, "ceiling": snr**2 / (snr**2 + 1)}
            rows.append((roi, level, w[definition.weight], z))
    table = pd.DataFrame(rows, columns=["roi", "h", "w", "z"])
    by_roi = table.groupby("roi")["w"].transform("sum")
    n = table.groupby("h")["roi"].transform("nunique")
    table["w"] /= {"vertex": 1, "roi": by_roi, "level": by_roi * n}[definition.balance]
    root = np.sqrt(table["w"])
    design = np.stack([root, root * table["h"]], 1)
    (start, slope), rest, *_ = np.linalg.lstsq(design, root * table["z"])
    mean = np.average(table["z"], weights=table["w"])
    r2 = 1 - rest[0] / (table["w"] * (table["z"] - mean) ** 2).sum()
    each = table.groupby("roi").apply(lambda g: (g["w"] * g["z"]).sum() / g["w"].sum())
    level = [definition.levels[roi] for roi in each.index]
    return slope, start, start + slope, r2, scipy.stats.spearmanr(level, each).statistic


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_line_is_least_squares_over_vertices_by_every_definition(name, person, maps) -> None:
    found = align(maps, person, DEFINITIONS[name], samples=2)
    values = [draws[0] for draws in found.samples.values()]
    np.testing.assert_allclose(values, by_hand(person, maps, DEFINITIONS[name]), atol=1e-6)


def test_a_network_that_runs_as_the_cortex_has_slope_1_and_one_that_does_not_has_0(person) -> None:
    level = np.full(len(person.vertices), 0.5)
    for roi, value in LEVELS["main areas"].items():
        level[person.rois[roi]] = value
    as_cortex = maps_of(np.stack([1 - level, level], 1))
    row = align(as_cortex, person, samples=50).row()
    assert (row["slope"], row["start"], row["end"]) == pytest.approx((1, 0, 1), abs=0.05)
    assert row["slope low"] <= row["slope"] <= row["slope high"] and row["rank"] > 0.9
    flat = align(maps_of(np.full((len(level), 2), 0.5)), person, samples=3)
    assert flat.slope == pytest.approx(0) and np.isnan(flat.r2).all()


def test_vertices_of_unknown_depth_weigh_nothing(person, maps) -> None:
    share = maps.shares.copy()
    gone = np.flatnonzero(person.rois["EBA"])[:1]
    share[gone] = np.nan
    contribution = Definition(attribution="contribution")
    found = align(maps_of(maps.weights, share), person, contribution, samples=2)
    rois = {name: mask.copy() for name, mask in person.rois.items()}
    for mask in rois.values():
        mask[gone] = False
    without = align(maps, dataclasses.replace(person, rois=rois), contribution, samples=2)
    assert found.slope[0] == pytest.approx(without.slope[0])


def test_figure_5_gives_what_another_program_computed_of_it() -> None:
    names = ["panel", "network", "slope", "start", "end", "confidence"]
    expected = pd.read_csv(io.StringIO(BY_ANOTHER), header=None, names=names)
    both = reported.figure_5_table().merge(expected, on=["panel", "network"])
    assert len(both) == len(expected) == 30
    for name in names[2:]:  # digits of layers (0.05 / 11) and of the other's results (0.005)
        np.testing.assert_allclose(both[f"{name}_x"], both[f"{name}_y"], atol=0.01)


def test_patches_are_cubes_and_sums_of_draws_are_a_loop_over_whole_patches() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 40, (60, 3))
    patches = patches_of(points, 20)
    for i in range(60):
        for j in range(60):
            same = all(
                int(a // 20) == int(b // 20)
                for a, b in zip(points[i] - points.min(0), points[j] - points.min(0), strict=True)
            )
            assert (patches[i] == patches[j]) == same
    values = rng.normal(size=(60, 2))
    masks = {"one": rng.random(60) < 0.4, "two": rng.random(60) < 0.6}
    sums = roi_sums(values, patches, masks, samples=4, seed=5)
    for r, mask in enumerate(masks.values()):
        np.testing.assert_allclose(sums[0, r], values[mask].sum(0))
        there = np.unique(patches[mask])
        n = len(there)
        counts = np.random.default_rng((5, r)).multinomial(n, np.full(n, 1 / n), size=4)
        for draw in range(4):
            expected = sum(
                times * values[mask & (patches == patch)].sum(0)
                for times, patch in zip(counts[draw], there, strict=True)
            )
            np.testing.assert_allclose(sums[1 + draw, r], expected)


def test_intervals_cover_a_planted_slope_when_patches_are_what_varies() -> None:
    rng = np.random.default_rng(2)
    size, n_patches, covered = 10, 30, []
    level = np.array([0.0, 0.5, 1.0])
    masks = {str(i): np.repeat(np.arange(3), n_patches * size) == i for i in range(3)}
    patches = np.repeat(np.arange(3 * n_patches), size)
    for seed in range(150):  # depths differ between patches, hardly within: vertices are alike
        z = np.repeat(rng.normal(0.2 + 0.4 * np.repeat(level, n_patches), 0.1), size)
        z += rng.normal(0, 0.01, len(z))
        moments = np.stack([np.ones_like(z), z, z * z], 1)
        n, s, q = np.moveaxis(roi_sums(moments, patches, masks, 200, seed), -1, 0)
        slope = line(level, np.ones_like(n), s / n, q / n)["slope"]
        low, high = np.quantile(slope[1:], [0.025, 0.975])
        covered.append(low < 0.4 < high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_networks_share_their_draws(person, maps) -> None:
    other = maps_of(maps.weights * 0.5 + 0.5 / 6)  # half as far from equal weights everywhere
    one, two = (align(m, person, samples=20) for m in (maps, other))
    np.testing.assert_allclose(two.slope, one.slope / 2)


def test_rankings_are_those_of_the_values_under_each_definition(person, maps) -> None:
    rng = np.random.default_rng(3)
    named = {"a": maps} | {
        n: maps_of(*rng.dirichlet(np.ones(6), (2, len(maps.weights)))) for n in "bc"
    }
    table = ranking_table(named, person).set_index("definition")
    assert table.index[0] == "ours" and len(table) == len(DEFINITIONS)
    assert table["τ with the first"].iloc[0] == pytest.approx(1)
    for name, definition in DEFINITIONS.items():
        slopes = {n: align(m, person, definition, samples=1).slope[0] for n, m in named.items()}
        order = sorted(slopes, key=slopes.__getitem__, reverse=True)
        assert [order.index(n) + 1 for n in named] == table.loc[name, list(named)].tolist()
    with pytest.raises(InputError, match="statistic='tilt'"):
        ranking_table(named, person, "tilt")


def test_definitions_say_all_that_they_are_and_refuse_what_they_are_not() -> None:
    assert len(DEFINITIONS) == 1 + len(LEVELS) - 1 + sum(len(c) - 1 for c in CHOICES.values())
    text = str(Definition(levels={"V1": 0, "FFA": 1}, weight="ceiling", layer="argmax"))
    for part in ("V1 0", "FFA 1", "ceiling", "argmax", "level", "weight"):
        assert part in text
    with pytest.raises(InputError, match="balance='area'; expected one of level, roi, vertex"):
        Definition(balance="area")
    with pytest.raises(InputError, match="two or more different"):
        Definition(levels={"V1": 1.0, "V2": 1.0})
    with pytest.raises(InputError, match="of a figure"):
        reported.figure_5(Definition(balance="vertex"))


def test_a_subject_without_the_areas_or_a_ceiling_is_told(person, maps) -> None:
    alone = dataclasses.replace(person, rois={"V1": person.rois["V1"]})
    with pytest.raises(InputError, match="has V1 of the ROIs"):
        align(maps, alone)
    unknown = dataclasses.replace(person, ncsnr=np.full_like(person.ncsnr, np.nan))
    with pytest.raises(InputError, match="no noise ceiling is known"):
        align(maps, unknown, Definition(weight="ceiling"))


def test_tables_hold_the_alignments_own_numbers(person, maps) -> None:
    one = align(maps, person, samples=30)
    row = alignment_table({"clip": one}).iloc[0]
    assert row["slope"] == one.slope[0] and row["network"] == "clip"
    assert row["end high"] == np.quantile(one.end[1:], 0.975)
    other = dataclasses.replace(one, slope=one.slope + 0.1)
    runs = over_runs_table({"clip": [one, other]}).iloc[0]
    ends = scipy.stats.t.interval(0.95, 1, one.slope[0] + 0.05, 0.05)
    assert (runs["slope low"], runs["slope high"]) == pytest.approx(ends)
    depths = depth_table(maps, person, OURS, samples=5).set_index("ROI")
    expected = maps.depth()[person.rois["V2"]].mean()
    assert (
        depths.loc["V2", "depth"] == pytest.approx(expected) and depths.loc["V2", "level"] == 0.25
    )
    names, means = roi_means(maps.weights, person, ["FFA", "absent"], samples=2)
    assert names == ("FFA",)
    np.testing.assert_allclose(means[0, 0], maps.weights[person.rois["FFA"]].mean(0))
