"""The arms' corpora: documents of each arm by the ordinary path, one tokenizer of them all, rows of each.

Stages that arms share have the same fingerprint and are built once. Everything is published below labels of the lab's own,
``lab-<lab>-<arm>``; no other label moves. What would make the comparison worthless is refused here, before anything is
trained: an arm without documents, arms that are equal, more passes than a corpus is good for, evaluations that are part of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from flows.ablate.lab import CONTROL, SAME, Lab, read_tokens, trunk_arm
from flows.execute import RunOne, resolve_inputs
from flows.recipe import Recipe
from infra.errors import ConfigError, InputError
from infra.planning import StagePlan, StageSelection, plan, refuse_blocked
from infra.stage import StageNode
from infra.store.address import dataset_file
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from pipeline.shards.append import UNIGRAMS
from pipeline.tokenizer.model import MODEL_FILE, Tokenizer
from training.answers import Evaluation, read_items

MOST_PASSES = 8.0
"""So often a corpus may be read. Beyond some four passes repetition costs more than it gives (Muennighoff 2023)."""
ROWS = ("tokenizer", "shards", "pretrain")
"""The stages behind an arm's documents."""


@dataclass(frozen=True)
class Corpus:
    """What an arm is trained on: its datasets by stage, and figures of its rows."""

    arm: str
    datasets: Mapping[str, Dataset]
    unique_tokens: int
    bytes_per_token: float

    @property
    def documents(self) -> int:
        return self.datasets["shards"].manifest.counts.kept


def document_nodes(recipe: Recipe) -> list[StageNode]:
    return [node for node in recipe.nodes if node.name not in ROWS]


def plan_documents(lab: Lab, store: Store) -> dict[str, list[StagePlan]]:
    """What is to be done for the documents of each arm. Raises where one of them cannot be made."""
    check_evaluations([each for each in lab.config.measured if not dataset_file(each.file)], {})
    _named_tokenizer(lab, store)
    plans = {}
    for arm, recipe in lab.recipes.items():
        plans[arm] = plan(document_nodes(recipe), store, StageSelection(), lab.label(arm))
        with about(arm):
            refuse_blocked(plans[arm])
    return plans


@contextmanager
def about(arm: str) -> Iterator[None]:
    """What is raised here is told with the arm's name."""
    try:
        yield
    except (ConfigError, InputError) as error:
        raise type(error)(f"arm {arm!r}: {error.error}", where=error.where, remedy=error.remedy) from None


def check_evaluations(evaluations: Iterable[Evaluation], inputs: Mapping[str, Dataset]) -> None:
    """Every item, read once. Raises InputError; what intervals are made from is how documents differ, so there are two."""
    for each in evaluations:
        if len({item.cluster for item in read_items(each, inputs)}) < 2:
            raise InputError(
                f"all items of evaluation {each.name!r} are of one document: nothing says how another one would fare",
                where=each.file,
                remedy="Give the evaluation more documents, or another cluster field.",
            )


def build_corpora(lab: Lab, run: RunContext, run_one: RunOne) -> tuple[Lab, dict[str, Corpus]]:
    """The corpus of each arm that is trained (and of an ``anneal``'s trunk), built or found published; and the lab, whose
    control is an arm of the user's if their corpora turn out to be equal, and whose tokens are within ``max_passes``."""
    plans = plan_documents(lab, run.store)
    documents = {}
    for arm in lab.recipes:
        run.reporter.message(arm, "documents of this arm")
        with about(arm):
            documents[arm] = _documents(lab, arm, plans[arm], run, run_one)
    check_evaluations([each for each in lab.config.measured if dataset_file(each.file)], documents[lab.baseline])
    _refuse_overlap(lab, documents)
    tokenizer = _tokenizer(lab, documents, run, run_one)
    # With max_passes every arm decides how long the others are trained, also when a few are asked for.
    arms = lab.recipes if lab.config.max_passes else [arm for arm in lab.trained if arm != SAME]
    wanted = dict.fromkeys([*arms, trunk_arm(lab)])
    corpora = {}
    for arm in wanted:
        datasets = {**documents[arm], "tokenizer": tokenizer}
        with about(arm):
            shards = _built(lab.recipes[arm].node("shards"), lab.label(arm), datasets, run, run_one)
        corpora[arm] = _corpus(arm, {**datasets, "shards": shards})
    lab, corpora = _with_one_control(lab, corpora)
    _refuse_equal(lab, corpora)
    lab = _within_passes(lab, corpora, run)
    _refuse_many_passes(lab, corpora)
    return lab, corpora


def _built(node: StageNode, label: str, datasets: Mapping[str, Dataset], run: RunContext, run_one: RunOne) -> Dataset:
    return run_one(node, resolve_inputs(node, datasets), replace(run, label=label, recipe=label), False).dataset


def _documents(lab: Lab, arm: str, plans: Sequence[StagePlan], run: RunContext, run_one: RunOne) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    for node, entry in zip(document_nodes(lab.recipes[arm]), plans, strict=True):
        used = entry.dataset if node.use else None
        datasets[node.name] = used or _built(node, lab.label(arm), datasets, run, run_one)
    return datasets


def last_documents(recipe: Recipe, datasets: Mapping[str, Dataset]) -> Dataset:
    """The documents that an arm's rows are made of."""
    return datasets[recipe.node("shards").upstream["redact"]]


def _tokenizer(lab: Lab, documents: Mapping[str, Mapping[str, Dataset]], run: RunContext, run_one: RunOne) -> Dataset:
    """The tokenizer of every arm: a named one, or one made from the documents of all of them."""
    node = lab.recipes[lab.baseline].node("tokenizer")
    if (named := _named_tokenizer(lab, run.store)) is not None:
        return named
    every = {each.digest: each for each in (last_documents(lab.recipes[arm], documents[arm]) for arm in documents)}
    # Roles by content, so that the tokenizer is the same whatever the arms are called.
    inputs = {f"redact{number or ''}": every[digest] for number, digest in enumerate(sorted(every))}
    label = lab.label("tokenizer")
    return run_one(node, inputs, replace(run, label=label, recipe=label), False).dataset


def _named_tokenizer(lab: Lab, store: Store) -> Dataset | None:
    named = lab.config.tokenizer or lab.recipes[lab.baseline].node("tokenizer").use
    if not named:
        return None
    dataset = store.resolve(named)
    if f"data/{MODEL_FILE}" not in {output.path for output in dataset.manifest.outputs}:
        raise ConfigError(
            f"{named} is no tokenizer", where=lab.origin, remedy="Name one as `headwater status` shows it."
        )
    return dataset


def _corpus(arm: str, datasets: Mapping[str, Dataset]) -> Corpus:
    counts = np.load(datasets["shards"].local(UNIGRAMS))
    sizes = np.array([len(each) for each in Tokenizer.load(datasets["tokenizer"].local("data")).token_bytes])
    tokens = int(datasets["shards"].manifest.stats["total_tokens"])
    return Corpus(arm, datasets, tokens, float((counts * sizes).sum() / max(1, counts.sum())))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_overlap(lab: Lab, documents: Mapping[str, Mapping[str, Dataset]]) -> None:
    """Evaluation texts are taken out of every arm. A file that is largely part of one was no evaluation."""
    for arm, datasets in documents.items():
        for name, met in (datasets["decontaminate"].manifest.stats.get("evaluations") or {}).items():
            if met["items_met"] > lab.config.max_overlap * met["items"]:
                raise InputError(
                    f"evaluation {name!r} overlaps the training texts: {met['items_met']:,} of its {met['items']:,} items "
                    f"are in {met['documents']:,} documents of arm {arm!r}",
                    where=lab.origin,
                    remedy="Measure on texts that are held out, or raise max_overlap: those documents are left out of "
                    "every arm.",
                )


def _with_one_control(lab: Lab, corpora: dict[str, Corpus]) -> tuple[Lab, dict[str, Corpus]]:
    """An arm that leaves nothing out serves as the control; then there is no other."""
    if CONTROL in lab.config.arms or lab.control != CONTROL:
        return lab, corpora
    for arm, corpus in corpora.items():
        if arm not in (CONTROL, lab.baseline) and _content(lab, corpus) == _content(lab, corpora[CONTROL]):
            recipes = {name: recipe for name, recipe in lab.recipes.items() if name != CONTROL}
            return replace(lab, control=arm, recipes=recipes), {n: c for n, c in corpora.items() if n != CONTROL}
    return lab, corpora


def _content(lab: Lab, corpus: Corpus) -> tuple[object, ...]:
    """How often each token is in it, and its curriculum: the same whatever the documents' names and order."""
    counts = next(each.digest for each in corpus.datasets["shards"].manifest.outputs if each.path == UNIGRAMS)
    return counts, getattr(lab.recipes[corpus.arm].node("shards").config, "phases", ())


def _refuse_equal(lab: Lab, corpora: Mapping[str, Corpus]) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for arm, corpus in corpora.items():
        key = _content(lab, corpus)
        if key in seen:
            raise InputError(
                f"the arms {seen[key]!r} and {arm!r} have equal corpora ({corpus.documents:,} documents, "
                f"{corpus.unique_tokens:,} tokens): there is nothing to compare",
                where=lab.origin,
                remedy="Leave one of them out, or change what makes it.",
            )
        seen[key] = arm


def _within_passes(lab: Lab, corpora: Mapping[str, Corpus], run: RunContext) -> Lab:
    """The lab with its tokens lowered to ``max_passes`` over the corpus that is read most often."""
    if lab.config.max_passes is None:
        return lab
    passes = {arm: read_tokens(lab, arm) / corpus.unique_tokens for arm, corpus in corpora.items()}
    most = max(passes, key=passes.__getitem__)
    if passes[most] <= lab.config.max_passes:
        return lab
    tokens = int(lab.config.tokens * lab.config.max_passes / passes[most])
    run.reporter.message(
        "tokens",
        f"{tokens:,} a model instead of {lab.config.tokens:,}: max_passes is {lab.config.max_passes:g}, and arm {most!r} has "
        f"{corpora[most].unique_tokens:,}",
    )
    return replace(lab, config=lab.config.model_copy(update={"tokens": max(1, tokens)}))


def _refuse_many_passes(lab: Lab, corpora: Mapping[str, Corpus]) -> None:
    for arm, corpus in corpora.items():
        tokens = read_tokens(lab, arm)
        if tokens > MOST_PASSES * corpus.unique_tokens:
            raise InputError(
                f"{tokens:,} tokens are {tokens / corpus.unique_tokens:.1f} passes over arm {arm!r}, which has "
                f"{corpus.unique_tokens:,}; more than {MOST_PASSES:g} say little of a corpus",
                where=lab.origin,
                remedy=f"Lower tokens to {int(MOST_PASSES * corpus.unique_tokens):,} at most, or set max_passes, or give the "
                "arm more text.",
            )
