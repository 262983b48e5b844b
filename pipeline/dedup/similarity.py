"""The true similarity of pairs of documents, on their sets of shingles.

Sets are read in batches that fit the budget; a set needed by many pairs of a batch (the centre of a large group) is read
once. For each first document its shingles go into a hash table, and each partner's shingles are looked up in it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.dedup import corpus as c
from pipeline.dedup.corpus import Corpus
from pipeline.kernels import kernel

Pairs = NDArray[np.uint64]
_CARD_BYTES = c.CARD * 8


def similarities(
    corpus: Corpus, pairs: Pairs, measure: str, threshold: float, budget: int, enough: int = 0
) -> NDArray[np.float64]:
    """The similarity of each pair (first, second); pairs of one first document stand together.

    ``enough`` > 0: after so many pairs of a document reached the threshold its further ones are not compared. Pairs not
    compared, and pairs whose sizes alone rule the threshold out, get 0.
    """
    result = np.zeros(len(pairs))
    for part in _batches(corpus, pairs, budget):
        documents, position = np.unique(pairs[part], return_inverse=True)
        position = position.reshape(-1, 2)
        cards = corpus.cards(documents)
        shingles = corpus.shingles(documents, cards)
        sizes = cards[:, c.COUNT].astype(np.int64)
        compare(
            position,
            np.cumsum(sizes) - sizes,
            sizes,
            shingles,
            measure == "containment",
            threshold,
            enough,
            result[part],
        )
    return result


def _batches(corpus: Corpus, pairs: Pairs, budget: int) -> Iterator[slice]:
    """Runs of whole first documents whose shingles fit the budget together."""
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:, 0] != pairs[:-1, 0]])) if len(pairs) else np.empty(0, int)
    ends = np.concatenate([starts[1:], [len(pairs)]])
    rows = max(1, budget // (8 * _CARD_BYTES))
    at = 0
    while at < len(starts):
        # First by number of rows, then by what their shingles weigh.
        last = max(at + 1, int(np.searchsorted(starts, starts[at] + rows)))
        documents, inverse = np.unique(pairs[starts[at] : ends[last - 1]], return_inverse=True)
        weight = corpus.cards(documents)[:, c.COUNT].astype(np.int64) * 4
        inverse = inverse.reshape(-1, 2)
        seen = np.zeros(len(documents), np.bool_)
        fits = _fitting(inverse, starts[at:last] - starts[at], weight, seen, budget // 2)
        yield slice(int(starts[at]), int(ends[at + fits - 1]))
        at += fits


@kernel
def _fitting(position, starts, weight, seen, budget):  # type: ignore[no-untyped-def]
    """How many of the groups beginning at ``starts`` fit, counting each document once; at least one."""
    total = 0
    for group in range(len(starts)):
        end = starts[group + 1] if group + 1 < len(starts) else len(position)
        for row in range(starts[group], end):
            for side in range(2):
                document = position[row, side]
                if not seen[document]:
                    seen[document] = True
                    total += weight[document]
        if total > budget and group > 0:
            return group
    return len(starts)


@kernel
def compare(position, first, sizes, shingles, containment, threshold, enough, result):  # type: ignore[no-untyped-def]
    """Similarities of pairs of positions; document ``p`` has ``shingles[first[p]:first[p] + sizes[p]]``."""
    table = np.zeros(1 << 12, np.uint64)
    generation = np.uint64(0)
    mask = np.uint32(0)
    current = -1
    reached = 0
    for row in range(len(position)):
        u = position[row, 0]
        v = position[row, 1]
        if u != current:
            current = u
            reached = 0
            slots = 1 << 12
            while slots < 2 * sizes[u]:
                slots *= 2
            if slots > len(table):
                table = np.zeros(slots, np.uint64)
                generation = np.uint64(0)
            mask = np.uint32(slots - 1)
            # Entries of earlier documents carry an earlier generation: no need to clear the table.
            generation += np.uint64(1 << 32)
            for i in range(first[u], first[u] + sizes[u]):
                value = shingles[i]
                slot = np.uint32(value ^ (value >> np.uint32(16))) & mask
                while table[slot] >= generation:
                    slot = (slot + np.uint32(1)) & mask
                table[slot] = generation | np.uint64(value)
        if enough > 0 and reached >= enough:
            continue
        small = min(sizes[u], sizes[v])
        large = max(sizes[u], sizes[v])
        if small == 0 or (not containment and small < threshold * large):
            continue
        common = 0
        for i in range(first[v], first[v] + sizes[v]):
            value = shingles[i]
            entry = generation | np.uint64(value)
            slot = np.uint32(value ^ (value >> np.uint32(16))) & mask
            while table[slot] >= generation:
                if table[slot] == entry:
                    common += 1
                    break
                slot = (slot + np.uint32(1)) & mask
        if containment:
            result[row] = common / small
        else:
            result[row] = common / (sizes[u] + sizes[v] - common)
        if result[row] >= threshold:
            reached += 1
