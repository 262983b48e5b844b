"""``headwater render``: what a cluster would be handed, to be read, changed, or submitted by other means."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

from flows.cli.options import RecipeArgument, SetOption, WorkspaceOption, open_store
from flows.recipe import Recipe, load_recipe
from infra.errors import ConfigError
from infra.job import JobSpec
from infra.launch import hosts, manifests, slurm
from infra.stage import JobStage

What = Literal["slurm", "kubernetes", "hosts", "ray-cluster", "ray-job"]
ATTEMPT = "try-1"


def command(
    what: Annotated[What, typer.Argument(help="A stage's job for a launcher, or KubeRay's manifests for data stages.")],
    recipe: RecipeArgument = "demo",
    stage: Annotated[str, typer.Option(help="The training or alignment stage.")] = "pretrain",
    stop_after: Annotated[str, typer.Option(help="ray-job: the last data stage.")] = "shards",
    set_: SetOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    loaded = load_recipe(recipe, set_ or ())
    settings = loaded.execution
    if what == "ray-cluster":
        text = _yaml(manifests.ray_cluster(settings.kubernetes, "headwater-data"))
    elif what == "ray-job":
        job = manifests.ray_job(settings.kubernetes, f"headwater-{loaded.name}", _data_run(loaded, stop_after))
        text = _yaml(job)
    else:
        # Pods have the workspace where their volume is mounted.
        home = settings.kubernetes.mount_path if what == "kubernetes" else open_store(workspace).home
        work_dir = (Path(home) / "work" / stage / "FINGERPRINT").absolute()
        spec = _spec(loaded, stage)
        renderers: dict[str, Callable[[], str]] = {
            "slurm": lambda: slurm.render(spec, settings.slurm, work_dir, ATTEMPT),
            "kubernetes": lambda: _yaml(
                *manifests.training_job(spec, settings.kubernetes, f"headwater-{stage}", "WORK", work_dir, ATTEMPT)
            ),
            "hosts": lambda: _commands(spec, settings.hosts, work_dir),
        }
        text = renderers[what]()
    sys.stdout.write(text)


def _spec(recipe: Recipe, stage: str) -> JobSpec:
    jobs = [node for node in recipe.nodes if isinstance(node.stage, JobStage)]
    for node in jobs:
        if node.name == stage and isinstance(node.stage, JobStage):
            return node.stage.job(node.config)
    if missing := next((node.missing for node in recipe.nodes if node.name == stage and node.missing), None):
        raise missing
    raise ConfigError(
        f"recipe {recipe.name!r} has no job stage {stage!r}",
        remedy=f"Its job stages: {', '.join(node.name for node in jobs) or 'none'}.",
    )


def _data_run(recipe: Recipe, stop_after: str) -> list[str]:
    """The command a Ray job runs on the cluster's head."""
    if stop_after not in {node.name for node in recipe.nodes}:
        raise ConfigError(f"recipe {recipe.name!r} has no stage {stop_after!r}")
    overrides = [*recipe.overrides, "execution.executor=ray", "execution.ray.address=auto"]
    sets = [word for override in overrides for word in ("--set", override)]
    return ["headwater", "run", recipe.address, "--stop-after", stop_after, "--no-prefect", *sets]


def _commands(spec: JobSpec, settings: hosts.HostsSettings, work_dir: Path) -> str:
    if len(settings.names) < spec.nodes:
        raise ConfigError(
            f"the stage wants {spec.nodes} nodes, and execution.hosts.names lists {len(settings.names)}",
            remedy="--set 'execution.hosts.names=[red, blue]'",
        )
    lines = hosts.render(spec, settings, work_dir, ATTEMPT, settings.port or manifests.KubernetesSettings().port)
    return "".join(f"# {host}\n{line}\n" for host, line in zip(settings.names, lines, strict=False))


def _yaml(*documents: manifests.Manifest) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, width=120)
