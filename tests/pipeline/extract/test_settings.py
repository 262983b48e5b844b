"""What a recipe can set about pages: Markdown, lists of addresses that are not wanted; and the licence a page declares."""

import gzip
from pathlib import Path

import pytest

from infra.errors import InputError
from pipeline.extract.license_link import declared_license
from pipeline.extract.page import ExtractConfig
from pipeline.extract.url_rules import UrlRules
from pipeline.ingest import IngestConfig, external
from tests.pipeline.sources.archives import PROSE, documents, fates, html_page, read_source, warc_record
from tests.support import source_config

RICH = f"""<html><head><title>Rivers</title></head><body><article><h1>Rivers</h1><p>{PROSE}</p>
<ul><li>the first of the items</li><li>the second of the items</li></ul>
<table><tr><th>Name</th><th>Length</th></tr><tr><td>Elbe</td><td>1094</td></tr></table>
<pre><code>for river in rivers:
    print(river)</code></pre><p>{PROSE * 2}</p></article></body></html>""".encode()


def archive(folder: Path, *records: bytes) -> Path:
    path = folder / "web.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record) for record in records))
    return path


def test_tables_lists_and_code_as_markdown(tmp_path: Path) -> None:
    path = archive(tmp_path, warc_record(body=RICH))
    (plain,) = documents(read_source(path))
    (marked,) = documents(read_source(path, extract=ExtractConfig(markup="markdown")))
    lines = [line.strip() for line in marked["text"].splitlines()]
    assert "- the first of the items" in lines
    assert any(line.replace(" ", "").strip("|") == "Elbe|1094" for line in lines)
    assert "```" in marked["text"]
    assert "    print(river)" in marked["text"].splitlines()
    assert "# Rivers" in lines
    assert "# Rivers" not in plain["text"]
    assert "Elbe" in plain["text"]


def test_blocked_addresses_are_dropped_with_the_entry(tmp_path: Path) -> None:
    lists = tmp_path / "blocked.txt"
    lists.write_text("# remark\nbad.example\nhttp://half.example/ads/\n")
    urls = [
        "http://www.bad.example/x",
        "http://notbad.example/x",
        "http://half.example/ads/1",
        "http://half.example/news",
    ]
    pages = [warc_record(url, html_page(f"Page {number}")) for number, url in enumerate(urls)]
    outcomes = read_source(archive(tmp_path, *pages), extract=ExtractConfig(blocked_urls=(str(lists),)))
    assert [document["url"] for document in documents(outcomes)] == [urls[1], urls[3]]
    assert [(fate["rule"], fate["detail"]) for fate in fates(outcomes)] == [
        ("url_blocked", "bad.example"),
        ("url_blocked", "half.example/ads/"),
    ]


def test_a_list_is_known_by_its_content(tmp_path: Path) -> None:
    lists = tmp_path / "blocked.txt"
    source = source_config(name="web", kind="common_crawl", address="CC-MAIN-2024-10")
    config = IngestConfig(sources=(source,), extract=ExtractConfig(blocked_urls=(str(lists),)))
    with pytest.raises(InputError):
        external(config)
    lists.write_text("a.example")
    before = external(config)
    lists.write_text("b.example")
    assert external(config) != before


@pytest.mark.parametrize("url", ["", "http://[", "no address", "http://a.example:99999/"])
def test_odd_addresses_are_not_blocked(url: str) -> None:
    assert UrlRules.parse("b.example").entry_for(url) == ""


@pytest.mark.parametrize(
    ("html", "license_id"),
    [
        ('<a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">x</a>', "CC-BY-SA-4.0"),
        ("<link href='http://creativecommons.org/licenses/by-nc-nd/3.0/de/' rel='license'>", "CC-BY-NC-ND-3.0"),
        ("<a rel=license href=//creativecommons.org/publicdomain/zero/1.0/>x</a>", "CC0-1.0"),
        ('<a href="https://creativecommons.org/licenses/by/4.0/">the picture</a>', None),
        ('<a rel="license" href="https://example.org/terms">x</a> creativecommons.org', None),
        (
            '<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">'
            '<a rel="license" href="https://creativecommons.org/licenses/by/3.0/">',
            None,
        ),
    ],
)
def test_the_licence_a_page_declares(html: str, license_id: str | None) -> None:
    assert declared_license(html) == license_id


def test_the_declared_licence_comes_before_the_source_s(tmp_path: Path) -> None:
    link = b'<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a></body>'
    marked = warc_record("http://example.org/1", html_page("One").replace(b"</body>", link))
    path = archive(tmp_path, marked, warc_record("http://example.org/2", html_page("Two")))
    found = documents(read_source(path, license="CC0-1.0"))
    assert [document["license"] for document in found] == ["CC-BY-4.0", "CC0-1.0"]
