"""Code of other packages that a recipe names, by its dotted path or by the name under which an installed package offers it.

    in a recipe                     entry points            what must be there
    use: my_pkg.stage:STAGE         headwater.stages        infra.stage.ShardStage or JobStage
    kind: my_pkg.mbox:MBOX          headwater.sources       pipeline.sources.contract.Reader
    extractor: my_pkg.html:PLAIN    headwater.extractors    pipeline.extract.extractors.OutsideExtractor
    presets: [my_pkg.rules:STRICT]  headwater.rules         a tuple of pipeline.quality.rules.Rule
    measures: [my_pkg.rules:SHOUT]  headwater.measures      pipeline.quality.measures.Measures
    finders: [my_pkg.ids:BADGE]     headwater.finders       pipeline.redact.spans.OutsideFinder
    --judge my_pkg.taste:MINE       headwater.judges        alignment.judge.OutsideJudge or OutsideReward
    levels: [my_pkg.books:ISBN]     headwater.dedup_levels  pipeline.dedup.own.Level
    tasks: [my_pkg.rhymes:RHYMES]   headwater.evaluations   training.own_tasks.OwnTask
    check: my_pkg.marks:BREVITY     headwater.checks        alignment.verify.Verifier

* Only an object declared as the kind of thing that belongs there is taken: a path that leads to any function is refused.
* Each process imports it for itself. What is missing on a machine is one sentence that names the package.
* The digest of its source enters the fingerprint (``code_of``): a rule that was edited is computed again.
"""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any, TypeVar, get_args

from infra.config import Config, canonical_json, identity
from infra.errors import ConfigError, missing_package, nearest
from infra.stage import JobStage, ShardStage, Stage
from infra.stage_source import FOLLOWED, Import, source_of

GROUPS: Mapping[str, str] = {
    "use": "headwater.stages",
    "kind": "headwater.sources",
    "extractor": "headwater.extractors",
    "presets": "headwater.rules",
    "measures": "headwater.measures",
    "finders": "headwater.finders",
    "judge": "headwater.judges",
    "levels": "headwater.dedup_levels",
    "tasks": "headwater.evaluations",
    "check": "headwater.checks",
}
"""The keys of a recipe that may name code, and the entry points whose names may stand there too."""
OURS = FOLLOWED | {"headwater", "infra"}
REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")

T = TypeVar("T")


def offered(key: str) -> Mapping[str, str]:
    """What installed packages offer: the name of an entry point -> its dotted path."""
    return {name: paths[0] for name, paths in _entry_points()[GROUPS[key]].items()}


@cache
def _entry_points() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """group -> name -> dotted paths. Read once a process: it takes a look into every installed package."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    installed = metadata.entry_points()
    for group in GROUPS.values():
        offers = found[group] = {}
        for entry in installed.select(group=group):
            offers[entry.name] = tuple(sorted({*offers.get(entry.name, ()), entry.value.partition("[")[0].strip()}))
    return found


def reference_of(given: str, key: str) -> str | None:
    """The dotted path that a value of a recipe means; None if it names no code of another package. Raises ConfigError."""
    if REFERENCE.fullmatch(given):
        return given
    paths = _entry_points()[GROUPS[key]].get(given, ())
    if len(paths) > 1:
        raise ConfigError(
            f"several installed packages offer {given!r}: {', '.join(paths)}",
            where=key,
            remedy="Name the one that is meant by its path.",
        )
    return paths[0] if paths else None


def load(given: str, key: str, kind: type[T]) -> T:
    """The object of that kind (a class, or a union of some). Raises ConfigError."""
    reference = reference_of(given, key)
    found = REFERENCE.fullmatch(reference or "")
    if found is None:
        known = ", ".join(offered(key)) or "nothing"
        what = f"{given!r} is no dotted path"
        if reference is not None:
            what = f"an installed package offers {given!r} as {reference!r}, which is no dotted path"
        remedy = f"Write package.module:NAME; installed packages offer {known} here."
        raise ConfigError(what, where=key, remedy=remedy)
    thing = _attribute(found["module"], found["name"], key)
    if not isinstance(thing, kind):
        kinds = get_args(kind) or (kind,)
        what = f"a {type(thing).__name__}"
        if isinstance(thing, type):
            what = f"the class {thing.__name__} itself" if issubclass(thing, kinds) else f"the class {thing.__name__}"
        raise ConfigError(
            f"{reference} is {what}, and {key} takes a {' or '.join(each.__name__ for each in kinds)}",
            where=key,
            remedy="See the pages of docs/ that begin with adding-a.",
        )
    return thing


def _attribute(module: str, name: str, key: str) -> Any:
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if missing := missing_package(error, f"{module}:{name}"):  # ours, of an installation without it
            raise missing from error
        package = (error.name or module).partition(".")[0]
        there = package == module.partition(".")[0] and importlib.util.find_spec(package) is not None
        what = f"has no module {error.name!r}" if there else "is not installed here"
        remedy = (
            "Install it (pip install, or its folder on PYTHONPATH: the working folder alone does not count) for every process "
            "that runs the recipe: on workers and in their images too."
        )
        if module.endswith(".py"):
            remedy = f"A module is named without .py: {module.removesuffix('.py')}:{name}."
        raise ConfigError(
            f"{module}:{name} is wanted, and the package {package!r} {what}", where=key, remedy=remedy
        ) from error
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{module} cannot be imported: {type(error).__name__}{f': {said}' if said else ''}",
            where=key,
            remedy="Mend the module.",
        ) from error
    if not hasattr(imported, name):
        remedy = nearest(name, dir(imported)).strip()
        raise ConfigError(f"the module {module} has no {name}", where=key, remedy=remedy)
    return getattr(imported, name)


def named_code(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, what stands there) for all that plain data names as code: a configuration, or a recipe as it is read."""
    if isinstance(value, str) and key in GROUPS:
        if reference_of(value, key) is not None:
            yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from named_code(item, str(name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from named_code(item, key)


def refuse_code(given: Any, allowed: Any, where: str) -> None:
    """Raises ConfigError if ``given`` names code by a dotted path that ``allowed``, a recipe's file, does not name.

    Who may change fields of a recipe, by ``--set`` or a form, may not thereby choose what is imported.
    """
    smuggled = {value for _, value in named_code(given) if REFERENCE.fullmatch(value)}
    smuggled -= {value for _, value in named_code(allowed)} if smuggled else set()
    if smuggled:
        raise ConfigError(
            f"{min(smuggled)} is code, and only a recipe's file may name code",
            where=where,
            remedy="Write it into the recipe.",
        )


def code_of(stage: Stage, config: Config) -> dict[str, str]:
    """Dotted path -> digest of the source, for all code of other packages that a dataset is made by."""
    named = {reference_of(value, key) or value for key, value in named_code(identity(config))}
    if isinstance(stage, ShardStage):
        named.add(stage.reference)
    elif isinstance(stage, JobStage):
        named.add(f"{stage.job(config).module}:main")
    outside = sorted(each for each in named if each.partition(".")[0].partition(":")[0] not in OURS)
    return {reference: code_digest(reference) for reference in outside}


def code_digest(reference: str) -> str:
    """Of the source behind a dotted path, in the files of its own package: those of ours are the stage's
    (``infra.stage_source``)."""
    module, _, name = reference.partition(":")
    files = {file: digest for file, digest in source_of(Import(module, name)).items() if file.split("/")[0] not in OURS}
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()[:12]
