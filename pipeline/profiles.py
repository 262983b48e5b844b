"""What a source is: its files, its profile, and what a stage does with the documents of each.

A source's name says nothing about it. Its profile does: by its kind where that is plain (a crawl holds web pages, a
repository code), else as the recipe says. Rules, redaction and the classifier's sets of texts hang on profiles by default; an
entry may also name a source, and the first entry that fits holds.
"""

from collections.abc import Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

from infra.config import Config
from infra.errors import ConfigError


def source_of(path: str) -> str:
    """The source that a file of a dataset of documents belongs to: ``data/<source>/…``, ``ledger/<source>/…``."""
    return path.split("/")[1]


class Profile(StrEnum):
    """What the documents of a source are."""

    WEB = "web"
    ENCYCLOPEDIA = "encyclopedia"
    CODE = "code"
    BOOKS = "books"
    CHAT = "chat"
    NONE = "none"


CHOICES = ", ".join(Profile)


class SourceProfile(Config):
    """The profile of one source."""

    source: str
    """Name of the source."""
    profile: Profile
    """What its documents are."""


class SourceEntry(Config):
    """One entry of a list by source: the first whose name and profile fit a source holds for it."""

    source: str = "*"
    """Name of the source as in the recipe; * and ? stand for anything."""
    profile: Profile | None = None
    """Only sources of this profile; none: whatever it is."""

    @property
    def described(self) -> str:
        """As a recipe would name it."""
        if self.profile is None:
            return f"source: {self.source!r}"
        return f"profile: {self.profile}" + ("" if self.source == "*" else f", source: {self.source!r}")


class BySource(Config):
    """Configuration of a stage that treats sources differently."""

    profiles: tuple[SourceProfile, ...] = ()
    """The profile of each source; empty: as the sources of ``ingest`` in the same recipe say."""

    def profile_of(self, source: str) -> Profile | None:
        return next((entry.profile for entry in self.profiles if entry.source == source), None)

    def fits(self, entry: SourceEntry, source: str) -> bool:
        return fnmatchcase(source, entry.source) and entry.profile in (None, self.profile_of(source))


Entry = TypeVar("Entry", bound=SourceEntry)


def entry_for(config: BySource, entries: Sequence[Entry], source: str, place: str) -> Entry:
    """The entry that holds for a source. Raises ConfigError if there is none; ``place`` is where the entries stand."""
    for entry in entries:
        if config.fits(entry, source):
            return entry
    profile = config.profile_of(source)
    raise ConfigError(
        f"no entry of {place} covers the source {source!r} (profile: {profile or 'not said'}): there are entries for "
        f"{'; '.join(entry.described for entry in entries) or 'nothing'}",
        where=place,
        remedy=f"Add an entry with source: {source!r}, or one for '*'.",
    )
