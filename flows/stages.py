"""Every stage of the whole path, in the order in which data usually flows; and those of other packages.

A stage is found by its address and imported only when somebody needs it, so that ``headwater status`` does not pay
for torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.stage import Stage
    from infra.store.dataset import Dataset
    from infra.store.store import Store


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
    StageEntry("index", "pipeline.shards.index:STAGE"),
    StageEntry("pretrain", "training.pretrain:STAGE", "gpu"),
    StageEntry("answers", "training.answers:STAGE", "gpu"),
    StageEntry("sft", "alignment.sft:STAGE", "gpu"),
    StageEntry("votes", "alignment.votes.stage:STAGE"),
    StageEntry("preferences", "alignment.preferences:STAGE", "gpu"),
    StageEntry("reward", "alignment.reward:STAGE", "gpu"),
    StageEntry("ppo", "alignment.ppo:STAGE", "gpu"),
    StageEntry("dpo", "alignment.dpo:STAGE", "gpu"),
    StageEntry("grpo", "alignment.grpo:STAGE", "gpu"),
    StageEntry("best_of_n", "alignment.best_of_n:STAGE", "gpu"),
    StageEntry("evaluate", "training.evaluate:STAGE", "gpu"),
    StageEntry("export", "training.export:STAGE"),
    StageEntry("report", "flows.report.stage:STAGE"),
)

STAGE_NAMES = tuple(entry.name for entry in STAGES)
DOCUMENT_STAGES = ("ingest", "quality", "dedup", "decontaminate", "redact", "shards")
"""Those of ours that take documents and keep, drop or fail each."""
LAST = "shards"
"""Where documents become rows: the only one of them that hands no documents on."""


def usual_place(name: str) -> int:
    """Where a stage of this name usually stands; one of another package after all of ours."""
    return STAGE_NAMES.index(name) if name in STAGE_NAMES else len(STAGE_NAMES)


def load_stage(given: str) -> "Stage":
    """Import a stage: of ours by name, of another package by its dotted path or as an installed package offers it.

    Raises ConfigError for one that is neither.
    """
    from infra.errors import ConfigError
    from infra.extensions import load, reference_of
    from infra.stage import JobStage, ShardStage

    address = {entry.name: entry.reference for entry in STAGES}.get(given) or reference_of(given, "use")
    if address is None:
        known = (*STAGE_NAMES, *offered_stages())
        raise ConfigError(
            f"there is no stage {given!r}",
            remedy=f"Stages: {', '.join(known)}; of another package: package.module:NAME.",
        )
    stage: Stage = load(address, "use", ShardStage | JobStage)  # type: ignore[arg-type] # a union is no class
    if isinstance(stage, ShardStage) and given not in STAGE_NAMES and load(stage.reference, "use", ShardStage) != stage:
        raise ConfigError(
            f"the stage {address} says that its reference is {stage.reference}, which is another one",
            remedy=f"Declare it with reference={address!r}: worker processes import it by that.",
        )
    return stage


def offered_stages() -> tuple[str, ...]:
    """Stages that installed packages offer."""
    from infra.extensions import offered

    return tuple(sorted(set(offered("use")) - set(STAGE_NAMES)))


def pool_of(stage: "Stage") -> str:
    """The kind of work pool a stage wants: a process group a GPU, if its declaration does not know better."""
    from infra.stage import JobStage

    return {entry.name: entry.pool for entry in STAGES}.get(stage.kind, "gpu" if isinstance(stage, JobStage) else "cpu")


# ---- what is published, by the order of the path ---------------------------------------------------------------------


def in_order(datasets: "Iterable[Dataset]") -> "list[Dataset]":
    """One dataset a stage, each after those it was made from; otherwise as the path usually goes."""
    found: Mapping[str, Dataset] = {dataset.name: dataset for dataset in datasets}
    ordered: dict[str, Dataset] = {}

    def place(dataset: "Dataset") -> None:
        for record in dataset.manifest.inputs:
            if record.name in found and record.name not in ordered and record.name != dataset.name:
                place(found[record.name])
        ordered.setdefault(dataset.name, dataset)

    for name in sorted(found, key=lambda name: (usual_place(name), name)):
        place(found[name])
    return list(ordered.values())


def keeps_fates(dataset: "Dataset") -> bool:
    """Whether its stage took documents and kept, dropped or failed each; of another package's, its ledger tells."""
    if dataset.kind in STAGE_NAMES:
        return dataset.kind in DOCUMENT_STAGES
    return any(output.path.startswith("ledger/") for output in dataset.manifest.outputs)


def holds_documents(dataset: "Dataset") -> bool:
    """Whether later stages can take its documents."""
    return dataset.kind != LAST and keeps_fates(dataset)


def document_path(datasets: "Iterable[Dataset]") -> "list[Dataset]":
    """Those that tell documents' fates, in the order in which documents met them."""
    return [dataset for dataset in in_order(datasets) if keeps_fates(dataset)]


def labelled(store: "Store", label: str) -> "list[Dataset]":
    """The dataset of each stage that a label points at, in path order, as far as they belong together.

    A recipe's label names one set. ``latest`` may name stages of several recipes: those that rest on other documents than
    the newest run's are left out.
    """
    from infra.labels import EARLIER

    kept: dict[str, Dataset] = {}
    out: set[tuple[str, str]] = set()
    for dataset in in_order(found for name in store.names() if (found := store.get_ref(name, label)) is not None):
        inputs = [record for record in dataset.manifest.inputs if record.role != EARLIER]
        # A classifier or tokenizer of other documents may be meant: documents of other documents never are.
        read = [record for record in inputs if record.name in kept and _of_documents(kept[record.name])]
        other = _of_documents(dataset) and any(kept[record.name].digest != record.digest for record in read)
        if other or any((record.name, record.fingerprint) in out for record in inputs):
            out.add((dataset.name, dataset.manifest.fingerprint))
        else:
            kept[dataset.name] = dataset
    return list(kept.values())


def _of_documents(dataset: "Dataset") -> bool:
    return dataset.name == "attributes" or keeps_fates(dataset)


def document_stages(store: "Store", label: str) -> "list[Dataset]":
    """Those of a label that tell documents' fates, in the order in which documents met them."""
    return [dataset for dataset in labelled(store, label) if keeps_fates(dataset)]
