"""A file from a server that misbehaves: its right bytes, or an error, and none asked for twice."""

import numpy as np
import pytest
import requests

from analysis import https
from analysis.files import InputError
from analysis.https import download, partials
from tests.servers import Server, hurry, serving

DATA = np.random.default_rng(0).bytes(250_000)
OTHER = np.random.default_rng(1).bytes(250_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture
def server():
    with serving(Server({"a.bin": DATA})) as running:
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.bin"


def test_cut_connections_and_errors_are_tried_again_from_where_they_were_cut(server, path):
    server.cuts, server.errors = 2, 1
    assert download(f"{server.url}/a.bin", path).read_bytes() == DATA
    assert server.requests == ["all", "all", "bytes=120000-", "bytes=180000-"]


def test_a_connection_that_is_always_cut_is_an_error_and_what_came_is_kept(server, path):
    server.cuts, server.ranges = 1000, False
    with pytest.raises(InputError, match=r"a.bin: cut 3 times at byte 120,000"):
        download(f"{server.url}/a.bin", path)
    assert [p.stat().st_size for p in partials(path)] == [120_000]
    server.cuts, server.ranges = 0, True
    server.requests.clear()
    advances = []
    assert download(f"{server.url}/a.bin", path, advance=advances.append).read_bytes() == DATA
    assert server.requests == ["bytes=120000-"] and sum(advances) == len(DATA)


@pytest.mark.parametrize("etag", ['"two"', 'W/"one"', ""])
def test_a_file_that_may_have_changed_there_is_begun_anew(server, path, etag):
    server.files["a.bin"], server.cuts, server.ranges = OTHER, 1000, False
    with pytest.raises(InputError, match="cut 3 times"):
        download(f"{server.url}/a.bin", path)
    server.files["a.bin"], server.cuts, server.ranges, server.etag = DATA, 0, True, etag
    server.requests.clear()
    partial = download(f"{server.url}/a.bin", path)
    assert partial.read_bytes() == DATA and partials(path) == [partial]
    assert server.requests == ["all"]


@pytest.mark.parametrize("etag", ['W/"one"', ""])
def test_without_a_strong_etag_a_cut_connection_begins_anew(server, path, etag):
    server.cuts, server.etag = 1, etag
    assert download(f"{server.url}/a.bin", path).read_bytes() == DATA
    assert server.requests == ["all", "all"]


def test_a_file_that_changes_between_two_requests_is_never_joined(server, path, monkeypatch):
    def change(_):
        if server.requests:
            server.files["a.bin"], server.etag = DATA, '"two"'

    monkeypatch.setattr(https.time, "sleep", change)
    server.cuts, server.files["a.bin"] = 1, OTHER
    assert download(f"{server.url}/a.bin", path).read_bytes() == DATA
    assert server.requests == ["all", "bytes=120000-"]


def test_a_file_that_grows_while_it_is_fetched_is_not_kept(server, path, monkeypatch):
    def grow(_):
        if server.requests:
            server.files["a.bin"] = DATA + b"more"

    monkeypatch.setattr(https.time, "sleep", grow)
    server.cuts, server.ranges = 1, False
    with pytest.raises(InputError, match=r"a.bin changed while it was fetched"):
        download(f"{server.url}/a.bin", path)
    assert partials(path) == []


def test_a_server_without_ranges_gives_the_right_bytes(server, path):
    server.cuts, server.ranges = 1, False
    assert download(f"{server.url}/a.bin", path).read_bytes() == DATA


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_an_error_at_once(server, path, status):
    server.status = status
    with pytest.raises(requests.HTTPError, match=f"{status} Client Error.*a.bin"):
        download(f"{server.url}/a.bin", path)
    assert len(server.headers) == 1 and partials(path) == []


def test_a_server_that_never_answers_ends_in_an_error(server, path, monkeypatch):
    monkeypatch.setattr(https, "STALL", 0.1)
    monkeypatch.setattr(https, "TRIES", 1)
    server.pause = 1.0
    with pytest.raises(requests.ConnectionError, match="timed out"):
        download(f"{server.url}/a.bin", path)


def test_the_proxy_of_the_environment_is_used_and_credentials_never(
    server, path, tmp_path, monkeypatch
):
    (tmp_path / ".netrc").write_text("machine data.example login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", server.url)
    assert download("http://data.example/a.bin", path).read_bytes() == DATA
    assert server.hosts == ["data.example"] * 2
    assert not any("Authorization" in headers for headers in server.headers)


def test_another_size_than_published_is_refused(server, path):
    with pytest.raises(InputError, match=r"a.bin has 250,000 bytes; expected 7, as published"):
        download(f"{server.url}/a.bin", path, 7)
    server.files["a.bin"] = b""
    with pytest.raises(InputError, match=r"a.bin has 0 bytes; expected some"):
        download(f"{server.url}/a.bin", path)
