"""The stage: units by content, everything accounted for, the same bytes in any order."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from infra.errors import InputError
from infra.store.dataset import Dataset
from pipeline.document import DOCUMENT_SCHEMA
from pipeline.ingest import STAGE, IngestConfig, check, external, inputs, units
from tests.pipeline.sources.archives import gzip_members, numbered_records, warc_record
from tests.support import run_shard_stage, source_config, write_dataset


def make_sources(folder: Path) -> IngestConfig:
    folder.mkdir(parents=True)
    (folder / "a.warc.gz").write_bytes(b"".join(gzip_members([*numbered_records(8), warc_record(status="404 Gone")])))
    (folder / "b.warc.gz").write_bytes(b"".join(gzip_members(numbered_records(3)))[:-9])
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(5)) + "bad\n")
    return IngestConfig(
        sources=(
            source_config(name="web", kind="warc", address=f"{folder}/*.warc.gz"),
            source_config(name="lines", kind="jsonl", address=str(folder / "t.jsonl")),
        )
    )


def ids(dataset: Dataset, prefix: str) -> list[bytes]:
    return [
        row for output in dataset.files(prefix) for row in pq.read_table(dataset.local(output.path))["id"].to_pylist()
    ]


def test_every_record_is_a_document_or_in_the_ledger(tmp_path: Path) -> None:
    dataset = run_shard_stage(STAGE, make_sources(tmp_path / "in"), {}, tmp_path / "run")
    counts = dataset.manifest.counts
    assert (counts.incoming, counts.kept, counts.failed, counts.dropped) == (18, 15, 2, {"http_status": 1})
    assert len(ids(dataset, "data/")) == counts.kept
    assert len(ids(dataset, "ledger/")) == counts.failed + 1
    assert [o.path.removeprefix("data/") for o in dataset.files("data/")] == [
        o.path.removeprefix("ledger/") for o in dataset.files("ledger/")
    ]
    for output in dataset.files("data/"):
        assert pq.read_schema(dataset.local(output.path)).equals(DOCUMENT_SCHEMA)


def test_order_of_units_does_not_matter(tmp_path: Path) -> None:
    config = make_sources(tmp_path / "in")
    forward = run_shard_stage(STAGE, config, {}, tmp_path / "a")
    backward = run_shard_stage(STAGE, config, {}, tmp_path / "b", reverse=True)
    assert forward.digest == backward.digest


def test_units_are_named_by_content_not_by_place(tmp_path: Path) -> None:
    def unit_ids(folder: Path) -> set[str]:
        config = IngestConfig(sources=(source_config(name="web", kind="warc", address=f"{folder}/*.warc.gz"),))
        context = type("Context", (), {"config": config, "inputs": {}})()
        return {unit.id for unit in units(context)}

    make_sources(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert unit_ids(tmp_path / "one") == unit_ids(tmp_path / "two")
    (tmp_path / "two" / "c.warc.gz").write_bytes(b"".join(gzip_members(numbered_records(2))))
    assert unit_ids(tmp_path / "one") < unit_ids(tmp_path / "two")


def test_a_file_added_or_changed_outside_the_store_is_noticed(tmp_path: Path) -> None:
    config = make_sources(tmp_path / "in")
    seen = [external(config), external(config)]
    (tmp_path / "in" / "c.warc.gz").write_bytes(b"".join(gzip_members(numbered_records(2))))
    seen.append(external(config))
    (tmp_path / "in" / "t.jsonl").write_text('{"text": "other"}\n')
    seen.append(external(config))
    assert seen[0] == seen[1]
    assert len({str(state) for state in seen}) == 3
    assert external(IngestConfig()) is None, "what comes from the store has its own fingerprint"


def test_addresses_of_datasets_are_inputs(tmp_path: Path) -> None:
    config = IngestConfig()
    assert inputs(config) == {"sample": "sample"}
    warc = b"".join(gzip_members(numbered_records(2)))
    sample = write_dataset(tmp_path / "sample", "sample", {"data/web/a.warc.gz": warc})
    config = IngestConfig(sources=(source_config(name="web", kind="warc", address="dataset://sample/web/*.warc.gz"),))
    dataset = run_shard_stage(STAGE, config, {"sample": sample}, tmp_path / "run")
    assert dataset.manifest.counts.kept == 2


def test_without_dataset_addresses_there_is_no_input(tmp_path: Path) -> None:
    assert inputs(make_sources(tmp_path / "in")) == {}


def test_a_missing_source_is_one_sentence(tmp_path: Path) -> None:
    config = IngestConfig(sources=(source_config(name="web", kind="warc", address=str(tmp_path / "none.warc.gz")),))
    with pytest.raises(InputError, match="there is no file"):
        run_shard_stage(STAGE, config, {}, tmp_path / "run")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text('{"content": "x", "id": 1}\n{"id": 2}\n')
    else:
        pq.write_table(pa.table({"content": ["x"], "id": [1]}), path)
    right = source_config(name="rows", kind=kind, address=str(path), text_column="content")
    check(IngestConfig(sources=(right,)))
    wrong = right.model_copy(update={"text_column": "text"})
    with pytest.raises(InputError, match=r"no column text .*content, id"):
        check(IngestConfig(sources=(wrong,)))
    with pytest.raises(InputError, match="there is no file"):
        external(IngestConfig(sources=(right.model_copy(update={"address": str(tmp_path / "*.gz")}),)))


def test_a_damaged_file_is_the_runs_to_tell(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    check(IngestConfig(sources=(source_config(name="rows", kind="parquet", address=str(tmp_path / "rows.parquet")),)))


def test_two_sources_may_not_share_a_name() -> None:
    source = source_config(name="web", kind="warc", address="x")
    with pytest.raises(ValidationError, match="two sources have the same name"):
        IngestConfig(sources=(source, source))
