"""The files of a code archive (folder, tar in any compression, zip), read in place: nothing is ever unpacked to disk.

Names are taken as text and never opened, so ``../`` and absolute names are harmless; links and devices are passed over.
A small archive can hold a huge one: every file is read up to a bound, and the archive as a whole has one too. What a file's
own checksum, its permissions or its name make unreadable costs that file; a tar that breaks off costs its rest.
"""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tarfile import InvalidHeaderError, TruncatedHeaderError  # type: ignore[attr-defined]
from typing import IO, BinaryIO, Self, cast

from infra.errors import InputError
from pipeline.compression import Damaged, Lost, unpacked
from pipeline.sources.contract import Archive
from pipeline.sources.files import open_archive, printable

MAX_FILES = 2_000_000
MAX_UNPACKED_BYTES = 16 << 30


@dataclass(frozen=True)
class Entry:
    """A regular file: its path inside the archive, its size, and its content up to the bound."""

    path: str
    size: int
    content: bytes
    offset: int = 0
    problem: str = ""
    """Why it cannot be read; ``damaged``: its bytes are not what was stored."""
    damaged: bool = False


class ArchiveCut(Exception):
    """The rest of the archive cannot be read, or must not be."""

    def __init__(self, why: str, lost: Lost | None = None) -> None:
        super().__init__(why)
        self.lost = lost


class _Strict(tarfile.TarInfo):
    """``tarfile`` takes a damaged header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except (InvalidHeaderError, TruncatedHeaderError) as error:
            raise ArchiveCut(str(error)) from None


def read_entries(archive: Archive, max_file_bytes: int, *, salvage: bool = False) -> Iterator[Entry]:
    """All regular files. Raises ArchiveCut where the archive breaks off, InputError if it is none."""
    count = size = 0
    for entry in _entries(archive, max_file_bytes, salvage):
        count, size = count + 1, size + len(entry.content)
        if count > MAX_FILES or size > MAX_UNPACKED_BYTES:
            raise ArchiveCut(f"more than {MAX_FILES} files or {MAX_UNPACKED_BYTES} bytes")
        yield entry


def _entries(archive: Archive, bound: int, salvage: bool) -> Iterator[Entry]:
    if "://" not in archive.url and Path(archive.url).is_dir():
        yield from _folder(Path(archive.url), bound)
        return
    with open_archive(archive) as stream:
        if stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
            stream.seek(0)
            yield from _zip(archive, stream, bound)
        else:
            yield from _tar(archive, unpacked(stream, salvage=salvage), bound)


def _clean_path(path: str) -> str:
    """A path below the archive's root, whatever the archive says; bytes that are no UTF-8 are escaped."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return printable("/".join(part for part in parts if part not in ("/", "..", ".")))


def _folder(folder: Path, bound: int) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or ".git" in path.relative_to(folder).parts:
            continue
        relative = _clean_path(path.relative_to(folder).as_posix())
        try:
            with path.open("rb") as stream:
                yield Entry(relative, path.stat().st_size, stream.read(bound + 1))
        except OSError as error:
            yield Entry(relative, 0, b"", problem=str(error.strerror))


def _tar(archive: Archive, stream: BinaryIO, bound: int) -> Iterator[Entry]:
    found = False
    cut: ArchiveCut | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Strict) as opened:
            for member in opened:
                found = True
                if member.isreg() and (content := opened.extractfile(member)):
                    yield _entry(member.name, member.size, content, bound, member.offset_data)
    except ArchiveCut as error:
        cut = error
    except Damaged as error:
        raise ArchiveCut(error.lost.why, error.lost) from None
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        cut = ArchiveCut(str(error))
    if cut is None:
        return
    if not found:
        raise InputError(
            "the file is empty" if not archive.size else "the file is neither a tar nor a zip archive",
            where=archive.url,
            remedy="Check the source's address and kind.",
        ) from cut
    raise cut


def _zip(archive: Archive, stream: BinaryIO, bound: int) -> Iterator[Entry]:
    with _opened_zip(archive, stream) as opened:
        for member in sorted(opened.infolist(), key=lambda info: info.filename):
            kind = member.external_attr >> 16
            if member.is_dir() or (kind and stat.S_IFMT(kind) not in (0, stat.S_IFREG)):
                continue
            try:
                with opened.open(member) as content:
                    yield _entry(member.filename, member.file_size, content, bound, member.header_offset)
            except (zipfile.BadZipFile, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
                problem, size = str(error) or type(error).__name__, member.compress_size
                yield Entry(_clean_path(member.filename), size, b"", member.header_offset, problem, damaged=True)
            except (RuntimeError, NotImplementedError) as error:  # a password, an unknown method
                path, size = _clean_path(member.filename), member.compress_size
                yield Entry(path, size, b"", member.header_offset, str(error))


def _opened_zip(archive: Archive, stream: BinaryIO) -> zipfile.ZipFile:
    try:
        try:
            return zipfile.ZipFile(stream)
        except UnicodeDecodeError:  # a name that is no UTF-8 under a flag that says so
            return zipfile.ZipFile(cast(IO[bytes], _OldNames(stream)))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise InputError("the zip archive is damaged", where=archive.url, remedy="Fetch it again.") from error


class _OldNames:
    """A zip file whose headers do not claim that names are UTF-8: then any bytes are a name."""

    CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
    CENTRAL_SIZE, LOCAL_SIZE = 46, 30

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        data = bytearray(self._stream.read(size))
        if data[:4] == self.LOCAL and len(data) == self.LOCAL_SIZE:
            data[7] &= ~0x08
        at = 0
        while data[at : at + 4] == self.CENTRAL and at + self.CENTRAL_SIZE <= len(data):
            data[at + 9] &= ~0x08
            at += self.CENTRAL_SIZE + sum(struct.unpack_from("<HHH", data, at + 28))
        return bytes(data)

    def close(self) -> None:
        """The archive's opener closes it."""


def _entry(name: str, size: int, content: IO[bytes], bound: int, offset: int) -> Entry:
    return Entry(_clean_path(name), size, content.read(bound + 1), offset)
