"""Step ``compare``: all that lies between ``sign`` and ``select``, for a corpus of few blocks, in one unit.

The steps between them are the same functions on the same files, block by block and with the same bound on memory; run by
themselves each costs the start of its worker processes, which for a small corpus is most of the time.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from infra.stage import Counts, Receipt, StageContext, Step, Unit, UnitContext, unit_id
from infra.store.files import OutputFile, exists
from pipeline.dedup.corpus import Corpus, corpus_of
from pipeline.dedup.sign import keyed_file

COMPARE = "compare"
FEW_BLOCKS = 4
"""Up to here (a quarter of a million documents) one process is through as soon as many."""
Units = Callable[[StageContext], Iterable[Unit]]


def is_small(context: StageContext | UnitContext) -> bool:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    return corpus.all_blocks <= FEW_BLOCKS


def when_large(step: Step) -> Step:
    """The step, without units where ``compare`` does its work."""

    def units(context: StageContext) -> Iterable[Unit]:
        return () if is_small(context) else step.units(context)

    return replace(step, units=units)


def compare_step(steps: tuple[Step, ...]) -> Step:
    """``steps`` are those that a small corpus goes through in one unit."""

    def units(context: StageContext) -> Iterable[Unit]:
        return (Unit(unit_id(COMPARE)),) if is_small(context) else ()

    def process(unit: Unit, context: UnitContext) -> Counts:
        corpus = corpus_of(context.config, context.inputs, context.work_root)
        receipts: dict[str, list[Receipt]] = {"sign": [_signed(corpus, context)]}
        driver = StageContext(
            context.config, context.inputs, context.dataset_root, context.work_root, context.scratch, receipts
        )
        for step in steps:
            receipts[step.name] = [_run(step, part, context) for part in step.units(driver)]
        return Counts()

    return Step(COMPARE, units, process)


def _run(step: Step, unit: Unit, context: UnitContext) -> Receipt:
    inner = replace(context, step=step.name, outputs=[], metrics={})
    step.process(unit, inner)
    context.outputs += inner.outputs
    for name, value in inner.metrics.items():
        key = f"{step.name}.{name}"
        context.metrics[key] = context.metrics.get(key, 0.0) + value
    return Receipt(unit.id, step.name, tuple(inner.outputs), Counts(), inner.metrics)


def _signed(corpus: Corpus, context: UnitContext) -> Receipt:
    """What the sign step left, as a receipt."""
    files = (
        file
        for piece in corpus.pieces
        for kind in ("url", "exact")
        if exists(file := keyed_file(context.work_root, kind, piece))
    )
    paths = (file.removeprefix(f"{context.work_root}/") for file in files)
    return Receipt("", "sign", tuple(OutputFile(path, 0, "") for path in paths))
