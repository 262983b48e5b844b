"""A Kubernetes API in memory, as much of it as the launcher uses, with a kubelet that really runs the pods' commands.

Jobs, services and pods can be created, read, listed by label and deleted. Pods of an Indexed Job become processes of this
machine: ``$(JOB_COMPLETION_INDEX)`` is replaced, the service's name becomes the loopback, ``python`` this interpreter.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support import REPOSITORY

ROUTE = re.compile(r"^/api(?:s/batch)?/v1/namespaces/([^/]+)/(jobs|services|pods)(?:/([^/]+))?(/log)?$")


@dataclass
class FakeKubernetes:
    """The cluster's state. ``hold`` keeps pods pending; ``address`` is the API's."""

    folder: Path
    hold: str = ""
    port: int = 0
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)

    @property
    def kubeconfig(self) -> Path:
        path = self.folder / "kubeconfig"
        cluster = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        user = {"name": "fake", "user": {}}
        parts = {"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "fake"}
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **parts}))
        return path

    # -- what the API does ------------------------------------------------------------------------------------------

    def create(self, kind: str, thing: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = thing["metadata"]["name"]
        if (kind, name) in self.objects:
            return 409, _status(409, "AlreadyExists")
        self.objects[kind, name] = {**thing, "status": {}}
        self.created.append(f"{kind}/{name}")
        if kind == "jobs":
            for index in range(thing["spec"]["completions"]):
                self._pod(thing, index)
        return 201, self.objects[kind, name]

    def read(self, kind: str, name: str) -> tuple[int, dict[str, Any]]:
        self._look()
        found = self.objects.get((kind, name))
        return (200, found) if found else (404, _status(404, "NotFound"))

    def list(self, kind: str, selector: str) -> tuple[int, dict[str, Any]]:
        self._look()
        wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
        items = [
            thing
            for (each, _), thing in self.objects.items()
            if each == kind and wanted.items() <= thing["metadata"].get("labels", {}).items()
        ]
        return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}

    def delete(self, kind: str, name: str) -> tuple[int, dict[str, Any]]:
        if (kind, name) not in self.objects:
            return 404, _status(404, "NotFound")
        if kind == "jobs":
            for pod in [pod for (each, pod) in self.objects if each == "pods" and pod.startswith(f"{name}-")]:
                self._end(pod)
                del self.objects["pods", pod]
        del self.objects[kind, name]
        return 200, _status(200, "")

    # -- the kubelet ------------------------------------------------------------------------------------------------

    def _pod(self, job: dict[str, Any], index: int) -> None:
        name = job["metadata"]["name"]
        labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
        pod = f"{name}-{index}"
        spec = job["spec"]["template"]["spec"]
        self.objects["pods", pod] = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "labels": labels}, "spec": spec,
            "status": {"phase": "Pending"},
        }  # fmt: skip
        if self.hold:
            condition = {"type": "PodScheduled", "status": "False", "message": self.hold}
            self.objects["pods", pod]["status"]["conditions"] = [condition]
            return
        container = spec["containers"][0]
        command = [
            word.replace("$(JOB_COMPLETION_INDEX)", str(index)).replace(f"{name}-0.{name}", "127.0.0.1")
            for word in container["command"]
        ]
        environment = {**os.environ, **{entry["name"]: entry["value"] for entry in container["env"]}}
        with (self.folder / f"{pod}.log").open("wb") as log:
            self.processes[pod] = subprocess.Popen(
                [sys.executable if word == "python" else word for word in command],
                env={**environment, "HOME": os.environ["HOME"]}, cwd=REPOSITORY, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _look(self) -> None:
        """Statuses follow the processes."""
        for pod, process in self.processes.items():
            if ("pods", pod) in self.objects:
                code = process.poll()
                self.objects["pods", pod]["status"] = _pod_status(code)
        for (kind, name), job in self.objects.items():
            if kind == "jobs":
                pods = [self.objects["pods", f"{name}-{i}"] for i in range(job["spec"]["completions"])]
                phases = [pod["status"]["phase"] for pod in pods]
                ended = "Failed" if "Failed" in phases else "Complete" if set(phases) == {"Succeeded"} else ""
                job["status"] = {"ready": phases.count("Running"), "active": phases.count("Running")}
                if ended:
                    job["status"]["conditions"] = [{"type": ended, "status": "True"}]
                    for pod in [pod["metadata"]["name"] for pod in pods]:
                        self._end(pod)

    def _end(self, pod: str) -> None:
        process = self.processes.get(pod)
        if process and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pod_status(code: int | None) -> dict[str, Any]:
    phase = "Running" if code is None else "Succeeded" if code == 0 else "Failed"
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code, "reason": "Error"}}
    status = {"name": "ranks", "image": "x", "imageID": "x", "ready": code is None, "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [status]}


def _status(code: int, reason: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "metadata": {}}


@contextlib.contextmanager
def fake_kubernetes(folder: Path) -> Iterator[FakeKubernetes]:
    folder.mkdir(parents=True, exist_ok=True)
    state = FakeKubernetes(folder)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            address = urlsplit(self.path)
            found = ROUTE.match(address.path)
            if found is None:
                self.send_error(404)
                return
            _, kind, name, log = found.groups()
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            with state.lock:
                if log:
                    self.reply(200, (folder / f"{name}.log").read_bytes(), "text/plain")
                    return
                if self.command == "POST":
                    code, answer = state.create(kind, body)
                elif self.command == "DELETE":
                    code, answer = state.delete(kind, name)
                elif name:
                    code, answer = state.read(kind, name)
                else:
                    code, answer = state.list(kind, parse_qs(address.query).get("labelSelector", [""])[0])
            self.reply(code, json.dumps(answer).encode(), "application/json")

        do_GET = do_POST = do_DELETE = answer  # noqa: N815

        def reply(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        for pod in list(state.processes):
            state._end(pod)
