"""The licence of each file of a repository.

In order: what the file itself names (``licenses.py``); its ``.license`` neighbour; ``REUSE.toml`` or ``.reuse/dep5``; the
nearest folder above it that has a licence file. Licence files in one folder that are named after licences (``LICENSE-MIT``,
``LICENSE-APACHE``) are a choice; others with different licences hold together. A licence file that cannot be told is the
licence of its folder all the same: unknown.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from pipeline.sources.license_expressions import parse_expression
from pipeline.sources.licenses import is_license_file, license_in_tags, license_named_in, license_of_text

_CHOICE = re.compile(
    r"^(?:un)?licen[cs]e[._-](?:mit|apache|bsd|isc|gpl|lgpl|mpl|zlib|cc0|unlicense|boost|psf|artistic|wtfpl|0bsd)", re.I
)
_OTHER_FILE = re.compile(r"\bLICEN[CS]E[._-]\w{2,20}")
_LONGEST_POINTER = 1_500
_SUPPLEMENT = re.compile(r"third|3rd|notice|vendor|bundle|depend|contrib|template|header|docs?\b|media|font|data", re.I)
_DEP5_FIELD = re.compile(r"^(Files|License)[ \t]*:[ \t]*(.*(?:\n[ \t]+.*)*)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Licensed:
    """A file's licence. ``own``: the file says so itself, or says something that cannot be read (``expression`` None)."""

    expression: str | None
    own: bool
    words: str = ""


@dataclass
class LicenseTree:
    """What a repository says of its files' licences outside of them."""

    folders: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """By folder: the expression of each licence file in it, by name."""
    neighbours: dict[str, str | None] = field(default_factory=dict)
    rules: list[tuple[str, re.Pattern[str], bool, str | None]] = field(default_factory=list)
    """Folder of the rules, paths below it, whether they override the file's own word, the expression."""

    def add(self, path: str, content: bytes) -> None:
        """Take note of a file, if it is about licences."""
        place = PurePosixPath(path)
        if place.name == "REUSE.toml":
            self.rules += _reuse_rules(str(place.parent), content)
        elif path.endswith(".reuse/dep5"):
            self.rules += _dep5_rules(str(place.parent.parent), content)
        elif place.suffix == ".license":
            named = license_in_tags(content.decode("utf-8", "replace"))
            if named is not None:
                self.neighbours[path.removesuffix(".license")] = named.expression
        elif is_license_file(path):
            text = content.decode("utf-8", "replace")
            if len(text) < _LONGEST_POINTER and len(set(_OTHER_FILE.findall(text))) > 1 and "either" in text:
                return  # "under the terms of either of the licenses found in LICENSE.APACHE or LICENSE.BSD"
            self.folders.setdefault(str(place.parent), {})[place.name.lower()] = license_of_text(text)

    def license_of(self, path: str, text: str, default: str | None) -> Licensed:
        """The licence of a file. ``default`` holds where neither the file nor the repository says anything."""
        ruled = self._ruled(path)
        if ruled is not None and ruled[0]:
            return Licensed(ruled[1], own=True, words="REUSE.toml")
        around = ruled[1] if ruled is not None else self._nearest(path, default)
        if path in self.neighbours:
            return Licensed(self.neighbours[path], own=True, words=f"{path}.license")
        named = license_named_in(text)
        if named is None:
            return Licensed(around, own=ruled is not None)
        if named.family:
            same = around is not None and around.startswith(f"{named.family}-") and " " not in around
            return Licensed(around if same else None, own=True, words=named.words)
        return Licensed(named.expression, own=True, words=named.words)

    def _ruled(self, path: str) -> tuple[bool, str | None] | None:
        """The last rule of the nearest folder that names the path."""
        best: tuple[int, tuple[bool, str | None]] | None = None
        for folder, pattern, override, expression in self.rules:
            below = path if folder == "." else path.removeprefix(f"{folder}/")
            if (
                (folder == "." or below != path)
                and pattern.fullmatch(below)
                and (best is None or len(folder) >= best[0])
            ):
                best = len(folder), (override, expression)
        return best[1] if best else None

    def _nearest(self, path: str, default: str | None) -> str | None:
        for folder in PurePosixPath(path).parents:
            files = self.folders.get(str(folder))
            if files and (found := _together(files)) is not _NOTHING:
                # What the user says of the source speaks for its top folder, whose licence file has no known text.
                return found if found is not None or len(folder.parts) > 1 else default
        return default


_NOTHING = ""


def _together(files: dict[str, str | None]) -> str | None:
    """The licence of a folder by its licence files: None if unknown, empty if they say nothing of the folder."""
    main = {name: found for name, found in files.items() if not _SUPPLEMENT.search(name)}
    if not main:
        return _NOTHING
    if any(
        name.startswith("copying.less") for name in main
    ):  # the lesser licence is written as a supplement of the other
        main = {name: found for name, found in main.items() if not re.fullmatch(r"copying(\.txt|\.md)?", name)}
    known = sorted({found for found in main.values() if found is not None})
    if None in main.values():
        return None
    if len(known) == 1:
        return known[0]
    choice = sum(bool(_CHOICE.match(name)) for name in main) >= len(main) - 1
    operator = " OR " if choice else " AND "
    return parse_expression(operator.join(f"({one})" if " " in one else one for one in known))


def _reuse_rules(folder: str, content: bytes) -> Iterable[tuple[str, re.Pattern[str], bool, str | None]]:
    try:
        read: dict[str, Any] = tomllib.loads(content.decode("utf-8", "replace"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    annotations = read.get("annotations")
    for entry in annotations if isinstance(annotations, list) else ():
        if not isinstance(entry, dict) or "SPDX-License-Identifier" not in entry:
            continue
        expression = _all_of(entry["SPDX-License-Identifier"])
        paths = entry.get("path")
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str) and len(path) < 500:
                yield folder, _glob(path, stars_cross=False), entry.get("precedence") == "override", expression


def _all_of(value: Any) -> str | None:
    values = value if isinstance(value, list) else [value]
    parsed = [parse_expression(one) if isinstance(one, str) else None for one in values]
    if not parsed or None in parsed:
        return None
    return parse_expression(" AND ".join(f"({one})" if len(parsed) > 1 else str(one) for one in parsed))


def _dep5_rules(folder: str, content: bytes) -> Iterable[tuple[str, re.Pattern[str], bool, str | None]]:
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields = {found[1].lower(): found[2] for found in _DEP5_FIELD.finditer(paragraph)}
        if "files" in fields and "license" in fields:
            expression = parse_expression(fields["license"].split("\n")[0].strip())
            for path in fields["files"].split():
                yield folder, _glob(path[:500], stars_cross=True), False, expression


@cache
def _glob(path: str, stars_cross: bool) -> re.Pattern[str]:
    """``*`` stays in its folder in REUSE.toml, and crosses folders there as ``**`` and in dep5."""
    pieces = re.split(r"(\*+|\?)", path)
    inside = {"?": "." if stars_cross else r"\?"}
    return re.compile(
        "".join(
            (".*" if stars_cross or len(piece) > 1 else "[^/]*")
            if piece.startswith("*")
            else inside.get(piece) or re.escape(piece)
            for piece in pieces
        ),
        re.DOTALL,
    )
