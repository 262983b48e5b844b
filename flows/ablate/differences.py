"""Documents that one arm dropped and another kept, with the rule: what the difference between two corpora is made of.

Arms that read the same pages know a document by its id; a corpus that another system made is matched by address.
"""

import hashlib
import shlex
from collections.abc import Mapping
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
    stages = document_path(dataset for name, dataset in other.items() if name != "shards")
    label = lab.label(dropper)
    shown = []
    for name in missing[:SHOWN]:
        row = find_rows(last, "data/", pc.field(key) == name, ["id", "url", "text"])[0]
        shown.append(_dropped(row, _fate(stages, key, name), label, workspace))
    return Difference(keeper, dropper, len(missing), tuple(shown))


def _names(documents: Dataset, key: str) -> set[Any]:
    files = [str(documents.local(output.path)) for output in documents.files("data/", ".parquet")]
    column = pads.dataset(files, format="parquet").to_table(columns=[key]).column(key)
    return set(column.drop_null().to_pylist())


def _drawn(name: bytes | str) -> bytes:
    return hashlib.blake2b(name if isinstance(name, bytes) else name.encode(), digest_size=8).digest()


def _fate(stages: list[Dataset], key: str, name: Any) -> dict[str, Any]:
    """The ledger's row of a document, or an empty one."""
    for stage in stages:
        columns = ["id", "url", "stage", "rule", "score", "threshold", "detail"]
        rows = find_rows(stage, "ledger/", pc.field(key) == name, columns)
        if rows:
            return {**rows[0], "stage": stage.name}
    return {}


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
