"""Where words come from, by command and over HTTP: documents, archives, rows, and the steps that trained on them."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.find import command
from flows.provenance.find import Finder, index_of
from flows.provenance.trace import STEPS, trace_url
from flows.web.site import Site
from infra.errors import InputError, NotFound
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import InputRecord, write_manifest
from infra.store.store import Store
from pipeline.shards import STAGE as SHARDS
from pipeline.shards import ShardsConfig
from pipeline.shards.index import STAGE, IndexConfig
from pipeline.tokenizer import STAGE as TOKENIZER
from pipeline.tokenizer import TokenizerConfig
from tests.flows.web.sites import client_of
from tests.pipeline.corpus import corpus_documents, document, publish_documents
from tests.support import REPOSITORY, adopt_dataset, run_shard_stage

HERON = "The heron waits <b>quietly</b> for a carp, and then it flies away over the reeds."


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Documents, tokenizer, shards, their index, and what a training of one epoch on them leaves of its steps."""
    folder = tmp_path_factory.mktemp("find")
    texts = [*corpus_documents({"web": 120}), {**document("web", 777, HERON), "title": "A heron"}]
    redact = _placed(folder, publish_documents(folder / "made" / "redact", texts))
    tokenizer = run_shard_stage(TOKENIZER, TokenizerConfig(vocab_size=500), {"redact": redact}, folder / "made" / "tok")
    tokenizer = _placed(folder, tokenizer)
    config = ShardsConfig(seq_len=64, validation_fraction=0)
    shards = run_shard_stage(SHARDS, config, {"redact": redact, "tokenizer": tokenizer}, folder / "made" / "shards")
    shards = _placed(folder, shards)
    index = run_shard_stage(STAGE, IndexConfig(), {"shards": shards, "tokenizer": tokenizer}, folder / "made" / "index")
    _placed(folder, index)
    _placed(folder, _trained(folder / "made" / "pretrain", shards))
    return Store.at(folder / "workspace")


def _placed(folder: Path, dataset: Dataset) -> Dataset:
    target = folder / "workspace" / "datasets" / dataset.name / dataset.manifest.fingerprint
    shutil.copytree(dataset.root, target)
    return Dataset.open(str(target))


def _trained(folder: Path, shards: Dataset) -> Dataset:
    sequences = shards.manifest.stats["sequences"]
    first = np.arange(0, sequences, 4)
    table = pa.table({
        "step": np.arange(1, len(first) + 1), "first": first, "last": np.minimum(first + 3, sequences - 1),
        "applied": np.ones(len(first), bool),
    })  # fmt: skip
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / STEPS)
    dataset = adopt_dataset(str(folder), "pretrain", [describe_file(folder, STEPS)])
    record = InputRecord(role="shards", name="shards", fingerprint=shards.manifest.fingerprint, digest=shards.digest)
    manifest = dataset.manifest.model_copy(update={
        "config": {"seed": 3}, "stats": {"ranks": 1}, "inputs": [record], "payload": {"stage": "pretrain"}
    })  # fmt: skip
    write_manifest(str(folder), manifest)
    return Dataset.open(str(folder))


def test_the_document_its_archive_and_the_steps_that_trained_on_it(store: Store, capsys) -> None:
    command("waits <b>quietly</b> for a carp, and", workspace=store.address, json=True)
    view = json.loads(capsys.readouterr().out)
    [span] = view["spans"]
    assert (span["start"], span["end"], span["count"]) == (0, 36, 1)
    [match] = span["matches"]
    assert match["before"] + match["text"] + match["after"] == HERON
    assert (match["url"], match["title"]) == ("https://web.example/777", "A heron")
    assert (match["archive"], match["offset"], match["quality"]) == ("web.warc.gz", 777_000, 0.5)
    traced = trace_url(store.resolve("pretrain"), store.resolve("shards"), match["url"])
    assert [step["step"] for step in match["steps"]] == traced["steps"] != []
    assert f"{match['shard']}.arrow" in traced["shards"]
    command("waits <b>quietly</b> for a carp, and", workspace=store.address)
    assert "https://web.example/777" in capsys.readouterr().out


def test_the_page_asks_the_same(store: Store) -> None:
    client = client_of(Site(store, {}))
    found = client.post("/api/find", json={"text": "heron waits <b>quietly</b>", "limit": 3})
    assert found.status_code == 200
    assert found.json()["spans"][0]["matches"][0]["title"] == "A heron"
    shards = store.resolve("shards")
    of_shards = client.post("/api/find", json={"text": "heron", "dataset": f"shards/{shards.manifest.fingerprint}"})
    assert of_shards.json()["spans"][0]["count"] == 1
    for text in ("", " \n", "x" * ((1 << 20) + 1)):
        answer = client.post("/api/find", json={"text": text})
        assert (answer.status_code, set(answer.json())) == (400, {"error", "where", "remedy"})
    for dataset, status in {"index/123": 404, "nothing": 404, "tokenizer": 400, "../index": 400, "/etc": 400}.items():
        assert client.post("/api/find", json={"text": "heron", "dataset": dataset}).status_code == status, dataset
    assert client.get("/api/site").json()["tabs"]["find"] is True


def test_without_an_index_it_is_said_how_to_make_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no index here yet.*index: {}"):
        index_of(Store.at(tmp_path))
    assert client_of(Site(Store.at(tmp_path), {})).post("/api/find", json={"text": "heron"}).status_code == 404
    with pytest.raises(InputError, match="has no index"):
        index_of(store, "redact")


def test_words_are_found_when_the_shards_are_gone(store: Store, tmp_path: Path) -> None:
    left = tmp_path / "workspace"
    for name in ("index", "pretrain"):
        shutil.copytree(Path(store.address) / "datasets" / name, left / "datasets" / name)
    alone = Store.at(left)
    [match] = Finder(alone, index_of(alone)).find("quietly</b> for a carp")["spans"][0]["matches"]
    assert (match["title"], match["url"]) == (None, "https://web.example/777")
    assert match["steps"]


def test_words_from_standard_input(store: Store, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(HERON * 3))
    command("-", workspace=store.address, json=True, limit=2)
    spans = json.loads(capsys.readouterr().out)["spans"]
    assert (HERON * 3)[spans[0]["start"] : spans[0]["end"]] == HERON
    command("xyzzy", workspace=store.address)
    assert "No part of it" in capsys.readouterr().out


def test_it_loads_no_torch() -> None:
    loading = "import sys, flows.cli.find, flows.provenance.find; sys.exit('torch' in sys.modules or 'prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loading], cwd=REPOSITORY, check=False).returncode == 0
