"""A step's list of units is frozen once, and a resumed run works through the same."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import HeadwaterError
from infra.stage import Counts, StageContext, Step, Unit, UnitContext
from infra.worklist import planned_units


def process(unit: Unit, context: UnitContext) -> Counts:
    raise AssertionError("nothing is processed here")


def context_at(folder: Path) -> StageContext:
    return StageContext(None, {}, str(folder / "d"), str(folder / "w"), folder / "s", {})


def step_of(*units: Unit) -> Step:
    return Step("read", lambda context: iter(units), process)


def test_the_list_is_frozen_sorted_and_a_unit_a_line(tmp_path: Path) -> None:
    units = [Unit("b", {"spans": [["é", 1]], "size": 3}, 3, 7), Unit("a", {"x": None})]
    planned = planned_units(step_of(*units), context_at(tmp_path))
    assert planned == [units[1], units[0]]

    def changed(context: StageContext) -> Iterator[Unit]:
        raise AssertionError("planned a second time")

    assert planned_units(Step("read", changed, process), context_at(tmp_path)) == planned
    text = (tmp_path / "w/plan/read.json").read_text()
    assert [entry["id"] for entry in json.loads(text)] == ["a", "b"]
    assert len(text.splitlines()) == 2 + len(units)


def test_a_step_without_units_is_a_list_too(tmp_path: Path) -> None:
    assert planned_units(step_of(), context_at(tmp_path)) == planned_units(step_of(), context_at(tmp_path)) == []


def test_the_same_unit_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="plans unit a twice"):
        planned_units(step_of(Unit("a"), Unit("b"), Unit("a", weight=2)), context_at(tmp_path))
    assert not (tmp_path / "w").exists()
