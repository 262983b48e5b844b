"""JSON lines and Parquet with a column map."""

import bz2
import datetime
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from infra.errors import InputError
from pipeline.sources.tables import rows_of_file
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
        path.write_bytes(gzip.compress(lines(ROWS), mtime=0) if name.endswith("gz") else lines(ROWS))
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


def test_a_json_text_sequence_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json-seq").write_bytes(b'\x1e{"text": "one"}\n\x1e{"text": "two"}\n')
    outcomes = read_source(tmp_path / "a.json-seq", "jsonl")
    assert [document["text"] for document in documents(outcomes)] == ["one", "two"] and not fates(outcomes)


def test_a_cut_compressed_file_costs_what_no_checksum_proves(tmp_path: Path) -> None:
    rows = [{"text": f"text {n} {n * 2654435761 % 2**32}"} for n in range(2000)]
    first, second = gzip.compress(lines(rows[:1200]), mtime=0), gzip.compress(lines(rows[1200:]), mtime=0)[:-400]
    (tmp_path / "a.jsonl.gz").write_bytes(first + second)
    outcomes = read_source(tmp_path / "a.jsonl.gz", "jsonl")
    assert len(documents(outcomes)) == 1200
    (fate,) = fates(outcomes)
    assert (fate["verdict"], fate["rule"]) == ("failed", "truncated_file")
    assert str(fate["detail"]).startswith(f"a.jsonl.gz bytes {len(first)}+{len(second)}: ")
    assert 1500 < len(documents(read_source(tmp_path / "a.jsonl.gz", "jsonl", salvage=True))) < 2000


def test_a_mark_and_empty_lines_before_the_first_row_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n\r\n" + lines([{"text": "one"}]))
    outcomes = read_source(path, "jsonl")
    assert ([document["text"] for document in documents(outcomes)], fates(outcomes)) == (["one"], [])
    assert [*rows_of_file(str(path))] == [{"text": "one"}]


def test_a_cut_plain_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([{"text": f"text {n}"} for n in range(9)])[:-5])
    outcomes = read_source(tmp_path / "a.jsonl", "jsonl")
    assert (len(documents(outcomes)), rules(outcomes)) == (8, ["truncated_file"])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_what_a_file_is_called_does_not_matter(tmp_path: Path, name: str, pack) -> None:  # type: ignore[no-untyped-def]
    path, kind = tmp_path / name, name.split(".")[1]
    if kind == "parquet":
        pq.write_table(pa.table({"text": ["one", "two"]}), path)
        path.write_bytes(pack(path.read_bytes()))
    else:
        path.write_bytes(pack(lines([{"text": "one"}, {"text": "two"}])))
    assert [document["text"] for document in documents(read_source(path, kind))] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04\n\x00", "it is a zip archive"),
        (b'PK\x03\x04\n\x00a.jsonl{"text": "a"}\n{"text": "b"}\nPK', "it is a zip archive"),  # its members as they are
        (
            gzip.compress(
                b"a.jsonl".ljust(257, b"\0") + b"ustar".ljust(255, b"\0") + b'{"text": "a"}\n{"text": "b"}\n',
                mtime=0,
            ),
            "it is a tar archive",
        ),
        (b'[\n{"text": "a"},\n{"text": "b"}\n]\n', "it is one JSON array"),
        (b'{\n"text": "a"\n}\n', "its objects go over several lines"),
        (b"text,url\na,b\n", "it begins with b'text,url"),
        (gzip.compress(gzip.compress(b'{"text": "a"}\n', mtime=0), mtime=0), "it is compressed with gzip"),
    ],
)
def test_a_file_without_one_json_line_is_said(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="no line of the file is a JSON object") as caught:
        read_source(tmp_path / "a.jsonl", "jsonl")
    assert sentence in str(caught.value)


def test_an_endless_line_costs_itself_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "' + b"x" * 50_000 + b'"}\n{"text": "b"}\n')
    outcomes = read_source(tmp_path / "a.jsonl", "jsonl", max_record_bytes=20_000)
    assert ([document["text"] for document in documents(outcomes)], rules(outcomes)) == (
        ["a", "b"],
        ["record_too_large"],
    )


def test_text_that_is_no_utf8_costs_its_row(tmp_path: Path) -> None:
    values = [b"good one", "na\u00efve".encode("latin-1"), None, b"good two"]
    text = pa.Array.from_buffers(pa.string(), 4, pa.array(values, pa.binary()).buffers(), null_count=1)
    title = pa.Array.from_buffers(pa.string(), 4, pa.array([b"\xff", b"", b"", b"T"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": text, "title": title}), tmp_path / "a.parquet")
    outcomes = read_source(tmp_path / "a.parquet", "parquet", title_column="title")
    assert [(d["text"], d["title"]) for d in documents(outcomes)] == [("good one", "\ufffd"), ("good two", "T")]
    assert [(fate["verdict"], fate["rule"]) for fate in fates(outcomes)] == [
        ("failed", "not_utf8"),
        ("dropped", "no_text"),
    ]
    assert "text is not UTF-8: byte 2" in str(fates(outcomes)[0]["detail"])


def test_categories_and_texts_without_end(tmp_path: Path) -> None:
    values = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"na\xefve"], pa.binary()).buffers())
    text = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), values)
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    outcomes = read_source(tmp_path / "a.parquet", "parquet")
    assert ([document["text"] for document in documents(outcomes)], rules(outcomes)) == (["good"] * 2, ["not_utf8"])
    pq.write_table(pa.table({"text": ["good", "x" * 20_000]}), tmp_path / "b.parquet")
    outcomes = read_source(tmp_path / "b.parquet", "parquet", max_record_bytes=10_000)
    assert rules(outcomes) == ["record_too_large"]


def test_a_column_of_bytes_is_text_where_it_is_utf8(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [b"Gr\xc3\xbc\xc3\x9fe", b"\xff"]}), tmp_path / "a.parquet")
    outcomes = read_source(tmp_path / "a.parquet", "parquet")
    assert ([document["text"] for document in documents(outcomes)], rules(outcomes)) == (
        ["Gr\u00fc\u00dfe"],
        ["not_utf8"],
    )


def test_damage_in_parquet_costs_its_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"row {n} {n * 2654435761 % 2**32}" for n in range(300)]
    pq.write_table(pa.table({"text": rows}), path, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0x08
    path.write_bytes(bytes(data))
    outcomes = read_source(path, "parquet")
    assert [document["text"] for document in documents(outcomes)] == rows[:100] + rows[200:]
    assert rules(outcomes) == ["damaged_rows"] * 100
    assert len({fate["id"] for fate in fates(outcomes)}) == 100
    assert f"bytes {chunk.data_page_offset}+{chunk.total_compressed_size}: " in str(fates(outcomes)[0]["detail"])


def test_a_date_of_no_calendar_is_none(tmp_path: Path) -> None:
    on = pa.array([10**15, 0], pa.timestamp("s"))
    pq.write_table(pa.table({"text": ["a", "b"], "on": on}), tmp_path / "a.parquet")
    found = documents(read_source(tmp_path / "a.parquet", "parquet", date_column="on"))
    assert [document["date"] for document in found] == [None, "1970-01-01T00:00:00"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and no more PAR1"])
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match="not Parquet"):
        read_source(tmp_path / "a.parquet", "parquet")


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)])
def test_a_file_without_a_line_has_a_fate(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    assert rules(read_source(tmp_path / "a.jsonl", "jsonl")) == ["empty_file"]


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


USUAL = [
    {"text": "one", "url": "http://example.org/1", "title": "One", "date": "2024-05-06", "doc_id": 7},
    {
        "text": "two",
        "link": "http://example.org/2",
        "metadata": {"title": "Two", "id": "b", "date": "2023-01-02", "url": "x"},
    },
    {"text": "three", "meta": '{"url": "http://example.org/3", "timestamp": "2022-03-04T05:06:07Z"}', "url": ""},
    {"text": "four", "url": {"no": "address"}, "title": ["no title"]},
]


def test_usual_columns_are_found_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(USUAL))
    found = documents(read_source(tmp_path / "a.jsonl", "jsonl"))
    assert [(each["url"], each["title"], each["date"], each["origin"]["record_id"]) for each in found] == [
        ("http://example.org/1", "One", "2024-05-06", "7"),
        ("http://example.org/2", "Two", "2023-01-02", "b"),
        ("http://example.org/3", None, "2022-03-04T05:06:07Z", f"a.jsonl@{found[2]['origin']['offset']}"),
        (f"a.jsonl#a.jsonl@{found[3]['origin']['offset']}", None, None, f"a.jsonl@{found[3]['origin']['offset']}"),
    ]
    without = {"url_column": None, "title_column": "", "date_column": None, "id_column": None}
    (first, *_) = documents(read_source(tmp_path / "a.jsonl", "jsonl", **without))
    assert (first["url"], first["title"], first["date"]) == ("a.jsonl#a.jsonl@0", None, None)


def test_usual_columns_of_parquet_inside_others_too(tmp_path: Path) -> None:
    metadata = [{"url": f"http://example.org/{row}", "title": f"T{row}", "size": row} for row in range(2)]
    pq.write_table(pa.table({"text": ["one", "two"], "metadata": metadata, "other": [1, 2]}), tmp_path / "a.parquet")
    found = documents(read_source(tmp_path / "a.parquet", "parquet"))
    assert [(each["url"], each["title"]) for each in found] == [
        ("http://example.org/0", "T0"),
        ("http://example.org/1", "T1"),
    ]
    (row, _) = documents(
        read_source(tmp_path / "a.parquet", "parquet", text_column="metadata.title", title_column="other")
    )
    assert (row["text"], row["title"]) == ("T0", "1")
    with pytest.raises(InputError, match=r"no column metadata.uri.*metadata.url"):
        read_source(tmp_path / "a.parquet", "parquet", url_column="metadata.uri")
    with pytest.raises(InputError, match=r"no column body | content"):
        read_source(tmp_path / "a.parquet", "parquet", text_column="body | content")
