"""An S3-compatible server for tests: a bucket of one's own, reached through the usual AWS variables."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def s3_server(cache: Path) -> Iterator[dict[str, str]]:
    """Start a server; yields the environment in which programs find it. Copies go below ``cache``."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "HEADWATER_CACHE": str(cache)}
    finally:
        server.stop()


def new_bucket() -> str:
    """An empty bucket on the server of the environment; returns its address."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
