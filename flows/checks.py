"""What a recipe's stages say of each other's sources, checked before anything runs.

The names and profiles of sources tie stages together: quality rules, redaction policies and the classifier's sets of texts
go by either, the order of survivors and the mixture by names. What fits no source would be refused by its stage, hours later.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from infra.errors import ConfigError, nearest
from infra.stage import StageNode
from pipeline.profiles import BySource, SourceProfile, entry_for


def check_sources(nodes: Sequence[StageNode], origin: str) -> None:
    """Every source is covered where it must be, and every name of a source is one. Raises ConfigError."""
    names = _source_names(nodes)
    if not names:
        return
    for name in names:
        for stage, config in (*_of_kind(nodes, "quality"), *_of_kind(nodes, "redact")):
            try:
                entry_for(config, config.sources, name, f"stages.{stage}.sources")
            except ConfigError as error:
                raise ConfigError(error.error, where=origin, remedy=error.remedy) from None
    _check_rules(nodes, names, origin)
    _check_repetition(nodes, origin)
    for stage, config in _of_kind(nodes, "classifier"):
        _check_text_sets(stage, config, names, origin)
    for place, pattern in _named(nodes):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"{place} names the source {pattern!r}, which ingest does not have",
                where=origin,
                remedy=f"{nearest(pattern, names)}Sources there: {', '.join(names)}.",
            )


def check_meshes(nodes: Sequence[StageNode], origin: str) -> None:
    """Ranks that share sequences can cut those of the shards, and ranks that share matrices those of the model that a stage
    goes on with. Raises ConfigError."""
    shards, words = dict(_of_kind(nodes, "shards")), dict(_of_kind(nodes, "tokenizer"))
    by_name = {node.name: node for node in nodes}
    for node in (node for node in nodes if not node.use and not node.missing):
        rows = shards.get(node.upstream.get("shards", ""))
        config: Any = node.config
        try:
            if node.kind == "pretrain" and rows is not None:
                config.parallel.check_sequence(rows.seq_len)
            elif hasattr(config, "check_model") and (model := _pretraining(node, by_name)) is not None:
                tokenizer = words.get(model.upstream["tokenizer"])
                shape: Any = model.config.model  # type: ignore[attr-defined]
                config.check_model(
                    shape.model_copy(update={"vocab_size": tokenizer.vocab_size}) if tokenizer else shape
                )
        except ConfigError as error:
            raise ConfigError(f"stages.{node.name}: {error.error}", where=origin, remedy=error.remedy) from None


def _pretraining(node: StageNode, by_name: Mapping[str, StageNode]) -> StageNode | None:
    """The stage of the recipe that made the model from which this one, in the end, goes on."""
    while node.kind != "pretrain":
        before = next((node.upstream[role] for role in ("sft", "pretrain") if role in node.upstream), "")
        if before not in by_name or by_name[before].use:
            return None
        node = by_name[before]
    return node


def meshes(nodes: Sequence[StageNode]) -> list[str]:
    """What a rank holds and sends in each pretraining by the torch engine on rows of this recipe."""
    rows, words = dict(_of_kind(nodes, "shards")), dict(_of_kind(nodes, "tokenizer"))
    said = []
    for node in nodes:
        config: Any = node.config
        parallel = getattr(config, "parallel", None)  # without torch a stage's settings are not known
        if node.kind != "pretrain" or node.use or parallel is None or parallel.engine != "torch":
            continue
        cut, tokenizer = rows.get(node.upstream["shards"]), words.get(node.upstream["tokenizer"])
        if cut is not None and tokenizer is not None:
            from training.mesh_plan import headline, plan_mesh  # and torch, which only this engine needs

            model = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
            try:
                told = headline(plan_mesh(model, parallel, config.processes, cut.seq_len, config.batch_sequences))
            except ValueError as error:
                told = str(error)
            said.append(f"{node.name}: {told}")
    return said


def notices(nodes: Sequence[StageNode]) -> list[str]:
    """What the recipe will do that a reader of it may not expect: languages left out, sources without rules."""
    from pipeline.quality.config import describe_selection  # and numpy, which a reading command does not need

    said = [
        f"pages in other languages than {', '.join(config.extract.languages)} are not extracted ({stage}.extract.languages)"
        for stage, config in _of_kind(nodes, "ingest")
        if config.extract.languages
    ]
    names = _source_names(nodes)
    for stage, config in _of_kind(nodes, "quality"):
        aside = "" if stage == "quality" else f"{stage}: "
        said += [aside + line for name in names for line in describe_selection(config, name)]
    said += [entry.described for _, config in _of_kind(nodes, "shards") for entry in config.repetition]
    return said


def _of_kind(nodes: Sequence[StageNode], kind: str) -> list[tuple[str, Any]]:
    """(section, configuration) of every stage of a kind that the recipe runs."""
    return [(node.name, node.config) for node in nodes if node.kind == kind and not node.use]


def _source_names(nodes: Sequence[StageNode]) -> list[str]:
    return list(dict.fromkeys(source.name for _, config in _of_kind(nodes, "ingest") for source in config.sources))


def with_profiles(nodes: Sequence[StageNode]) -> list[StageNode]:
    """The nodes, those whose settings go by profiles told the profiles of the recipe's sources."""
    sources = [source for node in nodes if node.kind == "ingest" for source in node.config.sources]  # type: ignore[attr-defined]
    said = tuple(SourceProfile(source=each.name, profile=each.profile) for each in sources if each.profile)
    return [
        replace(node, config=node.config.model_copy(update={"profiles": said}))
        if isinstance(node.config, BySource) and not node.config.profiles
        else node
        for node in nodes
    ]


def _check_rules(nodes: Sequence[StageNode], names: Sequence[str], origin: str) -> None:
    """Rules of the recipe's own and of other packages look at what is measured; a share by score needs scores."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        if node.kind == "quality" and not node.use:
            measured = by_name.get(node.upstream["attributes"])
            _check_rules_of(node, None if measured is None or measured.use else measured, names, origin)


def _check_rules_of(node: StageNode, measured: StageNode | None, names: Sequence[str], origin: str) -> None:
    """``measured``: the stage whose attributes it looks at, where the recipe runs it."""
    from pipeline.quality.config import rules_for  # and numpy, which a reading command does not need
    from pipeline.quality.rules import PRESETS, check_attributes

    attributes: Any = measured.config if measured is not None else None
    for name in names:
        entry = rules_for(node.config, name)  # type: ignore[arg-type]
        scored = measured is None or "classifier" in measured.upstream
        if entry.keep_fraction is not None and not scored:
            raise ConfigError(
                f"{node.name} keeps a share of {name!r} by the classifier's score, and the recipe has no classifier",
                where=origin,
                remedy="Add a section classifier, or leave out keep_fraction.",
            )
        if attributes is not None and (entry.rules or not set(entry.presets) <= set(PRESETS)):
            from pipeline.quality.measures import attribute_schema

            check_attributes(entry.all_rules(), attribute_schema(attributes.measures), origin)


def _check_repetition(nodes: Sequence[StageNode], origin: str) -> None:
    """What documents are ranked by is measured, and a number."""
    by_name = {node.name: node for node in nodes}
    judge = next((node for node in nodes if node.kind == "attributes" and not node.use), None)
    for stage, config in _of_kind(nodes, "shards"):
        for entry in config.repetition:
            ranks = f"{stage}.repetition ranks {entry.source!r} by"
            if entry.score == "quality" and judge is not None and "classifier" not in judge.upstream:
                raise ConfigError(
                    f"{ranks} the classifier's score, and the recipe has no classifier",
                    where=origin,
                    remedy="Add a section classifier, or name another score.",
                )
            measured = by_name.get(by_name[stage].upstream.get("attributes", ""))
            if measured is not None and not measured.use:
                _check_score(ranks, entry.score, measured.config, origin)


def _check_score(ranks: str, score: str, attributes: Any, origin: str) -> None:
    import pyarrow as pa

    from pipeline.quality.measures import attribute_schema  # and numpy, which a reading command does not need

    fields = attribute_schema(attributes.measures)
    numbers = sorted(each.name for each in fields if pa.types.is_integer(each.type) or pa.types.is_floating(each.type))
    if score not in numbers:
        raise ConfigError(
            f"{ranks} {score!r}, which is no number of the attributes",
            where=origin,
            remedy=f"{nearest(score, numbers)}Numbers there: {', '.join(numbers)}.",
        )


def _check_text_sets(stage: str, config: Any, names: Sequence[str], origin: str) -> None:
    """Sets of texts by profile; those by name are checked with all other names."""
    for side in ("positives", "negatives"):
        for texts in getattr(config, side):
            if texts.profile and not any(config.covers(texts, name) for name in names):
                raise ConfigError(
                    f"{stage}.{side} wants sources of {texts.described}, and ingest has none",
                    where=origin,
                    remedy=f"Give one of {', '.join(names)} that profile, or name other {stage}.{side}.",
                )


def _named(nodes: Sequence[StageNode]) -> Iterable[tuple[str, str]]:
    """Where a source is named, and by which name or pattern. Weights of 0 and rules by pattern may name what is not there."""
    for stage, config in _of_kind(nodes, "classifier"):
        for side in ("positives", "negatives"):
            yield from ((f"{stage}.{side}", texts.source) for texts in getattr(config, side) if texts.source)
    for stage, config in _of_kind(nodes, "dedup"):
        yield from ((f"{stage}.source_priority", name) for name in config.source_priority)
    for stage, config in _of_kind(nodes, "shards"):
        if not config.append_to:  # the dataset it grows may have other sources
            mixtures = [(f"{stage}.mixture", config.mixture)]
            mixtures += [(f"{stage}.phases", phase.mixture) for phase in config.phases]
            yield from ((f"{stage}.repetition", entry.source) for entry in config.repetition)
            yield from ((place, entry.source) for place, mixture in mixtures for entry in mixture if entry.weight)
