"""What a source is: a way to cut its archives into parts, and a function that reads one part.

    parts(config, archives)  ->  Part, Part, …      a part is one unit of work, named by its content
    read(part, reading)      ->  Document or Fate, one for every record that could have become a document

A reader yields a ``Fate`` for whatever does not become a document, so that nothing disappears; it raises ``InputError``
only when the whole part cannot be read. Adding a source is one file with these two functions and one line in
``pipeline/sources/registry.py`` (docs/adding-a-source.md).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypeIs

from infra.config import Config, Execution, Json
from pipeline.document import Document, document_id
from pipeline.extract.page import ExtractConfig
from pipeline.ledger import Fate

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
Verdict = Literal["dropped", "failed"]
Kind = Literal["common_crawl", "warc", "wet", "wikipedia", "code", "git", "jsonl", "parquet", "hugging_face"]


class SourceConfig(Config):
    """One source of a recipe. Options that a kind does not use are ignored by it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="The source's name in documents and folders.")
    kind: Kind = Field(description="What the archives are.")
    address: str = Field(
        min_length=1,
        description="File, glob, fsspec URL or dataset://sample/…; a crawl's, dataset's or repository's name.",
    )
    part_bytes: int = Field(
        default=64_000_000, ge=100_000, description="WARC, bz2 dumps: larger archives are read as several units."
    )
    content: Literal["warc", "wet"] = Field(default="warc", description="common_crawl: pages, or their text.")
    paths: str = Field(default="", description="common_crawl: only archives whose path matches, with * and ?.")
    archives: int = Field(default=0, ge=0, description="common_crawl: at most so many archives; 0 takes all.")
    fraction: float = Field(default=1.0, gt=0, le=1, description="common_crawl: the share of the archives to take.")
    domain: str = Field(default="", description="common_crawl: only captures of this domain, found by the URL index.")
    mirror: Annotated[str, Execution()] = Field(
        default="https://data.commoncrawl.org", description="common_crawl: HTTPS, s3://commoncrawl, or a folder."
    )
    index: Annotated[str, Execution()] = Field(
        default="https://index.commoncrawl.org", description="common_crawl: the URL index's server."
    )
    cache: Annotated[str, Execution()] = Field(
        default="", description="Folder that keeps fetched archives; empty: none."
    )
    license: str | None = Field(default=None, description="SPDX identifier for documents that do not say their own.")
    language: str | None = Field(default=None, description="ISO 639-1 code where the whole source is in one language.")
    subset: str = Field(default="", description="hugging_face: the dataset's configuration.")
    split: str = Field(default="train", description="hugging_face: the split.")
    revision: str = Field(default="", description="git, hugging_face: commit, branch or tag; empty: the newest.")
    max_repository_bytes: int = Field(
        default=2_000_000_000, ge=1_000, description="git: largest fetch of a repository."
    )
    text_column: str = Field(default="text", description="jsonl, parquet, hugging_face: the column with the text.")
    id_column: str | None = Field(default=None, description="Tables: the record's own id; default its position.")
    url_column: str | None = Field(default=None, description="Tables: the URL.")
    title_column: str | None = Field(default=None, description="Tables: the title.")
    author_column: str | None = Field(default=None, description="Tables: the author, or a list of them.")
    date_column: str | None = Field(default=None, description="Tables: the date.")
    license_column: str | None = Field(default=None, description="Tables: the licence.")
    programming_languages: tuple[str, ...] = Field(
        default=(), description="code, git: keep only these languages; empty keeps all."
    )
    licenses: tuple[str, ...] = Field(
        default=(),
        description="code, git: keep only files that these SPDX licences permit (MIT permits a file under "
        "MIT OR GPL-3.0-only); empty keeps all.",
    )
    max_file_bytes: int = Field(default=1_000_000, ge=1_000, description="code, git: larger files are dropped.")
    max_record_bytes: int = Field(
        default=64_000_000, ge=10_000, description="WARC, dumps, tables: larger records are not taken."
    )
    salvage: bool = Field(
        default=False,
        description="Compressed files that are damaged: also take what came before the damage, though no checksum "
        "proves it unaltered.",
    )
    allow_empty: Annotated[bool, Execution()] = Field(
        default=False, description="Let the run go on where this source gives not one document."
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


@dataclass(frozen=True)
class Reading:
    """What a reader may need beside the part, and where it counts what no record's fate tells.

    ``unseen``: parts of kept documents that gave no text, by name (``template:infobox settlement``).
    """

    source: SourceConfig
    extract: ExtractConfig
    language_model: Path | None = None
    unseen: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Source:
    """A kind of source. ``listed``: its archives are found by the address; otherwise ``parts`` finds them itself.

    ``identity`` says what an address holds now, for kinds that are not listed and can tell without the network.
    """

    parts: Callable[[SourceConfig, list[Archive]], Iterable[Part]]
    read: Callable[[Part, Reading], Iterator[Outcome]]
    listed: bool = True
    identity: Callable[[SourceConfig], Json] | None = None


def whole_archives(_config: SourceConfig, archives: list[Archive]) -> Iterable[Part]:
    """One part an archive: for formats that can only be read from their beginning."""
    return [Part(archive, 0, archive.size) for archive in archives]


def is_fate(outcome: Outcome) -> TypeIs[Fate]:
    return "verdict" in outcome


def damaged(source: str, archive: str, rule: str, start: int, length: int, why: str) -> Fate:
    """The ledger row of bytes that cannot be read: how many records they hold is not known."""
    identity = document_id(source, "", f"{archive}@{start}", rule)
    return lost(identity, source, "failed", rule, detail=f"{archive} bytes {start}+{length}: {why[:200]}")


def lost(
    identity: bytes,
    source: str,
    verdict: Verdict,
    rule: str,
    *,
    url: str | None = None,
    detail: str | None = None,
    score: float | None = None,
    threshold: float | None = None,
    survivor: bytes | None = None,
) -> Fate:
    """The ledger row of a record that does not become a document."""
    return Fate(
        id=identity,
        stage=STAGE_NAME,
        verdict=verdict,
        rule=rule,
        url=url,
        source=source,
        score=score,
        threshold=threshold,
        survivor_id=survivor,
        detail=detail or None,
    )
