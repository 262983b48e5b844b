"""The forms of the Prefect UI, checked without a server: what they ask, what they refuse, what they stand for."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# Prefect reads its settings when it is imported: nothing of these tests may touch the user's own.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-home-")

from prefect.exceptions import ParameterTypeError
from prefect.utilities.importtools import import_object
from prefect.utilities.schema_tools.validation import validate

from flows.operate.deploying import own_defaults
from flows.operate.deployments import POOLS, as_yaml, deployments
from flows.operate.flow_runs import run_name_of
from flows.params import PipelineParams, completed, pipeline_params, stage_params
from flows.recipe import load_recipe
from flows.recipe_file import DEPLOYED
from flows.stages import load_stage
from infra.errors import ConfigError
from infra.planning import StageSelection
from tests.flows.golden_forms import FORMS, flow_of, lines_of, model_of, schema_of
from tests.support import REPOSITORY


def parts(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a JSON schema with its path."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from parts(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from parts(value, f"{path}/{index}")


def fields_of(schema: dict[str, Any], model: Any = None, path: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every field at every depth: its path, what the form says of it, and the form it is, if it is one."""
    for name, field in (model or schema).get("properties", {}).items():
        nested, item = model_of(field, schema), model_of(field.get("items", {}), schema)
        yield f"{path}.{name}", field, nested or {}
        for part, where in ((nested, f"{path}.{name}"), (item, f"{path}.{name}[]")):
            if part is not None:
                yield from fields_of(schema, part, where)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_can_be_run_unfilled_and_drawn(name: str) -> None:
    flow = flow_of(name)
    assert flow.name == name
    assert flow.validate_parameters({"params": {}})
    schema = schema_of(name)
    # As the server does it: nothing filled in, and every default written out.
    for form in ({}, flow.validate_parameters({"params": {}})["params"].model_dump(mode="json")):
        validate({"params": form}, schema, raise_on_error=True)
    assert not schema.get("required")
    for path, part in parts(schema):
        models = [option for option in part.get("anyOf", []) if "$ref" in option]
        assert len(models) < 2, f"{path}: the UI cannot draw a union of models"
        assert part.get("type") != "object" or part.get("additionalProperties") is not True, f"{path}: free-form"


@pytest.mark.parametrize("name", FORMS)
def test_every_field_of_every_form_is_described_in_plain_words(name: str) -> None:
    schema = schema_of(name)
    silent = [
        path for path, field, form in fields_of(schema) if not (field.get("description") or form.get("description"))
    ]
    assert not silent
    assert "``" not in json.dumps(schema) + (flow_of(name).description or "")


@pytest.mark.parametrize("name", FORMS)
def test_forms_keep_what_was_agreed(name: str) -> None:
    golden = (REPOSITORY / "tests/flows/forms.golden").read_text().splitlines()
    agreed = {line for line in golden if line.startswith(f"{name} ")}
    assert agreed
    gone = agreed - set(lines_of(name))
    assert not gone, f"{sorted(gone)}: if that is meant, python -m tests.flows.golden_forms > tests/flows/forms.golden"


def test_bounds_choices_and_descriptions_reach_the_form() -> None:
    definitions = schema_of("dedup")["definitions"]
    fields = definitions[type(load_stage("dedup").config()).__name__]["properties"]
    assert fields["bands"]["minimum"] == 1
    assert "enum" in fields["preset"]
    whole = schema_of("pipeline")["definitions"]["PipelineParams"]["properties"]
    assert "dedup" in whole["start_at"]["anyOf"][0]["enum"]
    assert all(field.get("title") and field.get("description") for field in whole.values())


@pytest.mark.parametrize(
    ("flow", "form"),
    [
        ("dedup", {"config": {"bands": 0}}),
        ("dedup", {"config": {"no_such_field": 1}}),
        ("dedup", {"no_such_field": 1}),
        ("pipeline", {"start_at": "no_such_stage"}),
        ("pipeline", {"dispatch": "elsewhere"}),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(flow: str, form: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError):
        import_object(
            f"flows.stage_flows.{flow}" if flow != "pipeline" else "flows.pipeline.pipeline"
        ).validate_parameters({"params": form})


def test_a_form_left_alone_means_the_recipe_and_a_filled_one_itself() -> None:
    form = stage_params(load_stage("dedup"))
    recipe = load_recipe("demo", ["dedup.ngram=7"])
    alone = form(recipe="demo", overrides=["dedup.ngram=7"]).load_with_config("dedup")
    assert alone.node("dedup").config == recipe.node("dedup").config
    config = recipe.node("dedup").config.model_copy(update={"ngram": 3})
    filled = form(recipe="demo", config=config).load_with_config("dedup")
    assert filled.node("dedup").config.model_dump()["ngram"] == 3
    assert filled.node("quality").config == recipe.node("quality").config


def test_a_part_of_a_configuration_changes_that_part_of_the_recipes() -> None:
    """Groups field by field, at any depth; lists as a whole."""
    recipe = load_recipe("smoke", ["pretrain.steps=7", "pretrain.optimizer.lr=0.5"])
    form = stage_params(load_stage("pretrain")).model_validate(
        {
            "recipe": "smoke",
            "overrides": list(recipe.overrides),
            "config": {"optimizer": {"schedule": {"warmup_steps": 3}}},
        }
    )
    config: Any = form.load_with_config("pretrain").node("pretrain").config
    assert (config.steps, config.optimizer.lr, config.optimizer.schedule.warmup_steps) == (7, 0.5, 3)
    own: Any = recipe.node("pretrain").config
    assert config.model_copy(update={"optimizer": own.optimizer}) == own
    rules = stage_params(load_stage("quality")).model_validate(
        {"recipe": "demo", "config": {"sources": [{"source": "*"}]}}
    )
    sources: Any = rules.load_with_config("quality").node("quality").config
    assert [entry.source for entry in sources.sources] == ["*"], "the recipe's other rules are replaced"


@pytest.mark.parametrize("given", [{}, {"force": True}, {"config": {"ngram": 9}}, {"crawl": "CC-MAIN-2026-46"}])
def test_partial_parameters_leave_the_rest_as_deployed(given: dict[str, Any]) -> None:
    """What Prefect hands a flow is the part alone: it replaces ``params`` as a whole."""
    recipe = load_recipe("smoke", ["dedup.threshold=0.6"])
    (spec,) = [spec for spec in deployments(recipe) if spec.flow == "dedup"]
    deployed = spec.parameters["params"] | {"workspace": "/srv/ws"}
    form: Any = completed(stage_params(load_stage("dedup")).model_validate(given), deployed)
    assert (form.recipe, form.workspace, form.overrides) == ("smoke", "/srv/ws", ["dedup.threshold=0.6"])
    assert form.force is given.get("force", False) and form.crawl == given.get("crawl", "")
    config = form.load_with_config("dedup").node("dedup").config
    expected = recipe.node("dedup").config.model_copy(update=given.get("config", {}))
    assert config == expected
    whole = PipelineParams.model_validate({"force": ["dedup"]})
    assert completed(whole, {"recipe": "smoke", "stop_after": "dedup"}).selection == StageSelection(
        None, "dedup", (), ("dedup",)
    )
    assert completed(whole, {"recipe": "smoke", "of_another_version": 1}).recipe == "smoke"


def test_a_deployment_shows_its_own_recipe_where_nothing_is_filled_in() -> None:
    (spec,) = [spec for spec in deployments(load_recipe("smoke")) if spec.flow == "dedup"]
    schema = own_defaults(schema_of("dedup"), spec.parameters["params"])
    assert schema["definitions"]["DedupParams"]["properties"]["recipe"]["default"] == "smoke"
    assert schema["properties"]["params"]["default"]["recipe"] == "smoke"
    assert schema_of("dedup")["definitions"]["DedupParams"]["properties"]["recipe"]["default"] == "demo"


def test_deployments_say_what_they_run_in_their_own_names() -> None:
    names = [spec.name for recipe in DEPLOYED for spec in deployments(load_recipe(recipe))]
    assert {"pipeline-demo", "dedup-demo", "pipeline-smoke", "pretrain-smoke"} <= set(names)
    assert len(set(names)) == len(names)
    assert not any("common-crawl" in name for name in names), "only on request"
    on_request = {spec.name for spec in deployments(load_recipe("common-crawl-1b"))}
    assert {"pipeline-common-crawl-1b", "crawl-watch-common-crawl-1b"} <= on_request


def test_runs_that_a_schedule_makes_together_have_names_of_their_own() -> None:
    ids = ["01a21e8c-9986-7663-b886-288b1386aec0", "01a21e8c-9986-7663-b886-288b13869b1f"]
    assert len({run_name_of("dedup", {"recipe": "demo"}, run) for run in ids}) == 2
    assert run_name_of("crawl_watch", {"recipe": "/srv/mine.yaml"}, ids[0]) == "crawl-watch-mine-1386aec0"
    assert run_name_of("dedup", {"recipe": "demo", "crawl": "CC-MAIN-2026-46"}, ids[0]) == "dedup-cc-2026-46-1386aec0"


def test_a_command_line_and_its_form_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stages: {sample: {}}")
    recipe = load_recipe(str(path), ["execution.workers=1"])
    form = pipeline_params(recipe, StageSelection("sample", None, (), ("sample",)), str(tmp_path))
    again = PipelineParams.model_validate(form.model_dump(mode="json"))
    assert again.load() == recipe
    assert again.selection == StageSelection("sample", None, (), ("sample",))
    assert load_recipe("demo").address == "demo"


def test_a_stage_the_recipe_does_not_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stages: {sample: {}}")
    form = stage_params(load_stage("dedup"))(recipe=str(path), config=load_stage("dedup").config())
    with pytest.raises(ConfigError, match="has no stage 'dedup'"):
        form.load_with_config("dedup")


def test_deployments_cover_the_path_and_fill_in_the_recipe() -> None:
    recipe = load_recipe("demo")
    specs = deployments(recipe)
    assert [spec.flow for spec in specs] == ["pipeline", *(node.name for node in recipe.nodes), "ablate", "mix"]
    for spec in specs:
        assert spec.pool in POOLS
        assert spec.description and "``" not in spec.description
        flow = import_object(spec.entrypoint)
        assert flow.name == spec.flow
        assert flow.validate_parameters(spec.parameters)
        validate(spec.parameters, schema_of(spec.flow), raise_on_error=True)
        if spec.flow not in ("pipeline", "ablate", "mix"):
            filled = stage_params(load_stage(spec.flow))(**spec.parameters["params"]).load_with_config(spec.flow)
            assert filled.node(spec.flow).config == recipe.node(spec.flow).config


def test_prefect_yaml_is_what_the_recipe_says() -> None:
    written = (REPOSITORY / "prefect.yaml").read_text()
    expected = as_yaml([load_recipe(name) for name in DEPLOYED])
    assert yaml.safe_load(written) == yaml.safe_load(expected), (
        "run: python -m flows.operate.deployments > prefect.yaml"
    )
