"""Code of a page in its text, and out of what is measured of its prose."""

import time

import pyarrow as pa
import pytest

from pipeline.extract.code_blocks import fenced, prose_of
from pipeline.extract.page import ExtractConfig, extract_html
from pipeline.quality.measures import measure_texts
from tests.pipeline.sources.archives import PROSE

CODE = "for each in rivers:\n    print( each )\n\n    if each:\n\tpass"
FENCE = f"```\n{CODE}\n```"


def text_of(body: str, **options: str) -> str:
    page = f"<html><body><article><p>{PROSE * 2}</p>{body}<p>{PROSE * 2}</p></article></body></html>"
    return extract_html(page, "", ExtractConfig(**options)).text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "block",
    [
        f"<pre><code class='language-python'>{CODE}</code></pre>",
        f"<pre class=prettyprint>\n{CODE}\n</pre>",
        f"<div class='highlight'><pre><span></span>{CODE.replace('for', '<span class=k>for</span>')}</pre></div>",
        f"<table class='syntax'><tr><td><pre class='python code'>{CODE}</pre></td></tr></table>",
        f"<pre><code>{CODE.replace(chr(10), '<br>')}</code></pre>",
        f"<ol><li>Do this:<pre><code>{CODE}</code></pre></li></ol>",
        "<table class=lntable><tr><td><pre class=chroma><code>1\n2\n3\n4\n5\n</code></pre></td>"
        f"<td><pre class=chroma><code>{CODE}</code></pre></td></tr></table>",
        f"<PRE CLASS=CODE>{CODE.replace(chr(10), chr(13) + chr(10))}</PRE>",
    ],
)
def test_code_is_fenced_line_by_line(block: str) -> None:
    text = text_of(block)
    assert f"\n{FENCE}\n" in text and text.count("```") == 2
    assert CODE not in prose_of(text) and prose_of(text).count(PROSE.strip()) == text.count(PROSE.strip()) > 1


@pytest.mark.parametrize(
    "block",
    [
        "<pre>I wandered lonely as a cloud\nThat floats on high o'er vales and hills</pre>",
        "<div class='postcode'><pre>12 Mill Lane\nRiverton RV1 2AB\nOpen from nine to five</pre></div>",
        "<ul class='language-menu'><li>English</li></ul><p>As he said:</p><pre>So it was,\nand so it goes.</pre>",
        "<pre class='code'><p>A paragraph</p>\n<p>and one more of it</p></pre>",
        "<pre class='code'>never ends\n in this page",
        "<p>A name in a line, such as <code>print</code>, is prose.</p>",
    ],
)
def test_what_is_no_block_of_code(block: str) -> None:
    assert "```" not in text_of(block)


def test_a_fence_is_longer_than_those_inside_of_it() -> None:
    text = text_of("<pre><code>```\ninner\n```\nouter</code></pre>")
    assert "\n````\n```\ninner\n```\nouter\n````\n" in text
    assert "inner" not in prose_of(text) and "outer" not in prose_of(text)


def test_a_page_in_the_script_that_carries_code_keeps_its_letters() -> None:
    text = text_of(f"<p>{chr(0x10600)} and {chr(0x10604)}</p><pre><code>{CODE}</code></pre>")
    assert chr(0x10600) in text and chr(0x10604) in text and "print( each )" in text


@pytest.mark.parametrize("part", ["```a\n", "```\n", "````\n```\n", "\n", " "])
def test_hostile_texts_in_time(part: str) -> None:
    text = part * (400_000 // len(part))
    began = time.perf_counter()
    prose_of(f"```{text}"), fenced(f"{chr(0x10600)}a{chr(0x10601)}{text}")
    assert time.perf_counter() - began < 5


def test_blocks_that_an_extractor_broke_leave_no_letter_behind() -> None:
    assert fenced(f"a{chr(0x10602)}b{chr(0x10603)}c {chr(0x10600)}d") == "a\nb c d"


def test_markdown_has_the_extractors_own_marks() -> None:
    assert "print( each )" in text_of(f"<pre><code>{CODE}</code></pre>", markup="markdown")


def test_rules_for_prose_do_not_see_code() -> None:
    with_code = "\n".join([PROSE, FENCE, PROSE, FENCE])
    texts = pa.array([with_code, prose_of(with_code), with_code], pa.large_string())
    measured = measure_texts(texts, ["en"] * 3, [None, None, "Python"])
    page, prose, source = measured.to_pylist()
    assert page == prose
    assert source["duplicate_lines"] > 0.3 and source["curly_brackets"] == page["curly_brackets"]
    assert prose_of("```\nnever closed") == "```\nnever closed"
    assert prose_of("a\n```py\ncode\n```\nb\n```\nc") == "a\n\nb\n```\nc"
