"""What a source is: a way to cut its archives into parts, and a function that reads one part.

    parts(config, archives)  ->  Part, Part, …      a part is one unit of work, named by its content
    read(part, reading)      ->  Document or Fate, one for every record that could have become a document

A reader yields a ``Fate`` for whatever does not become a document, so that nothing disappears; it raises ``InputError``
only when the whole part cannot be read. Adding a source is one file with these two functions and the options of its kind, and
one line in ``pipeline/sources/registry.py`` (docs/adding-a-source.md).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import Field, field_validator
from typing_extensions import TypeIs, Unpack

from infra.config import Config, Execution, Json
from pipeline.document import Document, document_id
from pipeline.ledger import Fate, Reasons, Verdict, fate
from pipeline.profiles import Profile

if TYPE_CHECKING:
    from pipeline.extract.page import ExtractConfig  # and numba, which who only looks for files does not need

STAGE_NAME = "ingest"

EMPTY_FILE = "empty_file"
DAMAGE = frozenset(
    [
        EMPTY_FILE,
        "truncated_record",
        "corrupt_record",
        "truncated_file",
        "damaged_file",
        "truncated_dump",
        "damaged_stream",
        "damaged_page",
        "truncated_archive",
        "damaged_entry",
        "damaged_rows",
    ]
)
"""Rules of what was lost because the archive itself is cut or damaged."""

Outcome = Document | Fate


USER = re.compile(r"^([\w+.-]+)://([^/?#]+)@")
"""Who a URL logs in as: ``name`` or ``name:password``."""
TOKEN_CHARACTERS = 20
"""Hosts of repositories put a user's name there (``https://me@bitbucket.org/…``), and take a token in its place."""


class SourceConfig(Config):
    """What every source has. Each kind adds its own options, beside its reader."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="The source's name in documents and folders.")
    kind: str = Field(description="What the archives are.")
    address: str = Field(
        min_length=1,
        description="File, glob, fsspec URL or dataset://sample/…; a crawl's, dataset's or repository's name.",
    )
    profile: Profile | None = Field(
        default=None,
        description="What its documents are, where the kind does not say: rules, redaction and the classifier's sets of "
        "texts go by it.",
    )
    license: str | None = Field(default=None, description="SPDX identifier for documents that do not say their own.")
    language: str | None = Field(default=None, description="ISO 639-1 code where the whole source is in one language.")
    allow_empty: Annotated[bool, Execution()] = Field(
        default=False, description="Let the run go on where this source gives not one document."
    )

    @field_validator("address")
    @classmethod
    def _holds_no_password(cls, given: str) -> str:
        user = USER.match(given)
        if user and (":" in user[2] or len(user[2]) >= TOKEN_CHARACTERS):
            raise ValueError(
                "it holds a password or token, which records and logs would show; leave it out, and give it to git by a "
                "credential helper, to other drivers by their own settings (~/.config/fsspec, the environment)"
            )
        return given


class RecordLimit(SourceConfig):
    """Sources whose archives hold records one after another."""

    max_record_bytes: int = Field(default=64_000_000, ge=10_000, description="Larger records are not taken.")


class Salvage(SourceConfig):
    """Sources whose archives are compressed files that may be damaged."""

    salvage: bool = Field(
        default=False,
        description="Of damaged compressed files, also take what came before the damage, though no checksum proves it "
        "unaltered.",
    )


class PartBytes(SourceConfig):
    """Sources whose archives can be read from places within."""

    part_bytes: int = Field(
        default=64_000_000, ge=100_000, description="Larger archives are read as several units, if they can be."
    )


@dataclass(frozen=True)
class Archive:
    """One input file or folder: ``name`` is its name inside the source, ``digest`` identifies its content."""

    name: str
    url: str
    size: int
    digest: str


@dataclass(frozen=True)
class Part:
    """Bytes ``[start, end)`` of an archive: the records that begin there. One unit of work.

    ``end`` 0 is the archive's end, where its size is not known beforehand. ``spans`` instead names single records in
    several archives: (path, offset, length).
    """

    archive: Archive
    start: int = 0
    end: int = 0
    spans: tuple[tuple[str, int, int], ...] = ()

    def to_json(self) -> dict[str, Json]:
        archive = self.archive  # by hand: a crawl has 90,000 of them, and asdict copies every value
        return {
            "archive": {"name": archive.name, "url": archive.url, "size": archive.size, "digest": archive.digest},
            "start": self.start,
            "end": self.end,
            "spans": [list(span) for span in self.spans],
        }

    @classmethod
    def from_json(cls, payload: Any) -> "Part":
        spans = tuple((path, offset, length) for path, offset, length in payload["spans"])
        return cls(Archive(**payload["archive"]), payload["start"], payload["end"], spans)


Kind = TypeVar("Kind", bound=SourceConfig, covariant=True)


@dataclass(frozen=True)
class Reading(Generic[Kind]):
    """What a reader may need beside the part, and where it counts what no record's fate tells.

    ``unseen``: parts of kept documents that gave no text, by name (``template:infobox settlement``).
    """

    source: Kind
    extract: "ExtractConfig"
    language_model: Path | None = None
    unseen: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Reader:
    """How a kind of source is read. ``listed``: its archives are found by the address (``folders``: and a folder is one);
    otherwise ``parts`` finds them itself.

    ``identity`` says what an address holds now, for kinds that are not listed and can tell without the network; ``check``
    raises where a file on this machine cannot be what the source says.
    """

    config: type[SourceConfig]
    parts: Callable[[Any, list[Archive]], Iterable[Part]]
    read: Callable[[Part, Any], Iterator[Outcome]]
    listed: bool = True
    folders: bool = False
    identity: Callable[[Any], Json] | None = None
    check: Callable[[Any, Archive], None] | None = None


def whole_archives(_config: SourceConfig, archives: list[Archive]) -> Iterable[Part]:
    """One part an archive: for formats that can only be read from their beginning."""
    return [Part(archive, 0, archive.size) for archive in archives]


def byte_ranges(
    config: PartBytes, archives: list[Archive], has_places_within: Callable[[Archive], bool]
) -> Iterator[Part]:
    """Archives in ranges of ``part_bytes``; whole those that are smaller, or cannot be read from places within."""
    for archive in archives:
        if archive.size <= config.part_bytes or not has_places_within(archive):
            yield Part(archive, 0, archive.size)
            continue
        for start in range(0, archive.size, config.part_bytes):
            yield Part(archive, start, min(start + config.part_bytes, archive.size))


def is_fate(outcome: Outcome) -> TypeIs[Fate]:
    return "verdict" in outcome


def damaged(source: str, archive: str, rule: str, start: int, length: int, why: str) -> Fate:
    """The ledger row of bytes that cannot be read: how many records they hold is not known."""
    identity = document_id(source, "", f"{archive}@{start}", rule)
    return lost(identity, source, "failed", rule, detail=f"{archive} bytes {start}+{length}: {why[:200]}")


def lost(
    identity: bytes, source: str, verdict: Verdict, rule: str, *, url: str | None = None, **more: Unpack[Reasons]
) -> Fate:
    """The ledger row of a record that does not become a document."""
    return fate(STAGE_NAME, verdict, rule, identity, url, source, **more)
