"""Step ``sign``: read every text once and keep all that later steps compare.

For each file of documents: the flat arrays (cards, signatures, shingles) and two exchange files, records by URL and by
exact text. For a file of an earlier run the arrays exist already, and only its records are written.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from pipeline.dedup import corpus as c
from pipeline.dedup.config import DOCUMENTS, DedupConfig
from pipeline.dedup.corpus import Corpus, CorpusFile, corpus_of, number_in
from pipeline.dedup.exchange import ExchangeWriter
from pipeline.dedup.flat import RangeReader, read_rows, write_array
from pipeline.dedup.own import keys_of, levels_of
from pipeline.dedup.urls import normalise_url
from pipeline.document import read_batches

COLUMNS = ["id", "text", "source", "url", "date", "path", "repo", "programming_language", "quality"]
_SLICE = 4 << 20
RANK_A, DOCUMENT, LEVEL, KEYED = 1, 3, 5, 6
"""Columns and width of a keyed record: key, rank in two words, document, check (``pipeline.dedup.stars``; key and check are the
two words of a 128-bit hash), and the first word of the text's hash, by which copies are partitioned, or the number of another
package's level."""


def sign_units(context: StageContext) -> Iterable[Unit]:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    partitions = key_partitions(context.config, corpus.total * KEYED * 8)
    sizes = {file.path: file.bytes for file in context.inputs[DOCUMENTS].files("data/", ".parquet")}
    for piece in corpus.pieces:
        yield Unit(
            unit_id("sign", piece.snapshot, piece.name),
            {"piece": piece.name, "snapshot": piece.snapshot, "partitions": partitions},
            weight=sizes.get(f"data/{piece.name}.parquet", 96 * piece.rows),
            files=(f"data/{piece.name}.parquet",) if piece.snapshot is None else (),
            bytes=sizes.get(f"data/{piece.name}.parquet"),
        )


def key_partitions(config: DedupConfig, total_bytes: int) -> int:
    """So many partitions that one fits the memory budget a few times over."""
    return int(min(4096, max(2, -(-3 * total_bytes // config.budget))))


def keyed_file(work_root: str, level: str, piece: CorpusFile) -> str:
    folder = f"earlier/{piece.snapshot}/{piece.name}" if piece.snapshot else piece.name
    return f"{work_root}/steps/sign/{folder}.{level}"


def sign_unit(unit: Unit, context: UnitContext) -> Counts:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    piece = corpus.piece_of(unit)
    partitions = number_in(unit, "partitions")
    relative = keyed_file("", "", piece).removeprefix("/steps/sign/").removesuffix(".")
    with (
        context.intermediate(f"{relative}.url") as url_path,
        context.intermediate(f"{relative}.exact") as exact_path,
        ExchangeWriter(url_path, KEYED, partitions, context.config.budget // 4) as urls,
        ExchangeWriter(exact_path, KEYED, partitions, context.config.budget // 4) as copies,
    ):
        base = piece.base
        for cards in _earlier_cards(piece) if piece.snapshot else _new_cards(piece, context, corpus):
            _add_records(cards, base, urls, copies, partitions)
            base += len(cards)
    return Counts()


def _add_records(
    cards: NDArray[np.uint64], base: int, urls: ExchangeWriter, copies: ExchangeWriter, partitions: int
) -> None:
    documents = np.arange(base, base + len(cards), dtype=np.uint64)

    def records(key: int, check: int) -> NDArray[np.uint64]:
        columns = (
            cards[:, key],
            cards[:, c.RANK_A],
            cards[:, c.RANK_B],
            documents,
            cards[:, check],
            cards[:, c.EXACT_A],
        )
        return np.stack(columns, axis=1)

    copies.add(records(c.EXACT_A, c.EXACT_B), partition_of(cards[:, c.EXACT_A], partitions))
    has_url = (cards[:, c.URL_A] != 0) | (cards[:, c.URL_B] != 0)
    urls.add(records(c.URL_A, c.URL_B)[has_url], partition_of(cards[has_url, c.URL_A], partitions))


def partition_of(keys: NDArray[np.uint64], partitions: int) -> NDArray[np.int64]:
    """Uniform hashes to partitions."""
    return ((keys >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def _earlier_cards(piece: CorpusFile, rows: int = 1 << 16) -> Iterator[NDArray[np.uint64]]:
    with RangeReader(f"{piece.arrays}.cards") as reader:
        for begin in range(0, piece.rows, rows):
            cards = read_rows(reader, np.uint64, c.CARD, begin, min(begin + rows, piece.rows))
            yield cards.astype(np.uint64, copy=False)


def _new_cards(piece: CorpusFile, context: UnitContext, corpus: Corpus) -> Iterator[NDArray[np.uint64]]:
    """Compute and write the arrays of a file; yields its cards batch by batch."""
    signer = Signer.create(context.config)
    source = context.inputs[DOCUMENTS].url(f"data/{piece.name}.parquet")
    levels = levels_of(context.config)
    first, base = 0, piece.base
    with (
        contextlib.ExitStack() as stack,
        context.intermediate(f"{piece.name}.cards") as cards_path,
        context.intermediate(f"{piece.name}.signatures") as signatures_path,
        context.intermediate(f"{piece.name}.shingles") as shingles_path,
        cards_path.open("wb") as cards_file,
        signatures_path.open("wb") as signatures_file,
        shingles_path.open("wb") as shingles_file,
    ):
        own = stack.enter_context(_own_file(piece, context)) if levels else None
        for batch in read_batches(source, None if levels else COLUMNS):
            for part in slices(batch):
                signed = signer.sign(part)
                signed.cards[:, c.FIRST] += np.uint64(first)
                first += len(signed.shingles)
                write_array(signed.cards, cards_file)
                write_array(signed.signatures, signatures_file)
                write_array(signed.shingles, shingles_file)
                if own is not None:
                    for number, level in levels.items():
                        write_array(_own_records(keys_of(level, part), number, signed.cards, base), own)
                base += part.num_rows
                yield signed.cards
    context.metrics["shingles"] = float(first)


@contextlib.contextmanager
def _own_file(piece: CorpusFile, context: UnitContext) -> Iterator[BinaryIO]:
    with context.intermediate(f"{piece.name}.own") as path, path.open("wb") as stream:
        yield stream


def _own_records(keys: Sequence[bytes | None], level: int, cards: NDArray[np.uint64], base: int) -> NDArray[np.uint64]:
    """Keyed records of the documents that have a key; the level in the place of the text's hash."""
    hashes = _digests(keys)
    documents = np.arange(base, base + len(keys), dtype=np.uint64)
    columns = (hashes[:, 0], cards[:, c.RANK_A], cards[:, c.RANK_B], documents, hashes[:, 1])
    records = np.stack([*columns, np.full(len(keys), level, np.uint64)], axis=1)
    return records[[key is not None for key in keys]]


def slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch so that the texts of a part stay around 4 MB (one long text may exceed it)."""
    from pipeline.words import text_buffers

    _, offsets = text_buffers(batch["text"])
    begin = 0
    while begin < batch.num_rows:
        end = int(np.searchsorted(offsets, offsets[begin] + _SLICE, side="right")) - 1
        end = min(max(end, begin + 1), batch.num_rows)
        yield batch.slice(begin, end - begin)
        begin = end


@dataclass
class Signed:
    cards: NDArray[np.uint64]
    signatures: NDArray[np.uint32]
    shingles: NDArray[np.uint32]


@dataclass
class Signer:
    """Computes cards, signatures and shingles of batches, reusing its working memory."""

    config: DedupConfig
    a: NDArray[np.uint32]
    b: NDArray[np.uint32]
    folds: NDArray[np.uint32]
    words: object = field(default=None)
    table: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def create(cls, config: DedupConfig) -> "Signer":
        from pipeline.dedup.minhash import permutations
        from pipeline.words import folds

        bands, rows = config.shape
        a, b = permutations(bands * rows, config.seed)
        return cls(config, a, b, folds())

    def sign(self, batch: pa.RecordBatch) -> Signed:
        from pipeline.dedup.policy import ranks, text_lengths
        from pipeline.words import text_buffers

        data, offsets = text_buffers(batch["text"])
        shingles, counts = self.shingles(data, offsets)
        signatures = self.signatures(shingles, counts)
        cards = np.zeros((batch.num_rows, c.CARD), np.uint64)
        ids = np.frombuffer(b"".join(batch["id"].to_pylist()), ">u8").reshape(-1, 2).astype(np.uint64)
        lengths = text_lengths(batch["text"])
        cards[:, [c.ID_A, c.ID_B]] = ids
        cards[:, [c.RANK_A, c.RANK_B]] = ranks(self.config, batch, ids, lengths)
        cards[:, [c.URL_A, c.URL_B]] = url_hashes(batch)
        cards[:, [c.EXACT_A, c.EXACT_B]] = exact_hashes(data, offsets)
        if self.config.per_language_code:
            groups = group_hashes(batch["programming_language"])
            cards[:, c.GROUP] = groups
            cards[:, c.EXACT_A] ^= groups
        cards[:, c.COUNT] = counts
        cards[:, c.FIRST] = np.cumsum(counts) - counts
        cards[:, c.LENGTH] = lengths
        return Signed(cards, signatures, shingles)

    def shingles(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The distinct shingle hashes of each text, and their numbers."""
        from pipeline.dedup.shingles import shingle_texts
        from pipeline.words import WordBuffers

        limit = self.config.max_characters
        longest = int(min(np.diff(offsets).max(initial=0), 4 * limit))
        buffers = self.words if isinstance(self.words, WordBuffers) else WordBuffers.for_bytes(1 << 16)
        if len(buffers.start) < longest + 1:
            buffers = WordBuffers.for_bytes(longest)
        self.words = buffers
        if len(self.table) < 4 * len(buffers.start):
            self.table = np.empty(1 << int(4 * len(buffers.start)).bit_length(), np.uint64)
        counts = np.empty(len(offsets) - 1, np.int64)
        room = int(np.minimum(np.diff(offsets) // 2 + 1, limit).sum()) + longest + 1
        out = np.empty(room, np.uint32)
        raw = np.empty(longest + 1, np.uint32)
        filled = shingle_texts(
            data,
            offsets,
            self.config.ngram,
            limit,
            self.folds,
            buffers.text,
            buffers.start,
            buffers.end,
            buffers.source_start,
            buffers.source_end,
            raw,
            self.table,
            out,
            counts,
        )
        return out[:filled], counts

    def signatures(self, shingles: NDArray[np.uint32], counts: NDArray[np.int64]) -> NDArray[np.uint32]:
        from pipeline.dedup.minhash import padded, sign

        signatures = np.empty((len(counts), len(self.a)), np.uint32)
        sign(shingles, counts, self.a, self.b, np.empty(padded(int(counts.max(initial=0))), np.uint32), signatures)
        return signatures


def exact_hashes(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """128 bits (XXH3) of each text with runs of white space made one space."""
    from pipeline.dedup.copies import collapse_texts

    plain = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint8)
    ends = np.empty(len(offsets) - 1, np.int64)
    collapse_texts(data, offsets, plain, ends)
    view = memoryview(plain.data)
    return _digests([view[begin:end] for begin, end in itertools.pairwise([0, *ends.tolist()])])


def _digests(keys: Sequence[bytes | memoryview | None]) -> NDArray[np.uint64]:
    """128 bits of each key in two words; zeros for None."""
    digest, none = xxhash.xxh3_128_digest, bytes(16)
    words = b"".join([none if key is None else digest(key) for key in keys])
    return np.frombuffer(words, ">u8").reshape(-1, 2).astype(np.uint64)


def url_hashes(batch: pa.RecordBatch) -> NDArray[np.uint64]:
    """128 bits of each normalised URL, with the path inside it for files of a repository; zeros without a URL."""
    if batch["url"].null_count == batch.num_rows:
        return np.zeros((batch.num_rows, 2), np.uint64)
    keys: list[bytes | None] = []
    for url, path, repo in zip(*(batch[name].to_pylist() for name in ("url", "path", "repo")), strict=True):
        key = normalise_url(url) if url else ""
        if path and key:
            key = f"{key}\0{repo or ''}\0{path}"
        keys.append(key.encode("utf-8", "replace") if key else None)
    return _digests(keys)


def group_hashes(languages: pa.Array) -> NDArray[np.uint64]:
    """A word for each programming language, zero for text."""
    from pipeline.dedup.policy import distinct_values

    values, rows = distinct_values(languages)
    return np.array([xxhash.xxh3_64_intdigest(name.lower().encode()) if name else 0 for name in values], np.uint64)[
        rows
    ]
