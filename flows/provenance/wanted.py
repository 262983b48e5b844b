"""What is asked of documents in a search, and which rows meet it.

Words are looked for literally, whatever characters they hold, in either case. What is undefined meets nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

AROUND = 80
"""Characters shown on either side of what was found."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Wanted:
    """What a document must meet; what is empty asks nothing."""

    url: str = ""
    """A part of its address."""
    domain: str = ""
    """Its host, or a domain above that."""
    text: str = ""
    """A part of its text as extracted."""
    source: str = ""
    language: str = ""
    rule: str = ""
    """The rule that decided about it."""
    fate: str = ""
    """kept, dropped or failed."""
    stage: str = ""
    """The stage that decided about it."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Of attributes: undefined ones meet nothing."""
    most: Mapping[str, float] = field(default_factory=dict)


def meets(rows: pa.Table, fates: pa.Table, wanted: Wanted) -> Mask:
    """Which rows meet everything but the words in their text."""
    equal = [(rows, "source", wanted.source), (rows, "language", wanted.language)]
    equal += [(fates, "rule", wanted.rule), (fates, "verdict", wanted.fate), (fates, "stage", wanted.stage)]
    masks = [
        _column_test(table, name, lambda column, v=value: pc.equal(column, v)) for table, name, value in equal if value
    ]
    if wanted.url:
        masks.append(_column_test(rows, "url", lambda column: pc.match_substring(column, wanted.url, ignore_case=True)))
    for bounds, test in ((wanted.least, pc.greater_equal), (wanted.most, pc.less_equal)):
        for name, bound in bounds.items():
            masks.append(_column_test(rows, name, lambda column, t=test, b=bound: t(column.cast(pa.float64()), b)))
    met: Mask = reduce(np.logical_and, masks, np.ones(rows.num_rows, np.bool_))
    if wanted.domain:
        domain = wanted.domain.lower().strip(".")
        near = met & _column_test(rows, "url", lambda column: pc.match_substring(column, domain, ignore_case=True))
        met = np.zeros(rows.num_rows, np.bool_)
        for place in np.flatnonzero(near):
            met[place] = is_of_domain(rows["url"][int(place)].as_py(), domain)
    return met


def _column_test(table: pa.Table, name: str, test: Any) -> Mask:
    """False where the value, or the whole column, is not there."""
    if name not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    return np.asarray(pc.fill_null(test(table[name]), False), np.bool_)


def contains(texts: pa.Array, text: str) -> Mask:
    return np.asarray(pc.fill_null(pc.match_substring(texts, text, ignore_case=True), False), np.bool_)


def is_of_domain(url: str | None, domain: str) -> bool:
    """Whether a URL's host is the domain or below it."""
    if url is None:
        return False
    try:
        host = urlsplit(url if "://" in url else f"//{url}").hostname or ""
    except ValueError:
        return False
    return host == domain or host.endswith(f".{domain}")


def excerpt(whole: str, text: str) -> str:
    at = max(0, whole.lower().find(text.lower()))
    return whole[max(0, at - AROUND) : at + len(text) + AROUND]
