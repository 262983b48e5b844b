"""What the stage tells about itself: the curve of its LSH setting, and what each step found."""

from infra.stage import StageContext
from infra.store.files import write_json
from pipeline.dedup.config import DOCUMENTS, DedupConfig
from pipeline.dedup.corpus import COMPARE, DECIDE
from pipeline.dedup.index import FORMAT_FILE, format_record, without_keys
from pipeline.dedup.settle import ROUNDS

CURVE = tuple(round(0.30 + 0.05 * i, 2) for i in range(15))


def catch_curve(config: DedupConfig) -> list[dict[str, float]]:
    """The probability that a pair is nominated, by its Jaccard similarity."""
    bands, rows = config.shape
    return [{"similarity": s, "probability": round(1 - (1 - s**rows) ** bands, 4)} for s in CURVE]


def finalize(context: StageContext) -> None:
    config: DedupConfig = context.config
    if config.index:
        with context.output(FORMAT_FILE, digested=False) as path:
            write_json(path, format_record(config))
    context.warnings += without_keys(config, context.inputs[DOCUMENTS].root)
    bands, rows = config.shape
    context.stats["lsh"] = {
        "bands": bands,
        "rows": rows,
        "measure": config.measure,
        "threshold": config.threshold,
        "curve": catch_curve(config),
    }
    pairs, verified = _sum(context, "verify", "pairs"), _sum(context, "verify", "verified")
    context.stats["verification"] = {
        "pairs": pairs,
        "verified": verified,
        "rejected": pairs - verified,
        "undecided": _undecided(context),
    }


def _sum(context: StageContext, step: str, metric: str) -> int:
    alone = sum(receipt.metrics.get(metric, 0.0) for receipt in context.receipts.get(step, ()))
    around = [receipt for name in (COMPARE, DECIDE) for receipt in context.receipts.get(name, ())]
    return int(alone + sum(receipt.metrics.get(f"{step}.{metric}", 0.0) for receipt in around))


def _undecided(context: StageContext) -> int:
    """Documents whose chains were longer than the rounds: they stay."""
    return _sum(context, f"settle-{ROUNDS - 1:02}", "waiting")
