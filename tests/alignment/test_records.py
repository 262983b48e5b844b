"""Files of people's records: whatever they are, each record is read once or told with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment import records as module
from alignment.records import Reading, find, find_outside, parsed, records
from infra.errors import InputError
from tests.support import write_dataset

ROWS = [
    {"id": str(number), "text": text} for number, text in enumerate(["a", "ü\n\u2028", "", "]},{", '"', "x" * 3000])
]


def read(path: Path | str) -> tuple[list[dict[str, Any]], Reading]:
    reading = Reading()
    return [record.raw for record in records(path, reading)], reading


def test_lines_arrays_and_tables_hold_the_same_records(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    files = {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.zst": zstd.compress(lines),
        "a.json": json.dumps(ROWS, indent=2).encode(),
        "bom.json": b"\xef\xbb\xbf " + json.dumps(ROWS, ensure_ascii=False).encode(),
        "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
        "misnamed.txt": lines,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name)[0] == ROWS, name
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == ROWS


items = st.one_of(
    st.none(), st.integers(), st.text(max_size=40), st.lists(st.integers(), max_size=3)
) | st.dictionaries(st.text(max_size=3), st.text(max_size=30), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(items, max_size=8), st.sampled_from([None, 0, 2]), st.integers(1, 7), st.booleans())
def test_an_array_is_read_item_by_item_however_it_comes_in(given_items, indent, size, escaped) -> None:  # type: ignore[no-untyped-def]
    text = json.dumps(given_items, indent=indent, ensure_ascii=escaped).encode("utf-8", "replace")
    expected = json.loads(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pieces", lambda stream: (text[n : n + size] for n in range(0, len(text), size)))
        path = Path(__file__)  # any file: its bytes are those above
        found = [raw if isinstance(raw, dict) else None for _, raw in module._items(path)]
    assert found == [item if isinstance(item, dict) else None for item in expected]


def test_what_json_has_not_is_nothing_or_a_whole_character(tmp_path: Path) -> None:
    text = '{"system": NaN, "a\\ud83d": ["x\\uDC00y", "\\ud83d\\ude00", {"b": -Infinity}]}'
    expected = [{"system": None, "a\ufffd": ["x\ufffdy", "\U0001f600", {"b": None}]}]
    for name, whole in (("a.jsonl", text), ("a.json", f"[{text}]")):
        (tmp_path / name).write_text(whole)
        assert read(tmp_path / name)[0] == expected


def test_what_nobody_foresaw_costs_its_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 0}\n{"n": 2}\n')
    reading = Reading()
    found = [value for _, value in parsed(tmp_path / "a.jsonl", reading, lambda raw: 1 / raw["n"])]
    assert (found, reading.read, reading.refused) == ([1.0, 0.5], 2, {"unreadable_record": 1})
    assert "line 2 of a.jsonl" in reading.example and "ZeroDivisionError" in reading.example


def test_a_broken_array_is_told_with_the_place_where_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, reason, number in [
        ('[{"a": 1}, {"b": torn}, {"c": 2}]', "cannot be told apart", 2),
        ('[{"a": 1}', "cannot be told apart", 2),
        ('[{"a": 1}]\n{"b": 2}', "something follows", 2),
        ('[{"a": 1}, 3]', "int", 2),
    ]:
        path.write_text(text)
        found, reading = read(path)
        assert found == [{"a": 1}] and reading.first is not None
        assert reason in reading.first.detail and reading.first.line.number == number
        assert reading.example.startswith(f" (line {number} of a.json")


def test_files_are_found_by_path_pattern_folder_and_input(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "notes.md", "deep/c.parquet", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_outside(str(tmp_path))] == ["a.jsonl.gz", "b.jsonl", "c.parquet"]
    assert [path.name for path in find_outside(f"{tmp_path}/*.jsonl*")] == ["a.jsonl.gz", "b.jsonl"]
    with pytest.raises(InputError, match="no such file"):
        find_outside(f"{tmp_path}/*.txt")
    dataset = write_dataset(tmp_path / "chats", "chats", {"data/x/1.jsonl": b"1", "data/x/2.jsonl": b"2"})
    found = find("dataset://chats/x/*.jsonl", {"chats": dataset})
    assert [Path(str(path)).name for path in found] == ["1.jsonl", "2.jsonl"]


def test_datasets_of_the_hugging_face_library_are_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved")[0] == ROWS == read(f"hf://{tmp_path / 'saved'}")[0]
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read(f"hf://{tmp_path / 'repository'}?split=train")[0] == ROWS
    with pytest.raises(InputError, match="cannot be read"):
        read(f"hf://{tmp_path / 'repository'}?split=test")
