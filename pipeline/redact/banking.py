"""Account and card numbers. Both carry checksums: a number that does not satisfy its own is not one."""

import re
from collections.abc import Iterator

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ \xa0\u202f]?[A-Z0-9]{4}){2,7}(?:[ \xa0\u202f]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])",
    re.ASCII,
)
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26,
    "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip

_CARD = re.compile(r"(?<![\w.,+/=-])\d(?:[ \xa0\u202f-]?\d){13,18}(?![\w]|[.,-]\d)", re.ASCII)
_CARD_PREFIXES = (
    (re.compile(r"4"), (16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16, 19)),
    (re.compile(r"30[0-5]|36|38|39"), (14,)),
    (re.compile(r"62"), (16, 17, 18, 19)),
)


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    for found in _IBAN.finditer(text):
        end = _iban_end(text, found.start(), found.end())
        if end:
            yield found.start(), end


def _iban_end(text: str, start: int, limit: int) -> int:
    """Where the number ends that begins at ``start`` (0: none): its country says how long it is."""
    length = _IBAN_LENGTHS.get(text[start : start + 2], 0)
    taken, position = "", start
    while position < limit and len(taken) < length:
        if not text[position].isspace():
            taken += text[position]
        position += 1
    if length == 0 or len(taken) < length or (position < limit and not text[position].isspace()):
        return 0
    number = int("".join(str(int(character, 36)) for character in taken[4:] + taken[:4]))
    return position if number % 97 == 1 else 0


def find_credit_cards(text: str) -> Iterator[tuple[int, int]]:
    for found in _CARD.finditer(text):
        digits = "".join(filter(str.isdigit, found[0]))
        if _is_card(digits):
            yield found.span()


def _is_card(digits: str) -> bool:
    issued = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _CARD_PREFIXES)
    return issued and len(set(digits)) > 1 and _luhn(digits)


def _luhn(digits: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
