"""What the forms ask, one line a field, as it was agreed: ``python -m tests.flows.golden_forms > tests/flows/forms.golden``.

A form may gain fields. A field that goes, or changes its kind, bounds, choices or default, breaks those who start runs
through the API, and is to be seen in a review: as a changed line of that file.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect import Flow
from prefect.utilities.callables import parameter_schema

from flows.ablate.flow import ablate
from flows.crawls.watch import crawl_watch
from flows.mix.flow import mix
from flows.pipeline import pipeline
from flows.stage_flows import stage_flow
from flows.stages import STAGE_NAMES

FORMS = ("pipeline", "crawl_watch", "ablate", "mix", *STAGE_NAMES)
KEPT = ("type", "enum", "const", "default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern")


def flow_of(form: str) -> Flow[..., Any]:
    own = {"pipeline": pipeline, "crawl_watch": crawl_watch, "ablate": ablate, "mix": mix}
    return own[form] if form in own else stage_flow(form)


def schema_of(form: str) -> dict[str, Any]:
    return parameter_schema(flow_of(form)).model_dump_for_openapi()


def lines_of(form: str) -> list[str]:
    """``dedup params.config.bands {"default": 14, …}`` for every field."""
    schema = schema_of(form)
    return sorted(f"{form} {path} {json.dumps(kept, sort_keys=True)}" for path, kept in _fields(schema, schema, ""))


def _fields(node: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        model = model_of(field, schema)
        if model is None:
            yield here, _kept(field)
        else:
            yield from _fields(model, schema, here)
        item = model_of(field.get("items", {}), schema)
        if item is not None:
            yield from _fields(item, schema, f"{here}[]")


def model_of(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """The nested form a field refers to or is, if it is one."""
    if "properties" in field:
        return field
    reference = field.get("$ref") or next((part["$ref"] for part in field.get("allOf", []) if "$ref" in part), None)
    if reference is None:
        return None
    found = schema["definitions"][reference.rsplit("/", 1)[-1]]
    return found if "properties" in found else None


def _kept(field: dict[str, Any]) -> dict[str, Any]:
    kept = {key: field[key] for key in KEPT if key in field and not isinstance(field[key], (dict, list))}
    choices = [option for option in field.get("anyOf", []) if isinstance(option, dict)]
    if choices:
        kept["either"] = sorted(str(option.get("type", option.get("$ref", ""))) for option in choices)
    for part in (field, *choices):
        if "enum" in part:
            kept["enum"] = part["enum"]
    return kept


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for form in FORMS for line in lines_of(form)))
