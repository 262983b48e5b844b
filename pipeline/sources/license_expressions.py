"""SPDX licence expressions: ``MIT OR (GPL-2.0-only WITH Classpath-exception-2.0)``.

Identifiers and exceptions are those of the SPDX list that ``packaging`` carries. An expression that does not parse as a whole
is none: ``MIT OR Foo`` is not MIT.
"""

import re
from collections.abc import Iterable

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

LONGEST = 500
_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9](?:[A-Za-z0-9.+-]*[A-Za-z0-9+])?|\S)")
_VERSIONED = re.compile(r"(.+?)-(\d+(?:\.\d+)*)(.*)\Z")
_GNU = re.compile(r"((?:A|L)?GPL|GFDL)-(\d\.\d)(\+?)\Z")


def parse_expression(text: str) -> str | None:
    """The expression in its canonical form; None if it is none."""
    if not text or len(text) > LONGEST or text.count("(") > 20:
        return None
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None


def leading_expression(text: str) -> tuple[str | None, str]:
    """The longest expression that ``text`` begins with, and what follows it."""
    at, depth = 0, 0
    best: tuple[str | None, str] = (None, text)
    operand_wanted = True
    while found := _TOKEN.match(text, at, LONGEST):
        token = found[1]
        word = token.upper()
        if token == "(" and operand_wanted:
            depth += 1
        elif token == ")" and not operand_wanted and depth:
            depth -= 1
        elif word in ("AND", "OR", "WITH") and not operand_wanted:
            operand_wanted = True
        elif operand_wanted and token[0].isalnum():
            operand_wanted = False
        else:
            break
        at = found.end()
        if not operand_wanted and not depth and (expression := parse_expression(text[:at].strip())):
            best = expression, text[at:]
    return best


def satisfies(expression: str, allowed: Iterable[str]) -> bool:
    """Whether what the allowed licences permit is enough: one side of an OR, both of an AND.

    An exception only permits more, so ``X WITH exception`` is met by ``X``. ``-or-later`` is met by later versions too.
    """
    accepted = {term for item in allowed for term in (_modern(item), item)}
    tokens = [found[1] for found in _TOKEN.finditer(expression)]
    return bool(tokens) and _Evaluation(tokens, accepted).any_of()


class _Evaluation:
    """AND binds closer than OR, WITH closest. The expression is canonical: it parses."""

    def __init__(self, tokens: list[str], accepted: set[str]) -> None:
        self.tokens, self.accepted, self.at = tokens, accepted, 0

    def take(self, token: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at] == token
        self.at += found
        return found

    def any_of(self) -> bool:
        met = self.all_of()
        while self.take("OR"):
            met = self.all_of() or met
        return met

    def all_of(self) -> bool:
        met = self.term()
        while self.take("AND"):
            met = self.term() and met
        return met

    def term(self) -> bool:
        if self.take("("):
            met = self.any_of()
            self.take(")")
            return met
        name = self.tokens[self.at]
        self.at += 1
        if self.take("WITH"):
            exception = self.tokens[self.at]
            self.at += 1
            return f"{name} WITH {exception}" in self.accepted or self.one(name)
        return self.one(name)

    def one(self, name: str) -> bool:
        modern = _modern(name)
        if modern in self.accepted or name in self.accepted:
            return True
        if not (modern.endswith(("-or-later", "+"))):
            return False
        base = modern.removesuffix("-or-later").removesuffix("+")
        return any(_is_later(term, base) for term in self.accepted)


def _modern(name: str) -> str:
    """``GPL-2.0+`` is ``GPL-2.0-or-later``, ``GPL-2.0`` is ``GPL-2.0-only``."""
    found = _GNU.match(name)
    return f"{found[1]}-{found[2]}-{'or-later' if found[3] else 'only'}" if found else name


def _is_later(term: str, base: str) -> bool:
    plain = term.removesuffix("-only").removesuffix("-or-later").removesuffix("+")
    one, other = _VERSIONED.match(plain), _VERSIONED.match(base)
    if one is None or other is None or (one[1], one[3]) != (other[1], other[3]):
        return plain == base
    return _version(one[2]) >= _version(other[2])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
