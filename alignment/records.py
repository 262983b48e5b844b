"""Records of people's files, one at a time, whatever the file is; and what became of each.

    JSON lines     an object a line, compressed or not (gzip, bzip2, xz, zstd by their first bytes)
    JSON array     ``[{…}, {…}]``, read item by item; what follows a broken item cannot be told apart and is lost
    Parquet        a row; text that is not UTF-8 costs its row
    hf://NAME      a dataset of the Hugging Face hub (``?subset=…&split=…&revision=…``), or of a folder that
                   ``save_to_disk`` or a clone left behind

``find(address)`` gives the files that an address means: a path, a pattern, a folder, or files of an input dataset.
A record that cannot be used costs itself: ``Reading`` counts it by its reason and hands on where it is.
"""

import codecs
import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data import BOM, LONGEST_LINE, RawLine, raw_lines
from infra.config import canonical_json
from infra.errors import InputError
from infra.store.address import dataset_file
from infra.store.dataset import Dataset
from pipeline.compression import Lost, pieces
from pipeline.sources.files import is_marker

HUB = "hf://"
PARQUET_MAGIC = b"PAR1"
ROWS = 256
JSON = json.JSONDecoder(parse_constant=lambda constant: None)
HALF = re.compile(r"\\u[dD][89a-fA-F]")
SEPARATOR = re.compile(r"[,\s]*")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Refusal:
    """A record that cannot be used, and why."""

    line: RawLine
    reason: str
    detail: str = ""
    file: str = ""

    @property
    def place(self) -> str:
        """File and row, for people."""
        byte = f", from byte {self.line.offset} on" if self.line.data or self.line.offset else ""
        return f"line {self.line.number} of {self.file}{byte}"


class Unusable(Exception):
    """A record that cannot be used, for a reason with its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass
class Reading:
    """What became of the records of some files. ``tell`` hears of each that was refused."""

    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    tell: Callable[[Refusal], None] | None = None
    first: Refusal | None = None
    """The first that was refused: an example."""

    def refuse(self, refusal: Refusal) -> None:
        self.first = self.first or refusal
        self.refused[refusal.reason] = self.refused.get(refusal.reason, 0) + 1
        if self.tell is not None:
            self.tell(refusal)

    @property
    def example(self) -> str:
        """What is wrong with the first record that was refused, for an error's sentence."""
        if self.first is None:
            return ""
        return f" ({self.first.place}: {self.first.detail or self.first.reason})"


@dataclass(frozen=True)
class Record:
    """An object of a file, and where it is."""

    line: RawLine
    raw: dict[str, Any]
    file: str

    @property
    def place(self) -> str:
        return f"line {self.line.number} of {self.file}"

    def refusal(self, error: Unusable) -> Refusal:
        return Refusal(self.line, error.reason, error.detail, self.file)


def records(address: Path | str, reading: Reading) -> Iterator[Record]:
    """The objects of a file or ``hf://`` dataset; whatever is none is refused. Who uses one adds it to ``reading.read``."""
    name = str(address) if is_hub(address) else Path(address).name
    for line, raw in _objects(address):
        if isinstance(raw, Refusal):
            reading.refuse(Refusal(raw.line, raw.reason, raw.detail, name))
        else:
            yield Record(line, raw, name)


def parsed(
    address: Path | str, reading: Reading, parse: Callable[[Mapping[str, Any]], Found]
) -> Iterator[tuple[Record, Found]]:
    """What ``parse`` makes of the records of a file, each with its place. One that is ``Unusable`` is refused and counted."""
    for record in records(address, reading):
        try:
            found = understood(record, parse)
        except Unusable as error:
            reading.refuse(record.refusal(error))
            continue
        reading.read += 1
        yield record, found


def understood(record: Record, parse: Callable[[Mapping[str, Any]], Found]) -> Found:
    """What ``parse`` makes of a record. Raises ``Unusable``, also for what nobody foresaw."""
    try:
        return parse(record.raw)
    except (ValueError, TypeError, ArithmeticError, RecursionError, LookupError, AttributeError) as error:
        why = whole_characters(f"{type(error).__name__}: {str(error)[:100]}")
        raise Unusable("unreadable_record", why) from None


def is_hub(address: Path | str) -> bool:
    return str(address).startswith(HUB)


def find(address: str, inputs: Mapping[str, Dataset]) -> list[Path | str]:
    """The files of an address, in the order of their names. Raises InputError where there is none."""
    if is_hub(address):
        return [address]
    if inside := dataset_file(address):
        dataset = inputs[inside[0]]
        wanted = [output.path for output in dataset.files() if Path(output.path).match(inside[1])]
        return [dataset.local(path) for path in sorted(wanted) or [inside[1]]]
    return list(find_outside(address))


def find_outside(address: str) -> list[Path]:
    """The files of a path, pattern or folder. Raises InputError where there is none."""
    path = Path(address)
    if path.is_dir() and not _is_saved_dataset(path):
        below = (file for file in path.rglob("*") if file.is_file() and not is_marker(file.name))
        found = sorted(file for file in below if {".json", ".jsonl", ".parquet"} & set(file.suffixes))
    elif glob.has_magic(address) and not path.exists():
        found = sorted(Path(match) for match in glob.glob(address, recursive=True) if Path(match).is_file())
    else:
        found = [path] if path.exists() else []
    if not found:
        raise InputError("there is no such file", where=address, remedy="Check the path in the recipe.")
    return found


def _is_saved_dataset(path: Path) -> bool:
    return (path / "state.json").is_file()


def _objects(address: Path | str) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    if is_hub(address) or _is_saved_dataset(Path(address)):
        return _hub_rows(str(address))
    path = Path(address)
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), remedy="Check the path in the recipe.")
    with path.open("rb") as stream:
        if stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            return _parquet_rows(path)
        stream.seek(0)
        shown = (piece.removeprefix(BOM).lstrip() for piece in pieces(stream) if isinstance(piece, bytes))
        is_array = next((head for head in shown if head), b"").startswith(b"[")
    if is_array:
        return _items(path)
    return ((line, parse_object(line)) for line in raw_lines(path))


def parse_object(line: RawLine) -> dict[str, Any] | Refusal:
    """The JSON object of a line. Half of a character pair, which no text can hold, becomes U+FFFD."""
    if line.problem is not None:
        return Refusal(line, *line.problem)
    try:
        text = line.data.decode()
    except UnicodeDecodeError as error:
        return Refusal(line, "not_utf8", f"byte {error.start} of the line")
    try:
        raw = from_json(text)
    except (ValueError, RecursionError) as error:
        return Refusal(line, "not_json", str(error)[:200])
    return _object(line, raw)


def _object(line: RawLine, raw: Any) -> dict[str, Any] | Refusal:
    return raw if isinstance(raw, dict) else Refusal(line, "not_an_object", f"it is a {type(raw).__name__}")


def from_json(text: str) -> Any:
    """What a text of JSON holds. NaN and Infinity, which JSON has not, are what programs write for nothing: null."""
    return _whole(JSON.decode(text), text)


def _whole(raw: Any, text: str) -> Any:
    """With whole characters: half of a pair comes of an escape only."""
    return _mended(raw) if HALF.search(text) else raw


def _mended(value: Any) -> Any:
    if isinstance(value, dict):
        return {whole_characters(name): _mended(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return whole_characters(value) if isinstance(value, str) else value


def _items(path: Path) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    """The items of one JSON array. Only the item that is being read, and a piece more, is held."""
    with path.open("rb") as stream:
        source = _text_pieces(stream)
        text, at, offset, number = next(source, ""), 0, 0, 1
        while "[" not in text:  # there is one: it is why this is read as an array
            text += next(source)
        start = text.index("[") + 1
        while True:
            gap = SEPARATOR.match(text, start)
            start = gap.end() if gap else start
            offset, at = offset + len(text[at:start].encode()), start
            try:
                if text.startswith("]", at):
                    break
                raw, end = JSON.raw_decode(text, at)
                whole = end < len(text) or isinstance(raw, (dict, list, str))
                problem = "" if whole else "the array has no end"  # or 1 may be the beginning of 12
            except (ValueError, RecursionError) as error:
                problem = str(error)[:200]
            if problem:
                # As much again as is held: a large item is tried a few times, not once a piece.
                more = "".join(islice(source, 1 + (len(text) - at >> 20)))
                if not more or len(text) - at > LONGEST_LINE:
                    line = RawLine(number, offset, b"")
                    yield line, Refusal(line, "not_json", f"what follows cannot be told apart: {problem}")
                    return
                text, at, start = text[at:] + more, 0, 0
                continue
            line = RawLine(number, offset, text[at:end].encode())
            yield line, _object(line, _whole(raw, text[at:end]))
            start, number = end, number + 1
        if (text[at + 1 :] + next(source, "")).strip():
            line = RawLine(number, offset, b"")
            yield line, Refusal(line, "not_json", "something follows the end of the array")


def _text_pieces(stream: BinaryIO) -> Iterator[str]:
    """The text of a file up to what is damaged."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    for piece in pieces(stream):
        if isinstance(piece, Lost):
            return  # the array is cut there, and told as such
        if text := decoder.decode(piece):  # none of half a character
            yield text


def _parquet_rows(path: Path) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    try:
        yield from _rows(batch for batch in pq.ParquetFile(path).iter_batches(ROWS))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"the Parquet file cannot be read: {str(error).splitlines()[0]}", where=str(path), remedy="Fetch it again."
        ) from error


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    """Rows of tables. Text that is not UTF-8 costs its row."""
    number = 0
    for batch in batches:
        for index in range(batch.num_rows):
            number += 1
            line = RawLine(number, 0, b"")
            try:
                (row,) = batch.slice(index, 1).to_pylist()
                yield line, _without_nulls(row)
            except UnicodeDecodeError as error:
                yield line, Refusal(line, "not_utf8", str(error))


def _without_nulls(value: Any) -> Any:
    """Objects of a table have the keys of all its rows: a call of one function those of every other's arguments."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _hub_rows(address: str) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    """Rows of what the ``datasets`` library opens, streamed. Code of a dataset's own is never run."""
    import datasets

    name, _, query = address.removeprefix(HUB).partition("?")
    options = dict(parse_qsl(query))
    try:
        if _is_saved_dataset(Path(name)):
            found: Any = datasets.load_from_disk(name)
        else:
            split, revision = options.get("split", "train"), options.get("revision")
            found = datasets.load_dataset(name, options.get("subset"), split=split, revision=revision, streaming=True)
    except (ValueError, FileNotFoundError, RuntimeError, LookupError) as error:
        raise InputError(
            f"the dataset cannot be read: {(str(error) or type(error).__name__).splitlines()[0][:200]}",
            where=address,
            remedy="Check its name, subset, split and revision: hf://NAME?subset=…&split=…&revision=….",
        ) from error
    tables = (table for table in found.with_format("arrow").iter(ROWS))
    yield from _rows(batch for table in tables for batch in table.to_batches())


def name_of(given: Any, content: Any) -> str:
    """The id a record brings, or else one made of its content."""
    if isinstance(given, (str, int)) and not isinstance(given, bool) and str(given).strip():
        return whole_characters(str(given))
    return hashlib.blake2b(canonical_json(content).encode(), digest_size=16).hexdigest()


def whole_characters(text: str) -> str:
    """Lone surrogates have no UTF-8 form and become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def keys_of(raw: Mapping[str, Any]) -> str:
    return ", ".join(list(raw)[:8]) or "none"
