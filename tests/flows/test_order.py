"""In which order documents meet the stages: the usual one, less what a recipe leaves out, changed by ``after``."""

from pathlib import Path

import pytest

from flows.recipe import build_recipe
from infra.errors import ConfigError

MINE = {"sources": [{"name": "mine", "kind": "parquet", "address": "folder", "profile": "none"}]}
SILENT = {"language": {"model": ""}}


def ways(stages: dict) -> dict[str, dict[str, str]]:
    """What each stage of a recipe reads, by role, in the order in which they run."""
    nodes = build_recipe({"stages": {"ingest": MINE, **stages}}, "mine.yaml").nodes
    return {node.name: dict(node.upstream) for node in nodes if node.name != "ingest"}


def test_dedup_alone_takes_the_documents_of_ingest():
    assert ways({"dedup": {}}) == {"dedup": {"quality": "ingest"}}


def test_redact_alone_too():
    assert ways({"redact": {}}) == {"redact": {"decontaminate": "ingest"}}


def test_quality_needs_no_classifier():
    assert ways({"attributes": SILENT, "quality": {}}) == {
        "attributes": {"ingest": "ingest"},
        "quality": {"ingest": "ingest", "attributes": "attributes"},
    }


def test_the_usual_path_is_as_the_stages_declare_it():
    from flows.recipe import load_recipe

    for node in load_recipe("demo").nodes:
        assert dict(node.upstream) == dict(node.stage.inputs(node.config))


def test_quality_behind_dedup_measures_what_dedup_kept():
    assert ways({"attributes": SILENT, "quality": {"after": "dedup"}, "dedup": {}, "tokenizer": {}}) == {
        "dedup": {"quality": "ingest"},
        "attributes": {"ingest": "dedup"},
        "quality": {"ingest": "dedup", "attributes": "attributes"},
        "tokenizer": {"redact": "quality"},
    }


def test_what_came_next_takes_the_documents_of_what_was_put_between():
    told = ways({"dedup": {"after": "redact"}, "redact": {}, "tokenizer": {"after": "redact"}})
    assert told == {
        "redact": {"decontaminate": "ingest"},
        "dedup": {"quality": "redact"},
        "tokenizer": {"redact": "redact"},
    }


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ({"dedup": {"after": "redakt"}, "redact": {}}, "Did you mean 'redact'?"),
        ({"dedup": {"after": "redact"}, "redact": {"after": "dedup"}}, "no stage of this recipe with that name"),
        ({"dedup": {}, "attributes": {**SILENT, "after": "dedup"}, "quality": {}}, "Say `after` of quality"),
        ({"export": {"after": "ingest"}}, "receives no documents"),
        ({"dedup": {"after": "attributes"}, "attributes": SILENT}, "Those that do: ingest"),
        (
            {"attributes": SILENT, "quality": {"sources": [{"keep_fraction": 0.5}]}},
            "by the classifier's score, and the recipe has no classifier",
        ),
        (
            {"attributes": SILENT, "quality": {"rules": [{"name": "d", "expression": "wrods > 3"}]}},
            "Did you mean words?",
        ),
        ({"quality": {"rules": [{"name": "d", "expression": "f(words) > 3"}]}}, "is not known in an expression"),
        ({"quality": {"sources": [{"presets": ["c5"]}]}}, "there is no preset 'c5'"),
        ({"quality": {"sources": [{"presets": ["nowhere.rules:STRICT"]}]}}, "'nowhere' is not installed here"),
        ({"shout": {"use": "nowhere.stage:STAGE", "after": "ingest"}}, "'nowhere' is not installed here"),
        ({"shout": {"use": "os:system", "after": "ingest"}}, "use takes a ShardStage or JobStage"),
        ({"shout": {"after": "ingest"}}, "unknown key stages.shout"),
    ],
)
def test_what_cannot_be_is_one_sentence(stages: dict, sentence: str):
    with pytest.raises(ConfigError) as error:
        ways(stages)
    assert sentence in str(error.value)


def test_without_documents_it_says_which_section_is_missing():
    with pytest.raises(ConfigError, match="Add a section 'ingest'"):
        build_recipe({"stages": {"dedup": {}}}, str(Path("mine.yaml")))
