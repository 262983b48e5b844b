"""The data half as functions: a page, some texts, a table in; text, figures, the rows that stay out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa

from headwater.arrow import column_of, record_batches, rows_of, text_batches, texts_of
from headwater.workspace import Published
from infra.errors import ConfigError, InputError, nearest

if TYPE_CHECKING:
    from infra.config import Config
    from pipeline.extract.page import Extracted
    from pipeline.tokenizer.model import Tokenizer

Data = TypeVar("Data")
Model = TypeVar("Model", bound="Config")


def extract(html: str | bytes, url: str = "", **options: Any) -> "Extracted":
    """The text of a page, with its title and what it says of author, date and licence.

    ``options`` are the fields of ``ingest.extract`` in a recipe (``extractor="resiliparse"``, ``markup="markdown"``).
    Raises ``Refused``, whose ``rule`` is what a ledger would say, for a page without text.
    """
    from pipeline.extract.page import ExtractConfig, extract_html

    if not isinstance(html, (str, bytes)):
        raise InputError(f"a page is text or bytes, not a {type(html).__name__}")
    return extract_html(html, url, _config(ExtractConfig, options))


def measure(
    data: Any, *, text: str = "text", language: str | None = None, programming_language: str | None = None
) -> pa.Table:
    """What the quality rules look at, one row for each text, null where a measure has no meaning.

    ``data`` is a table with a column ``text``, a column of texts, or a list of them. The measures that know of languages
    take the columns ``language`` and ``programming_language``, or what is given here for all.
    """
    from pipeline.quality.measures import measure_texts

    measured = [measure_texts(pa.array([], pa.large_string()), [], [])]
    for batch in text_batches(data, text):
        languages = _languages(batch, "language", language)
        measured.append(
            measure_texts(
                column_of(batch, text).cast(pa.large_string()).fill_null(""), languages,
                _languages(batch, "programming_language", programming_language),
            )
        )  # fmt: skip
    return pa.concat_tables(measured)


def _languages(batch: pa.RecordBatch, column: str, given: str | None) -> list[str | None]:
    if given is None and column in batch.schema.names:
        found: list[str | None] = batch.column(column).to_pylist()
        return found
    return [given] * batch.num_rows


@dataclass(frozen=True)
class Deduplicated(Generic[Data]):
    """The rows that stay, as the kind of table that came in, and what became of the others.

    ``dropped`` has a row for each: its number (``row``), the rule, the similarity (``score``) and the row that stays in
    its place (``survivor``).
    """

    kept: Data
    dropped: pa.Table


def dedup(data: Data, *, text: str = "text", **options: Any) -> Deduplicated[Data]:
    """Drop rows that repeat others: same address and like text, same text, or near duplicates that were verified.

    ``options`` are the fields of ``dedup`` in a recipe (``threshold=0.7``, ``url=False``). The columns ``url``,
    ``source``, ``date``, ``quality`` and ``programming_language`` are used where there are such; of equals the earlier
    row stays. What is compared lies in a temporary folder, not in memory.
    """
    from pipeline.dedup.config import DedupConfig
    from pipeline.dedup.table import dedup_batches

    if isinstance(data, pa.RecordBatchReader) or type(data).__name__ == "IterableDataset":
        raise ConfigError(
            f"a {type(data).__name__} is a stream, whose rows can be read only once",
            remedy="Read it first (reader.read_all(), datasets.Dataset.from_generator), or run a recipe.",
        )
    fates = dedup_batches(record_batches(data), _config(DedupConfig, options), text)
    return Deduplicated(rows_of(data, fates.kept), fates.dropped)


def tokenizer(source: "str | Published") -> "Tokenizer":
    """A tokenizer by its folder, or the one of a store: ``headwater.tokenizer(store["tokenizer"])``."""
    from pipeline.tokenizer.model import Tokenizer

    return Tokenizer.load(source.dataset.local("data") if isinstance(source, Published) else source)


def train_tokenizer(data: Any, *, text: str = "text", **options: Any) -> "Tokenizer":
    """Train a vocabulary on a table's texts, or on any iterable of texts; ``.save(folder)`` writes it.

    ``options``: ``vocab_size``, ``character_coverage`` and ``max_piece_length`` as in a recipe's ``tokenizer``. All of the
    text is used: draw a sample of what is large.
    """
    from pipeline.tokenizer.model import Tokenizer
    from pipeline.tokenizer.stage import TokenizerConfig
    from pipeline.tokenizer.train import train_model

    config = _config(TokenizerConfig, options)
    model = train_model(texts_of(data, text), config.vocab_size, config.character_coverage, config.max_piece_length)
    return Tokenizer(model)


def _config(model: type[Model], options: dict[str, Any]) -> Model:
    """A stage's configuration from keyword arguments; what is wrong with them is one sentence."""
    from pydantic import ValidationError

    from infra.config import message_of

    try:
        return model(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the options"
        unknown = first["type"] == "extra_forbidden"
        raise ConfigError(
            f"there is no option {name!r}" if unknown else f"{name}: {message_of(first)}",
            remedy=f"{nearest(name, model.model_fields) if unknown else ''}Options: {', '.join(model.model_fields)}.",
        ) from None
