"""Every field of every stage, from the models themselves: ``python -m tests.flows.field_reference > docs/reference.md``."""

import sys
import types
from collections.abc import Iterator, Mapping
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
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} of them"}


def pages() -> Iterator[str]:
    yield HEAD
    yield from section("execution", "How a run is carried out.", ExecutionSettings)
    for name in STAGE_NAMES:
        stage = load_stage(name)
        yield from section(name, stage.description, stage.config)


def section(name: str, description: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {name}\n\n{description}\n"
    rows = list(fields_of(model, ""))
    if not rows:
        yield "\nNo fields.\n"
        return
    yield "\n| field | what | default | meaning |\n|---|---|---|---|\n"
    seen: dict[str, str] = {}
    for path, row in rows:
        if path not in seen:  # several kinds of one thing share most of their fields
            seen[path] = row
            yield row


def fields_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        models = models_in(field.annotation)
        inner = f"{path}{'[]' if is_list(field.annotation) else ''}."
        if models and not is_list(field.annotation) and len(models) == 1 and not is_optional(field.annotation):
            yield from fields_of(models[0], inner)
            continue
        yield path, row(path, field)
        for each in models:
            yield from fields_of(each, inner)


def row(path: str, field: FieldInfo) -> str:
    marks = [mark for mark in field.metadata if isinstance(mark, Execution) or mark is Execution]
    how = "**(how)** " if marks else ""
    meaning = " ".join((field.description or "").replace("``", "`").split())
    cells = (f"`{path}`", what(field), default(field), how + meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def what(field: FieldInfo) -> str:
    bounds = [
        text.format(f"{getattr(mark, name):,}".replace(",", " ") if isinstance(getattr(mark, name), int) else getattr(mark, name))
        for mark in field.metadata
        for name, text in BOUNDS.items()
        if getattr(mark, name, None) is not None
    ]
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
            names = [name for item in value if (name := name_of(item))]
            return ", ".join(f"`{name}`" for name in names) or f"{len(value)} entries"
        return ", ".join(map(shown, value))
    return f"`{value}`"


def name_of(item: Any) -> str:
    return next((str(getattr(item, key)) for key in ("name", "source", "file") if getattr(item, key, None)), "")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list) or any(map(is_list, get_args(annotation)))


def is_optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


if __name__ == "__main__":
    sys.stdout.write("".join(pages()))
