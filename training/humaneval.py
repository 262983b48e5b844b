"""HumanEval: does a completed function pass its tests?

The prompt (signature and docstring) is continued by the model, cut where the function ends, and run with the problem's
tests in the sandbox. ``pass@k`` is the chance that at least one of k completions passes, estimated without bias from n
of them: 1 - C(n - c, k) / C(n, k), averaged over the problems.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import InputError
from pipeline.sources.tables import rows_of_file
from pipeline.tokenizer.model import encodable
from training.generate import Sampling
from training.intervals import Interval, Resampling, ratio_interval
from training.sandbox import Limits, Outcome, run_programs
from training.text_model import TextModel

END_OF_FUNCTION = re.compile(r"\n(?=[^\s#)\]}]|#)")
"""The first line that starts in the first column ends the function's body."""
SOLUTION = "canonical_solution"
FIELDS = ("task_id", "prompt", SOLUTION, "test", "entry_point")


@dataclass(frozen=True)
class Problem:
    """One problem of the file, with the fields that are used here."""

    id: str
    prompt: str
    solution: str
    tests: str
    entry_point: str

    def program(self, completion: str) -> str:
        """A whole program that runs to its end only if the completion passes the tests."""
        return f"{self.prompt}{completion}\n{self.tests}\ncheck({self.entry_point})\n"


@dataclass(frozen=True)
class Attempt:
    """One completion of one problem and what became of it."""

    problem: str
    completion: str
    passed: bool
    reason: str


def read_problems(path: Path) -> list[Problem]:
    """The problems of a HumanEval file (JSON lines, also compressed)."""
    if not path.exists():
        raise InputError("there is no such file of HumanEval problems", where=str(path))
    problems = [_problem(row, number, path) for number, row in enumerate(rows_of_file(str(path)), start=1)]
    if not problems:
        raise InputError("the file holds no HumanEval problems", where=str(path))
    return problems


def _problem(row: Mapping[str, Any], number: int, path: Path) -> Problem:
    for name in FIELDS:
        text = row.get(name)
        # An empty solution has no bits a byte.
        if not isinstance(text, str) or (name == SOLUTION and not text.strip()):
            raise InputError(
                f"not a file of HumanEval problems: problem {number} has no text in {name!r}",
                where=str(path),
                remedy=f"A line wants {', '.join(FIELDS)}.",
            )
    return Problem(*(encodable(row[name]) for name in FIELDS))


def complete_problems(
    model: TextModel, problems: Sequence[Problem], sampling: Sampling, samples: int = 1, batch_size: int = 16
) -> list[list[str]]:
    """``samples`` completions of each problem."""
    room = model.decoder.config.max_position - sampling.max_new_tokens
    first = len(model.special.prefix)
    prompts = [model.prompt(problem.prompt) for problem in problems for _ in range(samples)]
    # A prompt that leaves no room for an answer loses its beginning, but not what every text begins with.
    prompts = [prompt[:first] + prompt[first:][-max(1, room - first) :] for prompt in prompts]
    # A seed for each: what a completion becomes does not depend on the size of the batches.
    settings = [sampling.model_copy(update={"seed": sampling.seed + number}) for number in range(len(prompts))]
    texts = [function_body(text) for text in model.write(prompts, settings, batch_size)]
    return [texts[index : index + samples] for index in range(0, len(texts), samples)]


def function_body(text: str) -> str:
    """The completion up to the first line that no longer belongs to the function."""
    end = END_OF_FUNCTION.search(text)
    return text[: end.start() + 1] if end else text


def run_attempts(
    problems: Sequence[Problem], completions: Sequence[Sequence[str]], limits: Limits | None = None, workers: int = 2
) -> list[list[Attempt]]:
    """Run every completion with its problem's tests."""
    pairs = [(problem, text) for problem, texts in zip(problems, completions, strict=True) for text in texts]
    outcomes = iter(run_programs([problem.program(text) for problem, text in pairs], limits, workers))

    def attempt(problem: Problem, text: str, outcome: Outcome) -> Attempt:
        return Attempt(problem.id, text, outcome.passed, outcome.reason)

    return [
        [attempt(problem, text, next(outcomes)) for text in texts]
        for problem, texts in zip(problems, completions, strict=True)
    ]


def pass_at_k(attempts: Sequence[Sequence[Attempt]], k: int, how: Resampling | None = None) -> Interval:
    """The estimate with its bootstrap interval over the problems."""
    chances = []
    for tried in attempts:
        if len(tried) < k:
            raise InputError(f"pass@{k} needs at least {k} completions of each problem; there are {len(tried)}")
        failed = sum(not attempt.passed for attempt in tried)
        chances.append(1 - comb(failed, k) / comb(len(tried), k))
    return ratio_interval(np.array(chances), np.ones(len(chances)), how or Resampling())
