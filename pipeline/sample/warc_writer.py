"""Writing a WARC: the same pages always give the same bytes.

One gzip member a record, as crawlers do, so that a reader can start anywhere. Record ids are UUIDs of (URL, payload)
instead of random ones, dates are handed in, and gzip's own time stamp is zero.
"""

import gzip
import uuid
from typing import BinaryIO

from pipeline.sources.headers import payload_digest


def write_warcinfo(stream: BinaryIO, filename: str, date: str, fields: dict[str, str]) -> None:
    body = "".join(f"{key}: {value}\r\n" for key, value in fields.items()).encode()
    headers = [("WARC-Filename", filename), ("Content-Type", "application/warc-fields")]
    _write(stream, "warcinfo", f"{filename}#warcinfo", date, headers, body)


def write_response(stream: BinaryIO, url: str, date: str, content_type: str, payload: bytes) -> None:
    """One ``200 OK`` response whose payload is stored as it is (no content encoding)."""
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
    headers = [
        ("WARC-Target-URI", url),
        ("WARC-Payload-Digest", payload_digest(payload)),
        ("Content-Type", "application/http; msgtype=response"),
    ]
    _write(stream, "response", f"{url}#{payload_digest(payload)}", date, headers, http + payload)


def _write(stream: BinaryIO, kind: str, identity: str, date: str, headers: list[tuple[str, str]], block: bytes) -> None:
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identity)}>",
        f"WARC-Date: {date}",
        *(f"{name}: {value}" for name, value in headers),
        f"WARC-Block-Digest: {payload_digest(block)}",
        f"Content-Length: {len(block)}",
    ]
    record = "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"
    stream.write(gzip.compress(record, compresslevel=6, mtime=0))
