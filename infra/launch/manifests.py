"""Kubernetes manifests, as pure functions: an Indexed Job for a process group, a Ray cluster or Ray job for data stages.

Common to all pods: no root, no privileges, a read-only root file system with memory-backed ``/dev/shm`` and a scratch
``/tmp``, requests equal to limits, the workspace's volume at the path the run has it at, and secrets by reference only
(``env_from_secrets`` names Secrets; nothing of the driver's environment is copied).
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from infra.execution import ray_settings
from infra.job import JobSpec
from infra.launch.cluster import ClusterSettings, node_command

WORK_LABEL = "headwater.dev/work"
RAY_WORKER_GROUP = "units"
RAY_VERSION = "2.60.0"

Manifest = dict[str, Any]


class KubernetesSettings(ClusterSettings):
    """What pods get."""

    namespace: str = Field("default", max_length=63)
    """Namespace of jobs and services."""
    context: str = Field("", max_length=300)
    """Context of the kubeconfig; empty: the current one, or the pod's own service account."""
    image: str = Field("headwater:latest", max_length=500)
    """Image with headwater installed; give a digest or a version."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes fetch the image."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets with the registry's credentials."""
    workspace_claim: str = Field("headwater-workspace", max_length=253)
    """PersistentVolumeClaim (ReadWriteMany) that holds the workspace."""
    mount_path: str = Field("/workspace", max_length=500)
    """Where the claim is mounted; the run must have the workspace at the same path."""
    cpu: str = Field("4", max_length=20)
    """Cores of a pod."""
    memory: str = Field("16Gi", max_length=20)
    """Memory of a pod."""
    gpus: int = Field(0, ge=0, le=64)
    """Devices of a pod; a stage's ``ranks`` should be as many."""
    gpu_resource: str = Field("nvidia.com/gpu", max_length=253)
    """Name under which the cluster counts devices."""
    shared_memory: str = Field("2Gi", max_length=20)
    """Size of /dev/shm, which data loaders and NCCL use."""
    scratch: str = Field("20Gi", max_length=20)
    """Size limit of /tmp on the node's disk."""
    env_from_secrets: tuple[str, ...] = ()
    """Secrets whose keys become environment variables."""
    service_account: str = Field("", max_length=253)
    """Service account of the pods; they need no rights."""
    node_selector: Mapping[str, str] = {}
    """Labels a node must have."""
    tolerations: tuple[Mapping[str, Any], ...] = ()
    """Taints that are tolerated, as in a pod's specification."""
    labels: Mapping[str, str] = {}
    """Labels of the job, such as a queue's name for Kueue."""
    priority_class: str = Field("", max_length=253)
    """Priority class of the pods."""
    user: int = Field(1000, ge=1)
    """User and group of the processes; the workspace must be writable for it."""
    port: int = Field(29400, ge=1024, le=65535)
    """Port of the rendezvous on the first pod."""
    keep_s: int = Field(86400, ge=0)
    """How long a finished job stays, to be looked at."""
    ray_workers: int = Field(2, ge=1, le=10_000)
    """Worker pods of a Ray cluster for data stages."""


def training_job(
    spec: JobSpec, settings: KubernetesSettings, name: str, work: str, work_dir: Path, attempt: str
) -> list[Manifest]:
    """A headless Service, by which the pods find the first one, and the Job. ``work`` identifies the work folder."""
    labels = {"app.kubernetes.io/name": "headwater", WORK_LABEL: work}
    place = ("--endpoint", f"{name}-0.{name}:{settings.port}")
    command = [*node_command(spec, settings, work_dir, attempt, "python", {}), *place]
    container = _container("ranks", settings)
    container["command"] = [*(_literal(word) for word in command), "--node", "$(JOB_COMPLETION_INDEX)"]
    container["env"] += [{"name": key, "value": _literal(value)} for key, value in sorted(spec.env.items())]
    container["ports"] = [{"name": "rendezvous", "containerPort": settings.port}]
    pod = _pod(settings, [container])
    pod |= {"restartPolicy": "Never", "subdomain": name, "terminationGracePeriodSeconds": settings.grace_s + 15}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": settings.namespace, "labels": labels},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # the pods meet before any of them is ready
            "selector": {"batch.kubernetes.io/job-name": name},
            "ports": [{"name": "rendezvous", "port": settings.port}],
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": settings.namespace, "labels": {**settings.labels, **labels}},
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.nodes,
            "parallelism": spec.nodes,
            # Ranks cannot be replaced one by one: the whole group is started again, from its last checkpoint.
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": settings.keep_s,
            "template": {"metadata": {"labels": {**labels, **settings.labels}}, "spec": pod},
        },
    }
    return [service, job]


def ray_cluster(settings: KubernetesSettings, name: str) -> Manifest:
    """A cluster that stays (KubeRay): its head runs drivers and no units."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _ray_metadata(settings, name),
        "spec": _ray_spec(settings),
    }


def ray_job(settings: KubernetesSettings, name: str, entrypoint: Sequence[str]) -> Manifest:
    """A cluster for one command (KubeRay), which runs on the head: ``headwater run … --set execution.executor=ray``."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _ray_metadata(settings, name),
        "spec": {
            "entrypoint": shlex.join(entrypoint),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": min(settings.keep_s, 3600),
            "backoffLimit": 2,  # a run that is started again goes on where it was
            "rayClusterSpec": _ray_spec(settings),
        },
    }


def _ray_metadata(settings: KubernetesSettings, name: str) -> Manifest:
    labels = {**settings.labels, "app.kubernetes.io/name": "headwater"}
    return {"name": name, "namespace": settings.namespace, "labels": labels}


def _ray_spec(settings: KubernetesSettings) -> Manifest:
    head = _container("ray-head", settings)
    head["ports"] = [{"name": "gcs", "containerPort": 6379}, {"name": "dashboard", "containerPort": 8265}]
    head["lifecycle"] = worker_lifecycle = {"preStop": {"exec": {"command": ["ray", "stop"]}}}
    worker = {**_container("ray-worker", settings), "lifecycle": worker_lifecycle}
    return {
        "rayVersion": RAY_VERSION,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "127.0.0.1"},
            "template": {"spec": _pod(settings, [head])},
        },
        "workerGroupSpecs": [
            {
                "groupName": RAY_WORKER_GROUP,
                "replicas": settings.ray_workers,
                "minReplicas": settings.ray_workers,
                "maxReplicas": settings.ray_workers,
                "rayStartParams": {},
                "template": {"spec": _pod(settings, [worker])},
            }
        ],
    }


def _container(name: str, settings: KubernetesSettings) -> Manifest:
    resources: dict[str, str] = {"cpu": settings.cpu, "memory": settings.memory}
    if settings.gpus:
        resources[settings.gpu_resource] = str(settings.gpus)
    container: Manifest = {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {"requests": resources, "limits": dict(resources)},
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "HEADWATER_HOME", "value": settings.mount_path},
            *({"name": setting, "value": value} for setting, value in ray_settings.ENVIRONMENT.items()),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "workspace", "mountPath": settings.mount_path},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    if settings.env_from_secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in settings.env_from_secrets]
    return container


def _pod(settings: KubernetesSettings, containers: list[Manifest]) -> Manifest:
    pod: Manifest = {
        "containers": containers,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            "fsGroup": settings.user,
            "fsGroupChangePolicy": "OnRootMismatch",  # a workspace is large
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": settings.workspace_claim}},
            {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
        ],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    return pod


def _literal(word: str) -> str:
    """Kubernetes replaces ``$(NAME)`` in commands and values."""
    return word.replace("$(", "$$(")
