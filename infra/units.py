"""The units of a shard stage: planned step by step, handed to the executor, and accounted for.

A unit that fails for good does not stop the others. At the end of its step the stage fails and names what the lost units
would have read, unless the user tolerates that share: then it goes on without them, and what it publishes is incomplete.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from infra.errors import InputError
from infra.execution.base import UnitOutcome, UnitTask
from infra.journal import read_receipts, receipts_with_outputs, void_receipts
from infra.progress import Pace
from infra.publication import check_counts, count_lost
from infra.stage import Counts, Receipt, ShardStage, StageContext, Step, Unit
from infra.store.files import remove_tree, write_json
from infra.store.manifest import FailedUnit, UnitsRecord
from infra.warnings import describe_loss, warnings_of_inputs, warnings_of_loss
from infra.work import Built, RunContext, Work
from infra.worklist import forget, outdated, planned_units

HOPELESS = 50
"""So many units failed and none was ever done: the others would fail too."""


def run_units(stage: ShardStage, work: Work, run: RunContext) -> Built:
    """Carry out every step; what earlier runs finished is not done again."""
    receipts: dict[str, Sequence[Receipt]] = {}
    context = StageContext(work.node.config, work.inputs, work.root, work.work, work.scratch / "driver", receipts)
    known = receipts_with_outputs(read_receipts(f"{work.work}/journal").values(), work.root, work.work)
    remove_tree(f"{work.work}/failures")
    total = 0
    for step in stage.steps:
        if outdated(step, context):  # units that were missing when it was planned are there now
            void_receipts(f"{work.work}/journal", step.name)
            known = [receipt for receipt in known if receipt.step != step.name]
            forget(step, context)
        units = planned_units(step, context)
        total += len(units)
        receipts[step.name] = _run_step(stage, step, units, known, work, run)
    stage.finalize(context)
    every = [receipt for step in stage.steps for receipt in receipts[step.name]]
    counts = context.counts or Counts.total(receipt.counts for receipt in every)
    count_lost(stage, counts, work)
    counts += work.lost
    outputs = [
        output for receipt in every for output in receipt.outputs if not output.path.startswith("steps/")
    ] + context.outputs
    outputs.sort(key=lambda output: output.path)
    check_counts(stage, counts, outputs, work)
    record = UnitsRecord(total=total, ok=total - len(work.failed), failed=work.failed)
    if work.failed:
        record = record.model_copy(update={"tolerated": run.max_failed_fraction})
    warnings = [*context.warnings, *warnings_of_loss(record), *warnings_of_inputs(work.inputs)]
    return Built(outputs, counts, context.stats, record, warnings)


def _run_step(
    stage: ShardStage, step: Step, units: Sequence[Unit], known: Sequence[Receipt], work: Work, run: RunContext
) -> list[Receipt]:
    """``known`` are the receipts that earlier runs left."""
    name = f"{stage.name}/{step.name}" if len(stage.steps) > 1 else stage.name
    wanted = {unit.id for unit in units}
    done = {receipt.unit: receipt for receipt in known if receipt.step == step.name and receipt.unit in wanted}
    missing = [unit for unit in units if unit.id not in done]
    if done:
        run.reporter.message(name, f"resuming: {len(done)} of {len(units)} units are done")
    task = UnitTask(
        reference=stage.reference,
        step=step.name,
        config=work.node.config.model_dump(mode="json"),
        inputs={role: dataset.root for role, dataset in work.inputs.items()},
        dataset_root=work.root,
        work_root=work.work,
        scratch_root=str(work.scratch),
        journal=f"{work.work}/journal",
    )
    losses = _Losses(name, step, len(units), work, run)
    progress = _Progress(name, units, done.values(), run)
    for outcome in run.executor.run(task, missing):
        if outcome.receipt is not None:
            done[outcome.unit.id] = outcome.receipt
        else:
            losses.note(outcome, hopeless=not done)
        progress.advance(outcome.unit, outcome.receipt)
    losses.check_tolerated()
    return [done[unit.id] for unit in units if unit.id in done]


@dataclass
class _Losses:
    """The units of a step that failed for good."""

    name: str
    step: Step
    total: int
    work: Work
    run: RunContext
    failed: list[FailedUnit] = field(default_factory=list)

    def note(self, outcome: UnitOutcome, *, hopeless: bool) -> None:
        """Record one; ``hopeless``: no unit of the step was ever done."""
        unit, stage = outcome.unit, self.work.node.name
        failure = FailedUnit(
            unit=unit.id, step=self.step.name, error=outcome.error, attempts=outcome.attempts,
            files=list(unit.files), bytes=unit.bytes, records=unit.documents,
        )  # fmt: skip
        self.failed.append(failure)
        self.work.failed.append(failure)
        self.work.lost += Counts(incoming=unit.documents or 0, failed=unit.documents or 0)
        self.work.lost_unknown |= unit.documents is None
        record = {**failure.model_dump(), "payload": dict(unit.payload)}
        write_json(f"{self.work.work}/failures/{unit.id}.json", record)
        self.run.record.event("unit_failed", stage=stage, unit=unit.id, files=failure.files, error=outcome.error)
        what = f"unit {unit.id}" + (f" ({', '.join(unit.files)})" if unit.files else "")
        self.run.reporter.message(self.name, f"{what} failed: {outcome.error}")
        if hopeless and len(self.failed) == min(HOPELESS, self.total):
            self.refuse("every unit so far failed")

    def check_tolerated(self) -> None:
        """The step has ended: may the stage go on without them?"""
        if len(self.failed) > self.run.max_failed_fraction * self.total:
            self.refuse("the others are done")

    def refuse(self, others: str) -> None:
        share = math.ceil(1000 * len(self.failed) / self.total) / 1000
        raise InputError(
            f"stage {self.name}: {describe_loss(self.failed, self.total)}; {others}. "
            f"The last failed with: {self.failed[-1].error}",
            where=f"{self.work.work}/failures",
            remedy="Mend the cause and run again: only these units are tried again. To publish without them, as an "
            f"incomplete dataset: --set execution.max_failed_fraction={share:g}.",
        )


class _Progress:
    """Totals over units, for the reporter: work done by weight, documents, and what remains."""

    def __init__(self, name: str, units: Sequence[Unit], done: Collection[Receipt], run: RunContext) -> None:
        self._name, self._run = name, run
        self._total = sum(max(1, unit.weight) for unit in units)
        weights = {unit.id: max(1, unit.weight) for unit in units}
        self._counts = Counts.total(receipt.counts for receipt in done)
        self._before = sum(weights[receipt.unit] for receipt in done)
        self._units, self._failed_units = len(done), 0
        self._done = self._before
        self._pace = Pace()

    def advance(self, unit: Unit, receipt: Receipt | None) -> None:
        self._done += max(1, unit.weight)
        if receipt is not None:
            self._counts = self._counts + receipt.counts
            self._units += 1
        else:
            self._failed_units += 1
        figures = {
            "units": self._units,
            "documents": self._counts.incoming,
            "kept": self._counts.kept,
            "failed": self._counts.failed,
        }
        if self._failed_units:
            figures["failed_units"] = self._failed_units
        eta = self._pace.remaining(self._done, self._total)
        self._run.reporter.progress(self._name, self._done, self._total, figures, eta)
