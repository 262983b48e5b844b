"""Preference pairs without annotators: the human reply against the model's own.

Prompts are taken from conversations. The chosen reply is what the person said; the rejected one is sampled from the
fine-tuned model. Pairs of held-out conversations (the same split by id as in fine-tuning) are kept apart to judge
reward models and policies.

Sampling is done in numbered chunks; a chunk's file is written whole, so a killed job samples only what is missing, and
what is sampled does not depend on how many ranks share the work.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from pydantic import Field

from alignment.conversations import (
    ChatTokenizer,
    Exchange,
    Message,
    Reading,
    exchanges,
    fitting,
    is_held_out,
    messages_from_json,
    messages_to_json,
    read_conversations,
    render_prompt,
    render_reply,
    stop_ids,
)
from alignment.data import conversation_inputs, conversations_file
from alignment.job import Job, run_job
from alignment.models import base_model, frozen
from alignment.order import chunks, seed_of, share
from alignment.rollouts import ReplySettings, sample
from alignment.settings import JobConfig
from infra.errors import InputError
from infra.job_main import Preempted
from infra.stage import JobStage
from infra.store.files import read_json, write_json

PAIR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ],
    metadata={"headwater.pairs": "1"},
)
"""``prompt`` is JSON: the messages that fit the prompt length; ``id`` is the conversation and turn; ``split`` is
``train`` or ``held_out``."""


class PreferencesConfig(JobConfig):
    """Pairs of a human reply and the model's own."""

    conversations: str = "dataset://sample/conversations.jsonl"
    """JSON lines of {id, messages: [{role, content}]}: a path, or a file of the sample dataset."""
    train_prompts: int = Field(default=2000, ge=1)
    """Prompts of training conversations to sample replies for."""
    held_out_prompts: int = Field(default=400, ge=1)
    """Prompts of held-out conversations to sample replies for."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of conversations kept from training, by hash of their id. Keep it equal to fine-tuning's."""
    prompts_per_conversation: int = Field(default=2, ge=1)
    """Most prompts taken from one conversation."""
    max_prompt_tokens: int = Field(default=64, ge=8)
    """Longest prompt; the oldest turns are left out first."""
    max_reply_tokens: int = Field(default=40, ge=4)
    """Longest reply, human or sampled, with its end token."""
    min_reply_tokens: int = Field(default=3, ge=2)
    """Shortest human reply taken, with its end token."""
    temperature: float = Field(default=1.15, gt=0)
    """Temperature of the sampled replies. At 1 a small model's samples are, by its own measure, as likely as what people
    say, and a reward model made from it finds little to tell them apart by; a little heat brings its mistakes out."""
    chunk: int = Field(default=32, ge=1)
    """Prompts sampled together; also the unit of resuming."""


STAGE = JobStage(
    name="preferences",
    code_version=1,
    config=PreferencesConfig,
    inputs=lambda config: {"sft": "sft", "tokenizer": "tokenizer"} | conversation_inputs(config.conversations),
    job=lambda config: config.job_spec("alignment.preferences"),
    code=("alignment.preferences", "alignment.conversations", "alignment.rollouts"),
    description="Preference pairs: the human reply against one sampled from the fine-tuned model.",
)


@dataclass(frozen=True)
class Pair:
    """One comparison, as other stages read it."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    split: str


def read_pairs(path: Path, split: str) -> list[Pair]:
    """The pairs of a split, in file order."""
    rows = pq.read_table(path, schema=PAIR_SCHEMA).to_pylist()
    return [
        Pair(row["id"], messages_from_json(json.loads(row["prompt"])), row["chosen"], row["rejected"], row["split"])
        for row in rows
        if row["split"] == split
    ]


@dataclass(frozen=True)
class Candidate:
    """A prompt that fits, with the human reply to it."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    split: str


def candidates(
    found: Iterable[Exchange], tokenizer: ChatTokenizer, config: PreferencesConfig, refused: dict[str, int]
) -> list[Candidate]:
    """The prompts to sample for: the first by a hash, so that the choice does not hang on the order of the file."""
    limits = {"train": config.train_prompts, "held_out": config.held_out_prompts}
    taken: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    chosen: list[Candidate] = []
    for exchange in sorted(found, key=lambda exchange: _rank(exchange, config.seed)):
        if not any(limits.values()):
            break
        split = "held_out" if is_held_out(exchange.conversation, config.held_out_fraction) else "train"
        if limits[split] == 0 or taken.get(exchange.conversation.id, 0) >= config.prompts_per_conversation:
            continue
        candidate = _candidate(exchange, split, tokenizer, config)
        if isinstance(candidate, str):
            _count(refused, candidate)
            continue
        key = (json.dumps(messages_to_json(candidate.prompt)), candidate.chosen)
        if key in seen:
            _count(refused, "same_prompt_and_reply")
            continue
        seen.add(key)
        taken[exchange.conversation.id] = taken.get(exchange.conversation.id, 0) + 1
        limits[split] -= 1
        chosen.append(candidate)
    return chosen


def _candidate(exchange: Exchange, split: str, tokenizer: ChatTokenizer, config: PreferencesConfig) -> Candidate | str:
    """A candidate, or the reason why the exchange is none."""
    length = len(render_reply(tokenizer, exchange.reply))
    if length > config.max_reply_tokens:
        return "reply_too_long"
    if length < config.min_reply_tokens:
        return "reply_too_short"
    prompt = fitting(tokenizer, exchange.prompt, config.max_prompt_tokens)
    if prompt is None:
        return "prompt_too_long"
    return Candidate(f"{exchange.conversation.id}/{exchange.turn}", prompt, exchange.reply, split)


def _rank(exchange: Exchange, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{exchange.conversation.id}/{exchange.turn}".encode(), digest_size=8).digest()


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1


def run(job: Job[PreferencesConfig]) -> None:
    config, reading = job.config, Reading()
    job.phase("choosing prompts")
    refused: dict[str, int] = {}
    read = list(read_conversations(conversations_file(job.request, config.conversations), reading))
    chosen = candidates(exchanges(read), job.tokenizer, config, refused)
    if not chosen:
        raise InputError("no exchange is short enough to make a pair of", where=config.conversations)
    sample_missing(job, chosen)
    dist.barrier()
    outputs: dict[str, bool] = {}
    if job.ranks.first:
        sampled = [reply for number, _ in chunks(len(chosen), config.chunk) for reply in read_json(_file(job, number))]
        rows = list(judge_pairs(chosen, sampled, refused))
        if not {"train", "held_out"} <= {row["split"] for row in rows}:
            raise InputError("one of the splits has no pair", where=config.conversations, remedy="Sample more prompts.")
        path = job.request.data_dir / "pairs.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), path, compression="zstd")
        outputs["data/pairs.parquet"] = True
        job.stats |= {
            "prompts": len(chosen),
            "pairs": {split: sum(row["split"] == split for row in rows) for split in ("train", "held_out")},
            "refused": dict(sorted(refused.items())),
            "lines_refused": reading.refused,
        }
    job.finish(outputs)


def sample_missing(job: Job[PreferencesConfig], chosen: list[Candidate]) -> None:
    """Sample every chunk whose file is not there yet, shared among the ranks."""
    config = job.config
    missing = [part for part in chunks(len(chosen), config.chunk) if not _file(job, part[0]).exists()]
    # Every rank must have looked before any writes, or they would share different lists.
    dist.barrier()
    model = frozen(base_model(job, "sft"))
    ends = tuple(stop_ids(job.tokenizer))
    settings = ReplySettings(config.max_reply_tokens, config.temperature, ends, job.tokenizer.pad_id)
    for done, (number, part) in enumerate(share(missing, job.ranks.rank, job.ranks.world_size), start=1):
        prompts = [render_prompt(job.tokenizer, chosen[index].prompt) for index in part]
        drawn = sample(model, prompts, settings, seed_of(config.seed, "preferences", number))
        write_json(_file(job, number), [_reply(job, ids) for ids in drawn.replies])
        job.progress(min(len(missing), done * job.ranks.world_size), len(missing))
        if job.stop.received:
            raise Preempted


def _file(job: Job[Any], number: int) -> Path:
    return job.request.work_dir / "chunks" / f"chunk-{number:06d}.json"


def _reply(job: Job[Any], ids: list[int]) -> str | None:
    """The words of a sampled reply; None where it was cut off before its end."""
    if ids[-1] not in stop_ids(job.tokenizer):
        return None
    return job.tokenizer.decode(ids[:-1]).strip()


def judge_pairs(
    chosen: list[Candidate], sampled: list[str | None], refused: dict[str, int]
) -> Iterator[Mapping[str, str]]:
    """Rows of the pairs that can teach something; the others are counted by their reason."""
    for candidate, reply in zip(chosen, sampled, strict=True):
        if reply is None:
            # A reply cut off by the length limit would teach the reward model to look for the end token alone.
            _count(refused, "sampled_reply_never_ends")
        elif not reply:
            _count(refused, "sampled_reply_empty")
        elif " ".join(reply.split()).lower() == " ".join(candidate.chosen.split()).lower():
            _count(refused, "same_replies")
        else:
            yield {
                "id": candidate.id,
                "prompt": json.dumps(messages_to_json(candidate.prompt), ensure_ascii=False),
                "chosen": candidate.chosen,
                "rejected": reply,
                "split": candidate.split,
            }


if __name__ == "__main__":
    run_job(run, PreferencesConfig)
