"""Pages on which no name, or several of one name, say where the text is."""

import pytest

from pipeline.extract.page import extract_html

FIRST = "The agency never said what it had planned, and nobody who was at the meeting remembers a question about it."
LAST = (
    "Another letter followed in the autumn, which repeated the questions of the first one and added three more to them."
)
LIST = "<ul><li>First, it would have had to say so.</li><li>Second, it had a deadline.</li></ul>"
READ = f"What it said\n{FIRST}\n- First, it would have had to say so.\n- Second, it had a deadline.\n{LAST}"


@pytest.mark.parametrize(
    "body",
    [
        f"<h2>What it said</h2><p>{FIRST}</p>{LIST}<p>{LAST}</p>",
        f"<center><h2>What it said</h2><p>{FIRST}</p>{LIST}<p>{LAST}</p></center>",
        f'<div id="wrapper"><div class="inhalt"><h2>What it said</h2><p>{FIRST}</p>{LIST}<p>{LAST}</p></div></div>',
    ],
)
def test_headings_and_lists_between_paragraphs_are_kept_on_a_page_without_names(body: str) -> None:
    assert extract_html(f"<!doctype html><html><head><title>t</title></head><body>{body}</body></html>").text == READ


def test_loose_text_elsewhere_is_not_given_up_for_the_paragraphs_of_a_box() -> None:
    loose = "<br><br>".join(f"{FIRST} {LAST} ({number})" for number in range(4))
    page = f"<body><div>{loose}</div><div><h3>Offers</h3><p>{LAST}</p></div></body>"
    assert all(f"({number})" in extract_html(page).text for number in range(4))


def test_a_name_that_is_there_decides() -> None:
    article = f"<article><p>{FIRST}</p><p>{FIRST[:60]}.</p></article>"
    text = extract_html(f"<body>{article}<div><h3>Offers</h3><p>{LAST} {LAST} {LAST}</p></div></body>").text
    assert FIRST in text and "Offers" not in text


SPLIT = [
    '<div class="grid article__body"><div class="inner-container">{}</div></div>',
    '<section class="article-text">{}</section>',
    '<div class="wpb_text_column"><div class="wpb_wrapper">{}</div></div>',
]


@pytest.mark.parametrize("part", SPLIT)
def test_an_article_in_parts_is_read_to_its_end(part: str) -> None:
    advertisement = '<div class="ad-slot"><a href="/a">Read this</a></div>'
    parts = [part.format(f"<p>{number}. {FIRST} {LAST}</p><p>{FIRST} ({number})</p>") for number in range(4)]
    text = extract_html(f"<body><div id=top>Menu</div><main>{advertisement.join(parts)}</main></body>").text
    assert [line for line in text.splitlines() if "(" in line] == [f"{FIRST} ({number})" for number in range(4)]
    assert "Read this" not in text


def test_parts_of_a_box_do_not_stand_for_a_page_that_says_much_more() -> None:
    box = f'<div class="article-text"><p>{FIRST} {LAST}</p></div>'
    loose = "".join(f"<div class=row><p>{FIRST} {LAST} ({number})</p></div>" for number in range(8))
    text = extract_html(f"<body>{box}{box.replace('never', 'once')}{loose}</body>").text
    assert all(f"({number})" in text for number in range(8))
