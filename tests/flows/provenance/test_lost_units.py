"""A file that cannot be read at all: the run names it, and so does everything that is asked about its datasets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.main import build_app
from flows.provenance.fates import UNIT_LOST, fate_of
from infra.errors import InputError
from infra.runner import run_stage
from infra.stage import StageNode
from pipeline.dedup import STAGE, DedupConfig
from tests.infra.run_toy import context
from tests.pipeline.dedup.corpora import document, publish
from tests.support import InProcessExecutor

TOLERANT = ("--set", "execution.max_failed_fraction=0.4")


def command(home: Path, *words: str) -> Result:
    every = [*words, "--workspace", str(home)]
    return CliRunner().invoke(build_app(every), every)


def told(home: Path, *words: str) -> Any:
    return json.loads(command(home, *words, "--json").stdout)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """Three files of a source, one of which is no Parquet file."""
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        rows = {"text": [f"Shard {number}: the river runs by the mill."], "url": [f"http://ex.org/{number}"]}
        pq.write_table(pa.table(rows), shards / f"part-{number}.parquet")
    (shards / "part-1.parquet").write_bytes(b"half a download")
    path = tmp_path / "small.yaml"
    source = {"name": "web", "kind": "parquet", "address": str(shards), "url_column": "url"}
    path.write_text(
        f"recipe: small\nexecution: {{workers: 1}}\nstages:\n  ingest: {{sources: [{json.dumps(source)}]}}\n"
    )
    return str(path)


def test_by_default_the_run_fails_after_the_others_and_publishes_nothing(recipe: str, tmp_path: Path) -> None:
    failed = command(tmp_path / "ws", "run", recipe, "--no-prefect")
    assert isinstance(failed.exception, InputError)
    assert "1 of 3 units failed; missing is part-1.parquet (15 bytes, records unknown)" in failed.exception.error
    assert told(tmp_path / "ws", "status")["datasets"] == []


def test_with_the_tolerance_every_command_names_what_is_missing_until_it_is_there(recipe: str, tmp_path: Path) -> None:
    home = tmp_path / "ws"
    command(home, "run", recipe, "--no-prefect")
    ran = command(home, "run", recipe, "--no-prefect", *TOLERANT)
    assert ran.exit_code == 0 and "part-1.parquet" in ran.output + ran.stderr
    view = told(home, "inspect", "ingest")
    assert view["complete"] is False and view["failed_units"][0]["files"] == ["part-1.parquet"]
    assert "part-1.parquet" in view["warnings"][0]
    shown = command(home, "inspect", "ingest").output
    assert "part-1.parquet" in shown and "accepted by execution.max_failed_fraction=0.4" in shown
    assert "part-1.parquet" in command(home, "status").output
    unseen = command(home, "why", "http://ex.org/1").exception
    assert isinstance(unseen, InputError) and "missing is part-1.parquet" in unseen.error
    assert told(home, "why", "http://ex.org/0")["history"][0]["verdict"] == "kept"
    (planned,) = told(home, "plan", recipe, "--no-forecast")["stages"]
    assert planned["action"] == "RESUME" and "part-1.parquet" in planned["reason"]

    rows = {"text": ["Shard 1: the mill stands by the river."], "url": ["http://ex.org/1"]}
    pq.write_table(pa.table(rows), tmp_path / "shards/part-1.parquet")
    assert command(home, "run", recipe, "--no-prefect").exit_code == 0
    assert told(home, "inspect", "ingest")["complete"] is True
    assert told(home, "why", "http://ex.org/1")["history"][0]["verdict"] == "kept"


def test_a_document_of_a_lost_unit_of_a_later_stage_has_failed_there(tmp_path: Path) -> None:
    rows = [document(f"d{i}", f"text number {i} of a few that are all unlike") for i in range(6)]
    quality = publish(tmp_path / "q", {"web/a": rows[:3], "web/b": rows[3:]})
    run = replace(context(tmp_path / "ws", max_failed_fraction=0.9), executor=InProcessExecutor())
    quality.local("data/web/b.parquet").write_bytes(b"no longer a table")
    dedup = run_stage(StageNode(STAGE, DedupConfig()), {"quality": quality}, run).dataset
    counts = dedup.manifest.counts
    assert (counts.incoming, counts.kept, counts.failed) == (6, 3, 3) and not dedup.manifest.complete
    whole = publish(tmp_path / "whole", {"web/a": rows[:3], "web/b": rows[3:]})
    kept, lost = (fate_of(rows[at]["id"].hex(), [whole, dedup]).history for at in (0, 4))
    assert [verdict.verdict for verdict in kept] == ["kept", "kept"]
    assert (lost[-1].stage, lost[-1].verdict, lost[-1].rule) == ("dedup", "failed", UNIT_LOST)
    assert "data/web/b.parquet" in str(lost[-1].detail)
