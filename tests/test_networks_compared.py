"""The pages on brain score and alignment: what they ask for, their tables, their verdicts."""

import copy
import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
import torch

from analysis import cortical, figures
from analysis import networks_compared as compared
from analysis import networks_shown as shown
from analysis.alignment import LEVELS
from analysis.files import InputError
from analysis.findings import FINDINGS, Run, recorded
from analysis.published import COLUMNS, TABLE_13
from analysis.readings import Reading, roi_scores, truth_reading
from analysis.sweep import BASE
from analysis.verdicts import Measured, over_seeds
from tests.planted import planted

RUN = Run("small", "check", "factortopy", (0, 1, 2))
SLOPES = {"CLIP": 0.7, "SAM": 0.1, "ImageNet": 0.5, "DiNOv2": 0.3, "MAE": 0.0, "MoCov3": -0.2}


@pytest.fixture(scope="module")
def one_each(subject) -> dict[str, Reading]:
    """CLIP's layers follow the cortex best; MoCov3's run against it."""
    made = {
        name: planted(subject, slope, 0.5 - slope / 2, BASE["small"][name], share=0.4 + i / 20)
        for i, (name, slope) in enumerate(SLOPES.items())
    }
    rng = np.random.default_rng(1)
    n = len(subject.vertices)
    return {
        name: dataclasses.replace(
            reading, space=rng.uniform(-1, 1, (n, 2)), scale=rng.uniform(size=n)
        )
        for name, reading in made.items()
    }


@pytest.fixture(scope="module")
def networks(one_each) -> dict[str, list[Reading]]:
    """The same by three seeds, which differ a little in their maps and scores."""
    made = {}
    for name, reading in one_each.items():
        slope, share = SLOPES[name], 0.4 + list(SLOPES).index(name) / 20
        others = [
            planted(reading.subject, slope + d, 0.5 - slope / 2, reading.backbone, share=share + d)
            for d in (0.01, -0.02)
        ]
        made[name] = [reading, *others]
    return made


@pytest.fixture(scope="module")
def axes(subject) -> dict[str, list[Reading]]:
    """Time separates areas more than layers do, and its last steps are early areas'."""
    slopes = {"SD encoder": 0.3, "SD decoder": 0.1, "SD time": -0.8}
    return {n: [planted(subject, s, 0.5 - s / 2, "sd-mini")] * 3 for n, s in slopes.items()}


@pytest.fixture(scope="module")
def steps(subject) -> dict[str, list[Reading]]:
    shares = {"SD T50": 0.6, "SD T40": 0.7, "SD T30": 0.5, "SD T0": 0.3}
    return {n: [planted(subject, 0.1, 0.4, "sd-mini", share=share)] for n, share in shares.items()}


@pytest.fixture
def asked(monkeypatch, tiny_fit) -> dict:
    """What `get_fits` was asked for, by name, in place of making it."""
    wanted_of: dict = {}

    def get_fits(wanted, **common):
        wanted_of.update({name: {**common, **own} for name, own in wanted.items()})
        return dict.fromkeys(wanted, tiny_fit)

    monkeypatch.setattr(compared, "get_fits", get_fits)
    return wanted_of


# what is fitted


def test_networks_of_one_size_are_fitted_alike_by_each_seed(asked) -> None:
    fits = compared.networks("sim01", "small", [3, 1], "check")
    assert list(fits) == list(BASE["small"]) and all(len(each) == 2 for each in fits.values())
    assert asked["MAE", 3] == {
        "subject": "sim01", "backbone": "mae-mini", "seed": 3, "recipe": "check",
    }  # fmt: skip
    assert asked["CLIP", 1]["seed"] == 1
    compared.networks("subj01", "paper", [0])
    assert asked["CLIP", 0]["recipe"] == "fast" and asked["CLIP", 0]["backbone"] == "clip-l"


def test_one_pass_serves_time_steps_and_axes(asked, monkeypatch) -> None:
    passes = []
    monkeypatch.setattr(compared, "get_subject", lambda name: name)
    monkeypatch.setattr(compared, "extract_tokens", lambda *a: passes.append(a))
    names = [f"SD T{t}" for t in (50, 40, 20, 0)]
    assert list(compared.time_steps("sim01", "small", [0])) == names
    assert asked["SD T20", 0]["backbone"] == "sd-mini,steps=5@T20"
    compared.axes("sim01", "small", [0, 1])
    assert asked["SD encoder", 1]["backbone"] == "sd-mini,steps=5@T40E"
    assert passes == [("sim01", "sd-mini,steps=5@T50+T40+T20+T0+T40E+T40D+D6")] * 2
    compared.time_steps("subj01", "paper", [0])
    assert asked["SD T5", 0]["backbone"] == "sd15@T5" and passes[-1][1].count("T") == 13
    layers = compared.axis_layers("small")
    assert [len(each) for each in layers.values()] == [8, 12, 6]
    assert layers["SD time"] == ("T0", "T10", "T20", "T30", "T40", "T50")


def test_people_are_the_simulated_three_or_those_named(asked) -> None:
    assert compared.people("sim02") == ["sim02", "sim01", "sim03"]
    assert compared.people("sim01-tiny") == ["sim01-tiny", "sim02-tiny", "sim03-tiny"]
    assert compared.people("subj01") == ["subj01"]
    assert compared.people("subj01", "subj02 subj01 subj05") == ["subj01", "subj02", "subj05"]
    with pytest.raises(InputError, match="subject 'sim09'"):
        compared.people("sim09")
    found = compared.by_person("sim01", "small", [0, 4])
    assert list(found) == ["sim01", "sim02", "sim03"] and all(len(f) == 2 for f in found.values())
    assert asked["sim03", 4]["seed"] == 4 and asked["sim03", 4]["subject"] == "sim03"
    assert asked["sim03", 4]["backbone"] == "clip-mini"
    for made in (compared.networks, compared.time_steps, compared.axes, compared.by_person):
        for seeds in ([], [1, 1]):
            with pytest.raises(InputError, match=r"seeds=\[.*expected one or more different whole"):
                made("sim01", "small", seeds)
        with pytest.raises(InputError, match="size 'big': expected one of small, paper"):
            made("sim01", "big", [0])


def test_readings_keep_names_and_seeds(tiny_fit, networks, steps) -> None:
    found = compared.readings({"a": [tiny_fit], "b": [tiny_fit, tiny_fit]})
    assert found["a"][0].backbone == "mae-mini-s" and len(found["b"]) == 2
    each = compared.per_seed(networks)
    assert len(each) == 3 and each[1]["SAM"] is networks["SAM"][1]
    (only,) = compared.per_seed(networks, steps)  # as many as all have
    assert only["MAE"] is networks["MAE"][0] and only["SD T0"] is steps["SD T0"][0]
    assert compared.first_of(networks)["SAM"] is networks["SAM"][0]


# comparisons


def test_a_network_stands_out_by_its_differences_from_all_others(one_each) -> None:
    apart = compared.standing_out(one_each)
    r2 = np.stack([r.scores.r2 for r in one_each.values()])
    i = list(one_each).index("MAE")
    expected = [sum((r2[i, v] - r2[k, v]) ** 2 for k in range(6)) ** 0.5 for v in range(5)]
    assert apart["MAE"][:5] == pytest.approx(expected)


@pytest.fixture(scope="module")
def pair(tiny_fit):
    """Two fits of which the second predicts nothing but each vertex's bias."""
    silent = dataclasses.replace(tiny_fit, model=_silenced(tiny_fit.model))
    return {"good": tiny_fit, "silent": silent, "also silent": silent}


def _silenced(model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.weight.zero_()
    return model


def test_each_other_network_is_compared_with_one(pair) -> None:
    table = compared.against_table(pair, "good").set_index("network")
    paired = compared.pair_of(pair, ["good", "silent"])
    r2 = [pair[name].scores("test").r2 for name in ("good", "silent")]
    assert table.loc["silent", "difference of R²"] == pytest.approx(np.nanmean(r2[0] - r2[1]))
    n = paired.gain.shape[1]
    better = (scipy.stats.false_discovery_control(paired.p) < 0.05) & (paired.difference > 0)
    assert table.loc["silent", "first better"] == pytest.approx(better.mean())
    assert table.loc["silent", "vertices"] == n
    assert (table["q"] >= table["p"]).all() and table["p"].nunique() == 1
    assert table["q"].tolist() == scipy.stats.false_discovery_control(table["p"]).tolist()
    assert list(shown.against_shown(table.reset_index(), "good").data["Other"]) == [*table.index]
    rows = shown.paired_table(paired, "good", "silent").data
    assert rows.loc[0, "ROI"] == "all" and "R², good less silent" in rows
    value = float(rows.loc[0, "R², good less silent"].split(" ")[0].replace("−", "-"))
    assert value == pytest.approx(table.loc["silent", "difference of R²"], abs=6e-4)
    with pytest.raises(InputError, match=r"pair=\['good'\]: expected two of good, silent"):
        compared.pair_of(pair, ["good"])
    with pytest.raises(InputError, match="no missing"):
        compared.pair_of(pair, ["good", "no"])


# tables


def numbers(cell: str) -> list[float]:
    """The value and the ends of a table's cell."""
    text = cell.replace("\u2060", "").replace("(", " ").replace(")", " ").replace("<br>", " ")
    return [float(x.replace("−", "-")) for x in text.replace("–", " ").split()]


def test_scores_by_area_are_means_over_seeds_and_vertices(networks, steps) -> None:
    table = shown.score_table(networks).data.set_index("ROI")
    assert list(table.columns) == list(networks) and list(table.index) == list(COLUMNS)
    runs = networks["DiNOv2"]
    for roi in ("V1", "EBA"):
        expected = np.mean([r.scores.r2[r.subject.rois[roi]].mean() for r in runs])
        each = [{roi: Measured.of(roi_scores(r)[roi], "")} for r in runs]
        m = over_seeds(each)[roi]
        found = numbers(table.loc[roi, "DiNOv2"])
        assert found == pytest.approx([expected, m.low, m.high], abs=6e-4)
    paper = shown.published_table([*networks, *steps]).data.set_index("ROI")
    assert paper.loc["V2", "SAM"] == TABLE_13.loc["SAM", "V2"] and "SD T30" in paper
    times = shown.times_table(steps)
    assert times["T"].tolist() == [0, 0, 30, 30, 40, 40, 50, 50]
    early = times[times["where"] == "V1 to V3"].set_index("T")
    (reading,) = steps["SD T40"]
    r2 = [reading.scores.r2[reading.subject.rois[roi]].mean() for roi in ("V1", "V2", "V3")]
    assert early.loc[40, "R²"] == pytest.approx(np.mean(r2))
    assert early.loc[0, "paper"] == pytest.approx((0.135 + 0.112 + 0.088) / 3)
    text = shown.score_finding(networks)
    best = max(networks, key=lambda name: np.mean([r.scores.r2.mean() for r in networks[name]]))
    assert f"In V1 to V3 `{networks[best][0].backbone}` has the highest R²" in text
    assert "(mean of 3 seeds)" in text


def test_people_stand_beside_their_ceilings(one_each) -> None:
    each = {"sim01": one_each["CLIP"], "sim02": one_each["SAM"], "sim03": one_each["MAE"]}
    table = shown.people_table(each).data.set_index("ROI")
    v1 = one_each["SAM"].subject.rois["V1"]
    assert table.loc["V1", "sim02, ceiling"] == one_each["SAM"].scores.ceiling[v1].mean()
    values = [r.scores.r2.mean() for r in each.values()]
    half = scipy.stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    mean, low, _ = numbers(table.loc["all", "mean of people"])
    assert mean == pytest.approx(np.mean(values), abs=6e-4)
    assert low == pytest.approx(np.mean(values) - half, abs=6e-4)


def test_alignment_is_a_line_through_areas(networks, one_each) -> None:
    table = shown.alignment_shown(networks).data.set_index("Network")
    assert list(table.index) == ["CLIP", "CLIP, truth", *list(networks)[1:]]
    lines = []
    for reading in networks["ImageNet"]:
        levels = {n: h for n, h in LEVELS["main areas"].items() if n in reading.subject.rois}
        depth = reading.maps.weights @ np.linspace(0, 1, 12)
        means = [depth[reading.subject.rois[name]].mean() for name in levels]
        shares = [1 / [*levels.values()].count(h) for h in levels.values()]
        lines.append(np.polyfit([*levels.values()], means, 1, w=np.sqrt(shares)))
    slope, start = np.mean(lines, axis=0)
    assert numbers(table.loc["ImageNet", "slope"])[0] == pytest.approx(slope, abs=6e-3)
    assert numbers(table.loc["ImageNet", "start"])[0] == pytest.approx(start, abs=6e-3)
    by = shown.alignment_shown(networks, "contribution").data
    assert by.loc[0, "slope"] == table.loc["CLIP", "slope"]  # planted alike
    assert table.loc["MoCov3", "slope"].startswith("−0.") and "-" not in table.to_string()
    finding = shown.alignment_finding(networks)
    assert "CLIP's layers follow the hierarchy" in finding and "its true slope is" in finding
    twins = shown.alignment_finding({"a": networks["SAM"], "b": networks["SAM"]})
    assert "true" not in twins and "(mean of 3 seeds)" in twins
    ranks = shown.ranking_shown(one_each).data.set_index("Definition")
    assert ranks.loc["ours"].tolist() == pytest.approx([1, 4, 2, 3, 5, 6, 1]) and len(ranks) == 10
    assert (
        "main areas" not in shown.definition_text() and "V1 0, V2 0.25" in shown.definition_text()
    )
    assert len(shown.figure_5_shown().data) == 6
    with pytest.raises(InputError, match="panel='#9': expected one of mean base, #1 base"):
        shown.figure_5_shown("#9")


def test_the_truth_stands_beside_the_network_it_is_of(networks, one_each) -> None:
    depths = shown.depths_table(one_each)
    known = depths[depths["network"] == "truth"]
    assert set(known["family"]) == {"CLIP"} and set(depths["family"]) == set(one_each)
    assert list(shown.places_with_truth(one_each["CLIP"])) == [
        "found, across", "found, down", "truth, across", "truth, down",
    ]  # fmt: skip
    assert list(shown.places_with_truth(one_each["SAM"])) == ["found, across", "found, down"]
    scales = shown.scales_of(one_each)
    assert list(scales) == [*one_each, "truth"]
    assert np.array_equal(scales["SAM"], one_each["SAM"].scale)
    text = shown.layers_truth_text(networks)
    true = truth_reading(one_each["CLIP"]).maps.depth()
    expected = np.mean(
        [scipy.stats.spearmanr(r.maps.depth(), true).statistic for r in networks["SAM"]]
    )
    assert f"| SAM | {expected:.3f} (" in text and text.count("\n| ") == 7
    assert "no truth" in shown.layers_truth_text({"a": networks["SAM"]})


def test_sheets_show_every_layer_and_run(one_each) -> None:
    reading = one_each["CLIP"]
    early, late = (shown.raw_weights(one_each, half) for half in (0, 1))
    assert list(early)[5:7] == ["CLIP 6", "SAM 1"] and len(early) == len(late) == 36
    assert list(late)[:2] == ["CLIP 7", "CLIP 8"] and all(w is not None for w in late.values())
    assert np.array_equal(late["CLIP 12"], reading.maps.weights[:, 11])
    five = reading.maps.weights[:, :5]
    few = dataclasses.replace(reading.maps, weights=five, shares=five)
    odd = one_each | {"CLIP": dataclasses.replace(reading, maps=few)}
    padded = shown.raw_weights(odd, 0)
    assert padded["CLIP 6"] is None and np.array_equal(padded["SAM 1"], early["SAM 1"])
    axes = {"a": reading, "b": one_each["MAE"]}
    raw = shown.raw_axes(axes, {"b": list("mnopqrstuvwx"), "a": list("abcdefghijkl")})
    assert "".join(raw) == "abcdefghijklmnopqrstuvwx"
    assert np.array_equal(raw["n"], one_each["MAE"].maps.weights[:, 1])
    people = {"sim01": [reading, one_each["SAM"]], "sim02": [one_each["MAE"], reading]}
    runs = shown.runs_of(people, [0, 5])
    assert list(runs) == ["sim01, seed 0", "sim01, seed 5", "sim02, seed 0", "sim02, seed 5"]
    assert runs["sim02, seed 0"] is one_each["MAE"]
    whose = [r.subject for r in runs.values()]
    sheet = cortical.small_layers(whose, shown.layers_of(runs), 2)
    assert [a.get_title() for a in sheet.axes if a.get_title()] == list(runs)
    table = shown.agreement_shown(people, [0, 5]).data
    depths = [r.maps.depth() for r in people["sim01"]]
    expected = scipy.stats.spearmanr(*depths).statistic
    assert table["rank correlation by weight"].iloc[0] == pytest.approx(expected)
    assert (
        table["person"].tolist() == ["sim01", "sim02"] and table["and seed"].tolist() == ["5"] * 2
    )
    plt.close("all")


def test_each_map_is_drawn_on_its_own_subject(one_each) -> None:
    whole = one_each["CLIP"].subject
    few = SimpleNamespace(
        n_surface=whole.n_surface,
        vertices=whole.vertices[::2],
        coordinates=whole.coordinates[::2],
        rois={name: mask[::2] for name, mask in whole.rois.items()},
    )
    values = {"all": np.ones(len(whole.vertices)), "half": np.ones(len(few.vertices))}
    sheet = cortical.small_maps([whole, few], values, "weight", columns=1)
    assert len(sheet.axes) == 5
    plt.close("all")


def test_scores_over_time_are_drawn_beside_the_papers(steps) -> None:
    figure = figures.over_time(shown.times_table(steps))
    here, paper = figure.axes
    assert [len(axis.lines) for axis in (here, paper)][1] == 2 and len(here.containers) == 2
    assert paper.lines[0].get_xdata().tolist() == [0, 30, 40, 50]
    plt.close("all")


# verdicts


def test_rows_are_judged_over_seeds_and_recorded(networks, axes, steps, data_folder) -> None:
    layers = compared.judged_layers(networks, "sim01-tiny", RUN)
    assert [*layers] == [
        "clip-best", "last-layer-middle", "last-layer-unused", "moco-ventral", "early-layers",
    ]  # fmt: skip
    assert layers["clip-best"].verdict == "holds" and layers["clip-best"].seeds == 3
    diffusion = compared.judged_diffusion(networks, steps, axes, "sim01-tiny", RUN)
    assert [*diffusion] == ["diffusion-uniform", "diffusion-steps", "diffusion-axes"]
    assert diffusion["diffusion-axes"].part(FINDINGS["diffusion-axes"].parts[3]) == "holds"
    scores = compared.judged_scores(networks, "sim01-tiny", RUN) | diffusion
    assert [judged.seeds for judged in scores.values()] == [3, 1, 1, 3]
    assert scores["diffusion-steps"].verdict == "not judged"
    people = {"sim01": networks["CLIP"], "sim02": networks["MAE"]}
    several = compared.judged_people(people, "sim01-tiny", RUN)
    assert [*several] == ["subjects-differ", "seeds-agree"]
    assert several["seeds-agree"].seeds == 3
    for name, judged in {**layers, **scores, **several}.items():
        kept = recorded("sim01-tiny", FINDINGS[name], compared.seeds_of(judged, RUN))
        assert kept["judged"].measured.keys() == judged.measured.keys()
        assert "truth" not in kept  # MAE's is not known, and other rows have none
    text = shown.verdict_text(layers["clip-best"], "sim01-tiny", RUN)
    assert "Here: **holds**" in text and "truth not known" in text
    assert text.count("\n| *over ") == 5 and ", 3 seeds |" in text
    text = shown.verdicts_text(scores, "sim01-tiny", RUN)
    assert text.count("Here: **not judged** (1 seed; a verdict is over 3)") == 2
    assert shown.verdicts_text({}, "", None, "no other") == "no other"


def test_the_truth_of_people_stands_beside_whether_they_differ(networks, data_folder) -> None:
    people = {"sim01-tiny": networks["CLIP"], "again": networks["CLIP"]}
    judged = compared.judged_people(people, "sim01-tiny", RUN)["subjects-differ"]
    truth = recorded("sim01-tiny", FINDINGS["subjects-differ"], RUN)["truth"]
    assert truth.measured["alignment"].value == pytest.approx(0)  # the same person twice
    assert [*truth.measured] == ["alignment"]
    assert "Against truth" in shown.verdict_text(judged, "sim01-tiny", RUN)


def test_without_other_people_or_seeds_nothing_is_judged_of_them(networks) -> None:
    alone = {"subj01": networks["CLIP"][:1]}
    assert compared.judged_people(alone) == {}
    assert [*compared.judged_people({"subj01": networks["CLIP"]})] == ["seeds-agree"]
