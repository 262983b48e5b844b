"""A source has the options of its kind, and no others; a form sees them all in one flat model."""

import pytest
from pydantic import ValidationError

from pipeline.ingest import IngestConfig
from pipeline.profiles import Profile
from pipeline.sources.registry import SOURCES
from tests.support import source_config


@pytest.mark.parametrize(
    ("option", "kind", "owners"),
    [
        ({"split": "test"}, "warc", "hugging_face"),
        ({"licenses": ["MIT"]}, "jsonl", "code, git"),
        ({"part_bytes": 1_000_000}, "common_crawl", "warc, wet, wikipedia"),
        ({"text_column": "body"}, "wikipedia", "jsonl, parquet, hugging_face"),
        ({"cache": "/c"}, "parquet", "common_crawl, warc, wet"),
    ],
)
def test_an_option_of_another_kind_is_refused_with_the_kinds_that_have_it(option, kind, owners) -> None:
    with pytest.raises(ValidationError, match=f"is no option of kind {kind}, but of {owners}"):
        source_config(name="x", kind=kind, address="y", **option)


def test_a_kind_or_an_option_that_nobody_has() -> None:
    with pytest.raises(ValidationError, match="kind 'mbox' is none of common_crawl, warc"):
        source_config(name="x", kind="mbox", address="y")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        source_config(name="x", kind="warc", address="y", part_byte=3)


def test_what_a_kind_says_of_its_documents_and_what_only_a_recipe_can() -> None:
    said = {kind: source_config(name="x", kind=kind, address="y").profile for kind in SOURCES}
    assert {kind for kind, profile in said.items() if profile is None} == {"jsonl", "parquet", "hugging_face"}
    assert said["wet"] is Profile.WEB and said["git"] is Profile.CODE and said["wikipedia"] is Profile.ENCYCLOPEDIA
    assert source_config(name="x", kind="jsonl", address="y", profile="books").profile is Profile.BOOKS
    with pytest.raises(ValidationError, match="'web', 'encyclopedia', 'code', 'books', 'chat' or 'none'"):
        source_config(name="x", kind="jsonl", address="y", profile="prose")


def test_a_form_sees_one_flat_model() -> None:
    item = IngestConfig.model_json_schema()["properties"]["sources"]["items"]
    assert item["type"] == "object" and item["required"] == ["name", "kind", "address"]
    assert item["properties"]["kind"]["enum"] == list(SOURCES)
    options = {name for reader in SOURCES.values() for name in reader.config.model_fields}
    assert set(item["properties"]) == options
    fraction = item["properties"]["fraction"]
    assert fraction["description"] == "common_crawl: The share of the archives to take. Default: 1.0."
    assert (fraction["maximum"], "default" in fraction) == (1.0, False), (
        "a form must not fill in what other kinds refuse"
    )
    assert item["properties"]["allow_empty"]["default"] is False
