"""Which machines a run uses is chosen in its recipe, and what they are handed can be read beforehand."""

import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.main import build_app
from flows.machines import check_installed, executor_of, launcher_of
from flows.recipe import load_recipe
from infra.errors import ConfigError
from infra.execution.ray import RayExecutor
from infra.launch.hosts import HostsLauncher
from infra.launch.kubernetes import KubernetesLauncher
from infra.launch.slurm import SlurmLauncher


def settings(*overrides: str):  # type: ignore[no-untyped-def]
    return load_recipe("smoke", overrides).execution


def test_the_executor_is_a_setting() -> None:
    ray = executor_of(settings("execution.executor=ray", "execution.ray.address=head:6379", "execution.workers=3"))
    assert isinstance(ray, RayExecutor)
    assert (ray.settings.address, ray.workers, ray.memory_bytes) == ("head:6379", 3, 4096 << 20)
    with pytest.raises(ConfigError, match="input should be 'local' or 'ray'"):
        settings("execution.executor=spark")


@pytest.mark.parametrize(
    ("name", "kind"), [("slurm", SlurmLauncher), ("kubernetes", KubernetesLauncher), ("hosts", HostsLauncher)]
)
def test_the_launcher_is_a_setting(name: str, kind: type) -> None:
    launcher = launcher_of(settings(f"execution.launcher={name}"))
    assert isinstance(launcher, kind)
    assert launcher.kind == name, "the kind of its handles is how a user chooses it again"


def test_machines_never_change_what_is_computed() -> None:
    plain = load_recipe("smoke")
    elsewhere = load_recipe(
        "smoke", ["execution.executor=ray", "execution.launcher=slurm", "execution.slurm.gres=gpu:8"]
    )
    assert [node.config for node in plain.nodes] == [node.config for node in elsewhere.nodes]


def render(*words: str) -> str:
    done = CliRunner().invoke(build_app(["render"]), ["render", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_what_a_cluster_is_handed_can_be_read() -> None:
    script = render("slurm", "smoke", "--set", "pretrain.nodes=2", "--set", "execution.slurm.partition=gpu")
    assert "#SBATCH --nodes=2" in script
    assert "#SBATCH --partition=gpu" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    service, job = yaml.safe_load_all(render("kubernetes", "smoke"))
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    (made,) = yaml.safe_load_all(render("ray-job", "smoke", "--stop-after", "quality"))
    assert made["spec"]["entrypoint"] == (
        "headwater run smoke --stop-after quality --no-prefect --set execution.executor=ray --set execution.ray.address=auto"
    )
    lines = render(
        "hosts", "smoke", "--set", "pretrain.nodes=2", "--set", "execution.hosts.names=[red, blue]"
    ).splitlines()
    assert lines[0::2] == ["# red", "# blue"]
    with pytest.raises(ConfigError, match="has no job stage 'dedup'. Its job stages: pretrain"):
        render("slurm", "smoke", "--stage", "dedup")


def test_a_package_that_is_not_here_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.machines.find_spec", lambda name: None)
    check_installed(settings())
    with pytest.raises(ConfigError, match=r"chooses ray, which is not installed.*headwater\[ray\]"):
        check_installed(settings("execution.executor=ray"))
