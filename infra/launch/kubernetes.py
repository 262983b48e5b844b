"""Process groups on Kubernetes: an Indexed Job, a pod a node, through the official client.

The job's name comes from work folder and attempt, so submitting twice gives one job, and a job of an earlier attempt is
found by its label and ended first. Pods end with the job's deletion; the ranks get the pods' grace for a checkpoint.
``infra.launch.manifests`` renders what is submitted; each attempt's manifest is kept as ``logs/try-1.yaml``.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobSpec
from infra.launch.cluster import ClusterLauncher, begin_attempt, files_of
from infra.launch.logs import read_logs
from infra.launch.manifests import WORK_LABEL, KubernetesSettings, training_job
from infra.launch.spec import JobEnd, JobHandle
from infra.store.files import write_bytes

LOG_LINES = 200
NOT_FOUND, CONFLICT = 404, 409


@dataclass
class KubernetesLauncher(ClusterLauncher):
    """One cluster, by the kubeconfig or the pod's own service account."""

    settings: KubernetesSettings = field(default_factory=KubernetesSettings)
    kind: str = "kubernetes"
    _api: Any = None

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        work_dir = work_dir.resolve()
        if not work_dir.is_relative_to(self.settings.mount_path):
            raise ConfigError(
                "the pods have the workspace at another path than this run",
                where=f"{work_dir} is not below {self.settings.mount_path}",
                remedy="Mount the claim at the same path in both and set execution.kubernetes.mount_path.",
            )
        mark = hashlib.sha256(str(work_dir).encode()).hexdigest()[:10]
        self._end_earlier(work_dir, mark)
        files = begin_attempt(work_dir)
        name = f"headwater-{work_dir.parent.name}-{mark}-{files.attempt.rpartition('-')[2]}"
        manifests = training_job(spec, self.settings, name, mark, work_dir, files.attempt)
        write_bytes(files.logs / f"{files.attempt}.yaml", yaml.safe_dump_all(manifests, sort_keys=False).encode())
        detail = {"work_dir": str(work_dir), "attempt": files.attempt, "namespace": self.settings.namespace}
        handle = JobHandle(self.kind, name, self.settings.context, detail)
        handle.save(work_dir)
        service, job = manifests
        with self._calls() as (core, batch):
            _create(core.create_namespaced_service, self.settings.namespace, service)
            _create(batch.create_namespaced_job, self.settings.namespace, job)
        return handle

    def look(self, handle: JobHandle) -> JobEnd | str:
        job = self._job(handle.id)
        condition = _ended(job) if job is not None else "Deleted"
        return self._end(handle, condition, gone=job is None) if condition else self._queued(handle, job)

    def attach(self, handle: JobHandle) -> bool:
        job = self._job(handle.id)
        return job is not None and not _ended(job)

    def is_there(self, handle: JobHandle) -> bool:
        return self._job(handle.id) is not None or bool(self._pods(handle.id))

    def cancel(self, handle: JobHandle) -> None:
        """Delete the job with its pods and service."""
        with self._calls() as (core, batch):
            _or_none(batch.delete_namespaced_job, handle.id, self.settings.namespace, propagation_policy="Foreground")
            _or_none(core.delete_namespaced_service, handle.id, self.settings.namespace)

    # -- the API ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _calls(self) -> Iterator[tuple[Any, Any]]:
        """The core and batch APIs; what they raise in words of ours."""
        client = _client()
        try:
            if self._api is None:
                self._api = _connect(client, self.settings.context)
            yield client.CoreV1Api(self._api), client.BatchV1Api(self._api)
        except client.exceptions.ApiException as error:
            kind = ConfigError if error.status in (400, 401, 403, 422) else HeadwaterError
            raise kind(
                f"Kubernetes refused: {error.status} {error.reason}: {' '.join(str(error.body).split())[:300]}",
                where=f"namespace {self.settings.namespace}",
                remedy="Check execution.kubernetes and the rights of the account (infra/kubernetes/rbac.yaml).",
            ) from error
        except OSError as error:
            raise _unreachable(error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "urllib3":
                raise
            raise _unreachable(error) from error

    def _job(self, name: str) -> Any:
        with self._calls() as (_, batch):
            return _or_none(batch.read_namespaced_job, name, self.settings.namespace)

    def _pods(self, name: str) -> list[Any]:
        with self._calls() as (core, _):
            selector = f"batch.kubernetes.io/job-name={name}"
            return list(core.list_namespaced_pod(self.settings.namespace, label_selector=selector).items)

    def _queued(self, handle: JobHandle, job: Any) -> str:
        """What the job waits for while its pods do not all run."""
        if job.spec.suspend:
            return f"job {handle.id} is suspended by the cluster's queue"
        if (job.status.ready or 0) >= (job.spec.parallelism or 1):
            return ""
        pods = self._pods(handle.id)
        waiting = sorted({f"{pod.metadata.name}: {why}" for pod in pods if (why := _waits_for(pod))})
        if not pods or waiting:
            return f"job {handle.id} waits for pods ({'; '.join(waiting[:3]) or 'none created yet'})"
        return ""

    def _end(self, handle: JobHandle, condition: str, gone: bool) -> JobEnd:
        files = files_of(handle)
        pods = [] if gone else self._pods(handle.id)
        with (files.logs / f"{files.attempt}.log").open("a") as log, self._calls() as (core, _):
            for pod in pods:
                text = _or_none(
                    core.read_namespaced_pod_log, pod.metadata.name, self.settings.namespace, tail_lines=LOG_LINES
                )
                log.write(text or "")
        reason, end = read_logs(files.logs, files.attempt)
        reasons = " ".join(_why_ended(pod) for pod in pods)
        if "OOMKilled" in reasons:
            end += "\nKubernetes: out of memory\n"
        if "DisruptionTarget" in reasons:
            reason = "preempted: a pod was evicted"
        ours = files.stop.exists()
        return JobEnd(0 if condition == "Complete" else 1, reason or condition, end, cancelled=gone and not ours)

    def _end_earlier(self, work_dir: Path, mark: str) -> None:
        with self._calls() as (_, batch):
            found = batch.list_namespaced_job(self.settings.namespace, label_selector=f"{WORK_LABEL}={mark}")
        for job in found.items:
            self.terminate(
                JobHandle(self.kind, job.metadata.name, "", {"work_dir": str(work_dir), "attempt": "earlier"})
            )


def _client() -> Any:
    try:
        import kubernetes.client
        import kubernetes.client.exceptions
    except ImportError:
        raise ConfigError(
            "launcher kubernetes needs the Kubernetes client, which is not installed here",
            remedy="Install it with pip install 'headwater[kubernetes]', or choose another execution.launcher.",
        ) from None
    return kubernetes.client


def _connect(client: Any, context: str) -> Any:
    from kubernetes import config

    try:
        try:
            if context:
                raise config.ConfigException
            config.load_incluster_config()
            return client.ApiClient()
        except config.ConfigException:
            # The client looks at KUBECONFIG when it is imported, which may have been long ago.
            return config.new_client_from_config(os.environ.get("KUBECONFIG"), context=context or None)
    except config.ConfigException as error:
        raise ConfigError(
            f"there is no way to a Kubernetes cluster: {error}",
            remedy="Set KUBECONFIG, or run in a pod with a service account.",
        ) from None


def _unreachable(error: Exception) -> HeadwaterError:
    return HeadwaterError(
        f"Kubernetes does not answer: {' '.join(str(error).split())[:200]}", remedy="Check kubectl cluster-info."
    )


def _create(create: Any, namespace: str, manifest: dict[str, Any]) -> None:
    """Create an object; one of that name is ours, from a call whose answer was lost."""
    try:
        create(namespace, manifest)
    except _client().exceptions.ApiException as error:
        if error.status != CONFLICT:
            raise


def _or_none(call: Any, *arguments: Any, **options: Any) -> Any:
    """The answer, or None where there is no such object."""
    try:
        return call(*arguments, **options)
    except _client().exceptions.ApiException as error:
        if error.status != NOT_FOUND:
            raise
        return None


def _ended(job: Any) -> str:
    conditions = [each.type for each in job.status.conditions or [] if each.status == "True"]
    return next((kind for kind in ("Complete", "Failed") if kind in conditions), "")


def _waits_for(pod: Any) -> str:
    for status in pod.status.container_statuses or []:
        if status.state and status.state.waiting:
            return str(status.state.waiting.reason)
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.message or condition.reason)
    return "starting" if pod.status.phase == "Pending" else ""


def _why_ended(pod: Any) -> str:
    """Words that say why a pod ended: its conditions and its containers' reasons."""
    conditions = [each.type for each in pod.status.conditions or [] if each.status == "True"]
    reasons = [
        status.state.terminated.reason or ""
        for status in pod.status.container_statuses or []
        if status.state and status.state.terminated
    ]
    return " ".join([*conditions, *reasons])
