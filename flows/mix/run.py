"""Weights of a recipe's sources for a target: one small model a source, then MixMin (``training/mixture.py``).

    documents, tokenizer   the recipe's own, the target's texts taken out of them as in every lab
    shards, pretrain       once a source, ordinary stages, equal trained tokens; published, so never done twice
    answers                what each model makes of every token of the target
    weights                the best mixture of the models, none of whose sources is read more than ``max_passes`` times

Nothing but labels ``mix-<recipe>-<source>`` moves. The gain over natural weights (each source by its tokens) is a prediction;
a lab written beside the mixture measures it (``headwater ablate``).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from flows.ablate.lab import Arm, LabConfig, arm_recipe
from flows.cancellation import recorded_end
from flows.context import run_context, terminal_reporter
from flows.execute import resolve_inputs, run_directly
from flows.recipe import Recipe, load_recipe
from infra.errors import ConfigError, InputError, nearest
from infra.planning import Action, StageSelection, plan, refuse_blocked
from infra.progress import Reporter
from infra.runs import RunRecord
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.files import write_bytes
from infra.store.store import Store
from infra.work import RunContext
from pipeline.profiles import source_of
from training import answers, pretrain
from training.intervals import Interval
from training.mixture import Piece, Target, best_weights, predicted_gain, read_target, refuse_few

MODEL_PASSES = 4.0
"""Passes over the smallest source that the models are trained for: beyond them repetition costs (Muennighoff 2023)."""
MOST_PASSES = 8.0
LEAST_STEPS = 20
"""A model of fewer steps has learnt nothing of its source."""
MAX_OVERLAP = 0.1
"""Share of a target's items that the documents may hold; those documents are left out."""
HEAD = "# Weights of headwater mix"
TRIFLE = 0.002
"""Weights below it are written as none."""


@dataclass(frozen=True)
class Mixing:
    """What is asked: weights of which sources for which target."""

    recipe: str
    overrides: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """None: all of the recipe's."""
    targets: tuple[answers.Evaluation, ...] = ()
    """None: the default set of a lab."""
    tokens: int = 0
    """What each model is trained on; 0: four passes over the smallest source, at most what the recipe trains on."""
    max_passes: float = 4.0
    piece: Piece = "token"

    @property
    def measured(self) -> tuple[answers.Evaluation, ...]:
        return self.targets or answers.AnswersConfig().evaluations


@dataclass(frozen=True)
class SourceRow:
    """One source: what there is of it, its weights, and what the recipe's training would read of it."""

    source: str
    available_tokens: int
    natural: float
    weight: float
    unlimited: float
    """The weight it would have if its text were endless."""
    passes: float
    limited: bool
    bits_per_byte: float
    """What its own model needs of the target."""


@dataclass(frozen=True)
class MixResult:
    """Weights, what they promise, and on what they rest."""

    mixing: Mixing
    recipe: Recipe
    rows: tuple[SourceRow, ...]
    natural: float
    best: float
    gain: Interval
    gap: float
    model_tokens: int
    training_tokens: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.name,
            "targets": [each.name for each in self.mixing.measured],
            "piece": self.mixing.piece,
            "sources": [asdict(row) for row in self.rows],
            "predicted": {
                "natural_bits_per_byte": self.natural,
                "mixed_bits_per_byte": self.best,
                "gain": self.gain.as_dict(),
            },
            "gap_nats": self.gap,
            "model_tokens": self.model_tokens,
            "training_tokens": self.training_tokens,
            "max_passes": self.mixing.max_passes,
        }

    def mixture(self, natural: bool = False) -> list[dict[str, Any]]:
        """As ``shards.mixture``."""
        return [
            {"source": row.source, "weight": round(weight, 4), "max_epochs": self.mixing.max_passes}
            for row in self.rows
            if (weight := row.natural if natural else row.weight) >= TRIFLE
        ]


def target_of(file: str) -> answers.Evaluation:
    """A file of texts as a target: ``FILE`` or ``FILE:FIELD``; its name is the file's."""
    address, _, field = file.rpartition(":")
    if not address or "/" in field or Path(file).exists():
        address, field = file, "text"
    name = "".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in Path(address).name.split(".")[0])
    return answers.Evaluation(name=name or "target", file=address, answer=field)


def source_recipe(mixing: Mixing, source: str) -> Recipe:
    """The recipe on one source alone, up to its model."""
    base = load_recipe(mixing.recipe, mixing.overrides)
    usual: Any = base.node("pretrain").config
    names = ("ranks", "nodes", "threads_per_rank", "elastic_ranks")
    lab = LabConfig(lab="mix", arms={"source": Arm()}, tokens=1, evaluations=mixing.measured)
    alone = {"mixture": [{"source": source}], "phases": [], "append_to": "", "total_tokens": None}
    stages = {"shards": alone, "pretrain": {name: getattr(usual, name) for name in names}}
    return arm_recipe(lab, Arm(stages=stages), mixing.recipe, mixing.overrides)


def sources_of(mixing: Mixing) -> tuple[str, ...]:
    """The sources that are weighed. Raises ConfigError for unknown ones, and where there is nothing to weigh."""
    recipe = load_recipe(mixing.recipe, mixing.overrides)
    missing = [
        name for name in ("ingest", "decontaminate", "shards", "pretrain") if all(n.name != name for n in recipe.nodes)
    ]
    if missing:
        raise ConfigError(
            f"recipe {recipe.name!r} has no stage {missing[0]!r}, which mix needs",
            where=recipe.origin,
            remedy=f"Add a section {missing[0]!r}: {{}}.",
        )
    config: Any = recipe.node("ingest").config
    known = list(dict.fromkeys(source.name for source in config.sources))
    for name in mixing.sources:
        if name not in known:
            raise ConfigError(
                f"there is no source {name!r}",
                where=recipe.origin,
                remedy=f"{nearest(name, known)}Sources: {', '.join(known)}.",
            )
    chosen = tuple(name for name in known if not mixing.sources or name in mixing.sources)
    if len(chosen) < 2:
        raise ConfigError(
            f"{chosen[0] if chosen else 'nothing'!r} is the only source: there is nothing to weigh",
            where=recipe.origin,
            remedy="Give the recipe, or --sources, two at least.",
        )
    return chosen


def refuse_targets(mixing: Mixing) -> None:
    """Raise InputError, before anything is built, for a target that is not there, lacks text, or is too short to choose by."""
    for each in mixing.targets:
        if not each.file.startswith("dataset://"):
            refuse_few(each.name, len({item.cluster for item in answers.read_items(each, {})}))


def plan_mix(mixing: Mixing, store: Store) -> list[dict[str, Any]]:
    """What is to be done for each source; nothing is built."""
    rows = []
    sources = sources_of(mixing)
    refuse_targets(mixing)
    for source in sources:
        recipe = source_recipe(mixing, source)
        plans = plan([node for node in recipe.nodes if node.name != "pretrain"], store, StageSelection(), recipe.label)
        refuse_blocked(plans)
        rows.append({"source": source, "stages": [each.stage for each in plans if each.action is not Action.SKIP]})
    return rows


def run_mix(mixing: Mixing, store: Store, *, quiet: bool = False, reporter: Reporter | None = None) -> MixResult:
    """Build, train and read whatever is not published yet, and find the weights."""
    sources = sources_of(mixing)
    refuse_targets(mixing)
    recipes = {source: source_recipe(mixing, source) for source in sources}
    usual = load_recipe(mixing.recipe, mixing.overrides)
    with terminal_reporter(quiet) as terminal:
        record = RunRecord.start(store, f"mix-{usual.name}")
        first = recipes[sources[0]]
        context = replace(run_context(first, store, record, reporter or terminal), follow_latest=False)
        with recorded_end(record):
            made = {source: _rows(source, recipes[source], context, mixing) for source in sources}
            rows = _left(mixing, usual, made, context)
            tokens = _model_tokens(mixing, usual, rows)
            scored = [_scored(source, recipes[source], rows[source], tokens, mixing, context) for source in rows]
    target = read_target([(each.local(answers.ITEMS), each.local(answers.TOKENS)) for each in scored], mixing.piece)
    return _weigh(mixing, usual, {source: _available(each) for source, each in rows.items()}, target, tokens)


def _label(context: RunContext, recipe: Recipe, source: str) -> RunContext:
    label = f"mix-{recipe.name}-{source}"
    return replace(context, label=label, recipe=label)


def _made(node: StageNode, datasets: Mapping[str, Dataset], context: RunContext) -> Dataset:
    made = run_directly(node, resolve_inputs(node, datasets), context, False).dataset
    context.store.set_ref(node.name, context.label, made.manifest.fingerprint)
    return made


def _rows(source: str, recipe: Recipe, context: RunContext, mixing: Mixing) -> dict[str, Dataset]:
    """The datasets of one source up to its rows; what sources share is built for the first. Without rows where the usual
    target leaves nothing of a source that was not asked for."""
    here, datasets = _label(context, recipe, source), dict[str, Dataset]()
    for node in recipe.nodes:
        if node.name == "pretrain":
            continue
        if node.name == "shards":
            documents = datasets[node.upstream["redact"]]
            if not mixing.targets and not mixing.sources and source not in _there(documents):
                return datasets
            _refuse_without(source, documents)
        used = context.store.resolve(node.use) if node.use else None
        datasets[node.name] = used or _made(node, datasets, here)
        if node.name == "decontaminate" and mixing.targets:
            _refuse_overlap(datasets[node.name], recipe)
    return datasets


def _there(documents: Dataset) -> list[str]:
    """The sources that have documents."""
    return sorted({source_of(output.path) for output in documents.files("data/", ".parquet") if output.rows})


def _left(
    mixing: Mixing, usual: Recipe, made: Mapping[str, dict[str, Dataset]], context: RunContext
) -> dict[str, dict[str, Dataset]]:
    """The sources to weigh. The usual target is texts of the sample: what a recipe learns of them itself is taken out, and a
    source of which too little is left for a model is told and left out, unless it was asked for by name."""
    rows = {source: datasets for source, datasets in made.items() if "shards" in datasets}
    if mixing.targets or mixing.sources:
        return rows
    config: Any = usual.node("pretrain").config
    enough = {
        source: datasets
        for source, datasets in rows.items()
        if MODEL_PASSES * _available(datasets)
        >= LEAST_STEPS * config.batch_sequences * datasets["shards"].manifest.stats["seq_len"]
    }
    for source in made.keys() - enough.keys():
        context.reporter.message("mix", f"{source} is not weighed: without the target's texts too little of it is left")
    if len(enough) < 2:
        raise InputError(
            f"without the texts of the usual target {len(enough)} of {len(made)} sources have enough to train a model on",
            where=usual.origin,
            remedy="Name texts to be good at: --target FILE.",
        )
    return enough


def _refuse_without(source: str, documents: Dataset) -> None:
    there = _there(documents)
    if source not in there:
        raise InputError(
            f"source {source!r} has no documents left", where=documents.root,
            remedy=f"Leave it out (--sources {','.join(there)}), or loosen what drops them.",
        )  # fmt: skip


def _refuse_overlap(documents: Dataset, recipe: Recipe) -> None:
    for name, met in (documents.manifest.stats.get("evaluations") or {}).items():
        if met["items_met"] > MAX_OVERLAP * met["items"]:
            raise InputError(
                f"the target {name!r} overlaps the training texts: {met['items_met']:,} of its {met['items']:,} items are in "
                f"{met['documents']:,} documents",
                where=recipe.origin,
                remedy="Choose weights by texts that are held out: --target FILE.",
            )


def _available(datasets: Mapping[str, Dataset]) -> int:
    mixture = datasets["shards"].manifest.stats["mixture"]
    return int(sum(entry["available_tokens"] for entry in mixture.values() if entry["planned_share"]))


def _model_tokens(mixing: Mixing, usual: Recipe, rows: Mapping[str, Mapping[str, Dataset]]) -> int:
    """What each model is trained on, alike for all. Raises InputError where a source is too small for that."""
    config: Any = usual.node("pretrain").config
    sizes = {source: int(datasets["shards"].manifest.stats["total_tokens"]) for source, datasets in rows.items()}
    seq_len = next(iter(rows.values()))["shards"].manifest.stats["seq_len"]
    smallest = min(sizes, key=lambda source: sizes[source])
    tokens = mixing.tokens or int(
        min(MODEL_PASSES * sizes[smallest], _training_tokens(config, seq_len, sum(sizes.values())))
    )
    step = config.batch_sequences * seq_len
    others = ",".join(source for source in sizes if source != smallest)
    if tokens > MOST_PASSES * sizes[smallest]:
        raise InputError(
            f"source {smallest!r} is too small for its model: {tokens:,} tokens are {tokens / sizes[smallest]:.1f} passes over "
            f"its {sizes[smallest]:,}",
            where="--tokens",
            remedy=f"Train on {int(MODEL_PASSES * sizes[smallest]):,} tokens, or leave it out: --sources {others}.",
        )
    if tokens < LEAST_STEPS * step:
        raise InputError(
            f"source {smallest!r} is too small for its model: {tokens:,} tokens are {tokens // step} steps of {step:,}",
            where="pretrain",
            remedy=f"Leave it out (--sources {others}), or take smaller steps: --set pretrain.batch_sequences=4.",
        )
    return tokens


def _training_tokens(config: Any, seq_len: int, once: int) -> int:
    """What the recipe's pretraining reads; every token once where it does not say."""
    return int(config.steps * config.batch_sequences * seq_len or config.tokens or once)


def _scored(
    source: str, recipe: Recipe, datasets: Mapping[str, Dataset], tokens: int, mixing: Mixing, context: RunContext
) -> Dataset:
    """What the source's model makes of the target."""
    here = _label(context, recipe, source)
    config = recipe.node("pretrain").config.model_copy(update={"steps": 0, "tokens": tokens})
    model = _made(StageNode(pretrain.STAGE, config), datasets, here)
    asked = answers.AnswersConfig(evaluations=mixing.measured, token_nats=True)
    return _made(StageNode(answers.STAGE, asked), {**datasets, "pretrain": model}, here)


# ---- weights --------------------------------------------------------------------------------------------------------


def _weigh(mixing: Mixing, usual: Recipe, available: Mapping[str, int], target: Target, tokens: int) -> MixResult:
    config: Any = usual.node("pretrain").config
    shards: Any = usual.node("shards").config
    sizes = np.array(list(available.values()), np.float64)
    natural = sizes / sizes.sum()
    budget = _training_tokens(config, shards.seq_len, int(sizes.sum()))
    limits = mixing.max_passes * sizes / budget
    if limits.sum() < 1:
        raise ConfigError(
            f"the recipe trains on {budget:,} tokens, and {mixing.max_passes:g} passes over all sources have "
            f"{int(mixing.max_passes * sizes.sum()):,}",
            where="pretrain.tokens",
            remedy="Lower pretrain.tokens, or raise --max-passes.",
        )
    fit, free = best_weights(target, limits), best_weights(target)
    own = np.eye(len(sizes))
    rows = [
        SourceRow(
            source,
            size,
            round(float(natural[at]), 4),
            round(float(fit.weights[at]), 4),
            round(float(free.weights[at]), 4),
            round(float(fit.weights[at]) * budget / size, 3),
            bool(fit.weights[at] >= limits[at] - 1e-6),
            target.bits_per_byte(own[at]),
        )
        for at, (source, size) in enumerate(available.items())
    ]
    gain = predicted_gain(target, natural, limits)
    return MixResult(
        mixing, usual, tuple(rows), target.bits_per_byte(natural), fit.bits_per_byte, gain, max(fit.gap, free.gap), tokens, budget
    )  # fmt: skip


def refuse_written(path: Path) -> None:
    """Raise ConfigError where a file is that is not a mixture of an earlier call."""
    if path.is_dir() or (path.exists() and not path.read_text(errors="replace").startswith(HEAD)):
        what = "folder" if path.is_dir() else "file"
        raise ConfigError(
            f"there is a {what} already, and mix did not write it", where=str(path), remedy="Choose another name."
        )


def write_mixture(result: MixResult, path: Path) -> Path:
    """The recipe with these weights; beside it, at the path returned, the lab that measures what they gain."""
    refuse_written(path)
    gain = result.gain
    told = (
        f"{HEAD} for {', '.join(each.name for each in result.mixing.measured)}, by one model a source on "
        f"{result.model_tokens:,} tokens.\n# Predicted: {gain.value:.4f} bits per byte better than natural weights "
        f"({gain.low:.4f} to {gain.high:.4f}).\n"
    )
    base = result.recipe.address
    mixed = {"extends": base, "recipe": f"{result.recipe.name}-mixed", **_arm(result.mixture())}
    write_bytes(str(path), (told + yaml.safe_dump(mixed, sort_keys=False)).encode())
    lab = path.with_name(f"{path.stem}-lab.yaml")
    rate = float(result.recipe.node("pretrain").config.optimizer.lr)  # type: ignore[attr-defined]
    arms = {name: _arm(result.mixture(name == "natural")) for name in ("natural", "mixed")}
    # Known to be bad for the target, and made of the same documents: the source whose own model reads it worst.
    enough = [row for row in result.rows if row.available_tokens * MODEL_PASSES >= result.model_tokens] or result.rows
    worst = max(enough, key=lambda row: row.bits_per_byte).source
    arms["worst"] = {"description": f"{worst} alone", **_arm([{"source": worst, "max_epochs": MODEL_PASSES}])}
    wanted = {
        "lab": f"{_plain(result.recipe.name)}-mixture",
        "description": "What the weights of headwater mix gain over each source by its tokens.",
        "recipe": base,
        "arms": arms,
        "baseline": "natural",
        "control": "worst",
        "tokens": result.model_tokens,
        "rates": [rate, rate / 5],
        "evaluations": [_as_given(each) for each in result.mixing.targets],
    }
    write_bytes(str(lab), yaml.safe_dump(wanted, sort_keys=False).encode())
    return lab


def _arm(mixture: list[dict[str, Any]]) -> dict[str, Any]:
    return {"stages": {"shards": {"mixture": mixture, "phases": []}}}


def _as_given(target: answers.Evaluation) -> dict[str, Any]:
    file = target.file if "://" in target.file else str(Path(target.file).resolve())
    return {**target.model_dump(exclude_defaults=True), "file": file}


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())[:30]
