"""Fates in a search: of files whose units failed, and of stages of other packages that name their files otherwise."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.provenance.fates import fate_of
from flows.provenance.search import search
from flows.provenance.wanted import Wanted
from infra.errors import InputError
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import CountsRecord, FailedUnit, Manifest, UnitsRecord, output_digest, write_manifest
from pipeline.document import document_id, documents_table
from pipeline.ledger import fate, ledger_writer
from tests.pipeline.dedup.corpora import document


def dataset(
    root: Path, name: str, data: dict[str, list[Any]], lost: dict[str, list[Any]], failed: bool = False
) -> Dataset:
    import pyarrow.parquet as pq

    for path, rows in data.items():
        (root / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(documents_table(rows), root / "data" / path)
    for path, rows in lost.items():
        (root / "ledger" / path).parent.mkdir(parents=True, exist_ok=True)
        with ledger_writer(root / "ledger" / path) as ledger:
            for row in rows:
                ledger.write(row)
    paths = [*(f"data/{path}" for path in data), *(f"ledger/{path}" for path in lost)]
    outputs = [describe_file(root, path) for path in sorted(paths)]
    units = UnitsRecord(
        total=2, ok=1, failed=[FailedUnit(unit="u", step="read", error="lost", attempts=1)] if failed else []
    )
    rules = Counter(row["rule"] for rows in lost.values() for row in rows)
    manifest = Manifest(
        counts=CountsRecord(dropped=dict(rules)),
        name=name, fingerprint="a" * 12, payload={"stage": name}, config={}, inputs=[], outputs=outputs,
        output_digest=output_digest(outputs), units=units,
    )  # fmt: skip
    write_manifest(str(root), manifest)
    return Dataset.open(str(root))


@pytest.fixture
def stages(tmp_path: Path) -> list[Dataset]:
    one = [document(f"a{n}", f"text {n}", url=f"http://a.example/{n}") for n in range(4)]
    two = [document(f"b{n}", f"text {n}", url=f"http://b.example/{n}") for n in range(3)]
    gone = fate("quality", "dropped", "short", one[0]["id"], one[0]["url"], "web")
    theirs = fate("theirs", "dropped", "ugly", one[1]["id"], one[1]["url"], "web")
    return [
        dataset(tmp_path / "i", "ingest", {"web/a.parquet": one, "web/b.parquet": two}, {}),
        dataset(tmp_path / "q", "quality", {"web/a.parquet": one[1:]}, {"web/a.parquet": [gone]}, failed=True),
        dataset(tmp_path / "t", "theirs", {"all.parquet": one[2:]}, {"all.parquet": [theirs]}),
    ]


def fates(stages: list[Dataset], **wanted: Any) -> dict[str, tuple[str, str, str | None]]:
    found = search(stages, None, Wanted(**wanted), limit=50)
    assert found["next"] is None
    return {row["url"]: tuple(row["fate"].values()) for row in found["documents"]}


def test_each_document_has_the_fate_that_was_its_last(stages: list[Dataset]) -> None:
    lost = {f"http://b.example/{n}": ("quality", "failed", "unit_lost") for n in range(3)}
    assert fates(stages) == lost | {
        "http://a.example/0": ("quality", "dropped", "short"),
        "http://a.example/1": ("theirs", "dropped", "ugly"),
        "http://a.example/2": ("theirs", "kept", None),
        "http://a.example/3": ("theirs", "kept", None),
    }
    assert fates(stages, fate="failed") == fates(stages, rule="unit_lost") == lost
    assert list(fates(stages, rule="ugly")) == ["http://a.example/1"]
    assert list(fates(stages[:2], rule="short")) == ["http://a.example/0"]
    assert list(fates(stages, fate="kept", url="/2")) == ["http://a.example/2"]


def test_what_the_mixture_left_out_is_found_though_its_ledger_bears_the_shards_names(tmp_path: Path) -> None:
    rows = [document(f"a{n}", f"text {n}", url=f"http://a.example/{n}") for n in range(4)]
    short, left = (
        fate("shards", "dropped", rule, row["id"], row["url"], "web")
        for rule, row in (("too_short", rows[0]), ("mixture_cap", rows[1]))
    )
    ledgers = {"web/a.parquet": [short], "p0.parquet": [left]}
    stages = [
        dataset(tmp_path / "i", "ingest", {"web/a.parquet": rows}, {}),
        dataset(tmp_path / "s", "shards", {}, ledgers),
    ]
    told = {
        "http://a.example/0": ("shards", "dropped", "too_short"),
        "http://a.example/1": ("shards", "dropped", "mixture_cap"),
    }
    kept = {f"http://a.example/{n}": ("shards", "kept", None) for n in (2, 3)}
    assert fates(stages) == told | kept and fates(stages, fate="dropped") == told
    assert list(fates(stages, rule="mixture_cap")) == ["http://a.example/1"]
    assert not fates(stages, rule="mixture")
    for url, (stage, verdict, rule) in told.items():
        last = fate_of(url, stages).history[-1]
        assert (last.stage, last.verdict, last.rule) == (stage, verdict, rule)


def test_a_cursor_belongs_to_its_documents(stages: list[Dataset]) -> None:
    page = search(stages, None, Wanted(), limit=3)
    rest = search(stages, None, Wanted(), after=page["next"], limit=50)
    assert len(page["documents"]) + len(rest["documents"]) == 7
    assert not {row["id"] for row in page["documents"]} & {row["id"] for row in rest["documents"]}
    with pytest.raises(InputError, match="cannot go on"):
        search(stages, None, Wanted(), after=page["next"].replace("a" * 12, "b" * 12))
    assert document_id("made", "a0", "a0", "").hex() in {row["id"] for row in page["documents"]}
