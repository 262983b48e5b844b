"""A plan says what a run will give: from a small sample at first, from what earlier datasets did afterwards."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.main import build_app
from flows.forecast import training_tokens
from flows.recipe import load_recipe
from flows.start import run_in_workspace
from infra.planning import StageSelection
from infra.stage import Counts, StageNode
from infra.store.store import Store
from pipeline.extract.page import ExtractConfig
from pipeline.shards import STAGE, ShardsConfig
from pipeline.sources import probe as probes
from pipeline.sources.contract import Reading
from tests.pipeline.sources.archives import PROSE, html_page, read_source, warc_record
from tests.pipeline.sources.mirror import serve
from tests.support import adopt_dataset, source_config


def recipe(folder: Path, kind: str, address: Path, *further: str) -> Path:
    path = folder / "small.yaml"
    sources = json.dumps([{"name": "web", "kind": kind, "address": str(address)}])
    texts = "{positives: [{source: web}], negatives: [{source: web}]}"
    later = "".join(f"  {stage}: {texts if stage == 'classifier' else '{}'}\n" for stage in further)
    first = "  sample: {}\n" if further else ""
    path.write_text(
        f"recipe: small\nexecution: {{workers: 1}}\nstages:\n{first}  ingest: {{sources: {sources}}}\n{later}"
    )
    return path


def planned(path: Path, store: Store) -> Any:
    arguments = ["plan", str(path), "--json", "--workspace", str(store.home)]
    return json.loads(CliRunner().invoke(build_app(arguments), arguments).stdout)["forecast"]


def article(number: int) -> bytes:
    sentences = (
        f"The river number {number} begins in the hills above a small town and ends in the northern sea.",
        "Mills were built along its banks by weavers who had come from the south.",
        "Most of them burned down during the long war, and only two were ever restored.",
        "Today visitors can see how linen was made, dyed and carried to the harbour.",
        "A museum opened near the old bridge, with maps that show every flood since then.",
        "It is closed on Mondays, but its garden may be entered at any time of the year.",
        "Trains from the capital stop there twice a day, and the walk takes ten minutes.",
    )
    paragraphs = "".join(f"<p>{sentence}</p>" for sentence in sentences)
    return (
        f"<html><head><title>River {number}</title></head><body><article>{paragraphs}</article></body></html>".encode()
    )


def write_rows(path: Path, rows: int, empty: int) -> None:
    texts = [f"{PROSE} {number}" for number in range(rows)] + [""] * empty
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_from_a_sample_then_from_what_was_built_and_nothing_when_nothing_is_to_do(tmp_path: Path) -> None:
    store, archive = Store.at(tmp_path / "workspace"), tmp_path / "rows.jsonl"
    write_rows(archive, 90, 10)
    path = recipe(tmp_path, "jsonl", archive)
    sampled = planned(path, store)
    (ingest,) = sampled["stages"]
    assert (ingest["incoming"], ingest["kept"], ingest["basis"]) == (100, 90, "sample")
    assert sampled["documents"] == 90
    assert sampled["tokens"] == pytest.approx(90 * len(PROSE) / 4, rel=0.1)
    assert sampled["bytes"] > 0
    assert not list((store.home / "work").glob("*")) if (store.home / "work").exists() else True

    built = run_in_workspace(load_recipe(str(path)), StageSelection(), store, use_prefect=False, quiet=True)
    assert planned(path, store) is None
    write_rows(archive, 180, 20)
    (ingest,) = planned(path, store)["stages"]
    assert ingest["basis"] == f"as ingest/{built.datasets['ingest'].manifest.fingerprint}"
    assert ingest["incoming"] == pytest.approx(200, rel=0.02)
    assert ingest["kept"] == pytest.approx(180, rel=0.02)


def test_what_was_built_of_something_else_is_no_guide(tmp_path: Path) -> None:
    store, archive = Store.at(tmp_path / "workspace"), tmp_path / "rows.jsonl"
    write_rows(archive, 2, 2)
    path = recipe(tmp_path, "jsonl", archive)
    run_in_workspace(load_recipe(str(path)), StageSelection(), store, use_prefect=False, quiet=True)
    write_rows(archive, 500, 0)
    (ingest,) = planned(path, store)["stages"]
    assert (ingest["incoming"], ingest["kept"], ingest["basis"]) == (500, 500, "sample")
    write_rows(archive, 4, 0)
    path.write_text(path.read_text().replace("recipe: small", "recipe: other").replace('"web"', '"other"'))
    (ingest,) = planned(path, store)["stages"]
    assert (ingest["incoming"], ingest["kept"], ingest["basis"]) == (4, 4, "sample")


def test_the_rules_of_the_recipe_are_put_to_the_sample(tmp_path: Path) -> None:
    pages = [
        warc_record(f"http://example.org/{n}", article(n) if n % 2 else html_page("Bad", "Buy now! " * 30))
        for n in range(20)
    ]
    archive = tmp_path / "web.warc.gz"
    archive.write_bytes(b"".join(gzip.compress(page) for page in pages))
    path = recipe(tmp_path, "warc", archive, "classifier", "attributes", "quality", "dedup")
    found = planned(path, Store.at(tmp_path / "workspace"))
    kept = {row["stage"]: row["kept"] for row in found["stages"]}
    assert kept == {"ingest": 11, "attributes": 11, "quality": 10, "dedup": 10}
    assert any("dedup drops is not known" in note for note in found["notes"])


def test_tokens_are_those_of_the_mixture_and_its_curves(tmp_path: Path) -> None:
    """An earlier version tells what each source has; what is taken of it the recipe says, which may have changed."""
    before = adopt_dataset(tmp_path, "shards", [], Counts(100, 100))
    mixture = {"web": {"available_tokens": 1000}, "code": {"available_tokens": 500}}
    before.manifest.stats.update({"total_tokens": 1500, "mixture": mixture})

    def tokens(**settings: Any) -> int:
        node = StageNode(STAGE, ShardsConfig.model_validate(settings))
        return training_tokens(200.0, before, None, node)

    assert tokens() == 3000
    assert tokens(repetition=[{"source": "web", "curve": [[0, 0], [0.5, 3]]}]) == 4000
    assert tokens(mixture=[{"source": "code", "max_epochs": 2}]) == 2000
    assert tokens(mixture=[{"source": "books"}]) == 3000, "sources that were not there: as it was"


@pytest.mark.parametrize("kind", ["warc", "jsonl", "jsonl.gz"])
def test_a_large_source_is_judged_by_a_part_of_it(tmp_path: Path, kind: str) -> None:
    chance = random.Random(1)
    noise = [chance.randbytes(3_000).hex() for _ in range(1200)]
    archive = tmp_path / f"large.{kind}"
    if kind == "warc":
        archive = tmp_path / "large.warc.gz"
        pages = (
            warc_record(f"http://example.org/{n}", html_page("x", f"{PROSE} {text}")) for n, text in enumerate(noise)
        )
        archive.write_bytes(b"".join(gzip.compress(page, 1) for page in pages))
    else:
        data = "".join(json.dumps({"text": text}) + "\n" for text in noise).encode()
        archive.write_bytes(gzip.compress(data, 1) if kind.endswith("gz") else data)
    assert archive.stat().st_size > 3 * probes.PIECE_BYTES
    source = source_config(name="test", kind="warc" if kind == "warc" else "jsonl", address=str(archive))
    seen = probes.probe(Reading(source, ExtractConfig()), {}, 20.0)
    assert seen is not None
    total = len(read_source(archive, source.kind))
    assert seen.records < total
    assert seen.records * seen.scale == pytest.approx(total, rel=0.1)


def test_a_crawl_by_name_is_looked_at_in_ranges(tmp_path: Path) -> None:
    chance = random.Random(3)
    archives = {
        f"{n:05}.warc.gz": b"".join(
            gzip.compress(
                warc_record(f"http://example.org/{n}/{k}", html_page("x", f"{PROSE} {chance.randbytes(900).hex()}"))
            )
            for k in range(1500)
        )
        for n in range(4)
    }
    with serve() as mirror:
        mirror.add_crawl("CC-MAIN-2024-10", archives)
        source = {"name": "web", "kind": "common_crawl", "address": "CC-MAIN-2024-10", "mirror": mirror.url}
        path = tmp_path / "small.yaml"
        path.write_text(
            f"recipe: small\nexecution: {{workers: 1}}\nstages:\n  ingest: {{sources: [{json.dumps(source)}]}}\n"
        )
        (ingest,) = planned(path, Store.at(tmp_path / "workspace"))["stages"]
        assert ingest["incoming"] == pytest.approx(6000, rel=0.1)
        assert ingest["kept"] == pytest.approx(6000, rel=0.1)
        assert mirror.requests.total() < 12
    for file, data in mirror.files.items():
        (tmp_path / "mirror" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror" / file).write_bytes(data)
    path.write_text(path.read_text().replace(mirror.url, str(tmp_path / "mirror")))
    (ingest,) = planned(path, Store.at(tmp_path / "workspace"))["stages"]
    assert ingest["incoming"] == pytest.approx(6000, rel=0.1)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_folder_of_the_datasets_library_is_looked_at_as_files(tmp_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir()
    for shard in range(5):
        rows = [{"body": f"{PROSE} {shard} {row}", "id": row} for row in range(2000)]
        target = tmp_path / "data" / f"train-{shard:05}-of-00005.{form}"
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), target)
        else:
            target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = source_config(name="rows", kind="hugging_face", address=str(tmp_path), text_column="body")
    seen = probes.probe(Reading(source, ExtractConfig()), {}, 20.0)
    assert seen is not None
    assert seen.records * seen.scale == pytest.approx(10_000, rel=0.05)
    assert seen.records < 10_000


def test_what_cannot_be_looked_at_is_said(tmp_path: Path) -> None:
    with serve() as mirror:
        nobody = mirror.url
    source = {"name": "web", "kind": "common_crawl", "address": "CC-MAIN-2024-10", "mirror": nobody}
    path = tmp_path / "small.yaml"
    path.write_text(f"recipe: small\nstages:\n  ingest: {{sources: [{json.dumps(source)}]}}\n")
    said = planned(path, Store.at(tmp_path / "workspace"))
    assert (said["documents"], said["stages"]) == (None, [])
    assert said["notes"][0].startswith("web is not in the forecast: the file could not be fetched")
    for kind, address in (("warc", "s3://b/*.gz"), ("hugging_face", "owner/name")):
        far = source_config(name="test", kind=kind, address=address)
        assert probes.probe(Reading(far, ExtractConfig()), {}, 1.0) is None
