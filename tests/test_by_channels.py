"""The page on channels: its numbers from small fits, against loops, truth and known kinds."""

import dataclasses
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from analysis import by_channels, category, channel_figures, tops_compared
from analysis.channels import channel_clusters
from analysis.files import InputError
from analysis.findings import FINDINGS, recorded
from analysis.readings import truth_of
from analysis.sweep import BASE, get_fits
from analysis.top_channels import alike, top_channels


@pytest.fixture(scope="module")
def made(data_folder):
    """Fits of the teacher and of another network by two seeds, and a control."""
    names = {"CLIP": "clip-mini", "MAE": "mae-mini"}
    wanted = {
        (name, seed, mixed): {"backbone": backbone, "seed": seed, "shuffle": mixed}
        for (name, backbone), seed, mixed in itertools.product(names.items(), (0, 1), (False, True))
        if not mixed or (name, seed) == ("CLIP", 0)
    }
    changes = {"channels": 8, "hidden": 16, "frequencies": 4, "standardise": True}
    fits = get_fits(wanted, subject="sim01-tiny", recipe="check", changes=changes)
    return {n: [fits[n, 0, False], fits[n, 1, False]] for n in names}, fits["CLIP", 0, True]


@pytest.fixture(scope="module")
def fits(made):
    return made[0]


@pytest.fixture(scope="module")
def control(made):
    return made[1]


def test_seeds_and_sizes_that_say_nothing_are_refused():
    for seeds in ([0], [1, 1], []):
        with pytest.raises(InputError, match=r"seeds=\[.*\]: expected two or more different"):
            by_channels.channel_fits("sim01", "small", seeds)
    with pytest.raises(InputError, match="size 'big': expected one of small, paper"):
        by_channels.channel_fits("sim01", "big", [0, 1])


def test_the_pages_fits_are_those_of_the_other_pages(tiny_fit, monkeypatch):
    asked = {}

    def instead(wanted, **common):
        asked.update({name: common | own for name, own in wanted.items()})
        return dict.fromkeys(wanted, tiny_fit)

    monkeypatch.setattr(by_channels, "get_fits", instead)
    found = by_channels.channel_fits("sim01", "small", [0, 1])
    assert list(found) == list(BASE["small"]) and len(found["SAM"]) == 2
    assert asked["SAM", 1]["seed"] == 1 and asked["SAM", 1]["backbone"] == "sam-mini"
    by_channels.control_fit("sim01", "small", 0)
    assert asked["CLIP"] == asked["CLIP", 0] | {"shuffle": True}


def test_channels_vary_together_as_their_tokens_do(fits):
    fit = fits["CLIP"][0]
    found = by_channels.channel_spread(fit, 6)
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


def test_agreement_is_with_the_seed_and_the_network_that_are_said(fits):
    reads = by_channels.reads_of(fits)
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
    assert f"{weights['first, same seed'].value:.2f} on average" in text


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


def test_the_table_has_truth_of_the_teacher_alone_and_planted_reads_recover_it(fits, control):
    readings = by_channels.readings_of(fits)
    reads = by_channels.reads_of(fits)
    groups = by_channels.clusters_of(reads)
    table = by_channels.early_and_late(readings, reads, groups)
    assert list(table["network"]) == ["CLIP", "MAE", "CLIP, truth"]
    assert {f"{part} high" for part, _ in by_channels.PANELS} <= set(table.columns)
    assert (table["places low"] <= table["places"]).all()
    assert len(by_channels.early_late_table(table).data) == 3

    assert by_channels.recovery(fits, reads, control, "MAE") is None
    true = truth_of(fits["CLIP"][0].subject).channel
    planted = reads | {"CLIP": [true.astype(np.float32), reads["CLIP"][1]]}
    found = by_channels.recovery(fits, planted, control).set_index("form")
    assert found.loc["what is read", "Rand"] == 1
    assert found.loc["what is read", "pairs"] == pytest.approx(1)
    mixed = found.loc["responses shuffled: what is read"]
    assert abs(mixed["Rand"]) < 0.2 and abs(mixed["pairs"]) < 0.3
    text = by_channels.recovery_text(found.reset_index())
    assert "recover part of the true groups" in text and "1.000 [1.000, 1.000]" in text
    worse = found.reset_index().assign(low=-1.0)
    assert "do not recover" in by_channels.recovery_text(worse)
    assert "is not known" in by_channels.recovery_text(None)


def test_row_14_is_judged_recorded_and_told(fits, control):
    readings = by_channels.readings_of(fits)
    reads = by_channels.reads_of(fits)
    judged = by_channels.judged(readings["CLIP"], by_channels.read(control), "sim01-tiny", "a test")
    results, run = recorded("sim01-tiny", FINDINGS["channels-and-places"])
    assert results.keys() == {"judged", "truth", "control"} and run == "a test"
    table = by_channels.early_and_late(readings, reads, by_channels.clusters_of(reads))
    agreed = by_channels.agreements(fits, reads)
    text = by_channels.key_finding(judged, readings["CLIP"], table, agreed)
    assert f"by the same rule: {results['truth'].verdict}" in text and "Of 2 networks" in text
    assert str(judged.measured["places"]) in text
    assert list(by_channels.verdict_table(judged).data["Part"]) == ["predicts", *by_channels.PARTS]


# top channels


@pytest.fixture(scope="module")
def regions(fits, control):
    return tops_compared.regions_of(fits, control)


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
    assert text.startswith("**V1.** Top channels take") and f"{table['stable'].max():.2f}" in text
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


def test_row_15_is_judged_recorded_and_told(fits, control, regions):
    fit = fits["CLIP"][0]
    judged = tops_compared.judged_categories(fit, control, "sim01-tiny", "a test")
    results, _ = recorded("sim01-tiny", FINDINGS["top-channels"])
    assert results.keys() == {"judged", "truth", "control"}
    table = tops_compared.category_table(fits, regions)
    least = min(m.value for m in table["CLIP"])
    assert judged.measured["category"].value == pytest.approx(least)
    assert "Shows a" in tops_compared.category_shown(table).to_html()
    text = tops_compared.category_text(judged, "sim01-tiny")
    assert str(judged.measured["category"]) in text and "truly read give" in text

    real = dataclasses.replace(fit, subject=dataclasses.replace(fit.subject, source="NSD"))
    assert tops_compared.judged_categories(real, control) is None
    assert tops_compared.category_table({"CLIP": [real]}, regions) is None
    assert "is not known" in tops_compared.category_shown(None)
    assert "not judged" in tops_compared.category_text(None, "subj01")


def test_top_channels_of_what_is_read_are_the_regions(fits, regions):
    fit = fits["CLIP"][0]
    local = tops_compared._pooled(fit.tokens, fit.split.test)
    spread = by_channels.channel_spread(fit)
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
