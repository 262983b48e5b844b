"""A page's code, carried through an extractor that knows only prose, and fenced in its text.

trafilatura puts code that stands in a table on one line, and what follows a block on the block's last. So a block's white
space travels as letters of a script that nobody writes (Linear A), between two more that say where it begins and ends; in
the text it is a fenced block as in Markdown:

    ```
    for each in rivers:
        print(each)
    ```

By the fences, what is measured of prose leaves code out (``prose_of``). Code is what stands in ``pre`` and is named so by
``code`` inside of it, or by a class on it or on what begins just before: poems and letters stand in ``pre`` too.
"""

import re

BEGIN, END, BREAK, SPACE, TAB = map(chr, range(0x10600, 0x10605))
LETTERS_OF_CODE = (BEGIN, END, BREAK, SPACE, TAB)
SCRIPT = BEGIN.encode()[:3]
LETTERS = {b"\n": BREAK.encode(), b" ": SPACE.encode(), b"\t": TAB.encode()}
NAMED = re.compile(
    rb"<code\b|\b(?:class|id|lang|data-lang)\s*=\s*[\"']?(?:[^\"'<>]*[^a-z\"'<>])?"
    rb"(?:code|sourcecode|highlight|prettyprint|brush|lang|syntax|geshi|crayon|hljs|rouge|lineno|gutter|programlisting|console|terminal)",
    re.I,
)
AROUND = re.compile(rb"(?:<[a-z][^<>]*>\s{0,80}){1,4}\Z", re.I)
BEFORE, INSIDE = 400, 300
"""Bytes in which a name is looked for: of the elements that begin just before, and of the block itself."""
PROSE = re.compile(rb"<(?:p|h[1-6]|div|li|table|article|section)\b", re.I)
INNER = re.compile(rb"<br\b[^>]*>|<[^>]*>|\r?\n|[ \t]", re.I)
# Bounded, so that a page of blanks takes no longer than another.
BLOCK = re.compile(rf"\s{{0,9}}\|?[ \t]{{0,9}}{BEGIN}([^{BEGIN}{END}]*){END}[ \t]{{0,9}}\|?\s{{0,9}}")
SHOWN = str.maketrans({BEGIN: None, END: None, BREAK: "\n", SPACE: " ", TAB: "\t"})
FENCE = re.compile(r"^(`{3,})([^\n`]*)$", re.M)


def is_code(before: bytes, element: bytes) -> bool:
    """Whether a ``pre`` element is code; ``before``: what stands before it, at most ``BEFORE`` bytes."""
    around = AROUND.search(before)
    named = NAMED.search(element[:INSIDE]) or (around and NAMED.search(around[0]))
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
    """A text without its fenced code. A fence that nothing closes is text."""
    if "```" not in text:
        return text
    pieces, position, opening = [], 0, None
    for fence in FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence[1] == opening[1] and not fence[2].strip():
            pieces.append(text[position : opening.start()])
            position, opening = fence.end(), None
    return "".join([*pieces, text[position:]])


def _letter(found: re.Match[bytes]) -> bytes:
    if found[0][:1] != b"<":
        return LETTERS[found[0][-1:]]
    return LETTERS[b"\n"] if found[0][:3].lower() == b"<br" else found[0]


def _fence(block: re.Match[str]) -> str:
    code = block[1].strip().translate(SHOWN)  # what is no letter at its ends the extractor put there
    lines = [line.rstrip() for line in code.strip("\n").split("\n")]
    beside = block[0].lstrip()[0] == "|" and all(line.strip().isdigit() for line in lines)  # the column of line numbers
    if beside or not any(lines):
        return "\n"
    fence = "```" if "```" not in code else "`" * (max(map(len, re.findall("`+", code))) + 1)
    return "\n".join(["", fence, *lines, fence, ""])
