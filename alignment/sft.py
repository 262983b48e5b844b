"""Supervised fine-tuning: the base model learns to answer in conversations.

Conversations are rendered, packed and trained on with the loss on the assistant's words only. Conversations held out by
the hash of their id are never trained on; their loss is the stage's figure.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from alignment.conversations import PackedRows, Reading, Rendered, is_held_out, pack, read_conversations, render_pieces
from alignment.data import conversation_inputs, conversations_file
from alignment.job import Job, run_job
from alignment.loop import Plan, optimise
from alignment.models import base_model, save_policy
from alignment.order import micro_batches, step_indices, steps_for
from alignment.settings import TrainingConfig
from infra.errors import InputError
from infra.stage import JobStage
from training.engine import create_engine
from training.loss import chunked_cross_entropy
from training.model import Decoder, check_length


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on conversations."""

    conversations: str = "dataset://sample/conversations.jsonl"
    """JSON lines of {id, messages: [{role, content}]}: a path, or a file of the sample dataset."""
    row_length: int = Field(default=256, ge=16)
    """Tokens of a packed row; longer conversations are cut between turns."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the conversations."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps even if an epoch is not over."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of conversations kept from training, by hash of their id. Keep it equal in later stages."""
    validation_rows: int = Field(default=64, ge=1)
    """Packed rows of held-out conversations that are measured."""
    validate_every: int = Field(default=50, ge=1)
    """Steps between validations."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. Small models want rates 10 to 50 times those of a 7B model."""


STAGE = JobStage(
    name="sft",
    code_version=1,
    config=SftConfig,
    inputs=lambda config: (
        {"pretrain": "pretrain", "tokenizer": "tokenizer"} | conversation_inputs(config.conversations)
    ),
    job=lambda config: config.job_spec("alignment.sft"),
    code=(
        "alignment.sft",
        "alignment.conversations",
        "alignment.loop",
        "alignment.order",
    ),
    description="Supervised fine-tuning: the base model learns to answer in conversations.",
)


@dataclass(frozen=True)
class PackedBatch:
    """Rows as tensors. ``taught`` is aligned with ``input_ids``: a token's loss is paid at the position before it."""

    input_ids: Tensor
    taught: Tensor
    segments: Tensor
    positions: Tensor

    @classmethod
    def of(cls, rows: PackedRows, device: torch.device) -> "PackedBatch":
        arrays = (rows.input_ids, rows.taught, rows.segments, rows.positions)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    @property
    def tokens(self) -> int:
        return int(self.taught[:, 1:].sum())


def sft_losses(model: Decoder, batch: PackedBatch) -> dict[str, Tensor]:
    """Summed loss of the taught tokens. The first token of a piece is never taught, so none is predicted across pieces."""
    mask = batch.taught[:, 1:]
    hidden = model(batch.input_ids, batch.positions, batch.segments)[:, :-1][mask]
    total, _ = chunked_cross_entropy(hidden, model.output_weight, batch.input_ids[:, 1:][mask])
    return {"loss": total}


def train(job: Job[SftConfig]) -> None:
    config = job.config
    job.phase("reading conversations")
    training, held_out, reading = read_rows(job)
    if len(training) == 0 or len(held_out) == 0:
        raise InputError("there are too few conversations to train on", where=config.conversations)
    model = base_model(job, "pretrain")
    check_length(model.config, config.row_length)
    steps = steps_for(len(training), config.batch_size, config.epochs, config.max_steps)
    engine = create_engine(model, config.optimizer(steps), config.parallel(), total_steps=steps, ranks=job.ranks)

    def rows_of(rows: PackedRows, indices: np.ndarray) -> list[PackedBatch]:
        shares = micro_batches(indices, config.micro_batch, job.ranks.rank, job.ranks.world_size)
        return [PackedBatch.of(rows.select(part), job.ranks.device) for part in shares]

    def validate() -> dict[str, float]:
        return {"validation_loss": held_out_loss(job, engine, held_out)}

    plan: Plan[PackedBatch] = Plan(
        steps,
        lambda step: rows_of(training, step_indices(len(training), config.batch_size, config.seed, step)),
        sft_losses,
        lambda batch: batch.tokens,
        validate,
        config.validate_every,
        config.checkpoint_every,
    )
    before = validate()
    job.stats |= optimise(job, engine, plan)
    job.stats |= {
        "validation_loss_before": before["validation_loss"],
        "steps": steps,
        "conversations": reading.read,
        "refused": reading.refused,
        "rows": len(training),
        "rows_filled": round(training.filled, 4),
    }
    save_policy(job, engine, lambda whole: whole)


def read_rows(job: Job[SftConfig]) -> tuple[PackedRows, PackedRows, Reading]:
    """Packed rows to train on and to measure."""
    config, reading = job.config, Reading()
    pieces: tuple[list[Rendered], list[Rendered]] = ([], [])
    for conversation in read_conversations(conversations_file(job.request, config.conversations), reading):
        held = is_held_out(conversation, config.held_out_fraction)
        pieces[held].extend(render_pieces(job.tokenizer, conversation, config.row_length))
    training, held_out = (pack(part, config.row_length, job.tokenizer.pad_id) for part in pieces)
    # Best-fit rows are ordered by length: a sample from all over them, not the first.
    chosen = np.random.default_rng(config.seed).permutation(len(held_out))[: config.validation_rows]
    return training, held_out.select(np.sort(chosen)), reading


def held_out_loss(job: Job[SftConfig], engine: Any, rows: PackedRows) -> float:
    """Mean loss of the taught tokens of all rows, shared among the ranks."""
    total = torch.zeros(2, dtype=torch.float64, device=job.ranks.device)
    mine = np.arange(len(rows))[job.ranks.rank :: job.ranks.world_size]
    for start in range(0, len(mine), job.config.micro_batch):
        batch = PackedBatch.of(rows.select(mine[start : start + job.config.micro_batch]), job.ranks.device)
        total[0] += engine.evaluate(sft_losses, batch)["loss"].double()
        total[1] += batch.tokens
    loss, tokens = job.reduce(total).tolist()
    return float(loss / tokens)


if __name__ == "__main__":
    run_job(train, SftConfig)
