"""The page on channels: its numbers from small fits, against loops, truth and known kinds."""

import dataclasses
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from analysis import by_channels, category, channel_figures, evidence, tops_compared
from analysis.channels import channel_clusters, kernel_factor
from analysis.files import InputError
from analysis.findings import FINDINGS, Run, recorded
from analysis.readings import channel_spread, truth_of
from analysis.sweep import get_fits
from analysis.top_channels import alike, top_channels

RUN = Run("small", "check", "factortopy", (0, 1))


@pytest.fixture(scope="module")
def fits(data_folder):
    """Fits of the teacher and of another network by two seeds."""
    names = {"CLIP": "clip-mini", "MAE": "mae-mini"}
    wanted = {
        (name, seed): {"backbone": backbone, "seed": seed}
        for (name, backbone), seed in itertools.product(names.items(), (0, 1))
    }
    changes = {"channels": 8, "hidden": 16, "frequencies": 4, "standardise": True}
    made = get_fits(wanted, subject="sim01-tiny", recipe="check", changes=changes)
    return {n: [made[n, 0], made[n, 1]] for n in names}


@pytest.fixture(scope="module")
def readings(fits):
    return by_channels.readings_of(fits)


def test_of_one_seed_no_agreement_is_known(fits, readings):
    alone = {name: each[:1] for name, each in fits.items()}
    with pytest.raises(InputError, match="seeds: one; expected two or more"):
        by_channels.agreements(alone, by_channels.reads_of(readings))


def test_channels_vary_together_as_their_tokens_do(fits):
    fit = fits["CLIP"][0]
    found = channel_spread(fit, 6)
    local, global_ = fit.model.squeezed(*fit.tokens[fit.split.train[:6]])
    layer = fit.model.selectors().layer.mean(0).double()
    near, far = [], []
    for picture in range(6):
        maps = sum(a * local[picture, i].double() for i, a in enumerate(layer))
        near += [maps[:, y, x].numpy() for y in range(8) for x in range(8)]
        far.append(sum(a * global_[picture, i].double() for i, a in enumerate(layer)).numpy())
    each = [np.cov(np.array(rows).T) for rows in (near, far)]
    expected = sum(c / np.trace(c) for c in each) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_share_of_the_start_is_known(fits):
    fit = fits["CLIP"][0]
    share = by_channels.share_of_start(fit)
    assert 0.5 < share < 1  # trained for 60 steps
    other = by_channels.share_of_start(dataclasses.replace(fit, model=fits["CLIP"][1].model))
    assert other < 0.1  # another seed's weights did not begin there


def test_agreement_is_with_the_seed_and_the_network_that_are_said(fits, readings):
    reads = by_channels.reads_of(readings)
    table = by_channels.agreements(fits, reads)
    assert list(table["form"]) == ["as read", "as read", "weights", "weights"]
    row = table[(table["network"] == "MAE") & (table["form"] == "as read")].iloc[0]
    clusters = {(n, s): channel_clusters(reads[n][s]) for n in fits for s in (0, 1)}
    for column, pair in {
        "another seed": (("MAE", 0), ("MAE", 1)),
        "first, same seed": (("MAE", 0), ("CLIP", 0)),
        "first, another seed": (("MAE", 0), ("CLIP", 1)),
    }.items():
        expected = adjusted_rand_score(*(clusters[key] for key in pair))
        assert row[column].value == pytest.approx(expected)
        assert row[column].low <= row[column].high
    assert pd.isna(table.iloc[0]["first, same seed"])
    assert "With CLIP, same seed" in by_channels.agreements_table(table).to_html()
    # weights of one seed begin alike in both networks, and hardly move in 60 steps
    weights = table[(table["network"] == "MAE") & (table["form"] == "weights")].iloc[0]
    assert weights["first, same seed"].low > weights["first, another seed"].high
    text = by_channels.start_text(fits, table)
    mean = table[table["form"] == "weights"]["another seed"].map(lambda m: m.value).mean()
    assert f"Of weights as they are: {mean:.2f}, {weights['first, same seed'].value:.2f}" in text


def test_pairs_in_one_cluster_are_counted(fits):
    subject = fits["CLIP"][0].subject
    group = channel_clusters(fits["CLIP"][0].model.weight.numpy(), 5)
    shares = []
    for rois in (by_channels.EARLY, by_channels.LATE):
        there = np.any([subject.rois[r] for r in rois if r in subject.rois], axis=0)
        own = group[there]
        shares.append(np.mean([a == b for a in own for b in own]))
    found = by_channels.in_one_cluster(group, subject)
    assert found[0] == pytest.approx(shares[0] - shares[1])


def test_the_table_is_over_seeds_and_has_truth_of_the_teacher_alone(readings):
    table = by_channels.early_and_late(readings)
    assert list(table["network"]) == ["CLIP", "MAE", "CLIP, truth"]
    assert {f"{part} high" for part, _ in by_channels.PANELS} <= set(table.columns)
    assert (table["places low"] <= table["places"]).all()
    each = [evidence.channels_and_places(r)["places"].value for r in readings["MAE"]]
    assert table.loc[1, "places"] == pytest.approx(np.mean(each))
    assert len(by_channels.early_late_table(table).data) == 3


def test_planted_reads_recover_the_truth(fits, readings):
    reads = by_channels.reads_of(readings)
    assert by_channels.recovery(fits, reads, "MAE") is None
    true = truth_of(fits["CLIP"][0].subject).channel.astype(np.float32)
    planted = reads | {"CLIP": [true, true]}
    found = by_channels.recovery(fits, planted).set_index("form")
    assert found.loc["what is read", "Rand"] == 1
    assert found.loc["what is read", "pairs"] == pytest.approx(1)
    clusters = channel_clusters(true)
    each = [channel_clusters(kernel_factor(fit.model.weight.numpy())) for fit in fits["CLIP"]]
    expected = np.mean([adjusted_rand_score(groups, clusters) for groups in each])
    assert found.loc["weights as they are", "Rand"] == pytest.approx(expected)
    assert "1.000 (1.000" in by_channels.recovery_text(found.reset_index())
    assert "is not known" in by_channels.recovery_text(None)


def test_row_14_is_recorded_and_told(fits, readings):
    judged = by_channels.judged(readings["CLIP"], "sim01-tiny", RUN)
    assert judged.verdict == "not judged" and judged.seeds == 2
    results = recorded("sim01-tiny", FINDINGS["channels-and-places"], RUN)
    assert results.keys() == {"judged", "truth"}
    table = by_channels.early_and_late(readings)
    agreed = by_channels.agreements(fits, by_channels.reads_of(readings))
    text = by_channels.key_finding(judged, results["truth"], table, agreed)
    assert f"by the same rule: {results['truth'].verdict}" in text and "of 2 networks" in text
    assert str(judged.measured["places"]) in text
    assert set(by_channels.verdict_table(judged).data["Part"]) >= set(by_channels.PARTS)
    assert "by the same rule" not in by_channels.key_finding(judged, None, table, agreed)


# top channels


@pytest.fixture(scope="module")
def regions(fits):
    return tops_compared.regions_of(fits)


def test_full_maps_pooled_are_the_maps_that_colours_were_set_on(fits, regions):
    first = fits["CLIP"][0]
    rows = first.split.test[:3]
    for name, each in fits.items():
        network = tops_compared.load_network(each[0])
        local = tops_compared.local_tokens(network, first.subject.pictures(rows))
        full = torch.from_numpy(regions["V1"].tops[name].maps(local))
        pooled = torch.nn.functional.adaptive_avg_pool2d(full, 8).numpy()
        np.testing.assert_allclose(pooled, regions["V1"].maps[name][:3], rtol=0.02, atol=0.02)


def test_descriptions_are_of_the_maps(fits, regions):
    table = tops_compared.described(regions["V1"]).set_index("network")
    assert list(table.index) == ["CLIP", "MAE"] and table.loc["CLIP", "like first"] == 1
    maps = regions["V1"].maps
    assert table.loc["MAE", "like first"] == pytest.approx(alike(maps["MAE"], maps["CLIP"]))
    energy = np.square(maps["MAE"]).sum(1).reshape(len(maps["MAE"]), 64)
    expected = np.mean([e.sum() ** 2 / (64 * (e * e).sum()) for e in energy])
    assert table.loc["MAE", "covered"] == pytest.approx(expected)
    text = tops_compared.caption("V1", regions["V1"])
    assert text.startswith("**V1.** Top channels of") and f"{table['stable'].max():.2f}" in text
    shown = tops_compared.described_table(regions).data
    assert list(shown["Area"]) == list(regions)
    truth = tops_compared.truth_table(regions).data
    assert (truth["Of what is read"].astype(float) <= 1).all()
    unknown = {"V1": dataclasses.replace(regions["V1"], truth={})}
    assert "is not known" in tops_compared.truth_table(unknown)


def test_true_maps_are_those_of_the_directions_that_areas_read(fits):
    fit = fits["CLIP"][0]
    rows = fit.split.test[:2]
    local = tops_compared._pooled(fit.tokens, rows)
    (found,) = tops_compared._true_maps(fit, ["V1"], local).values()
    truth, seen = truth_of(fit.subject), fit.tokens.statistics(fit.split.train)
    roi = fit.subject.rois["V1"]
    mixed = 0.0
    for i, tokens in enumerate(local):
        here = slice(i * tokens.shape[1], (i + 1) * tokens.shape[1])
        mean, sd = (x[here, None, None] for x in (seen.local_mean, seen.local_sd))
        mixed = mixed + truth.layer[roi, i].mean() * ((tokens - mean) / sd)
    weight = truth.channel[roi]
    u, s, vt = np.linalg.svd(weight.T - weight.T.mean(0), full_matrices=False)
    parts = (u * s)[:, :3] * np.sign(vt[:3].sum(1))
    np.testing.assert_allclose(
        found, np.einsum("dk,bdhw->bkhw", parts, mixed.numpy()), rtol=1e-3, atol=1e-3
    )


def test_sheets_have_a_row_per_picture_and_unknown_areas_are_told(fits, regions):
    first = fits["CLIP"][0]
    rows = tops_compared.test_pictures(first, 3)
    assert len(rows) == 3 and np.isin(rows, first.split.test).all()
    shown = tops_compared.full_maps(fits, {"V1": regions["V1"]}, rows)
    pictures = first.subject.pictures(rows)
    made = tops_compared.sheets(pictures, {"V1": regions["V1"]}, shown, [])
    assert made._repr_html_().count("<img") == 2 and "<b>V1.</b>" in made.html
    with pytest.raises(InputError, match=r"sheets=\['V9'\]: expected some of V1, V2"):
        tops_compared.sheets(pictures, regions, shown, ["V9"])
    figure = channel_figures.top_grid(pictures, shown["V1"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["picture", "CLIP", "MAE"]
    plt.close(figure)


def test_panels_keep_their_pixels():
    panels = [[np.full((2, 2, 3), v / 10) for v in row] for row in ((1, 2, 3), (4, 5, 6))]
    panels[0][0] = np.arange(12).reshape(2, 2, 3) / 12
    sheet = channel_figures.tiled(panels, side=4, gap=1)
    assert sheet.shape == (9, 14, 4)
    np.testing.assert_array_equal(sheet[:4, :4, :3], np.kron(panels[0][0], np.ones((2, 2, 1))))
    assert (sheet[5:, 10:, :3] == 0.6).all() and not sheet[4].any() and not sheet[:, 4].any()


# row 15


def test_the_area_under_the_curve_is_sklearns():
    rng = np.random.default_rng(0)
    there = rng.random(60) < 0.4
    score = np.round(rng.normal(size=60) + there, 1)  # with ties
    draws = category.curve_area(score, there, samples=300)
    assert draws[0] == pytest.approx(roc_auc_score(there, score))
    assert draws[1:].mean() == pytest.approx(draws[0], abs=0.02) and draws[1:].std() > 0.02
    with pytest.raises(InputError, match="0 of 60 show it"):
        category.curve_area(score, np.zeros(60, bool))


def test_a_first_channel_that_shows_the_category_is_found():
    rng = np.random.default_rng(1)
    there = {"face": rng.random(40) < 0.5, "body": np.ones(40, bool)}
    maps = rng.normal(size=(40, 3, 4, 4))
    maps[:, 0] += 5 * there["face"][:, None, None]
    found = category.category_areas({"FFA": maps, "EBA": maps, "V1": maps}, there)
    assert list(found) == ["FFA"] and found["FFA"][0] > 0.99  # all show a body; V1 is for none
    turned = category.category_areas({"FFA": maps[:, ::-1]}, there)
    assert 0.2 < turned["FFA"][0] < 0.8


def test_row_15_is_recorded_and_told(fits, regions):
    fit = fits["CLIP"][0]
    judged = tops_compared.judged_categories(fits["CLIP"], "sim01-tiny", RUN)
    results = recorded("sim01-tiny", FINDINGS["top-channels"], RUN)
    assert results.keys() == {"judged", "truth"} and judged.seeds == 2
    table = tops_compared.category_table(fits, regions)
    (one,) = [tops_compared.judged_categories([fit]).measured["category"]]
    assert one.value == pytest.approx(min(m.value for m in table["CLIP"]))
    assert "Shows a" in tops_compared.category_shown(table).to_html()
    text = tops_compared.category_text(judged, "sim01-tiny", RUN)
    assert str(judged.measured["category"]) in text and "truly read it is" in text

    real = dataclasses.replace(fit, subject=dataclasses.replace(fit.subject, source="NSD"))
    assert tops_compared.judged_categories([real]) is None
    assert tops_compared.category_table({"CLIP": [real]}, regions) is None
    assert "is not known" in tops_compared.category_shown(None)
    assert "not judged" in tops_compared.category_text(None, "subj01", RUN)


def test_top_channels_of_what_is_read_are_the_regions(fits, regions):
    fit = fits["CLIP"][0]
    local = tops_compared._pooled(fit.tokens, fit.split.test)
    spread = channel_spread(fit)
    expected = top_channels(fit.model, fit.rois["V1"], spread).maps(local)
    np.testing.assert_array_equal(regions["V1"].plain["CLIP"], expected)


def test_figures_are_drawn(fits):
    subject = fits["CLIP"][0].subject
    n = len(subject.vertices)
    groups = {"CLIP": np.arange(n) % 22, "SAM": np.zeros(n, int)}
    table = pd.DataFrame(
        {"network": ["a", "b"], "x": [1.0, 2], "x low": [0.0, 1], "x high": [2, 3]}
    )
    drawn = [
        channel_figures.small_clusters(subject, groups),
        channel_figures.small_places(subject, {"CLIP": np.zeros((n, 2))}),
        channel_figures.small_scales(subject, {"CLIP": np.full(n, 0.5)}),
        channel_figures.early_late(table, [("x", "of x")]),
    ]
    assert len(drawn[0].legends[0].get_patches()) == 22
    for figure in drawn:
        figure.canvas.draw()
        plt.close(figure)


def test_places_have_a_colour_each():
    places = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], float)
    colours = channel_figures.place_colours(places)[:, :3]
    np.testing.assert_allclose(colours[0], channel_figures.MIDDLE)
    apart = [np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)]
    assert min(apart) > 0.3
