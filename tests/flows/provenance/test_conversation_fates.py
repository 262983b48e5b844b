"""``why`` knows conversations by the ids they have in their files, and each of their replies that teaches nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.provenance.fates import fate_of
from infra.errors import InputError
from infra.store.dataset import Dataset
from pipeline.document import document_id
from pipeline.ledger import Fate, ledger_writer
from tests.support import write_dataset


def ledger_of(tmp_path: Path, stage: str, rows: list[tuple[str, str, str, str | None]]) -> Dataset:
    path = tmp_path / f"{stage}.parquet"
    with ledger_writer(path) as writer:
        for name, verdict, rule, detail in rows:
            key = document_id("", name, "", "")
            row: Fate = {"id": key, "url": name, "stage": stage, "verdict": verdict, "rule": rule, "detail": detail}  # type: ignore[typeddict-item]
            writer.write(row)
    return write_dataset(tmp_path / stage, stage, {"ledger/conversations.parquet": path.read_bytes()})


def test_a_conversation_is_followed_with_its_replies(tmp_path: Path) -> None:
    sft = [("talk/1", "kept", "taught", "2 of 3 replies"), ("talk/1/5", "dropped", "too_long", "with it 300 tokens")]
    pairs = [("talk/1/3", "kept", "pair", None), ("talk/10", "dropped", "no_reply", None)]
    datasets = [ledger_of(tmp_path, "preferences", pairs), ledger_of(tmp_path, "sft", sft)]
    fate = fate_of("talk/1", datasets)
    assert [(v.stage, v.verdict, v.rule, v.detail) for v in fate.history] == [
        ("sft", "kept", "taught", "2 of 3 replies"),
        ("sft", "dropped", "too_long", "message 5: with it 300 tokens"),
        ("preferences", "kept", "pair", "message 3"),
    ]
    assert fate.url == "talk/1" and fate_of(fate.id, datasets).history[0].rule == "taught"
    with pytest.raises(InputError, match="no stage ever saw"):
        fate_of("talk/2", datasets)


@pytest.mark.parametrize(("failed", "told"), [(0, False), (1, True)])
def test_what_nobody_saw_may_be_in_what_could_not_be_read_and_nowhere_else(
    failed: int, told: bool, tmp_path: Path
) -> None:
    dataset = ledger_of(tmp_path, "sft", [("talk/1", "kept", "taught", None)])
    counts = dataset.manifest.counts.model_copy(update={"failed": failed})
    manifest = dataset.manifest.model_copy(update={"counts": counts, "warnings": ["talks.jsonl is cut"]})
    with pytest.raises(InputError) as caught:
        fate_of("talk/2", [replace(dataset, manifest=manifest)])
    assert ("talks.jsonl is cut" in caught.value.error) == told
