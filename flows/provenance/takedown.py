"""Who holds a document that must go, and what making everything without it would take.

A request names a URL or a domain. The answer lists the datasets whose rows hold it (documents, attributes, ledgers),
the token shards and rows it is in, the training steps and checkpoints that learned from it, and every dataset made
from any of these. ``rebuild`` names the stages to run again, in order, once the source no longer yields it; early
cut-off spares those whose inputs turn out unchanged.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from flows.provenance.trace import STEPS, Steps
from flows.provenance.wanted import is_of_domain
from infra.errors import ConfigError
from infra.store.dataset import Dataset
from training.checkpoint_list import list_checkpoints

LINEAGE = ".lineage.parquet"


def takedown(
    datasets: Iterable[Dataset],
    work_root: Callable[[str, str], Path],
    *,
    url: str | None = None,
    domain: str | None = None,
) -> dict[str, Any]:
    """What a takedown of one URL, or of a domain and its subdomains, concerns.

    ``datasets`` are all that are published; ``work_root(name, fingerprint)`` is where a stage's checkpoints may be.
    """
    if (url is None) == (domain is None):
        raise ConfigError("say what to take down", remedy="Give a URL or a domain, not both.")
    everything = {dataset.root: dataset for dataset in datasets}
    query = _Query(url, domain.lower().strip(".") if domain else None)
    documents: dict[bytes, str] = {}
    holders: dict[str, dict[str, Any]] = {}
    for dataset in everything.values():
        _search(dataset, query, documents, holders)
    for dataset in everything.values():
        _search_by_id(dataset, documents, holders)
    shards = [entry for root in holders for entry in holders[root].pop("shards")]
    affected = _with_descendants(everything, {root for root in holders if holders[root]["rows"]})
    steps = _steps(everything, affected, shards)
    return {
        "url": url,
        "domain": domain,
        "documents": [{"id": key.hex(), "url": value} for key, value in sorted(documents.items())],
        "datasets": sorted(holders.values(), key=lambda entry: (entry["name"], entry["fingerprint"])),
        "shards": [{key: entry[key] for key in ("fingerprint", "shard", "rows", "tokens")} for entry in shards],
        "steps": steps,
        "checkpoints": _checkpoints(everything, affected, steps, work_root),
        "derived": sorted(_label(everything[root]) for root in affected if root not in holders),
        "rebuild": _in_order(everything, affected),
    }


class _Query:
    def __init__(self, url: str | None, domain: str | None) -> None:
        self.url, self.domain = url, domain

    @property
    def condition(self) -> pc.Expression:
        """A test the file reader can apply; for a domain it lets too much through."""
        if self.url is not None:
            return pc.field("url") == self.url
        return pc.match_substring(pc.field("url"), self.domain, ignore_case=True)

    def meets(self, url: str | None) -> bool:
        """Whether the URL is the one, or of the domain or a subdomain."""
        if self.url is not None:
            return url == self.url
        return is_of_domain(url, self.domain or "")


def _search(dataset: Dataset, query: _Query, documents: dict[bytes, str], holders: dict[str, dict[str, Any]]) -> None:
    """Files that know URLs: documents, ledgers, lineage."""
    for output in [*dataset.files("data/", ".parquet"), *dataset.files("ledger/", ".parquet")]:
        path = dataset.local(output.path)
        names = pq.read_schema(path).names
        key = next((name for name in ("id", "document_id") if name in names), None)
        if "url" not in names or key is None:
            continue
        lineage = output.path.endswith(LINEAGE)
        columns = [key, "url"] + (["row", "start", "end"] if lineage else [])
        found = [
            row
            for batch in pads.dataset(str(path), format="parquet").to_batches(columns=columns, filter=query.condition)
            for row in batch.to_pylist()
            if query.meets(row["url"])
        ]
        if found:
            documents.update({row[key]: row["url"] for row in found})
            entry = _holder(holders, dataset)
            part = "rows" if output.path.startswith("data/") else "ledger_rows"
            entry[part] += len(found)
            entry["files"].append(output.path)
            if lineage and Path(output.path).name.startswith("train-"):
                entry["shards"].append(
                    {
                        "root": dataset.root,
                        "fingerprint": dataset.manifest.fingerprint,
                        "shard": Path(output.path).name.removesuffix(LINEAGE) + ".arrow",
                        "rows": sorted({row["row"] for row in found}),
                        "tokens": sum(row["end"] - row["start"] for row in found),
                    }
                )


def _search_by_id(dataset: Dataset, documents: dict[bytes, str], holders: dict[str, dict[str, Any]]) -> None:
    """Files that know documents by their id only, such as attributes."""
    wanted = pa.array(list(documents), pa.binary(16))
    for output in dataset.files("data/", ".parquet"):
        path = dataset.local(output.path)
        schema = pq.read_schema(path)
        if "url" in schema.names or "id" not in schema.names or schema.field("id").type != wanted.type:
            continue
        rows = pads.dataset(str(path), format="parquet").count_rows(filter=pc.field("id").isin(wanted))
        if rows:
            entry = _holder(holders, dataset)
            entry["rows"] += rows
            entry["files"].append(output.path)


def _holder(holders: dict[str, dict[str, Any]], dataset: Dataset) -> dict[str, Any]:
    return holders.setdefault(
        dataset.root,
        {
            "name": dataset.name,
            "fingerprint": dataset.manifest.fingerprint,
            "rows": 0,
            "ledger_rows": 0,
            "files": [],
            "shards": [],
        },
    )


def _label(dataset: Dataset) -> str:
    return f"{dataset.name}/{dataset.manifest.fingerprint}"


def _with_descendants(everything: dict[str, Dataset], roots: set[str]) -> set[str]:
    """The datasets and all that were made from them, directly or not."""
    affected = set(roots)
    labels = {_label(everything[root]) for root in affected}
    while True:
        more = {
            root
            for root, dataset in everything.items()
            if root not in affected
            and any(f"{record.name}/{record.fingerprint}" in labels for record in dataset.manifest.inputs)
        }
        if not more:
            return affected
        affected |= more
        labels |= {_label(everything[root]) for root in more}


def _in_order(everything: dict[str, Dataset], affected: set[str]) -> list[str]:
    """Stage names, each after those it reads from."""
    reads: dict[str, set[str]] = {}
    for root in affected:
        dataset = everything[root]
        reads.setdefault(dataset.name, set()).update(record.name for record in dataset.manifest.inputs)
    ordered: list[str] = []
    while len(ordered) < len(reads):
        ready = sorted(
            name for name in reads if name not in ordered and not (reads[name] & reads.keys()) - set(ordered) - {name}
        )
        ordered += ready or sorted(reads.keys() - set(ordered))
    return ordered


def _steps(
    everything: dict[str, Dataset], affected: set[str], shards: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """By training run, the steps whose batches held the documents."""
    answers = []
    for root in sorted(affected):
        run = everything[root]
        if not run.local(STEPS).exists():
            continue
        read = {record.fingerprint for record in run.manifest.inputs if record.name == "shards"}
        source = next((d for d in everything.values() if d.name == "shards" and d.manifest.fingerprint in read), None)
        if source is None:
            continue
        starts, phases = _first_rows(source)
        rows = [
            starts[entry["shard"]] + row for entry in shards if entry["root"] == source.root for row in entry["rows"]
        ]
        answers.append({"dataset": _label(run), "steps": Steps(run).of_rows(rows, phases)})
    return [entry for entry in answers if entry["steps"]]


def _first_rows(shards: Dataset) -> tuple[dict[str, int], list[int]]:
    """The running number of each train shard's first row, and how many rows each phase has."""
    from pipeline.shards.reader import ShardSet

    opened = ShardSet.open(shards.local("data"), "train")
    return {shard.path.name: shard.first_row for shard in opened.shards}, opened.phases


def _checkpoints(
    everything: dict[str, Dataset],
    affected: set[str],
    steps: Sequence[dict[str, Any]],
    work_root: Callable[[str, str], Path],
) -> list[str]:
    """Checkpoints on disk that carry what was learned: of the runs from their first such step on, of all descendants."""
    first = {entry["dataset"]: entry["steps"][0] for entry in steps}
    found = []
    for root in sorted(affected):
        dataset = everything[root]
        folder = work_root(dataset.name, dataset.manifest.fingerprint) / "checkpoints"
        found += [str(path) for step, path in list_checkpoints(folder) if step >= first.get(_label(dataset), 0)]
    return found
