"""Supervised fine-tuning: the base model learns to answer in conversations.

Conversations are rendered, packed and trained on with the loss on the assistant's words only. Conversations held out by
the hash of their id are never trained on; their loss is the stage's figure, beside what the model says to their people
before and after. Its ledger tells of every conversation what was made of it, and of every reply why it teaches nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from alignment.best import Figure
from alignment.conversations import (
    Exchange,
    Reading,
    cut,
    exchanges,
    fitting,
    is_held_out,
    read_conversations,
    render_prompt,
    render_reply,
)
from alignment.data import commonest, outside_digests
from alignment.fates import FateLedger, fate_ledger, ledger_path
from alignment.generation import HeldOutPrompts, reply_limit
from alignment.job import AnsweringConfig, ModelJob, run_model_job
from alignment.loop import Plan, engine_of, optimise
from alignment.order import Order
from alignment.packing import PackedRows, pack
from alignment.rollouts import Prompt
from alignment.turns import Rendered
from infra.config import Json
from infra.errors import InputError
from infra.stage import JobStage
from infra.store.address import dataset_inputs, local_path
from training.loop import publish_model
from training.loss import chunked_cross_entropy
from training.model import Decoder, check_length


class SftConfig(AnsweringConfig):
    """Supervised fine-tuning on conversations."""

    conversations: str = "dataset://sample/conversations.jsonl"
    """JSON lines of {id, messages: [{role, content}]}, compressed or not: a path, or a file of the sample dataset. Without
    an id a conversation is named by its content."""
    row_length: int = Field(default=256, ge=16)
    """Tokens of a packed row. A longer conversation goes on in another, each reply behind its question and system turn."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of conversations kept from training, by hash of their id. Keep it equal in later stages."""
    validation_rows: int = Field(default=64, ge=1)
    """Packed rows of held-out conversations that are measured."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. Small models want rates 10 to 50 times those of a 7B model."""


STAGE = JobStage(
    name="sft",
    code_version=3,  # 3: as pretrain 5
    config=SftConfig,
    inputs=lambda config: config.starts_from("pretrain") | dataset_inputs([config.conversations]),
    external=lambda config: outside_digests(config.conversations, base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.sft"),
    description="Supervised fine-tuning: the base model learns to answer in conversations.",
)


@dataclass(frozen=True)
class PackedBatch:
    """Rows as tensors ``[B, T]``. ``loss_mask`` is aligned with ``input_ids``: a token's loss is paid at the position before."""

    input_ids: Tensor
    loss_mask: Tensor
    segments: Tensor
    positions: Tensor

    @classmethod
    def of(cls, rows: PackedRows, device: torch.device) -> "PackedBatch":
        """The rows on a device."""
        arrays = (rows.input_ids, rows.loss_mask, rows.segments, rows.positions)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    @property
    def tokens(self) -> int:
        return int(self.loss_mask[:, 1:].sum())


def sft_losses(model: Decoder, batch: PackedBatch) -> dict[str, Tensor]:
    """Summed loss of the masked-in tokens. The first token of a piece never counts, so none is predicted across pieces."""
    mask = batch.loss_mask[:, 1:]
    hidden = model(batch.input_ids, batch.positions, batch.segments)[:, :-1][mask]
    total, _ = chunked_cross_entropy(hidden, model.output_weight, batch.input_ids[:, 1:][mask])
    return {"loss": total}


@dataclass(frozen=True)
class Material:
    """Packed rows to train on and to measure, and what is known of the conversations they come from."""

    training: PackedRows
    sources: list[str]
    """The conversation of each piece that was packed into the rows to train on."""
    held_out: PackedRows
    prompts: HeldOutPrompts
    stats: dict[str, Json]


def train(job: ModelJob[SftConfig]) -> None:
    """The stage in one rank: reading, training, what the model says before and after, model."""
    config = job.config
    job.phase("reading conversations")
    model = job.base_model()
    check_length(model.config, config.row_length)
    material = read_material(job, model.config.max_position)
    training = material.training
    order = Order(len(training), config.batch_size, config.epochs, config.seed, config.max_steps)
    engine = engine_of(job, model, order.steps)

    def validate() -> dict[str, float]:
        return {"validation_loss": held_out_loss(job, engine, material.held_out)}

    plan: Plan[PackedBatch] = Plan(
        order,
        training.lengths,
        lambda indices: PackedBatch.of(training.select(indices), job.ranks.device),
        sft_losses,
        lambda batch: batch.tokens,
        validate,
        Figure("validation_loss", lower_is_better=True, noise=0.01),
        names=lambda row: [material.sources[piece] for piece in training.members[row]],
    )
    loss_before = validate()["validation_loss"]
    prompts = material.prompts
    before = prompts.answer_before(job, engine)
    optimise(job, engine, plan)
    job.stats |= prompts.report(job, before, prompts.answer(job, engine))
    job.stats |= {"validation_loss_before": loss_before, **material.stats}
    publish_model(job, engine, job.model_folder)
    job.outputs[ledger_path("conversations")] = False
    job.finish()


def read_material(job: ModelJob[SftConfig], positions: int) -> Material:
    """Read, cut and pack the conversations; the ledger tells what became of them."""
    config, path = job.config, local_path(job.config.conversations, job.request.inputs)
    pieces: tuple[list[Rendered], list[Rendered]] = ([], [])
    sources: list[str] = []
    answers: list[Exchange] = []
    with fate_ledger(job, "conversations") as ledger:
        reading = Reading(tell=lambda refusal: ledger.line(path, refusal))
        for conversation in read_conversations(path, reading):
            held = is_held_out(conversation, config.held_out_fraction)
            try:
                found = cut(job.tokenizer, conversation, config.row_length)
            except InputError as error:  # a template that takes no system turn, or wants speakers to alternate
                ledger.record("dropped", "template_refuses", conversation.id, error.error)
                continue
            pieces[held].extend(found.pieces)
            sources.extend([] if held else [conversation.id] * len(found.pieces))
            replies = sum(message.role == "assistant" for message in conversation.messages)
            ledger.conversation(conversation, replies, found.untaught, held)
            if held and len(answers) < config.generation_prompts:
                answers.extend(exchanges([conversation]))
    training, held_out = (pack(part, config.row_length, job.tokenizer.pad_id) for part in pieces)
    say_what_is_lost(job, path, reading, ledger)
    if len(training) == 0 or len(held_out) == 0:
        raise InputError(
            f"there are too few conversations to train on and to measure: {reading.read} could be read"
            + (f", {commonest(reading.refused)} could not{reading.example}" if reading.refused else "")
            + (f"; of their replies {commonest(ledger.lost)}" if ledger.lost else ""),
            where=str(path),
            remedy="Mend the file, raise sft.row_length if replies are too long for a row, or sft.held_out_fraction.",
        )
    # Best-fit rows are ordered by length: a sample from all over them, not the first.
    chosen = np.random.default_rng(config.seed).permutation(len(held_out))[: config.validation_rows]
    stats: dict[str, Json] = {
        "conversations": reading.read,
        "refused": dict(reading.refused),
        "untaught": dict(sorted(ledger.lost.items())),
        "reply_tokens": int(training.loss_mask.sum()),
        "rows": len(training),
        "rows_filled": round(training.filled, 4),
    }
    prompts = held_out_prompts(job, answers, positions)
    return Material(training, sources, held_out.select(np.sort(chosen)), prompts, stats)


def say_what_is_lost(job: ModelJob[SftConfig], path: Path, reading: Reading, ledger: FateLedger) -> None:
    """Losses that a user must know of: lines that are no conversations, and replies too long for a row."""
    if reading.refused:
        job.warn(
            f"{sum(reading.refused.values())} of {sum(reading.refused.values()) + reading.read} lines of {path.name} are "
            f"no conversations that can be used: {commonest(reading.refused)}{reading.example}; all are in the ledger"
        )
    if long := ledger.lost.get("too_long"):
        job.warn(
            f"{long} replies are not taught: with what they answer they fit no row of {job.config.row_length} tokens; "
            "raise sft.row_length"
        )


def held_out_prompts(job: ModelJob[SftConfig], answers: list[Exchange], positions: int) -> HeldOutPrompts:
    """Questions of held-out conversations for which the model has room, and the length of people's answers."""
    limit = reply_limit(job.config.generation_tokens, positions)
    prompts: list[Prompt] = []
    tokens: list[int] = []
    for exchange in answers:
        prompt = fitting(job.tokenizer, exchange.prompt, positions - limit)
        if prompt is not None and len(prompts) < job.config.generation_prompts:
            prompts.append(render_prompt(job.tokenizer, prompt))
            tokens.append(len(render_reply(job.tokenizer, exchange.reply)))
    return HeldOutPrompts(prompts, np.array(tokens), limit)


def held_out_loss(job: ModelJob[SftConfig], engine: Any, rows: PackedRows) -> float:
    """Mean loss in nats of the tokens of all rows that count, shared among the ranks."""
    total = torch.zeros(2, dtype=torch.float64, device=job.ranks.device)
    mine = np.arange(len(rows))[job.ranks.rank :: job.ranks.world_size]
    for start in range(0, len(mine), job.config.micro_batch):
        batch = PackedBatch.of(rows.select(mine[start : start + job.config.micro_batch]), job.ranks.device)
        total[0] += engine.evaluate(sft_losses, batch)["loss"].double()
        total[1] += batch.tokens
    loss, tokens = job.reduce(total).tolist()
    return float(loss / tokens)


if __name__ == "__main__":
    run_model_job(train, SftConfig)
