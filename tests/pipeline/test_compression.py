"""Any file is opened by its first bytes, and nothing altered or unproven gets out of it."""

import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipeline import compression
from pipeline.compression import Damaged, Lost, Overlong, TextLine, foreign_format, lines, pieces, read_lines, unpacked

NOISE = random.Random(3)
ROWS = [b'{"text": "line %d %d"}\n' % (n, NOISE.getrandbits(64)) for n in range(800)]
DATA = b"".join(ROWS)
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"


def zstd_checked(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0), "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd_checked,
}  # fmt: skip
PACKED = pytest.mark.parametrize("name", PACKERS)


def found(data: bytes, salvage: bool = False) -> list[TextLine | Overlong | Lost]:
    return list(lines(io.BytesIO(data), 1 << 20, salvage=salvage))


def test_a_plain_file_is_itself() -> None:
    raw = io.BytesIO(DATA)
    assert unpacked(raw) is raw
    assert [line.data for line in found(DATA) if isinstance(line, TextLine)] == ROWS


@PACKED
@pytest.mark.parametrize("held", [0, 1 << 20])
def test_members_are_read_whole_in_order(name: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "HELD_BYTES", held)
    pack = PACKERS[name]
    for data in (pack(DATA), pack(DATA[:9_000]) + pack(DATA[9_000:]), pack(DATA) + b"\0" * 512):
        assert b"".join(piece for piece in pieces(io.BytesIO(data)) if isinstance(piece, bytes)) == DATA
        assert all(DATA[line.offset :].startswith(line.data) for line in found(data) if isinstance(line, TextLine))
        assert unpacked(io.BytesIO(data)).read() == DATA


@PACKED
def test_no_flipped_bit_gives_an_altered_line(name: str) -> None:
    good = set(ROWS)
    data = PACKERS[name](DATA)
    chance = random.Random(11)
    for _ in range(60):
        at = chance.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        if compression.codec_of(io.BytesIO(flipped)) is None:
            continue  # the first bytes: it is not compressed any more
        outcome = found(bytes(flipped))
        assert all(line.data in good for line in outcome if isinstance(line, TextLine))
        assert any(isinstance(line, Lost) for line in outcome) or len(outcome) == len(ROWS)


@PACKED
def test_a_damaged_member_costs_itself(name: str) -> None:
    first, second, third = (PACKERS[name](DATA[start : start + 12_000]) for start in (0, 12_000, 24_000))
    broken = bytearray(second)
    broken[len(broken) // 2] ^= 0x10
    outcome = found(first + bytes(broken) + third)
    (lost,) = [line for line in outcome if isinstance(line, Lost)]
    assert (lost.start, lost.end) == (len(first), len(first) + len(second))
    kept = [line for line in outcome if isinstance(line, TextLine)]
    after = kept[[line.resumed for line in kept].index(True)]
    assert DATA[24_000:].startswith(after.data), "the rest of a line whose beginning was lost is marked"
    assert {line.data for line in kept if line is not after} < set(ROWS)


def test_a_cut_bzip2_file_gives_its_whole_blocks() -> None:
    """Each block has a checksum of its own: what was inflated before the cut is proven."""
    rng = random.Random(7)
    data = bytes(rng.randrange(256) for _ in range(350_000))
    packed = bz2.compress(data, 1)
    cut = packed[: len(packed) * 2 // 3]
    *given_pieces, lost = pieces(io.BytesIO(cut))
    assert isinstance(lost, Lost)
    given = b"".join(piece for piece in given_pieces if isinstance(piece, bytes))
    assert 190_000 < len(given) < 210_000
    assert data.startswith(given)
    assert lost.end == len(cut)
    assert 0 < lost.end - lost.start < 110_000, "the block that is cut, and no more"


@pytest.mark.parametrize("name", [name for name in PACKERS if name != "bzip2"])
def test_a_cut_member_gives_nothing_unless_asked_to(name: str) -> None:
    whole, cut = PACKERS[name](DATA[:12_000]), PACKERS[name](DATA[12_000:])[:-9]
    outcome = found(whole + cut)
    assert outcome[-1] == Lost(len(whole), len(whole) + len(cut), f"the {name} data ends early")
    kept = b"".join(line.data for line in outcome if isinstance(line, TextLine))
    assert kept == DATA[: DATA.rfind(b"\n", 0, 12_000) + 1]
    if name == "gzip":  # the others hold a whole block back
        assert len(found(whole + cut, salvage=True)) > len(outcome)
    with pytest.raises(Damaged, match="ends early"):
        unpacked(io.BytesIO(whole + cut)).read()


def test_what_follows_the_last_member_is_said() -> None:
    assert found(gzip.compress(DATA) + b"rubbish" * 9)[-1].why == "what follows the gzip data is none"


def test_zstd_skips_frames_without_content_and_knows_a_dictionary() -> None:
    dictionary = zstd.train_dict([row * 3 for row in ROWS], 4096)
    frames = [zstd.compress(row, zstd_dict=dictionary) for row in ROWS[:20]]
    for content in (dictionary.dict_content, zstd.compress(dictionary.dict_content)):
        head = compression.DICTIONARY_FRAME + len(content).to_bytes(4, "little") + content
        assert found(head + b"".join(frames)) == found(b"".join(ROWS[:20]))
    assert found(SKIPPABLE + zstd_checked(DATA) + SKIPPABLE) == found(DATA)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40)), st.integers(1, 9), st.integers(5, 30))
def test_lines_are_those_of_the_bytes_however_they_come(parts: list[bytes], step: int, longest: int) -> None:
    data = b"\n".join(parts)
    step_by_step = io.BytesIO(data)
    step_by_step.read = lambda size=-1, read=step_by_step.read: read(step if size > 10 else size)  # type: ignore[method-assign]
    outcome = list(lines(step_by_step, longest))
    expected = [(line, len(line) > longest) for line in io.BytesIO(data)]
    if compression.codec_of(io.BytesIO(data)) or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return
    offset = 0
    for line, (whole, overlong) in zip(outcome, expected, strict=True):
        assert line == (Overlong(offset, len(whole)) if overlong else TextLine(offset, whole))
        offset += len(whole)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_marked_unicode_is_read(codec: str) -> None:
    text = '{"text": "Grüße 𝄞"}\n{"text": "zwei"}\n'
    outcome = [json.loads(line.data)["text"] for line in found(text.encode(codec)) if isinstance(line, TextLine)]
    assert outcome == ["Grüße 𝄞", "zwei"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [(zstd_checked(b"x"), "compressed with zstd"), (b"PK\x03\x04", "a zip archive"), (b"PAR1", "a Parquet file"),
     (b"\0" * 257 + b"ustar\0", "a tar archive"), (b"\n <!doctype html>", "an HTML page"), (b"\xff\xfe{\0", "UTF-16 text"),
     (b'{"text": 1}', "")],
)  # fmt: skip
def test_what_a_file_is_instead(head: bytes, kind: str) -> None:
    assert foreign_format(head) == kind


def test_a_damaged_file_of_the_users_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(DATA)[:-30])
    with pytest.raises(InputError, match="the file is damaged: the gzip data ends early"):
        list(read_lines(str(tmp_path / "a.jsonl")))
