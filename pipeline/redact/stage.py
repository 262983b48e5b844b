"""The redact stage: what must not be learnt is masked (or its document dropped), and every span is on record.

``data/…`` holds the documents with masked texts, ``ledger/…`` those dropped, ``spans/…`` where something was masked:
document, kind and place in the text as it came. The spans never hold the text itself.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import pyarrow as pa
from pydantic import field_validator

from infra.config import Later
from infra.extensions import load
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from pipeline.document import RowWriter, identity_of, read_batches, with_texts
from pipeline.drop_rates import BY_SOURCE, counts_by_source
from pipeline.ledger import documents_and_fates, fate
from pipeline.profiles import BySource, Profile, SourceEntry, entry_for, source_of
from pipeline.redact.spans import KINDS, FinderFailed, OutsideFinder, Span, find_all, mask

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


class SourcePolicy(SourceEntry):
    """What is looked for in a source."""

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
    others: Annotated[Policy, Later()] = Policy.MASK
    """What the finders of other packages find."""

    def of(self, kind: str) -> Policy:
        policy: Policy = getattr(self, kind) if kind in KINDS else self.others
        return policy


class RedactConfig(BySource):
    """What is redacted."""

    sources: tuple[SourcePolicy, ...] = (
        SourcePolicy(profile=Profile.CODE, phone=Policy.OFF),  # numbers in code are rarely anybody's telephone
        SourcePolicy(),
    )
    """Policies by source: the first entry that fits a source's name and profile holds for it."""
    finders: Annotated[tuple[str, ...], Later()] = ()
    """Finders of other packages beside ours, by dotted path or by the name under which an installed package offers them."""

    @field_validator("finders")
    @classmethod
    def _are_there(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for finder in others(given):
            if finder.kind in KINDS or not re.fullmatch("[a-z][a-z0-9_]*", finder.kind):
                raise ValueError(
                    f"a finder calls its kind {finder.kind!r}: it needs a name of its own, in small letters"
                )
        return given


def others(finders: Sequence[str]) -> list[OutsideFinder]:
    return [load(each, "finders", OutsideFinder) for each in finders]


def inputs(config: RedactConfig) -> Mapping[str, str]:
    return {"decontaminate": "decontaminate"}


def policy_for(config: RedactConfig, source: str) -> SourcePolicy:
    """The entry that holds for a source. Raises ConfigError if there is none."""
    return entry_for(config, config.sources, source, "redact.sources")


def units(context: StageContext) -> Iterable[Unit]:
    for file in context.inputs["decontaminate"].files(suffix=".parquet"):
        policy_for(context.config, source_of(file.path))
        yield unit_of_files(unit_id(file.path, file.digest), {"path": file.path}, [file])


def process(unit: Unit, context: UnitContext) -> Counts:
    path = str(unit.payload["path"])
    name = path.removeprefix("data/")
    policy, finders = policy_for(context.config, source_of(path)), others(context.config.finders)
    with (
        context.output(f"spans/{name}") as spans_path,
        documents_and_fates(context, name, level=1) as file,
        RowWriter(spans_path, SPAN_SCHEMA, level=1) as spans,
    ):
        for batch in read_batches(context.inputs["decontaminate"].url(path), batch_rows=BATCH_ROWS):
            masked: dict[int, str] = {}
            found: list[tuple[int, Span]] = []
            for row, text in enumerate(batch.column("text").to_pylist()):
                try:
                    masked[row], here, reason = redact(text, policy, finders)
                except FinderFailed as error:
                    named = identity_of(batch, row)
                    file.lose(fate("redact", "failed", "finder_error", **named, detail=str(error)[:200]))
                    continue
                if reason:
                    del masked[row]
                    score = float(sum(span.kind == reason for span in here))
                    rule = f"redact_{reason}"
                    file.lose(fate("redact", "dropped", rule, **identity_of(batch, row), score=score, threshold=0.0))
                else:
                    found += [(row, span) for span in here]
            file.keep(with_texts(batch, masked).take(pa.array(list(masked), pa.int64())))
            spans.write_table(_span_table(batch, found))
            for _, span in found:
                context.metrics[span.kind] = context.metrics.get(span.kind, 0) + 1
    return file.counts


def redact(text: str, policy: SourcePolicy, finders: Sequence[OutsideFinder] = ()) -> tuple[str, list[Span], str]:
    """The masked text, the spans that were masked, and the kind that drops the document (none: an empty string)."""
    wanted = tuple(kind for kind in KINDS if policy.of(kind) is not Policy.OFF)
    wished = [finder for finder in finders if policy.others is not Policy.OFF]
    spans = find_all(text, wanted, wished)
    for kind in (*KINDS, *(finder.kind for finder in wished)):
        if policy.of(kind) is Policy.DROP and any(span.kind == kind for span in spans):
            return text, spans, kind
    return (mask(text, spans, wished) if spans else text), spans, ""


def _span_table(batch: pa.RecordBatch, found: list[tuple[int, Span]]) -> pa.Table:
    ids = batch.column("id").take(pa.array([row for row, _ in found], pa.int64()))
    spans = [span for _, span in found]
    columns = [ids, [span.kind for span in spans], [span.start for span in spans], [span.end for span in spans]]
    return pa.table(dict(zip(SPAN_SCHEMA.names, columns, strict=True)), schema=SPAN_SCHEMA)


def finalize(context: StageContext) -> None:
    total = Counter[str]()
    kinds = {*KINDS, *(finder.kind for finder in others(context.config.finders))}
    for receipt in context.receipts["redact"]:
        total.update({kind: int(number) for kind, number in receipt.metrics.items() if kind in kinds})
    context.stats[BY_SOURCE] = counts_by_source(context.receipts["redact"])
    context.stats["masked"] = dict(sorted(total.items()))


STAGE = ShardStage(
    name="redact",
    code_version=6,
    config=RedactConfig,
    reference="pipeline.redact:STAGE",
    inputs=inputs,
    steps=(Step("redact", units, process),),
    finalize=finalize,
    consumes="decontaminate",
    ledgered=True,
    description="Mask personal addresses and numbers, and secrets.",
)
