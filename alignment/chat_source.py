"""Conversations as documents, so that the corpus stages can be put over them: dedup, decontaminate, redact.

    ingest: {sources: [{name: chats, kind: "alignment.chat_source:CHATS", address: talks/*.jsonl}]}
    dedup: {}
    redact: {}
    sft: {conversations: dataset://redact/chats/*.parquet}

A document's text is the conversation written down (``written``), each turn behind a control character that no person types;
``alignment.forms`` reads it back. So a stage sees the words of all turns as it sees those of a page: it may drop the
document or mask a part of it, and what is left is the conversation. Its ``url`` is the conversation's id.
"""

from collections.abc import Iterator
from pathlib import Path

from alignment.forms import conversation_of, written
from alignment.records import Reading as Told
from alignment.records import Refusal, Unusable, records, understood
from pipeline.document import Document, Origin, document_id
from pipeline.profiles import Profile
from pipeline.sources.contract import Outcome, Part, Reader, Reading, SourceConfig, lost, whole_archives
from pipeline.sources.headers import payload_digest


class ChatSource(SourceConfig):
    """Conversations in any form that fine-tuning reads."""

    profile: Profile = Profile.CHAT


def read(part: Part, reading: Reading[ChatSource]) -> Iterator[Outcome]:
    """A document a conversation; a record that is none costs itself."""
    source, archive, told = reading.source, part.archive, list[Refusal]()
    path = Path(archive.url.removeprefix("file://"))
    for record in records(path, Told(tell=told.append)):
        yield from _refused(told, source.name, archive.name)
        told.clear()
        place = f"{archive.name}@{record.line.number}"
        try:
            conversation = understood(record, conversation_of)
        except Unusable as error:
            yield from _refused([record.refusal(error)], source.name, archive.name)
            continue
        text = written(conversation.messages)
        digest = payload_digest(text.encode())
        identity = document_id(source.name, conversation.id, place, digest)
        origin = Origin(
            archive=archive.name,
            offset=record.line.offset,
            length=len(record.line.data),
            record_id=place,
            digest=digest,
        )
        yield Document(
            id=identity,
            text=text,
            source=source.name,
            url=conversation.id,
            language=source.language,
            license=source.license,
            origin=origin,
        )
    yield from _refused(told, source.name, archive.name)


def _refused(told: list[Refusal], source: str, archive: str) -> Iterator[Outcome]:
    for refusal in told:
        identity = document_id(source, "", f"{archive}@{refusal.line.number}", refusal.reason)
        detail = f"{refusal.place}: {refusal.detail}" if refusal.detail else refusal.place
        yield lost(identity, source, "failed", refusal.reason, detail=detail[:300])


CHATS = Reader(ChatSource, whole_archives, read)
