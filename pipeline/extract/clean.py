"""The one form in which text goes on, whatever it was read from.

Prose is NFC-normalised (the same word typed on two systems must hash and tokenise alike), has no spaces at line ends and
at most one empty line in a row. Characters that show nothing stay where they belong to the spelling and go where they do
not; ``docs/extraction.md`` has the table:

    joiners (U+200B to U+200D)   stay beside a letter of a script that uses them (Arabic, Indic, Thai, Khmer, …) or an
                                 emoji; between characters that never join they are watermarks and left-overs
    direction (U+200E, U+202A …) stays in lines that have a letter written from right to left
    variation selectors          stay behind what they can vary, one each
    tags (U+E0020 …)             stay in flags
    private use                  stays between two letters (a character of somebody's own); else it is an icon's
    C1 controls                  are what windows-1252 has in their place, as HTML's own references are
    soft hyphens                 go; at the end of a line the word is put together
    line ends of any kind        become line feeds
    C0 controls, BOM, word joiner, invisible operators, annotation marks, noncharacters, surrogates   go

Code keeps every character but carriage returns before a line feed: there, whitespace and code points are the content.
"""

import re
import unicodedata
from collections.abc import Set

OTHER_LINE_ENDS = "\r\x0b\x0c\u2028\u2029"
LINE_END = re.compile(f"\r\n|[{OTHER_LINE_ENDS}]")
ASCII_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
UNWANTED = (
    "\x00-\x08\x0e-\x1f\x7f\xad\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffc\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff"
)
C1 = {chr(code): bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
JOINERS = "\u200b-\u200d"
DIRECTIONS = "\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069"
SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
TAGS = "\U000e0000-\U000e007f"
PRIVATE = "\ue000-\uf8ff\U000f0000-\U0010ffff"
# Latin, Greek, Cyrillic, Armenian, Georgian, Hangul, kana, Han, their punctuation, and white space.
NEVER_JOINED = (
    "\x00-\u058f\u10a0-\u11ff\u1c80-\u1cbf\u1d00-\u200a\u2010-\u2029\u202f-\u205f\u2070-\u20cf\u2c60-\u2c7f\u2de0-\u2e7f"
    "\u3000-\u9fff\ua640-\ua69f\ua720-\ua7ff\uab30-\uab6f\uac00-\ud7ff\uf900-\ufb17\uff00-\uffef\U00020000-\U0003ffff"
)
# One set with one range beyond the basic plane: anything else takes five times as long, and every text pays for it.
INVISIBLE = re.compile(f"[\x80-\x9f{UNWANTED}{JOINERS}{DIRECTIONS}\ufe00-\ufe0f\ue000-\uf8ff\U000e0000-\U0010ffff]")
HYPHENATED = re.compile(r"\xad[ \t]*\n[ \t]*(\w)")
DIRECTION = re.compile(f"[{DIRECTIONS}]")
RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdcf\ufdf0-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
FLAG_OR_TAGS = re.compile(f"(\U0001f3f4[\U000e0020-\U000e007e]{{1,16}}\U000e007f)|[{TAGS}]+")
SELECTABLE = re.compile(f"[^\\sA-Za-z{SELECTORS}]")
UNJOINED = re.compile(f"[{NEVER_JOINED}]")
BLANK_LINES = re.compile(r"\n{3,}")


def clean_text(text: str) -> str:
    """Prose in its canonical form."""
    if any(
        end in text for end in OTHER_LINE_ENDS
    ):  # most texts have none, and an expression takes a hundred times as long
        text = LINE_END.sub("\n", text)
    if text.isascii():
        text = ASCII_CONTROLS.sub("", text)
    else:
        text = unicodedata.normalize("NFC", text)
        if invisible := set(INVISIBLE.findall(text)):
            text = HYPHENATED.sub(_joined, text) if "\xad" in invisible else text
            # What goes may bring characters together, which then compose, or leave others with nothing to do.
            while (cleaned := unicodedata.normalize("NFC", without_idle(text, invisible))) != text:
                text = cleaned
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return (BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


def without_idle(text: str, invisible: Set[str]) -> str:
    """Text without the invisible characters that mean nothing where they stand; ``invisible``: those that are in it."""
    found = "".join(invisible)
    for character in invisible & C1.keys():
        text = text.replace(character, C1[character])
    if re.search(f"[{UNWANTED}]", found):
        text = re.sub(f"[{UNWANTED}]+", "", text)
    if DIRECTION.search(found):
        lines = text.split("\n")
        text = "\n".join(line if RIGHT_TO_LEFT.search(line) else DIRECTION.sub("", line) for line in lines)
    if re.search(f"[{PRIVATE}]", found):
        text = re.sub(f"[{PRIVATE}]+", _between_letters, text)
    if re.search(f"[{TAGS}]", found):
        text = FLAG_OR_TAGS.sub(r"\1", text)
    if re.search(f"[{SELECTORS}]", found):
        text = re.sub(f"[{SELECTORS}]+", _selecting, text)
    if re.search(f"[{JOINERS}]", found):
        text = re.sub(f"[{JOINERS}]+(?![^{NEVER_JOINED}])", _joining, text)
    return text


def _joined(end: re.Match[str]) -> str:
    """A hyphen that was shown at the line's end: the word goes on if it goes on in small letters."""
    return end[1] if end[1].islower() else f"\n{end[1]}"


def _between_letters(run: re.Match[str]) -> str:
    before, after = run.string[run.start() - 1 : run.start()], run.string[run.end() : run.end() + 1]
    return run[0] if before.isalpha() and after.isalpha() else ""


def _selecting(run: re.Match[str]) -> str:
    return run[0][0] if run.start() and SELECTABLE.match(run.string, run.start() - 1) else ""


def _joining(run: re.Match[str]) -> str:
    """Joiners before a character that never joins: they belong to the one before them, if to any."""
    return run[0] if run.start() and not UNJOINED.match(run.string, run.start() - 1) else ""


def clean_line(text: str) -> str:
    """A title or name: one line, single spaces."""
    return " ".join(clean_text(text).split())


def clean_code(text: str) -> str:
    """Source code as it is, with line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "ignore").decode("utf-8")
