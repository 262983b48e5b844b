"""A corpus with planted truth, made from real text by seed.

| kind | what | duplicates? |
|---|---|---|
| original | a passage of a book or a web page | no |
| exact | an original with other white space | yes |
| near | an original with words replaced until the pair has a known Jaccard similarity | if it reaches the threshold |
| template | one of twenty templates around content of its own: similar to hundreds, equal to none | no |
| chain | A, B, C, D: each a duplicate of the next, but not of the one after it | neighbours only |
| translated | an original word by word in an invented language | no |
| reordered | an original with its sentences shuffled | by its shingles |
| giant | hundreds of copies of one passage, half exact, half with a word changed | yes |

Whether a pair is a duplicate is always decided by its true similarity (``similarity``), computed from the texts'
sets of shingles, never by the system under test.
"""

import gzip
import itertools
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.document import Document, document_id, documents_table
from pipeline.words import normalised_words
from tests.support import REPOSITORY, adopt_dataset

NGRAM = 5
LEVELS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
SHARES = (
    ("exact", 0.10),
    ("near", 0.24),
    ("template", 0.10),
    ("chain", 0.04),
    ("translated", 0.01),
    ("reordered", 0.01),
)
GIANT_SHARE = 0.02
OTHER_LANGUAGE = 9999


@dataclass(frozen=True)
class Planted:
    """One document and what is known of it."""

    name: str
    kind: str
    text: str
    of: str = ""
    """The document it was made from."""


def passages(rng: random.Random, number: int, words: tuple[int, int] = (80, 500)) -> Iterator[str]:
    """Passages of real text of 80 to 500 words, each of them once; when all are used, the same in invented languages."""
    made = 0
    for language in itertools.count():
        for text in _texts():
            tokens = text.split()
            at = 0
            while at + words[1] < len(tokens):
                size = rng.randint(*words)
                passage = " ".join(tokens[at : at + size])
                yield translated(passage, language) if language else passage
                at += size
                made += 1
                if made == number:
                    return


def _texts() -> Iterator[str]:
    """Books and web pages of the development data, or the standard library's sources where it is absent."""
    shared = REPOSITORY.parent / "shared" / "data"
    if (shared / "text_books.jsonl.gz").exists():
        yield from _web(shared / "web" / "pages.warc.gz")
        with gzip.open(shared / "text_books.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]
        return
    import sysconfig

    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="replace")


def _web(archive: Path) -> Iterator[str]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    if not archive.exists():
        return
    with archive.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            body = record.reader.read()
            yield extract_plain_text(bytes_to_str(body, detect_encoding(body) or "utf-8"), main_content=True)


def make(size: int, seed: int) -> list[Planted]:
    """The corpus, in an order that tells nothing."""
    rng = random.Random(seed)
    numbers = {kind: int(share * size) for kind, share in SHARES}
    giant = int(GIANT_SHARE * size)
    originals = size - sum(numbers.values()) - giant
    # Three of four documents of a chain, and the content of templates, are made: they need a passage of their own each.
    source = passages(rng, originals + numbers["chain"] // 4 + 2 * numbers["template"] + 40)
    rows = [Planted(f"original-{i}", "original", next(source)) for i in range(originals)]
    base = list(rows)
    rng.shuffle(base)
    taken = iter(base)
    for i in range(numbers["exact"]):
        one = next(taken)
        rows.append(Planted(f"exact-{i}", "exact", "  \n".join(one.text.split()), one.name))
    for i in range(numbers["near"]):
        one = next(taken)
        rows.append(Planted(f"near-{i}", "near", at_similarity(rng, one.text, LEVELS[i % len(LEVELS)]), one.name))
    for i in range(numbers["translated"]):
        one = next(taken)
        rows.append(Planted(f"translated-{i}", "translated", translated(one.text, OTHER_LANGUAGE), one.name))
    for i in range(numbers["reordered"]):
        one = next(taken)
        rows.append(Planted(f"reordered-{i}", "reordered", reordered(rng, one.text), one.name))
    rows += _chains(rng, source, numbers["chain"])
    rows += _templates(rng, source, numbers["template"])
    rows += _giant(rng, next(source), giant)
    rng.shuffle(rows)
    return rows


def at_similarity(rng: random.Random, text: str, similarity: float) -> str:
    """Replace evenly spaced words until the pair has this Jaccard similarity, as nearly as whole words allow."""
    words = text.split()
    shingles = max(1, len(words) - NGRAM + 1)
    changes = max(1, round(shingles * (1 - similarity) / (NGRAM * (1 + similarity))))
    step = len(words) / changes
    for k in range(changes):
        words[min(len(words) - 1, int((k + 0.5) * step))] = f"x{rng.randrange(10**9)}"
    return " ".join(words)


def translated(text: str, language: int) -> str:
    """Every word by a word of an invented language, always the same one, of six letters."""
    return " ".join(f"{zlib.crc32(word.encode(), language * 7919):06x}"[-6:] for word in text.split())


def reordered(rng: random.Random, text: str) -> str:
    sentences = text.split(". ")
    rng.shuffle(sentences)
    return ". ".join(sentences)


def _chains(rng: random.Random, source: Iterator[str], number: int) -> Iterator[Planted]:
    for chain in range(number // 4):
        text = next(source)
        before = ""
        for link in "abcd":
            name = f"chain-{chain}-{link}"
            yield Planted(name, "chain", text, before)
            text, before = at_similarity(rng, text, 0.86), name


def _templates(rng: random.Random, source: Iterator[str], number: int) -> Iterator[Planted]:
    templates = [next(source).split() for _ in range(20)]
    for i in range(number):
        template = templates[i % len(templates)]
        share = rng.uniform(0.5, 0.85)
        content = next(source).split()
        size = max(20, round(len(template) * (1 - share) / share))
        middle = len(template) // 2
        words = [*template[:middle], *content[:size], *template[middle:]]
        yield Planted(f"template-{i}", "template", " ".join(words))


def _giant(rng: random.Random, text: str, number: int) -> Iterator[Planted]:
    for i in range(number):
        words = text.split()
        if i % 2:
            words[rng.randrange(len(words))] = f"x{i}"
        yield Planted(f"giant-{i}", "giant", " ".join(words), "giant-0" if i else "")


def publish(rows: Sequence[Planted], folder: Path, files: int = 8) -> Dataset:
    """The corpus as the dataset the stage reads; ids are made from names."""
    documents: list[list[Document]] = [[] for _ in range(files)]
    for i, row in enumerate(rows):
        documents[i % files].append(_document(row))
    (folder / "data" / "web").mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(documents):
        pq.write_table(documents_table(part), folder / "data" / "web" / f"{i:05}.parquet", compression="zstd")
    outputs = [describe_file(folder, f"data/web/{i:05}.parquet") for i in range(files)]
    return adopt_dataset(folder, "quality", outputs, Counts(len(rows), len(rows)))


def identity(name: str) -> bytes:
    return document_id("bench", name, name, "")


def _document(row: Planted) -> Document:
    origin = {"archive": "bench", "offset": 0, "length": 0, "record_id": row.name, "digest": ""}
    return {"id": identity(row.name), "text": row.text, "source": "web", "origin": origin}  # type: ignore[typeddict-item]


class Truth:
    """True similarities of a corpus: of the sets of shingles, each as 64 bits of its text."""

    def __init__(self, rows: Sequence[Planted]) -> None:
        self._texts = {row.name: row.text for row in rows}
        self._sets: dict[str, NDArray[np.uint64]] = {}

    def shingles(self, name: str) -> NDArray[np.uint64]:
        if name not in self._sets:
            words = normalised_words(self._texts[name])
            grams = (" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1)))
            self._sets[name] = np.unique(
                np.array([xxhash.xxh3_64_intdigest(gram.encode()) for gram in grams], np.uint64)
            )
        return self._sets[name]

    def similarity(self, one: str, other: str) -> float:
        a, b = self.shingles(one), self.shingles(other)
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common / (len(a) + len(b) - common)
