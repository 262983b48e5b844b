"""Suffix arrays: building one by induced sorting, and searching the text with it.

A suffix array lists the places of a text in the order of what stands from there on, so that all places where a phrase
occurs lie side by side. It is built by SA-IS (Nong, Zhang and Chan, 2009): linear in time whatever repeats, some 15 bytes
of memory a token. Four bytes a token are kept.

``keys`` hold the first tokens of every ``STRIDE``-th suffix in one number: a search reads those, then one stretch of the
suffix array, and only a handful of places of the text itself. From a cold disk that is what counts.

Token ids are kept as their lower 16 bits (``low``) and, for vocabularies that need them, 8 higher ones (``high``, else empty).
"""

import numpy as np

from infra.errors import InputError
from pipeline.kernels import kernel

MOST_TOKENS = (1 << 31) - 2
STRIDE = 64
SHORT = 8
"""Tokens of a match up to which the next start is simply tried, instead of looked for by halves."""


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


# ---- keys -----------------------------------------------------------------------------------------------------------


def key_shape(vocab_size: int) -> tuple[int, int]:
    """How many tokens a key holds, and the bits of each."""
    return (4, 16) if vocab_size <= 1 << 16 else (2, 24)


def keys_of(tokens: np.ndarray, suffixes: np.ndarray, vocab_size: int) -> np.ndarray:
    """The first tokens of every ``STRIDE``-th suffix; what is beyond the end counts as 0."""
    number, bits = key_shape(vocab_size)
    chosen = suffixes[::STRIDE].astype(np.int64)
    keys = np.zeros(len(chosen), np.uint64)
    for k in range(number):
        inside = chosen + k < len(tokens)
        values = np.zeros(len(chosen), np.uint64)
        values[inside] = tokens[chosen[inside] + k]
        keys = (keys << np.uint64(bits)) | values
    return keys


# ---- search ---------------------------------------------------------------------------------------------------------


@kernel
def token_at(low, high, place):  # type: ignore[no-untyped-def]
    if len(high):
        return np.int64(low[place]) | (np.int64(high[place]) << 16)
    return np.int64(low[place])


@kernel
def _common(low, high, query, begin, end, place, known):  # type: ignore[no-untyped-def]
    """How many tokens of ``query[begin:end]`` stand at a place; ``known`` of them do."""
    k = known
    while begin + k < end and place + k < len(low) and token_at(low, high, place + k) == query[begin + k]:
        k += 1
    return k


@kernel
def _key(query, begin, end, number, bits, filling):  # type: ignore[no-untyped-def]
    key = np.uint64(0)
    for k in range(number):
        value = np.uint64(query[begin + k]) if begin + k < end else np.uint64(filling)
        key = (key << np.uint64(bits)) | value
    return key


@kernel
def _stretch(keys, size, query, begin, end, number, bits):  # type: ignore[no-untyped-def]
    """Bounds ``low < high``: every suffix up to ``low`` is less than the phrase, every one from ``high`` on is greater."""
    least = _key(query, begin, end, number, bits, 0)
    most = _key(query, begin, end, number, bits, (np.uint64(1) << np.uint64(bits)) - np.uint64(1))
    first = np.searchsorted(keys, least, side="left")
    last = np.searchsorted(keys, most, side="right")
    return np.int64(first - 1) * STRIDE if first else np.int64(-1), min(np.int64(last) * STRIDE, np.int64(size))


@kernel
def _first(low, high, suffixes, keys, query, begin, end, number, bits):  # type: ignore[no-untyped-def]
    """The first suffix that is not less than the phrase, and how many tokens of it stand anywhere at most."""
    below, above = _stretch(keys, len(suffixes), query, begin, end, number, bits)
    left = right = np.int64(-1)  # tokens in common with the suffixes at the bounds; not looked at yet
    while above - below > 1:
        middle = (below + above) // 2
        place = np.int64(suffixes[middle])
        common = _common(low, high, query, begin, end, place, max(min(left, right), np.int64(0)))
        ended = place + common == len(low)
        if begin + common < end and (ended or token_at(low, high, place + common) < query[begin + common]):
            below, left = middle, common
        else:
            above, right = middle, common
    if left < 0 and below >= 0:
        left = _common(low, high, query, begin, end, np.int64(suffixes[below]), np.int64(0))
    if right < 0 and above < len(suffixes):
        right = _common(low, high, query, begin, end, np.int64(suffixes[above]), np.int64(0))
    return above, max(left, right, np.int64(0))


@kernel
def maximal(low, high, suffixes, keys, query, number, bits, begin, until, spans):  # type: ignore[no-untyped-def]
    """The longest phrases of ``query`` that stand in the text, none of them within another, and begin before ``until``.

    Fills ``spans`` (n, 2) with their begins and ends, and returns how many there are.
    """
    size = len(query)
    written = 0
    reached = 0
    while begin < until:
        _, length = _first(low, high, suffixes, keys, query, begin, size, number, bits)
        end = begin + length
        if end > reached and length > 0:
            spans[written, 0] = begin
            spans[written, 1] = end
            written += 1
        reached = max(reached, end)
        if end == size:
            break
        if length <= SHORT:
            begin += 1
            continue
        # The next one must hold the token that ended this one. What holds for a start holds for every later one.
        fails, holds = begin, end + 1
        while holds - fails > 1:
            middle = (fails + holds) // 2
            _, length = _first(low, high, suffixes, keys, query, middle, end + 1, number, bits)
            if length == end + 1 - middle:
                holds = middle
            else:
                fails = middle
        begin = holds
    return written


@kernel
def ranges(low, high, suffixes, keys, query, spans, number, bits, found):  # type: ignore[no-untyped-def]
    """For each phrase ``query[begin:end]`` of ``spans`` the suffixes that begin with it: ``found[i] = first, past the last``."""
    for i in range(len(spans)):
        begin, end = spans[i, 0], spans[i, 1]
        first, length = _first(low, high, suffixes, keys, query, begin, end, number, bits)
        found[i, 0] = found[i, 1] = first
        if length < end - begin:
            continue
        _, above = _stretch(keys, len(suffixes), query, begin, end, number, bits)
        below = first
        while above - below > 1:
            middle = (below + above) // 2
            if _common(low, high, query, begin, end, np.int64(suffixes[middle]), np.int64(0)) == end - begin:
                below = middle
            else:
                above = middle
        found[i, 1] = above


@kernel
def grow(low, high, places, length, limits, data, offsets, asked, floor, begin, end, grown):  # type: ignore[no-untyped-def]
    """How far the bytes around phrases of the text agree with those around a phrase that was asked for.

    At each of ``places`` stand ``length`` tokens that are ``asked[begin:end]``; ``limits`` are the ids below which a token
    is no text, and ends it; ``floor`` is the first byte of ``asked`` that counts. ``grown[i]``: the first and past the last
    byte of ``asked`` that agree, then the token of the text where they begin and the byte of it, then the token after their
    last.
    """
    for i in range(len(places)):
        place, byte = np.int64(places[i]), np.int64(0)
        left, right = np.int64(begin), np.int64(end)
        while byte == 0 and left > floor and place > 0:
            token = token_at(low, high, place - 1)
            if token < limits:
                break
            start, stop = np.int64(offsets[token]), np.int64(offsets[token + 1])
            k = stop
            while k > start and left > floor and data[k - 1] == asked[left - 1]:
                k -= 1
                left -= 1
            if k == stop:
                break
            place -= 1
            byte = k - start
        while left < floor:
            left += 1
            byte += 1
            token = token_at(low, high, place)
            if byte == np.int64(offsets[token + 1]) - np.int64(offsets[token]):
                place += 1
                byte = np.int64(0)
        grown[i, 0], grown[i, 2], grown[i, 3] = left, place, byte
        place = np.int64(places[i]) + length
        agree = True
        while agree and right < len(asked) and place < len(low):
            token = token_at(low, high, place)
            if token < limits:
                break
            start, stop = np.int64(offsets[token]), np.int64(offsets[token + 1])
            k = start
            while k < stop and right < len(asked) and data[k] == asked[right]:
                k += 1
                right += 1
            agree = k == stop
            if k > start:
                place += 1
        grown[i, 1], grown[i, 4] = right, place
