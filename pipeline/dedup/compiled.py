"""The stage as worker processes import it: with all kernels loaded, so that a forked worker has them already.

Loading compiled kernels takes longer than signing ten thousand documents. The process that workers fork from imports this
module and loads them once, for the workers of every step; a worker that has to import it by itself does not: it
needs a few of them only.
"""

import contextlib
import multiprocessing

import numpy as np

from pipeline.dedup import STAGE, copies, gather, minhash, shingles, similarity, stars

__all__ = ["STAGE", "copies", "gather", "minhash", "shingles", "similarity", "stars", "warm"]


def warm() -> None:
    """Call every kernel of the stage with the types it is called with, on next to nothing."""
    import pyarrow as pa

    from pipeline.dedup.config import DedupConfig
    from pipeline.dedup.sign import COLUMNS, Signer
    from pipeline.document import DOCUMENT_SCHEMA

    schema = pa.schema([DOCUMENT_SCHEMA.field(name) for name in COLUMNS])
    row = {"id": bytes(16), "text": "a few words, and as many more", "source": "web"}
    signed = Signer.create(DedupConfig()).sign(pa.RecordBatch.from_pylist([row, row], schema=schema))
    keys = np.empty((2, 14), np.uint64)
    minhash.band_keys(signed.signatures, np.zeros(2, np.uint64), 8, keys)
    sizes = np.array([3, 3])
    first = np.array([0, 3])
    for values in (signed.shingles, signed.cards.ravel()):
        gather.copy_ranges(values, first, sizes, np.empty(6, values.dtype))
    pairs = np.array([[0, 1]])
    similarity.compare(pairs, first, sizes, signed.shingles, False, 0.8, 4, np.zeros(1))
    similarity._fitting(pairs, np.array([0]), np.array([12, 12]), np.zeros(2, np.bool_), 1 << 20)
    for width in (4, 6):
        records = np.zeros((2, width), np.uint64)
        stars._mark_shared(records, np.zeros(16, np.bool_), np.zeros(2, np.bool_))
        stars._star(records, 2, 2, False, 2)


if multiprocessing.parent_process() is None:
    # What fails here fails again in a worker, which can say so; here it would end the process that all are forked from.
    with contextlib.suppress(Exception):
        warm()
