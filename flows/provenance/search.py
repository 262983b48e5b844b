"""Finding documents: by parts of their address or text, by source, language, rule, fate and attributes.

What is searched is everything the first document stage ever saw: its documents, and the records that became none (from its
ledger). The stages after it write the same file names, so each file is looked at once, beside its attributes and the later
stages' ledgers for it. A search goes file by file and row group by row group, cheap columns first, stops at a full page or
when its time is over, and says in ``next`` where the following one begins: memory and time are bounded whatever the size
of the workspace.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.provenance.attributes import attribute_kind
from flows.provenance.fates import UNIT_LOST, find_rows
from flows.provenance.wanted import Wanted, contains, excerpt, meets
from flows.stages import LAST
from infra.errors import InputError
from infra.store.dataset import Dataset
from pipeline.profiles import source_of

SECONDS = 2.0
MOST = 200
FATE_COLUMNS = ["id", "verdict", "rule"]
_CURSOR = re.compile(r"([0-9a-f]{12})\.(\d{1,9})\.(\d{1,12})")
_SHOWN = ["id", "url", "title", "source", "language"]


@dataclass(frozen=True)
class _Cursor:
    fingerprint: str
    file: int = 0
    row: int = 0

    def __str__(self) -> str:
        return f"{self.fingerprint}.{self.file}.{self.row}"


def search(
    stages: Sequence[Dataset],
    attributes: Dataset | None,
    wanted: Wanted,
    *,
    after: str = "",
    limit: int = 20,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """One page: ``{documents, next, partial, looked_at, of}``.

    ``next`` is None at the end; ``partial`` says that time was over before the page was full. Raises InputError for a cursor
    of another search, or an attribute that no document has.
    """
    if not stages:
        return {"documents": [], "next": None, "partial": False, "looked_at": 0, "of": 0}
    first = stages[0]
    paths = _paths(first)
    start = _cursor(after, first, len(paths))
    _check_attributes(attributes, wanted)
    deadline, limit = time.monotonic() + seconds, max(1, min(limit, MOST))
    everything = [*stages, *([attributes] if attributes is not None else [])]
    published = {dataset.root: frozenset(output.path for output in dataset.manifest.outputs) for dataset in everything}
    found: list[dict[str, Any]] = []
    looked_at = 0
    following: _Cursor | None = start
    for place, chunk in _chunks(_Searched(stages, attributes, published), paths, wanted, start):
        following = place
        if len(found) >= limit or (place != start and time.monotonic() > deadline):
            break
        if chunk is not None:
            taken = chunk.rows(wanted, limit - len(found))
            found += taken.documents
            looked_at += taken.looked_at
            following = replace(place, row=place.row + taken.looked_at)
            if len(found) >= limit:
                break
    else:
        following = None
    return {
        "documents": found,
        "next": str(following) if following else None,
        "partial": following is not None and len(found) < limit,
        "looked_at": looked_at,
        "of": sum(output.rows or 0 for prefix in ("data/", "ledger/") for output in first.files(prefix, ".parquet")),
    }


def _chunks(
    searched: "_Searched", paths: Sequence[str], wanted: Wanted, start: _Cursor
) -> "Iterator[tuple[_Cursor, _Chunk | None]]":
    """Parts of the search, each with where it begins; None where a file begins in which there may be nothing to find."""
    for number in range(start.file, len(paths)):
        place = start if number == start.file else replace(start, file=number, row=0)
        if not wanted.source or source_of(f"data/{paths[number]}") == wanted.source:
            yield place, None
            for row, chunk in _File(searched, paths[number]).chunks(wanted, place.row):
                yield replace(place, row=row), chunk


def _paths(first: Dataset) -> list[str]:
    """Files of documents and of what became none, by their common name."""
    outputs = [*first.files("data/", ".parquet"), *first.files("ledger/", ".parquet")]
    return sorted({output.path.partition("/")[2] for output in outputs})


def _cursor(after: str, first: Dataset, files: int) -> _Cursor:
    fingerprint = first.manifest.fingerprint
    if not after:
        return _Cursor(fingerprint)
    match = _CURSOR.fullmatch(after)
    if match is None or match[1] != fingerprint or int(match[2]) >= files:
        raise InputError(
            "this search cannot go on from there: the documents are others by now, or the place is none of ours",
            where="after",
            remedy="Search again from the beginning.",
        )
    return _Cursor(fingerprint, int(match[2]), int(match[3]))


def _check_attributes(attributes: Dataset | None, wanted: Wanted) -> None:
    asked = {*wanted.least, *wanted.most}
    if asked:
        known = numeric_attributes(attributes)
        for name in sorted(asked - set(known)):
            raise InputError(
                f"no document has a number {name[:100]!r}",
                where="attributes",
                remedy=f"There are: {', '.join(known)}." if known else "No attributes are published under this label.",
            )


def numeric_attributes(attributes: Dataset | None) -> list[str]:
    """Names of the measured numbers."""
    if attributes is None or not (outputs := attributes.files("data/", ".parquet")):
        return []
    schema = pq.read_schema(attributes.local(outputs[0].path))
    return [column.name for column in schema if attribute_kind(column.type) == "number"]


# ---- one file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taken:
    documents: list[dict[str, Any]]
    looked_at: int


@dataclass(frozen=True)
class _Chunk:
    """Some rows, with their fates; ``texts`` reads their texts when these are needed."""

    table: pa.Table
    fates: pa.Table
    skip: int
    document_file: pq.ParquetFile | None = None
    group: int = 0

    def rows(self, wanted: Wanted, room: int) -> _Taken:
        """The first ``room`` rows that meet everything, and how many rows were looked at for that."""
        met = meets(self.table, self.fates, wanted)
        met[: self.skip] = False
        texts: pa.Array | None = None
        if wanted.text:
            if met.any() and (texts := self._texts()) is not None:
                met &= contains(texts, wanted.text)
            else:
                met[:] = False
        places = np.flatnonzero(met)[:room]
        full = len(places) == room
        looked_at = (int(places[-1]) + 1 if full else self.table.num_rows) - self.skip
        if len(places) and texts is None and "characters" not in self.table.column_names:
            texts = self._texts()
        return _Taken([self._described(int(place), texts, wanted.text) for place in places], looked_at)

    def _texts(self) -> pa.Array | None:
        if self.document_file is None:
            return None
        return self.document_file.read_row_group(self.group, columns=["text"]).column("text").combine_chunks()

    def _described(self, place: int, texts: pa.Array | None, text: str) -> dict[str, Any]:
        (row,) = self.table.slice(place, 1).to_pylist()
        (fate,) = self.fates.slice(place, 1).to_pylist()
        whole = texts[place].as_py() if texts is not None else None
        characters = row.get("characters")
        return {
            **{name: row.get(name) for name in _SHOWN},
            "id": row["id"].hex(),
            "fate": fate,
            "characters": len(whole) if characters is None and whole is not None else characters,
            "excerpt": excerpt(whole, text) if whole is not None and text else None,
        }


@dataclass(frozen=True)
class _Searched:
    """The datasets of a search, and by their addresses what each has published."""

    stages: Sequence[Dataset]
    attributes: Dataset | None
    published: Mapping[str, frozenset[str]]

    def has(self, dataset: Dataset, path: str) -> bool:
        return path in self.published[dataset.root]


@dataclass(frozen=True)
class _File:
    """One file of the first stage beside what is known of its rows elsewhere."""

    searched: _Searched
    path: str

    @property
    def _first(self) -> Dataset:
        return self.searched.stages[0]

    @property
    def _later(self) -> Sequence[Dataset]:
        return self.searched.stages[1:]

    def chunks(self, wanted: Wanted, skip: int) -> Iterator[tuple[int, _Chunk]]:
        """From row ``skip`` on, each with the number of the first row it looks at."""
        documents = 0
        if self._has(self._first, "data"):
            with pq.ParquetFile(self._first.local(f"data/{self.path}")) as opened:
                documents = opened.metadata.num_rows
                if documents > skip:
                    yield from self._documents(opened, wanted, skip)
        if self._has(self._first, "ledger") and wanted.fate != "kept" and not wanted.text:
            table = _readable(self._first, f"ledger/{self.path}", [*_SHOWN, "verdict", "rule"])
            offset = max(0, skip - documents)
            if table.num_rows > offset:
                stage = pa.repeat(pa.scalar(self._first.name), table.num_rows)
                fates = pa.table({"stage": stage, "verdict": table["verdict"], "rule": table["rule"]})
                yield documents + offset, _Chunk(table, fates, offset)

    def _documents(self, opened: pq.ParquetFile, wanted: Wanted, skip: int) -> Iterator[tuple[int, _Chunk]]:
        lost = self._ledgers()
        if not self._may_hold(lost, wanted):
            return
        measured = self._measured(wanted)
        start = 0
        for group in range(opened.metadata.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if start + rows > skip:
                table = _beside(opened.read_row_group(group, columns=_SHOWN), measured, start, self._first)
                offset = max(0, skip - start)
                yield start + offset, _Chunk(table, self._fates(table, lost), offset, opened, group)
            start += rows

    def _has(self, dataset: Dataset, part: str) -> bool:
        return self.searched.has(dataset, f"{part}/{self.path}")

    def _may_hold(self, lost: pa.Table, wanted: Wanted) -> bool:
        """Whether a fate that is asked for is one of these rows' at all: told before any document is read."""
        for stage in self._later:
            counts = stage.manifest.counts
            if not self._keeps_names(stage) and (not wanted.rule or wanted.rule in counts.dropped or counts.failed):
                return True
        if self._rest()["verdict"] == "failed":
            return True
        asked = [
            (name, value)
            for name, value in (("rule", wanted.rule), ("verdict", wanted.fate))
            if value not in ("", "kept")
        ]
        return all(pc.any(pc.equal(lost[name], value)).as_py() for name, value in asked)

    def _keeps_names(self, stage: Dataset) -> bool:
        """Whether the stage has a file of this name, or lost it: otherwise its ledger is looked through (another package's;
        that of the shards, which names most documents by their shard)."""
        if stage.kind == LAST:
            return False
        return self._has(stage, "data") or self._has(stage, "ledger") or not stage.manifest.complete

    def _ledgers(self) -> pa.Table:
        """``id, stage, verdict, rule`` of the rows that later stages did not keep."""
        tables = [_NO_FATES]
        for stage in self._later:
            if self._keeps_names(stage) and self._has(stage, "ledger"):
                table = _readable(stage, f"ledger/{self.path}", FATE_COLUMNS)
                tables.append(table.append_column("stage", pa.repeat(pa.scalar(stage.name), table.num_rows)))
        return pa.concat_tables([table.cast(_NO_FATES.schema) for table in tables])

    def _fates(self, rows: pa.Table, lost: pa.Table) -> pa.Table:
        """What became of each row in the end."""
        ids = rows["id"].combine_chunks()
        for stage in self._later:
            if not self._keeps_names(stage):
                strangers = find_rows(stage, "ledger/", pc.field("id").isin(ids), FATE_COLUMNS)
                named = [{**row, "stage": stage.name} for row in strangers]
                lost = pa.concat_tables([lost, pa.Table.from_pylist(named, schema=_NO_FATES.schema)])
        at = pc.index_in(ids, value_set=lost["id"].combine_chunks())
        rest = self._rest()
        told = {name: lost[name].combine_chunks().take(at) for name in rest}
        return pa.table(
            {name: pc.if_else(pc.is_valid(at), told[name], pa.scalar(rest[name], pa.string())) for name in rest}
        )

    def _rest(self) -> dict[str, str | None]:
        """The fate of the rows that no ledger names: kept to the end, or lost with a unit that failed."""
        reached = self._first.name
        for stage in self._later:
            handed_on = stage.kind != LAST and self._has(stage, "data")
            if not stage.manifest.complete and not self._has(stage, "ledger") and not handed_on:
                return {"stage": stage.name, "verdict": "failed", "rule": UNIT_LOST}
            reached = stage.name
        return {"stage": reached, "verdict": "kept", "rule": None}

    def _measured(self, wanted: Wanted) -> pa.Table | None:
        attributes = self.searched.attributes
        if attributes is None or not self._has(attributes, "data"):
            return None
        names = ["id", "language", "characters", *wanted.least, *wanted.most]
        return _readable(attributes, f"data/{self.path}", list(dict.fromkeys(names)))


_NO_FATES = pa.schema(
    [("id", pa.binary(16)), ("verdict", pa.string()), ("rule", pa.string()), ("stage", pa.string())]
).empty_table()


def _readable(dataset: Dataset, path: str, columns: Sequence[str]) -> pa.Table:
    """Those of the columns that the file has."""
    with pq.ParquetFile(dataset.local(path)) as opened:
        return opened.read(columns=[name for name in columns if name in opened.schema_arrow.names])


def _beside(documents: pa.Table, measured: pa.Table | None, start: int, first: Dataset) -> pa.Table:
    """Documents with their attributes, whose language is the better informed."""
    if measured is None:
        return documents
    part = measured.slice(start, documents.num_rows)
    if not part["id"].combine_chunks().equals(documents["id"].combine_chunks()):
        raise InputError(
            "attributes and documents do not have the same rows",
            where=first.root,
            remedy="Run the stage attributes again with --force.",
        )
    for name in part.column_names:
        if name == "language":
            both = pc.coalesce(part[name], documents[name])
            documents = documents.set_column(documents.column_names.index(name), name, both)
        elif name != "id":
            documents = documents.append_column(name, part[name])
    return documents
