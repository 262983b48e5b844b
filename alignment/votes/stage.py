"""The ``votes`` stage: the log of votes as a dataset of the store, from which ``preferences`` makes pairs.

    stages:
      votes: {log: workspace/votes/log.jsonl}
      preferences: {pairs: [dataset://votes/votes.jsonl]}

``data/votes.jsonl`` holds every vote that stands, one a line, in a form that comparisons have (``alignment.pair_files``):
prompt, a, b, winner, annotator, weight; and beside it who wrote what, how it was sampled, where it stood, when and how
long it took. The dataset is known by its votes: what was merely shown meanwhile changes nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from alignment.forms import messages_to_json
from alignment.votes.board import board
from alignment.votes.log import Vote, Votes, read_votes
from infra.config import Config, Execution, Json
from infra.errors import InputError
from infra.stage import Counts, ShardStage, StageContext

FILE = "data/votes.jsonl"


class VotesConfig(Config):
    """People's votes on answers, from the log that `headwater serve` writes."""

    log: Annotated[str, Execution()] = "workspace/votes/log.jsonl"
    """The log. Where it lies changes nothing: the votes in it decide."""
    min_seconds: float = Field(default=0.0, ge=0)
    """Votes that were cast faster are left out."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """How much the votes of an annotator count, by name; 1 where none is given, 0 leaves them out."""


def _rows(votes: Votes, config: VotesConfig, dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """The votes to learn from, as they were cast; of the others it is counted why not."""
    for vote in votes.standing.values():
        weight = config.weights.get(vote.shown.annotator, 1.0)
        if vote.shown.repeat:
            dropped["repeat"] += 1  # the same person on the same pair: it measures them, and is no further opinion
        elif vote.seconds < config.min_seconds:
            dropped["too_fast"] += 1
        elif weight == 0:
            dropped["no_weight"] += 1
        else:
            yield _row(vote, weight)


def _row(vote: Vote, weight: float) -> dict[str, Any]:
    pair = vote.shown.pair
    return {
        "id": f"{pair.id}/{vote.shown.annotator}",
        "prompt": messages_to_json(pair.prompt),
        "a": pair.a,
        "b": pair.b,
        "winner": vote.winner,
        "annotator": vote.shown.annotator,
        "weight": weight,
        "models": dict(zip("ab", pair.models, strict=True)),
        "sampling": pair.sampling,
        "left": vote.shown.left,
        "seconds": vote.seconds,
        "when": vote.when,
    }


def _lines(votes: Votes, config: VotesConfig, dropped: Counter[str]) -> Iterator[bytes]:
    for row in _rows(votes, config, dropped):
        yield json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _identity(config: VotesConfig) -> Json:
    digest = hashlib.sha256()
    for line in _lines(read_votes(Path(config.log)), config, Counter()):
        digest.update(line)
    return digest.hexdigest()


def _check(config: VotesConfig) -> None:
    read_votes(Path(config.log))


def _finalize(context: StageContext) -> None:
    config: VotesConfig = context.config
    votes = read_votes(Path(config.log))
    dropped, rows = Counter(votes.taken_back), 0
    with context.output(FILE) as path, path.open("wb") as stream:
        for line in _lines(votes, config, dropped):
            stream.write(line)
            rows += 1
    if not rows:
        lost = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items())) or "none was cast"
        raise InputError(
            f"there is no vote to publish: {lost}", where=config.log, remedy="Vote in Compare of `headwater serve`."
        )
    dropped += Counter()  # without zeros
    context.counts = Counts(rows + sum(dropped.values()), rows, dict(sorted(dropped.items())))
    context.stats |= {"board": board(list(votes.standing.values()))}


STAGE = ShardStage(
    name="votes",
    code_version=1,
    config=VotesConfig,
    reference="alignment.votes.stage:STAGE",
    steps=(),
    external=_identity,
    check=_check,
    finalize=_finalize,
    description="People's votes on answers, from the log of `headwater serve`.",
)
