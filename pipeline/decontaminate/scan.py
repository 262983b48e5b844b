"""Step ``scan``: every document against the table; documents, ledger and evidence of one file.

``evidence/<file>.parquet`` names, for each contaminated document, the item and field it overlaps, how much and where,
whatever the policy does about it.
"""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id, unit_of_files
from pipeline.decontaminate.config import DecontaminateConfig
from pipeline.decontaminate.index import Index, open_index
from pipeline.document import DOCUMENT_SCHEMA, RowWriter, document_writer, read_batches
from pipeline.ledger import ledger_writer

if TYPE_CHECKING:
    from pipeline.decontaminate.match import Match
    from pipeline.ngrams import Analyzer

RULE = "evaluation_overlap"
EVIDENCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("url", pa.string()),
        pa.field("source", pa.string()),
        pa.field("evaluation", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("overlap", pa.float64(), nullable=False),
        pa.field("matched", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
    ],
    metadata={"headwater.evidence": "1"},
)
"""``start`` and ``end`` are characters of the document's text before any cut; ``excerpt`` is its beginning."""
_EXCERPT = 200


def scan_units(context: StageContext) -> Iterable[Unit]:
    for file in context.inputs["dedup"].files("data/", ".parquet"):
        name = file.path.removeprefix("data/").removesuffix(".parquet")
        yield unit_of_files(unit_id("scan", file.path, file.digest), {"file": name}, [file])


@functools.lru_cache(maxsize=1)
def _index(work_root: str) -> Index:
    return open_index(work_root)


def scan_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.decontaminate.match import matches
    from pipeline.decontaminate.table import hits
    from pipeline.ngrams import Analyzer
    from pipeline.words import text_buffers

    name = str(unit.payload["file"])
    config: DecontaminateConfig = context.config
    index = _index(context.work_root)
    analyzer = Analyzer(config.ngram, config.max_characters)
    incoming = dropped = cuts = 0
    with (
        context.output(f"data/{name}.parquet") as data_path,
        context.output(f"ledger/{name}.parquet") as ledger_path,
        context.output(f"evidence/{name}.parquet") as evidence_path,
        document_writer(data_path) as documents,
        ledger_writer(ledger_path) as ledger,
        RowWriter(evidence_path, EVIDENCE_SCHEMA) as evidence,
    ):
        for batch in read_batches(context.inputs["dedup"].url(f"data/{name}.parquet")):
            incoming += batch.num_rows
            data, offsets = text_buffers(batch["text"])
            found_in = hits(analyzer, data, offsets, index.keys, index.values)
            keep = np.ones(batch.num_rows, np.bool_)
            cut: dict[int, str] = {}
            for row in np.flatnonzero(found_in).tolist():
                begin, end = int(offsets[row]), int(offsets[row + 1])
                found = matches(data, begin, end, analyzer, index, config)
                if not found:
                    continue
                text = data[begin:end].tobytes()
                action, left = _act(text, found, analyzer, config)
                record = {column: batch[column][row].as_py() for column in ("id", "url", "source")}
                for match in found:
                    evidence.write(record | _evidence(match, text, index, action))
                keep[row] = action != "drop"
                if action == "drop":
                    ledger.write(record | _fate(found[0], index, config))
                elif action == "cut":
                    cut[row] = left
            dropped += int((~keep).sum())
            cuts += len(cut)
            documents.write_table(_selected(batch, keep, cut))
    context.metrics["cut"] = float(cuts)
    return Counts(incoming, incoming - dropped, {RULE: dropped} if dropped else {})


def _act(text: bytes, found: "list[Match]", analyzer: "Analyzer", config: DecontaminateConfig) -> tuple[str, str]:
    """What the policy does with a contaminated document, and the text left if it is cut."""
    if config.policy != "cut":
        return config.policy, ""
    from pipeline.decontaminate.match import without

    left = without(text, found)
    if analyzer.words(np.frombuffer(left, np.uint8), 0, len(left)) < config.min_words_left:
        return "drop", ""
    return "cut", left.decode()


def _evidence(match: "Match", text: bytes, index: Index, action: str) -> dict[str, Any]:
    evaluation, item, field = index.names[match.entry]
    begin, end = match.spans[0][0], match.spans[-1][1]
    start = len(text[:begin].decode())
    return {
        "evaluation": evaluation,
        "item": item,
        "field": field,
        "kind": match.kind,
        "overlap": match.overlap,
        "matched": match.matched,
        "total": match.total,
        "start": start,
        "end": start + len(text[begin:end].decode()),
        "excerpt": text[begin:end].decode()[:_EXCERPT],
        "action": action,
    }


def _fate(match: "Match", index: Index, config: DecontaminateConfig) -> dict[str, Any]:
    evaluation, item, field = index.names[match.entry]
    what = "a paragraph is in" if match.kind == "paragraph" else "the text holds"
    return {
        "stage": "decontaminate",
        "verdict": "dropped",
        "rule": RULE,
        "score": match.overlap,
        "threshold": config.overlap,
        "detail": f"{what} {field} of item {item} of {evaluation}: {match.matched} of {match.total} n-grams",
    }


def _selected(batch: pa.RecordBatch, keep: NDArray[np.bool_], cut: dict[int, str]) -> pa.Table:
    table = pa.Table.from_batches([batch])
    if cut:
        texts = table["text"].to_pylist()
        for row, text in cut.items():
            texts[row] = text
        table = table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts, pa.large_string()))
    return table.filter(pa.array(keep)).cast(DOCUMENT_SCHEMA)
