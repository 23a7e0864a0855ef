"""An HTTP server on loopback that behaves as badly as asked, and remembers what it was asked."""

import http.server
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from analysis import https


@dataclass
class Server:
    """What is served under each path, and how."""

    files: dict[str, bytes]
    etag: str = '"one"'
    status: int = 0  # answers every request for data with it
    cuts: int = 0  # so many answers are cut in the middle
    errors: int = 0  # so many requests for data get 500
    ranges: bool = True  # knows ranges; else sends all
    trickle: float = 0.0  # s between blocks of 20,000 bytes
    pause: float = 0.0  # s before each answer
    requests: list[str] = field(default_factory=list)  # the range of each request for data, or all
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request
    hosts: list[str] = field(default_factory=list)  # asked for as by a proxy's client
    url: str = ""


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.hostname:
                server.hosts.append(address.hostname)
            server.headers.append(dict(self.headers))
            data = server.files.get(address.path.lstrip("/"))
            if data is None or server.status:
                self.send_error(server.status or 404)
                return
            start, status = 0, 200
            if self.command == "GET":
                time.sleep(server.pause)
                span = self.headers.get("Range")
                server.requests.append(span or "all")
                if server.errors:
                    server.errors -= 1
                    self.send_error(500)
                    return
                if span and server.ranges and self.headers.get("If-Range") == server.etag:
                    start, status = int(span.removeprefix("bytes=").rstrip("-")), 206
            body = data[start:]
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(body)))
            if server.etag:
                self.send_header("ETag", server.etag)
            self.end_headers()
            if self.command == "GET":
                self._send(body)

        def _send(self, body: bytes) -> None:
            if server.cuts:
                server.cuts -= 1
                body = body[: len(body) // 2]
                self.close_connection = True
            try:
                for i in range(0, len(body), 20_000):
                    self.wfile.write(body[i : i + 20_000])
                    time.sleep(server.trickle)
            except ConnectionError:
                self.close_connection = True

    return Handler


@contextmanager
def serving(server: Server):
    """The server, running; `server.url` is its address."""
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    thread = threading.Thread(target=http_server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


def hurry(monkeypatch) -> None:
    """Small blocks, short pauses, and none of this machine's proxies."""
    monkeypatch.setattr(https, "BLOCK", 10_000)
    monkeypatch.setattr(https, "PAUSE", 0.01)
    monkeypatch.setattr(https, "TRIES", 3)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
