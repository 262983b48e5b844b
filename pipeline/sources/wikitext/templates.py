"""What templates show. The dump has no templates of its own, so the text of the common ones is known here.

Three kinds: those that show an argument (``patterns``), those that compute (``{{convert}}``, dates, lists; here and in
``measures``), and parser functions. Anything else is unknown and shows nothing: infoboxes, navigation, citations and
notices are no text of the article, and what is text is found by the counts of unknown names.
"""

import re
from collections.abc import Callable

from pipeline.sources.wikitext.functions import FUNCTIONS
from pipeline.sources.wikitext.languages import LANGUAGE_NAMES, language_text, phonemes, phonetic
from pipeline.sources.wikitext.measures import evaluate, group_digits
from pipeline.sources.wikitext.names import Wiki, country_of
from pipeline.sources.wikitext.patterns import patterns
from pipeline.sources.wikitext.preprocess import GAP, Expand
from pipeline.sources.wikitext.values import Arguments

_SUBSTITUTION = re.compile(r"\s*(?:subst|safesubst|msg|msgnw|raw)\s*:", re.IGNORECASE)
_GROUP = re.compile(r"<([^<>]*)>")
_ARGUMENT = re.compile(r"\{([^{}]*)\}")
_LANGUAGE = re.compile(r"(?:lang|llang|vol|язык)-([a-z]{2,3}(?:-[a-z0-9]{2,8}){0,2})(?:-short)?\Z")
_PHONETIC = re.compile(r"(?:ipa|api|afi|мфа)-([a-z]{2,4}(?:-[a-z]+)?)\Z")
_PHONEMES = re.compile(r"ipac-[a-z]{2,4}\Z")
_CENTURY = re.compile(r"([ivxl]{1,6})(er|e) siècle( av\. j\.-c\.)?\Z")
_LINK_OF_LANGUAGE = re.compile(r"(?:link|internal link helper)[-/][a-z]{2,3}\Z")
_NUMBER_STYLE = {
    "de": (".", ","), "es": ("\u00a0", ","), "fr": ("\u202f", ","), "it": (".", ","), "pt": (".", ","), "nl": (".", ","),
    "ru": ("\u00a0", ","), "uk": ("\u00a0", ","), "pl": ("\u00a0", ","), "sv": ("\u00a0", ","), "cs": ("\u00a0", ","),
    "fi": ("\u00a0", ","), "no": ("\u00a0", ","), "da": (".", ","), "tr": (".", ","), "id": (".", ","), "vi": (".", ","),
    "hu": ("\u00a0", ","), "ro": (".", ","), "el": (".", ","), "ca": (".", ","), "bg": ("\u00a0", ","),
}  # fmt: skip


def expander(wiki: Wiki, title: str = "") -> Expand:
    """The function that says what a template of this wiki shows."""
    language = wiki.base_language or "en"
    known = patterns(language)

    def expand(name: str, given: list[tuple[str | None, str]]) -> str | None:
        name = name.strip()
        while found := _SUBSTITUTION.match(name):
            name = name[found.end() :].strip()
        head, colon, rest = name.partition(":")
        if colon and (function := _PARSER_FUNCTIONS.get(head.strip().lower())):
            return function(rest.strip(), given, language)
        if colon and head.strip().lower() in wiki.template_names | {"template"}:
            name = rest.strip()
        if not colon and (page_word := name.upper()) in _PAGE_NAMES:
            return title.rpartition("/")[2] if page_word.startswith("SUBPAGE") else title
        key = " ".join(name.replace("_", " ").split()).lower()
        values = Arguments.of(given)
        if language == "en" and (country := country_of(name)):
            return country
        if (text := known.get(key)) is not None:
            return fill_pattern(text, values)
        if (special := FUNCTIONS.get(key)) is not None:
            return special(key, values, language)
        return _by_form(key, values, language)

    return expand


def fill_pattern(text: str, values: Arguments) -> str:
    """The pattern with its arguments; nothing if it has some and none has a value, unless it begins with a plus."""
    if text.startswith("+"):
        return fill_pattern(text[1:], values) if _has_value(text, values) else text[1:].partition("{")[0]
    if not text or ("{" in text and not _has_value(text, values)):
        return GAP
    text = _GROUP.sub(lambda group: group[1] if _has_value(group[1], values) else "", text)
    begins_with_argument = text.startswith("{")
    text = _ARGUMENT.sub(lambda found: values.first(*found[1].split("|")), text)
    # On the page the argument is inside a tag: {{IPA|*ʄ}} at the beginning of a line is no list.
    return f"&#{ord(text[0])};{text[1:]}" if begins_with_argument and text.startswith(("*", "#", ":", ";")) else text


def _has_value(group: str, values: Arguments) -> bool:
    return any(values.first(*names.split("|")) for names in _ARGUMENT.findall(group))


def _by_form(key: str, values: Arguments, language: str) -> str | None:
    """Families of templates that carry a language in their name."""
    if found := _LANGUAGE.match(key):
        return language_text(found[1], values, language)
    if found := _PHONETIC.match(key):
        return phonetic(found[1], values, language)
    if _PHONEMES.match(key):
        return phonemes(values)
    if language == "fr" and (found := _CENTURY.match(key)):
        return f"{found[1].upper()}{found[2]} siècle{' av. J.-C.' if found[3] else ''}"
    if _LINK_OF_LANGUAGE.match(key):
        return values.first("3", "1")
    return None


Given = list[tuple[str | None, str]]


def _plain(given: Given) -> list[str]:
    """The values of a parser function: names belong to them."""
    return [value.strip() if name is None else f"{name}={value}" for name, value in given]


def _value(given: Given, at: int) -> str:
    values = _plain(given)
    return values[at] if at < len(values) else ""


def _format_number(text: str, given: Given, language: str) -> str:
    if _value(given, 0).upper() in ("R", "NOSEP"):
        return text
    comma, point = _NUMBER_STYLE.get(language, (",", "."))
    return group_digits(text, comma, point)


def _switch(text: str, given: Given, _language: str) -> str:
    """Cases without a value fall through to the next that has one; the last one without a name is the default."""
    falls = False
    default = ""
    for at, (name, value) in enumerate(given):
        if name is None:
            falls = falls or value.strip() == text
            if at == len(given) - 1:
                default = value.strip()
        elif falls or name == text:
            return value
        elif name == "#default":
            default = value
    return default


def _if_equal(text: str, given: Given, _language: str) -> str:
    return _value(given, 1) if text == _value(given, 0) else _value(given, 2)


def _tag(text: str, given: Given, _language: str) -> str | None:
    shown = {"nowiki", "span", "small", "sub", "sup", "b", "i", "code", "poem", "blockquote", "div", "pre"}
    return _value(given, 0) if text.lower() in shown else GAP


_PAGE_NAMES = frozenset(
    "PAGENAME FULLPAGENAME BASEPAGENAME SUBJECTPAGENAME ARTICLEPAGENAME ROOTPAGENAME SUBPAGENAME".split()
)
_PARSER_FUNCTIONS: dict[str, Callable[[str, Given, str], str | None]] = {
    "formatnum": _format_number,
    "lc": lambda text, _given, _language: text.lower(),
    "uc": lambda text, _given, _language: text.upper(),
    "lcfirst": lambda text, _given, _language: text[:1].lower() + text[1:],
    "ucfirst": lambda text, _given, _language: text[:1].upper() + text[1:],
    "#expr": lambda text, _given, _language: evaluate(text),
    "#if": lambda text, given, _language: _value(given, 0 if text else 1),
    "#ifeq": _if_equal,
    "#switch": _switch,
    "#tag": _tag,
    "plural": lambda text, given, _language: _value(given, 0 if text == "1" else max(len(given) - 1, 0)),
    "displaytitle": lambda _text, _given, _language: GAP,
    "defaultsort": lambda _text, _given, _language: GAP,
    "padleft": lambda text, given, _language: (
        text.rjust(min(int(_value(given, 0) or 0), 99), _value(given, 1)[:1] or "0")
        if _value(given, 0).isdigit()
        else text
    ),
    "#language": lambda text, _given, language: LANGUAGE_NAMES.get(language, {}).get(text, text),
    "#ifexist": lambda _text, given, _language: _value(given, 0),
    "#iferror": lambda text, given, _language: _value(given, 1) or text,
}
