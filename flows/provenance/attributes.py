"""Attributes of documents: how they are distributed, and what a threshold would take that the selection keeps today.

A threshold is an expression of ``quality.rules`` and is computed as that stage computes it, so that the line of YAML drops
exactly the documents that are counted here. Files are read in an order drawn by the dataset's digest until all are read or the
time is over; ``looked_at`` and ``of`` say how many documents the figures rest on.
"""

import ast
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from flows.stages import holds_documents
from infra.errors import ConfigError, InputError, NotFound
from infra.store.dataset import Dataset
from pipeline.profiles import source_of
from pipeline.quality.config import QualityConfig
from pipeline.quality.rules import Expression

SECONDS = 4.0
MOST_VALUES = 5_000_000
MOST_BINS = 200
EXAMPLES = 20
TAIL = 0.005
"""The first and the last bin hold at least so much of the documents, so that one outlier does not flatten all others."""
DECADES = 100.0
"""Numbers that span more than this are binned by factors; shares, which end at 1, never."""
REST = "(others)"
_OPERATORS: dict[str, ast.cmpop] = {"above": ast.GtE(), "below": ast.LtE(), "is": ast.Eq(), "is_not": ast.NotEq()}
_IN_NAMES = {"above": "at_least", "below": "at_most", "is": "is", "is_not": "is_not"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The attributes of a label, with the documents they are of and the selection that judged them, if there is one."""

    attributes: Dataset
    documents: Dataset | None
    selection: Dataset | None

    @classmethod
    def among(cls, attributes: Dataset | None, stages: Sequence[Dataset]) -> "Measured":
        """Raises NotFound where nothing was measured."""
        if attributes is None or not attributes.files("data/", ".parquet"):
            raise NotFound("no attributes are published under this label", remedy="Run the stage attributes.")
        measured = {record.digest for record in attributes.manifest.inputs}
        documents = next((each for each in stages if each.digest in measured and holds_documents(each)), None)
        selection = next((stage for stage in stages if stage.kind == "quality"), None)
        return cls(attributes, documents, selection)

    @property
    def schema(self) -> pa.Schema:
        return pq.read_schema(self.attributes.local(self.attributes.files("data/", ".parquet")[0].path))

    @property
    def kinds(self) -> dict[str, str]:
        """``number`` or ``category``, by attribute."""
        return {column.name: kind for column in self.schema if (kind := attribute_kind(column.type))}

    def kind(self, name: str) -> str:
        """Raises NotFound."""
        known = self.kinds
        if name not in known:
            raise NotFound(f"no document has an attribute {name[:100]!r}", remedy=f"There are: {', '.join(known)}.")
        return known[name]


@dataclass
class _Looked:
    """How far reading has come."""

    of: int
    at: int = 0

    @property
    def row(self) -> Row:
        return {"looked_at": self.at, "of": self.of, "partial": self.at < self.of}


def attribute_rows(measured: Measured) -> list[Row]:
    """Every attribute: ``{name, kind, min, max}``; the bounds of numbers as the files' own footers tell them."""
    kinds = measured.kinds
    bounds: dict[str, tuple[float, float]] = {}
    deadline = time.monotonic() + SECONDS
    for path in _paths(measured.attributes, None):
        if time.monotonic() > deadline:
            break
        for name, low, high in _footer(measured.attributes, path):
            if kinds.get(name) == "number" and math.isfinite(low) and math.isfinite(high):
                known = bounds.get(name, (low, high))
                bounds[name] = (min(low, known[0]), max(high, known[1]))
    return [
        {"name": name, "kind": kind, "min": bounds.get(name, (None, None))[0], "max": bounds.get(name, (None, None))[1]}
        for name, kind in kinds.items()
    ]


def histogram(
    measured: Measured, name: str, *, bins: int = 40, source: str | None = None, seconds: float = SECONDS
) -> Row:
    """``{bins: [{low, high, kept, dropped}], whole, total, undefined, …}``: numbers, all of them ``whole`` or not; of
    categories ``{bins: [{value, …}]}``.

    Kept and dropped are the selection's words. Documents of which the attribute is undefined are counted apart.
    """
    bins, kind = max(1, min(bins, MOST_BINS)), measured.kind(name)
    looked = _Looked(_rows(measured.attributes, source))
    parts: list[tuple[pa.ChunkedArray, NDArray[np.bool_]]] = []
    for _, table, kept in _files(measured, [name], source, seconds, looked):
        parts.append((table[name], kept))
        if looked.at >= MOST_VALUES:
            break
    values = pa.chunked_array(
        [chunk for column, _ in parts for chunk in column.chunks], measured.schema.field(name).type
    )
    kept = np.concatenate([kept for _, kept in parts] or [np.zeros(0, np.bool_)])
    defined = np.asarray(pc.is_valid(values), np.bool_)
    if kind == "number":
        numbers = values.drop_null().to_numpy().astype(np.float64)
        finite = np.isfinite(numbers)
        rows = _number_bins(numbers[finite], kept[defined][finite], bins)
        total, whole = int(finite.sum()), bool((numbers[finite] % 1 == 0).all())
    else:
        rows, total = _category_bins(values.drop_null().to_pylist(), kept[defined], bins), int(defined.sum())
        whole = False
    return {
        "attribute": name, "kind": kind, "bins": rows, "whole": whole, "total": total, "undefined": len(kept) - total
    } | looked.row  # fmt: skip


def threshold(measured: Measured, name: str, at: str, keep: str, seconds: float = SECONDS) -> Row:
    """What would go: ``{goes, stays, already, examples, yaml, expression, note}``. Raises InputError for no such bound.

    ``goes`` and ``stays`` are of the documents that the selection keeps today, ``already`` those that it drops anyway.
    """
    rule = Expression(_rule_name(measured, name, keep), _expression(measured, name, at, keep))
    looked = _Looked(_rows(measured.attributes, None))
    goes = stays = already = 0
    examples: list[Row] = []
    for path, table, kept in _files(measured, [name], None, seconds, looked):
        failing = rule.fails(table)
        taken = np.flatnonzero(failing & kept)
        goes, stays, already = goes + len(taken), stays + int((~failing & kept).sum()), already + int((~kept).sum())
        if len(examples) < EXAMPLES and len(taken):
            examples += _examples(measured, path, table, name, taken[: EXAMPLES - len(examples)].tolist())
    return {
        "attribute": name,
        "expression": rule.expression,
        "goes": goes,
        "stays": stays,
        "already": already,
        "examples": examples,
        "yaml": _yaml(measured, rule),
        "note": _note(measured),
    } | looked.row


# ---- reading --------------------------------------------------------------------------------------------------------


def _files(
    measured: Measured, names: Sequence[str], source: str | None, seconds: float, looked: _Looked
) -> Iterator[tuple[str, pa.Table, NDArray[np.bool_]]]:
    """Files of attributes, with which of their documents the selection keeps; one at least, the rest while there is time."""
    deadline = time.monotonic() + seconds
    lost = {output.path for output in measured.selection.files("ledger/", ".parquet")} if measured.selection else set()
    for path in _paths(measured.attributes, source):
        if looked.at and time.monotonic() > deadline:
            return
        with pq.ParquetFile(measured.attributes.local(path)) as opened:
            table = opened.read(columns=list(dict.fromkeys(["id", *names])))
        kept = np.ones(table.num_rows, np.bool_)
        ledger = path.replace("data/", "ledger/", 1)
        if measured.selection is not None and ledger in lost:
            with pq.ParquetFile(measured.selection.local(ledger)) as opened:
                dropped = opened.read(columns=["id"])["id"].combine_chunks()
            kept = ~np.asarray(pc.is_in(table["id"].combine_chunks(), value_set=dropped), np.bool_)
        looked.at += table.num_rows
        yield path, table, kept


def _paths(attributes: Dataset, source: str | None) -> list[str]:
    paths = [o.path for o in attributes.files("data/", ".parquet") if o.rows and source in (None, source_of(o.path))]
    Random(attributes.digest).shuffle(paths)
    return paths


def _rows(attributes: Dataset, source: str | None) -> int:
    outputs = attributes.files("data/", ".parquet")
    return sum(output.rows or 0 for output in outputs if source in (None, source_of(output.path)))


def attribute_kind(kind: pa.DataType) -> str | None:
    """``number`` or ``category``; None of what is neither."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "category" if pa.types.is_string(kind) else None


def _footer(attributes: Dataset, path: str) -> Iterator[tuple[str, float, float]]:
    with pq.ParquetFile(attributes.local(path)) as opened:
        for group in range(opened.metadata.num_row_groups):
            columns = opened.metadata.row_group(group)
            for index in range(columns.num_columns):
                column = columns.column(index)
                known = column.statistics
                if known is not None and known.has_min_max and isinstance(known.min, (int, float)):
                    yield column.path_in_schema, float(known.min), float(known.max)


def _examples(measured: Measured, path: str, table: pa.Table, name: str, places: list[int]) -> list[Row]:
    """Documents at some places of a file, with the value that decides."""
    known: pa.Table | None = None
    if measured.documents is not None and any(o.path == path for o in measured.documents.files(path)):
        with pq.ParquetFile(measured.documents.local(path)) as opened:
            known = opened.read(columns=["url", "title", "source"])
    rows = []
    for place in places:
        about = known.slice(place, 1).to_pylist()[0] if known is not None and place < known.num_rows else {}
        rows.append({"id": table["id"][place].as_py().hex(), **about, "value": table[name][place].as_py()})
    return rows


# ---- bins -----------------------------------------------------------------------------------------------------------


def _number_bins(values: NDArray[np.float64], kept: NDArray[np.bool_], bins: int) -> list[Row]:
    if not len(values):
        return []
    edges = _edges(values, bins)
    inside = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    both = [np.bincount(inside[mask], minlength=len(edges) - 1).tolist() for mask in (kept, ~kept)]
    return [
        {"low": float(low), "high": float(high), "kept": stay, "dropped": gone}
        for low, high, stay, gone in zip(edges[:-1], edges[1:], *both, strict=True)
    ]


def _edges(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """From the least value to the greatest: the tails in one bin each, what is between them in even steps or factors."""
    least, greatest = float(values.min()), float(values.max())
    if least == greatest:
        return np.array([least, greatest])
    low, high = (float(each) for each in np.quantile(values, [TAIL, 1 - TAIL]))
    if low == high or high - low > 0.8 * (greatest - least):
        low, high = least, greatest
    if low > 0 and high > max(1.0, DECADES * low):
        inner = np.geomspace(low, high, bins + 1)
    elif least >= 0 and high > DECADES and low < 1:  # counts, of which some are none
        inner = np.expm1(np.linspace(math.log1p(low), math.log1p(high), bins + 1))
    else:
        inner = np.linspace(low, high, bins + 1)
    inner[0], inner[-1] = least, greatest
    return np.unique(inner)


def _category_bins(values: Sequence[str], kept: NDArray[np.bool_], bins: int) -> list[Row]:
    """The most frequent values, the rest together."""
    stay = Counter(value for value, mask in zip(values, kept.tolist(), strict=True) if mask)
    gone = Counter(values) - stay
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    rows = [{"value": value, "kept": stay[value], "dropped": gone[value]} for value, _ in ranked[:bins]]
    if rest := ranked[bins:]:
        rows.append({"value": REST, "kept": sum(stay[v] for v, _ in rest), "dropped": sum(gone[v] for v, _ in rest)})
    return rows


# ---- the rule -------------------------------------------------------------------------------------------------------


def _expression(measured: Measured, name: str, at: str, keep: str) -> str:
    kind = measured.kind(name)
    if keep not in _OPERATORS or (kind == "category") != (keep in ("is", "is_not")):
        remedy = "is or is_not" if kind == "category" else "above or below"
        raise InputError(f"a {kind} cannot be kept {keep[:40]!r}", where="keep", remedy=f"Give {remedy}.")
    value: str | float | int = at
    if kind == "number":
        try:
            value = float(at)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{at[:40]!r} is no number", where="at", remedy=f"Give a value of {name}.")
        if pa.types.is_integer(measured.schema.field(name).type) and abs(value) < 2**53:
            value = math.ceil(value) if keep == "above" else math.floor(value)
        value = int(value) if value == int(value) and abs(value) < 2**53 else value
    elif not 0 < len(at) <= 100:
        raise InputError("a value has 1 to 100 characters", where="at")
    return ast.unparse(ast.Compare(ast.Name(name), [_OPERATORS[keep]], [ast.Constant(value)]))


def _rule_name(measured: Measured, name: str, keep: str) -> str:
    wanted = re.sub(r"[^a-z0-9_]", "_", f"{name}_{_IN_NAMES.get(keep, '')}".lower()).lstrip("_")
    taken = {rule["name"] for rule in _own_rules(measured)}
    return next(n for n in (wanted, *(f"{wanted}_{number}" for number in range(2, 1000))) if n not in taken)


def _own_rules(measured: Measured) -> list[dict[str, str]]:
    """Rules for every source that the recipe has already: a list in YAML replaces the one before."""
    if measured.selection is None:
        return []
    rules = measured.selection.manifest.config.get("rules") or ()
    return [{"name": rule["name"], "expression": rule["expression"]} for rule in rules]


def _yaml(measured: Measured, rule: Expression) -> str:
    stage = measured.selection.name if measured.selection else "quality"
    rules = [*_own_rules(measured), {"name": rule.name, "expression": rule.expression}]
    return yaml.safe_dump({"stages": {stage: {"rules": rules}}}, sort_keys=False, allow_unicode=True, width=1000)


def _note(measured: Measured) -> str | None:
    """What makes the count an estimate."""
    if measured.selection is None:
        return "No selection is published under this label: every document counts as kept."
    try:
        config = QualityConfig.model_validate(measured.selection.manifest.config)
    except (ConfigError, ValueError):  # made by another version
        return None
    shares = [entry.described for entry in config.sources if entry.keep_fraction is not None]
    if not shares:
        return None
    return (
        f"A share of what passes the rules is kept ({'; '.join(shares)}): with one more rule its bound moves, and some "
        "documents besides these."
    )
