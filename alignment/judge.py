"""Judges: others say which of two replies is better.

A judge is a model behind any server with OpenAI's chat interface, or an object of somebody's package: ``OutsideJudge``
answers questions as a server does, ``OutsideReward`` scores a reply by itself. Who is asked questions is asked each twice,
the second time with the replies swapped: judges favour a place, so only a preference that survives the swap counts, and
everything else is a tie. How often it did not survive is reported (``flipped``).

What is asked is known before: ``estimate`` counts calls and tokens, and a judging that would cost more than is allowed does
not start. Each answer is kept as it comes (``Answers``), so one that was interrupted goes on where it was.

The key for the server comes from the environment (``HEADWATER_JUDGE_KEY``) and goes nowhere else.
"""

import hashlib
import json
import math
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignment.turns import spoken
from infra.errors import ConfigError, InputError

KEY = "HEADWATER_JUDGE_KEY"
RETRIES = 4
CHARACTERS_PER_TOKEN = 3.5
"""Of English a little more; other languages take more tokens."""
Ask = Callable[[str], str]
"""A question to the judge -> its answer."""
Outcome = Literal["left", "right", "tie", "flipped"]

QUESTION = """Two assistants answered the same conversation. Say which reply helps the person more: it is correct, to the point \
and says what was asked. Do not let length or order decide.

[Conversation]
{prompt}

[Reply A]
{first}

[Reply B]
{second}

Answer with one word: A, B or tie."""


@dataclass(frozen=True)
class Duel:
    """Two replies to one prompt."""

    prompt: str
    left: str
    right: str

    @property
    def questions(self) -> tuple[str, str]:
        """In both orders."""
        return (
            QUESTION.format(prompt=self.prompt, first=self.left, second=self.right),
            QUESTION.format(prompt=self.prompt, first=self.right, second=self.left),
        )


@dataclass(frozen=True)
class OutsideJudge:
    """A judge of somebody's package: questions are answered with A, B or tie."""

    ask: Ask


@dataclass(frozen=True)
class OutsideReward:
    """A reward of somebody's package, for a prompt and a reply; scores no further apart than ``tie`` are alike."""

    score: Callable[[str, str], float]
    tie: float = 0.0


@dataclass(frozen=True)
class Server:
    """Where the judge answers: ``url`` is the part before ``/chat/completions``."""

    url: str
    model: str
    timeout_s: float = 60.0
    pause_s: float = 1.0
    """Before the first repetition; doubled for each further one."""
    answer_tokens: int = 256
    """Longest answer, which the server is told: what bounds the cost. A judge that thinks aloud needs more."""

    def ask(self, question: str) -> str:
        """The judge's answer. Raises InputError when the server refuses or stays away."""
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
        }
        body["max_tokens"] = self.answer_tokens
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        for attempt in range(RETRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                    return self._said(json.load(response)["choices"][0], address)
            except urllib.error.HTTPError as error:
                if error.code not in (408, 429) and error.code < 500:
                    raise InputError(
                        f"the judge's server answers {error.code} {error.reason}",
                        where=address,
                        remedy=f"Check the address, the model's name and ${KEY}.",
                    ) from None
                cause = f"{error.code} {error.reason}"
            except (OSError, TimeoutError) as error:
                cause = str(error)
            except (ValueError, KeyError, IndexError, TypeError):
                raise InputError("the server's answer is not a chat completion", where=address) from None
            if attempt < RETRIES:
                time.sleep(self.pause_s * 2**attempt)
        raise InputError(f"the judge cannot be reached: {cause}", where=address, remedy="Is the server running?")

    def _said(self, choice: Mapping[str, Any], address: str) -> str:
        """A judge's words. Without any it was cut off while it thought: to count that as a tie would decide by our limit."""
        said = choice["message"]["content"] or ""
        if not spoken(said).strip() and choice.get("finish_reason") == "length":
            raise InputError(
                f"the judge was cut off after {self.answer_tokens} tokens, before it said anything",
                where=address,
                remedy="Allow it more with --answer-tokens; what is answered is kept.",
            )
        return str(said)


def check_address(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{url!r} is no address of a server", where="--endpoint", remedy="For example http://127.0.0.1:8000/v1."
        )


def read_answer(text: str) -> Literal["A", "B", "tie"]:
    """The judge's word, behind its thoughts. An answer that names both replies, or neither, is a tie."""
    named = set(re.findall(r"\b(?:[AB]|[Tt]ie|TIE)\b", spoken(text)))
    if named == {"A"}:
        return "A"
    return "B" if named == {"B"} else "tie"


def ask_in_both_orders(duel: Duel, ask: Ask) -> Outcome:
    """Ask in both orders."""
    if duel.left == duel.right:
        return "tie"
    straight, swapped = (read_answer(ask(question)) for question in duel.questions)
    if (straight, swapped) == ("A", "B"):
        return "left"
    if (straight, swapped) == ("B", "A"):
        return "right"
    return "flipped" if straight == swapped != "tie" else "tie"


def compare_scores(duel: Duel, reward: OutsideReward) -> Outcome:
    """Which reply a reward prefers."""
    left, right = (float(reward.score(duel.prompt, reply)) for reply in (duel.left, duel.right))
    if not (math.isfinite(left) and math.isfinite(right)):
        raise InputError(
            f"the reward scores a reply {left if not math.isfinite(left) else right}", where=duel.prompt[:80]
        )
    if abs(left - right) <= reward.tie:
        return "tie"
    return "left" if left > right else "right"


class Answers:
    """A judge's answers, kept in a file of JSON lines as they come; a line that a kill cut short is asked again."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name, self._lock = path, name, threading.Lock()
        self._known: dict[str, str] = {}
        for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
            entry = json.loads(line)
            self._known[entry["question"]] = entry["answer"]

    def key(self, question: str) -> str:
        return hashlib.blake2b(f"{self._name}\0{question}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def knows(self, question: str) -> bool:
        return self.key(question) in self._known

    def remembering(self, ask: Ask) -> Ask:
        """Asks once."""

        def answer(question: str) -> str:
            key = self.key(question)
            if key not in self._known:
                found = ask(question)
                with self._lock:
                    self._append({"question": key, "answer": found})
                    self._known[key] = found
            return self._known[key]

        return answer

    def _append(self, entry: Mapping[str, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as stream:
            whole = stream.tell() == 0 or not stream.seek(stream.tell() - 1) or stream.read() == b"\n"
            if not whole:  # what a kill left of a line
                stream.truncate(self._path.read_bytes().rfind(b"\n") + 1)
            stream.write(json.dumps(entry).encode() + b"\n")


@dataclass(frozen=True)
class Judge:
    """Who decides duels, by what name; ``questions`` are those it would have to answer and has not."""

    name: str
    decide: Callable[[Duel], Outcome]
    missing: Callable[[Duel], Sequence[str]] = field(default=lambda duel: ())
    answer_tokens: int = 0


def asked_judge(name: str, ask: Ask, answers: Answers | None = None, answer_tokens: int = 0) -> Judge:
    """A judge that answers questions, each once where there is a place to keep the answers."""
    kept = answers.remembering(ask) if answers else ask

    def missing(duel: Duel) -> Sequence[str]:
        if duel.left == duel.right:
            return ()
        return [question for question in duel.questions if answers is None or not answers.knows(question)]

    return Judge(name, lambda duel: ask_in_both_orders(duel, kept), missing, answer_tokens)


def outside_judge(name: str, found: OutsideJudge | OutsideReward) -> Judge:
    """A judge or a reward of somebody's package."""
    if isinstance(found, OutsideReward):
        return Judge(name, lambda duel: compare_scores(duel, found))
    return asked_judge(name, found.ask)


@dataclass(frozen=True)
class Estimate:
    """What a judging would take, over all judges: an upper bound, for answers may be shorter."""

    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None = None


def estimate(
    duels: Sequence[Duel], judges: Sequence[Judge], price_in: float | None = None, price_out: float | None = None
) -> Estimate:
    """``price_in`` and ``price_out`` are those of a million tokens, in whatever currency."""
    calls, tokens_in, tokens_out = 0, 0, 0
    for judge in (judge for judge in judges if judge.answer_tokens):
        questions = [question for duel in duels for question in judge.missing(duel)]
        calls += len(questions)
        tokens_in += sum(math.ceil(len(question) / CHARACTERS_PER_TOKEN) for question in questions)
        tokens_out += len(questions) * judge.answer_tokens
    cost = None
    if price_in is not None and price_out is not None:
        cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
    return Estimate(calls, tokens_in, tokens_out, cost)


def check_cost(found: Estimate, most: float | None) -> None:
    """Raises where a judging would, or might, cost more than is allowed."""
    if most is None:
        return
    if found.cost is None:
        raise ConfigError(
            "what a token costs is not known", where="--max-cost", remedy="Give --price-in and --price-out."
        )
    if found.cost > most:
        raise InputError(
            f"the judging would cost up to {found.cost:.2f} for {found.calls} calls, {found.tokens_in:,} tokens in and "
            f"{found.tokens_out:,} out; at most {most:.2f} is allowed",
            where="--max-cost",
            remedy="Take fewer --prompts, a shorter --answer-tokens, or allow more.",
        )


def settle(duels: Sequence[Duel], judges: Sequence[Judge], parallel: int = 4) -> dict[str, list[Outcome]]:
    """Every judge's outcome of every duel, by its name."""
    if not duels:
        raise InputError("there are no prompts to judge replies to")
    with ThreadPoolExecutor(parallel) as pool:
        try:
            return {judge.name: list(pool.map(judge.decide, duels)) for judge in judges}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is not asked yet need not be
            raise
