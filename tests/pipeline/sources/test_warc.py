"""WARC, WET and ARC files become documents; every response has a fate."""

import base64
import gzip
import hashlib
from pathlib import Path

import pytest

from infra.errors import InputError
from pipeline.extract.page import ExtractConfig
from pipeline.sources.headers import media_type
from tests.pipeline.sources.archives import (
    PROSE,
    documents,
    fates,
    gzip_members,
    html_page,
    numbered_records,
    read_source,
    rules,
    warc_record,
)
from tests.support import shared_data


def write(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"".join(gzip_members(records)))
    return path


def test_a_response_becomes_a_document_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.warc.gz", warc_record("http://example.org/x", html_page("Mills &amp; rivers")))
    (document,) = documents(read_source(path, license="CC0-1.0"))
    assert PROSE.strip() in document["text"]
    assert document["url"] == "http://example.org/x"
    assert document["title"] == "Mills & rivers"
    assert document["date"] == "2024-05-06T07:08:09Z"
    assert document["license"] == "CC0-1.0"
    origin = document["origin"]
    assert origin["archive"] == "a.warc.gz"
    assert origin["record_id"] == "urn:test:response:http://example.org/x"
    assert gzip.decompress(path.read_bytes()[origin["offset"] :][: origin["length"]]).startswith(b"WARC/1.0")


def test_ids_do_not_depend_on_place_or_neighbours(tmp_path: Path) -> None:
    records = numbered_records(5)
    forward = documents(read_source(write(tmp_path / "a.warc.gz", *records)))
    backward = documents(read_source(write(tmp_path / "b.warc.gz", *reversed(records))))
    assert [document["id"] for document in forward] == [document["id"] for document in reversed(backward)]


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (warc_record(status="404 Not Found"), "http_status"),
        (warc_record(status="301 Moved"), "http_status"),
        (warc_record(http=(("Content-Type", "application/pdf"),)), "content_type"),
        (warc_record(body=b"  \n "), "empty_payload"),
        (warc_record(kind="revisit", body=b"", extra=(("WARC-Refers-To", "<urn:x>"),)), "revisit"),
        (warc_record(body=b"<html><body></body></html>"), "no_text"),
        (warc_record(body=b"<html>" + b"x" * 9_000_000), "page_too_large"),
    ],
)
def test_what_is_not_wanted_is_dropped_with_its_rule(tmp_path: Path, record: bytes, rule: str) -> None:
    outcomes = read_source(write(tmp_path / "a.warc.gz", record))
    assert [(fate["verdict"], fate["rule"]) for fate in fates(outcomes)] == [("dropped", rule)]
    assert len(outcomes) == 1


def test_the_same_payload_twice_names_its_survivor(tmp_path: Path) -> None:
    twice = [warc_record("http://example.org/a"), warc_record("http://example.org/b")]
    outcomes = read_source(write(tmp_path / "a.warc.gz", *twice))
    (kept,) = documents(outcomes)
    (fate,) = fates(outcomes)
    assert (fate["rule"], fate["survivor_id"], fate["url"]) == ("payload_seen", kept["id"], "http://example.org/b")


def test_descriptions_of_other_records_are_no_documents(tmp_path: Path) -> None:
    others = [warc_record(kind=kind, body=b"a: b") for kind in ("warcinfo", "request", "metadata")]
    assert read_source(write(tmp_path / "a.warc.gz", *others)) == []


def test_wet_text_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wet.gz", warc_record(kind="conversion", body="Grüße\r\naus Köln".encode()))
    (document,) = documents(read_source(path, kind="wet"))
    assert document["text"] == "Grüße\naus Köln"


def test_an_arc_file_is_read(tmp_path: Path) -> None:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + html_page()
    head = f"http://example.org/ 192.0.2.1 20080430204826 text/html {len(block)}\n".encode()
    info = b"1 1 Archive\nURL IP-address Archive-date Content-type Archive-length\n"
    first = b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain %d\n" % len(info) + info
    (tmp_path / "a.arc.gz").write_bytes(b"".join(gzip_members([first + b"\n", head + block + b"\n"])))
    (document,) = documents(read_source(tmp_path / "a.arc.gz"))
    assert (document["url"], document["date"]) == ("http://example.org/", "2008-04-30T20:48:26Z")


def test_a_cut_archive_costs_its_last_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.warc.gz", *numbered_records(4))
    path.write_bytes(path.read_bytes()[:-50])
    outcomes = read_source(path)
    assert len(documents(outcomes)) == 3
    (fate,) = fates(outcomes)
    assert (fate["verdict"], fate["rule"]) == ("failed", "truncated_record")
    assert "a.warc.gz bytes" in str(fate["detail"])


def test_damage_in_an_uncompressed_file_is_seen_by_the_digest(tmp_path: Path) -> None:
    digest = (("WARC-Block-Digest", "sha1:" + "A" * 32),)
    (tmp_path / "a.warc").write_bytes(b"".join([warc_record(extra=digest), *numbered_records(2)]))
    outcomes = read_source(tmp_path / "a.warc")
    assert (len(documents(outcomes)), rules(outcomes)) == (2, ["unreadable_record"])


def test_parts_give_the_same_documents_as_the_whole(tmp_path: Path) -> None:
    padding = [
        f"Number {n}. {PROSE * 3}" + "".join(chr(97 + (n * i * 7919) % 26) for i in range(40_000)) for n in range(12)
    ]
    records = [warc_record(f"http://example.org/{n}", html_page(str(n), text)) for n, text in enumerate(padding)]
    path = write(tmp_path / "a.warc.gz", *records)
    path.write_bytes(b"".join(gzip.compress(record, 0, mtime=0) for record in records))
    whole, parts = read_source(path), read_source(path, part_bytes=100_000)
    assert path.stat().st_size > 500_000
    assert whole == parts
    assert len(documents(whole)) == 12


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"<html>", "not a WARC or ARC archive: it is an HTML page"),
        (b"PK\x03\x04 a wacz", "it is a zip archive"),
    ],
)
def test_what_is_no_archive_is_said_in_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.warc.gz").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_source(tmp_path / "a.warc.gz")


def test_a_missing_file_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_source(tmp_path / "none" / "*.warc.gz")


@pytest.mark.parametrize(
    ("name", "total", "kept"),
    [
        ("IAH-urls-wget.warc.gz", 19, 6),
        ("aut-example.arc.gz", 261, 99),
        ("aut-example.warc.gz", 261, 99),
        ("clueweb-quirk.warc.gz", 29, 29),
        ("dolma-sample-0000.warc.gz", 24, 24),
        ("pywb-iana.warc.gz", 171, 16),
        ("warcfile.warc.gz", 16, 14),
        ("whirlwind.warc", 1, 1),
        ("whirlwind.warc.wet.gz", 1, 1),
    ],
)
def test_real_archives_with_their_oddities(name: str, total: int, kept: int) -> None:
    outcomes = read_source(shared_data(f"warc_samples/{name}"), extract=ExtractConfig(extractor="resiliparse"))
    assert (len(outcomes), len(documents(outcomes))) == (total, kept)
    assert not [fate for fate in fates(outcomes) if fate["verdict"] == "failed"]


def test_stored_texts_pass_the_tests_that_need_no_markup(tmp_path: Path) -> None:
    (tmp_path / "blocked.txt").write_text("blocked.example")
    path = tmp_path / "a.warc.wet"
    texts = {"blocked.example": PROSE, "short.example": "Too short", "kept.example": PROSE}
    path.write_bytes(
        b"".join(warc_record(f"http://{host}/", text.encode(), kind="conversion") for host, text in texts.items())
    )
    config = ExtractConfig(blocked_urls=(str(tmp_path / "blocked.txt"),), min_characters=50)
    outcomes = read_source(path, "wet", config)
    assert rules(outcomes) == ["no_text", "url_blocked"]
    assert [document["url"] for document in documents(outcomes)] == ["http://kept.example/"]


def record_of(head: bytes, block: bytes) -> bytes:
    return head.replace(b"LENGTH", str(len(block)).encode()) + block + b"\r\n\r\n"


HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + html_page("Title")


@pytest.mark.parametrize(
    "head",
    [
        b"WARC/1.0\r\nwarc-type: Response\r\nwarc-target-uri: <http://e.org/>\r\ncontent-type: Application/HTTP\r\n"
        b"content-length: LENGTH\r\n\r\n",
        b"WARC/1.1\nWARC-Type: response\nWARC-Target-URI: http://e.org/\nContent-Length:LENGTH\n\n",
        b"WARC/1.0\r\nWARC-Type:\r\n response\r\nWARC-Target-URI: http://e.org/\r\nContent-Length :\r\n\tLENGTH\r\n\r\n",
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://e.org/\r\nContent-Type: text/html\r\n"
        b"Content-Length: LENGTH\r\n\r\n",
    ],
)
@pytest.mark.parametrize(
    "block",
    [
        HTTP,
        HTTP.replace(b"\r\n", b"\n"),
        HTTP.replace(b"Content-Type: text/html", b"CONTENT-TYPE :\r\n  Text/HTML"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + HTTP,
        b"\r\n" + HTTP,
        HTTP.replace(b"HTTP/1.1 200 OK", b"HTTP/2 200"),
    ],
)
def test_header_fields_in_every_form(tmp_path: Path, head: bytes, block: bytes) -> None:
    (tmp_path / "a.warc").write_bytes(record_of(head, block))
    (document,) = documents(read_source(tmp_path / "a.warc"))
    assert (document["url"], document["title"]) == ("http://e.org/", "Title")


@pytest.mark.parametrize("content_type", [b"", b"Content-Type: application/http\r\n"])
def test_the_status_counts_in_every_form(tmp_path: Path, content_type: bytes) -> None:
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://e.org/\r\n" + content_type
    gone = HTTP.replace(b"200 OK", b"404 Gone")
    (tmp_path / "a.warc").write_bytes(record_of(head + b"Content-Length: LENGTH\r\n\r\n", gone))
    assert rules(read_source(tmp_path / "a.warc")) == ["http_status"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('text/html; charset="utf-8"', ("text/html", "utf-8")),
        ("text/html;charset=UTF-8; x", ("text/html", "UTF-8")),
        ("Text/HTML ; Charset = 'windows-1251'", ("text/html", "windows-1251")),
        ("text/html; charset=; charset=koi8-r", ("text/html", "koi8-r")),
        ("text/html; charset=utf-8; charset=latin1", ("text/html", "utf-8")),
        ("text/html charset=utf-8", ("text/html", "utf-8")),
        ("text/plain, text/html; charset=big5", ("text/html", "big5")),
        ("text/html; charset=big5, text/html", ("text/html", "big5")),
        ("text/html, */*", ("text/html", "")),
        ("charset=utf-8", ("", "utf-8")),
        ("", ("", "")),
    ],
)
def test_types_and_charsets_in_odd_forms(value: str, expected: tuple[str, str]) -> None:
    assert media_type([value]) == expected


@pytest.mark.parametrize(
    ("content_type", "body", "kept"),
    [
        ("application/xhtml+xml", html_page(), True),
        ("application/xml", b'<?xml version="1.0"?>\n' + html_page(), True),
        ("text/xml", html_page(), True),
        ("text/xml", b"<rss><channel><title>x</title></channel></rss>", False),
        ("unknown/unknown", html_page(), True),
        ("", html_page(), True),
    ],
)
def test_xhtml_and_pages_without_a_type(tmp_path: Path, content_type: str, body: bytes, kept: bool) -> None:
    path = write(tmp_path / "a.warc.gz", warc_record(body=body, http=(("Content-Type", content_type),)))
    assert rules(read_source(path)) == ([] if kept else ["content_type"])


def with_digest(n: int) -> bytes:
    plain = warc_record(f"http://example.org/{n}", html_page(f"Page {n}", f"{n} {PROSE * 3}"))
    block = plain.partition(b"\r\n\r\n")[2][:-4]
    digest = "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode()
    return warc_record(
        f"http://example.org/{n}", html_page(f"Page {n}", f"{n} {PROSE * 3}"), extra=(("WARC-Block-Digest", digest),)
    )


def test_a_digest_proves_what_a_damaged_member_or_a_wrong_length_left(tmp_path: Path) -> None:
    records = [with_digest(n) for n in range(4)]
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(b"".join([*records, *numbered_records(2)]))[:-3])
    outcomes = read_source(tmp_path / "a.warc.gz")
    assert (len(documents(outcomes)), rules(outcomes)) == (4, ["truncated_record"] * 2)
    wrong = records[1].replace(b"Content-Length: ", b"Content-Length: 9", 1)
    (tmp_path / "b.warc").write_bytes(b"".join([records[0], wrong, records[2]]))
    assert len(documents(read_source(tmp_path / "b.warc"))) == 3


def test_a_page_shorter_than_its_header_says_is_no_page(tmp_path: Path) -> None:
    page = html_page()
    whole = warc_record(body=page, http=(("Content-Type", "text/html"), ("Content-Length", str(len(page)))))
    head, _, rest = whole.partition(b"\r\n\r\n")
    name, _, length = head.rpartition(b": ")
    short = name + b": %d" % (int(length) - 90) + b"\r\n\r\n" + rest
    (tmp_path / "a.warc").write_bytes(short + b"".join(numbered_records(1)))
    outcomes = read_source(tmp_path / "a.warc")
    assert (len(documents(outcomes)), rules(outcomes)) == (1, ["corrupt_record", "unreadable_record"])


def test_one_segment_of_a_record_is_no_page(tmp_path: Path) -> None:
    path = write(tmp_path / "a.warc.gz", warc_record(extra=(("WARC-Segment-Number", "1"),)))
    assert rules(read_source(path)) == ["unreadable_record"]


def test_a_record_without_a_type_has_a_fate(tmp_path: Path) -> None:
    good = warc_record("http://example.org/good")
    (tmp_path / "a.warc").write_bytes(warc_record().replace(b"WARC-Type: response\r\n", b"") + good)
    outcomes = read_source(tmp_path / "a.warc")
    assert [document["url"] for document in documents(outcomes)] == ["http://example.org/good"]
    assert [(fate["rule"], "does not say its type" in str(fate["detail"])) for fate in fates(outcomes)] == [
        ("unreadable_record", True)
    ]


def test_a_conversion_to_html_is_a_page(tmp_path: Path) -> None:
    record = warc_record("http://example.org/paper.pdf", html_page(), kind="conversion")
    picture = warc_record("http://example.org/p", b"\x89PNG\r\n", kind="conversion")
    (tmp_path / "a.warc").write_bytes(
        record.replace(b"Content-Type: text/plain", b"Content-Type: text/html")
        + picture.replace(b"Content-Type: text/plain", b"Content-Type: image/png")
    )
    outcomes = read_source(tmp_path / "a.warc")
    assert ["<" in document["text"] for document in documents(outcomes)] == [False]
    assert rules(outcomes) == ["content_type"]
