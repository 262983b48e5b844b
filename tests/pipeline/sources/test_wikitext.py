"""What a reader of the page would read, written by hand, for passages as pages have them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.clean import clean_text
from pipeline.sources.wikitext import Wiki, readable_text

EN = Wiki("en", frozenset({"file", "image", "category", "media"}), frozenset({"template"}))
ZH, SR, DE, FR, RU, JA = (Wiki(code) for code in ("zh", "sr", "de", "fr", "ru", "ja"))

PASSAGES = [
    # apostrophes: MediaWiki's doQuotes
    ("The ''Odyssey'''s sailors row.", "The Odyssey's sailors row."),
    ("D''''oro''' e '''argento'''.", "D'oro e argento."),
    ("Il lit l'''Énéide'' le soir.", "Il lit l'Énéide le soir."),
    ("'''''Both''' then slanted'' and ''slanted '''both'''''.", "Both then slanted and slanted both."),
    ("He said ''''no'''' twice.", "He said 'no' twice."),
    ("''x''<sub>''i''</sub> and '''A'''<sup>''n''</sup>", "xi and An"),
    ("rock 'n' roll, the 1990s' end", "rock 'n' roll, the 1990s' end"),
    ("''one line\nthe next''", "one line\nthe next"),
    # code
    ("Use <code>f()</code>, <code>a[]</code>, <code>''</code> and <code>__LINE__</code>.", "Use f(), a[], '' and __LINE__."),
    ("<code>x[[1]] = {{ y }}</code>", "x[[1]] = {{ y }}"),
    ("<code>[[Hash table|dict]]</code> and <code>a &lt; b</code>", "dict and a < b"),
    ("<nowiki>[[not a link]] ''kept'' {{so}}</nowiki>", "[[not a link]] ''kept'' {{so}}"),
    ("a:\n<pre>\n  if x:\n\n    {}\n</pre>\nb", "a:\n\n  if x:\n\n    {}\n\nb"),
    ("a\n<syntaxhighlight lang=\"html\">\n<b>&amp;</b>\n}\n</syntaxhighlight>", "a\n\n<b>&amp;</b>\n}\n"),
    ('so <syntaxhighlight lang="c" inline>int a[];</syntaxhighlight> ends', "so int a[]; ends"),
    (" 10 PRINT  \"HI\"\n   20 GOTO 10\nEnd.", "10 PRINT  \"HI\"\n  20 GOTO 10\nEnd."),
    (" if (a) {\n   b();\n }\nEnd.\n }", "if (a) {\n  b();\n}\nEnd."),
    ("A <nowiki/>''b''", "A b"),
    ("a [<nowiki/>[x]] b, x[<nowiki></nowiki>[0]]", "a [[x]] b, x[[0]]"),
    ("<nowiki/>* no list\n== Empty ==\n<nowiki/>\n== Full ==\ntext <nowiki/> here", "* no list\n\nFull\n\ntext here"),
    ("one{{br}}two{{clear}}three{{-}}", "one\ntwo\nthree"),
    ("(born in [[Rome]], {{unknown}}) in <hiero>A1</hiero> signs", "(born in Rome) in signs"),
    ("Call free() twice, then vector<int> [sic].", "Call free() twice, then vector<int> [sic]."),
    ("The __init__ method and __NOTOC__this", "The __init__ method and this"),
    # links
    ("[[Mission: Impossible]], [[Re:Zero]] and [[UFO: A Study|the study]]", "Mission: Impossible, Re:Zero and the study"),
    ("[[de:Fluss]][[zh-min-nan:Ho]]text [[:fr:Rivière]]", "text fr:Rivière"),
    ("[[File:A.jpg|thumb|A [[caption]] [http://x.org y]]]text[[Category:Rivers]]", "text"),
    ("[[Datei:A.jpg|mini]]: a title on this wiki", "mini: a title on this wiki"),
    ("[[bus]]es, [[Paris#History]], [[a|b [c]]], [[wikt:water]]", "buses, Paris#History, b [c], wikt:water"),
    ("an [[unclosed link\nand [[a good one]]", "an [[unclosed link\nand a good one"),
    ("[https://x.org/a_(b) label] [//x.org L] [mailto:a@b.org mail] [http://x.org]", "label L mail"),
    # variants of a script are in ZH_AND_OTHERS
    ("-{zh-hans:a;zh-hant:b}- stays here", "-{zh-hans:a;zh-hant:b}- stays here"),
    # templates that are text
    ("At {{convert|1300|mi|km}}, long.", "At 1,300 miles (2,100 km), long."),
    ("A {{convert|3|ft|adj=on}} wall of {{cvt|12|kg}}", "A 3-foot (0.91 m) wall of 12 kg (26 lb)"),
    ("{{convert|20|C}}, {{convert|5|C-change}}, {{convert|5|ft|10|in|cm}}", "20 °C (68 °F), 5 °C (9.0 °F), 5 feet 10 inches (178 cm)"),
    ("{{convert|20|-|30|cm|in}}, {{convert|-19|to|22|C|F|sigfig=2}}", "20–30 centimetres (7.9–11.8 in), −19 to 22 °C (−2.2 to 71.6 °F)"),
    ("{{convert|60|to|170|kg|lb}} or {{convert|1|acre}}", "60 to 170 kilograms (130 to 370 lb) or 1 acre (0.40 ha)"),
    # whole numbers in feet and pounds are finer, as Module:Convert has them
    ("{{convert|93|m|ft}}, {{convert|237|m|abbr=on}}, {{convert|100|m|ft}}", "93 metres (305 ft), 237 m (778 ft), 100 metres (330 ft)"),
    ("{{convert|75|kg|lb}}, {{convert|1.5|m|ft}}, {{convert|5|km|ft}}", "75 kilograms (165 lb), 1.5 metres (4.9 ft), 5 kilometres (16,000 ft)"),
    ("{{convert|180|cm|ftin|abbr=on}}, {{cvt|150|-|180|cm|ftin}}", "180 cm (5 ft 11 in), 150–180 cm (4 ft 11 in – 5 ft 11 in)"),
    ("{{w|nuclear weapon|nuclear weapons}} {{née|Smith}}, {{IPAslink|t}} {{IPAblink|d}}", "nuclear weapons née Smith, /t/ [d]"),
    ("{{convert|1|mi|km|sp=us|abbr=off|2}}", "1 mile (1.61 kilometers)"),
    ("He wrote:\n{{quote|We went.|The captain}}\nSo.", "He wrote:\n\nWe went.\n— The captain\n\nSo."),
    ("({{lang|fr|Tour}}; {{lang-la|turris}}; {{langx|el|πύργος}})", "(Tour; Latin: turris; Greek: πύργος)"),
    ("{{nowrap|10 {{frac|1|2}}}}, {{sfrac|3|4}}, {{val|1.5|0.2|u=m}}", "10 1⁄2, 3/4, 1.5±0.2 m"),
    ("{{formatnum:1234567.5}} {{as of|2020|5|lc=y}} {{circa|1500}}", "1,234,567.5 as of May 2020 c. 1500"),
    ("{{birth date|1950|5|6}}{{snd}}{{death date and age|df=y|2001|2|3|1950|5|6}}", "May 6, 1950 – 3 February 2001"),
    ("The ''Mole''{{'s}} {{abbr|no.|number}} {{ill|Wels|de}}", "The Mole's no. Wels"),
    ("{{hlist|a|b}} {{IPA|[ˈa]}} {{respell|AN|ker}} a{{!}}b", "a · b [ˈa] AN-ker a|b"),
    ("{{#if:x|yes|no}} {{#ifeq:a|b|1|2}} {{#switch:b|a=1|b|c=2|3}} {{uc:ab}}", "yes 2 2 AB"),
    ("{{#expr: 100 / 3 round 2}} {{#expr: (1 + 2) * -3}} {{#expr: 2 ^ 10}} ({{#expr: 1 / 0}})", "33.33 -9 1024"),
    ("{{nihongo|Tea|茶|cha}}, {{ordinal|22}}, {{chem|H|2|O}}", "Tea (茶, cha), 22nd, H2O"),
    ("{{ubl|one|two}}", "- one\n- two"),
    ("{{IPA-fr|sɛn|lang}}, {{IPA-de|ʁaɪn|pron}}, {{IPA-pt|dowɾu}}, {{IPA-nl|ma|}}", "French: [sɛn], pronounced [ʁaɪn], Portuguese pronunciation: [dowɾu], [ma]"),
    ("{{IPAc-en|UK|'|d|ɑr|t|_|ɜr}}, {{IPAc-en|local|t|aɪ|n}}", "UK: /ˈdɑːrt ɜːr/, locally /taɪn/"),
    ("{{IPA|*ʄ}} is older.\n{{nowrap|# 3}} won.", "*ʄ is older.\n# 3 won."),
    ("({{lang-ru|Дон|Don|a river}}, {{langx|el|Νέστος|translit=Nestos}}, {{lang-rus|Ока|p=ɐˈka}})",
     "(Russian: Дон, romanized: Don, lit. 'a river', Greek: Νέστος, romanized: Nestos, Russian: Ока, IPA: [ɐˈka])"),
    ("{{vr|ai}}, {{lang|ps|{{nq|آسیا}}}}", "⟨ai⟩, آسیا"),
    ("in A{{music|flat}}, F{{music|#}} and {{music|time|6|8}}", "in A♭, F♯ and 6/8"),
    ("{{chem|SO|4|2-}}, {{chem|C|''n''|H|2''n''}}", "SO42−, CnH2n"),
    ("H {{eqm}} K\n{{legend|#abc|under water}}", "H ⇌ K\n\nunder water"),
    ("{{columns-list|2|\n* one\n* two}}", "- one\n- two"),
    ("{{columns|col1=\n* one\n|col2=\n* two\n}}", "- one\n- two"),
    ("a {{RailGauge|1435mm}} line, {{track gauge|1000 mm|disp=1|al=on}}", "a 1,435 mm (4 ft 8+1⁄2 in) line, 1,000 mm metre gauge"),
    ("at {{coord|57|18|22|N|4|27|32|W|type:city}}, {{coord|12.5|-7}}; {{coord|1|N|2|E|display=title}}", "at 57°18′22″N 4°27′32″W, 12.5°N 7°W;"),
    ("{{FRA}}, {{Col}} and {{COL}}, {{USA}}", "France, and Colombia, United States"),
    ("{{ill|Elbe|de|Elbe}}, {{ill|de|Ilm|Ilm|the Ilm}}", "Elbe, the Ilm"),
    ("{{convert|22|e6acre|km2}}, {{convert|1.4|Moilbbl/d|m3/d}}, {{convert|3|e6ha|abbr=on}}",
     "22 million acres (89,000 km²), 1.4 million barrels per day (220,000 m³/d), 3×10^6 ha (7,400,000 acres)"),
    ("{{OldStyleDate|5 March|1711|22 February}}", "5 March [O.S. 22 February] 1711"),
    # templates that are not, and what stood for them alone
    ("Ada ({{unknown}}; born 5) and ({{x}}) went {{y}}, on.", "Ada (born 5) and went, on."),
    ("* {{Cite x|a}}. The first.\n* {{y}}, {{z}}.", "- The first."),
    ("{{Infobox|a={{b|[[c]]}}|d=<ref>e</ref>}}\nText.{{cn}}<ref name=\"x/y\">[[z]]</ref><ref name=x />", "Text."),
    ("{{quote|an [[unclosed link}} after", "an [[unclosed link\nafter"),
    ("{{tpl|never closed and text", "{{tpl|never closed and text"),
    # tags
    ("a<br>b<br/> c", "a\nb\nc"),
    ("<includeonly>no</includeonly><onlyinclude>yes</onlyinclude><noinclude> too</noinclude>", "yes too"),
    ("H<sub>2</sub>O <span style=\"display:none\">no</span><div>in</div>x<!-- c --> y", "H2O\nin\nx y"),
    ("one\n<!-- a line -->\ntwo", "one\ntwo"),
    ("<poem>\nO ''river''\n  run\n</poem>", "O river\n run"),
    ("Sum <math>\\sum_{i=1}^n a_{i}</math>.<gallery>\nA.jpg|x\n</gallery>", "Sum \\sum_{i=1}^n a_{i}."),
    ("<ref>never closed, text", "never closed, text"),
    ("before\n{| class=x\n| cell\n{|\n| inner\n|}\n|}\nafter", "before\n\nafter"),
    ("x\n{|\n| cell\nNo end, a paragraph.", "x\n\nNo end, a paragraph."),
    ("a &amp;amp; &#39;&#39;b&#39;&#39; &lt;i&gt; &nosuch; &#0;", "a &amp; ''b'' <i> &nosuch;"),
    # lines
    ("; term : what it is\n: indented\n*# item", "term\nwhat it is\nindented\n- item"),
    ("...\n\n{{x}}\n|}\n😀", "...\n\n😀"),
]  # fmt: skip


@pytest.mark.parametrize(("markup", "text"), PASSAGES)
def test_a_passage_reads_as_on_the_page(markup: str, text: str) -> None:
    assert readable_text(markup, EN).strip("\n").rstrip() == text.strip("\n").rstrip()


ZH_AND_OTHERS = [
    (ZH, "-{zh-hans:计算机; zh-hant:電腦;}-和-{A|zh-tw:軟體;zh-cn:软件}-", "计算机和软件"),
    (ZH, "-{H|zh-cn:a;zh-tw:b}-「-{不轉}-」[[A|-{zh-cn:甲;zh-tw:[[B|乙]]}-]]", "「不轉」甲"),
    (ZH, "{{lang|en|-{R|Tea}-}}，{{le|茶|Tea|茶葉}}", "Tea，茶葉"),
    (ZH, "x -{zh-hans:a&nbsp;b;zh-hant:c}-", "x a b"),
    (SR, "-{sr-el:voda; sr-ec:вода}-", "вода"),
    (DE, '{{"|Ja}} ({{enS|tea}}) {{formatnum:12345.5}} [[Bild:A.jpg|mini|x]][[Datei:B.png]]', "„Ja“ (englisch tea) 12.345,5"),
    (FR, "{{s-|XIX|e}}, {{unité|12500|km}}, {{citation|Oui}}, {{date|5|mai|1950}}", "XIXe siècle, 12\u202f500 km, « Oui », 5 mai 1950"),
    (RU, "{{lang-en|tea}}, {{нп5|Чай|чая|en|Tea}}, {{дата рождения|5|5|1950}}", "англ. tea, чая, 5 мая 1950"),
    (JA, "{{読み仮名|茶|ちゃ}}、{{仮リンク|緑茶|en|Green tea}}、{{lang-en|tea}}", "茶（ちゃ）、緑茶、英語: tea"),
    (FR, "Au {{XVIIe siècle}}, le {{1er}} mars, au XX{{e}} s., le {{n°}}5 de {{Mme}} Weil", "Au XVIIe siècle, le 1er mars, au XXe s., le nº 5 de Mme Weil"),
    (Wiki("es"), "{{unidad|100|km}} en 50 {{AC}}", "100 km en 50 a. C."),
    (Wiki("es"), "{{lang-en|tea}}, {{fecha|5|5|1950}}, [[Archivo:A.jpg|x]]", "en inglés: tea, 5 de mayo de 1950,"),
    (Wiki("ltg", frozenset({"fails"})), "[[Attēls:A.jpg|thumb|upe]]({{Vol-lv|upe}})", "(upe)"),
    (Wiki("xx", frozenset({"fails"})), "[[Fails:A.jpg|x]][[Fil: a tale]]", "Fil: a tale"),
]  # fmt: skip


@pytest.mark.parametrize(("wiki", "markup", "text"), ZH_AND_OTHERS)
def test_other_wikis(wiki: Wiki, markup: str, text: str) -> None:
    assert readable_text(markup, wiki).strip() == text


@pytest.mark.parametrize(
    ("language", "closing"),
    [("sv", "Källor"), ("ltg", "Nūruodis"), ("eo", "Eksteraj ligiloj"), ("ko", "각주"), ("ar", "مراجع"), ("tr", "Kaynakça"), ("uk", "Примітки"), ("fa", "منابع"), ("vi", "Liên kết ngoài"),
     ("hu", "Jegyzetek"), ("he", "הערות שוליים"), ("id", "Pranala luar"), ("cs", "Externí odkazy"), ("zh", "參考資料")],
)  # fmt: skip
def test_closing_sections_go_in_every_large_language(language: str, closing: str) -> None:
    unseen: dict[str, int] = {}
    text = readable_text(f"A.\n== {closing} ==\n* source\n== B ==\nC.", Wiki(language), unseen=unseen)
    assert text.split() == ["A.", "B", "C."]
    assert unseen == {f"section:{closing.lower()}": 1}


def test_a_chapter_on_literature_is_no_closing_section() -> None:
    text = readable_text("== Kultur ==\n=== Literatur ===\nIhre Dichter.\n== Literatur ==\n* Buch", DE)
    assert text.split() == ["Kultur", "Literatur", "Ihre", "Dichter."]


def test_what_gave_no_text_is_counted_by_name() -> None:
    unseen: dict[str, int] = {}
    readable_text("{{Infobox river|a=1}}{{infobox_River}}{{nowrap|x}}{{#invoke:M|f}}", EN, unseen=unseen)
    assert unseen == {"template:infobox river": 2, "template:#invoke:": 1}


HOSTILE = ["{{", "[[", "{{a|", "[[a|", "'''a", "<div>", "<ref>", "<ref ", "<!--", "{|\n", "{{{", "-{", "[http://a ", "<nowiki>", "</b>",
           "{{nowrap|", "[[a]", "== x\n", "&#x", "* ", "<i>''", "{{a|[[", "}}", "]]", "-{zh-cn:", "\x02", "<code>", "<span style='display:none'>",
           "{{nowrap|x{{nowrap|", "|", "=", "; ", "<b", "[[File:a|"]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_broken_markup_takes_linear_time(unit: str) -> None:
    began = time.process_time()
    readable_text(unit * (150_000 // len(unit)), ZH)
    assert time.process_time() - began < 4


def test_deep_nesting_takes_linear_time() -> None:
    began = time.process_time()
    deep = 15_000
    readable_text("{{nowrap|" * deep + "x" * 100_000 + "}}" * deep, EN)
    readable_text("[[a|" * deep + "x" * 100_000 + "]]" * deep, EN)
    readable_text("-{" * deep + "x" * 100_000 + "}-" * deep, ZH)
    assert time.process_time() - began < 5


MARKUP = st.lists(
    st.sampled_from(["{{", "}}", "[[", "]]", "|", "=", "'''", "''", "\n", " ", "word ", "<ref>", "</ref>", "<code>", "</code>", "{|", "|}",
                     "-{", "}-", "zh-cn:", ";", "* ", "==", "nowrap", "convert|1|km", "lang|fr|", "<!--", "-->", "[http://x.org ", "&lt;", "<div>"]),
    max_size=40,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(MARKUP, st.sampled_from([EN, ZH, Wiki()]))
def test_any_markup_gives_text_without_marks_of_our_own(markup: str, wiki: Wiki) -> None:
    text = readable_text(markup, wiki)
    assert not set(text) & set("\x02\x03\x04\u2fe0\u2fe1")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(st.characters(whitelist_categories=("Ll", "Lu", "Nd")), min_size=1, max_size=8), min_size=1, max_size=20
    )
)
def test_plain_words_stay(words: list[str]) -> None:
    assert readable_text(" ".join(words), EN).split() == " ".join(words).split()


def test_cleaning_leaves_code_as_it_is() -> None:
    markup = "A  b\u0041\u030a.\n\n\n<pre>\nx = 1  \n\n\n\ny = '\u0041\u030a'\n</pre>\n\n\n\nB."
    assert readable_text(markup, EN, clean=clean_text) == "A bÅ.\n\nx = 1  \n\n\n\ny = '\u0041\u030a'\n\nB."
