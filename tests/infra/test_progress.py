"""How long the rest will take: nothing is said too early, and what is said is right for steady work."""

import pytest

from infra.progress import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_before_the_first_report_does_not_count() -> None:
    """Ten seconds until the first unit (compiling), then one a second: 97 units of 100 are left after three."""
    clock = Clock()
    pace = Pace(clock=clock)
    said = []
    for unit in range(1, 7):
        clock.now = 10.0 + unit
        said.append(pace.remaining(unit, 100))
    assert said[:3] == [None, None, None], "two units that end together would say anything"
    assert said[3] == pytest.approx(96)
    assert said[5] == pytest.approx(94)


def test_other_work_begins_anew() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.remaining(0, 10)
    clock.now = 100.0
    assert pace.remaining(10, 10) == 0
    assert pace.remaining(1, 50) is None, "another total: another phase"
    clock.now = 110.0
    assert pace.remaining(2, 50) == pytest.approx(480)
    assert pace.remaining(0, 50) is None, "less done than at first: begun again"
