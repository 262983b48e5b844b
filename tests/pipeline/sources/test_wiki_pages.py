"""Real pages of Wikipedia against what a reader of them reads, written by hand from their markup.

The pages are not the project's to publish: ``wiki_pages.jsonl`` holds, for each, where its markup is (dump, page,
revision, a range of characters that begins and ends with a section or paragraph) and its words in order as digests of 18
bits, four words to nine bytes. A word is what stands between white space; dashes of lists are none.

A page's line is made by ``python -m tests.pipeline.sources.test_wiki_pages DUMP PAGE BEGIN END < text-written-by-hand``.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from pipeline.compression import pieces
from pipeline.extract.clean import clean_text
from pipeline.sources.mediawiki_xml import Site, pages
from pipeline.sources.wikitext import readable_text
from tests.support import shared_data

REFERENCE = Path(__file__).with_name("wiki_pages.jsonl")
WIDTH = 3


def digest(word: str) -> str:
    return base64.b64encode(hashlib.blake2b(word.encode(), digest_size=WIDTH).digest())[:WIDTH].decode()


def words(text: str) -> list[str]:
    return [word for word in text.split() if word != "-"]


def markup(page: Element) -> str:
    return page.findtext("revision/text") or ""


@cache
def dump(name: str) -> tuple[Site, dict[str, Element]]:
    """The dump's pages by number; of pages with the same number the last."""
    site = Site()
    with shared_data(f"wiki/{name}").open("rb") as file:
        found = pages(pieces(file, salvage=False), site, 1 << 28)
        return site, {page.findtext("id", ""): page for page in found if isinstance(page, Element)}


def compared() -> Iterator[tuple[dict[str, Any], list[str], list[str], int]]:
    """Each page with the words lost (what stands before them), the words added, and how many it has."""
    for line in REFERENCE.read_text().splitlines():
        entry = json.loads(line)
        site, found = dump(entry["dump"])
        page = found[str(entry["page"])]
        assert page.findtext("revision/id") == str(entry["revision"])
        begin, end = entry["range"]
        shown = words(readable_text(markup(page)[begin:end], site.wiki, page.findtext("title", ""), clean=clean_text))
        wanted = [entry["words"][at : at + WIDTH] for at in range(0, len(entry["words"]), WIDTH)]
        lost, added = [], []
        matcher = SequenceMatcher(None, wanted, [digest(word) for word in shown], autojunk=False)
        for kind, first, last, here, there in matcher.get_opcodes():
            if kind != "equal":
                added += shown[here:there]
                lost += [f"after {' '.join(shown[max(0, here - 3) : here])!r}"] * (last - first)
        yield entry, lost, added, len(wanted)


@pytest.fixture(scope="module")
def comparison() -> list[tuple[dict[str, Any], list[str], list[str], int]]:
    return list(compared())


def test_words_lost_and_added_on_real_pages(comparison: list[tuple[dict[str, Any], list[str], list[str], int]]) -> None:
    total = sum(count for *_, count in comparison)
    wrong = {entry["title"]: (lost, added) for entry, lost, added, _ in comparison if lost or added}
    assert len(comparison) >= 70
    assert total > 21_000
    assert sum(len(lost) for lost, _ in wrong.values()) <= 0.0002 * total, wrong
    assert sum(len(added) for _, added in wrong.values()) <= 0.0002 * total, wrong


def main() -> None:
    name, number, begin, end = sys.argv[1:]
    page = dump(name)[1][number]
    entry = {
        "dump": name,
        "page": int(number),
        "title": page.findtext("title"),
        "revision": int(page.findtext("revision/id", "0")),
        "range": [int(begin), int(end) if end else len(markup(page))],
        "words": "".join(map(digest, words(sys.stdin.read()))),
    }
    print(json.dumps(entry, ensure_ascii=False))


if __name__ == "__main__":
    main()
