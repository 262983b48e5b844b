"""The log of votes: JSON lines, only ever appended to, each on the disk before anybody is told that it is kept.

    {"kind": "pair", "pair", "prompt": [messages], "prompt_id", "a", "b", "models": [a, b], "sampling", "when"}
    {"kind": "useless", "pair", "why"}           answers that cannot be told apart; nobody is shown them
    {"kind": "prompt", "prompt": [messages], "annotator", "when"}       typed by somebody
    {"kind": "shown", "shown", "pair", "annotator", "left": "a"|"b", "repeat", "when"}
    {"kind": "vote", "shown", "winner": "a"|"b"|"tie"|"both_bad", "seconds", "when"}
    {"kind": "undo", "shown", "when"}

What counts is what the entries say from first to last (``Votes``): a second vote on what was shown takes the place of the
first, an undo takes back the vote that stands. Nothing is deleted, and everything is there to be counted otherwise.

A kill can tear only the last line, which nobody was told of: it is cut off when the log is opened to be written. One
process writes; whoever else opens it to write is refused.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from alignment.forms import messages_from_json
from alignment.turns import Message
from infra.errors import InputError
from infra.store.files import fsync_folder
from infra.store.store import Store

LOG = "log.jsonl"
Side = Literal["a", "b"]
Winner = Literal["a", "b", "tie", "both_bad"]
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class AnswerPair:
    """A prompt with an answer of each of two models."""

    id: str
    prompt_id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    models: tuple[str, str]
    """Of a and of b: datasets (``name/fingerprint``) or folders."""
    sampling: Mapping[str, Any]

    def text(self, side: Side) -> str:
        return self.a if side == "a" else self.b


@dataclass(frozen=True)
class Showing:
    """A pair before an annotator's eyes."""

    id: str
    pair: AnswerPair
    annotator: str
    left: Side
    repeat: bool
    """Shown before, the other way round."""
    when: float

    @property
    def right(self) -> Side:
        return "b" if self.left == "a" else "a"

    @property
    def key(self) -> tuple[str, str, bool]:
        """Whose judgement of what it is: one vote on it stands."""
        return self.annotator, self.pair.id, self.repeat


@dataclass(frozen=True)
class Vote:
    """What an annotator said of what was shown."""

    shown: Showing
    winner: Winner
    seconds: float
    """From seeing it to voting, as the page measured."""
    when: float


@dataclass
class Votes:
    """What the entries read so far come to."""

    pairs: dict[str, AnswerPair] = field(default_factory=dict)
    useless: set[str] = field(default_factory=set)
    typed: list[tuple[tuple[Message, ...], str]] = field(default_factory=list)
    """Prompts with who typed them."""
    shown: dict[str, Showing] = field(default_factory=dict)
    last_shown: dict[str, Showing] = field(default_factory=dict)
    """What each annotator was shown last."""
    standing: dict[tuple[str, str, bool], Vote] = field(default_factory=dict)
    """The vote that counts, by annotator, pair and whether it is a repeat; in the order in which they were cast."""
    judges: dict[str, set[str]] = field(default_factory=dict)
    """Who has a standing vote on a pair, repeats aside."""
    taken_back: Counter[str] = field(default_factory=Counter)
    """Votes that no longer stand: ``replaced`` or ``undone``."""
    cast: int = 0
    """Votes ever, and undos: a mark of how far the log was read."""

    def add(self, entry: Entry) -> None:
        """Take in the next entry. Raises KeyError for one that speaks of what was never there."""
        kind = entry["kind"]
        if kind == "vote":
            self._vote(entry)
        elif kind == "undo":
            shown = self.shown[entry["shown"]]
            del self.standing[shown.key]
            self.taken_back["undone"] += 1
            self.cast += 1
            if not shown.repeat:
                self.judges[shown.pair.id].discard(shown.annotator)
        elif kind == "shown":
            pair = self.pairs[entry["pair"]]
            found = Showing(entry["shown"], pair, entry["annotator"], entry["left"], entry["repeat"], entry["when"])
            self.shown[found.id] = self.last_shown[found.annotator] = found
        elif kind == "pair":
            prompt, (first, second) = messages_from_json(entry["prompt"]), entry["models"]
            self.pairs[entry["pair"]] = AnswerPair(
                entry["pair"], entry["prompt_id"], prompt, entry["a"], entry["b"], (first, second), entry["sampling"]
            )
        elif kind == "prompt":
            self.typed.append((messages_from_json(entry["prompt"]), entry["annotator"]))
        else:
            self.useless.add(entry["pair"])

    def _vote(self, entry: Entry) -> None:
        shown = self.shown[entry["shown"]]
        if self.standing.pop(shown.key, None) is not None:
            self.taken_back["replaced"] += 1
        self.cast += 1
        self.standing[shown.key] = Vote(shown, entry["winner"], entry["seconds"], entry["when"])
        if not shown.repeat:
            self.judges.setdefault(shown.pair.id, set()).add(shown.annotator)

    def of(self, annotator: str) -> list[Vote]:
        """The standing votes of an annotator, in the order in which they were cast."""
        return [vote for vote in self.standing.values() if vote.shown.annotator == annotator]


def votes_folder(store: Store) -> Path:
    """Log, study and annotators: on this machine, where an entry can be appended, also of a workspace in a bucket."""
    return store.home / "votes"


def read_votes(path: Path) -> Votes:
    """What a log says, whether or not somebody is writing it. Raises InputError where there is none, or it is damaged."""
    if not path.is_file():
        raise InputError("there are no votes here yet", where=str(path), remedy="Open Compare in `headwater serve`.")
    with path.open("rb") as stream:
        return _fold(_entries(stream.read(), path), path)


def _entries(data: bytes, path: Path) -> Iterator[tuple[int, Entry]]:
    """The whole lines of a log, numbered; what follows the last line's end is one that a kill tore."""
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            yield number, json.loads(line)
        except ValueError:
            raise _damaged(number, path) from None


def _fold(entries: Iterator[tuple[int, Entry]], path: Path) -> Votes:
    votes = Votes()
    for number, entry in entries:
        try:
            votes.add(entry)
        except (KeyError, TypeError, ValueError):
            raise _damaged(number, path) from None
    return votes


def _damaged(number: int, path: Path) -> InputError:
    remedy = "Restore the file from a copy, or take that line out: the other votes are whole."
    return InputError(f"line {number} of the log of votes is damaged", where=str(path), remedy=remedy)


class VoteLog:
    """The log, open to be written by this process alone. ``votes`` is what it says."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            remedy = "One server takes the votes of a workspace: use that one, or stop it."
            raise InputError("another server takes votes here", where=str(path), remedy=remedy) from None
        try:
            with path.open("rb") as stream:
                data = stream.read()
            self._size = data.rfind(b"\n") + 1
            os.ftruncate(self._file, self._size)
            self.votes = _fold(_entries(data, path), path)
            fsync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, entry: Entry) -> None:
        """Returns once the entry is on the disk; if that fails nothing of it stays."""
        line = json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.pwrite(self._file, line, self._size)
            if written != len(line):
                raise OSError(28, os.strerror(28), str(self._path))
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)
        self.votes.add(entry)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
