"""Finding a source's archives and opening them, wherever they lie.

An address is a path, a glob, a folder or any fsspec URL; ``dataset://sample/web/x.warc.gz`` means the file
``data/web/x.warc.gz`` of the input dataset ``sample``. An archive's identity comes from its name, its
size and a digest of its content (or the store's own checksum), never from times or the folder it lies in.
"""

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.errors import InputError
from infra.store.address import dataset_file
from infra.store.dataset import Dataset
from infra.store.files import CHUNK, filesystem, is_local
from pipeline.sources.contract import Archive
from pipeline.sources.digests import ArchiveDigests, file_digest
from pipeline.sources.http import HttpFile, download, is_http

MARKER = re.compile(r"_SUCCESS|_(?:common_)?metadata|_(?:committed|started)_\w+|.+\.crc|Thumbs\.db|desktop\.ini")
CHECKSUM_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256")


def find_archives(address: str, inputs: Mapping[str, Dataset], *, folders: bool = False) -> list[Archive]:
    """All archives of an address, in the order of their names. Raises InputError where there is none.

    ``folders``: a folder is itself an archive (source code) instead of a place with archives in it.
    """
    if dataset_file(address):
        archives = _of_dataset(address, inputs)
    elif is_http(address):
        archives = [_http_archive(address)]
    else:
        fs, path = filesystem(address)
        local = isinstance(fs, LocalFileSystem)
        archives = local_archives(address, folders=folders) if local else _remote(fs, address, path)
    if not archives:
        raise no_archive(address)
    return sorted(archives, key=lambda archive: (archive.name, archive.digest))


def no_archive(address: str) -> InputError:
    """Why an address gives nothing: a path that is relative is relative to the folder that the command runs in."""
    path = Path(filesystem(address)[1]) if is_local(address) and not dataset_file(address) else None
    kind = "there is no file that matches" if glob.has_magic(address) else "there is no file"
    if path is not None and path.is_dir():
        kind = "there is no file in the folder"
    here = "" if path is None or address.startswith(("/", "file:", "~")) else f" Relative paths begin at {Path.cwd()}."
    return InputError(kind, where=address, remedy=f"Check the source's address.{here}")


def open_archive(archive: Archive, cache: str = "") -> BinaryIO:
    """The stored bytes, seekable; by HTTP resumed where it broke, and kept in ``cache`` if there is one."""
    if is_http(archive.url):
        if not cache:
            return cast(BinaryIO, HttpFile(archive.url))
        return download(archive.url, Path(cache).expanduser() / urlsplit(archive.url).path.lstrip("/")).open("rb")
    fs, path = filesystem(archive.url)
    try:
        stream = fs.open(path, "rb")
    except OSError as error:
        raise InputError(
            f"the file cannot be opened: {error}", where=archive.url, remedy="Check that it is still there."
        ) from error
    # A driver's own file object reads lines and small pieces slowly, or not by a limit.
    return cast(BinaryIO, stream if is_local(archive.url) else io.BufferedReader(stream, CHUNK))


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are escaped, so that two names stay two."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _http_archive(address: str) -> Archive:
    with HttpFile(address) as remote:
        return Archive(urlsplit(address).path.rsplit("/", 1)[-1], address, remote.size, remote.tag)


def _of_dataset(address: str, inputs: Mapping[str, Dataset]) -> list[Archive]:
    role, pattern = dataset_file(address) or ("", "")
    if role not in inputs:
        raise InputError(f"there is no input dataset {role}", where=address, remedy="Known: " + ", ".join(inputs) + ".")
    dataset = inputs[role]
    return [
        Archive(output.path.removeprefix("data/"), dataset.url(output.path), output.bytes, output.digest)
        for output in dataset.files()
        if Path(output.path.removeprefix("data/")).match(pattern.removeprefix("data/")) or output.path == pattern
    ]


def local_archives(address: str, *, folders: bool = False) -> list[Archive]:
    """The archives of a local address in the order of their names; none where there is nothing."""
    return sorted(_local(Path(filesystem(address)[1]), folders), key=lambda archive: archive.name)


def _local(top: Path, folders: bool) -> list[Archive]:
    if top.is_dir():
        if folders:
            return [_folder_archive(top)]
        return _file_archives(str(top), ((f"{top}/{name}", name) for name in _names_below(str(top))))
    if top.is_file():
        return [_file_archive(top, top.name)]
    matches = [Path(match) for match in sorted(glob.glob(str(top), recursive=True))]
    if folders:
        return [_folder_archive(match) if match.is_dir() else _file_archive(match, match.name) for match in matches]
    base = base_folder(top)
    found = (match for match in matches if match.is_file() and not is_marker(match.name))
    files = ((str(match), match.relative_to(base).as_posix()) for match in found)
    return _file_archives(str(top), files)


def _names_below(top: str, prefix: str = "") -> Iterator[str]:
    """The files below a folder, in no order. A crawl's folder holds 90,000: as plain text, sorted once at the end."""
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _names_below(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file() and not is_marker(entry.name):
                yield prefix + entry.name


def is_marker(name: str) -> bool:
    """Files that programs leave beside data (Spark, Hadoop, Dask, file managers): they hold no record."""
    return name.startswith(".") or bool(MARKER.fullmatch(name))


def base_folder(top: Path) -> Path:
    """What names inside a source are relative to: its folder, or the folders before the first wildcard of a pattern."""
    if top.is_dir():
        return top
    parts: list[str] = []
    for part in top.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _file_archive(path: Path, name: str) -> Archive:
    size = path.stat().st_size
    return Archive(printable(name), str(path), size, file_digest(path, size))


def _file_archives(address: str, files: Iterable[tuple[str, str]]) -> list[Archive]:
    """The archives at these paths, with these names. Those untouched since they were last digested are not read again."""
    digests = ArchiveDigests(address)
    found = [Archive(printable(name), path, *digests.digest(path, name)) for path, name in files]
    digests.remember()
    return found


def _folder_archive(folder: Path) -> Archive:
    """A folder's identity: names, sizes and content of its files."""
    digest = hashlib.sha256()
    size = 0
    for path in sorted(item for item in folder.rglob("*") if item.is_file() and not item.is_symlink()):
        digest.update(
            f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape")
        )
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:  # a fate of that file when it is read
            digest.update(str(error.strerror).encode())
        size += path.stat().st_size
    return Archive(printable(folder.name), str(folder), size, digest.hexdigest())


def _remote(fs: fsspec.AbstractFileSystem, address: str, path: str) -> list[Archive]:
    try:
        if glob.has_magic(path):
            infos = [info for info in fs.glob(path, detail=True).values() if info["type"] == "file"]
        elif fs.isdir(path):
            infos = list(fs.find(path, detail=True).values())
        else:
            infos = [fs.info(path)]
    except Exception as error:  # each driver has errors of its own for what its network does
        why = " ".join(str(error).split()) or type(error).__name__
        remedy = "Check the address, and that its server answers."
        raise InputError(f"the source cannot be listed: {why}", where=address, remedy=remedy) from error
    base = path.split("*", 1)[0].rsplit("/", 1)[0]
    marked = len(infos) > 1 or glob.has_magic(path)
    return [
        _remote_archive(fs, info, base)
        for info in infos
        if not (marked and is_marker(str(info["name"]).rpartition("/")[2]))
    ]


def _remote_archive(fs: fsspec.AbstractFileSystem, info: dict[str, object], base: str) -> Archive:
    path = str(info["name"])
    checksum = next((str(info[key]) for key in CHECKSUM_KEYS if info.get(key)), "")
    name = path.removeprefix(base).lstrip("/") or path.rsplit("/", 1)[-1]
    return Archive(name, str(fs.unstrip_protocol(path)), int(cast(int, info.get("size") or 0)), checksum)
