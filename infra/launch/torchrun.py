"""The command line and environment of torchrun on one node: the same for every launcher."""

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.launch.processes import JOB_MARK, mark_of

GRACE_S = 20.0
AGENT_GRACE_S = 15
"""Less than the guard's, so that torchrun ends its ranks in order where it can."""
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": 1 << 25, "MALLOC_TRIM_THRESHOLD_": 1 << 28}
"""Without a GPU: what tensors free stays with the process for the next step's. glibc hands it back at once otherwise, and
ten thousand page faults a step are a tenth of a small model's time."""
RENDEZVOUS_S = 1800
"""How long the first node waits for the last one."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the agents of a job meet. One node meets itself at a free port of the loopback interface."""

    id: str
    nodes: int = 1
    node: int = 0
    endpoint: str = "127.0.0.1:0"
    interface: str = ""
    """Network interface of the ranks' traffic; empty: the one that has this node's address."""


@dataclass(frozen=True)
class NodeRanks:
    """What an agent starts."""

    module: str
    ranks: int
    threads: int
    work_dir: Path
    logs: Path
    env: Mapping[str, str]


def torchrun(ranks: NodeRanks, rendezvous: Rendezvous, grace_s: int = AGENT_GRACE_S) -> list[str]:
    """The command line of one node's agent."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(rendezvous.nodes), "--nproc-per-node", str(ranks.ranks), "--max-restarts", "0"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous.endpoint, "--rdzv-id", rendezvous.id),
        *("--local-addr", local_address(rendezvous)),
    ]
    if rendezvous.nodes > 1:
        # Who hosts the rendezvous is said, not guessed from host names: the guess hangs where two nodes share one.
        host = "true" if rendezvous.node == 0 else "false"
        command += ["--rdzv-conf", f"is_host={host},join_timeout={RENDEZVOUS_S},read_timeout={RENDEZVOUS_S}"]
    return [
        *command,
        *("--log-dir", str(ranks.logs), "--redirects", "3", "--shutdown-timeout", str(grace_s)),
        *("-m", ranks.module, "--request", str(ranks.work_dir / "request.json")),
    ]


def environment(ranks: NodeRanks, rendezvous: Rendezvous) -> dict[str, str]:
    """The environment of an agent and its ranks: this process's own, what they need, and the job's."""
    extensions = extensions_folder()
    clear_stale_locks(extensions)
    values = {
        **os.environ,
        JOB_MARK: mark_of(ranks.work_dir),
        "OMP_NUM_THREADS": str(ranks.threads),
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONFAULTHANDLER": "1",
        # What lies in the working folder and bears a module's name is not imported, by torchrun and ranks either.
        "PYTHONSAFEPATH": "1",
        "LOCAL_SIZE": str(ranks.ranks),
    }
    interface = rendezvous.interface or interface_of(local_address(rendezvous))
    if interface:
        # Left to itself gloo takes the address of the host's name, which many distributions map to the loopback.
        values["GLOO_SOCKET_IFNAME"] = interface
    if rendezvous.interface:
        values["NCCL_SOCKET_IFNAME"] = interface
    if not has_gpu({**os.environ, **ranks.env}):
        values["DS_ACCELERATOR"] = "cpu"
        for name, size in KEPT_MEMORY.items():
            values.setdefault(name, str(size))
    return {**values, **ranks.env}


def local_address(rendezvous: Rendezvous) -> str:
    """An address of this node that the others reach: the one it takes on its way to the rendezvous."""
    host, _, port = rendezvous.endpoint.rpartition(":")
    if rendezvous.node == 0:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The interface that has an address (or a name's address), unless none has or the name means the loopback."""
    with contextlib.suppress(OSError):
        found = socket.gethostbyname(address)
        if found.startswith("127.") and not address.startswith("127."):
            return ""
        for name, addresses in psutil.net_if_addrs().items():
            if any(each.address == found for each in addresses) or (found.startswith("127.") and name == "lo"):
                return name
    return ""


def has_gpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a CUDA or ROCm device is there for processes of that environment, without importing torch."""
    if environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    nvidia = any(re.fullmatch(r"nvidia\d+", path.name) for path in Path("/dev").iterdir())
    return nvidia or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


def extensions_folder() -> Path:
    """Where PyTorch's extensions are compiled to; made if need be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "headwater" / "torch-extensions"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clear_stale_locks(folder: Path) -> None:
    """Remove lock files that killed compilations left: every later start would wait for them in silence.

    The builder keeps its lock file open while it lives, so a lock that no process has open is stale.
    """
    locks = {str(path.resolve()) for path in folder.rglob("lock")}
    if locks:
        for path in locks - set(_open_files()):
            Path(path).unlink(missing_ok=True)


def _open_files() -> Iterator[str]:
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            yield os.readlink(link)
        except OSError:
            continue  # closed meanwhile, or another user's
