"""Decontamination: no evaluation item in the training data, with evidence for every hit.

    index   once         every n-gram of every evaluation item, in one table
    scan    every file   documents against the table: data, ledger, evidence

An item is found by word 13-grams; a document is contaminated if half of a paragraph is in evaluation items, or half of an
item is in the document (``match``). The policy drops it, cuts the parts out, or only reports.
"""

from infra.stage import ShardStage, Step
from infra.store.address import dataset_inputs
from pipeline.decontaminate.config import DecontaminateConfig
from pipeline.decontaminate.evaluations import external
from pipeline.decontaminate.index import index_unit, index_units
from pipeline.decontaminate.report import finalize
from pipeline.decontaminate.scan import scan_unit, scan_units


def _inputs(config: DecontaminateConfig) -> dict[str, str]:
    return {"dedup": "dedup"} | dataset_inputs(evaluation.address for evaluation in config.evaluations)


STAGE = ShardStage(
    name="decontaminate",
    code_version=1,
    config=DecontaminateConfig,
    reference="pipeline.decontaminate:STAGE",
    inputs=_inputs,
    steps=(Step("index", index_units, index_unit), Step("scan", scan_units, scan_unit)),
    finalize=finalize,
    external=lambda config: external(config.evaluations),
    consumes="dedup",
    ledgered=True,
    description="Removes evaluation items from the training documents, with evidence for every hit.",
)

__all__ = ["STAGE", "DecontaminateConfig"]
