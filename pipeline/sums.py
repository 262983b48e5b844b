"""Stage ``sums``: two-digit addition as texts, conversations and problems, to see reinforcement learning work in minutes.

    data/texts.jsonl          documents of sums, to pretrain on
    data/conversations.jsonl  questions with their answers, to fine-tune on
    data/problems.jsonl       further questions, to be found out: {id, prompt, answer}

The sums of problems are in no text and no conversation: what a model solves of them it has not read.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from infra.config import Config
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id

Sum = tuple[int, int]


class SumsConfig(Config):
    """Which sums are told, and which are asked."""

    digits: int = Field(default=2, ge=1, le=3)
    """Digits of each number."""
    asked: float = Field(default=0.5, gt=0, lt=1)
    """Share of all sums that are problems; the others are in the texts, and some of them in the conversations."""
    conversations: int = Field(default=2000, ge=1)
    """Sums that are asked and answered in conversations."""
    mistakes: float = Field(default=0.0, ge=0, le=1)
    """Share of the conversations whose answer is wrong, most by one, some by ten: a careless teacher, whom a check can better."""
    copies: int = Field(default=4, ge=1)
    """Times that each sum stands in the texts, each time among others."""
    lines: int = Field(default=8, ge=1)
    """Sums of one text."""
    seed: int = 0
    """Decides which sums are where."""


def question(numbers: Sum) -> str:
    return f"{numbers[0]} + {numbers[1]} = ?"


def divided(config: SumsConfig) -> tuple[list[Sum], list[Sum]]:
    """The sums that are told, and those that are asked, each in a random order."""
    numbers = range(10 ** (config.digits - 1), 10**config.digits)
    sums = [(left, right) for left in numbers for right in numbers]
    random.Random(config.seed).shuffle(sums)
    border = round(len(sums) * config.asked)
    return sums[border:], sums[:border]


def texts(told: Sequence[Sum], config: SumsConfig) -> Iterator[dict[str, str]]:
    """Documents of some sums, a line each."""
    chosen = random.Random(config.seed + 1)
    for copy in range(config.copies):
        order = list(told)
        chosen.shuffle(order)
        for start in range(0, len(order), config.lines):
            lines = [f"{left} + {right} = {left + right}" for left, right in order[start : start + config.lines]]
            yield {"id": f"{copy}-{start}", "text": "\n".join(lines)}


def talks(told: Sequence[Sum], config: SumsConfig) -> Iterator[dict[str, Any]]:
    chance = random.Random(config.seed + 2)
    for left, right in told[: config.conversations]:
        wrong = chance.choice((1, 1, 1, 10)) if chance.random() < config.mistakes else 0
        said = [("user", question((left, right))), ("assistant", str(left + right + wrong))]
        messages = [{"role": role, "content": content} for role, content in said]
        yield {"id": f"{left}+{right}", "messages": messages}


def problems(asked: Sequence[Sum]) -> Iterator[dict[str, str]]:
    for left, right in asked:
        yield {"id": f"{left}+{right}", "prompt": question((left, right)), "answer": str(left + right)}


def _units(context: StageContext) -> Iterator[Unit]:
    yield Unit(unit_id("sums"), documents=1)


def _process(unit: Unit, context: UnitContext) -> Counts:
    told, asked = divided(context.config)
    for name, rows in (
        ("texts", texts(told, context.config)),
        ("conversations", talks(told, context.config)),
        ("problems", problems(asked)),
    ):
        with context.output(f"data/{name}.jsonl") as path:
            _write(path, rows)
    return Counts(incoming=1, kept=1)


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


STAGE = ShardStage(
    name="sums",
    code_version=1,
    config=SumsConfig,
    reference="pipeline.sums:STAGE",
    inputs=lambda _config: {},
    steps=(Step("make", _units, _process),),
    description="Two-digit addition as texts, conversations and problems.",
)
