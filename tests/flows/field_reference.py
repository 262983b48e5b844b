"""Every field of every stage, from the models themselves: ``python -m tests.flows.field_reference > docs/reference.md``."""

import json
import sys
import types
from collections.abc import Iterator, Mapping
from copy import copy
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.machines import ExecutionSettings
from flows.stages import STAGE_NAMES, load_stage
from infra.config import Execution

HEAD = """# Every field of a recipe

Made from the models by `python -m tests.flows.field_reference > docs/reference.md`; a test compares. A recipe sets a field in
its stage's section, a command line by `--set dedup.bands=20`, a form by its name. **(how)** marks fields that say only how the
work is done: changing one reruns nothing. `[]` is an entry of a list. How recipes are written: [recipe.md](recipe.md).
"""
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} long"}


def pages() -> Iterator[str]:
    yield HEAD
    yield from section("execution", "How a run is carried out.", ExecutionSettings)
    for name in STAGE_NAMES:
        stage = load_stage(name)
        yield from section(name, stage.description, stage.config)


def section(name: str, description: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {name}\n\n{description}\n"
    rows = list(rows_of(model, ""))
    yield "\n| field | what | default | meaning |\n|---|---|---|---|\n" if rows else "\nNo fields.\n"
    yield from rows


def rows_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """A row for each field; of a section the rows of its own fields instead, of a list of sections both."""
    for name, field in model.model_fields.items():
        path, models = f"{prefix}{name}", models_in(field.annotation)
        several = is_list(field.annotation)
        plain = len(models) == 1 and not several and type(None) not in get_args(field.annotation)
        if not plain:
            yield row(path, field)
        inner = f"{path}[]." if several else f"{path}."
        if len(models) == 1:
            yield from rows_of(models[0], inner)
        elif models:
            yield from rows_of_kinds(models, inner)


def rows_of_kinds(models: list[type[BaseModel]], prefix: str) -> Iterator[str]:
    """What may be one of several kinds: each field once, with the kinds that have it if not all do."""
    kinds = {model: kind_of(model.model_fields["kind"].annotation) for model in models}
    fields = {name: copy(field) for model in reversed(models) for name, field in model.model_fields.items()}
    order = dict.fromkeys(name for model in models for name in model.model_fields)
    for name in order:
        field = fields[name]
        having = [model for model in models if name in model.model_fields]
        told = "" if len(having) == len(models) else f"{', '.join(kinds[model] for model in having)}: "
        path = f"{prefix}{name}"
        if name == "kind":
            yield f"| `{path}` | {', '.join(kinds.values())} | required | {meaning_of(models[0], name)} |\n"
        else:
            defaults = {default(model.model_fields[name]) for model in having}
            field.description = meaning_of(having[0], name)
            yield row(path, field, told, "" if len(defaults) == 1 else "by kind")


def meaning_of(model: type[BaseModel], name: str) -> str:
    """What the field says, or where a kind only gives it a default, what it says for all kinds."""
    fields = (base.model_fields.get(name) for base in model.__mro__ if issubclass(base, BaseModel))
    return next((field.description for field in fields if field and field.description), "")


def row(path: str, field: FieldInfo, kinds: str = "", usual: str = "") -> str:
    marks = [mark for mark in field.metadata if isinstance(mark, Execution) or mark is Execution]
    how = "**(how)** " if marks else ""
    meaning = " ".join((field.description or "").replace("``", "`").split())
    cells = (f"`{path}`", what(field), usual or default(field), kinds + how + meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def what(field: FieldInfo) -> str:
    """What may stand there, with its bounds."""
    marks = [(text, getattr(mark, name, None)) for mark in field.metadata for name, text in BOUNDS.items()]
    bounds = [text.format(f"{bound:,}".replace(",", " ")) for text, bound in marks if bound is not None]
    return ", ".join([kind_of(field.annotation), *bounds])


def kind_of(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        if all(models_in(part) for part in arguments if part is not type(None)):
            return "section" + (" or nothing" if type(None) in arguments else "")
        kinds = dict.fromkeys(kind_of(part) for part in arguments)
        return " or ".join(kinds)
    if origin in (tuple, list, frozenset, set):
        several = [part for part in arguments if part is not Ellipsis]
        if len(several) > 1:
            return f"pair of {' and '.join(map(kind_of, several))}"
        return f"list of {kind_of(several[0])}" if several else "list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{kind_of(arguments[0])} → {kind_of(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {bool: "yes or no", int: "whole number", float: "number", str: "text", type(None): "nothing"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return shown(value)


def shown(value: Any) -> str:
    if isinstance(value, Enum):
        return shown(value.value)
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if value is None or value in ("", (), {}):
        return "–"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, (tuple, list)):
        if any(isinstance(item, BaseModel) for item in value):
            return "; ".join(map(entry, value))
        return ", ".join(map(shown, value))
    return f"`{value}`"


def entry(item: BaseModel) -> str:
    """A section that stands in a list by default, by its name or by what it sets."""
    set_ = item.model_dump(mode="json", exclude_defaults=True)
    return f"`{set_['name']}`" if "name" in set_ else f"`{json.dumps(set_, ensure_ascii=False)}`".replace('"', "")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list) or any(map(is_list, get_args(annotation)))


if __name__ == "__main__":
    sys.stdout.write("".join(pages()))
