"""The shards stage: tokenise, mix, shuffle, pack, and account for every document.

    adopt       a shard of the version that is appended to  ->  the same shard              (pipeline/shards/append.py)
    tokenise    a group of one source's files  ->  its tokens, sorted by place on the ring     (work/, not published)
    rank        the same, of a source with a repetition curve  ->  how many tokens have which score  (work/)
    pack        a bucket of the ring, by phase ->  data/train-00000.arrow + lineage + ledger
                a source's held-out documents  ->  data/validation-<source>.arrow + lineage
    finalize    data/stats.json, and the balance of documents over both steps

The mixture and the number of buckets are decided before the last step, when the tokens are counted. Memory holds one
group or one bucket at a time.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from infra.config import Config, Execution, Json, Later
from infra.errors import HeadwaterError, InputError
from infra.stage import Counts, Receipt, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.dataset import Dataset
from infra.store.files import OutputFile, file_sizes, write_bytes
from pipeline.profiles import source_of
from pipeline.shards.append import UNIGRAMS, EarlierShards, adopt, adopt_units
from pipeline.shards.bucket import (
    Packed,
    gather,
    gather_held_out,
    pack_documents,
    shard_rows,
    write_fates,
    write_lineage,
)
from pipeline.shards.format import LINEAGE_SUFFIX, TRAIN, shard_schema, validation_split, write_shard
from pipeline.shards.holdout import Holdout, holdouts, sum_metric
from pipeline.shards.keys import held_bound
from pipeline.shards.mixing import Phase, SourcePlan, SourceWeight, plan_mixture, plan_phases
from pipeline.shards.ranking import curves_over, rank, rank_units
from pipeline.shards.repetition import SCORE, Curve, Repetition
from pipeline.shards.stats import appended, entropy, mixture_stats, phase_stats, unigram_counts
from pipeline.shards.tokenise import TOO_FEW_TOKENS, ScoreFile, TokenFile, Tokenised, tokenise, write_sorted
from pipeline.tokenizer.model import Tokenizer

ADOPT, TOKENISE, RANK, PACK = "adopt", "tokenise", "rank", "pack"


class ShardsConfig(Config):
    """How documents become training rows."""

    seq_len: int = Field(1024, ge=8, le=1 << 20)
    """Tokens a model reads at once; a row holds one more."""
    mixture: tuple[SourceWeight, ...] = ()
    """Weight of each source. Empty: every document once. With weights, sources that are not named are left out."""
    total_tokens: int | None = Field(None, ge=1)
    """Upper limit of training tokens over all sources."""
    phases: tuple[Phase, ...] = ()
    """A curriculum: mixtures in the order in which training sees them. Empty: ``mixture`` throughout."""
    repetition: Annotated[tuple[Repetition, ...], Later()] = ()
    """How often a source's documents are seen, by their score. A pass over the source is then one of the curve: where the
    mixture wants less of it, all repetitions shrink alike, and ``max_epochs`` counts such passes."""
    validation_fraction: float = Field(0.02, ge=0, lt=1)
    """Share of each source's documents that is held out, chosen by the hash of their id; 0 holds out none."""
    validation_documents: int = Field(8, ge=0)
    """Hold out at least so many documents of each source, but not over a tenth of them."""
    min_tokens: int = Field(8, ge=1)
    """Documents with fewer tokens are dropped."""
    seed: int = Field(0, ge=0)
    """Seed of the shuffle and of the choice of documents."""
    bucket_tokens: int = Field(1 << 25, ge=1 << 10)
    """About how many tokens a shard holds. A shard is packed in memory."""
    append_to: str = ""
    """An earlier shards dataset, ``shards/<fingerprint>`` in the same store or the address of its folder: its rows become
    the first rows of this one, untouched. It must have the same tokenizer and ``seq_len``, and no phases."""
    group_megabytes: Annotated[float, Execution()] = Field(64.0, gt=0)
    """Compressed documents that one unit of the first step reads."""

    @model_validator(mode="after")
    def _one_way_to_mix(self) -> "ShardsConfig":
        if self.phases and (self.mixture or self.total_tokens):
            raise ValueError("phases have mixtures and tokens of their own: leave out mixture and total_tokens")
        if any(phase.tokens is None for phase in self.phases[:-1]):
            raise ValueError("every phase but the last needs tokens")
        if self.phases and self.append_to:
            raise ValueError("a curriculum cannot be appended to another dataset: leave out phases or append_to")
        curved = [entry.source for entry in self.repetition]
        if len(set(curved)) < len(curved):
            raise ValueError("repetition names a source twice")
        return self

    def ranked_by(self, source: str) -> str:
        """The score by which a source's documents are ranked; empty: they all count alike."""
        return next((entry.score for entry in self.repetition if entry.source == source), "")


def inputs(config: ShardsConfig) -> Mapping[str, str]:
    others = {entry.score for entry in config.repetition} - {SCORE}
    return {"redact": "redact", "tokenizer": "tokenizer", **({"attributes": "attributes"} if others else {})}


# ---- adopt ----------------------------------------------------------------------------------------------------------


def _earlier(context: StageContext | UnitContext) -> EarlierShards:
    return EarlierShards.open(context.config.append_to, context.inputs["redact"].root)


def _adopt_units(context: StageContext) -> Iterator[Unit]:
    earlier = _earlier(context)
    earlier.check({"tokenizer_digest": _tokenizer(context.inputs).digest, "seq_len": context.config.seq_len})
    return adopt_units(earlier)


def _check_earlier(config: ShardsConfig, root: str, inputs: Mapping[str, Dataset | Config]) -> None:
    """As far as it can be known while the tokenizer is yet to be trained: its vocabulary has the same size at least."""
    tokenizer = inputs["tokenizer"]
    if isinstance(tokenizer, Dataset):
        wanted = {"tokenizer_digest": Tokenizer.load(tokenizer.local("data")).digest}
    else:
        wanted = {"vocab_size": tokenizer.vocab_size}  # type: ignore[attr-defined]
    EarlierShards.open(config.append_to, root).check({**wanted, "seq_len": config.seq_len})


def _adopt(unit: Unit, context: UnitContext) -> Counts:
    return adopt(_earlier(context), unit, context)


# ---- tokenise -------------------------------------------------------------------------------------------------------


def _groups(files: Sequence[OutputFile], limit: float) -> Iterator[tuple[str, list[OutputFile]]]:
    """Files of one source in groups of about ``limit`` bytes."""
    group: list[OutputFile] = []
    for file in files:
        if group and (
            source_of(file.path) != source_of(group[0].path) or sum(entry.bytes for entry in group) + file.bytes > limit
        ):
            yield source_of(group[0].path), group
            group = []
        group.append(file)
    if group:
        yield source_of(group[0].path), group


def _tokenise_units(context: StageContext) -> Iterator[Unit]:
    config: ShardsConfig = context.config
    for source, group in _groups(context.inputs["redact"].files("data/", ".parquet"), config.group_megabytes * 1e6):
        yield unit_of_files(
            unit_id([part for file in group for part in (file.path, file.digest)]),
            {"source": source, "paths": [file.path for file in group]},
            group,
        )


def _tokenise(unit: Unit, context: UnitContext) -> Counts:
    config: ShardsConfig = context.config
    tokenizer = _tokenizer(context.inputs)
    source, paths = str(unit.payload["source"]), unit.payload["paths"]
    assert isinstance(paths, list)
    score = config.ranked_by(source)
    beside = score not in ("", SCORE)
    measured = {file.path for file in context.inputs["attributes"].files("data/")} if beside else set()
    work = Tokenised(source, config.seed, config.min_tokens, held_bound(config.validation_fraction), beside)
    dropped = 0
    for path in map(str, paths):
        scores = ScoreFile(context.inputs["attributes"].url(path), score) if path in measured else None
        fates = tokenise(context.inputs["redact"].url(path), tokenizer, work, scores)
        # Named after the document file, not after the unit: how files are grouped must not be seen in the dataset.
        with context.output(path.replace("data/", "ledger/", 1)) as ledger:
            write_fates(fates, ledger)
        dropped += len(fates)
    # Last of all: the next step takes every file it finds, so a unit that fails must not have left one.
    with context.intermediate(f"{source}/{unit.id}.arrow") as tokens:
        write_sorted(work, tokenizer.vocab_size, tokens)
    for name in ("documents", "tokens", "held_documents", "held_tokens"):
        context.metrics[f"{name}:{source}"] = getattr(work, name)
    return Counts(work.incoming, work.incoming - dropped, {TOO_FEW_TOKENS: dropped} if dropped else {})


# ---- rank -----------------------------------------------------------------------------------------------------------


def _holdouts(context: StageContext) -> dict[str, Holdout]:
    config: ShardsConfig = context.config
    files = context.step_files(TOKENISE)
    return holdouts(context.receipts[TOKENISE], files, config.validation_fraction, config.validation_documents)


def _rank_units(context: StageContext) -> Iterator[Unit]:
    config: ShardsConfig = context.config
    return rank_units(context.step_files(TOKENISE), config.repetition, _holdouts(context) if config.repetition else {})


def _rank(unit: Unit, context: UnitContext) -> Counts:
    rank(f"{context.work_root}/steps/{TOKENISE}", unit, context)
    return Counts()


# ---- pack -----------------------------------------------------------------------------------------------------------


def planned(config: ShardsConfig, available: Mapping[str, int]) -> list[dict[str, SourcePlan]]:
    """What each phase takes of each source, given its training tokens; without a curriculum there is one phase."""
    passes = {entry.source: entry.mean for entry in config.repetition}
    seen = {source: tokens * passes.get(source, 1) for source, tokens in available.items()}
    if config.phases:
        return plan_phases(seen, config.phases)
    return [plan_mixture(seen, config.mixture, config.total_tokens)]


def _mixture(context: StageContext) -> tuple[list[dict[str, SourcePlan]], dict[str, Holdout]]:
    config: ShardsConfig = context.config
    held = _holdouts(context)
    available = {source: entry.train_tokens for source, entry in held.items()}
    return planned(config, available), held


def _pack_units(context: StageContext) -> Iterator[Unit]:
    config: ShardsConfig = context.config
    phases, held = _mixture(context)
    sizes = [int(sum(entry.tokens for entry in plan.values())) for plan in phases]
    if not all(sizes):
        raise InputError(
            "no training tokens are left to pack",
            where="shards",
            remedy="Loosen the filters, or lower shards.validation_fraction or shards.min_tokens.",
        )
    buckets = [-(-tokens // config.bucket_tokens) for tokens in sizes]
    bounds: dict[str, Json] = {source: entry.bound for source, entry in held.items()}
    earlier, curves = _earlier(context), curves_over(context.step_files(RANK), config.repetition)
    for phase, plan in enumerate(phases):
        common: dict[str, Json] = {
            "phase": phase,
            "last": phase == len(phases) - 1,
            "buckets": buckets[phase],
            "shards": sum(buckets),
            "rates": {source: [entry.since, entry.rate] for source, entry in plan.items()},
            "bounds": bounds,
            "curves": {source: curve.as_dict() for source, curve in curves.items()},
            "mixture": _shares(plan),
        }
        for bucket in range(buckets[phase]):
            # Shards are numbered through all phases: their names are the order in which training meets them.
            shard = sum(buckets[:phase]) + bucket
            payload = common | {"bucket": bucket, "shard": shard, "name": earlier.next_name(TRAIN, shard)}
            yield Unit(unit_id(PACK, phase, bucket, buckets[phase]), payload, sizes[phase] // buckets[phase])
    if config.validation_fraction:
        for source in phases[0]:
            split = validation_split(source)
            payload = {"source": source, "bound": held[source].bound, "mixture": _shares(phases[0])}
            yield Unit(unit_id(PACK, split), payload | {"name": earlier.next_name(split, 0)}, 1)


def _shares(plan: Mapping[str, SourcePlan]) -> dict[str, Json]:
    return {source: round(entry.share, 6) for source, entry in plan.items()}


def _pack(unit: Unit, context: UnitContext) -> Counts:
    if "bucket" in unit.payload:
        return _pack_bucket(unit, context)
    _pack_validation(unit, context)
    return Counts()


def _pack_bucket(unit: Unit, context: UnitContext) -> Counts:
    config: ShardsConfig = context.config
    tokenizer = _tokenizer(context.inputs)
    payload: Mapping[str, Any] = unit.payload
    bucket, buckets, shard = payload["bucket"], payload["buckets"], payload["shard"]
    curves = {source: Curve.from_dict(curve) for source, curve in payload["curves"].items()}
    gathered, left_out = gather(
        _token_files(context), bucket, buckets, payload["rates"], payload["bounds"], curves, payload["last"]
    )
    packed = pack_documents(gathered.documents(), config.seq_len + 1, config.seed, shard)
    context.metrics["buckets"] = payload["shards"]
    name = payload["name"]
    _write(name, packed, tokenizer, unit, context)
    with context.output(f"ledger/{name}.parquet") as path:
        write_fates(left_out, path)
    with context.intermediate(f"{name}.npy") as path, path.open("wb") as stream:
        tokens = packed.tokens if packed is not None else np.zeros(0, np.int64)
        np.save(stream, np.bincount(tokens, minlength=tokenizer.vocab_size))
    # Dropped documents were counted as kept by the first step; finalize draws the balance of both.
    return Counts(len(left_out), 0, dict(sorted(Counter(fate["rule"] for fate in left_out).items())))


def _pack_validation(unit: Unit, context: UnitContext) -> None:
    config: ShardsConfig = context.config
    tokenizer = _tokenizer(context.inputs)
    payload: Mapping[str, Any] = unit.payload
    source = payload["source"]
    held = gather_held_out(_token_files(context, source), payload["bound"])
    packed = pack_documents(held.documents(), config.seq_len + 1, config.seed)
    if packed is None:
        return
    sizes = np.array([len(entry) for entry in tokenizer.token_bytes])
    context.metrics[f"validation_documents:{source}"] = packed.documents.num_rows
    context.metrics[f"validation_bytes:{source}"] = sum(row.bytes or 0 for row in shard_rows(packed, sizes))
    _write(payload["name"], packed, tokenizer, unit, context, sizes)


def _write(
    name: str,
    packed: Packed | None,
    tokenizer: Tokenizer,
    unit: Unit,
    context: UnitContext,
    token_bytes: np.ndarray | None = None,
) -> None:
    split = name.split("-")[0]
    phase = unit.payload.get("phase", 0)
    metadata = {"tokenizer_digest": tokenizer.digest, "mixture": unit.payload["mixture"], "phase": phase}
    schema = shard_schema(tokenizer.vocab_size, context.config.seq_len, metadata, token_bytes is not None)
    rows = shard_rows(packed, token_bytes) if packed is not None else iter(())
    count = len(packed.rows) if packed is not None else 0
    with context.output(f"data/{name}.arrow", rows=count) as path:
        write_shard(path, schema, rows, tokenizer.pad_id)
    with context.output(f"data/{name}{LINEAGE_SUFFIX}") as path:
        write_lineage(packed, path)
    context.metrics[f"sequences:{split}"] = count
    if split == TRAIN:
        context.metrics[f"phase_sequences:{phase}"] = count
    if packed is not None:
        for source, tokens in packed.row_sources().items():
            context.metrics[f"{split}_tokens:{source}"] = tokens
            if split == TRAIN:
                context.metrics[f"phase_tokens:{phase}/{source}"] = tokens


def _tokenizer(inputs: Mapping[str, Dataset]) -> Tokenizer:
    return Tokenizer.load(inputs["tokenizer"].local("data"))


def _token_files(context: UnitContext, source: str = "*") -> list[TokenFile]:
    folder = f"{context.work_root}/steps/{TOKENISE}"
    names = sorted(name for name in file_sizes(folder) if fnmatch(name, f"{source}/*.arrow"))
    return [TokenFile(f"{folder}/{name}") for name in names]


# ---- finalize -------------------------------------------------------------------------------------------------------


def _finalize(context: StageContext) -> None:
    config: ShardsConfig = context.config
    packed = context.receipts[PACK]
    _require_every_bucket(packed)
    tokenised = sum((receipt.counts for receipt in context.receipts[TOKENISE]), Counts())
    left_out = sum((receipt.counts for receipt in packed), Counts())
    dropped = (tokenised + left_out).dropped
    kept = tokenised.incoming - tokenised.failed - sum(dropped.values())
    context.counts = Counts(tokenised.incoming, kept, dropped, tokenised.failed)
    tokenizer = _tokenizer(context.inputs)
    tokens = sum_metric(packed, "train_tokens")
    total = sum(tokens.values())
    sequences = sum_metric(packed, "sequences")
    earlier = _earlier(context)
    counts = unigram_counts(context.step_files(PACK))
    if earlier.dataset is not None:
        counts = counts + np.load(earlier.dataset.local(UNIGRAMS))
    with context.output(UNIGRAMS) as path, path.open("wb") as stream:
        np.save(stream, counts)
    own = {
        "tokens": tokens,
        "total_tokens": total,
        "sequences": sequences.get("train", 0),
        "seq_len": config.seq_len,
        "packing_efficiency": total / (sequences["train"] * (config.seq_len + 1)),
        "unigram_entropy_nats": entropy(counts),
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_digest": tokenizer.digest,
        "mixture": mixture_stats(_mixture(context)[0], tokens, config.repetition),
        "phases": [phase_stats(packed, phase) for phase in range(max(1, len(config.phases)))],
        "validation": {
            source: {
                "documents": sum_metric(packed, "validation_documents")[source],
                "tokens": count,
                "bytes": sum_metric(packed, "validation_bytes")[source],
            }
            for source, count in sum_metric(packed, "validation_tokens").items()
        },
    }
    if config.repetition:
        curves = curves_over(context.step_files(RANK), config.repetition)
        own["repetition"] = {entry.source: curves[entry.source].stats(entry) for entry in config.repetition}
    stats = appended(earlier.stats, own)
    with context.output("data/stats.json") as path:
        write_bytes(path, (json.dumps(stats, indent=1, sort_keys=True) + "\n").encode())
    context.stats.update(stats)


def _require_every_bucket(packed: Sequence[Receipt]) -> None:
    """A bucket that failed holds documents of every source: unlike a failed file, it cannot be left out."""
    trained = [receipt for receipt in packed if "buckets" in receipt.metrics]
    if not trained:
        raise HeadwaterError("no shard was packed", where="shards", remedy="Look at the failed units.")
    if len(trained) < trained[0].metrics["buckets"]:
        raise HeadwaterError(
            f"{len(trained)} of {trained[0].metrics['buckets']:.0f} shards were packed",
            where="shards",
            remedy="Mend the cause of the failed units and run again.",
        )


STAGE = ShardStage(
    name="shards",
    code_version=4,
    config=ShardsConfig,
    reference="pipeline.shards:STAGE",
    inputs=inputs,
    steps=(
        Step(ADOPT, _adopt_units, _adopt),
        Step(TOKENISE, _tokenise_units, _tokenise),
        Step(RANK, _rank_units, _rank),
        Step(PACK, _pack_units, _pack),
    ),
    earlier=lambda config: (config.append_to,) if config.append_to else (),
    check_earlier=lambda config, root, inputs: _check_earlier(config, root, inputs) if config.append_to else None,
    finalize=_finalize,
    consumes="redact",
    ledgered=True,
    description="Tokenises, mixes, shuffles and packs the corpus into memory-mapped rows with their lineage.",
)
