"""The forms of the Prefect UI, checked without a server: what they ask, what they refuse, what they stand for."""

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

from flows.deployments import DEPLOYED, POOLS, as_yaml, deployments
from flows.params import PipelineParams, pipeline_params, stage_params
from flows.recipe import load_recipe
from flows.stages import load_stage
from infra.errors import ConfigError
from infra.planning import Selection
from tests.flows.golden_forms import FORMS, flow_of, lines_of, schema_of
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
    form = stage_params("dedup")
    recipe = load_recipe("demo", ["dedup.ngram=7"])
    alone = form(recipe="demo", overrides=["dedup.ngram=7"]).load_with_config("dedup")
    assert alone.node("dedup").config == recipe.node("dedup").config
    config = recipe.node("dedup").config.model_copy(update={"ngram": 3})
    filled = form(recipe="demo", config=config).load_with_config("dedup")
    assert filled.node("dedup").config.model_dump()["ngram"] == 3
    assert filled.node("quality").config == recipe.node("quality").config


def test_a_command_line_and_its_form_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stages: {sample: {}}")
    recipe = load_recipe(str(path), ["execution.workers=1"])
    form = pipeline_params(recipe, Selection("sample", None, (), ("sample",)), str(tmp_path))
    again = PipelineParams.model_validate(form.model_dump(mode="json"))
    assert again.load() == recipe
    assert again.selection == Selection("sample", None, (), ("sample",))
    assert load_recipe("demo").address == "demo"


def test_a_stage_the_recipe_does_not_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stages: {sample: {}}")
    form = stage_params("dedup")(recipe=str(path), config=load_stage("dedup").config())
    with pytest.raises(ConfigError, match="has no stage 'dedup'"):
        form.load_with_config("dedup")


def test_deployments_cover_the_path_and_fill_in_the_recipe() -> None:
    recipe = load_recipe("demo")
    specs = deployments(recipe)
    assert [spec.flow for spec in specs] == ["pipeline", *(node.name for node in recipe.nodes)]
    for spec in specs:
        assert spec.pool in POOLS
        flow = import_object(spec.entrypoint)
        assert flow.name == spec.flow
        assert flow.validate_parameters(spec.parameters)
        validate(spec.parameters, schema_of(spec.flow), raise_on_error=True)
        if spec.flow != "pipeline":
            filled = stage_params(spec.flow)(**spec.parameters["params"]).load_with_config(spec.flow)
            assert filled.node(spec.flow).config == recipe.node(spec.flow).config


def test_prefect_yaml_is_what_the_recipe_says() -> None:
    written = (REPOSITORY / "prefect.yaml").read_text()
    expected = as_yaml([load_recipe(name) for name in DEPLOYED])
    assert yaml.safe_load(written) == yaml.safe_load(expected), "run: python -m flows.deployments > prefect.yaml"
