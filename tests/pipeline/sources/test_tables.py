"""JSON lines and Parquet with a column map."""

import datetime
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import InputError
from tests.pipeline.sources.archives import documents, fates, read_source, rules

ROWS = [
    {"body": "First text", "key": 1, "where": "http://example.org/1", "name": "One", "lic": "MIT"},
    {"body": "Second\r\ntext", "key": 2, "where": None, "name": "", "lic": None},
    {"body": "  ", "key": 3},
    {"key": 4},
]
COLUMNS = {
    "text_column": "body",
    "id_column": "key",
    "url_column": "where",
    "title_column": "name",
    "license_column": "lic",
    "license": "CC0-1.0",
}


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_rows_become_documents_by_the_column_map(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_bytes(gzip.compress(lines(ROWS)) if name.endswith("gz") else lines(ROWS))
    outcomes = read_source(path, "parquet" if name.endswith("parquet") else "jsonl", **COLUMNS)
    first, second = documents(outcomes)
    assert (first["text"], first["url"], first["title"], first["license"]) == (
        "First text",
        "http://example.org/1",
        "One",
        "MIT",
    )
    assert (second["text"], second["url"], second["title"], second["license"]) == (
        "Second\ntext",
        f"{name}#{second['origin']['record_id']}",
        None,
        "CC0-1.0",
    )
    assert first["origin"]["record_id"] == "1"
    assert rules(outcomes) == ["no_text", "no_text"]


def test_a_bad_line_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "ok"}\n{broken\n[1]\n\n{"text": "fine \\ud800"}\n' + b"[" * 100_000 + b"\n")
    outcomes = read_source(path, "jsonl")
    assert [document["text"] for document in documents(outcomes)] == ["ok", "fine"]
    assert rules(outcomes) == ["bad_json"] * 3


def test_a_cut_gzip_file_costs_its_tail(tmp_path: Path) -> None:
    rows = [{"text": f"text {n} {n * 2654435761 % 2**32}"} for n in range(2000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(rows))[:-400])
    outcomes = read_source(tmp_path / "a.jsonl.gz", "jsonl")
    assert 1000 < len(documents(outcomes)) < 2000
    assert fates(outcomes)[-1]["verdict"] == "failed"


@pytest.mark.parametrize(("name", "kind", "content"), [("a.jsonl", "jsonl", b""), ("a.parquet", "parquet", b"PAR1")])
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, kind: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"empty|not Parquet"):
        read_source(tmp_path / name, kind)


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="there is no column text") as caught:
        read_source(tmp_path / "a.parquet", "parquet")
    assert "body" in caught.value.remedy


def test_a_misspelt_column_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="there is no column nmae"):
        read_source(tmp_path / "a.parquet", "parquet", text_column="body", title_column="nmae")
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    with pytest.raises(InputError, match="there is no column text") as caught:
        read_source(tmp_path / "a.jsonl", "jsonl")
    assert "body" in caught.value.remedy


def test_authors_and_dates_of_rows(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "by": "Ada  Lovelace", "on": "5 October 1843"},
        {"text": "b", "by": ["Ada", None, "Charles"], "on": "no date"},
    ]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    found = documents(read_source(tmp_path / "a.jsonl", "jsonl", author_column="by", date_column="on"))
    assert [(document["author"], document["date"]) for document in found] == [
        ("Ada Lovelace", "1843-10-05"),
        ("Ada; Charles", None),
    ]
    table = pa.table({"text": ["a"], "on": [datetime.datetime(1843, 10, 5, 7, 8)]})
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = documents(read_source(tmp_path / "a.parquet", "parquet", date_column="on"))
    assert row["date"] == "1843-10-05T07:08:00"
