"""The deployments of a recipe: the whole path and each of its stages, with forms filled in from the recipe.

``headwater up`` creates them through the API. ``prefect.yaml`` in the repository is the same list for the demo recipe,
written by ``python -m flows.deployments > prefect.yaml`` (a test holds the two together), so that ``prefect deploy
--all`` does the same on a server of your own.
"""

import sys
from dataclasses import dataclass
from typing import Any

import yaml

from flows.recipe import Recipe, load_recipe
from flows.stages import STAGES

CONTROL_POOL = "control"
POOLS = {
    CONTROL_POOL: "Flows that plan and wait: the whole path.",
    "cpu": "Data stages: each uses all cores it is given, so one at a time on a machine.",
    "gpu": "Training and alignment: one process group at a time on a machine.",
}
"""Work pools and what they are for."""

POOL_LIMITS: dict[str, int | None] = {CONTROL_POOL: None, "cpu": 1, "gpu": 1}
"""How many flow runs a pool starts at a time. A throttle only: what protects a dataset is its lease."""


@dataclass(frozen=True)
class DeploymentSpec:
    """One deployment; ``entrypoint`` is an importable flow."""

    flow: str
    name: str
    entrypoint: str
    pool: str
    description: str
    parameters: dict[str, Any]
    tags: tuple[str, ...]


def deployments(recipe: Recipe) -> list[DeploymentSpec]:
    tags = ("headwater", f"recipe:{recipe.name}")
    whole = DeploymentSpec(
        "pipeline",
        recipe.name,
        "flows.pipeline.pipeline",
        CONTROL_POOL,
        recipe.description or f"All stages of recipe {recipe.name}.",
        {"params": {"recipe": recipe.address, "overrides": list(recipe.overrides)}},
        tags,
    )
    return [whole, *(_of_stage(recipe, name, pool, tags) for name, pool in _stages(recipe))]


def _stages(recipe: Recipe) -> list[tuple[str, str]]:
    present = {node.name for node in recipe.nodes}
    return [(entry.name, entry.pool) for entry in STAGES if entry.name in present]


def _of_stage(recipe: Recipe, name: str, pool: str, tags: tuple[str, ...]) -> DeploymentSpec:
    node = recipe.node(name)
    # The recipe's values stand in the form, defaults by its schema: a run from the UI that changes nothing computes what
    # the recipe computes.
    form = {
        "recipe": recipe.address,
        "overrides": list(recipe.overrides),
        "config": node.config.model_dump(mode="json", exclude_defaults=True),
    }
    return DeploymentSpec(
        name,
        recipe.name,
        f"flows.stage_flows.{name}",
        pool,
        node.stage.description or f"Stage {name} of recipe {recipe.name}.",
        {"params": form},
        (*tags, f"stage:{name}"),
    )


def as_yaml(recipe: Recipe) -> str:
    """The list in the form of ``prefect.yaml``."""
    entries = [
        {
            "name": spec.name,
            "entrypoint": spec.entrypoint,
            "description": spec.description,
            "tags": list(spec.tags),
            "parameters": spec.parameters,
            "work_pool": {"name": spec.pool},
            "enforce_parameter_schema": True,
        }
        for spec in deployments(recipe)
    ]
    head = (
        "# Deployments of the demo recipe. Written by `python -m flows.deployments > prefect.yaml`; do not edit by hand.\n"
        "# The code is installed where the workers run, so there is nothing to build, push or pull.\n"
        "# Work pools: " + ", ".join(POOLS) + " (type process on one machine; docker or kubernetes on a cluster).\n"
    )
    body = {"name": "headwater", "build": None, "push": None, "pull": None, "deployments": entries}
    return head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)


def main() -> None:
    sys.stdout.write(as_yaml(load_recipe("demo")))


if __name__ == "__main__":
    main()
