"""Every script of ``examples/`` runs, on data small enough to say what must come out."""

import gzip
import json
import random
import runpy
import sys
from pathlib import Path

import datasets
import fasttext
import pandas as pd
import pytest

import headwater
from tests.pipeline.classifier.language import LINES
from tests.pipeline.sources.archives import warc_record
from tests.support import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOUNS = [
    "mill",
    "river",
    "town",
    "bread",
    "wheel",
    "summer",
    "stone",
    "garden",
    "winter",
    "road",
    "bridge",
    "market",
    "horse",
    "letter",
    "window",
    "field",
]
VERBS = [
    "stands",
    "carries",
    "brings",
    "follows",
    "leaves",
    "crosses",
    "remembers",
    "waits",
    "reaches",
    "turns",
    "covers",
    "keeps",
    "opens",
    "hides",
]
MORE = [
    "slowly",
    "early",
    "often",
    "quietly",
    "again",
    "together",
    "elsewhere",
    "alone",
    "yesterday",
    "nearby",
    "outside",
    "gladly",
    "seldom",
    "twice",
]


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> None:
    """As ``python examples/NAME WORDS``, in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def prose(seed: int, sentences: int = 40) -> str:
    """Prose that passes the rules for web pages: sentences of English with hardly a phrase twice."""
    rng = random.Random(seed)
    said = [
        f"The {rng.choice(NOUNS)} of number {rng.randrange(10**4)} {rng.choice(VERBS)} to the {rng.choice(NOUNS)} and "
        f"{rng.choice(VERBS)} {rng.choice(MORE)}, with a {rng.choice(NOUNS)} that {rng.choice(VERBS)} {rng.choice(MORE)}."
        for _ in range(sentences)
    ]
    return " ".join(said)


def page(text: str) -> bytes:
    sentences = text.split(". ")
    paragraphs = (". ".join(sentences[first : first + 5]) for first in range(0, len(sentences), 5))
    body = "".join(f"<p>{paragraph}.</p>" for paragraph in paragraphs)
    return f"<html><body><article>{body}</article></body></html>".encode()


def write_rows(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_dedup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    texts = [prose(1), prose(2), prose(1), prose(3)]
    write_rows(tmp_path / "rows.jsonl", texts)
    run_script(monkeypatch, "dedup.py", tmp_path / "rows.jsonl", tmp_path / "unique.parquet")
    assert pd.read_parquet(tmp_path / "unique.parquet")["text"].tolist() == [texts[0], texts[1], texts[3]]
    printed = capsys.readouterr().out
    assert "4 rows, 3 stay" in printed
    assert "exact_duplicate" in printed


def test_jsonl_to_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows, home = tmp_path / "my rows.jsonl", tmp_path / "work"
    write_rows(rows, [prose(seed) for seed in range(30)] + [prose(0)])
    fields = ["tokenizer.vocab_size=500", "shards.seq_len=128", "execution.workers=1"]
    run_script(monkeypatch, "jsonl_to_shards.py", rows, home, *fields)
    store = headwater.open_store(home)
    assert store["dedup@jsonl-to-shards"].counts["dropped"] == {"exact_duplicate": 1}
    assert store["shards"].torch()[0]["input_ids"].shape == (129,)
    assert "comes from my rows.jsonl, byte" in capsys.readouterr().out


def test_fineweb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        prose(1),
        prose(2),
        prose(2).replace("number", "the number", 1),
        "The people of the town and the river.",
        prose(3) + " Mail a.b@mill.org.",
    ]
    records = [warc_record(f"http://mill.org/{n}", page(text)) for n, text in enumerate(texts)]
    (tmp_path / "crawl.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    lines, model = tmp_path / "languages.txt", tmp_path / "languages.bin"
    lines.write_text(LINES * 50)
    fasttext.train_supervised(str(lines), dim=4, bucket=100, epoch=25, thread=1, verbose=0).save_model(str(model))
    fields = [
        f'ingest.sources=[{{name: web, kind: warc, address: "{tmp_path}/crawl.warc.gz"}}]',
        f"attributes.language.model={model}",
        "execution.workers=1",
    ]
    run_script(monkeypatch, "fineweb.py", tmp_path / "work", *fields)
    store = headwater.open_store(tmp_path / "work")
    assert store["quality"].counts["dropped"] == {"gopher_words_min": 1}
    assert store["dedup"].counts["dropped"] == {"near_duplicate": 1}
    masked = [batch.to_pylist() for batch in store["redact"].batches(["text"])]
    assert not any("a.b@mill.org" in row["text"] for rows in masked for row in rows)
    assert "1 near_duplicate" in capsys.readouterr().out
