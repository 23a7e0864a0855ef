"""Files appear whole or not at all, whatever ends the writer, and messages say what to do."""

import errno
import os
import signal
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest

from analysis import files
from analysis.files import InputError, MissingFile, NSDTree, whole_file

# Writes half of a file by whole_file(), says so, and waits to be killed.
HALF = """
import pathlib, sys, time
from analysis.files import whole_file
with whole_file(pathlib.Path(sys.argv[1])) as scratch:
    scratch.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def start_half(path):
    """A process in the middle of writing `path`."""
    writer = subprocess.Popen([sys.executable, "-c", HALF, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    return writer


def end(writer, how):
    writer.send_signal(how)
    writer.wait(timeout=30)
    writer.stdout.close()


def test_a_file_is_there_only_after_the_block(tmp_path):
    path = tmp_path / "new/folder/a.json"
    with whole_file(path) as scratch:
        scratch.write_text("all")
        assert not path.exists()
        assert scratch.suffix == ".json" and scratch.parent == path.parent
    assert path.read_text() == "all"
    assert os.listdir(path.parent) == ["a.json"]


def test_the_mode_lets_colleagues_read(tmp_path):
    path = tmp_path / "a"
    with whole_file(path) as scratch:
        scratch.write_text("x")
        scratch.chmod(0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_what_was_there_before(tmp_path, before, error):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with pytest.raises(error), whole_file(path) as scratch:
        scratch.write_text("half")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("before", [None, "old"])
def test_a_killed_writer_leaves_what_was_there_before(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    end(start_half(path), signal.SIGKILL)
    assert (path.read_text() if path.exists() else None) == before
    stale = [p for p in tmp_path.iterdir() if p != path]
    assert len(stale) == 1 and stale[0].name.startswith(".a.")  # hidden, and no `*.txt`'s match
    with whole_file(path) as scratch:
        scratch.write_text("new")
    assert os.listdir(tmp_path) == ["a.txt"] and path.read_text() == "new"


def test_a_living_writer_keeps_its_scratch(tmp_path):
    path = tmp_path / "a.txt"
    writer = start_half(path)
    try:
        with whole_file(path) as scratch:
            scratch.write_text("of the second writer")
        left = sorted(p.read_text() for p in tmp_path.iterdir())
        assert left == ["half", "of the second writer"]
    finally:
        end(writer, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_message_with_what_to_do(tmp_path, code):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError) as caught, whole_file(path) as scratch:
        scratch.write_text("half")
        raise OSError(code, os.strerror(code))
    message = str(caught.value)
    assert str(path) in message and "disk is full" in message and "BRAINMAPS_DATA" in message
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_really_full_keeps_the_old_file(tmp_path):
    """In a mount namespace of its own, so that nothing stays mounted whatever happens."""
    code = """
import os, pathlib, sys
from analysis.files import InputError, whole_file
path = pathlib.Path(sys.argv[1]) / "a.bin"
with whole_file(path) as scratch:
    scratch.write_bytes(b"old")
try:
    with whole_file(path) as scratch:
        scratch.write_bytes(bytes(2**20))
except InputError as error:
    print(error)
print(os.listdir(path.parent), path.read_bytes())
"""
    script = 'mount -t tmpfs -o size=64k none "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, sys.executable, code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("no unshare(1) here: it is Linux's")
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip(f"no mount namespace may be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "disk is full" in done.stdout and "a.bin" in done.stdout
    assert done.stdout.endswith("['a.bin'] b'old'\n")


def test_too_little_space_is_found_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(InputError, match=r"0 MB free .* the test needs 3 MB.*BRAINMAPS_DATA"):
        files.require_space(tmp_path / "not/yet/there", 3_000_000, "the test")


def test_enough_space_passes(tmp_path):
    files.require_space(tmp_path / "not/yet/there", 1, "the test")


def test_a_missing_file_is_both_kinds_of_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.*expected a thing\. Make it\.") as caught:
        files.require(tmp_path / "gone", "a thing", "Make it.")
    assert isinstance(caught.value, MissingFile) and isinstance(caught.value, InputError)


def test_json_is_the_same_bytes_for_the_same_value(tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    files.write_json(a, {"x": [1, 2.5], "y": None})
    files.write_json(b, {"y": None, "x": [1, 2.5]})
    assert a.read_bytes() == b.read_bytes()
    assert files.read_json(a, "a thing", "Make it.") == {"x": [1, 2.5], "y": None}


@pytest.mark.parametrize("content", ["", '{"x": ', "\x00"])
def test_broken_json_names_the_file(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.json: not JSON .*Make it\."):
        files.read_json(path, "a thing", "Make it.")


def test_digests_are_those_of_sha256(tmp_path):
    assert files.digest({"b": 1, "a": [2]}) == files.digest({"a": [2], "b": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    path = tmp_path / "a"
    path.write_bytes(b"abc")  # the standard's own example
    assert files.file_digest(path).startswith("ba7816bf8f01cfea414140de5dae2223")
    # of the bytes {"a": 1}, by sha256sum(1): the same in another process, on another day
    assert files.digest({"a": 1}).startswith("f9d86028c6e0d64e225186f96acb6933")


def test_the_data_folder_is_the_named_one(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    assert files.data_root() == tmp_path
    assert files.features_root() == tmp_path / "features" and files.fits_root() == tmp_path / "fits"
    monkeypatch.setenv("BRAINMAPS_DATA", "")
    assert files.data_root() == files.ROOT / "data"
    monkeypatch.setattr(files, "ROOT", tmp_path / "site-packages")  # no checkout
    monkeypatch.chdir(tmp_path)
    assert files.data_root() == tmp_path / "data"


def test_paths_are_those_of_nsd(tmp_path):
    """As in NSD's data manual."""
    tree = NSDTree(tmp_path)
    betas = "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
    expected = {
        tree.design: "nsddata/experiments/nsd/nsd_expdesign.mat",
        tree.stimuli: "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        tree.betas("subj01", "lh", 7): f"{betas}/lh.betas_session07.mgh",
        tree.betas("subj01", "rh", 40): f"{betas}/rh.betas_session40.mgh",
        tree.ncsnr("subj01", "rh"): f"{betas}/rh.ncsnr.mgh",
        tree.group_label("lh", "nsdgeneral"): (
            "nsddata/freesurfer/fsaverage/label/lh.nsdgeneral.mgz"
        ),
        tree.native_label("subj01", "rh", "floc-faces"): (
            "nsddata/freesurfer/subj01/label/rh.floc-faces.mgz"
        ),
        tree.to_fsaverage("subj01", "lh"): (
            "nsddata/ppdata/subj01/transforms/lh.white-to-fsaverage.mgz"
        ),
    }
    for path, inside in expected.items():
        assert path == tmp_path / inside
