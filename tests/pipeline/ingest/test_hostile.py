"""Hostile values in every field of every kind of source: each costs its record at most, and what remains can be stored.

A hostile record stands between two good ones. Both good ones are documents afterwards, the hostile one is a document or has
a fate, and all can be written and read again.
"""

import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipeline.document import document_writer
from pipeline.ledger import ledger_writer
from pipeline.sources import hugging_face
from pipeline.sources.contract import Outcome, is_fate
from tests.pipeline.sources.archives import PROSE, gzip_members, html_page, read_source, warc_record

MAPPED = {f"{name}_column": name for name in ("id", "url", "title", "author", "date", "license")}
COLUMNS = ("text", *(name.removesuffix("_column") for name in MAPPED))
GOOD = ("The first good one. " + PROSE, "The second good one. " + PROSE)

characters = st.characters(codec=None)  # lone surrogates too
texts = st.one_of(
    st.text(characters, max_size=40),
    st.sampled_from(
        ["\ud83d", "a\udfff\ud800b", "\0", "\ufeff\ufffe\uffff", "x" * 20_000, "\u202e\u2028\x85", "//[", "http://[::1"]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
raw = st.one_of(st.binary(max_size=60), texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
HEADS = (
    b"", b"\x1f\x8b\x08\0", b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18\x04\0\0\0",
    b"PK\x03\x04", b"PK\x05\x06", b"PAR1", b"WARC/1.0\r\n", b"<mediawiki>", b"\xff\xfe", b"[\n", b"{}\n",
)  # fmt: skip
hostile = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def check(outcomes: list[Outcome], folder: Path, least: int = 3) -> None:
    kept = [outcome for outcome in outcomes if not is_fate(outcome)]
    fates = [outcome for outcome in outcomes if is_fate(outcome)]
    for good in GOOD:
        assert any(good[:19] in document["text"] for document in kept), "a good record is lost"
    assert len(outcomes) >= least, "a record has no fate"
    with document_writer(folder / "d.parquet") as documents, ledger_writer(folder / "l.parquet") as ledger:
        for document in kept:
            documents.write(document)
        for fate in fates:
            ledger.write(fate)
    assert pq.read_table(folder / "d.parquet").num_rows == len(kept)
    for rows in (pq.read_table(folder / name).to_pylist() for name in ("d.parquet", "l.parquet")):
        json.dumps(rows, default=repr).encode()
    assert all(document["text"].strip() for document in kept)


def read(write: Callable[[Path], Any], name: str, kind: str, **options: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        check(read_source(path, kind, **options), Path(folder))


@hostile
@given(st.dictionaries(st.sampled_from(COLUMNS), values), st.booleans())
def test_json_lines(row: dict[str, Any], ascii_only: bool) -> None:
    lines = [json.dumps({"text": GOOD[0]}), json.dumps(row, ensure_ascii=ascii_only), json.dumps({"text": GOOD[1]})]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    read(lambda path: path.write_bytes(data), "a.jsonl", "jsonl", **MAPPED)


@hostile
@given(raw)
@example(b"\xbb")  # a byte of a byte-order mark
@example(b"\x0b")  # no white space of JSON's
def test_json_lines_of_any_bytes(line: bytes) -> None:
    good = [json.dumps({"text": text}).encode() for text in GOOD]
    data = b"\n".join([good[0], line.replace(b"\n", b" ") or b"-", good[1]])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(data)
        check(read_source(path, "jsonl"), path.parent, least=2 + bool(line.strip()))


def hostile_table(draw: st.DrawFn) -> pa.Table:
    """Each column of a type of its own; the text is a string of any bytes."""

    def strings(cells: list[bytes | None]) -> pa.Array:
        packed = pa.array(cells, pa.binary())
        return pa.Array.from_buffers(pa.string(), len(cells), packed.buffers(), packed.null_count)

    kinds = {
        pa.binary(): raw,
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.float64(): st.floats(),
        pa.list_(pa.float64()): st.lists(st.floats(), max_size=2),
        pa.struct([("a", pa.binary())]): st.fixed_dictionaries({"a": st.one_of(st.none(), raw)}),
        pa.timestamp("us"): st.integers(-(2**62), 2**62),
        pa.time64("us"): st.integers(0, 86_399_999_999),
        pa.null(): st.none(),
    }
    cells = [draw(raw), draw(raw), draw(raw)]
    columns = {"text": strings([GOOD[0].encode(), draw(st.one_of(st.none(), raw)), GOOD[1].encode()])}
    for name in COLUMNS[1:]:
        kind = draw(st.sampled_from([*kinds, None]))
        if kind is None:
            columns[name] = strings(cells)
        else:
            value = st.one_of(st.none(), kinds[kind])
            columns[name] = pa.array([draw(value) for _ in range(3)], kind)
    return pa.table(columns)


@hostile
@given(st.composite(hostile_table)())
def test_parquet(table: pa.Table) -> None:
    read(lambda path: pq.write_table(table, path), "a.parquet", "parquet", **MAPPED)


@pytest.mark.parametrize("by_library", [False, True])
def test_hugging_face(by_library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_library:
        monkeypatch.setattr(hugging_face, "format_of", lambda files: "")

    @settings(hostile, max_examples=5)
    @given(st.composite(hostile_table)())
    def run(table: pa.Table) -> None:
        def write(path: Path) -> None:
            path.mkdir()
            pq.write_table(table, path / "train.parquet")

        read(write, "folder", "hugging_face", **MAPPED)

    run()


def crawl(url: bytes, date: bytes, record: bytes, http: bytes, body: bytes, kind: str) -> bytes:
    made = warc_record("URL", body, kind=kind, http=[("X-Y", "HTTP")])
    for old, new in ((b"URL", url), (b"2024-05-06T07:08:09Z", date), (b"X-Y: HTTP", http)):
        made = made.replace(old, new.replace(b"\r", b"").replace(b"\n", b""), 1)
    made = made.replace(b"<urn:test:" + kind.encode() + b":URL>", record.replace(b"\r", b"").replace(b"\n", b""), 1)
    head, _, block = made.partition(b"\r\n\r\n")
    return head.rpartition(b"\r\n")[0] + b"\r\nContent-Length: %d\r\n\r\n" % (len(block) - 4) + block


@pytest.mark.parametrize("kind", ["response", "resource", "conversion", "revisit"])
@pytest.mark.parametrize("packed", [True, False])
def test_crawls(kind: str, packed: bool) -> None:
    @settings(hostile, max_examples=10)
    @given(raw, raw, raw, st.one_of(raw, raw.map(lambda value: b"Content-Type: text/html; charset=" + value)), raw)
    def run(url: bytes, date: bytes, record: bytes, http: bytes, body: bytes) -> None:
        records = [
            warc_record("http://e.org/1", html_page("One", GOOD[0])),
            crawl(url, date, record, http, body, kind),
            warc_record("http://e.org/2", html_page("Two", GOOD[1])),
        ]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.warc.gz"
            path.write_bytes(b"".join(gzip_members(records) if packed else records))
            check(read_source(path, "warc"), path.parent, least=2)  # a response of another protocol is passed over

    run()


@hostile
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=60), min_size=6, max_size=6))
def test_wikipedia(fields: list[str]) -> None:
    def page(title: str, number: str, revision: str, stamp: str, text: str, namespace: str = "0") -> str:
        return (
            f"<page><title>{escape(title)}</title><ns>{escape(namespace)}</ns><id>{escape(number)}</id><revision>"
            f"<id>{escape(revision)}</id><timestamp>{escape(stamp)}</timestamp><text>{escape(text)}</text></revision></page>"
        )

    pages = [page("One", "1", "1", "2024", GOOD[0]), page(*fields), page("Two", "3", "1", "2024", GOOD[1])]
    data = "<mediawiki>" + "".join(pages).replace("\ufffe", "").replace("\uffff", "") + "</mediawiki>"
    read(lambda path: path.write_text(data), "a.xml", "wikipedia")


def member_name(text: str) -> str:
    """A name that a file system or archive can hold."""
    return (
        "r/"
        + (text.encode("utf-8", "replace").decode()[:40].replace("\0", "").replace("/", "").strip(".") or "x")
        + ".py"
    )


@pytest.mark.parametrize("form", ["tar", "zip", "folder"])
def test_code(form: str) -> None:
    @settings(hostile, max_examples=20)
    @given(texts, st.binary(max_size=3), raw)
    def run(name: str, odd: bytes, content: bytes) -> None:
        further = odd.replace(b"\0", b"").replace(b"/", b"").decode("utf-8", "surrogateescape")
        odd_name = member_name(name).removesuffix(".py") + further
        files = {"r/1.py": f"# {GOOD[0]}\n".encode(), odd_name + ".py": content, "r/2.py": f"# {GOOD[1]}\n".encode()}

        def write(path: Path) -> None:
            if form == "folder":
                for entry, data in files.items():
                    (path / "r").mkdir(parents=True, exist_ok=True)
                    (path / entry).write_bytes(data)
            elif form == "zip":
                with zipfile.ZipFile(path, "w") as archive:
                    for entry, data in files.items():
                        archive.writestr(entry.encode("utf-8", "replace").decode(), data)
            else:
                with tarfile.open(path, "w:gz") as archive:
                    for entry, data in files.items():
                        info = tarfile.TarInfo(entry)
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))

        with TemporaryDirectory() as folder:
            path = Path(folder) / "a"
            try:
                write(path)
            except (OSError, UnicodeError):
                return  # nobody can have such a file
            outcomes = read_source(path, "code")
            for outcome in outcomes:
                if not is_fate(outcome):
                    outcome["text"] = outcome["text"].removeprefix("# ")
            check(outcomes, path.parent)

    run()


def test_git(tmp_path: Path) -> None:
    """Names and contents of any bytes, in one repository."""

    def git(*arguments: str, data: bytes | None = None) -> bytes:
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@e.org",
            "-c",
            "safe.directory=*",
        ]
        return subprocess.run([*command, *arguments], input=data, capture_output=True, check=True).stdout

    git("init", "--quiet")
    odd = [b"\xff\xfe", b"\0" * 9, b"\xe9t\xe9", "x = '\ud800'".encode("utf-8", "surrogatepass")]
    contents = [f"{text}\n".encode() for text in GOOD] + odd
    names = [b"1.py", b"2.py", b"\xff.py", b"a\nb.py", b"\xed\xa0\x80.py", b"'\".py"]
    tree = b"".join(
        b"100644 blob %s\t%s\0" % (git("hash-object", "-w", "--stdin", data=data).strip(), name)
        for name, data in zip(names, contents, strict=True)
    )
    commit = git("commit-tree", git("mktree", "-z", data=tree).decode().strip(), "-m", "x").decode().strip()
    outcomes = read_source(tmp_path, "git", revision=commit)
    check(outcomes, tmp_path, least=len(names))
    assert {str(outcome["url"]).rpartition("/")[2] for outcome in outcomes} >= {"\\xff.py", "\\xed\\xa0\\x80.py"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "warc", "wet", "wikipedia", "code"])
def test_any_bytes_are_read_or_refused_in_a_sentence(kind: str) -> None:
    @settings(hostile, max_examples=40)
    @given(st.sampled_from(HEADS), st.binary(max_size=200))
    def run(head: bytes, rest: bytes) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a"
            path.write_bytes(head + rest)
            with suppress(InputError):
                read_source(path, kind)

    run()
