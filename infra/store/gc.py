"""Collecting what nothing needs any more.

Kept is whatever can be reached from

* a label of any dataset, and the newest ``keep_last`` versions of each name,
* anything published or worked on within ``keep_days``,
* work that somebody does right now, and the plan of every run that still goes on,

through the inputs in the manifests, the work that would complete an incomplete dataset, the inputs of unfinished work, and
every ``name/fingerprint`` or address in a configuration (shards that another version is appended to, an index of an earlier
crawl). Everything else is removed: datasets with their work, dead work, folders without a manifest, runs older than
``runs_days``, and this machine's copies of a remote workspace's files that were fetched before ``keep_days``.

Safe beside a running pipeline: a dataset is removed under its own lease, after its labels were read once more, and
nothing younger than an hour is touched. Safe against a kill: on a file system a dataset leaves its place by one rename
into ``trash/``; in an object store its manifest goes first. Either way it is gone as a whole at once, and the next
collection sweeps what is left. A manifest that cannot be read ends the collection before it began: what it reaches is not
known.
"""

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.errors import HeadwaterError
from infra.incomplete import complete_fingerprint
from infra.runs import list_runs
from infra.store.cache import cache_root
from infra.store.dataset import Dataset
from infra.store.files import (
    child_names,
    exists,
    file_sizes,
    fsync_folder,
    newest_change,
    read_json,
    remove_file,
    remove_tree,
)
from infra.store.lease import LEASE, Lease, lease_holder, process_host
from infra.store.manifest import MANIFEST
from infra.store.store import Store
from infra.work import BESIDE

GRACE_S = 3600.0
DAY_S = 86400.0
TRASH = "trash"
_FINGERPRINT = re.compile(r"[0-9a-f]{12}")
_REFERENCE = re.compile(r"(?:^|/)([A-Za-z0-9_-]+)/([0-9a-f]{4,12})(?:$|/)")

Key = tuple[str, str]
"""(name, fingerprint)"""


@dataclass(frozen=True)
class GcSettings:
    """What is kept beside what is reached."""

    keep_days: float = 7.0
    keep_last: int = 1
    runs_days: float | None = None
    """Runs that ended longer ago are forgotten; None keeps all: they are small."""
    grace_s: float = GRACE_S


@dataclass(frozen=True)
class Removal:
    """One thing that nothing needs."""

    kind: Literal["dataset", "work", "run", "trash", "copy"]
    name: str
    fingerprint: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class KeptDataset:
    """One dataset, or work on one that is not published, that stays."""

    name: str
    fingerprint: str
    published: bool
    bytes: int
    reason: str
    """The first that was found; there may be others."""


@dataclass
class Collection:
    """What a collection found, and what it did about it."""

    removed: list[Removal] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    """Found unreachable, but somebody was quicker to need it."""
    kept: list[KeptDataset] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self.removed)


def collect(store: Store, settings: GcSettings, *, dry_run: bool = False) -> Collection:
    """Remove what is not reached; ``dry_run`` only says what that would be."""
    if dry_run:
        return _collect(store, settings, dry_run)
    with Lease(f"{store.address}/gc") as lease:
        lease.acquire(wait=False)
        return _collect(store, settings, dry_run)


def _collect(store: Store, settings: GcSettings, dry_run: bool) -> Collection:
    now = time.time()
    view = _View.of(store)
    needed = reachable(view, settings, now)
    found = Collection(
        kept=[_kept(key, needed[key], view) for key in sorted(needed) if key in view.folders | view.works]
    )
    for name in child_names(f"{store.home}/{TRASH}"):
        found.removed.append(Removal("trash", name, "", _bytes(store.home / TRASH / name), "left by a collection"))
        if not dry_run:
            remove_tree(store.home / TRASH / name)
    for key in sorted(view.folders - needed.keys()):
        if _young(store.dataset_url(*key), settings.grace_s, now):
            found.kept.append(_kept(key, "changed a moment ago", view))
            continue
        reason = "no label or dataset reaches it" if key in view.datasets else "never published"
        removal = Removal("dataset", *key, _bytes(store.dataset_url(*key)) + _bytes(store.work_url(*key)), reason)
        _remove(store, removal, found, dry_run)
    for key in sorted(view.works - needed.keys() - view.folders):
        if not _young(store.work_url(*key), max(settings.grace_s, settings.keep_days * DAY_S), now):
            _remove(store, Removal("work", *key, _bytes(store.work_url(*key)), "nobody works on it"), found, dry_run)
    _drop_rebuilds(view, settings, now, found, dry_run)
    if not store.is_local:
        _drop_copies(settings, now, found, dry_run)
    if settings.runs_days is not None:
        _forget_runs(store, settings.runs_days, now, found, dry_run)
    return found


def _drop_rebuilds(view: "_View", settings: GcSettings, now: float, found: Collection, dry_run: bool) -> None:
    """Rebuilds beside published datasets that were broken off and that nobody asked for again."""
    for key in sorted((view.works & view.datasets.keys()) - view.busy):
        beside = f"{view.store.work_url(*key)}/{BESIDE}"
        changed = newest_change(beside)
        if changed is None or now - changed < max(settings.grace_s, settings.keep_days * DAY_S):
            continue
        removal = Removal("work", *key, _bytes(beside), "a rebuild that was broken off")
        if not dry_run:
            lease = Lease(view.store.work_url(*key))
            try:
                lease.acquire(wait=False)
            except HeadwaterError:
                found.passed_over.append("/".join(key))
                continue
            with lease:
                remove_tree(beside)
                remove_tree(view.store.work_root(*key) / BESIDE)
        found.removed.append(removal)


def _kept(key: Key, reason: str, view: "_View") -> KeptDataset:
    dataset = view.datasets.get(key)
    size = dataset.manifest.bytes if dataset is not None else _bytes(view.store.work_url(*key))
    return KeptDataset(*key, dataset is not None, size, reason)


# ---- what is needed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """The store as it is now."""

    store: Store
    datasets: dict[Key, Dataset]
    folders: frozenset[Key]
    """With or without a manifest."""
    works: frozenset[Key]
    busy: frozenset[Key]
    """Works with a living lease."""

    @classmethod
    def of(cls, store: Store) -> "_View":
        # Leases before folders: work that ends in between is published by then, and young.
        works = frozenset(key for key in store.works() if _FINGERPRINT.fullmatch(key[1]))
        busy = frozenset(key for key in works if lease_holder(store.work_url(*key)))
        folders = frozenset(
            (name, entry)
            for name in store.names()
            for entry in store.fingerprints(name)
            if _FINGERPRINT.fullmatch(entry)
        )
        # An unreadable manifest raises: what it reaches is not known.
        datasets = {key: dataset for key in sorted(folders) if (dataset := store.find(*key)) is not None}
        return cls(store, datasets, folders, works, busy)


def reachable(view: _View, settings: GcSettings, now: float) -> dict[Key, str]:
    """Everything that must stay, and why: what is kept for its own sake with that reason, the rest by what needs it."""
    needed: dict[Key, str] = {}
    waiting: list[tuple[Key, str]] = []
    for root in _roots(view, settings, now):  # first of all: a label says more than what is built on the dataset
        if root[0] not in needed:
            needed[root[0]] = root[1]
            waiting.append(root)
    while waiting:
        key, _ = waiting.pop()
        for other, reason in _needed_by(key, view):
            if other not in needed:
                needed[other] = reason
                waiting.append((other, reason))
    return needed


def _needed_by(key: Key, view: _View) -> Iterator[tuple[Key, str]]:
    """What a dataset, or unfinished work, was or is made from."""
    name = "/".join(key)
    dataset = view.datasets.get(key)
    if dataset is not None:
        yield from (((record.name, record.fingerprint), f"input of {name}") for record in dataset.manifest.inputs)
        yield from ((other, f"named by {name}") for other in _referenced(dataset.manifest.config, view))
        if not dataset.manifest.complete:  # what its finished units wrote, and the work that would complete it
            yield (key[0], complete_fingerprint(dataset.manifest)), f"would complete {name}"
    if key in view.works:
        yield from ((other, f"input of the work on {name}") for other in _inputs_of_work(key, view))


def _roots(view: _View, settings: GcSettings, now: float) -> Iterator[tuple[Key, str]]:
    """What is kept for its own sake, the most telling reason first."""
    yield from ((key, "somebody works on it") for key in sorted(view.busy))
    young_s = max(settings.grace_s, settings.keep_days * DAY_S)
    days = f"{settings.keep_days:g} days" if young_s > settings.grace_s else "the last hour"
    names = view.store.names()
    for name in names:
        labels: dict[str, list[str]] = {}
        for label, fingerprint in view.store.labels(name).items():
            labels.setdefault(fingerprint, []).append(label)
        for fingerprint, found in labels.items():
            yield (name, fingerprint), f"label {', '.join(sorted(found))}"
    yield from ((key, f"run {run} is to use it") for key, run in _planned(view, now))
    for name in names:
        versions = sorted((key for key in view.datasets if key[0] == name), key=lambda key: _published(key, view))
        newest = versions[len(versions) - settings.keep_last :] if settings.keep_last else []
        yield from ((key, f"newest version of {name}") for key in reversed(newest))
        yield from ((key, f"published within {days}") for key in versions if now - _published(key, view) < young_s)
    for key in view.works - view.busy:
        if _young(view.store.work_url(*key), young_s, now):
            yield key, f"worked on within {days}"


def _published(key: Key, view: _View) -> float:
    return view.datasets[key].manifest.provenance.ended


def _planned(view: _View, now: float) -> Iterator[tuple[Key, str]]:
    """What runs that still go on said they would use. Where they do not know yet which version, all of that name."""
    for run in list_runs(view.store):
        if "ended" in run or (run["state"] == "interrupted" and not _may_go_on_elsewhere(run, now)):
            continue
        path = f"{view.store.run_url(run['id'])}/plan.json"
        for entry in read_json(path)["stages"] if exists(path) else ():
            name, fingerprint = entry["stage"], entry["fingerprint"]
            for key in view.folders:
                if key[0] == name and fingerprint in (None, key[1]):
                    yield key, run["id"]


def _may_go_on_elsewhere(run: dict[str, Any], now: float) -> bool:
    """Of a run on another machine nobody here knows whether it lives: for a week it counts as living."""
    return bool(run["host"] != process_host() and now - run["started"] < 7 * DAY_S)


def _referenced(value: Any, view: _View) -> Iterator[Key]:
    """Datasets named anywhere in a configuration, as ``name/fingerprint`` or by an address that ends so."""
    if isinstance(value, str):
        for name, prefix in _REFERENCE.findall(value):
            yield from (key for key in view.folders if key[0] == name and key[1].startswith(prefix))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _referenced(item, view)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _referenced(item, view)


def _inputs_of_work(key: Key, view: _View) -> Iterator[Key]:
    """Unfinished work knows its inputs by their output digests."""
    path = f"{view.store.work_url(*key)}/payload.json"
    if not exists(path):
        return
    payload = read_json(path)
    digests = set(payload.get("inputs", {}).values())
    yield from (other for other, dataset in view.datasets.items() if dataset.digest in digests)
    yield from _referenced(payload.get("config"), view)


# ---- removing -------------------------------------------------------------------------------------------------------


def _remove(store: Store, removal: Removal, found: Collection, dry_run: bool) -> None:
    key = (removal.name, removal.fingerprint)
    if dry_run:
        found.removed.append(removal)
        return
    lease = Lease(store.work_url(*key))
    try:
        lease.acquire(wait=False)
    except HeadwaterError:
        found.passed_over.append(f"{removal.name}/{removal.fingerprint}")
        return
    with lease:
        if removal.fingerprint in store.labels(removal.name).values():
            found.passed_over.append(f"{removal.name}/{removal.fingerprint}")
            return
        if removal.kind == "dataset":
            _discard(store, f"datasets/{removal.name}/{removal.fingerprint}")
        _discard(store, f"work/{removal.name}/{removal.fingerprint}")
        remove_tree(store.work_root(*key))
    found.removed.append(removal)


def _discard(store: Store, path: str) -> None:
    """Out of its place at once, then bit by bit."""
    if not store.is_local:
        remove_file(f"{store.address}/{path}/{MANIFEST}")
        for name in file_sizes(f"{store.address}/{path}"):
            if name != LEASE:  # ours, until the rest is gone
                remove_file(f"{store.address}/{path}/{name}")
        return
    source = store.home / path
    if not source.exists():
        return
    target = store.home / TRASH / f"{path.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
    fsync_folder(source.parent)
    remove_tree(target)


def _drop_copies(settings: GcSettings, now: float, found: Collection, dry_run: bool) -> None:
    """Copies of remote files on this machine that were fetched long ago; who wants one again fetches it again."""
    for kind in ("datasets", "files"):
        for folder in sorted((cache_root() / kind).glob("*")):
            if not _young(str(folder), max(settings.keep_days, 1.0) * DAY_S, now):
                found.removed.append(Removal("copy", folder.name, "", _bytes(folder), "fetched long ago"))
                if not dry_run:
                    remove_tree(folder)


def _forget_runs(store: Store, days: float, now: float, found: Collection, dry_run: bool) -> None:
    for run in list_runs(store):
        if run["state"] == "running" or now - run.get("ended", run["started"]) < max(days, 1 / 24) * DAY_S:
            continue
        url = store.run_url(run["id"])
        reason = f"{run['state']} longer than {days:g} days ago"
        found.removed.append(Removal("run", run["id"], "", _bytes(url), reason))
        if not dry_run:
            _discard(store, f"runs/{run['id']}")


def _young(url: str, limit_s: float, now: float) -> bool:
    changed = newest_change(url)
    return changed is not None and now - changed < limit_s


def _bytes(url: str | Path) -> int:
    """What removing it frees: a file that another dataset links to stays on the disk."""
    return sum(file_sizes(url, last_link_only=True).values())
