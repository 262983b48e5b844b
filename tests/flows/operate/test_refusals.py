"""What a worker takes: runs of our deployments as they stand, whatever their pool would let through."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.utilities.schema_tools.validation import ValidationError, validate
from prefect.workers.process import ProcessWorker

from flows.operate.deploying import own_defaults
from flows.operate.deployments import deployments, refuse_relative, takes_commands
from flows.operate.refusals import closed_template, process_template, refusal
from flows.operate.worker import refusing
from flows.recipe import build_recipe, load_recipe
from flows.recipe_file import DEPLOYED
from infra import extensions
from infra.errors import ConfigError


def deployed(**changes: Any) -> Any:
    plain = {
        "entrypoint": "flows.stage_flows.dedup",
        "pull_steps": None,
        "storage_document_id": None,
        "job_variables": {},
    }
    return SimpleNamespace(**{**plain, **changes})


def run_with(**variables: Any) -> FlowRun:
    return FlowRun(flow_id=uuid4(), deployment_id=uuid4(), job_variables=variables or None)


def test_every_deployment_of_ours_is_taken_as_it_stands() -> None:
    for recipe in DEPLOYED:
        for spec in deployments(load_recipe(recipe)):
            assert refusal(run_with(), deployed(entrypoint=spec.entrypoint), "process") is None
    by_prefect = deployed(pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "/srv"}}])
    assert refusal(run_with(), by_prefect, "process") is None


def test_a_stage_of_another_package_is_taken_where_the_package_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = deployed(entrypoint="flows.stage_flows.shout")
    assert "none that headwater made" in (refusal(run_with(), theirs, "process") or "")
    monkeypatch.setattr(extensions, "_entry_points", lambda: {"headwater.stages": {"shout": "my_stage:STAGE"}})
    assert refusal(run_with(), theirs, "process") is None
    assert refusal(run_with(), deployed(entrypoint="shout"), "process") is not None


def test_the_server_takes_what_the_recipe_s_file_names() -> None:
    choices = {"items": {"type": "string", "enum": ["c4"]}}
    models = {"Rules": {"properties": {"presets": choices}}, "Source": {"properties": {"kind": {"enum": ["warc"]}}}}
    form = {"properties": {"params": {}}, "definitions": models}
    config = {"sources": [{"presets": ["c4", "my_rules:STRICT"], "kind": "my_mail:MBOX"}]}
    schema = own_defaults(form, {"recipe": "mine.yaml", "config": config})["definitions"]
    assert schema["Rules"]["properties"]["presets"]["items"]["enum"] == ["c4", "my_rules:STRICT"]
    assert schema["Source"]["properties"]["kind"]["enum"] == ["warc", "my_mail:MBOX"]
    assert schema["Source"]["additionalProperties"] is True
    assert choices["items"]["enum"] == ["c4"]


@pytest.mark.parametrize(
    "variables",
    [
        {"command": "touch /tmp/x"},
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"env.PATH": "/tmp"},
        {"working_dir": "/tmp"},
        {"image": "other", "command": ""},
        {"volumes": ["/:/host"]},
        {"privileged": True},
        {"of_tomorrow": "1"},
    ],
)
@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_a_variable_that_says_what_runs_is_refused_by_name(variables: dict[str, Any], kind: str) -> None:
    name = next(iter(variables)).split(".")[0]
    for of_run, of_deployment in ((variables, {}), ({}, variables)):
        sentence = refusal(run_with(**of_run), deployed(job_variables=of_deployment), kind)
        assert sentence and name in sentence and "command," not in sentence


def test_limits_of_a_container_may_be_set() -> None:
    limits = run_with(mem_limit="2g", cpus="1", gpus="all", stream_output=False)
    assert refusal(limits, deployed(), "docker") is None
    assert refusal(run_with(stream_output=True), deployed(), "process") is None


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        deployed(entrypoint="evil.py:flow"),
        deployed(entrypoint=None),
        deployed(pull_steps=[{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]),
        deployed(storage_document_id=uuid4()),
    ],
)
def test_what_is_not_ours_is_refused(foreign: Any) -> None:
    assert (refusal(run_with(), foreign, "process") or "").startswith("Refused")


def test_the_server_refuses_them_by_the_pools_template() -> None:
    template = process_template()
    assert not takes_commands(template) and takes_commands(ProcessWorker.get_default_base_job_template())
    validate({"stream_output": True}, template["variables"], raise_on_error=True, preprocess=True)
    for name in ("command", "env", "working_dir", "name", "labels", "other"):
        with pytest.raises(ValidationError):
            validate({name: "x"}, template["variables"], raise_on_error=True, preprocess=True)


def test_a_closed_template_keeps_the_defaults_it_takes_away() -> None:
    variables = {
        "image": {"type": "string", "default": "ours"},
        "mem_limit": {"type": "string", "default": "2g"},
        "name": {},
    }
    configuration = {"image": "{{ image }}", "mem_limit": "{{ mem_limit }}", "name": "{{ name }}", "user": "10001"}
    open_ = {
        "job_configuration": configuration,
        "variables": {"type": "object", "properties": variables, "required": ["image"]},
    }
    closed = closed_template("docker", open_)
    assert closed["job_configuration"] == {"image": "ours", "mem_limit": "{{ mem_limit }}", "user": "10001"}
    assert closed["variables"]["properties"] == {"mem_limit": variables["mem_limit"]}
    assert closed["variables"]["required"] == []
    assert "image" in open_["variables"]["properties"], "the one it was made from is left alone"


class FakeClient:
    def __init__(self, deployment: Any) -> None:
        self.deployment = deployment
        self.states: list[Any] = []
        self.labels: dict[str, str] = {}

    async def read_deployment(self, deployment: object) -> Any:
        if self.deployment is None:
            raise ObjectNotFound(http_exc=Exception("gone"))
        return self.deployment

    async def set_flow_run_state(self, run: object, state: Any, force: bool) -> None:
        self.states.append(state)

    async def update_flow_run_labels(self, run: object, labels: dict[str, str]) -> None:
        self.labels = labels


@pytest.mark.parametrize(("command", "taken"), [(None, True), ("touch /tmp/x", False)])
def test_a_worker_fails_what_it_refuses_and_claims_what_it_takes(
    command: str | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[FlowRun] = []

    async def submit(self: object, run: FlowRun) -> None:
        submitted.append(run)

    monkeypatch.setattr(ProcessWorker, "_submit_run", submit)
    worker = refusing(ProcessWorker)(work_pool_name="cpu", name="cpu-host")
    client = FakeClient(deployed())
    worker._client = client  # type: ignore[assignment]
    run = run_with(command=command) if command else run_with()
    worker._submitting_flow_run_ids.add(run.id)
    anyio.run(worker._submit_run, run)
    assert submitted == ([run] if taken else [])
    assert [state.name for state in client.states] == ([] if taken else ["Failed"])
    assert bool(client.labels) is taken
    if not taken:
        assert "command" in client.states[0].message
        assert run.id not in worker._submitting_flow_run_ids


@pytest.mark.parametrize(
    ("address", "relative"),
    [("here.jsonl", True), ("*.jsonl", True), ("{folder}/here.jsonl", False), ("s3://b/x", False)],
)
def test_a_path_that_a_worker_would_not_find_is_not_deployed(
    address: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").write_text("")
    source = {"name": "mine", "kind": "jsonl", "address": address.format(folder=tmp_path), "profile": "none"}
    recipe = build_recipe({"stages": {"ingest": {"sources": [source]}}}, "mine.yaml")
    if not relative:
        refuse_relative(recipe)
        return
    with pytest.raises(ConfigError, match=r"ingest\.sources\.address = .* is relative .*Write the whole path: /"):
        refuse_relative(recipe)
