"""The kinds of sources there are. A new one of ours is one module and one line here; one of another package is found by its
dotted path, ``kind: my_pkg.mbox:MBOX``, or by the name under which the package offers it (``infra.extensions``).

A recipe's source is validated by the options of its kind (``AnySource``): an option of another kind is refused with the kinds
that have it. A form draws no choice between models, so to a form a source is one flat model with the options of all kinds.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from infra.errors import ConfigError, nearest
from infra.extensions import load, offered, reference_of
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


def reader_of(kind: str) -> Reader:
    """How a kind is read. Raises ConfigError for one that there is not."""
    if kind in SOURCES:
        return SOURCES[kind]
    if reference_of(kind, "kind") is None:
        known = [*SOURCES, *offered("kind")]
        raise ConfigError(
            f"the source's kind {kind!r} is none of {', '.join(known)}",
            where="sources",
            remedy=f"{nearest(kind, known)}Choose one, or name that of another package: package.module:NAME.",
        )
    return load(kind, "kind", Reader)


def kinds_with(option: str) -> list[str]:
    """The kinds of sources that have an option."""
    return [kind for kind, reader in SOURCES.items() if option in reader.config.model_fields]


def _of_its_kind(given: Any, validated: ValidatorFunctionWrapHandler) -> SourceConfig:
    if not isinstance(given, Mapping):
        foreign = isinstance(given, SourceConfig) and given.kind not in SOURCES
        return given if foreign else validated(given)  # type: ignore[return-value, no-any-return]
    kind = given.get("kind")
    if kind is None:
        raise ValueError(f"the source does not say its kind: {', '.join([*SOURCES, *offered('kind')])}")
    if kind not in SOURCES:
        try:
            return reader_of(str(kind)).config.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ConfigError as error:
            raise ValueError(f"{error.error}. {error.remedy}") from None
    for option in given:
        kinds = kinds_with(str(option))
        if kinds and kind not in kinds:
            raise ValueError(f"{option!r} is no option of kind {kind}, but of {', '.join(kinds)}")
    return validated(given)  # type: ignore[no-any-return]


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
            "enum": [*SOURCES, *sorted(set(offered("kind")) - set(SOURCES))],
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
            "additionalProperties": bool(offered("kind")),  # the options of others are theirs to check
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
    WrapValidator(_of_its_kind),
    SerializeAsAny(),
    FlatForm(),
]
