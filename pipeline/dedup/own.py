"""Levels of other packages: documents with the same key are compared, by whatever the package takes for a key.

A key says that two documents may be the same work: an ISBN, a canonical link, a title with its author. Those that share one meet
the best-ranked of their group, as near duplicates meet those they share a band with; ``threshold`` says what share of the shorter
text's shingles they must have in common besides (0: the key's word is taken). What passes joins the graph of verified pairs, in
which ``settle`` decides who stays; so a dropped document always shares its key with the one named as its survivor.

Keys are asked for while a file is signed, and those of the documents that stay are part of the index: a later run with the same
level compares with them (``previous``), and asks no text of an earlier run again. Documents of an index without a level's keys
take no part in it, which the dataset warns of.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra.errors import ConfigError
from infra.extensions import code_digest, load, reference_of
from pipeline.dedup.config import NEAR, DedupConfig

TAKEN = ("url", "exact", "near")


@dataclass(frozen=True)
class Level:
    """A level of another package. ``keys`` gives a key, or None, for each row of a batch of documents (``DOCUMENT_SCHEMA``), from
    that row alone. The ledger's rule is the name with ``_duplicate`` behind it."""

    name: str
    keys: Callable[[pa.RecordBatch], Iterable[str | bytes | None]]
    threshold: float = 0.0

    @property
    def rule(self) -> str:
        return f"{self.name}_duplicate"


def levels_of(config: DedupConfig) -> dict[int, Level]:
    """Number of a level, as pairs and fates have it -> the level. Raises ConfigError."""
    found = [load(given, "levels", Level) for given in config.levels]
    names = [*TAKEN, *(level.name for level in found)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(
            f"two levels are called {twice!r}", where="dedup.levels", remedy="Give each a name of its own."
        )
    return dict(enumerate(found, start=NEAR + 1))


def code_of_levels(config: DedupConfig) -> dict[str, str]:
    """Dotted path of each level -> digest of its source, in the order of their numbers."""
    references = [reference_of(given, "levels") or given for given in config.levels]
    return {reference: code_digest(reference) for reference in references}


def keys_of(level: Level, batch: pa.RecordBatch) -> list[bytes | None]:
    """A level's keys, told apart from those of other levels. Raises ConfigError."""
    keys: Any = level.keys(batch)
    found = keys.to_pylist() if isinstance(keys, pa.Array | pa.ChunkedArray) else list(() if keys is None else keys)
    if len(found) != batch.num_rows or not all(key is None or isinstance(key, str | bytes) for key in found):
        raise ConfigError(
            f"the level {level.name!r} gives {len(found)} keys for {batch.num_rows} documents"
            if len(found) != batch.num_rows
            else f"the level {level.name!r} gives keys that are neither text nor bytes",
            where="dedup.levels",
            remedy="Give a text, bytes or None for each row.",
        )
    return [
        f"{level.name}\0".encode() + (key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key)
        if key
        else None
        for key in found
    ]
