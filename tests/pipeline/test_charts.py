"""The charts of all pages: right about their numbers, and harmless whatever they are told."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.charts import Bars, Level, Line, Threshold, histogram, line_chart, smooth, thin, ticks
from tests.markup import EVIL, parse


def test_charts_survive_strange_numbers() -> None:
    assert line_chart([Line("a", [])], x="x", y="y", describe="") == ""
    assert line_chart([Line("a", [(0, float("nan"))])], x="x", y="y", describe="") == ""
    for points in ([(0, 0)], [(1, 5), (2, 5)], [(0, -1e12), (1, 1e12)], [(0, 1e-9), (1, float("inf")), (2, 2e-9)]):
        drawing = line_chart([Line(EVIL, points)], x=EVIL, y="y", describe=EVIL, levels=[Level(EVIL, 1.0)])
        assert "nan" not in drawing and "inf" not in drawing and EVIL not in drawing
        assert parse(drawing).wrong == []


@settings(max_examples=200, deadline=None)
@given(low=st.floats(-1e9, 1e9), width=st.floats(1e-6, 1e9), about=st.integers(2, 10))
def test_ticks_are_few_even_and_inside(low: float, width: float, about: int) -> None:
    high = low + width
    if not high - low > abs(low) * 1e-9:
        return
    found = ticks(low, high, about)
    assert len(found) <= about + 1
    assert all(low - width * 1e-6 <= value <= high + width * 1e-6 for value in found)


@given(number=st.integers(1, 3000), most=st.integers(2, 700))
def test_thinning_keeps_both_ends(number: int, most: int) -> None:
    points = [(float(index), 0.0) for index in range(number)]
    found = thin(points, most)
    assert len(found) <= max(most, 1) and found[0] == points[0] and found[-1] == points[-1]


def test_smoothing_stays_inside_the_values_and_skips_gaps() -> None:
    points = [(float(index), 1.0 + index % 2) for index in range(200)]
    found = smooth([*points, (200.0, float("nan"))])
    assert len(found) == 200 and all(1.0 <= value <= 2.0 for _, value in found)
    assert abs(found[-1][1] - 1.5) < 0.2


def test_charts_tell_their_values_without_a_script() -> None:
    drawing = line_chart(
        [Line("loss", [(step, 6 - step / 10) for step in range(40)])], x="step", y="nats", describe="L"
    )
    assert 'aria-label="L. loss: 6 at step 0, 2.1 at step 39, between 2.1 and 6"' in drawing
    assert "<title>step 20\nloss: 4</title>" in drawing


def test_a_histogram_stacks_its_groups_and_escapes_their_names() -> None:
    drawing = histogram(
        [1.0, 10.0, 100.0], [Bars(EVIL, [1, 0]), Bars("b", [3, 2], "c1")], x=EVIL, y="n", describe=EVIL,
        thresholds=[Threshold(EVIL, 50.0, True), Threshold("outside", 0.0, True)], logarithmic=True,
    )  # fmt: skip
    assert drawing.count('class="bin ') == 3 and EVIL not in drawing and parse(drawing).wrong == []
    assert drawing.count('class="level"') == 1
    assert histogram([0, 1], [Bars("a", [0])], x="", y="", describe="") == ""
