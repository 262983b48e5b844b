"""Starting the whole path for a crawl on the server, once: what the daily watch and ``headwater backfill`` share.

A crawl is claimed in the workspace first (``flows.crawls.series``); the key of that claim is the idempotency key of its flow
run. Whoever asks a second time, or goes on where a killed one stopped, is given the same flow run; and once the run is on
record in the workspace nobody asks the server any more.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from flows.crawls.series import LAST_STAGE, Series, Started
from flows.operate.deployments import CRAWL_QUEUE, full_name
from flows.operate.flow_runs import crawl_slug
from flows.recipe import Recipe
from infra.errors import HeadwaterError


@dataclass(frozen=True)
class CrawlRun:
    """How the whole path is run on a crawl."""

    recipe: Recipe
    series: Series
    workspace: str
    dispatch: str
    train: bool

    def form(self, crawl: str) -> dict[str, Any]:
        return {
            "recipe": self.recipe.address,
            "overrides": list(self.recipe.overrides),
            "workspace": self.workspace,
            "crawl": crawl,
            "stop_after": None if self.train else LAST_STAGE,
            "dispatch": self.dispatch,
        }


def start_crawl(how: CrawlRun, crawl: str, by: str, *, again: bool = False) -> FlowRun:
    """Create the crawl's flow run in the queue of crawls; the one it has, unless it is to run ``again``."""
    key = how.series.claim(crawl, by)
    before = how.series.started(crawl)
    attempt = before.attempt + 1 if before and again else before.attempt if before else 1
    name = full_name("pipeline", how.recipe)
    try:
        run: Any = run_deployment(
            name,
            flow_run_name=f"pipeline-{crawl_slug(crawl)}",  # while it waits; its id is added when it begins
            parameters={"params": how.form(crawl)},
            idempotency_key=f"crawl:{key}:{attempt}",
            work_queue_name=CRAWL_QUEUE,
            tags=[f"crawl:{crawl}"],
            as_subflow=False,  # it outlives the watch, and is not cancelled with it
            timeout=0,
        )
    except ObjectNotFound as error:
        raise HeadwaterError(
            f"there is no deployment {name!r} to start for crawl {crawl}",
            remedy="Create it: headwater deploy --recipe NAME. The crawl is started by the next watch.",
        ) from error
    how.series.note_start(crawl, Started(str(run.id), attempt))
    started: FlowRun = run
    return started


def run_state(flow_run: str) -> str:
    """The state of a flow run by name (``Running``), or ``lost`` if the server does not know it."""
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(flow_run))
        except ObjectNotFound:
            return "lost"
    return str(run.state.name) if run.state is not None else "Pending"
