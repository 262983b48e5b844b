"""The classifier against human labels, on real data: better than the usual recipe on the same material."""

import gzip
import json

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from tests.benchmarks.quality import classifier_aucs, read_labels
from tests.support import shared_data

FLOOR = 0.80


def web_pages(path, most):
    texts = []
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            body = record.reader.read()
            text = extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True)
            if text.strip():
                texts.append(text)
            if len(texts) == most:
                break
    return texts


@pytest.mark.slow
def test_better_than_the_usual_recipe_on_human_labels():
    texts, labels = read_labels(shared_data("quality/labels.jsonl"))
    with gzip.open(shared_data("text_books.jsonl.gz"), "rt", encoding="utf-8") as stream:
        books = [json.loads(line)["text"] for line in stream]
    ordinary = web_pages(shared_data("web/pages.warc.gz"), 1000)
    ours, baseline = classifier_aucs(books, ordinary, texts, labels)
    assert ours >= FLOOR
    assert ours > baseline
