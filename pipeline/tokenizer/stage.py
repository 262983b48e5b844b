"""The tokenizer stage: draw a sample, train on it, prove what was trained, publish it in two formats.

It reads the documents of every dataset that it is handed: of a recipe one, of several corpora that are to be compared all
of them. A file that two of them share is drawn from once.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from infra.config import Config
from infra.errors import HeadwaterError, InputError
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.files import OutputFile, write_bytes
from pipeline.profiles import source_of
from pipeline.tokenizer.fertility import SourceFertility, measure
from pipeline.tokenizer.hugging_face import hub_files, hub_tokenizer
from pipeline.tokenizer.model import MODEL_FILE, SPECIALS, Tokenizer
from pipeline.tokenizer.sample import Quota, cut, draw, quotas, texts_below, texts_from
from pipeline.tokenizer.train import SMALLEST, train_model


class TokenizerConfig(Config):
    """How the vocabulary is trained."""

    vocab_size: int = Field(8192, ge=SMALLEST, le=1 << 20)
    """Number of tokens, the 8 special and 256 byte tokens included. Must not be more than the sample can fill."""
    sample_megabytes: float = Field(64.0, gt=0)
    """Text to train on. More than some hundred changes little and takes memory."""
    source_smoothing: float = Field(0.7, ge=0, le=1)
    """Exponent on a source's size when the sample is shared out: 1 follows the corpus, 0 treats sources alike."""
    character_coverage: float = Field(0.9995, gt=0, le=1)
    """Share of the sample's characters that get a token of their own; the rest is spelt in bytes."""
    max_piece_length: int = Field(16, ge=2, le=64)
    """Longest token, in characters."""
    measured_megabytes: float = Field(2.0, gt=0)
    """Text of each source on which fertility is measured and the round trip is checked."""


def _files(context: StageContext | UnitContext) -> Iterator[tuple[str, OutputFile]]:
    """Every document file, with the input that it is of; equal ones once."""
    seen: set[tuple[str, str]] = set()
    for role, dataset in sorted(context.inputs.items()):
        for output in dataset.files("data/", ".parquet"):
            if (output.path, output.digest) not in seen:
                seen.add((output.path, output.digest))
                yield role, output


def _sources(context: StageContext | UnitContext) -> dict[str, int]:
    """Bytes of each source's document files."""
    sizes: dict[str, int] = {}
    for _, output in _files(context):
        source = source_of(output.path)
        sizes[source] = sizes.get(source, 0) + (output.bytes if output.rows != 0 else 0)
    return sizes


def _quotas(context: StageContext | UnitContext) -> dict[str, Quota]:
    config: TokenizerConfig = context.config
    return quotas(_sources(context), int(config.sample_megabytes * 1e6), config.source_smoothing)


def _draw_units(context: StageContext) -> Iterator[Unit]:
    for role, output in _files(context):
        if output.rows != 0:
            source = source_of(output.path)
            payload = {"input": role, "path": output.path, "source": source}
            yield unit_of_files(unit_id(output.path, output.digest), payload, [output], counted=False)


def _draw(unit: Unit, context: UnitContext) -> Counts:
    source = str(unit.payload["source"])
    with context.intermediate(f"{source}/{unit.id}.parquet") as path:
        draw(
            [context.inputs[str(unit.payload["input"])].url(str(unit.payload["path"]))],
            _quotas(context)[source].bound,
            path,
        )
    return Counts()


def _finalize(context: StageContext) -> None:
    config: TokenizerConfig = context.config
    files: dict[str, list[str]] = {}
    for url in context.step_files("draw"):
        files.setdefault(PurePosixPath(url).parts[-2], []).append(url)
    if not files:
        raise InputError("there is no text to train a tokenizer on", remedy="Check what the earlier stages kept.")
    shares = _quotas(context)
    bounds = {source: cut(urls, shares[source].budget) for source, urls in sorted(files.items())}
    model = train_model(
        chain.from_iterable(texts_below(files[source], bounds[source]) for source in bounds),
        config.vocab_size,
        config.character_coverage,
        config.max_piece_length,
    )
    tokenizer = Tokenizer(model)
    report = _report(tokenizer, files, bounds, int(config.measured_megabytes * 1e6))
    for name, data in {MODEL_FILE: model, **hub_files(tokenizer), "report.json": _json(report)}.items():
        with context.output(f"data/{name}") as path:
            write_bytes(path, data)
    context.stats.update(report)


def _report(tokenizer: Tokenizer, files: dict[str, list[str]], bounds: dict[str, float], limit: int) -> dict[str, Any]:
    hub = hub_tokenizer(tokenizer)
    hub.encode_special_tokens = True
    sources: dict[str, Any] = {}
    for source, urls in files.items():
        unseen = measure(tokenizer, hub, texts_from(urls, bounds[source]), limit)
        measured = unseen if unseen.documents else measure(tokenizer, hub, texts_below(urls, bounds[source]), limit)
        _require_lossless(source, measured)
        sampled = _sampled(urls, bounds[source])
        sources[source] = {**sampled, **measured.as_dict(), "measured_on": "unseen" if unseen.documents else "sample"}
    return {
        "vocab_size": tokenizer.vocab_size,
        "digest": tokenizer.digest,
        "specials": {name: index for index, name in enumerate(SPECIALS)},
        "sources": sources,
    }


def _sampled(urls: Sequence[str], bound: float) -> dict[str, int]:
    documents = size = 0
    for text in texts_below(urls, bound):
        documents += 1
        size += len(text.encode())
    return {"sample_documents": documents, "sample_bytes": size}


def _require_lossless(source: str, measured: SourceFertility) -> None:
    if measured.lossy:
        raise HeadwaterError(
            f"{measured.lossy} of {measured.documents} texts of {source} do not survive encoding and decoding",
            where="tokenizer",
            remedy="This is a defect of the tokenizer: nothing was published.",
        )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


STAGE = ShardStage(
    name="tokenizer",
    code_version=3,  # 3: the chat template has tools
    config=TokenizerConfig,
    reference="pipeline.tokenizer:STAGE",
    inputs=lambda config: {"redact": "redact"},
    reads="redact",
    steps=(Step("draw", _draw_units, _draw),),
    finalize=_finalize,
    description="Trains the vocabulary on a sample of the corpus and publishes it for SentencePiece and Hugging Face.",
)
