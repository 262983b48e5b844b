"""A recipe on one crawl of a series: compared with the crawls before it, its shards appended to theirs.

The first crawl of a workspace runs the recipe as it stands, with the crawl's name as the address of its crawl sources and
as the label of its datasets. Every later one

* reads its crawl alone: the recipe's other sources are part of the first crawl's documents already;
* is deduplicated against the index of all crawls before it (``dedup.previous``);
* keeps the classifier and the tokenizer of the first, so that scores and ids mean the same;
* appends its shards to the newest version (``shards.append_to``): a new dataset that holds the old rows and the new.

Runs of one series take turns, from planning until the shards are published: training does not hold the others up.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flows.crawls.series import LAST_STAGE, Base, Series
from flows.recipe import Recipe
from infra.errors import ConfigError
from infra.planning import check_graph
from infra.runner import StageOutcome
from infra.stage import StageNode
from infra.store.lease import Lease
from infra.store.store import Store

OnOutcome = Callable[[StageOutcome], None]


@contextmanager
def series_lock(
    recipe: Recipe, crawl: str, store: Store, say: Callable[[str], None]
) -> Iterator[tuple[Recipe, OnOutcome]]:
    """The recipe on a crawl, once it is its turn, and what to tell of each stage's outcome. Without a crawl: as it is."""
    if not crawl:
        yield recipe, lambda outcome: None
        return
    require_crawl_source(recipe)
    series = Series(store, recipe.name)
    series.claim(crawl, "run")
    lease = Lease(f"{series.root}/turn")
    lease.acquire(on_wait=lambda text: say(f"another crawl of {recipe.name} has its turn: {text}"))
    try:
        base = series.record_base(crawl)
        say(f"{crawl} is the first of its series" if not base.after else f"{crawl} follows {base.after}")

        def note(outcome: StageOutcome) -> None:
            if outcome.stage == LAST_STAGE:
                lease.check()
            if not series.note_dataset(crawl, outcome.stage, outcome.dataset.manifest.fingerprint):
                say(f"later crawls rest on another {outcome.stage} of {crawl}: this one is not part of their chain")
            if outcome.stage == LAST_STAGE:
                lease.release()

        yield of_crawl(recipe, crawl, base), note
    finally:
        lease.release()


def planned(recipe: Recipe, crawl: str, store: Store) -> Recipe:
    """The recipe on a crawl as its run would see it now; nothing is written. Without a crawl: as it is."""
    if not crawl:
        return recipe
    require_crawl_source(recipe)
    return of_crawl(recipe, crawl, Series(store, recipe.name).plan_base(crawl))


def require_crawl_source(recipe: Recipe) -> None:
    if not recipe.crawl_sources:
        raise ConfigError(
            f"recipe {recipe.name!r} reads no crawl by its name",
            where=recipe.origin,
            remedy="Give it a source of kind common_crawl.",
        )


def of_crawl(recipe: Recipe, crawl: str, base: Base) -> Recipe:
    """The recipe set to a crawl and its base."""
    nodes = tuple(_node(node, crawl, base, recipe) for node in recipe.nodes)
    check_graph(nodes)
    return replace(recipe, nodes=nodes, crawl=crawl)


def _node(node: StageNode, crawl: str, base: Base, recipe: Recipe) -> StageNode:
    if node.name in base.kept:
        return replace(node, use=base.kept[node.name])
    config = node.config
    names = [source.name for source in recipe.crawl_sources]
    if node.name == "ingest":
        sources = [
            source.model_copy(update={"address": crawl}) if source.kind == "common_crawl" else source
            for source in config.sources  # type: ignore[attr-defined]
            if source.kind == "common_crawl" or not base.after
        ]
        config = config.model_copy(update={"sources": tuple(sources)})
    elif node.name == "dedup" and base.previous:
        previous = dict.fromkeys((*config.previous, *base.previous))  # type: ignore[attr-defined]
        config = config.model_copy(update={"previous": tuple(previous), "scope": "all"})
    elif node.name == LAST_STAGE and base.append_to:
        if config.phases:  # type: ignore[attr-defined]
            raise ConfigError(
                "a curriculum cannot be continued by another crawl: its last rows must stay the last",
                where="shards.phases",
                remedy="Use a mixture for a series of crawls.",
            )
        own: dict[str, Any] = {
            field: tuple(entry for entry in getattr(config, field) if entry.source in names)
            for field in ("mixture", "repetition")
        }
        config = config.model_copy(update={"append_to": base.append_to} | own)
    return replace(node, config=config)
