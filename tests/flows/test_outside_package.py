"""A source, a stage, rules and a measure of another package: run by worker processes, and shown as ours are.

The package is the one that the docs walk through, and its tests are the docs' own.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flows.forecast import forecast
from flows.params import stage_params
from flows.provenance.differences import difference_of
from flows.provenance.fates import fate_of
from flows.provenance.funnel import funnel
from flows.recipe import load_recipe
from flows.stages import document_stages, in_order, load_stage
from flows.start import run_in_workspace
from infra.errors import ConfigError, InputError
from infra.extensions import code_of, load
from infra.planning import StageSelection, plan
from infra.store.store import Store
from pipeline.dedup.own import Level
from pipeline.ingest import STAGE as INGEST
from pipeline.ingest import IngestConfig
from tests.pipeline.sources.archives import PROSE, gzip_members, html_page, warc_record
from tests.support import REPOSITORY
from training.own_tasks import OwnTask

RECIPE = """
execution: {{workers: 1}}
stages:
  ingest:
    sources: [{{name: mine, kind: parquet, address: {folder}, profile: none, url_column: url}}]
  shout: {{use: "my_stage:STAGE", after: ingest}}
  attributes: {{language: {{model: ""}}, measures: ["my_rules:QUESTIONS"]}}
  quality: {{sources: [{{presets: ["my_rules:STRICT"]}}]}}
"""
TEXTS = ["Go away now!", "Who are you?", "Two words", "The miller of the village is at home."]


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the docs' packages and their tests are installed."""
    folder = tmp_path_factory.mktemp("site")
    for page in ("adding-a-filter", "adding-a-source", "adding-a-stage", "dedup", "training"):
        text = (REPOSITORY / f"docs/{page}.md").read_text()
        for path, code in re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path.replace("tests/", "doc_tests/")).parent.mkdir(exist_ok=True)
            (folder / path.replace("tests/", "doc_tests/")).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    table = pa.table({"text": TEXTS, "url": [f"u{row}" for row in range(len(TEXTS))]})
    pq.write_table(table, tmp_path / "rows.parquet")
    path = tmp_path / "loud.yaml"
    path.write_text(RECIPE.format(folder=tmp_path / "rows.parquet"))
    return path


def test_the_tests_of_the_docs_pass(tmp_path: Path):
    importlib.import_module("doc_tests.test_rules").test_question_lines()
    importlib.import_module("doc_tests.test_mail").test_a_message_is_a_document(tmp_path)


def test_what_the_docs_declare_is_what_belongs_there():
    assert load("my_levels:TITLE", "levels", Level).rule == "title_duplicate"
    assert load("my_evals:RHYMES", "tasks", OwnTask).metric == "accuracy"


def test_options_of_another_package_s_source_are_checked():
    source = {"name": "letters", "kind": "my_mail:MBOX", "address": "x"}
    ours = IngestConfig.model_validate({"sources": [source | {"quotes": True}]})
    assert IngestConfig.model_validate(ours.model_dump(mode="json")) == ours
    assert ours.sources[0].profile == "chat"
    assert list(code_of(INGEST, ours)) == ["my_mail:MBOX"]
    for wrong, sentence in (
        ({"quotes": "much"}, "quotes: Input should be a valid boolean"),
        ({"quote": True}, "quote: Extra inputs are not permitted"),
        ({"kind": "my_mail:MOBX"}, "has no MOBX. Did you mean 'MBOX'?"),
        ({"kind": "mbox"}, "'mbox' is none of common_crawl"),
    ):
        with pytest.raises(ValidationError, match=re.escape(sentence)):
            IngestConfig.model_validate({"sources": [source | wrong]})


def test_a_run_takes_them_and_every_reader_shows_them(recipe: Path, tmp_path: Path):
    store = Store.at(str(tmp_path / "work"))
    loaded = load_recipe(str(recipe))
    assert [node.name for node in loaded.nodes] == ["ingest", "shout", "attributes", "quality"]
    result = run_in_workspace(loaded, StageSelection(), store, use_prefect=False, quiet=True)
    rows = {row.stage: (row.incoming, row.kept, row.dropped) for row in funnel(result.datasets.values())}
    assert rows == {
        "ingest": (4, 4, ()),
        "shout": (4, 3, (("too_loud", 1),)),
        "quality": (3, 1, (("a_few_words", 1), ("questions", 1))),
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
    for name, code in (("shout", "my_stage:STAGE"), ("quality", "my_rules:STRICT")):
        assert code in result.datasets[name].manifest.payload["code"]
    assert "code" not in result.datasets["ingest"].manifest.payload


def test_its_form_has_its_fields_and_the_recipe_s_values(recipe: Path):
    loaded = load_recipe(str(recipe), ["shout.mark=;"])
    form: Any = stage_params(loaded.node("shout").stage)
    filled = form(recipe=str(recipe), config={"mark": "."})
    assert filled.load_with_config("shout").node("shout").config.mark == "."


def test_only_the_recipe_s_file_names_code(recipe: Path):
    kept = ["my_rules:STRICT"]
    assert load_recipe(str(recipe), [f"quality.sources={json.dumps([{'presets': kept}])}"])
    with pytest.raises(ConfigError, match="evil.rules:ALL is code, and only a recipe's file may name code"):
        load_recipe(str(recipe), ['quality.sources=[{presets: ["evil.rules:ALL"]}]'])
    with pytest.raises(ConfigError, match="only a recipe's file may name code"):
        load_recipe("demo", ["dedup.use=evil.stage:STAGE"])
    form = stage_params(load_recipe(str(recipe)).node("quality").stage)
    with pytest.raises(ConfigError, match="evil.rules:ALL is code"):
        form(recipe=str(recipe), config={"sources": [{"presets": ["evil.rules:ALL"]}]})


TWICE = """
execution: {{workers: 1}}
stages:
  ingest:
    sources: [{{name: mine, kind: parquet, address: {folder}, profile: none, url_column: url}}]
  dedup: {{}}
  quiet: {{use: "my_stage:STAGE", after: dedup, mark: "?"}}
  quieter: {{use: "my_stage:STAGE", after: quiet}}
  dedup_again: {{use: dedup, after: quieter, ngram: 1, threshold: 0.6}}
  report: {{}}
"""


def test_a_stage_may_stand_twice_and_a_label_may_stand_in_its_place(tmp_path: Path):
    texts = [
        "One two three four five",
        "One two three four six",
        "One two three four seven!",
        "Who are you?",
        "x y z w v",
    ]
    table = pa.table({"text": texts, "url": [f"u{row}" for row in range(len(texts))]})
    pq.write_table(table, tmp_path / "rows.parquet")
    path = tmp_path / "twice.yaml"
    path.write_text(TWICE.format(folder=tmp_path / "rows.parquet"))
    store = Store.at(str(tmp_path / "work"))

    def run(*overrides: str) -> Any:
        loaded = load_recipe(str(path), overrides)
        return run_in_workspace(loaded, StageSelection(), store, use_prefect=False, quiet=True)

    done = run()
    rows = {row.stage: (row.incoming, row.kept, row.dropped) for row in funnel(done.datasets.values())}
    assert rows["quiet"] == (5, 4, (("too_loud", 1),)) and rows["quieter"] == (4, 3, (("too_loud", 1),))
    assert rows["dedup"] == (5, 5, ()) and rows["dedup_again"] == (3, 2, (("near_duplicate", 1),))
    again = done.datasets["dedup_again"]
    assert (again.name, again.kind) == ("dedup_again", "dedup")
    fates = [fate_of(f"u{row}", document_stages(store, "twice")) for row in range(3)]
    dropped = next(fate for fate in fates[:2] if fate.history[-1].rule)
    assert dropped.history[-1].stage == "dedup_again" and difference_of(dropped, document_stages(store, "twice"))
    assert [step.stage for step in fates[2].history] == ["ingest", "dedup", "quiet", "quieter"]
    assert "dedup_again" in (done.datasets["report"].local("data/report.html")).read_text()

    assert [outcome.action for outcome in run().outcomes] == ["SKIP"] * 6
    loaded = load_recipe(str(path), ["quiet.mark=."])
    expected = forecast(loaded.nodes, plan(loaded.nodes, store, StageSelection(), "twice"), store, "twice", 1)
    assert expected is not None and expected.documents == 2
    assert [(row.stage, row.incoming, row.kept) for row in expected.stages] == [
        ("ingest", 5, 5), ("dedup", 5, 5), ("quiet", 5, 4), ("quieter", 4, 3), ("dedup_again", 3, 2),
    ]  # fmt: skip
    pinned = load_recipe(str(path), ["dedup.use=dedup@twice", "dedup.ngram=9"])
    entry = plan(pinned.nodes, store, StageSelection(), "twice")[1]
    assert entry.dataset == done.datasets["dedup"] and entry.reason == "uses dedup@twice as it is"
    absent = plan(load_recipe(str(path), ["dedup.use=dedup@nobody"]).nodes, store, StageSelection(), "twice")[1]
    assert absent.reason == "it is to use dedup@nobody, which is not in this workspace; labels of dedup: latest, twice"


def test_a_stage_that_names_another_as_its_reference_is_refused(site: Path) -> None:
    """Workers import it by that: they would run the other one, or none."""
    source = (site / "my_stage/__init__.py").read_text()
    (site / "copied.py").write_text(source.replace("code_version=1", "code_version=2"))
    (site / "moved.py").write_text(source.replace("my_stage:STAGE", "my_stages:STAGE"))
    with pytest.raises(
        ConfigError, match=r"copied:STAGE says that its reference is my_stage:STAGE, .*reference='copied:STAGE'"
    ):
        load_stage("copied:STAGE")
    with pytest.raises(ConfigError, match="the package 'my_stages' is not installed here"):
        load_stage("moved:STAGE")


def test_a_process_without_counts_is_said_with_what_is_wanted(site: Path, recipe: Path, tmp_path: Path) -> None:
    source = (site / "my_stage/__init__.py").read_text().replace("return file.counts", "return None")
    (site / "my_silence.py").write_text(source.replace("my_stage:STAGE", "my_silence:STAGE"))
    text = recipe.read_text().replace("my_stage:STAGE", "my_silence:STAGE")
    recipe.write_text(text[: text.index("  attributes:")])
    with pytest.raises(InputError, match="my_silence:STAGE, step listen: process returned None, and Counts are wanted"):
        run_in_workspace(
            load_recipe(str(recipe)), StageSelection(), Store.at(str(tmp_path / "w")), use_prefect=False, quiet=True
        )


PLAIN = """
import re
from pipeline.extract.extractors import OutsideExtractor

PLAIN = OutsideExtractor(lambda html: " ".join(re.sub(rb"<[^>]*>", b" ", html).decode().split()))
"""

ON_RAY = """
execution: {{workers: 1, executor: ray}}
stages:
  ingest:
    sources: [{{name: pages, kind: warc, address: {pages}, profile: none}}]
    extract: {{extractor: "my_plain:PLAIN", languages: []}}
  shout: {{use: "my_stage:STAGE", after: ingest}}
"""


@pytest.mark.slow
def test_extractor_and_stage_of_another_package_run_on_ray(site: Path, tmp_path: Path) -> None:
    """With the same bytes as here; each worker of Ray imports the package for itself."""
    pytest.importorskip("ray")
    (site / "my_plain.py").write_text(PLAIN)
    pages = [html_page(f"Page {number}", f"Page {number}. {PROSE}{'!' * (number % 2)}") for number in range(4)]
    records = [warc_record(f"http://example.org/{number}", page) for number, page in enumerate(pages)]
    (tmp_path / "pages.warc.gz").write_bytes(b"".join(gzip_members(records)))
    recipe = tmp_path / "pages.yaml"
    recipe.write_text(ON_RAY.format(pages=tmp_path / "pages.warc.gz"))

    def digests(executor: str) -> dict[str, str]:
        command = [sys.executable, "-m", "flows.cli.main", "run", str(recipe), "--workspace", str(tmp_path / executor)]
        search = os.pathsep.join([str(site), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.run(
            [*command, "--set", f"execution.executor={executor}"], env={**os.environ, "PYTHONPATH": search}, check=True
        )
        store = Store.at(str(tmp_path / executor))
        found = [store.resolve(name, "pages") for name in ("ingest", "shout")]
        assert found[1].manifest.counts.dropped == {"too_loud": 2}
        return {dataset.name: dataset.digest for dataset in found}

    assert digests("ray") == digests("local")
