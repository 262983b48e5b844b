"""Any dataset that the ``datasets`` library opens, streamed: on the Hugging Face hub, or a folder of its layout.

A dataset is cut into the shards it is stored in; each is one unit, read row by row and never downloaded whole. The Parquet
and JSON lines files of a local folder are read as such files are (``tables.py``), so that a line or row which cannot be read
costs itself; the library gives up the whole file. Code of a dataset's own is never run (``datasets`` refuses it). Name a
``revision`` (a commit of the hub) where the run must be repeatable: without one the identity is the name alone.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from infra.config import Json
from infra.errors import InputError
from pipeline.sources.contract import Archive, Outcome, Part, Reading, damaged
from pipeline.sources.digests import file_digest
from pipeline.sources.files import printable
from pipeline.sources.tables import (
    BATCH_ROWS,
    LineOptions,
    check_columns,
    columns_of,
    document_of_row,
    read_jsonl,
    read_parquet,
    rows_of,
)

DATA_ERRORS = (ValueError, FileNotFoundError, RuntimeError, LookupError)


class HuggingFaceSource(LineOptions):
    """A dataset of the Hugging Face hub, or a folder of its layout."""

    kind: Literal["hugging_face"]
    subset: str = Field(default="", description="The dataset's configuration.")
    split: str = Field(default="train", description="The split.")
    revision: str = Field(default="", description="Commit, branch or tag; empty: the newest.")


def parts(config: HuggingFaceSource, _archives: list[Archive]) -> Iterable[Part]:
    """One part a shard of the split."""
    name = "/".join(part for part in (config.address.strip("/"), config.subset, config.split) if part)
    files = local_files(config) if Path(config.address).is_dir() else []
    if format_of(files):
        return [_file_part(name, Path(file)) for file in files]
    number = max(1, _open(config).num_shards)
    return [
        Part(Archive(f"{name}/{shard:05}-of-{number:05}", config.address, 0, config.revision), shard, number)
        for shard in range(number)
    ]


def _file_part(name: str, file: Path) -> Part:
    size = file.stat().st_size
    return Part(Archive(f"{name}/{printable(file.name)}", str(file), size, file_digest(file, size)), 0, size)


def local_identity(config: HuggingFaceSource) -> Json:
    """What the files of a local folder hold; a dataset of the hub is asked when the stage runs."""
    if not Path(config.address).is_dir():
        return None
    return [[Path(file).name, file_digest(file, Path(file).stat().st_size)] for file in local_files(config)]


def read(part: Part, reading: Reading[HuggingFaceSource]) -> Iterator[Outcome]:
    """One document a row; of columns, only the mapped ones are read."""
    if format_of([part.archive.url]) and Path(part.archive.url).is_file():
        yield from (read_parquet if format_of([part.archive.url]) == "parquet" else read_jsonl)(part, reading)
        return
    source = reading.source
    dataset = _open(source)
    if dataset.column_names is not None:
        check_columns(source, dataset.column_names, source.address)
        dataset = dataset.select_columns(columns_of(source))
    if part.end > 1:
        dataset = dataset.shard(num_shards=part.end, index=part.start)
    position = 0
    try:
        for table in dataset.with_format("arrow").iter(BATCH_ROWS):
            for row in rows_of(table):
                yield document_of_row(row, part.archive.name, position, 1, source)
                position += 1
    except DATA_ERRORS as error:
        if not position or not isinstance(error, ValueError):  # the others may be the network's
            raise _unreadable(source, error) from error
        why = f"the rest of the shard cannot be read: {_sentence(error)}"
        yield damaged(source.name, part.archive.name, "damaged_rows", position, 0, why)


def format_of(files: Sequence[str]) -> Literal["parquet", "jsonl", ""]:
    """``parquet`` or ``jsonl`` where all files are such by their names."""
    kinds = {
        "parquet" if file.endswith(".parquet") else "jsonl" if ".jsonl" in Path(file).suffixes else "" for file in files
    }
    if kinds == {"parquet"}:
        return "parquet"
    return "jsonl" if kinds == {"jsonl"} else ""


def local_files(config: HuggingFaceSource) -> list[str]:
    """The files of a split of a local folder."""
    import datasets

    with _said_in_one_sentence(config):
        settings = datasets.load_dataset_builder(config.address, config.subset or None).config
        files: list[str] = (settings.data_files or {})[config.split or "train"]
        return sorted(files)


def _open(config: HuggingFaceSource) -> Any:
    import datasets
    from tqdm.std import tqdm

    datasets.disable_progress_bars()
    # Its own lock is a semaphore of the machine's, which a worker that is ended leaves behind.
    tqdm.set_lock(threading.RLock())
    with _said_in_one_sentence(config):
        return datasets.load_dataset(
            config.address,
            config.subset or None,
            split=config.split or "train",
            revision=config.revision or None,
            streaming=True,
        )


@contextlib.contextmanager
def _said_in_one_sentence(config: HuggingFaceSource) -> Iterator[None]:
    """What the library raises about a dataset; errors of the network stay what they are, and are tried again."""
    try:
        yield
    except DATA_ERRORS as error:
        raise _unreadable(config, error) from error


def _unreadable(config: HuggingFaceSource, error: Exception) -> InputError:
    return InputError(
        f"the dataset cannot be read: {_sentence(error)}",
        where=config.address,
        remedy="Check address, subset, split and revision.",
    )


def _sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
