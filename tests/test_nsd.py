"""A subject is what its files say, read here again by hand; each damage has its own message."""

import dataclasses
import itertools
import re
import subprocess
import sys

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io

from analysis import mgh, surface
from analysis.files import HEMIS, InputError, MissingFile, NSDTree
from analysis.nsd import FAMILIES, SESSIONS, read_design, read_subject
from analysis.subject import AREAS, average_repeats, surface_coordinates, zscore


def load_subject(*arguments, **options):
    return read_subject(*arguments, **options)[0]


@pytest.fixture
def tree(data_folder):
    """The tree of sim01-tiny, to be read only."""
    return NSDTree(data_folder / "simulated/tiny/nsd")


def values(path):
    """A surface file by nibabel, [vertex, trial]."""
    with path.open("rb") as f:  # from_filename leaves an .mgh open
        if path.suffix == ".mgz":
            return nibabel.load(path).get_fdata().reshape(-1, 1)
        image = nibabel.MGHImage.from_stream(f)
        return image.get_fdata().reshape(image.shape[0], -1)


def hemi_of(subject, vertex):
    """The hemisphere of one of a subject's vertices, and its index there."""
    hemi, at = divmod(int(vertex), subject.n_surface)
    return HEMIS[hemi], at


def change_betas(tree, change, hemi="lh", session=1):
    """Rewrite a session's betas as `change` leaves or returns them."""
    path = tree.betas("sim01", hemi, session)
    betas = values(path).astype(np.float32)
    mgh.write(path, betas if (changed := change(betas)) is None else changed)


def rewrite_design(tree, **changed):
    """Put other variables into the design; None takes one out."""
    found = scipy.io.loadmat(tree.design)
    found = {k: v for k, v in found.items() if not k.startswith("__")} | changed
    scipy.io.savemat(tree.design, {k: v for k, v in found.items() if v is not None})


def rewrite_stimuli(tree, **datasets):
    with h5py.File(tree.stimuli, "w") as f:
        for name, data in datasets.items():
            f[name] = data


# Trials and pictures


def formula(tree, row, n_trials):
    """Picture (from 0) of each trial, by the formula of NSD's manual."""
    design = scipy.io.loadmat(tree.design)
    ordering, ids = design["masterordering"], design["subjectim"]
    return [int(ids[row, int(ordering[0, t]) - 1]) - 1 for t in range(n_trials)]


@pytest.mark.parametrize("name", ["sim01", "sim02", "sim03"])
def test_trials_show_the_pictures_of_nsds_formula(tree, name):
    design = read_design(tree, name)
    row = int(name[-1]) - 1
    assert design.picture_ids[design.trial_picture].tolist() == formula(tree, row, 120)
    assert len(set(design.picture_ids)) == len(design.picture_ids) == 40
    shared = scipy.io.loadmat(tree.design)["sharedix"].ravel() - 1
    assert set(design.picture_ids[design.shared]) == set(shared)
    assert (design.sessions, design.trials_per_session) == (2, 60)


@pytest.fixture
def nsd_sized(tmp_path):
    """A tree with a design of NSD's shapes and types."""
    rng = np.random.default_rng(0)
    shared = np.sort(rng.choice(73000, 1000, replace=False)) + 1
    own = np.setdiff1d(np.arange(73000) + 1, shared)[: 8 * 9000].reshape(8, 9000)
    tree = NSDTree(tmp_path)
    tree.design.parent.mkdir(parents=True)
    ordering = rng.permutation(np.repeat(np.arange(10000), 3)) + 1
    slots = np.arange(75) < np.where(np.arange(12) % 2, 63, 62)[:, None]  # 62 or 63 trials a run
    design = {
        "masterordering": ordering[None].astype(np.uint16),
        "subjectim": np.concatenate([np.tile(shared, (8, 1)), own], 1).astype(np.int32),
        "sharedix": shared[None].astype(np.int32),
        "stimpattern": np.repeat(slots[None], 40, 0).astype(np.uint8),
    }
    scipy.io.savemat(tree.design, design)
    return tree


@pytest.mark.parametrize("name", ["subj01", "subj04", "subj06", "subj08"])
def test_nsds_subjects_have_their_row_and_sessions(nsd_sized, name):
    design = read_design(nsd_sized, name)
    n_trials = {"subj01": 30000, "subj04": 22500, "subj06": 24000, "subj08": 22500}[name]
    assert design.sessions == SESSIONS[name] and design.trials_per_session == 750
    pictures = design.picture_ids[design.trial_picture]
    assert pictures.tolist() == formula(nsd_sized, int(name[-1]) - 1, n_trials)


def test_the_first_sessions_alone_can_be_read(tree, subject):
    first = load_subject("sim01", tree, sessions=1)
    assert len(first.trial_picture) == 60 and set(first.trial_session) == {0}
    one = first.picture_ids[first.trial_picture]
    np.testing.assert_array_equal(one, subject.picture_ids[subject.trial_picture][:60])
    assert first.identity != subject.identity


@pytest.mark.parametrize("sessions", [3, 0, -1])
def test_sessions_that_are_not_there_are_refused(tree, sessions):
    with pytest.raises(InputError, match=f"sessions={sessions}: .*nsd_expdesign.mat holds 2"):
        load_subject("sim01", tree, sessions=sessions)


def test_sessions_follow_each_other(subject):
    np.testing.assert_array_equal(subject.trial_session, np.repeat([0, 1], 60))


def test_pictures_come_in_the_order_asked_repeats_too(subject, tree):
    with h5py.File(tree.stimuli) as f:
        bricks = f["imgBrick"][:]
    rows = np.array([5, 0, 39, 5, 17])
    np.testing.assert_array_equal(subject.pictures(rows), bricks[subject.picture_ids[rows]])
    np.testing.assert_array_equal(
        subject.pictures(slice(3, 6)), bricks[subject.picture_ids[[3, 4, 5]]]
    )


# Responses


def test_responses_are_the_files_betas_standardised_in_each_session(subject, tree):
    for session in range(2):
        files = {h: values(tree.betas("sim01", h, session + 1)) for h in HEMIS}
        for column, vertex in enumerate(subject.vertices):
            hemi, at = hemi_of(subject, vertex)
            trials = files[hemi][at]
            expected = (trials - trials.mean()) / trials.std()
            got = subject.responses[session * 60 : session * 60 + 60, column]
            np.testing.assert_allclose(got, expected, atol=2e-5)


def test_responses_of_each_session_have_mean_0_and_sd_1(subject):
    assert subject.responses.dtype == np.float32
    for session in subject.responses.astype(float).reshape(2, 60, -1):
        np.testing.assert_allclose(session.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(session.std(0), 1, atol=1e-5)


def test_zscore_is_nan_only_where_nothing_varies():
    betas = np.random.default_rng(0).normal(3, 2, (20, 4)).astype(np.float32)
    betas[:, 1] = 7
    betas[4, 2] = np.nan
    result = zscore(betas)
    assert np.isnan(result[:, [1, 2]]).all()
    whole = betas[:, [0, 3]].astype(float)
    expected = (whole - whole.mean(0)) / whole.std(0)
    np.testing.assert_allclose(result[:, [0, 3]], expected, rtol=1e-4, atol=1e-6)


def test_over_repeats_is_the_mean_over_a_pictures_trials(subject, tree):
    some = dataclasses.replace(
        subject,
        responses=subject.responses[:60],  # of one session: some pictures once, some never
        trial_picture=subject.trial_picture[:60],
        trial_session=subject.trial_session[:60],
        repeats=subject.repeats[:60],
    )
    for before in (subject, some):
        after = average_repeats(before)
        assert list(after.trial_picture) == sorted(set(before.trial_picture))
        for row, picture in enumerate(after.trial_picture):
            trials = np.flatnonzero(before.trial_picture == picture)
            expected = sum(before.responses[t].astype(float) for t in trials) / len(trials)
            np.testing.assert_allclose(after.responses[row], expected, atol=1e-5)
            assert after.repeats[row] == len(trials)
        assert after.identity != before.identity
    read = load_subject("sim01", tree, average=True)
    np.testing.assert_array_equal(read.responses, average_repeats(subject).responses)


def test_ncsnr_is_the_files(subject, tree):
    files = {h: values(tree.ncsnr("sim01", h)) for h in HEMIS}
    for vertex, got in zip(subject.vertices, subject.ncsnr, strict=True):
        hemi, at = hemi_of(subject, vertex)
        assert got == files[hemi][at]


# Anatomy


@pytest.mark.parametrize("name", ["sim01", "sim01-tiny"])
def test_a_subject_keeps_its_name(subject, tree, name):
    found = subject if name == "sim01-tiny" else load_subject(name, tree)
    assert found.name == name and found.simulated


def test_vertices_are_nsdgeneral_lh_then_rh_less_those_left_out(subject, tree):
    general = [
        hemi * 642 + at
        for hemi in (0, 1)
        for at, label in enumerate(values(tree.group_label(HEMIS[hemi], "nsdgeneral")))
        if label == 1
    ]
    assert subject.dropped == 1 and len(subject.vertices) == len(general) - 1
    assert [v for v in general if v in subject.vertices] == subject.vertices.tolist()
    (left_out,) = set(general) - set(subject.vertices.tolist())
    hemi, at = hemi_of(subject, left_out)
    assert np.isnan(values(tree.betas("sim01", hemi, 1))[at]).all()


def test_rois_are_native_labels_through_the_native_transform(subject, tree):
    expected = {}
    for family, hemi in itertools.product(FAMILIES, HEMIS):
        native = values(tree.native_label("sim01", hemi, family)).ravel()
        assert len(native) != 642  # a native surface has its own size
        source = values(tree.to_fsaverage("sim01", hemi)).ravel()
        table = tree.native_label("sim01", hemi, family).parent / f"{family}.mgz.ctab"
        for line in table.read_text().splitlines()[1:]:
            number, name = line.split()
            for column, vertex in enumerate(subject.vertices):
                of, at = hemi_of(subject, vertex)
                if of == hemi and native[int(source[at]) - 1] == int(number):
                    expected.setdefault(name, set()).add(column)
    for area, parts in AREAS.items():
        if union := set().union(*(expected.get(part, set()) for part in parts)):
            expected[area] = union
    assert {k: set(np.flatnonzero(mask)) for k, mask in subject.rois.items()} == expected
    assert {"V1", "V2", "V3", "EBA", "PPA"} <= set(expected)


@pytest.mark.parametrize("space", ["inflated", "sphere"])
@pytest.mark.parametrize("n_surface", [642, 10242])
def test_hemispheres_lie_apart_and_are_only_moved_along_x(space, n_surface):
    both = surface_coordinates(n_surface, space)
    left, right = both[:n_surface], both[n_surface:]
    width = np.ptp(left[:, 0])
    assert right[:, 0].min() - left[:, 0].max() == pytest.approx(width / 2)
    make = getattr(surface, space)
    np.testing.assert_array_equal(left, make("lh", n_surface)[0])
    moved = right - make("rh", n_surface)[0]
    np.testing.assert_allclose(moved, [[moved[0, 0], 0, 0]] * n_surface, atol=1e-9)


@pytest.mark.parametrize("space", ["inflated", "sphere"])
def test_a_subjects_coordinates_are_those_of_its_vertices(tree, space):
    subject = load_subject("sim01", tree, space=space)
    np.testing.assert_array_equal(
        subject.coordinates, surface_coordinates(642, space)[subject.vertices]
    )
    left = subject.vertices < 642
    assert subject.coordinates[left, 0].max() < subject.coordinates[~left, 0].min()


def test_an_unknown_roi_names_those_there_are(subject):
    with pytest.raises(InputError, match=r"roi 'V9': sim01-tiny has V1v, .*PPA"):
        subject.roi("V9")
    np.testing.assert_array_equal(subject.roi("V1"), subject.roi("V1v") | subject.roi("V1d"))


# Further ROIs, regions and meshes


def add_family(tree, path_of, names, seed=0):
    """Write a label family of both hemispheres; the labels by hemisphere."""
    rng, made = np.random.default_rng(seed), {}
    for hemi in HEMIS:
        n = len(values(tree.native_label("sim01", hemi, "floc-faces")))
        n = n if "sim01" in str(path_of(hemi)) else 642
        made[hemi] = rng.integers(0, len(names), n)
        mgh.write_labels(path_of(hemi), made[hemi], names)
    return made


@pytest.mark.parametrize("family", ["streams", "Kastner2015", "HCP_MMP1"])
def test_families_of_fsaverage_are_read_as_they_lie(tree_copy, family):
    names = {0: "Unknown", 1: "V1v", 2: "ventral"}
    labels = add_family(tree_copy, lambda h: tree_copy.group_label(h, family), names)
    subject = load_subject("sim01", tree_copy)
    own = load_subject("sim01", tree_copy).rois["V1v"]
    expected = np.concatenate([labels[h] for h in HEMIS])[subject.vertices]
    for value in (1, 2):
        np.testing.assert_array_equal(subject.rois[f"{family}/{names[value]}"], expected == value)
    np.testing.assert_array_equal(subject.rois["V1v"], own)  # not mixed with the family's V1v


def test_native_eccentricity_goes_through_the_transform(tree_copy):
    names = {0: "Unknown", 1: "ecc0pt5", 2: "ecc1"}
    labels = add_family(
        tree_copy, lambda h: tree_copy.native_label("sim01", h, "prf-eccrois"), names
    )
    subject = load_subject("sim01", tree_copy)
    for row, vertex in enumerate(subject.vertices):
        hemi, at = hemi_of(subject, vertex)
        source = int(values(tree_copy.to_fsaverage("sim01", hemi))[at, 0]) - 1
        assert subject.rois["prf-eccrois/ecc1"][row] == (labels[hemi][source] == 2)


def test_a_region_is_the_union_of_rois_also_beyond_nsdgeneral(tree_copy, subject):
    names = {0: "Unknown", 1: "parietal"}
    labels = add_family(tree_copy, lambda h: tree_copy.group_label(h, "streams"), names)
    some = load_subject("sim01", tree_copy, region=("V1", "FFA"))
    whole = load_subject("sim01", tree_copy)
    inside = whole.rois["V1"] | whole.rois["FFA"]
    assert set(whole.vertices[inside]) == set(some.vertices) & set(whole.vertices)
    np.testing.assert_array_equal(
        some.responses[:, np.isin(some.vertices, whole.vertices)],
        whole.responses[:, np.isin(whole.vertices, some.vertices)],
    )
    parietal = np.flatnonzero(np.concatenate([labels[h] for h in HEMIS]) == 1)
    betas = np.concatenate([values(tree_copy.betas("sim01", h, 1)) for h in HEMIS])
    varying = parietal[betas[parietal].std(1) > 0]  # outside visual cortex betas are 0
    assert set(load_subject("sim01", tree_copy, region="streams/parietal").vertices) == set(varying)


@pytest.mark.parametrize("region", ["V9", ("V1", "nowhere"), ()])
def test_an_unknown_region_names_those_there_are(tree, region):
    with pytest.raises(InputError, match=r"region=.*expected 'nsdgeneral' or names among .*V1v"):
        load_subject("sim01", tree, region=region)


def nested(tree, n_file):
    """The tree again on a larger mesh, whose first vertices are the smaller one's."""
    rng = np.random.default_rng(0)
    for hemi in HEMIS:
        for session in (1, 2):
            path = tree.betas("sim01", hemi, session)
            betas = values(path).astype(np.float32)
            more = rng.normal(size=(n_file - 642, betas.shape[1])).astype(np.float32)
            mgh.write(path, np.concatenate([betas, more]))
        ratio = values(tree.ncsnr("sim01", hemi)).ravel().astype(np.float32)
        mgh.write(tree.ncsnr("sim01", hemi), np.r_[ratio, np.ones(n_file - 642, np.float32)])
        source = values(tree.to_fsaverage("sim01", hemi)).ravel().astype(np.float32)
        mgh.write(tree.to_fsaverage("sim01", hemi), np.resize(source, n_file))
        mask = values(tree.group_label(hemi, "nsdgeneral")).ravel().astype(int)
        names = {0: "Unknown", 1: "nsdgeneral"}
        mgh.write_labels(
            tree.group_label(hemi, "nsdgeneral"), np.r_[mask, np.ones(n_file - 642, int)], names
        )


def test_a_nested_mesh_is_the_first_vertices_of_the_files(tree_copy, subject):
    nested(tree_copy, 2562)
    whole = load_subject("sim01", tree_copy)
    assert whole.n_surface == 2562 and len(whole.vertices) == len(subject.vertices) + 2 * 1920
    small = load_subject("sim01", tree_copy, n_surface=642)
    np.testing.assert_array_equal(small.vertices, subject.vertices)
    np.testing.assert_array_equal(small.responses, subject.responses)
    np.testing.assert_allclose(small.coordinates, subject.coordinates)
    for roi, mask in subject.rois.items():
        np.testing.assert_array_equal(small.rois[roi], mask)


@pytest.mark.parametrize("n_surface", [641, 2562])
def test_a_mesh_that_is_not_nested_is_refused(tree, n_surface):
    with pytest.raises(InputError, match=f"n_surface={n_surface}: expected one of 642, nested in"):
        load_subject("sim01", tree, n_surface=n_surface)


# Identity


def test_identity_follows_what_was_read(subject, tree_copy, tmp_path, monkeypatch):
    same = load_subject("sim01", tree_copy)
    assert same.identity == subject.identity
    assert load_subject("sim01", tree_copy, space="sphere").identity != subject.identity

    def nudge(betas):
        betas[np.flatnonzero(betas.any(1))[0], 0] += 0.01

    change_betas(tree_copy, nudge)
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "another"))
    assert load_subject("sim01", tree_copy).identity != subject.identity


def test_what_is_prepared_outlives_its_session_files_and_their_folder(
    subject, tree_copy, tmp_path, monkeypatch
):
    load_subject("sim01", tree_copy)
    tree_copy.betas("sim01", "lh", 1).touch()
    for hemi in HEMIS:
        tree_copy.betas("sim01", hemi, 2).unlink()
    before = sorted(p.name for p in (tmp_path / "data/prepared").iterdir())
    (tmp_path / "moved").mkdir()
    (tmp_path / "data").rename(tmp_path / "moved/data")
    tree_copy.root.rename(tmp_path / "moved/nsd")
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "moved/data"))
    # a simulated tree is known by the folder it lies in, as simulated/tiny/nsd
    moved = NSDTree((tmp_path / "moved").rename(tmp_path / tmp_path.name) / "nsd")
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / tmp_path.name / "data"))
    again = load_subject("sim01", moved)
    assert again.identity == subject.identity
    np.testing.assert_array_equal(again.responses, subject.responses)
    assert sorted(p.name for p in (moved.root.parent / "data/prepared").iterdir()) == before


def test_another_simulation_under_the_same_name_is_prepared_beside(tree_copy):
    first = load_subject("sim01", tree_copy)
    change_betas(tree_copy, lambda betas: betas + np.eye(*betas.shape, dtype=np.float32))
    path = tree_copy.ncsnr("sim01", "lh")  # computed from the betas
    mgh.write(path, values(path).ravel().astype(np.float32) * 0.9)
    assert load_subject("sim01", tree_copy).identity != first.identity


# Vertices without data


def visual(tree, hemi="lh"):
    return np.flatnonzero(values(tree.group_label(hemi, "nsdgeneral")).ravel() == 1)


@pytest.mark.parametrize("fill", [np.nan, 0.0, 2.5, np.inf])
@pytest.mark.parametrize("session", [1, 2])
def test_vertices_without_data_in_one_session_are_left_out_and_counted(
    subject, tree_copy, fill, session
):
    gone = visual(tree_copy)[[1, 4, 9]]
    gone = gone[np.isin(gone, subject.vertices)]  # not the one that is left out already

    def empty(betas):
        betas[gone] = fill

    change_betas(tree_copy, empty, session=session)
    fewer = load_subject("sim01", tree_copy)
    assert fewer.dropped == subject.dropped + len(gone)
    assert set(subject.vertices) - set(fewer.vertices) == set(gone)
    assert np.isfinite(fewer.responses).all()
    kept = np.isin(subject.vertices, fewer.vertices)
    np.testing.assert_array_equal(fewer.responses, subject.responses[:, kept])
    np.testing.assert_array_equal(fewer.coordinates, subject.coordinates[kept])
    np.testing.assert_array_equal(fewer.ncsnr, subject.ncsnr[kept])
    for name, mask in fewer.rois.items():
        np.testing.assert_array_equal(mask, subject.rois[name][kept])


def test_one_nan_among_a_vertexs_betas_leaves_it_out(subject, tree_copy):
    at = int(subject.vertices[0])

    def damage(betas):
        betas[at, 7] = np.nan

    change_betas(tree_copy, damage)
    fewer = load_subject("sim01", tree_copy)
    assert set(subject.vertices) - set(fewer.vertices) == {at}


def test_a_subject_of_nan_only_is_refused(tree_copy):
    for hemi in HEMIS:
        change_betas(tree_copy, lambda betas: np.full_like(betas, np.nan), hemi)
    with pytest.raises(InputError, match=r"lh.betas_session01.mgh .*no data in 60 of 60 trials"):
        load_subject("sim01", tree_copy)


def test_a_trial_without_data_is_named(tree_copy):
    def damage(betas):
        betas[:, 7] = np.nan

    for hemi in HEMIS:
        change_betas(tree_copy, damage, hemi)
    message = r"betas_session01.mgh.*no data in 1 of 60 trials \(from 0: 7\).* Leave these trials"
    with pytest.raises(InputError, match=message):
        load_subject("sim01", tree_copy)


# Damage: what is done to the tree, and what the message says


def missing(path_of):
    return lambda tree: path_of(tree).unlink()


def cut(path_of, by=100):
    def damage(tree):
        raw = path_of(tree).read_bytes()
        path_of(tree).write_bytes(raw[:-by])

    return damage


def garbage(path_of):
    return lambda tree: path_of(tree).write_bytes(b"<html>404 not found</html>" * 99)


def betas(tree):
    return tree.betas("sim01", "rh", 2)


def general(tree):
    return tree.group_label("rh", "nsdgeneral")


def transform(tree):
    return tree.to_fsaverage("sim01", "rh")


def faces(tree):
    return tree.native_label("sim01", "rh", "floc-faces")


def ncsnr(tree):
    return tree.ncsnr("sim01", "rh")


def design(tree):
    return tree.design


def stimuli(tree):
    return tree.stimuli


def a_mask(n_vertices):
    def damage(tree):
        mgh.write(general(tree), np.ones(n_vertices, np.float32))

    return damage


def a_transform(value):
    def damage(tree):
        source = values(transform(tree)).ravel().astype(np.float32)
        source[3] = value
        mgh.write(transform(tree), source)

    return damage


PICTURES = np.zeros((100, 8, 8, 3), np.uint8)
ORDERING = np.repeat(np.arange(40), 3)[None] + 1
DAMAGE = {
    "no session": (missing(betas), "rh.betas_session02.mgh: not found; expected betas of 60"),
    "session cut": (cut(betas), "rh.betas_session02.mgh: Expected .* bytes"),
    "session garbled": (garbage(betas), "rh.betas_session02.mgh: .*expected betas of 60 trials"),
    "trial too few": (
        lambda tree: change_betas(tree, lambda b: b[:, :-1], "rh", 2),
        "rh.betas_session02.mgh: 642 vertices x 59 trials.*642 vertices x 60",
    ),
    "betas of one vertex less": (
        lambda tree: change_betas(tree, lambda b: b[:-1], "rh", 2),
        "rh.betas_session02.mgh: 641 vertices x 60",
    ),
    "no ncsnr": (missing(ncsnr), "rh.ncsnr.mgh: not found"),
    "ncsnr below 0": (
        lambda tree: mgh.write(tree.ncsnr("sim01", "lh"), np.full(642, -0.5, np.float32)),
        "lh.ncsnr.mgh: -0.5 among its values; expected ncsnr",
    ),
    "ncsnr of inf": (
        lambda tree: mgh.write(tree.ncsnr("sim01", "rh"), np.full(642, np.inf, np.float32)),
        "rh.ncsnr.mgh: inf among its values",
    ),
    "ncsnr in per cent": (
        lambda tree: mgh.write(tree.ncsnr("sim01", "rh"), np.full(642, 40, np.float32)),
        "rh.ncsnr.mgh: 40 among its values; .* 0 to 10, .*per cent",
    ),
    "ncsnr of another mesh": (
        lambda tree: mgh.write(ncsnr(tree), np.ones(100, np.float32)),
        "rh.ncsnr.mgh: 100 vertices x 1 .*expected ncsnr per vertex",
    ),
    "no mask": (missing(general), "rh.nsdgeneral.mgz: not found"),
    "mask of another mesh": (a_mask(2562), "rh.nsdgeneral.mgz: 2562 vertices.* of 642"),
    "mask without names": (
        lambda tree: (general(tree).parent / "nsdgeneral.mgz.ctab").unlink(),
        "nsdgeneral.mgz.ctab: not found",
    ),
    "no labels": (missing(faces), "rh.floc-faces.mgz: not found; expected a label per vertex"),
    "labels cut": (cut(faces, 20), "rh.floc-faces.mgz: "),
    "no transform": (missing(transform), "rh.white-to-fsaverage.mgz: not found; expected the nat"),
    "transform from 0": (a_transform(0), r"rh.white-to-fsaverage.mgz: points to .*vertices 0\.\."),
    "transform beyond": (a_transform(9999), "rh.white-to-fsaverage.mgz: points to .*9999, but"),
    "transform of NaN": (a_transform(np.nan), "rh.white-to-fsaverage.mgz: nan among"),
    "no pictures": (missing(stimuli), "nsd_stimuli.hdf5: not found; expected NSD's pictures"),
    "pictures garbled": (garbage(stimuli), "nsd_stimuli.hdf5: .*expected HDF5 with imgBrick"),
    "pictures by another name": (
        lambda tree: rewrite_stimuli(tree, images=PICTURES),
        "nsd_stimuli.hdf5: .*expected HDF5 with imgBrick",
    ),
    "too few pictures": (
        lambda tree: rewrite_stimuli(tree, imgBrick=PICTURES[:20]),
        r"nsd_stimuli.hdf5: imgBrick \(20, 8, 8, 3\) uint8; expected .* more than \d+ pictures",
    ),
    "pictures as float": (
        lambda tree: rewrite_stimuli(tree, imgBrick=PICTURES.astype(np.float32)),
        r"nsd_stimuli.hdf5: imgBrick \(100, 8, 8, 3\) float32; expected uint8",
    ),
    "pictures as MATLAB sees them": (
        lambda tree: rewrite_stimuli(tree, imgBrick=PICTURES.T),
        r"nsd_stimuli.hdf5: imgBrick \(3, 8, 8, 100\)",
    ),
    "no design": (missing(design), "nsd_expdesign.mat: not found; expected NSD's experimental"),
    "design cut": (cut(design, 2000), "nsd_expdesign.mat: .*MATLAB 5"),
    "design empty": (lambda tree: tree.design.write_bytes(b""), "nsd_expdesign.mat: "),
    "design of HDF5": (
        lambda tree: tree.design.write_bytes(tree.stimuli.read_bytes()),
        "nsd_expdesign.mat: .*MATLAB 5",
    ),
    "design without subjectim": (
        lambda tree: rewrite_design(tree, subjectim=None),
        "nsd_expdesign.mat: 'subjectim'; expected a MATLAB 5 file with masterordering",
    ),
    "design of no trials": (
        lambda tree: rewrite_design(tree, masterordering=np.zeros((1, 0), np.uint16)),
        r"nsd_expdesign.mat: .*masterordering \(0,\)",
    ),
    "design counting from 0": (
        lambda tree: rewrite_design(tree, masterordering=ORDERING - 1),
        "nsd_expdesign.mat: .*masterordering .*0",
    ),
    "design beyond subjectim": (
        lambda tree: rewrite_design(tree, masterordering=ORDERING + 1),
        r"nsd_expdesign.mat: .*masterordering \(120,\).*41",
    ),
    "design of broken sessions": (
        lambda tree: rewrite_design(tree, stimpattern=np.ones((7, 2, 75), np.uint8)),
        "nsd_expdesign.mat: .* 7 sessions",
    ),
    "a picture twice in a row": (
        lambda tree: rewrite_design(tree, subjectim=np.full((3, 40), 7)),
        "nsd_expdesign.mat: .*sim01 needs row 1 of subjectim, different pictures",
    ),
    "shared pictures of another design": (
        lambda tree: rewrite_design(tree, sharedix=np.arange(1, 11)[None]),
        "nsd_expdesign.mat: .*sharedix first",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_names_the_file_and_what_to_do(tree_copy, kind):
    damage, message = DAMAGE[kind]
    damage(tree_copy)
    with pytest.raises(InputError, match=message) as caught:
        load_subject("sim01", tree_copy)
    text = str(caught.value)
    assert str(tree_copy.root) in text and "\n" not in text
    assert isinstance(caught.value, MissingFile) == ("not found" in message)


@pytest.mark.parametrize("name", ["stimuli", "design"])
def test_an_error_of_the_operating_system_is_not_taken_for_damage(tree_copy, name):
    path = getattr(tree_copy, name)
    path.unlink()
    path.mkdir()  # IsADirectoryError: an OSError for every user, root too
    with pytest.raises(OSError, match=path.name) as caught:
        load_subject("sim01", tree_copy)
    assert not isinstance(caught.value, InputError)


def test_a_locked_stimulus_file_says_how_to_read_it_without_a_lock(tree_copy):
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tree_copy.stimuli)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        writer.stdout.readline()
        with pytest.raises(InputError, match=r"hdf5: locked .*HDF5_USE_FILE_LOCKING=FALSE"):
            load_subject("sim01", tree_copy)
        writer.stdin.close()


def test_a_subject_without_a_row_in_the_design_is_refused(tree_copy):
    rewrite_design(tree_copy, subjectim=scipy.io.loadmat(tree_copy.design)["subjectim"][:1])
    with pytest.raises(InputError, match=r"nsd_expdesign.mat: .*sim03 needs row 3 of subjectim"):
        load_subject("sim03", tree_copy)


def test_a_missing_tree_says_what_it_should_be(tmp_path):
    with pytest.raises(MissingFile, match=r"gone: not found; expected the NSD tree of subj01. See"):
        load_subject("subj01", NSDTree(tmp_path / "gone"))


@pytest.mark.parametrize("name", ["subj09", "subj1", "sim04", "sim01-tiny", "", "../sim01"])
def test_an_unknown_subject_names_those_there_are(tree, name):
    with pytest.raises(InputError, match=re.escape(f"subject {name!r}") + ".*subj01.*sim03"):
        load_subject(name, tree)
