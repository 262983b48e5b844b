"""Steps that do the work of several others in one unit, where starting worker processes would take longer than the work.

``compare`` stands for all that lies between ``sign`` and ``select``, for a corpus of few blocks; ``decide`` for the rounds of
``settle`` and ``fates``, for one of some blocks. What runs inside are the same functions on the same files, block by
block and with the same bound on memory, so that the bytes are the same.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from infra.stage import Counts, Receipt, StageContext, Step, Unit, UnitContext, unit_id
from infra.store.files import OutputFile, exists
from pipeline.dedup.corpus import COMPARE, DECIDE, corpus_of, files_of, number_in
from pipeline.dedup.sign import keyed_file

FEW_BLOCKS, SOME_BLOCKS = 2, 16
"""130,000 documents, and a million."""

Receipts = Mapping[str, list[Receipt]]


def is_small(context: StageContext) -> bool:
    return _blocks(context) <= FEW_BLOCKS


def is_large(context: StageContext) -> bool:
    return _blocks(context) > SOME_BLOCKS


def _blocks(context: StageContext) -> int:
    return corpus_of(context.config, context.inputs, context.work_root).all_blocks


def unless(applies: Callable[[StageContext], bool], step: Step) -> Step:
    """The step, without units where another one does its work."""

    def units(context: StageContext) -> Iterable[Unit]:
        return () if applies(context) else step.units(context)

    return replace(step, units=units)


def compare_step(steps: tuple[Step, ...]) -> Step:
    def units(context: StageContext) -> Iterable[Unit]:
        return (Unit(unit_id(COMPARE)),) if is_small(context) else ()

    def process(unit: Unit, context: UnitContext) -> Counts:
        corpus = corpus_of(context.config, context.inputs, context.work_root)
        files = (keyed_file(context.work_root, kind, piece) for piece in corpus.pieces for kind in ("url", "exact"))
        left = [file.removeprefix(f"{context.work_root}/") for file in files if exists(file)]
        return _run_all(steps, {"sign": [_receipt("sign", left)]}, context)

    return Step(COMPARE, units, process)


def decide_step(steps: tuple[Step, ...]) -> Step:
    def units(context: StageContext) -> Iterable[Unit]:
        if not is_small(context) and not is_large(context):
            copies = len(files_of(context, "copies", ".follow"))
            yield Unit(unit_id(DECIDE), {"copies": copies, "verified": len(context.receipts["verify"])})

    def process(unit: Unit, context: UnitContext) -> Counts:
        copies = [f"steps/copies/{number:05}.follow" for number in range(number_in(unit, "copies"))]
        verified = [_receipt("verify", (), block=float(block)) for block in range(number_in(unit, "verified"))]
        return _run_all(steps, {"copies": [_receipt("copies", copies)], "verify": verified}, context)

    return Step(DECIDE, units, process)


def _receipt(step: str, paths: Iterable[str], **metrics: float) -> Receipt:
    """What an earlier step left."""
    return Receipt("", step, tuple(OutputFile(path, 0, "") for path in paths), metrics=metrics)


def _run_all(steps: tuple[Step, ...], before: Receipts, context: UnitContext) -> Counts:
    receipts = dict(before)
    driver = StageContext(
        context.config, context.inputs, context.dataset_root, context.work_root, context.scratch, receipts
    )
    for step in steps:
        receipts[step.name] = [_run(step, part, context) for part in step.units(driver)]
    return Counts()


def _run(step: Step, unit: Unit, context: UnitContext) -> Receipt:
    inner = replace(context, step=step.name, outputs=[], metrics={})
    step.process(unit, inner)
    context.outputs += inner.outputs
    for name, value in inner.metrics.items():
        key = f"{step.name}.{name}"
        context.metrics[key] = context.metrics.get(key, 0.0) + value
    return Receipt(unit.id, step.name, tuple(inner.outputs), Counts(), inner.metrics)
