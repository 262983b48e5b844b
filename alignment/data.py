"""Where conversations and preferences come from: files of an input dataset, or paths; and how their lines are read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alignment.turns import Message
from infra.config import Json
from infra.errors import InputError
from infra.store.address import dataset_file
from infra.store.files import sha256_file
from pipeline.compression import Lost, Overlong, foreign_format, lines
from pipeline.sources.digests import file_digest

BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 64 << 20
MODEL_SUFFIXES = (".json", ".jinja", ".model", ".safetensors")


@dataclass(frozen=True)
class RatedReply:
    """A reply that somebody liked or did not, with no other beside it to compare it with (KTO)."""

    id: str
    prompt: tuple[Message, ...]
    completion: str
    label: bool
    weight: float = 1.0


def outside_digests(*addresses: str, base_model: str = "") -> Json:
    """What the files outside the store hold, for the fingerprint; None where all are inside. They must be there.

    A dataset of the hub is known by its name: give its revision where a run must be repeatable.
    """
    from alignment.records import find_outside, is_hub

    digests: list[Json] = []
    for address in (address for address in addresses if not dataset_file(address)):
        digests += [address] if is_hub(address) else [sha256_file(path) for path in find_outside(address)]
    if base_model:
        digests += _model_digests(Path(base_model))
    return digests or None


def _model_digests(folder: Path) -> list[Json]:
    """Of weights, which may be many gigabytes, the size and both ends are read."""
    if not (folder / "config.json").is_file():
        raise InputError("there is no model folder", where=str(folder), remedy="Check base_model in the recipe.")
    files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES)
    return [[path.name, file_digest(str(path), path.stat().st_size)] for path in files]


class RawLine(NamedTuple):
    """A line that is not empty, and where it lies in the text of its file; or why there is none."""

    number: int
    offset: int
    data: bytes
    problem: tuple[str, str] | None = None
    """(reason, detail) where the bytes are damaged or too many."""


def raw_lines(path: Path) -> Iterator[RawLine]:
    """The lines of a file, whatever it is compressed with, one at a time. What is damaged costs its compressed member.

    Raises InputError for a file that holds no lines of JSON at all.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), remedy="Check the path in the recipe.")
    seen = False
    with path.open("rb") as raw:
        for number, line in enumerate(lines(raw, LONGEST_LINE), start=1):
            if isinstance(line, Lost):
                yield RawLine(number, line.start, b"", ("damaged_file", f"{line.end - line.start} bytes, {line.why}"))
            elif isinstance(line, Overlong):
                yield RawLine(number, line.offset, b"", ("line_too_long", f"{line.length} bytes"))
            elif text := line.data.removeprefix(BOM if not line.offset else b"").strip():
                if not seen:
                    _check_format(path, text)
                seen = True
                yield RawLine(number, line.offset, text)


def _check_format(path: Path, head: bytes) -> None:
    if kind := foreign_format(head):
        raise InputError(f"the file is {kind}", where=str(path), remedy="JSON lines are wanted: an object a line.")


def commonest(counts: Mapping[str, int]) -> str:
    """Reasons in words, the commonest first: ``12 not_json, 3 no_reply``."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items(), key=lambda item: -item[1]))
