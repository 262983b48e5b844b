"""The fate of one document through all stages, read from the ledgers and the data themselves."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from flows.stages import LAST, STAGE_NAMES, document_path
from infra.errors import InputError
from infra.store.dataset import Dataset
from infra.warnings import BUILT_ON, describe_loss

CONVERSATION_STAGES = ("sft", "preferences")
"""Their ledgers tell of conversations and comparisons, by the names these have in their files."""
UNIT_LOST = "unit_lost"
"""A rule of no ledger: the unit failed that would have read the document."""
KNOWN = ("source", "title", "author", "date", "captured", "language", "license")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StageVerdict:
    """What one stage decided."""

    stage: str
    verdict: str
    rule: str | None = None
    score: float | None = None
    threshold: float | None = None
    survivor: str | None = None
    survivor_url: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class DocumentFate:
    """One document's way; ``others`` are further records of the same URL, ``document`` what is known of it beside its text."""

    id: str
    url: str | None
    history: tuple[StageVerdict, ...]
    others: tuple[str, ...] = ()
    document: dict[str, str] = field(default_factory=dict)


def is_document_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def fate_of(url_or_id: str, datasets: Sequence[Dataset]) -> DocumentFate:
    """The history of a document in the given datasets (one of each stage). Raises InputError if it was never seen."""
    stages = document_path(dataset for dataset in datasets if dataset.name not in CONVERSATION_STAGES)
    ids = [bytes.fromhex(url_or_id)] if is_document_id(url_or_id) else _ids_of_url(url_or_id, stages)
    for document in ids:
        history, url, known = _history(document, stages)
        if history:
            others = tuple(other.hex() for other in ids if other != document)
            return DocumentFate(document.hex(), url, tuple(history), others, known)
    return _fate_of_conversation(url_or_id, datasets)


def _fate_of_conversation(name: str, datasets: Sequence[Dataset]) -> DocumentFate:
    """What the stages that learn from conversations made of one, then of each of its replies that has a fate of its own."""
    wanted = (pc.field("url") == name) | pc.starts_with(pc.field("url"), f"{name}/")
    if is_document_id(name):
        wanted |= _is(bytes.fromhex(name))
    history: list[StageVerdict] = []
    first: dict[str, Any] | None = None
    for dataset in (dataset for stage in CONVERSATION_STAGES for dataset in datasets if dataset.name == stage):
        rows = find_rows(dataset, "ledger/", wanted, ["id", "url", "verdict", "rule", "detail"])
        for row in sorted(rows, key=lambda row: (row["url"] != name, row["url"] or "")):
            first = first or row
            reply = (row["url"] or name).removeprefix(name).removeprefix("/")
            parts = [f"message {reply}"] * bool(reply) + [row["detail"]] * bool(row["detail"])
            history.append(StageVerdict(dataset.name, row["verdict"], row["rule"], detail=": ".join(parts) or None))
    if first is None:
        raise InputError(
            "; ".join((f"no stage ever saw {name!r}", *_where_it_may_be(datasets))),
            remedy="Give the URL as the crawl has it, a document id of 32 hex digits (headwater inspect shows some), or "
            "the id of a conversation.",
        )
    return DocumentFate(first["id"].hex(), first["url"], tuple(history))


def _where_it_may_be(datasets: Sequence[Dataset]) -> list[str]:
    """What is missing from the datasets themselves, or from the archives they were made from."""
    return [
        f"{dataset.name}/{dataset.manifest.fingerprint}: {sentence}"
        for dataset in datasets
        if dataset.manifest.counts.failed or not dataset.manifest.complete
        for sentence in dataset.manifest.warnings
        if not sentence.startswith(BUILT_ON)
    ]


def find_rows(
    dataset: Dataset, prefix: str, where: pc.Expression, columns: list[str], most_bytes: int | None = None
) -> list[dict[str, Any]]:
    """Rows of the dataset's Parquet files below ``prefix`` that meet a condition; row groups are pruned.

    ``most_bytes`` limits the search to the first files, up to this size together (one at least).
    """
    outputs = [output for output in dataset.files(prefix, ".parquet") if ".lineage." not in output.path]
    if most_bytes is not None:
        sizes = itertools.accumulate(output.bytes for output in outputs)
        outputs = [o for o, size in zip(outputs, sizes, strict=True) if size <= most_bytes] or outputs[:1]
    if not outputs:
        return []
    source = pads.dataset([str(dataset.local(output.path)) for output in outputs], format="parquet")
    if "id" not in source.schema.names:
        return []
    known = [name for name in columns if name in source.schema.names]
    rows: list[dict[str, Any]] = source.to_table(columns=known, filter=where).to_pylist()
    return rows


def value_of(document: bytes, dataset: Dataset, column: str) -> Any:
    """One column of a document, None where the dataset does not hold it."""
    rows = find_rows(dataset, "data/", _is(document), ["id", column])
    return rows[0][column] if rows else None


def _is(document: bytes, column: str = "id") -> pc.Expression:
    return pc.field(column) == pa.scalar(document, pa.binary(16))


def _ids_of_url(url: str, stages: Sequence[Dataset]) -> list[bytes]:
    """Ids of every record with this URL, those that got furthest first."""
    found: dict[bytes, None] = {}
    for dataset in stages[:1]:
        for prefix in ("data/", "ledger/"):
            for row in find_rows(dataset, prefix, pc.field("url") == url, ["id"]):
                found[row["id"]] = None
    return list(found)


def document_rows(
    dataset: Dataset, prefix: str, document: bytes, columns: list[str], home: str = ""
) -> list[dict[str, Any]]:
    """A document's rows below ``prefix``. ``home`` is the name of its file in the stage that first had it, which all stages
    of ours keep but the shards, whose files are of other documents: only that one is read where it is there."""
    keeps_names = dataset.kind in STAGE_NAMES and dataset.kind != LAST
    kept_name = keeps_names and any(dataset.files(f"{part}/{home}") for part in ("data", "ledger"))
    return find_rows(dataset, f"{prefix}{home}" if home and kept_name else prefix, _is(document), columns)


def home_of(document: bytes, first: Dataset) -> str:
    """The name of the file in which the first stage has a document, or says why it has not; empty if it has neither."""
    for prefix in ("data/", "ledger/"):
        files = {str(first.local(output.path)): output.path for output in first.files(prefix, ".parquet")}
        if files:
            scanned = pads.dataset(list(files), format="parquet")
            found = scanned.head(1, columns=["__filename"], filter=_is(document))
            if found.num_rows:
                return files[found["__filename"][0].as_py()].removeprefix(prefix)
    return ""


def _history(document: bytes, stages: Sequence[Dataset]) -> tuple[list[StageVerdict], str | None, dict[str, str]]:
    history: list[StageVerdict] = []
    url: str | None = None
    known: dict[str, str] = {}
    home = home_of(document, stages[0]) if stages else ""
    for dataset in stages:
        columns = ["id", "url", "verdict", "rule", "score", "threshold", "survivor_id", "detail"]
        rows = document_rows(dataset, "ledger/", document, columns, home)
        if rows:
            row = rows[0]
            url = url or row["url"]
            history.append(_verdict(dataset, row, stages))
            break
        if dataset.kind == LAST:
            if _in_shards(document, dataset):
                history.append(StageVerdict(dataset.name, "kept"))
            continue
        kept = document_rows(dataset, "data/", document, ["id", "url", "quality", *KNOWN], home)
        if not kept:
            if not dataset.manifest.complete:
                history.append(_lost_in(dataset))
            break
        url = url or kept[0]["url"]
        known |= {name: kept[0][name] for name in KNOWN if kept[0].get(name)}
        history.append(StageVerdict(dataset.name, "kept", score=kept[0].get("quality")))
    return history, url, known


def _lost_in(dataset: Dataset) -> StageVerdict:
    """What a stage received and neither kept nor wrote into its ledger was in a unit that failed for good."""
    units = dataset.manifest.units
    return StageVerdict(dataset.name, "failed", UNIT_LOST, detail=describe_loss(units.failed, units.total))


def _verdict(dataset: Dataset, row: dict[str, Any], stages: Sequence[Dataset]) -> StageVerdict:
    survivor = row["survivor_id"]
    return StageVerdict(
        dataset.name,
        row["verdict"],
        row["rule"],
        row["score"],
        row["threshold"],
        survivor.hex() if survivor else None,
        value_of(survivor, stages[0], "url") if survivor else None,
        row["detail"],
    )


def _in_shards(document: bytes, shards: Dataset) -> bool:
    files = [str(shards.local(output.path)) for output in shards.files("data/", ".lineage.parquet")]
    if not files:
        return False
    wanted = _is(document, "document_id")
    found = pads.dataset(files, format="parquet").head(1, columns=["document_id"], filter=wanted)
    return bool(found.num_rows)
