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


def test_a_stage_of_ours_may_stand_twice_under_a_name_of_its_own():
    told = ways(
        {
            "dedup": {},
            "redact": {},
            "dedup_again": {"use": "dedup", "after": "redact", "ngram": 3},
            "tokenizer": {},
            "tokenizer_small": {"use": "tokenizer", "vocab_size": 400, "after": "dedup"},
            "shards": {},
            "shards_small": {"use": "shards", "inputs": {"tokenizer": "tokenizer_small"}},
        }
    )
    assert told["dedup_again"] == {"quality": "redact"} and told["redact"] == {"decontaminate": "dedup"}
    assert told["tokenizer"] == {"redact": "dedup_again"} and told["tokenizer_small"] == {"redact": "dedup"}
    assert told["shards_small"] == {"redact": "dedup_again", "tokenizer": "tokenizer_small"}


def test_quality_twice_looks_at_attributes_of_its_own():
    again = {"use": "attributes", "after": "dedup", **SILENT}
    told = ways(
        {
            "attributes": SILENT,
            "quality": {},
            "dedup": {},
            "measured_again": again,
            "quality_again": {"use": "quality", "after": "dedup", "inputs": {"attributes": "measured_again"}},
        }
    )
    assert told["measured_again"] == {"ingest": "dedup"}
    assert told["quality_again"] == {"ingest": "dedup", "attributes": "measured_again"}


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
            "Did you mean 'words'?",
        ),
        ({"quality": {"rules": [{"name": "d", "expression": "f(words) > 3"}]}}, "is not known in an expression"),
        ({"quality": {"sources": [{"presets": ["c5"]}]}}, "there is no preset 'c5'"),
        ({"quality": {"sources": [{"presets": ["nowhere.rules:STRICT"]}]}}, "'nowhere' is not installed here"),
        ({"shout": {"use": "nowhere.stage:STAGE", "after": "ingest"}}, "'nowhere' is not installed here"),
        ({"shout": {"use": "os:system", "after": "ingest"}}, "use takes a ShardStage or JobStage"),
        ({"shout": {"after": "ingest"}}, "unknown key stages.shout"),
        (
            {"again": {"use": "dedupe", "after": "ingest"}},
            "is no stage and no dataset (mine.yaml). Did you mean 'dedup'?",
        ),
        ({"again": {"use": "dedup"}}, "does not say whose documents it takes"),
        ({"again": {"use": "dedup", "after": "ingest", "band": 3}}, "unknown key stages.again.band"),
        ({"a/b": {"use": "dedup", "after": "ingest"}}, "stages.a/b cannot be the name of a section"),
        ({"redact": {"use": "dedup"}}, "Headwater's own stage of that name and cannot use 'dedup'"),
        ({"redact": {"use": "my_pkg.stage:STAGE"}}, "Headwater's own stage of that name"),
        ({"again": {"use": "my_pkg/stage.py"}}, "is no stage and no dataset"),
        ({"again": {"use": "0123456789ab"}}, "in the place of a stage whose name the section has"),
        ({"dedup": {"inputs": {"words": "x"}}}, "stages.dedup.inputs.words: dedup has no such input"),
        (
            {
                "dedup": {"source_priority": ["mine"]},
                "again": {"use": "dedup", "after": "dedup", "source_priority": ["x"]},
            },
            "again.source_priority names the source 'x'",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(stages: dict, sentence: str):
    with pytest.raises(ConfigError) as error:
        ways(stages)
    assert sentence in str(error.value)


def test_without_documents_it_says_which_section_is_missing():
    with pytest.raises(ConfigError, match="Add a section 'ingest'"):
        build_recipe({"stages": {"dedup": {}}}, str(Path("mine.yaml")))


def test_what_asked_for_a_file_of_another_stage_is_named_too():
    with pytest.raises(ConfigError, match=r"'sample' .*, or choose otherwise in attributes\.language\.model\."):
        ways({"attributes": {}})
