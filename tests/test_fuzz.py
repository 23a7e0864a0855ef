"""Damaged headers end in errors of ours: no crash, no hang, no silently wrong array.

Each test damages a file's header at places and with values that hypothesis chooses, and reads.
Either the reader refuses, naming the file, or what it read is what it reads of the whole file.
"""

import gzip
import shutil
import warnings

import numpy as np
import PIL.Image
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from analysis import mgh, npy, own
from analysis.child import matlab_variables
from analysis.files import InputError, NSDTree, data_root
from analysis.nsd import VARIABLES, load_subject, read_design
from analysis.pictures import Held, open_brick, read_picture
from tests.damage import DAMAGES, damaged, fuzzed, outcome, same_subject

# Surface files


@pytest.fixture(scope="module")
def reference(data_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(data_folder))
        return load_subject("sim01", NSDTree(data_folder / "simulated/tiny/nsd"))


FILES = {
    "betas": lambda tree: tree.betas("sim01", "lh", 2),
    "ncsnr": lambda tree: tree.ncsnr("sim01", "rh"),
    "mask": lambda tree: tree.group_label("lh", "nsdgeneral"),
    "labels": lambda tree: tree.native_label("sim01", "rh", "floc-faces"),
    "transform": lambda tree: tree.to_fsaverage("sim01", "lh"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_surface_files_damaged_header_is_refused_or_harmless(
    tree_copy, reference, kind, monkeypatch, tmp_path
):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    path = FILES[kind](tree_copy)
    packed = path.suffix == ".mgz"
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    refused = 0

    @fuzzed(60)
    @given(DAMAGES)
    def check(damages):
        nonlocal refused
        broken = damaged(raw, damages, 40)  # what nibabel reads of the header: dims, type, …
        path.write_bytes(gzip.compress(broken, 1) if packed else broken)
        shutil.rmtree(tmp_path / "prepared", ignore_errors=True)
        found = outcome(lambda: load_subject("sim01", tree_copy), path)
        refused += found is None
        assert found is None or same_subject(found, reference)

    check()
    assert refused > 20


@fuzzed(150)
@given(DAMAGES)
def test_a_damaged_gzip_is_refused_or_harmless(tmp_path, damages):
    path = tmp_path / "lh.labels.mgz"
    values = np.arange(642, dtype=np.float32)
    mgh.write(path, values)
    path.write_bytes(damaged(path.read_bytes(), damages, 10**6))
    found = outcome(lambda: mgh.read(path, "labels"), path)
    assert found is None or np.array_equal(found, values)


@fuzzed(100)
@given(st.binary(max_size=80))
def test_any_bytes_as_color_table_end_in_names_or_an_error(tmp_path, raw):
    path = tmp_path / "faces.mgz.ctab"
    path.write_bytes(raw)
    names = outcome(lambda: mgh.read_names(path), path)
    assert names is None or all(isinstance(k, int) and v.split() == [v] for k, v in names.items())


# MATLAB and HDF5, whose libraries can crash


@fuzzed(25)
@given(DAMAGES)
def test_a_damaged_design_is_refused_or_harmless(tree_copy, damages):
    whole = read_design(tree_copy, "sim01")
    raw = tree_copy.design.read_bytes()
    try:
        tree_copy.design.write_bytes(damaged(raw, damages, len(raw)))
        found = outcome(lambda: read_design(tree_copy, "sim01"), tree_copy.design)
    finally:
        tree_copy.design.write_bytes(raw)
    if found is not None:
        assert found.trials_per_session == whole.trials_per_session
        assert len(set(found.picture_ids)) == 40 and found.shared.sum() == 10
        assert (np.bincount(found.trial_picture) == 3).all()


def test_a_reader_that_crashes_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, dict.fromkeys(VARIABLES, np.ones((2, 2), np.uint8)))
    crash = "    import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n"
    monkeypatch.setattr("analysis.child.MATLAB", crash)
    with pytest.raises(InputError, match=r"a\.mat: its reader crashed.*expected a file\. Mend"):
        matlab_variables(path, VARIABLES, "a file", "Mend it.")


def test_a_reader_that_hangs_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "b.mat"
    path.write_bytes(b"")
    monkeypatch.setattr("analysis.child.MATLAB", "    import time; time.sleep(600)\n")
    monkeypatch.setattr("analysis.child.SECONDS", 1)
    with pytest.raises(InputError, match=r"b\.mat: not read in 1 s; expected a file"):
        matlab_variables(path, VARIABLES, "a file", "Mend it.")


@fuzzed(25)
@given(DAMAGES)
def test_a_damaged_stimulus_files_header_is_refused_or_harmless(tree_copy, damages):
    rows = np.arange(100)
    raw = tree_copy.stimuli.read_bytes()
    whole = open_brick(tree_copy.stimuli, rows, "Mend it.").read(rows)
    try:
        tree_copy.stimuli.write_bytes(damaged(raw, damages, 2048))
        brick = outcome(lambda: open_brick(tree_copy.stimuli, rows, "Mend it."), tree_copy.stimuli)
        assert brick is None or np.array_equal(brick.read(rows), whole)
    finally:
        tree_copy.stimuli.write_bytes(raw)


# NumPy, pictures


@fuzzed(200)
@given(DAMAGES)
def test_a_damaged_npy_header_is_refused_or_harmless(tmp_path, damages):
    path = tmp_path / "responses.npy"
    values = np.arange(60, dtype=np.float32).reshape(12, 5)
    np.save(path, values)
    path.write_bytes(damaged(path.read_bytes(), damages, 128))
    found = outcome(lambda: npy.read_array(path, "responses", [12, 5], "f"), path)
    assert found is None or np.array_equal(np.array(found), values)


@fuzzed(200)
@given(DAMAGES)
def test_a_damaged_table_of_names_runs_nothing(tmp_path, damages):
    path = tmp_path / "mapping_floc-faces.npy"
    names = {0: "Unknown", 1: "OFA", 2: "FFA-1"}
    np.save(path, names, allow_pickle=True)
    path.write_bytes(damaged(path.read_bytes(), damages, 10**6))
    found = outcome(lambda: npy.read_names(path), path)
    assert found is None or all(isinstance(k, int) and isinstance(v, str) for k, v in found.items())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_damaged_picture_is_refused_or_a_picture(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    raw = path.read_bytes()

    @fuzzed(150)
    @given(DAMAGES)
    def check(damages):
        path.write_bytes(damaged(raw, damages, 200))
        found = outcome(lambda: read_picture(path), path)
        assert found is None or (found.ndim == 3 and found.shape[2] == 3 and found.dtype == "u1")

    check()


# Our own arrays


@pytest.mark.parametrize("name", ["responses.npy", "levels.npy", "record.json"])
def test_damaged_prepared_responses_are_refused_or_harmless(
    tree_copy, reference, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    load_subject("sim01", tree_copy)
    (path,) = (data_root() / "prepared").glob(f"*/{name}")
    raw = path.read_bytes()

    @fuzzed(60)
    @given(DAMAGES)
    def check(damages):
        path.parent.mkdir(exist_ok=True)  # a record of other files has the folder made anew
        path.write_bytes(damaged(raw, damages, 128 if name.endswith("npy") else 10**6))
        found = outcome(lambda: load_subject("sim01", tree_copy), path)
        assert found is None or same_subject(found, reference)

    check()


# Subjects of other layouts, any content


@fuzzed(40)
@given(
    trials=st.integers(0, 30),
    vertices=st.integers(0, 4),
    shown=st.lists(st.integers(-1, 6), min_size=1, max_size=30),
    bad=st.sampled_from([None, np.nan, np.inf]),
)
def test_any_arrays_make_a_subject_or_an_error(trials, vertices, shown, bad):
    responses = np.random.default_rng(0).normal(size=(trials, vertices)).astype(np.float32)
    if bad is not None and responses.size:
        responses[0, 0] = bad
    pictures = Held(np.zeros((6, 8, 8, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = own.subject_from_arrays(
                "own-x", pictures, responses, np.resize(shown, trials), np.zeros((vertices, 3)), {}
            )
        except InputError:
            return
    assert np.isfinite(found.responses).all() and len(found.responses) == trials
    np.testing.assert_allclose(found.responses.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.responses.std(0), 1, atol=1e-4)


def test_a_tree_of_empty_files_is_an_error_each(tree_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    files = [p for p in tree_copy.root.rglob("*") if p.is_file()]
    needed = [p for p in files if "sim01" in str(p) or "subj" not in str(p)]
    assert len(needed) > 20
    for path in needed:
        raw = path.read_bytes()
        path.write_bytes(b"")
        with pytest.raises(InputError) as caught:
            load_subject("sim01", tree_copy)
        assert path.name in str(caught.value)
        path.write_bytes(raw)
