"""The licence a page declares for itself: a link with ``rel=license`` to a Creative Commons licence, or the same in its
metadata, as its SPDX name.

A link without that mark may be about a picture on the page, and says nothing about its text.
"""

import re
from collections.abc import Iterable

LINK = re.compile(r"<(?:a|link)\b[^>]{0,600}>", re.IGNORECASE)
REL = re.compile(r"\brel\s*=\s*(?:\"[^\"]{0,100}\blicense\b|'[^']{0,100}\blicense\b|license\b)", re.IGNORECASE)
LICENSE = re.compile(r"creativecommons\.org/licenses/(by(?:-nc)?(?:-sa|-nd)?)/(\d\.\d)\b", re.IGNORECASE)
ZERO = re.compile(r"creativecommons\.org/publicdomain/zero/1\.0\b", re.IGNORECASE)


def declared_license(html: str, stated: Iterable[str] = ()) -> str | None:
    """SPDX identifier, or None. ``stated``: what the page says of its licence elsewhere than in links.

    Pages that declare several different ones declare none.
    """
    if "creativecommons.org" not in html:
        return None
    marked = (tag for tag in LINK.findall(html) if REL.search(tag))
    found = {license for text in (*marked, *stated) if (license := _spdx(text))}
    return found.pop() if len(found) == 1 else None


def _spdx(text: str) -> str | None:
    if match := LICENSE.search(text):
        return f"CC-{match[1].upper()}-{match[2]}"
    return "CC0-1.0" if ZERO.search(text) else None
