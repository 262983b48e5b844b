"""Which score lies at which quantile of a source's tokens: a sketch, out of core and independent of order.

A unit reads one file of tokens and writes a table: tokens and least score of each bin (``score_bins``) that is not empty.
Added up, they hold the source's whole distribution in at most some million rows, however many documents there are. Only
what training may read is counted: held-out documents are not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.stage import Unit, UnitContext, unit_id
from infra.store.cache import local_file
from pipeline.quality.histogram import score_bins
from pipeline.shards.holdout import Holdout
from pipeline.shards.mixing import check_names
from pipeline.shards.repetition import Curve, Repetition
from pipeline.shards.tokenise import TokenFile, scores_of


def rank_units(files: Sequence[str], wanted: Sequence[Repetition], held: Mapping[str, Holdout]) -> Iterator[Unit]:
    """A unit for each file of tokens of a source with a curve. Raises ConfigError for sources that are not there."""
    if wanted:
        check_names(held, wanted, "shards.repetition")
    for address in files:
        source, name = address.rsplit("/", 2)[-2:]
        if any(entry.source == source for entry in wanted):
            bound = held[source].bound
            yield Unit(unit_id("rank", source, name, bound), {"source": source, "name": name, "bound": bound})


def rank(folder: str, unit: Unit, context: UnitContext) -> None:
    """The sketch of one file of tokens below ``folder``."""
    payload: Mapping[str, Any] = unit.payload
    source, name = payload["source"], payload["name"]
    scores, tokens = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for batch in TokenFile(f"{folder}/{source}/{name}").batches():
        train = batch.column("held").to_numpy() >= payload["bound"]
        scores.append(scores_of(batch)[train])
        tokens.append(np.diff(batch.column("tokens").offsets.to_numpy())[train])
    with context.intermediate(f"{source}/{name.removesuffix('.arrow')}.parquet") as path:
        pq.write_table(sketch(np.concatenate(scores), np.concatenate(tokens)), path)


def curves_over(files: Sequence[str], wanted: Sequence[Repetition]) -> dict[str, Curve]:
    """Each curve over what its source holds, by the sketches in ``files``."""
    return {
        entry.source: Curve.of(
            entry,
            add_sketches(pq.read_table(local_file(file)) for file in files if file.split("/")[-2] == entry.source),
        )
        for entry in wanted
    }


def sketch(scores: np.ndarray, tokens: np.ndarray) -> pa.Table:
    """Tokens and least score of each bin that is not empty; a null bin holds the tokens of documents without a score."""
    known = ~np.isnan(scores)
    bins, at = np.unique(score_bins(scores[known]), return_inverse=True)
    sums, least = np.zeros(len(bins), np.int64), np.full(len(bins), np.inf, np.float32)
    np.add.at(sums, at, tokens[known])
    np.minimum.at(least, at, scores[known])
    found = pa.table({"bin": bins, "tokens": sums, "least": least})
    unscored = pa.table({"bin": [None], "tokens": [int(tokens[~known].sum())], "least": [None]}, schema=found.schema)
    return pa.concat_tables([found, unscored])


def add_sketches(tables: Iterable[pa.Table]) -> pa.Table:
    """Of all files together, in order of the bins; the null bin is the last."""
    total: pa.Table | None = None
    for table in tables:
        both = table if total is None else pa.concat_tables([total, table])
        summed = both.group_by("bin").aggregate([("tokens", "sum"), ("least", "min")])
        total = summed.rename_columns(["bin", "tokens", "least"]).combine_chunks()
    if total is None:
        raise ValueError("no sketch to add")
    return total.sort_by([("bin", "ascending")])
