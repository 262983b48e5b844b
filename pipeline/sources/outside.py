"""What a reader of another package gives, looked at before it is stored.

Ours are held to the records by types and tests. Of another's the schema itself says what fits: a column that is not there, a
text that is a number, a record of another source would be lost, or found out stages later, by an error that does not name it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from infra.errors import ConfigError
from pipeline.document import DOCUMENT_SCHEMA
from pipeline.ledger import LEDGER_SCHEMA
from pipeline.sources.contract import Outcome, SourceConfig


def checked(outcomes: Any, source: SourceConfig) -> Iterator[Outcome]:
    """The outcomes, as far as they can be stored. Raises ConfigError with the first that cannot."""
    if not isinstance(outcomes, Iterable):
        raise _refused(source, f"a {type(outcomes).__name__} in the place of outcomes one after another")
    for outcome in outcomes:
        if why := unfit(outcome, source.name):
            raise _refused(source, why)
        yield outcome


def unfit(outcome: Any, source: str) -> str:
    """Why this is neither a document nor a ledger row of the source; nothing if it is one."""
    if not isinstance(outcome, dict):
        return f"a {type(outcome).__name__}"
    what, schema = ("a fate", LEDGER_SCHEMA) if "verdict" in outcome else ("a document", DOCUMENT_SCHEMA)
    if unknown := [name for name in outcome if name not in schema.names]:
        return f"{what} with {unknown[0]!r}, and there is no such column"
    for field in schema:
        value = outcome.get(field.name)
        if value is None and not field.nullable:
            return f"{what} without {field.name}"
        if value is not None and not _holds(field.type, value):
            return f"{what} whose {field.name} is a {type(value).__name__}, no {_name(field.type)}"
    if what == "a document" and not outcome["text"]:
        return "a document without text"
    if outcome.get("source") != source:
        return f"{what} of the source {outcome.get('source')!r}, not of its own, {source!r}"
    return ""


def _holds(kind: pa.DataType, value: Any) -> bool:
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and set(value) == {field.name for field in kind}
    if pa.types.is_fixed_size_binary(kind):
        return isinstance(value, bytes) and len(value) == kind.byte_width
    if pa.types.is_floating(kind):
        return isinstance(value, (int, float))
    return isinstance(value, str)


def _name(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return f"mapping of {', '.join(field.name for field in kind)}"
    return str(kind) if pa.types.is_floating(kind) or pa.types.is_fixed_size_binary(kind) else "text"


def _refused(source: SourceConfig, given: str) -> ConfigError:
    return ConfigError(
        f"the reader {source.kind} gives {given}",
        where=f"ingest.sources, {source.name}",
        remedy="Yield a Document for each record, and lost(...) for one that becomes none (docs/adding-a-source.md).",
    )
