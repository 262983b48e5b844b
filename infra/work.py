"""A dataset under construction: what it is made from, where, what was lost on the way, and what came of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.planning import StageNode
from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import OutputFile, is_local
from infra.store.manifest import FailedUnit, UnitsRecord


@dataclass
class Work:
    """One dataset under construction."""

    node: StageNode
    inputs: Mapping[str, Dataset]
    payload: dict[str, Any]
    fingerprint: str
    root: str
    """Where the dataset is published, and below ``work`` what the runs of any machine share while they build it."""
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


@dataclass(frozen=True)
class Built:
    """What is to be published."""

    outputs: list[OutputFile]
    counts: Counts
    stats: dict[str, Any]
    units: UnitsRecord
    warnings: list[str]
