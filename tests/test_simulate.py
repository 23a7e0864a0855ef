"""A simulated subject is NSD's tree, the same bytes from the same seed, and what its truth says."""

import collections
import hashlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from safetensors.numpy import load_file

from analysis import files, metrics, mgh, simulate, truth
from analysis.backbones import load_backbone
from analysis.files import HEMIS, InputError, NSDTree
from analysis.nsd import load_subject
from analysis.scenes import draw_scene
from analysis.subject import over_repeats


def digests(folder):
    """The sha256 of every file of a simulated size, by its path there."""
    found = [p for p in (folder / "simulated/tiny").rglob("*") if p.is_file()]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in found
        if p.name != ".lock"
    }


def of(digests, name):
    """Those of one subject."""
    return {path: d for path, d in digests.items() if name in path}


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
    here = digests(data_folder)
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
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".lock"]


@pytest.mark.parametrize("name", ["sim04", "sim", "subj01", "sim01-huge", "sim01-tiny-x", "", "x"])
def test_an_unknown_name_says_which_there_are(name):
    for ask in (simulate.parse_name, simulate.simulate, simulate.is_complete, simulate.quality_of):
        with pytest.raises(InputError, match=f"'{name}': .*sim01, sim02, sim03, with -tiny or -fu"):
            ask(name)


def test_a_name_without_size_is_fsaverage5():
    assert simulate.parse_name("sim02") == ("sim02", "fs5")
    assert simulate.parse_name("sim02-full") == ("sim02", "full")
    assert simulate.SIZES["fs5"].pictures == 1000 and simulate.SIZES["fs5"].n_surface == 10242


def test_truth_of_a_subject_not_yet_made_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"sim01\.safetensors: not found.*Simulate the subject"):
        simulate.load_truth("sim01-tiny", np.arange(3))
    with pytest.raises(InputError, match=r"pictures\.json: not found.*Simulate a subject first"):
        simulate.picture_labels("tiny")


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
            assert simulate.picture_labels("tiny")[i] == scene.labels


def test_surface_files_have_nsds_sizes(tree):
    for hemi in HEMIS:
        for session in (1, 2):
            mgh.check_series(tree.betas("sim01", hemi, session), 642, 60)
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
        assert 1.4 < low < middle < high < 3.2 and 1.75 < middle < 2.5


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
    recomputed = metrics.ncsnr(subject.responses, subject.trial_picture, subject.trial_session)
    np.testing.assert_allclose(stored, recomputed, atol=1e-4)


def test_ncsnr_has_the_median_it_was_drawn_with(subject):
    assert np.median(subject.ncsnr) == pytest.approx(0.46, abs=0.08)


def test_noise_ratio_drawn_is_recovered_from_many_trials(whole_truth):
    """With 300 pictures in place of 40; the third subject's is 0.6 of it."""
    spec = simulate.Size(642, sessions=3, trials_per_session=300, shared=10, picture=32)
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((300, len(whole_truth.vertices))).astype(np.float32)
    trial_picture = rng.permutation(np.repeat(np.arange(300), 3))
    for number, share in ((0, 1.0), (2, 0.6)):
        betas = simulate._betas(whole_truth, signal[trial_picture], spec, number, simulate.NOISE)
        sessions = betas.reshape(3, 300, -1)
        scored = (sessions - sessions.mean(1, keepdims=True)) / sessions.std(1, keepdims=True)
        measured = metrics.ncsnr(scored.reshape(900, -1), trial_picture)
        expected = np.array(simulate.NOISE.ncsnr) * share
        found = np.nanquantile(measured, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(found, expected[2:5], atol=0.05)


def test_quality_is_known_by_name():
    assert simulate.quality_of("sim01-tiny") == 1.0 and simulate.quality_of("sim03") == 0.6


# Truth


def test_truth_is_aligned_with_the_vertices_asked_for(subject, whole_truth):
    asked = subject.vertices[[100, 3, 57]]
    some = simulate.load_truth("sim01-tiny", asked)
    np.testing.assert_array_equal(some.vertices, asked)
    for i, vertex in enumerate(asked):
        (row,) = np.flatnonzero(whole_truth.vertices == vertex)
        for field in ("early", "space", "field", "layer", "scale", "channel"):
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
    kinds = ("face", "body", "house", "word")
    labels = [frozenset({kinds[i % 4]}) for i in range(12)]  # only the directions follow them
    teacher = load_backbone(simulate.TEACHER)
    standard, _ = truth.standardise(teacher, pictures, labels, layer=6)
    rows = np.flatnonzero(whole_truth.early)[:1].tolist() + [80, 140]
    some = truth.Truth(**{k: v[rows] for k, v in vars(whole_truth).items()})
    got = truth.noiseless(some, teacher, standard, pictures)

    with torch.inference_mode():
        local, global_ = teacher(pictures)
    local = np.stack([x.numpy() for x in local], 1).astype(float)  # [picture, layer, channel, h, w]
    global_ = np.stack([x.numpy() for x in global_], 1).astype(float)
    local -= local.mean(0)
    local /= np.sqrt(np.square(local).mean((0, 3, 4)))[:, :, None, None]
    global_ = (global_ - global_.mean(0)) / global_.std(0, ddof=1)
    for i in range(len(rows)):
        z = by_loops(some, local, global_, i)
        compressed = np.arcsinh((z - z.mean()) / z.std())
        expected = (compressed - compressed.mean()) / compressed.std()
        np.testing.assert_allclose(got[:, i], expected, atol=2e-3)


def test_categories_shown_by_all_or_none_are_refused():
    pictures = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="0 of 3 pictures show a face"):
        truth.standardise(load_backbone(simulate.TEACHER), pictures, [frozenset()] * 3, layer=6)


def test_responses_carry_the_truths_signal(subject, tree, whole_truth):
    """Means over three trials correlate with the noiseless response as the noise ceiling says."""
    with h5py.File(tree.stimuli) as f:
        pictures = torch.from_numpy(f["imgBrick"][:][subject.picture_ids])
    row = scipy.io.loadmat(tree.design)["subjectim"][0].astype(int) - 1
    teacher = load_backbone(simulate.TEACHER)
    labels = [simulate.picture_labels("tiny")[i] for i in row]
    with h5py.File(tree.stimuli) as f:
        in_order = torch.from_numpy(f["imgBrick"][:][row])
    standard, _ = truth.standardise(teacher, in_order, labels, layer=6)
    found = simulate.load_truth("sim01-tiny", subject.vertices)
    signal = truth.noiseless(found, teacher, standard, pictures)
    means = over_repeats(subject).responses
    got = [np.corrcoef(a, b)[0, 1] for a, b in zip(signal.T, means.T, strict=True)]
    expected = np.sqrt(metrics.noise_ceiling(subject.ncsnr, 3))
    assert np.median(got) == pytest.approx(np.median(expected), abs=0.06)


def test_a_simulated_subject_is_read_as_nsds_are(second):
    tree = NSDTree(second.folder / "simulated/tiny/nsd")
    one, two = (load_subject(name, tree) for name in ("sim01", "sim02"))
    assert one.simulated and one.identity != two.identity
    shared = set(one.picture_ids[one.shared])
    assert shared == set(two.picture_ids[two.shared]) == set(one.picture_ids) & set(two.picture_ids)
