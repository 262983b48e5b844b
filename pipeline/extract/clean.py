"""The one form in which text goes on.

Prose is NFC-normalised (the same word typed on two systems must hash and tokenise alike), has no control or lone
surrogate characters, no spaces at line ends and at most one empty line in a row. Code keeps every character but
carriage returns before a line feed: there, whitespace and code points are the content.
"""

import re
import unicodedata

# Control characters other than tab and line feed, the byte-order mark inside text, and surrogates (which Parquet
# cannot store: they have no UTF-8 form).
UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
TRAILING = re.compile(r"[^\S\n]+\n")
BLANK_LINES = re.compile(r"\n{3,}")


def clean_text(text: str) -> str:
    """Prose in its canonical form."""
    text = LINE_ENDS.sub("\n", text)
    text = UNWANTED.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = TRAILING.sub("\n", text)
    return BLANK_LINES.sub("\n\n", text).strip()


def clean_line(text: str) -> str:
    """A title or name: one line, single spaces."""
    return " ".join(clean_text(text).split())


def clean_code(text: str) -> str:
    """Source code as it is, with line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "ignore").decode("utf-8")
