"""A section of a recipe as a stage with its configuration; every mistake is told with the file, the key and what is allowed.

What a section runs, its ``use`` says:

    use: my_pkg.stage:STAGE            with a colon: a stage of another package
    use: dedup                         a word: one of ours, or one that an installed package offers
    use: tokenizer/0123456789ab        with a stroke or an at sign: a published dataset, as it is, in the stage's place;
    use: tokenizer@demo                by its fingerprint, or by a label

Without it the section's own name says it. The section's name is the dataset's, so a stage may stand twice in a recipe; but the
name of one of our stages is kept for that stage, and that of an offered one likewise.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from flows.stages import STAGE_NAMES, load_stage, offered_stages
from infra.config import Config, message_of
from infra.errors import ConfigError, MissingPackage, nearest
from infra.extensions import REFERENCE, offered
from infra.stage import ShardStage, Stage, StageNode, named

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FINGERPRINT = re.compile("[0-9a-f]{12}")
DATASET = re.compile(r"(?P<name>[A-Za-z][\w-]*)?(?:/(?P<fingerprint>[0-9a-f]{12})|@(?P<label>[\w.-]+))")
NAME = re.compile(r"[A-Za-z][\w-]{0,62}")
OF_THE_RECIPE = ("use", "after", "inputs")
"""Keys of a section that are no fields of the stage's configuration."""
Model = TypeVar("Model", bound=BaseModel)


def section_names(sections: Mapping[str, Any], origin: str) -> list[str]:
    """The stages of a recipe: ours as data usually flows, then the others."""
    others = [
        name
        for name, section in sections.items()
        if name not in STAGE_NAMES and ((isinstance(section, Mapping) and "use" in section) or name in offered_stages())
    ]
    more = "Of a section with a name of its own, `use` says what it runs. "
    refuse_unknown(sections, {*STAGE_NAMES, *others}, "stages", origin, more)
    wrong = [name for name in others if not isinstance(name, str) or not NAME.fullmatch(name) or name == "execution"]
    if wrong:
        raise ConfigError(
            f"stages.{wrong[0]} cannot be the name of a section and its dataset",
            where=origin,
            remedy="Use a letter, then letters, digits, dashes and underscores.",
        )
    return [name for name in (*STAGE_NAMES, *others) if name in sections]


def node_of(name: str, sections: Mapping[str, Any], origin: str) -> StageNode:
    """The section's stage, configured."""
    section = sections[name] or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"stages.{name} must be a mapping", remedy=_allowed_keys(load_stage(name).config))
    try:
        stage, use = _stage_of(name, section)
    except MissingPackage as error:
        return _stand_in(name, error)
    # It shows what the recipe runs, unless told otherwise.
    if stage.kind == "report":
        section = {"stages": [each for each in sections if each != name], **section}
    own = {key: value for key, value in section.items() if key not in OF_THE_RECIPE}
    config = validate(stage.config, own, f"stages.{name}", origin)
    node = StageNode(named(stage, name), config, use, inputs=_inputs(name, section))
    unknown = sorted({*node.inputs} - {*stage.inputs(config)})
    if unknown:
        roles = ", ".join(sorted(stage.inputs(config))) or "none"
        raise ConfigError(
            f"stages.{name}.inputs.{unknown[0]}: {stage.kind} has no such input",
            remedy=f"Its inputs: {roles}; whose documents it takes, `after` says.",
        )
    return node


class _Unread(Config):
    """The fields of a stage whose models cannot be imported here."""


def _stand_in(name: str, error: MissingPackage) -> StageNode:
    """In the place of a stage that cannot be imported: the others are planned and run as they are."""
    remedy = f"{error.remedy}, or run the stages before it: --stop-after STAGE."
    missing = MissingPackage(error.error, where=error.where, remedy=remedy)
    return StageNode(ShardStage(name, 0, _Unread, "", ()), _Unread(), missing=missing)


def _inputs(name: str, section: Mapping[str, Any]) -> dict[str, str]:
    given = section.get("inputs") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"stages.{name}.inputs must be a mapping", remedy="Write the input and the section it comes from."
        )
    return {str(role): str(source) for role, source in given.items()}


def _stage_of(name: str, section: Mapping[str, Any]) -> tuple[Stage, str]:
    """The stage that a section runs, and the published dataset that it takes in its place, if it does."""
    use = str(section["use"]).strip() if "use" in section else name
    known = {*STAGE_NAMES, *offered_stages()}
    if FINGERPRINT.fullmatch(use):
        use = f"{name}/{use}"
    dataset = DATASET.fullmatch(use)
    if dataset is None:
        if use.startswith((f"{name}/", f"{name}@")):
            raise ConfigError(
                f"stages.{name}.use = {use!r} is no dataset",
                remedy="Write NAME/FINGERPRINT, twelve digits as `headwater status --all` shows them, or NAME@LABEL.",
            )
        if name in known and use not in (name, offered("use").get(name)):
            whose = "Headwater's own stage" if name in STAGE_NAMES else "a stage that an installed package offers"
            raise ConfigError(
                f"stages.{name} is {whose} of that name and cannot use {use!r}",
                remedy="Give the section a name of its own, and say `after`.",
            )
        if use not in known and not REFERENCE.fullmatch(use):
            raise ConfigError(
                f"stages.{name}.use = {use!r} is no stage and no dataset",
                remedy=f"{nearest(use, known)}A stage: one of {', '.join(sorted(known))}, or package.module:NAME. "
                "A published dataset: NAME/FINGERPRINT as `headwater status` shows it, or NAME@LABEL.",
            )
        return load_stage(use), ""
    if name not in known or dataset["name"] not in (None, name):
        raise ConfigError(
            f"stages.{name}.use = {section['use']!r} is no dataset of stage {name}",
            remedy=f"Write {name}/ and the fingerprint that `headwater status` shows, or {name}@ and a label."
            if name in known
            else "A published dataset can stand in the place of a stage whose name the section has.",
        )
    version = f"@{dataset['label']}" if dataset["label"] else f"/{dataset['fingerprint']}"
    return load_stage(name), f"{name}{version}"


def validate(model: type[Model], section: Any, key: str, origin: str) -> Model:
    """Raises ConfigError that names the place, and what may stand there."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"{key or 'the file'} must be a mapping", where=origin, remedy=_allowed_keys(model))
    try:
        return model.model_validate(dict(section))
    except ValidationError as error:
        raise _explain(error, model, key, origin) from None


def _explain(error: ValidationError, model: type[BaseModel], key: str, origin: str) -> ConfigError:
    # A key that is misspelt is also missing under its name: the first of the two says how to mend both.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    owner, path = _owner(model, first["loc"])
    place = ".".join(filter(None, (key, *path)))
    if first["type"] == "extra_forbidden":
        remedy = nearest(path[-1], owner.model_fields) + _allowed_keys(owner)
        return ConfigError(f"unknown key {place}", where=origin, remedy=remedy)
    if first["type"] == "missing":
        return ConfigError(f"{place} is missing", where=origin, remedy=_allowed_keys(owner))
    if first["type"] == "value_error" and isinstance(first.get("input"), (Mapping, BaseModel)):
        return ConfigError(f"{place}: {first['ctx']['error']}" if place else str(first["ctx"]["error"]), where=origin)
    from pipeline.sources.contract import USER

    given = USER.sub(r"\1://…@", str(first.get("input")))[:80]
    return ConfigError(f"{place} = {given!r}: {message_of(first)}", where=origin, remedy=_as_yaml_reads(first))


def _as_yaml_reads(error: "ErrorDetails") -> str:
    """A remedy where YAML took a word or a number for something else."""
    given = error.get("input")
    if isinstance(given, bool):
        return "YAML reads on, yes, true, off, no and false as truth values: write a word in quotes."
    if error["type"] == "string_type" and isinstance(given, (int, float, date)):
        return "Write it in quotes."
    return ""


def _owner(model: type[BaseModel], location: Sequence[str | int]) -> tuple[type[BaseModel], list[str]]:
    """The nested model in which the last key of a location stands, and the keys to it as a recipe has them.

    A location also names the kind of a model that was chosen by its kind.
    """
    choices: list[type[BaseModel]] = []
    keys: list[str] = []
    for part in location[:-1]:
        chosen = next((each for each in choices if part in _kinds(each)), None)
        if chosen is not None:
            model, choices = chosen, []
            continue
        keys.append(str(part))
        if isinstance(part, str) and part in model.model_fields:
            choices = _models_in(model.model_fields[part].annotation)
            model = choices[0] if choices else model
    return model, [*keys, *map(str, location[-1:])]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _allowed_keys(model: type[BaseModel]) -> str:
    return f"Allowed keys: {', '.join(sorted(model.model_fields))}."


def refuse_unknown(raw: Mapping[str, Any], allowed: set[str], key: str, origin: str, more: str = "") -> None:
    unknown = sorted(str(key) for key in raw if key not in allowed)
    if unknown:
        place = f"{key}.{unknown[0]}" if key else unknown[0]
        remedy = f"{nearest(unknown[0], allowed)}{more}Allowed keys: {', '.join(sorted(allowed))}."
        raise ConfigError(f"unknown key {place}", where=origin, remedy=remedy)
