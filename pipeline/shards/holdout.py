"""Which documents are held out: those with the lowest ``held`` numbers of their source.

A fraction alone would leave a small source with one held-out document or none, and its bits per byte without meaning.
So a source holds out a fixed share, or a fixed number of documents where that is more, but never over a tenth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from infra.stage import Receipt
from pipeline.shards.keys import held_bound
from pipeline.shards.tokenise import TokenFile

LARGEST_SHARE = 10
"""At most one in so many documents is held out for the sake of the number."""


@dataclass(frozen=True)
class Holdout:
    """A source's bound, and the tokens on its training side."""

    bound: int
    train_tokens: int


def holdouts(
    receipts: Sequence[Receipt], files: Iterable[str], fraction: float, least_documents: int
) -> dict[str, Holdout]:
    """The bound of every source, from the first step's totals; only sources too small for the share are read."""
    by_source: dict[str, list[str]] = {}
    for address in files:
        by_source.setdefault(address.rsplit("/", 2)[-2], []).append(address)
    found = {}
    for source, addresses in sorted(by_source.items()):
        documents, tokens, held_documents, held_tokens = (
            sum_metric(receipts, name).get(source, 0)
            for name in ("documents", "tokens", "held_documents", "held_tokens")
        )
        wanted = min(least_documents, documents // LARGEST_SHARE) if fraction else 0
        if held_documents >= wanted:
            found[source] = Holdout(held_bound(fraction), tokens - held_tokens)
        else:
            found[source] = _lowest(addresses, wanted)
    return found


def _lowest(addresses: Iterable[str], wanted: int) -> Holdout:
    """The bound below which ``wanted`` documents lie."""
    numbers, lengths = [], []
    for address in addresses:
        for batch in TokenFile(address).batches():
            numbers.append(batch.column("held").to_numpy())
            lengths.append(np.diff(batch.column("tokens").offsets.to_numpy()))
    held, tokens = np.concatenate(numbers), np.concatenate(lengths)
    bound = int(np.sort(held)[wanted])
    return Holdout(bound, int(tokens[held >= bound].sum()))


def sum_metric(receipts: Iterable[Receipt], prefix: str) -> dict[str, int]:
    """Totals of the metrics named ``prefix:<key>``, by key."""
    totals: dict[str, int] = {}
    for receipt in receipts:
        for name, value in receipt.metrics.items():
            if name.startswith(prefix + ":"):
                key = name.removeprefix(prefix + ":")
                totals[key] = totals.get(key, 0) + int(value)
    return dict(sorted(totals.items()))
