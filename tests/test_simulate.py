"""A simulated subject is NSD's tree, the same bytes from the same seed, and what its truth says."""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import PIL.Image
import pytest
import scipy.io
import scipy.stats
import torch
from safetensors.numpy import load_file

from analysis import explained, files, mgh, noise, simulate, truth
from analysis.backbones import load_backbone
from analysis.files import HEMIS, InputError, NSDTree
from analysis.nsd import SIMULATED, read_subject
from analysis.published import TABLE_13
from analysis.scenes import draw_scene
from analysis.study import get_subject
from analysis.subject import average_repeats


def digests(folder, size="tiny"):
    """The sha256 of every file of a simulated size, by its path there."""
    found = [p for p in (folder / "simulated" / size).rglob("*") if p.is_file()]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in found
        if not p.name.endswith(".lock")
    }


def of(digests, name, without="\0"):
    """Those of one subject, or of all but one."""
    return {path: d for path, d in digests.items() if name in path and without not in path}


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another data folder, in which sim01-tiny and then sim02-tiny were made."""
    folder = tmp_path_factory.mktemp("second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(folder))
        assert simulate.simulate("sim01-tiny")
        first = digests(folder)
        assert simulate.simulate("sim02-tiny")
    return SimpleNamespace(folder=folder, first=first, both=digests(folder))


@pytest.fixture
def tree(data_folder):
    return NSDTree(data_folder / "simulated/tiny/nsd")


@pytest.fixture
def design(tree):
    return scipy.io.loadmat(tree.design)


@pytest.fixture(scope="module")
def whole_truth(data_folder):
    return truth.Truth(**load_file(data_folder / "simulated/tiny/truth/sim01.safetensors"))


# Again, and when stopped


def test_a_seed_gives_the_same_bytes_in_every_file(data_folder, second):
    here = of(digests(data_folder), "", without="sim02")  # which another test may have made there
    assert len(here) == 31
    assert here == second.first


def test_another_subject_changes_no_file_of_the_first(second):
    changed = {p for p in second.first if second.both[p] != second.first[p]}
    assert not changed
    added = set(second.both) - set(second.first)
    assert len(added) == 25 and all("sim02" in p for p in added)


def test_subjects_differ_in_all_but_the_mask(second):
    one, two = of(second.both, "sim01"), of(second.both, "sim02")
    same = [p for p, d in one.items() if two[p.replace("sim01", "sim02")] == d]
    assert all(p.endswith(".ctab") for p in same)


def test_a_second_call_rewrites_nothing(data_folder):
    before = {p: p.stat().st_mtime_ns for p in data_folder.rglob("*") if p.is_file()}
    assert simulate.simulate("sim01-tiny") is False
    after = {p: p.stat().st_mtime_ns for p in before}
    assert after == before


def betas_path(second):
    return NSDTree(second.folder / "simulated/tiny/nsd").betas("sim01", "lh", 2)


def stimuli_path(second):
    return NSDTree(second.folder / "simulated/tiny/nsd").stimuli


def truth_path(second):
    return second.folder / "simulated/tiny/truth/sim01.safetensors"


@pytest.mark.parametrize("path_of", [betas_path, stimuli_path, truth_path])
@pytest.mark.parametrize("cut", [False, True])
def test_what_was_deleted_or_cut_is_made_again_the_same(second, monkeypatch, path_of, cut):
    monkeypatch.setenv("BRAINMAPS_DATA", str(second.folder))
    path = path_of(second)
    if cut:
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    assert not simulate.is_complete("sim01-tiny")
    assert simulate.simulate("sim01-tiny") is True
    assert simulate.is_complete("sim01-tiny")
    assert digests(second.folder) == second.both


def test_what_other_code_made_is_made_anew(second, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(second.folder))
    record = second.folder / "simulated/tiny/truth/sim02.json"
    made = json.loads(record.read_text())
    record.write_text(json.dumps(made | {"key": "of other code"}))
    assert not simulate.is_complete("sim02-tiny")
    assert simulate.simulate("sim02-tiny") is True
    assert digests(second.folder) == second.both


# Imports once, then forks: children that kill themselves before their n-th rename, one after the
# other in one folder, one that goes on to the end, and then two at the same time in another folder.
STOPPED = """
import os, pathlib, signal, sys
from analysis.simulate import is_complete, simulate

def child(folder, kill_at=None):
    if pid := os.fork():
        return pid
    os.environ["BRAINMAPS_DATA"] = folder
    renames = 0
    replace = pathlib.Path.replace
    def counted(self, target):
        nonlocal renames
        renames += 1
        if renames == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
    pathlib.Path.replace = counted
    os._exit(10 + simulate("sim01-tiny"))

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

root, moments = sys.argv[1], sys.argv[2:]
folder = os.environ["BRAINMAPS_DATA"] = f"{root}/one"
for moment in moments:
    print(status(child(folder, int(moment))), is_complete("sim01-tiny"))
print(status(child(folder)), is_complete("sim01-tiny"))
both = [child(f"{root}/both"), child(f"{root}/both")]
print(*sorted(status(pid) for pid in both))
"""


def test_a_killed_run_is_never_taken_as_whole_and_the_next_one_ends_it(second, tmp_path):
    """With no file yet, amid the betas, amid the labels, and before the last file, the record.

    The pictures are whole from the second time on: their three files are not written again.
    """
    moments = ["1", "5", "17", "34"]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, tmp_path, *moments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    assert lines[:-1] == ["-9 False"] * len(moments) + ["11 True"], done.stderr
    assert lines[-1] == "10 11"  # of two at the same time, one wrote and one waited
    for name in ("one", "both"):
        assert digests(tmp_path / name) == second.first


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="simulating sim01-tiny needs 269 MB"):
        simulate.simulate("sim01-tiny")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".sim01.lock"]


@pytest.mark.parametrize("name", ["sim04", "sim", "subj01", "sim01-huge", "sim01-tiny-x", "", "x"])
def test_an_unknown_name_says_which_there_are(name):
    for ask in (simulate.parse_name, simulate.simulate, simulate.is_complete):
        with pytest.raises(InputError, match=f"'{name}': .*sim01, sim02, sim03, with -tiny or -fu"):
            ask(name)


def test_a_name_without_size_is_fsaverage5():
    assert simulate.parse_name("sim02") == ("sim02", "fs5", False, False, "")
    assert simulate.parse_name("sim02-full") == ("sim02", "full", False, False, "")
    assert simulate.parse_name("sim02@photos") == ("sim02", "fs5", False, False, "photos")
    assert simulate.SIZES["fs5"].pictures == 1000 and simulate.SIZES["fs5"].n_surface == 10242


SUFFIXES = [
    size + nsd + raw + photos
    for size in ("", "-tiny", "-full")
    for nsd in ("", "-nsd")
    for raw in ("", "-raw")
    for photos in ("", "@photos")
]


def test_a_name_says_size_noise_teacher_and_pictures():
    for suffix in SUFFIXES:
        name = simulate.parse_name("sim03" + suffix)
        assert str(name) == "sim03" + suffix
        assert name.noise.trials_worth == (1 if "-nsd" in suffix else 10)
        assert name.rules.standardised == ("-raw" not in suffix)
    roots = {simulate.parse_name("sim03" + suffix).root for suffix in SUFFIXES}
    assert len(roots) == len(SUFFIXES)
    assert str(simulate.name_on("sim01-tiny", None, nsd=True)) == "sim01-tiny-nsd"
    for wrong in ("sim01-raw-nsd", "sim01-nsd-tiny", "sim01-nsd-nsd"):
        with pytest.raises(InputError, match=r"then -nsd .*, then -raw .*, and @NAME"):
            simulate.parse_name(wrong)


@pytest.fixture(scope="module")
def variants(second):
    """sim01-tiny with the noise of NSD's trials, and by the raw teacher."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(second.folder))
        return SimpleNamespace(nsd=get_subject("sim01-tiny-nsd"), raw=get_subject("sim01-tiny-raw"))


def test_noise_and_teacher_are_chosen_by_name(subject, variants, second):
    """The same pictures and truth; ten times the noise variance, or other responses."""
    for other in (variants.nsd, variants.raw):
        assert other.simulated and other.name != subject.name
        np.testing.assert_array_equal(other.vertices, subject.vertices)
        np.testing.assert_array_equal(other.trial_picture, subject.trial_picture)
        np.testing.assert_array_equal(other.pictures(slice(5)), subject.pictures(slice(5)))
    truths = [load_file(second.folder / f"simulated/{x}/truth/sim01.safetensors") for x in
              ("tiny", "tiny-nsd")]  # fmt: skip
    assert all((truths[0][k] == v).all() for k, v in truths[1].items())
    loud = subject.ncsnr > 1  # of these the sampling error is small
    ratio = np.median(subject.ncsnr[loud]) / np.median(variants.nsd.ncsnr[loud])
    assert ratio == pytest.approx(np.sqrt(10), rel=0.15)
    assert np.median(variants.raw.ncsnr) == pytest.approx(np.median(subject.ncsnr), rel=0.1)
    means = [average_repeats(x).responses for x in (subject, variants.nsd, variants.raw)]
    same, raw = (
        np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(means[0].T, other.T, strict=True)])
        for other in means[1:]
    )
    assert raw > 0.3 and same > 0.6


def test_truth_of_a_subject_not_yet_made_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"sim01\.safetensors: not found.*Simulate the subject"):
        simulate.load_truth("sim01-tiny", np.arange(3))
    with pytest.raises(InputError, match=r"pictures\.json: not found.*Simulate a subject first"):
        simulate.picture_labels("sim01-tiny")


# Formats


def test_design_has_nsds_variables_shapes_and_types(design):
    found = {k: (v.shape, v.dtype.str) for k, v in design.items() if not k.startswith("__")}
    assert found == {
        "masterordering": ((1, 120), "<u2"),
        "subjectim": ((3, 40), "<i4"),
        "sharedix": ((1, 10), "<i4"),
        "stimpattern": ((2, 2, 75), "|u1"),
        "basiccnt": ((3, 2), "<u2"),
    }


def test_design_counts_from_1_and_shows_each_picture_three_times(design):
    shown = collections.Counter(design["masterordering"].ravel().tolist())
    assert shown == dict.fromkeys(range(1, 41), 3)
    assert design["stimpattern"].sum() == 120 and design["stimpattern"].max() == 1
    for session in range(2):
        trials = design["masterordering"][0, session * 60 : session * 60 + 60].tolist()
        repeats = collections.Counter(collections.Counter(trials).values())
        assert [repeats[n] for n in (1, 2, 3)] == design["basiccnt"][:, session].tolist()


def test_shared_pictures_are_sorted_and_come_first_for_every_subject(design):
    shared = design["sharedix"].ravel().tolist()
    assert shared == sorted(shared)
    own = []
    for row in design["subjectim"].tolist():
        assert row[:10] == shared
        own += row[10:]
    assert sorted(shared + own) == list(range(1, 101))  # nobody's own picture is another's


def test_pictures_are_the_drawn_scenes_and_their_labels(data_folder, tree):
    with h5py.File(tree.stimuli) as f:
        brick = f["imgBrick"]
        assert brick.shape == (100, 32, 32, 3) and brick.dtype == np.uint8
        for i in (0, 41, 99):
            scene = draw_scene(i, 32)
            np.testing.assert_array_equal(brick[i], scene.picture)
            assert simulate.picture_labels("sim01-tiny")[i] == scene.labels


def test_surface_files_have_nsds_sizes(tree):
    for hemi in HEMIS:
        for session in (1, 2):
            mgh.read_series(tree.betas("sim01", hemi, session), np.arange(642), 642, 60)
        assert mgh.read(tree.ncsnr("sim01", hemi), "ncsnr").shape == (642,)
        assert mgh.read(tree.to_fsaverage("sim01", hemi), "indices").min() >= 1
    assert not tree.betas("sim01", "lh", 3).exists()


# Responses


def session_betas(tree, truth_, session):
    """Betas of the visual vertices, [vertex, trial]."""
    files = [tree.betas("sim01", hemi, session) for hemi in HEMIS]
    halves = [mgh.read_series(path, np.arange(642), 642, 60).T for path in files]
    return np.concatenate(halves).astype(float)[truth_.vertices]


def test_betas_look_like_per_cent_signal_change(tree, whole_truth):
    for session in (1, 2):
        betas = session_betas(tree, whole_truth, session)
        without = np.isnan(betas).all(1)
        assert without.sum() == 1 and np.isfinite(betas[~without]).all()
        assert 0.15 < betas[~without].mean() < 1.2
        spread = betas[~without].std(1)
        low, middle, high = np.quantile(spread, [0.05, 0.5, 0.95])
        gain = np.exp(2 * simulate.NOISE.gain)  # a session's own, within two sds
        assert 1.4 < low < middle < high < 3.2 and 1.75 / gain < middle < 2.5 * gain


def test_sessions_have_levels_of_their_own(tree, whole_truth):
    one, two = (np.nanmean(session_betas(tree, whole_truth, s)) for s in (1, 2))
    assert abs(one - two) > 0.02  # per cent; what z-scoring in each session takes out


def test_nothing_lies_outside_visual_cortex(tree, whole_truth):
    for i, hemi in enumerate(HEMIS):
        outside = np.setdiff1d(np.arange(642), whole_truth.vertices - 642 * i)
        assert not mgh.read_series(tree.betas("sim01", hemi, 1), outside, 642, 60).any()


def test_ncsnr_file_follows_nsds_formula(subject, tree, whole_truth):
    """From the betas by NSD's definition: z-score by the sample sd, v² the mean variance."""
    stored = np.concatenate([mgh.read(tree.ncsnr("sim01", hemi), "ncsnr") for hemi in HEMIS])
    stored = stored[subject.vertices]
    rows = np.searchsorted(whole_truth.vertices, subject.vertices)
    sessions = [session_betas(tree, whole_truth, s)[rows] for s in (1, 2)]
    scored = [(x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in sessions]
    scored = np.concatenate(scored, axis=1)  # [vertex, trial]
    pictures = range(len(subject.picture_ids))
    variances = [scored[:, subject.trial_picture == p].var(1, ddof=1) for p in pictures]
    noise = np.mean(variances, 0)
    np.testing.assert_allclose(stored, np.sqrt(np.maximum(0, 1 - noise) / noise), atol=1e-4)
    recomputed = explained.ncsnr(subject.responses, subject.trial_picture, subject.trial_session)
    np.testing.assert_allclose(stored, recomputed, atol=1e-4)


def test_ncsnr_has_the_median_it_was_drawn_with(subject, variants):
    assert np.median(subject.ncsnr) == pytest.approx(0.46 * np.sqrt(10), rel=0.1)
    assert np.median(variants.nsd.ncsnr) == pytest.approx(0.46, abs=0.08)


def test_noise_ratio_drawn_is_recovered_from_many_trials(whole_truth):
    """ncsnr of each vertex, measured from betas of 300 pictures in place of 40."""
    rng = np.random.default_rng(0)
    n_vertices = len(whole_truth.vertices)
    snr = rng.uniform(0.2, 3, n_vertices)
    signal = rng.standard_normal((300, n_vertices)).astype(np.float32)
    trial_picture = rng.permutation(np.repeat(np.arange(300), 3))
    person = truth.PEOPLE["sim01"]
    shown = signal[trial_picture]
    betas = noise.draw_betas(whole_truth, snr, shown, 642, 3, person, simulate.NOISE)
    sessions = betas.reshape(3, 300, -1)
    scored = (sessions - sessions.mean(1, keepdims=True)) / sessions.std(1, keepdims=True)
    found = explained.ncsnr(scored.reshape(900, -1), trial_picture)
    for rows in (snr < 0.6, (snr > 0.6) & (snr < 1.5), snr > 1.5):
        assert np.nanmedian(found[rows] / snr[rows]) == pytest.approx(1, abs=0.05)
        assert np.nanmedian(np.abs(found[rows] - snr[rows])) < 0.1


# People


@pytest.fixture(scope="module")
def people():
    """The truths of the three at fsaverage5, with directions that are all the same."""
    directions = dict.fromkeys(truth.CATEGORY, np.eye(128)[0])
    return {
        name: truth.draw_truth(10242, 8, directions, person, simulate.RULES)
        for name, person in truth.PEOPLE.items()
    }


@pytest.fixture(scope="module")
def ratios(people):
    """Each person's ROIs, and the ncsnr drawn for NSD's trials and for simulated ones."""
    found = {}
    for name, (one, areas, labels) in people.items():
        rois = simulate.rois_of(one, areas, labels)
        person, like_nsd = truth.PEOPLE[name], dataclasses.replace(simulate.NOISE, trials_worth=1.0)
        both = [
            noise.signal_to_noise(one, rois, 10242, person, n) for n in (like_nsd, simulate.NOISE)
        ]
        found[name] = SimpleNamespace(rois=rois, nsd=both[0], own=both[1], level=one.level)
    return found


def area_ceilings(one, ncsnr, areas):
    """The median noise ceiling of single trials in each area."""
    ceiling = ncsnr**2 / (ncsnr**2 + 1)
    return np.array([np.median(ceiling[one.rois[area]]) for area in areas])


AREA_NAMES = list(TABLE_13.columns[1:])


def test_ncsnr_over_vertices_is_nsds(ratios):
    found = np.quantile(ratios["sim01"].nsd, simulate.NOISE.shares[1:-1])
    np.testing.assert_allclose(found, simulate.NOISE.ncsnr[1:-1], atol=0.002)
    for one in ratios.values():
        np.testing.assert_allclose(one.own / one.nsd, np.sqrt(10))


def test_every_area_of_everybody_can_be_predicted(people, ratios):
    for name, one in ratios.items():
        assert area_ceilings(one, one.own, AREA_NAMES).min() > 0.4
        left = people[name][0].vertices < 10242
        for half in (left, ~left):
            rois = {area: mask[half] for area, mask in one.rois.items()}
            there = SimpleNamespace(rois=rois)
            assert area_ceilings(there, one.own[half], AREA_NAMES).min() > 0.3


def test_noise_ceilings_follow_the_area_as_the_papers_scores_do(ratios):
    """Of each person: the rank correlation over areas with Table 13, and areas against the rest."""
    published = TABLE_13.loc["CLIP (subject #1)", AREA_NAMES]
    for name in ("sim01", "sim02"):
        one = ratios[name]
        assert scipy.stats.spearmanr(area_ceilings(one, one.nsd, AREA_NAMES), published)[0] > 0.6
        outside = ~np.any([one.rois[area] for area in AREA_NAMES], axis=0)
        assert np.median(one.nsd[outside]) < 0.85 * np.median(one.nsd[~outside])


def test_score_outside_areas_leaves_the_papers_over_all(ratios):
    one = ratios["sim01"]
    scores = noise.area_scores(len(one.level), one.rois, simulate.NOISE)
    assert scores.mean() == pytest.approx(TABLE_13.loc["CLIP (subject #1)", "all"], abs=0.005)


def test_the_third_person_is_noisier_as_in_the_papers_table_13(people, ratios):
    """Ceilings of NSD's trials in early and category areas, as ratios of the published scores.

    Expected ones: the mean over people who differ in the seed alone.
    """
    rows = TABLE_13.loc[["CLIP (subject #1)", "CLIP (subject #3)"]]
    like_nsd, expected = dataclasses.replace(simulate.NOISE, trials_worth=1.0), {}
    for name in ("sim01", "sim03"):
        one, rois, ceilings = people[name][0], ratios[name].rois, []
        for seed in range(100, 110):
            person = dataclasses.replace(truth.PEOPLE[name], seed=seed)
            drawn = noise.signal_to_noise(one, rois, 10242, person, like_nsd)
            ceilings.append(area_ceilings(ratios[name], drawn, AREA_NAMES))
        expected[name] = dict(zip(AREA_NAMES, np.mean(ceilings, axis=0), strict=True))
    found = []
    for areas in (["V1", "V2", "V3"], AREA_NAMES[4:]):
        first, third = rows[areas].mean(axis=1)
        ours = [np.mean([expected[n][a] for a in areas]) for n in ("sim01", "sim03")]
        found.append(ours[1] / ours[0])
        assert found[-1] == pytest.approx(third / first, abs=0.05)
    assert found[0] < found[1] < 1


def test_names_of_people_are_those_the_reader_knows():
    assert tuple(truth.PEOPLE) == SIMULATED


def test_people_differ_in_anatomy(people):
    v1 = {name: [np.isin(x, (1, 2)) for x in labels] for name, (_, _, labels) in people.items()}
    sizes = {name: sum(x.sum() for x in both) for name, both in v1.items()}
    assert sizes["sim02"] < 0.95 * sizes["sim01"] < sizes["sim01"] < sizes["sim03"]
    for one, other in itertools.combinations(v1, 2):
        both = [(a & b).sum() / (a | b).sum() for a, b in zip(v1[one], v1[other], strict=True)]
        assert all(0.3 < overlap < 0.95 for overlap in both)
    discs = {
        name: sum(len(a) for hemi in areas for a in hemi.values())
        for name, (_, areas, _) in people.items()
    }
    assert discs["sim02"] < discs["sim03"] < discs["sim01"]


def test_people_differ_in_receptive_fields(people):
    size = {name: np.median(found.field) for name, (found, *_) in people.items()}
    assert size["sim02"] / size["sim01"] == pytest.approx(0.8, rel=0.1)
    assert size["sim03"] / size["sim01"] == pytest.approx(1.3, rel=0.1)


def test_people_differ_in_layers(people):
    depth = {name: found.layer @ np.arange(8) for name, (found, *_) in people.items()}
    assert depth["sim03"].mean() < depth["sim01"].mean() - 0.1
    assert depth["sim02"].mean() > depth["sim01"].mean() + 0.1
    for found, *_ in people.values():  # beside the place in the hierarchy, each wanders
        middle = (found.level > 0.3) & (found.level < 0.7)
        own = (found.layer @ np.arange(8))[middle] / 7 - found.level[middle]
        assert 0.015 < own.std() < 0.06 and abs(own.mean()) < 0.03


def test_a_person_that_does_not_wander_follows_the_hierarchy():
    still = dataclasses.replace(truth.PEOPLE["sim01"], field_wander=0.0, layer_wander=0.0)
    directions = dict.fromkeys(truth.CATEGORY, np.eye(128)[0])
    found, *_ = truth.draw_truth(10242, 8, directions, still, simulate.RULES)
    peak = found.layer.argmax(1)
    np.testing.assert_array_equal(peak, np.rint(7 * found.level).astype(int))
    ecc = 4.2 * np.linalg.norm(found.space, axis=1)
    expected = (0.3 + 0.12 * ecc) * (1 + 2 * found.level) / 4.2
    np.testing.assert_allclose(found.field, expected, rtol=1e-12)


def test_receptive_fields_lie_in_the_picture_and_not_on_its_border(people):
    for found, *_ in people.values():
        away = np.linalg.norm(found.space[found.early], axis=1)
        assert away.max() < 0.97
        counts = np.histogram(away, np.linspace(0, 1, 11))[0]
        assert counts[:8].min() > 0.05 * len(away) and counts.max() < 0.16 * len(away)
        assert len(np.unique(away[away > 0])) == (away > 0).sum()


# Photographs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """45 photographs, some in folders that say what they show, wide and tall ones among them."""
    folder = tmp_path_factory.mktemp("x") / "my photos"
    rng = np.random.default_rng(0)
    for i in range(45):
        place = folder / ("face" if i < 20 else "")
        place.mkdir(parents=True, exist_ok=True)
        shape = [(40, 60), (60, 40), (32, 32)][i % 3]
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(place / f"p{i:02d}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def shown(photos, tmp_path_factory):
    """A data folder in which two people saw the photographs."""
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(folder))
        assert simulate.simulate("sim01-tiny", photos)
        assert simulate.simulate("sim02-tiny", photos)
    return folder


def test_photographs_are_shown_as_the_middle_square(photos, shown):
    with h5py.File(
        shown / "simulated/tiny@my_photos/nsd/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    ) as f:
        brick = f["imgBrick"][:]
    assert brick.shape == (45, 32, 32, 3)
    paths = sorted(photos.rglob("*.png"))
    same = PIL.Image.open(paths[2])  # of the size it is shown in
    np.testing.assert_array_equal(brick[2], np.asarray(same))
    wide = PIL.Image.open(paths[0])
    assert wide.size == (60, 40)
    square = wide.resize((32, 32), PIL.Image.Resampling.BICUBIC, box=(10, 0, 50, 40))
    np.testing.assert_array_equal(brick[0], np.asarray(square))


def test_folders_of_photographs_say_what_they_show(shown, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(shown))
    labels = simulate.picture_labels("sim01-tiny@my_photos")
    assert labels == [frozenset({"face"})] * 20 + [frozenset()] * 25


def test_who_sees_photographs_is_read_and_found_by_name(photos, shown, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(shown))
    before = digests(shown, "tiny@my_photos")
    assert simulate.is_complete("sim01-tiny@my_photos")
    assert simulate.simulate("sim01-tiny", photos) is False
    assert simulate.simulate("sim01-tiny@my_photos") is False
    one, two = (get_subject(f"{name}-tiny@my_photos") for name in ("sim01", "sim02"))
    assert digests(shown, "tiny@my_photos") == before
    assert one.simulated and len(one.picture_ids) == 40
    assert one.shared.sum() == 10  # too few for each to have its own: they share more than these
    assert set(one.picture_ids[one.shared]) == set(two.picture_ids[two.shared])
    assert one.pictures(np.array([0])).shape == (1, 32, 32, 3)


def test_other_photographs_under_the_name_are_shown_anew(photos, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    other = shutil.copytree(photos, tmp_path / "my photos")
    assert simulate.simulate("sim01-tiny", other)
    before = digests(tmp_path / "data", "tiny@my_photos")
    assert before == of(digests(shown, "tiny@my_photos"), "", without="sim02")
    PIL.Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(other / "face" / "p02.png")
    assert simulate.simulate("sim01-tiny", other)
    after = digests(tmp_path / "data", "tiny@my_photos")
    assert after.keys() == before.keys() and after != before


def test_photographs_that_are_too_few_or_gone_are_told(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"my photos: 45 pictures .* expected 1000 or more"):
        simulate.simulate("sim01", photos)
    with pytest.raises(InputError, match="nowhere: not found; expected a folder of pictures"):
        simulate.simulate("sim01-tiny", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"'sim01-tiny@mine': .*Run `simulate sim01-tiny --stim"):
        simulate.simulate("sim01-tiny@mine")
    assert not list(tmp_path.rglob("*.json"))


def test_a_damaged_photograph_is_named_and_nothing_kept(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    folder = shutil.copytree(photos, tmp_path / "my photos")
    bad = folder / "p30.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(InputError, match=r"p30\.png: not a readable picture"):
        simulate.simulate("sim01-tiny", folder)
    left = [p.name for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert sorted(left) == [".pictures.lock", ".sim01.lock"]


def test_directions_of_photographs_come_from_drawn_scenes(shown, monkeypatch):
    """They show no bodies, houses or words; a face area still prefers drawn faces."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(shown))
    labels = [frozenset({"face"}), frozenset()] * 5
    pictures = torch.zeros(10, 32, 32, 3, dtype=torch.uint8)
    found, kinds = simulate._category_examples(pictures, labels)
    assert len(found) == len(kinds) == simulate.STANDARD
    np.testing.assert_array_equal(found[7], draw_scene(7, 32).picture)
    assert kinds[7] == draw_scene(7, 32).labels


# Truth


def test_truth_is_aligned_with_the_vertices_asked_for(subject, whole_truth):
    asked = subject.vertices[[100, 3, 57]]
    some = simulate.load_truth("sim01-tiny", asked)
    np.testing.assert_array_equal(some.vertices, asked)
    for i, vertex in enumerate(asked):
        (row,) = np.flatnonzero(whole_truth.vertices == vertex)
        for field in ("early", "space", "field", "layer", "scale", "level", "channel"):
            expected = getattr(whole_truth, field)[row]
            np.testing.assert_array_equal(getattr(some, field)[i], expected)


def test_a_vertex_without_truth_is_refused(whole_truth):
    outside = np.setdiff1d(np.arange(1284), whole_truth.vertices)[[0, -1]]
    with pytest.raises(InputError, match=r"vertices: .* are not among those of .*sim01\.safetens"):
        simulate.load_truth("sim01-tiny", outside)


def test_truth_keeps_its_promises(whole_truth):
    np.testing.assert_allclose(whole_truth.layer.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(whole_truth.channel, axis=1), 1, rtol=1e-12)
    assert whole_truth.layer.min() >= 0 and whole_truth.layer.shape[1] == 8
    assert whole_truth.scale.min() >= 0.1 and whole_truth.scale.max() <= 0.9
    assert np.abs(whole_truth.space).max() <= 1 and whole_truth.field.min() > 0
    assert (np.diff(whole_truth.vertices) > 0).all()


def test_early_vertices_see_the_other_half_of_the_visual_field(whole_truth):
    left = whole_truth.vertices < 642
    x = whole_truth.space[:, 0]
    assert (x[left & whole_truth.early] >= 0).all() and (x[~left & whole_truth.early] <= 0).all()
    assert (np.abs(x[whole_truth.early]) > 0.05).mean() > 0.5


def test_ventral_areas_see_the_upper_field_and_dorsal_ones_the_lower(subject):
    y = simulate.load_truth("sim01-tiny", subject.vertices).space[:, 1]  # down
    for area in ("V1", "V2", "V3"):
        assert y[subject.roi(area + "v")].max() <= 1e-9
        assert y[subject.roi(area + "d")].min() >= -1e-9


def test_early_means_v1_to_v3(subject):
    early = simulate.load_truth("sim01-tiny", subject.vertices).early
    expected = subject.roi("V1") | subject.roi("V2") | subject.roi("V3")
    np.testing.assert_array_equal(early, expected)


def test_early_areas_read_earlier_layers_and_smaller_fields_than_category_areas(subject):
    found = simulate.load_truth("sim01-tiny", subject.vertices)
    depth = found.layer @ np.arange(8)
    late = subject.roi("EBA") | subject.roi("FFA") | subject.roi("PPA")
    assert depth[subject.roi("V1")].max() < depth[late].min()
    assert found.scale[subject.roi("V1")].max() < found.scale[late].min()
    assert np.median(found.field[subject.roi("V1")]) < np.median(found.field[late])


def by_loops(found, local, global_, i):
    """The equation of `noiseless`, one vertex: a number per picture, before compression."""
    n_pictures, n_layers = len(local), len(local[0])
    responses = []
    for p in range(n_pictures):
        z = 0.0
        for layer in range(n_layers):
            channels, height, width = local[p][layer].shape
            weights = np.empty((height, width))
            for row in range(height):
                for column in range(width):
                    x, y = (column + 0.5) / width * 2 - 1, (row + 0.5) / height * 2 - 1
                    away = (x - found.space[i, 0]) ** 2 + (y - found.space[i, 1]) ** 2
                    weights[row, column] = np.exp(-away / (2 * found.field[i] ** 2))
            weights /= weights.sum()
            pooled = [(weights * local[p][layer][c]).sum() for c in range(channels)]
            k = found.scale[i]
            read = (1 - k) * np.array(pooled) + k * global_[p][layer]
            z += found.layer[i, layer] * (found.channel[i] @ read)
        responses.append(z)
    return np.array(responses)


def test_noiseless_responses_are_the_equations(tree, whole_truth):
    """By loops in float64, from tokens standardised by hand."""
    ids = np.sort(scipy.io.loadmat(tree.design)["subjectim"][0, :12]) - 1
    with h5py.File(tree.stimuli) as f:
        pictures = torch.from_numpy(f["imgBrick"][ids])
    teacher = load_backbone(simulate.TEACHER)
    tokens = list(truth.teacher_tokens(teacher, pictures, batch=5))
    standard = truth.token_standard(tokens)
    rows = np.flatnonzero(whole_truth.early)[:1].tolist() + [80, 140]
    some = truth.Truth(**{k: v[rows] for k, v in vars(whole_truth).items()})
    got = truth.noiseless(some, standard, tokens)
    raw = truth.noiseless(some, truth.token_standard(tokens, by_channel=False), tokens)

    with torch.inference_mode():
        local, global_ = teacher(pictures)
    local = np.stack([x.numpy() for x in local], 1).astype(float)  # [picture, layer, channel, h, w]
    global_ = np.stack([x.numpy() for x in global_], 1).astype(float)
    sizes = np.sqrt(local.var(0).mean((1, 2, 3)))
    unchanged = [x / sizes.reshape(-1, *[1] * (x.ndim - 2)) for x in (local, global_)]
    local -= local.mean(0)
    local /= np.sqrt(np.square(local).mean((0, 3, 4)))[:, :, None, None]
    global_ = (global_ - global_.mean(0)) / global_.std(0, ddof=1)
    for i, (found, tokens) in itertools.product(
        range(len(rows)), ((got, (local, global_)), (raw, unchanged))
    ):
        z = by_loops(some, *tokens, i)
        compressed = np.arcsinh((z - z.mean()) / z.std())
        expected = (compressed - compressed.mean()) / compressed.std()
        np.testing.assert_allclose(found[:, i], expected, atol=2e-3)


def test_categories_shown_by_all_or_none_are_refused():
    pictures = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    teacher = load_backbone(simulate.TEACHER)
    standard = truth.token_standard(truth.teacher_tokens(teacher, pictures))
    with pytest.raises(ValueError, match="0 of 3 pictures show a face"):
        truth.category_directions(standard, standard.vectors, [frozenset()] * 3, layer=6)


def test_responses_carry_the_truths_signal(subject, tree, whole_truth):
    """Means over three trials correlate with the noiseless response as the noise ceiling says."""
    with h5py.File(tree.stimuli) as f:
        pictures = torch.from_numpy(f["imgBrick"][:][subject.picture_ids])
    row = scipy.io.loadmat(tree.design)["subjectim"][0].astype(int) - 1
    teacher = load_backbone(simulate.TEACHER)
    with h5py.File(tree.stimuli) as f:
        in_order = torch.from_numpy(f["imgBrick"][:][row])
    standard = truth.token_standard(truth.teacher_tokens(teacher, in_order))
    found = simulate.load_truth("sim01-tiny", subject.vertices)
    signal = truth.noiseless(found, standard, truth.teacher_tokens(teacher, pictures))
    means = average_repeats(subject).responses
    got = [np.corrcoef(a, b)[0, 1] for a, b in zip(signal.T, means.T, strict=True)]
    expected = np.sqrt(explained.noise_ceiling(subject.ncsnr, 3))
    assert np.median(got) == pytest.approx(np.median(expected), abs=0.06)


def test_a_simulated_subject_is_read_as_nsds_are(second):
    tree = NSDTree(second.folder / "simulated/tiny/nsd")
    one, two = (read_subject(name, tree)[0] for name in ("sim01", "sim02"))
    assert one.simulated and one.identity != two.identity
    shared = set(one.picture_ids[one.shared])
    assert shared == set(two.picture_ids[two.shared]) == set(one.picture_ids) & set(two.picture_ids)
