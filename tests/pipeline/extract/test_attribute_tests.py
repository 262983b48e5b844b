"""trafilatura's expressions choose the same elements without XPath."""

import importlib.util
import random
import re
from types import ModuleType

import pytest
import trafilatura.xpaths
from lxml.etree import XPath
from lxml.html import HtmlElement, fromstring

from pipeline.extract.attribute_tests import NAMESPACES, AttributeTests, by_attributes

TAGS = ("div", "section", "article", "main", "p", "span", "ul", "ol", "list", "item", "aside", "details", "a", "h1")
ATTRIBUTES = (
    "id",
    "class",
    "role",
    "style",
    "itemprop",
    "data-component",
    "data-lp-replacement-content",
    "aria-hidden",
)


def _as_installed() -> ModuleType:
    """trafilatura's expressions before any extractor was made in this process."""
    spec = importlib.util.find_spec("trafilatura.xpaths")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXPRESSIONS = {
    f"{name}[{number}]": expression
    for name, expressions in vars(_as_installed()).items()
    if isinstance(expressions, list)
    for number, expression in enumerate(expressions)
    if AttributeTests.of(expression)
}


def _words(path: str) -> list[str]:
    """Values that an expression's patterns match."""
    text = "|".join(re.findall(r"'([^']+)'", path))
    for written, read in (
        (r"\(\?!.*?\)", ""),
        (r"\(\?:([^|)]*)[^)]*\)", r"\1"),
        (r"\[(.)[^\]]*\]", r"\1"),
        (r"[?^]", ""),
    ):
        text = re.sub(written, read, text)
    return [word for word in text.split("|") if word]


def _pages(expression: XPath, number: int) -> list[HtmlElement]:
    """Random trees, whose attributes have values that are near to what the expression looks for."""
    chance = random.Random(7)
    words = [*_words(expression.path), "x", "text"]
    pages = []
    for _ in range(number):
        root = fromstring("<html><body></body></html>")
        places = [root.find("body")]
        for _ in range(40):
            element = chance.choice(places[-6:]).makeelement(chance.choice(TAGS))
            chance.choice(places[-6:]).append(element)
            for name in chance.sample(ATTRIBUTES, chance.randrange(4)):
                value = (
                    chance.choice(["", "a ", "main-", "-"])
                    + chance.choice(words)
                    + chance.choice(["", " b", "-x", "ary"])
                )
                element.set(name, chance.choice([value, value.title(), chance.choice(words)]))
            places.append(element)
        pages.append(root)
    return pages


def test_the_costly_expressions_are_those_that_are_computed_here() -> None:
    costly = {"BODY_XPATH[0]", "OVERALL_DISCARD_XPATH[0]", "OVERALL_DISCARD_XPATH[1]", "RAW_TREE_PRUNE_XPATH[0]"}
    assert costly | {"REMOVE_COMMENTS_AND_LISTS_XPATH[0]"} <= EXPRESSIONS.keys()
    by_attributes()
    assert isinstance(trafilatura.xpaths.BODY_XPATH[0], AttributeTests)
    assert isinstance(trafilatura.xpaths.BODY_XPATH[1], XPath)  # (.//article)[1]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_same_elements_are_chosen(name: str) -> None:
    expression = EXPRESSIONS[name]
    ours = AttributeTests.of(expression)
    assert ours is not None
    found = 0
    for page in _pages(expression, 30):
        wanted = expression(page)
        assert ours(page) == (wanted[:1] if ours.first else wanted)
        found += len(wanted)
    assert found


@pytest.mark.parametrize(
    "path",
    [
        "//div[@class='a']",
        ".//div[@class='a']",
        ".//*[@class='a' and @id='b']",
        ".//*[self::div][@class='a']|.//p",
        ".//*[self::div][@class='a'][not(.//p)]|.//p",
        ".//*[re:test(@class, 'a*')]",  # holds of an element without a class
        ".//*[contains(text(), 'a')]",
    ],
)
def test_an_expression_of_another_form_is_left_to_xpath(path: str) -> None:
    assert AttributeTests.of(XPath(path, namespaces=NAMESPACES)) is None


@pytest.mark.parametrize("html", ["<div id=b class=a>", "<div class=a id=b>", "<div id='' class=a>", "<div class=''>"])
def test_of_two_attributes_the_first_is_looked_at(html: str) -> None:
    expression = XPath(".//*[re:test(@id|@class, 'a')]", namespaces=NAMESPACES)
    page, ours = fromstring(f"<html><body>{html}</div></body></html>"), AttributeTests.of(expression)
    assert ours is not None and ours(page) == expression(page)
