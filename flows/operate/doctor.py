"""What a Prefect server needs to serve this workspace: that it answers, and that nothing it relies on is missing.

The server is asked over plain HTTP, so the doctor neither imports Prefect nor needs it to be importable: a version that
cannot start is one of the things it must be able to say.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from flows.operate.credentials import AUTH_FILE, GENERATED, OTHERS
from flows.operate.deployments import POOLS, takes_commands
from flows.operate.server import api_call, known_server, prefect_home
from infra.doctor import Check, free_port, guarded
from infra.store.store import Store

ZOMBIE_WORDS = ("silent", "zombie", "heartbeat")
STRANGER = "http://stranger.example"
ASK_S = 10.0


def server_checks(store: Store, port: int) -> Iterator[Check]:
    """The port for a server of our own, or everything about the one that is configured."""
    yield from guarded("private", lambda: _private(store))
    address = known_server(store)
    if address is None:
        yield from guarded("port", lambda: _port(port))
        yield Check("server", "ok", "none configured: headwater up starts one, headwater run needs none")
        return
    answered = list(guarded("server", lambda: _answers(address)))
    yield from answered
    if any(check.state == "fail" for check in answered):
        return
    yield from guarded("password", lambda: _password(address))
    yield from guarded("origins", lambda: _origins(address))
    yield from guarded("pools", lambda: _pools(address))
    yield from guarded("workers", lambda: _workers(address))
    yield from guarded("deployments", lambda: _deployments(address))
    yield from guarded("automations", lambda: _automations(address))


def _port(port: int) -> Iterator[Check]:
    if free_port(port):
        yield Check("port", "ok", f"{port} is free")
    else:
        yield Check("port", "warn", f"{port} is in use", f"headwater up --port {port + 1}")


def _private(store: Store) -> Iterator[Check]:
    """The server's database, its key and its password are the owner's alone."""
    home = prefect_home(store)
    if not home.exists():
        return
    given = Path(os.environ.get(AUTH_FILE) or home / GENERATED)
    # What lies in a closed folder is closed, whatever its own mode.
    looked = [path for path in (home, given) if path.exists()]
    reachable = [path for path in looked if path.stat().st_mode & OTHERS]
    if reachable:
        mode = "700" if reachable[0] == home else "600"
        yield Check("private", "fail", f"others can reach {reachable[0]}", f"chmod {mode} {reachable[0]}")
    else:
        yield Check("private", "ok", f"only you can reach {', '.join(map(str, looked))}")


def _password(address: str) -> Iterator[Check]:
    """Whoever may call the API may run programs as the workers' user."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/admin/version", timeout=ASK_S):
            yield Check(
                "password", "fail", "the server answers everybody, who may so run programs here",
                f"Start it with headwater up, or with PREFECT_SERVER_API_AUTH_STRING and its clients with {AUTH_FILE}.",
            )  # fmt: skip
    except urllib.error.HTTPError as refused:
        if refused.code == 401:
            yield Check("password", "ok", "the server asks everybody for one")
        else:
            yield Check("password", "warn", f"the server answers a stranger with {refused.code}", "Read its log.")


def _origins(address: str) -> Iterator[Check]:
    """A page from anywhere, open in a browser of this machine, must not be let in."""
    asked = urllib.request.Request(
        f"{address.rstrip('/')}/admin/version",
        method="OPTIONS",
        headers={"Origin": STRANGER, "Access-Control-Request-Method": "POST"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=ASK_S) as response:
            allowed = response.headers.get("Access-Control-Allow-Origin")
    except urllib.error.HTTPError as refused:
        allowed = refused.headers.get("Access-Control-Allow-Origin")
    if allowed in ("*", STRANGER):
        yield Check(
            "origins", "fail", "pages of every origin may call the server",
            "Start it with PREFECT_SERVER_CORS_ALLOWED_ORIGINS=http://127.0.0.1: its own pages need no permission.",
        )  # fmt: skip
    else:
        yield Check("origins", "ok", "only its own pages may call the server")


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
    open_ = [name for name in POOLS if name in pools and takes_commands(pools[name].get("base_job_template") or {})]
    if missing:
        yield Check("pools", "fail", f"no work pool {', '.join(missing)}", "headwater up, or create the pools.")
    elif open_:
        yield Check(
            "pools", "warn", f"a run may name a command or an environment in {', '.join(open_)}",
            "headwater deploy closes the pools; workers of headwater refuse such runs anyway.",
        )  # fmt: skip
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
            "Start one where the work shall run: python -m flows.operate.worker.",
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
