"""One small record that several machines compete for: read it, and replace it only if nobody did meanwhile.

``swap`` is compare-and-swap. On a file system it runs under an advisory lock. On S3 it is a conditional PUT
(``If-None-Match: *`` for the first, ``If-Match`` for the next), which needs no lock and no rename. A server that accepts
conditions without keeping them would let two runs work on one dataset unnoticed, so each is asked once, by an object of
its own: one that ignores ``If-None-Match`` is refused. On one that only lacks ``If-Match`` a record is read, replaced
and read again after a moment, so that of two who replace one at the same time the last one has it and the other sees it.
"""

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from infra.errors import HeadwaterError
from infra.store.files import filesystem, is_local, remove_file, write_bytes

SETTLE_S = 0.5
CONFLICTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})


@dataclass(frozen=True)
class Content:
    """What a slot held when it was read. ``version`` names exactly this content; None: there was none."""

    data: bytes = b""
    version: str | None = None
    age_s: float | None = None
    """How long ago it was written, by the store's own clock where it has one."""


class Slot(Protocol):
    """A record with compare-and-swap."""

    @property
    def where(self) -> str: ...

    def read(self) -> Content: ...

    def swap(self, seen: Content, data: bytes | None) -> bool:
        """Replace what was ``seen`` by ``data`` (None: remove it); False if somebody else was quicker."""
        ...


def slot(folder: str | Path, name: str) -> Slot:
    """The record ``name`` of a folder, or of an object store's prefix."""
    if is_local(str(folder)):
        return FileSlot(Path(str(folder).removeprefix("file://")) / name)
    return ObjectSlot(f"{folder}/{name}")


@dataclass(frozen=True)
class FileSlot:
    """A file beside an advisory lock."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path.parent)

    def read(self) -> Content:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Content()
        return Content(data, data.decode("latin-1"))

    def swap(self, seen: Content, data: bytes | None) -> bool:
        with self._locked():
            if self.read().version != seen.version:
                return False
            if data is None:
                self.path.unlink(missing_ok=True)
            else:
                write_bytes(self.path, data)
            return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.parent / f".{self.path.stem}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


@dataclass(frozen=True)
class ObjectSlot:
    """An S3 object, replaced by conditional PUTs."""

    url: str

    @property
    def where(self) -> str:
        return self.url.rpartition("/")[0]

    def read(self) -> Content:
        return _get(self.url)

    def swap(self, seen: Content, data: bytes | None) -> bool:
        if data is None:
            if self.read().version != seen.version:
                return False
            remove_file(self.url)
            return True
        if not keeps_conditions(self.url) and seen.version is not None:
            if self.read().version != seen.version:
                return False
            write_bytes(self.url, data)
            time.sleep(SETTLE_S)
            return self.read().data == data
        condition = {"IfMatch": seen.version} if seen.version else {"IfNoneMatch": "*"}
        # A PUT whose answer was lost is tried again below us and then meets its own object: look before giving up.
        return _put(self.url, data, condition) or self.read().data == data


@cache
def _conditions_kept(folder: str) -> tuple[bool, bool]:
    """Whether the server keeps (If-None-Match, If-Match), tried out on an object of our own."""
    probe = f"{folder}/.conditions-{uuid.uuid4().hex}"
    try:
        if not _put(probe, b"1", {"IfNoneMatch": "*"}):
            return False, False
        creates = not _put(probe, b"2", {"IfNoneMatch": "*"})
        now = _get(probe).version
        replaces = _put(probe, b"3", {"IfMatch": now}) and not _put(probe, b"4", {"IfMatch": now})
    finally:
        remove_file(probe)
    return creates, replaces


def keeps_conditions(url: str) -> bool:
    """True if a record there can be replaced by If-Match alone. Raises HeadwaterError if it cannot even be created once."""
    creates, replaces = _conditions_kept(url.rpartition("/")[0])
    if not creates:
        raise HeadwaterError(
            "this object store ignores conditional writes, so two runs of one dataset could not be kept apart",
            where="/".join(url.split("/", 3)[:3]),
            remedy="Use a store that honours If-None-Match (AWS S3, MinIO, Ceph, R2), or a folder as workspace.",
        )
    return replaces


def _get(url: str) -> Content:
    from email.utils import parsedate_to_datetime

    from fsspec.asyn import sync

    fs, path = filesystem(url)
    bucket, key, _ = fs.split_path(path)

    async def fetch() -> tuple[bytes, dict[str, Any]]:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        return await answer["Body"].read(), answer

    try:
        data, answer = sync(fs.loop, fetch)
    except FileNotFoundError:
        return Content()
    served = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    written = answer["LastModified"].timestamp()
    now = parsedate_to_datetime(served).timestamp() if served else time.time()
    return Content(data, answer["ETag"], max(0.0, now - written))


def _put(url: str, data: bytes, condition: dict[str, Any]) -> bool:
    """One conditional PUT: False if its condition does not hold."""
    fs, path = filesystem(url)
    bucket, key, _ = fs.split_path(path)
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
    except FileExistsError:
        return False
    except FileNotFoundError:  # If-Match on an object that is gone; a missing bucket says so at the first read
        return False
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") in CONFLICTS:
            return False
        raise
    return True
