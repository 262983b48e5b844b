"""Characters that show nothing, carried through an extractor that drops them.

trafilatura removes what ``str.isprintable`` refuses: joiners of Persian, Sinhala and Khmer words, marks of direction,
tags of flags, characters younger than Python's Unicode. So they travel as characters of an old script that is not on the
page, letters to the extractor, and are themselves again in its text. References (``&zwnj;``, ``&#8203;``) are taken
too, since the parser resolves them. An element that holds nothing else stays as empty to the extractor as it is to a reader.
"""

import html
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pipeline.extract.clean import C1, UNWANTED

# Only those whose character may be unprintable: a page may have thousands of others.
REFERENCE = re.compile(
    rb"&(?:#0*(?:15(?:3[6-9]|4[01]|64)|1757|1807|2274|6158|82(?:0[3-7]|3[4-8]|9[4-7])|5[7-9]\d{3}|6[0-3]\d{3}|\d{6})(?!\d)"
    rb"|#[xX]0*(?:6(?:0[0-5]|1[cC]|[dD]{2})|70[fF]|8[eE]2|180[eE]|20[0-6][0-9a-fA-F]|[eEfF][0-9a-fA-F]{3}|[0-9a-fA-F]{5})"
    rb"(?![0-9a-fA-F])|zwn?j|[lr][rl]m|ZeroWidthSpace|Negative(?:VeryThin|Thin|Medium|Thick)Space);?"
)
# Articles that a page carries as JSON-LD, most often with all but ASCII escaped.
MAX_SCRIPTS = 16
ESCAPE = re.compile(
    rb"(?<!\\)((?:\\\\)*)\\u(06(?:0[0-5]|1[cC]|[dD]{2})|180[eE]|20[0-6][0-9a-fA-F]|[eEfF][0-9a-fA-F]{3})"
)
SPACES = "\n\t\r\xa0\u3000"
"""Those that pages have, of those that ``str.isprintable`` refuses."""
# Anatolian hieroglyphs, cuneiform, Tangut.
SCRIPTS = (range(0x14400, 0x14647), range(0x12000, 0x1239A), range(0x17000, 0x187F8))


def disguised(page: bytes) -> tuple[bytes, Mapping[str, str]]:
    """The page with a letter for each character that is not printable, and whom each of these letters stands for."""
    page = REFERENCE.sub(lambda reference: _character_of(reference[0]), page)
    if b"articleBody" in page:
        page = _data_unescaped(page)
    if page.isascii():
        return page, {}
    text = page.decode("utf-8", "replace")
    shown = text
    for space in SPACES:
        shown = shown.replace(space, " ")
    if shown.isprintable():
        return page, {}
    used = set(text)
    hidden = {character for character in used if _is_hidden(character)}
    for control in used & C1.keys():
        text = text.replace(control, C1[control])
    hidden -= C1.keys()
    if not hidden:
        return text.encode(), {}
    text = re.sub(f"[{UNWANTED}]+", "", text)
    hidden -= set(re.findall(f"[{UNWANTED}]", "".join(hidden)))
    of_hidden = f"[{re.escape(''.join(sorted(hidden)))}]"
    if hidden:  # alone between two tags, they are no text
        text = re.sub(f"(>\\s*){of_hidden}+(\\s*<)", r"\1\2", text)
    letters: Sequence[int] = next(
        (script for script in SCRIPTS if len(script) >= len(hidden) and used.isdisjoint(map(chr, script))), ()
    )
    carried = dict(zip(map(chr, letters), sorted(hidden), strict=False))
    for letter, character in carried.items():
        text = text.replace(character, letter)
    return text.encode(), carried


def restored(text: str, carried: Mapping[str, str]) -> str:
    """An extractor's text with the characters themselves."""
    for letter, character in carried.items():
        text = text.replace(letter, character)
    return text


@lru_cache(maxsize=1024)
def _character_of(reference: bytes) -> bytes:
    """The character in UTF-8 if it is not printable, else the reference."""
    character = html.unescape(reference.decode())
    return character.encode("utf-8", "replace") if len(character) == 1 and _is_hidden(character) else reference


def _data_unescaped(page: bytes) -> bytes:
    pieces = []
    at = 0
    for _ in range(MAX_SCRIPTS):
        start = page.find(b"ld+json", at)
        end = page.find(b"</script", start)
        if start < 0 or end < 0:
            break
        pieces += [page[at:start], ESCAPE.sub(_unescaped, page[start:end])]
        at = end
    return b"".join([*pieces, page[at:]])


def _unescaped(escape: re.Match[bytes]) -> bytes:
    character = chr(int(escape[2], 16))
    return escape[1] + character.encode("utf-8", "replace") if _is_hidden(character) else escape[0]


def _is_hidden(character: str) -> bool:
    return not (character.isprintable() or character.isspace())
