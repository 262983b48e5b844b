"""Supervised fine-tuning: the base model learns to answer in conversations.

Conversations are rendered, packed and trained on with the loss on the assistant's words only. Conversations held out by
the hash of their id are never trained on; their loss is the stage's figure, beside what the model says to their people
before and after. Its ledger tells of every conversation what was made of it, and of every reply why it teaches nothing.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from alignment.best import Figure
from alignment.conversations import Exchange, fitting, render_prompt, render_reply
from alignment.data import commonest, outside_digests
from alignment.fates import FateLedger, fate_ledger, ledger_path
from alignment.generation import HeldOutPrompts, reply_limit
from alignment.job import Addresses, AnsweringConfig, ModelJob, run_model_job
from alignment.loop import Plan, engine_of, optimise
from alignment.lora import LoraConfig, adapted, add_adapters, merged, save_adapters
from alignment.material import describe, read_chats
from alignment.order import Order, Part, seed_of
from alignment.packing import PackedRows, pack
from alignment.records import Reading
from alignment.rollouts import Prompt
from infra.config import Execution, Json, Later
from infra.errors import InputError
from infra.stage import JobStage
from infra.store.address import dataset_inputs
from infra.store.files import write_json
from pipeline.language import LanguageConfig, open_detector
from training.context_parallel import Context
from training.engine import Engine, Read
from training.loader import MicroBatch, sequence_slice
from training.loop import publish_model
from training.loss import chunked_cross_entropy
from training.model import Decoder, check_length
from training.parallel import divisors

REPORT = "conversations.json"
LANGUAGES = "lid.176.ftz"


class SftConfig(AnsweringConfig):
    """Supervised fine-tuning on conversations."""

    conversations: Addresses = ("dataset://sample/conversations.jsonl",)
    """Files of conversations: messages, ShareGPT, Alpaca, prompt and completion, HH-RLHF transcripts; JSON lines, a JSON array
    or Parquet, compressed or not. Paths, patterns, folders, files of an input (dataset://sample/…) or a dataset of the Hugging
    Face hub (hf://NAME?split=train). Without an id a conversation is named by its content."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Later()] = ()
    """How often an epoch sees each file's conversations, in the order of conversations: 2 is twice, 0.25 a quarter of them.
    Empty: each once."""
    language_model: Annotated[str, Execution()] = ""
    """fastText model (lid.176.ftz) that tells the conversations' languages for the report; empty: that of the sample
    dataset where this is an input."""
    row_length: int = Field(default=256, ge=16)
    """Tokens of a packed row. A longer conversation goes on in another, each reply behind its question and system turn."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of conversations kept from training, by hash of their id. Keep it equal in later stages."""
    validation_rows: int = Field(default=64, ge=1)
    """Packed rows of held-out conversations that are measured."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. Small models want rates 10 to 50 times those of a 7B model."""
    lora: Annotated[LoraConfig, Later()] = LoraConfig()
    """Train adapters instead of the weights; the published model has them merged, ``data/adapter`` by themselves."""
    neftune: Annotated[float, Later()] = Field(default=0.0, ge=0)
    """Strength of the noise on embeddings in training (NEFTune, arXiv 2310.05914; 5 is its paper's choice); 0: none."""

    axes: ClassVar[tuple[str, ...]] = ("replicate", "shard", "context", "tensor", "pipeline")

    @model_validator(mode="after")
    def _rows_are_cut(self) -> "SftConfig":
        cut = [f"{axis} {getattr(self, axis)}" for axis in ("context", "tensor", "pipeline") if getattr(self, axis) > 1]
        if cut and (self.lora.rank or self.neftune):
            raise ValueError(
                f"lora and neftune want whole rows and matrices, which {cut[0]} cuts; take shard or replicate"
            )
        if self.row_length % self.context:
            fitting = ", ".join(map(str, divisors(self.row_length)))
            raise ValueError(
                f"context {self.context} does not cut rows of {self.row_length} tokens into equal parts; it may be {fitting}"
            )
        return self


STAGE = JobStage(
    name="sft",
    code_version=7,  # 7: marks of no example as words; messages as JSON
    config=SftConfig,
    inputs=lambda config: config.starts_from("pretrain") | dataset_inputs(config.conversations),
    external=lambda config: outside_digests(*config.conversations, base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.sft"),
    description="Supervised fine-tuning: the base model learns to answer in conversations.",
)


@dataclass(frozen=True)
class PackedBatch(MicroBatch):
    """Rows as tensors ``[B, T]``, or a part of them."""

    noise: tuple[float, tuple[int, ...]] | None = None
    """Of embeddings in training: its strength, and a seed for each row."""

    @classmethod
    def of(
        cls, rows: PackedRows, device: torch.device, part: tuple[int, int] = (0, 1), counting: int | None = None
    ) -> "PackedBatch":
        """The rows on a device, of each the n-th of so many parts; of the first ``counting`` rows tokens count, if not of all."""
        mine = sequence_slice(rows.input_ids.shape[1], *part)
        targets, counts = (np.roll(array, -1, 1) for array in (rows.input_ids, rows.loss_mask))
        counts[:, -1] = False
        counts[counting:] = counts[counting:] & (counting is None)
        arrays = rows.input_ids[:, mine], targets[:, mine], counts[:, mine], rows.segments, rows.positions[:, mine]
        ids, wanted, mask, segments, positions = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(ids, wanted, mask, segments, float(counts[:, mine].sum()), positions)


def sft_losses(model: Decoder, batch: MicroBatch, context: Context | None = None) -> dict[str, Tensor]:
    """Summed loss of the masked-in tokens. The first token of a piece never counts, so none is predicted across pieces."""
    with noisy_embeddings(model, batch):
        hidden = model(batch.input_ids, batch.positions, batch.segments, context=context)[batch.mask]
    total, _ = chunked_cross_entropy(hidden, model.output_weight, batch.targets[batch.mask])
    return {"loss": total}


@contextlib.contextmanager
def noisy_embeddings(model: Decoder, batch: MicroBatch) -> Iterator[None]:
    """NEFTune: uniform noise in ±strength/√(L·d) on the embeddings, L tokens of a piece, d their width.

    A row's noise hangs on its seed alone: not on the rows beside it, the ranks, or what was drawn before.
    """
    if not isinstance(batch, PackedBatch) or batch.noise is None or batch.segments is None:
        yield
        return
    strength, seeds = batch.noise
    lengths = torch.stack([torch.bincount(row, minlength=row.shape[0] + 1)[row] for row in batch.segments])

    def add(_module: Any, _given: Any, embedded: Tensor) -> Tensor:
        size = embedded.shape[1:]
        drawn = torch.stack([torch.rand(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        bound = strength / (lengths.unsqueeze(-1) * size[-1]).float().sqrt()
        return embedded + ((2 * drawn.to(embedded.device) - 1) * bound).to(embedded.dtype)

    handle = model.embed_tokens.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


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
    if config.lora.rank:
        add_adapters(model, config.lora, config.seed)
    engine = engine_of(job, model, order.steps)

    mesh, place = engine.mesh, engine.mesh.part(job.ranks.rank)

    def rows(part: Part) -> PackedBatch:
        # In a pipeline all micro batches are as large: rows that fill one up do not count.
        indices = np.resize(part.indices, config.micro_batch) if mesh.pipeline > 1 else part.indices
        counting = 0 if part.idle else len(part.indices)
        batch = PackedBatch.of(training.select(indices), job.ranks.device, (place, mesh.context), counting)
        if not config.neftune:
            return batch
        seeds = tuple(seed_of(config.seed, f"neftune/{engine.step}", int(row)) for row in indices)
        return replace(batch, noise=(config.neftune, seeds))

    def validate() -> dict[str, float]:
        return {"validation_loss": held_out_loss(job, engine, material.held_out)}

    plan: Plan[PackedBatch] = Plan(
        order,
        training.lengths,
        rows,
        lambda model, batch: sft_losses(model, batch, engine.context),
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
    publish(job, engine)
    job.outputs |= {ledger_path("conversations"): False, f"data/{REPORT}": False}
    job.finish()


def publish(job: ModelJob[SftConfig], engine: Engine) -> None:
    """The model, with its adapters merged; and these by themselves."""
    lora, layers = job.config.lora, adapted(engine.model)
    publish_model(job, engine, job.model_folder, changed=lambda read: merged(read, lora, layers))

    def write(read: Read) -> None:
        names = save_adapters(read, lora, layers, job.request.data_dir / "adapter", job.config.base_model)
        job.outputs |= {f"data/adapter/{name}": True for name in names}

    if layers:
        engine.read_weights(write)


def read_material(job: ModelJob[SftConfig], positions: int) -> Material:
    """Read, cut and pack the conversations; the ledger tells what became of them."""
    config = job.config
    with fate_ledger(job, "conversations") as ledger:
        reading = Reading(tell=ledger.line)
        chats = read_chats(config, job.request.inputs, job.tokenizer, reading, ledger)
    training, held_out = (
        pack(part, config.row_length, job.tokenizer.pad_id) for part in (chats.training, chats.held_out)
    )
    say_what_is_lost(job, reading, ledger)
    if len(training) == 0 or len(held_out) == 0:
        raise InputError(
            f"there are too few conversations to train on and to measure: {reading.read} could be read"
            + (f", {commonest(reading.refused)} could not{reading.example}" if reading.refused else "")
            + (f"; of their replies {commonest(ledger.lost)}" if ledger.lost else ""),
            where=", ".join(config.conversations),
            remedy="Mend the file, raise sft.row_length if replies are too long for a row, or sft.held_out_fraction.",
        )
    if job.ranks.first:
        write_json(job.request.data_dir / REPORT, describe(chats, job.tokenizer, languages_of(job, chats.texts)))
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
    prompts = held_out_prompts(job, chats.answers, positions)
    return Material(training, chats.sources, held_out.select(np.sort(chosen)), prompts, stats)


def languages_of(job: ModelJob[SftConfig], texts: list[str]) -> dict[str, int]:
    """How many conversations are in each language; none where there is no model to tell."""
    sample, address = job.request.inputs.get("sample"), job.config.language_model
    if not address and sample is not None and any(output.path == f"data/{LANGUAGES}" for output in sample.files()):
        address = f"dataset://sample/{LANGUAGES}"
    detector = open_detector(LanguageConfig(model=address), job.request.inputs, job.request.work_dir)
    found = Counter(language for language, _ in detector.detect(texts) if language)
    return dict(found.most_common())


def say_what_is_lost(job: ModelJob[SftConfig], reading: Reading, ledger: FateLedger) -> None:
    """Losses that a user must know of: records that are no conversations, and replies too long for a row."""
    if reading.refused:
        job.warn(
            f"{sum(reading.refused.values())} of {sum(reading.refused.values()) + reading.read} records are no "
            f"conversations that can be used: {commonest(reading.refused)}{reading.example}; all are in the ledger"
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
        try:
            prompt = fitting(job.tokenizer, exchange.prompt, positions - limit)
        except InputError:  # the template takes its pieces, and not so much of it
            continue
        if prompt is not None and len(prompts) < job.config.generation_prompts:
            prompts.append(render_prompt(job.tokenizer, prompt))
            tokens.append(len(render_reply(job.tokenizer, exchange.reply)))
    return HeldOutPrompts(prompts, np.array(tokens), limit)


def held_out_loss(job: ModelJob[SftConfig], engine: Engine, rows: PackedRows) -> float:
    """Mean loss in nats of the tokens of all rows that count, shared among the ranks."""
    total = torch.zeros(2, dtype=torch.float64, device=job.ranks.device)
    mine = np.arange(len(rows))[job.ranks.rank :: job.ranks.world_size]
    with engine.gathered():
        for start in range(0, len(mine), job.config.micro_batch):
            batch = PackedBatch.of(rows.select(mine[start : start + job.config.micro_batch]), job.ranks.device)
            total[0] += engine.evaluate(sft_losses, batch)["loss"].double()
            total[1] += batch.tokens
    loss, tokens = job.reduce(total).tolist()
    return float(loss / tokens)


if __name__ == "__main__":
    run_model_job(train, SftConfig)
