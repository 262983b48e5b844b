"""Last stage: lines. Lists get dashes, spaces are single, headings stand only where text follows them.

What is put aside as literal is behind marks and stays as it is; lines that begin with a space are preformatted.
"""

import re
from collections import Counter

from pipeline.sources.wikitext.inline import plain_quotes
from pipeline.sources.wikitext.names import DOUBTFUL, Wiki
from pipeline.sources.wikitext.preprocess import EMPTY, GAP, decode_entities

_HEADING = re.compile(r"(={1,6})(.+?)(={1,6})[ \t]*\Z")
_LIST = re.compile(r"[*#:;]+[ \t]*")
_SPACES = re.compile(r"[ \t\xa0]+")
_BLANK_LINES = re.compile(r"\n{3,}")
# A gap takes with it what stood for it alone: brackets, a comma after the opening one, the space before a full stop.
_EMPTY_BRACKETS = re.compile(rf"[(\[（［][\s,;:،、；]*{GAP}[\s,;:،、；{GAP}]*[)\]）］]")
_OPENING = re.compile(rf"([(\[（［])\s*{GAP}[\s{GAP}]*[,;:،、；]?\s*")
_CLOSING = re.compile(rf"[\s,;:،、；]*{GAP}[\s,;:،、；{GAP}]*(?=[)\]）］])")
_BEFORE_MARK = re.compile(rf"[ \xa0]*{GAP}[ {GAP}]*(?=[,.;:)\]）］،、；。，])")
_LEADING = re.compile(rf"{GAP}[\s{GAP}]*[,;:.]*\s*")
_RESIDUE = frozenset("|{}[]()<>=:;,*#!-+/\\_ '\"" + GAP)


def lay_out(text: str, wiki: Wiki, dropped: Counter[str]) -> str:
    """The page's lines; ``dropped`` counts the closing sections that go, by title."""
    apparatus = wiki.apparatus()
    lines: list[str] = []
    waiting: list[tuple[int, str]] = []
    skipping = 0
    preformatted = False
    for raw in text.split("\n"):
        heading = _HEADING.match(raw.rstrip(f" \t{GAP}")) if raw.startswith("=") else None
        if heading is None:
            if skipping:
                continue
            content = _line(raw, preformatted)
            preformatted = raw.startswith(" ") and bool(content)
            if content and waiting:
                lines += [part for _, title in waiting for part in ("", title, "")]
                waiting = []
            lines.append(content)
            continue
        level, title = _title(heading)
        if skipping and level > skipping:
            continue
        key = title.lower().rstrip(":")
        skipping = level if key in apparatus and (level <= 2 or key not in DOUBTFUL) else 0
        if skipping:
            dropped[key] += 1
        # A heading replaces those before it that are as deep: they had no text.
        waiting = [(depth, name) for depth, name in waiting if depth < level]
        if title:
            waiting.append((level, title))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines))


def _title(heading: re.Match[str]) -> tuple[int, str]:
    """Level and title; where the marks are unlike, the longer one's rest is part of the title."""
    opened, title, closed = heading.groups()
    level = min(len(opened), len(closed))
    title = "=" * (len(opened) - level) + title + "=" * (len(closed) - level)
    return level, _SPACES.sub(" ", _closed_gaps(decode_entities(plain_quotes(title).replace(EMPTY, "")))).strip()


def _line(raw: str, inside: bool) -> str:
    """One line of text; empty where nothing readable is left of it. ``inside``: it goes on with preformatted text."""
    if raw.startswith(" ") and not raw.isspace():
        return _preformatted(raw, inside)
    line = raw.strip(" \t\xa0")
    prefix = _LIST.match(line)
    marks = prefix[0].strip() if prefix else ""
    content = plain_quotes(line[prefix.end() :] if prefix else line)
    if marks.endswith(";"):
        content = content.replace(" : ", "\n", 1)  # term : definition
    content = _closed_gaps(decode_entities(content.replace(EMPTY, "")))
    content = _SPACES.sub(" ", content).strip()
    if _is_residue(content.rstrip(".") if GAP in line else content):
        return ""
    return f"- {content}" if "*" in marks or "#" in marks else content


def _preformatted(raw: str, inside: bool) -> str:
    """A closing brace that stands alone is what is left of markup, or below a line of code its end."""
    content = _closed_gaps(decode_entities(plain_quotes(raw[1:]).replace(EMPTY, ""))).rstrip()
    return "" if not inside and _is_residue(content) else content


def _is_residue(content: str) -> bool:
    """Nothing but what is left of markup."""
    return not content or (not any(map(str.isalnum, content)) and set(content) <= _RESIDUE)


def _closed_gaps(text: str) -> str:
    if GAP not in text:
        return text
    text = _LEADING.sub("", text, count=1) if text.startswith(GAP) else text
    text = _EMPTY_BRACKETS.sub("", text)
    text = _CLOSING.sub("", _OPENING.sub(r"\1", text))
    return _BEFORE_MARK.sub("", text).replace(GAP, "")
