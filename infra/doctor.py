"""What this machine and this workspace need to work and nobody else checks, one check at a time.

Versions are for ``pip check``, disk, interrupted work and damaged manifests for ``headwater status``.

A check looks at one thing and answers with one line: ``ok``, ``warn`` (works, but somebody should know) or ``fail``
(something of ours will not work), and how to mend it. Checks change nothing, except that ``fix=True`` removes what dead
processes left behind: locks of compilers, leases and work folders are only ever judged by whether their owner lives.
"""

import errno
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from infra.errors import HeadwaterError
from infra.gpus import nvidia_gpus, torch_for_cpu
from infra.labels import dangling_labels, unfinished_moves
from infra.launch.torchrun import clear_stale_locks, extensions_folder
from infra.store.files import create_exclusive, fsync_folder
from infra.store.lease import LEASE, Lease
from infra.store.slot import keeps_conditions
from infra.store.store import Store

State = Literal["ok", "warn", "fail"]

FASTTEXT_PACKAGES = ("fasttext", "fasttext-community", "fasttext-modern", "fasttext-numpy2", "fasttext-wheel",
                     "fasttext-predict", "fasttext-langdetect")  # fmt: skip
"""They overwrite each other's files: exactly one may be installed."""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def guarded(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """A check that cannot be carried out is itself a finding, not the end of the examination."""
    try:
        yield from look()
    except HeadwaterError as error:
        yield Check(name, "fail", f"{error.error} ({error.where})" if error.where else error.error, error.remedy)
    except Exception as error:
        yield Check(
            name, "fail", f"{type(error).__name__}: {error}", "Mend the cause, then run headwater doctor again."
        )


def machine_checks(store: Store, fix: bool = False) -> Iterator[Check]:
    """Everything that can be known without a server."""
    yield from guarded("fasttext", one_fasttext)
    yield from guarded("filesystem", lambda: file_system(store.home))
    yield from guarded("objects", lambda: object_store(store))
    yield from guarded("gpu", gpus)
    yield from guarded("jit-locks", lambda: jit_locks(fix))
    yield from guarded("labels", lambda: label_folders(store))


def one_fasttext() -> Iterator[Check]:
    """Exactly one of the packages that all install a module ``fasttext``."""
    present = [name for name in FASTTEXT_PACKAGES if _installed(name)]
    if present == ["fasttext-community"]:
        yield Check("fasttext", "ok", f"fasttext-community {metadata.version('fasttext-community')}")
        return
    found = ", ".join(present) or "no fastText package"
    yield Check(
        "fasttext", "fail", f"{found} installed; the packages overwrite each other's files",
        f"pip uninstall -y {' '.join(present)}; pip install --force-reinstall --no-deps fasttext-community==0.11.9",
    )  # fmt: skip


def file_system(home: Path) -> Iterator[Check]:
    """Writing, fsync, atomic rename over a file, and creation that has exactly one winner: what the store rests on."""
    new = not home.exists()
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = home / f".doctor-{uuid.uuid4().hex}"
        folder.mkdir()
    except OSError as error:
        why = "no permission to write" if error.errno in (errno.EACCES, errno.EPERM) else (error.strerror or str(error))
        yield Check("filesystem", "fail", f"{why} at {home}", "Choose a writable --workspace, or mend its permissions.")
        return
    try:
        missing = list(_missing_guarantees(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new:
            home.rmdir()
    if missing:
        yield Check(
            "filesystem", "fail", f"{home}: {'; '.join(missing)}",
            "Put the workspace on a local disk, NFSv4 or another POSIX file system, or in an S3 bucket.",
        )  # fmt: skip
    else:
        yield Check("filesystem", "ok", f"{home}: rename, fsync, exclusive creation and locks work")


def _missing_guarantees(folder: Path) -> Iterator[str]:
    target, beside = folder / "target", folder / "beside"
    target.write_bytes(b"old")
    beside.write_bytes(b"new")
    try:
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        fsync_folder(folder)
    except OSError as error:
        yield f"fsync is refused ({error.strerror})"
    try:
        os.replace(beside, target)
        if target.read_bytes() != b"new":
            yield "a rename does not replace"
    except OSError as error:
        yield f"a rename over a file is refused ({error.strerror})"
    try:
        if [create_exclusive(str(folder / "one"), b"a"), create_exclusive(str(folder / "one"), b"b")] != [True, False]:
            yield "a file can be created exclusively twice"
    except (OSError, HeadwaterError) as error:
        yield f"exclusive creation is refused ({error})"
    try:
        lease = Lease(folder / "lease")
        lease.acquire(wait=False)
        lease.release()
    except OSError as error:
        yield f"locks are refused ({error.strerror})"


def gpus() -> Iterator[Check]:
    """Cards the driver shows, and whether the installed torch was built to use them. torch itself is not imported."""
    cards = [gpu.name for gpu in nvidia_gpus()]
    if not _installed("torch"):
        yield Check("gpu", "ok", "torch is not installed: data stages only (headwater[train] brings it)")
        return
    if not cards:
        yield Check("gpu", "ok", "no NVIDIA GPU: training runs on the CPU")
    elif torch_for_cpu():
        yield Check(
            "gpu", "fail", f"{len(cards)} GPU(s) ({cards[0]}), but torch is built for the CPU",
            "pip install --force-reinstall torch==2.13.0 from the index of your CUDA version.",
        )  # fmt: skip
    else:
        found = _torch_sees()
        state: State = "ok" if found == len(cards) else "fail"
        remedy = "" if state == "ok" else "Check the driver's version against torch's CUDA, and CUDA_VISIBLE_DEVICES."
        yield Check("gpu", state, f"{len(cards)} GPU(s) ({cards[0]}), torch sees {found}", remedy)


def _torch_sees() -> int:
    """Asked in a process of its own: the doctor does not hold a CUDA context."""
    code = "import torch; print(torch.cuda.device_count())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    return int(result.stdout.strip() or 0) if result.returncode == 0 else 0


def jit_locks(fix: bool) -> Iterator[Check]:
    """A build that was killed leaves its lock behind, and every later start waits for it without a word."""
    folders = {extensions_folder(), Path(os.environ.get("TORCH_EXTENSIONS_DIR") or _torch_default())}
    locks = sorted(lock for folder in folders for lock in folder.glob("**/lock"))
    if not locks:
        yield Check("jit-locks", "ok", f"no lock below {', '.join(str(folder) for folder in sorted(folders))}")
        return
    if fix:
        for folder in folders:
            clear_stale_locks(folder)
    left = [lock for lock in locks if lock.exists()]
    if not left:
        yield Check("jit-locks", "ok", f"{len(locks)} stale locks removed")
    else:
        yield Check(
            "jit-locks", "warn", f"{len(left)} locks of extension builds, the first {left[0]}",
            "If no build runs, headwater doctor --fix removes them.",
        )  # fmt: skip


def _torch_default() -> str:
    """Where torch builds without our launcher; shared with every other program of this user."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(cache) / "torch_extensions")


def label_folders(store: Store) -> Iterator[Check]:
    """Every label points at a published dataset, and none was left half moved."""
    dangling, unfinished = dangling_labels(store), unfinished_moves(store)
    if dangling:
        yield Check(
            "labels", "fail", f"{len(dangling)} point at nothing published: {', '.join(dangling[:3])}",
            "Run their recipe again to its end.",
        )  # fmt: skip
    if unfinished:
        yield Check(
            "labels", "warn", f"moving {', '.join(unfinished[:3])} was broken off",
            "The end of the next run finishes it.",
        )  # fmt: skip
    if not dangling and not unfinished:
        yield Check("labels", "ok", "every label points at a published dataset")


def object_store(store: Store) -> Iterator[Check]:
    """Reachable, writable, and keeping the conditions that leases rest on."""
    if not store.is_local:
        replaces = keeps_conditions(f"{store.address}/work/{LEASE}")
        how = "If-None-Match and If-Match" if replaces else "If-None-Match"
        yield Check("objects", "ok", f"{store.address} is writable and keeps {how}")


def free_port(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody listens at a TCP port of an address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
