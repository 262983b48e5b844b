"""How long the documents are and how they score, with the thresholds that the rules hold against it.

Attributes are read in a stream into fixed bins, from at most ``FILES_READ`` files a source. A figure between 0 and 1 gets
even bins; lengths and counts get bins that grow by the same factor.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup
from numpy.typing import NDArray

from flows.report.documents import FILES_READ, spread
from infra.errors import HeadwaterError
from infra.store.dataset import Dataset
from pipeline.charts import REST, Bars, Threshold, histogram
from pipeline.profiles import source_of
from pipeline.quality.config import QualityConfig, rules_for
from pipeline.quality.rules import Rule

SHARES = np.linspace(0.0, 1.0, 51)
LENGTHS = np.logspace(0.0, 7.0, 71)
"""From one to ten million, ten bins for each power of ten."""
ALWAYS = ("words", "quality")
MOST = 8
NAMES = {
    "words": "words in a document",
    "quality": "score of the classifier",
    "language_score": "certainty about the language",
}


@dataclass(frozen=True)
class Histogram:
    """One attribute."""

    title: str
    note: str
    chart: Markup


@dataclass
class _Binned:
    """One attribute of one source, in both kinds of bins."""

    shares: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SHARES) - 1, np.int64))
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LENGTHS) - 1, np.int64))
    largest: float = 0.0
    known: int = 0

    def add(self, values: NDArray[np.float64]) -> None:
        if len(values):
            self.shares += np.histogram(np.clip(values, 0.0, 1.0), SHARES)[0]
            self.lengths += np.histogram(np.clip(values, LENGTHS[0], LENGTHS[-1]), LENGTHS)[0]
            self.largest = max(self.largest, float(values.max()))
            self.known += len(values)


def distributions(datasets: Mapping[str, Dataset], colours: Mapping[str, str]) -> list[Histogram]:
    """Length, classifier score, and what the rules look at that took most; none without attributes."""
    attributes = datasets.get("attributes")
    if attributes is None:
        return []
    rules = _rules(datasets.get("quality"), attributes)
    wanted = list(dict.fromkeys([*ALWAYS, *_ranked(rules, datasets.get("quality"))]))[:MOST]
    binned, read, total = _read(attributes, wanted)
    note = "" if read == total else f"of {read:,} of {total:,} documents, from {FILES_READ} files of each source"
    return [
        Histogram(NAMES.get(name, name.replace("_", " ")), note, chart)
        for name in wanted
        if (chart := _chart(name, binned.get(name, {}), rules, colours))
    ]


def _rules(quality: Dataset | None, attributes: Dataset) -> dict[str, dict[str, Rule]]:
    """The rules that held for each source, by the attribute they look at."""
    if quality is None:
        return {}
    try:
        config = QualityConfig.model_validate(quality.manifest.config)
        return {source: _by_attribute(config, source, quality) for source in _files(attributes)}
    except (HeadwaterError, ValueError):  # made by another version, whose rules had other names
        return {}


def _by_attribute(config: QualityConfig, source: str, quality: Dataset) -> dict[str, Rule]:
    entry = rules_for(config, source)
    found = {rule.name: rule for rule in entry.all_rules() if isinstance(rule, Rule)}
    if entry.languages:
        found["language_score"] = Rule("language_score", "language_score", "at_least", entry.language_score)
    least = (quality.manifest.stats.get("classifier_thresholds") or {}).get(source)
    if least is not None:
        found["classifier"] = Rule("classifier", "quality", "at_least", least)
    return found


def _ranked(rules: Mapping[str, Mapping[str, Rule]], quality: Dataset | None) -> list[str]:
    """Attributes by the number of documents that rules about them took."""
    dropped = quality.manifest.counts.dropped if quality is not None else {}
    taken: Counter[str] = Counter()
    attribute_of = {name: rule.attribute for each in rules.values() for name, rule in each.items()}
    for rule, number in dropped.items():
        if rule in attribute_of:
            taken[attribute_of[rule]] += number
    return [name for name, _ in taken.most_common()]


def _files(attributes: Dataset) -> dict[str, list[str]]:
    """Files by source, which is their folder."""
    found: dict[str, list[str]] = {}
    for output in attributes.files("data/", ".parquet"):
        found.setdefault(source_of(output.path), []).append(output.path)
    return found


def _read(attributes: Dataset, wanted: Sequence[str]) -> tuple[dict[str, dict[str, _Binned]], int, int]:
    """Each attribute by source; and how many documents were read, of how many."""
    binned: dict[str, dict[str, _Binned]] = {}
    read = 0
    for source, paths in _files(attributes).items():
        for path in spread(paths):
            for name, values, rows in _columns(attributes, path, wanted):
                binned.setdefault(name, {}).setdefault(source, _Binned()).add(values)
                read += rows
    return binned, read, sum(output.rows or 0 for output in attributes.files("data/", ".parquet"))


def _columns(attributes: Dataset, path: str, wanted: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float64], int]]:
    """Batches of the wanted columns, defined values only; the rows of a batch are told with its first column."""
    with pq.ParquetFile(attributes.local(path)) as table:
        known = [name for name in wanted if name in table.schema_arrow.names]
        for batch in table.iter_batches(1 << 16, columns=known):
            for index, name in enumerate(known):
                values = batch.column(name).drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
                yield name, values[np.isfinite(values)], batch.num_rows if index == 0 else 0


def _chart(
    name: str,
    by_source: Mapping[str, _Binned],
    rules: Mapping[str, Mapping[str, Rule]],
    colours: Mapping[str, str],
) -> Markup:
    judged = {source for source in by_source if any(rule.attribute == name for rule in rules.get(source, {}).values())}
    by_source = {
        source: each for source, each in by_source.items() if each.known and (name in ALWAYS or source in judged)
    }
    if not by_source:
        return Markup("")
    logarithmic = max(each.largest for each in by_source.values()) > 1.0
    edges, bins = (LENGTHS, "lengths") if logarithmic else (SHARES, "shares")
    used = np.flatnonzero(sum(getattr(each, bins) for each in by_source.values()))
    first, last = (int(used[0]), int(used[-1]) + 1) if logarithmic else (0, len(SHARES) - 1)
    groups = [
        Bars(source, getattr(by_source[source], bins)[first:last].tolist(), colours.get(source, REST))
        for source in sorted(by_source, key=lambda source: list(colours).index(source) if source in colours else 99)
    ]
    return histogram(
        edges[first : last + 1].tolist(),
        groups,
        x=NAMES.get(name, name.replace("_", " ")),
        y="documents",
        describe=f"Documents by {NAMES.get(name, name.replace('_', ' '))}",
        thresholds=_thresholds(name, rules, by_source),
        logarithmic=logarithmic,
    )


def _thresholds(name: str, rules: Mapping[str, Mapping[str, Rule]], sources: Mapping[str, _Binned]) -> list[Threshold]:
    """Lines for the rules about an attribute, once each, with the sources they hold for where that is not all."""
    found: dict[tuple[str, float, bool], list[str]] = {}
    for source in sources:
        for label, rule in rules.get(source, {}).items():
            if rule.attribute == name:
                found.setdefault((label, rule.threshold, rule.bound == "at_least"), []).append(source)
    return [
        Threshold(label if len(held) == len(sources) else f"{label} ({', '.join(held)})", value, below)
        for (label, value, below), held in sorted(found.items(), key=lambda item: item[0][1])
    ]
