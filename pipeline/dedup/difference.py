"""How two texts differ, for a reader who asks why one was dropped for the other.

The texts are aligned word by word (line by line if they are long) and told as *hunks*: runs that both have, that only the
dropped one has, or that only the survivor has. What is looked at for it is bounded: texts made to be hard to align end in one
hunk of what is left of each.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.words import normalised_words

_BY_WORD = 4_000
_BY_LINE = 20_000
_PAIRS = 1_500_000
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
    return Difference(common / max(1, len(one | other)), common / max(1, smaller), hunks(dropped, survivor))


def hunks(dropped: str, survivor: str) -> tuple[Hunk, ...]:
    """The alignment alone: of a text and another, or of a text before and after."""
    return tuple(_hunks(*_tokens(dropped, survivor)))


def _shingles(text: str, ngram: int) -> set[str]:
    words = normalised_words(text)
    return {" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))} if words else set()


def _tokens(dropped: str, survivor: str) -> tuple[list[str], list[str]]:
    one, other = _WORDS.findall(dropped), _WORDS.findall(survivor)
    if max(len(one), len(other)) <= _BY_WORD:
        return one, other
    return _LINES.findall(dropped)[:_BY_LINE], _LINES.findall(survivor)[:_BY_LINE]


def _hunks(dropped: Sequence[str], survivor: Sequence[str]) -> Iterator[Hunk]:
    # White space is not compared: it does not make another text.
    one, other = [t.strip() for t in dropped], [t.strip() for t in survivor]
    frequent = sum(number * other.count(token) for token, number in Counter(one).most_common(20))
    matcher = _Bounded(None, one, other, autojunk=frequent > _PAIRS // 10)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            yield Hunk("both", "".join(dropped[a:b]))
            continue
        if b > a:
            yield Hunk("dropped", "".join(dropped[a:b]))
        if d > c:
            yield Hunk("survivor", "".join(survivor[c:d]))


class _Bounded(difflib.SequenceMatcher[str]):
    """Stops looking for more in common when it has compared so many pairs of tokens."""

    a: Sequence[str]
    b2j: Mapping[str, Sequence[int]]
    spent = 0

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Any:
        self.spent += sum(len(self.b2j.get(token, ())) for token in self.a[alo:ahi])
        if self.spent > _PAIRS:
            return difflib.Match(alo, blo, 0)
        return super().find_longest_match(alo, ahi, blo, bhi)
