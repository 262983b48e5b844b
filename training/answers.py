"""The stage ``answers``: how many bits a model needs for each item of an evaluation, one row an item.

    prompt, answer     bits of the gold answer after its prompt; never which of several answers is likeliest: at small scale
                       accuracies are coin flips while the bits of the right answer rank corpora already
    answer alone       bits of a whole text

Bits over the answer's UTF-8 bytes do not depend on the tokenizer. Prompt and answer are encoded as one text, with a space
between them where neither brings one; what the prompt alone encodes to equally is context. No token is predicted from more
tokens than a row of the training shards has: texts longer than that are scored in windows (``training.heldout_text``), each
token once, from half a row or more of the text before it where there is so much.

``training.comparison`` reads the rows of many models.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from infra.config import Config, Json, Later
from infra.errors import InputError
from infra.job import JobRequest, JobSpec, emit, finish
from infra.job_main import job_main
from infra.stage import JobStage
from infra.store.address import dataset_file, dataset_inputs, file_url
from infra.store.dataset import Dataset
from pipeline.fasttext_model import digest_of
from pipeline.shards.format import TRAIN
from pipeline.shards.reader import ShardSet
from pipeline.sources.tables import rows_of_file
from training.heldout_text import divided, windows
from training.scoring import score_continuations
from training.text_model import TextModel, load_text_model

ITEMS = "data/items.parquet"
ITEMS_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("bits", pa.float64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
"""``cluster`` names the document an item is of: items of one document are not drawn apart."""
TOKENS = "data/tokens.parquet"
TOKENS_SCHEMA = pa.schema([pa.field("nats", pa.large_list(pa.float32()), nullable=False)])
"""With ``token_nats``: row by row of the items, the loss of each token."""
AT_ONCE = 64
"""Items that are read before they are scored."""


class Evaluation(Config):
    """Texts to predict: a file of items."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """What the task is called."""
    file: str
    """JSON lines (also compressed: .gz, .zst) or Parquet: a path, a URL, or dataset://sample/eval/humaneval.jsonl."""
    prompt: str | None = None
    """Field with what is given; none: the whole text is predicted."""
    answer: str = "text"
    """Field with what is predicted; of an object within an item: answer.text."""
    cluster: str | None = None
    """Field that names the document an item is of; none: every item is one."""
    domain: str = "prose"
    """What kind of text it is: prose, encyclopaedia, code, books."""
    max_items: int = Field(default=0, ge=0)
    """Items scored, from the first on; 0: all."""
    max_characters: int = Field(default=0, ge=0)
    """Characters of an answer that are predicted, from its beginning; 0: all."""


class AnswersConfig(Config):
    """On which texts a model is measured."""

    evaluations: tuple[Evaluation, ...] = Field(
        default=(
            Evaluation(
                name="humaneval",
                file="dataset://sample/eval/humaneval.jsonl",
                prompt="prompt",
                answer="canonical_solution",
                domain="code",
            ),
            *(
                Evaluation(
                    name=name,
                    file=f"dataset://sample/eval/{name}.jsonl",
                    prompt="prompt",
                    answer="answer",
                    domain=domain,
                )
                for name, domain in (("gsm8k", "reasoning"), ("hellaswag", "common sense"), ("truthfulqa", "knowledge"))
            ),
            Evaluation(name="prose", file="dataset://sample/texts/openwebtext.jsonl", max_items=400),
            Evaluation(
                name="encyclopaedia",
                file="dataset://sample/texts/wikipedia.jsonl",
                domain="encyclopaedia",
                max_items=400,
            ),
        ),
        min_length=1,
    )
    """What is measured. By default six sets of the sample, which then needs ``evaluations``, and training must not read its
    ``texts``."""
    token_nats: Annotated[bool, Later()] = False
    """Also write the loss of every token, as ``headwater mix`` wants it."""
    batch_size: int = Field(default=16, ge=1)
    """Pieces of text scored at a time."""
    threads: int = Field(default=1, ge=1)
    """Threads of the process. Like the batch size it decides the order of sums, and so the last digits."""

    @field_validator("evaluations")
    @classmethod
    def _names_are_distinct(cls, evaluations: tuple[Evaluation, ...]) -> tuple[Evaluation, ...]:
        names = [each.name for each in evaluations]
        if len(set(names)) < len(names):
            raise ValueError("two evaluations have the same name")
        return evaluations


def inputs(config: AnswersConfig) -> Mapping[str, str]:
    """The model, the shards whose rows it was trained on, and what the files lie in."""
    return {"pretrain": "pretrain", "shards": "shards"} | dataset_inputs(each.file for each in config.evaluations)


def _outside(config: AnswersConfig) -> Iterator[Evaluation]:
    return (each for each in config.evaluations if not dataset_file(each.file))


def external(config: AnswersConfig) -> Json:
    """The files outside the store, by content."""
    return {each.name: digest_of(each.file) for each in _outside(config)} or None


def check(config: AnswersConfig) -> None:
    """The first item of every file outside the store: raises InputError before anything is trained."""
    for each in _outside(config):
        next(read_items(each, {}))


STAGE = JobStage(
    name="answers",
    code_version=1,
    config=AnswersConfig,
    inputs=inputs,
    external=external,
    check=check,
    job=lambda config: JobSpec("training.answers", ranks=1, threads_per_rank=config.threads),
    description="Measures how many bits the model needs for each item of evaluations.",
)


@dataclass(frozen=True)
class Item:
    """One item: ``whole`` is predicted from where ``given`` ends."""

    name: str
    cluster: str
    given: str
    whole: str
    bytes: int


def read_items(evaluation: Evaluation, inputs: Mapping[str, Dataset]) -> Iterator[Item]:
    """The items of a file, in order. Raises InputError where there is none, or one lacks a field or its text."""
    number = -1
    try:
        for number, row in enumerate(rows_of_file(file_url(evaluation.file, inputs))):
            if evaluation.max_items and number >= evaluation.max_items:
                return
            yield _item(evaluation, number, row)
    except FileNotFoundError:
        raise InputError(
            f"the file of evaluation {evaluation.name!r} is not there",
            where=evaluation.file,
            remedy="Correct its address; the sample has gsm8k, hellaswag and truthfulqa with sample.evaluations.",
        ) from None
    if number < 0:
        raise InputError(
            f"evaluation {evaluation.name!r} has no items", where=evaluation.file, remedy="Give a file that holds some."
        )


def _item(evaluation: Evaluation, number: int, row: Mapping[str, Any]) -> Item:
    fields = [field for field in (evaluation.answer, evaluation.prompt) if field]
    for field in (*fields, *([evaluation.cluster] if evaluation.cluster else [])):
        value = _value(row, field)
        if value is None or (field in fields and not (isinstance(value, str) and value.strip())):
            held = "" if value is None or isinstance(value, str) else f", but {type(value).__name__}"
            raise InputError(
                f"item {number + 1} of evaluation {evaluation.name!r} has no text in {field!r}{held}; "
                f"its fields: {', '.join(sorted(row)) or 'none'}",
                where=evaluation.file,
                remedy="Correct the evaluation's prompt, answer or cluster, or the file.",
            )
    answer = _value(row, evaluation.answer)[: evaluation.max_characters or None]
    given = _value(row, evaluation.prompt) if evaluation.prompt else ""
    if given and not given[-1].isspace() and not answer[0].isspace():
        given += " "
    cluster = str(_value(row, evaluation.cluster)) if evaluation.cluster else str(number)
    return Item(str(number), cluster, given, given + answer, len(answer.encode("utf-8", "replace")))


def _value(row: Mapping[str, Any], field: str) -> Any:
    """A field, also of an object within an item: ``answer.text``."""
    if field in row:
        return row[field]
    head, _, rest = field.partition(".")
    inner = row.get(head) if rest else None
    return _value(inner, rest) if isinstance(inner, Mapping) else None


@dataclass(frozen=True)
class Scored:
    """What a model needs for some items: ``bits`` of each, and ``nats`` of each item's tokens."""

    bits: np.ndarray
    nats: list[np.ndarray]


def score_items(model: TextModel, items: Iterable[Item], window: int, batch_size: int) -> Scored:
    """No token is predicted from further back than ``window``."""
    pairs, owners = [], []
    number = 0
    for number, item in enumerate(items, start=1):
        context, rest = divided(model, item.given, item.whole)
        found = list(windows([*model.special.beginning, *context], rest, window))
        pairs += found
        owners += [number - 1] * len(found)
    scores = score_continuations(model.decoder, pairs, batch_size)
    nats = np.zeros(number)
    np.add.at(nats, owners, np.array([each.nats for each in scores]))
    parts: list[list[np.ndarray]] = [[] for _ in range(number)]
    for owner, each in zip(owners, scores, strict=True):
        parts[owner].append(each.tokens)
    return Scored(nats / math.log(2), [np.concatenate([np.zeros(0, np.float32), *part]) for part in parts])


def run(request: JobRequest) -> None:
    """Measure the model on every evaluation and write its items."""
    config = AnswersConfig.model_validate(request.config)
    model = load_text_model(request.inputs["pretrain"].local("data/model"))
    shards = ShardSet.open(request.inputs["shards"].local("data"), TRAIN)
    window = min(shards.seq_len, model.decoder.config.max_position)
    path = request.dataset_root / ITEMS
    path.parent.mkdir(parents=True, exist_ok=True)
    stats: dict[str, float] = {}
    rows = 0
    with ExitStack() as files:
        writer = files.enter_context(pq.ParquetWriter(path, ITEMS_SCHEMA, compression="zstd"))
        tokens = request.dataset_root / TOKENS if config.token_nats else None
        beside = tokens and files.enter_context(pq.ParquetWriter(tokens, TOKENS_SCHEMA, compression="zstd"))
        for done, evaluation in enumerate(config.evaluations):
            emit(request, "progress", done=done, total=len(config.evaluations), task=evaluation.name)
            bits = size = 0.0
            items = read_items(evaluation, request.inputs)
            while few := list(itertools.islice(items, AT_ONCE)):
                scored = score_items(model, few, window, config.batch_size)
                writer.write_table(_table(evaluation, few, scored.bits))
                if beside:
                    nats = pa.array(scored.nats, TOKENS_SCHEMA.field("nats").type)
                    beside.write_table(pa.table([nats], schema=TOKENS_SCHEMA))
                bits, size, rows = bits + scored.bits.sum(), size + sum(item.bytes for item in few), rows + len(few)
            stats[evaluation.name] = bits / size
    made = (ITEMS, TOKENS) if config.token_nats else (ITEMS,)
    finish(request, dict.fromkeys(made, True), {"bits_per_byte": stats}, rows=dict.fromkeys(made, rows))


def _table(evaluation: Evaluation, items: list[Item], bits: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "task": [evaluation.name] * len(items),
            "domain": [evaluation.domain] * len(items),
            "item": [item.name for item in items],
            "cluster": [item.cluster for item in items],
            "bits": bits,
            "bytes": [item.bytes for item in items],
        },
        schema=ITEMS_SCHEMA,
    )


if __name__ == "__main__":
    job_main(run)
