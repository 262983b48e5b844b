"""Extraction quality has a floor: raise it when extraction gets better, never lower it to make a change pass."""

import json
import zipfile
from collections.abc import Iterator

import pytest
from fastwarc.warc import ArchiveIterator

from pipeline.extract.extractors import with_trafilatura
from pipeline.extract.page import ExtractConfig, Page, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.sample.packages import FORMASAURUS
from tests.benchmarks.extraction import full_text_score, read_gold, segment_score, token_f1
from tests.pipeline.packages import package_wheel
from tests.support import shared_data

F1_FLOOR = 0.957
SEGMENT_F1_FLOOR = 0.918
AGREEMENT_FLOOR = 0.90


def gold_texts(urls: set[str]) -> Iterator[tuple[str, str]]:
    extractor = PageExtractor.create(ExtractConfig(seconds=120), None)
    for record in ArchiveIterator(str(shared_data("web/pages.warc.gz"))):
        url = record.headers.get("WARC-Target-URI")
        if url in urls:
            content_type = record.http_headers.get("Content-Type") or ""
            page = Page(url.encode(), url, record.reader.read(), 200, content_type, record.http_charset or "")
            try:
                yield url, extractor.extract(page).text
            except Refused:
                yield url, ""


def test_pages_with_full_gold_text() -> None:
    gold = [page for page in read_gold(shared_data("web/gold.jsonl")) if page["type"] == "full"]
    score = full_text_score(dict(gold_texts({page["url"] for page in gold})), gold)
    assert score.pages == 135
    assert score.f1 >= F1_FLOOR, score


@pytest.mark.slow
def test_pages_with_gold_segments() -> None:
    gold = [page for page in read_gold(shared_data("web/gold.jsonl")) if page["type"] == "segments"]
    score = segment_score(dict(gold_texts({page["url"] for page in gold})), gold)
    assert score.pages == 457
    assert score.f1 >= SEGMENT_F1_FLOOR, score


def test_packaged_pages_agree_with_the_standard_extractor() -> None:
    scores = []
    extractor = PageExtractor.create(ExtractConfig(seconds=120), None)
    with zipfile.ZipFile(package_wheel(FORMASAURUS)) as wheel:
        index = json.loads(wheel.read("formasaurus/data/index.json"))
        for name in sorted(index)[:300:15]:
            body = wheel.read(f"formasaurus/data/{name}")
            page = Page(name.encode(), index[name]["url"], body, 200, "text/html", "utf-8")
            standard = with_trafilatura(body.decode("utf-8", "replace"), mode="standard")
            scores.append(token_f1(extractor.extract(page).text, standard)[0])
    assert sum(scores) / len(scores) >= AGREEMENT_FLOOR
