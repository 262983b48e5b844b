"""Identity of configurations: what enters a fingerprint, what never does, and what is refused."""

import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from infra.config import Config, Execution, canonical_json, differences, identity


class Inner(Config):
    rate: float = 0.5
    threads: Annotated[int, Execution()] = 2


class Outer(Config):
    name: str = "a"
    inner: Inner = Inner()
    items: tuple[Inner, ...] = (Inner(),)
    tags: frozenset[str] = frozenset({"x", "y"})
    cache: Annotated[Path, Execution()] = Path("cache")


def test_execution_fields_never_enter_and_others_always_do() -> None:
    base = identity(Outer())
    assert identity(Outer(cache=Path("elsewhere"), inner=Inner(threads=9), items=(Inner(threads=7),))) == base
    for changed in (Outer(name="b"), Outer(inner=Inner(rate=0.6)), Outer(items=()), Outer(tags=frozenset("z"))):
        assert identity(changed) != base


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_stable_form_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no stable encoding"):
        identity({"x": value})


@pytest.mark.parametrize("value", [object(), len, b"bytes", {1: "number key"}])
def test_values_without_a_stable_form_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="stable encoding"):
        identity({"x": value} if not isinstance(value, dict) else value)


def test_enums_and_paths_enter_by_value() -> None:
    class Level(Enum):
        HIGH = "high"

    assert identity({"level": Level.HIGH, "path": Path("a") / "b"}) == {"level": "high", "path": "a/b"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=12,
)


@given(json_values)
def test_identity_of_plain_json_is_itself_and_encodes(value: Any) -> None:
    assert identity(value) == value
    assert differences(value, value) == []
    assert canonical_json(value).isascii()


@given(json_values, json_values)
def test_different_encodings_are_described_as_differences(left: Any, right: Any) -> None:
    if canonical_json(left) != canonical_json(right) and left != right:
        assert differences(left, right)


def test_differences_name_the_field() -> None:
    assert differences({"a": {"b": 14}, "c": 1}, {"a": {"b": 20}}) == ["a.b 14 -> 20", "c removed"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), ".nan"])
def test_a_number_that_is_none_is_refused(value: object) -> None:
    class Bounded(Config):
        rate: float = Field(default=0.1, gt=0)
        curve: tuple[float, ...] = ()

    for fields in ({"rate": value}, {"curve": [0.5, value]}):
        with pytest.raises(ValidationError):
            Bounded.model_validate(fields)
