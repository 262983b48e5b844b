"""Step ``index``: the n-grams of all evaluation items in one table.

``index.npz`` holds an open hash table from n-gram to a number ``k`` (or ``IGNORED``), and for each ``k`` the entries that
hold it, ``entries[first[k]:first[k + 1]]``. An *entry* is one field of one item; ``entries.json`` names them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
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
    holders: dict[int, list[int]] = defaultdict(list)
    names: list[tuple[str, str, str]] = []
    analyzer = Analyzer(config.ngram, config.max_characters)
    ignored = {gram for text in config.boilerplate for gram in _grams(text, analyzer, config)}
    items: dict[str, set[str]] = defaultdict(set)
    for evaluation in config.evaluations:
        used: dict[int, set[str]] = defaultdict(set)
        for text in read_texts(evaluation, context.inputs):
            items[evaluation.name].add(text.item)
            grams = set(_grams(text.text, analyzer, config))
            for gram in grams:
                holders[gram].append(len(names))
                used[gram].add(text.item)
            if grams:
                names.append((text.evaluation, text.item, text.field))
        ignored |= {gram for gram, sharing in used.items() if len(sharing) >= config.boilerplate_items}
    _write(context, names, holders, ignored)
    context.metrics["ngrams"] = float(len(holders))
    for name, found in items.items():
        context.metrics[f"items:{name}"] = float(len(found))
    return Counts()


def _grams(text: str, analyzer: "Analyzer", config: DecontaminateConfig) -> Iterator[int]:
    """The n-grams of an item's text that count."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    words = analyzer.words(data, 0, len(data))
    if words >= min(config.ngram, config.short_words):
        grams, letters = analyzer.ngrams(0, words)
        yield from grams[letters].tolist()


def _write(
    context: UnitContext, names: list[tuple[str, str, str]], holders: dict[int, list[int]], ignored: set[int]
) -> None:
    from pipeline.decontaminate.table import IGNORED, fill_table

    counted = sorted(holders.keys() - ignored)
    keys = np.array([*counted, *sorted(ignored)], np.uint64)
    values = np.concatenate([np.arange(len(counted)), np.full(len(ignored), IGNORED)]).astype(np.int64)
    first = np.concatenate([[0], np.cumsum([len(holders[gram]) for gram in counted])]).astype(np.int64)
    entries = np.array([entry for gram in counted for entry in holders[gram]], np.int64)
    slots = 1 << max(4, int(2 * len(keys)).bit_length())
    table_keys, table_values = np.zeros(slots, np.uint64), np.zeros(slots, np.int64)
    fill_table(keys, values, table_keys, table_values)
    sizes = np.bincount(entries, minlength=len(names)).astype(np.int64)
    with context.intermediate(INDEX) as path, path.open("wb") as stream:
        np.savez(stream, keys=table_keys, values=table_values, first=first, entries=entries, sizes=sizes)
    with context.intermediate(ENTRIES) as path:
        path.write_text(json.dumps(names))


def open_index(work_root: str) -> Index:
    fs, path = filesystem(f"{work_root}/steps/index/{INDEX}")
    with fs.open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        parts = {name: arrays[name] for name in ("keys", "values", "first", "entries", "sizes")}
    names = [(str(a), str(b), str(c)) for a, b, c in read_json(f"{work_root}/steps/index/{ENTRIES}")]
    return Index(**parts, names=names)
