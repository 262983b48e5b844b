"""Every stage of the whole path, in the order in which data flows.

A stage is found by its address and imported only when somebody needs it, so that ``headwater status`` does not pay
for torch.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.stage import Stage


@dataclass(frozen=True)
class StageEntry:
    """Where a stage is declared, and the kind of work pool it wants."""

    name: str
    reference: str
    pool: str = "cpu"


STAGES = (
    StageEntry("sample", "pipeline.sample:STAGE"),
    StageEntry("ingest", "pipeline.ingest:STAGE"),
    StageEntry("classifier", "pipeline.classifier:STAGE"),
    StageEntry("attributes", "pipeline.attributes:STAGE"),
    StageEntry("quality", "pipeline.quality:STAGE"),
    StageEntry("dedup", "pipeline.dedup:STAGE"),
    StageEntry("decontaminate", "pipeline.decontaminate:STAGE"),
    StageEntry("redact", "pipeline.redact:STAGE"),
    StageEntry("tokenizer", "pipeline.tokenizer:STAGE"),
    StageEntry("shards", "pipeline.shards:STAGE"),
    StageEntry("pretrain", "training.pretrain:STAGE", "gpu"),
    StageEntry("sft", "alignment.sft:STAGE", "gpu"),
    StageEntry("preferences", "alignment.preferences:STAGE", "gpu"),
    StageEntry("reward", "alignment.reward:STAGE", "gpu"),
    StageEntry("ppo", "alignment.ppo:STAGE", "gpu"),
    StageEntry("dpo", "alignment.dpo:STAGE", "gpu"),
    StageEntry("evaluate", "training.evaluate:STAGE", "gpu"),
    StageEntry("export", "training.export:STAGE"),
    StageEntry("report", "flows.report.stage:STAGE"),
)

STAGE_NAMES = tuple(entry.name for entry in STAGES)
DOCUMENT_STAGES = ("ingest", "quality", "dedup", "decontaminate", "redact", "shards")
"""Those that take documents and keep, drop or fail each."""


def load_stage(name: str) -> "Stage":
    """Import a stage by name. Raises KeyError for an unknown name."""
    from infra.stage import JobStage, ShardStage

    entry = {entry.name: entry for entry in STAGES}[name]
    module, _, attribute = entry.reference.partition(":")
    stage = getattr(importlib.import_module(module), attribute)
    if not isinstance(stage, (ShardStage, JobStage)) or stage.name != name:
        raise TypeError(f"{entry.reference} is not the stage {name!r}")
    return stage
