"""The report page and the model card: complete, self-contained, and safe with any text."""

import re
from html.parser import HTMLParser

from pipeline.classifier.config import ClassifierConfig, TextSet
from pipeline.classifier.corpus import Sample
from pipeline.classifier.figures import Scored, report
from pipeline.classifier.page import model_card, report_page

HOSTILE = '<script>alert("x")</script> & "quotes"'


def figures():
    samples = [
        Sample(n, n % 3 == 0, n.to_bytes(16, "big"), f"https://d{n % 4}.example/{n}", "web", "en", f"{HOSTILE} {n}")
        for n in range(90)
    ]
    material = {
        "good_documents": 1, "ordinary_documents": 2, "passages_each_side": 3, "taken_out_as_overlap": 4,
        "negatives_sorted_by_rules": True,
    }  # fmt: skip
    scored = [Scored(sample, (sample.rank % 10) / 10) for sample in samples]
    return {"model_sha256": "ab" * 32, "material": material, **report(scored, 0.1, 0)}


def test_the_page_stands_alone_and_runs_nothing():
    page = report_page(figures())
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert not any({"src", "href"} & set(attributes) for _, attributes in tags)
    assert page.count("&lt;script&gt;") == 20  # the documents nearest the threshold
    assert "d3.example" in page


def test_the_card_names_what_identifies_the_model():
    config = ClassifierConfig(negatives=(TextSet(file="/somewhere/on/this/machine/crawl.jsonl"),))
    card = model_card(figures(), config, "cd" * 32)
    assert "ab" * 32 in card
    assert "cd" * 32 in card
    assert "crawl.jsonl" in card
    assert "/somewhere" not in card
    assert re.search(r"AUC, held out \| 0\.\d{3} \(", card)


def test_figures_without_both_sides_are_shown_as_missing():
    lonely = [Scored(Sample(1, False, b"1" * 16, "", "web", "", "text"), 0.5)]
    page = report_page({**figures(), **report(lonely, 0.1, 0)})
    assert "<b>–</b>AUC" in page
