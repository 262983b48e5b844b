"""Drop rates between snapshots: whether a stage drops another share of a source than it did the time before.

The previous snapshot is the newest dataset of the same stage that the same recipe built before this one and that has one of
its sources: the crawl before, or the same crawl before a setting was changed (which is said).
"""

from dataclasses import dataclass
from typing import Any

from flows.provenance.funnel import funnel_by_source
from flows.stages import holds_documents
from infra.errors import HeadwaterError
from infra.store.dataset import Dataset
from infra.store.store import Store
from pipeline.drop_rates import BY_SOURCE, Change, drop_rate_changes

TOLERANCE = 0.05
"""Where no recipe says another: the same default as its ``execution.drop_rate_tolerance``."""
ANY_RULE = "the stage"


@dataclass(frozen=True)
class RateChanges:
    """What moved between two datasets of a stage."""

    stage: str
    previous: str
    """Fingerprint of the snapshot it is compared with."""
    settings_changed: bool
    changes: tuple[Change, ...]

    def sentences(self) -> list[str]:
        """One warning a change."""
        aside = ", and its settings changed too" if self.settings_changed else ""
        return [f"{change} (in {self.stage}/{self.previous}{aside})" for change in self.changes]


def rate_changes(store: Store, dataset: Dataset, tolerance: float) -> RateChanges | None:
    """Against the previous snapshot; None where there is none, or the stage drops no documents."""
    if not holds_documents(dataset):
        return None
    previous = previous_snapshot(store, dataset)
    if previous is None:
        return None
    changes = drop_rate_changes(_counts(previous), _counts(dataset), tolerance)
    changed = _settings(previous) != _settings(dataset)
    return RateChanges(dataset.name, previous.manifest.fingerprint, changed, tuple(changes))


def previous_snapshot(store: Store, dataset: Dataset) -> Dataset | None:
    """The newest dataset of the stage that the same recipe built before this one, with a source in common."""
    recipe = recipe_of(dataset)
    sources = set(_counts(dataset)[BY_SOURCE])
    ended = dataset.manifest.provenance.ended
    found: Dataset | None = None
    for fingerprint in store.fingerprints(dataset.name):
        try:
            other = store.find(dataset.name, fingerprint)
        except HeadwaterError:  # a manifest that cannot be read is no snapshot
            continue
        if other is None or other.manifest.provenance.ended >= ended or fingerprint == dataset.manifest.fingerprint:
            continue
        if recipe_of(other) != recipe:
            continue
        newer = found is None or other.manifest.provenance.ended > found.manifest.provenance.ended
        if newer and sources & set(_counts(other)[BY_SOURCE]):
            found = other
    return found


def recipe_of(dataset: Dataset) -> str:
    """The recipe that built it; of older datasets, what their run was named after."""
    made = dataset.manifest.provenance
    return made.recipe or made.run.rsplit("-", 3)[0]


def _counts(dataset: Dataset) -> dict[str, Any]:
    """Counts by source and rule where the stage keeps them; otherwise by source, whatever the rule."""
    if BY_SOURCE in dataset.manifest.stats:
        return dataset.manifest.stats
    rows = funnel_by_source([dataset])
    counts = {row.group: {"incoming": row.incoming, "dropped": {ANY_RULE: row.incoming - row.kept}} for row in rows}
    return {BY_SOURCE: counts}


def _settings(dataset: Dataset) -> dict[str, Any]:
    """What decides, less where the documents come from."""
    place = {"ingest": "sources", "dedup": "previous"}.get(dataset.kind)
    return {key: value for key, value in dataset.manifest.config.items() if key != place}
