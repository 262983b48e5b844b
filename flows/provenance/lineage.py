"""Every dataset and parameter behind a dataset, read from the manifests' input records."""

from typing import Any

from infra.store.ancestry import ancestry
from infra.store.dataset import Dataset


def lineage_json(dataset: Dataset) -> dict[str, Any]:
    """``{model, datasets: [...]}``; an input that is no longer in the store is named with ``present: false``."""
    nodes = ancestry(dataset)
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
