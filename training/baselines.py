"""What a model must beat on the same held-out rows: counting, and a compressor.

    5-gram      interpolated Kneser-Ney with modified discounts (Chen and Goodman, 1998) over the training shards' tokens
    xz -9       bits a byte of the rows' texts of each source; it sees nothing but those texts

As for the decoder, a piece of a document in a row begins without a past and its first token is no target. The n-gram's
probabilities of all tokens sum to one after any context.

An n-gram is known by its rank among those of its length that occur: the one that ends at a token is ranked by (token at
its left end, rank of the rest), so that sorting integers is all there is to counting, nothing is hashed, and the
suffix is at hand. The context of the one that ends at ``i`` is the shorter one that ends at ``i - 1``.
"""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.shards.reader import RowBatch, ShardSet
from pipeline.tokenizer import SPECIALS, Tokenizer
from training.scoring import RowScores

Array = np.ndarray


@dataclass(frozen=True)
class _Level:
    """All n-grams of one length that occur, by their rank."""

    keys: Array
    """Sorted: token at the left end times the number of shorter n-grams, plus the rank of the rest."""
    shorter: int
    """How many n-grams there are with one token less."""
    discounted: Array
    """Count less its discount; 0 for those that end in a beginning."""
    total: Array
    """By the context's rank: what stood behind it."""
    left_over: Array
    """By the context's rank: share of probability for what did not."""

    def ranks(self, left: Array, rest: Array) -> Array:
        """Of n-grams that may not occur: -1."""
        wanted = left * self.shorter + rest
        found = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((rest >= 0) & (self.keys[found] == wanted), found, -1)


@dataclass(frozen=True)
class NgramModel:
    """Counts of a token stream. Token 0 here stands for a beginning; the tokenizer's ids follow from 1 on."""

    levels: list[_Level]
    vocabulary: int

    def nats(self, stream: Array) -> Array:
        """Loss of each token of a stream after its context."""
        chance = np.full(len(stream), 1.0 / self.vocabulary)
        rank = np.zeros(len(stream), dtype=np.int64)
        context = rank
        for number, level in enumerate(self.levels):
            left = _shifted(stream, number)
            context, rank = _shifted(rank, 1), level.ranks(left, rank)
            known = (context >= 0) & (level.total[context] > 0)
            total = level.total[context][known]
            own = np.where(rank >= 0, level.discounted[rank], 0.0)[known]
            chance[known] = own / total + level.left_over[context][known] * chance[known]
        loss: Array = -np.log(chance)
        return loss


def count_ngrams(stream: Array, vocabulary: int, order: int = 5) -> NgramModel:
    """The model of a stream in which every piece is preceded by ``order - 1`` beginnings."""
    ranks, keys, shorter = [np.zeros(len(stream), dtype=np.int64)], [], [1]
    for number in range(order):
        found, rank = np.unique(_shifted(stream, number) * shorter[-1] + ranks[-1], return_inverse=True)
        ranks.append(rank)
        keys.append(found)
        shorter.append(len(found))
    levels = []
    for number in range(order):
        rank, size = ranks[number + 1], shorter[number + 1]
        where = np.zeros(size, dtype=np.int64)
        where[rank] = np.arange(len(stream))  # a place of each n-gram: its context and its last token
        if number == order - 1:
            counts = np.bincount(rank, minlength=size)
        else:  # how many different tokens stand before it
            counts = np.bincount(keys[number + 1] % size, minlength=size)
        counts = np.where(stream[where] == 0, 0, counts)
        levels.append(_level(keys[number], shorter[number], counts, _shifted(ranks[number], 1)[where]))
    return NgramModel(levels, vocabulary)


def _level(keys: Array, shorter: int, counts: Array, context: Array) -> _Level:
    discounts = np.concatenate([[0.0], modified_discounts(counts)])
    discount = discounts[np.minimum(counts, 3)]
    total = np.bincount(context, counts, shorter)
    taken = np.bincount(context, discount, shorter)
    return _Level(keys, shorter, counts - discount, total, taken / np.maximum(total, 1))


def modified_discounts(counts: Array) -> list[float]:
    """What is taken from counts of 1, of 2, and of more, from how many n-grams have counts of 1 to 4."""
    once, twice, thrice, four = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not once or not twice:  # too little text to estimate from
        return [0.5, 0.5, 0.5]
    share = once / (once + 2 * twice)
    found = [1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / max(thrice, 1)]
    # Of text that is read again and again few n-grams occur once or twice, and the estimates come out at nothing or less. Then
    # nothing would be left for what did not occur, and its loss had no end.
    return [min(discount, float(number)) if discount > 0 else 0.5 for number, discount in enumerate(found, 1)]


def _shifted(values: Array, places: int) -> Array:
    """``values[i - places]`` at ``i``, and 0 before the first."""
    if not places:
        return values
    return np.concatenate([np.zeros(min(places, len(values)), values.dtype), values[:-places]])


# Rows of token shards --------------------------------------------------------------------------------------------------


def ngram_of_shards(train: ShardSet, vocabulary: int, most_tokens: int, order: int = 5) -> NgramModel:
    """Counts of the training rows, of evenly chosen ones where there are more tokens than ``most_tokens``."""
    rows = min(len(train), max(1, most_tokens // train.seq_len))
    chosen = np.linspace(0, len(train) - 1, rows).round().astype(np.int64)
    parts = (train.rows(part) for part in np.array_split(chosen, -(-rows // 1024)))
    stream = np.concatenate([_stream(batch, order)[0] for batch in parts])
    return count_ngrams(stream, vocabulary, order)


def score_rows_by_ngram(model: NgramModel, rows: RowBatch) -> RowScores:
    """As ``score_rows`` scores them by a decoder: the same targets."""
    assert rows.bytes is not None
    stream, owners, first = _stream(rows, len(model.levels))
    counted = ~first & (stream > len(SPECIALS))  # ids are shifted by one
    nats = np.bincount(owners[counted], model.nats(stream)[counted], len(rows.lengths))
    return RowScores(nats, np.bincount(owners[counted], minlength=len(rows.lengths)), rows.bytes)


def _stream(rows: RowBatch, order: int) -> tuple[Array, Array, Array]:
    """The rows' pieces one behind the other, each after ``order - 1`` beginnings; the row of each token; whether it is
    its piece's first."""
    ids, owners, first = [], [], []
    for row, piece in _pieces(rows):
        ids += [np.zeros(order - 1, dtype=np.int64), piece + 1]
        owners.append(np.full(len(piece) + order - 1, row))
        first.append(np.arange(len(piece) + order - 1) == order - 1)
    return np.concatenate(ids), np.concatenate(owners), np.concatenate(first)


def _pieces(rows: RowBatch) -> Iterator[tuple[int, Array]]:
    for row, (ids, length, boundaries) in enumerate(zip(rows.input_ids, rows.lengths, rows.boundaries, strict=True)):
        inside = [int(start) for start in boundaries if 0 < start < length]
        for piece in np.split(ids[:length], inside):
            yield row, piece


def xz_bits_per_byte(rows: RowBatch, tokenizer: Tokenizer) -> float:
    """Of the rows' texts, one behind the other, as ``xz -9`` compresses them."""
    text = "\n".join(tokenizer.decode(piece.tolist()) for _, piece in _pieces(rows)).encode()
    return 8 * len(lzma.compress(text, preset=9)) / max(len(text), 1)
