"""Replies are checked against what their problems say is right."""

import json
import math
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from alignment.records import Reading
from alignment.turns import Message
from alignment.verify import Check, Problem, Verifier, first_letter, last_number, read_problems, scores
from infra.errors import ConfigError, InputError
from infra.extensions import code_of
from infra.stage import JobStage

NOTHING = Verifier(lambda problem, reply: {"a": math.nan, "b": None}.get(reply, np.float32(1)))  # type: ignore[arg-type]
BREVITY = Verifier(lambda problem, reply: 1 / (1 + len(reply)))


def problem(**what: str) -> Problem:
    return Problem("1", (Message("user", "?"),), **what)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", 42),
        ("3 + 4 = 7, so it is 1,024", 1024),
        ("#### 72", 72),
        ("-3.50", Fraction(-7, 2)),
        ("7/2", Fraction(7, 2)),
        ("version 1.2.3 of v8", Fraction("1.2")),
        ("none", None),
        ("10-3", 3),
        (str(0.00001), Fraction(1, 100_000)),
        ("x = \u22125", -5),
        ("it costs $.50", Fraction(1, 2)),
        ("\\boxed{10{,}000}", 10_000),
        ("\\boxed{\\frac{3}{4}} in 2 steps", Fraction(3, 4)),
        ("\\boxed{4", 4),
        ("10,\\!000", 10_000),
        ("1\u202f024 m", 1024),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("3\\frac12 or 3 1/2", Fraction(7, 2)),
        ("6.02 \\times 10^{23}", 602 * 10**21),
        ("9" * 5000, None),
    ],
)
def test_the_last_number_counts_exactly(text: str, number: object) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *[("B", "B"), ("(C) because", "C"), ("A cat would say D.", "D"), ("Answer: B. Not A.", "B"), ("BAD", None)],
        *[
            ("A, C or D? \\boxed{\\text{(C)}}", "C"),
            ("Für uns C", "C"),
            ("I’d say D", "D"),
            ("E\u0301l: B", "B"),
            ("答案是B。", "B"),
            ("B is right", "B"),
            ("_A_", "A"),
        ],
    ],
)
def test_the_first_letter_that_stands_alone_is_the_choice(text: str, letter: str | None) -> None:
    assert first_letter(text) == letter


def test_each_check_gives_its_marks() -> None:
    sums = [problem(answer="12"), problem(answer="#### 12.0")]
    assert scores(Check(), sums, ["it is 12", "12 or 13"]) == [1, 0]
    assert scores(Check(check="choice"), [problem(answer="B")], ["(B)"]) == [1]
    assert scores(Check(check="format", pattern="<a>.*</a>"), sums, ["<a>1\n2</a>", "so <a>1</a>"]) == [1, 0]
    own = Check(check="tests.alignment.test_verify:BREVITY")
    assert scores(own, sums, ["", "abc"]) == [1, 0.25]


@pytest.mark.parametrize(("reply", "said"), [("a", "nan"), ("b", "None")])
def test_a_mark_that_is_no_number_is_told(reply: str, said: str) -> None:
    check = Check(check="tests.alignment.test_verify:NOTHING")
    assert scores(check, [problem()], ["c"]) == [1]
    with pytest.raises(InputError, match=f"gives a reply {said}"):
        scores(check, [problem()], [reply])


def test_code_is_run_in_the_sandbox() -> None:
    task = problem(tests="assert double(4) == 8")
    right, wrong = "```python\ndef double(x):\n    return 2 * x\n```", "def double(x): return x"
    thief = "def double(x):\n    import sys; sys.exit(0)"
    assert scores(Check(check="tests"), [task] * 3, [right, wrong, thief]) == [1, 0, 0]


@pytest.mark.parametrize(
    "reply",
    [
        "```bash\npip install x\n```\n```python\ndef double(x): return 2 * x\n```",
        "So: ```Python3\ndef double(x): return 2 * x```",
        "1. This:\n   ```py\n   def double(x): return 2 * x\n   ```",
        "```\ndef double(x): return 2 * x",
    ],
)
def test_code_is_found_in_fences_as_models_write_them(reply: str) -> None:
    assert scores(Check(check="tests"), [problem(tests="assert double(4) == 8")], [reply]) == [1]


def test_thoughts_are_no_answer() -> None:
    thought = ["<think>B or A? 4</think> A, 5", "<think>A, 5", "B? 4</think>A: 5"]
    assert scores(Check(), [problem(answer="5")] * 3, thought) == [1, 0, 1]
    assert scores(Check(check="choice"), [problem(answer="A")] * 3, thought) == [1, 0, 1]
    assert scores(Check(check="format", pattern="<think>.*</think>.*"), [problem()] * 3, thought) == [1, 0, 0]


def test_a_check_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no check 'maths'"):
        scores(Check(check="maths"), [], [])
    with pytest.raises(ConfigError, match="takes a Verifier"):
        scores(Check(check="tests.alignment.test_verify:problem"), [], [])
    with pytest.raises(ValueError, match="is no regular expression"):
        Check(check="format", pattern="(")
    with pytest.raises(ValueError, match="has a pattern"):
        Check(check="number", pattern="1")


def test_the_code_of_a_rule_of_ones_own_enters_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.grpo import STAGE, GrpoConfig

    package = tmp_path / "marks_of_mine.py"
    package.write_text("from alignment.verify import Verifier\nONE = Verifier(lambda problem, reply: 1.0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(STAGE, JobStage)
    config = GrpoConfig(checks=(Check(check="marks_of_mine:ONE"),))
    (name,) = code_of(STAGE, config)
    assert name == "marks_of_mine:ONE"


def test_lines_that_cannot_be_checked_are_counted_by_their_reason(tmp_path: Path) -> None:
    path, reading = tmp_path / "problems.jsonl", Reading()
    lines: list[object] = [
        {"prompt": "2 + 2", "answer": 4, "id": "a"},
        {"question": "3 + 3", "answer": "so #### 6", "prompt": None, "tests": None},
        {"prompt": [{"role": "system", "content": "add"}, {"role": "user", "content": "1 + 1"}], "answer": "2"},
        {"prompt": "5 + 5"},
        {"answer": "3"},
        {"prompt": [{"role": "robot", "content": "1"}], "answer": "1"},
        {"prompt": "1", "answer": ["1"]},
        [1],
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    found = read_problems(path, (Check(),), reading)
    assert [each.prompt[-1].content for each in found] == ["2 + 2", "3 + 3", "1 + 1"] and found[0].id == "a"
    assert reading.read == 3
    expected = {"no_number": 1, "no_prompt": 1, "bad_message": 1, "bad_answer": 1, "not_an_object": 1, "not_json": 1}
    assert reading.refused == expected


def test_a_box_of_nothing_costs_no_time() -> None:
    began = time.process_time()
    assert first_letter("\\boxed{" + " " * 200_000 + "}") is None
    assert time.process_time() - began < 2
