"""The report by evaluation set: how many of its items were met, in how many documents."""

from collections import defaultdict

from infra.stage import StageContext
from pipeline.document import read_batches


def finalize(context: StageContext) -> None:
    documents: dict[str, set[bytes]] = defaultdict(set)
    items: dict[str, set[str]] = defaultdict(set)
    for receipt in context.receipts["scan"]:
        for output in receipt.outputs:
            if output.path.startswith("evidence/") and output.rows:
                for batch in read_batches(f"{context.dataset_root}/{output.path}", ["id", "evaluation", "item"]):
                    for row in batch.to_pylist():
                        documents[row["evaluation"]].add(row["id"])
                        items[row["evaluation"]].add(row["item"])
    sizes = {name: value for receipt in context.receipts["index"] for name, value in receipt.metrics.items()}
    context.stats["evaluations"] = {
        evaluation.name: {
            "items": int(sizes[f"items:{evaluation.name}"]),
            "items_met": len(items[evaluation.name]),
            "documents": len(documents[evaluation.name]),
        }
        for evaluation in context.config.evaluations
    }
    context.stats["documents_cut"] = int(sum(receipt.metrics["cut"] for receipt in context.receipts["scan"]))
