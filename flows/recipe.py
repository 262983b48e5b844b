"""Recipes: a YAML file that says which stages run, and how.

    recipe: demo
    description: one line
    extends: base            # optional: another recipe, whose values these override
    scale: 125M              # optional: derives the pretraining from a size, see flows.scale
    execution:               # how to run; never changes a result
      workers: 2
    stages:
      dedup: {bands: 14, rows: 8}
      tokenizer: {use: tokenizer@demo}           # a published dataset, as it is, in the stage's place
      redact: {after: quality}                   # where it stands among the stages that take documents
      shout: {use: "my_pkg.stage:STAGE", after: ingest}   # a stage of another package
      dedup_again: {use: dedup, after: redact}   # one of ours, under a name of its own
      ...

A stage's section is validated by the stage's own configuration model. A mistake is reported with the file, the key and
the allowed values.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows.checks import check_meshes, check_sources, with_profiles
from flows.machines import ExecutionSettings
from flows.order import arranged
from flows.recipe_file import SCALE, read_recipe_file
from flows.scale import apply_scale
from flows.sections import node_of, refuse_unknown, section_names, validate
from flows.stages import STAGE_NAMES
from infra.config import Config
from infra.errors import ConfigError, nearest
from infra.extensions import named_code, refuse_code
from infra.planning import check_graph
from infra.stage import StageNode
from infra.store.store import LABEL

if TYPE_CHECKING:
    from pipeline.sources.common_crawl import CommonCrawlSource
    from training.scale import ScalePlan


@dataclass(frozen=True)
class Recipe:
    """A validated recipe."""

    name: str
    description: str
    execution: ExecutionSettings
    nodes: tuple[StageNode, ...]
    origin: str
    overrides: tuple[str, ...] = ()
    scale: "ScalePlan | None" = None
    """Where the pretraining's settings come from, if the recipe has a scale."""
    crawl: str = ""
    """The crawl it is set to, as one of a series (``flows.crawls.incremental``)."""

    @property
    def label(self) -> str:
        """What its datasets are found by."""
        return self.crawl or self.name

    @property
    def address(self) -> str:
        """What to call ``load_recipe`` with to get it again, also from another process: a bundled name, or a path."""
        stem = Path(self.origin).stem
        bundled = stem in recipe_names() and _find(stem) == Path(self.origin)
        return stem if bundled else str(Path(self.origin).resolve())

    @property
    def crawl_sources(self) -> "list[CommonCrawlSource]":
        """The sources that are read from a crawl by its name."""
        config: Any = next((node.config for node in self.nodes if node.name == "ingest"), None)
        return [source for source in config.sources if source.kind == "common_crawl"] if config else []

    def node(self, name: str) -> StageNode:
        return next(node for node in self.nodes if node.name == name)


def recipe_names() -> list[str]:
    folder = resources.files("flows") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe by name (of the bundled ones) or path; ``overrides`` are ``key=value``."""
    raw, origin, plan = _read(name_or_path)
    written = copy.deepcopy(raw)
    fields = [override for override in overrides if not override.startswith(SCALE)]
    scales = [override.removeprefix(SCALE) for override in overrides if override.startswith(SCALE)]
    for override in fields:
        _apply_override(raw, override)
    if scales:
        raw, plan = apply_scale(raw | {"scale": scales[-1]}, origin)
        for override in fields:  # what is set by hand overrules the scale, and was an input to it (ranks, vocabulary)
            _apply_override(raw, override)
    if overrides:
        refuse_code(raw, written, origin)
    return replace(build_recipe(raw, origin), overrides=tuple(overrides), scale=plan)


def overlaid_recipe(
    name_or_path: str,
    changes: Sequence[Mapping[str, Any] | str],
    *,
    without: Collection[str] = (),
    only: Collection[str] = (),
    needed: Collection[str] = (),
) -> Recipe:
    """A recipe as one that extends it would be, by changes in their order: sections of stages, or an override
    ``key=value`` (``scale=4M`` too).

    Stages of ``without``, or of the recipe's own those that are not of ``only``, are left out whatever a change says of
    them. Of the result what the stages ``needed`` are made from is kept, if any are named.
    """
    raw, origin, _ = _read(name_or_path)
    sections = raw.get("stages")
    if not isinstance(sections, Mapping):
        raise _no_stages(origin)
    uses = {name: section.get("use") if isinstance(section, Mapping) else None for name, section in sections.items()}
    unknown = sorted({*without} - {*STAGE_NAMES, *uses, *uses.values()})
    if unknown:
        raise ConfigError(
            f"`without` names {unknown[0]!r}, which the recipe does not run",
            where=origin,
            remedy=f"{nearest(unknown[0], uses)}Its stages are: {', '.join(uses)}.",
        )
    gone = {*without, *(name for name, use in uses.items() if use in without or (only and name not in only))}
    raw["stages"] = {name: section for name, section in sections.items() if name not in gone}
    for change in changes:
        if not isinstance(change, str):
            raw = _merge(raw, {"stages": {name: section for name, section in change.items() if name not in gone}})
        elif change.startswith(SCALE):
            raw, _ = apply_scale({**raw, "scale": change.removeprefix(SCALE)}, origin)
        elif change.partition(".")[0] not in gone:
            written = copy.deepcopy(raw)
            _apply_override(raw, change)
            refuse_code(raw, written, origin)
    recipe = build_recipe(raw, origin)
    return replace(recipe, nodes=_made_from(recipe.nodes, needed)) if needed else recipe


def _made_from(nodes: Sequence[StageNode], wanted: Collection[str]) -> tuple[StageNode, ...]:
    """The stages with these names and all that they are made from, in order."""
    kept = set(wanted)
    for node in reversed(nodes):
        if node.name in kept:
            kept.update(node.upstream.values())
    return tuple(node for node in nodes if node.name in kept)


def refuse_code_beside(name_or_path: str, given: Any) -> None:
    """Raises ConfigError if a form's values name code that the recipe's file does not name."""
    if any(named_code(given)):
        raw, origin, _ = _read(name_or_path)
        refuse_code(given, raw, origin)


def replace_config(recipe: Recipe, stage: str, config: Config) -> Recipe:
    """The recipe with another configuration for one of its stages."""
    if stage not in {node.name for node in recipe.nodes}:
        raise ConfigError(
            f"recipe {recipe.name!r} has no stage {stage!r}",
            where=recipe.origin,
            remedy=f"Its stages are: {', '.join(node.name for node in recipe.nodes)}.",
        )
    changed = [replace(node, config=config) if node.name == stage else node for node in recipe.nodes]
    nodes = tuple(with_profiles(changed))
    check_graph(nodes)
    check_sources(nodes, recipe.origin)
    check_meshes(nodes, recipe.origin)
    return replace(recipe, nodes=nodes)


def build_recipe(raw: Mapping[str, Any], origin: str) -> Recipe:
    """Validate a recipe given as plain data."""
    allowed = {"recipe", "description", "execution", "scale", "stages"}
    refuse_unknown(raw, allowed, "", origin)
    sections = raw.get("stages") or {}
    if not isinstance(sections, Mapping) or not sections:
        raise _no_stages(origin)
    execution = validate(ExecutionSettings, raw.get("execution") or {}, "execution", origin)
    try:
        every = [node_of(name, sections, origin) for name in section_names(sections, origin)]
        nodes = with_profiles(
            arranged(every, {name: str(s["after"]) for name, s in sections.items() if "after" in (s or {})})
        )
        check_graph(nodes)
    except ConfigError as error:
        raise ConfigError(error.error, where=origin, remedy=error.remedy) from None
    check_sources(nodes, origin)
    check_meshes(nodes, origin)
    return Recipe(_name_of(raw, origin), str(raw.get("description") or ""), execution, tuple(nodes), origin)


def _name_of(raw: Mapping[str, Any], origin: str) -> str:
    """The recipe's name, which its datasets and its runs are found by: known to be one before anything runs."""
    name = str(raw.get("recipe") or Path(origin).stem)
    if not LABEL.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a recipe",
            where=origin,
            remedy="Say `recipe:` and a name of letters, digits, dots, dashes and underscores: a letter or digit first, at most "
            "128 in all.",
        )
    return name


def _no_stages(origin: str) -> ConfigError:
    return ConfigError("the recipe has no stages", where=origin, remedy="Add `stages:` with a section for each stage.")


def _read(name_or_path: str, seen: tuple[str, ...] = ()) -> tuple[dict[str, Any], str, "ScalePlan | None"]:
    """The recipe as plain data, with what it extends merged in, and what its scale was turned into."""
    path = _find(name_or_path)
    origin = str(path)
    if origin in seen:
        raise ConfigError(f"recipes extend each other in a circle: {' -> '.join((*seen, origin))}", where=origin)
    raw = read_recipe_file(path)
    own, plan = raw, None
    base_name = raw.pop("extends", None)
    if base_name is not None:
        folder = Path(origin).parent
        beside = next((path for end in (".yaml", "") if (path := folder / f"{base_name}{end}").is_file()), base_name)
        base, _, plan = _read(str(beside), (*seen, origin))
        raw = _merge(base, raw)
    if "scale" in own:
        raw, plan = apply_scale(raw, origin)
        raw = _merge(raw, own)
    return raw, origin, plan


def _find(name_or_path: str) -> Path:
    if name_or_path in recipe_names():
        with resources.as_file(resources.files("flows") / "recipes" / f"{name_or_path}.yaml") as path:
            return path
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        is_path = path.suffix in (".yaml", ".yml") or path.is_dir()
        raise ConfigError(
            f"{'this is a folder, not a recipe' if path.is_dir() else 'there is no recipe'} {name_or_path!r}",
            where=str(path.absolute()) if is_path else "",
            remedy=f"{nearest(name_or_path, recipe_names())}Give a YAML file, or one of the bundled recipes: "
            f"{', '.join(recipe_names())}.",
        )
    return path


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """``dedup.bands=20`` (a stage's field) or ``execution.workers=8``; the value is read as YAML."""
    override = override.strip().removeprefix("stages.")  # as mistakes are told: stages.dedup.bands
    key, separator, _ = override.partition("=")
    section, dot, _ = key.strip().partition(".")
    if not separator or not dot:
        fault = "names no field" if separator else "is not key=value"
        raise ConfigError(
            f"--set {override!r} {fault}",
            remedy="Write a stage and a field: --set dedup.bands=20. A stage is added in the recipe's file.",
        )
    if section != "execution":
        sections = raw.get("stages") or {}
        if section not in STAGE_NAMES and section not in sections:
            raise ConfigError(
                f"--set names no stage {section!r}",
                remedy=f"{nearest(section, STAGE_NAMES)}Stages: {', '.join(STAGE_NAMES)}; or execution.",
            )
        if section not in sections:
            raise ConfigError(
                f"--set names stage {section!r}, which the recipe does not run",
                remedy=f"Its stages are: {', '.join(sections)}.",
            )
        override = f"stages.{override}"
    set_value(raw, override)


def set_value(raw: dict[str, Any], override: str) -> None:
    """Put a value, read as YAML, where ``key.key=value`` says; what lies there in between is made."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator:
        raise ConfigError(f"--set {override!r} is not key=value", remedy="Write a field: --set tokens=200000.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    target = raw
    for part in parts[:-1]:
        following = target.get(part)
        following = dict(following) if isinstance(following, Mapping) else {}
        target[part] = following
        target = following
    target[parts[-1]] = value
