"""Step ``scan``: every document against the table; documents, ledger and evidence of one file.

``evidence/<file>.parquet`` names, for each contaminated document, the item and field it overlaps, how much and where,
whatever the policy does about it.
"""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id, unit_of_files
from pipeline.decontaminate.config import DecontaminateConfig
from pipeline.decontaminate.index import Index, open_index
from pipeline.document import RowWriter, excerpt, identity_of, read_batches, with_texts
from pipeline.ledger import Reasons, documents_and_fates, fate

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
    cuts = 0
    with (
        context.output(f"evidence/{name}.parquet") as evidence_path,
        documents_and_fates(context, f"{name}.parquet") as file,
        RowWriter(evidence_path, EVIDENCE_SCHEMA) as evidence,
    ):
        for batch in read_batches(context.inputs["dedup"].url(f"data/{name}.parquet")):
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
                record = identity_of(batch, row)
                for match in found:
                    evidence.write(record | _evidence(match, text, index, action))
                keep[row] = action != "drop"
                if action == "drop":
                    file.lose(fate("decontaminate", "dropped", RULE, **record, **_reasons(found[0], index, config)))
                elif action == "cut":
                    cut[row] = left
            cuts += len(cut)
            file.keep(with_texts(batch, cut).filter(pa.array(keep)))
    context.metrics["cut"] = float(cuts)
    return file.counts


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
    return {
        "evaluation": evaluation,
        "item": item,
        "field": field,
        "kind": match.kind,
        "overlap": match.overlap,
        "matched": match.matched,
        "total": match.total,
        **excerpt(text, match.spans[0][0], match.spans[-1][1]),
        "action": action,
    }


def _reasons(match: "Match", index: Index, config: DecontaminateConfig) -> Reasons:
    evaluation, item, field = index.names[match.entry]
    what = "a paragraph is in" if match.kind == "paragraph" else "the text holds"
    return {
        "score": match.overlap,
        "threshold": config.overlap,
        "detail": f"{what} {field} of item {item} of {evaluation}: {match.matched} of {match.total} n-grams",
    }
