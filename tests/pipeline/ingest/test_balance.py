"""What a source must come to: a source without a document is a mistake, half an archive is said wherever it is used."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import InputError
from infra.store.dataset import Dataset
from pipeline.extract.page import ExtractConfig
from pipeline.extract.url_rules import UrlRules
from pipeline.ingest import STAGE, IngestConfig
from pipeline.sources.contract import SourceConfig
from tests.pipeline.sources.archives import gzip_members, numbered_records, warc_record
from tests.support import run_shard_stage, source_config


def rows(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def source(path: Path, kind: str = "jsonl", name: str = "own", **more: Any) -> SourceConfig:
    return source_config(name=name, kind=kind, address=str(path), **more)


def ingest(folder: Path, *sources: SourceConfig, **more: Any) -> Dataset:
    good = folder / "good.jsonl"
    good.write_bytes(rows("one", "two"))
    config = IngestConfig(sources=(*sources, source(good, name="good")), **more)
    return run_shard_stage(STAGE, config, {}, folder / f"run{len(list(folder.glob('run*')))}")


def test_a_source_of_nothing_but_refusals_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(rows("", " ", ""))
    empty = source(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=r"'own' gave no document: of 3 records 3 went by 'no_text'"):
        ingest(tmp_path, empty)
    dataset = ingest(tmp_path, empty.model_copy(update={"allow_empty": True}))
    assert (dataset.manifest.counts.kept, dataset.manifest.counts.dropped) == (2, {"no_text": 3})


def test_a_source_without_a_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(warc_record(kind="request", body=b"GET /"))
    with pytest.raises(InputError, match="'own' gave no document: there was no record in it"):
        ingest(tmp_path, source(tmp_path / "a.warc", "warc"))


def test_a_cut_archive_is_said_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip_members(numbered_records(5)))[:-40])
    dataset = ingest(tmp_path, source(path, "warc"))
    last = path.stat().st_size - sum(len(member) for member in gzip_members(numbered_records(5))[:4])
    sentence = f"own: a.warc.gz is cut short: 4 records were read, 1 piece is lost with {last:,} bytes"
    assert dataset.manifest.warnings == [sentence]
    with pytest.raises(InputError, match="is cut short: 4 records were read"):
        ingest(tmp_path, source(path, "warc"), damaged="fail")


def test_a_source_that_is_all_damage_is_said_beside_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(rows("one", "two"))[:-4])
    (sentence,) = ingest(tmp_path, source(path)).manifest.warnings
    assert sentence.startswith("own: a.jsonl.gz is cut short: 0 records were read, 1 piece is lost")
    (tmp_path / "good.jsonl").unlink()
    with pytest.raises(InputError, match="'own' gave no document: of 1 records 1 went by 'truncated_file'"):
        run_shard_stage(STAGE, IngestConfig(sources=(source(path),)), {}, tmp_path / "alone")


def test_empty_shares_are_said_and_marks_beside_them_are_no_data(tmp_path: Path) -> None:
    folder = tmp_path / "spark"
    folder.mkdir()
    for name, content in {
        "part-0": rows("a"),
        "part-1": b"",
        "part-2.gz": gzip.compress(b""),
        "_SUCCESS": b"",
        ".part-0.crc": b"x",
    }.items():
        (folder / name).write_bytes(content)
    for address in (folder, folder / "*"):
        dataset = ingest(tmp_path, source(address))
        assert dataset.manifest.warnings == ["own: part-1 is empty", "own: part-2.gz is empty"]
        assert dataset.manifest.counts.kept == 3
    (folder / "part-0").unlink()
    with pytest.raises(InputError, match=r"'own' gave no document.*the file is empty"):
        run_shard_stage(STAGE, IngestConfig(sources=(source(folder),)), {}, tmp_path / "alone")


def test_addresses_that_are_not_wanted_are_not_wanted_from_any_source(tmp_path: Path) -> None:
    lists = tmp_path / "blocked.txt"
    lists.write_text("bad.example # a remark\ncode.tar.gz/lib/\nplain.jsonl#plain.jsonl@14\nwiki.example/wiki/café\n")
    table = {"text": ["a", "b"], "url": ["http://bad.example/1", "http://fine.example/2"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (tmp_path / "plain.jsonl").write_bytes(rows("a", "b", "c"))
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as archive:
        for name in ("lib/a.py", "src/b.py"):
            entry = tarfile.TarInfo(name)
            entry.size = 6
            archive.addfile(entry, io.BytesIO(b"x = 1\n"))
    (tmp_path / "wiki.xml").write_text(
        "<mediawiki><siteinfo><base>https://wiki.example/wiki/Main</base></siteinfo>"
        + "".join(
            f"<page><title>{title}</title><ns>0</ns><id>{n}</id><revision><id>1</id><text>Some text.</text></revision></page>"
            for n, title in enumerate(("Café", "Tea"))
        )
        + "</mediawiki>"
    )
    dataset = ingest(
        tmp_path,
        source(tmp_path / "a.parquet", "parquet", "table", url_column="url"),
        source(tmp_path / "plain.jsonl", name="plain"),
        source(tmp_path / "code.tar.gz", "code", "code"),
        source(tmp_path / "wiki.xml", "wikipedia", "wiki"),
        extract=ExtractConfig(blocked_urls=(str(lists),)),
    )
    assert dataset.manifest.counts.dropped == {"url_blocked": 4}
    assert dataset.manifest.counts.kept == 2 + 1 + 2 + 1 + 1


@pytest.mark.parametrize(
    ("entry", "url", "blocked"),
    [
        ("example.org", "https://www.example.org:8080/x", True),
        ("https://user@Example.org:80/", "http://example.org/x", True),
        ("example.org/page?id=3", "http://example.org/page?id=3&x=1", True),
        ("example.org/page?id=3", "http://example.org/page?id=4", False),
        ("example.org/#/one", "http://example.org/#/one", True),
        ("example.org/#/one", "http://example.org/#/one/two", False),
        ("example.org/caf%C3%A9", "http://example.org/café", True),
        ("rows.jsonl#5", "rows.jsonl#55", False),
        ("example.org/5", "http://example.org/55", True),
        ("example.org/5$", "http://www.example.org/5", True),
        ("example.org/5$", "http://example.org/55", False),
        ("example.org/5$", "http://example.org/5?x=1", False),
        ("example.org/$", "http://example.org/", True),
        ("example.org/$", "http://example.org/5", False),
        ("git.example/owner/name", "git.example/owner/name/src/x.py", True),
        ("[", "http://[/x", False),
    ],
)
def test_entries_of_a_list(entry: str, url: str, blocked: bool) -> None:
    assert bool(UrlRules.parse(entry).entry_for(url)) == blocked
