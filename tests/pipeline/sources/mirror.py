"""A small crawl mirror on loopback: the real layout, ranges, and faults on demand."""

import gzip
import json
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """``files`` by path; ``faults``: what the next requests for a path get instead of the whole truth.

    A fault is a status code, ``("cut", n)`` to close the connection after ``n`` bytes, or ``("silent", n)`` to stop sending.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    captures: list[dict[str, str]] = field(default_factory=list)
    faults: dict[str, list[int | tuple[str, int]]] = field(default_factory=dict)
    ranges: bool = True
    requests: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    tags: dict[str, str] = field(default_factory=dict)
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def add_crawl(self, crawl: str, archives: dict[str, bytes]) -> None:
        """Archives with their list, and an entry in the list of crawls."""
        paths = [f"crawl-data/{crawl}/segments/1/warc/{name}" for name in archives]
        self.files |= dict(zip(paths, archives.values(), strict=True))
        self.files[f"crawl-data/{crawl}/warc.paths.gz"] = gzip.compress("\n".join(paths).encode() + b"\n")
        crawls = json.loads(self.files.get("collinfo.json", b"[]"))
        crawls.insert(0, {"id": crawl, "name": crawl, "cdx-api": f"{self.url}/{crawl}-index"})
        self.files["collinfo.json"] = json.dumps(crawls).encode()


@contextmanager
def serve() -> Iterator[Mirror]:
    mirror = Mirror()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, mirror)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, mirror: Mirror) -> None:
    path, _, query = request.path.lstrip("/").partition("?")
    mirror.requests[path] += 1
    fault = mirror.faults[path].pop(0) if mirror.faults.get(path) else None
    data = mirror.files.get(path)
    if data is None and path.endswith("-index"):
        data = _index(mirror, urllib.parse.parse_qs(query))
    if isinstance(fault, int) or data is None:
        request.send_response(fault if isinstance(fault, int) else 404)
        request.send_header("Content-Length", "0")
        request.send_header("Retry-After", "1")
        request.end_headers()
        return
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if mirror.ranges else None
    first, last = (int(match[1]), int(match[2] or len(data) - 1)) if match else (0, len(data) - 1)
    body = data[first : last + 1]
    if match and first >= len(data):
        request.send_response(416)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if match else 200)
    request.send_header("Content-Length", str(len(body)))
    if path in mirror.tags:
        request.send_header("ETag", mirror.tags[path])
    if match:
        request.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
    request.end_headers()
    if isinstance(fault, tuple):
        body = body[: fault[1]]
        request.close_connection = True
    mirror.sent[path] += len(body)  # before the client can have read it all, and looks at the count
    try:
        request.wfile.write(body)
        request.wfile.flush()
        if isinstance(fault, tuple) and fault[0] == "silent":
            mirror.released.wait(10)
    except OSError:
        request.close_connection = True  # the reader has gone: it had what it wanted


def _index(mirror: Mirror, query: dict[str, list[str]]) -> bytes:
    domain = query["url"][0].removeprefix("*.")
    found = [row for row in mirror.captures if urllib.parse.urlsplit(row["url"]).hostname.endswith(domain)]  # type: ignore[union-attr]
    if "showNumPages" in query:
        return json.dumps({"pages": (len(found) + 1) // 2, "pageSize": 2, "blocks": 1}).encode()
    page = int(query["page"][0])
    return b"".join(json.dumps(row).encode() + b"\n" for row in found[2 * page : 2 * page + 2])
