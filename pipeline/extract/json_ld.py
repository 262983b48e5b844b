"""Author, date of publication and licence as a page's JSON-LD gives them (schema.org, in ``script`` elements).

A page may describe much beside itself: its publisher, a list of other articles, comments. Read are the nodes at the top,
those of an ``@graph`` and what a node calls its main entity; of these an article counts before a page. Where two
articles disagree the page is a list of them, and neither speaks for it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_SCRIPTS = 16
MAX_BYTES = 262_144
MAX_NODES = 500
MAX_AUTHORS = 20
MAX_NAME = 500
TOLD = (b'"datePublished"', b'"author"', b'"creator"', b'"license"')
ARTICLES = ("article", "posting", "report", "thesis", "book", "recipe", "videoobject", "review", "podcastepisode")
PAGES = ("webpage", "itempage", "aboutpage", "faqpage", "qapage", "medicalwebpage", "creativework", "webcontent")
ORGANISATIONS = ("organization", "corporation", "website", "brand")
INTO = ("@graph", "mainEntity", "mainEntityOfPage")


@dataclass(frozen=True)
class Stated:
    """As written: nothing is checked yet. ``publishers``: organisations that are given as authors."""

    authors: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    date: str = ""
    license: str = ""


def read_json_ld(data: bytes) -> Stated:
    """What the page's JSON-LD says of the page."""
    nodes: list[dict[str, Any]] = []
    for script in _scripts(data):
        try:
            value = json.loads(script, strict=False)
        except (ValueError, RecursionError):  # also numbers of a million digits
            continue
        nodes += _nodes(value, MAX_NODES - len(nodes))
    if not nodes:
        return Stated()
    named = {node["@id"]: node for node in nodes if isinstance(node.get("@id"), str)}
    articles = [node for node in nodes if _is_a(node, ARTICLES)]
    pages = [node for node in nodes if _is_a(node, PAGES)]
    people = firms = date = license = ""
    for described in (articles, pages):
        given = [_names(node.get("author") or node.get("creator"), named) for node in described]
        people = people or _agreed(names for names, _ in given)
        firms = firms or _agreed(names for _, names in given)
        date = date or _agreed(_text(node.get("datePublished")) for node in described)
        license = license or _agreed(_address(node.get("license")) for node in described)
    return Stated(_split(people), _split(firms), date, license)


def _scripts(data: bytes) -> Iterator[str]:
    at = 0
    for _ in range(MAX_SCRIPTS):
        at = data.find(b"ld+json", at)
        if at < 0:
            return
        start = data.find(b">", at, at + 300) + 1
        end = data.find(b"</script", start, start + MAX_BYTES) if start else -1
        if end < 0:
            at += 7
            continue
        if any(data.find(key, start, end) >= 0 for key in TOLD):
            yield data[start:end].decode("utf-8", "replace").strip().removeprefix("<!--").removesuffix("-->")
        at = end


def _nodes(value: Any, most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    waiting = [value]
    while waiting and len(found) < most:
        item = waiting.pop()
        if isinstance(item, dict):
            found.append(item)
            waiting += [item[name] for name in INTO if name in item]
        elif isinstance(item, list):
            waiting += item[:MAX_NODES][::-1]
    return found


def _is_a(node: Mapping[str, Any], endings: tuple[str, ...]) -> bool:
    kinds = node.get("@type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return any(isinstance(kind, str) and kind.lower().endswith(endings) for kind in kinds[:8])


def _agreed(values: Iterable[str]) -> str:
    """What all that say something say; empty where they differ."""
    given = {value for value in values if value}
    return given.pop() if len(given) == 1 else ""


def _names(value: Any, named: Mapping[str, Any]) -> tuple[str, str]:
    """Names of people, and of organisations, one a line."""
    people: list[str] = []
    firms: list[str] = []
    for item in (value if isinstance(value, list) else [value])[:MAX_AUTHORS]:
        kinds = people
        if isinstance(item, dict):
            if not item.get("name") and isinstance(item.get("@id"), str):
                item = named.get(item["@id"], item)
            kinds = firms if _is_a(item, ORGANISATIONS) else people
            item = item.get("name")
            item = item[0] if isinstance(item, list) and item else item
        if isinstance(item, str) and item.strip():
            kinds.append(" ".join(item[:MAX_NAME].split()))
    return "\n".join(people), "\n".join(firms)


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split("\n")) if names else ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _address(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("url") or value.get("@id")
    return _text(value)
