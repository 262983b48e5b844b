"""One pass over a page: what is cut, what is kept, and where the text is."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.scan import sample_text, scan_page

SENTENCE = "This sentence stands outside of any link and is long enough to be read."
MENU = "<ul><li><a href=/1>Home</a><li><a href=/2>News</a><li><a href=/3>Contact</a></ul>"

PIECES = re.findall(
    r"\S+",
    "<div> </div> <ul> <li> </ul> <a/href=x> </a> <p> text <script> </script> <!-- --> <td> <tr> <table> </table> "
    "' \" = < > <svg> </svg> é 日本",
)


def pruned(html: str) -> str:
    return scan_page(html.encode()).pruned().decode()


def text(html: str) -> str:
    scan = scan_page(html.encode())
    return " ".join(sample_text(scan.data, scan.kept_texts(), 10**6).split())


@pytest.mark.parametrize(
    "boilerplate",
    [
        MENU,
        f"<nav>{MENU}</nav>",
        "<div class=menu><a href='x>y'>One</a> | <a>Two</a> | <a>Three</a></div>",
        "<footer><p><a>Imprint</a></p><p><a>Privacy</a></p><p><a>Jobs</a> 2024</p></footer>",
        "<table><tr><td><a>1</a><td><a>2</a><td><a>3</a></table>",
        "<script>if (a < b) { document.write('<p>' + x) }</script>",
        "<style>p > a { color: red }</style>",
        "<svg><path d='M0 0'/><text>Drawn words that are no text of the page at all, however long</text></svg>",
        "<select><option>A very long option that could nearly pass for a sentence of text</select>",
        "<!-- <p>a comment with a paragraph in it that nobody should ever read</p> -->",
    ],
)
def test_boilerplate_is_cut(boilerplate: str) -> None:
    html = f"<html><body><div><p>{SENTENCE}</p></div>{boilerplate}<div><p>{SENTENCE}</p></div></body></html>"
    assert text(html) == f"{SENTENCE} {SENTENCE}"
    assert boilerplate not in pruned(html)
    assert pruned(html).count(SENTENCE) == 2


@pytest.mark.parametrize(
    "content",
    [
        f"<div><a>One</a> {SENTENCE} <a>Two</a> <a>Three</a></div>",
        "<div><p>Two links are <a>no menu</a> <a>yet</a></p></div>",
        "<ul><li>Flour, two hundred grams<li>Three eggs<li>Butter and a pinch of salt</ul>",
        f"<div>{MENU}{SENTENCE}</div>".replace(MENU, ""),
        f'<script type=application/ld+json>{{"articleBody": "{SENTENCE}"}}</script>',
        f"<div><b>Words</b> in <i>many</i> <span>elements</span> still make <em>one</em> run {MENU[:0]}of text</div>",
        f"<div>{'<a>x</a>' * 5}<p>{SENTENCE}",
    ],
)
def test_content_is_kept(content: str) -> None:
    html = f"<html><body>{content}</body></html>"
    assert pruned(html) == html


def test_the_article_stays_where_the_page_is_mostly_links() -> None:
    html = f"<body><div id=all>{MENU * 20}<div><h1>Title</h1><p>{SENTENCE}</p></div>{MENU * 20}</div></body>"
    assert text(html) == f"Title {SENTENCE}"


def test_sentences_of_unspaced_scripts_are_shorter() -> None:
    html = f"<body><div>{'<a>頁</a>' * 3}川は町の上の丘から始まり、海に出会うまで流れています。</div></body>"
    assert pruned(html) == html


def test_the_sample_comes_from_the_middle() -> None:
    data = "".join(f"<p>word{n}</p>" for n in range(1000)).encode()
    sample = sample_text(data, scan_page(data).texts, 100)
    assert "word500" in sample
    assert len(sample) < 200


@pytest.mark.parametrize(
    "html",
    [
        "",
        "<",
        "<a",
        "<a href='",
        "<!--",
        "<!",
        "</",
        "</div>" * 10,
        "<div>" * 5000,
        "<script>",
        "<li>" * 5000,
        "a < b > c",
        "<p",
    ],
)
def test_odd_markup_is_survived(html: str) -> None:
    assert scan_page(html.encode()).pruned().count(b"<div") == html.count("<div")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=60,
    )
)
def test_any_markup_gives_ordered_ranges_within_the_page(pieces: list[str]) -> None:
    data = "".join(pieces).encode()
    scan = scan_page(data)
    for ranges in (scan.cuts, scan.texts):
        edges = ranges.ravel().tolist()
        assert edges == sorted(edges)
        assert not edges or (edges[0] >= 0 and edges[-1] <= len(data))
    assert len(scan.pruned()) <= len(data) + len(scan.cuts)
    scan.pruned().decode()
