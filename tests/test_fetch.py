"""Files of the manifest are fetched whole and right, or not at all, after their terms."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import filelock
import numpy as np
import pytest

from analysis import fetch as module
from analysis.fetch import fetch, file_table, verify
from analysis.files import InputError
from analysis.manifest import DataFile, Manifest, Source
from tests.servers import Server, hurry, serving
from tests.test_unpack import names, zip_of

DATA = np.random.default_rng(0).bytes(250_000)
OTHER = np.random.default_rng(1).bytes(250_000)
SOURCE = Source(
    title="A source",
    base="https://example.org",
    folder="source",
    terms="https://example.org/terms",
    meaning="Be kind.",
)
MANIFEST = Manifest(sessions={}, sources={"source": SOURCE}, files=[])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the source in a data folder of this test's own."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    hurry(monkeypatch)
    return tmp_path / "data/source"


def data_file(url, name="a.bin", n_bytes=250_000, **more):
    known = {"source": "source", "kind": "labels", "exact": True} | more
    return DataFile(path=f"source/{name}", url=url, n_bytes=n_bytes, **known)


@pytest.fixture
def server():
    with serving(Server({"a.bin": DATA, "b.bin": OTHER})) as running:
        yield running


def test_a_file_is_fetched_recorded_and_leaves_nothing_beside(server, folder):
    file = data_file(f"{server.url}/a.bin")
    assert file_table([file])["state"].tolist() == ["missing"]
    assert fetch(MANIFEST, [file]) == [folder / "a.bin"]
    assert (folder / "a.bin").read_bytes() == DATA
    assert names(folder) == ["a.bin"] and server.requests == ["all"]
    record = json.loads((folder.parent / "fetched.json").read_text())
    assert record["source/a.bin"]["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert fetch(MANIFEST, [file]) == [] and server.requests == ["all"]


RIGHT = {name: hashlib.new(name, DATA).hexdigest() for name in ("md5", "sha256")}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize("digits", [8, None])
def test_wrong_bytes_are_not_kept_and_other_files_are(server, folder, algorithm, digits):
    checksum = f"{algorithm}:{RIGHT[algorithm][:digits]}"
    good = data_file(f"{server.url}/a.bin", checksum=checksum)
    wrong = data_file(f"{server.url}/b.bin", "b.bin", checksum=checksum)
    expected = rf"(?s)1 of 2.*b.bin: {algorithm} .*expected {RIGHT[algorithm][:digits]}"
    with pytest.raises(InputError, match=expected):
        fetch(MANIFEST, [wrong, good])
    assert (folder / "a.bin").read_bytes() == DATA and names(folder) == ["a.bin"]
    assert set(json.loads((folder.parent / "fetched.json").read_text())) == {"source/a.bin"}


# Killed, full, and two at once


def fetching(url):
    """A process that fetches a.bin."""
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from analysis import https; https.BLOCK = 10_000\n"
        "from analysis.fetch import fetch\n"
        "from tests.test_fetch import MANIFEST, data_file\n"
        f"fetch(MANIFEST, [data_file('{url}/a.bin')], 1)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_fetch_goes_on_to_the_same_bytes(server, folder, number):
    server.trickle = 1.0
    process = fetching(server.url)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size >= 40_000 for p in folder.glob(".a.bin.*.part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(timeout=4)  # less than the rest would take
    assert not (folder / "a.bin").exists()
    (partial,) = folder.glob(".a.bin.*.part")
    start, server.trickle = partial.stat().st_size, 0
    server.requests.clear()
    fetch(MANIFEST, [data_file(f"{server.url}/a.bin")])
    assert server.requests == [f"bytes={start}-"]
    assert (folder / "a.bin").read_bytes() == DATA and names(folder) == ["a.bin"]


def test_a_fetch_killed_before_the_rename_asks_for_no_byte_again(server, folder, monkeypatch):
    file = data_file(f"{server.url}/a.bin")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(module, "_add_record", lambda *_: sys.exit(9))
        fetch(MANIFEST, [file])
    server.requests.clear()
    fetch(MANIFEST, [file])
    assert server.requests == [] and (folder / "a.bin").read_bytes() == DATA


def test_a_file_that_fails_is_named_and_the_others_are_fetched(server, folder):
    files = [data_file(f"{server.url}/{n}.bin", f"{n}.bin") for n in "ac"]
    message = r"(?s)1 of 2 files were not.*run fetch again.*source/c.bin: 404 Client Error"
    with pytest.raises(InputError, match=message):
        fetch(MANIFEST, files)
    assert names(folder) == ["a.bin"]
    server.cuts, server.ranges = 1000, False
    b = data_file(f"{server.url}/b.bin", "b.bin")
    with pytest.raises(InputError, match=r"source/b.bin: .*cut 3 times"):
        fetch(MANIFEST, [b])
    row = file_table([b]).iloc[0]
    assert (row["state"], row["present"]) == ("partial", 120_000)


def test_scratch_files_of_a_killed_fetch_are_no_obstacle(server, folder):
    """What the versions that kept notes in `NAME.part.json` left behind."""
    folder.mkdir(parents=True)
    host = os.uname().nodename
    (folder / f".a.bin.part.{host}.999999.part.json").write_text("{}")
    (folder / "a.bin.part").write_bytes(OTHER[:10])
    fetch(MANIFEST, [data_file(f"{server.url}/a.bin")])
    assert (folder / "a.bin").read_bytes() == DATA


def test_two_at_once_fetch_a_file_once(server, folder):
    server.trickle = 0.05
    assert [p.wait() for p in [fetching(server.url), fetching(server.url)]] == [0, 0]
    assert (folder / "a.bin").read_bytes() == DATA
    assert server.requests == ["all"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to_with_a_warning(
    server, folder, monkeypatch, number
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="don't fetch twice at once"):
        fetch(MANIFEST, [data_file(f"{server.url}/a.bin")])
    assert (folder / "a.bin").read_bytes() == DATA


def test_a_disk_that_fills_up_is_an_error_and_what_came_is_kept(server, folder, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file, server.cuts = data_file(f"{server.url}/a.bin"), 1
    with monkeypatch.context() as patch:
        patch.setattr("analysis.https.os.fsync", refuse)
        with pytest.raises(InputError, match=r"a.bin: the disk is full: free some space"):
            fetch(MANIFEST, [file])
    server.requests.clear()
    fetch(MANIFEST, [file])
    assert server.requests == ["bytes=120000-"] and (folder / "a.bin").read_bytes() == DATA


def test_too_small_a_disk_is_an_error_first(server, folder):
    with pytest.raises(InputError, match=r"GB free on the disk; 1,000,000,000.00 GB are to be"):
        fetch(MANIFEST, [data_file(f"{server.url}/a.bin", n_bytes=10**18)])
    assert server.headers == [] and not folder.exists()


# Terms


def test_terms_are_shown_refused_and_recorded(server, folder):
    gated = Manifest(
        sessions={}, sources={"source": SOURCE.model_copy(update={"accept": True})}, files=[]
    )
    a, b = (data_file(f"{server.url}/{n}.bin", f"{n}.bin") for n in "ab")
    with pytest.raises(InputError, match=r"example.org/terms.*Be kind.*--accept-source-terms"):
        fetch(gated, [a])
    assert not folder.parent.exists() and server.headers == []
    fetch(gated, [a], accept_terms=True)
    record = json.loads((folder.parent / "terms.json").read_text())
    assert record["source"]["terms"] == "https://example.org/terms"
    assert record["source"]["time"].startswith("20")
    fetch(gated, [b])  # accepted before


def test_a_manual_source_says_what_to_do(folder):
    manual = SOURCE.model_copy(update={"manual": "Ask for a.bin by the form."})
    manifest = Manifest(sessions={}, sources={"source": manual}, files=[])
    with pytest.raises(InputError, match=r"a.bin: not found; A source: Ask for a.bin by the form"):
        fetch(manifest, [data_file("https://example.org/a.bin")])


# Archives


def test_an_archive_is_unpacked_beside_itself_once(server, folder, tmp_path):
    zip_of(tmp_path / "z.zip", [("top/x.txt", "hello"), ("top/sub/", ""), ("y.txt", "two")])
    server.files["z.zip"] = (tmp_path / "z.zip").read_bytes()
    file = data_file(f"{server.url}/z.zip", "z.zip", len(server.files["z.zip"]), kind="archive")
    fetch(MANIFEST, [file])
    assert (folder / "top/x.txt").read_text() == "hello" and (folder / "top/sub").is_dir()
    assert names(folder) == ["top", "y.txt", "z.zip"]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    fetch(MANIFEST, [file])
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    shutil.rmtree(folder / "top")  # as by a kill between two renames
    (folder / ".z.zip.unpacking/top").mkdir(parents=True)
    assert fetch(MANIFEST, [file]) == []
    assert (folder / "top/x.txt").read_text() == "hello"
    assert names(folder) == ["top", "y.txt", "z.zip"]


def test_two_at_once_unpack_one_after_the_other(folder, monkeypatch):
    def slow(*arguments, **options):
        time.sleep(0.1)
        return opening(*arguments, **options)

    folder.mkdir(parents=True)
    archive = zip_of(folder / "z.zip", [("top/x.txt", "hello"), ("y.txt", "two")])
    file = data_file("https://example.org/z.zip", "z.zip", archive.stat().st_size, kind="archive")
    opening = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", slow)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: fetch(MANIFEST, [file]), range(2))) == [[], []]
    assert names(folder) == ["top", "y.txt", "z.zip"]


# What is there


def test_verify_says_what_changed_is_gone_or_was_never_checked(server, folder):
    files = [data_file(f"{server.url}/{n}.bin", f"{n}.bin") for n in "ab"]
    files.append(data_file("https://example.org/c.bin", "c.bin", 3))
    fetch(MANIFEST, files[:2])
    raw = bytearray(DATA)
    raw[1000] ^= 1
    (folder / "a.bin").write_bytes(bytes(raw))
    table = verify(files)
    assert list(table["state"]) == ["wrong", "right", "missing"]
    assert RIGHT["sha256"] in table["problem"][0]
    (folder / "c.bin").write_bytes(b"abc")  # put there by hand
    assert verify(files)["state"][2] == "no checksum, size only"
    (folder / "c.bin").write_bytes(b"ab")
    assert "2 bytes; expected 3" in verify(files)["problem"][2]
