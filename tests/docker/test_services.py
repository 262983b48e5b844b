"""The compose file, run by a real engine: from ``up`` to a stage in a container of its own, and through restarts."""

import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from flows.recipe import load_recipe
from infra.planning import StageSelection
from infra.store.store import Store
from tests.docker.images import IMAGE
from tests.docker.services import Services, eventually

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

FOLDER = "/workspace/input"


def write_input(folder: Path, address: str, name: str = "small", documents: int = 40) -> Path:
    """A recipe of one source, in the folder that its workers know by the address."""
    text = "a small source, of which every document says the same in a few words. " * 4
    rows = (json.dumps({"id": str(n), "text": f"Document {n} of {text}"}) + "\n" for n in range(documents))
    (folder / f"{name}.jsonl").write_text("".join(rows))
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        f"recipe: {name}\nexecution: {{workers: 1}}\nstages:\n  ingest:\n    sources:\n"
        f"      - {{name: texts, kind: jsonl, address: {address}/{name}.jsonl, id_column: id, language: en}}\n"
    )
    return recipe


@pytest.fixture(scope="module")
def small(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The services with two recipes of one source in their workspace: ``small``, and ``large``, which takes minutes."""
    folder = tmp_path_factory.mktemp("input")
    write_input(folder, FOLDER)
    write_input(folder, FOLDER, "large", 300_000)
    folder.chmod(0o755)
    services.engine.docker("cp", folder, f"{services.container('worker-control')}:{FOLDER}")
    services.deploy(f"{FOLDER}/small.yaml", f"{FOLDER}/large.yaml")
    return services


def digest_here(tmp_path: Path, documents: int = 40) -> str:
    """What the same stage publishes on this machine, outside every container."""
    from flows.start import run_in_workspace

    recipe = load_recipe(str(write_input(tmp_path, str(tmp_path), documents=documents)))
    result = run_in_workspace(
        recipe, StageSelection(only=("ingest",)), Store.at(tmp_path / "ws"), use_prefect=False, quiet=True
    )
    return result.datasets["ingest"].digest


def digest_there(services: Services) -> str:
    command = "headwater status --json --workspace /workspace"
    status = json.loads(services.compose("exec", "-T", "worker-control", *command.split()))
    return str(next(entry["digest"] for entry in status["datasets"] if entry["name"] == "ingest"))


def test_everything_becomes_healthy_on_postgres(services: Services) -> None:
    for service in ("postgres", "server", "worker-control", "worker-cpu", "worker-training"):
        eventually(
            lambda name=service: services.health(name) == "healthy", 120, lambda name=service: services.health(name)
        )  # type: ignore[misc]
    assert services.call("/health") is True
    tables = services.compose(
        *("exec", "-T", "postgres", "psql", "-U", "prefect", "-d", "prefect", "-tAc", "select count(*) from deployment")
    )
    assert int(tables) > 20
    uid = services.compose("exec", "-T", "server", "id", "-u").strip()
    assert uid != "0"


def test_deployments_are_there_and_nobody_gets_in_without_the_secret(services: Services) -> None:
    found = services.call("/deployments/filter", {"limit": 200})
    assert {"pipeline", "ingest", "pretrain"} <= {entry["entrypoint"].rsplit(".", 1)[-1] for entry in found}
    with pytest.raises(urllib.error.HTTPError) as refused:
        services.call("/deployments/filter", {"limit": 1}, auth=False)
    assert refused.value.code == 401
    pools = services.call("/work_pools/filter", {})
    assert {pool["name"]: pool["type"] for pool in pools} == dict.fromkeys(("control", "cpu", "gpu"), "process")


def test_secrets_are_in_no_image_and_no_configuration(services: Services) -> None:
    secrets = [services.secret("api_auth").split(":")[1], services.secret("postgres_password")]
    containers = services.compose("ps", "--all", "--quiet").split()
    seen = services.engine.docker("inspect", *containers)
    seen += services.engine.docker("image", "inspect", IMAGE)
    seen += services.engine.docker("history", "--no-trunc", IMAGE)
    seen += services.compose("logs", "--no-color") + services.compose("top")
    assert [secret for secret in secrets if secret in seen] == []


def test_the_ui_is_served_and_speaks_to_the_address_it_came_from(services: Services) -> None:
    import urllib.request

    base = f"http://127.0.0.1:{services.port}"
    with urllib.request.urlopen(base, timeout=30) as page:
        assert b"<script" in page.read()
    with urllib.request.urlopen(f"{base}/ui-settings", timeout=30) as answer:
        settings = json.load(answer)
    assert (settings["api_url"], settings["auth"]) == ("/api", "BASIC")


def test_a_stage_publishes_what_it_publishes_outside(small: Services, tmp_path: Path) -> None:
    run = small.wait(small.start("ingest/ingest-small"))
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert digest_there(small) == digest_here(tmp_path)


def test_a_restart_of_database_and_server_is_survived(small: Services) -> None:
    before = small.call("/flow_runs/count", {})
    small.compose("restart", "--timeout", "20", "postgres")
    eventually(lambda: small.call("/flow_runs/count", {}) == before, 90)
    small.compose("kill", "server")
    small.up()
    eventually(lambda: small.call("/flow_runs/count", {}) == before, 120)
    run = small.wait(small.start("ingest/ingest-small", force=True))
    assert run["state_name"] == "Completed", run["state"]["message"]


def test_stages_run_in_containers_of_their_own(small: Services, tmp_path: Path) -> None:
    small.settings(COMPOSE_PROFILES="containers", HEADWATER_WORKER_CPUS="1")
    small.up()
    assert small.call("/work_pools/cpu")["type"] == "docker"
    run = small.start("ingest/ingest-small", force=True)
    seen: list[dict[str, Any]] = []

    def started() -> bool:
        ids = small.job_containers(run)
        if ids:
            seen.extend(json.loads(small.engine.docker("inspect", *ids)))
        return bool(seen)

    eventually(started, 120)
    assert small.wait(run)["state_name"] == "Completed"
    host = seen[0]["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["Privileged"]) == (4 << 30, 1_000_000_000, False)
    assert seen[0]["Config"]["User"] not in ("", "0", "0:0")
    secret = small.secret("api_auth")
    assert secret not in json.dumps(seen)
    assert secret.split(":")[1] not in json.dumps(seen)
    assert digest_there(small) == digest_here(tmp_path)
    eventually(lambda: not small.job_containers(run, everything=True), 30)


def test_the_whole_path_dispatches_its_stages_to_containers(small: Services) -> None:
    run = small.wait(small.start("pipeline/pipeline-small", dispatch="deployments", force=["ingest"]))
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert kind_of_newest(small, "ingest") == "docker"


def kind_of_newest(services: Services, stage: str) -> str:
    """The kind of the pool in which the newest run of a stage was."""
    found = services.call("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 20})
    newest = next(run for run in found if run["name"].startswith(f"{stage}-"))
    return str(services.call(f"/work_pools/{newest['work_pool_name']}")["type"])


def test_cancelling_ends_the_container_and_removes_it(small: Services) -> None:
    run = small.start("ingest/large")
    small.wait(run, "RUNNING")
    eventually(lambda: bool(small.job_containers(run)), 60)
    small.call(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert small.wait(run, timeout_s=60)["state_name"] == "Cancelled"
    eventually(lambda: not small.job_containers(run, everything=True), 30)


def test_a_container_that_is_killed_is_a_crashed_run_and_removed(small: Services) -> None:
    run = small.start("ingest/large")
    small.wait(run, "RUNNING")
    eventually(lambda: bool(small.job_containers(run)), 60)
    small.engine.docker("kill", *small.job_containers(run))
    assert small.wait(run, timeout_s=60)["state_type"] == "CRASHED"
    eventually(lambda: not small.job_containers(run, everything=True), 30)


def test_down_leaves_the_volumes_and_nothing_else(small: Services) -> None:
    before = digest_there(small)
    run = small.start("ingest/large")
    eventually(lambda: bool(small.job_containers(run)), 60)
    small.call_script("down.sh")
    assert not small.job_containers(run, everything=True)
    for kind in ("container", "network"):
        arguments = [kind, "ls", "--quiet", *(["--all"] if kind == "container" else [])]
        assert not small.engine.docker(*arguments, "--filter", f"name={small.project}").split()
    volumes = small.engine.docker("volume", "ls", "--quiet", "--filter", f"name={small.project}").split()
    assert sorted(volumes) == [f"{small.project}_database", f"{small.project}_workspace"]
    small.up()
    assert digest_there(small) == before
