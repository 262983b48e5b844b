"""Who can be killed at a moment: the processes of a cluster by their part in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import psutil

from tests.chaos.containers import ContainerCluster, containers
from tests.flows.cluster import Cluster, ranks

WEIGHTS = {"pool": 0.3, "rank": 0.3, "driver": 0.2, "worker": 0.1, "server": 0.1, "container": 0.4}
"""What is cheap to start again is killed more often: more kills in an hour."""

ENGINE = {"prefect.runner._workspace_supervisor", "prefect.engine"}
"""What a worker starts for a flow run: the first prepares, then becomes the second."""


@dataclass(frozen=True)
class Victim:
    """One process, or one service that has to be started again."""

    kind: str
    kill: Callable[[], None]


def victims(cluster: Cluster) -> Mapping[str, list[Victim]]:
    """Everything alive that may be killed, by kind."""
    family = cluster.family()
    found = {
        "driver": [Victim("driver", process.kill) for process in family if flow_run_of(process)],
        "rank": [Victim("rank", process.kill) for process in ranks(family)],
        "pool": [Victim("pool", process.kill) for process in family if _of_pool(process)],
        "worker": [Victim("worker", cluster.kill_worker)],
        "server": [Victim("server", cluster.kill_server)],
    }
    if isinstance(cluster, ContainerCluster):
        running = containers(cluster.engine, cluster.workspace)
        found["container"] = [Victim("container", partial(cluster.kill_container, each)) for each in running]
    return {kind: alive for kind, alive in found.items() if alive}


def flow_runs(cluster: Cluster) -> set[str]:
    """Flow runs that something still carries out."""
    if isinstance(cluster, ContainerCluster):
        return cluster.flow_runs()
    return {run for process in cluster.family() if (run := flow_run_of(process))}


def flow_run_of(process: psutil.Process) -> str | None:
    """The flow run that a process carries out: one that a worker started, not what it started itself."""
    try:
        if ENGINE & set(process.cmdline()):
            return process.environ().get("PREFECT__FLOW_RUN_ID")
    except (psutil.Error, OSError):
        pass
    return None


def _of_pool(process: psutil.Process) -> bool:
    """A unit's process: a child of the fork server, which itself looks the same."""
    try:
        parent = process.parent()
        return _forked(process) and parent is not None and _forked(parent)
    except psutil.Error:
        return False


def _forked(process: psutil.Process) -> bool:
    return any("multiprocessing.forkserver" in word for word in process.cmdline())
