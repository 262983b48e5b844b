"""Second stage: HTML tags, tables, links and apostrophes of a preprocessed page.

Each function takes text and gives text, in one pass: whatever opens is remembered on a stack with the place of the
output where it began, so that dropping it is cutting the output there.
"""

import re
from dataclasses import dataclass, field

from pipeline.sources.wikitext.names import LANGUAGE_PREFIXES, Wiki
from pipeline.sources.wikitext.preprocess import EMPTY, GAP, Preprocessor, WikiPage, decode_entities

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)((?:\s[^<>]*)?/?)>")
_LINES = frozenset(
    "br hr p div blockquote center dl ul ol dt dd tr caption poem section article figure figcaption details summary".split()
)
_INLINE = frozenset(
    "abbr b bdi bdo big cite code data del dfn em font i ins kbd link mark meta q rb rp rt rtc ruby s samp small span strike"
    " strong sub sup time tt u var wbr td th thead tbody tfoot col colgroup img a nobr".split()
)
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_DROPPED = frozenset({"table", "style", "script"})
_KNOWN = _LINES | _INLINE | _DROPPED | {"li"} | frozenset(_HEADINGS)
_EMPTY = frozenset({"br", "hr", "wbr", "img", "link", "meta", "col"})
_HIDDEN = re.compile(r"display\s{0,5}:\s{0,5}none", re.IGNORECASE)

_TABLE_OPENS = re.compile(r"[ \t:*#;]{0,50}\{\|")
_TABLE_CLOSES = re.compile(r"[ \t]{0,50}\|\}")
_TABLE_LINE = re.compile(r"[ \t:*#;]{0,50}(?:\{\||\|[-+}]?|!)")

_BRACKETS = re.compile(r"\[\[|\]\]")
_NO_TITLE = re.compile(r"[\[\]{}<>\n]")
_MOST_NESTED = 20
_PLAIN_CODE_LINK = re.compile(r"[^\W\d_]{2}")
_EXTERNAL = re.compile(
    r"\[(?:(?:https?|ftps?|sftp|git|svn|ssh|irc|ircs|gopher|telnet|nntp|worldwind|mms|redis|urn)://|//"
    r"|(?:mailto|news|tel|sms|sip|magnet|geo|xmpp|bitcoin|urn):)[^\s\[\]<>\"]{1,4000}",
    re.IGNORECASE,
)
_QUOTES = re.compile(r"('{2,})")


def strip_tags(text: str) -> str:
    """HTML tags become line ends or nothing; tables and what is not displayed go. Unknown tags are text."""
    out: list[str] = []
    opened: list[tuple[str, int, bool]] = []
    counts: dict[str, int] = {}
    position = 0
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if name not in _KNOWN:
            continue
        out.append(text[position : tag.start()])
        position = _after_spaces(text, tag.end()) if name in _LINES else tag.end()
        if text.startswith("'", position) and text.endswith("'", 0, tag.start()):
            out.append(GAP)  # ''x''<sub>''i''</sub>: without the tag its marks would be others
        if not tag[1]:
            if name not in _EMPTY and not tag[3].endswith("/"):
                opened.append((name, len(out), name in _DROPPED or bool(_HIDDEN.search(tag[3]))))
                counts[name] = counts.get(name, 0) + 1
            out.append(_mark(name, opening=True))
        elif counts.get(name):
            while True:
                other, begin, dropped = opened.pop()
                counts[other] -= 1
                if other == name:
                    break
            if dropped:
                del out[begin:]
                out.append(GAP)
            else:
                out.append(_mark(name, opening=False))
        elif name in _LINES:
            out.append("\n")
    out.append(text[position:])
    return "".join(out)


def _after_spaces(text: str, position: int) -> int:
    """A new line does not begin with the space behind its tag: that would make it preformatted."""
    while text.startswith((" ", "\t"), position):
        position += 1
    return position


def _mark(name: str, *, opening: bool) -> str:
    if name == "li":
        return "\n* " if opening else "\n"
    if name in _HEADINGS:
        return ("\n" if opening else "") + "=" * _HEADINGS[name] + ("" if opening else "\n")
    if name in ("td", "th"):
        return " "
    return "\n" if name in _LINES else ""


def code_text(page: WikiPage, content: str) -> str:
    """What ``<code>`` shows: every character, but known templates, links to articles and pairs of tags within it."""
    text = Preprocessor(page, content, keep_unknown=True).run()
    text = render_links(text, page.wiki, code=True)
    return page.fill(decode_entities(_without_pairs(text).replace(GAP, "").replace(EMPTY, "")))


def _without_pairs(text: str) -> str:
    """Without formatting tags that are closed; a lone one is spoken of."""
    out: list[str] = []
    opened: dict[str, list[int]] = {}
    position = 0
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if name not in _INLINE:
            continue
        out.append(text[position : tag.start()])
        position = tag.end()
        if tag[1] and opened.get(name):
            out[opened[name].pop()] = ""
            continue
        if not tag[1]:
            opened.setdefault(name, []).append(len(out))
        out.append(tag[0])
    return "".join([*out, text[position:]])


def drop_tables(text: str) -> str:
    """Without ``{| … |}``. Of a table that never closes, the lines that are table markup go and the others stay."""
    out: list[str] = []
    begins: list[int] = []
    for line in text.split("\n"):
        if _TABLE_OPENS.match(line):
            begins.append(len(out))
        elif begins and (close := _TABLE_CLOSES.match(line)):
            del out[begins.pop() :]
            line = GAP + line[close.end() :]
        out.append(line)
    if begins:
        out[begins[0] :] = [GAP if _TABLE_LINE.match(line) else line for line in out[begins[0] :]]
    return "\n".join(out)


@dataclass
class _Open:
    """A link that has begun: its fragments so far, and whether they are still its title."""

    fragments: list[str] = field(default_factory=list)
    in_title: bool = True

    def put(self, text: str) -> bool:
        """Add text; False if the title would have a line end in it, so that this is no link."""
        self.fragments.append(text)
        if self.in_title:
            title, bar, _ = text.partition("|")
            self.in_title = not bar
            return "\n" not in title
        return True


def render_links(text: str, wiki: Wiki, code: bool = False) -> str:
    """``[[…]]``, from the inside out; those that never close are text."""
    unseen = wiki.unseen_names()
    page = _Open(in_title=False)
    stack: list[_Open] = []
    position = 0
    for bracket in _BRACKETS.finditer(text):
        if bracket.start() < position:
            continue
        if not (stack[-1] if stack else page).put(text[position : bracket.start()]):
            _give_up(stack, page)
        position = bracket.end()
        if bracket[0] == "[[" and len(stack) < _MOST_NESTED:
            stack.append(_Open())
        elif bracket[0] == "[[" or not stack:
            (stack[-1] if stack else page).put(bracket[0])
        else:
            inner = "".join(stack.pop().fragments)
            if text.startswith("]", position) and inner.count("[") > inner.count("]"):
                inner, position = inner + "]", position + 1  # [[a|b [c]]]
            (stack[-1] if stack else page).put(_link(inner, unseen, code))
    page.fragments += [part for link in stack for part in ("[[", *link.fragments)]
    return "".join([*page.fragments, text[position:]])


def _give_up(stack: list[_Open], page: _Open) -> None:
    """The innermost link is none, nor are those around it whose title it would be in."""
    while stack and stack[-1].in_title:
        dead = stack.pop()
        around = stack[-1] if stack else page
        around.fragments += ["[[", *dead.fragments]


def _link(inner: str, unseen: frozenset[str], code: bool) -> str:
    title, bar, label = inner.partition("|")
    if code and not bar and not _PLAIN_CODE_LINK.match(title):
        return f"[[{inner}]]"  # x[[1]]
    shown = decode_entities(title).strip()
    if not shown or _NO_TITLE.search(shown):
        return f"[[{inner}]]"
    prefix, colon, _ = shown.partition(":")
    prefix = prefix.strip().lower().replace("_", " ")
    if colon and (prefix in unseen or prefix in LANGUAGE_PREFIXES):
        return GAP
    if bar and label.strip():
        return label
    return title.strip().removeprefix(":").strip()


def render_external_links(text: str) -> str:
    """``[http://… label]`` is its label; one without a label is a number and goes."""
    out: list[str] = []
    position, closing = 0, -1
    while found := _EXTERNAL.search(text, position):
        begin, end = found.span()
        if closing < end:
            closing = text.find("]", end)
        if closing < 0:
            break
        label = text[end:closing]
        if "\n" in label[:4000] or len(label) > 4000 or label[:1] not in ("", " ", "\t", "\xa0", "<", '"'):
            out.append(text[position:end])
            position = end
            continue
        out += [text[position:begin], label.strip() or GAP]
        position = closing + 1
    return "".join([*out, text[position:]])


def plain_quotes(line: str) -> str:
    """A line without marks of italics and bold: MediaWiki's ``doQuotes``, which knows apostrophes from marks."""
    parts = _QUOTES.split(line)
    if len(parts) == 1:
        return line
    bold, italic = [], 0
    for at in range(1, len(parts), 2):
        length = len(parts[at])
        if length == 4:
            parts[at - 1] += "'"
            length = 3
        elif length > 5:
            parts[at - 1] += "'" * (length - 5)
            length = 5
        italic += length != 3
        if length == 3:
            bold.append(at)
        elif length == 5:
            bold.append(-at)
    if len(bold) % 2 and italic % 2:
        # One mark too many of both: some ''' is an apostrophe and ''. After a single letter first, then a word, then a space.
        at = _apostrophe([at for at in bold if at > 0], parts)
        if at:
            parts[at - 1] += "'"
    return "".join(parts[::2])


def _apostrophe(marks: list[int], parts: list[str]) -> int:
    after_word = after_space = 0
    for at in marks:
        before = parts[at - 1]
        if before[-1:] == " ":
            after_space = after_space or at
        elif before[-2:-1] == " ":
            return at
        else:
            after_word = after_word or at
    return after_word or after_space
