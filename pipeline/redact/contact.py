"""IP addresses and telephone numbers, told from versions, sections and numbers of things.

Each finder looks first for what cannot be missing (a run of digits), so that ordinary text costs next to nothing and no
pattern can backtrack over a long line. What stands before a number says what it is: ``version 91.0.4.7``, ``ISBN``, ``part no.``
"""

import ipaddress
import re
from collections.abc import Iterator

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]|\.\d)", re.ASCII)
_VERSION_BEFORE = re.compile(
    r"(?:\bv|versions?|\bver\.?|releases?|\brel\.?|builds?|firmware|drivers?|revisions?|\brev\.?|sections?|\bsec\.?|chapters?|clauses?"
    r"|§|articles?|\bart\.|paragraphs?|figures?|\bfig\.|tables?|\boid|[=>~]=|\bASN?\.?1)[\s\"'(:=>]{0,4}\Z",
    re.IGNORECASE,
)
_PACKAGE_BEFORE = re.compile(r"[A-Za-z][-_]\Z")
_PACKAGE_BEHIND = re.compile(
    r"[-_.](?:zip|jar|war|tar|tgz|exe|msi|deb|rpm|whl|dll|apk|dmg|gz|bz2|xz|so|nupkg|el\d|x86|amd64|arm|win|linux)",
    re.I,
)
_LISTED = re.compile(r"[\s\"')]{0,4}(?:,|;|/|&|and|or|to|-|–|und|et|y)[\s\"'(v]{0,4}\Z", re.IGNORECASE)

_SMALL = 20

_DIGIT_RUN = re.compile(r"[+(]?\d[\d().\-/  ]{5,24}\d", re.ASCII)
_PHONE = re.compile(
    r"""(?<![\w.+-])(?<![\w.]/)(?:
        \+[1-9]\d{0,2}[  .\-/]?(?:\(\d{1,4}\)[  .\-/]?)?\d{1,5}(?:[  .\-/]?\d{2,5}){1,4}   # +49 (30) 1234 5678
      | \(\d{3}\)[  ]?\d{3}[  .\-]\d{4}                                                     # (212) 555-0123
      | (?:1[  .\-])?[2-9]\d{2}([.\-])[2-9]\d{2}\1\d{4}                                     # 212-555-0123
    )(?!\w|[.\-]\d)""",
    re.VERBOSE | re.ASCII,
)
_COORDINATES = re.compile(r"[+-]\d{1,3}\.\d+[+-]\d{1,3}\.\d", re.ASCII)
"""A place by ISO 6709: +40.6894-074.0447/."""
_FEWEST_DIGITS, _MOST_DIGITS = 8, 15
# Numbers of things, unless a telephone is spoken of. Our own mask of an earlier number speaks of none.
_THING_BEFORE = re.compile(
    r"(?:\b(?:isbn|issn|doi|arxiv|parts?|p/n|pn|sku|serial|s/n|cases?|orders?|ref|reference|invoice|items?|model|cas|upc|ean|gtin|patent"
    r"|docket|tickets?|tracking|catalog(?:ue)?|article|art|bug|issue|account|acct|claim|permit|zip|id)\b"
    r"[\s.:#]{0,3}(?:no|nr|num|number|id|code)?[\s.:#=\"']{0,4}|10\.\d{4,9}/)\Z",
    re.IGNORECASE,
)
_TELEPHONE = re.compile(
    r"tel|phone(?!>)|fax|call|mobil|cell|whatsapp|hotline|rufnummer|téléfono|teléfono|電話|电话|전화|тел", re.IGNORECASE
)


def find_ips(text: str) -> Iterator[tuple[int, int]]:
    """Public addresses. Private, loopback and documentation ranges name nobody; versions look like addresses."""
    if "." in text:
        behind_version = -1
        for found in _IPV4.finditer(text):
            if _named_version(text, *found.span(), behind_version):
                behind_version = found.end()
            elif _is_public(found[0]) and not _is_version(found[0]):
                yield found.span()
    if "::" in text or text.count(":") >= 7:
        for found in _IPV6.finditer(text):
            if _is_public(found[0]):
                yield found.span()


def _named_version(text: str, start: int, end: int, behind_version: int) -> bool:
    """Whether the words before say so, or the number continues a list of versions, or it is part of a file's name."""
    before = text[max(0, start - 24) : start]
    if behind_version >= 0 and start - behind_version < 12 and _LISTED.match(text[behind_version:start]):
        return True
    return bool(_VERSION_BEFORE.search(before) or (_PACKAGE_BEFORE.search(before) and _PACKAGE_BEHIND.match(text, end)))


def _is_version(address: str) -> bool:
    """Small numbers, three of four at least, are a version or a section far more often than an address."""
    return sum(int(part) < _SMALL for part in address.split(".")) >= 3


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    # An address that ends in :: is the beginning of a network.
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved and not address.endswith("::")


def find_phones(text: str) -> Iterator[tuple[int, int]]:
    """International numbers, and North American ones with area code."""
    for run in _DIGIT_RUN.finditer(text):
        for found in _PHONE.finditer(text, run.start(), min(len(text), run.end() + 12)):
            digits = sum(character.isdigit() for character in found[0])
            wanted = _FEWEST_DIGITS <= digits <= _MOST_DIGITS and found.start() < run.end()
            if wanted and not _COORDINATES.match(text, found.start()):
                before = text[max(0, found.start() - 40) : found.start()]
                if not _THING_BEFORE.search(before) or _TELEPHONE.search(before):
                    yield found.span()
