"""Preference pairs: two replies to a prompt, the better one known.

Without annotators the better one is what a person said in a conversation, and the other is sampled from the fine-tuned
model. ``pairs`` names comparisons of one's own instead. Pairs of held-out conversations (the same split by id as in
fine-tuning), or of held-out opening turns, are kept apart to judge reward models and policies.

A sampled reply is kept as the tokens it was sampled as, beside its text: encoded anew, every other reply of a small
model becomes other tokens, and a reward model would be asked about replies of a kind it was never shown.

Sampling is done in numbered chunks; a chunk's file is written whole, so a killed job samples only what is missing, and
what is sampled does not depend on how many ranks share the work.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from alignment.chunk_files import in_chunks
from alignment.conversations import (
    Exchange,
    exchanges,
    fitting,
    is_held_out,
    read_conversations,
    render_prompt,
    render_reply,
)
from alignment.data import commonest, outside_digests
from alignment.fates import FateLedger, fate_ledger, ledger_path
from alignment.forms import messages_from_json, messages_to_json
from alignment.job import Addresses, ModelJob, ModelJobConfig, run_model_job
from alignment.order import seed_of
from alignment.pair_files import Pair, read_comparisons
from alignment.records import Reading, find
from alignment.rollouts import ReplySettings, sample
from alignment.template_chat import AnyTokenizer
from alignment.turns import Conversation, Message
from infra.errors import InputError
from infra.stage import JobStage
from infra.store.address import dataset_inputs

TOKENIZER_KEY = b"headwater.tokenizer"

PAIR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("chosen_ids", pa.list_(pa.int32())),
        pa.field("rejected_ids", pa.list_(pa.int32())),
    ],
    metadata={"headwater.pairs": "2"},
)
"""``prompt`` is JSON: the messages that fit the prompt length; ``id`` is the conversation and turn, or a comparison's own;
``split`` is ``train`` or ``held_out``. The ids are the replies' tokens with their end, under the tokenizer whose digest
the file's metadata names; null in files of version 1."""
VOTE_SCHEMA = pa.schema(
    [
        *PAIR_SCHEMA,
        pa.field("weight", pa.float32()),
        pa.field("tie", pa.bool_()),
        pa.field("margin", pa.float32()),
        pa.field("annotator", pa.string()),
    ],
    metadata={"headwater.pairs": "3"},
)
"""With what votes have beside comparisons; files in which no pair has any of it are written without (null where read)."""


class PreferencesConfig(ModelJobConfig):
    """Pairs of a human reply and the model's own, or comparisons of one's own."""

    conversations: Addresses = ("dataset://sample/conversations.jsonl",)
    """Files of conversations in any form that fine-tuning reads: paths, files of an input, or datasets of the hub."""
    pairs: Addresses = ()
    """Files of comparisons of your own: prompt, chosen and rejected as texts, messages or HH-RLHF transcripts, or single
    votes {prompt, a, b, winner}. Nothing is sampled then, and of the settings below only held_out_fraction and
    max_pair_tokens count."""
    max_pair_tokens: int | None = Field(default=None, ge=16)
    """Longest prompt and reply of a comparison of your own together; the oldest turns are left out first. None: as many
    as the model has positions."""
    train_prompts: int = Field(default=2000, ge=1)
    """Prompts of training conversations to sample replies for."""
    held_out_prompts: int = Field(default=400, ge=1)
    """Prompts of held-out conversations to sample replies for."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of conversations kept from training, by hash of their id. Keep it equal to fine-tuning's. Of comparisons of
    your own: by their opening turn, so that no prompt is on both sides."""
    prompts_per_conversation: int = Field(default=2, ge=1)
    """Most prompts taken from one conversation."""
    max_prompt_tokens: int = Field(default=64, ge=8)
    """Longest prompt; the oldest turns are left out first."""
    max_reply_tokens: int = Field(default=40, ge=4)
    """Longest reply, human or sampled, with its end token."""
    min_reply_tokens: int = Field(default=3, ge=2)
    """Shortest human reply taken, with its end token."""
    temperature: float = Field(default=1.3, gt=0)
    """Temperature of the sampled replies. At 1 a small model's samples are, by its own measure, as likely as what people
    say, and a reward model made from it finds little to tell them apart by; heat brings its mistakes out."""
    chunk: int = Field(default=32, ge=1)
    """Prompts sampled together; also the unit of resuming."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The files that are read."""
        return self.pairs or self.conversations


STAGE = JobStage(
    name="preferences",
    code_version=6,  # 6: messages as JSON
    config=PreferencesConfig,
    inputs=lambda config: config.starts_from("sft") | dataset_inputs(config.addresses),
    external=lambda config: outside_digests(*config.addresses, base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.preferences"),
    description="Preference pairs: the human reply against one sampled from the fine-tuned model, or your own.",
)


def read_pairs(path: Path, split: str) -> list[Pair]:
    """The pairs of a split, in file order."""
    rows = pq.read_table(path, schema=VOTE_SCHEMA, filters=[("split", "==", split)]).to_pylist()
    return [
        Pair(
            row["id"],
            messages_from_json(json.loads(row["prompt"])),
            row["chosen"],
            row["rejected"],
            row["split"],
            row["chosen_ids"] and tuple(row["chosen_ids"]),
            row["rejected_ids"] and tuple(row["rejected_ids"]),
            1.0 if row["weight"] is None else row["weight"],
            bool(row["tie"]),
            row["margin"] or 0.0,
            row["annotator"] or "",
        )
        for row in rows
    ]


def pairs_tokenizer(path: Path) -> str | None:
    """The digest of the tokenizer that the tokens of a file of pairs belong to."""
    found = (pq.read_schema(path).metadata or {}).get(TOKENIZER_KEY)
    return found.decode() if found else None


@dataclass(frozen=True)
class Candidate:
    """A prompt that fits, with the human reply to it."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    split: str


def candidates(
    found: Iterable[Exchange], tokenizer: AnyTokenizer, config: PreferencesConfig, ledger: FateLedger
) -> list[Candidate]:
    """The prompts to sample for: the first by a hash, so that the choice does not hang on the order of the file."""
    limits = {"train": config.train_prompts, "held_out": config.held_out_prompts}
    taken: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    chosen: list[Candidate] = []
    for exchange in sorted(found, key=lambda exchange: _rank(exchange, config.seed)):
        conversation = exchange.conversation.id
        name = f"{conversation}/{exchange.turn}"
        split = "held_out" if is_held_out(exchange.conversation, config.held_out_fraction) else "train"
        if limits[split] == 0 or taken[conversation] >= config.prompts_per_conversation:
            ledger.record("dropped", "not_asked_for", name)
            continue
        try:
            candidate = _candidate(exchange, split, tokenizer, config)
        except InputError as error:  # a template that takes no system turn, or wants speakers to alternate
            ledger.record("dropped", "template_refuses", name, error.error)
            continue
        if isinstance(candidate, str):
            ledger.record("dropped", candidate, name)
            continue
        key = (json.dumps(messages_to_json(candidate.prompt)), candidate.chosen)
        if key in seen:
            ledger.record("dropped", "same_prompt_and_reply", name)
            continue
        seen.add(key)
        taken[conversation] += 1
        limits[split] -= 1
        chosen.append(candidate)
    return chosen


def _candidate(exchange: Exchange, split: str, tokenizer: AnyTokenizer, config: PreferencesConfig) -> Candidate | str:
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


def run(job: ModelJob[PreferencesConfig]) -> None:
    with fate_ledger(job, "pairs") as ledger:
        pairs = own_pairs(job, ledger) if job.config.pairs else sampled_pairs(job, ledger)
        found = list(pairs) if job.ranks.first else []
    if job.ranks.first:
        counts = {split: sum(pair.split == split for pair in found) for split in ("train", "held_out")}
        if not all(counts.values()):
            raise InputError(
                f"there are {counts['train']} pairs to train on and {counts['held_out']} to measure on"
                + (f"; of the others {commonest(ledger.lost)}" if ledger.lost else ""),
                where=", ".join(job.config.addresses),
                remedy="Give more, or raise preferences.held_out_fraction if only the measuring lacks.",
            )
        save_pairs(job, found)
        job.outputs[ledger_path("pairs")] = False
        job.stats["refused"] = dict(sorted(ledger.lost.items()))
    job.finish()


def save_pairs(job: ModelJob[Any], found: Sequence[Pair]) -> None:
    """Write ``pairs.parquet``, as those who learn from pairs read it."""
    path = job.request.data_dir / "pairs.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    voted = any(pair.weight != 1 or pair.tie or pair.margin or pair.annotator for pair in found)
    kind = VOTE_SCHEMA if voted else PAIR_SCHEMA
    schema = kind.with_metadata({**kind.metadata, TOKENIZER_KEY: job.tokenizer_digest})
    pq.write_table(pa.Table.from_pylist([_row(pair) for pair in found], schema=schema), path, compression="zstd")
    job.outputs["data/pairs.parquet"] = True
    job.stats["pairs"] = {split: sum(pair.split == split for pair in found) for split in ("train", "held_out")}


def sampled_pairs(job: ModelJob[PreferencesConfig], ledger: FateLedger) -> Iterator[Pair]:
    """Pairs of what people said and what the model says."""
    config, reading = job.config, Reading(tell=ledger.line)
    job.phase("choosing prompts")
    files = [path for address in config.conversations for path in find(address, job.request.inputs)]
    read = [conversation for path in files for conversation in read_conversations(path, reading)]
    chosen = candidates(exchanges(read), job.tokenizer, config, ledger)
    if not chosen:
        lost = (commonest(ledger.lost) or "the file is empty") + reading.example
        raise InputError(
            f"no exchange is short enough to make a pair of: {lost}", where=", ".join(config.conversations)
        )
    sampled = in_chunks(job, len(chosen), config.chunk, sampler(job, chosen))
    job.stats |= {"prompts": len(chosen), "lines_refused": reading.refused}
    return judge_pairs(job, chosen, sampled, ledger) if job.ranks.first else iter(())


def own_pairs(job: ModelJob[PreferencesConfig], ledger: FateLedger) -> Iterator[Pair]:
    """Comparisons from files, each once."""
    job.phase("reading comparisons")
    if not job.ranks.first:
        return iter(())
    return _own_pairs(job, ledger)


def _own_pairs(job: ModelJob[PreferencesConfig], ledger: FateLedger) -> Iterator[Pair]:
    config, seen = job.config, set[bytes]()
    limit = min(config.max_pair_tokens or job.position_limit, job.position_limit)
    reading = Reading(tell=ledger.line)
    for path in [path for address in config.pairs for path in find(address, job.request.inputs)]:
        for record, found in read_comparisons(path, reading):
            try:
                chosen, rejected = (tuple(render_reply(job.tokenizer, text)) for text in (found.chosen, found.rejected))
                longest = max(len(chosen), len(rejected))
                prompt = fitting(job.tokenizer, found.prompt, limit - longest)
            except InputError as error:
                ledger.record("dropped", "template_refuses", found.id, f"{record.place}: {error.error}")
                continue
            key = _key(found)
            if prompt is None:
                # A result of a tool, alone, is nothing that a template takes.
                asked = max(place for place, turn in enumerate(found.prompt) if turn.role == "user")
                least = longest + len(render_prompt(job.tokenizer, found.prompt[asked:]))
                detail = f"{record.place}: {least} tokens with its last question alone, of {limit}"
                ledger.record("dropped", "too_long", found.id, detail)
            elif found.weight == 0:
                ledger.record("dropped", "no_weight", found.id, record.place)
            elif key in seen:
                ledger.record("dropped", "same_pair", found.id, record.place)
            else:
                seen.add(key)
                ledger.record("kept", "pair", found.id, record.place)
                yield replace(
                    found, prompt=prompt, split=_own_split(found, config), chosen_ids=chosen, rejected_ids=rejected
                )
    job.stats |= {"comparisons": reading.read, "lines_refused": reading.refused}
    if ledger.lost:
        job.warn(
            f"{sum(ledger.lost.values())} comparisons are not used: {commonest(ledger.lost)}{reading.example}; all are in "
            "the ledger"
        )


def _key(found: Pair) -> bytes:
    """The same judgement by the same person counts once."""
    said = [
        messages_to_json(found.prompt),
        found.chosen,
        found.rejected,
        *([found.annotator] if found.annotator else []),
    ]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).digest()


def _own_split(found: Pair, config: PreferencesConfig) -> str:
    """By the opening turn: other replies to a prompt, and what the chat became later, are on the same side."""
    opening = next(message.content for message in found.prompt if message.role == "user")
    return "held_out" if is_held_out(Conversation(opening, found.prompt), config.held_out_fraction) else "train"


def sampler(job: ModelJob[PreferencesConfig], chosen: list[Candidate]) -> Callable[[int, range], list[list[int]]]:
    """What samples the replies to a chunk of the prompts."""
    config, model = job.config, job.base_model(frozen=True)
    settings = ReplySettings(config.max_reply_tokens, config.temperature, job.stop_ids, job.tokenizer.pad_id)

    def replies(number: int, places: range) -> list[list[int]]:
        prompts = [render_prompt(job.tokenizer, chosen[place].prompt) for place in places]
        return sample(model, prompts, settings, seed_of(config.seed, "preferences", number)).replies

    return replies


def judge_pairs(
    job: ModelJob[Any], chosen: list[Candidate], sampled: list[list[int]], ledger: FateLedger
) -> Iterator[Pair]:
    """The pairs that can teach something; of the others the ledger says why not."""
    for candidate, ids in zip(chosen, sampled, strict=True):
        words = job.tokenizer.decode(ids[:-1]).strip()
        if not ids or ids[-1] not in job.stop_ids:
            # A reply cut off by the length limit would teach the reward model to look for the end token alone.
            ledger.record("dropped", "sampled_reply_never_ends", candidate.id)
        elif not words:
            ledger.record("dropped", "sampled_reply_empty", candidate.id)
        elif " ".join(words.split()).lower() == " ".join(candidate.chosen.split()).lower():
            ledger.record("dropped", "same_replies", candidate.id)
        else:
            ledger.record("kept", "pair", candidate.id)
            own = tuple(render_reply(job.tokenizer, candidate.chosen))
            yield Pair(candidate.id, candidate.prompt, candidate.chosen, words, candidate.split, own, tuple(ids))


def _row(pair: Pair) -> dict[str, Any]:
    """As the file holds it."""
    return vars(pair) | {"prompt": json.dumps(messages_to_json(pair.prompt), ensure_ascii=False)}


if __name__ == "__main__":
    run_model_job(run, PreferencesConfig)
