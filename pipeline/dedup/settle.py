"""Steps ``settle-<round>``: who stays.

The verified pairs form a graph whose edges lead from a document to a better-ranked one. A document is decided when all
documents its edges lead to are:

* it is *dropped* if one of those stays: its survivor is the most similar one, the better-ranked among equals;
* else it is compared with the survivors its betters were dropped for, and dropped if one is a duplicate of it too;
* else it *stays*.

So every dropped document is a verified duplicate of its survivor: clusters are stars, never chains of A~B~C. The
outcome depends on the graph alone, not on the order of work.

Work goes in rounds. In a round each block decides what it can and tells the others: ``settle-<r>/<b>.told`` holds (waiting
document, decided document, its survivor or itself), by block of the waiting one. Rounds end when nothing waits. Ranks
rise along edges, so there are no circles; a chain across blocks takes a round for each crossing, and the few documents
that would need more than ``ROUNDS`` stay.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Step, Unit, UnitContext, unit_id
from infra.store.files import exists, read_bytes
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.corpus import Corpus, corpus_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, gather_partition, read_partition
from pipeline.dedup.flat import RangeReader, read_rows
from pipeline.dedup.levels import partition_files

ROUNDS = 16
WAITS, STAYS, DROPPED = 0, 1, 2
_NOT_TOLD = np.uint64(2**64 - 1)
_NONE = np.uint64(2**64 - 1)


@dataclass
class State:
    """What is known of the documents of one block that have edges, and of the betters they wait for."""

    documents: NDArray[np.uint64]
    """Ascending."""
    state: NDArray[np.uint8]
    survivor: NDArray[np.uint64]
    score: NDArray[np.float64]
    answer: NDArray[np.uint64]
    """For each edge what its better document told: not yet, itself (it stays), or the survivor it was dropped for."""


@dataclass(frozen=True)
class Edges:
    """Verified edges of a block's documents: grouped by document, betters from the best to the worst."""

    source: NDArray[np.int64]
    """Position of the document in ``State.documents``."""
    document: NDArray[np.uint64]
    better: NDArray[np.uint64]
    similarity: NDArray[np.float64]


def settle_steps() -> tuple[Step, ...]:
    return tuple(Step(f"settle-{r:02}", partial(settle_units, r), settle_unit) for r in range(ROUNDS))


def settle_units(number: int, context: StageContext) -> Iterable[Unit]:
    """In the first round every block, then those in which documents wait."""
    before = context.receipts["verify"] if number == 0 else context.receipts[f"settle-{number - 1:02}"]
    for receipt in before:
        if number == 0 or receipt.metrics["waiting"] > 0:
            block = int(receipt.metrics["block"])
            yield Unit(unit_id("settle", number, block), {"round": number, "block": block})


def settle_unit(unit: Unit, context: UnitContext) -> Counts:
    number, block = number_in(unit, "round"), number_in(unit, "block")
    config = context.config
    corpus = corpus_of(config, context.inputs, context.work_root)
    into = partition_files(context.work_root, "verify", "into", corpus.blocks)
    if number == 0:
        edges, state = _begin(corpus, context.work_root, block, into)
    else:
        state = load_state(context.work_root, block, number - 1)
        edges = _edges(context.work_root, block, state.documents)
        told = partition_files(context.work_root, f"settle-{number - 1:02}", "told", corpus.blocks)
        _hear(edges, state, gather_partition(told, block, 3))
    waited = state.state == WAITS
    while _decide(corpus, config, edges, state):
        _hear_own(edges, state)
    decided = waited & (state.state != WAITS)
    with (
        context.intermediate(f"{block:05}.told") as path,
        ExchangeWriter(path, 3, corpus.blocks, config.budget // 4) as writer,
    ):
        for chunk in read_partition(into, block):
            at = np.searchsorted(state.documents, chunk[:, 0])
            news = decided[at] & (corpus.block_of(chunk[:, 1]) != block)
            verdict = np.where(state.state[at] == STAYS, chunk[:, 0], state.survivor[at])
            writer.add(np.stack([chunk[:, 1], chunk[:, 0], verdict], axis=1)[news], corpus.block_of(chunk[news, 1]))
    with context.intermediate(f"{block:05}.state") as path, path.open("wb") as stream:
        np.savez(stream, **{field.name: getattr(state, field.name) for field in fields(State)})
    context.metrics.update(block=float(block), waiting=float((state.state == WAITS).sum()))
    return Counts()


def load_state(work_root: str, block: int, last_round: int = ROUNDS - 1) -> State:
    """The newest state of a block."""
    for number in range(last_round, -1, -1):
        url = f"{work_root}/steps/settle-{number:02}/{block:05}.state"
        if exists(url):
            with np.load(io.BytesIO(read_bytes(url)), allow_pickle=False) as arrays:
                return State(*(arrays[field.name] for field in fields(State)))
    raise FileNotFoundError(f"block {block} was never settled")


def _begin(corpus: Corpus, work_root: str, block: int, into: list[str]) -> tuple[Edges, State]:
    waited_for = [np.unique(chunk[:, 0]) for chunk in read_partition(into, block)]
    rows = _edge_rows(work_root, block)
    documents = np.unique(np.concatenate([rows[:, 0], *waited_for]))
    edges = _edges(work_root, block, documents)
    number = len(documents)
    state = State(
        documents,
        np.zeros(number, np.uint8),
        np.full(number, _NONE),
        np.zeros(number),
        np.where(edges.better >= corpus.new, edges.better, _NOT_TOLD),
    )
    return edges, state


def _edge_rows(work_root: str, block: int) -> NDArray[np.uint64]:
    with RangeReader(f"{work_root}/steps/verify/{block:05}.edges") as reader:
        return read_rows(reader, np.uint64, 3, 0, reader.size // 24).astype(np.uint64, copy=False)


def _edges(work_root: str, block: int, documents: NDArray[np.uint64]) -> Edges:
    rows = _edge_rows(work_root, block)
    return Edges(
        np.searchsorted(documents, rows[:, 0]),
        rows[:, 0].copy(),
        rows[:, 1].copy(),
        np.ascontiguousarray(rows[:, 2]).view(np.float64),
    )


def _hear(edges: Edges, state: State, told: NDArray[np.uint64]) -> None:
    """Enter what other blocks told: (document, better, answer)."""
    order = np.lexsort((told[:, 1], told[:, 0]))
    told = told[order]
    # An edge and a message about it agree in (document, better): both sides sorted by it, they line up.
    by_ends = np.lexsort((edges.better, edges.document))
    position = _find(edges.document[by_ends], edges.better[by_ends], told[:, 0], told[:, 1])
    state.answer[by_ends[position]] = told[:, 2]


def _find(
    left: NDArray[np.uint64], right: NDArray[np.uint64], want_left: NDArray[np.uint64], want_right: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Where each wanted pair stands among pairs in ascending order, all of which are there."""
    both = np.concatenate([np.stack([left, right], 1), np.stack([want_left, want_right], 1)])
    _, label = np.unique(both, axis=0, return_inverse=True)
    label = label.reshape(-1)
    return np.searchsorted(label[: len(left)], label[len(left) :])


def _hear_own(edges: Edges, state: State) -> None:
    """Enter what was decided about documents of this block."""
    if len(state.documents) == 0:
        return
    at = np.minimum(np.searchsorted(state.documents, edges.better), len(state.documents) - 1)
    here = (state.documents[at] == edges.better) & (state.state[at] != WAITS)
    verdict = np.where(state.state[at] == STAYS, edges.better, state.survivor[at])
    state.answer[here] = verdict[here]


def _decide(corpus: Corpus, config: DedupConfig, edges: Edges, state: State) -> bool:
    """Decide the waiting documents all of whose betters are decided; whether there were any."""
    open_edges = np.bincount(edges.source[state.answer == _NOT_TOLD], minlength=len(state.documents))
    ready = (state.state == WAITS) & (open_edges == 0)
    if not ready.any():
        return False
    state.state[ready] = STAYS
    direct = ready[edges.source] & (state.answer == edges.better)
    _drop(state, edges.source[direct], edges.better[direct], edges.similarity[direct])
    _compare_with_survivors(corpus, config, edges, state, ready & (state.state == STAYS))
    return True


def _compare_with_survivors(
    corpus: Corpus, config: DedupConfig, edges: Edges, state: State, candidates: NDArray[np.bool_]
) -> None:
    """The second hop: documents whose betters were all dropped, against the survivors of those."""
    from pipeline.dedup.similarity import similarities

    hop = candidates[edges.source]
    if not config.near or not hop.any():
        return
    pairs = np.unique(np.stack([edges.document[hop], state.answer[hop]], axis=1), axis=0)
    similarity = similarities(corpus, pairs, config.measure, config.threshold, config.budget)
    same = similarity >= config.threshold
    _drop(state, np.searchsorted(state.documents, pairs[same, 0]), pairs[same, 1], similarity[same])


def _drop(
    state: State, source: NDArray[np.int64], survivor: NDArray[np.uint64], similarity: NDArray[np.float64]
) -> None:
    """Drop documents for the most similar of the given survivors, the first among equals."""
    order = np.lexsort((np.arange(len(source)), -similarity, source))
    first = np.ones(len(order), np.bool_)
    first[1:] = source[order][1:] != source[order][:-1]
    best = order[first]
    state.state[source[best]] = DROPPED
    state.survivor[source[best]] = survivor[best]
    state.score[source[best]] = similarity[best]
