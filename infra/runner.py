"""Running one stage: the only way a dataset comes to be.

    inputs -> fingerprint -> valid manifest? skip -> lease -> journal -> run what is missing -> finalize
           -> verify counts and files -> manifest (last, atomically) -> move the label

Kill any process at any point and call it again: finished units are not repeated and the published bytes are the same.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infra.errors import HeadwaterError, InputError
from infra.execution.base import Executor, UnitTask
from infra.fingerprint import fingerprint_payload, short_fingerprint
from infra.job import JobRequest, write_request
from infra.journal import read_receipts, receipts_with_outputs
from infra.launch.restart import run_job
from infra.launch.spec import Launcher
from infra.planning import Action, StageNode, drifted
from infra.progress import Pace, Reporter, describe_dataset
from infra.publication import check_counts, publish, sweep, verify_files
from infra.runs import RunRecord
from infra.stage import Counts, JobStage, Receipt, ShardStage, StageContext, Step, Unit
from infra.store.dataset import Dataset
from infra.store.files import (
    child_names,
    exists,
    remove_file,
    remove_tree,
    upload,
    write_json,
)
from infra.store.lease import LEASE, Lease
from infra.store.manifest import (
    MANIFEST,
    FailedUnit,
    UnitsRecord,
)
from infra.store.store import Store
from infra.warnings import warnings_of_inputs, warnings_of_loss
from infra.work import Built, Work
from infra.worklist import planned_units


@dataclass(frozen=True)
class RunContext:
    """What every stage of a run shares."""

    store: Store
    record: RunRecord
    label: str
    executor: Executor
    launcher: Launcher
    reporter: Reporter
    max_failed_fraction: float = 0.01
    on_drift: Literal["warn", "rerun", "fail"] = "warn"
    wait_for_lease: bool = True
    follow_latest: bool = True
    """Whether the label ``latest`` moves to what this run publishes."""


@dataclass(frozen=True)
class StageOutcome:
    """What happened to one stage."""

    stage: str
    action: Action
    reason: str
    dataset: Dataset
    seconds: float = 0.0


def reuse_published(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext) -> StageOutcome | None:
    """Skip the stage if its dataset is published; None if there is something to do. Takes no lease."""
    published = _reusable(node, short_fingerprint(_payload(node, inputs)), run)
    return None if published is None else _skip(node, published, run)


def _payload(node: StageNode, inputs: Mapping[str, Dataset]) -> dict[str, Any]:
    return fingerprint_payload(node.stage, node.config, {role: dataset.digest for role, dataset in inputs.items()})


def run_stage(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, *, force: bool = False) -> StageOutcome:
    """Publish the stage's dataset, or find it published. ``inputs`` are by role."""
    payload = _payload(node, inputs)
    fingerprint = short_fingerprint(payload)
    if not force:
        published = _reusable(node, fingerprint, run)
        if published is not None:
            return _skip(node, published, run)
    work = Work(
        node, inputs, payload, fingerprint,
        run.store.dataset_url(node.name, fingerprint), run.store.work_url(node.name, fingerprint),
        run.store.dataset_root(node.name, fingerprint), run.store.work_root(node.name, fingerprint),
    )  # fmt: skip
    with Lease(work.work) as lease:
        lease.acquire(wait=run.wait_for_lease, on_wait=lambda text: run.reporter.message(node.name, text))
        if force:
            _clear(work)
        else:
            published = _reusable(node, fingerprint, run)  # another run may have finished while we waited
            if published is not None:
                return _skip(node, published, run)
        outcome = _build(work, run, lease)
        remove_tree(f"{work.work}/steps")
        remove_tree(f"{work.work}/journal")
        remove_tree(work.scratch)
        if not work.is_local:
            remove_tree(work.local_root)
    return outcome


def _reusable(node: StageNode, fingerprint: str, run: RunContext) -> Dataset | None:
    dataset = run.store.find(node.name, fingerprint)
    if dataset is None or run.store.missing_outputs(dataset):
        return None
    if drifted(node.stage, dataset) and run.on_drift != "warn":
        if run.on_drift == "rerun":
            return None
        raise HeadwaterError(
            f"the source of stage {node.name!r} was edited since its dataset was built",
            where=dataset.root,
            remedy="Raise its code_version if results change, rebuild with --force STAGE, or --set execution.on_drift=warn.",
        )
    return dataset


def _skip(node: StageNode, dataset: Dataset, run: RunContext) -> StageOutcome:
    reason = "published, and neither its configuration, code version nor inputs changed"
    if drifted(node.stage, dataset):
        reason += "; its source was edited since (drift)"
    _set_refs(node, dataset, run)
    run.record.event("stage_skipped", stage=node.name, fingerprint=dataset.manifest.fingerprint, reason=reason)
    run.reporter.message(node.name, f"SKIP: {reason}")
    tell_warnings(dataset, run)
    return StageOutcome(node.name, Action.SKIP, reason, dataset)


def tell_warnings(dataset: Dataset, run: RunContext) -> None:
    """What a user of the dataset must know, each time it is published or used."""
    for sentence in dataset.manifest.warnings:
        run.record.event("warning", stage=dataset.name, message=sentence)
        run.reporter.message(dataset.name, f"warning: {sentence}")


def _set_refs(node: StageNode, dataset: Dataset, run: RunContext) -> None:
    for label in dict.fromkeys((run.label, "latest") if run.follow_latest else (run.label,)):
        current = run.store.get_ref(node.name, label)
        if current is None or current.manifest.fingerprint != dataset.manifest.fingerprint:
            run.store.set_ref(node.name, label, dataset.manifest.fingerprint)


def _clear(work: Work) -> None:
    """Forget the published dataset and all work on it: a forced stage starts from nothing."""
    remove_file(f"{work.root}/{MANIFEST}")
    remove_tree(work.root)
    for name in child_names(work.work):
        if name not in (LEASE, ".lease.lock"):
            remove_tree(f"{work.work}/{name}")
    if not work.is_local:
        remove_tree(work.local_root)
        remove_tree(work.local_work)


def _build(work: Work, run: RunContext, lease: Lease) -> StageOutcome:
    node = work.node
    resumed = exists(f"{work.work}/journal") or (work.local_work / "checkpoints").exists()
    action = Action.RESUME if resumed else Action.RUN
    run.record.event("stage_started", stage=node.name, fingerprint=work.fingerprint, action=action)
    run.reporter.stage_started(node.name, action)
    write_json(f"{work.work}/payload.json", work.payload)
    try:
        if isinstance(node.stage, ShardStage):
            built = _run_shards(node.stage, work, run)
        else:
            built = _run_job(node.stage, work, run)
    except BaseException as error:
        # A signal ends a run that is cancelled, or whose machine shuts down: nothing is wrong with the stage then.
        how = "failed" if isinstance(error, Exception) else "interrupted"
        run.record.event(f"stage_{how}", stage=node.name, error=str(error) or type(error).__name__)
        run.reporter.stage_ended(node.name, how)
        raise
    verify_files(work, built.outputs)
    sweep(work, built.outputs)
    lease.check()
    dataset = publish(work, run.record.id, built)
    tell_warnings(dataset, run)
    _set_refs(node, dataset, run)
    seconds = time.time() - work.started
    run.record.event(
        "stage_published", stage=node.name, fingerprint=work.fingerprint, digest=dataset.digest, seconds=seconds
    )
    run.reporter.stage_ended(node.name, f"{describe_dataset(dataset.manifest)}; published in {seconds:.0f} s")
    return StageOutcome(node.name, action, "built", dataset, seconds)


# ---- shard stages ---------------------------------------------------------------------------------------------------


def _run_shards(stage: ShardStage, work: Work, run: RunContext) -> Built:
    receipts: dict[str, Sequence[Receipt]] = {}
    context = StageContext(work.node.config, work.inputs, work.root, work.work, work.scratch / "driver", receipts)
    known = receipts_with_outputs(read_receipts(f"{work.work}/journal").values(), work.root, work.work)
    total = 0
    for step in stage.steps:
        units = planned_units(step, context)
        total += len(units)
        receipts[step.name] = _run_step(stage, step, units, known, work, run)
    stage.finalize(context)
    every = [receipt for step in stage.steps for receipt in receipts[step.name]]
    counts = (context.counts or Counts.total(receipt.counts for receipt in every)) + work.lost
    outputs = [
        output for receipt in every for output in receipt.outputs if not output.path.startswith("steps/")
    ] + context.outputs
    outputs.sort(key=lambda output: output.path)
    check_counts(stage, counts, outputs, work)
    record = UnitsRecord(total=total, ok=total - len(work.failed), failed=work.failed)
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
    progress = _Progress(name, units, done.values(), run)
    for outcome in run.executor.run(task, missing):
        if outcome.receipt is not None:
            done[outcome.unit.id] = outcome.receipt
        else:
            _record_failure(work, run, name, step, outcome.unit, outcome.error, outcome.attempts, len(units))
        progress.advance(outcome.unit, outcome.receipt)
    return [done[unit.id] for unit in units if unit.id in done]


def _record_failure(
    work: Work, run: RunContext, name: str, step: Step, unit: Unit, error: str, attempts: int, total: int
) -> None:
    failure = FailedUnit(
        unit=unit.id, step=step.name, error=error, attempts=attempts,
        files=list(unit.files), bytes=unit.bytes, records=unit.documents,
    )  # fmt: skip
    work.failed.append(failure)
    work.lost += Counts(incoming=unit.documents or 0, failed=unit.documents or 0)
    work.lost_unknown |= unit.documents is None
    write_json(f"{work.work}/failures/{unit.id}.json", {**failure.model_dump(), "payload": dict(unit.payload)})
    run.record.event("unit_failed", stage=work.node.name, unit=unit.id, error=error)
    run.reporter.message(name, f"unit {unit.id} failed: {error}")
    if len(work.failed) > run.max_failed_fraction * total:
        raise InputError(
            f"{len(work.failed)} of {total} units of stage {name} failed, the last with: {error}",
            where=f"{work.work}/failures",
            remedy="Mend the cause and run again (finished units are kept), or allow more: "
            "--set execution.max_failed_fraction=0.1.",
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


# ---- job stages -----------------------------------------------------------------------------------------------------


def _run_job(stage: JobStage, work: Work, run: RunContext) -> Built:
    request = JobRequest(
        stage.name,
        work.fingerprint,
        work.node.config.model_dump(mode="json"),
        work.inputs,
        work.local_root,
        work.local_work,
    )
    request.data_dir.mkdir(parents=True, exist_ok=True)
    write_request(request)
    if not work.is_local:
        run.reporter.message(stage.name, "copying its inputs to this machine")
        for dataset in work.inputs.values():
            dataset.local()

    pace = Pace()

    def on_event(event: Mapping[str, Any]) -> None:
        if event.get("type") == "progress":
            figures = {k: v for k, v in event.items() if k not in ("type", "time", "done", "total")}
            eta = pace.remaining(event["done"], event["total"])
            run.reporter.progress(stage.name, event["done"], event["total"], figures, eta)
        elif event.get("type") in ("warning", "phase"):
            run.reporter.message(stage.name, str(event.get("message") or event.get("name")))

    try:
        result = run_job(stage.job(work.node.config), run.launcher, work.local_work, on_event)
    finally:
        run.record.event("job_ended", stage=stage.name)
    if not work.is_local:
        for output in result.outputs:
            upload(work.local_root / output.path, f"{work.root}/{output.path}")
    outputs = sorted(result.outputs, key=lambda output: output.path)
    warnings = [*result.warnings, *warnings_of_inputs(work.inputs)]
    return Built(outputs, Counts(), result.stats, UnitsRecord(total=1, ok=1), warnings)
