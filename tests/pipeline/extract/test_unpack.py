"""Encodings as servers and crawlers really combine them."""

import gzip
import zlib

import brotli
import pytest
from backports import zstd

from pipeline.extract.refusal import Refused
from pipeline.extract.unpack import unpack

PAGE = b"<html><p>" + "Grüße aus der Mühle. ".encode() * 50 + b"</p></html>"
LIMIT = 100_000


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def chunked(data: bytes) -> bytes:
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "transfer", "body"),
    [
        ("gzip", "", gzip.compress(PAGE, mtime=0)),
        ("GZIP", "", gzip.compress(PAGE, mtime=0)),
        ("deflate", "", zlib.compress(PAGE)),
        ("deflate", "", raw_deflate(PAGE)),
        ("br", "", brotli.compress(PAGE)),
        ("zstd", "", zstd.compress(PAGE)),
        ("", "gzip, chunked", chunked(gzip.compress(PAGE, mtime=0))),
        ("", "gzip,chunked", gzip.compress(PAGE, mtime=0)),
        ("br", "chunked", chunked(brotli.compress(PAGE))),
        ("gzip, br", "", brotli.compress(gzip.compress(PAGE, mtime=0))),
        ("chunked", "", chunked(PAGE)),
        ("zstd", "chunked", PAGE),
        ("", "", gzip.compress(PAGE, mtime=0)),
        ("identity", "", zstd.compress(PAGE)),
        ("gzip", "", gzip.compress(PAGE[:300], mtime=0) + gzip.compress(PAGE[300:], mtime=0)),
        ("zstd", "", zstd.compress(PAGE[:300]) + zstd.compress(PAGE[300:])),
        ("gzip", "", gzip.compress(PAGE, mtime=0) + b"\r\n"),
        ("", "", chunked(PAGE)),
        ("gzip", "", chunked(gzip.compress(PAGE, mtime=0))),
        ("", "", chunked(PAGE)[:-2] + b"X-Trailer: 1\r\n\r\n"),
        ("", "chunked", b"\r\n" + chunked(PAGE)),
        ("gzip", "chunked", gzip.compress(chunked(PAGE), mtime=0)),
        ("deflate", "", gzip.compress(PAGE, mtime=0)),
        ("br", "", gzip.compress(PAGE, mtime=0)),
        ("br", "", zstd.compress(PAGE)),
        ("gzip;q=1.0", "", gzip.compress(PAGE, mtime=0)),
        ('"gzip"', "", gzip.compress(PAGE, mtime=0)),
    ],
)
def test_what_the_bytes_show_is_undone(content: str, transfer: str, body: bytes) -> None:
    assert unpack(body, content, transfer, LIMIT) == PAGE


@pytest.mark.parametrize(
    ("content", "body", "rule"),
    [
        ("zstd", zstd.compress(PAGE)[:-4], "content_encoding"),
        ("gzip", gzip.compress(PAGE, mtime=0)[:-4], "content_encoding"),
        ("compress", b"\x1f\x9d\x90\x01\x02", "content_encoding"),
        ("zstd", zstd.compress(b"x" * 10 * LIMIT), "decompression_bomb"),
        ("gzip", gzip.compress(b"x" * LIMIT, mtime=0) * 5, "decompression_bomb"),
    ],
)
def test_what_cannot_be_undone_says_why(content: str, body: bytes, rule: str) -> None:
    with pytest.raises(Refused) as refused:
        unpack(body, content, "", LIMIT)
    assert refused.value.rule == rule


def spread(data: bytes) -> bytes:
    """Chunks with an empty line behind each."""
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
    return b"".join(b"%x\r\n%s\r\n\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("body", [spread(PAGE) + b"0\r\n\r\n", spread(PAGE), spread(PAGE) + b"1f"])
def test_empty_lines_between_chunks_and_a_cut_transfer_lose_nothing(body: bytes) -> None:
    assert unpack(body, "", "chunked", LIMIT) == PAGE


def test_chunks_that_do_not_go_on_are_damage_and_no_text() -> None:
    with pytest.raises(Refused) as refused:
        unpack(chunked(PAGE).replace(b"64\r\n", b"6x\r\n").replace(b"6x", b"64", 1), "", "chunked", LIMIT)
    assert refused.value.rule == "content_encoding" and "no chunk begins" in refused.value.detail
    numbers = b"".join(b"%d\r\n" % number for number in range(1, 40))
    assert unpack(numbers, "", "chunked", LIMIT) == numbers


@pytest.mark.parametrize(
    "text", [b"3\nabc\n0\n", b"10\r\nbottles\r\n0\r\n", b"2\r\n1\r\n0\r\n\r\n", b"cafe\r\nmenu\r\n0\r\n\r\n"]
)
def test_numbers_are_no_chunks(text: bytes) -> None:
    assert unpack(text, "", "", LIMIT) == text
