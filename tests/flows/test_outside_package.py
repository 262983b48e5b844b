"""A stage, rules and a measure of another package: run by worker processes, and shown as ours are."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.options import document_stages
from flows.params import stage_params
from flows.provenance.fates import fate_of
from flows.provenance.funnel import funnel
from flows.recipe import load_recipe
from flows.stages import in_order
from flows.start import run_in_workspace
from infra.errors import ConfigError
from infra.planning import StageSelection
from infra.store.store import Store

STAGE = '''
import pyarrow.compute as pc
from infra.config import Config
from infra.stage import ShardStage, Step, unit_id, unit_of_files
from pipeline.document import read_batches
from pipeline.ledger import documents_and_fates, fates_table

class ShoutConfig(Config):
    """What is loud."""
    mark: str = "!"
    """What ends a shout."""

def units(context):
    for file in context.inputs["documents"].files("data/", ".parquet"):
        yield unit_of_files(unit_id(file.path, file.digest), {"path": file.path}, [file])

def process(unit, context):
    path = unit.payload["path"]
    with documents_and_fates(context, path.removeprefix("data/")) as file:
        for batch in read_batches(context.inputs["documents"].url(path)):
            loud = pc.ends_with(batch.column("text"), context.config.mark)
            file.keep(batch.filter(pc.invert(loud)))
            file.lose(fates_table(batch.filter(loud), "shout", "dropped", rule="too_loud"))
    return file.counts

STAGE = ShardStage(
    name="shout", code_version=1, config=ShoutConfig, reference="loud_pkg.stage:STAGE",
    steps=(Step("listen", units, process),), consumes="documents", ledgered=True, description="Drops shouts.",
)
'''
RULES = '''
from pipeline.quality.measures import Measures
from pipeline.quality.rules import Expression, Rule
from pipeline.quality.text import ratio

QUESTIONS = Measures(
    ("question_lines",),
    lambda text, batch: {"question_lines": ratio(text.sum_lines(text.line_last == ord("?")), text.lines)},
)
STRICT = (Rule("questions", "question_lines", "at_most", 0.5), Expression("few", "words >= 3"))
'''
RECIPE = """
execution: {{workers: 1}}
stages:
  ingest:
    sources: [{{name: mine, kind: parquet, address: {folder}, profile: none, url_column: url}}]
  shout: {{use: "loud_pkg.stage:STAGE", after: ingest}}
  attributes: {{language: {{model: ""}}, measures: ["loud_pkg.rules:QUESTIONS"]}}
  quality: {{sources: [{{presets: ["loud_pkg.rules:STRICT"]}}]}}
"""
TEXTS = ["Go away now!", "Who are you?", "Two words", "The miller of the village is at home."]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "loud_pkg"
    package.mkdir(parents=True)
    for name, text in {"__init__": "", "stage": STAGE, "rules": RULES}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(package.parent))
    table = pa.table({"text": TEXTS, "url": [f"u{row}" for row in range(len(TEXTS))]})
    pq.write_table(table, tmp_path / "rows.parquet")
    path = tmp_path / "loud.yaml"
    path.write_text(RECIPE.format(folder=tmp_path / "rows.parquet"))
    return path


def test_a_run_takes_them_and_every_reader_shows_them(recipe: Path, tmp_path: Path):
    store = Store.at(str(tmp_path / "work"))
    loaded = load_recipe(str(recipe))
    assert [node.name for node in loaded.nodes] == ["ingest", "shout", "attributes", "quality"]
    result = run_in_workspace(loaded, StageSelection(), store, use_prefect=False, quiet=True)
    rows = {row.stage: (row.incoming, row.kept, row.dropped) for row in funnel(result.datasets.values())}
    assert rows == {
        "ingest": (4, 4, ()),
        "shout": (4, 3, (("too_loud", 1),)),
        "quality": (3, 1, (("few", 1), ("questions", 1))),
    }
    datasets = document_stages(store, loaded.label)
    assert [dataset.name for dataset in datasets] == ["ingest", "shout", "quality"]
    assert [(step.stage, step.verdict, step.rule) for step in fate_of("u0", datasets).history] == [
        ("ingest", "kept", None),
        ("shout", "dropped", "too_loud"),
    ]
    assert fate_of("u1", datasets).history[-1].rule == "questions"
    assert [dataset.name for dataset in in_order(reversed(list(result.datasets.values())))] == [
        "ingest", "shout", "attributes", "quality",
    ]  # fmt: skip
    for name, code in (("shout", "loud_pkg.stage:STAGE"), ("quality", "loud_pkg.rules:STRICT")):
        assert code in result.datasets[name].manifest.payload["code"]
    assert "code" not in result.datasets["ingest"].manifest.payload


def test_its_form_has_its_fields_and_the_recipe_s_values(recipe: Path):
    loaded = load_recipe(str(recipe), ["shout.mark=;"])
    form: Any = stage_params(loaded.node("shout").stage)
    filled = form(recipe=str(recipe), config={"mark": "."})
    assert filled.load_with_config("shout").node("shout").config.mark == "."


def test_only_the_recipe_s_file_names_code(recipe: Path):
    kept = ["loud_pkg.rules:STRICT"]
    assert load_recipe(str(recipe), [f"quality.sources={json.dumps([{'presets': kept}])}"])
    with pytest.raises(ConfigError, match="evil.rules:ALL is code, and only a recipe's file may name code"):
        load_recipe(str(recipe), ['quality.sources=[{presets: ["evil.rules:ALL"]}]'])
    with pytest.raises(ConfigError, match="only a recipe's file may name code"):
        load_recipe("demo", ["dedup.use=evil.stage:STAGE"])
    form = stage_params(load_recipe(str(recipe)).node("quality").stage)
    with pytest.raises(ConfigError, match="evil.rules:ALL is code"):
        form(recipe=str(recipe), config={"sources": [{"presets": ["evil.rules:ALL"]}]})
