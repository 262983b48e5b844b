"""Reading evaluation sets: items with an id and some named texts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from infra.config import Json
from infra.errors import ConfigError, InputError
from infra.store.address import dataset_file, file_url
from infra.store.dataset import Dataset
from pipeline.decontaminate.config import EvaluationSet
from pipeline.fasttext_model import digest_of
from pipeline.sources.tables import rows_of_file

_HUB = "hf://"


@dataclass(frozen=True)
class Text:
    """One field of one item."""

    evaluation: str
    item: str
    field: str
    text: str


def external(evaluations: tuple[EvaluationSet, ...]) -> dict[str, Json] | None:
    """Digests of the files outside the store, by evaluation: a set that was corrected is scanned for again."""
    outside = [each for each in evaluations if not each.address.startswith(_HUB) and not dataset_file(each.address)]
    return {each.name: _digest(each) for each in outside} or None


def _digest(evaluation: EvaluationSet) -> str:
    try:
        return digest_of(evaluation.address)
    except InputError:
        raise _absent(evaluation) from None


def _absent(evaluation: EvaluationSet) -> InputError:
    return InputError(
        f"evaluation {evaluation.name!r} is not there",
        where=evaluation.address,
        remedy="Correct its address in the recipe.",
    )


def read_texts(evaluation: EvaluationSet, inputs: Mapping[str, Dataset]) -> Iterator[Text]:
    """Every text of an evaluation set. Raises where the set is not there, or one of its fields in none of its items."""
    number = 0
    keys: list[str] = []
    missing = dict.fromkeys(evaluation.fields)
    for number, item in enumerate(islice(_rows(evaluation, inputs), evaluation.max_items or None), start=1):
        keys = keys or sorted(item)
        name = _value(item, evaluation.id_field) or str(number)
        for field in evaluation.fields:
            text = _value(item, field)[: evaluation.max_characters or None]
            if text:
                missing.pop(field, None)
                yield Text(evaluation.name, name, field, text)
    if missing:
        reason = f"its items have {', '.join(keys)}" if number else "it has no items"
        raise ConfigError(
            f"evaluation {evaluation.name!r} has no text in {', '.join(missing)}: {reason}",
            where=evaluation.address,
            remedy="Correct its fields in the recipe (decontaminate.evaluations).",
        )


def _rows(evaluation: EvaluationSet, inputs: Mapping[str, Dataset]) -> Iterator[Mapping[str, Any]]:
    address = file_url(evaluation.address, inputs)
    try:
        if address.startswith(_HUB):
            yield from _hugging_face(address)
        else:
            yield from rows_of_file(address)
    except FileNotFoundError:
        raise _absent(evaluation) from None


def _hugging_face(address: str) -> Iterator[Mapping[str, Any]]:
    """``hf://owner/name[:configuration]@split``, by way of the ``datasets`` library."""
    import datasets

    name, _, split = address.removeprefix(_HUB).partition("@")
    name, _, configuration = name.partition(":")
    try:
        yield from datasets.load_dataset(name, configuration or None, split=split or "test", streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"the dataset cannot be loaded: {error}", where=address) from error


def _value(item: Mapping[str, Any], path: str) -> str:
    values: list[Any] = [item]
    for key in path.split("."):
        values = [value[key] for value in _flat(values) if isinstance(value, Mapping) and key in value]
    return "\n".join(_text(value) for value in _flat(values) if value is not None)


def _text(value: Any) -> str:
    """A text that is no UTF-8 arrives as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values, those of lists among them one by one."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value
