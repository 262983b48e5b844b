"""Building a published dataset again, without a moment in which there is none.

The new one is built beside the old one, below ``work/<name>/<fingerprint>/forced/``, with a plan, journal and checkpoints
of its own; a rebuild that is broken off leaves the old dataset as it is and goes on when it is asked for again. When it is
finished its manifest is written there, and both change places: by one exchange of two folders where the kernel has that,
by two renames where not, in an object store file by file with the manifest last. A kill in between is mended by the next
run of the stage, which finds the finished rebuild.

A rebuild is mostly asked for because the code changed, so one that was begun by other code starts over.
"""

import ctypes
import os
from pathlib import Path

from infra.config import Config
from infra.journal import count_receipts
from infra.stage import Stage
from infra.stage_source import stage_source
from infra.store.dataset import Dataset
from infra.store.files import (
    child_names,
    copy_within_store,
    exists,
    file_sizes,
    fsync_folder,
    is_local,
    read_json,
    remove_file,
    remove_tree,
    write_json,
)
from infra.store.lease import LEASE
from infra.store.manifest import MANIFEST, write_manifest
from infra.store.store import Store
from infra.work import BESIDE, Work

FORCED = "forced.json"
"""In the work of a dataset that is built from nothing by request: the source it was begun with."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def begin(work: Work) -> None:
    """Forget earlier work, unless it is an earlier attempt at the same rebuild."""
    source = stage_source(work.node.stage, work.node.config)
    if _begun(work.work) == source:
        return
    for name in child_names(work.work):
        if name not in (LEASE, ".lease.lock"):
            remove_tree(f"{work.work}/{name}")
    remove_tree(work.root)
    if not work.is_local:
        remove_tree(work.local_root)
        remove_tree(work.local_work)
    write_json(f"{work.work}/{FORCED}", {"source": source})


def units_done(store: Store, stage: Stage, config: Config, fingerprint: str) -> int:
    """How far an earlier attempt at rebuilding a dataset came, which asking again would go on with."""
    work = store.work_url(stage.name, fingerprint)
    for folder in (f"{work}/{BESIDE}", work):
        if _begun(folder) == stage_source(stage, config):
            return count_receipts(f"{folder}/journal")
    return 0


def _begun(work: str) -> dict[str, str] | None:
    path = f"{work}/{FORCED}"
    return dict(read_json(path)["source"]) if exists(path) else None


def replace(work: Work) -> None:
    """Put the finished rebuild, whose manifest is written, in the place of the published dataset."""
    if is_local(work.target):
        _exchange(Path(work.root), Path(work.target))
    else:
        _copy_over(work.root, work.target)
    _keep_work(work)


def finish_replacement(work: Work) -> bool:
    """Finish the replacement that a kill broke off; True if there was one. Under the dataset's lease."""
    if not exists(f"{work.root}/{MANIFEST}"):
        return False
    new = Dataset.open(work.root)
    old = Dataset.open(work.target) if exists(f"{work.target}/{MANIFEST}") else None
    if old is not None and new.manifest.provenance.ended <= old.manifest.provenance.ended:
        _keep_work(work)  # they have changed places already, and this is the old one
        return True
    replace(work)
    return True


def _exchange(new: Path, old: Path) -> None:
    if old.exists() and not _exchanged(new, old):
        aside = new.with_name("replaced")
        remove_tree(aside)
        os.rename(old, aside)
        os.rename(new, old)
    elif not old.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        os.rename(new, old)
    fsync_folder(old.parent)
    fsync_folder(new.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places at once; False where the kernel or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _copy_over(new: str, target: str) -> None:
    """In an object store: every file, then the manifest, then nothing else."""
    built = Dataset.open(new).manifest
    for output in built.outputs:
        copy_within_store(f"{new}/{output.path}", f"{target}/{output.path}")
    write_manifest(target, built)
    known = {MANIFEST, *(output.path for output in built.outputs)}
    for path in file_sizes(target):
        if path not in known:
            remove_file(f"{target}/{path}")


def _keep_work(work: Work) -> None:
    """A rebuilt job's checkpoints and logs stand where those of the first build stood."""
    home = work.local_work.parent
    for entry in sorted(work.local_work.iterdir()) if work.local_work.is_dir() else ():
        if entry.name not in ("dataset", "replaced", "scratch", "journal", "steps", FORCED):
            remove_tree(home / entry.name)
            os.rename(entry, home / entry.name)
    remove_tree(work.work)
    remove_tree(work.local_work)
