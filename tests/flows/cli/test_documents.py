"""``headwater documents`` and the thresholds of ``headwater inspect``, as a person types them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.main import build_app
from infra.errors import HeadwaterError
from infra.store.store import Store
from pipeline import attributes, quality
from pipeline.language import LanguageConfig
from tests.flows.workspaces import HOSTILE, make_workspace, publish, selection
from tests.support import run_shard_stage


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    store = make_workspace(folder, whole=False)
    made = {"ingest": store.get_ref("ingest", "latest")}
    config = attributes.AttributesConfig(language=LanguageConfig(model=""))
    made["attributes"] = publish(store, run_shard_stage(attributes.STAGE, config, made, folder / "new"))
    publish(store, run_shard_stage(quality.STAGE, selection(), made, folder / "new"))
    return Path(Store.at(folder / "workspace").address)


def headwater(home: Path, *words: str) -> Result:
    every = [*words, "--workspace", str(home)]
    return CliRunner().invoke(build_app(every), every)


def told(home: Path, *words: str) -> Any:
    return json.loads(headwater(home, *words, "--json").stdout)


def test_documents_are_found_and_shown(home: Path) -> None:
    (row,) = told(home, "documents", "--url", "notes.example/script")["documents"]
    shown = headwater(home, "documents", row["id"])
    assert shown.exit_code == 0 and HOSTILE["script"] in shown.output
    assert told(home, "documents", row["id"]) == told(home, "documents", row["url"])
    few = headwater(home, "documents", "--max", "words=11", "--limit", "2").output
    assert few.count("dropped by some_words (quality)") == 2 and "--after" in few
    assert "[a-z]+" in headwater(home, "documents", "--text", "(100% of [A-Z]+").output


def test_a_terminal_is_shown_no_controls(home: Path) -> None:
    shown = headwater(home, "documents", "http://notes.example/bidi").output
    assert "png.exe" in shown or "gnp.exe" in shown
    samples = headwater(home, "inspect", "ingest", "--sample", "100").output
    assert "png.exe" in samples or "gnp.exe" in samples
    assert not set(shown + samples) & set("\u202e\u2066\u2069\x00\x1b")


def test_inspect_tells_what_a_threshold_takes(home: Path) -> None:
    view = told(home, "inspect", "quality", "--attribute", "words", "--at", "30")
    assert view == told(home, "inspect", "attributes", "--attribute", "words", "--at", "30")
    (rule,) = yaml.safe_load(view["yaml"])["stages"]["quality"]["rules"]
    assert rule == {"name": "words_at_least", "expression": "words >= 30"} and view["examples"][0]["url"]
    assert view["yaml"].strip() in headwater(home, "inspect", "quality", "--attribute", "words", "--at", "30").output
    bins = headwater(home, "inspect", "quality", "--attribute", "language")
    assert bins.exit_code == 0 and "en" in bins.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("documents", "x", "--text", "y"), "one document is named"),
        (("documents", "http://nowhere.example/"), "no stage ever saw"),
        (("documents", "--min", "words"), "names no bound"),
        (("documents", "--min", "wrods=3"), "no document has a number 'wrods'"),
        (("documents", "--after", "x"), "cannot go on from there"),
        (("documents", "--label", "none"), "no document stage is published"),
        (("inspect", "ingest", "--attribute", "words"), "neither holds attributes"),
        (("inspect", "quality", "--attribute", "wrods"), "no document has an attribute"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(home: Path, words: tuple[str, ...], said: str) -> None:
    failed = headwater(home, *words)
    assert isinstance(failed.exception, HeadwaterError) and said in failed.exception.error
