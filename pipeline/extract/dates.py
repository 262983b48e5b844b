"""Dates as pages and tables write them, as ISO 8601; what could be read in two ways is not read.

A time is kept only together with its offset: without one it says nothing beyond the day. ``2019`` and ``2019-03`` are
dates too, of lower precision.
"""

import datetime
import re

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"({'|'.join(MONTHS)})[a-z]{{0,6}}"
_YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d{1,2})(?:\2(\d{1,2}))?(?!\d)")
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:$|T)")
_DAY_MONTH = re.compile(rf"(?:^|[\s,])(\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]{_MONTH}\.?[\s,-]{{1,3}}(\d{{4}})(?!\d)", re.I)
_MONTH_DAY = re.compile(rf"(?:^|[\s,]){_MONTH}\.?\s(\d{{1,2}})(?:st|nd|rd|th)?,?\s(\d{{4}})(?!\d)", re.I)
# 5.10.2013 has the day first wherever it is written; 5/10/2013 may be either.
_DOTTED = re.compile(r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})(?!\d)")
_TIME = re.compile(
    r"[T\s,]{1,2}(\d\d):?(\d\d)(?::?(\d\d))?(?:[.,]\d{1,9})?\s?(?:(Z|UTC|GMT)?(?:([+-])(\d\d):?(\d\d))?)(?!\S)", re.I
)
LONGEST = 80
EARLIEST = datetime.date(1500, 1, 1)
# What databases and programs say instead of nothing.
PLACEHOLDERS = frozenset({datetime.date(1900, 1, 1), datetime.date(1970, 1, 1)})
# Time zones, and clocks that are not quite right.
TOLERANCE = datetime.timedelta(days=2)


def iso_date(value: str, not_after: str = "") -> str | None:
    """ISO 8601, or None for what is no date. ``not_after``, also ISO 8601: a page is not younger than its capture."""
    value = value.strip()[:LONGEST]
    if len(value) == 4 and value.isdigit():
        return value if _plausible(int(value), 12, 31, not_after[:4] and f"{not_after[:4]}-12-31") else None
    found = _fields(value)
    if found is None:
        return None
    year, month, day, end = found
    if not _plausible(year, month, day or 1, not_after):
        return None
    if day is None:
        return f"{year:04}-{month:02}"
    return f"{year:04}-{month:02}-{day:02}{_time(value, end)}"


def _fields(value: str) -> tuple[int, int, int | None, int] | None:
    """Year, month, day and where the date ends."""
    if match := _YEAR_FIRST.match(value):
        return int(match[1]), int(match[3]), int(match[4]) if match[4] else None, match.end()
    if match := _COMPACT.match(value):
        return int(match[1]), int(match[2]), int(match[3]), match.end(3)
    if match := _DOTTED.match(value):
        return int(match[3]), int(match[2]), int(match[1]), match.end()
    if match := _DAY_MONTH.search(value):
        return int(match[3]), _month(match[2]), int(match[1]), match.end()
    if match := _MONTH_DAY.search(value):
        return int(match[3]), _month(match[1]), int(match[2]), match.end()
    return None


def _month(name: str) -> int:
    return MONTHS.index(name[:3].lower()) + 1


def _plausible(year: int, month: int, day: int, not_after: str) -> bool:
    try:
        date = datetime.date(year, month, day)
    except ValueError:
        return False
    if date < EARLIEST or date in PLACEHOLDERS:
        return False
    try:
        return date <= datetime.date.fromisoformat(not_after[:10]) + TOLERANCE
    except (ValueError, OverflowError):
        return True


def _time(value: str, at: int) -> str:
    match = _TIME.match(value, at)
    if not match or not (match[4] or match[5]):
        return ""
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if hour > 23 or minute > 59 or second > 59:
        return ""
    offset = "Z"
    if match[5] and (match[6], match[7]) != ("00", "00"):
        if int(match[6]) > 14 or int(match[7]) > 59:
            return ""
        offset = f"{match[5]}{match[6]}:{match[7]}"
    return f"T{hour:02}:{minute:02}:{second:02}{offset}"
