"""An exported folder is complete, says where it comes from, and is never written over something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM, AutoTokenizer

import training.hub_format
from infra.errors import ConfigError, HeadwaterError, InputError
from infra.job import JobRequest, load_request, load_result, write_request
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import InputRecord, write_manifest
from pipeline.document import document_id, document_writer
from tests.support import adopt_dataset
from tests.training.folders import tiny_model, write_tokenizer
from training.export import CARD, LINEAGE, export_model, run, verify_reload
from training.hub_format import load_model, open_weights, save_model, write_model
from training.weights import Weights


def publish(root: Path, name: str, *inputs: Dataset) -> Dataset:
    """A manifest over all files below ``root/data``, naming its inputs."""
    paths = sorted(str(path.relative_to(root)) for path in (root / "data").rglob("*") if path.is_file())
    dataset = adopt_dataset(root, name, [describe_file(root, path) for path in paths])
    records = [
        InputRecord(role=each.name, name=each.name, fingerprint=each.manifest.fingerprint, digest=each.digest)
        for each in inputs
    ]
    write_manifest(str(root), dataset.manifest.model_copy(update={"inputs": records}))
    return Dataset.open(str(root))


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, Dataset]:
    """redact -> tokenizer, shards -> pretrain -> ppo, laid out as in a store."""

    def root(name: str) -> Path:
        return tmp_path / "datasets" / name / ("0" * 12)

    (root("redact") / "data" / "web").mkdir(parents=True)
    with document_writer(root("redact") / "data" / "web" / "one.parquet") as writer:
        for number, licence in enumerate(["CC-BY-SA-4.0", "CC-BY-SA-4.0", None]):
            writer.write(
                {
                    "id": document_id("web", str(number), "", ""),
                    "text": "x",
                    "source": "web",
                    "license": licence,
                    "origin": {"archive": "a", "offset": 0, "length": 1, "record_id": "", "digest": ""},
                }
            )
    redact = publish(root("redact"), "redact")
    write_tokenizer(root("tokenizer") / "data")
    tokenizer = publish(root("tokenizer"), "tokenizer", redact)
    (root("shards") / "data").mkdir(parents=True)
    (root("shards") / "data" / "stats.json").write_text(json.dumps({"tokens": {"web": 1234567}}))
    shards = publish(root("shards"), "shards", redact, tokenizer)
    save_model(tiny_model(), root("pretrain") / "data" / "model", root("tokenizer") / "data")
    pretrain = publish(root("pretrain"), "pretrain", shards, tokenizer)
    save_model(tiny_model(1), root("ppo") / "data" / "model", root("tokenizer") / "data")
    ppo = publish(root("ppo"), "ppo", pretrain, tokenizer)
    return {"tokenizer": tokenizer, "pretrain": pretrain, "ppo": ppo, "shards": shards}


def export(datasets: dict[str, Dataset], root: Path, **config: str) -> Dataset:
    request = JobRequest(
        "export",
        "0" * 12,
        config,
        {"ppo": datasets["ppo"], "tokenizer": datasets["tokenizer"]},
        root / "datasets" / "export" / ("0" * 12),
        root / "work",
    )
    (root / "work").mkdir(parents=True)
    run(load_request(write_request(request)))
    result = load_result(root / "work")
    assert result is not None
    assert result.stats["reload_difference"] == 0
    return adopt_dataset(request.dataset_root, "export", result.outputs)


def test_the_exported_folder_is_the_model(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    exported = export(datasets, tmp_path, model="ppo")
    folder = exported.local("data")
    row = torch.arange(8, 48).unsqueeze(0)
    model = load_model(datasets["ppo"].local("data/model"))
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(row).logits, model.logits(model(row)), atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    undigested = {output.path for output in exported.files() if not output.digested}
    assert undigested == {f"data/{CARD}", f"data/{LINEAGE}"}


def test_the_card_tells_the_lineage(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    card = (export(datasets, tmp_path, model="ppo").local("data") / CARD).read_text()
    for expected in ("1,234,567", "CC-BY-SA-4.0 (2)", "not stated (1)", "`ppo`", datasets["shards"].digest[:16]):
        assert expected in card
    stages = [
        entry["stage"]
        for entry in json.loads((tmp_path / "datasets/export" / ("0" * 12) / "data" / LINEAGE).read_text())
    ]
    assert stages == ["redact", "tokenizer", "shards", "pretrain", "ppo"]


def test_precision_can_be_chosen(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    exported = export(datasets, tmp_path, model="ppo", dtype="bf16")
    assert load_model(exported.local("data")).output_weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["stored", "bf16"])
def test_no_more_than_a_block_is_in_memory_at_once(
    datasets: dict[str, Dataset], tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny_model(layers=12), tmp_path / "deep", datasets["ppo"].local("data/model"))
    weights, there, most = open_weights(tmp_path / "deep"), [], 0
    read = training.hub_format._Stored.read

    def noted(stored: Any) -> torch.Tensor:
        nonlocal most
        tensor = read(stored)
        there.append((StorageWeakRef(tensor.untyped_storage()), tensor.nbytes))
        most = max(most, sum(size for storage, size in there if not storage.expired()))
        return tensor

    monkeypatch.setattr(training.hub_format._Stored, "read", noted)
    weights = open_weights(tmp_path / "deep", None if dtype == "stored" else torch.bfloat16)
    write_model(weights, tmp_path / "out", tmp_path / "deep")
    sizes = {name: 4 * shape.numel() for name, shape in weights.shapes().items()}
    assert most <= 2 * max(sizes.values())
    assert verify_reload(weights, tmp_path / "out") == 0
    block = sum(size for name, size in sizes.items() if name.startswith("layers.3."))
    assert most <= 1.1 * (block + max(sizes.values())) < 0.3 * sum(sizes.values())


def test_export_to_a_folder(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    exported = export(datasets, tmp_path, model="ppo")
    target = tmp_path / "out" / "model"
    names = {path.name for path in export_model(exported.local(), target)}
    assert {"config.json", "model.safetensors", "tokenizer.json", CARD, LINEAGE} <= names
    before = (target / "model.safetensors").stat().st_mtime_ns
    export_model(exported.local(), target)
    assert (target / "model.safetensors").stat().st_mtime_ns == before, "the same model: nothing is written"
    (target / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not empty"):
        export_model(exported.local(), target)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_any_model_stage_can_be_exported_with_its_card(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    names = {path.name for path in export_model(datasets["pretrain"].local(), tmp_path / "base")}
    assert {"model.safetensors", CARD, LINEAGE} <= names
    assert "base language model" in (tmp_path / "base" / CARD).read_text()
    with pytest.raises(InputError, match="holds no model"):
        export_model(datasets["shards"].local(), tmp_path / "none")


def test_damaged_weights_are_not_handed_out(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    weights = datasets["ppo"].local("data/model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="manifest"):
        export_model(datasets["ppo"].local(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_folder_with_other_weights_is_noticed(datasets: dict[str, Dataset]) -> None:
    with pytest.raises(HeadwaterError, match="other logits"):
        verify_reload(Weights.of(tiny_model(5)), datasets["ppo"].local("data/model"))
