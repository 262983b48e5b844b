"""Helpers shared by the tests: running a stage in-process, and finding optional real data."""

import itertools
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.config import identity
from infra.execution.attempts import backoff
from infra.execution.base import UnitOutcome, UnitTask, describe_failure, open_task, run_unit
from infra.fingerprint import fingerprint_payload, short_fingerprint
from infra.in_process import run_steps
from infra.stage import Counts, ShardStage, Unit
from infra.stage_source import stage_source
from infra.store.dataset import Dataset
from infra.store.files import OutputFile
from infra.store.manifest import CountsRecord, InputRecord, Manifest, UnitsRecord, output_digest, write_manifest
from pipeline.ingest import IngestConfig
from pipeline.profiles import Profile, SourceProfile

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(path: str) -> Path:
    """A file of the optional development data; skips the test where it is absent."""
    folder = Path(os.environ.get("HEADWATER_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / path).exists():
        pytest.skip(f"development data {path} is not here")
    return folder / path


def kill_family(process: "subprocess.Popen[Any]") -> None:
    """As a machine that loses power: the process and all below it at once, whatever their sessions."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    family = [*parent.children(recursive=True), parent]
    for victim in family:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait(30)
    psutil.wait_procs(family, timeout=10)


def write_dataset(root: Path, name: str, files: Mapping[str, bytes]) -> Dataset:
    """Publish a dataset made of the given files (``{"data/x.jsonl": b"…"}``), for use as a stage's input."""
    from infra.store.files import describe_file

    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return adopt_dataset(root, name, [describe_file(root, path) for path in sorted(files)])


def adopt_dataset(root: Path, name: str, outputs: list[OutputFile], counts: Counts | None = None) -> Dataset:
    """Write a manifest over files that are already in place."""
    counts = counts or Counts()
    manifest = Manifest(
        name=name,
        fingerprint="0" * 12,
        payload={},
        config={},
        inputs=[],
        outputs=outputs,
        output_digest=output_digest(outputs),
        counts=CountsRecord(
            incoming=counts.incoming, kept=counts.kept, dropped=dict(counts.dropped), failed=counts.failed
        ),
    )
    write_manifest(str(root), manifest)
    return Dataset.open(str(root))


def source_config(**options: Any) -> Any:
    """A source as a recipe gives it."""
    return IngestConfig(sources=(options,)).sources[0]


def profiles(**given: str) -> tuple[SourceProfile, ...]:
    """The profiles of sources: ``profiles(web="web")``."""
    return tuple(SourceProfile(source=source, profile=Profile(profile)) for source, profile in given.items())


PROFILES = profiles(web="web", wikipedia="encyclopedia", code="code")


def run_shard_stage(
    stage: ShardStage,
    config: Any,
    inputs: Mapping[str, Dataset],
    folder: Path,
    *,
    reverse: bool = False,
) -> Dataset:
    """Run a shard stage in this process, without journal or lease, and publish it below ``folder``.

    ``reverse`` handles the units backwards: the result must be the same.
    """
    context = run_steps(stage, config, inputs, folder, backwards=reverse)
    root = Path(context.dataset_root)
    every = [receipt for step in context.receipts.values() for receipt in step]
    counts = context.counts or sum((receipt.counts for receipt in every), Counts())
    outputs = sorted(
        [o for receipt in every for o in receipt.outputs if not o.path.startswith("steps/")] + context.outputs,
        key=lambda output: output.path,
    )
    payload = fingerprint_payload(stage, config, {role: dataset.digest for role, dataset in inputs.items()})
    manifest = Manifest(
        name=stage.name,
        fingerprint=short_fingerprint(payload),
        payload=payload,
        source=stage_source(stage, config),
        config=dict(identity(config)),  # type: ignore[arg-type]
        inputs=[
            InputRecord(role=role, name=dataset.name, fingerprint=dataset.manifest.fingerprint, digest=dataset.digest)
            for role, dataset in sorted(inputs.items())
        ],
        outputs=outputs,
        output_digest=output_digest(outputs),
        counts=CountsRecord(
            incoming=counts.incoming, kept=counts.kept, dropped=dict(counts.dropped), failed=counts.failed
        ),
        units=UnitsRecord(total=len(every), ok=len(every)),
        stats=context.stats,
        warnings=context.warnings,
    )
    write_manifest(str(root), manifest)
    return Dataset.open(str(root))


@dataclass(frozen=True)
class InProcessExecutor:
    """One unit after the other in this process: nothing is isolated, and nothing takes a while to start."""

    attempts: int = 3
    backoff_s: float = 1.0

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        opened = open_task(task)
        for unit in units:
            for attempt in itertools.count(1):
                try:
                    yield UnitOutcome(unit, run_unit(opened, unit, attempt), attempts=attempt)
                    break
                except Exception as error:
                    failure = describe_failure(error)
                if failure.fatal:
                    raise failure.fatal
                if not failure.transient or attempt >= self.attempts:
                    yield UnitOutcome(unit, None, failure.text, attempt)
                    break
                time.sleep(backoff(self.backoff_s, attempt))
