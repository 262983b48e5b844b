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
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Execution:
    """Marks a field as execution-only: it never enters a fingerprint."""


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    return [f"{path or 'value'} {_short(old)} -> {_short(new)}"]


def _short(value: Json, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
