"""Spans of a text that should not be learnt, found, resolved and masked.

A finder yields spans of one kind. Where spans overlap, the one of the kind that stands first in ``KINDS`` stays (a
private key may contain digits that look like a telephone number, never the other way round).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.redact.banking import find_credit_cards, find_ibans
from pipeline.redact.contact import find_ips, find_phones
from pipeline.redact.emails import find_emails
from pipeline.redact.secrets import find_secrets

Finder = Callable[[str], Iterator[tuple[int, int]]]

FINDERS: Mapping[str, Finder] = {
    "secret": find_secrets,
    "email": find_emails,
    "iban": find_ibans,
    "credit_card": find_credit_cards,
    "ip": find_ips,
    "phone": find_phones,
}
KINDS = tuple(FINDERS)
MASKS = {
    "secret": "<SECRET>",
    "email": "<EMAIL>",
    "iban": "<IBAN>",
    "credit_card": "<CREDIT_CARD>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE>",
}


@dataclass(frozen=True, order=True)
class Span:
    """Code points ``start`` to ``end`` of the text as it came."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class OutsideFinder:
    """A finder of another package: spans of one kind, and what stands in their place."""

    kind: str
    mask: str
    find: Finder


def find_spans(text: str, kinds: tuple[str, ...] = KINDS, others: Sequence[OutsideFinder] = ()) -> list[Span]:
    """The spans of these kinds, and of other packages' finders behind them, without overlaps, in the order of the text."""
    taken: list[Span] = []
    for kind, find in [*FINDERS.items(), *((other.kind, other.find) for other in others)]:
        if kind in kinds or kind not in FINDERS:
            for start, end in find(text):
                place = bisect_left(
                    taken, start, key=lambda span: span.end - 1
                )  # the first span that ends behind start
                if place == len(taken) or taken[place].start >= end:
                    taken.insert(place, Span(start, end, kind))
    return taken


def mask(text: str, spans: list[Span], others: Sequence[OutsideFinder] = ()) -> str:
    """The text with every span replaced by the name of its kind."""
    masks = MASKS | {other.kind: other.mask for other in others}
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], masks[span.kind]]
        position = span.end
    return "".join([*pieces, text[position:]])
