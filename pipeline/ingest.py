"""Stage ``ingest``: archives become documents.

Every source of the recipe is a list of archives, cut into parts (``pipeline/sources``). A part is one unit: its documents
are written to ``data/<source>/<unit>.parquet`` and the fate of every record that did not become one to
``ledger/<source>/<unit>.parquet``, so that all records of an archive are accounted for.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.config import Config, Execution, Json
from infra.errors import InputError
from infra.stage import Counts, Receipt, ShardStage, StageContext, Step, Unit, UnitContext, unit_id
from infra.store.address import dataset_file, dataset_inputs, file_url
from infra.store.dataset import Dataset
from infra.store.files import is_local
from pipeline.drop_rates import BY_SOURCE, counts_by_source
from pipeline.extract.page import ExtractConfig
from pipeline.extract.url_rules import read_url_rules
from pipeline.fasttext_model import digest_of, local_copy
from pipeline.ledger import documents_and_fates
from pipeline.profiles import Profile
from pipeline.source_balance import DAMAGED, check_sources, damage_sentences
from pipeline.sources.code import CodeSource
from pipeline.sources.contract import (
    DAMAGE,
    EMPTY_FILE,
    Outcome,
    Part,
    Reading,
    SourceConfig,
    damaged,
    is_fate,
    lost,
)
from pipeline.sources.files import find_archives, local_archives, no_archive
from pipeline.sources.http import is_http
from pipeline.sources.outside import checked
from pipeline.sources.registry import SOURCES, AnySource, reader_of
from pipeline.sources.tables import JsonlSource
from pipeline.sources.warc import WarcSource
from pipeline.sources.wikipedia import WikipediaSource

SAMPLE_SOURCES = (
    WikipediaSource(name="wikipedia", kind="wikipedia", address="dataset://sample/wikipedia/enwiki.xml.bz2"),
    WarcSource(name="web", kind="warc", address="dataset://sample/web/pages.warc.gz", part_bytes=2_000_000),
    CodeSource(name="code", kind="code", address="dataset://sample/code/stdlib.tar.gz", license="PSF-2.0"),
    JsonlSource(
        name="texts",
        kind="jsonl",
        address="dataset://sample/texts/*.jsonl",
        profile=Profile.NONE,  # excerpts of articles and pages that were cleaned before
        id_column="id",
        language="en",
    ),
)


UNSEEN = "unseen "
"""Head of the names of metrics that count what gave no text (``Reading.unseen``)."""
MOST_UNSEEN = 300
"""So many names are counted, of a unit and in all."""
UNKNOWN_SIZE = 64_000_000
"""Stands for the bytes of an archive that are known only when it is read, in estimates of the remaining time."""


class IngestConfig(Config):
    """Where documents come from and how pages become text."""

    sources: tuple[AnySource, ...] = Field(default=SAMPLE_SOURCES, min_length=1, description="The sources to read.")
    extract: ExtractConfig = Field(default=ExtractConfig(), description="How pages become text.")
    language_model: str = Field(
        default="dataset://sample/lid.176.ftz",
        description="fastText language identifier; read only if extract.languages names languages.",
    )

    damaged: Annotated[Literal["warn", "fail"], Execution()] = Field(
        default="warn",
        description="What a damaged or cut archive does: the dataset says what is lost of it, or is not published.",
    )

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "IngestConfig":
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name")
        return self


def inputs(config: IngestConfig) -> Mapping[str, str]:
    """The datasets that addresses refer to."""
    addresses = [source.address for source in config.sources]
    if config.extract.languages:
        addresses.append(config.language_model)
    return dataset_inputs(addresses)


def external(config: IngestConfig) -> Json:
    """What local addresses hold now, so that a file added or changed is noticed. Remote stores are taken at their word:
    listing them on every plan would need the network (change the address, or run with ``--force``)."""
    found: dict[str, Json] = {}
    for source in config.sources:
        reader = reader_of(source.kind)
        if reader.identity is not None and (held := reader.identity(source)) is not None:
            found[source.name] = held
        if reader.listed and _lies_here(source):
            archives = local_archives(source.address, folders=reader.folders)
            if not archives:
                raise no_archive(source.address)
            listing: list[Json] = [[archive.name, archive.size, archive.digest] for archive in archives]
            found[source.name] = unit_id(listing)
    if config.extract.languages and dataset_file(config.language_model) is None:
        found["language model"] = digest_of(config.language_model)
    for address in config.extract.blocked_urls:
        found[f"blocked {len(found)}"] = digest_of(address)
    return found or None


def _lies_here(source: SourceConfig) -> bool:
    """Whether its address means files of this machine."""
    return dataset_file(source.address) is None and not is_http(source.address) and is_local(source.address)


def check(config: IngestConfig) -> None:
    """The first file of each source that lies on this machine, as far as its kind can be checked: the columns of tables."""
    for source in config.sources:
        look = reader_of(source.kind).check
        archives = local_archives(source.address) if look is not None and _lies_here(source) else []
        if look is not None and archives:
            look(source, archives[0])


def units(context: StageContext) -> Iterator[Unit]:
    config: IngestConfig = context.config
    for source in config.sources:
        reader = reader_of(source.kind)
        archives = find_archives(source.address, context.inputs, folders=reader.folders) if reader.listed else []
        for part in reader.parts(source, archives):
            archive = part.archive
            yield Unit(
                unit_id(source.name, archive.name, archive.size, archive.digest, part.start, part.end),
                {"source": source.name, "part": part.to_json()},
                weight=_bytes_of(part) or UNKNOWN_SIZE,
                files=(archive.name,),
                bytes=_bytes_of(part) or None,
            )


def _bytes_of(part: Part) -> int:
    """What the part reads; 0 where that is known only when it is read."""
    if part.spans:
        return sum(length for *_, length in part.spans)
    return part.end - part.start if part.archive.size else 0


def process(unit: Unit, context: UnitContext) -> Counts:
    config: IngestConfig = context.config
    source = next(source for source in config.sources if source.name == unit.payload["source"])
    reading = Reading(source, config.extract, language_model_of(config, context.inputs, context.scratch))
    part = Part.from_json(unit.payload["part"])
    characters = broken = 0
    with documents_and_fates(context, f"{source.name}/{unit.id}.parquet") as file:
        for outcome in _unblocked(_outcomes(part, reading), config):
            if is_fate(outcome):
                file.lose(outcome)
                broken += outcome["rule"] in DAMAGE
            else:
                file.keep(outcome)
                characters += len(outcome["text"])
    context.metrics["bytes"] = _bytes_of(part)
    context.metrics["characters"] = characters
    context.metrics[DAMAGED] = broken
    most = sorted(reading.unseen.items(), key=lambda item: (-item[1], item[0]))[:MOST_UNSEEN]
    context.metrics |= {f"{UNSEEN}{name}": number for name, number in most if number}
    return file.counts


def _outcomes(part: Part, reading: Reading[SourceConfig]) -> Iterator[Outcome]:
    """What the reader finds; of a file without a byte, which some programs write for a share of nothing, that it is so."""
    reader, archive = reader_of(reading.source.kind), part.archive
    if reader.listed and not archive.size and not is_http(archive.url):
        yield damaged(reading.source.name, archive.name, EMPTY_FILE, 0, 0, "the file is empty")
    else:
        found = reader.read(part, reading)
        yield from found if reading.source.kind in SOURCES else checked(found, reading.source)


def _unblocked(outcomes: Iterator[Outcome], config: IngestConfig) -> Iterator[Outcome]:
    """Addresses that are not wanted are not wanted from any source. (Crawls ask before they extract.)"""
    if not config.extract.blocked_urls:
        yield from outcomes
        return
    rules = read_url_rules(config.extract.blocked_urls)
    for outcome in outcomes:
        url = outcome.get("url")
        if not is_fate(outcome) and url and (entry := rules.entry_for(url)):
            yield lost(outcome["id"], outcome["source"], "dropped", "url_blocked", url=url, detail=entry[:200])
        else:
            yield outcome


def finalize(context: StageContext) -> None:
    """Counts by source, the bytes that were read and the characters found: what drift and forecasts compare with.
    Refuses a source that gave nothing, and says what is damaged."""
    config: IngestConfig = context.config
    receipts = context.receipts["read"]
    counts = counts_by_source(receipts)
    context.stats[BY_SOURCE] = counts
    sentences = damage_sentences(context)
    if sentences and config.damaged == "fail":
        raise InputError(
            sentences[0] + (f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""),
            where=context.dataset_root,
            remedy="Fetch it again, or set ingest.damaged to warn.",
        )
    check_sources(context, config.sources, counts)
    context.warnings += sentences
    for metric in ("bytes", "characters"):
        context.stats[metric] = int(sum(receipt.metrics[metric] for receipt in receipts))
    if unseen := _unseen(receipts):
        context.stats["unseen"] = unseen


def _unseen(receipts: Iterable[Receipt]) -> dict[str, Json]:
    """What gave no text in documents that are kept, the most frequent first: ``{kind: {name: number}}``."""
    total: Counter[str] = Counter()
    for receipt in receipts:
        total.update(
            {name.removeprefix(UNSEEN): int(n) for name, n in receipt.metrics.items() if name.startswith(UNSEEN)}
        )
    found: dict[str, Json] = {}
    for name, number in sorted(total.items(), key=lambda item: (-item[1], item[0])):
        kind, colon, what = name.partition(":")
        if not colon:
            found[kind] = number
        else:
            names = found.setdefault(kind, {})
            if isinstance(names, dict) and len(names) < MOST_UNSEEN:
                names[what] = number
    return found


def language_model_of(config: IngestConfig, inputs: Mapping[str, Dataset], scratch: Path) -> Path | None:
    """The identifier for the quick look at raw text, if languages are chosen."""
    if not config.extract.languages:
        return None
    return local_copy(file_url(config.language_model, inputs), scratch)


STAGE = ShardStage(
    name="ingest",
    code_version=20,
    config=IngestConfig,
    reference="pipeline.ingest:STAGE",
    inputs=inputs,
    steps=(Step("read", units, process),),
    finalize=finalize,
    external=external,
    check=check,
    ledgered=True,
    description="Archives become documents; what does not is in the ledger.",
)
