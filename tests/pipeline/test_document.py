"""Documents of an earlier version can still be read by every stage."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.document import DOCUMENT_SCHEMA, Document, Origin, documents_table, read_batches

LATER = ("author", "captured")


def test_columns_that_came_later_are_null(tmp_path: Path) -> None:
    origin = Origin(archive="a", offset=0, length=1, record_id="r", digest="d")
    rows = [
        Document(id=bytes([n] * 16), text=f"text {n}", source="web", date="2020-01-02", origin=origin) for n in (1, 2)
    ]
    now = documents_table(rows)
    earlier = now.drop_columns(list(LATER)).replace_schema_metadata({"headwater.document": "1"})
    pq.write_table(earlier, tmp_path / "earlier.parquet")
    pq.write_table(now, tmp_path / "now.parquet")
    read = pa.Table.from_batches(read_batches(str(tmp_path / "earlier.parquet")))
    assert read.equals(pa.Table.from_batches(read_batches(str(tmp_path / "now.parquet"))))
    assert read.schema.equals(DOCUMENT_SCHEMA)
    assert read["author"].null_count == read.num_rows == 2


def test_files_that_hold_no_documents_are_left_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    (batch,) = read_batches(str(tmp_path / "a.parquet"))
    assert batch.schema.names == ["id"]
