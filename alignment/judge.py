"""A judge: a third model says which of two replies is better.

It is reached through any server with OpenAI's chat interface. Every pair is judged twice, the second time with the replies
swapped: judges favour a place, so only a preference that survives the swap counts, and everything else is a tie. How
often it did not survive is reported (``flipped``), and so is how often the longer reply won: judges favour length, too.

The key for the server comes from the environment (``HEADWATER_JUDGE_KEY``) and goes nowhere else.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from infra.errors import ConfigError, InputError
from training.intervals import mean_interval

KEY = "HEADWATER_JUDGE_KEY"
RETRIES = 4
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


@dataclass(frozen=True)
class Server:
    """Where the judge answers: ``url`` is the part before ``/chat/completions``."""

    url: str
    model: str
    timeout_s: float = 60.0
    pause_s: float = 1.0
    """Before the first repetition; doubled for each further one."""

    def ask(self, question: str) -> str:
        """The judge's answer. Raises InputError when the server refuses or stays away."""
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        for attempt in range(RETRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                    return str(json.load(response)["choices"][0]["message"]["content"])
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


def check_address(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{url!r} is no address of a server", where="--endpoint", remedy="For example http://127.0.0.1:8000/v1."
        )


def read_answer(text: str) -> Literal["A", "B", "tie"]:
    """The judge's word. An answer that names both replies, or neither, is a tie."""
    named = set(re.findall(r"\b(?:[AB]|[Tt]ie|TIE)\b", text))
    if named == {"A"}:
        return "A"
    return "B" if named == {"B"} else "tie"


def ask_in_both_orders(duel: Duel, ask: Ask) -> Outcome:
    """Ask in both orders."""
    if duel.left == duel.right:
        return "tie"
    straight = read_answer(ask(QUESTION.format(prompt=duel.prompt, first=duel.left, second=duel.right)))
    swapped = read_answer(ask(QUESTION.format(prompt=duel.prompt, first=duel.right, second=duel.left)))
    if (straight, swapped) == ("A", "B"):
        return "left"
    if (straight, swapped) == ("B", "A"):
        return "right"
    return "flipped" if straight == swapped != "tie" else "tie"


def judge(duels: Sequence[Duel], ask: Ask, parallel: int = 4) -> dict[str, Any]:
    """Wins of the left model: ``{prompts, wins, losses, ties, flipped, win_rate, longer_won, outcomes}``.

    ``win_rate`` counts a tie as half a win and has a bootstrap interval over prompts.
    """
    if not duels:
        raise InputError("there are no prompts to judge replies to")
    with ThreadPoolExecutor(parallel) as pool:
        outcomes = list(pool.map(lambda duel: ask_in_both_orders(duel, ask), duels))
    points = np.array([{"left": 1.0, "right": 0.0}.get(outcome, 0.5) for outcome in outcomes])
    decided = [
        (outcome == "left") == (len(duel.left) > len(duel.right))
        for duel, outcome in zip(duels, outcomes, strict=True)
        if outcome in ("left", "right") and len(duel.left) != len(duel.right)
    ]
    return {
        "prompts": len(duels),
        "wins": outcomes.count("left"),
        "losses": outcomes.count("right"),
        "ties": outcomes.count("tie"),
        "flipped": outcomes.count("flipped"),
        "win_rate": mean_interval(points, 0).as_dict(),
        "longer_won": sum(decided) / len(decided) if decided else None,
        "outcomes": outcomes,
    }
