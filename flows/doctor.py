"""What a Prefect server needs to serve this workspace: that it answers, and that nothing it relies on is missing.

The server is asked over plain HTTP, so the doctor neither imports Prefect nor needs it to be importable: a version that
cannot start is one of the things it must be able to say.
"""

import os
from collections.abc import Iterator
from importlib import metadata

from flows.deployments import POOLS
from flows.server import api_call, recorded_address
from infra.doctor import Check, free_port, guarded
from infra.store.store import Store

ZOMBIE_WORDS = ("silent", "zombie", "heartbeat")


def server_checks(store: Store, port: int) -> Iterator[Check]:
    """The port for a server of our own, or everything about the one that is configured."""
    address = os.environ.get("PREFECT_API_URL") or recorded_address(store)
    if address is None:
        yield from guarded("port", lambda: _port(port))
        yield Check("server", "ok", "none configured: headwater up starts one, headwater run needs none")
        return
    answered = list(guarded("server", lambda: _answers(address)))
    yield from answered
    if any(check.state == "fail" for check in answered):
        return
    yield from guarded("pools", lambda: _pools(address))
    yield from guarded("workers", lambda: _workers(address))
    yield from guarded("deployments", lambda: _deployments(address))
    yield from guarded("automations", lambda: _automations(address))


def _port(port: int) -> Iterator[Check]:
    if free_port(port):
        yield Check("port", "ok", f"{port} is free")
    else:
        yield Check("port", "warn", f"{port} is in use", f"headwater up --port {port + 1}")


def _answers(address: str) -> Iterator[Check]:
    host = address.split("//", 1)[-1].split("/", 1)[0]
    served = str(api_call(address, "/admin/version"))
    ours = metadata.version("prefect")
    if served.split(".")[:2] != ours.split(".")[:2]:
        yield Check(
            "server", "fail", f"{host} runs Prefect {served}, this machine {ours}",
            "Install the same minor version on both sides.",
        )  # fmt: skip
    else:
        yield Check("server", "ok", f"{host} answers, Prefect {served}")


def _pools(address: str) -> Iterator[Check]:
    pools = {pool["name"]: pool for pool in api_call(address, "/work_pools/filter", {})}
    missing = [name for name in POOLS if name not in pools]
    paused = [name for name in POOLS if name in pools and pools[name].get("is_paused")]
    if missing:
        yield Check("pools", "fail", f"no work pool {', '.join(missing)}", "headwater up, or create the pools.")
    elif paused:
        yield Check("pools", "warn", f"paused: {', '.join(paused)}", f"prefect work-pool resume {paused[0]}")
    else:
        yield Check("pools", "ok", ", ".join(POOLS))


def _workers(address: str) -> Iterator[Check]:
    idle = []
    online = 0
    for name in POOLS:
        workers = api_call(address, f"/work_pools/{name}/workers/filter", {})
        here = sum(1 for worker in workers if worker.get("status") == "ONLINE")
        online += here
        if not here:
            idle.append(name)
    if idle:
        yield Check(
            "workers", "fail" if online == 0 else "warn", f"no worker polls {', '.join(idle)}",
            "Start one where the work shall run: python -m flows.worker.",
        )  # fmt: skip
    else:
        yield Check("workers", "ok", f"{online} online, every pool is polled")


def _deployments(address: str) -> Iterator[Check]:
    tagged = [entry for entry in api_call(address, "/deployments/filter", {}) if "headwater" in entry["tags"]]
    if not tagged:
        yield Check("deployments", "fail", "none of ours", "headwater up --recipe NAME, or prefect deploy --all.")
        return
    paused = [entry["name"] for entry in tagged if entry.get("paused")]
    if paused:
        yield Check("deployments", "warn", f"paused: {', '.join(paused[:3])}", "Resume them in the UI.")
    else:
        yield Check("deployments", "ok", f"{len(tagged)} deployments")


def _automations(address: str) -> Iterator[Check]:
    """Nobody marks a run crashed whose worker died, unless an automation watches its heartbeats."""
    names = [entry["name"] for entry in api_call(address, "/automations/filter", {}) if entry.get("enabled")]
    watching = [name for name in names if any(word in name.lower() for word in ZOMBIE_WORDS)]
    if watching:
        yield Check("automations", "ok", watching[0])
    else:
        yield Check(
            "automations", "warn", "none notices runs whose worker died",
            "Create the automations once: headwater automations.",
        )  # fmt: skip
