"""trafilatura's expressions that choose elements by their attributes, computed without XPath.

trafilatura finds a page's text, and what is none, by some ten expressions like

    .//*[self::div or self::section][@role='article' or re:test(@id, '^story') or re:test(@class, 'fulltext', 'i')]

lxml calls back into Python for each ``re:test`` of each element, also of those without an attribute, which takes a quarter
of a page's time. ``by_attributes`` reads such an expression and searches the same regular expressions, once for each
combination of attribute values of a page. It chooses exactly the same elements. An expression of another form stays as it is.
"""

import re
from dataclasses import dataclass
from typing import Self

import trafilatura.xpaths
from lxml.etree import XPath, _Element

NAMESPACES = {"re": trafilatura.xpaths.REGEXP_NS}
ELEMENTS = re.compile(r"\s*\(?\.//\*(?:\[((?:self::\w+(?: or )?)+)\])?\[\s*")
TEST = re.compile(
    r"(?:(?P<function>contains|starts-with|re:test)\()?(?P<folded>translate\()?@(?P<one>[\w-]+)(?:\|@(?P<other>[\w-]+))?"
    r"(?(folded),\s*'(?P<capitals>\w*)',\s*'\w*'\))(?:\s*[=,]\s*'(?P<text>[^']*)')?(?:,\s*'(?P<flags>i)')?(?(function)\))\s*"
)
OR = re.compile(r"or\s*")
END = re.compile(r"\]\s*(?P<further>(?!\[1\])\[(?:(?!\[1\]|\]\s*\|).)+\]\s*)?(?P<first>\)?\[1\])?\s*\Z", re.S)


@dataclass(frozen=True)
class AttributeTests:
    """Elements with one of ``tags`` for which one of the tests holds: the first of some attributes matches a pattern."""

    tags: tuple[str, ...]
    tests: tuple[tuple[frozenset[str], re.Pattern[str]], ...]
    further: XPath | None
    """What must hold beside."""
    first: bool
    """trafilatura asks for the first one only."""

    def __call__(self, tree: _Element) -> list[_Element]:
        names = frozenset[str]().union(*(attributes for attributes, _ in self.tests))
        known: dict[tuple[tuple[str, str], ...], bool] = {}
        found = []
        for element in tree.iterdescendants(*self.tags):
            given = element.items()
            if not given:
                continue
            relevant = tuple([item for item in given if item[0] in names])
            if relevant not in known:
                known[relevant] = self._holds(relevant)
            if known[relevant] and (self.further is None or self.further(element)):
                found.append(element)
                if self.first:
                    break
        return found

    def _holds(self, given: tuple[tuple[str, str], ...]) -> bool:
        for attributes, pattern in self.tests:
            value = next((value for name, value in given if name in attributes), None)
            if value is not None and pattern.search(value):
                return True
        return False

    @classmethod
    def of(cls, expression: XPath) -> Self | None:
        """The same as an expression; None for one of another form."""
        path = expression.path
        elements = ELEMENTS.match(path)
        if not elements:
            return None
        at, tests = elements.end(), []
        while test := TEST.match(path, at):
            tests.append((frozenset({test["one"], test["other"] or test["one"]}), _pattern(test)))
            at = test.end()
            if not (following := OR.match(path, at)):
                break
            at = following.end()
        end = END.match(path, at)
        if not end or any(pattern.pattern and pattern.search("") for _, pattern in tests):
            return None
        tags = re.findall(r"self::(\w+)", elements[1] or "") or ["*"]
        further = XPath(f"self::*{end['further']}", namespaces=NAMESPACES) if end["further"] else None
        return cls(tuple(tags), tuple(tests), further, bool(end["first"]))


def _pattern(test: re.Match[str]) -> re.Pattern[str]:
    """What a value must match, which need not be the whole of it."""
    text = test["text"] or ""
    if test["function"] == "re:test":
        return re.compile(text, re.I if test["flags"] else 0)
    capitals = test["capitals"] or ""
    literal = "".join(f"[{c}{c.upper()}]" if c.upper() in capitals else re.escape(c) for c in text)
    if test["function"] == "contains" or test["text"] is None:
        return re.compile(literal)
    return re.compile(rf"\A{literal}" if test["function"] else rf"\A{literal}\Z")


def by_attributes() -> None:
    """Let trafilatura's own lists of expressions, in this process, hold their equivalents."""
    for expressions in vars(trafilatura.xpaths).values():
        if isinstance(expressions, list):
            expressions[:] = [(isinstance(each, XPath) and AttributeTests.of(each)) or each for each in expressions]
