"""The pretrain stage: token shards in, a model in Hugging Face's Llama format out.

    python -m training.pretrain --request FILE      (started by the launcher, one process a rank)

The published weights are those the forward pass used (bf16 where training ran in bf16). Beside them:
``data/steps.parquet`` says which sequences each step consumed, from which every step's documents are found;
``data/metrics.jsonl`` holds a line of figures a step. The latter carries time and stays out of the dataset's digest.

The number of ranks and of threads is part of the configuration's identity: sums taken in another order differ in their
last bits. ``elastic_ranks`` runs (or resumes) the same recipe on another number of ranks nevertheless, with the same
batches and losses equal within rounding.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, model_validator
from torch import Tensor

from infra.config import Execution, Later
from infra.errors import ConfigError, InputError
from infra.stage import JobStage
from pipeline.shards.document_order import DocumentOrder, document_order
from pipeline.shards.format import TRAIN
from pipeline.shards.order import ShuffledOrder, phase_of
from pipeline.shards.reader import ShardSet, splits
from pipeline.tokenizer import Tokenizer
from training.create_engine import create_engine
from training.engine import Engine
from training.hub_format import open_weights
from training.job import Job, TrainingJobConfig, run_job
from training.loader import Loader, MicroBatch, StepData
from training.loop import Loop, TrainingTask, TrainStep, publish_model, train
from training.model import Decoder, ModelConfig, check_shape
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks
from training.recorder import IterationResult
from training.validation import bits_per_byte, summed_loss
from training.weights import Weights

Order = ShuffledOrder | DocumentOrder
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


class PretrainConfig(TrainingJobConfig):
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
    order: Annotated[Literal["rows", "documents"], Later()] = "rows"
    """What the order of the shards' rows is shuffled by. ``documents``: corpora that share documents are read alike, which
    ``headwater ablate`` asks for; every rank then reads where the rows come from before it begins."""
    mask_documents: bool = True
    """Keep the documents packed into one row from seeing each other."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-partition, which keeps logits from drifting."""
    trunk: Annotated[bool, Later()] = False
    """Begin with the weights of an earlier pretraining, its input ``trunk``, instead of fresh ones: ``headwater ablate``
    lets many runs branch from one."""
    eval_every: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Steps between validations; there is always one at the end. 0: only that one."""
    eval_sequences: Annotated[int, Execution()] = Field(default=64, ge=1)
    """Sequences per domain in a validation."""

    @model_validator(mode="after")
    def _mesh_fits(self) -> "PretrainConfig":
        mesh = self.parallel.mesh(self.processes)
        if self.batch_sequences % mesh.row_shares:
            raise ValueError(
                f"batch_sequences {self.batch_sequences} cannot be shared by {mesh.row_shares} ranks; choose a multiple"
            )
        check_shape(self.model, self.parallel, self.batch_sequences // mesh.row_shares)
        return self


STAGE = JobStage(
    name="pretrain",
    code_version=5,  # 5: short packed rows in half precision are multiplied out on a CPU; Muon by Polar Express
    config=PretrainConfig,
    inputs=lambda config: (
        {"shards": "shards", "tokenizer": "tokenizer"} | ({"trunk": "pretrain"} if config.trunk else {})
    ),
    job=lambda config: replace(config.job_spec("training.pretrain"), float8=config.parallel.float8),
    description="Trains the decoder on the token shards.",
)


@dataclass(frozen=True)
class Data:
    """The inputs of a run, opened."""

    train: ShardSet
    validation: dict[str, ShardSet]
    vocab_size: int


def open_data(shards: Path, tokenizer: Path) -> Data:
    """Open the ``data`` folders of shards and tokenizer. Raises InputError where there is nothing to train on, or where the
    shards were written with another tokenizer."""
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


def run(job: Job[PretrainConfig]) -> None:
    """The stage in one rank: data, training, model, steps."""
    config = job.config
    mesh = config.parallel.mesh(job.ranks.world_size)
    data = open_data(job.data("shards"), job.data("tokenizer"))
    config.parallel.check_sequence(data.train.seq_len)
    try:
        config.parallel.check_widths(vocabulary=data.vocab_size)
    except ValueError as error:
        raise ConfigError(
            str(error), where="parallel.tensor", remedy="Take one of these, or another tokenizer."
        ) from None
    trunk = job.data("trunk") / "model" if config.trunk else None
    engine = build_engine(config, data, model_shape(config, data), job.ranks, trunk)
    if config.parallel.engine == "torch":
        job.stats["mesh"] = str(mesh)
        job.stats["row_shares"] = [mesh.row_share(rank) for rank in range(job.ranks.world_size)]
        job.phase(f"training on a mesh of {job.stats['mesh']}")
    order = order_of(config, data.train, engine.total_steps * config.batch_sequences)
    loop = train(job, engine, task_of(config, data, engine, order))
    job.stats["bits_per_byte"] = {name.partition("/")[2]: value for name, value in loop.figures.items()}
    publish_model(job, engine, job.data("tokenizer"))
    if job.ranks.first:
        write_steps(job.request.data_dir / "steps.parquet", loop, len(data.train))
        job.outputs["data/steps.parquet"] = True
        if isinstance(order, DocumentOrder):
            np.save(job.request.data_dir / "row_names.npy", order.names)
            job.outputs["data/row_names.npy"] = True
    job.finish()


def build_engine(
    config: PretrainConfig, data: Data, shape: ModelConfig, ranks: Ranks, trunk: Path | None = None
) -> Engine:
    return create_engine(
        first_model(config, shape, trunk),
        config.optimizer,
        config.parallel,
        total_steps=total_steps(config, data),
        ranks=ranks,
    )


def first_model(config: PretrainConfig, shape: ModelConfig, trunk: Path | None = None) -> Decoder:
    """Fresh weights, or those of the model folder that this training branches from, for the engine to read."""
    weights = Weights.fresh(shape, config.seed)
    if trunk is not None:
        stored = open_weights(trunk, torch.float32)
        if stored.shapes() != weights.shapes():
            raise InputError("the trunk is a model of another shape", where=str(trunk), remedy="Give both the same.")
        weights = replace(weights, read=stored.read)
    return weights.deferred(config.parallel.checkpointing)


def task_of(config: PretrainConfig, data: Data, engine: Engine, order: Order) -> TrainingTask[MicroBatch]:
    """The shards' rows in their order, the loss on them, and bits per byte of the domains held out."""
    phases, ranks, mesh = data.train.phases, engine.ranks, engine.mesh
    loader = Loader(
        data.train,
        order.rows,
        batch=config.batch_sequences,
        micro=config.parallel.micro_batch,
        rank=mesh.row_share(ranks.rank),
        world_size=mesh.row_shares,
        device=ranks.device,
        mask_documents=config.mask_documents,
        part=(mesh.part(ranks.rank), mesh.context),
    )

    def losses(model: Any, batch: MicroBatch) -> dict[str, Tensor]:
        return summed_loss(model, batch, config.z_loss, engine.context)

    def iterate(step: TrainStep, batch: StepData[MicroBatch]) -> IterationResult:
        result = step(batch.batches, losses, lambda micro: micro.tokens)
        return IterationResult(result, result.weight)

    return TrainingTask(
        loader,
        iterate,
        evaluate=lambda: validate(engine, data, config),
        evaluate_every=config.eval_every,
        seq_len=data.train.seq_len,
        phase=lambda position: phase_of(position, phases),
        names=lambda batch: documents_of(order.rows(consumed_by(config, batch)), data),
    )


def order_of(config: PretrainConfig, shards: ShardSet, sequences: int) -> Order:
    """In which order a run that takes so many sequences reads the rows."""
    if config.order == "documents":
        return document_order(shards, config.seed, sequences)
    return ShuffledOrder(config.seed, shards.phases)


def validate(engine: Engine, data: Data, config: PretrainConfig) -> dict[str, float]:
    """Bits per byte of the held-out rows, by domain."""
    found = bits_per_byte(
        engine,
        data.validation,
        limit=config.eval_sequences,
        micro=config.parallel.micro_batch,
        mask_documents=config.mask_documents,
    )
    return {f"bits_per_byte/{name}": value for name, value in found.items()}


def consumed_by(config: PretrainConfig, batch: StepData[MicroBatch]) -> np.ndarray:
    """The running numbers of a step's sequences, of all ranks."""
    return np.arange(batch.consumed, batch.consumed + config.batch_sequences)


def documents_of(rows: np.ndarray, data: Data) -> list[str]:
    """The documents in some rows."""
    return sorted({span.url or span.document_id.hex() for row in rows for span in data.train.documents(int(row))})


def write_steps(path: Path, loop: Loop[MicroBatch], sequences: int) -> None:
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
    run_job(run, PretrainConfig, Job)


if __name__ == "__main__":
    main()
