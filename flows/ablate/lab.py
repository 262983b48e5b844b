"""A lab: which corpora are compared, and by what models.

    lab: filters
    recipe: demo                          # the base, by name or file
    baseline: default                     # the arm that the others are compared with
    arms:
      default: {}                         # an arm is the base recipe with changes,
      no-dedup: {without: [dedup]}
      strict: {stages: {quality: {...}}}
      theirs: {corpus: /data/theirs/*.parquet}     # or a corpus that another system made
    tokens: 1_200_000                     # what each model is trained on
    rates: [0.003, 0.0005]                # two at least, one of them small: the ranking at a single rate may flip
    seeds: 3
    evaluations: [...]                    # none: the default set

Two arms are in every lab: ``aa``, the baseline's corpus with other seeds, and ``control``, the base recipe with nothing
filtered (or the arm that is the same as that). An arm is the ordinary path: its recipe is built by ``arm_recipe``, and all
that is said of the lab as a whole holds for every arm: tokens, model, evaluation texts taken out of the corpus.
"""

import copy
import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flows.recipe import Recipe, overlaid_recipe, set_value
from flows.recipe_file import SCALE, read_recipe_file
from flows.sections import validate
from flows.stages import STAGE_NAMES
from infra.config import Config
from infra.errors import ConfigError, nearest
from infra.extensions import refuse_code
from infra.stage import StageNode
from infra.store.address import dataset_inputs
from pipeline.profiles import Profile
from pipeline.quality.config import SourceRules
from pipeline.quality.rules import rules_of
from training.answers import AnswersConfig, Evaluation
from training.model import ModelConfig
from training.pretrain import PretrainConfig

SAME, CONTROL = "aa", "control"
FILTERS = ("quality", "dedup")
"""Stages of ours that leave documents out for what they are: the control has none of them."""
AFRESH = ("sample", "ingest", "decontaminate", "redact", "tokenizer", "shards", "pretrain")
"""What a corpus of another system goes through: evaluation texts and personal data are taken out of every arm alike."""
QUESTIONS = "dataset://sample/eval/"
NEEDED = ("decontaminate", "tokenizer", "shards", "pretrain")
"""Stages without which an arm cannot be compared."""
COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst)$")
ARM = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
OTHER_SEEDS = 1000
"""What the seeds of the A/A arm are shifted by."""
FAIR: Mapping[str, Any] = {
    # All of a corpus is trained on, by one thread: trainings run side by side. The lab's evaluations are what is measured.
    "decontaminate": {"policy": "drop"},
    "tokenizer": {},
    "shards": {"validation_fraction": 0, "validation_documents": 0},
    "pretrain": {"ranks": 1, "nodes": 1, "threads_per_rank": 1, "elastic_ranks": 0, "eval_every": 0},
}


class Arm(Config):
    """One corpus: the base recipe with changes, or files that another system made."""

    description: str = ""
    """One line for the page."""
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections laid over the base recipe's."""
    without: tuple[str, ...] = ()
    """Stages of the base recipe to leave out; what only they need goes with them."""
    without_presets: tuple[str, ...] = ()
    """Presets of quality rules to leave out, of every source."""
    corpus: str = ""
    """Parquet or JSON lines that another system made: file, folder, glob or address. It takes the place of everything up to
    decontamination."""
    kind: Literal["", "parquet", "jsonl"] = ""
    """What the corpus's files are. Empty: as their names say."""
    text: str = "text"
    """The corpus's column with the text."""
    url: str | None = None
    """The corpus's column with the address, by which documents are found again in other arms."""
    profile: Profile | None = None
    """What the corpus's documents are, for redaction."""

    @model_validator(mode="after")
    def _one_origin(self) -> "Arm":
        if self.corpus and (
            self.without or self.without_presets or {"ingest", "quality", "dedup"} & self.stages.keys()
        ):
            raise ValueError("a corpus is taken as it is: leave out without, without_presets and data stages")
        if needed := [name for name in NEEDED if name in self.without]:
            raise ValueError(f"every arm needs {needed[0]}: it cannot be left out")
        return self


class LabConfig(Config):
    """What is compared, and how."""

    lab: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    """Its name, in labels and addresses."""
    description: str = ""
    """One line for the page."""
    recipe: str = "demo"
    """The base: a bundled recipe's name, or a file (relative to the lab's)."""
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections laid over the base recipe's, for every arm."""
    arms: dict[str, Arm] = Field(min_length=1)
    """The corpora by name."""
    baseline: str = ""
    """The arm that the others are compared with. Empty: the first."""
    control: str = ""
    """The arm that is known to be bad. Empty: the base recipe with nothing filtered is added."""
    seeds: int = Field(3, ge=2, le=100)
    """Trainings of every arm and rate. Two at least: a single one says nothing of how much seeds differ."""
    rates: tuple[float, ...] = Field((0.003, 0.0005), min_length=2)
    """Peak learning rates, one of them small: the ranking at a single rate may flip."""
    tokens: int = Field(ge=1)
    """Tokens that each model is trained on."""
    max_passes: float | None = Field(None, gt=0, le=8)
    """Lowers ``tokens`` until no arm's corpus is read more often, as in 1: what is compared then is what the texts are worth, not
    how many there are. None: as ``tokens`` says."""
    model: ModelConfig | None = None
    """The model's shape. None: by ``scale``, or as the base recipe has it."""
    scale: str = ""
    """Size from which shape, batch and schedule are derived (4M), as a recipe's own."""
    tokenizer: str = Field("", pattern=r"^([a-z0-9_-]+[/@][A-Za-z0-9._-]+)?$")
    """A published tokenizer: ``tokenizer/<fingerprint>``, ``tokenizer@demo``. Empty: one is made from all arms together."""
    spend: Literal["from_scratch", "anneal"] = "from_scratch"
    """``anneal``: a trunk is trained once for each rate, and only the last part sees the arm's corpus."""
    anneal_share: float = Field(0.1, gt=0, lt=1)
    """Part of the tokens that a branch is trained on while the rate decays, with ``anneal``."""
    trunk: str = ""
    """The arm whose corpus the trunk is trained on, with ``anneal``. Empty: the baseline."""
    evaluations: tuple[Evaluation, ...] = ()
    """What is measured. Empty: the default set."""
    max_overlap: float = Field(0.1, ge=0, le=1)
    """Share of an evaluation's items that the documents may hold. Documents that hold any are left out of every arm."""

    @field_validator("rates")
    @classmethod
    def _rates_differ(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        # As trainings are named by them: six digits tell them apart.
        if len({f"{rate:g}" for rate in rates}) < len(rates) or not all(0 < rate < 1e6 for rate in rates):
            raise ValueError("rates are numbers above 0 that differ in their first six digits")
        return rates

    @model_validator(mode="after")
    def _names(self) -> "LabConfig":
        for name in self.arms:
            if name == SAME or not ARM.fullmatch(name):
                raise ValueError(
                    f"{name[:60]!r} cannot be an arm: use up to 40 lower-case letters (a to z), digits, dashes and "
                    f"underscores, and not {SAME!r}"
                )
        for what, name in (("baseline", self.baseline), ("control", self.control), ("trunk", self.trunk)):
            if name and name not in self.arms:
                raise ValueError(f"{what} names the arm {name!r}; there are {', '.join(self.arms)}")
        if self.control and self.control == self.base_arm:
            raise ValueError("the control cannot be the baseline")
        if self.model is not None and self.scale:
            raise ValueError("give the model or a scale, not both")
        return self

    @property
    def base_arm(self) -> str:
        return self.baseline or next(iter(self.arms))

    @property
    def measured(self) -> tuple[Evaluation, ...]:
        """Its evaluations, or the default set."""
        return self.evaluations or AnswersConfig().evaluations


@dataclass(frozen=True)
class Lab:
    """A lab that was read: its settings, and for each arm the recipe of the ordinary path up to pretraining."""

    config: LabConfig
    origin: str
    recipes: Mapping[str, Recipe]
    """By arm, the control among them; not the A/A arm, whose corpus is the baseline's."""
    control: str
    overrides: tuple[str, ...] = ()
    asked: tuple[str, ...] = field(default=())
    """The arms that were asked for; none: all."""

    @property
    def name(self) -> str:
        return self.config.lab

    @property
    def baseline(self) -> str:
        return self.config.base_arm

    @property
    def address(self) -> str:
        """What to call ``load_lab`` with to get it again: a bundled name, or a path."""
        stem = Path(self.origin).stem
        return stem if stem in lab_names() and str(_bundled(stem)) == self.origin else str(Path(self.origin).resolve())

    @property
    def trained(self) -> list[str]:
        """The arms that are trained: those asked for, and the ones that tell what their differences mean."""
        wanted = {*(self.asked or self.recipes), self.baseline, self.control}
        return [*(name for name in self.recipes if name in wanted), SAME]

    def corpus_of(self, arm: str) -> str:
        """The arm whose corpus it has."""
        return self.baseline if arm == SAME else arm

    def label(self, *parts: str) -> str:
        return "-".join(("lab", self.name, *parts))


def lab_names() -> list[str]:
    folder = resources.files("flows") / "labs"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_lab(
    name_or_path: str, overrides: Sequence[str] = (), *, seeds: int | None = None, only: Sequence[str] = ()
) -> Lab:
    """Read and validate a lab, bundled or a file. ``overrides``: of the lab (``tokens=200000``, ``arms.strict.corpus=…``),
    or of the base recipe (``pretrain.batch_sequences=8``, ``execution.workers=4``)."""
    path = _find(name_or_path)
    raw = read_recipe_file(path, "lab")
    written = copy.deepcopy(raw)
    own = [each for each in overrides if _of_lab(each)]
    for override in own:
        set_value(raw, override)
    refuse_code(raw, written, str(path))
    if seeds is not None:
        raw["seeds"] = seeds
    config = validate(LabConfig, {"lab": path.stem, **raw}, "", str(path))
    beside = path.parent / config.recipe
    base = str(beside) if beside.is_file() else config.recipe
    try:
        lab = _with_recipes(config, base, path, [each for each in overrides if each not in own], tuple(only))
        return replace(lab, overrides=tuple(overrides))
    except ConfigError as error:
        raise ConfigError(error.error, where=error.where or str(path), remedy=error.remedy) from None


def _of_lab(override: str) -> bool:
    """Whether it is the lab's. ``tokenizer`` is one of its fields, and ``tokenizer.vocab_size`` one of the recipe's."""
    name, dot, _ = override.partition("=")[0].partition(".")
    return name in LabConfig.model_fields and not (dot and name in STAGE_NAMES)


def _with_recipes(config: LabConfig, base: str, path: Path, changes: Sequence[str], only: tuple[str, ...]) -> Lab:
    recipes = {}
    for name, arm in config.arms.items():
        try:
            recipes[name] = arm_recipe(config, arm, base, changes)
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error.error}", where=error.where, remedy=error.remedy) from None
    control = config.control
    if not control:
        bare = arm_recipe(config, Arm(description="nothing filtered", without=FILTERS), base, changes)
        same = [name for name, recipe in recipes.items() if data_nodes(recipe) == data_nodes(bare)]
        if config.base_arm in same:
            raise ConfigError(
                f"the baseline {config.base_arm!r} filters nothing, so it is its own known-bad control",
                where=str(path),
                remedy="Choose another baseline, or name an arm as `control`.",
            )
        control = same[0] if same else CONTROL
        if not same and CONTROL in recipes:
            raise ConfigError(f"the arm {CONTROL!r} filters something", remedy="Name it as `control`, or otherwise.")
        if not same:
            recipes[CONTROL] = bare
    for name in only:
        if name not in recipes and name != SAME:
            raise ConfigError(
                f"the lab has no arm {name!r}",
                where=str(path),
                remedy=f"{nearest(name, recipes)}Its arms: {', '.join(recipes)}.",
            )
    return Lab(config, str(path), recipes, control, (), only)


def data_nodes(recipe: Recipe) -> tuple[StageNode, ...]:
    """The stages that make its documents and rows."""
    return tuple(node for node in recipe.nodes if node.name != "pretrain")


def arm_recipe(config: LabConfig, arm: Arm, base: str, changes: Sequence[str]) -> Recipe:
    """The base recipe with the lab's changes, then the arm's, up to pretraining."""
    measured = {"decontaminate": {"evaluations": [_texts_of(each) for each in config.measured]}}
    inputs: dict[str, Any] = {name: {} for name in dataset_inputs(each.file for each in config.measured)}
    # The sample has most of its questions where they are asked for.
    if any(each.file.startswith(QUESTIONS) for each in config.measured):
        inputs["sample"] = {"evaluations": True}
    model = {} if config.model is None else {"pretrain": {"model": config.model.model_dump()}}
    laid: list[Mapping[str, Any] | str] = [FAIR, config.stages]
    if config.scale:  # what is said of pretraining overrules it
        laid += [f"{SCALE}{config.scale}", {"pretrain": config.stages.get("pretrain", {})}]
    laid += [model, *changes, inputs]
    if arm.corpus:
        laid += [{"ingest": {"sources": [_source_of(arm)]}, "shards": {"mixture": [], "phases": [], "append_to": ""}}]
    recipe = overlaid_recipe(
        base,
        [*laid, arm.stages, measured],  # whatever an arm says: no arm is trained on what it is measured by
        without=arm.without,
        only=AFRESH if arm.corpus else (),
        needed=("pretrain",),
    )
    return _without_presets(recipe, arm.without_presets)


def _texts_of(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation's texts as decontamination wants them: those that are asked, as far as they are."""
    fields = [field for field in (evaluation.prompt, evaluation.answer) if field]
    found = {"name": evaluation.name, "address": evaluation.file, "fields": fields, "max_items": evaluation.max_items}
    return found if evaluation.prompt else {**found, "max_characters": evaluation.max_characters}


def _source_of(arm: Arm) -> dict[str, Any]:
    """A corpus as a source of ``ingest``."""
    source: dict[str, Any] = {"name": "corpus", "address": arm.corpus, "text_column": arm.text}
    source |= {"url_column": arm.url} if arm.url else {}
    source |= {"profile": arm.profile} if arm.profile else {}
    return source | {"kind": arm.kind or _kind_of(arm.corpus)}


def _kind_of(address: str) -> str:
    names = [address]
    if Path(address).is_dir():
        names = sorted(glob.glob(f"{glob.escape(address)}/**/*.*", recursive=True))
    for name in names:
        for kind, endings in (("parquet", (".parquet",)), ("jsonl", (".jsonl", ".json", ".ndjson"))):
            if COMPRESSED.sub("", name).endswith(endings):
                return kind
    raise ConfigError(
        f"the corpus {address} does not say whether it is Parquet or JSON lines",
        remedy="Give its `kind` if it is one of them, and write it as one of them if it is not.",
    )


def _without_presets(recipe: Recipe, presets: Sequence[str]) -> Recipe:
    if not presets:
        return recipe
    node = next((node for node in recipe.nodes if node.name == "quality"), None)
    sources: Any = node.config.sources if node else ()  # type: ignore[attr-defined]
    known = {preset for entry in sources for preset in entry.presets}
    if node is None or not set(presets) <= known:
        missing = ", ".join(sorted(set(presets) - known))
        raise ConfigError(f"no source has the preset {missing}", remedy=f"Presets there: {', '.join(sorted(known))}.")
    kept = tuple(_entry_without(entry, presets) for entry in sources)
    changed = replace(node, config=node.config.model_copy(update={"sources": kept}))
    return replace(recipe, nodes=tuple(changed if each is node else each for each in recipe.nodes))


def _entry_without(entry: SourceRules, presets: Sequence[str]) -> SourceRules:
    """What is said of a rule goes with it: of one that is not there it would be refused."""
    left = tuple(preset for preset in entry.presets if preset not in presets)
    names = {rule.name for rule in rules_of(left)}
    without = tuple(name for name in entry.without if name in names)
    thresholds = {name: value for name, value in entry.thresholds.items() if name in names}
    return entry.model_copy(update={"presets": left, "without": without, "thresholds": thresholds})


def trial_config(lab: Lab, arm: str, seed: int, rate: float) -> PretrainConfig:
    """The pretraining of one arm with one seed at one rate. What they share is the base recipe's and the lab's."""
    usual = lab.recipes[lab.corpus_of(arm)].node("pretrain").config
    assert isinstance(usual, PretrainConfig)
    schedule, tokens, trunk = usual.optimizer.schedule, lab.config.tokens, False
    if lab.config.spend == "anneal":
        tokens, trunk = branch_tokens(lab.config), True
        # The rate is where the trunk left it, and falls to its floor over the whole branch; the moments are new.
        rows: Any = lab.recipes[lab.corpus_of(arm)].node("shards").config
        warmup = tokens // (rows.seq_len * usual.batch_sequences * 10)
        schedule = schedule.model_copy(update={"shape": "wsd", "decay_fraction": 1.0, "warmup_steps": warmup})
    return _trained(usual, tokens, seed + (OTHER_SEEDS if arm == SAME else 0), rate, schedule, trunk)


def trunk_config(lab: Lab, rate: float) -> PretrainConfig:
    """The training that the arms of an ``anneal`` branch from: the rate is held to its end."""
    usual = lab.recipes[trunk_arm(lab)].node("pretrain").config
    assert isinstance(usual, PretrainConfig)
    held = usual.optimizer.schedule.model_copy(update={"shape": "wsd", "min_lr_ratio": 1.0})
    return _trained(usual, lab.config.tokens - branch_tokens(lab.config), 0, rate, held, False)


def trunk_arm(lab: Lab) -> str:
    return lab.config.trunk or lab.baseline


def branch_tokens(config: LabConfig) -> int:
    """What a training of an arm takes from that arm's corpus."""
    return round(config.tokens * config.anneal_share) if config.spend == "anneal" else config.tokens


def read_tokens(lab: Lab, arm: str) -> int:
    """What a training takes from an arm's corpus at most: a branch, or the trunk."""
    branch = branch_tokens(lab.config)
    return max(branch, lab.config.tokens - branch) if arm == trunk_arm(lab) else branch


def _trained(usual: PretrainConfig, tokens: int, seed: int, rate: float, schedule: Any, trunk: bool) -> PretrainConfig:
    optimizer = usual.optimizer.model_copy(update={"lr": rate, "schedule": schedule})
    changed = {"steps": 0, "tokens": tokens, "seed": seed, "optimizer": optimizer, "trunk": trunk, "order": "documents"}
    return usual.model_copy(update=changed)


def _bundled(name: str) -> Path:
    with resources.as_file(resources.files("flows") / "labs" / f"{name}.yaml") as path:
        return path


def _find(name_or_path: str) -> Path:
    if name_or_path in lab_names():
        return _bundled(name_or_path)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"there is no lab {name_or_path!r}",
            remedy=f"{nearest(name_or_path, lab_names())}Give a YAML file, or one of the bundled labs: "
            f"{', '.join(lab_names())}.",
        )
    return path
