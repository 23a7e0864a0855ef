"""An HTTP server on loopback that behaves as badly as asked, and remembers what it was asked."""

import http.server
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Bad:
    """What is served under each path, and how."""

    files: dict[str, bytes]
    tag: str = "one"
    status: int = 0  # answer every request for data with it
    failures: int = 0  # so many requests for data are cut in the middle
    errors: int = 0  # so many requests for data get 500
    ranges: bool = True  # knows ranges; else sends all
    pause: float = 0.0  # s before each answer
    asked: list[str] = field(default_factory=list)  # ranges
    url: str = ""


def _handler(bad: Bad) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            head = self.command == "HEAD"
            data = bad.files.get(self.path.lstrip("/"))
            wanted = self.headers.get("Range")
            if data is None or bad.status:
                self.send_error(bad.status or 404)
                return
            if not head:
                time.sleep(bad.pause)
                bad.asked.append(wanted or "all")
                if bad.errors:
                    bad.errors -= 1
                    self.send_error(500)
                    return
            some, status = data, 200
            if wanted and bad.ranges:
                first, last = wanted.removeprefix("bytes=").split("-")
                some, status = data[int(first) : int(last) + 1], 206
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(len(some)))
            self.send_header("ETag", f'"{bad.tag}"')
            if bad.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if head:
                return
            if bad.failures:
                bad.failures -= 1
                self.wfile.write(some[: len(some) // 2])
                self.close_connection = True
                return
            try:
                self.wfile.write(some)
            except ConnectionError:
                self.close_connection = True

    return Handler


@contextmanager
def serving(bad: Bad):
    """The server, running; `bad.url` is its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(bad))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    bad.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bad
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
