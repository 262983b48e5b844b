"""Author, date of publication and licence as pages declare them."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.dates import iso_date
from pipeline.extract.metadata import Metadata, page_metadata
from tests.pipeline.sources.archives import documents, html_page, read_source, warc_record

CAPTURED = "2024-05-06T07:08:09Z"


def read(html: str, captured: str = CAPTURED) -> Metadata:
    data = html.encode("utf-8", "replace")
    return page_metadata(html, data, data, captured)


def linked_data(value: object) -> str:
    return f'<script type="application/ld+json">{json.dumps(value)}</script>'


@pytest.mark.parametrize(
    ("written", "date"),
    [
        ("2013-10-05", "2013-10-05"),
        (" 2013-10-05T21:17:00.000+02:00", "2013-10-05T21:17:00+02:00"),
        ("2013-10-05T21:17:00Z", "2013-10-05T21:17:00Z"),
        ("2013-10-05 21:17:00 +0000", "2013-10-05T21:17:00Z"),
        ("2013-10-05T21:17:00", "2013-10-05"),
        ("20131005", "2013-10-05"),
        ("2013/10/5", "2013-10-05"),
        ("5.10.2013", "2013-10-05"),
        ("Sat, 05 Oct 2013 21:17:00 GMT", "2013-10-05T21:17:00Z"),
        ("Sat Oct 05 2013 21:17:00 GMT+0200", "2013-10-05T21:17:00+02:00"),
        ("October 5th, 2013", "2013-10-05"),
        ("5 October 2013", "2013-10-05"),
        ("2013-10", "2013-10"),
        ("2013", "2013"),
        ("1823-10-05", "1823-10-05"),
        ("05/10/2013", None),
        ("2013-13-05", None),
        ("2013-02-30", None),
        ("1970-01-01T00:00:00Z", None),
        ("0001-01-01", None),
        ("2031-01-01", None),
        ("2013-10-05T99:17:00Z", "2013-10-05"),
        ("yesterday", None),
        ("", None),
        ("\u0663\u0663\u0663\u0663-01-01", None),
    ],
)
def test_dates(written: str, date: str | None) -> None:
    assert iso_date(written, CAPTURED) == date


@given(st.text(max_size=60))
def test_any_text_is_a_date_that_reads_as_itself_or_none(text: str) -> None:
    date = iso_date(text)
    assert date is None or iso_date(date) == date


ARTICLE = {
    "@type": "NewsArticle",
    "author": {"@type": "Person", "name": "Ada Lovelace"},
    "datePublished": "2013-10-05T10:00:00+01:00",
    "license": "https://creativecommons.org/licenses/by-sa/4.0/",
}
DECLARED = Metadata("Ada Lovelace", "2013-10-05T10:00:00+01:00", "CC-BY-SA-4.0")


@pytest.mark.parametrize(
    "data",
    [
        ARTICLE,
        [{"@type": "Organization", "name": "A Paper"}, ARTICLE],
        {"@graph": [{"@type": "WebPage", "datePublished": "2001-01-01", "author": "Somebody"}, ARTICLE]},
        {"@graph": [ARTICLE | {"author": {"@id": "#ada"}}, {"@type": "Person", "@id": "#ada", "name": "Ada Lovelace"}]},
        {"@type": "WebPage", "mainEntity": ARTICLE | {"author": ["Ada Lovelace"]}},
        ARTICLE | {"author": [{"@type": "Organization", "name": "A Paper"}, {"name": ["Ada Lovelace"]}]},
        ARTICLE | {"comment": [{"@type": "Comment", "author": "Troll", "datePublished": "2014-01-01"}]},
    ],
)
def test_linked_data(data: object) -> None:
    assert read(linked_data(data)) == DECLARED


def test_a_list_of_articles_is_dated_by_none_of_them() -> None:
    other = ARTICLE | {"datePublished": "2014-01-01", "author": "Charles Babbage"}
    assert read(linked_data([ARTICLE, other])) == Metadata(None, None, "CC-BY-SA-4.0")


@pytest.mark.parametrize(
    ("html", "author", "date"),
    [
        ('<META NAME="Author" CONTENT="by Ada Lovelace "><meta name=date content=2013-10-05>', "Ada Lovelace", "2013-10-05"),
        ("<meta content='2013-10-05' property='article:published_time'>", None, "2013-10-05"),
        ('<meta name="citation_author" content="Lovelace, A."><meta name="citation_author" content="Babbage, C.">'
         '<meta name="citation_publication_date" content="1843/09">', "Lovelace, A.; Babbage, C.", "1843-09"),
        ('<meta name="DC.Creator" content="A &amp; B"><meta name="DC.date.issued" content="2013-10-05">', "A & B", "2013-10-05"),
        ('<meta property="article:author" content="https://example.org/ada"><a rel="author" href=/a><b>Ada</b> Lovelace</a>',
         "Ada Lovelace", None),
        ('<span itemprop="author" itemscope><span itemprop="name">Ada</span></span>', "Ada", None),
        ('<b class="comment-author vcard">Troll</b><span class="author vcard"><a class="url fn">Ada</a></span>', "Ada", None),
        ('<abbr itemprop="datePublished" title="2013-10-05T10:00:00Z">5.10.</abbr>', None, "2013-10-05T10:00:00Z"),
        ('<time datetime="2014-01-01">x</time><time class="published" datetime="2013-10-05">x</time>', None, "2013-10-05"),
        ('<time datetime="2013-10-05T10:00:00Z">a</time><time datetime="2013-10-05">b</time>', None, "2013-10-05T10:00:00Z"),
        ('<time datetime="2013-10-05">a</time><time datetime="2013-10-06">b</time>', None, None),
        ('<meta name="author" content="admin"><meta name="author" content="ada@example.org">', None, None),
        ('<meta name="date" content="2031-01-01"><p>written by the author, published 2013-10-05', None, None),
    ],
)  # fmt: skip
def test_marks(html: str, author: str | None, date: str | None) -> None:
    found = read(f"<html><head>{html}</head><body><p>Text</p></body></html>")
    assert (found.author, found.date) == (author, date)


def test_a_licence_in_the_metadata_counts_like_a_link() -> None:
    stated = '<meta name="DC.rights" content="http://creativecommons.org/licenses/by/3.0/">'
    other = '<a rel="license" href="http://creativecommons.org/licenses/by-nc/3.0/">x</a>'
    assert read(stated).license == "CC-BY-3.0"
    assert read(stated + other).license is None


@pytest.mark.parametrize(
    "html",
    [
        '<script type="application/ld+json">{"author":' + "[" * 200_000 + "</script>",
        '<script type="application/ld+json">{"author":' + '{"author":' * 20_000 + "</script>",
        '<script type="application/ld+json">{"datePublished": ' + "9" * 200_000 + "}</script>",
        linked_data([{"@graph": [[{"author": n} for n in range(50)]] * 50}]) * 40,
        linked_data(ARTICLE | {"author": [{"name": "A" * 4000}] * 40}),
        "<meta " * 300_000,
        "<meta name=author content='" * 100_000,
        "<meta name=" + "a" * 1_000_000,
        "<time datetime=" * 200_000,
        "<a rel=author>" * 200_000,
        "author " * 400_000,
        '<span itemprop="author" itemprop=name ' * 50_000,
        "<b published " * 200_000,
        '<a rel=license href="creativecommons.org/' * 100_000,
    ],
    ids=lambda html: html[:24],
)
def test_hostile_pages_cost_little(html: str) -> None:
    started = time.process_time()
    read(html)
    assert time.process_time() - started < 1.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_damaged_marks_give_storable_values(seed: int) -> None:
    chance = random.Random(seed)
    page = bytearray(
        (linked_data(ARTICLE) + '<meta name="author" content="Ada &#x1F600;"><time datetime="2013-10-05">').encode()
    )
    for _ in range(chance.randint(1, 20)):
        page[chance.randrange(len(page))] = chance.randrange(256)
    html = page.decode("utf-8", "replace")
    found = page_metadata(html, html.encode(), html.encode(), CAPTURED)
    if found.date is not None:
        assert iso_date(found.date, CAPTURED) == found.date
    assert found.author is None or (found.author.strip() == found.author and "\n" not in found.author)


def test_a_document_has_what_its_page_declares(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from pipeline.extract.page import ExtractConfig

    page = html_page().replace(b"<title>", linked_data(ARTICLE).encode() + b"<title>")
    path = tmp_path / "a.warc"
    path.write_bytes(
        warc_record("http://example.org/a", page) + warc_record("http://example.org/b", html_page("Plain"))
    )
    declared, plain = documents(read_source(path))
    columns = ("author", "date", "license", "captured")
    assert tuple(declared[name] for name in columns) == (
        "Ada Lovelace",
        "2013-10-05T10:00:00+01:00",
        "CC-BY-SA-4.0",
        CAPTURED,
    )
    assert tuple(plain[name] for name in columns) == (None, CAPTURED, None, CAPTURED)
    without = documents(read_source(path, extract=ExtractConfig(metadata=False)))
    assert [document["author"] for document in without] == [None, None]
