"""What headwater keeps on a Prefect server: deployments, automations, runs of crawls, children, and how many rows.

One server for all of it, and no worker: runs that are created stay scheduled, and the tests play the worker's part.
"""

import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect import flow, runtime
from prefect._flow_run_suspension import mark_flow_run_suspension_requested
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from prefect.states import Cancelled, Completed, Failed, Running, Suspended
from prefect.testing.utilities import prefect_test_harness
from prefect.workers.process import ProcessWorker

from flows import recipe as recipe_module
from flows.crawls.watch import WatchParams, crawl_watch
from flows.operate import children
from flows.operate.automations import FAILED_RUNS, SILENT_RUNS, ensure_automations
from flows.operate.children import attempt_of, run_child, set_aside_unfinished
from flows.operate.deploying import deploy
from flows.operate.deployments import CRAWL_QUEUE
from flows.operate.endings import as_flow_state, unwrap_state
from flows.operate.refusals import process_template
from flows.params import PipelineParams, stage_params
from flows.pipeline import pipeline, run_as_flow
from flows.recipe import load_recipe
from flows.stage_flows import stage_flow
from flows.stages import load_stage
from infra.errors import HeadwaterError
from infra.planning import Action, StageSelection
from infra.store.store import Store
from tests.pipeline.sources.mirror import serve

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

RECIPE = """recipe: {name}
stages:
  ingest:
    sources: [{{name: web, kind: common_crawl, address: CC-MAIN-2026-05, mirror: "{mirror}", index: "{mirror}"}}]
"""


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as found:
        yield found


def crawl_recipe(folder: Path, mirror: str = "http://127.0.0.1:9", name: str = "monthly") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, mirror=mirror))
    return path


def runs_tagged(client: SyncPrefectClient, tag: str) -> list[FlowRun]:
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))


# ---- deployments and automations -------------------------------------------------------------------------------------


def test_deploying_again_keeps_what_an_operator_set(client: SyncPrefectClient, tmp_path: Path) -> None:
    recipe = load_recipe(str(crawl_recipe(tmp_path)))
    names = deploy([recipe], watch=False)
    assert names == ["pipeline/pipeline-monthly", "ingest/ingest-monthly", "crawl_watch/crawl-watch-monthly"]
    watching = client.read_deployment_by_name("crawl_watch/crawl-watch-monthly")
    (schedule,) = watching.schedules
    assert (schedule.schedule.cron, schedule.active) == ("0 6 * * *", False)
    client.update_deployment_schedule(watching.id, schedule.id, active=True)
    client.update_work_pool("cpu", _pool_update(concurrency_limit=3))
    deploy([recipe], watch=False)
    again = client.read_deployment_by_name("crawl_watch/crawl-watch-monthly")
    assert [entry.active for entry in again.schedules] == [True]
    assert again.id == watching.id
    assert client.read_work_pool("cpu").concurrency_limit == 3
    (queue,) = [entry for entry in client.read_work_queues(work_pool_name="control") if entry.name == CRAWL_QUEUE]
    assert queue.concurrency_limit == 1


def _pool_update(**changes: Any) -> Any:
    from prefect.client.schemas.actions import WorkPoolUpdate

    return WorkPoolUpdate(**changes)


def test_an_open_pool_is_closed_and_one_that_an_operator_closed_is_left(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    recipe = load_recipe(str(crawl_recipe(tmp_path)))
    deploy([recipe], watch=False)
    client.update_work_pool("gpu", _pool_update(base_job_template=ProcessWorker.get_default_base_job_template()))
    own = process_template()
    own["variables"]["properties"]["stream_output"]["default"] = False
    client.update_work_pool("cpu", _pool_update(base_job_template=own))
    deploy([recipe], watch=False)
    assert client.read_work_pool("gpu").base_job_template == process_template()
    assert client.read_work_pool("cpu").base_job_template == own


def test_automations_are_created_once(client: SyncPrefectClient) -> None:
    first = ensure_automations(None)
    assert [(entry.name, entry.action) for entry in first] == [(SILENT_RUNS, "created"), (FAILED_RUNS, "not created")]
    for _ in range(2):
        ensure_automations("http://127.0.0.1:9/hook?token=secret")
    found = {entry.name: entry for entry in client.read_automations()}
    assert sorted(found) == [FAILED_RUNS, SILENT_RUNS]
    trigger = found[SILENT_RUNS].trigger
    assert trigger.within.total_seconds() == 540
    assert trigger.posture.value == "Proactive"
    assert "secret" not in json.dumps([entry.model_dump(mode="json") for entry in found.values()])


# ---- the crawl watch -------------------------------------------------------------------------------------------------


def test_each_crawl_gets_one_run_ever(client: SyncPrefectClient, tmp_path: Path) -> None:
    with serve() as mirror:
        for crawl in ("CC-MAIN-2026-01", "CC-MAIN-2026-05"):
            mirror.add_crawl(crawl, {})
        recipe = crawl_recipe(tmp_path, mirror.url)
        deploy([load_recipe(str(recipe))], watch=False)
        params = WatchParams(recipe=str(recipe), workspace=str(tmp_path / "workspace"))
        assert crawl_watch(params) == ["CC-MAIN-2026-05"]
        assert crawl_watch(params) == []
        for crawl in ("CC-MAIN-2026-10", "CC-MAIN-2026-14"):  # the server was down when the first of them came
            mirror.add_crawl(crawl, {})
        (tmp_path / "workspace/crawls/monthly/CC-MAIN-2026-10").mkdir(parents=True)
        threads = [threading.Thread(target=crawl_watch, args=(params,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert crawl_watch(params) == []
    for crawl in ("CC-MAIN-2026-05", "CC-MAIN-2026-10", "CC-MAIN-2026-14"):
        (run,) = runs_tagged(client, f"crawl:{crawl}")
        form = run.parameters["params"]
        assert (form["crawl"], form["stop_after"]) == (crawl, "shards")
        assert run.work_queue_name == CRAWL_QUEUE
        assert run.parent_task_run_id is None
    assert not runs_tagged(client, "crawl:CC-MAIN-2026-01")


# ---- children --------------------------------------------------------------------------------------------------------


@pytest.fixture
def child(client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(children, "POLL_S", (0.1, 0.2))
    name = f"child{tmp_path.name.replace('_', '')[-12:]}"
    deploy([load_recipe(str(crawl_recipe(tmp_path, name=name)))], watch=False)
    return f"ingest/ingest-{name}"


def play_worker(client: SyncPrefectClient, name: str, *states: State) -> threading.Thread:
    """Take the deployment's newest run through some states, as soon as there is one."""

    def play() -> None:
        with get_client(sync_client=True) as own:
            deployment = own.read_deployment_by_name(name)
            run = wait_for(lambda: [r for r in own.read_flow_runs() if r.deployment_id == deployment.id])[0]
            for state in states:
                time.sleep(0.3)
                own.set_flow_run_state(run.id, state, force=True)

    thread = threading.Thread(target=play)
    thread.start()
    return thread


def wait_for(found: Callable[[], list[FlowRun]]) -> list[FlowRun]:
    for _ in range(150):
        if runs := found():
            return runs
        time.sleep(0.2)
    raise TimeoutError("no flow run was created")


@pytest.mark.parametrize(
    ("end", "state", "sentence"),
    [
        (Failed(message="ingest: there is no file."), "Failed", "ingest: there is no file (flow run "),
        (Failed(), "Failed", "ingest: it ended as Failed without a word"),
        (Cancelled(), "Cancelled", "ingest: cancelled"),
        (Completed(), "Completed", ""),
    ],
)
def test_a_parent_ends_as_its_child_did(
    client: SyncPrefectClient, child: str, end: State, state: str, sentence: str
) -> None:
    @flow(name="parent")
    def parent() -> None:
        return as_flow_state("pipeline", lambda: run_child(child, {}, []) and None)

    worker = play_worker(client, child, Running(), end)
    result = parent(return_state=True)
    worker.join()
    assert result.name == state
    assert sentence in (result.message or "")


def test_a_retried_parent_waits_for_the_child_it_has(
    client: SyncPrefectClient, child: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, attempts = children._wait_for_end, []

    def torn(own: SyncPrefectClient, run: Any) -> FlowRun:
        attempts.append(run)
        if len(attempts) == 1:
            raise ConnectionError("the parent's machine went away")
        return wait(own, run)

    monkeypatch.setattr(children, "_wait_for_end", torn)

    @flow(name="retried-parent", retries=1)
    def parent() -> str:
        return str(run_child(child, {}, []).id)

    worker = play_worker(client, child, Running(), *[Running()] * 3, Completed())
    seen = parent()
    worker.join()
    assert len(attempts) == 2
    assert str(attempts[0]) == str(attempts[1]) == seen
    deployment = client.read_deployment_by_name(child)
    assert len([run for run in client.read_flow_runs() if run.deployment_id == deployment.id]) == 1


def test_a_failed_child_of_an_earlier_attempt_is_not_taken_again(
    client: SyncPrefectClient, child: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [Failed(message="once"), Completed()]

    def end_it(own: SyncPrefectClient, run: Any) -> FlowRun:
        own.set_flow_run_state(run, ends.pop(0), force=True)
        return own.read_flow_run(run)

    monkeypatch.setattr(children, "_wait_for_end", end_it)

    @flow(name="parent-of-two", retries=1)
    def parent() -> str:
        return str(run_child(child, {}, []).id)

    assert parent()
    deployment = client.read_deployment_by_name(child)
    assert len([run for run in client.read_flow_runs() if run.deployment_id == deployment.id]) == 2


def test_a_paused_and_resumed_parent_gives_the_stage_a_run_of_its_own(client: SyncPrefectClient, child: str) -> None:
    """Prefect would go on in the unfinished one: its log would have two beginnings."""
    seen: list[UUID] = []

    @flow(name="ingest")
    def stage() -> None:
        seen.append(UUID(str(runtime.flow_run.id)))
        if len(seen) == 1:
            client.set_flow_run_state(parent.id, Suspended(timeout_seconds=600), force=True)
            mark_flow_run_suspension_requested(parent.id, Suspended(timeout_seconds=600))

    @flow(name="whole")
    def whole(params: object = None) -> None:
        set_aside_unfinished("ingest")
        stage()

    # Only a run of a deployment can be paused: this one is of some deployment, and is carried out here.
    parent = client.create_flow_run_from_deployment(client.read_deployment_by_name(child).id)
    with pytest.raises(Pause):
        run_flow(whole, flow_run=client.read_flow_run(parent.id))
    client.resume_flow_run(parent.id)
    run_flow(whole, flow_run=client.read_flow_run(parent.id))
    left, finished = (client.read_flow_run(child) for child in seen)
    assert left.id != finished.id and (left.run_count, finished.run_count) == (1, 1)
    assert (left.state_name, finished.state_name) == ("Crashed", "Completed")
    assert left.state is not None and "went on with another one" in str(left.state.message)
    assert attempt_of(client, str(parent.id)) == 2
    assert client.read_flow_run(parent.id).state_name == "Completed"


# ---- how much a run leaves in the database ---------------------------------------------------------------------------


def rows_in_database() -> int:
    path = PREFECT_API_DATABASE_CONNECTION_URL.value().split("///", 1)[1]
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
        return sum(database.execute(f'select count(*) from "{table}"').fetchone()[0] for table in tables)


def settled_rows() -> int:
    """Events and logs arrive a little after the run: the count once it has stood still for some seconds."""
    before, still = rows_in_database(), 0
    while still < 4:
        time.sleep(1.0)
        now = rows_in_database()
        still, before = (still + 1 if now == before else 0), now
    return before


def small_recipe(folder: Path, units: int) -> Path:
    for number in range(units):
        row = {"id": f"{units}-{number}", "text": f"Document {number} of a small source. " * 8}
        (folder / f"{number:03}.jsonl").write_text(json.dumps(row) + "\n")
    recipe = folder / "many.yaml"
    recipe.write_text(
        "recipe: many\nstages:\n  ingest:\n    sources:\n"
        f'      - {{name: texts, kind: jsonl, address: "{folder}/*.jsonl", id_column: id, language: en}}\n'
    )
    return recipe


def test_a_recipe_is_read_once_on_its_way_to_a_stage(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    plain = recipe_module.read_recipe_file
    monkeypatch.setattr(recipe_module, "read_recipe_file", lambda path: (read.append(path), plain(path))[1])
    file, store = small_recipe(tmp_path, 1), Store.at(tmp_path / "workspace")
    result = run_as_flow(load_recipe(str(file)), StageSelection(), store)
    assert [outcome.stage for outcome in result.outcomes] == ["ingest"] and read == [file]
    again = unwrap_state(pipeline(PipelineParams(recipe=str(file), workspace=store.address, force=["ingest"])))
    assert [outcome.action for outcome in again.outcomes] == [Action.RUN] and read == [file, file]


def test_rows_do_not_grow_with_the_number_of_units(client: SyncPrefectClient, tmp_path: Path) -> None:
    counted = {}
    for units in (4, 120):
        folder = tmp_path / str(units)
        folder.mkdir()
        recipe = small_recipe(folder, units)
        before = settled_rows()
        form = stage_params(load_stage("ingest"))(recipe=str(recipe), workspace=str(folder / "workspace"))
        outcome = unwrap_state(stage_flow("ingest")(params=form))
        assert outcome.dataset.manifest.units.ok == units
        counted[units] = settled_rows() - before
    print("rows in the database", counted)
    assert counted[120] < 200
    assert counted[120] <= counted[4] + 30


def test_a_deployment_that_is_not_there_is_one_sentence(client: SyncPrefectClient) -> None:
    @flow(name="orphan")
    def parent() -> None:
        run_child("ingest/nowhere", {}, [])

    with pytest.raises(HeadwaterError, match="there is no deployment 'ingest/nowhere'"):
        parent()
