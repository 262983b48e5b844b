"""Labels and decoders of the web's encodings: the standard's tables, and what browsers show for each label."""

import hashlib

import pytest
import webencodings

from pipeline.extract.charsets import TWO_BYTES, decode_as, encoding_named
from pipeline.extract.decode import decode, encoding_in_markup, is_binary
from pipeline.extract.refusal import Refused

# Of all bytes and, in encodings of two bytes, all pairs that mean something: "bytes, UTF-8, line feed" of each, by
# another implementation of the standard (the npm package @exodus/bytes 1.16).
TABLES = {
    "ibm866": "39e1871eda4a2682",
    "iso-8859-2": "f79150e2bf13f8dc",
    "iso-8859-3": "509688318afb4734",
    "iso-8859-4": "96f1a0b05fb3bf97",
    "iso-8859-5": "1f48f1454f782a18",
    "iso-8859-6": "8f7b71b896c9823a",
    "iso-8859-7": "e6b61c06c13f3c2c",
    "iso-8859-8": "5339231b7294cd05",
    "iso-8859-8-i": "5339231b7294cd05",
    "iso-8859-10": "07b03a2c06c776d1",
    "iso-8859-13": "e69bdc22de35495b",
    "iso-8859-14": "5bb322af9588b278",
    "iso-8859-15": "6a31ff33eca224a6",
    "iso-8859-16": "11e6d35ea11c9d4b",
    "koi8-r": "66ce5eaf7ba79703",
    "koi8-u": "650e0a0db25004dd",
    "macintosh": "40a8e87d8fd7ba2f",
    "windows-874": "46c962e545a3b20e",
    "windows-1250": "f66f0f693a0efb74",
    "windows-1251": "7dfd16367e80cc1b",
    "windows-1252": "1cd07bd619bcc8c2",
    "windows-1253": "24ee0edafe05c1ab",
    "windows-1254": "720fd245cc09f5ee",
    "windows-1255": "94fb6f2ec3e10c36",
    "windows-1256": "8fa1e0d4ea003f26",
    "windows-1257": "48a38b6fbc4e7f23",
    "windows-1258": "af6bcfdd8dbe8f83",
    "x-mac-cyrillic": "a507d70507b2eb2b",
    "x-user-defined": "f6452dba10d7c8c3",
    "big5": "f5f6a8d01d45f6fd",
    "euc-kr": "fe99d9153903e31f",
    "shift_jis": "b657a7cb91cdea97",
    "euc-jp": "5b92cc078a176cbb",
    "gbk": "1c1750239f0d30c0",
    "gb18030": "1c1750239f0d30c0",
}
# What a narrower codec of the same name loses, by the encoding's name in the standard.
EXTENSIONS = {
    "utf-8": ("F09F9880", "😀"),
    "ibm866": ("F8F7FC", "°ў№"),
    "iso-8859-2": ("A5B5", "Ľľ"),
    "iso-8859-3": ("A6B6", "Ĥĥ"),
    "iso-8859-4": ("A2B3", "ĸŗ"),
    "iso-8859-5": ("F0FF", "№џ"),
    "iso-8859-6": ("C7E1", "اف"),
    "iso-8859-7": ("A4A5AA", "€₯ͺ"),
    "iso-8859-8": ("FDE0", "\u200eא"),
    "iso-8859-8-i": ("E0FE", "א\u200f"),
    "iso-8859-10": ("A1B1BD", "Ąą―"),
    "iso-8859-13": ("A1FF", "”’"),
    "iso-8859-14": ("A1F0", "Ḃŵ"),
    "iso-8859-15": ("A4BD", "€œ"),
    "iso-8859-16": ("A4DE", "€Ț"),
    "koi8-r": ("A3B3", "ёЁ"),
    "koi8-u": ("AEBEA4", "ўЎє"),
    "macintosh": ("DBF0", "€\uf8ff"),
    "windows-874": ("9385C594", "“…ล”"),
    "windows-1250": ("8A9C", "Šś"),
    "windows-1251": ("88B9", "€№"),
    "windows-1252": ("8093998C", "€“™Œ"),
    "windows-1253": ("A193", "΅“"),
    "windows-1254": ("80D0", "€Ğ"),
    "windows-1255": ("A4CA", "₪\u05ba"),
    "windows-1256": ("8190", "پگ"),
    "windows-1257": ("8D8E", "¨ˇ"),
    "windows-1258": ("FED2", "₫\u0309"),
    "x-mac-cyrillic": ("A2B6FF", "Ґґ€"),
    "gbk": ("80A2E381308130A6D9FE59", "€€\x80︐龴"),
    "gb18030": ("9439DA33A8BC", "💩ḿ"),
    "big5": ("8866F9D6A145C8CDA24187D0", "Ê碁‧￢∕箮"),
    "euc-jp": ("ADA18FB0A1A1C1FCFCADEA", "①丂～￤㈱"),
    "iso-2022-jp": ("1B24422D212D6A1B284231", "①㈱1"),
    "shift_jis": ("8740FBFC818FEAA4F040", "①髙￥熙\ue000"),
    "euc-kr": ("81418C6396C5A2E6", "갂똠뽅€"),
    "utf-16be": ("00650301D83DDE00", "e\u0301😀"),
    "utf-16le": ("650001033DD800DE", "e\u0301😀"),
    "x-user-defined": ("41FF", "A\uf7ff"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_standards(name: str) -> None:
    leads = range(0x80, 0x100)
    pairs = [bytes([lead]) for lead in leads] + [bytes([lead, trail]) for lead in leads for trail in range(0x20, 0x100)]
    digest = hashlib.sha256()
    for item in pairs if name in TWO_BYTES else [bytes([code]) for code in range(256)]:
        if "\ufffd" not in (text := decode_as(item, name, "replace")):
            digest.update(item + text.encode() + b"\n")
    assert digest.hexdigest().startswith(TABLES[name])


@pytest.mark.parametrize(("label", "name"), sorted(webencodings.labels.LABELS.items()))
def test_every_label_of_the_standard_keeps_its_own_characters(label: str, name: str) -> None:
    if name == "replacement":
        return
    packed, text = EXTENSIONS[name]
    assert encoding_named(f" {label.upper()}\n") == name
    body = (b"" if name.startswith("utf-16") else b"<p>") + bytes.fromhex(packed)
    assert decode(body, label).text.removeprefix("<p>") == text


def test_labels_that_the_standard_refuses_are_read() -> None:
    assert decode(b"<p>~{<:Ky2;S{#,NpJ)l6HK!#~}", "hz-gb-2312").text == "<p>己所不欲，勿施於人。"
    korean = "<p>한국어".encode("iso2022_kr")
    assert decode(korean, "iso-2022-kr").text == decode(korean).text == "<p>한국어"
    with pytest.raises(Refused) as caught:
        decode(b"<p>\x1b$)A\x0e=;;;\x0f", "iso-2022-cn")
    assert (caught.value.verdict, caught.value.rule) == ("failed", "encoding")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("MS932", "shift_jis"),
        ("'cp936'", "gbk"),
        ("ISO8859_15", "iso-8859-15"),
        ("tis620", "windows-874"),
        ("win-1251", "windows-1251"),
        ("windows1250", "windows-1250"),
        ("windows-cp1252", "windows-1252"),
        ("Big-5", "big5"),
        ("cp437", "cp437"),
        ("kz-1048", "kz1048"),
        ("utf-7", None),
        ("cp037", None),  # EBCDIC: an ASCII page would turn into signs
        ("rot13", None),
        ("unicode_escape", None),
        ("ütf-8", None),
        ("", None),
    ],
)
def test_labels_beside_the_standard(label: str, name: str | None) -> None:
    assert encoding_named(label) == name


@pytest.mark.parametrize(
    ("markup", "name"),
    [
        (b"<meta charset=gb2312>", "gbk"),
        (b"<META CHARSET = 'Big5' />", "big5"),
        (b'<meta content="text/html;charset=euc-kr" http-equiv="Content-Type">', "euc-kr"),
        (b"<meta http-equiv=content-type content='text/html; charset=\"windows-874\"'>", "windows-874"),
        (b'<?xml version="1.0" encoding="ISO-8859-2"?><html>', "iso-8859-2"),
        (b"<!-- <meta charset=koi8-r> --><meta charset=koi8-u>", "koi8-u"),
        (b"<meta charset=nonsense><meta charset=koi8-u>", "koi8-u"),
        (b'<meta name=description content="set charset=koi8-r in the header"><p>', None),
        (b"<meta charset=utf-16>", "utf-8"),
        (b"<meta charset=x-user-defined>", "windows-1252"),
        (b"<p>charset=koi8-r", None),
        (b" " * 5000 + b"<meta charset=koi8-r>", "koi8-r"),
    ],
)
def test_the_encoding_in_the_markup(markup: bytes, name: str | None) -> None:
    assert encoding_in_markup(markup) == name


CHINESE = "<html><title>书</title><p>这本书的作者住在河边，他每天早上都去散步。</html>"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("header", ["", "utf-16", "utf-8"])
def test_utf_16_without_a_mark(codec: str, header: str) -> None:
    assert decode(CHINESE.encode(codec), header).text == CHINESE


def test_a_header_that_says_utf_16_of_another_page_is_not_believed() -> None:
    assert decode(CHINESE.encode(), "utf-16").text == CHINESE
    assert decode(b"<p>plain", "utf-16le").text == "<p>plain"


def test_undeclared_iso_2022_jp_is_not_taken_for_ascii() -> None:
    assert decode("<p>川は町の上の丘から始まる".encode("iso2022_jp")).text == "<p>川は町の上の丘から始まる"


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp949", "한국어 문장입니다. 뷁이라는 말이 나온다."),
        ("cp932", "①申込書を書く。②㈱髙島屋へ送る。"),
        ("gb18030", "门票价格是二十欧元，也就是€20。"),
        ("big5", "這本書的作者住在河邊，他每天早上都去散步。"),
        ("big5hkscs", "佢哋喺度食嘢，啲嘢好好食，佢話唔該晒。今日天氣好好"),
        ("cp874", "“สวัสดีครับ” เขาพูด – แล้วเดินไปที่แม่น้ำ …"),
        ("cp1250", "Řeka začíná v kopcích nad městem, příliš žluťoučký"),
        ("cp1251", "Река начинается в холмах над городом"),
        ("cp1251", "Річка починається в горах і тече крізь усе місто до моря, її вода чиста."),
        ("koi8-u", "Річка починається в горах і тече крізь усе місто до моря, її вода чиста."),
        ("big5hkscs", "河流發源於山中，流經整個城市，最後匯入大海，水很清。" * 6),
        ("cp1252", "Le cœur de l’été à Orléans “déjà vu” où naît l’œuvre"),
        ("cp1252", "Größe, Übung, süß, Äpfel, über, für, Öl, schön, Straße"),
    ],
)
def test_undeclared_encodings(codec: str, text: str) -> None:
    assert decode(f"<p>{text}".encode(codec)).text == f"<p>{text}"


@pytest.mark.parametrize("label", ["shift_jis", "gb2312", "big5", "euc-kr", "euc-jp", "utf-8"])
def test_a_page_cut_within_a_character_keeps_its_encoding(label: str) -> None:
    text = "<p>" + "山水日月" * 20
    decoded = decode(text.encode(label)[:-1], label)
    assert (decoded.text, decoded.evidence) == (text[:-1], "header")


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        (b"The caf\xe9 is open. ", "utf-8", "The café is open. "),
        ("It’s a “plain” page. ".encode(), "iso-8859-1", "It’s a “plain” page. "),
        ("A café page. ".encode(), "windows-1252", "A café page. "),
        (b"M\xe4nner \xa9 2020. ", "", "Männer © 2020. "),
    ],
)
def test_a_few_letters_beside_ascii_tell_the_encoding(body: bytes, header: str, text: str) -> None:
    assert decode(body + b"plain words " * 100, header).text.startswith(text)


def test_bytes_that_mean_nothing_spoil_no_tag() -> None:
    page = ("<p>" + "日本" * 200).encode("shift_jis") + b"\x82<b>" + "日".encode("shift_jis")
    assert decode(page, "shift_jis").text.endswith("日本\ufffd<b>日")


@pytest.mark.parametrize(
    ("body", "binary"),
    [
        (b"%PDF-1.7 text follows", True),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", True),
        (b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff\0\0\xb8\0\0\0\0\0\0\0@" + bytes(60), True),
        (bytes(range(256)) * 4, True),
        (b"<p>One\0 zero, and more text\0\0", False),
        (b"<html>" + bytes(200) + b"<p>" + b"words " * 100, False),
        ("<p>Wörter".encode("latin-1"), False),
        (CHINESE.encode("utf-16-le"), False),
        (CHINESE.encode("gb18030"), False),
    ],
)
def test_binary_is_judged_after_decoding(body: bytes, binary: bool) -> None:
    assert is_binary(body, decode(body).text) is binary
