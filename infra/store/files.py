"""Files that appear whole or not at all.

Every file of a dataset is written to a local scratch file, hashed while nobody can see it, fsynced, and put in its
place by one rename (local disk) or one PUT (object store). A kill at any moment leaves at worst a scratch file.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.errors import ConfigError, HeadwaterError, describe_os_error, disk_full

CHUNK = 1 << 20
OBJECT_STORES = ("s3://", "s3a://")


@dataclass(frozen=True)
class OutputFile:
    """One published file: ``path`` below its root, size, rows where they mean something, SHA-256."""

    path: str
    bytes: int
    digest: str
    rows: int | None = None
    digested: bool = True
    """False for files that carry time, host or optimizer state: listed, but left out of the output digest."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class PendingFile:
    """A file being written; ``output`` is set once it is in its place."""

    path: Path
    output: OutputFile = field(init=False)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of an address and the path inside it."""
    # Other machines write too: what a listing said a moment ago is no answer.
    options = {"use_listings_cache": False} if url.startswith(OBJECT_STORES) else {}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"addresses of this kind cannot be opened here: {error}",
            where=url,
            remedy="Install the fsspec driver it names (pip install 'headwater[s3]' for S3), or mend the address.",
        ) from error
    except OSError as error:  # drivers that connect at once
        raise HeadwaterError(
            f"the address cannot be reached: {error.strerror or error}",
            where=url,
            remedy="Check the address, and that its server answers.",
        ) from error
    return fs, path


def check_reachable(url: str) -> None:
    """Say in one sentence why a bucket cannot be used, before anything begins."""
    fs, path = filesystem(url)
    bucket = path.split("/", 1)[0]
    remedy = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and AWS_ENDPOINT_URL."
    try:
        fs.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no bucket {bucket!r}", where=url, remedy="Create it, or mend the address."
        ) from None
    except PermissionError:
        raise ConfigError("the bucket refuses our credentials", where=url, remedy=remedy) from None
    except Exception as error:  # botocore's own errors have no common base with Python's
        raise ConfigError(f"the bucket cannot be reached: {error}", where=url, remedy=remedy) from error


def is_local(url: str) -> bool:
    """Whether an address is a path of this machine; decided by its form, so that no driver is needed to tell."""
    return "://" not in url.split("::", 1)[0] or url.startswith(("file://", "local://"))


def sha256_file(path: Path) -> str:
    """Digest of a local file's bytes: 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _row_count(path: Path) -> int | None:
    if path.suffix != ".parquet":
        return None
    import pyarrow.parquet as pq  # not for a command that only reads manifests

    return int(pq.read_metadata(path).num_rows)


def describe_file(root: str | Path, path: str, *, rows: int | None = None, digested: bool = True) -> OutputFile:
    """An ``OutputFile`` for a local file that is already in its place."""
    return _described(Path(root) / path, path, rows, digested)


def _described(file: Path, path: str, rows: int | None, digested: bool) -> OutputFile:
    rows = rows if rows is not None else _row_count(file)
    return OutputFile(path, file.stat().st_size, sha256_file(file), rows, digested)


@contextlib.contextmanager
def publish_file(
    root: str, path: str, scratch: Path, *, rows: int | None = None, digested: bool = True
) -> Iterator[PendingFile]:
    """Yield a scratch path; on a clean exit hash it and move it to ``root/path`` atomically."""
    suffix = Path(path).suffix
    scratch.mkdir(parents=True, exist_ok=True)
    pending = PendingFile(scratch / f"{uuid.uuid4().hex}{suffix}")
    try:
        with _explained(f"{root}/{path}"):
            yield pending
            output = _described(pending.path, path, rows, digested)
            move_into_place(pending.path, f"{root}/{path}")
            pending.output = output
    finally:
        pending.path.unlink(missing_ok=True)


def move_into_place(source: Path, url: str) -> None:
    """Put a finished local file at ``url``: rename on the local disk, one PUT elsewhere."""
    fs, target = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        upload(source, url)
        return
    destination = Path(target)
    destination.parent.mkdir(parents=True, exist_ok=True)
    _fsync_file(source)
    try:
        os.replace(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(destination) as beside:
            shutil.copyfile(source, beside)
            _fsync_file(beside)
    fsync_folder(destination.parent)


@contextlib.contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A path beside ``destination`` to write to, which takes its place on a clean exit and is gone after any other."""
    with _beside(destination) as beside:
        yield beside
        os.replace(beside, destination)


@contextlib.contextmanager
def _beside(destination: Path) -> Iterator[Path]:
    """A path for a temporary file in the same folder."""
    beside = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.tmp")
    with _explained(str(destination)):
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
        finally:
            beside.unlink(missing_ok=True)


def _fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def fsync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder: a rename lasts from then on."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(url: str | Path, data: bytes) -> None:
    """Replace a small file atomically (one PUT on an object store)."""
    fs, target = filesystem(str(url))
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(target, data)
        return
    destination = Path(target)
    with replacing(destination) as beside:
        beside.write_bytes(data)
        _fsync_file(beside)
    fsync_folder(destination.parent)


def write_json(url: str | Path, value: Any) -> None:
    write_bytes(url, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_bytes(url: str | Path) -> bytes:
    """The whole of a small file. Raises FileNotFoundError."""
    fs, target = filesystem(str(url))
    data: bytes = fs.cat_file(target)
    return data


def read_json(url: str | Path) -> Any:
    return json.loads(read_bytes(url))


def exists(url: str | Path) -> bool:
    """Whether there is a file or folder at an address."""
    fs, target = filesystem(str(url))
    return bool(fs.exists(target))


def create_exclusive(url: str, data: bytes) -> bool:
    """Create a file only if there is none: True if we created it. Atomic (O_EXCL, or If-None-Match on S3)."""
    fs, target = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        # Written whole beside it first, then linked: a reader never sees a half-written lease.
        try:
            with _beside(Path(target)) as beside:
                beside.write_bytes(data)
                os.link(beside, target)
        except FileExistsError:
            return False
        return True
    try:
        fs.pipe_file(target, data, mode="create")
    except FileExistsError:
        return False
    return True


def upload(source: Path, url: str) -> None:
    """Put a copy of a finished local file at an address of an object store: one PUT, or one multipart upload."""
    fs, target = filesystem(url)
    fs.put_file(str(source), target)


def copy_within_store(source: str, target: str) -> None:
    """The same file under another address of the same store, at no cost where the file system allows it."""
    fs, here = filesystem(source)
    _, there = filesystem(target)
    if not isinstance(fs, LocalFileSystem):
        fs.cp_file(here, there)
        return
    with replacing(Path(there)) as beside:
        try:
            os.link(here, beside)
        except OSError:  # another file system, or one without links
            shutil.copyfile(here, beside)


def remove_tree(url: str | Path) -> None:
    """Remove a file or folder, and all below it. A second call finishes what a killed first one began."""
    fs, target = filesystem(str(url))
    if isinstance(fs, LocalFileSystem):
        with contextlib.suppress(OSError):
            os.unlink(target)
        shutil.rmtree(target, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(target, recursive=True)


def remove_file(url: str | Path) -> None:
    """Remove one file; nothing if there is none."""
    fs, target = filesystem(str(url))
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(target)


def file_sizes(root: str | Path, *, last_link_only: bool = False) -> dict[str, int]:
    """Every file below a folder with its size, by relative path; one listing, however many there are.

    ``last_link_only`` leaves out local files that also have another name.
    """
    fs, top = filesystem(str(root))
    if isinstance(fs, LocalFileSystem):
        found = _walk(top)
        return {path: status.st_size for path, status in found if status.st_nlink == 1 or not last_link_only}
    return {path: int(entry["size"]) for path, entry in sorted(_listed(fs, top).items())}


def newest_change(root: str | Path) -> float | None:
    """When anything below a folder was last written; None if there is nothing."""
    fs, top = filesystem(str(root))
    if isinstance(fs, LocalFileSystem):
        times = [status.st_mtime for _, status in _walk(top)]
    else:
        times = [entry["LastModified"].timestamp() for entry in _listed(fs, top).values()]
    return max(times, default=None)


def _listed(fs: fsspec.AbstractFileSystem, top: str) -> dict[str, dict[str, Any]]:
    try:
        found = fs.find(top, detail=True)
    except FileNotFoundError:
        return {}
    return {path.removeprefix(top).lstrip("/"): entry for path, entry in found.items()}


def _walk(top: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder. A dataset may have 200,000: plain text and one system call each."""
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.is_symlink():
                        yield from _walk(entry.path, f"{prefix}{entry.name}/")
                else:
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        yield prefix + entry.name, entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def child_names(root: str | Path) -> list[str]:
    """The names directly below a folder, sorted; none if it does not exist."""
    fs, top = filesystem(str(root))
    try:
        if isinstance(fs, LocalFileSystem):
            return sorted(os.listdir(top))
        return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(top, detail=False)} - {""})
    except (FileNotFoundError, NotADirectoryError):
        return []


def json_lines(data: bytes) -> Iterator[Any]:
    """The objects of JSON lines; one that a kill tore is left out."""
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def read_many(urls: list[str]) -> list[bytes]:
    """The contents of many small files, fetched side by side where the store allows it."""
    if not urls:
        return []
    fs, _ = filesystem(urls[0])
    if isinstance(fs, LocalFileSystem):
        return [read_bytes(url) for url in urls]
    paths = [filesystem(url)[1] for url in urls]
    found = fs.cat(paths)
    return [found[path] for path in paths] if isinstance(found, dict) else [found]


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Disk full, read-only and no permission are the operator's to mend: say so in one sentence."""
    try:
        yield
    except OSError as error:
        told = disk_full(error, where)
        if told is None and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            told = describe_os_error(error, where)
        if told is None:
            raise
        raise told from error
