"""What a browser shows of an element, where trafilatura by itself loses or tears it."""

import time

import pytest

from pipeline.extract.elements import tex_shown, without_permalinks
from pipeline.extract.page import extract_html

FIRST = (
    "The river rose slowly through the whole of the spring, and the farmers on its banks watched it with concern. " * 3
)
FIRST = FIRST.strip()
LAST = "By the beginning of the summer the water had gone back to its bed, and the fields were green again."
LONG = "The fields that it had covered were green again in June. " * 8

SHOWN = [
    # no browser shows them; a declarative shadow root is shown
    ("<template><p>A row for a script to fill with names.</p></template>", ""),
    ("<p hidden>What nobody sees of this page unless a script runs.</p>", ""),
    ('<div hidden="until-found"><p>A search in the page opens it.</p></div>', "A search in the page opens it."),
    ('<x-y><template shadowrootmode="open"><p>Shown by every browser.</p></template></x-y>', "Shown by every browser."),
    # what a heading, a tab or <details> opens
    ("<h3><button aria-controls=a>How long?</button></h3><div id=a hidden><p>Ten days.</p></div>", "How long?\nTen days."),
    ('<div role="tabpanel" hidden><p>The second of two tabs.</p></div>', "The second of two tabs."),
    ("<details><summary>How long?</summary><p>Some ten days.</p></details>", "How long?\nSome ten days."),
    # links of a paragraph to itself
    ('<h2>Banks<a class="headerlink" href="#banks">¶</a></h2><p>They are low.</p>', "Banks\nThey are low."),
    ('<p>They are low.<a href="b.html#p1" title="here"><span>#</span></a></p>', "They are low."),
    ('<p>In C, <a href="/tags/c">#</a> begins a directive.</p>', "In C, # begins a directive."),
    # words in a sentence
    ("<p>The office said <q>stay <q>here</q></q>, and we did.</p>", "The office said “stay ‘here’”, and we did."),
    ("<p>Sie sagte „<q>bleibt</q>“ zu uns allen hier.</p>", "Sie sagte „bleibt“ zu uns allen hier."),
    ("<p>On <time datetime=2020-01-01>1 January</time> the water rose.</p>", "On 1 January the water rose."),
    ("<ul><li><time>10:00</time> Opening</li><li><time>12:00</time> Boats</li></ul>", "- 10:00 Opening\n- 12:00 Boats"),
    # lists in tables
    (
        "<table><tr><th>River</th><th>Towns</th></tr><tr><td>Elbe</td>"
        "<td><ul><li>Pirna</li><li>Wehlen</li></ul>and more</td></tr></table>",
        "| River | Towns |\n|---|---|\n| Elbe | Pirna; Wehlen and more |",
    ),
    ("<table><tr><td>one</td><td><dl><dt>Elbe</dt><dd>a river.</dd></dl></td></tr></table>", "| one | Elbe; a river. |"),
    # tables that only place
    (
        "<table><tr><td><p>One paragraph of it.</p>Loose <b>words</b> here."
        "<ul><li>Pirna</li><li>Wehlen</li></ul></td></tr></table>",
        "One paragraph of it.\nLoose words here.\n- Pirna\n- Wehlen",
    ),
    (
        "<table><tr><td>Above it.</td></tr><tr><td><table><tr><td>a</td><td>b</td></tr></table></td></tr>"
        "<tr><td>Below it.</td></tr></table>",
        "Above it.\n| a | b |\nBelow it.",
    ),
    (f"<table><tr><td>Menu of it</td><td><h2>Fields</h2><p>{LONG}</p></td></tr></table>", f"Menu of it\nFields\n{LONG.strip()}"),
    # quotations and code in figures; their sources
    ("<figure><pre><code>a = 1\nb = 2</code></pre></figure>", "```\na = 1\nb = 2\n```"),
    ("<figure><blockquote>Let the river rise as it will.</blockquote></figure>", "Let the river rise as it will."),
    ('<figure class="wp-block-pullquote"><blockquote>The river rose slowly.</blockquote></figure>', ""),
    ("<blockquote><p>Let it rise.</p><footer>— A farmer</footer></blockquote>", "Let it rise.\n— A farmer"),
    # lines of code that are elements
    ("<pre><div>a = 1</div><div>  b = 2</div></pre>", "a = 1\n  b = 2"),
    ("<listing>old code\n   here</listing>", "old code\n   here"),
    # formulas
    ("<p>So <math><mi>E</mi><mo>=</mo><mi>m</mi><msup><mi>c</mi><mn>2</mn></msup></math> holds.</p>", "So E=mc^2 holds."),
    (
        "<p>So <math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><msqrt><mn>2</mn></msqrt></mfrac></math> is.</p>",
        "So (a+b)/(√2) is.",
    ),
    ('<p>So <script type="math/tex">a &lt; b</script> holds.</p>', "So \\(a < b\\) holds."),
    (
        '<p>So <span class="MathJax_Preview"></span><span class="MathJax"><nobr>x2</nobr></span>'
        '<script type="math/tex">x^2</script> is.</p>',
        "So \\(x^2\\) is.",
    ),
    (
        '<p>So <span class="mwe-math-element"><span style="display: none;"><math><semantics><mi>x</mi>'
        '<annotation encoding="application/x-tex">{\\displaystyle x^{2}}</annotation></semantics></math></span>'
        '<img class="mwe-math-fallback-image-inline" alt="{\\displaystyle x^{2}}"></span> is.</p>',
        "So \\(x^{2}\\) is.",
    ),
    # what reads like a reference to a reader is none
    ("<p>Write &amp;lt;br&amp;gt; and &amp;copy;, or AT&amp;T.</p>", "Write &lt;br&gt; and &copy;, or AT&T."),
    ("<pre><code>s = '&amp;amp;'</code></pre>", "```\ns = '&amp;'\n```"),
    ("<center><font size=2>A word of the old web.</font></center>", "A word of the old web."),
    ('<p>So <img class="latex" alt="x^2"> is, <img class="latex" alt="drawing"> it.</p>', "So \\(x^2\\) is, it."),
    ('<p>What a day <img class="emoji" alt="😀" src="x.png"> it was <img alt="1"> here.</p>', "What a day 😀 it was here."),
]  # fmt: skip


@pytest.mark.parametrize(("element", "text"), SHOWN)
def test_an_element_reads_as_it_is_shown(element: str, text: str) -> None:
    page = f"<!doctype html><html><body><article><p>{FIRST}</p>{element}<p>{LAST}</p></article></body></html>"
    found = extract_html(page).text
    assert found.startswith(FIRST) and found.endswith(LAST)
    assert "\n".join(line for line in found[len(FIRST) : -len(LAST)].split("\n") if line.strip()) == text


def test_the_columns_of_highlighted_code_are_two_blocks() -> None:
    code = (
        '<pre class="highlight"><code><table class="rouge-table"><tr><td class="gutter gl"><pre class="lineno">1\n2\n</pre>'
        "</td>"
        '<td class="rouge-code"><pre>puts 1\n  puts 2\n</pre></td></tr></table></code></pre>'
    )
    text = extract_html(f"<article><p>{FIRST}</p>{code}<p>{LAST}</p></article>").text
    assert "```\nputs 1\n  puts 2\n```" in text


@pytest.mark.parametrize(
    "piece", ["<a href=#x ", "<a " + "href=#a#" * 70 + "> ¶", "<a href=#x>" + " " * 5000 + "¶", "<a ¶ href="]
)
def test_links_that_never_end_cost_little_time(piece: str) -> None:
    page = piece * (1_000_000 // len(piece)) + "#</a>"
    began = time.process_time()
    assert without_permalinks(page)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "piece", ["<script type=math/tex>", "<script type=math/tex>x < ", "<script math/tex>" + " " * 9000]
)
def test_formulas_that_never_end_cost_little_time(piece: str) -> None:
    page = piece * (1_000_000 // len(piece))
    began = time.process_time()
    assert tex_shown(page) == page
    assert time.process_time() - began < 3
