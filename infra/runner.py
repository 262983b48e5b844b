"""Running one stage: the only way a dataset comes to be.

    inputs -> fingerprint -> valid manifest? skip -> lease -> journal -> run what is missing -> finalize
           -> verify counts and files -> manifest (last, atomically)

Labels are not moved here but when the whole run is complete (``infra.labels``).

Kill any process at any point and call it again: finished units are not repeated and the published bytes are the same.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra import rebuild
from infra.errors import HeadwaterError, disk_full
from infra.fingerprint import fingerprint_payload, short_fingerprint
from infra.incomplete import POINTER, incomplete_version
from infra.job import JobRequest, write_request
from infra.launch.restart import run_job
from infra.planning import Action, drift, why_skipped
from infra.progress import Pace, describe_dataset
from infra.publication import publish, sweep, verify_files
from infra.stage import Counts, JobStage, ShardStage, StageNode
from infra.store.dataset import Dataset
from infra.store.files import exists, remove_file, remove_tree, upload, write_json
from infra.store.lease import Lease
from infra.store.manifest import UnitsRecord
from infra.units import run_units
from infra.warnings import warnings_of_inputs
from infra.work import Built, RunContext, Work, work_on


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


def published_by(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext) -> Dataset | None:
    """What a run of the stage has published, complete or not."""
    fingerprint = short_fingerprint(_payload(node, inputs))
    complete = run.store.find(node.name, fingerprint)
    return complete or incomplete_version(run.store, node.name, fingerprint, run.label)


def _payload(node: StageNode, inputs: Mapping[str, Dataset]) -> dict[str, Any]:
    return fingerprint_payload(node.stage, node.config, {role: dataset.digest for role, dataset in inputs.items()})


def run_stage(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, *, force: bool = False) -> StageOutcome:
    """Publish the stage's dataset, or find it published. ``inputs`` are by role. ``force``: build it again, beside what is
    published until that is finished."""
    payload = _payload(node, inputs)
    fingerprint = short_fingerprint(payload)
    if not force:
        published = _reusable(node, fingerprint, run)
        if published is not None:
            return _skip(node, published, run)
    beside = work_on(node, inputs, payload, fingerprint, run.store, True)
    with Lease(run.store.work_url(node.name, fingerprint)) as lease:
        lease.acquire(on_wait=lambda text: run.reporter.message(node.name, text))
        replaced = rebuild.finish_replacement(beside)
        # Another run may have finished while we waited; or an earlier --force ended within its last moment.
        published = _reusable(node, fingerprint, run) if replaced or not force else None
        if published is not None:
            return _skip(node, published, run)
        there = run.store.find(node.name, fingerprint) is not None
        work = beside if there else work_on(node, inputs, payload, fingerprint, run.store, False)
        if force or there:
            rebuild.begin(work)
        outcome = _build(work, run, lease)
        _clear(work, outcome.dataset)
    return outcome


def _reusable(node: StageNode, fingerprint: str, run: RunContext) -> Dataset | None:
    dataset = run.store.find(node.name, fingerprint)
    if dataset is None or run.store.missing_outputs(dataset):
        return None
    changed = drift(node, dataset)
    if changed and run.on_drift != "warn":
        if run.on_drift == "rerun":
            return None
        raise HeadwaterError(
            f"stage {node.name!r} is published, but {changed}",
            where=dataset.root,
            remedy="Raise its code_version if results change, rebuild with --force STAGE, or --set execution.on_drift=warn.",
        )
    return dataset


def _skip(node: StageNode, dataset: Dataset, run: RunContext) -> StageOutcome:
    reason = why_skipped(node, dataset)
    run.record.event("stage_skipped", stage=node.name, fingerprint=dataset.manifest.fingerprint, reason=reason)
    run.reporter.message(node.name, f"SKIP: {reason}")
    tell_warnings(dataset, run)
    return StageOutcome(node.name, Action.SKIP, reason, dataset)


def tell_warnings(dataset: Dataset, run: RunContext) -> None:
    """What a user of the dataset must know, each time it is published or used."""
    for sentence in dataset.manifest.warnings:
        run.record.event("warning", stage=dataset.name, message=sentence)
        run.reporter.message(dataset.name, f"warning: {sentence}")


def _clear(work: Work, dataset: Dataset) -> None:
    """Remove what only the building needed. What would complete a dataset stays as long as it is not complete."""
    remove_tree(work.scratch)
    if not work.is_local:
        remove_tree(work.local_root)
    if dataset.manifest.complete:
        for name in ("steps", "journal", POINTER, rebuild.FORCED):
            remove_tree(f"{work.work}/{name}")
    else:
        remove_file(f"{work.work}/{rebuild.FORCED}")


def _build(work: Work, run: RunContext, lease: Lease) -> StageOutcome:
    node = work.node
    resumed = exists(f"{work.work}/journal") or (work.local_work / "checkpoints").exists()
    action = Action.RESUME if resumed else Action.RUN
    run.record.event("stage_started", stage=node.name, fingerprint=work.fingerprint, action=action)
    run.reporter.stage_started(node.name, action)
    try:
        with _full_disk_explained(work):
            write_json(f"{work.work}/payload.json", work.payload)
            build = run_units if isinstance(node.stage, ShardStage) else _run_job
            built = build(node.stage, work, run)  # type: ignore[arg-type]
            verify_files(work, built.outputs)
            sweep(work, built.outputs)
            lease.check()
            dataset = publish(work, run, built)
    except BaseException as error:
        # A signal ends a run that is cancelled, or whose machine shuts down: nothing is wrong with the stage then.
        how = "failed" if isinstance(error, Exception) else "interrupted"
        with contextlib.suppress(OSError, HeadwaterError):  # a full disk must not hide behind its own record
            run.record.event(f"stage_{how}", stage=node.name, error=str(error) or type(error).__name__)
        run.reporter.stage_ended(node.name, how)
        raise
    tell_warnings(dataset, run)
    seconds = time.time() - work.started
    run.record.event(
        "stage_published", stage=node.name, fingerprint=dataset.manifest.fingerprint, digest=dataset.digest,
        seconds=seconds,
    )  # fmt: skip
    run.reporter.stage_ended(node.name, f"{describe_dataset(dataset.manifest)}; published in {seconds:.0f} s")
    return StageOutcome(node.name, action, "built", dataset, seconds)


@contextlib.contextmanager
def _full_disk_explained(work: Work) -> Iterator[None]:
    """The cause, in whatever words the library that met it put it."""
    try:
        yield
    except Exception as error:
        full = disk_full(error, work.work)
        if full is None:
            raise
        raise full from error


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
