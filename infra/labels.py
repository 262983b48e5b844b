"""Labels: under which name the datasets of a recipe are found. They move together, when a run completes.

A recipe's label, and ``latest``, name one dataset a stage. What they name must belong together, and must be what a
completed run made, or the fate of a document would be told from two versions at once:

* A run of all of a recipe's stages moves its label to exactly the datasets that it made or found published.
* A run of a part (``only``, ``stop_after``) adds stages that have no label yet. It moves a stage that has one only as long
  as no run of the whole recipe ever completed, and only if what was built on the stage before still belongs to it.
* A run that fails or is broken off moves nothing.

A move is written down before it begins, so that one broken off by a kill is finished by the next run.
"""

from collections.abc import Collection, Mapping

from infra.store.dataset import Dataset
from infra.store.files import child_names, exists, read_json, remove_file, write_json
from infra.store.lease import Lease
from infra.store.manifest import MANIFEST
from infra.store.store import Store

LATEST = "latest"
MOVES, MOVE = "moves", ".move"
EARLIER = "earlier"
"""Role of datasets that one is built on beside its inputs: another version of the same stage."""


def move_labels(
    store: Store, label: str, made: Mapping[str, Dataset], stages: Collection[str], *, whole: bool, latest: bool = True
) -> list[str]:
    """Point the label (and ``latest``) at what a completed run made or found; says in a sentence what did not move.

    ``stages`` are all of the recipe's; ``whole``: the run was one of all of them.
    """
    notices = []
    with Lease(f"{store.address}/{MOVES}") as lease:
        lease.acquire()
        _finish(store)
        for each in dict.fromkeys((label, LATEST) if latest else (label,)):
            now = {name: target for name in store.names() if (target := store.read_ref(name, each)) is not None}
            moves = {name: dataset.manifest.fingerprint for name, dataset in made.items()}
            # A recipe's label is its own; what other recipes made stays ``latest``.
            gone = sorted(now.keys() - set(stages)) if whole and each != LATEST else []
            if moves.items() <= now.items() and not gone:
                continue
            reason = "" if whole else _why_not_moved(store, now, made, stages)
            if reason:
                notices.append(f"label {each!r} stays where it was: {reason}")
                continue
            write_json(f"{store.address}/{MOVES}/{each}{MOVE}", {"moves": moves, "gone": gone})
            _finish(store)
    return notices


def _why_not_moved(store: Store, now: Mapping[str, str], made: Mapping[str, Dataset], stages: Collection[str]) -> str:
    """Why a run of a part may not move the label; empty if it may."""
    replaced = sorted(name for name in now.keys() & made.keys() if now[name] != made[name].manifest.fingerprint)
    if replaced and set(stages) <= now.keys():
        return f"this run was of a part, and {', '.join(replaced)} would no longer be what the whole recipe made"
    standing = {name: found for name, target in now.items() if (found := store.find(name, target)) is not None}
    stale = disagreeing({**standing, **made}, set(made))
    if stale:
        return f"{', '.join(stale)} would no longer belong to {', '.join(replaced)}"
    return ""


def disagreeing(datasets: Mapping[str, Dataset], about: Collection[str]) -> list[str]:
    """The datasets built on another version of one of ``about`` than the one in the same set."""
    return sorted(
        name
        for name, dataset in datasets.items()
        for record in dataset.manifest.inputs
        if record.role != EARLIER
        and record.name in datasets
        and name not in about
        and record.name in about
        and record.digest != datasets[record.name].digest
    )


def _finish(store: Store) -> None:
    """Carry out what is written down: by the run that wrote it, or by the next one after a kill."""
    for label in unfinished_moves(store):
        path = f"{store.address}/{MOVES}/{label}{MOVE}"
        plan = read_json(path)
        for name, fingerprint in plan["moves"].items():
            if store.find(name, fingerprint) is not None:  # after a kill it may have been collected
                store.set_ref(name, label, fingerprint)
        for name in plan["gone"]:
            store.drop_ref(name, label)
        remove_file(path)


def unfinished_moves(store: Store) -> list[str]:
    """Labels whose move was broken off."""
    return [name.removesuffix(MOVE) for name in child_names(f"{store.address}/{MOVES}") if name.endswith(MOVE)]


def dangling_labels(store: Store) -> list[str]:
    """``name@label`` of labels that point at nothing published."""
    return [
        f"{name}@{label}"
        for name in store.names()
        for label, target in store.labels(name).items()
        if not exists(f"{store.dataset_url(name, target)}/{MANIFEST}")
    ]
