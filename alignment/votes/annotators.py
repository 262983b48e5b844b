"""Who may vote: names, each with the digest of the token in its link. A token itself is shown once and kept nowhere."""

import hashlib
import json
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.errors import InputError
from infra.store.slot import slot

ANNOTATORS = "annotators.json"
LONGEST_NAME = 64


@dataclass(frozen=True)
class Annotator:
    name: str
    token: str
    """SHA-256 of it, in hex; empty for one whose link was taken away. The name stays theirs: votes bear it."""
    added: float


class Annotators:
    """Those of a workspace. Every question reads the file if it has changed: links are made while a server runs."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ANNOTATORS
        self._seen: tuple[int, int, int] | None = None
        self._known: Mapping[str, Annotator] = {}

    def all(self) -> list[Annotator]:
        """In the order in which they were added."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return []
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen != self._seen:
            self._known = {each["name"]: Annotator(**each) for each in json.loads(self._path.read_bytes())}
            self._seen = seen
        return list(self._known.values())

    def name_of(self, token: str) -> str | None:
        """Whose token it is."""
        found = _digest(token)
        return next((each.name for each in self.all() if each.token == found), None)

    def has(self, name: str) -> bool:
        return any(_folded(each.name) == _folded(name) for each in self.all())

    def add(self, name: str) -> str:
        """A new annotator's token. Raises InputError for a name that somebody has, or that is none."""
        plain = checked_name(name)
        token = secrets.token_urlsafe(24)

        def put(known: list[Annotator]) -> list[Annotator]:
            if any(_folded(each.name) == _folded(plain) for each in known):
                raise InputError(
                    f"there is an annotator {plain!r} already",
                    where=str(self._path),
                    remedy="Choose another name; `headwater votes annotators renew NAME` makes a new link for the old one.",
                )
            return [*known, Annotator(plain, _digest(token), time.time())]

        self._change(put)
        return token

    def renew(self, name: str) -> str:
        """A new token for somebody, in place of the old one."""
        token = secrets.token_urlsafe(24)
        self._replace(name, _digest(token))
        return token

    def remove(self, name: str) -> None:
        """Take somebody's link away. Their votes, and their name, stay."""
        self._replace(name, "")

    def _replace(self, name: str, digest: str) -> None:
        folded = _folded(checked_name(name))

        def put(known: list[Annotator]) -> list[Annotator]:
            if all(_folded(each.name) != folded for each in known):
                names = ", ".join(each.name for each in known) or "none"
                raise InputError(
                    f"there is no annotator {name!r}", where=str(self._path), remedy=f"Annotators: {names}."
                )
            return [replace(each, token=digest) if _folded(each.name) == folded else each for each in known]

        self._change(put)

    def _change(self, put: Callable[[list[Annotator]], list[Annotator]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record = slot(self._path.parent, self._path.name)
        while True:
            seen = record.read()
            known = [Annotator(**each) for each in json.loads(seen.data or b"[]")]
            data = json.dumps([asdict(each) for each in put(known)], indent=2).encode()
            if record.swap(seen, data):
                return


def checked_name(name: str) -> str:
    """A name that people can tell from others. Raises InputError."""
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name)).strip()
    if not plain or len(plain) > LONGEST_NAME or not plain.isprintable():
        raise InputError(
            f"{name[:LONGEST_NAME]!r} is no name of an annotator",
            remedy=f"Give up to {LONGEST_NAME} printable characters.",
        )
    return plain


def _folded(name: str) -> str:
    return name.casefold()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
