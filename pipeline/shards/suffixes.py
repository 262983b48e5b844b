"""Suffix arrays, built by induced sorting.

A suffix array lists the places of a text in the order of what stands from there on, so that all places where a phrase
occurs lie side by side. It is built by SA-IS (Nong, Zhang and Chan, 2009): linear in time whatever repeats, some 15 bytes
of memory a token. Four bytes a token are kept.
"""

import numpy as np

from infra.errors import InputError
from pipeline.kernels import kernel

MOST_TOKENS = (1 << 31) - 2


def suffix_array(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """The places of ``tokens`` in the order of their suffixes; the end of the text comes before every token."""
    if len(tokens) > MOST_TOKENS:
        raise InputError(
            f"a shard of {len(tokens):,} tokens is too long for an index",
            where="index",
            remedy=f"Run the shards stage with bucket_tokens of at most {MOST_TOKENS:,}.",
        )
    text = np.empty(len(tokens) + 1, np.int32)
    np.add(tokens, 1, out=text[:-1], casting="unsafe")
    text[-1] = 0
    return _sorted(text, vocab_size + 1)[1:].view(np.uint32)


def _sorted(text: np.ndarray, alphabet: int) -> np.ndarray:
    """SA-IS over a text whose last value is its only 0. Each level is at most half as long as the one above."""
    counts = np.bincount(text, minlength=alphabet).astype(np.int32)
    rising = np.empty(len(text), np.uint8)
    found = np.empty(len(text), np.int32)
    _classify(text, rising)
    _place_leftmost(text, rising, counts, found)
    _induce(text, counts, found)
    number, names = _name(text, rising, found)
    reduced = found[number:]
    reduced = reduced[reduced >= 0]
    if names == number:
        order = np.empty(number, np.int32)
        order[reduced] = np.arange(number, dtype=np.int32)
    else:
        order = _sorted(reduced, names)
    _place_sorted(text, rising, counts, order, found)
    _induce(text, counts, found)
    return found


# ---- SA-IS ----------------------------------------------------------------------------------------------------------
# A suffix rises if it is less than the next one; a *leftmost* one rises while the one before it does not.


@kernel
def _classify(text, rising):  # type: ignore[no-untyped-def]  # compiled: types come from the call
    last = len(text) - 1
    rising[last] = 1
    for i in range(last - 1, -1, -1):
        rising[i] = text[i] < text[i + 1] or (text[i] == text[i + 1] and rising[i + 1])


@kernel
def _place_leftmost(text, rising, counts, found):  # type: ignore[no-untyped-def]
    """Leftmost suffixes at the ends of the buckets of their first values, in any order."""
    tails = np.cumsum(counts)
    found[:] = -1
    for i in range(1, len(text)):
        if rising[i] and not rising[i - 1]:
            tails[text[i]] -= 1
            found[tails[text[i]]] = i


@kernel
def _place_sorted(text, rising, counts, order, found):  # type: ignore[no-untyped-def]
    """Leftmost suffixes at the ends of their buckets, in their final order."""
    places = np.empty(len(order), np.int32)
    number = 0
    for i in range(1, len(text)):
        if rising[i] and not rising[i - 1]:
            places[number] = i
            number += 1
    tails = np.cumsum(counts)
    found[:] = -1
    for i in range(number - 1, -1, -1):
        place = places[order[i]]
        tails[text[place]] -= 1
        found[tails[text[place]]] = place


@kernel
def _induce(text, counts, found):  # type: ignore[no-untyped-def]
    """From the leftmost suffixes all that fall, from left to right; from these all that rise, from right to left."""
    tails = np.cumsum(counts)
    heads = tails - counts
    for i in range(len(found)):
        place = found[i] - 1
        if place >= 0 and text[place] >= text[place + 1]:
            found[heads[text[place]]] = place
            heads[text[place]] += 1
    for i in range(len(found) - 1, -1, -1):
        place = found[i] - 1
        if place >= 0:
            value = text[place]
            following = text[place + 1]
            # Of two equal values the first rises if the second does: if it stands in the part that is filled already.
            if value < following or (value == following and tails[following] <= i):
                tails[value] -= 1
                found[tails[value]] = place


@kernel
def _name(text, rising, found):  # type: ignore[no-untyped-def]
    """Number what stands between leftmost suffixes, in order: equal pieces alike. The names go behind the sorted places."""
    number = 0
    for i in range(len(found)):
        place = found[i]
        if place > 0 and rising[place] and not rising[place - 1]:
            found[number] = place
            number += 1
    found[number:] = -1
    names = 0
    before = -1
    for i in range(number):
        place = found[i]
        if before < 0 or not _alike(text, rising, before, place):
            names += 1
        found[number + place // 2] = names - 1
        before = place
    return number, names


@kernel
def _alike(text, rising, left, right):  # type: ignore[no-untyped-def]
    last = len(text) - 1
    k = 0
    while True:
        if left + k > last or right + k > last or text[left + k] != text[right + k]:
            return False
        if rising[left + k] != rising[right + k]:
            return False
        if k > 0:
            first = rising[left + k] and not rising[left + k - 1]
            second = rising[right + k] and not rising[right + k - 1]
            if first and second:
                return True
            if first or second:
                return False
        k += 1
