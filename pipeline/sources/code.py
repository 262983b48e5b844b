"""Source code: a folder or an archive (tar, zip) is one repository (``git.py``: one at a revision).

Two passes: the first finds the licence files, the second reads the code, so that a file before its licence in the archive
has the same licence as one after it. Files that are not code are passed over like pictures in a book: only files in a
known language have a fate. A file that is no UTF-8 is read by its mark, by what it says of itself (``coding: latin-1``), or
by detection where every byte becomes a character of text; of a notebook the cells are read.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from pipeline.document import Document, Origin, document_id
from pipeline.extract.clean import clean_code
from pipeline.extract.decode import decode
from pipeline.profiles import Profile
from pipeline.sources.code_archives import ArchiveCut, Entry, read_entries
from pipeline.sources.code_checks import MAX_ENCODED_SHARE, encoded_share, generated, minified, vendored
from pipeline.sources.code_languages import language_of
from pipeline.sources.contract import Archive, Outcome, Part, Reading, Salvage, SourceConfig, damaged, lost
from pipeline.sources.headers import payload_digest
from pipeline.sources.license_expressions import satisfies
from pipeline.sources.license_tree import LicenseTree
from pipeline.sources.notebooks import NOTEBOOK, notebook_text

CODING = re.compile(rb"coding[:=][ \t]*([-\w.]{1,40})")
"""As Python, Ruby, Emacs and Vim read it, in the first two lines."""
NO_CHARACTER = re.compile("[\ufffd\x01-\x08\x0e-\x1a\x1c-\x1f\x80-\x9f]")
MAX_LICENSE_BYTES = 200_000
Entries = Callable[[int], Iterator[Entry]]
"""The files of a repository, each with its content up to a bound."""


class CodeOptions(SourceConfig):
    """Sources of code, wherever it lies."""

    profile: Profile = Profile.CODE
    programming_languages: tuple[str, ...] = Field(
        default=(), description="Keep only these languages; empty keeps all."
    )
    licenses: tuple[str, ...] = Field(
        default=(),
        description="Keep only files that these SPDX licences permit (MIT permits a file under MIT OR GPL-3.0-only); "
        "empty keeps all.",
    )
    max_file_bytes: int = Field(default=1_000_000, ge=1_000, description="Larger files are dropped.")


class CodeSource(CodeOptions, Salvage):
    """Folders and archives of code."""

    kind: Literal["code"]


def read(part: Part, reading: Reading[CodeSource]) -> Iterator[Outcome]:
    """The code files of an archive as documents, or with the reason why not."""
    archive = part.archive
    yield from read_files(archive, reading, lambda bound: read_entries(archive, bound, salvage=reading.source.salvage))


def read_files(
    archive: Archive, reading: Reading[CodeOptions], entries: Entries, repository: str = ""
) -> Iterator[Outcome]:
    """As ``read``, of whatever gives files; they are asked for twice."""
    source = reading.source
    try:
        licenses = _licenses(entries)
        for entry in entries(source.max_file_bytes):
            language = language_of(entry.path, entry.content)
            if language is not None:
                yield _outcome(entry, language, licenses, archive.name, source, repository)
    except ArchiveCut as cut:
        start = cut.lost.start if cut.lost else 0
        length = cut.lost.end - start if cut.lost else 0
        yield damaged(source.name, archive.name, "truncated_archive", start, length, f"the rest is lost: {cut}")


def _licenses(entries: Entries) -> LicenseTree:
    """What the repository says of its files' licences."""
    found = LicenseTree()
    try:
        for entry in entries(MAX_LICENSE_BYTES):
            if not entry.problem:
                found.add(entry.path, entry.content)
    except ArchiveCut:
        return found  # the second pass comes to the same place and records it
    return found


def _outcome(
    entry: Entry, language: str, licenses: LicenseTree, archive: str, source: CodeOptions, repository: str
) -> Outcome:
    digest = payload_digest(entry.content)
    address = f"{archive}/{entry.path}"
    identity = document_id(source.name, address, entry.path, digest)

    def dropped(rule: str, score: float | None = None, threshold: float | None = None, detail: str = "") -> Outcome:
        return lost(
            identity, source.name, "dropped", rule, url=address, score=score, threshold=threshold, detail=detail
        )

    if entry.problem:
        rule = "damaged_entry" if entry.damaged else "unreadable_file"
        place = f"{archive} bytes {entry.offset}+{entry.size}: {entry.path}: {entry.problem}"
        return lost(identity, source.name, "failed", rule, url=address, detail=place[:300])
    if vendored(entry.path):
        return dropped("vendored")
    if source.programming_languages and language not in source.programming_languages:
        return dropped("programming_language", detail=language)
    if entry.size > source.max_file_bytes:
        return dropped("file_too_large", float(entry.size), float(source.max_file_bytes))
    raw = decoded_code(entry.content)
    if raw is None:
        return dropped("binary" if b"\0" in entry.content else "not_utf8")
    if language == NOTEBOOK and (raw := notebook_text(raw)) is None:
        return dropped("bad_notebook")
    text = clean_code(raw)
    if "\0" in text:
        return dropped("binary")
    if not text.strip():
        return dropped("no_text", 0.0, 1.0)
    if generated(entry.path, text):
        return dropped("generated")
    if (share := encoded_share(text)) > MAX_ENCODED_SHARE:
        return dropped("encoded_data", share, MAX_ENCODED_SHARE)
    if minified(entry.path, text):
        return dropped("minified")
    licensed = licenses.license_of(entry.path, text, source.license)
    if source.licenses and not (licensed.expression and satisfies(licensed.expression, source.licenses)):
        unknown = f"what it names is no known licence: {licensed.words}" if licensed.own else "no licence found"
        return dropped("license", detail=licensed.expression or unknown)
    return Document(
        id=identity,
        text=text,
        source=source.name,
        url=address,
        title=PurePosixPath(entry.path).name,
        language=source.language,
        license=licensed.expression,
        origin=Origin(
            archive=archive, offset=entry.offset, length=len(entry.content), record_id=entry.path, digest=digest
        ),
        path=entry.path,
        repo=repository or _repository(archive, entry.path),
        programming_language=language,
    )


def decoded_code(content: bytes) -> str | None:
    """The file's characters; None where it is not certain which they are."""
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            if b"\0" in content:
                return None
    said = CODING.search(b"\n".join(content.split(b"\n", 2)[:2]))
    text = decode(content, said[1].decode() if said else "", html=False).text
    return None if NO_CHARACTER.search(text) else text


def _repository(archive: str, path: str) -> str:
    """The archive's single top folder is the repository's name; without one, the archive's."""
    top, slash, _ = path.partition("/")
    return top if slash else PurePosixPath(archive).name.split(".", 1)[0]
