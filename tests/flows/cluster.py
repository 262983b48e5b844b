"""A Prefect server, its workers and the network between them, each of which a test may kill, restart or cut.

``headwater up`` ends everything together; here every part is a process of its own, as on a cluster. Deployments are made
by ``headwater deploy``; everything else goes through the server's HTTP API, as the UI does it.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.operate.credentials import CLIENT_AUTH, generate_auth
from flows.operate.server import answers, settings
from tests.support import kill_family

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
START_S = 180.0
BUSY = (429, 500, 502, 503)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Wire:
    """A TCP proxy on the loopback interface that can be cut: connections are reset and new ones refused."""

    target: int
    port: int = field(default_factory=free_port)
    _listener: socket.socket | None = None
    _open: list[socket.socket] = field(default_factory=list)

    def join(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # cut
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # the server is away
                near.close()
                continue
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@dataclass
class Cluster:
    """Server and worker processes over one workspace."""

    workspace: Path
    recipe: str
    overrides: tuple[str, ...] = ()
    prefect_settings: Mapping[str, str] = field(default_factory=dict)
    """Of every process here; they overrule headwater's own."""
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None
    wire: Wire = field(init=False)

    def __post_init__(self) -> None:
        self.wire = Wire(self.port)
        self.logs = self.workspace.parent / f"{self.workspace.name}-logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.workspace / "prefect").mkdir(parents=True, exist_ok=True)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def environment(self, api: str) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        home = settings((self.workspace / "prefect").absolute())
        own = {"PREFECT_API_URL": api, "HEADWATER_HOME": str(self.workspace), CLIENT_AUTH: self.secret}
        return {**plain, **home, **self.prefect_settings, **own}

    @property
    def secret(self) -> str:
        return generate_auth(self.workspace / "prefect")

    # -- parts ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.start_server()
        self.wire.join()
        self.deploy()
        self.start_worker()

    def deploy(self) -> None:
        words = [word for override in self.overrides for word in ("--set", override)]
        subprocess.run(
            [
                *(sys.executable, "-m", "flows.cli.main", "deploy", "--recipe", self.recipe, "--no-watch", *words),
                *("--workspace", str(self.workspace)),
            ],
            env=self.environment(self.api), check=True, capture_output=True,
        )  # fmt: skip

    def start_server(self) -> None:
        command = ["flows.operate.prefect_server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server = self._process("server", command, self.api)
        deadline = time.monotonic() + START_S
        while not answers(self.api):
            assert self.server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.3)

    def start_worker(self) -> None:
        """The worker, and the flow runs it starts, reach the server through the wire."""
        self.worker = self._process("worker", ["flows.operate.worker"], f"http://127.0.0.1:{self.wire.port}/api")

    def kill_server(self) -> None:
        _kill(self.server)

    def kill_worker(self) -> None:
        """Only the worker: the flow runs it started are not asked."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait()

    def stop(self) -> None:
        """Everything, flow runs included. The worker first: without a server it would try to reach it."""
        family = self.family()
        _kill(self.worker)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        _kill(self.server)
        self.wire.cut()

    def family(self) -> list[psutil.Process]:
        """Every process of a flow run in this workspace, however it was started: they inherit the workspace's name."""
        own = {os.getpid(), *(part.pid for part in (self.server, self.worker) if part is not None)}
        return [process for process in psutil.process_iter() if process.pid not in own and self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get("HEADWATER_HOME") == str(self.workspace)
                and process.status() != psutil.STATUS_ZOMBIE
                and not {"flows.operate.prefect_server", "flows.operate.worker", "uvicorn"} & set(process.cmdline())
            )
        except (psutil.Error, OSError):
            return False  # gone, or another user's

    def _process(self, name: str, words: list[str], api: str) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                env=self.environment(api), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    # -- what the UI does -------------------------------------------------------------------------------------------

    def call(self, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        credentials = base64.b64encode(self.secret.encode()).decode()
        headers = {"content-type": "application/json", "authorization": f"Basic {credentials}"}
        request = urllib.request.Request(self.api + path, data, headers)
        for patience in range(6):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or patience == 5:
                    raise
            except OSError:  # it is being started again, or is slow
                if patience == 5:
                    raise
            time.sleep(1 + patience)
        raise AssertionError("not reached")

    def submit(self, deployment: str, **changes: Any) -> str:
        """Run a deployment as its form does; returns the flow run's id."""
        found = self.call(f"/deployments/name/{deployment}")
        form = found["parameters"]["params"] | changes
        return str(self.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": {"params": form}})["id"])

    def cancel(self, run: str) -> None:
        """The UI's button."""
        self.call(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def state(self, run: str) -> str:
        return str(self.call(f"/flow_runs/{run}")["state_type"])

    def ended(self, run: str, seconds: float) -> str:
        """The final state, within so many seconds."""
        wait_for(lambda: self.state(run) in FINAL, seconds, f"flow run {run} to end")
        return self.state(run)

    def runs(self) -> list[dict[str, Any]]:
        return list(self.call("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 200}))

    def open_runs(self) -> dict[str, str]:
        """Runs of deployments that have not ended, and their states."""
        unfinished = {"state": {"type": {"not_any_": list(FINAL)}}, "deployment_id": {"is_null_": False}}
        found = self.call("/flow_runs/filter", {"flow_runs": unfinished, "limit": 200})
        return {str(run["id"]): str(run["state_type"]) for run in found}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until the condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds:g} s for {what}"
        time.sleep(0.2)
    return time.monotonic() - began


def ranks(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The ranks of process groups among them."""
    return [process for process in processes if "--request" in (words := _words(process)) and "--nnodes" not in words]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _kill(part: subprocess.Popen[bytes] | None) -> None:
    if part is not None:
        kill_family(part)


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
