"""The files of a code archive (folder, tar, zip), read in place: nothing is ever unpacked to disk.

Names are taken as text and never opened, so ``../`` and absolute names are harmless; links and devices are passed over.
A small archive can hold a huge one: every file is read up to a bound, and the archive as a whole has one too.
"""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from infra.errors import InputError
from pipeline.sources.contract import Archive
from pipeline.sources.files import open_archive

MAX_FILES = 2_000_000
MAX_UNPACKED_BYTES = 16 << 30


@dataclass(frozen=True)
class Entry:
    """A regular file: its path inside the archive, its size, and its content up to the bound."""

    path: str
    size: int
    content: bytes
    offset: int = 0


class ArchiveCut(Exception):
    """The rest of the archive cannot be read, or must not be."""


def read_entries(archive: Archive, max_file_bytes: int) -> Iterator[Entry]:
    """All regular files. Raises ArchiveCut where the archive breaks off, InputError if it is none."""
    count = unpacked = 0
    for entry in _entries(archive, max_file_bytes):
        count, unpacked = count + 1, unpacked + len(entry.content)
        if count > MAX_FILES or unpacked > MAX_UNPACKED_BYTES:
            raise ArchiveCut(f"more than {MAX_FILES} files or {MAX_UNPACKED_BYTES} bytes")
        yield entry


def _entries(archive: Archive, bound: int) -> Iterator[Entry]:
    if "://" not in archive.url and Path(archive.url).is_dir():
        yield from _folder(Path(archive.url), bound)
        return
    with open_archive(archive) as stream:
        if stream.read(4) == b"PK\x03\x04":
            stream.seek(0)
            yield from _zip(archive, stream, bound)
        else:
            stream.seek(0)
            yield from _tar(archive, stream, bound)


def _clean_path(path: str) -> str:
    """A path below the archive's root, whatever the archive says."""
    return "/".join(part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..", "."))


def _folder(folder: Path, bound: int) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or ".git" in path.relative_to(folder).parts:
            continue
        with path.open("rb") as stream:
            yield Entry(relative, path.stat().st_size, stream.read(bound + 1))


def _tar(archive: Archive, stream: BinaryIO, bound: int) -> Iterator[Entry]:
    found = False
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as opened:
            for member in opened:
                found = True
                if member.isreg() and (content := opened.extractfile(member)):
                    yield _entry(member.name, member.size, content, bound, member.offset_data)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if not found:
            raise InputError(
                "the file is empty" if not archive.size else "the file is neither a tar nor a zip archive",
                where=archive.url,
                remedy="Check the source's address and kind.",
            ) from error
        raise ArchiveCut(str(error)) from error


def _zip(archive: Archive, stream: BinaryIO, bound: int) -> Iterator[Entry]:
    try:
        opened = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise InputError("the zip archive is damaged", where=archive.url, remedy="Fetch it again.") from error
    with opened:
        for member in sorted(opened.infolist(), key=lambda info: info.filename):
            kind = member.external_attr >> 16
            if member.is_dir() or (kind and stat.S_IFMT(kind) not in (0, stat.S_IFREG)):
                continue
            try:
                with opened.open(member) as content:
                    yield _entry(member.filename, member.file_size, content, bound, member.header_offset)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, zlib.error) as error:
                raise ArchiveCut(f"{member.filename}: {error}") from error


def _entry(name: str, size: int, content: IO[bytes], bound: int, offset: int) -> Entry:
    return Entry(_clean_path(name), size, content.read(bound + 1), offset)
