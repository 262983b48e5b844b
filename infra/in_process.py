"""A shard stage's steps in this process: for a table in memory, where starting a run would take longer than the work.

No journal, no lease, no worker: what is killed begins anew. The functions, and so the bytes, are those of a run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.stage import Receipt, ShardStage, StageContext, Step, Unit, UnitContext, checked_counts
from infra.store.dataset import Dataset


def run_steps(
    stage: ShardStage, config: Any, inputs: Mapping[str, Dataset], folder: Path, *, backwards: bool = False
) -> StageContext:
    """Carry out every step and ``finalize`` below an empty ``folder``; the context that is left holds all receipts.

    Nothing is published: the files lie in its ``dataset_root``. ``backwards`` hands the units over in the opposite
    order, which must not change any of them.
    """
    root, work, scratch = folder / "dataset", folder / "work", folder / "scratch"
    for path in (root, work, scratch):
        path.mkdir(parents=True, exist_ok=True)
    receipts: dict[str, list[Receipt]] = {}
    context = StageContext(config, inputs, str(root), str(work), scratch, receipts)
    for step in stage.steps:
        units = list(step.units(context))
        done = [_run(stage, step, unit, context) for unit in (reversed(units) if backwards else units)]
        receipts[step.name] = sorted(done, key=lambda receipt: receipt.unit)
    stage.finalize(context)
    return context


def _run(stage: ShardStage, step: Step, unit: Unit, driver: StageContext) -> Receipt:
    scratch = driver.scratch / unit.id
    context = UnitContext(driver.config, driver.inputs, driver.dataset_root, driver.work_root, scratch, step.name)
    counts = checked_counts(f"{stage.reference}, step {step.name}", step.process(unit, context))
    return Receipt(unit.id, step.name, tuple(context.outputs), counts, dict(context.metrics))
