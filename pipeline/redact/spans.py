"""Spans of a text that should not be learnt, found, resolved and masked.

A finder yields spans of one kind. Where spans overlap, the one of the kind that stands first in ``KINDS`` stays (a
private key may contain digits that look like a telephone number, never the other way round).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from infra.errors import ConfigError
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


class FinderFailed(Exception):
    """A finder of another package broke on a text: what it holds is not known, so the text goes no further."""


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
            for start, end in find(text) if kind in FINDERS else _theirs(kind, find, text):
                place = bisect_left(
                    taken, start, key=lambda span: span.end - 1
                )  # the first span that ends behind start
                if place == len(taken) or taken[place].start >= end:
                    taken.insert(place, Span(start, end, kind))
    return taken


def _theirs(kind: str, find: Finder, text: str) -> list[tuple[int, int]]:
    """The spans of another package's finder. Raises FinderFailed where it broke on this text, ConfigError for what is no span."""
    try:
        found: Any = find(text)
        given = list(found) if isinstance(found, Iterable) else [found]
    except Exception as error:
        raise FinderFailed(f"{kind}: {type(error).__name__}: {error}") from error
    spans = []
    for span in given:
        try:
            start, end = map(index, span)
        except (TypeError, ValueError):
            start, end = -1, -1
        if not 0 <= start < end <= len(text):
            raise ConfigError(
                f"the finder of {kind!r} gives {span!r} in a text of {len(text)} characters",
                where="redact.finders",
                remedy="Give spans (start, end) of at least one character, within the text; of nothing found, none.",
            )
        spans.append((start, end))
    return spans


def find_all(text: str, kinds: tuple[str, ...] = KINDS, others: Sequence[OutsideFinder] = ()) -> list[Span]:
    """As ``find_spans``, and what comes to light once those are masked: in ``KEY-----ada@firm.de`` behind a private key the
    address, whose beginning was the key's."""
    spans: list[Span] = []
    found = find_spans(text, kinds, others)
    while found != spans:
        spans = found
        more = [_in_original(span, spans, others) for span in find_spans(mask(text, spans, others), kinds, others)]
        apart = [span for span in spans if not any(new.start < span.end and span.start < new.end for new in more)]
        found = sorted([*apart, *more])
    return spans


def _in_original(span: Span, masked: list[Span], others: Sequence[OutsideFinder]) -> Span:
    """A span of the masked text where it lies in the text as it came; of a mask that it touches, all it stands for."""
    masks = _masks(others)
    start: int | None = None
    grown = 0  # by how much the masks so far are longer than what they stand for
    for earlier in masked:
        first = earlier.start + grown
        last = first + len(masks[earlier.kind])
        if start is None and span.start < last:
            start = min(span.start - grown, earlier.start)
        if span.end <= first:
            break
        if span.end <= last:
            return Span(start or 0, earlier.end, span.kind)
        grown += last - first - (earlier.end - earlier.start)
    return Span(span.start - grown if start is None else start, span.end - grown, span.kind)


def mask(text: str, spans: list[Span], others: Sequence[OutsideFinder] = ()) -> str:
    """The text with every span replaced by the name of its kind."""
    masks = _masks(others)
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], masks[span.kind]]
        position = span.end
    return "".join([*pieces, text[position:]])


def _masks(others: Sequence[OutsideFinder]) -> dict[str, str]:
    return MASKS | {other.kind: other.mask for other in others}
