"""Fetching from an S3 bucket and from a server that misbehaves: whole and right, or not at all."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from analysis import fetch as module
from analysis.fetch import fetch, plan, require_terms, summary, verify
from analysis.files import InputError
from analysis.manifest import Checksum, Entry, Manifest, Source
from tests.servers import Bad, serving

DATA = np.random.default_rng(0).bytes(250_000)
OTHER = np.random.default_rng(1).bytes(250_000)
SOURCE = Source(
    title="A source",
    base="https://example.org",
    root="here",
    licence="none",
    terms="https://example.org/terms",
    meaning="Be kind.",
    citation="Nobody",
)
MANIFEST = Manifest({"here": SOURCE}, ())


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A data folder of this test's own, small blocks and short pauses."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(module, "BLOCK", 100_000)
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module, "TRIES", 3)
    return tmp_path / "data"


def entry(url, name="a.bin", size=250_000, **more):
    known = {"about": False, "checksum": None, "unpack": False, "source": "here"} | more
    return Entry(
        path=Path("here") / name,
        url=url,
        kind="archive",
        subject=None,
        session=None,
        backbone=None,
        n_bytes=size,
        findings=(),
        required=True,
        **known,
    )


def get(entries, jobs=2):
    return fetch(MANIFEST, entries, jobs, progress=False)


@pytest.fixture
def server():
    with serving(Bad({"a.bin": DATA, "b.bin": OTHER})) as bad:
        yield bad


@pytest.fixture(scope="module")
def bucket():
    """A public bucket on an S3 server of moto's, and its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "owner")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "owner")
        owner = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-2")
        owner.create_bucket(
            Bucket="open", CreateBucketConfiguration={"LocationConstraint": "us-east-2"}
        )
        for name in ("one.mgh", "deep/two.mgh"):
            owner.put_object(Bucket="open", Key=name, Body=DATA, ACL="public-read")
    yield endpoint
    server.stop()


def test_an_open_bucket_is_read_without_a_name(bucket, quick, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_S3_ENDPOINT", bucket)
    entries = [entry(f"s3://open/{n}", Path(n).name) for n in ("one.mgh", "deep/two.mgh")]
    assert [row.state for row in plan(entries).itertuples()] == ["missing", "missing"]
    assert len(get(entries)) == 2
    for made in entries:
        assert (quick / made.path).read_bytes() == DATA
    record = json.loads((quick / "fetched.json").read_text())
    assert record["here/one.mgh"]["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert get(entries) == []  # nothing to do
    gone = entry("s3://open/three.mgh", "three.mgh")
    with pytest.raises(InputError, match=r"s3://open/three.mgh: no such file there \(404\)"):
        get([gone])


def test_a_file_comes_in_blocks_and_leaves_nothing_beside(server, quick):
    get([entry(f"{server.url}/a.bin")])
    assert (quick / "here/a.bin").read_bytes() == DATA
    assert server.asked == ["bytes=0-99999", "bytes=100000-199999", "bytes=200000-249999"]
    assert sorted(p.name for p in (quick / "here").iterdir()) == ["a.bin"]


def test_cut_connections_and_errors_are_tried_again(server, quick):
    server.failures, server.errors = 1, 1
    get([entry(f"{server.url}/a.bin")])
    assert (quick / "here/a.bin").read_bytes() == DATA
    assert len(server.asked) == 5


def test_what_came_is_kept_and_only_the_rest_asked_for(server, quick, monkeypatch):
    real, seen = module._block, []

    def broken(remote, start):
        seen.append(start)
        if start:
            raise ConnectionResetError("gone")
        return real(remote, start)

    monkeypatch.setattr(module, "_block", broken)
    with pytest.raises(InputError, match=r"(?s)1 of 1 files.*gone; 3 tries. What came is kept"):
        get([entry(f"{server.url}/a.bin")])
    assert (quick / "here/a.bin.part").stat().st_size == 100_000
    assert not (quick / "here/a.bin").exists()
    row = plan([entry(f"{server.url}/a.bin")]).iloc[0]
    assert (row["state"], row["there"]) == ("begun", 100_000)
    monkeypatch.setattr(module, "_block", real)
    server.asked.clear()
    get([entry(f"{server.url}/a.bin")])
    assert server.asked == ["bytes=100000-199999", "bytes=200000-249999"]
    assert (quick / "here/a.bin").read_bytes() == DATA


def test_a_file_that_changed_there_is_begun_anew(server, quick, monkeypatch):
    part = quick / "here/a.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(OTHER[:100_000])
    note = {"url": f"{server.url}/a.bin", "size": len(DATA), "tag": "another"}
    part.with_name("a.bin.part.json").write_text(json.dumps(note))
    get([entry(f"{server.url}/a.bin")])
    assert server.asked[0] == "bytes=0-99999"
    assert (quick / "here/a.bin").read_bytes() == DATA


def test_a_server_without_ranges_gives_the_right_bytes(server, quick):
    server.ranges = False
    get([entry(f"{server.url}/a.bin")])
    assert (quick / "here/a.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "said"), [(403, r"access refused \(403\)"), (404, r"no such file there \(404\)")]
)
def test_a_refusal_is_told_at_once(server, quick, status, said):
    server.status = status
    with pytest.raises(InputError, match=said):
        get([entry(f"{server.url}/a.bin")])
    assert not (quick / "here/a.bin").exists()


def test_a_server_that_never_answers_ends_in_an_error(server, monkeypatch):
    monkeypatch.setattr(module, "STALL", 0.2)
    monkeypatch.setattr(module, "TRIES", 2)
    server.pause = 1.0
    begun = time.monotonic()
    with pytest.raises(InputError, match="2 tries"):
        get([entry(f"{server.url}/a.bin")])
    assert time.monotonic() - begun < 10


def test_a_slow_server_is_waited_for(server, quick):
    server.pause = 0.2
    get([entry(f"{server.url}/a.bin")])
    assert (quick / "here/a.bin").read_bytes() == DATA


RIGHT = {name: hashlib.new(name, DATA).hexdigest() for name in ("md5", "sha256")}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize("prefix", [True, False])
def test_wrong_bytes_are_not_kept_and_the_others_are(server, quick, algorithm, prefix):
    value = RIGHT[algorithm][:8] if prefix else RIGHT[algorithm]
    known = Checksum(algorithm=algorithm, value=value, prefix=prefix)
    good = entry(f"{server.url}/a.bin", checksum=known)
    wrong = entry(f"{server.url}/b.bin", "b.bin", checksum=known)
    with pytest.raises(InputError, match=rf"(?s)1 of 2.*b.bin: {algorithm} .*expected {value}"):
        get([wrong, good])
    assert (quick / "here/a.bin").read_bytes() == DATA
    assert not list((quick / "here").glob("b.bin*[!k]"))
    assert set(json.loads((quick / "fetched.json").read_text())) == {"here/a.bin"}


def test_another_size_than_published_is_refused(server):
    with pytest.raises(InputError, match=r"250,000 bytes; data_manifest\.yaml says 7"):
        get([entry(f"{server.url}/a.bin", size=7)])
    about = entry(f"{server.url}/a.bin", size=7, about=True)
    assert len(get([about])) == 1


def test_a_killed_fetch_goes_on_to_the_same_bytes(server, quick, tmp_path):
    server.pause = 0.3
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from analysis import fetch as m; m.BLOCK = 20_000\n"
        "from tests.test_fetch import entry, MANIFEST\n"
        f"m.fetch(MANIFEST, [entry('{server.url}/a.bin')], 1, progress=False)"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    part = quick / "here/a.bin.part"
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 40_000):
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (quick / "here/a.bin").exists()
    kept = part.stat().st_size
    server.pause = 0
    server.asked.clear()
    get([entry(f"{server.url}/a.bin")])
    assert server.asked[0].startswith(f"bytes={kept}-")
    assert (quick / "here/a.bin").read_bytes() == DATA


def test_two_at_once_fetch_a_file_once(server, quick):
    server.pause = 0.05
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from analysis import fetch as m; m.BLOCK = 20_000\n"
        "from tests.test_fetch import entry, MANIFEST\n"
        f"m.fetch(MANIFEST, [entry('{server.url}/a.bin')], 1, progress=False)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert (quick / "here/a.bin").read_bytes() == DATA
    assert len(server.asked) == len(set(server.asked)) == 13


# Terms


def test_terms_are_shown_refused_and_recorded(quick):
    gated = Manifest({"here": SOURCE.model_copy(update={"accept": True})}, ())
    some = [entry("https://example.org/a.bin")]
    with pytest.raises(InputError, match=r"example.org/terms.*Be kind.*--accept-here-terms"):
        require_terms(gated, some, accepted=False)
    assert not quick.exists()
    require_terms(gated, some, accepted=True)
    record = json.loads((quick / "terms.json").read_text())
    assert record["here"]["terms"] == "https://example.org/terms"
    assert record["here"]["accepted"].startswith("20")
    require_terms(gated, some, accepted=False)  # known from now on


def test_a_manual_source_says_what_to_do(quick):
    manual = SOURCE.model_copy(update={"manual": True, "how": "Ask for a.bin by the form."})
    with pytest.raises(InputError, match=r"a.bin: not found; A source: Ask for a.bin by the form"):
        fetch(Manifest({"here": manual}, ()), [entry("https://example.org/a.bin")])


# What is there


def test_an_archive_is_unpacked_beside_itself(server, quick, tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("inside/x.txt", "hello")
    server.files["z.zip"] = (tmp_path / "z.zip").read_bytes()
    get([entry(f"{server.url}/z.zip", "z.zip", len(server.files["z.zip"]), unpack=True)])
    assert (quick / "here/inside/x.txt").read_text() == "hello"


def test_verify_finds_what_changed_is_gone_or_was_never_checked(server, quick):
    entries = [entry(f"{server.url}/{n}.bin", f"{n}.bin") for n in ("a", "b")]
    entries.append(entry("https://example.org/c.bin", "c.bin", 3))
    get(entries[:2])
    raw = bytearray(DATA)
    raw[1000] ^= 1
    (quick / "here/a.bin").write_bytes(bytes(raw))
    rows = verify(entries)
    assert list(rows["state"]) == ["wrong", "right", "missing"]
    assert RIGHT["sha256"] in rows["found"][0]
    (quick / "here/c.bin").write_bytes(b"abc")  # put there by hand
    assert verify(entries)["state"][2] == "no checksum, size only"
    (quick / "here/c.bin").write_bytes(b"ab")
    assert "2 bytes; expected 3" in verify(entries)["found"][2]
    shown = summary(entries)
    assert shown.loc[0, ["files", "there"]].tolist() == [3, 2]


def test_too_small_a_disk_is_told_first(server, quick):
    huge = dataclasses.replace(entry(f"{server.url}/a.bin"), n_bytes=10**18)
    with pytest.raises(InputError, match="what is to be fetched needs"):
        get([huge])
    assert server.asked == [] and not os.path.exists(quick / "here")
