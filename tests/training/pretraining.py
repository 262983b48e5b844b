"""Inputs and launches of small pretraining jobs."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.job import JobRequest, JobResult, load_result, write_request
from infra.store.dataset import Dataset
from infra.store.manifest import output_digest
from pipeline.shards.mixing import Phase
from pipeline.shards.stage import STAGE as SHARDS
from pipeline.shards.stage import ShardsConfig
from pipeline.tokenizer import STAGE as TOKENIZER
from pipeline.tokenizer import TokenizerConfig
from tests.pipeline.corpus import corpus_documents, publish_documents
from tests.support import run_shard_stage
from tests.training.launch import REPOSITORY, rank_command, rank_environment
from training.pretrain import PretrainConfig


def build_inputs(
    folder: Path, web: int = 400, code: int = 100, seq_len: int = 64, phases: tuple[Phase, ...] = ()
) -> dict[str, Dataset]:
    documents = publish_documents(folder / "documents", corpus_documents({"web": web, "code": code}))
    tokenizer = run_shard_stage(TOKENIZER, TokenizerConfig(vocab_size=512), {"redact": documents}, folder / "tokenizer")
    shards = run_shard_stage(
        SHARDS,
        ShardsConfig(seq_len=seq_len, validation_fraction=0.1, phases=phases),
        {"redact": documents, "tokenizer": tokenizer},
        folder / "shards",
    )
    return {"redact": documents, "shards": shards, "tokenizer": tokenizer}


def small_config(**changes) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "model": {"hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate_size": 128},
            "steps": 24,
            "batch_sequences": 8,
            "optimizer": {"lr": 3e-3, "schedule": {"warmup_steps": 4}},
            "parallel": {"micro_batch": 2},
            "checkpoint_every": 6,
            "eval_sequences": 8,
            **changes,
        }
    )


@dataclass
class PretrainJob:
    """One job's folders, as the runner lays them out."""

    folder: Path
    inputs: dict[str, Dataset]
    config: PretrainConfig
    module: str = "training.pretrain"

    @property
    def request(self) -> JobRequest:
        return JobRequest(
            stage="pretrain",
            fingerprint="0" * 12,
            config=self.config.model_dump(mode="json"),
            inputs=self.inputs,
            dataset_root=self.folder / "dataset",
            work_dir=self.folder / "work",
        )

    def start(self, ranks: int | None = None, **environment: str) -> subprocess.Popen:
        self.request.dataset_root.mkdir(parents=True, exist_ok=True)
        self.request.work_dir.mkdir(parents=True, exist_ok=True)
        path = write_request(self.request)
        ranks = ranks or self.config.ranks
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                rank_command(self.module, ranks, "--request", str(path)),
                cwd=REPOSITORY,
                env=rank_environment() | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, ranks: int | None = None, timeout: float = 240, **environment: str) -> JobResult:
        code = self.start(ranks, **environment).wait(timeout)
        result = load_result(self.request.work_dir)
        assert code == 0 and result, f"exit {code}\n{(self.folder / 'log.txt').read_text()[-4000:]}"
        return result

    def digest(self) -> str:
        result = load_result(self.request.work_dir)
        assert result
        return output_digest(result.outputs)

    def events(self, kind: str) -> list[dict]:
        path = self.request.work_dir / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["type"] == kind]

    def losses(self) -> list[float]:
        lines = (self.request.data_dir / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]
