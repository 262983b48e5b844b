"""The kinds of sources there are. A new one is one module and one line here.

A recipe's source is validated by the options of its kind (``AnySource``): an option of another kind is refused with the kinds
that have it. A form draws no choice between models, so to a form a source is one flat model with the options of all kinds.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pipeline.sources import code, common_crawl, git, hugging_face, tables, warc, wikipedia
from pipeline.sources.contract import Reader, SourceConfig, whole_archives

SOURCES: Mapping[str, Reader] = {
    "common_crawl": Reader(common_crawl.CommonCrawlSource, common_crawl.parts, common_crawl.read, listed=False),
    "warc": Reader(warc.WarcSource, warc.parts, warc.read),
    "wet": Reader(warc.WarcSource, warc.parts, warc.read),
    "wikipedia": Reader(wikipedia.WikipediaSource, wikipedia.parts, wikipedia.read),
    "code": Reader(code.CodeSource, whole_archives, code.read, folders=True),
    "git": Reader(git.GitSource, git.parts, git.read, listed=False, identity=git.local_identity),
    "jsonl": Reader(tables.JsonlSource, whole_archives, tables.read_jsonl, check=tables.check_file),
    "parquet": Reader(tables.ParquetSource, whole_archives, tables.read_parquet, check=tables.check_file),
    "hugging_face": Reader(
        hugging_face.HuggingFaceSource,
        hugging_face.parts,
        hugging_face.read,
        listed=False,
        identity=hugging_face.local_identity,
    ),
}


def kinds_with(option: str) -> list[str]:
    """The kinds of sources that have an option."""
    return [kind for kind, reader in SOURCES.items() if option in reader.config.model_fields]


def _of_its_kind(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    kind = given.get("kind")
    if kind not in SOURCES:
        raise ValueError(f"its kind {kind!r} is none of {', '.join(SOURCES)}")
    for option in given:
        kinds = kinds_with(str(option))
        if kinds and kind not in kinds:
            raise ValueError(f"{option!r} is no option of kind {kind}, but of {', '.join(kinds)}")
    return given


class FlatForm:
    """The JSON schema of a source: the options of all kinds in one object, each with the kinds that have it.

    Only what every kind has keeps its default: a form that fills in the others would ask for options of other kinds.
    """

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        options: dict[str, Any] = {}
        configs: list[type[SourceConfig]] = [SourceConfig, *(reader.config for reader in SOURCES.values())]
        for config in configs:
            shown = handler.resolve_ref_schema(handler(config.__pydantic_core_schema__))
            for name, option in shown["properties"].items():
                options.setdefault(name, dict(option))
        options["kind"] = {
            "title": "Kind",
            "description": "What the archives are.",
            "enum": list(SOURCES),
            "type": "string",
        }
        for name, option in options.items():
            kinds = kinds_with(name)
            if len(kinds) < len(SOURCES):
                default = option.pop("default", None)
                usual = f" Default: {default}." if default not in (None, "", []) else ""
                option["description"] = f"{', '.join(kinds)}: {option['description']}{usual}"
        options["profile"].pop("default", None)
        return {
            "title": "Source",
            "type": "object",
            "properties": options,
            "required": ["name", "kind", "address"],
            "additionalProperties": False,
        }


AnySource = Annotated[
    common_crawl.CommonCrawlSource
    | warc.WarcSource
    | wikipedia.WikipediaSource
    | code.CodeSource
    | git.GitSource
    | tables.JsonlSource
    | tables.ParquetSource
    | hugging_face.HuggingFaceSource,
    Field(discriminator="kind"),
    BeforeValidator(_of_its_kind),
    FlatForm(),
]
