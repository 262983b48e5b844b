"""The deployments of a recipe: the whole path, each of its stages, a lab on it and, if it reads a crawl, the daily watch.

``headwater up`` and ``headwater deploy`` create them through the API. ``prefect.yaml`` in the repository is the same list
for the bundled recipes, written by ``python -m flows.operate.deployments > prefect.yaml`` (a test holds the two together), so
that ``prefect deploy --all`` does the same on a server of your own.

A deployment is named after what it runs and the recipe: ``dedup-demo`` (in full ``dedup/dedup-demo``), ``pipeline-smoke``. Lists
show that name alone.
"""

import glob
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.recipe import Recipe, load_recipe
from flows.recipe_file import DEPLOYED
from flows.stages import STAGE_NAMES, offered_stages, pool_of, usual_place
from infra.config import strings_of
from infra.errors import ConfigError

CONTROL_POOL = "control"
POOLS = {
    CONTROL_POOL: "Flows that plan and wait: the whole path, the crawl watch.",
    "cpu": "Data stages: each uses all cores it is given, so one at a time on a machine.",
    "gpu": "Training and alignment: one process group at a time on a machine.",
}
"""Work pools and what they are for."""

POOL_LIMITS: dict[str, int | None] = {CONTROL_POOL: None, "cpu": 1, "gpu": 1}
"""How many flow runs a pool starts at a time. A throttle only: what protects a dataset is its lease.

Limits of pools and queues are counted from the runs there are. Prefect's global limits are leases that a killed run, or
a restarted server, leaves taken; and a limit that does not exist is passed without a word. So none is used."""

COMMANDING = ("command", "env", "working_dir", "image", "volumes", "privileged")
"""Job variables by which a run would say what its worker does. Pools of ours have none of them (``flows.operate.refusals``)."""

CRAWL_QUEUE = "crawls"
"""Queue of the control pool in which the runs of new crawls wait, one started at a time, the oldest crawl first."""

PRESETS = {"demo": "full", "smoke": "smoke"}
"""Bundled recipes that are tagged as presets."""

WATCH_CRON = "0 6 * * *"
WATCH_TIMEZONE = "UTC"


@dataclass(frozen=True, eq=False)
class DeploymentSpec:
    """One deployment; ``entrypoint`` is an importable flow. ``cron`` is its schedule, if it has one."""

    flow: str
    name: str
    entrypoint: str
    pool: str
    description: str
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    cron: str = ""


def deployment_name(flow: str, recipe: Recipe) -> str:
    """What comes after the slash."""
    return f"{flow.replace('_', '-')}-{recipe.name}"


def full_name(flow: str, recipe: Recipe) -> str:
    return f"{flow}/{deployment_name(flow, recipe)}"


def refuse_relative(recipe: Recipe) -> None:
    """Raise ConfigError for a path that leads somewhere from here: a worker's run begins in a folder of its own."""
    for node in recipe.nodes:
        for place, text in strings_of(node.config, node.name):
            is_path = "/" in text or Path(text).suffix or place.endswith(".address")
            if is_path and not Path(text).is_absolute() and next(glob.iglob(text), None) is not None:
                raise ConfigError(
                    f"{place} = {text!r} is relative to this folder, and the runs of a worker begin in another one",
                    where=recipe.origin,
                    remedy=f"Write the whole path: {Path(text).absolute()}.",
                )


def deployments(recipe: Recipe) -> list[DeploymentSpec]:
    """The whole path, each stage of the recipe, a lab if it filters and trains, the weights of its sources if it has several,
    and the crawl watch if it reads a crawl."""
    tags: tuple[str, ...] = ("headwater", f"recipe:{recipe.name}")
    if recipe.address in PRESETS:
        tags = (*tags, f"preset:{PRESETS[recipe.address]}")
    whole = DeploymentSpec(
        "pipeline",
        deployment_name("pipeline", recipe),
        "flows.pipeline.pipeline",
        CONTROL_POOL,
        recipe.description or f"All stages of recipe {recipe.name}.",
        {"params": _form(recipe)},
        tags,
    )
    stages = [_of_stage(recipe, name, pool, tags) for name, pool in _stages(recipe)]
    names = {node.kind for node in recipe.nodes}
    lab = [_lab(recipe, tags)] if {"quality", "pretrain"} <= names else []
    mix = [_mix(recipe, tags)] if {"ingest", "decontaminate", "shards", "pretrain"} <= names else []
    return [whole, *stages, *lab, *mix, *([_watch(recipe, tags)] if recipe.crawl_sources else [])]


def _form(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.address, "overrides": list(recipe.overrides)}


def _stages(recipe: Recipe) -> list[tuple[str, str]]:
    found = sorted(recipe.nodes, key=lambda node: usual_place(node.name))
    return [(node.name, pool_of(node.stage)) for node in found if node.missing is None and is_deployed(node.name)]


def takes_commands(job_template: Mapping[str, Any]) -> bool:
    """Whether a pool's job template lets a run name one."""
    return bool(set(COMMANDING) & set((job_template.get("variables") or {}).get("properties", {})))


def is_deployed(stage: str) -> bool:
    """Whether a section has deployments of its own: ours, and those that installed packages offer. A worker takes no others."""
    return stage in STAGE_NAMES or stage in offered_stages()


def _of_stage(recipe: Recipe, name: str, pool: str, tags: tuple[str, ...]) -> DeploymentSpec:
    node = recipe.node(name)
    # The recipe's values stand in the form, defaults by its schema: a run from the UI that changes nothing computes what
    # the recipe computes. Profiles are said by the sources, which a run may be given anew.
    form = {**_form(recipe), "config": node.config.model_dump(mode="json", exclude_defaults=True, exclude={"profiles"})}
    return DeploymentSpec(
        name,
        deployment_name(name, recipe),
        f"flows.stage_flows.{name}",
        pool,
        node.stage.description or f"Stage {name} of recipe {recipe.name}.",
        {"params": form},
        (*tags, f"stage:{name}"),
    )


def _lab(recipe: Recipe, tags: tuple[str, ...]) -> DeploymentSpec:
    return DeploymentSpec(
        "ablate",
        deployment_name("ablate", recipe),
        "flows.ablate.flow.ablate",
        "gpu",
        f"Which filters of {recipe.name} make the better model, or another lab.",
        {"params": {"lab": "filters", "overrides": [f"recipe={recipe.address}"]}},
        (*tags, "lab"),
    )


def _mix(recipe: Recipe, tags: tuple[str, ...]) -> DeploymentSpec:
    return DeploymentSpec(
        "mix",
        deployment_name("mix", recipe),
        "flows.mix.flow.mix",
        "gpu",
        f"How much of each source of {recipe.name}: weights for texts to be good at.",
        {"params": _form(recipe)},
        (*tags, "mix"),
    )


def _watch(recipe: Recipe, tags: tuple[str, ...]) -> DeploymentSpec:
    return DeploymentSpec(
        "crawl_watch",
        deployment_name("crawl_watch", recipe),
        "flows.crawls.watch.crawl_watch",
        CONTROL_POOL,
        f"Every day: start {recipe.name} once for each new crawl.",
        {"params": _form(recipe)},
        (*tags, "crawl-watch"),
        WATCH_CRON,
    )


def as_yaml(recipes: list[Recipe]) -> str:
    """The list in the form of ``prefect.yaml``."""
    entries = [_entry(spec) for recipe in recipes for spec in deployments(recipe)]
    head = (
        "# Deployments of the bundled recipes. Written by `python -m flows.operate.deployments > prefect.yaml`;\n"
        "# do not edit by hand.\n"
        "# The code is installed where the workers run, so there is nothing to build, push or pull.\n"
        "# Work pools: " + ", ".join(POOLS) + " (type process on one machine; docker or kubernetes on a cluster).\n"
        "# `headwater deploy` creates the same, and pools, limits and automations with it.\n"
    )
    body = {"name": "headwater", "build": None, "push": None, "pull": None, "deployments": entries}
    return head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)


def _entry(spec: DeploymentSpec) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": spec.name,
        "entrypoint": spec.entrypoint,
        "description": spec.description,
        "tags": list(spec.tags),
        "parameters": spec.parameters,
        "work_pool": {"name": spec.pool},
        "enforce_parameter_schema": True,
    }
    if spec.cron:
        # Off until somebody means it: the first watch starts the newest crawl, which is not for a laptop.
        entry["schedules"] = [{"cron": spec.cron, "timezone": WATCH_TIMEZONE, "active": False}]
    return entry


def main() -> None:
    sys.stdout.write(as_yaml([load_recipe(name) for name in DEPLOYED]))


if __name__ == "__main__":
    main()
