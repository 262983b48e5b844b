"""Small made-up corpora for the tokenizer and the shards: real words, code and odd characters, from a fixed seed."""

import random
from pathlib import Path

from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.document import Document, document_id, document_writer
from tests.support import adopt_dataset

WORDS = """
    the river runs from its spring to the sea and carries what it finds along the way water stone light morning
    people write about towns mills bridges weather history science music language numbers machines engines data
    when where because although never always often small large early late good clear deep cold warm naïve café über
""".split()  # noqa: SIM905
ODD = (
    "日本語のテキスト",
    "Привет, мир",
    "👩‍👩‍👧‍👦 emoji 🎉",
    "tab\there",
    "  two  spaces ",
    "\r\nCRLF\r\n",
    "x\u2581y",
    "<|user|>",
    "\u2028",
)


def prose(rng: random.Random, words: int) -> str:
    sentences, left = [], words
    while left > 0:
        length = min(left, rng.randint(4, 14))
        sentence = " ".join(rng.choice(WORDS) for _ in range(length))
        sentences.append(sentence.capitalize() + rng.choice(".!?"))
        left -= length
    text = " ".join(sentences)
    return text + ("\n\n" + rng.choice(ODD) if rng.random() < 0.2 else "")


def code(rng: random.Random, functions: int) -> str:
    return "\n\n".join(
        f"def {rng.choice(WORDS[:40])}_{number}(value, count={rng.randint(0, 999)}):\n"
        f"    for index in range(count):\n        value += index * {rng.randint(1, 99)}\n    return value\n"
        for number in range(functions)
    )


def document(source: str, number: int, text: str) -> Document:
    url = f"https://{source}.example/{number}"
    return {
        "id": document_id(source, url, str(number), "digest"),
        "text": text,
        "source": source,
        "url": url,
        "quality": 0.5,
        "origin": {
            "archive": f"{source}.warc.gz",
            "offset": 1000 * number,
            "length": 900,
            "record_id": str(number),
            "digest": "digest",
        },
    }


def corpus_documents(sizes: dict[str, int], seed: int = 0) -> list[Document]:
    """``sizes`` documents of each source; the source ``code`` holds code, every other prose."""
    rng = random.Random(seed)
    found = []
    for source, size in sizes.items():
        for number in range(size):
            text = code(rng, rng.randint(1, 8)) if source == "code" else prose(rng, rng.randint(5, 300))
            found.append(document(source, number, text))
    return found


def publish_documents(folder: Path, documents: list[Document], name: str = "redact", files: int = 2) -> Dataset:
    """A dataset as the document stages write it, each source's documents spread over ``files`` files."""
    outputs = []
    for source in dict.fromkeys(document["source"] for document in documents):
        mine = [document for document in documents if document["source"] == source]
        for index in range(files):
            path = f"data/{source}/{index:04d}.parquet"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with document_writer(folder / path) as writer:
                for entry in mine[index::files]:
                    writer.write(entry)
            outputs.append(describe_file(folder, path))
    count = len(documents)
    return adopt_dataset(folder, name, outputs, Counts(incoming=count, kept=count))
