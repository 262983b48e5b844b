"""Step ``select``: write the documents that stay, the ledger of those that do not, and the index of those that stay."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from pipeline.dedup import corpus as c
from pipeline.dedup.corpus import Corpus, Piece, corpus_of, files_of, number_in
from pipeline.dedup.fates import RULES, fates_of
from pipeline.dedup.flat import RangeReader, read_ranges, read_rows
from pipeline.dedup.levels import EXACT, NEAR, URL
from pipeline.dedup.policy import NEW
from pipeline.document import document_writer, read_batches
from pipeline.ledger import LEDGER_SCHEMA, ledger_writer

_ROWS = 1 << 13


def select_units(context: StageContext) -> Iterable[Unit]:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    files = len(files_of(context, "fates", ".fates"))
    signed = {file.removesuffix(".cards") for file in files_of(context, "sign", ".cards")}
    sizes = {file.path: file.bytes for file in context.inputs["quality"].files("data/", ".parquet")}
    for piece in corpus.pieces:
        # A file that could not be signed was recorded as failed there, with its documents.
        if piece.snapshot is None and piece.arrays in signed:
            path = f"data/{piece.name}.parquet"
            yield Unit(
                unit_id("select", piece.name),
                {"piece": piece.name, "fates": files},
                weight=sizes[path],
                documents=piece.rows,
            )


def select_unit(unit: Unit, context: UnitContext) -> Counts:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    piece = corpus.piece_of(unit)
    blocks = corpus.blocks_of(piece)
    end = piece.base + piece.rows
    fates = fates_of(context, piece.base, end, blocks, number_in(unit, "fates"))
    dropped = np.zeros(piece.rows, np.bool_)
    dropped[(fates[:, 0] - np.uint64(piece.base)).astype(np.int64)] = True
    _write_documents(piece, corpus, fates, dropped, context)
    if context.config.index:
        write_index(piece, dropped, context)
    levels = {rule: int((fates[:, 3] == level).sum()) for level, rule in RULES.items()}
    return Counts(piece.rows, piece.rows - len(fates), {rule: number for rule, number in levels.items() if number})


def _write_documents(
    piece: Piece, corpus: Corpus, fates: NDArray[np.uint64], dropped: NDArray[np.bool_], context: UnitContext
) -> None:
    source = context.inputs["quality"].url(f"data/{piece.name}.parquet")
    row = written = 0
    with (
        context.output(f"data/{piece.name}.parquet") as data_path,
        context.output(f"ledger/{piece.name}.parquet") as ledger_path,
        document_writer(data_path) as documents,
        ledger_writer(ledger_path) as ledger,
    ):
        for batch in read_batches(source):
            out = dropped[row : row + batch.num_rows]
            documents.write_table(pa.Table.from_batches([batch.filter(pa.array(~out))]))
            number = int(out.sum())
            if number:
                gone = batch.select(["id", "url", "source"]).filter(pa.array(out))
                ledger.write_table(_ledger_rows(gone, fates[written : written + number], corpus, context))
            written += number
            row += batch.num_rows


def _ledger_rows(gone: pa.RecordBatch, fates: NDArray[np.uint64], corpus: Corpus, context: UnitContext) -> pa.Table:
    survivors, position = np.unique(fates[:, 1], return_inverse=True)
    ids = corpus.cards(survivors)[:, [c.ID_A, c.ID_B]].astype(">u8")
    names = [bytes(ids[at].tobytes()) for at in position]
    where = corpus.where(survivors)[position]
    scores = np.ascontiguousarray(fates[:, 2]).view(np.float64)
    levels = [int(level) for level in fates[:, 3]]
    threshold = context.config.threshold
    return pa.Table.from_pydict(
        {
            "id": gone["id"],
            "url": gone["url"],
            "source": gone["source"],
            "stage": ["dedup"] * len(levels),
            "verdict": ["dropped"] * len(levels),
            "rule": [RULES[level] for level in levels],
            "score": scores,
            "threshold": [threshold if level == NEAR else None for level in levels],
            "survivor_id": names,
            "detail": [_detail(level, corpus.pieces[at]) for level, at in zip(levels, where, strict=True)],
        },
        schema=LEDGER_SCHEMA,
    )


def _detail(level: int, piece: Piece) -> str:
    what = {
        URL: "the survivor has the same address",
        EXACT: "the survivor has the same text",
        NEAR: "shingles in common",
    }
    return f"{what[level]}; it is in {piece.snapshot or 'this dataset'}, {piece.name}"


def write_index(piece: Piece, dropped: NDArray[np.bool_], context: UnitContext) -> None:
    """The flat arrays of the documents that stay; ``FIRST`` counted anew."""
    bands, rows = context.config.shape
    kept = int((~dropped).sum())
    first = 0
    with (
        context.output(f"index/{piece.name}.cards", rows=kept, digested=False) as cards_path,
        context.output(f"index/{piece.name}.signatures", digested=False) as signatures_path,
        context.output(f"index/{piece.name}.shingles", digested=False) as shingles_path,
        RangeReader(f"{piece.arrays}.cards") as cards_file,
        RangeReader(f"{piece.arrays}.signatures") as signatures_file,
        RangeReader(f"{piece.arrays}.shingles") as shingles_file,
        cards_path.open("wb") as cards_out,
        signatures_path.open("wb") as signatures_out,
        shingles_path.open("wb") as shingles_out,
    ):
        for begin in range(0, piece.rows, _ROWS):
            end = min(begin + _ROWS, piece.rows)
            stays = ~dropped[begin:end]
            cards = read_rows(cards_file, np.uint64, c.CARD, begin, end).astype(np.uint64, copy=False)[stays]
            sizes = cards[:, c.COUNT].astype(np.int64)
            read_ranges(shingles_file, np.uint32, cards[:, c.FIRST].astype(np.int64), sizes).tofile(shingles_out)
            cards[:, c.FIRST] = first + np.cumsum(sizes) - sizes
            cards[:, c.RANK_A] &= ~NEW
            first += int(sizes.sum())
            cards.tofile(cards_out)
            read_rows(signatures_file, np.uint32, bands * rows, begin, end)[stays].tofile(signatures_out)
