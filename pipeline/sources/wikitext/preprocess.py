"""First stage, as MediaWiki's preprocessor: what is not markup is put aside, templates become their text.

One pass over the page with a stack of what is open. Comments go; extension tags (``<nowiki>``, ``<pre>``, ``<ref>``, …)
end at their first closing tag, whatever stands between; ``{{…}}``, ``{{{…}}}`` and, in wikis with script variants,
``-{…}-`` are evaluated when they close, from the inside out; ``[[…|…]]`` only keeps its ``|`` from splitting a
template's arguments. What never closes is text. Literal pieces wait in ``WikiPage.literals`` behind a mark, so that no later
stage reads markup in them.

Time is linear in the page: nothing is searched twice, and when nested templates have copied text ``COPIES`` times over,
further ones count as unknown.
"""

import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from pipeline.sources.wikitext.names import Wiki
from pipeline.sources.wikitext.variants import choose_variant

GAP = "\x04"
"""Stands where something unseen was, so that brackets and spaces left empty by it can go, and only those."""
EMPTY = "\x05"
"""An empty literal (``<nowiki/>``): shows nothing, and parts what would be a mark together."""
# Never assigned, so that no text has them and what cleans text between the stages leaves them.
OPENING, CLOSING = "\u2fe0", "\u2fe1"
LITERAL = re.compile(f"{OPENING}(\\d+){CLOSING}")
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_TOKEN = re.compile(r"<!--|<[A-Za-z][A-Za-z0-9-]*|</[A-Za-z][A-Za-z0-9-]*|\{\{+|\}\}+|\[\[|\]\]|\||=|-\{(?!\{)|\}-")
_NAME_END = re.compile(r"[\s/>]")
_NO_NAME = re.compile(r"[\x00-\x1f\x7f{}<>\[\]|\u2fe0\u2fe1]")
_LONGEST_ATTRIBUTES = 2_000
# Shown as they are, entities decoded or not.
_DECODED = frozenset({"nowiki", "pre"})
_RAW = frozenset({"source", "syntaxhighlight", "math", "chem", "ce"})
_CODE = frozenset({"code", "tt", "kbd", "samp"})
_BLOCKS = frozenset({"pre", "source", "syntaxhighlight"})
_UNSEEN = frozenset(
    "ref references gallery timeline imagemap score hiero graph mapframe maplink templatestyles style script indicator inputbox"
    " categorytree includeonly templatedata section ref-list charinsert dynamicpagelist phonos languages".split()
)
_SWITCHES = frozenset({"noinclude", "onlyinclude", "translate", "tvar"})
_KNOWN = _DECODED | _RAW | _CODE | _UNSEEN
_MOST_OPEN_LINKS = 20
COPIES = 50

Expand = Callable[[str, list[tuple[str | None, str]]], str | None]
"""A template's text by its name and arguments (name or None, value); None where it is unknown."""


@dataclass
class WikiPage:
    """What the stages share about one page."""

    wiki: Wiki
    expand: Expand
    literals: list[str] = field(default_factory=list)
    unseen: Counter[str] = field(default_factory=Counter)
    """Templates that gave no text, by name."""

    def literal(self, text: str) -> str:
        """A mark that stands for the text, verbatim, until the end."""
        if not text:
            return EMPTY
        self.literals.append(text)
        return f"{OPENING}{len(self.literals) - 1}{CLOSING}"

    def fill(self, text: str) -> str:
        """The text with its marks replaced by what they stand for."""
        return LITERAL.sub(lambda found: self.literals[int(found[1])], text) if OPENING in text else text


@dataclass
class _Piece:
    """Something open: ``{`` (``count`` braces), ``[``, ``-``, or the page itself."""

    kind: str
    count: int = 0
    parts: list[list[str]] = field(default_factory=lambda: [[]])
    equals: dict[int, int] = field(default_factory=dict)
    """Where the first ``=`` of a part stands in its fragments."""

    def source(self) -> list[str]:
        """What was written, less the closing marks."""
        opened = {"{": "{" * self.count, "[": "[[", "-": "-{"}.get(self.kind, "")
        fragments = [opened]
        for number, part in enumerate(self.parts):
            if number:
                fragments.append("|")
            fragments += part
        return fragments


def decode_entities(text: str) -> str:
    """Character references with their semicolon, as MediaWiki reads them; control characters are none."""
    return ENTITY.sub(_character, text) if "&" in text else text


def _character(found: re.Match[str]) -> str:
    character = html.unescape(found[0])
    return character if (character >= " " and character != "\ufffd") or character in "\t\n" else ""


class Preprocessor:
    """One page's pass. ``keep_unknown``: unknown templates stay as written (in code, where they are no templates)."""

    def __init__(self, page: WikiPage, text: str, keep_unknown: bool = False) -> None:
        self.page, self.text, self.keep_unknown = page, text, keep_unknown
        self.variants = page.wiki.variants()
        self.stack = [_Piece("")]
        self.links_open = 0
        self.never_closed: set[str] = set()
        self.budget = COPIES * len(text) + 100_000

    def run(self) -> str:
        text, position = self.text, 0
        while found := _TOKEN.search(text, position):
            if found.start() > position:
                self.put(text[position : found.start()])
            position = self.token(found[0], found.start(), found.end())
        self.put(text[position:])
        return "".join(fragment for piece in self.stack for fragment in piece.source())

    def put(self, fragment: str) -> None:
        if fragment:
            self.stack[-1].parts[-1].append(fragment)

    def flush(self) -> None:
        """What is open on top is text after all."""
        piece = self.stack.pop()
        self.links_open = self.links_open - 1 if piece.kind == "[" else self._open_links()
        self.stack[-1].parts[-1] += piece.source()

    def _open_links(self) -> int:
        """Links open since the last brace."""
        number = 0
        while self.stack[-1 - number].kind == "[":
            number += 1
        return number

    def token(self, token: str, start: int, end: int) -> int:
        """Handle the token at ``start``; where to go on."""
        first = token[0]
        if first == "<":
            return self.comment(start) if token == "<!--" else self.tag(token, start, end)
        if token[:2] == "{{":
            self.open("{", len(token))
        elif token[:2] == "}}":
            return self.close_braces(token, start, end)
        elif token == "[[":
            if self.links_open < _MOST_OPEN_LINKS:
                self.open("[")
            else:
                self.put(token)
        elif token == "]]":
            self.close_link()
        elif token == "-{" and self.variants:
            self.open("-")
        elif token == "}-" and self.stack[-1].kind == "-":
            self.close_variant()
        elif first in "|=":
            self.divide(first)
        else:
            self.put(token)
        return end

    def open(self, kind: str, count: int = 0) -> None:
        self.stack.append(_Piece(kind, count))
        self.links_open = self.links_open + 1 if kind == "[" else 0

    def pop(self) -> _Piece:
        piece = self.stack.pop()
        self.links_open = self._open_links()
        return piece

    def divide(self, token: str) -> None:
        top = self.stack[-1]
        if token == "|" and top.kind:
            top.parts.append([])
            return
        if token == "=" and top.kind == "{" and len(top.parts) > 1:
            top.equals.setdefault(len(top.parts) - 1, len(top.parts[-1]))
        self.put(token)

    def close_link(self) -> None:
        if self.stack[-1].kind == "[":
            piece = self.pop()
            self.put("".join([*piece.source(), "]]"]))
        else:
            self.put("]]")

    def close_variant(self) -> None:
        parts = ["".join(part) for part in self.pop().parts]
        self.budget -= sum(map(len, parts))
        self.put(choose_variant(parts, self.variants) if self.budget > 0 else GAP)

    def close_braces(self, token: str, start: int, end: int) -> int:
        left = len(token)
        while left >= 2:
            if self.stack[-1].kind == "[" and self._below_links() == "{":
                self.flush()  # a link that never closes costs itself, not the template around it
                continue
            if self.stack[-1].kind != "{":
                break
            piece = self.pop()
            taken = min(left, piece.count, 3)
            result = self.parameter(piece) if taken == 3 else self.template(piece)
            if piece.count - taken >= 2:
                self.open("{", piece.count - taken)
            else:
                self.put("{" * (piece.count - taken))
            self.put(result)
            left -= taken
        if left == 1 and self.stack[-1].kind == "-" and self.text.startswith("-", end):
            self.close_variant()
            return end + 1
        self.put("}" * left)
        return end

    def _below_links(self) -> str:
        at = len(self.stack) - 1
        while self.stack[at].kind == "[":
            at -= 1
        return self.stack[at].kind

    def parameter(self, piece: _Piece) -> str:
        """``{{{name|default}}}`` has its default on a page of its own."""
        parts = ["".join(part) for part in piece.parts]
        self.budget -= sum(map(len, parts))
        return parts[1] if len(parts) > 1 and self.budget > 0 else ""

    def template(self, piece: _Piece) -> str:
        name = "".join(piece.parts[0])
        arguments: list[tuple[str | None, str]] = []
        for number, part in enumerate(piece.parts[1:], 1):
            at = piece.equals.get(number)
            if at is None:
                arguments.append((None, "".join(part)))
            else:
                arguments.append(("".join(part[:at]).strip(), "".join(part[at + 1 :]).strip()))
        self.budget -= sum(len(value) for _, value in arguments)
        if self.budget > 0 and (result := self.page.expand(name, arguments)) is not None:
            return result
        if self.keep_unknown:
            source = "".join(piece.source()).removeprefix("{" * piece.count)
            return f"{{{{{source}}}}}"
        self.page.unseen[_counted_name(name)] += 1
        return GAP

    def comment(self, start: int) -> int:
        """A comment goes, with its line if it stands there alone."""
        at = self.text.find("-->", start + 4)
        end = len(self.text) if at < 0 else at + 3
        before = self.text[max(0, start - 50) : start].rpartition("\n")
        if (before[1] or start < 50) and not before[2].strip():
            after = self.text[end : end + 50].partition("\n")
            if after[1] and not after[0].strip():
                return end + len(after[0]) + 1
        return end

    def tag(self, token: str, start: int, end: int) -> int:
        name = token.lstrip("</").lower()
        if name not in _KNOWN and name not in _SWITCHES:
            self.put(token)
            return end
        close = self.text.find(">", end, end + _LONGEST_ATTRIBUTES)
        if close < 0 or not _NAME_END.match(self.text, end):
            self.put(token)
            return end
        if name in _SWITCHES:
            return close + 1
        if token[1] == "/":  # a closing tag without its opening one
            return close + 1
        attributes = self.text[end:close]
        if attributes.endswith("/"):
            self.put(GAP if name in _UNSEEN else EMPTY)
            return close + 1
        found = None if name in self.never_closed else _closer(name).search(self.text, close + 1)
        if found is None:
            self.never_closed.add(name)
            return close + 1  # the tag alone goes: what follows is text
        self.put(self.extension(name, attributes, self.text[close + 1 : found.start()]))
        return found.end()

    def extension(self, name: str, attributes: str, content: str) -> str:
        if name in _UNSEEN:
            return GAP
        if name in _CODE:
            from pipeline.sources.wikitext.inline import code_text

            return self.page.literal(code_text(self.page, content))
        if name in _DECODED:
            if name == "pre":
                content = re.sub(r"</?nowiki\s*/?>", "", content)
            content = decode_entities(content)
        if name in _BLOCKS and "inline" not in attributes and "none" not in attributes:
            return f"\n{self.page.literal(content.strip(chr(10)).rstrip())}\n"
        return self.page.literal(content.strip() if name not in _DECODED else content)


def _counted_name(name: str) -> str:
    """A template's name as it is counted: the same whatever the letters' case, and short."""
    plain = " ".join(_NO_NAME.sub("", name.partition(":")[0] + ":" if name.startswith("#") else name).split())
    return plain.replace("_", " ").lower()[:60] or "?"


@cache
def _closer(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}\s{{0,20}}>", re.IGNORECASE)
