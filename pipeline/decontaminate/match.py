"""The verdict on one document: which of its parts are in which evaluation items.

Two things count. A *paragraph* of the document whose n-grams are to a large share in evaluation items; and an *item*
a large share of whose field's n-grams is in the document, wherever paragraphs end. Each match names the item it shares
most n-grams with.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.decontaminate.config import DecontaminateConfig
from pipeline.decontaminate.index import Index
from pipeline.decontaminate.table import IGNORED, look_up
from pipeline.ngrams import Analyzer


@dataclass(frozen=True)
class Match:
    """One overlap. ``spans`` are bytes of the document's text, merged and in order."""

    kind: str
    entry: int
    matched: int
    total: int
    spans: tuple[tuple[int, int], ...]

    @property
    def overlap(self) -> float:
        return self.matched / self.total


def matches(
    data: NDArray[np.uint8], begin: int, end: int, analyzer: Analyzer, index: Index, config: DecontaminateConfig
) -> list[Match]:
    """Every overlap of a text that reaches the threshold, the largest first."""
    words = analyzer.words(data, begin, end)
    grams, letters = analyzer.ngrams(0, words)
    found = _found(grams, letters, index)
    bounds = analyzer.parts(data, begin, words, 2)
    where = [
        (int(s), int(e))
        for s, e in zip(analyzer.buffers.source_start, analyzer.buffers.source_end[:words], strict=False)
    ]
    result = _item_matches(found, where, index, config)
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if last - first >= config.ngram:
            part = found[first : last - config.ngram + 1]
        elif last - first >= config.short_words:
            part = _found(*analyzer.ngrams(first, last), index)
        else:
            continue
        match = _paragraph_match(part, (where[first][0], where[last - 1][1]), index, config)
        if match:
            result.append(match)
    return sorted(result, key=lambda match: (-match.overlap, -match.matched, match.entry, match.kind))


def _found(grams: NDArray[np.uint64], letters: NDArray[np.bool_], index: Index) -> NDArray[np.int64]:
    found = np.empty(len(grams), np.int64)
    look_up(grams, len(grams), index.keys, index.values, found)
    found[~letters] = IGNORED
    return found


def _paragraph_match(
    found: NDArray[np.int64], span: tuple[int, int], index: Index, config: DecontaminateConfig
) -> Match | None:
    total = int((found != IGNORED).sum())
    matched = int((found >= 0).sum())
    if matched == 0 or matched < config.overlap * total:
        return None
    sharing = Counter(int(entry) for k in found[found >= 0] for entry in index.entries_of(k))
    best = min(sharing, key=lambda entry: (-sharing[entry], entry))
    return Match("paragraph", best, matched, total, (span,))


def _item_matches(
    found: NDArray[np.int64], where: list[tuple[int, int]], index: Index, config: DecontaminateConfig
) -> list[Match]:
    positions: dict[int, dict[int, list[int]]] = {}
    for at in np.flatnonzero(found >= 0).tolist():
        for entry in index.entries_of(found[at]).tolist():
            positions.setdefault(entry, {}).setdefault(int(found[at]), []).append(at)
    result = []
    for entry, grams in sorted(positions.items()):
        total = int(index.sizes[entry])
        if len(grams) >= config.overlap * total:
            starts = sorted(at for places in grams.values() for at in places)
            spans = _merged((where[at][0], where[min(at + config.ngram, len(where)) - 1][1]) for at in starts)
            result.append(Match("item", entry, len(grams), total, spans))
    return result


def _merged(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for begin, end in spans:
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return tuple(merged)


def without(data: bytes, found: list[Match]) -> bytes:
    """The text with every matching part cut out; what remains is joined by a blank line."""
    spans = _merged(sorted(span for match in found for span in match.spans))
    kept, at = [], 0
    for begin, end in spans:
        kept.append(data[at:begin])
        at = end
    kept.append(data[at:])
    return b"\n\n".join(part.strip() for part in kept if part.strip())
