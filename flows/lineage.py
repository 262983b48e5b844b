"""Every dataset and parameter behind a dataset, read from the manifests' input records."""

from typing import Any

from infra.store.dataset import Dataset
from infra.store.store import Store


def ancestry(store: Store, dataset: Dataset) -> list[Dataset]:
    """The dataset and all it was made from, each once, inputs before what uses them."""
    ordered: dict[tuple[str, str], Dataset] = {}

    def visit(node: Dataset) -> None:
        key = (node.name, node.manifest.fingerprint)
        if key in ordered:
            return
        for record in node.manifest.inputs:
            source = store.find(record.name, record.fingerprint)
            if source is not None:
                visit(source)
        ordered[key] = node

    visit(dataset)
    return list(ordered.values())


def lineage_json(store: Store, dataset: Dataset) -> dict[str, Any]:
    """``{model, datasets: [...]}``; an input that is no longer in the store is named with ``present: false``."""
    nodes = ancestry(store, dataset)
    known = {(node.name, node.manifest.fingerprint) for node in nodes}
    missing = {
        (record.name, record.fingerprint, record.digest)
        for node in nodes
        for record in node.manifest.inputs
        if (record.name, record.fingerprint) not in known
    }
    described = [
        {
            "name": node.name,
            "fingerprint": node.manifest.fingerprint,
            "digest": node.digest,
            "present": True,
            "inputs": [record.model_dump() for record in node.manifest.inputs],
            "config": node.manifest.config,
            "git_commit": node.manifest.provenance.git_commit,
            "rows": node.manifest.rows,
        }
        for node in nodes
    ]
    absent = [
        {"name": name, "fingerprint": fingerprint, "digest": digest, "present": False}
        for name, fingerprint, digest in sorted(missing)
    ]
    return {"model": f"{dataset.name}/{dataset.manifest.fingerprint}", "datasets": absent + described}
