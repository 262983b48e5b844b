"""Damaged records and pages by the thousand: nothing crashes, nothing hangs, and every record is accounted for.

A seeded mutator works on records as crawls have them: it flips, cuts, doubles and moves bytes, breaks lengths, headers
and encodings, and nests or opens elements without end. A failure names its seed.
"""

import gzip
import io
import random
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from infra.errors import InputError
from pipeline.document import documents_table
from pipeline.extract.clean import clean_line
from pipeline.extract.dates import iso_date
from pipeline.extract.extractors import Markup
from pipeline.extract.metadata import Metadata
from pipeline.extract.page import ExtractConfig, Page, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.extract.url_rules import UrlRules
from pipeline.sources import warc
from pipeline.sources.contract import Archive, Outcome, Part, Reading, is_fate
from tests.pipeline.sources.archives import PROSE, html_page, warc_record
from tests.support import source_config

SECONDS = 5.0
"""Time limit of a page and extractor; twice (the fallback) and a margin is what one page may take."""
LONGEST = 2 * SECONDS + 3.0

RICH_PAGE = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Rivers &amp; towns</title>
<meta name="author" content="Ada &amp; Co">
<meta property="article:published_time" content="2020-02-03T04:05:06+01:00">
<script type="application/ld+json">{{"@graph": [{{"@type": "NewsArticle", "author": {{"name": "Ada"}},
"datePublished": "2020-02-03", "license": "https://creativecommons.org/licenses/by/4.0/", "articleBody": "{PROSE}"}}]}}</script>
<style>p {{ color: red }}</style></head>
<body class="page"><nav><ul><li><a href="/a">Home</a></li><li><a href="/b">About</a></li></ul></nav>
<article><h1>Rivers</h1><p>{PROSE * 2}</p><table><tr><th colspan="2">Name</th><td>Länge</td></tr><tr><td>Elbe<td>1094</table>
<ul><li>one {PROSE}<li>two</ul><pre><code>for x in y:
    print(x)</code></pre><blockquote>{PROSE}</blockquote><p>日本語の文章がここにあります。</p></article>
<svg><path d="M0 0"/></svg><footer><a href="/c">Contact</a> <a rel="license" href="https://creativecommons.org/licenses/by/4.0/">
CC</a>
<a rel="author" href="/ada">Ada</a> <time class="published" datetime="2020-02-03">3 Feb</time>
</footer></body></html>""".encode()
PIECES = (
    b"<div>" * 400, b"</div>" * 50, b"<table><tr><td colspan=999999999 rowspan=999999999>", b"<!--", b"]]>", b"<![CDATA[",
    b"<p " + b"a=1 " * 500, b'<a href="', b"&#x110000;", b"&#0;", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"<script>", b"<?xml",
    b"<svg><foreignObject>", b"<math><mi>", b"<template>", b"<noscript><p>", b"<plaintext>", b"<frameset>", b"<" * 300,
    b'<script type="application/ld+json">', b'{"author":' * 500, b"[" * 2000, b'"datePublished": 1e999999,',
    b"<meta name=" * 200, b"<time datetime=" * 100, b"\r\n\r\n", b"\x1f\x8b\x08",
    b"WARC/1.0\r\n", b"BZh9", "\u202e\u0301\U000e0001".encode(), b"<li>" * 900, b"<b><i>" * 300,
)  # fmt: skip
HEADERS = (
    (b"Content-Length: ", b"Content-Length: 9"), (b"Content-Length: ", b"Content-Length: -"), (b"HTTP/1.1 200", b"HTTP/1.1"),
    (b"WARC-Type: response", b"WARC-Type: revisit"), (b"WARC/1.0", b"WARC/9.9"), (b"charset=utf-8", b"charset=utf-16"),
    (b"charset=utf-8", b"charset=\xff\xff"), (b"text/html", b"application/pdf"), (b"WARC-Target-URI: ", b"X: "),
    (b"Content-Type: text", b"Content-Encoding: gzip\r\nContent-Type: text"), (b"\r\n\r\n", b"\n\n"), (b": ", b":"),
    (b"Content-Type: text", b"Content-Encoding: br\r\nContent-Type: text"), (b"WARC-Record-ID", b"WARC-Date"),
    (b"Content-Type: text", b"Transfer-Encoding: chunked\r\nContent-Type: text"),
)  # fmt: skip


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 12)):
        data[chance.randrange(len(data))] = chance.randrange(256)


def cut(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randint(1, 400)]


def double(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.randint(1, 300)] * chance.randint(1, 30)
    into = chance.randrange(len(data))
    data[into:into] = piece


def insert(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.choice(PIECES)


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, cut, double, insert, insert, truncate)


def mutated(original: bytes, chance: random.Random) -> bytes:
    data = bytearray(original)
    for _ in range(chance.randint(1, 4)):
        if len(data) > 1:
            chance.choice(MUTATIONS)(data, chance)
    return bytes(data)


def mutated_record(number: int, chance: random.Random) -> bytes:
    page = chance.choice((RICH_PAGE, html_page(f"Page {number}")))
    if chance.random() < 0.3:
        page = chance.choice((gzip.compress, zlib.compress))(page)
    kind = chance.choice(("response", "response", "response", "resource", "conversion", "revisit"))
    record = warc_record(f"http://damaged.example/{number}", page, kind=kind)
    if chance.random() < 0.4:
        old, new = chance.choice(HEADERS)
        record = record.replace(old, new, chance.randint(1, 3))
    return mutated(record, chance) if chance.random() < 0.9 else record


def intact(name: str) -> bytes:
    return warc_record(f"http://intact.example/{name}", html_page(name, f"{name}. {PROSE * 3}"))


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A list of addresses that are not wanted, for one damaged record in ten."""
    path = tmp_path / "blocked.txt"
    path.write_text("".join(f"damaged.example/{n}5\n" for n in range(1_200)))
    return path


def read(data: bytes, lists: Path, markup: Markup = "text") -> list[Outcome]:
    source = source_config(name="fuzz", kind="warc", address="-", max_record_bytes=1_000_000)
    extract = ExtractConfig(
        seconds=SECONDS, max_page_bytes=1_000_000, markup=markup, blocked_urls=(str(lists),), metadata=True
    )
    part = Part(Archive("fuzz.warc", "-", len(data), ""), 0, len(data))
    return list(warc.read_stream(io.BytesIO(data), part, Reading(source, extract)))


def check_record(seed: int, lists: Path) -> None:
    """One damaged record between two good ones, each its own gzip member or none compressed."""
    chance = random.Random(seed)
    before, damaged, after = intact("before"), mutated_record(seed, chance), intact("after")
    packed = chance.random() < 0.7
    markup: Markup = chance.choice(("text", "markdown"))
    if packed:
        middle = gzip.compress(damaged, mtime=0)
        if chance.random() < 0.3:
            middle = mutated(middle, chance)
        data = gzip.compress(before, mtime=0) + middle + gzip.compress(after, mtime=0)
    else:
        data = before + damaged + after
    started = time.monotonic()
    outcomes = read(data, lists, markup)
    assert time.monotonic() - started < LONGEST, f"seed {seed} took too long"
    kept = [outcome["url"] for outcome in outcomes if not is_fate(outcome)]
    assert kept[0] == "http://intact.example/before", f"seed {seed} lost the record before the damage"
    # An uncompressed record whose length was changed may swallow the next one; a gzip member cannot.
    if packed:
        assert kept[-1] == "http://intact.example/after", f"seed {seed} lost the record after the damage"
    for outcome in outcomes:
        assert len(outcome["id"]) == 16
        if is_fate(outcome):
            assert outcome["verdict"] in ("dropped", "failed")
            assert outcome["rule"]
        else:
            documents_table([outcome]).validate(full=True)
            assert outcome["text"].strip()
            assert not UrlRules.parse(lists.read_text()).entry_for(outcome["url"] or "")
    assert outcomes == read(data, lists, markup), f"seed {seed} is not read the same way twice"


def check_page(seed: int) -> None:
    """One damaged page: text that can be stored, or a reason."""
    chance = random.Random(seed)
    body = mutated(chance.choice((RICH_PAGE, html_page())), chance)
    extractor = PageExtractor.create(
        ExtractConfig(
            seconds=SECONDS,
            extractor=chance.choice(("trafilatura", "trafilatura", "resiliparse")),
            markup=chance.choice(("text", "markdown")),
        ),
        None,
    )
    types = ("text/html", "text/html", "application/xhtml+xml", "text/plain", "")
    page = Page(
        id=seed.to_bytes(16, "big"),
        url="http://example.org/",
        body=body,
        content_type=chance.choice(types),
        charset=chance.choice(("", "utf-8", "iso-8859-1", "shift_jis", "utf-16", "x-unknown")),
        content_encoding=chance.choice(("", "", "", "gzip", "br", "deflate", "gzip, gzip")),
        transfer_encoding=chance.choice(("", "", "chunked")),
        captured="2024-05-06T07:08:09Z",
    )
    started = time.monotonic()
    with suppress(Refused):
        found = extractor.extract(page)
        found.text.encode("utf-8")
        check_metadata(found.metadata)
    assert time.monotonic() - started < LONGEST, f"seed {seed} took too long"


def check_metadata(found: Metadata) -> None:
    """One line that can be stored, a date that reads as itself, a licence's name."""
    if found.author is not None:
        assert found.author == clean_line(found.author) != ""
    assert found.date is None or iso_date(found.date) == found.date
    assert found.license is None or found.license.startswith("CC")


def test_damaged_records_cost_themselves(lists: Path) -> None:
    for seed in range(200):
        check_record(seed, lists)


def test_damaged_pages_give_text_or_a_reason() -> None:
    for seed in range(200):
        check_page(seed)


def test_rubbish_is_refused_or_read(lists: Path) -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(100):
        data = gzip.compress(intact("x")) if chance.random() < 0.5 else intact("x")
        try:
            read(mutated(data, chance)[chance.randint(0, 40) :], lists)
        except InputError:
            refused += 1
    assert 0 < refused < 100


@pytest.mark.slow
def test_ten_thousand_damaged_records(lists: Path) -> None:
    for seed in range(1_000, 11_000):
        check_record(seed, lists)


@pytest.mark.slow
def test_ten_thousand_damaged_pages() -> None:
    for seed in range(1_000, 11_000):
        check_page(seed)
