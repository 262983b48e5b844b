"""Step ``select``: write the documents that stay, the ledger of those that do not, and the index of those that stay.

With ``repeats`` on, also what was cut from documents that stay: ``evidence/<file>.parquet``.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from pipeline.dedup import corpus as c
from pipeline.dedup.config import DOCUMENTS, EXACT, NEAR, URL, DedupConfig
from pipeline.dedup.corpus import Corpus, CorpusFile, corpus_of, files_of, number_in
from pipeline.dedup.fates import RULES, fates_of
from pipeline.dedup.flat import RangeReader, read_ranges, read_rows, write_array
from pipeline.dedup.own import Level, levels_of
from pipeline.dedup.policy import NEW
from pipeline.dedup.repeats import Cuts, SpanFinder, cut
from pipeline.dedup.sign import DOCUMENT, KEYED, RANK_A
from pipeline.document import RowWriter, excerpt, identity_of, read_batches, with_texts
from pipeline.ledger import DocumentFile, documents_and_fates, fate, fates_table

STAGE_NAME = "dedup"
_ROWS = 1 << 13
_IDS = 1 << 16

EVIDENCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("url", pa.string()),
        pa.field("source", pa.string()),
        pa.field("survivor_id", pa.binary(16), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
    ],
    metadata={"headwater.evidence": "1"},
)
"""What was cut as repeated: characters ``start`` to ``end`` of the text as it came in, and the document that keeps most of
what this one lost. ``action`` is ``drop`` where too little was left."""


def select_units(context: StageContext) -> Iterable[Unit]:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    files = len(files_of(context, "fates", ".fates"))
    repeats = len(files_of(context, "repeats", ".cuts"))
    signed = {file.removesuffix(".cards") for file in files_of(context, "sign", ".cards")}
    sizes = {file.path: file.bytes for file in context.inputs[DOCUMENTS].files("data/", ".parquet")}
    for piece in corpus.pieces:
        # A file that could not be signed was recorded as failed there, with its documents.
        if piece.snapshot is None and piece.arrays in signed:
            path = f"data/{piece.name}.parquet"
            yield Unit(
                unit_id("select", piece.name),
                {"piece": piece.name, "fates": files, "repeats": repeats},
                weight=sizes[path],
                documents=piece.rows,
                files=(path,),
                bytes=sizes[path],
            )


def select_unit(unit: Unit, context: UnitContext) -> Counts:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    piece = corpus.piece_of(unit)
    files, partitions = number_in(unit, "fates"), number_in(unit, "repeats")
    fates = fates_of(context, piece.base, piece.base + piece.rows, corpus.blocks_of(piece), files)
    stays = np.ones(piece.rows, np.bool_)
    stays[(fates[:, 0] - np.uint64(piece.base)).astype(np.int64)] = False
    with contextlib.ExitStack() as stack:
        cutting: _Cutting | None = None
        if partitions:
            cuts = Cuts.read(context, corpus, piece, partitions, files)
            path = stack.enter_context(context.output(f"evidence/{piece.name}.parquet"))
            evidence = stack.enter_context(RowWriter(path, EVIDENCE_SCHEMA))
            cutting = _Cutting(corpus, context.config, cuts, evidence)
        file = stack.enter_context(documents_and_fates(context, f"{piece.name}.parquet"))
        _write(context, corpus, piece, fates, stays, file, cutting)
    if context.config.index:
        write_index(piece, stays, context)
        if context.config.levels:
            _write_keys(piece, stays, context)
    return file.counts


def _write(
    context: UnitContext,
    corpus: Corpus,
    piece: CorpusFile,
    fates: NDArray[np.uint64],
    stays: NDArray[np.bool_],
    file: DocumentFile,
    cutting: "_Cutting | None",
) -> None:
    """The documents and the ledger of one file. ``stays`` is updated where cutting leaves too little."""
    survivors = _ids(corpus, fates[:, 1])
    row = written = 0
    for batch in read_batches(context.inputs[DOCUMENTS].url(f"data/{piece.name}.parquet")):
        here = stays[row : row + batch.num_rows]
        number = int((~here).sum())
        if number:
            gone = batch.select(["id", "url", "source"]).filter(pa.array(~here))
            part = slice(written, written + number)
            file.lose(_ledger_rows(gone, fates[part], survivors[part], corpus, context.config))
        texts = cutting.cut(batch, piece.base + row, here, file) if cutting else {}
        file.keep(with_texts(batch, texts).filter(pa.array(here)))
        written += number
        row += batch.num_rows


@dataclass(frozen=True)
class _Cutting:
    """Cutting repeated spans out of the documents of one file."""

    corpus: Corpus
    config: DedupConfig
    cuts: Cuts
    evidence: RowWriter

    def cut(self, batch: pa.RecordBatch, first: int, stays: NDArray[np.bool_], file: DocumentFile) -> dict[int, str]:
        """What is left of the texts of a batch, by row; ``stays`` turns False where that is too little."""
        cuts, config = self.cuts, self.config
        finder = SpanFinder(config)
        texts: dict[int, str] = {}
        for i in np.flatnonzero(stays).tolist():
            document = first + i
            wanted = cuts.of(document)
            if len(wanted) == 0:
                continue
            text = batch["text"][i].as_py().encode()
            found = cut(text, wanted, finder)
            keeper = _ids(self.corpus, np.array([found.keeper], np.uint64))[0]
            record = identity_of(batch, i)
            too_little = finder.words(found.left) < config.min_words_left
            if too_little and cuts.must_stay(document):
                continue
            for begin, end in found.spans:
                what = {"survivor_id": keeper, "action": "drop" if too_little else "cut"}
                self.evidence.write(record | what | excerpt(text, begin, end))
            if too_little:
                stays[i] = False
                why = f"less than {config.min_words_left} words are left without what other documents have too"
                rule = f"repeated_{config.repeats}"
                file.lose(
                    fate(STAGE_NAME, "dropped", rule, **record, score=found.share, survivor_id=keeper, detail=why)
                )
            else:
                texts[i] = found.left.decode()
        return texts


def _ids(corpus: Corpus, documents: NDArray[np.uint64]) -> list[bytes]:
    """Ids of documents given in any order."""
    ordered, position = np.unique(documents, return_inverse=True)
    ids = np.empty((len(ordered), 2), ">u8")
    for begin in range(0, len(ordered), _IDS):
        part = slice(begin, begin + _IDS)
        ids[part] = corpus.cards(ordered[part])[:, [c.ID_A, c.ID_B]]
    joined = ids[position].tobytes()
    return [joined[at : at + 16] for at in range(0, len(joined), 16)]


def _ledger_rows(
    gone: pa.RecordBatch, fates: NDArray[np.uint64], survivors: list[bytes], corpus: Corpus, config: DedupConfig
) -> pa.Table:
    levels = fates[:, 3].astype(np.int64)
    kinds, kind = np.unique(np.stack([levels, corpus.where(fates[:, 1])], axis=1), axis=0, return_inverse=True)
    kind = pa.array(kind.reshape(-1))
    own = levels_of(config)
    thresholds = np.where(levels == URL, config.url_threshold, config.threshold)
    for number, level in own.items():
        thresholds[levels == number] = level.threshold
    rules = RULES | {number: level.rule for number, level in own.items()}
    return fates_table(
        gone,
        STAGE_NAME,
        "dropped",
        rule=pa.array([rules[int(level)] for level, _ in kinds], pa.string()).take(kind),
        score=np.ascontiguousarray(fates[:, 2]).view(np.float64),
        threshold=pa.array(thresholds, mask=levels == EXACT),
        survivor_id=survivors,
        detail=pa.array([_detail(int(level), corpus.pieces[at], own) for level, at in kinds], pa.string()).take(kind),
    )


def _detail(level: int, piece: CorpusFile, own: Mapping[int, Level]) -> str:
    what = {
        URL: "the survivor has the same address and much of the shorter text",
        EXACT: "the survivor has the same text",
        NEAR: "most shingles are the survivor's too",
    } | {number: f"the survivor has the same {level.name}" for number, level in own.items()}
    return f"{what[level]}; it is in {piece.snapshot or 'this dataset'}, {piece.name}"


def write_index(piece: CorpusFile, stays: NDArray[np.bool_], context: UnitContext) -> None:
    """The flat arrays of the documents that stay; ``FIRST`` counted anew."""
    bands, rows = context.config.shape
    kept = int(stays.sum())
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
            part = stays[begin:end]
            cards = read_rows(cards_file, np.uint64, c.CARD, begin, end).astype(np.uint64, copy=False)[part]
            sizes = cards[:, c.COUNT].astype(np.int64)
            write_array(read_ranges(shingles_file, np.uint32, cards[:, c.FIRST].astype(np.int64), sizes), shingles_out)
            cards[:, c.FIRST] = first + np.cumsum(sizes) - sizes
            cards[:, c.RANK_A] &= ~NEW
            first += int(sizes.sum())
            write_array(cards, cards_out)
            write_array(read_rows(signatures_file, np.uint32, bands * rows, begin, end)[part], signatures_out)


def _write_keys(piece: CorpusFile, stays: NDArray[np.bool_], context: UnitContext) -> None:
    """The keys of the documents that stay, which are counted anew."""
    place = np.cumsum(stays).astype(np.uint64) - np.uint64(1)
    with (
        context.output(f"index/{piece.name}.own", digested=False) as path,
        RangeReader(f"{piece.arrays}.own") as reader,
        path.open("wb") as stream,
    ):
        rows = reader.size // (8 * KEYED)
        for begin in range(0, rows, _ROWS):
            records = read_rows(reader, np.uint64, KEYED, begin, min(begin + _ROWS, rows)).astype(np.uint64, copy=False)
            row = (records[:, DOCUMENT] - np.uint64(piece.base)).astype(np.int64)
            records, row = records[stays[row]].copy(), row[stays[row]]
            records[:, DOCUMENT] = place[row]
            records[:, RANK_A] &= ~NEW
            write_array(records, stream)
