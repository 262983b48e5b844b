"""A lab as a flow: a run for each arm and seed within it, the forecast, the verdicts as a table."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.testing.utilities import prefect_test_harness

from flows.ablate.flow import ablate, run_lab_as_flow
from flows.ablate.lab import load_lab
from flows.ablate.run import LabPlan
from flows.params import AblateParams
from infra.errors import InputError
from infra.job import JobSpec
from infra.store.store import Store
from tests.flows.ablate.toy import SimulatedLauncher, use_launcher, write_lab

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as found:
        yield found


def test_a_lab_is_a_run_with_one_for_each_arm_and_seed(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_launcher(monkeypatch, SimulatedLauncher())
    path, workspace = str(write_lab(tmp_path)), str(tmp_path / "ws")
    planned = ablate(AblateParams(lab=path, workspace=workspace, dry_run=True))
    assert isinstance(planned, LabPlan) and planned.trainings == 16
    overrides = ["execution.workers=2"]
    run_lab_as_flow(load_lab(path, overrides), Store.at(workspace))
    runs = client.read_flow_runs()
    parent = max((run for run in runs if run.name.startswith("ablate-lab")), key=lambda run: run.created)
    children = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent.id]))
    )
    assert sorted(run.name for run in children) == [
        f"{arm}-seed-{seed}" for arm in ("aa", "default", "noisy") for seed in (0, 1)
    ]
    assert all(run.state.is_completed() and "bits per byte at 0.01: prose 2." in run.state.message for run in children)
    assert "noisy worse (+0." in parent.state.message
    for key in ("lab-plan", "verdicts"):
        assert client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_a_training_that_fails_fails_the_lab_with_its_sentence(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(SimulatedLauncher):
        def carry_out(self, spec: JobSpec, work_dir: Path) -> None:
            raise InputError("the disk of the test is full", remedy="Free it.")

    use_launcher(monkeypatch, Fails())
    with pytest.raises(InputError, match="the disk of the test is full"):
        run_lab_as_flow(load_lab(str(write_lab(tmp_path))), Store.at(tmp_path / "ws"))
