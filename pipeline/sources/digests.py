"""Digests of a folder's archives, remembered on this machine for those that were not touched since.

A plan, the run after it, the list of units and every resumed run ask what the same thousands of archives hold. As git does for
its index, a file in its place with its inode, size and both its times unchanged is taken to hold what it held; of a crawl
of 90,000 archives that saves the reading of 180 GB, each time.

A clock has a grain: a file written twice within it, to the same size, looks untouched. So a digest is remembered only if the file
had been at rest for a while when it was read. The change time cannot be set back by a program, unlike the time of modification.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from pathlib import Path

from infra.errors import HeadwaterError
from infra.python_gc import python_gc_paused
from infra.store.cache import cache_root
from infra.store.files import write_bytes

# Files up to here are digested whole, larger ones at both ends: their size and a gzip file's checksum are in it.
WHOLE_DIGEST_BYTES = 16 << 20
EDGE_BYTES = 1 << 20
AT_REST_NS = 2_000_000_000
WORTH_REMEMBERING = 100
"""Fewer new digests are read again sooner than a file is written."""

Seen = list[int | str]
"""Inode, size, time of modification, time of change, digest."""


class ArchiveDigests:
    """The digests of the archives at one address. Call ``remember`` at the end."""

    def __init__(self, address: str) -> None:
        self._file = cache_root() / "archives" / f"{hashlib.sha256(address.encode()).hexdigest()[:24]}.json"
        self._known = _read(self._file)
        self._current: dict[str, Seen] = {}
        self._new = 0

    def digest(self, path: str, name: str) -> tuple[int, str]:
        """Size and digest of the file at ``path``; ``name`` is its name below the address."""
        status = os.stat(path)
        seen: Seen = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(name)
        if known is not None and known[:4] == seen:
            self._current[name] = known
            return status.st_size, str(known[4])
        began = time.time_ns()
        digest = file_digest(path, status.st_size)
        if max(status.st_mtime_ns, status.st_ctime_ns) < began - AT_REST_NS:
            self._current[name] = [*seen, digest]
            self._new += 1
        return status.st_size, digest

    def remember(self) -> None:
        if self._new < WORTH_REMEMBERING:
            return
        # A machine without a place for it reads the archives again next time.
        with contextlib.suppress(OSError, HeadwaterError):
            write_bytes(self._file, json.dumps(self._current).encode())


def file_digest(path: str | Path, size: int) -> str:
    with open(path, "rb") as stream:
        if size <= WHOLE_DIGEST_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(stream.read(EDGE_BYTES))
        stream.seek(-EDGE_BYTES, io.SEEK_END)
        digest.update(stream.read(EDGE_BYTES))
    return digest.hexdigest()


def _read(file: Path) -> dict[str, Seen]:
    try:
        with python_gc_paused():
            known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
