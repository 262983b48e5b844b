"""Process groups and Ray clusters on Kubernetes: manifests that the API's own schemas accept, and a job's whole life."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobSpec
from infra.launch.kubernetes import KubernetesLauncher
from infra.launch.manifests import KubernetesSettings, ray_cluster, ray_job, training_job
from infra.launch.restart import run_job
from infra.store.files import read_json
from tests.infra.fake_kubernetes import FakeKubernetes, fake_kubernetes
from tests.infra.test_launch import request_for, steps, until
from tests.support import REPOSITORY

VERSION = "1.31"
FULL = KubernetesSettings(
    namespace="lm",
    image="registry.example/headwater:1.2.3",
    image_pull_secrets=("registry",),
    gpus=8,
    env_from_secrets=("object-store", "wandb"),
    service_account="headwater",
    node_selector={"gpu": "h200"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    labels={"kueue.x-k8s.io/queue-name": "lm"},
    priority_class="training",
)


def spec(**settings: Any) -> JobSpec:
    return JobSpec("tests.infra.fake_job", **{"nodes": 2, "env": {"PYTHONPATH": str(REPOSITORY)}, **settings})


def manifests(settings: KubernetesSettings) -> list[dict[str, Any]]:
    return training_job(spec(ranks=8), settings, "headwater-pretrain-1", "1a2b", Path("/workspace/work/x"), "try-1")


# ---- manifests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [KubernetesSettings(), FULL], ids=["defaults", "everything"])
def test_manifests_are_valid_strictly(settings: KubernetesSettings) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests(settings):
        validate.validate(manifest, VERSION, strict=True)
    for pod in _pods_of(ray_cluster(settings, "data")["spec"]):
        validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **pod}, VERSION, strict=True)
    for path in sorted((REPOSITORY / "infra" / "kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            validate.validate(manifest, VERSION, strict=True)
    broken = manifests(settings)[1]
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Never"
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, VERSION, strict=True)


def _pods_of(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


def test_ray_manifests_keep_to_the_fields_of_their_definitions() -> None:
    """KubeRay's definitions are not on this machine; the schema beside this test holds the fields we use, closed."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent / "ray_schema.json").read_text())
    command = ["headwater", "run", "full", "--stop-after", "shards", "--set", "a.b=a value"]
    for manifest in (ray_cluster(FULL, "data"), ray_job(FULL, "data", command)):
        jsonschema.validate(manifest, schema)
    assert ray_job(FULL, "data", command)["spec"]["entrypoint"].endswith("--set 'a.b=a value'")
    broken = ray_job(FULL, "data", command)
    broken["spec"]["entryPoint"] = broken["spec"].pop("entrypoint")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_pods_have_no_privileges_and_secrets_only_by_reference() -> None:
    job = manifests(FULL)[1]
    pods = [job["spec"]["template"], *_pods_of(ray_cluster(FULL, "data")["spec"])]
    for pod in (template["spec"] for template in pods):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["object-store", "wandb"]
        assert not any("SECRET" in entry["name"] or "TOKEN" in entry["name"] for entry in container["env"])


def test_the_pods_meet_at_the_first_one_and_dollars_stay_literal() -> None:
    job = JobSpec("m", nodes=2, env={"X": "$(HOSTNAME)"})
    service, made = training_job(job, FULL, "name", "1a", Path("/workspace/$(A)"), "try-1")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert service["metadata"]["name"] == made["spec"]["template"]["spec"]["subdomain"] == "name"
    assert container["command"][container["command"].index("--endpoint") + 1] == "name-0.name:29400"
    assert "/workspace/$$(A)" in container["command"]
    assert {"name": "X", "value": "$$(HOSTNAME)"} in container["env"]
    assert container["command"][-2:] == ["--node", "$(JOB_COMPLETION_INDEX)"]


# ---- a job's life ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    pytest.importorskip("kubernetes")
    with fake_kubernetes(tmp_path / "cluster") as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig))
        yield fake


def launcher(tmp_path: Path, fake: FakeKubernetes) -> KubernetesLauncher:
    from tests.infra.slurm_cluster import free_ports

    (port,) = free_ports(1)
    settings = KubernetesSettings(
        mount_path=str(tmp_path.resolve()), poll_s=0.2, grace_s=10, port=port, interface="lo", context="fake"
    )
    return KubernetesLauncher(settings)


def test_a_queued_job_says_what_it_waits_for_and_ends_with_its_driver(tmp_path: Path, cluster: FakeKubernetes) -> None:
    cluster.hold = "0/3 nodes have enough memory"
    work = request_for(tmp_path / "run", {})
    said: list[str] = []

    def stop(event: Mapping[str, Any]) -> None:
        said.append(str(event["message"]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(spec(), launcher(tmp_path, cluster), work, stop)
    assert "0/3 nodes have enough memory" in said[0]
    assert cluster.objects == {}
    assert not (work / "job.json").exists()


def test_a_deleted_job_is_not_started_again_and_a_wrong_workspace_is_refused(
    tmp_path: Path, cluster: FakeKubernetes
) -> None:
    cluster.hold = "queued"
    work = request_for(tmp_path / "run", {})

    def delete(event: Mapping[str, Any]) -> None:
        cluster.delete("jobs", read_json(work / "job.json")["id"])

    with pytest.raises(HeadwaterError, match="was cancelled"):
        run_job(spec(), launcher(tmp_path, cluster), work, delete)
    elsewhere = KubernetesLauncher(KubernetesSettings(mount_path="/workspace", context="fake"))
    with pytest.raises(ConfigError, match="the pods have the workspace at another path"):
        elsewhere.submit(spec(), work)


def test_an_api_that_does_not_answer_is_one_sentence(tmp_path: Path, cluster: FakeKubernetes) -> None:
    cluster.port = 1
    cluster.kubeconfig.touch()
    with pytest.raises(HeadwaterError, match=r"Kubernetes does not answer"):
        launcher(tmp_path, cluster).submit(spec(), request_for(tmp_path / "run", {}))


@pytest.mark.slow
def test_a_job_of_two_pods_survives_a_killed_rank(tmp_path: Path, cluster: FakeKubernetes) -> None:
    events: list[Mapping[str, Any]] = []
    work = request_for(tmp_path / "run", {"3": "kill once"})
    assert run_job(spec(), launcher(tmp_path, cluster), work, events.append).stats == {"steps": 10}
    assert steps(events) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    assert any("rank 0 was killed by signal 9" in str(event.get("message")) for event in events)
    jobs = [name for name in cluster.created if name.startswith("jobs/")]
    assert len(jobs) == 2
    kept = list(yaml.safe_load_all((work / "logs/try-1.yaml").read_text()))
    assert [manifest["kind"] for manifest in kept] == ["Service", "Job"]


@pytest.mark.slow
def test_a_later_driver_attaches_and_a_lost_answer_makes_no_second_job(tmp_path: Path, cluster: FakeKubernetes) -> None:
    work = request_for(tmp_path / "run", {})
    first = launcher(tmp_path, cluster)
    handle = first.submit(spec(), work)
    assert until(lambda: (work / "events.jsonl").exists() or first._job(handle.id).status.conditions, 60)
    events: list[Mapping[str, Any]] = []
    again = KubernetesLauncher(first.settings)
    assert run_job(spec(), again, work, events.append).stats == {"steps": 10}
    assert [name for name in cluster.created if name.startswith("jobs/")] == [f"jobs/{handle.id}"]
