"""A source: Markdown files, one document for each section under a heading of the second level."""

import hashlib
import re
from collections.abc import Iterator

from pipeline.document import Document, document_id
from pipeline.extract.clean import clean_text
from pipeline.sources.contract import Outcome, Part, Reader, Reading, SourceConfig, lost, whole_archives
from pipeline.sources.files import open_archive

SECTION = re.compile(rb"^## +(.+)$", re.MULTILINE)


class NotesSource(SourceConfig):
    """Markdown notes."""

    min_characters: int = 1
    """Shorter sections are dropped."""


def read(part: Part, reading: Reading[NotesSource]) -> Iterator[Outcome]:
    """Every section becomes a document, or a row of the ledger that says why not."""
    source, archive = reading.source, part.archive
    with open_archive(archive) as stream:
        data = stream.read()
    heads = [*SECTION.finditer(data)]
    for head, end in zip(heads, [*(each.start() for each in heads[1:]), len(data)], strict=True):
        raw = data[head.end() : end]
        title = head[1].decode("utf-8", "replace").strip()
        digest = hashlib.sha256(raw).hexdigest()
        identity = document_id(source.name, archive.name, title, digest)
        text = clean_text(raw.decode("utf-8", "replace"))
        if len(text) < source.min_characters:
            yield lost(identity, source.name, "dropped", "short_section", url=None, detail=title[:100])
            continue
        origin = {
            "archive": archive.name, "offset": head.start(), "length": end - head.start(), "record_id": title,
            "digest": digest,
        }  # fmt: skip
        yield Document(id=identity, text=text, title=title, source=source.name, origin=origin)


NOTES = Reader(NotesSource, whole_archives, read)
