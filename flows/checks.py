"""What a recipe's stages say of each other's sources, checked before anything runs.

The names and profiles of sources tie stages together: quality rules, redaction policies and the classifier's sets of texts
go by either, the order of survivors and the mixture by names. What fits no source would be refused by its stage, hours later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from flows.recipe_file import nearest
from infra.errors import ConfigError
from infra.stage import StageNode
from pipeline.profiles import BySource, SourceProfile, entry_for


def check_sources(nodes: Sequence[StageNode], origin: str) -> None:
    """Every source is covered where it must be, and every name of a source is one. Raises ConfigError."""
    configs: dict[str, Any] = {node.name: node.config for node in nodes if not node.use}
    names = _source_names(configs)
    if not names:
        return
    for name in names:
        for stage in sorted({"quality", "redact"} & configs.keys()):
            try:
                entry_for(configs[stage], configs[stage].sources, name, f"stages.{stage}.sources")
            except ConfigError as error:
                raise ConfigError(error.error, where=origin, remedy=error.remedy) from None
    _check_rules(nodes, names, origin)
    _check_text_sets(configs.get("classifier"), names, origin)
    for place, pattern in _named(configs):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"{place} names the source {pattern!r}, which ingest does not have",
                where=origin,
                remedy=f"{nearest(pattern, names)}Sources there: {', '.join(names)}.",
            )


def notices(nodes: Sequence[StageNode]) -> list[str]:
    """What the recipe will do that a reader of it may not expect: languages left out, sources without rules."""
    from pipeline.quality.config import describe_selection  # and numpy, which a reading command does not need

    configs: dict[str, Any] = {node.name: node.config for node in nodes if not node.use}
    said = []
    languages = getattr(getattr(configs.get("ingest"), "extract", None), "languages", ())
    if languages:
        said.append(
            f"pages in other languages than {', '.join(languages)} are not extracted (ingest.extract.languages)"
        )
    if "quality" in configs:
        said += [line for name in _source_names(configs) for line in describe_selection(configs["quality"], name)]
    return said


def _source_names(configs: dict[str, Any]) -> list[str]:
    return [source.name for source in configs["ingest"].sources] if "ingest" in configs else []


def with_profiles(nodes: Sequence[StageNode]) -> list[StageNode]:
    """The nodes, those whose settings go by profiles told the profiles of the recipe's sources."""
    sources = [source for node in nodes if node.name == "ingest" for source in node.config.sources]  # type: ignore[attr-defined]
    said = tuple(SourceProfile(source=each.name, profile=each.profile) for each in sources if each.profile)
    return [
        replace(node, config=node.config.model_copy(update={"profiles": said}))
        if isinstance(node.config, BySource) and not node.config.profiles
        else node
        for node in nodes
    ]


def _check_rules(nodes: Sequence[StageNode], names: Sequence[str], origin: str) -> None:
    """Rules of the recipe's own and of other packages look at what is measured; a share by score needs scores."""
    configs: dict[str, Any] = {node.name: node.config for node in nodes if not node.use}
    quality, attributes = configs.get("quality"), configs.get("attributes")
    if quality is None:
        return
    from pipeline.quality.config import rules_for  # and numpy, which a reading command does not need
    from pipeline.quality.rules import PRESETS, check_attributes

    for name in names:
        entry = rules_for(quality, name)
        scored = attributes is None or any(node.name == "classifier" for node in nodes)
        if entry.keep_fraction is not None and not scored:
            raise ConfigError(
                f"quality keeps a share of {name!r} by the classifier's score, and the recipe has no classifier",
                where=origin,
                remedy="Add a section classifier, or leave out keep_fraction.",
            )
        if attributes is not None and (entry.rules or not set(entry.presets) <= set(PRESETS)):
            from pipeline.quality.measures import attribute_schema

            check_attributes(entry.all_rules(), attribute_schema(attributes.measures), origin)


def _check_text_sets(config: Any, names: Sequence[str], origin: str) -> None:
    """Sets of texts by profile; those by name are checked with all other names."""
    for side in ("positives", "negatives") if config is not None else ():
        for texts in getattr(config, side):
            if texts.profile and not any(config.covers(texts, name) for name in names):
                raise ConfigError(
                    f"classifier.{side} wants sources of {texts.described}, and ingest has none",
                    where=origin,
                    remedy=f"Give one of {', '.join(names)} that profile, or name other classifier.{side}.",
                )


def _named(configs: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Where a source is named, and by which name or pattern. Weights of 0 and rules by pattern may name what is not there."""
    if classifier := configs.get("classifier"):
        for side in ("positives", "negatives"):
            yield from ((f"classifier.{side}", texts.source) for texts in getattr(classifier, side) if texts.source)
    if dedup := configs.get("dedup"):
        yield from (("dedup.source_priority", name) for name in dedup.source_priority)
    shards = configs.get("shards")
    if shards and not shards.append_to:  # the dataset it grows may have other sources
        yield from (("shards.mixture", entry.source) for entry in shards.mixture if entry.weight)
        yield from (
            ("shards.phases", entry.source) for phase in shards.phases for entry in phase.mixture if entry.weight
        )
