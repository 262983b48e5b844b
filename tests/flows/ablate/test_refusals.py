"""What a lab refuses before anything is trained, one sentence each."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.ablate.corpora import build_corpora
from flows.ablate.differences import difference
from flows.ablate.lab import load_lab
from flows.ablate.run import lab_context, plan_lab, run_lab
from flows.execute import run_directly
from infra.errors import ConfigError, HeadwaterError, InputError
from infra.progress import Reporters
from infra.runs import RunRecord
from infra.store.store import Store
from tests.flows.ablate.toy import SimulatedLauncher, good, use_launcher, write_jsonl, write_lab


@pytest.fixture(autouse=True)
def launcher(monkeypatch: pytest.MonkeyPatch) -> SimulatedLauncher:
    found = SimulatedLauncher()
    use_launcher(monkeypatch, found)
    return found


@pytest.fixture
def refused(tmp_path: Path, launcher: SimulatedLauncher) -> Any:
    def run(kind: type[HeadwaterError] = InputError, **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            run_lab(load_lab(str(write_lab(tmp_path, **changes))), Store.at(tmp_path / "ws"), quiet=True)
        assert launcher.started == [], "before anything is trained"
        assert caught.value.remedy
        return caught.value.error

    return run


def arms(**others: Any) -> dict[str, Any]:
    return {"default": {}, **others}


def test_an_arm_without_documents(refused) -> None:
    nothing = {"stages": {"quality": {"sources": [{"rules": [{"name": "long", "expression": "words > 100000"}]}]}}}
    assert "arm 'empty': stage 'quality' kept none of 100" in refused(arms=arms(empty=nothing))


def test_arms_with_equal_corpora(refused) -> None:
    equal = {"stages": {"quality": {"sources": [{"rules": [{"name": "all", "expression": "mean_word_length <= 9"}]}]}}}
    assert "'default' and 'other' have equal corpora (60 documents" in refused(arms=arms(other=equal))


def test_a_corpus_without_text(refused, tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"body": "one"}\n')
    assert refused(arms=arms(theirs={"corpus": str(path)})) == (
        "arm 'theirs': stage 'ingest' cannot run: there is no column text"
    )
    path.write_text('{"text": " "}\n')
    assert "arm 'theirs': " in refused(arms=arms(theirs={"corpus": str(path)}))


def test_an_evaluation_without_its_field(refused, tmp_path: Path) -> None:
    held = {"name": "prose", "file": str(tmp_path / "held.jsonl"), "answer": "body"}
    assert "no text in 'body'" in refused(evaluations=[held])
    assert "is not there" in refused(evaluations=[{**held, "file": str(tmp_path / "none.jsonl")}])
    (tmp_path / "lists.jsonl").write_text('{"text": ["one", "two"]}\n')
    assert "no text in 'text', but list" in refused(evaluations=[{"name": "l", "file": str(tmp_path / "lists.jsonl")}])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    assert "not Parquet, or is cut" in refused(evaluations=[{"name": "c", "file": str(tmp_path / "cut.parquet")}])


def test_an_evaluation_of_one_document(refused, tmp_path: Path) -> None:
    one = {"name": "one", "file": str(write_jsonl(tmp_path / "one.jsonl", [good(90, 1)]))}
    assert "'one' are of one document" in refused(evaluations=[one])
    rows = [{"text": good(number, 1), "page": ["p"]} for number in range(3)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pages = {"name": "pages", "file": str(tmp_path / "pages.jsonl"), "cluster": "page"}
    assert "'pages' are of one document" in refused(evaluations=[pages])


def test_a_named_tokenizer_that_is_none(refused, tmp_path: Path) -> None:
    run_lab(load_lab(str(write_lab(tmp_path))), Store.at(tmp_path / "other"), quiet=True)
    with pytest.raises(ConfigError, match=r"shards@lab-toy-default is no tokenizer"):
        plan_lab(load_lab(str(write_lab(tmp_path, tokenizer="shards@lab-toy-default"))), Store.at(tmp_path / "other"))


def test_an_arm_cannot_be_trained_on_what_it_is_measured_by(tmp_path: Path) -> None:
    own = {"stages": {"decontaminate": {"evaluations": []}}}
    lab = load_lab(str(write_lab(tmp_path, arms=arms(own=own))))
    assert [each.name for each in lab.recipes["own"].node("decontaminate").config.evaluations] == ["prose"]


def test_an_evaluation_that_is_part_of_the_training_texts(refused, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "part.jsonl", [good(number) for number in (3, 4)] + [good(90, 1)])
    part = {"name": "part", "file": str(tmp_path / "part.jsonl")}
    assert "'part' overlaps the training texts: 2 of its 3 items" in refused(evaluations=[part])


def test_more_than_eight_passes(refused) -> None:
    assert "passes over arm 'default'" in refused(tokens=400_000)


def test_a_baseline_that_filters_nothing(refused) -> None:
    everything = {"stages": {"quality": {"sources": [{}]}}, "without": ["dedup", "quality"]}
    assert "its own known-bad control" in refused(ConfigError, arms={"all": everything, "default": {}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rates": [0.01]}, "rates"),
        ({"rates": [0.01, float("nan")]}, "finite"),
        ({"rates": [0.01, float("inf")]}, "finite"),
        ({"rates": [0.01, 1e9]}, "rates are numbers above 0"),
        ({"rates": [0.01, 0.01000000001]}, "differ in their first six digits"),
        ({"recipe": "lab.yaml"}, "the recipe has no stages"),
        ({"arms": {"é": {}}}, "'é' cannot be an arm"),
        ({"arms": {"x" * 41: {}}}, "cannot be an arm"),
        ({"arms": {"default": {"without": ["dedop"]}}}, "`without` names 'dedop', which the recipe does not run"),
        ({"arms": {"default": {"without": ["decontaminate"]}}}, "every arm needs decontaminate"),
        ({"arms": {"default": {"without": ["pretrain"]}}}, "every arm needs pretrain"),
        ({"baseline": "none"}, "baseline names the arm 'none'"),
        ({"tokns": 3}, "unknown key tokns"),
        ({"arms": {"aa": {}}}, "'aa' cannot be an arm"),
        ({"arms": {"default": {"corpus": "x.parquet", "without": ["dedup"]}}}, "a corpus is taken as it is"),
        ({"arms": {"default": {"corpus": "theirs.bin"}}}, "does not say whether it is Parquet or JSON lines"),
        ({"arms": {"default": {"without_presets": ["gopher"]}}}, "no source has the preset gopher"),
        ({"arms": {"default": {"stages": {"quality": {"sorces": []}}}}}, "unknown key stages.quality.sorces"),
    ],
)
def test_mistakes_in_a_labs_file(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_lab(str(write_lab(tmp_path, **changes)))
    assert said in caught.value.error and caught.value.where
    assert not caught.value.error.startswith(":") and "value error" not in caught.value.error


def test_a_lab_or_an_arm_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'filters'"):
        load_lab("filter")
    with pytest.raises(ConfigError, match="Did you mean 'noisy'"):
        load_lab(str(write_lab(tmp_path)), only=["nosy"])


def test_a_corpus_of_another_system_is_an_arm(tmp_path: Path, launcher: SimulatedLauncher) -> None:
    write_jsonl(tmp_path / "theirs.jsonl", [good(number, 7) for number in range(50)])
    lab = load_lab(str(write_lab(tmp_path, arms=arms(theirs={"corpus": str(tmp_path / "theirs.jsonl"), "url": "url"}))))
    store = Store.at(tmp_path / "ws")
    context = lab_context(lab, store, RunRecord.start(store, "lab"), Reporters([]))
    lab, corpora = build_corpora(lab, context, run_directly)
    assert {arm: corpus.documents for arm, corpus in corpora.items()} == {"default": 60, "theirs": 50, "control": 100}
    assert lab.trained == ["default", "theirs", "control", "aa"] and lab.control == "control"
    both = difference(lab, corpora, "theirs", "default", "ws"), difference(lab, corpora, "default", "theirs", "ws")
    assert [each.number for each in both] == [50, 60], "matched by address: they have no page in common"
    first = both[0].shown[0]
    assert not first.rule and good(int(first.url.rpartition("/")[2]), 7).startswith(first.excerpt)
