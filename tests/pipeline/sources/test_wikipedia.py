"""Dumps become readable articles, also in other languages and when they end early."""

import bz2
import gzip
import hashlib
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import InputError
from pipeline.ingest import STAGE, IngestConfig
from pipeline.sample.items import WIKIPEDIA_MEMBER
from pipeline.sample.packages import GENSIM, read_member
from pipeline.sources.wikitext import readable_text
from tests.pipeline.packages import package_wheel
from tests.pipeline.sources.archives import documents, fates, read_source, rules
from tests.support import run_shard_stage, shared_data, source_config

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="ltg"><siteinfo>
<base>https://ltg.wikipedia.org/wiki/Suoku_puslopa</base><namespaces>
<namespace key="6">Fails</namespace><namespace key="14">Kategoreja</namespace></namespaces></siteinfo>"""


def page(title: str, text: str, ns: int = 0, redirect: str = "") -> str:
    target = f'<redirect title="{redirect}" />' if redirect else ""
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>{len(title)}</id>{target}<revision><id>7</id>"
        f"<timestamp>2020-01-02T03:04:05Z</timestamp><text>{text}</text></revision></page>"
    )


def dump(path: Path, *pages: str, tail: str = "</mediawiki>") -> Path:
    data = (HEAD + "".join(pages) + tail).encode()
    path.write_bytes(bz2.compress(data) if path.suffix == ".bz2" else data)
    return path


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''slanted'' [[link|words]] and [[Target]]", "Bold and slanted words and Target"),
        ("a{{Infobox|x=[[y]]}}b<ref>source</ref>c<ref name=q />d", "abcd"),
        ("before\n{| class=wikitable\n! head\n|-\n| cell\n|}\nafter", "before\n\nafter"),
        ("[[File:a.jpg|thumb|A [[caption]] here]]text[[Category:Things]]", "text"),
        ("[[:Category:Things]]", "Category:Things"),
        ("[[de:Ding]] x", "x"),
        ("* one\n** two\n# three", "- one\n- two\n- three"),
        ("[http://example.org a label] [http://example.org]", "a label"),
        ("== Kept ==\ntext\n== Empty ==\n=== Deeper ===\n== Last ==\nend", "\nKept\n\ntext\n\nLast\n\nend"),
        ("text\n== References ==\n* a book\n=== Web ===\nsite\n== More ==\nend", "text\n\nMore\n\nend"),
        ("Thus <math>e^{i\\pi} = -1</math>.", "Thus e^{i\\pi} = -1."),
        ("a &amp; b&nbsp;c<!-- hidden -->__NOTOC__", "a & b c"),
    ],
)
def test_markup_becomes_what_a_reader_reads(markup: str, text: str) -> None:
    assert readable_text(markup).strip("\n") == text.strip("\n")


@pytest.mark.parametrize("markup", ["{{" * 3000, "[[" * 3000, "''" * 3000, "<div>" * 3000, "{|" * 500, "&#x110000;"])
def test_hostile_markup_ends(markup: str) -> None:
    assert isinstance(readable_text(markup), str)


def test_articles_are_kept_and_everything_else_has_a_reason(tmp_path: Path) -> None:
    path = dump(
        tmp_path / "ltgwiki.xml.bz2",
        page("Reiga", "[[Fails:a.jpg|mozs]]Reiga ir [[Latveja|Latvejis]] golvysmīsts.[[Kategoreja:Mīsti]]"),
        page("Riga", "#REDIRECT [[Reiga]]", redirect="Reiga"),
        page("Talk:Reiga", "chat", ns=1),
        page("Nothing", "{{stub}}"),
    )
    outcomes = read_source(path, "wikipedia")
    (article,) = documents(outcomes)
    assert article["text"] == "Reiga ir Latvejis golvysmīsts."
    assert (article["url"], article["language"]) == ("https://ltg.wikipedia.org/wiki/Reiga", "ltg")
    assert (article["license"], article["date"]) == ("CC-BY-SA-4.0", "2020-01-02T03:04:05Z")
    assert rules(outcomes) == ["namespace", "no_text", "redirect"]


@pytest.mark.parametrize("name", ["d.xml", "d.xml.bz2"])
def test_a_dump_that_ends_early_costs_its_tail(tmp_path: Path, name: str) -> None:
    path = dump(tmp_path / name, page("A", "text a"), page("B", "text b"), tail="<page><title>C</tit")
    outcomes = read_source(path, "wikipedia")
    assert [document["title"] for document in documents(outcomes)] == ["A", "B"]
    (fate,) = fates(outcomes)
    assert (fate["verdict"], fate["rule"]) == ("failed", "truncated_dump")
    assert "after page 2" in str(fate["detail"])


@pytest.mark.parametrize("content", [b"", b"not xml", b"<html></html>", b"BZh91AY&SY"])
def test_what_is_no_dump_is_said_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.xml.bz2").write_bytes(content)
    with pytest.raises(InputError, match=r"empty|not a MediaWiki dump"):
        read_source(tmp_path / "d.xml.bz2", "wikipedia")


def test_the_packaged_excerpt_of_the_english_dump(tmp_path: Path) -> None:
    data = read_member(package_wheel(GENSIM), WIKIPEDIA_MEMBER)
    (tmp_path / "enwiki.xml.bz2").write_bytes(data[:400_000])
    outcomes = read_source(tmp_path / "enwiki.xml.bz2", "wikipedia")
    articles = {document["title"]: document["text"] for document in documents(outcomes)}
    assert articles["Anarchism"].startswith(
        "Anarchism is a political philosophy that advocates self-governed societies"
    )
    leftovers = ("{{cite", "{{Infobox", "[[", "<ref", "__NOTOC__", "{|", "'''", "Category:")
    dirty = [title for title, text in articles.items() if any(mark in text for mark in leftovers)]
    assert not dirty
    assert rules(outcomes).count("truncated_dump") == 1


def test_a_small_wikipedia_in_another_language() -> None:
    outcomes = read_source(shared_data("wiki/tinywiki-latest-pages-articles.xml"), "wikipedia")
    assert all(document["language"] == "ltg" for document in documents(outcomes))
    assert documents(outcomes)
    assert not [fate for fate in fates(outcomes) if fate["verdict"] == "failed"]


def multistream(path: Path, *streams: str) -> Path:
    """A dump as Wikipedia publishes it: head, some pages at a time, and the end tag, each a stream of its own."""
    whole = dump(path.with_suffix(".tmp"), *streams).read_bytes().decode()
    head, rest = whole.split("<page>", 1)
    end = "</mediawiki>"
    pieces = [head, *streams, end]
    assert "<page>" + rest == "".join(streams) + end
    path.write_bytes(b"".join(bz2.compress(piece.encode()) for piece in pieces))
    return path


def padded(number: int) -> str:
    """A page that does not compress, so that small parts are cut between streams."""
    words = " ".join(hashlib.sha256(f"{number} {word}".encode()).hexdigest() for word in range(1500))
    return page(f"Page {number}", f"Number {number}. {words}")


def test_parts_of_a_multistream_dump_give_the_same_pages_as_the_whole(tmp_path: Path) -> None:
    path = multistream(tmp_path / "enwiki.xml.bz2", *(padded(number) for number in range(6)))
    whole = documents(read_source(path, "wikipedia"))
    cut = documents(read_source(path, "wikipedia", part_bytes=100_000))
    assert [document["title"] for document in whole] == [f"Page {number}" for number in range(6)]
    strip = [{**document, "origin": None} for document in cut]
    assert strip == [{**document, "origin": None} for document in whole]
    starts = [document["origin"]["offset"] for document in cut]
    assert path.stat().st_size > 100_000
    assert starts == sorted(set(starts))
    first = cut[0]["origin"]
    raw = path.read_bytes()[first["offset"] : first["offset"] + first["length"]]
    assert b"<title>Page 0</title>" in bz2.decompress(raw)


def test_a_damaged_stream_costs_itself(tmp_path: Path) -> None:
    path = multistream(tmp_path / "enwiki.xml.bz2", *(padded(number) for number in range(6)))
    third = documents(read_source(path, "wikipedia", part_bytes=100_000))[2]["origin"]
    data = bytearray(path.read_bytes())
    middle = third["offset"] + third["length"] // 2
    data[middle : middle + 50] = bytes(50)
    path.write_bytes(data)
    outcomes = read_source(path, "wikipedia", part_bytes=100_000)
    assert [document["title"] for document in documents(outcomes)] == [f"Page {n}" for n in (0, 1, 3, 4, 5)]
    (fate,) = fates(outcomes)
    assert (fate["verdict"], fate["rule"]) == ("failed", "damaged_stream")


def revision(number: int, time: str, text: str) -> str:
    return f"<revision><id>{number}</id><timestamp>{time}</timestamp><text>{text}</text></revision>"


def test_of_a_history_the_newest_revision_stays(tmp_path: Path) -> None:
    revisions = [
        revision(3, "2021-05-05T00:00:00Z", "third"),
        revision(1, "2019-01-01T00:00:00Z", "first"),
        revision(9, "2023-01-01T00:00:00Z", "newest"),
        revision(8, "2022-01-01T00:00:00Z", "second newest"),
    ]
    history = f"<page><title>A</title><ns>0</ns><id>1</id>{''.join(revisions)}</page>"
    path = dump(tmp_path / "h.xml.bz2", history, page("B", "only one"))
    outcomes = read_source(path, "wikipedia")
    assert [(row["text"], row["date"]) for row in documents(outcomes)] == [
        ("newest", "2023-01-01T00:00:00Z"),
        ("only one", "2020-01-02T03:04:05Z"),
    ]
    assert documents(outcomes)[0]["origin"]["record_id"] == "page 1 revision 9"


def test_a_page_that_is_no_xml_costs_itself(tmp_path: Path) -> None:
    bad = page("Bad", "x").replace("<text>", "<text>A & B < C")
    path = dump(tmp_path / "d.xml", page("A", "one"), bad, page("C", "three"), page("D", "four"))
    outcomes = read_source(path, "wikipedia")
    assert [document["title"] for document in documents(outcomes)] == ["A", "C", "D"]
    (fate,) = fates(outcomes)
    assert (fate["verdict"], fate["rule"]) == ("failed", "damaged_page")
    assert "d.xml after page 1" in str(fate["detail"])


def test_characters_that_xml_forbids_cost_themselves(tmp_path: Path) -> None:
    path = dump(tmp_path / "d.xml", page("A", "o&#x8;ne\x0b &#x1F;two &#65; &#xD800;\uffff"), page("B", "fine"))
    path.write_bytes(path.read_bytes().replace(b"fine", b"fi\xffne"))
    outcomes = read_source(path, "wikipedia")
    assert [document["text"] for document in documents(outcomes)] == ["one two A", "fi\ufffdne"]
    assert not fates(outcomes)


def test_pages_that_are_no_wikitext_and_redirects_of_old_dumps(tmp_path: Path) -> None:
    item = page("Q1", "{}").replace("<text>", "<model>wikibase-item</model><text>")
    path = dump(tmp_path / "d.xml", item, page("Riga", "#WEITERLEITUNG [[Reiga]]"), page("C", "# one [[link]]"))
    outcomes = read_source(path, "wikipedia")
    assert rules(outcomes) == ["content_model", "redirect"]
    assert [document["text"] for document in documents(outcomes)] == ["- one link"]


def test_a_page_larger_than_the_bound_is_not_read(tmp_path: Path) -> None:
    path = dump(tmp_path / "d.xml", page("A", "one"), page("Big", "word " * 700_000), page("C", "three"))
    outcomes = read_source(path, "wikipedia", max_record_bytes=1_500_000)
    assert [document["title"] for document in documents(outcomes)] == ["A", "C"]
    assert rules(outcomes) == ["record_too_large"]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_a_dump_is_opened_by_its_first_bytes(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    plain = dump(tmp_path / "d.xml", page("A", "one"))
    (tmp_path / "e.xml").write_bytes(pack(plain.read_bytes()))
    assert [row["text"] for row in documents(read_source(tmp_path / "e.xml", "wikipedia"))] == ["one"]


def test_what_gave_no_text_is_in_the_dataset(tmp_path: Path) -> None:
    path = dump(
        tmp_path / "d.xml", page("A", "one {{stub}} {{nowrap|x}}"), page("B", "two {{Stub}}\n== References ==\n* x")
    )
    config = IngestConfig(sources=(source_config(name="wiki", kind="wikipedia", address=str(path)),))
    dataset = run_shard_stage(STAGE, config, {}, tmp_path / "out")
    assert dataset.manifest.stats["unseen"] == {"template": {"stub": 2}, "section": {"references": 1}}
