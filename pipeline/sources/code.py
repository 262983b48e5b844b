"""Source code: a folder or an archive (tar, zip) is one repository (``git.py``: one at a revision).

Two passes: the first finds the licence files, the second reads the code, so that a file before its licence in the archive
has the same licence as one after it. Files that are not code are passed over like pictures in a book: only files in a
known language have a fate.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from pipeline.document import Document, Origin, document_id
from pipeline.extract.clean import clean_code
from pipeline.sources.code_archives import ArchiveCut, Entry, read_entries
from pipeline.sources.code_checks import MAX_ENCODED_SHARE, encoded_share, generated, minified, vendored
from pipeline.sources.code_languages import language_of
from pipeline.sources.contract import Archive, Outcome, Part, Reading, SourceConfig, lost
from pipeline.sources.licenses import is_license_file, license_in_header, license_of_text, nearest_license
from pipeline.sources.warc import payload_digest

MAX_LICENSE_BYTES = 200_000
Entries = Callable[[int], Iterator[Entry]]
"""The files of a repository, each with its content up to a bound."""


def read(part: Part, reading: Reading) -> Iterator[Outcome]:
    """The code files of an archive as documents, or with the reason why not."""
    archive = part.archive
    yield from read_files(archive, reading, lambda bound: read_entries(archive, bound))


def read_files(archive: Archive, reading: Reading, entries: Entries, repository: str = "") -> Iterator[Outcome]:
    """As ``read``, of whatever gives files; they are asked for twice."""
    source = reading.source
    try:
        licenses = _licenses(entries)
        for entry in entries(source.max_file_bytes):
            language = language_of(entry.path, entry.content)
            if language is not None:
                yield _outcome(entry, language, licenses, archive.name, source, repository)
    except ArchiveCut as cut:
        identity = document_id(source.name, "", f"{archive.name}@cut", "")
        yield lost(identity, source.name, "failed", "truncated_archive", detail=f"{archive.name}: {cut}"[:200])


def _licenses(entries: Entries) -> dict[str, str]:
    """SPDX identifier by folder."""
    found: dict[str, str] = {}
    try:
        for entry in entries(MAX_LICENSE_BYTES):
            if is_license_file(entry.path):
                identifier = license_of_text(entry.content.decode("utf-8", "replace"))
                if identifier:
                    found.setdefault(str(PurePosixPath(entry.path).parent), identifier)
    except ArchiveCut:
        return found  # the second pass comes to the same place and records it
    return found


def _outcome(
    entry: Entry, language: str, licenses: dict[str, str], archive: str, source: SourceConfig, repository: str
) -> Outcome:
    digest = payload_digest(entry.content)
    address = f"{archive}/{entry.path}"
    identity = document_id(source.name, address, entry.path, digest)

    def dropped(rule: str, score: float | None = None, threshold: float | None = None, detail: str = "") -> Outcome:
        return lost(
            identity, source.name, "dropped", rule, url=address, score=score, threshold=threshold, detail=detail
        )

    if vendored(entry.path):
        return dropped("vendored")
    if source.programming_languages and language not in source.programming_languages:
        return dropped("programming_language", detail=language)
    if entry.size > source.max_file_bytes:
        return dropped("file_too_large", float(entry.size), float(source.max_file_bytes))
    try:
        raw = entry.content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return dropped("not_utf8")
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
    license_id = license_in_header(text) or nearest_license(entry.path, licenses) or source.license
    if source.licenses and license_id not in source.licenses:
        return dropped("license", detail=license_id or "no licence found")
    return Document(
        id=identity,
        text=text,
        source=source.name,
        url=address,
        title=PurePosixPath(entry.path).name,
        language=source.language,
        license=license_id,
        origin=Origin(
            archive=archive, offset=entry.offset, length=len(entry.content), record_id=entry.path, digest=digest
        ),
        path=entry.path,
        repo=repository or _repository(archive, entry.path),
        programming_language=language,
    )


def _repository(archive: str, path: str) -> str:
    """The archive's single top folder is the repository's name; without one, the archive's."""
    top, slash, _ = path.partition("/")
    return top if slash else PurePosixPath(archive).name.split(".", 1)[0]
