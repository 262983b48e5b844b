"""Work pools of kind docker: what a stage's container gets, without an engine."""

import time
from pathlib import Path

import pytest

from flows.operate.health import complaint
from infra.errors import ConfigError

pytest.importorskip("prefect_docker")

ENVIRONMENT = {
    "PREFECT_API_URL": "http://server:4200/api",
    "HEADWATER_STAGE_IMAGE": "headwater:1-cpu",
    "HEADWATER_STAGE_IMAGE_GPU": "headwater:1-cuda",
    "HEADWATER_STAGE_NETWORK": "net",
    "HEADWATER_STAGE_WORKSPACE": "volume",
    "HEADWATER_STAGE_SECRET": "/here/api_auth",
    "HEADWATER_STAGE_USER": "7:8",
    "HEADWATER_STAGE_MEMORY": "3g",
    "HEADWATER_STAGE_CPUS": "1.5",
    "HEADWATER_STAGE_GPUS_GPU": "all",
}


def test_a_setting_for_one_pool_wins_over_that_for_all() -> None:
    from flows.operate.containers import ContainerSettings

    cpu, gpu = (ContainerSettings.from_environment(ENVIRONMENT, pool) for pool in ("cpu", "gpu"))
    assert (cpu.image, cpu.gpus, cpu.memory) == ("headwater:1-cpu", "", "3g")
    assert (gpu.image, gpu.gpus, gpu.memory) == ("headwater:1-cuda", "all", "3g")
    with pytest.raises(ConfigError, match="HEADWATER_STAGE_IMAGE"):
        ContainerSettings.from_environment({"PREFECT_API_URL": "x"}, "cpu")


def test_a_job_template_bounds_the_container_and_hands_no_secret_down() -> None:
    from flows.operate.containers import ContainerSettings, job_template

    template = job_template(ContainerSettings.from_environment(ENVIRONMENT, "cpu"))
    limits = {name: entry.get("default") for name, entry in template["variables"]["properties"].items()}
    assert sorted(limits) == ["cpus", "gpus", "mem_limit", "memswap_limit", "stream_output"], (
        "a run may set nothing else"
    )
    assert limits["mem_limit"] == limits["memswap_limit"] == "3g"
    fixed = template["job_configuration"]
    assert (fixed["image_pull_policy"], fixed["privileged"]) == ("Never", False)
    assert fixed["volumes"] == ["volume:/workspace", "/here/api_auth:/run/secrets/api_auth:ro"]
    env = fixed["env"]
    assert env["PREFECT_HOME"].startswith("/tmp/")
    assert env["HEADWATER_API_AUTH_FILE"] == "/run/secrets/api_auth"
    assert [env[name] for name in ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")] == [None, None]
    engine = fixed["container_create_kwargs"]
    assert (engine["user"], engine["cap_drop"], engine["init"]) == ("7:8", ["ALL"], True)


def test_a_folder_is_the_workspace_under_its_own_path() -> None:
    from flows.operate.containers import ContainerSettings, job_template

    for workspace, home in (("/data/headwater", "/data/headwater"), ("volume", "/workspace")):
        settings = ContainerSettings.from_environment({**ENVIRONMENT, "HEADWATER_STAGE_WORKSPACE": workspace}, "cpu")
        fixed = job_template(settings)["job_configuration"]
        assert fixed["volumes"][0] == f"{workspace}:{home}"
        env = fixed["env"]
        assert (env["HEADWATER_HOME"], env["HEADWATER_CACHE"]) == (home, f"{home}/cache")


def test_processors_and_gpus_are_said_in_the_engines_units() -> None:
    from flows.operate.containers import engine_units

    assert engine_units({"name": "x", "cpus": "1.5", "gpus": ""}) == {"name": "x", "nano_cpus": 1_500_000_000}
    [request] = engine_units({"gpus": "all"})["device_requests"]
    assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])
    assert engine_units({"gpus": "2"})["device_requests"][0]["Count"] == 2


def test_health_is_what_the_server_answers_or_when_the_worker_last_polled(tmp_path: Path) -> None:
    now = time.time()
    assert complaint("", now) is None
    assert "does not answer" in str(complaint("http://127.0.0.1:9/api/health", now))
    beat = tmp_path / "polls"
    assert "not polled yet" in str(complaint(str(beat), now))
    beat.touch()
    assert complaint(str(beat), now) is None
    assert "not polled for 500 s" in str(complaint(str(beat), beat.stat().st_mtime + 500))
