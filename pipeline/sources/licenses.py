"""What licence a text names: by SPDX tags anywhere in it, by what its head says in words, or by being a licence's full text.

A file that names a licence is under that one and no other. Where what it names cannot be told, its licence is unknown: it never
falls back to the repository's. Only a head that sends to the repository's licence file (``see LICENSE``) says nothing of
its own.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.sources.license_expressions import leading_expression, parse_expression

HEADER_WINDOW = 6_000
_TAG = re.compile(r"SPDX[- ]Licen[cs]e[- ]Identifi?er[ \t]{0,10}:([^\r\n]*)", re.IGNORECASE)
"""As it is misspelt too: a file that names a licence is never under the repository's."""
_TAG_MARKS = ("-identif", " identif")
_IGNORED = re.compile(r"REUSE-IgnoreStart.*?(?:REUSE-IgnoreEnd|\Z)", re.DOTALL)
_MOST_TAGS = 50
_WORD_BEHIND = re.compile(r"\s*([A-Za-z0-9][\w.+-]*)")
_SECOND_BEHIND = re.compile(r"\s*[,;/|&]\s*([A-Za-z0-9][\w.+-]*)")
# ``License: …`` in a comment, ``@license …``, ``__license__ = "…"``.
_SAID = re.compile(
    r"""^[ \t#*;%!/|"'<.:(){}\[\]-]{0,80}(?:(?:dnl|rem)\b[ \t]*)?
        (?: (?P<tag>@licen[cs]e)\b[ \t]*:? | :?licen[cs]e[ \t]*: | __licen[cs]e__[ \t]*= )
        [ \t]*(?P<value>[^\r\n]{2,200})""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_ELSEWHERE = re.compile(
    r"\bsee\b|licen[cs]e\s+file|\bfile\b|\bLICEN[CS]E\b(?:\.\w+)?\s*$|\bCOPYING\b|as above|\bsame\b|https?://\S*licen[cs]e",
    re.IGNORECASE,
)
_DECORATION = re.compile(r"""[*#;%!/\\|"'`<>{}()=~\[\]-]+""")
_RESTRICTED = re.compile(r"licen[cs]|propriet|commercial|confidential|all rights|\beula\b|\bterms\b", re.IGNORECASE)
_LINKED = re.compile(r"\bmagnet:\?xt=\S{1,200}[ \t]+([\w.+-]{2,40})")
"""As LibreJS reads it."""
# In words, as people write them. Families (no version) say which licence of the repository is meant, and no other.
_WORDS = (
    (r"mit/x11|mit|expat|x11", "MIT"),
    (r"(?:new|modified|3[- ]clause|three[- ]clause|revised) bsd|bsd[- ]?(?:3|three)(?:[- ]clause)?|bsd \(3[- ]clause\)", "BSD-3-Clause"),
    (r"(?:simplified|2[- ]clause|two[- ]clause|freebsd) bsd|bsd[- ]?(?:2|two)(?:[- ]clause)?", "BSD-2-Clause"),
    (r"apache(?: software)?(?:,? ?version)? ?-?v?2(?:\.0)?|asl ?2(?:\.0)?|apache license,? (?:version |v)?2(?:\.0)?", "Apache-2.0"),
    (r"(?:gnu )?agpl ?-?v?3(?:\.0)?(?: ?or later|\+)", "AGPL-3.0-or-later"),
    (r"(?:gnu )?agpl ?-?v?3(?:\.0)?", "AGPL-3.0-only"),
    (r"(?:gnu )?lgpl ?-?v?3(?:\.0)?(?: ?or later|\+)", "LGPL-3.0-or-later"),
    (r"(?:gnu )?lgpl ?-?v?3(?:\.0)?", "LGPL-3.0-only"),
    (r"(?:gnu )?lgpl ?-?v?2\.1(?: ?or later|\+)", "LGPL-2.1-or-later"),
    (r"(?:gnu )?lgpl ?-?v?2\.1", "LGPL-2.1-only"),
    (r"(?:gnu )?gpl ?-?v?3(?:\.0)?(?: ?or later|\+)", "GPL-3.0-or-later"),
    (r"(?:gnu )?gpl ?-?v?3(?:\.0)?", "GPL-3.0-only"),
    (r"(?:gnu )?gpl ?-?v?2(?:\.0)?(?: ?or later|\+)", "GPL-2.0-or-later"),
    (r"(?:gnu )?gpl ?-?v?2(?:\.0)?", "GPL-2.0-only"),
    (r"mpl ?-?v?2(?:\.0)?|mozilla public (?:license )?(?:version |v)?2(?:\.0)?", "MPL-2.0"),
    (r"public domain", ""), (r"isc", "ISC"), (r"unlicense", "Unlicense"), (r"zlib", "Zlib"),
    (r"boost(?: software)?(?: license)?(?: 1\.0)?|bsl-?1\.0", "BSL-1.0"), (r"psf|python", "PSF-2.0"), (r"cc0(?:[- ]1\.0)?", "CC0-1.0"),
)  # fmt: skip
_FAMILIES = (
    ("bsd", "BSD"),
    ("agpl", "AGPL"),
    ("lgpl", "LGPL"),
    ("gpl", "GPL"),
    ("apache", "Apache"),
    ("mpl", "MPL"),
    ("mozilla", "MPL"),
)

LICENSE_FILE = re.compile(
    r"^(?:[a-z0-9-]{1,30}[._-])?(?:licen[cs]e|copying|unlicense)(?:[._-][a-z0-9.+_-]{1,40})?(?:\.(?:txt|md|rst|html))?$",
    re.I,
)
_NO_LICENSE_FILE = re.compile(
    r"\.(?:py|js|ts|c|h|cc|cpp|go|rs|java|rb|php|sh|pl|json|ya?ml|toml|xml|cs|lua|kt|swift)$", re.I
)


@dataclass(frozen=True)
class Named:
    """What a text says: an expression; a family (``BSD``) that is the repository's licence or unknown; or neither, which
    is unknown. ``words`` are its own."""

    expression: str | None = None
    family: str = ""
    words: str = ""


def license_named_in(text: str) -> Named | None:
    """What a file says of its own licence; None if nothing."""
    if (tags := license_in_tags(text)) is not None:
        return tags
    head = text[:HEADER_WINDOW]
    if (said := _said(head)) is not None:
        return said
    return _in_words(head)


def license_in_tags(text: str) -> Named | None:
    """All ``SPDX-License-Identifier`` tags of a file: each holds for a part of it, so together they are an AND."""
    lowered = text.lower()
    if "spdx" not in lowered or not any(mark in lowered for mark in _TAG_MARKS):
        return None
    if "REUSE-IgnoreStart" in text:
        text = _IGNORED.sub("", text)
    found: list[str] = []
    for number, tag in enumerate(_TAG.finditer(text)):
        expression = _value(tag[1])
        if expression is None or number >= _MOST_TAGS:
            return Named(words=tag[1].strip()[:80])
        if expression not in found:
            found.append(expression)
    if not found:
        return None
    if len(found) == 1:
        return Named(found[0], words=found[0])
    joined = " AND ".join(f"({part})" if " OR " in part else part for part in found)
    return Named(joined, words=joined)


def _value(written: str) -> str | None:
    """The expression of a tag: it ends where the comment does, whatever its style. What goes on is no expression."""
    value = written.strip().lstrip("\"'`<[{ \t")
    expression, rest = leading_expression(value)
    if expression is None or re.match(r"[/,|&+_:]?[A-Za-z0-9_(]", rest):
        return None
    word = _WORD_BEHIND.match(rest)
    if word is not None and word[1].upper() not in ("DNL", "REM"):
        return None
    second = _SECOND_BEHIND.match(rest)
    return None if second is not None and parse_expression(second[1]) else expression


def _said(head: str) -> Named | None:
    """``License: BSD 3 clause`` and the like, in the head's comments."""
    for found in _SAID.finditer(head):
        value = " ".join(_DECORATION.sub(" ", found["value"].partition(". ")[0]).split()).strip(" .,;:")
        if not value or _ELSEWHERE.search(found["value"]):
            continue
        expression = parse_expression(value) or parse_expression(found["value"].strip(" \t\"'*/.,;"))
        if expression is not None:
            return Named(expression, words=value)
        plain = re.sub(r"\b(?:the|a|licen[cs]ed?|under|style|open source|software)\b", " ", value.lower())
        plain = " ".join(plain.split()).strip(" .,;")
        if identifier := _identifier(plain):
            return Named(identifier, words=value)
        # To tools the tag says that the comment is to be kept: often the product's name stands there, or a link.
        if found["tag"] and not _RESTRICTED.search(value) and (behind := _behind_tag(head[found.end("tag") :])):
            return behind
        return Named(family=_family(plain) if len(plain) < 40 else "", words=value[:80])
    return None


def _behind_tag(rest: str) -> Named | None:
    """What a comment that begins with ``@license`` says after it."""
    end = rest.find("*/")
    comment = rest[: end if end >= 0 else None]
    if link := _LINKED.search(comment):
        return Named(_identifier(link[1].lower().replace("-v", " v").replace("-", " ")) or None, words=link[1])
    following = comment.partition("\n")[2]
    return _said(following) or _in_words(following)


def _identifier(words: str) -> str:
    """The licence that these words name; empty if they name none."""
    return next((identifier for pattern, identifier in _WORDS if re.fullmatch(pattern, words)), "")


def _family(words: str) -> str:
    return next((family for word, family in _FAMILIES if word in words), "")


def _plain(text: str) -> str:
    """Words of a text with the frames of comments taken off."""
    lines = (line.strip(" \t*#;%!/|\"'`<>-+") for line in text.split("\n"))
    return " ".join(" ".join(lines).lower().replace("``", '"').split())


def _in_words(head: str) -> Named | None:
    """A notice in the head: the words with which a licence is granted."""
    plain = _plain(head)
    if "apache license" in plain and "mit license" in plain and "at your option" in plain:
        return Named("Apache-2.0 OR MIT", words="Apache or MIT, at your option")
    if "mpl 1.1/gpl 2.0/lgpl 2.1" in plain:
        return Named("MPL-1.1 OR GPL-2.0-or-later OR LGPL-2.1-or-later", words="MPL 1.1/GPL 2.0/LGPL 2.1")
    if dual := _DUAL.search(plain):
        return Named("MIT OR GPL-2.0-only" if "2" in dual[0] else None, words=dual[0][:80])
    grants = " under " in plain or " governed by " in plain
    if grants and (several := _SEVERAL.search(plain)):
        joined = _joined(several)
        pointed = _POINTED.search(plain[several.end() : several.end() + 80])
        return joined if joined.expression or not pointed else None
    if (gnu := _gnu_notice(plain)) is not None:
        return gnu
    for phrases, identifier in _NOTICES:
        if all(phrase in plain for phrase in phrases):
            return Named(identifier, words=phrases[0])
    if "creative commons" in plain and (commons := _COMMONS.search(plain)):
        terms = "".join(f"-{term}" for term, said in zip(("NC", "SA", "ND"), commons.groups(), strict=False) if said)
        return Named(parse_expression(f"CC-BY{terms}-{commons[4]}"), words=commons[0][:80])
    if grants and (short := _GRANTED_SHORT.search(plain)):
        return Named(_identifier(short[1]), words=short[1])
    if (
        grants
        and (granted := _GRANTED.search(plain))
        and not _POINTED.search(plain[granted.end() : granted.end() + 80])
    ):
        words = granted[1].strip()
        if words in _POINTERS:
            return None
        if identifier := _identifier(words.removesuffix(" software")):
            return Named(identifier, words=words)
        return Named(family=_family(words), words=words[:80])
    proprietary = next((phrase for phrase in _PROPRIETARY if phrase in plain), None)
    return Named(words=proprietary) if proprietary else None


_GNU_NAME = re.compile(r"gnu (affero |lesser |library )?general public licen[cs]e")
_DUAL = re.compile(r"dual[- ]licen[cs]ed under (?:the )?mit (?:licen[cs]e )?(?:or|and) (?:the )?(?:gpl|gnu)[^.]{0,60}")
_GNU_VERSION = re.compile(r"(?:version |\bv)(\d(?:\.\d)?)(\+?)")
_UNDER = (
    r"(?:licen[cs]ed|licen[cs]es this file to you|released|distributed|provided|(?:made )?available|governed|modify this code)"
    r" (?:under|by) (?:the )?(?:terms of )?(?:the |an? |either )?"
)
_GRANTED = re.compile(rf"{_UNDER}([a-z0-9][\w .,+-]{{0,40}}?),? licen[cs]e\b")
_NAME = "(?:" + "|".join(pattern for pattern, identifier in _WORDS if identifier) + ")"
_GRANTED_SHORT = re.compile(
    rf"{_UNDER}({_NAME})(?: licen[cs]e| software licen[cs]e)?(?=[.,;:)]?(?: |\Z))(?!,? (?:and|or)\b)"
)
"""With the licence's name and version; nobody needs to add that it is a licence."""
_FAMILY = r"(?:gnu |the )?(?:[al]?gpl|bsd|apache|mpl|mit|gnu|mozilla)\b"
_SEVERAL = re.compile(
    rf"{_UNDER}(?:both )?({_NAME}|{_FAMILY})(?: licen[cs]e)?(,? and/or|,? and|,? or|,|/) (?:the )?({_NAME}(?!\w|\.\w)|{_FAMILY})"
)
_COMMONS = re.compile(
    r"creative commons,? attribution([ -]noncommercial)?([ -]share ?alike)?([ -]no ?deriv\w*)?,? (\d\.\d)"
)
_POINTED = re.compile(
    r"\bsee\b|(?:found|contained|specified) in|licen[cs]e\s+file|accompanying|\bcopying\b|as above|https?://\S*licen[cs]e"
)
_POINTERS = frozenset(
    {
        "same",
        "following",
        "above",
        "this",
        "a",
        "an",
        "its own",
        "original",
        "project",
        "project's",
        "below",
        "included",
    }
)
_PROPRIETARY = (
    "proprietary and confidential", "confidential and proprietary", "unauthorized copying of this file",
    "unauthorised copying of this file", "proprietary information of", "trade secret",
)  # fmt: skip
_NOTICES = (
    (("under the apache license version 2.0",), "Apache-2.0"),
    (("under the apache license, version 2.0",), "Apache-2.0"),
    (("terms of the mozilla public license, v. 2.0",), "MPL-2.0"),
    (("mozilla public license version 1.1",), "MPL-1.1"),
    (("eclipse public license v1.0",), "EPL-1.0"),
    (("eclipse public license 2.0",), "EPL-2.0"), (("eclipse public license v2.0",), "EPL-2.0"), (("eclipse public license v. 2.0",), "EPL-2.0"),
    (("boost software license, version 1.0",), "BSL-1.0"),
    (("university of illinois open source license",), "NCSA"),
    (("under the apache license v2.0 with llvm exceptions",), "Apache-2.0 WITH LLVM-exception"),
    (("common development and distribution license", "version 1.0"), "CDDL-1.0"),
    (("cc0 1.0 universal",), "CC0-1.0"),
    (("this is free and unencumbered software released into the public domain",), "Unlicense"),
    (("altered source versions must be plainly marked as such",), "Zlib"),
    (("redistribution and use in source and binary forms", "neither the name"), "BSD-3-Clause"),
    (("redistribution and use in source and binary forms", "may not be used to endorse"), "BSD-3-Clause"),
    (("redistribution and use in source and binary forms", "list of conditions"), "BSD-2-Clause"),
    (("permission to use, copy, modify, and/or distribute this software for any purpose",), "ISC"),
    (("permission to use, copy, modify, and distribute this software for any purpose",), "ISC"),
    (("permission is hereby granted, free of charge", "without restriction"), "MIT"),
    (("licensed under the mit license",), "MIT"), (("released under the mit license",), "MIT"), (("under the terms of the mit license",), "MIT"),
)  # fmt: skip


def _joined(several: re.Match[str]) -> Named:
    """Two licences, of which either or both hold; unknown where one of them is, or how they are joined."""
    one, other = (_identifier(several[number].strip()) for number in (1, 3))
    dual = "dual" in several.string[max(0, several.start() - 8) : several.start()]
    operator = {"and": "OR" if dual else "AND", "or": "OR"}.get(several[2].strip(" ,"))
    expression = parse_expression(f"{one} {operator} {other}") if one and other and operator else None
    return Named(expression, words=several[0][-80:])


def _gnu_notice(plain: str) -> Named | None:
    """``… under the terms of the GNU … General Public License … either version 2 …, or (at your option) any later version``"""
    found = _GNU_NAME.search(plain)
    if found is None:
        return None
    notice = plain[max(0, found.start() - 200) : found.end() + 400]
    if (
        "terms of" not in notice
        and "under the gnu" not in notice
        and "licensed" not in notice
        and "covered by" not in notice
        and "(see copying" not in notice
    ):
        return None
    kind = {"affero ": "AGPL", "lesser ": "LGPL", "library ": "LGPL"}.get(found[1] or "", "GPL")
    version = _GNU_VERSION.search(plain, found.start(), found.end() + 250)
    if version is None:
        return Named(family=kind, words=found[0])
    number = version[1] if "." in version[1] else f"{version[1]}.0"
    later = version[2] or "any later version" in notice or "or later" in notice
    return Named(
        parse_expression(f"{kind}-{number}-{'or-later' if later else 'only'}"), words=f"{found[0]} {version[0]}"
    )


_TEXTS = (
    # Phrases that all occur in the full text; the first at the beginning decides between them.
    ("AGPL-3.0-only", ("gnu affero general public license version 3",)),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",)),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1",)),
    ("LGPL-2.0-only", ("gnu library general public license version 2",)),
    ("GPL-3.0-only", ("gnu general public license version 3",)),
    ("GPL-2.0-only", ("gnu general public license version 2",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("MPL-2.0", ("mozilla public license, version 2.0",)),
    ("EPL-2.0", ("eclipse public license - v 2.0",)),
    ("EPL-1.0", ("eclipse public license - v 1.0",)),
    ("Apache-2.0", ("apache license version 2.0",)),
    ("Apache-2.0", ("apache license, version 2.0",)),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    ("Zlib", ("misrepresented", "altered source versions must be plainly marked as such")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "may not be used to endorse")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "list of conditions")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("ISC", ("permission to use, copy, modify, and distribute this software for any purpose with or without fee",)),
    ("MIT", ("permission is hereby granted, free of charge", "without restriction")),
)  # fmt: skip
# A Python distribution's licence file also quotes the licences of parts it contains.
PSF_MARK = "python software foundation license version 2"


def license_of_text(text: str) -> str | None:
    """The SPDX expression of a licence file: its tag, a choice it offers, or the full text it begins with."""
    if (tags := license_in_tags(text[:HEADER_WINDOW])) is not None:
        return tags.expression
    plain = re.sub(r"[*#>\"'`]", " ", text.lower())
    plain = " ".join(plain.split())
    if PSF_MARK in plain:
        return "PSF-2.0"
    if "at your option" in plain[:3_000] and "apache license" in plain[:3_000] and "mit license" in plain[:3_000]:
        return "Apache-2.0 OR MIT"
    found = [
        (plain.index(phrases[0]), order, identifier)
        for order, (identifier, phrases) in enumerate(_TEXTS)
        if all(phrase in plain for phrase in phrases)
    ]
    return min(found)[2] if found else None


def is_license_file(path: str) -> bool:
    name = PurePosixPath(path).name
    return bool(LICENSE_FILE.match(name)) and not _NO_LICENSE_FILE.search(name)
