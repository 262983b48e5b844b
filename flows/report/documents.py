"""What became of the documents: counts by stage, rule and source, and a few documents to read.

Ledger rows are counted in a stream. The documents to read are drawn at random with a seed that is the dataset's own
digest: the same page each time, and nobody's choice. Of the dropped, rows are drawn from at most ``FILES_READ`` ledger
files, so memory and time stay flat however large the corpus is.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.provenance.fates import find_rows
from flows.provenance.funnel import funnel_by_language, rows_by_source
from flows.provenance.samples import LEDGER_COLUMNS
from flows.provenance.samples import kept_samples as kept_rows
from flows.report.sankey import SankeyStage
from flows.stages import LAST, document_path, holds_documents
from infra.store.dataset import Dataset

UNKNOWN = "(unknown)"
FILES_READ = 32
EXCERPT = 420
LANGUAGES = 12


@dataclass(frozen=True)
class DroppedSample:
    """A record that ended at this stage."""

    rule: str
    verdict: str
    url: str
    source: str
    score: float | None
    threshold: float | None
    survivor: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class KeptSample:
    """A document that got through everything."""

    url: str
    source: str
    title: str
    quality: float | None
    excerpt: str


@dataclass
class StageFates:
    """One document stage. ``rules`` is by rule and source; failed records have their own rules."""

    name: str
    incoming: int
    kept: int
    failed: int
    rules: dict[str, Counter[str]]
    kept_by_source: Counter[str]
    lost: int = 0
    """Failed records without a ledger row: those of units that failed for good."""
    samples: list[DroppedSample] = field(default_factory=list)

    @property
    def gone(self) -> int:
        return self.incoming - self.kept

    @property
    def share(self) -> float:
        return self.kept / self.incoming if self.incoming else 0.0

    @property
    def accounted(self) -> int:
        """Records that a ledger holds, and those of units that failed, which the manifest names."""
        return sum(count for _, count in self.ranked) + self.lost

    @property
    def ranked(self) -> list[tuple[str, int]]:
        """Rules with their counts, the most frequent first."""
        totals = [(rule, sum(sources.values())) for rule, sources in self.rules.items()]
        return sorted(totals, key=lambda item: (-item[1], item[0]))

    def lost_by_source(self) -> Counter[str]:
        return sum(self.rules.values(), Counter())


def stage_fates(datasets: Mapping[str, Dataset], samples: int) -> list[StageFates]:
    """Every document stage there is, in path order."""
    found: list[StageFates] = []
    for dataset in document_path(datasets.values()):
        counts = dataset.manifest.counts
        rules = _rules(dataset)
        rows = sum(sum(sources.values()) for sources in rules.values())
        unwritten = sum(counts.dropped.values()) + counts.failed - rows
        lost = 0 if dataset.manifest.complete else min(max(unwritten, 0), counts.failed)
        fates = StageFates(dataset.name, counts.incoming, counts.kept, counts.failed, rules, Counter(), lost)
        if dataset.kind == LAST and found:
            # Its rows are sequences: what is kept of a source is what came less what the ledger holds.
            fates.kept_by_source = found[-1].kept_by_source - fates.lost_by_source()
        else:
            fates.kept_by_source = rows_by_source(dataset, "data/")
        fates.samples = list(_dropped_samples(dataset, datasets, samples))
        found.append(fates)
    return found


def sankey_stages(fates: Sequence[StageFates]) -> list[SankeyStage]:
    """The Sankey diagram's view of the stages: arrivals and departures by source, largest source first."""
    order = source_order(fates)
    found = []
    for stage in fates:
        lost = stage.lost_by_source()
        kept = {source: stage.kept_by_source[source] for source in order}
        incoming = {source: kept[source] + lost[source] for source in order}
        top = stage.ranked[0][0] if stage.ranked else ""
        more = f" +{len(stage.ranked) - 1} rules" if len(stage.ranked) > 1 else ""
        found.append(SankeyStage(stage.name, incoming, kept, top[: 24 - len(more)] + more))
    return found


def source_order(fates: Sequence[StageFates]) -> list[str]:
    """Every source that was ever seen, the largest first."""
    seen: Counter[str] = Counter()
    for stage in fates:
        for source, number in (stage.kept_by_source + stage.lost_by_source()).items():
            seen[source] = max(seen[source], number)
    return [source for source, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))]


@dataclass(frozen=True)
class Languages:
    """Documents by language, the most frequent first: how many arrived at the rules, and what each stage kept."""

    stages: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[int, ...]], ...]
    more: int


def by_language(datasets: Mapping[str, Dataset]) -> Languages | None:
    """None where no language is known yet."""
    found = funnel_by_language(datasets.values())
    if not found:
        return None
    stages = tuple(dict.fromkeys(row.stage for row in found))
    arrived = {row.group: row.incoming for row in found if row.stage == stages[0]}
    kept = {(row.stage, row.group): row.kept for row in found}
    rows = [(name, number, tuple(kept.get((stage, name), 0) for stage in stages)) for name, number in arrived.items()]
    return Languages(stages, tuple(rows[:LANGUAGES]), max(0, len(rows) - LANGUAGES))


def kept_samples(dataset: Dataset, number: int) -> list[KeptSample]:
    """Documents of each source, drawn at random."""
    return [
        KeptSample(
            row["url"] or row["id"].hex(), row["source"], row["title"] or "", row["quality"], excerpt(row["text"])
        )
        for source in rows_by_source(dataset, "data/")
        for row in kept_rows(dataset, number, f"data/{source}/")
    ]


def excerpt(text: str | None) -> str:
    """The beginning of a text, on few lines."""
    if not text:
        return ""
    lines = [" ".join(line.split()) for line in text[: EXCERPT * 2].splitlines()]
    short = "\n".join(line for line in lines if line)
    return short if len(text) <= EXCERPT and len(short) <= EXCERPT else short[:EXCERPT].rstrip() + " …"


def _rules(dataset: Dataset) -> dict[str, Counter[str]]:
    """Ledger rows by rule and source."""
    rules: dict[str, Counter[str]] = defaultdict(Counter)
    for output in dataset.files("ledger/", ".parquet"):
        if not output.rows:
            continue
        with pq.ParquetFile(dataset.local(output.path)) as ledger:
            for batch in ledger.iter_batches(1 << 16, columns=["rule", "source"]):
                counted = pa.Table.from_batches([batch]).group_by(["rule", "source"]).aggregate([([], "count_all")])
                for row in counted.to_pylist():
                    rules[row["rule"]][row["source"] or UNKNOWN] += row["count_all"]
    return dict(rules)


def _dropped_samples(dataset: Dataset, datasets: Mapping[str, Dataset], number: int) -> Iterator[DroppedSample]:
    """Up to ``number`` records of each rule, with the text they came with where a file of the same name holds it."""
    before = _before(dataset, datasets)
    chosen: list[dict[str, Any]] = []
    texts: dict[bytes, str] = {}
    for path, wanted in _drawn(dataset, number).items():
        ids = [document for document, _ in wanted]
        rows = find_rows(dataset, path, pc.field("id").isin(ids), LEDGER_COLUMNS)
        found = {(row["id"], row["rule"]): row for row in rows}
        chosen += [found[key] for key in wanted if key in found]
        texts |= _texts(before, path, ids)
    survivors = _survivors(dataset, [row["survivor_id"] for row in chosen if row["survivor_id"]])
    for row in chosen:
        yield DroppedSample(
            row["rule"],
            row["verdict"],
            row["url"] or row["id"].hex(),
            row["source"] or UNKNOWN,
            row["score"],
            row["threshold"],
            survivors.get(row["survivor_id"], row["survivor_id"].hex()) if row["survivor_id"] else "",
            row["detail"] or "",
            excerpt(texts.get(row["id"])),
        )


def _drawn(dataset: Dataset, number: int) -> dict[str, list[tuple[bytes, str]]]:
    """Of each rule ``number`` records, as (id, rule) by ledger file. Ids are digests of contents: in the order of a seeded
    scramble of them the first are drawn at random, whatever the order of files and rows."""
    seed = np.uint64(int.from_bytes(hashlib.blake2b(dataset.digest.encode(), digest_size=8).digest()))
    best: dict[str, list[tuple[int, bytes, str]]] = {}
    for path in spread(
        [output.path for output in dataset.files("ledger/", ".parquet") if output.rows] if number else []
    ):
        with pq.ParquetFile(dataset.local(path)) as ledger:
            for batch in ledger.iter_batches(1 << 16, columns=["id", "rule"]):
                ids = batch.column("id")
                order = np.frombuffer(b"".join(ids.to_pylist()), dtype="<u8")[::2] ^ seed
                rules = np.asarray(batch.column("rule").to_pylist())
                for rule in np.unique(rules):
                    places = np.flatnonzero(rules == rule)
                    first = places[np.argsort(order[places], kind="stable")[:number]]
                    rows = [(int(order[place]), ids[int(place)].as_py(), path) for place in first]
                    best[str(rule)] = sorted([*best.get(str(rule), []), *rows])[:number]
    drawn: dict[str, list[tuple[bytes, str]]] = {}
    for rule, rows in best.items():
        for _, document, path in rows:
            drawn.setdefault(path, []).append((document, rule))
    return drawn


def spread(paths: Sequence[str]) -> list[str]:
    """At most ``FILES_READ`` of the paths, evenly chosen."""
    step = max(1.0, len(paths) / FILES_READ)
    return [paths[int(index * step)] for index in range(min(len(paths), FILES_READ))]


def _before(dataset: Dataset, datasets: Mapping[str, Dataset]) -> Dataset | None:
    found = (datasets[record.name] for record in dataset.manifest.inputs if record.name in datasets)
    return next((each for each in found if holds_documents(each)), None)


def _texts(before: Dataset | None, ledger: str, ids: list[bytes]) -> dict[bytes, str]:
    path = ledger.replace("ledger/", "data/", 1)
    if before is None or not ids or not any(output.path == path for output in before.files(path)):
        return {}
    rows = find_rows(before, path, pc.field("id").isin(ids), ["id", "text"])
    return {row["id"]: row["text"] for row in rows if row.get("text")}


def _survivors(dataset: Dataset, ids: list[bytes]) -> dict[bytes, str]:
    """URLs of the documents that stayed in the place of others, looked for in this stage's own data."""
    if not ids:
        return {}
    found: dict[bytes, str] = {}
    for path in spread([output.path for output in dataset.files("data/", ".parquet") if output.rows]):
        rows: list[dict[str, Any]] = find_rows(dataset, path, pc.field("id").isin(ids), ["id", "url"])
        found |= {row["id"]: row["url"] for row in rows if row["url"]}
    return found
