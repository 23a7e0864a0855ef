"""A simulated subject is NSD's tree, the same bytes from the same seed, and what its truth says."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from analysis import mgh, responses, simulate, truth
from analysis.files import HEMIS, InputError, NSDTree
from analysis.nsd import read_subject
from analysis.study import get_subject
from analysis.subject import average_repeats
from analysis.versions import VERSIONS
from tests.simulated import digests, of


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


def test_a_seed_gives_the_same_bytes_in_every_file(data_folder, second):
    here = of(digests(data_folder), "", without="sim02")  # which another test may have made there
    assert len(here) == 31
    assert here == second.first


def test_numbers_are_those_of_the_version(tree, whole_truth):
    """These numbers changed: raise its version, and put the new ones here."""
    truth_means = {field: np.abs(getattr(whole_truth, field)).mean() for field in TRUTH_MEANS}
    assert truth_means == pytest.approx(TRUTH_MEANS, rel=1e-4)
    with h5py.File(tree.stimuli) as f:
        assert f["imgBrick"][:].mean() == pytest.approx(120.7476, abs=0.02)
    left = whole_truth.vertices[whole_truth.vertices < 642]
    betas = mgh.read_series(tree.betas("sim01", "lh", 1), left, 642, 60)
    assert np.nanmean(betas) == pytest.approx(0.58558, rel=1e-3)
    assert np.nanstd(betas) == pytest.approx(2.62731, rel=1e-3)
    assert VERSIONS["simulated"] == 1


TRUTH_MEANS = {"space": 0.144129, "field": 0.189881, "channel": 0.0711295, "level": 0.496071}


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


BETAS = "nsd/nsddata_betas/ppdata/sim01/fsaverage/betas_fithrf_GLMdenoise_RR/lh.betas_session02.mgh"
STIMULI = "nsd/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"


@pytest.mark.parametrize("file", [BETAS, STIMULI, "truth/sim01.safetensors"])
@pytest.mark.parametrize("cut", [False, True])
def test_what_was_deleted_or_cut_is_made_again_the_same(second, monkeypatch, file, cut):
    monkeypatch.setenv("BRAINMAPS_DATA", str(second.folder))
    path = second.folder / "simulated/tiny" / file
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
# other in one folder, one that goes on to the end, and then three at once in another folder.
STOPPED = """
import os, pathlib, signal, sys
from analysis.simulate import is_complete, simulate

def child(folder, name="sim01-tiny", kill_at=None):
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
    os._exit(10 + simulate(name))

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

root, moments = sys.argv[1], sys.argv[2:]
folder = os.environ["BRAINMAPS_DATA"] = f"{root}/one"
for moment in moments:
    print(status(child(folder, kill_at=int(moment))), is_complete("sim01-tiny"))
print(status(child(folder)), is_complete("sim01-tiny"))
both = [child(f"{root}/both", f"{name}-tiny") for name in ("sim01", "sim01", "sim02")]
print(*sorted(status(pid) for pid in both))
"""


def test_a_killed_run_is_never_taken_as_whole_and_the_next_one_ends_it(second, tmp_path):
    """With no file yet; while pictures are moved to their places, before their record, amid the
    betas, while a subject's files are moved, and before the last file, its record.

    Pictures take 7 renames in the scratch folder and 6 from there, a subject 30 and 25.
    """
    moments = ["1", "9", "13", "18", "40", "55"]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, tmp_path, *moments],
        capture_output=True,
        text=True,
        timeout=1200,  # of a busy machine
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    assert lines[:-1] == ["-9 False"] * len(moments) + ["11 True"], done.stderr
    assert lines[-1] == "10 11 11"  # of two who want one subject, one wrote and one waited
    assert digests(tmp_path / "one") == second.first
    assert digests(tmp_path / "both") == second.both


def test_a_name_is_looked_up_without_teacher_and_data(data_folder, monkeypatch):
    """Twenty times within a second: a teacher takes longer to build, data longer to hash."""
    for module in (simulate, responses):
        for name in ("load_backbone", "file_digest", "load_file"):
            monkeypatch.setattr(module, name, None, raising=False)
    start = time.perf_counter()
    assert all(simulate.is_complete("sim01-tiny") for _ in range(20))
    assert time.perf_counter() - start < 1


def test_a_data_folder_that_was_moved_is_whole(data_folder, tmp_path, monkeypatch):
    shutil.copytree(data_folder / "simulated/tiny", tmp_path / "elsewhere/simulated/tiny")
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "elsewhere"))
    assert simulate.is_complete("sim01-tiny") and simulate.simulate("sim01-tiny") is False


def test_other_settings_are_another_subject(data_folder, monkeypatch):
    other = dataclasses.replace(truth.SIMULATED_SUBJECTS["sim01"], disc=9.5)
    monkeypatch.setitem(truth.SIMULATED_SUBJECTS, "sim01", other)
    assert not simulate.is_complete("sim01-tiny")
    monkeypatch.undo()
    monkeypatch.setitem(VERSIONS, "simulated", 0)
    assert not simulate.is_complete("sim01-tiny")


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
        assert name.parameters.standardised == ("-raw" not in suffix)
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


def test_surface_files_have_nsds_sizes(tree):
    for hemi in HEMIS:
        for session in (1, 2):
            mgh.read_series(tree.betas("sim01", hemi, session), np.arange(642), 642, 60)
        assert mgh.read(tree.ncsnr("sim01", hemi), "ncsnr").shape == (642,)
        assert mgh.read(tree.to_fsaverage("sim01", hemi), "indices").min() >= 1
    assert not tree.betas("sim01", "lh", 3).exists()


def test_nothing_lies_outside_visual_cortex(tree, whole_truth):
    for i, hemi in enumerate(HEMIS):
        outside = np.setdiff1d(np.arange(642), whole_truth.vertices - 642 * i)
        assert not mgh.read_series(tree.betas("sim01", hemi, 1), outside, 642, 60).any()


def test_ncsnr_has_the_median_it_was_drawn_with(subject, variants):
    assert np.median(subject.ncsnr) == pytest.approx(0.46 * np.sqrt(10), rel=0.1)
    assert np.median(variants.nsd.ncsnr) == pytest.approx(0.46, abs=0.08)


def test_a_simulated_subject_is_read_as_nsds_are(second):
    tree = NSDTree(second.folder / "simulated/tiny/nsd")
    one, two = (read_subject(name, tree)[0] for name in ("sim01", "sim02"))
    assert one.simulated and one.identity != two.identity
    shared = set(one.picture_ids[one.shared])
    assert shared == set(two.picture_ids[two.shared]) == set(one.picture_ids) & set(two.picture_ids)
