"""One document as a reader sees it: as crawled, as extracted, after each stage with what changed, and what became of it.

Texts are cut at ``MOST_CHARACTERS`` and lists at ``MOST_ROWS``; what is left out is said. Nothing here interprets a text:
markup is characters like any other.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.provenance.differences import earlier_snapshots, read_by
from flows.provenance.fates import DocumentFate, document_rows, fate_of, find_rows, home_of
from flows.provenance.trace import Steps
from flows.stages import LAST, document_stages
from infra.errors import HeadwaterError, InputError, NotFound
from infra.store.dataset import Dataset
from infra.store.store import Store
from pipeline.dedup.difference import difference, hunks
from pipeline.ingest import IngestConfig
from pipeline.shards.reader import Lineage, ShardSet, splits
from pipeline.sources.again import stored_record

MOST_CHARACTERS = 200_000
MOST_ROWS = 200
MOST_DUPLICATES = 20
SECONDS = 4.0
"""After so long duplicates are named without their differences."""
Row = dict[str, Any]
_KINDS = {"both": "equal", "dropped": "delete", "survivor": "insert"}


def document_view(store: Store, url_or_id: str, label: str = "latest") -> Row:
    """Everything that is known of one document. Raises NotFound if it was never seen."""
    stages = document_stages(store, label)
    if not stages:
        raise NotFound(f"no document stage is published under {label[:100]!r}", where=store.address)
    fate = _fate(url_or_id, stages)
    identity, home = bytes.fromhex(fate.id), home_of(bytes.fromhex(fate.id), stages[0])
    rows = document_rows(stages[0], "data/", identity, ["id", "title", "source", "language", "origin"], home)
    about = rows[0] if rows else {}
    return {
        "id": fate.id,
        "url": fate.url,
        "title": about.get("title"),
        "source": about.get("source") or home.partition("/")[0] or None,
        "language": about.get("language") or fate.document.get("language"),
        "about": fate.document,
        "origin": about.get("origin"),
        "others": list(fate.others[:MOST_ROWS]),
        "stages": list(_through_stages(fate, stages, identity, home)),
        "crawled": _crawled(store, stages[0], about),
        "duplicates": _duplicates(fate, stages, identity),
        "tokens": _tokens(store, stages, identity, label),
    }


def _fate(url_or_id: str, stages: Sequence[Dataset]) -> DocumentFate:
    try:
        return fate_of(url_or_id, stages)
    except InputError as error:
        raise NotFound(error.error, where=error.where, remedy=error.remedy) from None


# ---- through the stages ---------------------------------------------------------------------------------------------


def _through_stages(fate: DocumentFate, stages: Sequence[Dataset], identity: bytes, home: str) -> Iterator[Row]:
    """Each stage that met the document: its verdict, and its text where the stage made or changed it.

    ``text`` and ``changes`` are null where a stage kept the text as it was, or has none.
    """
    by_name = {dataset.name: dataset for dataset in stages}
    before: str | None = None
    for verdict in fate.history:
        dataset = by_name[verdict.stage]
        row: Row = asdict(verdict) | {"dataset": _address(dataset), "text": None, "changes": None, "cut": False}
        if verdict.verdict == "kept" and dataset.kind != LAST:
            found = document_rows(dataset, "data/", identity, ["id", "text"], home)
            whole: str | None = found[0].get("text") if found else None
            if whole is not None and whole != before:
                row |= {"text": whole[:MOST_CHARACTERS], "cut": len(whole) > MOST_CHARACTERS, "characters": len(whole)}
                row["changes"] = _changes(before, whole) if before is not None else None
                before = whole
        yield row


def _changes(before: str, after: str) -> list[Row]:
    found = hunks(before[:MOST_CHARACTERS], after[:MOST_CHARACTERS])
    return [{"kind": _KINDS[hunk.side], "text": hunk.text} for hunk in found]


# ---- as crawled -----------------------------------------------------------------------------------------------------


def _crawled(store: Store, first: Dataset, about: Row) -> Row:
    """The record read again from its archive: its text, and its markup as characters; or why not."""
    try:
        if not about.get("origin"):
            raise InputError("its record became no document: the ledger says why")
        config = IngestConfig.model_validate(first.manifest.config) if first.kind == "ingest" else None
        source = next((each for each in config.sources if each.name == about["source"]), None) if config else None
        if source is None:
            raise InputError(f"{first.name} does not say where its archives are")
        inputs = {record.role: store.find(record.name, record.fingerprint) for record in first.manifest.inputs}
        there = {role: dataset for role, dataset in inputs.items() if dataset is not None}
        found = stored_record(source, about["origin"], there)
    except (HeadwaterError, OSError, ValueError) as error:
        return {"unavailable": str(error) if isinstance(error, HeadwaterError) else "its archive cannot be read"}
    return {
        "text": found.text[:MOST_CHARACTERS],
        "markup": found.markup[:MOST_CHARACTERS] if found.markup is not None else None,
        "cut": max(len(found.text), len(found.markup or "")) > MOST_CHARACTERS,
    }


# ---- duplicates -----------------------------------------------------------------------------------------------------


def _duplicates(fate: DocumentFate, stages: Sequence[Dataset], identity: bytes) -> list[Row]:
    """The one that was kept in its place, those that were dropped for the same one, or those that were dropped for it.

    ``similarity`` is what the stage measured; ``difference`` is from this document to the other one.
    """
    found: list[Row] = []
    deadline = time.monotonic() + SECONDS
    for dedup in (dataset for dataset in stages if dataset.kind == "dedup"):
        own = next((v for v in fate.history if v.stage == dedup.name and v.survivor), None)
        survivor = bytes.fromhex(own.survivor) if own and own.survivor else None
        if own is not None and survivor is not None:
            found.append(_duplicate("survivor", survivor, own.survivor_url, own.score, own.rule))
        wanted = pc.field("survivor_id") == pa.scalar(survivor or identity, pa.binary(16))
        rows = find_rows(dedup, "ledger/", wanted, ["id", "url", "score", "rule"])
        relation = "dropped for the same" if survivor else "dropped for it"
        others = [row for row in rows if row["id"] != identity]
        found += [_duplicate(relation, row["id"], row["url"], row["score"], row["rule"]) for row in others]
        source = read_by(dedup, stages)
        if source is not None:
            _add_differences(found[:MOST_DUPLICATES], [source, *earlier_snapshots(dedup)], identity, deadline)
    return found[:MOST_DUPLICATES]


def _duplicate(relation: str, identity: bytes, url: str | None, similarity: float | None, rule: str | None) -> Row:
    return {
        "id": identity.hex(),
        "url": url,
        "relation": relation,
        "similarity": similarity,
        "rule": rule,
        "difference": None,
    }


def _add_differences(rows: Sequence[Row], sources: Sequence[Dataset], identity: bytes, deadline: float) -> None:
    """``sources``: what the stage read, then earlier snapshots, in which survivors may be."""
    missing = {identity, *(bytes.fromhex(row["id"]) for row in rows)} if rows else set()
    texts: dict[str, str] = {}
    for source in sources:
        if missing and time.monotonic() < deadline:
            found_there = find_rows(source, "data/", pc.field("id").isin(sorted(missing)), ["id", "text"])
            texts |= {each["id"].hex(): each["text"] for each in found_there}
            missing -= {each["id"] for each in found_there}
    own = texts.get(identity.hex())
    for row in rows:
        other = texts.get(row["id"])
        if own is not None and other is not None and row["difference"] is None and time.monotonic() < deadline:
            found = difference(own[:MOST_CHARACTERS], other[:MOST_CHARACTERS])
            row["similarity"] = found.similarity if row["similarity"] is None else row["similarity"]
            row["difference"] = [{"kind": _KINDS[hunk.side], "text": hunk.text} for hunk in found.hunks]


# ---- tokens ---------------------------------------------------------------------------------------------------------


def _tokens(store: Store, stages: Sequence[Dataset], identity: bytes, label: str) -> Row:
    """Its tokens in the shards, and the steps of the label's pretraining that learned from them."""
    shards = next((dataset for dataset in stages if dataset.kind == LAST), None)
    if shards is None:
        return {"count": 0, "rows": [], "steps": [], "dataset": None, "model": None}
    rows: list[Row] = []
    steps: list[int] = []
    trained = store.get_ref("pretrain", label)
    if trained is not None and shards.digest not in [record.digest for record in trained.manifest.inputs]:
        trained = None  # on other shards
    for split in splits(shards.local("data")):
        opened = ShardSet.open(shards.local("data"), split)
        spans = list(opened.find_document(identity))
        rows += [_span(split, span) for span in spans]
        if trained is not None and spans and split == "train":
            steps = Steps(trained).of_rows((span.row for span in spans), opened.phases)
    return {
        "count": sum(row["end"] - row["start"] for row in rows),
        "rows": rows[:MOST_ROWS],
        "steps": steps[:MOST_ROWS],
        "more": max(0, len(rows) - MOST_ROWS, len(steps) - MOST_ROWS),
        "dataset": _address(shards),
        "model": _address(trained) if trained else None,
    }


def _span(split: str, span: Lineage) -> Row:
    return {
        "split": split,
        "shard": span.shard,
        "row": span.row,
        "start": span.start,
        "end": span.end,
        "offset": span.document_offset,
    }


def _address(dataset: Dataset) -> str:
    return f"{dataset.name}/{dataset.manifest.fingerprint}"
