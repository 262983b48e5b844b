"""The crawl watch: once a day, start the whole path for every crawl that is new.

    list of crawls (collinfo.json)  -  crawls known before the first watch  -  crawls started  =  new ones

New ones are started oldest first, each once, ever: what was started is on record in the workspace, so neither days
without a server, nor two watches at the same time, nor a replaced database start a crawl again or leave one out. The
first watch in a workspace does not start years of crawls, but the newest one alone (``first``); earlier ones are for
``headwater backfill``. The runs wait in a queue of the control pool that lets one begin at a time.
"""

from typing import Literal

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from pydantic import Field

from flows.context import open_store
from flows.crawls.incremental import require_crawl_source
from flows.crawls.series import First, Series
from flows.crawls.starting import CrawlRun, start_crawl
from flows.operate.artifacts import TABLE_ROWS, artifact_key, best_effort
from flows.operate.endings import as_flow_state
from flows.operate.flow_runs import as_deployed, our_flow
from flows.params import RecipeParams
from flows.recipe import Recipe
from pipeline.sources.common_crawl import COLLECTIONS, list_crawls

PUBLIC_MIRRORS = ("https://data.commoncrawl.org", "s3://commoncrawl")
"""Mirrors that do not hold the list of crawls: it is on the URL index's server."""


class WatchParams(RecipeParams):
    """The crawl watch."""

    recipe: str = Field(
        "common-crawl-1b",
        title="Recipe",
        description="A recipe with a common_crawl source: bundled, or a YAML file's path.",
    )
    crawl_list: str = Field(
        "",
        title="List of crawls",
        description="Address of collinfo.json, or of what holds it. Empty: the recipe's mirror, or Common Crawl's own.",
    )
    first: First = Field(
        "newest",
        title="First watch",
        description="What the first watch of a workspace starts of the crawls there are: the newest, none, or all of them.",
    )
    train: bool = Field(
        False, title="Train", description="Go on with training on the new version. Off: stop after the shards."
    )
    dispatch: Literal["inline", "deployments"] = Field(
        "inline",
        title="Dispatch",
        description="Run the stages in one process, or each by its deployment on its work pool.",
    )


@our_flow(name="crawl_watch")
def crawl_watch(params: WatchParams = WatchParams()) -> list[str]:
    """Start the whole path once for each new crawl.

    Args:
        params: Which recipe, which list of crawls, and what is run.
    """
    return as_flow_state("crawl_watch", lambda: watch(as_deployed(params)))


def watch(params: WatchParams) -> list[str]:
    """The crawls that were started."""
    log = get_run_logger()
    recipe, store = params.load(), open_store(params.workspace)
    require_crawl_source(recipe)
    how = CrawlRun(recipe, Series(store, recipe.name), params.workspace, params.dispatch, params.train)
    listed = listed_crawls(recipe, params.crawl_list)
    new = how.series.new_crawls(listed, params.first)
    rows = []
    for crawl in new:
        run = start_crawl(how, crawl, "watch")
        log.info("crawl %s is new: started as %s", crawl, run.name)
        rows.append({"crawl": crawl, "flow run": run.name})
    if not new:
        log.info("no new crawl among %d; the newest is %s", len(listed), listed[0] if listed else "none")
    best_effort(
        lambda: _publish(rows or [{"crawl": "none is new", "flow run": ""}], artifact_key("crawl-watch", recipe.name))
    )
    return new


def _publish(rows: list[dict[str, str]], key: str) -> None:
    create_table_artifact(rows[:TABLE_ROWS], key=key, description="Crawls that the last watch started.")


def listed_crawls(recipe: Recipe, address: str) -> list[str]:
    """The ids of all crawls, newest first."""
    source = recipe.crawl_sources[0]
    if not address:
        address = source.index if source.mirror.rstrip("/") in PUBLIC_MIRRORS else source.mirror
    return list_crawls(address.removesuffix(COLLECTIONS))
