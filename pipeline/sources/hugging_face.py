"""Any dataset that the ``datasets`` library opens, streamed: on the Hugging Face hub, or a folder of its layout.

A dataset is cut into the shards it is stored in; each is one unit, read row by row and never downloaded whole. The Parquet
and JSON lines files of a local folder are read as such files are (``tables.py``), so that a line or row which cannot be read
costs itself; the library gives up the whole file. Of a local folder of text files
each is one document. Code of a dataset's own is never run (``datasets`` refuses it). Name a
``revision`` (a commit of the hub) where the run must be repeatable: without one the identity is the name alone.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from infra.config import Json, canonical_json
from infra.errors import InputError
from pipeline.compression import Damaged, unpacked
from pipeline.document import Document, Origin, document_id
from pipeline.extract.clean import clean_text
from pipeline.sources.code import decoded_code
from pipeline.sources.columns import check_columns, columns_of, paths_of
from pipeline.sources.contract import Archive, Outcome, Part, Reading, damaged, lost
from pipeline.sources.digests import file_digest
from pipeline.sources.files import open_archive, printable
from pipeline.sources.headers import payload_digest
from pipeline.sources.tables import (
    BATCH_ROWS,
    LineOptions,
    document_of_row,
    read_jsonl,
    read_parquet,
    rows_of,
)

TEXTS, TEXT_BYTES = 1000, 64_000_000
"""Files of text that are read together, and their bytes."""
DATA_ERRORS = (ValueError, FileNotFoundError, RuntimeError, LookupError)


class HuggingFaceSource(LineOptions):
    """A dataset of the Hugging Face hub, or a folder of its layout."""

    kind: Literal["hugging_face"]
    subset: str = Field(default="", description="The dataset's configuration.")
    split: str = Field(default="train", description="The split.")
    revision: str = Field(default="", description="Commit, branch or tag; empty: the newest.")
    sample_by: Literal["document", "paragraph", "line"] = Field(
        default="document",
        description="What of a local folder's text files is a document: the file, or each part of it.",
    )


def parts(config: HuggingFaceSource, _archives: list[Archive]) -> Iterable[Part]:
    """One part a shard of the split."""
    name = "/".join(part for part in (config.address.strip("/"), config.subset, config.split) if part)
    files = local_files(config) if Path(config.address).is_dir() else []
    if format_of(files) == "text" and config.sample_by == "document":
        return _text_parts(name, files, config)
    if format_of(files) not in ("", "text"):
        return [_file_part(name, Path(file), config) for file in files]
    try:
        number = max(1, _open(config).num_shards)
    except OSError as error:
        raise InputError(
            f"the dataset cannot be reached: {_sentence(error)}",
            where=config.address,
            remedy="Check the address and the network; a private dataset wants HF_TOKEN.",
        ) from error
    return [
        Part(Archive(f"{name}/{shard:05}-of-{number:05}", config.address, 0, config.revision), shard, number)
        for shard in range(number)
    ]


def _file_part(name: str, file: Path, config: HuggingFaceSource) -> Part:
    size = file.stat().st_size
    return Part(Archive(f"{name}/{_within(file, config)}", str(file), size, file_digest(file, size)), 0, size)


def _within(file: str | Path, config: HuggingFaceSource) -> str:
    """A file's path below the source's folder: two files of one name stay two."""
    return printable(os.path.relpath(file, Path(config.address).resolve()))


def _text_parts(name: str, files: Sequence[str], config: HuggingFaceSource) -> Iterator[Part]:
    """One part for some files together."""
    group: list[tuple[str, int, int]] = []
    for file in (*files, ""):
        if group and (not file or len(group) >= TEXTS or sum(size for *_, size in group) >= TEXT_BYTES):
            content = [[_within(path, config), file_digest(Path(path), size)] for path, _, size in group]
            digest = hashlib.sha256(canonical_json(content).encode())
            size = sum(size for *_, size in group)
            yield Part(Archive(name, config.address, size, digest.hexdigest()[:32]), spans=tuple(group))
            group = []
        if file:
            group.append((file, 0, Path(file).stat().st_size))


def local_identity(config: HuggingFaceSource) -> Json:
    """What the files of a local folder hold; a dataset of the hub is asked when the stage runs."""
    if not Path(config.address).is_dir():
        return None
    return [[_within(file, config), file_digest(file, Path(file).stat().st_size)] for file in local_files(config)]


def read(part: Part, reading: Reading[HuggingFaceSource]) -> Iterator[Outcome]:
    """One document a row; of columns, only the mapped ones are read."""
    source = reading.source
    if part.spans:
        yield from (_text(path, f"{part.archive.name}/{_within(path, source)}", source) for path, *_ in part.spans)
        return
    kind = format_of([part.archive.url]) if Path(part.archive.url).is_file() else ""
    if kind in ("parquet", "jsonl"):
        yield from (read_parquet if kind == "parquet" else read_jsonl)(part, reading)
        return
    dataset = _open(source)
    if dataset.features is not None:
        names = paths_of(dataset.features.arrow_schema)
        check_columns(source, names, source.address)
        dataset = dataset.select_columns(list(dict.fromkeys(_tops(columns_of(source, names), dataset.column_names))))
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


def _tops(paths: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    """The columns that hold these."""
    return (path if path in columns else path.partition(".")[0] for path in paths)


def _text(path: str, name: str, source: HuggingFaceSource) -> Outcome:
    """A file as a document, whose address and id are the file's."""
    most = source.max_record_bytes
    try:
        with open_archive(Archive(name, path, 0, "")) as raw, unpacked(raw, salvage=source.salvage) as stream:
            content = stream.read(most + 1)
    except Damaged as error:
        return damaged(source.name, name, "damaged_file", 0, 0, str(error))
    digest = payload_digest(content)
    identity = document_id(source.name, name, name, digest)
    if len(content) > most:
        return lost(
            identity, source.name, "dropped", "record_too_large", url=name, score=float(most + 1), threshold=float(most)
        )
    decoded = decoded_code(content)
    if decoded is None:
        return lost(
            identity, source.name, "failed", "not_utf8", url=name, detail=f"{name}: its characters are not known"
        )
    text = clean_text(decoded)
    if not text:
        return lost(identity, source.name, "dropped", "no_text", url=name, score=0.0, threshold=1.0)
    origin = Origin(archive=name, offset=0, length=len(content), record_id=name, digest=digest)
    return Document(
        id=identity,
        text=text,
        source=source.name,
        url=name,
        language=source.language,
        license=source.license,
        origin=origin,
    )


def format_of(files: Sequence[str]) -> Literal["parquet", "jsonl", "text", ""]:
    """What all of some files are by their names."""
    known: dict[str, Literal["parquet", "jsonl", "text"]] = {".parquet": "parquet", ".jsonl": "jsonl", ".txt": "text"}
    kinds = {next((known[each] for each in Path(file).suffixes if each in known), None) for file in files}
    return (kinds.pop() or "") if len(kinds) == 1 else ""


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
            **({"sample_by": config.sample_by} if config.sample_by != "document" else {}),
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
