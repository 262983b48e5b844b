"""A stage: words that were broken at the end of a line are joined again; what is nothing but numbers is dropped."""

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from infra.config import Config
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from pipeline.document import read_batches, with_texts
from pipeline.ledger import documents_and_fates, fates_table

BROKEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")


class UnbreakConfig(Config):
    """How broken words are mended."""

    drop_numbers: bool = True
    """Drop documents without a single letter."""


def units(context: StageContext) -> Iterable[Unit]:
    """One unit for each file of documents, named by its content."""
    for file in context.inputs["documents"].files("data/", ".parquet"):
        yield unit_of_files(unit_id(file.path, file.digest), {"path": file.path}, [file])


def process(unit: Unit, context: UnitContext) -> Counts:
    """Every document is kept, with its words joined, or has a row in the ledger."""
    path = str(unit.payload["path"])
    with documents_and_fates(context, path.removeprefix("data/")) as file:
        for batch in read_batches(context.inputs["documents"].url(path)):
            if context.config.drop_numbers:
                wordless = pc.invert(pc.match_substring_regex(batch.column("text"), r"\pL"))
                file.lose(fates_table(batch.filter(wordless), "unbreak", "dropped", rule="no_letter"))
                batch = batch.filter(pc.invert(wordless))
            file.keep(with_texts(batch, mended(batch.column("text"))))
    return file.counts


def mended(texts: pa.Array) -> dict[int, str]:
    """Row -> its text, for rows that had a broken word."""
    return {row: BROKEN.sub("", text) for row, text in enumerate(texts.to_pylist()) if BROKEN.search(text)}


STAGE = ShardStage(
    name="unbreak",
    code_version=1,
    config=UnbreakConfig,
    reference="headwater_addon.unbreak:STAGE",
    steps=(Step("join", units, process),),
    consumes="documents",
    ledgered=True,
    description="Joins words that were broken at the end of a line.",
)
