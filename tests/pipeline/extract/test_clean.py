"""What of a text goes on: characters that show nothing, each where it means something and where it does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.clean import clean_code, clean_line, clean_text
from pipeline.extract.extractors import TrafilaturaExtractor
from pipeline.extract.page import ExtractConfig, Page, PageExtractor
from pipeline.extract.unprintable import disguised, restored
from tests.pipeline.sources.archives import html_page

KEPT = {
    "Persian": "می\u200cخواهم کتاب\u200cهای تازه را بخوانم",
    "Persian, a Latin word": "فایل PDF\u200cها را بخوانید",
    "Urdu": "خوب\u200cصورت باغ میں پھول کھلے ہیں",
    "Arabic script, an abbreviation": "سال ۱۳۰۰ ه\u200d. ش. بود",
    "Hindi": "राष्ट्र के लिए क्\u200dया क्\u200cया लिखा गया",
    "Bengali": "তিন র\u200d্যাব সদস্য সাক্ষী দিলেন",
    "Malayalam": "അവന്\u200d പറഞ്ഞു അവള്\u200d കേട്ടു",
    "Sinhala": "ශ්\u200dරී ලංකාව දූපතකි ක්\u200dෂේත්\u200dරය",
    "Khmer": "ខ្ញុំ\u200bទៅ\u200bផ្សារ\u200bនៅ\u200bពេល\u200bព្រឹក",
    "Thai": "ฉัน\u200bไป\u200bตลาด\u200bตอน\u200bเช้า",
    "Burmese": "မြန်မာ\u200bနိုင်ငံ\u200bသည်",
    "Mongolian": "ᠮᠣᠩᠭᠣᠯ\u180eᠠ ᠪᠢᠴᠢᠭ\u180b ᠦᠨ",
    "family": "The family 👨\u200d👩\u200d👧 waved",
    "rainbow": "the 🏳\ufe0f\u200d🌈 flag and a ❤\ufe0f heart",
    "England": "a \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f flag",
    "keycap": "press 1\ufe0f\u20e3 now",
    "younger than Python's Unicode": "a shaking \U0001fae8 face, and \U000323af",
    "ideograph's variant": "葛\U000e0100城市と葛\U000e0101飾区",
    "Hebrew with marks of direction": "שפת C++\u200e היא שפת תכנות (באנגלית: \u2066C++\u2069)",
    "Arabic with marks of direction": "الاسم\u200f: \u202bمحمد\u202c",
    "end of ayah": "قل هو الله أحد\u06dd الله الصمد",
    "somebody's own character": "渡\ue123さんの川",
    "what could not be read": "a \ufffd sign",
    "combining": "n\u0303o\u034f",
}
CHANGED = {
    "soft hyphens": ("Ver\xadfas\xadsungs\xadschutz", "Verfassungsschutz"),
    "a hyphen at the line's end": ("Informa\xad\ntion is and\xad\nThen", "Information is and\nThen"),
    "joiners in Latin text": ("a\u200dw\u200ba\u200ctermark", "awatermark"),
    "joiners in Han text": ("川\u200bは町\u200cの上", "川は町の上"),
    "byte-order marks": ("\ufeffOne\ufeff two", "One two"),
    "word joiner and invisible operators": ("f\u2061(x) 2\u2062y a\u2060b", "f(x) 2y ab"),
    "direction in Latin text": ("Shows \u200e\u202aright\u202c", "Shows right"),
    "direction by line": ("left\u200f\nשלום\u200f C", "left\nשלום\u200f C"),
    "selectors of nothing": ("hid\ufe0e\U000e0101\U000e0102den", "hidden"),
    "more than one selector": ("❤\ufe0f\U000e0101\U000e0102", "❤\ufe0f"),
    "tags outside flags": ("ask\U000e0001\U000e0041\U000e0042 me", "ask me"),
    "icons": ("\uf095 Call \ue019us\ue001", "Call us"),
    "C1 controls": ("don\x92t \x93go\x94\x85 c\x9cur \x80 5\x81", "don’t “go”… cœur € 5"),
    "controls": ("a\x00b\x08c\x1fd\x7fe é", "abcde é"),
    "line ends": ("a\rb\x0bc\x0cd\u2028e\u2029f\r\ng", "a\nb\nc\nd\ne\nf\ng"),
    "annotations and noncharacters": ("a\ufff9b\ufffcc\ufdd0d\uffff", "abcd"),
    "surrogates": ("a\ud800b é", "ab é"),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_spelling_is_kept(text: str) -> None:
    assert clean_text(text) == clean_text(clean_text(text)) == text.replace("n\u0303", "ñ")


@pytest.mark.parametrize(("text", "right"), CHANGED.values(), ids=CHANGED)
def test_what_means_nothing_goes(text: str, right: str) -> None:
    assert clean_text(text) == right


INVISIBLE = (
    "ab Z1\n\r\t\x00\x0b\x1f\x80\x85\x92\xad\u0301\u0308eéمیאक\u094dខ\u200b\u200c\u200d\u200e\u200f\u061c\u202a\u202c\u2028\u2060"
    "\u2066\ufe0f\U000e0101\U0001f3f4\U000e0067\U000e007f👨\ue000\uf8ff\ufeff\ufffc\u2126\u212a\u1100\u1161漢\u2000\u3000\u034f\ud800"
)


@given(st.text(st.sampled_from(INVISIBLE), max_size=14))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert clean_line(clean_line(text)) == clean_line(text)
    cleaned.encode()


def test_code_is_left_alone() -> None:
    text = "s = 'می\u200cخواهم\xad\ufeff\x85'  # \u202e\n"
    assert clean_code(text) == text


def as_references(text: str) -> str:
    return "".join(c if c.isascii() or (c.isprintable() and c.isalpha()) else f"&#x{ord(c):x};" for c in text)


@pytest.mark.parametrize("markup", ["text", "markdown"])
@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
@pytest.mark.parametrize("write", [str, as_references], ids=["characters", "references"])
@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_pages_keep_what_tables_keep(text: str, write, extractor: str, markup: str) -> None:  # type: ignore[no-untyped-def]
    """One text, one form: whether it comes from a page or as it is."""
    page = Page(b"1" * 16, "", html_page(write(text), text=write(f"{text}. {text}. " * 3)), 200, "text/html", "utf-8")
    extracted = PageExtractor.create(ExtractConfig(extractor=extractor, markup=markup), None).extract(page)  # type: ignore[arg-type]
    assert clean_line(f"{text}. {text}.") in " ".join(extracted.text.split())
    assert extracted.title == clean_line(text)


@pytest.mark.parametrize(
    ("text", "right"), [("don&#146;t &#133;", "don’t …"), ("Ver&shy;fassung", "Verfassung"), ("a\x0cb", "a b")]
)
def test_references_and_controls_in_pages(text: str, right: str) -> None:
    page = html_page(text=f"{text} is a sentence of some length, so that it is kept. " * 4)
    assert right in TrafilaturaExtractor().text(page)


@pytest.mark.parametrize("escaped", [False, True])
def test_articles_that_a_page_carries_as_data(escaped: bool) -> None:
    text = f"{KEPT['Persian']} {KEPT['Hebrew with marks of direction']} {KEPT['family']} C:\\\\u200c. "
    data = json.dumps({"@type": "NewsArticle", "articleBody": text * 4}, ensure_ascii=escaped)
    page = f"<html><script type='application/ld+json'>{data}</script><body><div id=app></div><p>x</p></body></html>"
    assert clean_line(text) in TrafilaturaExtractor().text(page.encode())


def test_carriers_are_not_taken_from_the_page() -> None:
    page = f"<p>{chr(0x14400)}{chr(0x14401)} می\u200cخواهم <span>\u200b</span><pre>a\n\n b</pre>".encode()
    hidden, carried = disguised(page)
    assert "\u200c" not in hidden.decode()
    assert restored(hidden.decode(), carried) == page.decode().replace("<span>\u200b</span>", "<span></span>")
    assert chr(0x14400) not in carried
    assert disguised(b"<p>&amp;zwnj; &lt;") == (b"<p>&amp;zwnj; &lt;", {})
