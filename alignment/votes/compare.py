"""Who is shown what: pairs of answers, blind, each judged by as many annotators as the study asks for.

* **Pairs.** Every prompt is answered by two models, in turn by each two of them (a single model answers twice). Answers
  are generated a few pairs ahead and kept in the log, so that everybody sees the same ones.
* **Assignment.** What an annotator was shown and has not judged comes first, then prompts of their own, then the first
  pair in the study's order that they have not judged and that has room: fewer than ``overlap`` others have judged it or
  have it before their eyes. So two who vote at the same time never take each other's place.
* **Sides** hang on a hash of seed, annotator and pair. A **repeat** shows a pair again the other way round, some votes
  later; whether the answer is the same is the annotator's consistency.

One ``Comparing`` serves all annotators: a lock guards what is known, answers are generated outside of it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, Self

from alignment.forms import messages_to_json
from alignment.turns import Message
from alignment.votes.board import board
from alignment.votes.log import AnswerPair, Showing, Side, Vote, VoteLog, Winner
from alignment.votes.study import Prompt, Study, digest, prompt_id
from infra.errors import InputError, NotFound

Answer = Callable[[str, Sequence[Message], Mapping[str, Any]], str]
"""(name of a served model, messages, sampling with its seed) -> the model's words."""
Choice = Literal["left", "right", "tie", "both_bad"]
CHOICES: tuple[Choice, ...] = ("left", "right", "tie", "both_bad")
ATTEMPTS = 3
"""Answers that cannot be told apart are sampled again so often."""
REPEAT_AFTER = 3
"""Votes between a pair and its repeat, at least."""
LONGEST_PROMPT = 8000
GENERATORS = 4
"""Pairs that are answered at a time."""


@dataclass(frozen=True)
class Contender:
    """A model that answers: as the server calls it, and what it is."""

    name: str
    dataset: str


@dataclass(frozen=True)
class Planned:
    """A pair that is to be answered."""

    id: str
    prompt: Prompt
    contenders: tuple[Contender, ...]
    """Who answers: two, or none where the answers are there."""
    by: str = ""
    """Who typed the prompt."""


@dataclass
class Comparing:
    """A study while annotators vote."""

    log: VoteLog
    study: Study
    prompts: Sequence[Prompt]
    contenders: Sequence[Contender]
    answer: Answer
    clock: Callable[[], float] = time.time
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _plan: dict[str, Planned] = field(default_factory=dict)
    _making: dict[str, "Future[None]"] = field(default_factory=dict)
    _waiting: dict[str, tuple[str, float]] = field(default_factory=dict)
    """The pair that is being answered for an annotator, and since when."""
    _board: dict[str, Any] = field(default_factory=dict)
    _board_of: int = -1
    """How far the votes had come when it was made."""
    _board_until: float = 0.0

    def __post_init__(self) -> None:
        if len(self.contenders) == 1 and self.study.temperature == 0:
            raise InputError(
                "one model at temperature 0 gives the same answer twice",
                where="study.json",
                remedy="Serve two models, or set a higher temperature.",
            )
        self._pool = ThreadPoolExecutor(GENERATORS, "answers")
        self._extend()

    # ---- what an annotator does ------------------------------------------------------------------------------------

    def offer(self, annotator: str) -> "Showing | Future[None] | None":
        """What the annotator is to judge now: the same until they have. A future where it is being answered: ask again
        when it is done. None when nothing is left."""
        with self._lock:
            self._waiting.pop(annotator, None)
            found = self._pending(annotator) or self._repeat(annotator)
            planned = None if found else next(self._open_to(annotator), None)
            if planned is None:
                return found
            if (pair := self.log.votes.pairs.get(planned.id)) is None:
                self._waiting[annotator] = planned.id, self.clock()
                return self._generate(planned)
            self._generate_ahead()
            return self._show(annotator, pair)

    def next(self, annotator: str) -> Showing | None:
        """The same, waited for."""
        while isinstance(found := self.offer(annotator), Future):
            found.result()
        return found

    def vote(self, annotator: str, shown: str, choice: Choice, seconds: float) -> tuple[Vote, bool]:
        """Put a vote on record, and say whether it takes the place of an earlier one. Raises NotFound."""
        with self._lock:
            showing = self.log.votes.shown.get(shown)
            if showing is None or showing.annotator != annotator:
                raise NotFound(
                    f"there is no pair {shown!r} before you", remedy="Ask for the next pair, and vote on that."
                )
            winner: Winner
            if choice == "left" or choice == "right":
                winner = showing.left if choice == "left" else showing.right
            else:
                winner = choice
            replaces = showing.key in self.log.votes.standing
            self.log.append(
                {"kind": "vote", "shown": shown, "winner": winner, "seconds": round(seconds, 3), "when": self.clock()}
            )
            return self.log.votes.standing[showing.key], replaces

    def undo(self, annotator: str) -> Showing:
        """Take back the annotator's last vote; what it was on is theirs to judge again. Raises InputError."""
        with self._lock:
            cast = self.log.votes.of(annotator)
            if not cast:
                raise InputError("there is no vote of yours to take back")
            shown = cast[-1].shown
            self.log.append({"kind": "undo", "shown": shown.id, "when": self.clock()})
            # Shown anew: it is the newest thing before their eyes.
            return self._show(annotator, shown.pair, shown)

    def add_prompt(self, annotator: str, text: str) -> None:
        """Ask what an annotator typed; they see the answers first. Raises InputError."""
        plain = text.strip()
        if not plain or len(plain) > LONGEST_PROMPT:
            raise InputError(
                "the prompt is empty" if not plain else f"the prompt has {len(plain):,} characters",
                remedy=f"Type up to {LONGEST_PROMPT:,}.",
            )
        if not self.contenders:
            raise InputError("no model that chats is served", remedy="Name one after `headwater serve`.")
        with self._lock:
            prompt = messages_to_json([Message("user", plain)])
            self.log.append({"kind": "prompt", "prompt": prompt, "annotator": annotator, "when": self.clock()})
            self._extend()

    # ---- what is told ----------------------------------------------------------------------------------------------

    def progress(self, annotator: str) -> dict[str, int]:
        """Votes of the annotator, and how many they will have cast when nothing is left; and those of all."""
        with self._lock:
            votes = self.log.votes
            done = len(votes.of(annotator))
            left = sum(1 for _ in self._open_to(annotator))
            return {"done": done, "total": done + left, "votes": len(votes.standing)}

    def view(self, showing: Showing) -> dict[str, Any]:
        """As the annotator sees it: nothing says who wrote which."""
        pair = showing.pair
        return {
            "id": showing.id,
            "prompt": messages_to_json(pair.prompt),
            "left": {"text": pair.text(showing.left)},
            "right": {"text": pair.text(showing.right)},
        }

    def board(self) -> dict[str, Any]:
        """What the votes say so far. Many votes take a while: making it takes up no more than a fifth of the time."""
        with self._lock:
            cast, began = self.log.votes.cast, time.monotonic()
            if cast == self._board_of or began < self._board_until:
                return self._board
            standing = list(self.log.votes.standing.values())
        made = board(standing)
        with self._lock:
            self._board, self._board_of = made, cast
            self._board_until = time.monotonic() + 4 * (time.monotonic() - began)
        return made

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- assignment; under the lock ----------------------------------------------------------------------------------

    def _pending(self, annotator: str) -> Showing | None:
        """What was last shown and is not judged; nobody waits for one whose place others have taken meanwhile."""
        votes = self.log.votes
        last = votes.last_shown.get(annotator)
        if last is None or last.key in votes.standing:
            return None
        others = votes.judges.get(last.pair.id, set()) - {annotator}
        return last if last.repeat or len(others) < self.study.overlap else None

    def _repeat(self, annotator: str) -> Showing | None:
        """A pair of earlier, the other way round, when it is time for one."""
        cast = self.log.votes.of(annotator)
        first = [vote for vote in cast if not vote.shown.repeat]
        seen = {vote.shown.pair.id for vote in cast if vote.shown.repeat}
        if len(seen) >= int(len(first) * self.study.repeats):
            return None
        old = [vote.shown for vote in first[:-REPEAT_AFTER] if vote.shown.pair.id not in seen]
        if not old:
            return None
        chosen = min(old, key=lambda shown: digest(self.study.seed, "repeat", annotator, shown.pair.id))
        return self._show(annotator, chosen.pair, chosen, repeat=True)

    def _open_to(self, annotator: str) -> Iterator[Planned]:
        """The pairs that the annotator may judge, prompts of their own first: they have not, and there is room."""
        looking = self._looking()
        for planned in sorted(self._plan.values(), key=lambda planned: planned.by != annotator):
            taken = self.log.votes.judges.get(planned.id, set()) | looking.get(planned.id, set()) - {annotator}
            if annotator not in taken and len(taken) < self.study.overlap and planned.id not in self.log.votes.useless:
                yield planned

    def _looking(self) -> dict[str, set[str]]:
        """Who waits for which pair, or has it before their eyes: shown last, not judged, and not too long ago."""
        since, found = self.clock() - 60 * self.study.hold_minutes, dict[str, set[str]]()
        for annotator, (pair, when) in self._waiting.items():
            if when >= since:
                found.setdefault(pair, set()).add(annotator)
        for annotator, shown in self.log.votes.last_shown.items():
            if shown.key not in self.log.votes.standing and shown.when >= since and not shown.repeat:
                found.setdefault(shown.pair.id, set()).add(annotator)
        return found

    def _show(
        self, annotator: str, pair: AnswerPair, before: Showing | None = None, *, repeat: bool = False
    ) -> Showing:
        """Put a pair before an annotator: as it was ``before``, or as a ``repeat`` the other way round."""
        left: Side = "b" if int(digest(self.study.seed, "side", annotator, pair.id), 16) % 2 else "a"
        if before is not None:
            left, repeat = (before.right, True) if repeat else (before.left, before.repeat)
        name = digest(self.study.seed, "shown", annotator, pair.id, len(self.log.votes.shown))
        self.log.append(
            {
                "kind": "shown",
                "shown": name,
                "pair": pair.id,
                "annotator": annotator,
                "left": left,
                "repeat": repeat,
                "when": self.clock(),
            }
        )
        return self.log.votes.shown[name]

    # ---- answers -----------------------------------------------------------------------------------------------------

    def _extend(self) -> None:
        """Plan the pairs of the prompts, and of those that were typed since. Served without models: what is answered."""
        if not self.contenders:
            known = self.log.votes.pairs.values()
            self._plan = {pair.id: Planned(pair.id, pair.prompt, ()) for pair in known}
            return
        pairings = list(combinations(self.contenders, 2)) or [(self.contenders[0], self.contenders[0])]
        times = self.study.per_prompt
        asked = [*((prompt, "") for prompt in self.prompts), *self.log.votes.typed]
        for number in range(len(self._plan) // times, len(asked)):
            prompt, by = asked[number]
            for turn in range(times):
                two = pairings[(number * times + turn) % len(pairings)]
                sampling = [self.study.temperature, self.study.top_p, self.study.max_tokens, self.study.seed]
                # What is typed again is answered anew.
                typed = number - len(self.prompts) if number >= len(self.prompts) else None
                name = digest(messages_to_json(prompt), [each.dataset for each in two], sampling, turn, typed)
                self._plan.setdefault(name, Planned(name, prompt, two, by))

    def _generate(self, planned: Planned) -> "Future[None]":
        with self._lock:
            if planned.id not in self._making:
                self._making[planned.id] = self._pool.submit(self._answer, planned)
            return self._making[planned.id]

    def _generate_ahead(self) -> None:
        votes, ready, missing = self.log.votes, 0, []
        for planned in self._plan.values():
            if planned.id in votes.pairs:
                ready += len(votes.judges.get(planned.id, ())) < self.study.overlap
            elif planned.id not in votes.useless:
                missing.append(planned)
        for planned in missing[: max(0, self.study.ahead - ready)]:
            self._generate(planned)

    def _answer(self, planned: Planned) -> None:
        """Generate the answers of a pair and keep them, or why there are none to be shown."""
        try:
            try:
                entry = self._answered(planned)
            except InputError as error:  # the prompt is longer than the context
                entry = {"kind": "useless", "pair": planned.id, "why": error.error}
            with self._lock:
                self.log.append(entry)
        finally:
            with self._lock:
                self._making.pop(planned.id)

    def _answered(self, planned: Planned) -> dict[str, Any]:
        study, texts = self.study, ["", ""]
        for attempt in range(ATTEMPTS):
            sampling = {"temperature": study.temperature, "top_p": study.top_p, "max_tokens": study.max_tokens}
            seeds = [int(digest(study.seed, planned.id, side, attempt), 16) % 2**31 for side in range(2)]
            texts = [
                self.answer(contender.name, planned.prompt, {**sampling, "seed": seed}).strip()
                for contender, seed in zip(planned.contenders, seeds, strict=True)
            ]
            if all(texts) and texts[0] != texts[1]:
                return {
                    "kind": "pair", "pair": planned.id, "prompt_id": prompt_id(planned.prompt),
                    "prompt": messages_to_json(planned.prompt), "a": texts[0], "b": texts[1],
                    "models": [contender.dataset for contender in planned.contenders],
                    "sampling": {**sampling, "seeds": seeds}, "when": self.clock(),
                }  # fmt: skip
        return {"kind": "useless", "pair": planned.id, "why": "same answers" if all(texts) else "an answer is empty"}
