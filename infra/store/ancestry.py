"""A dataset and all it was made from, found through the manifests' input records."""

from infra.store.dataset import Dataset
from infra.store.files import exists
from infra.store.manifest import MANIFEST


def ancestry(dataset: Dataset) -> list[Dataset]:
    """The dataset and everything behind it, inputs before what uses them. Datasets no longer stored are left out."""
    ordered: dict[str, Dataset] = {}

    def visit(node: Dataset) -> None:
        if node.root in ordered:
            return
        for record in node.manifest.inputs:
            root = f"{node.root.rsplit('/', 2)[0]}/{record.name}/{record.fingerprint}"
            if exists(f"{root}/{MANIFEST}"):
                visit(Dataset.open(root))
        ordered[node.root] = node

    visit(dataset)
    return list(ordered.values())
