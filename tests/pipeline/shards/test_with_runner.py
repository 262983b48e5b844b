"""The tokenizer and the shards through the real runner: worker processes change nothing, and nothing is done twice."""

from pathlib import Path

import pytest

from infra.planning import Action
from infra.runner import run_stage
from infra.stage import StageNode
from pipeline.shards import STAGE, ShardsConfig, SourceWeight
from pipeline.tokenizer import STAGE as TOKENIZER
from pipeline.tokenizer import TokenizerConfig
from tests.infra.run_toy import context
from tests.pipeline.corpus import corpus_documents, publish_documents

CONFIG = ShardsConfig(
    seq_len=128, bucket_tokens=8_000, validation_fraction=0.1, group_megabytes=0.01,
    mixture=(SourceWeight(source="web"), SourceWeight(source="code", max_epochs=2)),
)  # fmt: skip


def build(redact, home: Path, workers: int):
    run = context(home, workers=workers)
    tokenizer = run_stage(StageNode(TOKENIZER, TokenizerConfig(vocab_size=500)), {"redact": redact}, run)
    inputs = {"redact": redact, "tokenizer": tokenizer.dataset}
    return [tokenizer, run_stage(StageNode(STAGE, CONFIG), inputs, run)]


@pytest.mark.slow
def test_one_worker_or_three_publish_the_same_and_a_second_run_skips(tmp_path) -> None:
    redact = publish_documents(tmp_path / "redact", corpus_documents({"web": 150, "code": 60}), files=4)
    alone, together = build(redact, tmp_path / "one", 1), build(redact, tmp_path / "three", 3)
    assert [outcome.dataset.digest for outcome in alone] == [outcome.dataset.digest for outcome in together]
    assert [outcome.action for outcome in alone] == [Action.RUN, Action.RUN]
    again = build(redact, tmp_path / "one", 2)
    assert [outcome.action for outcome in again] == [Action.SKIP, Action.SKIP]
