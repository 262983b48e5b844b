"""Documents that one arm dropped and another kept, with the rule: what the difference between two corpora is made of.

Arms that read the same pages know a document by its id; a corpus that another system made is matched by address.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads

from flows.ablate.corpora import Corpus, last_documents
from flows.ablate.lab import Lab
from flows.provenance.fates import find_rows
from flows.stages import document_path
from infra.store.dataset import Dataset

EXCERPT = 600
SHOWN = 10
"""Documents that are shown of each direction."""


@dataclass(frozen=True)
class Dropped:
    """A document that one arm kept and the other did not. ``stage`` is empty where the other never saw it."""

    id: str
    url: str
    stage: str
    rule: str
    score: float | None
    threshold: float | None
    detail: str
    excerpt: str
    command: str


@dataclass(frozen=True)
class Difference:
    """What ``dropper`` left out of what ``keeper`` trains on: how many documents, and some of them."""

    keeper: str
    dropper: str
    number: int
    shown: tuple[Dropped, ...]


def difference(lab: Lab, corpora: Mapping[str, Corpus], keeper: str, dropper: str, workspace: str) -> Difference:
    """Documents of ``keeper`` that ``dropper`` has not, drawn by the hash of their names: the same ones each time."""
    kept, other = corpora[keeper].datasets, corpora[dropper].datasets
    key = "id" if kept["ingest"].digest == other["ingest"].digest else "url"
    last = last_documents(lab.recipes[keeper], kept)
    ours, theirs = _names(last, key), _names(last_documents(lab.recipes[dropper], other), key)
    missing = sorted(ours - theirs, key=_drawn)
    wanted = missing[:SHOWN]
    texts = {row[key]: row for row in find_rows(last, "data/", pc.field(key).isin(wanted), ["id", "url", "text"])}
    fates = _fates(document_path(dataset for name, dataset in other.items() if name != "shards"), key, wanted)
    label = lab.label(dropper)
    shown = tuple(_dropped(texts[name], fates.get(name, {}), label, workspace) for name in wanted)
    return Difference(keeper, dropper, len(missing), shown)


def _names(documents: Dataset, key: str) -> set[Any]:
    files = [str(documents.local(output.path)) for output in documents.files("data/", ".parquet")]
    column = pads.dataset(files, format="parquet").to_table(columns=[key]).column(key)
    return set(column.drop_null().to_pylist())


def _drawn(name: bytes | str) -> bytes:
    return hashlib.blake2b(name if isinstance(name, bytes) else name.encode(), digest_size=8).digest()


def _fates(stages: Sequence[Dataset], key: str, names: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """The ledgers' rows of documents, by name; those without are not in it."""
    found: dict[Any, dict[str, Any]] = {}
    columns = ["id", "url", "rule", "score", "threshold", "detail"]
    for stage in stages:
        for row in find_rows(stage, "ledger/", pc.field(key).isin(list(names)), columns):
            found.setdefault(row[key], {**row, "stage": stage.name})
    return found


def _dropped(row: Mapping[str, Any], fate: Mapping[str, Any], label: str, workspace: str) -> Dropped:
    identity = (fate or row)["id"].hex()
    command = shlex.join(["headwater", "why", identity, "--label", label, "--workspace", workspace])
    return Dropped(
        identity,
        row["url"] or "",
        fate.get("stage", ""),
        fate.get("rule", ""),
        fate.get("score"),
        fate.get("threshold"),
        fate.get("detail") or "",
        row["text"][:EXCERPT],
        command if fate else "",
    )
