"""The ledger: the fate of every record that does not go on.

One Parquet file beside each data file (``ledger/<same path>``), one row for each record dropped or failed. Records that
are kept have no row here: they are in the stage's data. Together they account for every record a stage received.
"""

from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import pyarrow as pa

from pipeline.document import RowWriter

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("url", pa.string()),
        pa.field("source", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("survivor_id", pa.binary(16)),
        pa.field("detail", pa.string()),
    ],
    metadata={"headwater.ledger": "1"},
)


class Fate(TypedDict):
    """One ledger row. ``rule`` names what decided (``gopher_word_count``, ``near_duplicate``, ``extraction_timeout``);
    ``survivor_id`` names the document kept in its place; ``detail`` is one short human sentence or locates the bytes."""

    id: bytes
    stage: str
    verdict: Literal["kept", "dropped", "failed"]
    rule: str
    url: NotRequired[str | None]
    source: NotRequired[str | None]
    score: NotRequired[float | None]
    threshold: NotRequired[float | None]
    survivor_id: NotRequired[bytes | None]
    detail: NotRequired[str | None]


def ledger_writer(path: Path) -> RowWriter:
    return RowWriter(path, LEDGER_SCHEMA)
