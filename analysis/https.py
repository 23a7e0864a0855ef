"""A file over HTTPS, resumed where it stopped.

    partial = download("https://example.org/a.bin", Path("a.bin"))
    partial.replace("a.bin")

A file grows beside its place under a name that holds a digest of its address, size and ETag, so
that only bytes of one version are ever joined.
"""

import glob
import os
import time
from collections.abc import Callable
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from analysis.files import InputError, digest

BLOCK = 2**18  # bytes written at a time
TRIES = 5  # without a further byte
PAUSE = 1.0  # s before the second try, doubled before each further one
STALL = 60.0  # s without an answer


def partials(path: Path) -> list[Path]:
    """The beginnings of a file."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.*.part"))


def _session() -> requests.Session:
    """A session that tries again, uses the environment's proxies and sends no credentials."""
    session = requests.Session()
    retry = Retry(TRIES, backoff_factor=PAUSE, status_forcelist=(429, 500, 502, 503, 504))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.headers["Accept-Encoding"] = "identity"  # ranges and sizes of the file's own bytes
    session.hooks["response"] = lambda response, **_: response.raise_for_status()
    session.auth = lambda request: request  # or requests would look into ~/.netrc
    return session


def download(
    url: str,
    path: Path,
    n_bytes: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Path:
    """Path beside `path` of the whole file.

    `n_bytes`: the published size. `advance` is called with each number of bytes that came.

    Raises:
        InputError: if the server has another size, or the connection is always cut.
        requests.RequestException: if the server refuses or doesn't answer.
    """
    with _session() as session:
        head = session.head(url, allow_redirects=True, timeout=STALL).headers
        size, version = int(head.get("Content-Length", 0)), head.get("ETag", "")
        if size == 0 or size != (n_bytes or size):
            expected = f"{n_bytes:,}, as published" if n_bytes else "some"
            raise InputError(f"{url} has {size:,} bytes; expected {expected}")
        if version.startswith("W/"):  # such a tag doesn't stand for the same bytes
            version = ""
        partial = path.with_name(f".{path.name}.{digest([url, size, version])[:12]}.part")
        for other in partials(path):
            if other != partial or not version:
                other.unlink()
        partial.touch()
        advance(partial.stat().st_size)
        furthest, tries, last_error = -1, 0, None
        while (start := partial.stat().st_size) < size:
            furthest, tries = (start, 0) if start > furthest else (furthest, tries + 1)
            if tries == TRIES:
                raise InputError(f"{url}: cut {TRIES} times at byte {start:,} ({last_error})")
            time.sleep(PAUSE * (2**tries - 1))
            headers = {"Range": f"bytes={start}-", "If-Range": version} if start and version else {}
            request = session.get(url, headers=headers, stream=True, timeout=STALL)
            with request as response, partial.open("ab") as out:
                if response.status_code != 206:  # no ranges, or another version: all of it comes
                    out.truncate(0)
                    advance(-start)
                elif response.headers.get("Content-Range") != f"bytes {start}-{size - 1}/{size}":
                    raise InputError(f"{url} changed while it was fetched")
                try:
                    for block in response.iter_content(BLOCK):
                        out.write(block)
                        advance(len(block))
                except requests.RequestException as error:
                    last_error = error
                out.flush()
                os.fsync(out.fileno())
    if start > size:
        partial.unlink()
        raise InputError(f"{url} changed while it was fetched")
    return partial
