"""Rewards that need no model: a reply is checked against what its problem says is right.

    check      full marks for                                           the problem has
    number     the right number as the last one of the reply            answer: "#### 72", "1,024", "3/4"
    choice     the right letter as the first that stands alone          answer: "B"
               (of both, the one in its last \\boxed{…}, if there is one)
    tests      code that runs to its end, with these tests behind it    tests: "assert add(2, 2) == 4"
    format     a reply that is what the check's ``pattern`` describes
    a path     what the user's ``Verifier`` says, 0 to 1                anything

Number, choice and code are looked for behind a reply's thoughts (``</think>``), the other two see it whole.

Problems are records (``alignment.records``): ``prompt`` (or ``question``; a text or messages), ``answer`` or ``tests``, perhaps
an ``id``. Code that a model wrote runs in the sandbox (``training.sandbox``); a user's own rule is found by its dotted path.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from alignment.forms import messages_to_json, turns_from
from alignment.records import Reading, Unusable, keys_of, name_of, parsed
from alignment.turns import Message, spoken
from infra.config import Config
from infra.errors import ConfigError, InputError
from infra.extensions import load, reference_of
from training.sandbox import Limits, run_programs


@dataclass(frozen=True)
class Problem:
    """Something to answer, and what is right. ``record``: its line, for a user's own check."""

    id: str
    prompt: tuple[Message, ...]
    answer: str = ""
    tests: str = ""
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verifier:
    """A check of one's own: ``score(problem, reply)`` is 0 (wrong) to 1 (right)."""

    score: Callable[[Problem, str], float]


class Check(Config):
    """One thing a reply is rewarded for."""

    check: str = "number"
    """number, choice, tests, format, or the dotted path of a Verifier (package.module:NAME)."""
    weight: float = Field(default=1.0, gt=0)
    """What full marks are worth."""
    pattern: str = ""
    """format: the regular expression that a whole reply must match; a dot matches line breaks, too."""

    @model_validator(mode="after")
    def _pattern_fits(self) -> "Check":
        if (self.check == "format") != bool(self.pattern):
            raise ValueError("a check has a pattern if it is `format`, and no other has")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern {self.pattern!r} is no regular expression: {error}") from error
        return self


def scores(check: Check, problems: Sequence[Problem], replies: Sequence[str], workers: int = 2) -> list[float]:
    """How right each reply to the problem beside it is, 0 to 1."""
    if check.check == "tests":
        programs = [
            f"{code_of(spoken(reply))}\n{problem.tests}\n" for problem, reply in zip(problems, replies, strict=True)
        ]
        return [float(outcome.passed) for outcome in run_programs(programs, Limits(), workers)]
    score = _rule(check)
    return [score(problem, reply) for problem, reply in zip(problems, replies, strict=True)]


def _rule(check: Check) -> Callable[[Problem, str], float]:
    if check.check == "number":
        return lambda problem, reply: float(last_number(spoken(reply)) == last_number(problem.answer))
    if check.check == "choice":
        return lambda problem, reply: float(first_letter(spoken(reply)) == first_letter(problem.answer))
    if check.check == "format":
        pattern = re.compile(check.pattern, re.DOTALL)
        return lambda problem, reply: float(pattern.fullmatch(reply) is not None)
    if reference_of(check.check, "check") is None:
        raise ConfigError(
            f"there is no check {check.check!r}",
            where="grpo.checks",
            remedy="Take number, choice, tests, format, or write package.module:NAME.",
        )
    own = load(check.check, "check", Verifier)
    return lambda problem, reply: _finite(check.check, own.score(problem, reply))


def _finite(check: str, score: Any) -> float:
    """A mark that is no number would make every advantage of its round, and so the weights, none either."""
    if not isinstance(score, (int, float, np.number, np.bool_)) or not math.isfinite(score):
        raise InputError(f"the check {check!r} gives a reply {score!r}", remedy="It should be a number from 0 to 1.")
    return float(score)


NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\w))?(?:/[1-9]\d*)?"  # more than e999 is no answer
)
GAP = re.compile(r"\\!|(?<=\d)(?:\\[,;:]|[\u00a0\u202f])(?=\d{3}(?!\d))")
"""Between thousands, by TeX and by typographers."""
POWER = re.compile(r"(?<=\d)\s*(?:×|\\times|\\cdot|\*)\s*10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})(?!\d)\s*\}?")
FRACTION = re.compile(
    r"(?:(\d{1,18})\s*)?\\[dtc]?frac\s*(?:\{\s*(-?\d{1,18})\s*\}|(\d))\s*(?:\{\s*(\d{1,18})\s*\}|(\d))"
)
MIXED = re.compile(r"(?<![\w.,/])(\d{1,18}) (\d{1,18})/(\d{1,18})(?![\w/])")
"""3 1/2"""
WORD = "A-Za-z0-9À-ÖØ-öø-ʯ\u0300-\u036fͰ-ԯḀ-ỿ'’"
"""What belongs to a word beside a letter; not of scripts that write words together, in which a letter stands alone (选B)."""
LETTER = re.compile(f"(?<![{WORD}])([A-J])(?![{WORD}])")
MARKED = re.compile(r"\W*+(?:text\w*\{\W*+)?([A-J])\W*")
NO_CHOICE = re.compile(r"A (?!is\b)[a-z]|I [a-z]")
"""The article, and the pronoun."""
FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:\n[ \t]*```|```[ \t]*(?=\n|\Z)|\Z)", re.DOTALL)


def boxed(text: str) -> str:
    """What stands in the last ``\\boxed{…}``, by which models mark their answer among other words; empty where nothing does."""
    start, depth = text.rfind("\\boxed{"), 0
    for at in range(start + len("\\boxed"), len(text)) if start >= 0 else ():
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : at]
    return ""


def last_number(text: str) -> Fraction | None:
    """The last number in a text, or in its last ``\\boxed{…}``, exactly: 3.50, 7/2 and \\frac{7}{2} are one number; None
    where there is none."""
    found = NUMBER.findall(_written_out(boxed(text) or text))
    if not found:
        return None
    whole, _, below = found[-1].replace(",", "").partition("/")
    try:
        return Fraction(whole) / Fraction(below or 1)
    except ValueError:  # thousands of digits, which Python does not read: a model that says one digit for ever
        return None


def _written_out(text: str) -> str:
    """Numbers as TeX and typographers write them, in the characters of a program."""
    plain = GAP.sub("", text.replace("\u2212", "-").replace("{,}", ",").replace("-\\$", "-").replace("-$", "-"))
    plain = FRACTION.sub(lambda found: _one_fraction(found[1], found[2] or found[3], found[4] or found[5]), plain)
    plain = MIXED.sub(lambda found: _one_fraction(*found.groups()), plain)
    return POWER.sub(r"e\1", plain)


def _one_fraction(whole: str | None, above: str, below: str) -> str:
    return f"{int(whole or 0) * int(below) + int(above)}/{below}"


def first_letter(text: str) -> str | None:
    """The letter A to J that is all of the last ``\\boxed{…}``, or the first that stands alone; the article of a sentence is
    none (``A cat …``, ``I think B``)."""
    if marked := MARKED.fullmatch(boxed(text)):
        return marked[1]
    return next((found[1] for found in LETTER.finditer(text) if not NO_CHOICE.match(text, found.start())), None)


def code_of(reply: str) -> str:
    """The reply's first fenced block of Python, or of no language that is named; all of it where it has none. A block
    that was not closed goes on to the end."""
    blocks = [(found[1].lower(), found[2]) for found in FENCE.finditer(reply)]
    code = next((block for language, block in blocks if language in ("", "py") or language.startswith("python")), None)
    return reply if code is None else dedent(code)


def read_problems(address: Path | str, checks: Sequence[Check], reading: Reading) -> list[Problem]:
    """The problems of a file; records that cannot be checked are refused and counted."""
    wanted = {check.check for check in checks}
    return [problem for _, problem in parsed(address, reading, lambda raw: problem_of(raw, wanted))]


def problem_of(raw: Mapping[str, Any], wanted: Collection[str] = ()) -> Problem:
    """The problem that a record holds. Raises ``Unusable`` where a check that is ``wanted`` has nothing to compare with."""
    given = {name: value for name, value in raw.items() if value is not None}
    prompt = turns_from(given.get("prompt", given.get("question")), "user", "prompt")
    if not prompt or prompt[-1].role != "user" or not prompt[-1].says:
        raise Unusable("no_prompt", f"it has no prompt that ends with what a user says; its keys: {keys_of(raw)}")
    answer, tests = given.get("answer", ""), given.get("tests", "")
    answer = str(answer) if isinstance(answer, (int, float)) and not isinstance(answer, bool) else answer
    if not isinstance(answer, str) or not isinstance(tests, str):
        raise Unusable("bad_answer", "its answer and its tests must be texts")
    for check, lacks in (
        ("number", last_number(answer) is None),
        ("choice", first_letter(answer) is None),
        ("tests", not tests.strip()),
    ):
        if check in wanted and lacks:
            raise Unusable(f"no_{check}", f"the check {check!r} finds nothing to compare with")
    return Problem(name_of(raw.get("id"), [messages_to_json(prompt), answer, tests]), prompt, answer, tests, raw)
