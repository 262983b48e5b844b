"""Backups of a workspace: every published dataset, its labels, the records of runs, and files beside them.

    TO/objects/<aa>/<sha256>          the contents of files, each once however many datasets or backups hold it
    TO/snapshots/<time>.json          what the workspace looked like: path, size and digest of every file; written last

A backup is consistent while the pipeline runs: labels are read first, published datasets never change, and collection
waits. It is incremental by construction, and every byte is checked against the manifest's digest on its way in and out.
Both ends may be folders or S3 prefixes. Work in progress is left out: it can be done again.
"""

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import HeadwaterError, InputError
from infra.store.files import (
    CHUNK,
    OutputFile,
    child_names,
    exists,
    file_sizes,
    filesystem,
    is_local,
    move_into_place,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
)
from infra.store.lease import Lease
from infra.store.manifest import MANIFEST
from infra.store.store import REFS, Store

FORMAT = 1
RECORDS = ("runs", "crawls")
"""Folders of small files that are taken as they are."""


@dataclass(frozen=True)
class Entry:
    """One file of a snapshot. ``path`` is below the workspace."""

    path: str
    bytes: int
    digest: str


@dataclass
class Snapshot:
    """What one backup holds."""

    name: str
    address: str
    created: float
    files: list[Entry] = field(default_factory=list)
    """Data files first, manifests after them, labels last: the order in which they are restored."""
    extras: dict[str, Entry] = field(default_factory=dict)
    """Files from outside the store (a database), by name."""
    datasets: int = 0
    copied_bytes: int = 0
    """New in this backup; the rest was there from earlier ones."""

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in [*self.files, *self.extras.values()])


def back_up(store: Store, to: str, extras: Mapping[str, Path], *, link: bool = False) -> Snapshot:
    """Copy the workspace to ``to``. ``link`` makes hard links where both are on one file system: quick, but one disk."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    snapshot = Snapshot(f"{stamp}-{uuid.uuid4().hex[:4]}", store.address, time.time())
    scratch = Path(to.removeprefix("file://")) / "incoming" if is_local(to) else store.home / "backup"
    vault = _Vault(to, scratch, link)
    with Lease(f"{store.address}/gc") as lease:
        lease.acquire(wait=False)
        labels = {name: store.labels(name) for name in store.names()}
        manifests, data = [], []
        for dataset in store.datasets():
            base = f"datasets/{dataset.name}/{dataset.manifest.fingerprint}"
            data += [
                vault.keep(dataset.url(output.path), f"{base}/{output.path}", output)
                for output in dataset.manifest.outputs
            ]
            manifests.append(vault.keep(dataset.url(MANIFEST), f"{base}/{MANIFEST}"))
        records = [
            vault.keep(f"{store.address}/{folder}/{path}", f"{folder}/{path}")
            for folder in RECORDS
            for path in sorted(file_sizes(f"{store.address}/{folder}"))
        ]
        known = {tuple(entry.path.split("/")[1:3]) for entry in manifests}
        refs = [
            vault.keep_bytes(f"{fingerprint}\n".encode(), f"datasets/{name}/{REFS}/{label}")
            for name, found in sorted(labels.items())
            for label, fingerprint in sorted(found.items())
            if (name, fingerprint) in known
        ]
        lease.check()
    snapshot.datasets, snapshot.files = len(manifests), [*data, *manifests, *records, *refs]
    snapshot.extras = {name: vault.keep_private(path) for name, path in sorted(extras.items())}
    snapshot.copied_bytes = vault.copied
    shutil.rmtree(scratch, ignore_errors=True)
    write_json(f"{to.rstrip('/')}/snapshots/{snapshot.name}.json", {"format": FORMAT, **asdict(snapshot)})
    return snapshot


def snapshots(source: str) -> list[str]:
    """The names of the complete backups at an address, oldest first."""
    names = child_names(f"{source.rstrip('/')}/snapshots")
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def load_snapshot(source: str, name: str | None) -> Snapshot:
    """A snapshot by name, or the newest. Raises InputError."""
    known = snapshots(source)
    if not known or (name is not None and name not in known):
        raise InputError(
            f"there is no backup {name!r}" if name and known else "there is no backup",
            where=source,
            remedy=f"Known: {', '.join(known[-5:])}." if known else "headwater backup --to makes one.",
        )
    raw: dict[str, Any] = read_json(f"{source.rstrip('/')}/snapshots/{name or known[-1]}.json")
    if raw.pop("format") != FORMAT:
        raise InputError("the backup was made by another version", where=source, remedy="Restore it with that version.")
    files = [Entry(**entry) for entry in raw.pop("files")]
    extras = {key: Entry(**entry) for key, entry in raw.pop("extras").items()}
    return Snapshot(files=files, extras=extras, **raw)


def restore(store: Store, source: str, snapshot: Snapshot, *, overwrite: bool = False) -> int:
    """Bring every file of a snapshot back; returns the bytes that were missing. A second call finishes a killed first."""
    if not overwrite:
        _refuse_changes(store, snapshot)
    vault = _Vault(source, store.home / "restore")
    sizes = file_sizes(f"{store.address}/datasets")
    written = 0
    for entry in snapshot.files:
        _inside(entry.path)
        small = (
            not entry.path.startswith("datasets/") or entry.path.endswith(f"/{MANIFEST}") or f"/{REFS}/" in entry.path
        )
        if small or sizes.get(entry.path.removeprefix("datasets/")) != entry.bytes:
            vault.bring(entry, f"{store.address}/{entry.path}")
            written += entry.bytes
    shutil.rmtree(store.home / "restore", ignore_errors=True)
    return written


def restore_extra(source: str, entry: Entry, target: Path) -> None:
    """Bring back a file from outside the store."""
    _Vault(source, target.parent).bring(entry, str(target))


def _refuse_changes(store: Store, snapshot: Snapshot) -> None:
    """Labels that point elsewhere were moved since: bringing them back would hide newer work."""
    for entry in snapshot.files:
        if f"/{REFS}/" in entry.path and exists(f"{store.address}/{entry.path}"):
            now = hashlib.sha256(read_bytes(f"{store.address}/{entry.path}")).hexdigest()
            if now != entry.digest:
                raise HeadwaterError(
                    f"the workspace has a newer {entry.path}",
                    where=store.address,
                    remedy="Restore into an empty workspace, or move the labels back too with --overwrite.",
                )


def _inside(path: str) -> None:
    """A snapshot comes from outside: it names files below the workspace and nowhere else."""
    if path.startswith(("/", "\\")) or ".." in path.split("/") or "://" in path:
        raise InputError(f"the backup names a file outside the workspace: {path!r}", remedy="Do not use this backup.")


class _Vault:
    """The objects of a backup, by digest. ``scratch`` is where files lie until they are whole."""

    def __init__(self, address: str, scratch: Path, link: bool = False) -> None:
        self._address = address.rstrip("/")
        self._scratch = scratch
        self._link = link
        self.copied = 0

    def _object(self, digest: str) -> str:
        return f"{self._address}/objects/{digest[:2]}/{digest}"

    def _has(self, digest: str, size: int) -> bool:
        fs, path = filesystem(self._object(digest))
        try:
            return bool(fs.size(path) == size)
        except FileNotFoundError:
            return False

    def keep(self, url: str, path: str, promised: OutputFile | None = None) -> Entry:
        """Store the file at ``url``. With a promised digest that is already here nothing is read."""
        if promised is not None and self._has(promised.digest, promised.bytes):
            return Entry(path, promised.bytes, promised.digest)
        with _fetched(url, self._scratch) as (copy, digest, size):
            if promised is not None and digest != promised.digest:
                raise InputError(
                    "a published file does not have the bytes its manifest promises",
                    where=url,
                    remedy="Run its stage again with --force; then make the backup.",
                )
            if not self._has(digest, size):
                self._put(url, copy, digest, size)
        return Entry(path, size, digest)

    def keep_private(self, file: Path) -> Entry:
        """Store a file that only its owner may read, wherever the rest of the backup may be read by."""
        entry = self.keep(str(file), file.name)
        if is_local(self._object(entry.digest)):
            Path(self._object(entry.digest).removeprefix("file://")).chmod(0o600)
        return entry

    def keep_bytes(self, data: bytes, path: str) -> Entry:
        entry = Entry(path, len(data), hashlib.sha256(data).hexdigest())
        if not self._has(entry.digest, entry.bytes):
            write_bytes(self._object(entry.digest), data)
            self.copied += entry.bytes
        return entry

    def _put(self, url: str, copy: Path, digest: str, size: int) -> None:
        target = self._object(digest)
        if self._link and is_local(url) and is_local(target) and _linked(url, target):
            return
        move_into_place(copy, target)
        self.copied += size

    def bring(self, entry: Entry, url: str) -> None:
        """Put an object in its place, verified."""
        with _fetched(self._object(entry.digest), self._scratch) as (copy, digest, _):
            if digest != entry.digest:
                raise InputError(
                    f"the backup of {entry.path} is damaged",
                    where=self._object(entry.digest),
                    remedy="Use another backup.",
                )
            move_into_place(copy, url)


@contextlib.contextmanager
def _fetched(url: str, scratch: Path) -> Iterator[tuple[Path, str, int]]:
    """A copy of a file, digested as it is read."""
    scratch.mkdir(parents=True, exist_ok=True)
    copy = scratch / uuid.uuid4().hex
    fs, source = filesystem(url)
    digest = hashlib.sha256()
    try:
        with fs.open(source, "rb") as reader, copy.open("wb") as writer:
            while chunk := reader.read(CHUNK):
                digest.update(chunk)
                writer.write(chunk)
        yield copy, digest.hexdigest(), copy.stat().st_size
    except FileNotFoundError:
        raise InputError("a file is gone", where=url, remedy="Use another backup, or run its stage again.") from None
    finally:
        copy.unlink(missing_ok=True)


def _linked(url: str, target: str) -> bool:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(url.removeprefix("file://"), target.removeprefix("file://"))
    except OSError:  # another file system, or one without links
        return False
    return True
