"""What a campaign of kills in containers rests on: a killed container is a victim, and the next run publishes the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.campaign import digests, stage_at_work
from tests.chaos.containers import ContainerCluster, containers
from tests.chaos.victims import flow_runs, victims
from tests.docker.engine import Engine
from tests.docker.test_services import digest_here, write_input
from tests.flows.cluster import running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

DOCUMENTS = 60_000
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def cluster(
    container_engine: Engine, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerCluster]:
    home = tmp_path_factory.mktemp("chaos") / "workspace"
    (home / "input").mkdir(parents=True)
    recipe = write_input(home / "input", str(home / "input"), documents=DOCUMENTS)
    with running(ContainerCluster(home, str(recipe), engine=container_engine)) as cluster:
        yield cluster
    assert containers(container_engine, home, everything=True) == []


def test_a_killed_container_of_a_stage_costs_nothing(cluster: ContainerCluster, tmp_path: Path) -> None:
    run = cluster.submit("pipeline/pipeline-small", dispatch="deployments")
    wait_for(lambda: stage_at_work(cluster) == "ingest", PATIENCE_S, "the stage to begin")
    path, stage = sorted(flow_runs(cluster), key=lambda each: each != run)
    assert path == run
    [container] = [
        each
        for each in containers(cluster.engine, cluster.workspace)
        if stage in cluster.engine.docker("inspect", "--format", "{{json .Config.Labels}}", each)
    ]
    assert len(victims(cluster)["container"]) == 2
    wait_for(lambda: "pool" in victims(cluster), PATIENCE_S, "a process of the pool in the container")
    cluster.kill_container(container)
    assert cluster.ended(run, PATIENCE_S) == "FAILED"
    assert cluster.state(stage) == "CRASHED"
    with pytest.raises(ProcessLookupError):
        cluster.kill_container(container)
    again = cluster.submit("pipeline/pipeline-small", dispatch="deployments")
    assert cluster.ended(again, PATIENCE_S) == "COMPLETED"
    assert digests(cluster.workspace) == {"ingest": digest_here(tmp_path, DOCUMENTS)}
