"""HumanEval: canonical solutions pass, others do not, and the estimate is the published one."""

import json
from pathlib import Path

import pytest

from infra.errors import InputError
from tests.support import shared_data
from tests.training.folders import tiny_model, write_tokenizer
from training.generate import Sampling
from training.hub_format import save_model
from training.humaneval import (
    Attempt,
    Problem,
    complete_problems,
    function_body,
    pass_at_k,
    read_problems,
    run_attempts,
)
from training.text_model import load_text_model

ADD = Problem(
    "T/0",
    'def add(a, b):\n    """The sum."""\n',
    "    return a + b\n",
    "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
    "add",
)
LINE = {
    "task_id": ADD.id,
    "prompt": ADD.prompt,
    "canonical_solution": ADD.solution,
    "test": ADD.tests,
    "entry_point": ADD.entry_point,
}


def test_the_canonical_solution_passes_and_others_do_not() -> None:
    completions = [["    return a + b\n", "    return a - b\n", "    return ", "    raise SystemExit(0)\n"]]
    attempts = run_attempts([ADD], completions)[0]
    assert [attempt.passed for attempt in attempts] == [True, False, False, False]
    assert "AssertionError" in attempts[1].reason


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("    return 1\n\ndef other():\n    pass", "    return 1\n\n"),
        ("    return 1\nprint(add(1, 2))", "    return 1\n"),
        ("    x = [\n        1,\n    ]\n    return x\n# tests", "    x = [\n        1,\n    ]\n    return x\n"),
        ("    return 1\n\n    # more\n", "    return 1\n\n    # more\n"),
    ],
)
def test_a_completion_ends_where_the_function_does(text: str, body: str) -> None:
    assert function_body(text) == body


def attempts(*passed: int, of: int) -> list[list[Attempt]]:
    return [[Attempt("x", "", index < number, "") for index in range(of)] for number in passed]


def test_pass_at_k_without_bias() -> None:
    assert pass_at_k(attempts(1, 0, of=2), 1).value == pytest.approx(0.25)
    assert pass_at_k(attempts(1, of=2), 2).value == 1
    # 10 completions, 3 pass: 1 - C(7, 5) / C(10, 5)
    assert pass_at_k(attempts(3, of=10), 5).value == pytest.approx(1 - 21 / 252)
    interval = pass_at_k(attempts(*[1, 0] * 20, of=1), 1)
    assert interval.low < interval.value == 0.5 < interval.high
    with pytest.raises(InputError, match="at least 3"):
        pass_at_k(attempts(1, of=2), 3)


def test_a_model_completes_problems(tmp_path: Path) -> None:
    save_model(tiny_model(init_std=0.1), tmp_path / "model", write_tokenizer(tmp_path / "tokenizer"))
    model = load_text_model(tmp_path / "model")
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=3)
    made = complete_problems(model, [ADD, ADD], sampling, samples=2, batch_size=3)
    assert [len(texts) for texts in made] == [2, 2]
    assert made == complete_problems(model, [ADD, ADD], sampling, samples=2, batch_size=3)


def test_bad_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(InputError, match="not a file of HumanEval problems"):
        read_problems(tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match="no such file"):
        read_problems(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no HumanEval problems"):
        read_problems(tmp_path / "empty.jsonl")
    for wrong in ({"canonical_solution": " "}, {"prompt": 5}, {"canonical_solution": None}):
        (tmp_path / "bad.jsonl").write_text(json.dumps(LINE | wrong))
        with pytest.raises(InputError, match=f"problem 1 has no text in '{next(iter(wrong))}'"):
            read_problems(tmp_path / "bad.jsonl")


def test_lines_end_where_json_lines_do(tmp_path: Path) -> None:
    """U+2028 inside a text ends no line, a mark of the byte order is no part of one, half a character is no text."""
    line = json.dumps(LINE | {"prompt": "'a\u2028b'\n"}, ensure_ascii=False)
    (tmp_path / "marked.jsonl").write_text(f"\ufeff{line}\n", encoding="utf-8")
    assert read_problems(tmp_path / "marked.jsonl")[0].prompt == "'a\u2028b'\n"
    (tmp_path / "half.jsonl").write_text(json.dumps(LINE | {"canonical_solution": "return '\ud83d'"}))
    assert read_problems(tmp_path / "half.jsonl")[0].solution == "return '?'"


@pytest.mark.slow
def test_every_published_solution_passes_in_the_sandbox(tmp_path: Path) -> None:
    import gzip

    raw = gzip.decompress(shared_data("eval/HumanEval.jsonl.gz").read_bytes())
    (tmp_path / "problems.jsonl").write_bytes(raw)
    problems = read_problems(tmp_path / "problems.jsonl")
    assert len(problems) == 164
    tried = run_attempts(problems, [[problem.solution] for problem in problems])
    assert [attempt for (attempt,) in tried if not attempt.passed] == []
    assert json.loads(raw.splitlines()[0])["task_id"] == problems[0].id
