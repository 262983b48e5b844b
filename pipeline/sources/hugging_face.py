"""Any dataset that the ``datasets`` library opens, streamed: on the Hugging Face hub, or a folder of its layout.

A dataset is cut into the shards it is stored in; each is one unit, read row by row and never downloaded whole. Code of a
dataset's own is never run (``datasets`` refuses it). Name a ``revision`` (a commit of the hub) where the run must be
repeatable: without one the identity is the name alone.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from infra.errors import InputError
from pipeline.sources.contract import Archive, Outcome, Part, Reading, SourceConfig
from pipeline.sources.tables import check_columns, columns_of, document_of_row


def parts(config: SourceConfig, _archives: list[Archive]) -> Iterable[Part]:
    """One part a shard of the split."""
    dataset = _open(config)
    number = max(1, dataset.num_shards)
    name = "/".join(part for part in (config.address.strip("/"), config.subset, config.split) if part)
    return [
        Part(Archive(f"{name}/{shard:05}-of-{number:05}", config.address, 0, config.revision), shard, number)
        for shard in range(number)
    ]


def read(part: Part, reading: Reading) -> Iterator[Outcome]:
    """One document a row; of columns, only the mapped ones are read."""
    source = reading.source
    dataset = _open(source)
    if dataset.column_names is not None:
        check_columns(source, dataset.column_names, source.address)
        dataset = dataset.select_columns(columns_of(source))
    if part.end > 1:
        dataset = dataset.shard(num_shards=part.end, index=part.start)
    with _said_in_one_sentence(source):
        for position, row in enumerate(dataset):
            yield document_of_row(row, part.archive.name, position, 1, source)


def local_files(config: SourceConfig) -> list[str]:
    """The files of a split of a local folder."""
    import datasets

    with _said_in_one_sentence(config):
        settings = datasets.load_dataset_builder(config.address, config.subset or None).config
        files: list[str] = (settings.data_files or {})[config.split or "train"]
        return sorted(files)


def _open(config: SourceConfig) -> Any:
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
def _said_in_one_sentence(config: SourceConfig) -> Iterator[None]:
    """What the library raises about a dataset; errors of the network stay what they are, and are tried again."""
    try:
        yield
    except (ValueError, FileNotFoundError, RuntimeError, LookupError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"the dataset cannot be read: {why}",
            where=config.address,
            remedy="Check address, subset, split and revision.",
        ) from error
