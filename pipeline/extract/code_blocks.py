"""A page's code, carried through an extractor that knows only prose, and fenced in its text.

trafilatura puts code that stands in a table on one line, and what follows a block on the block's last. So a block's white
space travels as letters of a script that nobody writes (Linear A), between two more that say where it begins and ends; in
the text it is a fenced block as in Markdown:

    ```
    for each in rivers:
        print(each)
    ```

By the fences, what is measured of prose leaves code out (``prose_of``). Code is what stands in ``pre`` and is named so by
``code`` inside of it, or by a class on it or just outside: poems and letters stand in ``pre`` too.
"""

import re

BEGIN, END, BREAK, SPACE, TAB = map(chr, range(0x10600, 0x10605))
LETTERS_OF_CODE = (BEGIN, END, BREAK, SPACE, TAB)
SCRIPT = BEGIN.encode()[:3]
LETTERS = {b"\n": BREAK.encode(), b" ": SPACE.encode(), b"\t": TAB.encode()}
NAMED = re.compile(
    rb"<code\b|\b(?:class|id|lang|data-lang)\s*=\s*[\"']?[^\"'<>]*"
    rb"(?:code|highlight|prettyprint|brush|lang|syntax|geshi|crayon|hljs|programlisting|console|terminal)",
    re.I,
)
BEFORE, INSIDE = 200, 300
"""Bytes in which a name is looked for."""
PROSE = re.compile(rb"<(?:p|h[1-6]|div|li|table|article|section)\b", re.I)
INNER = re.compile(rb"<br\b[^>]*>|<[^>]*>|\r?\n|[ \t]", re.I)
BLOCK = re.compile(rf"\s*\|?[ \t]*{BEGIN}([^{BEGIN}{END}]*){END}[ \t]*\|?\s*")
SHOWN = str.maketrans({BEGIN: None, END: None, BREAK: "\n", SPACE: " ", TAB: "\t"})
FENCED = re.compile(r"^(`{3,})[^\n`]*\n.*?^\1[ \t]*$", re.M | re.S)


def is_code(before: bytes, element: bytes) -> bool:
    """Whether a ``pre`` element is code; ``before``: what stands before it, at most ``BEFORE`` bytes."""
    named = NAMED.search(element[:INSIDE]) or NAMED.search(before)
    return bool(named and b"</" in element and not PROSE.search(element))


def carried_code(element: bytes) -> bytes:
    """A ``pre`` element with letters in the place of its white space."""
    inner, end = element.index(b">") + 1, element.rindex(b"</")
    content = INNER.sub(_letter, element[inner:end])
    return element[:inner] + BEGIN.encode() + content + END.encode() + element[end:]


def fenced(text: str) -> str:
    """The extractor's text with the code in fences."""
    return BLOCK.sub(_fence, text).translate(SHOWN) if any(letter in text for letter in LETTERS_OF_CODE) else text


def prose_of(text: str) -> str:
    """A text without its fenced code."""
    return FENCED.sub("", text) if "```" in text else text


def _letter(found: re.Match[bytes]) -> bytes:
    if found[0][:1] != b"<":
        return LETTERS[found[0][-1:]]
    return LETTERS[b"\n"] if found[0][:3].lower() == b"<br" else found[0]


def _fence(block: re.Match[str]) -> str:
    code = block[1].strip().translate(SHOWN)  # what is no letter at its ends the extractor put there
    lines = [line.rstrip() for line in code.strip("\n").split("\n")]
    numbers = block[0].lstrip()[0] == "|" and all(
        line.strip().isdigit() for line in lines
    )  # the column beside the code
    if numbers or not any(lines):
        return "\n"
    fence = "```" if "```" not in code else "`" * (max(map(len, re.findall("`+", code))) + 1)
    return "\n".join(["", fence, *lines, fence, ""])
