"""The redact stage: what must not be learnt is masked (or its document dropped), and every span is on record.

``data/…`` holds the documents with masked texts, ``ledger/…`` those dropped, ``spans/…`` where something was masked:
document, kind and place in the text as it came. The spans never hold the text itself.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.config import Config
from infra.errors import ConfigError
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from pipeline.document import DOCUMENT_SCHEMA, read_batches
from pipeline.drop_rates import BY_SOURCE, counts_by_source
from pipeline.ledger import Fate, ledger_writer
from pipeline.redact.spans import KINDS, Span, find_spans, mask

BATCH_ROWS = 512
SPAN_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
    ],
    metadata={"headwater.spans": "1"},
)


class Policy(StrEnum):
    """What happens to a document that holds such a span."""

    MASK = "mask"
    DROP = "drop"
    OFF = "off"


class SourcePolicy(Config):
    """What is looked for in a source."""

    source: str = "*"
    """Name of the source as in the recipe; * and ? stand for anything."""
    secret: Policy = Policy.MASK
    """Keys, tokens and passwords."""
    email: Policy = Policy.MASK
    """E-mail addresses."""
    iban: Policy = Policy.MASK
    """Bank accounts, by checksum."""
    credit_card: Policy = Policy.MASK
    """Card numbers, by issuer and checksum."""
    ip: Policy = Policy.MASK
    """Public IP addresses."""
    phone: Policy = Policy.MASK
    """Telephone numbers."""

    def of(self, kind: str) -> Policy:
        policy: Policy = getattr(self, kind)
        return policy


class RedactConfig(Config):
    """What is redacted, by source: the first entry that matches a source's name holds for it."""

    sources: tuple[SourcePolicy, ...] = (
        SourcePolicy(source="code*", phone=Policy.OFF),  # numbers in code are rarely anybody's telephone
        SourcePolicy(source="*"),
    )
    """Policies by source."""


def inputs(config: RedactConfig) -> Mapping[str, str]:
    return {"decontaminate": "decontaminate"}


def policy_for(config: RedactConfig, source: str) -> SourcePolicy:
    """The entry that holds for a source. Raises ConfigError if there is none."""
    for entry in config.sources:
        if fnmatchcase(source, entry.source):
            return entry
    raise ConfigError(
        f"no redaction policy is given for the source {source!r}",
        where="redact.sources",
        remedy="Add an entry for it, or one for '*'.",
    )


def units(context: StageContext) -> Iterable[Unit]:
    for file in context.inputs["decontaminate"].files(suffix=".parquet"):
        policy_for(context.config, file.path.split("/")[1])
        yield unit_of_files(unit_id(file.path, file.digest), {"path": file.path}, [file])


def process(unit: Unit, context: UnitContext) -> Counts:
    path = str(unit.payload["path"])
    name = path.removeprefix("data/")
    policy = policy_for(context.config, path.split("/")[1])
    with (
        context.output(path) as data,
        context.output(f"ledger/{name}") as ledger,
        context.output(f"spans/{name}") as spans,
    ):
        return _redact_file(context, context.inputs["decontaminate"].url(path), policy, data, ledger, spans)


def _redact_file(context: UnitContext, url: str, policy: SourcePolicy, data: Path, ledger: Path, spans: Path) -> Counts:
    kept, dropped = 0, Counter[str]()
    with (
        pq.ParquetWriter(data, DOCUMENT_SCHEMA, compression="zstd") as data_writer,
        pq.ParquetWriter(spans, SPAN_SCHEMA, compression="zstd") as span_writer,
        ledger_writer(ledger) as fates,
    ):
        for batch in read_batches(url, batch_rows=BATCH_ROWS):
            masked, rows, found = [], [], []
            for row, text in enumerate(batch.column("text").to_pylist()):
                result, spans_here, reason = redact(text, policy)
                if reason:
                    dropped[f"redact_{reason}"] += 1
                    fates.write(_fate(batch, row, reason, spans_here))
                    continue
                masked.append(result)
                rows.append(row)
                found += [(row, span) for span in spans_here]
            kept += len(rows)
            data_writer.write_table(_with_texts(batch, rows, masked))
            span_writer.write_table(_span_table(batch, found))
            for _, span in found:
                context.metrics[span.kind] = context.metrics.get(span.kind, 0) + 1
    return Counts(incoming=kept + dropped.total(), kept=kept, dropped=dict(sorted(dropped.items())))


def redact(text: str, policy: SourcePolicy) -> tuple[str, list[Span], str]:
    """The masked text, the spans that were masked, and the kind that drops the document (none: an empty string)."""
    wanted = tuple(kind for kind in KINDS if policy.of(kind) is not Policy.OFF)
    spans = find_spans(text, wanted)
    for kind in KINDS:
        if policy.of(kind) is Policy.DROP and any(span.kind == kind for span in spans):
            return text, spans, kind
    return (mask(text, spans) if spans else text), spans, ""


def _fate(batch: pa.RecordBatch, row: int, kind: str, spans: list[Span]) -> Fate:
    return {
        "id": batch.column("id")[row].as_py(),
        "url": batch.column("url")[row].as_py(),
        "source": batch.column("source")[row].as_py(),
        "stage": "redact",
        "verdict": "dropped",
        "rule": f"redact_{kind}",
        "score": float(sum(span.kind == kind for span in spans)),
        "threshold": 0.0,
    }


def _with_texts(batch: pa.RecordBatch, rows: list[int], texts: list[str]) -> pa.Table:
    table = pa.Table.from_batches([batch]).select(DOCUMENT_SCHEMA.names).take(pa.array(rows, pa.int64()))
    text = DOCUMENT_SCHEMA.field("text")
    position = DOCUMENT_SCHEMA.get_field_index("text")
    return table.set_column(position, text, pa.array(texts, text.type)).cast(DOCUMENT_SCHEMA)


def _span_table(batch: pa.RecordBatch, found: list[tuple[int, Span]]) -> pa.Table:
    ids = batch.column("id").take(pa.array([row for row, _ in found], pa.int64()))
    spans = [span for _, span in found]
    columns = [ids, [span.kind for span in spans], [span.start for span in spans], [span.end for span in spans]]
    return pa.table(dict(zip(SPAN_SCHEMA.names, columns, strict=True)), schema=SPAN_SCHEMA)


def finalize(context: StageContext) -> None:
    total = Counter[str]()
    for receipt in context.receipts["redact"]:
        total.update({kind: int(number) for kind, number in receipt.metrics.items() if kind in KINDS})
    context.stats[BY_SOURCE] = counts_by_source(context.receipts["redact"])
    context.stats["masked"] = dict(sorted(total.items()))


STAGE = ShardStage(
    name="redact",
    code_version=2,
    config=RedactConfig,
    reference="pipeline.redact:STAGE",
    inputs=inputs,
    steps=(Step("redact", units, process),),
    finalize=finalize,
    consumes="decontaminate",
    ledgered=True,
    description="Mask personal addresses and numbers, and secrets.",
)
