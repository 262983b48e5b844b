"""Step ``index``: the n-grams of all evaluation items in one table.

``index.npz`` holds an open hash table from n-gram to a number ``k`` (or ``IGNORED``), and for each ``k`` the entries that
hold it, ``entries[first[k]:first[k + 1]]``. An *entry* is one field of one item; ``entries.json`` names them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from infra.store.files import filesystem, read_json
from pipeline.decontaminate.config import DecontaminateConfig
from pipeline.decontaminate.evaluations import read_texts

if TYPE_CHECKING:
    from pipeline.ngrams import Analyzer

Grams = NDArray[np.uint64]
INDEX = "index.npz"
ENTRIES = "entries.json"


@dataclass(frozen=True)
class Index:
    """The table, opened for scanning."""

    keys: NDArray[np.uint64]
    values: NDArray[np.int64]
    first: NDArray[np.int64]
    entries: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Distinct n-grams of each entry that count."""
    names: list[tuple[str, str, str]]
    """(evaluation, item, field) of each entry."""

    def entries_of(self, found: int) -> NDArray[np.int64]:
        return self.entries[self.first[found] : self.first[found + 1]]


def index_units(context: StageContext) -> Iterable[Unit]:
    yield Unit(unit_id("index"))


def index_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.ngrams import Analyzer

    config: DecontaminateConfig = context.config
    names: list[tuple[str, str, str]] = []
    grams: list[Grams] = []
    analyzer = Analyzer(config.ngram, config.max_characters)
    ignored = [_grams(text, analyzer, config) for text in config.boilerplate]
    for evaluation in config.evaluations:
        numbers: dict[str, int] = {}
        begin, owners = len(grams), list[int]()
        for text in read_texts(evaluation, context.inputs):
            item = numbers.setdefault(text.item, len(numbers))
            found = _grams(text.text, analyzer, config)
            if len(found):
                names.append((text.evaluation, text.item, text.field))
                grams.append(found)
                owners.append(item)
        ignored.append(_shared(grams[begin:], owners, config.boilerplate_items))
        context.metrics[f"items:{evaluation.name}"] = float(len(numbers))
    context.metrics["ngrams"] = float(_write(context, names, grams, np.unique(_joined(ignored))))
    return Counts()


def _grams(text: str, analyzer: "Analyzer", config: DecontaminateConfig) -> Grams:
    """The n-grams of an item's text that count, each once."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    words = analyzer.words(data, 0, len(data))
    if words < min(config.ngram, config.short_words):
        return np.empty(0, np.uint64)
    grams, letters = analyzer.ngrams(0, words)
    return np.unique(grams[letters])


def _joined(grams: Sequence[Grams]) -> Grams:
    return np.concatenate([np.empty(0, np.uint64), *grams])


def _shared(grams: Sequence[Grams], items: Sequence[int], least: int) -> Grams:
    """The n-grams that so many items have in one of their fields."""
    every, item = _joined(grams), np.repeat(np.array(items, np.int64), [len(each) for each in grams])
    order = np.lexsort((item, every))
    every, item = every[order], item[order]
    once = np.ones(len(every), np.bool_)
    once[1:] = (every[1:] != every[:-1]) | (item[1:] != item[:-1])
    shared, sharing = np.unique(every[once], return_counts=True)
    return np.asarray(shared[sharing >= least])


def _write(context: UnitContext, names: list[tuple[str, str, str]], grams: list[Grams], ignored: Grams) -> int:
    """Write the table; how many n-grams are in it or ignored by it. Flat arrays throughout: of a book an item has as many
    n-grams as words, and as Python's numbers they would be forty times the text."""
    from pipeline.decontaminate.table import IGNORED, fill_table

    every = _joined(grams)
    distinct = len(np.union1d(every, ignored))
    order = np.argsort(every, kind="stable")  # of one n-gram the entries stay in order
    every, entries = every[order], np.repeat(np.arange(len(names)), [len(each) for each in grams])[order]
    counts = ~np.isin(every, ignored)
    every, entries = every[counts], entries[counts].astype(np.int64)
    counted, sizes = np.unique(every, return_counts=True)
    keys = np.concatenate([counted, ignored])
    values = np.concatenate([np.arange(len(counted)), np.full(len(ignored), IGNORED)]).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slots = 1 << max(4, int(2 * len(keys)).bit_length())
    table_keys, table_values = np.zeros(slots, np.uint64), np.zeros(slots, np.int64)
    fill_table(keys, values, table_keys, table_values)
    sizes = np.bincount(entries, minlength=len(names)).astype(np.int64)
    with context.intermediate(INDEX) as path, path.open("wb") as stream:
        np.savez(stream, keys=table_keys, values=table_values, first=first, entries=entries, sizes=sizes)
    with context.intermediate(ENTRIES) as path:
        path.write_text(json.dumps(names))
    return distinct


def open_index(work_root: str) -> Index:
    fs, path = filesystem(f"{work_root}/steps/index/{INDEX}")
    with fs.open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        parts = {name: arrays[name] for name in ("keys", "values", "first", "entries", "sizes")}
    names = [(str(a), str(b), str(c)) for a, b, c in read_json(f"{work_root}/steps/index/{ENTRIES}")]
    return Index(**parts, names=names)
