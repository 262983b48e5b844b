"""What must hold before a dataset is published, and the manifest that publishes it.

counts are conserved -> every output is there with the bytes it was written with -> nothing else is there -> manifest
"""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infra.errors import HeadwaterError, InputError
from infra.fingerprint import short_fingerprint
from infra.incomplete import incomplete_payload, point_at_incomplete
from infra.rebuild import replace
from infra.runs import provenance
from infra.stage import Counts, ShardStage
from infra.stage_source import stage_source
from infra.store.address import beside
from infra.store.dataset import Dataset
from infra.store.files import OutputFile, copy_within_store, file_sizes, remove_file, sha256_file
from infra.store.manifest import (
    CountsRecord,
    InputRecord,
    Manifest,
    output_digest,
    write_manifest,
)
from infra.warnings import describe_loss
from infra.work import Built, RunContext, Work

VERIFIED_AT_ONCE = 1000


def count_lost(stage: ShardStage, counts: Counts, work: Work) -> None:
    """Of a stage that receives documents, what its units did not account for is what the lost ones would have read."""
    if stage.consumes and work.lost_unknown:
        gap = work.inputs[stage.consumes].manifest.counts.kept - (counts + work.lost).incoming
        work.lost += Counts(incoming=max(0, gap), failed=max(0, gap))


def check_counts(stage: ShardStage, counts: Counts, outputs: Sequence[OutputFile], work: Work) -> None:
    """Conservation: nothing may disappear between what came in and what is on record."""
    if not counts.balanced:
        raise HeadwaterError(
            f"stage {stage.name!r} received {counts.incoming} records but accounts for "
            f"{counts.kept} kept, {sum(counts.dropped.values())} dropped and {counts.failed} failed",
            remedy="This is a defect of the stage: nothing was published.",
        )
    if stage.consumes:
        expected = work.inputs[stage.consumes].manifest.counts.kept
        if counts.incoming != expected:
            raise HeadwaterError(
                f"stage {stage.name!r} received {counts.incoming} records, but {stage.consumes!r} handed on {expected}",
                remedy="This is a defect of the stage: nothing was published.",
            )
    if stage.ledgered:
        rows = sum(output.rows or 0 for output in outputs if output.path.startswith("ledger/"))
        expected = sum(counts.dropped.values()) + counts.failed - work.lost.failed  # lost units: in the manifest
        if rows != expected:
            raise HeadwaterError(
                f"the ledger of stage {stage.name!r} has {rows} rows for {expected} records dropped or failed",
                remedy="This is a defect of the stage: nothing was published.",
            )
    if counts.incoming and not counts.kept:
        worst = max(counts.dropped.items(), key=lambda item: item[1], default=("failed", counts.failed))
        raise InputError(
            f"stage {stage.name!r} kept none of {counts.incoming} records; most went by {worst[0]!r} ({worst[1]})",
            where=f"{work.root}/ledger",
            remedy="Look at the ledger there, then loosen that rule or check the input.",
        )


def verify_files(work: Work, outputs: Sequence[OutputFile]) -> None:
    """Every output is in its place with the bytes its receipt promised."""
    if not outputs:
        raise HeadwaterError(
            f"stage {work.node.name!r} wrote nothing", remedy="Check its input: nothing was published."
        )
    paths = [output.path for output in outputs]
    if len(set(paths)) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise HeadwaterError(f"two units of stage {work.node.name!r} wrote {twice}", remedy="A defect of the stage.")
    if not work.is_local:
        return _verify_sizes(work, outputs)
    # Digests are computed without the interpreter's lock, and what was just written is still in memory: on all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(outputs), VERIFIED_AT_ONCE):
            _verify_digests(work, outputs[first : first + VERIFIED_AT_ONCE], pool)
    return None


def _verify_digests(work: Work, outputs: Sequence[OutputFile], pool: ThreadPoolExecutor) -> None:
    digests = pool.map(lambda output: sha256_file(Path(work.root, output.path)), outputs)
    for output, digest in zip(outputs, digests, strict=True):
        if digest != output.digest:
            raise HeadwaterError(
                f"{output.path} changed after it was written",
                where=work.root,
                remedy="Run the stage again with --force.",
            )


def _verify_sizes(work: Work, outputs: Sequence[OutputFile]) -> None:
    """In an object store the upload carries a checksum that the server verifies: what is there is what was sent."""
    sizes = file_sizes(work.root)
    for output in outputs:
        if sizes.get(output.path) != output.bytes:
            raise HeadwaterError(
                f"{output.path} is not in the store as it was written",
                where=work.root,
                remedy="Run the stage again: what is there is kept.",
            )


def sweep(work: Work, outputs: Sequence[OutputFile]) -> None:
    """Remove what killed attempts left in the dataset's folder and no receipt names."""
    known = {output.path for output in outputs}
    for path in file_sizes(work.root):
        if path not in known:
            remove_file(f"{work.root}/{path}")
    if work.is_local:
        for folder, _, names in os.walk(work.local_root, topdown=False):
            if not names and Path(folder) != work.local_root:
                with contextlib.suppress(OSError):  # it holds folders that hold files
                    os.rmdir(folder)


def _input_records(work: Work) -> list[InputRecord]:
    """What the dataset was made from: its inputs by role, then earlier datasets that its configuration names."""
    stage = work.node.stage
    named = stage.earlier(work.node.config) if isinstance(stage, ShardStage) else ()
    earlier = [Dataset.open(beside(address, work.target)) for address in named]
    return [
        InputRecord(role=role, name=dataset.name, fingerprint=dataset.manifest.fingerprint, digest=dataset.digest)
        for role, dataset in [*sorted(work.inputs.items()), *(("earlier", dataset) for dataset in earlier)]
    ]


def publish(work: Work, run: RunContext, built: Built) -> Dataset:
    """Write the manifest, last of all: from here on the dataset exists."""
    if built.units.failed:
        return _publish_incomplete(work, run, built)
    write_manifest(work.root, _manifest(work, run, built, work.payload))
    if work.beside:
        replace(work)
    return Dataset.open(work.target)


def _publish_incomplete(work: Work, run: RunContext, built: Built) -> Dataset:
    """What there is, under a fingerprint of its own; the place and the work of the complete dataset stay as they are."""
    if work.beside:
        raise InputError(
            f"stage {work.node.name!r}: {describe_loss(built.units.failed, built.units.total)}; "
            "the dataset that is published stays",
            where=f"{work.work}/failures",
            remedy="Mend the cause and run the same again: only these units are tried again.",
        )
    payload = incomplete_payload(work.payload, built.units.failed, output_digest(built.outputs))
    fingerprint = short_fingerprint(payload)
    published = run.store.find(work.node.name, fingerprint)
    if published is None or run.store.missing_outputs(published):
        root = run.store.dataset_url(work.node.name, fingerprint)
        for output in built.outputs:
            copy_within_store(f"{work.root}/{output.path}", f"{root}/{output.path}")
        write_manifest(root, _manifest(work, run, built, payload))
        published = Dataset.open(root)
    point_at_incomplete(work.work, fingerprint)
    return published


def _manifest(work: Work, run: RunContext, built: Built, payload: dict[str, Any]) -> Manifest:
    node, counts = work.node, built.counts
    return Manifest(
        name=node.name,
        fingerprint=short_fingerprint(payload),
        payload=payload,
        source=stage_source(node.stage, node.config),
        config=node.config.model_dump(mode="json"),
        inputs=_input_records(work),
        outputs=built.outputs,
        output_digest=output_digest(built.outputs),
        counts=CountsRecord(
            incoming=counts.incoming, kept=counts.kept, dropped=dict(counts.dropped), failed=counts.failed
        ),
        units=built.units,
        stats=built.stats,
        warnings=built.warnings,
        provenance=provenance(run.record.id, work.started, run.recipe),
    )
