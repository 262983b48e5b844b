"""Steps ``spans`` and ``repeats``: what many documents share is cut from all but one.

A *span* is a line, a paragraph, or any run of so many words, by its normalised words. ``spans`` writes the hash of each
span of every document that the levels before have left; ``repeats`` groups them and writes, for spans that enough
documents have, (document, span's hash, the document that keeps it) to ``repeats/<p>.cuts``, by block of the document, and
the keepers to ``repeats/<p>.keepers``. The select step finds the spans again in the text and cuts them (``cut``).

A document of which too little is left is dropped in favour of the keeper of its largest part, unless it is a survivor or
a keeper itself: what stays on record as kept does stay.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.config import Json
from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from infra.store.files import exists
from pipeline.dedup import corpus as c
from pipeline.dedup.config import DOCUMENTS, DedupConfig
from pipeline.dedup.corpus import Corpus, CorpusFile, corpus_of, files_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, gather_partition, partition_bytes, read_partition
from pipeline.dedup.fates import dropped_rows
from pipeline.dedup.flat import RangeReader, read_rows
from pipeline.dedup.levels import key_partition_units, partition_files
from pipeline.dedup.nominate import BANDED
from pipeline.dedup.sign import key_partitions, keyed_file, partition_of
from pipeline.document import read_batches

_AVERAGE_SPANS = 64
"""Spans a document is assumed to have when partitions are planned."""


def span_units(context: StageContext) -> Iterable[Unit]:
    if context.config.repeats == "off":
        return
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    partitions = key_partitions(context.config, corpus.new * _AVERAGE_SPANS * BANDED * 8)
    signed = set(files_of(context, "sign", ".exact"))
    fates = len(files_of(context, "fates", ".fates"))
    for piece in corpus.pieces:
        if piece.snapshot is None and keyed_file(context.work_root, "exact", piece) in signed:
            payload: dict[str, Json] = {"piece": piece.name, "partitions": partitions, "fates": fates}
            yield Unit(unit_id("spans", piece.name), payload, weight=piece.rows)


def _span_file(work_root: str, piece: CorpusFile) -> str:
    return f"{work_root}/steps/spans/{piece.name}.spans"


def span_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.words import text_buffers

    corpus = corpus_of(context.config, context.inputs, context.work_root)
    piece = corpus.piece_of(unit)
    partitions = number_in(unit, "partitions")
    dropped = dropped_rows(context, corpus, piece, number_in(unit, "fates"))
    finder = SpanFinder(context.config)
    row = 0
    with (
        context.intermediate(f"{piece.name}.spans") as path,
        ExchangeWriter(path, BANDED, partitions, context.config.budget // 2) as writer,
        RangeReader(f"{piece.arrays}.cards") as cards_file,
    ):
        source = context.inputs[DOCUMENTS].url(f"data/{piece.name}.parquet")
        for batch in read_batches(source, ["text", "programming_language"]):
            data, offsets = text_buffers(batch["text"])
            cards = read_rows(cards_file, np.uint64, c.CARD, row, row + batch.num_rows)
            code = batch["programming_language"].is_valid().to_numpy(zero_copy_only=False)
            for i in np.flatnonzero(~dropped[row : row + batch.num_rows] & ~code).tolist():
                keys = np.unique(finder.find(data, int(offsets[i]), int(offsets[i + 1])).keys)
                records = np.empty((len(keys), BANDED), np.uint64)
                records[:, 0] = keys
                records[:, 1:3] = cards[i, [c.RANK_A, c.RANK_B]]
                records[:, 3] = piece.base + row + i
                writer.add(records, partition_of(keys, partitions))
            row += batch.num_rows
    return Counts()


def repeat_units(context: StageContext) -> Iterable[Unit]:
    yield from key_partition_units(context, "repeats", files_of(context, "spans", ".spans"))


def repeat_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.dedup.stars import DOCUMENT, KEY, Stars, star_pairs

    number = number_in(unit, "partition")
    config = context.config
    corpus = corpus_of(config, context.inputs, context.work_root)
    files = [file for piece in corpus.pieces if exists(file := _span_file(context.work_root, piece))]
    rule = Stars(corpus.new, 1, True, config.budget, config.repeat_documents)
    with (
        context.intermediate(f"{number:05}.cuts") as cuts_path,
        context.intermediate(f"{number:05}.keepers") as keepers_path,
        ExchangeWriter(cuts_path, 3, corpus.blocks, config.budget // 4) as cuts,
        ExchangeWriter(keepers_path, 1, corpus.blocks, config.budget // 4) as keepers,
    ):
        size = partition_bytes(files, number)
        for pairs in star_pairs(lambda: read_partition(files, number), size, BANDED, rule, context.scratch):
            rows = pairs[:, [DOCUMENT, KEY, BANDED + DOCUMENT]]
            cuts.add(rows, corpus.block_of(rows[:, 0]))
            keeping = np.unique(rows[:, 2])
            keepers.add(keeping[:, None], corpus.block_of(keeping))
    return Counts()


# ---- spans of a text ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spans:
    """Hashes of the spans of a text, and their bytes in it."""

    keys: NDArray[np.uint64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


class SpanFinder:
    """Finds the spans of texts, with reused working memory."""

    def __init__(self, config: DedupConfig) -> None:
        from pipeline.ngrams import Analyzer

        self._config = config
        self._analyzer = Analyzer(config.window_words, config.max_characters)

    def find(self, data: NDArray[np.uint8], begin: int, end: int) -> Spans:
        from pipeline.ngrams import hash_parts

        a, config = self._analyzer, self._config
        words = a.words(data, begin, end)
        if config.repeats == "window":
            if words < config.window_words:
                return Spans(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
            keys, letters = a.ngrams(0, words)
            first = np.flatnonzero(letters)
            last = first + config.window_words - 1
            return Spans(keys[letters], a.buffers.source_start[first], a.buffers.source_end[last])
        bounds = a.parts(data, begin, words, 1 if config.repeats == "line" else 2)
        keys = np.zeros(max(0, len(bounds) - 1), np.uint64)
        hash_parts(a.hashes, a.letters, bounds, config.repeat_words, keys)
        wanted = np.flatnonzero(keys)
        return Spans(keys[wanted], a.buffers.source_start[bounds[wanted]], a.buffers.source_end[bounds[wanted + 1] - 1])

    def words(self, text: bytes) -> int:
        return self._analyzer.words(np.frombuffer(text, np.uint8), 0, len(text))


# ---- cutting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CutText:
    """What is cut from one document."""

    left: bytes
    spans: tuple[tuple[int, int], ...]
    keeper: int
    """The document that keeps the largest part of what was cut."""
    share: float
    """Of the text's bytes."""


@dataclass(frozen=True)
class Cuts:
    """The cuts of one file: rows (document, span's hash, keeper) by document, and the documents that must stay."""

    rows: NDArray[np.uint64]
    staying: NDArray[np.uint64]

    @classmethod
    def read(cls, context: UnitContext, corpus: Corpus, piece: CorpusFile, partitions: int, fates: int) -> "Cuts":
        cuts = partition_files(context.work_root, "repeats", "cuts", partitions)
        keepers = partition_files(context.work_root, "repeats", "keepers", partitions)
        survivors = partition_files(context.work_root, "fates", "survivors", fates)
        blocks = corpus.blocks_of(piece)
        rows = np.concatenate([gather_partition(cuts, block, 3) for block in blocks])
        staying = np.concatenate([gather_partition([*keepers, *survivors], block, 1)[:, 0] for block in blocks])
        return cls(np.unique(rows, axis=0), np.unique(staying))

    def of(self, document: int) -> NDArray[np.uint64]:
        """Hashes and keepers of the spans to cut from a document."""
        low, high = np.searchsorted(self.rows[:, 0], np.array([document, document + 1], np.uint64))
        return self.rows[low:high, 1:]

    def must_stay(self, document: int) -> bool:
        at = int(np.searchsorted(self.staying, np.uint64(document)))
        return at < len(self.staying) and int(self.staying[at]) == document


def cut(text: bytes, wanted: NDArray[np.uint64], finder: SpanFinder) -> CutText:
    """Cut the wanted spans; what remains on both sides is joined by one line break."""
    spans = finder.find(np.frombuffer(text, np.uint8), 0, len(text))
    order = np.argsort(wanted[:, 0])
    keys, keepers = wanted[order, 0], wanted[order, 1]
    at = np.minimum(np.searchsorted(keys, spans.keys), len(keys) - 1)
    hit = keys[at] == spans.keys
    kept_by: dict[int, int] = {}
    merged: list[tuple[int, int]] = []
    for begin, end, keeper in zip(
        spans.begin[hit].tolist(), spans.end[hit].tolist(), keepers[at[hit]].tolist(), strict=True
    ):
        kept_by[keeper] = kept_by.get(keeper, 0) + end - begin
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    parts, position = [], 0
    for begin, end in merged:
        parts.append(text[position : max(position, _line_start(text, begin))].strip())
        position = _line_end(text, end)
    parts.append(text[position:].strip())
    left = b"\n".join(part for part in parts if part)
    keeper = min(kept_by, key=lambda document: (-kept_by[document], document))
    return CutText(left, tuple(merged), keeper, sum(end - begin for begin, end in merged) / len(text))


def _line_start(text: bytes, at: int) -> int:
    """Before the bullet or quotation mark that opens a span: no letter stands between it and the line's start."""
    line = text.rfind(b"\n", 0, at) + 1
    return line if not _has_letter(text[line:at]) else at


def _has_letter(text: bytes) -> bool:
    return any(byte > 127 or chr(byte).isalnum() for byte in text)


def _line_end(text: bytes, at: int) -> int:
    """Past the punctuation that closes a span: no letter follows before the line ends."""
    line = text.find(b"\n", at)
    line = len(text) if line < 0 else line
    return line if not _has_letter(text[at:line]) else at
