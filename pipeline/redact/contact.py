"""E-mail addresses, IP addresses and telephone numbers.

Each finder looks first for what cannot be missing (an @, a run of digits), so that ordinary text costs next to nothing
and no pattern can backtrack over a long line.
"""

import ipaddress
import re
from collections.abc import Iterator

_LOCAL_PART = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_NO_ADDRESS = (
    "example.com",
    "example.org",
    "example.net",
    "example.edu",
    ".example",
    ".test",
    ".invalid",
    ".localhost",
)
"""Domains set aside for examples (RFC 2606): nobody receives mail there."""

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]|\.\d)", re.ASCII)
_VERSION_BEFORE = re.compile(r"(?:version|ver\.?|release|v)\s{0,2}\Z", re.IGNORECASE)

_SMALL = 20

_DIGIT_RUN = re.compile(r"[+(]?\d[\d().\-/  ]{5,24}\d", re.ASCII)
_PHONE = re.compile(
    r"""(?<![\w.+-])(?:
        \+[1-9]\d{0,2}[  .\-/]?(?:\(\d{1,4}\)[  .\-/]?)?\d{1,5}(?:[  .\-/]?\d{2,5}){1,4}   # +49 (30) 1234 5678
      | \(\d{3}\)[  ]?\d{3}[  .\-]\d{4}                                                     # (212) 555-0123
      | (?:1[  .\-])?[2-9]\d{2}([.\-])[2-9]\d{2}\1\d{4}                                     # 212-555-0123
    )(?!\w|[.\-]\d)""",
    re.VERBOSE | re.ASCII,
)
_FEWEST_DIGITS, _MOST_DIGITS = 8, 15


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Addresses, less those at domains reserved for examples."""
    at = text.find("@")
    while at >= 0:
        local = _LOCAL_PART.search(text, max(0, at - 64), at)
        domain = _DOMAIN.match(text, at + 1)
        if local and domain and not domain[0].lower().endswith(_NO_ADDRESS):
            start = local.start()
            while text[start] in ".'`{|/=?*#-":  # punctuation before an address is not part of it
                start += 1
                if start == at:
                    break
            if start < at:
                yield start, domain.end()
        at = text.find("@", at + 1)


def find_ips(text: str) -> Iterator[tuple[int, int]]:
    """Public addresses. Private, loopback and documentation ranges name nobody; versions look like addresses."""
    if "." in text:
        for found in _IPV4.finditer(text):
            before = text[max(0, found.start() - 10) : found.start()]
            if _is_public(found[0]) and not _is_version(found[0]) and not _VERSION_BEFORE.search(before):
                yield found.span()
    if "::" in text or text.count(":") >= 7:
        for found in _IPV6.finditer(text):
            if _is_public(found[0]):
                yield found.span()


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
            if _FEWEST_DIGITS <= digits <= _MOST_DIGITS and found.start() < run.end():
                yield found.span()
