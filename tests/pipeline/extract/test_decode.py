"""From bytes to characters: encodings undone within bounds, charsets in their order."""

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.decode import decode
from pipeline.extract.refusal import Refused
from pipeline.extract.unpack import unpack

LIMIT = 100_000
GERMAN = "<p>Grüße aus Köln, schöne Straßen und viele Bäume über dem Fluß, äußerst hübsch</p>"
RUSSIAN = "<p>" + "Река начинается в холмах над городом и течёт двести миль до моря. " * 5 + "</p>"
JAPANESE = "<p>" + "川は町の上の丘から始まり、海に出会うまで流れています。" * 5 + "</p>"

CHINESE = "其他国家和地区的人民生活水平正在不断提高，经济发展也越来越快。" * 3
TAIWANESE = "其他國家和地區的人民生活水平正在不斷提高，經濟發展也越來越快。" * 3
POLISH = "<p>Zażółć gęślą jaźń, „polski” język jest piękny i bardzo trudny…</p>"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("", lambda data: data),
        ("identity", lambda data: data),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("br", brotli.compress),
        ("gzip, br", lambda data: brotli.compress(gzip.compress(data, mtime=0))),
    ],
)
def test_encodings_are_undone(encoding: str, pack) -> None:  # type: ignore[no-untyped-def]
    body = GERMAN.encode()
    assert unpack(pack(body), encoding, "", LIMIT) == body


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, br", "zstd"])
def test_a_header_that_lies_about_an_unpacked_body_is_ignored(encoding: str) -> None:
    assert unpack(GERMAN.encode(), encoding, "chunked", LIMIT) == GERMAN.encode()


def test_chunks_are_joined_where_there_are_chunks() -> None:
    assert unpack(b"4\r\n<p>a\r\n3;x=y\r\nbcd\r\n0\r\n\r\n", "", "chunked", LIMIT) == b"<p>abcd"


@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        ("gzip", gzip.compress(b"0" * 5_000_000, mtime=0)),
        ("deflate", zlib.compress(b"0" * 5_000_000)),
        ("br", brotli.compress(b"0" * 5_000_000)),
        ("gzip, gzip", gzip.compress(gzip.compress(b"0" * 5_000_000, mtime=0), mtime=0)),
    ],
)
def test_bombs_are_dropped(encoding: str, bomb: bytes) -> None:
    with pytest.raises(Refused) as caught:
        unpack(bomb, encoding, "", LIMIT)
    assert (caught.value.verdict, caught.value.rule) == ("dropped", "decompression_bomb")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(GERMAN.encode(), mtime=0)[:-20]),
        ("gzip", gzip.compress(GERMAN.encode(), mtime=0)[:30] + b"\xff" * 30),
        ("br", b"\x00\x01\x02\x03nothing"),
        ("gzip," * 9, gzip.compress(b"x", mtime=0)),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x01"),
    ],
)
def test_damaged_bodies_fail(encoding: str, body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        unpack(body, encoding, "", LIMIT)
    assert (caught.value.verdict, caught.value.rule) == ("failed", "content_encoding")


@pytest.mark.parametrize(
    ("body", "header", "charset", "evidence"),
    [
        (b"\xef\xbb\xbf" + GERMAN.encode(), "iso-8859-1", "utf-8", "bom"),
        (b"\xff\xfe" + GERMAN.encode("utf-16-le"), "", "utf-16le", "bom"),
        (GERMAN.encode("iso-8859-1"), "ISO-8859-1", "windows-1252", "header"),
        (RUSSIAN.encode("koi8-r"), "koi8-r", "koi8-r", "header"),
        (JAPANESE.encode("shift_jis"), "Shift_JIS", "shift_jis", "header"),
        (b'<meta charset="windows-1251">' + RUSSIAN.encode("cp1251"), "", "windows-1251", "meta"),
        (b"<meta http-equiv=c content='text/html; charset=euc-jp'>" + JAPANESE.encode("euc-jp"), "", "euc-jp", "meta"),
        (GERMAN.encode(), "", "utf-8", "utf-8"),
        (RUSSIAN.encode(), "windows-1251", "utf-8", "utf-8"),
        (b"plain ascii", "", "utf-8", "utf-8"),
        (JAPANESE.encode("euc-jp"), "", "euc-jp", "detected"),
        (RUSSIAN.encode("cp1251"), "utf-8", "windows-1251", "detected"),
        # a server that says Latin-1 of everything, against the page and its bytes
        (b'<meta charset="windows-1251">' + RUSSIAN.encode("cp1251"), "iso-8859-1", "windows-1251", "meta"),
        (b"<meta charset=gbk>" + CHINESE.encode("gbk"), "iso-8859-1", "gbk", "meta"),
        (b"<meta charset=iso-8859-15>" + GERMAN.encode("iso-8859-15"), "iso-8859-1", "windows-1252", "header"),
        # Big5 under the other China's label: what it would be in it, nobody has written
        (b"<meta charset=gb2312>" + TAIWANESE.encode("big5"), "", "big5", "detected"),
        (b"<meta charset=iso-8859-2>" + POLISH.encode("cp1250"), "", "windows-1250", "meta"),
        (b"<meta charset=iso-8859-2>" + POLISH.encode("iso-8859-2", "ignore"), "", "iso-8859-2", "meta"),
        (b'<meta charset="ISO 8859-2">' + POLISH.encode("iso-8859-2", "ignore"), "", "iso-8859-2", "meta"),
    ],
)
def test_the_charset_is_found_in_order(body: bytes, header: str, charset: str, evidence: str) -> None:
    decoded = decode(body, header)
    assert (decoded.charset, decoded.evidence) == (charset, evidence)
    assert "�" not in decoded.text


def test_header_comes_before_meta() -> None:
    body = b'<meta charset="iso-8859-1">' + RUSSIAN.encode("cp1251")
    assert decode(body, "windows-1251").charset == "windows-1251"


def test_a_short_text_with_a_broken_byte_stays_utf_8() -> None:
    """The zero of Java's UTF-8, in one sentence: a hundred sequences do not come about by chance."""
    body = b"a \xc0\x80 z" + CHINESE.encode()
    assert decode(body).charset == "utf-8" and CHINESE in decode(body).text


def test_a_few_broken_bytes_do_not_change_the_charset() -> None:
    decoded = decode((GERMAN * 50).encode()[:500] + b"\xff" + (GERMAN * 50).encode(), "utf-8")
    assert decoded.charset == "utf-8"
    assert decoded.text.count("�") <= 2


@given(
    st.binary(max_size=300), st.sampled_from(["", "utf-8", "gb2312", "nonsense", "utf-16", "x-user-defined", "\x00"])
)
def test_decoding_never_fails(body: bytes, header: str) -> None:
    assert isinstance(decode(body, header).text, str)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "br", "gzip, br", "deflate, gzip"]), st.booleans())
def test_unpacking_gives_bytes_or_a_reason(body: bytes, encoding: str, chunked: bool) -> None:
    try:
        size, rule = len(unpack(body, encoding, "chunked" if chunked else "", LIMIT)), ""
    except Refused as refused:
        size, rule = 0, refused.rule
    assert size <= LIMIT
    assert rule in ("", "content_encoding", "decompression_bomb", "page_too_large")
