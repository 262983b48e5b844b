"""A study with models that answer at once, and annotators who vote by a rule."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.turns import Message
from alignment.votes.compare import Choice, Comparing, Contender
from alignment.votes.log import LOG, Showing, VoteLog
from alignment.votes.study import Study

GOOD, BAD = Contender("good", "dpo/aaaaaaaaaaaa"), Contender("bad", "sft/bbbbbbbbbbbb")


def answer(model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
    return f"{model} says {sampling['seed']} to {messages[-1].content}"


def prompts(number: int) -> list[tuple[Message, ...]]:
    return [(Message("user", f"question {at}"),) for at in range(number)]


@contextmanager
def comparing(
    workspace: Path,
    number: int = 10,
    *,
    contenders: Sequence[Contender] = (GOOD, BAD),
    speak: Any = answer,
    **settings: Any,
) -> Iterator[Comparing]:
    clock = settings.pop("clock", None)
    more = {"clock": clock} if clock else {}
    study = Study(**settings)
    with Comparing(VoteLog(workspace / LOG), study, prompts(number), contenders, speak, **more) as found:
        yield found


def side_of(showing: Showing, model: Contender) -> Choice:
    return "left" if showing.pair.models[showing.left == "b"] == model.dataset else "right"


def vote_all(
    found: Comparing, annotator: str, choose: Callable[[Showing], Choice], most: int = 10_000, seconds: float = 5
) -> list[Showing]:
    """Vote until nothing is left."""
    seen: list[Showing] = []
    while len(seen) < most and (showing := found.next(annotator)) is not None:
        found.vote(annotator, showing.id, choose(showing), seconds)
        seen.append(showing)
    return seen
