"""Extraction quality has a floor: raise it when extraction gets better, never lower it to make a change pass."""

import json
import zipfile
from collections.abc import Iterator

import pytest
from fastwarc.warc import ArchiveIterator

from pipeline.extract.extractors import TrafilaturaExtractor
from pipeline.extract.page import ExtractConfig, Page, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.sample.packages import FORMASAURUS
from tests.benchmarks.extraction import full_text_score, read_gold, segment_score, token_f1
from tests.pipeline.packages import package_wheel
from tests.support import shared_data

F1_FLOOR = 0.969
SEGMENT_F1_FLOOR = 0.924
AGREEMENT_FLOOR = 0.83
PURITY_FLOOR = 0.90


def text_of(extractor: PageExtractor, page: Page) -> str:
    try:
        return extractor.extract(page).text
    except Refused:
        return ""


def gold_texts(urls: set[str]) -> Iterator[tuple[str, str]]:
    extractor = PageExtractor.create(ExtractConfig(seconds=120), None)
    for record in ArchiveIterator(str(shared_data("web/pages.warc.gz"))):
        url = record.headers.get("WARC-Target-URI")
        if url in urls:
            content_type = record.http_headers.get("Content-Type") or ""
            page = Page(url.encode(), url, record.reader.read(), 200, content_type, record.http_charset or "")
            yield url, text_of(extractor, page)


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
    """Without pruning the text is trafilatura's; pruning only takes away, and from menus and lists of links."""
    teacher = TrafilaturaExtractor(mode="standard")
    extractors = [PageExtractor.create(ExtractConfig(seconds=120, prune=prune), None) for prune in (False, True)]
    agreement, purity = [], []
    with zipfile.ZipFile(package_wheel(FORMASAURUS)) as wheel:
        index = json.loads(wheel.read("formasaurus/data/index.json"))
        for name in sorted(index)[::40]:
            body = wheel.read(f"formasaurus/data/{name}")
            page = Page(name.encode(), index[name]["url"], body, 200, "text/html", "utf-8")
            standard = teacher.text(body)
            whole, pruned = (text_of(extractor, page) for extractor in extractors)
            if len(standard) >= 500:
                agreement.append(token_f1(whole, standard)[0])
            if pruned:
                purity.append(token_f1(pruned, whole)[1])
    assert sum(agreement) / len(agreement) >= AGREEMENT_FLOOR
    assert sum(purity) / len(purity) >= PURITY_FLOOR
