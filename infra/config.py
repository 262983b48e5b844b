"""Configuration with an identity.

A stage's configuration is a frozen pydantic model. Most fields decide *what* is computed and enter the dataset's
fingerprint. Fields marked ``Execution()`` decide only *how* (worker counts, batch sizes that do not change results,
addresses, credentials): they never enter, so changing one never reruns anything.

    class DedupConfig(Config):
        bands: int = 14
        workers: Annotated[int, Execution()] = 2
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

_CODE = re.compile(r"``(.+?)``", re.DOTALL)

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Execution:
    """Marks a field as execution-only: it never enters a fingerprint."""


class Later:
    """Marks a field that came later: it enters only where it is set, so that what was built before is found again."""


def in_plain_words(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """A form: what descriptions mark as code stands in quotation marks, a model's own fields before those of its bases."""
    fields = schema.get("properties", {})
    for part in (schema, *fields.values()):
        if "description" in part:
            part["description"] = _CODE.sub(r"“\1”", part["description"])
    if fields:
        own = [name for name in fields if name in model.__annotations__]
        schema["properties"] = {name: fields[name] for name in [*own, *(name for name in fields if name not in own)]}


class Config(BaseModel):
    """Base of every configuration: frozen; unknown keys and numbers that are none are refused."""

    # NaN passes every bound (nothing is greater than it), and has no form in a fingerprint.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=in_plain_words,
    )


_IN_YAML = {"tuple_type": "it should be a list", "list_type": "it should be a list"} | dict.fromkeys(
    ("dict_type", "mapping_type", "model_type", "model_attributes_type"), "it should be a mapping of keys"
)


def strings_of(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a configuration, with its place: ``("ingest.sources.address", "docs/*.jsonl")``."""
    if isinstance(value, Config):
        for name, inner in value:
            yield from strings_of(inner, f"{place}.{name}")
    elif isinstance(value, tuple):
        for each in value:
            yield from strings_of(each, place)
    elif isinstance(value, str):
        yield place, value


def message_of(error: Mapping[str, Any]) -> str:
    """What pydantic says of a value (an item of ``errors()``), in the words of who wrote it and without its prefixes."""
    said = str(_IN_YAML.get(error["type"]) or error["msg"].removeprefix("Value error, ")).replace("tuple", "list")
    return said[:1].lower() + said[1:]


def identity(value: Any) -> Json:
    """The part of a configuration that decides the result, as plain JSON values.

    Raises TypeError for values without a stable form (callables, arbitrary objects) and ValueError for NaN or
    infinity: a fingerprint that changes from process to process would silently rerun, or worse, silently reuse.
    """
    if isinstance(value, BaseModel):
        return {
            name: identity(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if not any(isinstance(mark, Execution) or mark is Execution for mark in field.metadata)
            and not (any(isinstance(mark, Later) for mark in field.metadata) and getattr(value, name) == field.default)
        }
    if isinstance(value, Enum):
        return identity(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no stable encoding in a fingerprint")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("only text keys have a stable encoding in a fingerprint")
        return {key: identity(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((identity(item) for item in value), key=canonical_json)
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no stable encoding in a fingerprint")


def canonical_json(value: Any) -> str:
    """The one textual form of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def differences(old: Json, new: Json, path: str = "") -> list[str]:
    """Readable field-by-field changes between two identities, e.g. ``['minhash.bands 14 -> 20']``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            here = f"{path}.{key}" if path else key
            if key not in old:
                found.append(f"{here} added")
            elif key not in new:
                found.append(f"{here} removed")
            else:
                found += differences(old[key], new[key], here)
        return found
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list):
        return _list_differences(old, new, path or "value")
    return [f"{path or 'value'} {_short(old)} -> {_short(new)}"]


def _list_differences(old: list[Json], new: list[Json], path: str) -> list[str]:
    """What was added to a list, what was taken out, what changed inside an entry that has a name."""
    before, after = _by_name(old), _by_name(new)
    if before is not None and after is not None:
        found = [f"{path} - {name}" for name in before if name not in after]
        found += [f"{path} + {name}" for name in after if name not in before]
        for name in before:
            if name in after:
                found += differences(before[name], after[name], f"{path}[{name}]")
    else:
        found = [f"{path} - {_short(item)}" for item in old if item not in new]
        found += [f"{path} + {_short(item)}" for item in new if item not in old]
    return found or [f"{path} {_short(old)} -> {_short(new)}"]


def _by_name(items: list[Json]) -> dict[str, Json] | None:
    """The entries of a list by what names each: sources, rules by source, evaluations. None if some have no name."""
    named: dict[str, Json] = {}
    for item in items:
        names = [item.get(key) for key in ("name", "source", "file")] if isinstance(item, dict) else []
        name = next((name for name in names if name), None)
        if not isinstance(name, str) or name in named:
            return None
        named[name] = item
    return named if items else None


def _short(value: Json, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
