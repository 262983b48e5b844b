"""``headwater inspect`` on the dataset of a stage that has something of its own to say."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.main import build_app
from flows.provenance.samples import dropped_samples
from infra.store.store import Store
from pipeline import ingest
from pipeline.dedup import STAGE, DedupConfig
from tests.pipeline.dedup.corpora import document, publish
from tests.support import run_shard_stage, source_config


def test_dedup_prints_how_likely_a_pair_was_to_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [document(f"d{i}", f"text number {i} of a few") for i in range(3)]
    config = DedupConfig(preset="20x13")
    dataset = run_shard_stage(STAGE, config, {"quality": publish(tmp_path / "q", {"web/a": rows})}, tmp_path / "d")
    words = ["inspect", dataset.root, "--sample", "0", "--workspace", str(tmp_path / "w")]
    shown = CliRunner().invoke(build_app(words), words)
    assert shown.exit_code == 0, shown.output
    assert "20 × 13" in shown.output
    curve = dict(zip(*([float(x) for x in line.split()[1:]] for line in _lines(shown.output)), strict=True))
    assert curve[0.8] == pytest.approx(0.677)


def test_what_could_not_be_read_has_rules_too(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    source = source_config(name="rows", kind="jsonl", address=str(tmp_path / "rows.jsonl"))
    dataset = run_shard_stage(ingest.STAGE, ingest.IngestConfig(sources=(source,)), {}, tmp_path / "d")

    def inspect(*more: str) -> Result:
        words = ["inspect", dataset.root, "--workspace", str(tmp_path / "w"), *more]
        return CliRunner().invoke(build_app(words), words)

    assert json.loads(inspect("--json").stdout)["failed_by"] == {"bad_json": 1}
    assert "failed by bad_json" in inspect("--rule", "bad_json").output
    assert "bad_json" in str(inspect("--rule", "nothing").exception)


def _lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(("at ", "found "))]


def test_samples_for_the_ui_are_taken_from_the_first_files_of_a_long_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(b'{"text": "fine"}\n' + b'{"text": "caf\xe9"}\n' * 3)
    source = source_config(name="rows", kind="jsonl", address=str(tmp_path / "*.jsonl"))
    dataset = run_shard_stage(ingest.STAGE, ingest.IngestConfig(sources=(source,)), {}, tmp_path / "d")
    store = Store.at(tmp_path / "w")
    assert len(dropped_samples(store, dataset, None, 10)) == 6
    assert len(dropped_samples(store, dataset, None, 10, quick=True)) == 6
    monkeypatch.setattr("flows.provenance.samples.QUICK_LEDGER_BYTES", 1)
    assert len(dropped_samples(store, dataset, None, 10, quick=True)) == 3
