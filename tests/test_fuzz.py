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
from hypothesis import given
from hypothesis import strategies as st

from analysis import mgh, own
from analysis.files import InputError, NSDTree, read_array
from analysis.nsd import read_subject
from analysis.pictures import ArrayPictures, read_picture
from tests.damage import DAMAGES, damaged, fuzzed, outcome, same_subject


def load_subject(name, tree):
    return read_subject(name, tree)[0]


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

    @fuzzed(20)
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
    assert refused > 5


@fuzzed(150)
@given(DAMAGES)
def test_a_damaged_gzip_is_refused_or_harmless(tmp_path, damages):
    path = tmp_path / "lh.labels.mgz"
    values = np.arange(642, dtype=np.float32)
    mgh.write(path, values)
    path.write_bytes(damaged(path.read_bytes(), damages, 10**6))
    found = outcome(lambda: mgh.read(path, "labels"), path)
    assert found is None or np.array_equal(found, values)


# NumPy and pictures


@fuzzed(200)
@given(DAMAGES)
def test_a_damaged_npy_header_is_refused_or_harmless(tmp_path, damages):
    path = tmp_path / "responses.npy"
    values = np.arange(60, dtype=np.float32).reshape(12, 5)
    np.save(path, values)
    path.write_bytes(damaged(path.read_bytes(), damages, 128))
    found = outcome(lambda: read_array(path, "responses", (12, 5), "f", "Mend it."), path)
    assert found is None or np.array_equal(np.array(found), values)


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
    pictures = ArrayPictures(np.zeros((6, 8, 8, 3), np.uint8))
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
