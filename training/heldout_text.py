"""Held-out rows for a model with another tokenizer: the rows' text, read anew.

A row's ids mean something only to the tokenizer that wrote them, so its documents are decoded, encoded by the model's own
tokenizer and scored over the same bytes. As in ``training.scoring`` a document's first token is context, not a target: for
whole documents that is BOS, and all of the text counts; a document that goes on from another row begins with some text that
is given. Texts longer than the model's context are scored in windows that overlap by half.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from infra.errors import InputError
from pipeline.shards.reader import RowBatch, ShardSet
from pipeline.tokenizer import Tokenizer
from training.scoring import RowScores, continuation_nats
from training.text_model import TextModel

Pair = tuple[list[int], list[int]]


def rows_reader(folder: Path, shards: ShardSet, writer: Path | None) -> Tokenizer | None:
    """None where the model in ``folder`` reads the rows' ids; otherwise the tokenizer that turns them into text.

    ``writer`` is the ``data`` folder of the tokenizer that the shards were written with.
    """
    if (folder / "tokenizer.model").is_file() and _digest(folder) == shards.tokenizer_digest:
        return None
    if writer is None or _digest(writer) != shards.tokenizer_digest:
        raise InputError(
            "the model's tokenizer is not the one that the shards were written with",
            where=str(folder),
            remedy="Evaluate it where the label's tokenizer stage wrote the shards, or on problems and tasks only.",
        )
    return Tokenizer.load(writer)


def _digest(folder: Path) -> str | None:
    """The digest of a tokenizer of ours; None for another's file of the same name."""
    try:
        return Tokenizer.load(folder).digest
    except InputError:
        return None


def score_texts(model: TextModel, rows: RowBatch, writer: Tokenizer, batch_size: int = 8) -> RowScores:
    """As ``score_rows``, for rows that ``writer`` encoded."""
    if rows.bytes is None:
        raise InputError("the rows do not say how many bytes they stand for", remedy="Score a validation split.")
    pairs: list[Pair] = []
    owners: list[int] = []
    for row, (ids, length, boundaries) in enumerate(zip(rows.input_ids, rows.lengths, rows.boundaries, strict=True)):
        starts = [0, *(int(start) for start in boundaries if start > 0)]
        for first, last in itertools.pairwise([*starts, int(length)]):
            found = list(_pairs(model, writer, ids[first:last].tolist()))
            pairs += found
            owners += [row] * len(found)
    nats, targets = np.zeros(len(rows.lengths)), np.zeros(len(rows.lengths), dtype=np.int64)
    np.add.at(nats, owners, continuation_nats(model.decoder, pairs, batch_size))
    np.add.at(targets, owners, [len(continuation) for _, continuation in pairs])
    return RowScores(nats, targets, rows.bytes)


def _pairs(model: TextModel, writer: Tokenizer, ids: Sequence[int]) -> Iterator[Pair]:
    """A document's (context, continuation) for the model, in windows of its context."""
    context, rest = divided(model, *(writer.decode(part) for part in (ids[:1], ids)))
    return windows([*model.special.beginning, *context], rest, model.decoder.config.max_position)


def divided(model: TextModel, given: str, whole: str) -> Pair:
    """A text's ids, as a model would meet it, cut where ``given`` ends: what both encode to equally, and the rest."""
    alone, ids = model.encode(given), model.encode(whole)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(alone, ids, strict=False)))
    return ids[:shared], ids[shared:]


def windows(context: Sequence[int], rest: Sequence[int], limit: int) -> Iterator[Pair]:
    """``rest`` after ``context`` in pieces of which none needs more than ``limit`` positions: the first takes what fits, each
    further one half a window, predicted from the half before it."""
    context, rest = list(context), list(rest)
    while rest:
        room = limit + 1 - len(context) if len(context) < limit else limit // 2
        piece, rest = rest[:room], rest[room:]
        yield context[-(limit + 1 - len(piece)) :], piece
        context = [*context, *piece][-(limit // 2) :]
