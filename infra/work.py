"""A dataset under construction: what it is made from, where, what was lost on the way, and what came of it.

It is built where it will be published. If a dataset is published there already (a forced or repeated build) it is built
beside it, below its work, and takes its place when it is finished (``infra.rebuild``).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.execution.base import Executor
from infra.launch.spec import Launcher
from infra.progress import Reporter
from infra.runs import RunRecord
from infra.stage import Counts, StageNode
from infra.store.dataset import Dataset
from infra.store.files import OutputFile, is_local
from infra.store.manifest import FailedUnit, UnitsRecord
from infra.store.store import Store

BESIDE = "forced"
"""Below the work of a dataset: the work of its rebuild, and in ``dataset/`` what that has made so far."""


@dataclass(frozen=True)
class RunContext:
    """What every stage of a run shares."""

    store: Store
    record: RunRecord
    label: str
    executor: Executor
    launcher: Launcher
    reporter: Reporter
    max_failed_fraction: float = 0.0
    on_drift: Literal["warn", "rerun", "fail"] = "warn"
    follow_latest: bool = True
    """Whether the label ``latest`` moves to what this run publishes."""
    recipe: str = ""
    """Whose past its datasets are compared with."""


@dataclass
class Work:
    """One dataset under construction."""

    node: StageNode
    inputs: Mapping[str, Dataset]
    payload: dict[str, Any]
    fingerprint: str
    target: str
    """Where the dataset is published."""
    root: str
    """Where it is built, and below ``work`` what the runs of any machine share while they build it."""
    work: str
    local_root: Path
    """This machine's folders for both: the same in a local workspace."""
    local_work: Path
    started: float = field(default_factory=time.time)
    failed: list[FailedUnit] = field(default_factory=list)
    lost: Counts = field(default_factory=Counts)
    """Documents of units that failed for good, where their number was known beforehand."""
    lost_unknown: bool = False

    @property
    def scratch(self) -> Path:
        return self.local_work / "scratch"

    @property
    def is_local(self) -> bool:
        return is_local(self.root)

    @property
    def beside(self) -> bool:
        """Whether it is built beside a published dataset."""
        return self.root != self.target


def work_on(
    node: StageNode,
    inputs: Mapping[str, Dataset],
    payload: dict[str, Any],
    fingerprint: str,
    store: Store,
    beside: bool,
) -> Work:
    """The work of building a dataset, in its place or ``beside`` it."""
    target, work = store.dataset_url(node.name, fingerprint), store.work_url(node.name, fingerprint)
    local_root, local_work = store.dataset_root(node.name, fingerprint), store.work_root(node.name, fingerprint)
    root = target
    if beside:
        work, local_work = f"{work}/{BESIDE}", local_work / BESIDE
        root, local_root = f"{work}/dataset", local_work / "dataset"
    return Work(node, inputs, payload, fingerprint, target, root, work, local_root, local_work)


@dataclass(frozen=True)
class Built:
    """What is to be published."""

    outputs: list[OutputFile]
    counts: Counts
    stats: dict[str, Any]
    units: UnitsRecord
    warnings: list[str]
