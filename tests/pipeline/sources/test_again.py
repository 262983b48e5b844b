"""Records are read again by their origin, from inside their source alone."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from infra.errors import InputError, NotFound
from pipeline.sources.again import stored_record
from pipeline.sources.contract import SourceConfig
from tests.pipeline.sources.archives import documents, gzip_members, html_page, read_source, warc_record
from tests.support import source_config, write_dataset

RECORDS = [
    warc_record(f"http://a.example/{n}", html_page(f"Page {n}", f"Page number {n} says so. " * 20)) for n in range(3)
]


def source(address: Path | str, kind: str = "warc", **options: Any) -> SourceConfig:
    made: SourceConfig = source_config(name="web", kind=kind, address=str(address), **options)
    return made


@pytest.mark.parametrize("packed", [True, False])
def test_any_record_of_an_archive(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "in" / "pages.warc"
    path.parent.mkdir()
    path.write_bytes(b"".join(gzip_members(RECORDS) if packed else RECORDS))
    last = documents(read_source(path))[-1]
    for address in (path, path.parent, tmp_path / "*" / "pages.warc", tmp_path / "in" / "*.warc"):
        (document,) = [each for each in documents(read_source(address)) if each["id"] == last["id"]] or [last]
        found = stored_record(source(address), document["origin"], {})
        assert "Page number 2" in found.text and "<p>" not in found.text
        assert found.markup is not None and found.markup.startswith("<html>")


def test_a_file_of_a_dataset_and_a_packed_body(tmp_path: Path) -> None:
    body = gzip.compress(html_page("Packed", "It was packed for the way. " * 20), mtime=0)
    record = warc_record("http://a.example/p", body, http=[("Content-Type", "text/html"), ("Content-Encoding", "gzip")])
    dataset = write_dataset(tmp_path / "sample", "sample", {"data/web/p.warc": record})
    (document,) = documents(read_source(dataset.local("data/web/p.warc")))
    origin = {**document["origin"], "archive": "web/p.warc"}
    found = stored_record(source("dataset://sample/web/p.warc"), origin, {"sample": dataset})
    assert "packed for the way" in found.text
    with pytest.raises(NotFound, match="not in the store any more"):
        stored_record(source("dataset://sample/web/p.warc"), origin, {})


@pytest.mark.parametrize("name", ["../secret.warc", "/etc/passwd", "a/../../secret.warc", "x\0.warc"])
def test_a_name_that_leads_out_of_the_source_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.warc").write_bytes(RECORDS[0])
    (document,) = documents(read_source(tmp_path / "secret.warc"))
    with pytest.raises(InputError, match="leads out of its source"):
        stored_record(source(tmp_path / "in"), {**document["origin"], "archive": name}, {})


def test_what_cannot_be_read_again_says_why(tmp_path: Path) -> None:
    path = tmp_path / "pages.warc"
    path.write_bytes(b"".join(RECORDS))
    first, second, _ = (each["origin"] for each in documents(read_source(path)))
    cases = [
        (source(path), {**first, "offset": second["offset"], "length": second["length"]}, "another record"),
        (source(path), {**first, "offset": first["offset"] + 7}, "cannot be read"),
        (source(path), {**first, "length": 1 << 40}, "too many to show"),
        (source(path), {**first, "length": 0}, "too many to show|bytes"),
        (source("https://a.example/pages.warc"), first, "fetched from the network"),
        (source(tmp_path / "gone.warc"), first, "not where it was"),
        (source(tmp_path, kind="code"), first, "not read again"),
    ]
    for config, origin, said in cases:
        with pytest.raises(InputError, match=said):
            stored_record(config, origin, {})  # type: ignore[arg-type]


def test_lines_of_files_that_are_not_packed(tmp_path: Path) -> None:
    lines = [b'{"text": "one line of text"}\n', '{"text": "zwei Zeilen, größer"}\n'.encode()]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(lines))
    found = documents(read_source(path, "jsonl"))
    again = [stored_record(source(path, "jsonl"), each["origin"], {}).text for each in found]
    assert [text.strip() for text in again] == [line.decode().strip() for line in lines]
