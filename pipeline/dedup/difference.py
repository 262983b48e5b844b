"""How two texts differ, for a reader who asks why one was dropped for the other.

The texts are aligned word by word (line by line if they are long) and told as *hunks*: runs that both have, that only the
dropped one has, or that only the survivor has.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.words import normalised_words

_BY_WORD = 4_000
_BY_LINE = 20_000
_WORDS = re.compile(r"\s*\S+")
_LINES = re.compile(r"[^\n]*\n?")

Side = Literal["both", "dropped", "survivor"]


@dataclass(frozen=True)
class Hunk:
    side: Side
    text: str


@dataclass(frozen=True)
class Difference:
    """``similarity`` is the Jaccard similarity of the two sets of shingles, ``containment`` the share of the smaller set that
    is in the larger; both of the whole texts, whatever ``hunks`` leave out."""

    similarity: float
    containment: float
    hunks: tuple[Hunk, ...]


def difference(dropped: str, survivor: str, ngram: int = 5) -> Difference:
    """The difference of two texts; of very long ones, that of their beginnings."""
    one, other = _shingles(dropped, ngram), _shingles(survivor, ngram)
    common, smaller = len(one & other), min(len(one), len(other))
    return Difference(
        common / max(1, len(one | other)), common / max(1, smaller), tuple(_hunks(*_tokens(dropped, survivor)))
    )


def _shingles(text: str, ngram: int) -> set[str]:
    words = normalised_words(text)
    return {" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))} if words else set()


def _tokens(dropped: str, survivor: str) -> tuple[list[str], list[str]]:
    one, other = _WORDS.findall(dropped), _WORDS.findall(survivor)
    if max(len(one), len(other)) <= _BY_WORD:
        return one, other
    return _LINES.findall(dropped)[:_BY_LINE], _LINES.findall(survivor)[:_BY_LINE]


def _hunks(dropped: Sequence[str], survivor: Sequence[str]) -> list[Hunk]:
    hunks: list[Hunk] = []
    # White space is not compared: it does not make another text.
    matcher = difflib.SequenceMatcher(None, [t.strip() for t in dropped], [t.strip() for t in survivor], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            hunks.append(Hunk("both", "".join(dropped[a:b])))
            continue
        if b > a:
            hunks.append(Hunk("dropped", "".join(dropped[a:b])))
        if d > c:
            hunks.append(Hunk("survivor", "".join(survivor[c:d])))
    return hunks
