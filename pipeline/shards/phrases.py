"""Phrases in a text, looked up with its suffix array.

A search reads one page each of three arrays from a cold disk. Every ``NODE``-th suffix begins a node of ``nodes``: the first
tokens of that suffix in one number, its key, then for each suffix the first bit in which it differs from the one before.
Some keys lie in memory (``fences``) and tell where in ``nodes`` to look. In a node these bits are a binary trie: they lead to
the suffix that agrees longest with the phrase, if any does (Ferragina and Grossi's String B-tree, 1999, with Ferguson's
bit-tree, 1992). That one is read in the text, and the bit in which it differs tells where the phrase belongs. Tokens count from
1 in these bits, so that the end of the text, 0, comes before each.

Token ids are kept as their lower 16 bits (``low``) and, for vocabularies that need them, 4 higher ones, those of two tokens in
a byte (``high``, else empty).
"""

import numpy as np

from pipeline.kernels import kernel

NODE, FENCED = 64, 32
"""Suffixes to a node, and nodes to a fence: half a page."""
WORDS = 1 + NODE // 8
WIDE = 64
"""Nodes that are gone through bit by bit; of more the text is read, by halves."""
FAR = 255
"""That two suffixes differ in this bit or a later one."""
SHORT = 8
"""Tokens of a match up to which the next start is simply tried, instead of looked for by halves."""


# ---- high bits ------------------------------------------------------------------------------------------------------


def high_of(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """The bits of tokens above the lower 16."""
    if vocab_size <= 1 << 16:
        return np.empty(0, np.uint8)
    halves = np.zeros(-(-len(tokens) // 2) * 2, np.uint8)
    halves[: len(tokens)] = tokens >> 16
    return halves[::2] | halves[1::2] << 4


def whole(low: np.ndarray, high: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Tokens ``begin`` to ``end``."""
    tokens = low[begin:end].astype(np.int64)
    if len(high):
        places = np.arange(begin, begin + len(tokens))
        tokens |= (high[places // 2] >> (places % 2 * 4) & 15).astype(np.int64) << 16
    return tokens


# ---- nodes ----------------------------------------------------------------------------------------------------------


def token_bits(vocab_size: int) -> int:
    return vocab_size.bit_length()


def nodes_of(tokens: np.ndarray, suffixes: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of a suffix array, and their fences."""
    nodes = np.zeros((-(-len(suffixes) // NODE), WORDS), np.uint64)
    _fill(tokens, suffixes, token_bits(vocab_size), nodes)
    return nodes, nodes[::FENCED, 0].copy()


@kernel
def _fill(tokens, suffixes, bits, nodes):  # type: ignore[no-untyped-def]
    for i in range(len(suffixes)):
        place = np.int64(suffixes[i])
        if i % NODE == 0:
            for k in range(64 // bits):
                value = np.uint64(tokens[place + k]) + np.uint64(1) if place + k < len(tokens) else np.uint64(0)
                nodes[i // NODE, 0] = (nodes[i // NODE, 0] << np.uint64(bits)) | value
        if i:
            before, differs, k = np.int64(suffixes[i - 1]), np.int64(FAR), 0
            while k * bits < FAR:
                left = np.int64(tokens[before + k]) + 1 if before + k < len(tokens) else np.int64(0)
                right = np.int64(tokens[place + k]) + 1 if place + k < len(tokens) else np.int64(0)
                if left != right:
                    differs = min(np.int64(k * bits + _leading(left ^ right, bits)), differs)
                    break
                k += 1
            nodes[i // NODE, 1 + i % NODE // 8] |= np.uint64(differs) << np.uint64(8 * (i % 8))


@kernel
def _leading(value, bits):  # type: ignore[no-untyped-def]
    """How many of its ``bits`` are 0 before the first 1."""
    zeros = 0
    while not (value >> (bits - 1 - zeros)) & 1:
        zeros += 1
    return zeros


# ---- search ---------------------------------------------------------------------------------------------------------


@kernel
def token_at(low, high, place):  # type: ignore[no-untyped-def]
    if len(high):
        return np.int64(low[place]) | (np.int64(high[place // 2] >> (place % 2 * 4) & 15) << 16)
    return np.int64(low[place])


@kernel
def _common(low, high, query, begin, end, place):  # type: ignore[no-untyped-def]
    """How many tokens of ``query[begin:end]`` stand at a place."""
    k = 0
    while begin + k < end and place + k < len(low) and token_at(low, high, place + k) == query[begin + k]:
        k += 1
    return k


@kernel
def _precedes(low, high, query, begin, end, place, common, after):  # type: ignore[no-untyped-def]
    """Whether a place comes before the bound of a phrase that it has so many tokens in common with."""
    if begin + common == end:
        return after
    return place + common == len(low) or token_at(low, high, place + common) < query[begin + common]


@kernel
def _key(query, begin, end, bits, filling):  # type: ignore[no-untyped-def]
    key = np.uint64(0)
    for k in range(64 // bits):
        value = np.uint64(query[begin + k] + 1) if begin + k < end else np.uint64(filling)
        key = (key << np.uint64(bits)) | value
    return key


@kernel
def _nodes_before(nodes, fences, key, equal):  # type: ignore[no-untyped-def]
    """How many nodes have a lesser key, or an equal one."""
    below, above = 0, len(fences)
    while below < above:
        middle = (below + above) // 2
        if fences[middle] < key or (equal and fences[middle] == key):
            below = middle + 1
        else:
            above = middle
    below, above = max((below - 1) * FENCED + 1, 0), min(below * FENCED, len(nodes))
    while below < above:
        middle = (below + above) // 2
        if nodes[middle, 0] < key or (equal and nodes[middle, 0] == key):
            below = middle + 1
        else:
            above = middle
    return below


@kernel
def _differs(nodes, i):  # type: ignore[no-untyped-def]
    """The first bit in which suffix ``i`` differs from the one before."""
    return np.int64((nodes[i // NODE, 1 + i % NODE // 8] >> np.uint64(8 * (i % 8))) & np.uint64(FAR))


@kernel
def _likeliest(nodes, query, begin, end, bits, after, first, last):  # type: ignore[no-untyped-def]
    """Of suffixes ``first`` to ``last`` one that agrees with the phrase in more bits than any, as far as bits are known."""
    size = (end - begin) * bits
    chosen, passing = first, FAR + 1
    for i in range(first + 1, last + 1):
        bit = _differs(nodes, i)
        if bit >= passing:  # a branch of the trie that the phrase is not in
            continue
        if bit >= size:
            is_set = after
        elif bit == FAR:
            is_set = False
        else:
            is_set = ((query[begin + bit // bits] + 1) >> (bits - 1 - bit % bits)) & 1 == 1
        if is_set:
            chosen, passing = i, FAR + 1
        else:
            passing = bit
    return chosen


@kernel
def _halved(low, high, suffixes, query, begin, end, after, below, above, step):  # type: ignore[no-untyped-def]
    """The bound of a phrase between every ``step``-th suffix, by reading the text; and how far those at it agree."""
    left = right = 0
    while above - below > 1:
        middle = (below + above) // 2
        place = np.int64(suffixes[middle * step])
        common = _common(low, high, query, begin, end, place)
        if _precedes(low, high, query, begin, end, place, common, after):
            below, left = middle, common
        else:
            above, right = middle, common
    return below, above, max(left, right)


@kernel
def _bound(low, high, suffixes, nodes, fences, query, begin, end, bits, after):  # type: ignore[no-untyped-def]
    """How many suffixes come before a phrase, or with ``after`` before what follows all that begin with it; and how many of
    its tokens stand anywhere at most."""
    if len(suffixes) == 0:
        return 0, 0
    filling = (np.uint64(1) << np.uint64(bits)) - np.uint64(1) if after else np.uint64(0)
    key = _key(query, begin, end, bits, filling)
    if begin + 64 // bits > end:  # the key is all of the phrase
        above = _nodes_before(nodes, fences, key, after)
        below = above - 1
    else:
        below = _nodes_before(nodes, fences, key, False) - 1
        above = _nodes_before(nodes, fences, key, True)
    if above - below > WIDE:
        below, above, _ = _halved(low, high, suffixes, query, begin, end, after, below, above, NODE)
    first, last = max(below * NODE, 0), min(above * NODE, len(suffixes) - 1)
    at = _likeliest(nodes, query, begin, end, bits, after, first, last)
    place = np.int64(suffixes[at])
    common = _common(low, high, query, begin, end, place)
    precedes = _precedes(low, high, query, begin, end, place, common, after)
    bit = (end - begin) * bits
    if begin + common < end:
        found = token_at(low, high, place + common) + 1 if place + common < len(low) else np.int64(0)
        bit = common * bits + _leading(found ^ (query[begin + common] + 1), bits)
    if bit >= FAR and (end - begin) * bits > FAR:  # it may agree longer with others that the trie does not tell apart
        past = at + 1
        while past <= last and _differs(nodes, past) == FAR:
            past += 1
        _, at, longest = _halved(low, high, suffixes, query, begin, end, after, at - 1, past, 1)
        return at, max(longest, common)
    # All that agree with it in this bit, too, lie on the same side of the phrase.
    if precedes:
        at += 1
        while at <= last and _differs(nodes, at) > bit:
            at += 1
    else:
        while at > first and _differs(nodes, at) > bit:
            at -= 1
    return at, common


@kernel
def maximal(low, high, suffixes, nodes, fences, query, bits, begin, until, spans):  # type: ignore[no-untyped-def]
    """The longest phrases of ``query`` that stand in the text, none of them within another, and begin before ``until``.

    Fills ``spans`` (n, 2) with their begins and ends, and returns how many there are.
    """
    size = len(query)
    written = 0
    reached = 0
    while begin < until:
        _, length = _bound(low, high, suffixes, nodes, fences, query, begin, size, bits, False)
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
            _, length = _bound(low, high, suffixes, nodes, fences, query, middle, end + 1, bits, False)
            if length == end + 1 - middle:
                holds = middle
            else:
                fails = middle
        begin = holds
    return written


@kernel
def ranges(low, high, suffixes, nodes, fences, query, spans, bits, found):  # type: ignore[no-untyped-def]
    """For each phrase ``query[begin:end]`` of ``spans`` the suffixes that begin with it: ``found[i] = first, past the last``."""
    for i in range(len(spans)):
        begin, end = spans[i, 0], spans[i, 1]
        first, length = _bound(low, high, suffixes, nodes, fences, query, begin, end, bits, False)
        found[i, 0] = found[i, 1] = first
        if length == end - begin:
            found[i, 1], _ = _bound(low, high, suffixes, nodes, fences, query, begin, end, bits, True)


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
