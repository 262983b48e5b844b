"""The pretrain stage: token shards in, a model in Hugging Face's Llama format out.

    python -m training.pretrain --request FILE      (started by the launcher, one process a rank)

The published weights are those the forward pass used (bf16 where training ran in bf16). Beside them:
``data/steps.parquet`` says which sequences each step consumed, from which every step's documents are found;
``data/metrics.jsonl`` holds a line of figures a step. The latter carries time and stays out of the dataset's digest.

The number of ranks and of threads is part of the configuration's identity: sums taken in another order differ in their
last bits. ``elastic_ranks`` runs (or resumes) the same recipe on another number of ranks nevertheless, with the same
batches and losses equal within rounding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from pydantic import Field

from infra.config import Config, Execution
from infra.errors import InputError
from infra.job import JobRequest, finish
from infra.job_main import job_main
from infra.launch.spec import JobSpec
from infra.stage import JobStage
from pipeline.shards.format import TRAIN
from pipeline.shards.order import phase_of, rows_of
from pipeline.shards.reader import ShardSet, splits
from pipeline.tokenizer import Tokenizer
from training.checkpoint import Checkpoints
from training.engine import Engine, ParallelConfig, Ranks, StepResult, create_engine, distributed
from training.faults import FaultConfig, SpikeGuard
from training.hub_format import save_model
from training.loader import Loader, StepData, rank_slice
from training.loop import Events, Loop, Progress
from training.metrics import require_wandb
from training.model import Decoder, ModelConfig
from training.optimizer import OptimizerConfig
from training.reporter import Reporter
from training.sharded import build_for_engine
from training.validation import bits_per_byte, summed_loss

STEPS_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("last", pa.int64(), nullable=False),
        pa.field("applied", pa.bool_(), nullable=False),
    ]
)
"""``step`` is counted from 1. ``first`` to ``last`` (inclusive) are running numbers of consumed sequences, from 0 on;
``epoch`` is that of the first; ``applied`` is false where the update was skipped."""


class PretrainConfig(Config):
    """Pretraining of a decoder from scratch."""

    model: ModelConfig = ModelConfig()
    """Shape of the decoder; the vocabulary is the tokenizer's."""
    steps: int = Field(default=0, ge=0)
    """Optimizer steps. 0: as many as ``tokens`` needs."""
    tokens: int = Field(default=0, ge=0)
    """Tokens to train on, when ``steps`` is 0. 0: every shard row once."""
    batch_sequences: int = Field(default=32, ge=1)
    """Sequences of one optimizer step, on all ranks together."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer, learning rate and schedule."""
    parallel: ParallelConfig = ParallelConfig()
    """Precision, sharding and memory."""
    faults: FaultConfig = FaultConfig()
    """When an update is skipped, and when the run goes back to a checkpoint."""
    ranks: int = Field(default=2, ge=1)
    """Processes, one a device."""
    nodes: int = Field(default=1, ge=1)
    """Machines with ``ranks`` processes each."""
    threads_per_rank: int = Field(default=1, ge=1)
    """CPU threads of a process."""
    elastic_ranks: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Run on this many processes instead of ``ranks`` × ``nodes``; results then agree within rounding. 0: do not."""
    mask_documents: bool = True
    """Keep the documents packed into one row from seeing each other."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-partition, which keeps logits from drifting."""
    seed: int = 0
    """Seed of the first weights and of the data's order."""
    eval_every: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Steps between validations; there is always one at the end. 0: only that one."""
    eval_sequences: Annotated[int, Execution()] = Field(default=64, ge=1)
    """Sequences per domain in a validation."""
    checkpoint_every: Annotated[int, Execution()] = Field(default=100, ge=1)
    """Steps between checkpoints."""
    keep_last: Annotated[int, Execution()] = Field(default=2, ge=1)
    """Newest checkpoints to keep."""
    keep_every: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Keep every checkpoint whose step is a multiple of this as well. 0: none."""
    wandb_project: Annotated[str, Execution()] = ""
    """Weights & Biases project; empty: none."""
    time_limit_s: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Wall-clock limit of one attempt in seconds; 0: none."""
    stall_limit_s: Annotated[int, Execution()] = Field(default=1800, ge=10)
    """Silence after which the ranks' stacks are dumped and the job is restarted."""


def job(config: PretrainConfig) -> JobSpec:
    return JobSpec(
        module="training.pretrain",
        ranks=config.elastic_ranks or config.ranks,
        nodes=1 if config.elastic_ranks else config.nodes,
        threads_per_rank=config.threads_per_rank,
        time_limit_s=config.time_limit_s or None,
        stall_limit_s=config.stall_limit_s,
    )


STAGE = JobStage(
    name="pretrain",
    code_version=4,  # 4: the rate ends at its floor; validation leaves out tokens that stand for no bytes
    config=PretrainConfig,
    inputs=lambda config: {"shards": "shards", "tokenizer": "tokenizer"},
    job=job,
    code=("training.pretrain", "training.loop", "training.loader", "training.engine", "training.optimizer",
          "training.schedule", "training.faults", "training.model", "training.attention", "training.rope",
          "training.loss", "training.hub_format", "training.muon", "training.sharded", "pipeline.shards.order"),
    description="Trains the decoder on the token shards.",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The inputs of a run, opened."""

    train: ShardSet
    validation: dict[str, ShardSet]
    vocab_size: int


def open_data(shards: Path, tokenizer: Path) -> Data:
    words = Tokenizer.load(tokenizer)
    domains = [split for split in splits(shards) if split != TRAIN]
    train = ShardSet.open(shards, "train", words.digest)
    if len(train) == 0:
        raise InputError("the train shards hold no sequence", where=str(shards), remedy="Give the shards more text.")
    return Data(
        train,
        {name.removeprefix("validation-"): ShardSet.open(shards, name, words.digest) for name in domains},
        words.vocab_size,
    )


def total_steps(config: PretrainConfig, data: Data) -> int:
    """How many optimizer steps the configuration asks for."""
    if config.steps:
        return config.steps
    sequences = -(-config.tokens // data.train.seq_len) if config.tokens else len(data.train)
    return max(1, -(-sequences // config.batch_sequences))


def model_shape(config: PretrainConfig, data: Data) -> ModelConfig:
    """The decoder's shape with the tokenizer's vocabulary and room for the shards' sequences."""
    return config.model.model_copy(
        update={
            "vocab_size": data.vocab_size,
            "max_position": max(config.model.max_position, data.train.seq_len),
        }
    )


def run(request: JobRequest) -> None:
    config = PretrainConfig.model_validate(request.config)
    require_wandb(config.wandb_project)
    with distributed() as ranks:
        torch.set_num_threads(config.threads_per_rank)
        torch.manual_seed(config.seed)
        data = open_data(request.inputs["shards"].local("data"), request.inputs["tokenizer"].local("data"))
        shape = model_shape(config, data)
        reporter = Reporter(request, ranks, shape, data.train.seq_len, config.wandb_project)
        loop = build_loop(request, config, ranks, data, shape, reporter)
        loop.resume()
        reporter.begin(loop.engine.step)
        loop.run()
        loop.events.evaluate(loop.engine.step)
        publish(request, loop, reporter, len(data.train))
        dist.barrier()


def build_loop(
    request: JobRequest, config: PretrainConfig, ranks: Ranks, data: Data, shape: ModelConfig, reporter: Reporter
) -> Loop:
    """Model, engine, loader and what they report, wired together."""
    guard = SpikeGuard(config.faults)
    rank_slice(config.batch_sequences, ranks.rank, ranks.world_size)  # refused before anything is built
    engine = create_engine(
        build_for_engine(shape, config.seed, config.optimizer, config.parallel, ranks),
        config.optimizer,
        config.parallel,
        total_steps=total_steps(config, data),
        ranks=ranks,
        veto=guard.veto,
    )
    phases = data.train.phases
    loader = Loader(
        data.train,
        lambda consumed: rows_of(config.seed, consumed, phases),
        batch=config.batch_sequences,
        micro=config.parallel.micro_batch,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
        mask_documents=config.mask_documents,
    )

    def evaluate(step: int) -> None:
        if data.validation:
            reporter.phase("validation")
            reporter.validation(step, validate(engine, data, config))
            reporter.phase("training")

    events = Events(
        step=lambda result, seconds: reporter.step(result, seconds, loader.wait_seconds, engine.total_steps),
        skipped=lambda result, batch: reporter.warning(describe_skipped(config, data, result, batch)),
        warning=reporter.warning,
        evaluate=evaluate,
    )
    return Loop(
        engine=engine,
        loader=loader,
        losses=lambda model, batch: summed_loss(model, batch, config.z_loss),
        guard=guard,
        checkpoints=Checkpoints(engine, request.checkpoint_dir, reporter.warning, config.keep_last, config.keep_every),
        progress=Progress(config.batch_sequences),
        events=events,
        checkpoint_every=config.checkpoint_every,
        eval_every=config.eval_every,
        phase=lambda position: phase_of(position, phases),
    )


def validate(engine: Engine, data: Data, config: PretrainConfig) -> dict[str, float]:
    return bits_per_byte(
        engine,
        data.validation,
        limit=config.eval_sequences,
        micro=config.parallel.micro_batch,
        mask_documents=config.mask_documents,
    )


def describe_skipped(config: PretrainConfig, data: Data, result: StepResult, batch: StepData) -> str:
    """A sentence that names the documents of a batch whose update was not applied."""
    consumed = np.arange(batch.consumed, batch.consumed + config.batch_sequences)
    rows = rows_of(config.seed, consumed, data.train.phases)
    names = sorted({span.url or span.document_id.hex() for row in rows for span in data.train.documents(int(row))})
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"step {result.step + 1} was not applied: {result.skipped}; its batch held {', '.join(names[:20])}{more}"


def publish(request: JobRequest, loop: Loop, reporter: Reporter, sequences: int) -> None:
    """Write the dataset's files and answer the request (rank 0; gathering the weights takes all ranks)."""
    reporter.phase("publishing")
    with loop.engine.whole_model() as model:
        if not loop.engine.ranks.first:
            return
        assert isinstance(model, Decoder)
        names = save_model(model, request.data_dir / "model", request.inputs["tokenizer"].local("data"))
    write_steps(request.data_dir / "steps.parquet", loop, sequences)
    outputs = {f"data/model/{name}": True for name in names} | {"data/steps.parquet": True}
    outputs |= dict.fromkeys(reporter.close(), False)
    stats = reporter.summary() | {
        "steps": loop.engine.total_steps,
        "held_steps": loop.engine.skipped_steps,
        "rollbacks": loop.progress.rollbacks,
    }
    finish(request, outputs, stats, warnings=skipped_warnings(loop))


def skipped_warnings(loop: Loop) -> list[str]:
    """What a user of the model must know of updates that were refused."""
    skipped, rollbacks, steps = loop.engine.skipped_steps, loop.progress.rollbacks, loop.engine.total_steps
    if not skipped:
        return []
    went_back = f", and training went back to an earlier checkpoint (rollbacks: {rollbacks})" if rollbacks else ""
    return [f"{skipped} of {steps} updates were not applied{went_back}: the run's warnings name reasons and documents"]


def write_steps(path: Path, loop: Loop, sequences: int) -> None:
    """Which running numbers of sequences each step consumed, and whether its update was applied."""
    skipped = set(loop.progress.skipped)
    steps = range(loop.engine.total_steps)
    first = [loop.progress.consumed(step) for step in steps]
    table = pa.table(
        {
            "step": [step + 1 for step in steps],
            "epoch": [position // sequences for position in first],
            "first": first,
            "last": [position + loop.progress.batch - 1 for position in first],
            "applied": [step not in skipped for step in steps],
        },
        schema=STEPS_SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def main() -> None:
    job_main(run)


if __name__ == "__main__":
    main()
