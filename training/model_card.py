"""The README of an exported model: what it is, what it was made from, how to use it.

Everything is read from manifests: the model's dataset names its inputs, those name theirs, back to the raw sources.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.store.dataset import Dataset
from infra.store.files import exists, read_json
from pipeline.document import read_batches
from pipeline.profiles import source_of
from training.model import ModelConfig, parameter_count

UNKNOWN = "not stated"


@dataclass(frozen=True)
class CorpusCounts:
    """The documents a tokenizer and shards were made from."""

    documents: Mapping[str, int]
    licences: Mapping[str, Mapping[str, int]]
    """source -> licence -> documents."""


def lineage(datasets: Sequence[Dataset]) -> list[dict[str, Any]]:
    """The ancestry as plain values, one entry a dataset."""
    return [
        {
            "stage": dataset.name,
            "fingerprint": dataset.manifest.fingerprint,
            "digest": dataset.digest,
            "rows": dataset.manifest.rows,
            "config": dataset.manifest.config,
            "inputs": {record.role: record.fingerprint for record in dataset.manifest.inputs},
            "git_commit": dataset.manifest.provenance.git_commit,
        }
        for dataset in datasets
    ]


def corpus(datasets: Sequence[Dataset]) -> CorpusCounts | None:
    """Documents and licences by source, counted in the last dataset of documents."""
    documents = [dataset for dataset in datasets if dataset.name == "redact"]
    if not documents:
        return None
    counts: dict[str, Counter[str]] = {}
    for output in documents[-1].files("data/", ".parquet"):
        counter = counts.setdefault(source_of(output.path), Counter())
        for batch in read_batches(documents[-1].url(output.path), ["license"]):
            counted = batch.column(0).value_counts().to_pylist()
            counter.update({entry["values"] or UNKNOWN: entry["counts"] for entry in counted})
    return CorpusCounts(
        {source: sum(counter.values()) for source, counter in sorted(counts.items())},
        {source: dict(counter.most_common()) for source, counter in sorted(counts.items())},
    )


def model_card(name: str, shape: ModelConfig, dtype: str, chat: bool, datasets: Sequence[Dataset]) -> str:
    """The card as Markdown. ``name`` is the stage the weights come from."""
    sections = [_front_matter(), _summary(name, shape, dtype, chat, datasets), _usage(chat)]
    data = corpus(datasets)
    if data is not None:
        sections.append(_data(data, _tokens(datasets)))
    sections += [_stages(datasets), _limits()]
    return "\n\n".join(sections) + "\n"


def _front_matter() -> str:
    return "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlicense: other\ntags:\n- headwater\n---"


def _summary(name: str, shape: ModelConfig, dtype: str, chat: bool, datasets: Sequence[Dataset]) -> str:
    path = " → ".join(dataset.name for dataset in datasets if (dataset.name in _WEIGHTS))
    kind = "chat model" if chat else "base language model"
    rows = [
        ("parameters", f"{parameter_count(shape):,}"),
        ("layers × width", f"{shape.layers} × {shape.hidden_size}"),
        ("heads (query / key-value)", f"{shape.heads} / {shape.kv_heads}"),
        ("feed-forward width", f"{shape.intermediate_size:,}"),
        ("context", f"{shape.max_position:,} tokens"),
        ("vocabulary", f"{shape.vocab_size:,}"),
        ("precision", dtype),
    ]
    return f"# A {kind} trained with Headwater\n\nWeights of the stage `{name}` ({path}).\n\n" + _table(("", ""), rows)


_WEIGHTS = ("pretrain", "sft", "reward", "ppo", "dpo", "grpo")


def _usage(chat: bool) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    if chat:
        lines += [
            'messages = [{"role": "user", "content": "Hello"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        lines.append('inputs = tokenizer("Once upon a time", return_tensors="pt")')
    lines.append("print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))")
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"


def _data(data: CorpusCounts, tokens: Mapping[str, int]) -> str:
    rows = [
        (
            source,
            f"{number:,}",
            f"{tokens[source]:,}" if source in tokens else "",
            ", ".join(f"{licence} ({count:,})" for licence, count in list(data.licences[source].items())[:6]),
        )
        for source, number in data.documents.items()
    ]
    return "## Training data\n\n" + _table(("source", "documents", "tokens", "licences (documents)"), rows)


def _tokens(datasets: Sequence[Dataset]) -> dict[str, int]:
    """Training tokens by source, from the shards' own statistics."""
    shards = [dataset for dataset in datasets if dataset.name == "shards"]
    if not shards or not exists(shards[-1].url("data/stats.json")):
        return {}
    tokens = read_json(shards[-1].url("data/stats.json")).get("tokens", {})
    return {source: int(number) for source, number in tokens.items()} if isinstance(tokens, dict) else {}


def _stages(datasets: Sequence[Dataset]) -> str:
    rows = [
        (dataset.name, f"`{dataset.manifest.fingerprint}`", f"`{dataset.digest[:16]}`", f"{dataset.manifest.rows:,}")
        for dataset in datasets
    ]
    return (
        "## Lineage\n\nEvery dataset behind these weights, in the order in which they were made. "
        "`lineage.json` holds the same with all parameters.\n\n"
        + _table(("stage", "fingerprint", "digest", "rows"), rows)
    )


def _limits() -> str:
    return (
        "## Limits\n\nThe model repeats what its training data says, errors and prejudices included, and states falsehoods "
        "fluently. The licences above are those the sources declare; whether they permit a use is for the user to judge."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
