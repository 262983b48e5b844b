"""A workspace from Python: its datasets by name, as Arrow, as shards, and as rows for torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

import headwater
from headwater.workspace import Published
from infra.errors import InputError
from tests.support import REPOSITORY
from tests.training.pretraining import build_inputs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> headwater.Workspace:
    """Three datasets as runs leave them; the label ``mine`` on the documents."""
    home = tmp_path_factory.mktemp("store")
    for name, dataset in build_inputs(tmp_path_factory.mktemp("made"), web=60, code=20).items():
        shutil.copytree(dataset.root, home / "datasets" / name / dataset.manifest.fingerprint)
    opened = headwater.open_store(home)
    opened.store.set_ref("redact", "mine", next(opened.store.datasets("redact")).manifest.fingerprint)
    return opened


def test_datasets_are_found_by_name_label_and_fingerprint(store: headwater.Workspace) -> None:
    assert sorted(store) == ["redact", "shards", "tokenizer"]
    fingerprint = store["redact"].dataset.manifest.fingerprint
    assert store["redact@mine"] == store[f"redact/{fingerprint[:5]}"] == store["redact"]
    assert "nothing" not in store
    with pytest.raises(KeyError, match="there are redact, shards, tokenizer"):
        store["nothing"]


def test_a_dataset_is_a_table_to_whoever_speaks_arrow(store: headwater.Workspace) -> None:
    documents = store["redact"]
    assert len(documents) == 80
    assert pa.table(documents).num_rows == len(pl.DataFrame(documents)) == 80
    assert documents.batches(["id", "text"]).schema.names == ["id", "text"]
    assert len(headwater.dedup(pa.table(documents)).kept) + 0 <= 80
    with pytest.raises(InputError, match="no table under data/"):
        store["tokenizer"].batches()


def test_shards_as_rows_for_torch(store: headwater.Workspace) -> None:
    rows, shards = store["shards"].torch(), store["shards"].shards()
    assert len(rows) == len(shards) > 10
    batch = next(iter(DataLoader(rows, batch_size=4)))
    assert batch["input_ids"].shape == batch["labels"].shape == (4, shards.seq_len + 1)
    found = shards.rows(np.arange(4))
    for row in range(4):
        counted = np.ones(shards.seq_len + 1, bool)
        counted[found.lengths[row] :] = False
        counted[found.boundaries[row]] = False
        labels = batch["labels"][row].numpy()
        assert (labels[counted] == found.input_ids[row][counted]).all()
        assert (labels[~counted] == -100).all()
    assert (rows[-1]["input_ids"] == rows[len(rows) - 1]["input_ids"]).all()
    assert store["shards"].torch("validation-web") is not None


def test_the_tokenizer_of_a_store_reads_its_shards(store: headwater.Workspace) -> None:
    tokenizer = headwater.tokenizer(store["tokenizer"])
    assert isinstance(store["tokenizer"], Published)
    assert store["shards"].shards().tokenizer_digest == tokenizer.digest
    assert tokenizer.decode(store["shards"].torch()[0]["input_ids"].tolist()).strip()


def test_without_torch_one_sentence_says_what_to_install(store: headwater.Workspace, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'deepspeed', 'prefect'])); import headwater\n"
        f"shards = headwater.open_store({str(store.store.home)!r})['shards']\n"
        "assert len(shards.shards()) > 10\n"
        "try: shards.torch()\n"
        "except headwater.HeadwaterError as error: print(error)\n"
        f"try: headwater.run('demo', workspace={str(tmp_path / 'w')!r})\n"
        "except headwater.HeadwaterError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "this needs torch, which is not installed here. pip install 'headwater[train]'"
    assert second.startswith("stage 'pretrain' cannot run: this needs torch") and "headwater[train]" in second
