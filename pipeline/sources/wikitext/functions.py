"""Templates whose text is computed from their arguments. A function gets the name, the values and the wiki's language."""

import re
from collections.abc import Callable, Mapping

from pipeline.sources.wikitext.measures import MONTHS, convert, group_digits, parse_number, spelled_date
from pipeline.sources.wikitext.preprocess import GAP
from pipeline.sources.wikitext.values import Arguments

LANGUAGE_NAMES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "af": "Afrikaans", "am": "Amharic", "ang": "Old English", "ar": "Arabic", "arc": "Imperial Aramaic", "az": "Azerbaijani",
        "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan", "br": "Breton", "bs": "Bosnian", "ca": "Catalan",
        "cop": "Coptic", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "eo": "Esperanto",
        "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French", "fro": "Old French",
        "fy": "West Frisian", "ga": "Irish", "gd": "Scottish Gaelic", "gl": "Galician", "grc": "Ancient Greek", "gu": "Gujarati",
        "ha": "Hausa", "haw": "Hawaiian", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian",
        "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian",
        "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "ku": "Kurdish", "ky": "Kyrgyz", "la": "Latin",
        "lb": "Luxembourgish", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mi": "Māori", "mk": "Macedonian",
        "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese", "my": "Burmese",
        "nah": "Nahuatl", "nds": "Low German", "ne": "Nepali", "nl": "Dutch", "nn": "Norwegian Nynorsk", "no": "Norwegian",
        "nb": "Norwegian Bokmål", "non": "Old Norse", "oc": "Occitan", "or": "Odia", "pa": "Punjabi", "pl": "Polish",
        "ps": "Pashto", "pt": "Portuguese", "qu": "Quechua", "rm": "Romansh", "ro": "Romanian", "ru": "Russian",
        "sa": "Sanskrit", "sco": "Scots", "sh": "Serbo-Croatian", "si": "Sinhala", "sk": "Slovak", "sl": "Slovene",
        "so": "Somali", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "syc": "Classical Syriac",
        "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tl": "Tagalog", "tr": "Turkish",
        "tt": "Tatar", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "wa": "Walloon", "yi": "Yiddish",
        "yo": "Yoruba", "yue": "Cantonese", "zh": "Chinese", "zu": "Zulu",
    },
    "de": {
        "ar": "arabisch", "bg": "bulgarisch", "cs": "tschechisch", "da": "dänisch", "el": "griechisch", "en": "englisch",
        "es": "spanisch", "fa": "persisch", "fi": "finnisch", "fr": "französisch", "grc": "altgriechisch", "he": "hebräisch",
        "hu": "ungarisch", "it": "italienisch", "ja": "japanisch", "ko": "koreanisch", "la": "lateinisch",
        "nl": "niederländisch", "pl": "polnisch", "pt": "portugiesisch", "ro": "rumänisch", "ru": "russisch",
        "sa": "Sanskrit", "sl": "slowenisch", "sr": "serbisch", "sv": "schwedisch", "tr": "türkisch", "uk": "ukrainisch",
        "zh": "chinesisch",
    },
    "es": {
        "ar": "en árabe", "de": "en alemán", "el": "en griego", "en": "en inglés", "fr": "en francés", "he": "en hebreo",
        "it": "en italiano", "ja": "en japonés", "ko": "en coreano", "la": "en latín", "pt": "en portugués", "ru": "en ruso",
        "zh": "en chino",
    },
    "pt": {
        "ar": "em árabe", "de": "em alemão", "el": "em grego", "en": "em inglês", "es": "em castelhano", "fr": "em francês",
        "it": "em italiano", "ja": "em japonês", "la": "em latim", "ru": "em russo", "zh": "em chinês",
    },
    "ru": {
        "ar": "араб.", "be": "белор.", "bg": "болг.", "cs": "чеш.", "de": "нем.", "el": "греч.", "en": "англ.", "es": "исп.",
        "fa": "перс.", "fi": "фин.", "fr": "фр.", "grc": "др.-греч.", "he": "ивр.", "hu": "венг.", "it": "итал.", "ja": "яп.",
        "ka": "груз.", "kk": "каз.", "ko": "кор.", "la": "лат.", "nl": "нидерл.", "pl": "польск.", "pt": "порт.", "ro": "рум.",
        "sv": "швед.", "tr": "тур.", "tt": "тат.", "uk": "укр.", "zh": "кит.",
    },
    "ja": {
        "ar": "アラビア語", "de": "ドイツ語", "el": "ギリシア語", "en": "英語", "es": "スペイン語", "fr": "フランス語", "he": "ヘブライ語",
        "it": "イタリア語", "ko": "朝鮮語", "la": "ラテン語", "nl": "オランダ語", "pl": "ポーランド語", "pt": "ポルトガル語", "ru": "ロシア語",
        "zh": "中国語",
    },
    "ko": {
        "ar": "아랍어", "de": "독일어", "el": "그리스어", "en": "영어", "es": "스페인어", "fr": "프랑스어", "it": "이탈리아어",
        "ja": "일본어", "la": "라틴어", "ru": "러시아어", "zh": "중국어",
    },
    "zh": {
        "ar": "阿拉伯语", "de": "德语", "el": "希腊语", "en": "英语", "es": "西班牙语", "fr": "法语", "it": "意大利语", "ja": "日语",
        "ko": "韩语", "la": "拉丁语", "pt": "葡萄牙语", "ru": "俄语", "vi": "越南语",
    },
}  # fmt: skip
_MONTHS_RU = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
_MONTHS_ES = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()


def english_label(code: str) -> str:
    names = LANGUAGE_NAMES["en"]
    return names.get(code) or names.get(code.split("-")[0], "")


def _quote(_name: str, values: Arguments, _language: str) -> str:
    text = values.first("text", "quote", "quotation", "1", "cita", "content")
    author = values.first("author", "sign", "by", "2", "character", "cite", "attribution")
    source = values.first("source", "title", "3")
    credit = ", ".join(part for part in (author, source) if part)
    return f"\n{text}\n" + (f"— {credit}\n" if credit and text else "")


def _convert(name: str, values: Arguments, _language: str) -> str:
    return convert(values.positional(), values, abbreviate=name in ("cvt", "convert abbreviated")) or GAP


def _fraction(name: str, values: Arguments, _language: str) -> str:
    parts = values.positional()
    line = "/" if name.startswith("sfrac") or name == "tfrac" else "⁄"
    if not parts:
        return "⁄"
    if len(parts) == 1:
        return f"1{line}{parts[0]}"
    if len(parts) == 2:
        return f"{parts[0]}{line}{parts[1]}"
    return f"{parts[0]}{' ' if line == '/' else '+'}{parts[1]}{line}{parts[2]}"


def _val(_name: str, values: Arguments, _language: str) -> str:
    """``{{val|1.23|0.05|e=5|u=m/s}}`` → 1.23±0.05×10^5 m/s."""
    parts = values.positional()
    number = group_digits(parts[0].replace("-", "−")) if parts else ""
    if len(parts) > 2:
        number += f"+{parts[1].lstrip('+')}−{parts[2].lstrip('-−')}"
    elif len(parts) > 1:
        number += parts[1] if parts[1].startswith("(") else f"±{parts[1]}"
    power = values.first("e")
    if power:
        number = f"({number})" if "±" in number else number
        number += ("×" if number else "") + f"10{'' if power.startswith('^') else '^'}{power.replace('-', '−')}"
    unit = values.first("u", "ul")
    below = values.first("up", "upl")
    text = values.first("p") + number + values.first("s")
    if unit:
        text += ("" if unit.startswith(("%", "°", "′", "″")) and unit != "°C" else " ") + unit
    return text + (f"/{below}" if below else "")


def _as_of(_name: str, values: Arguments, _language: str) -> str:
    when = spelled_date(values.first("1"), values.first("2"), values.first("3"), values.first("df") not in ("us", "US"))
    if alternative := values.first("alt"):
        return alternative
    lead = "since" if values.first("since") in ("y", "yes") else "as of"
    return f"{lead if values.first('lc') in ('y', 'yes', 'on') else lead.capitalize()} {when}{values.first('post')}"


def _date(name: str, values: Arguments, _language: str) -> str:
    """Dates of births, deaths, beginnings: year, month, day; without the age, which changes."""
    year, month, day = values.first("1", "year"), values.first("2", "month"), values.first("3", "day")
    if not (year or month):
        return GAP
    day_first = values.first("df") in ("y", "yes", "on", "1")
    if not parse_number(month or "1") and month[:3].title() not in {long[:3] for long in MONTHS}:
        return " ".join(part for part in (year, month, day) if part)
    if name.startswith("birth year"):
        return year
    return spelled_date(year, month, day, day_first)


def _film_date(_name: str, values: Arguments, _language: str) -> str:
    parts = [*values.positional(), "", ""]
    dates = [spelled_date(parts[at], parts[at + 1], parts[at + 2]) for at in range(0, len(parts) - 2, 4)]
    return ", ".join(date for date in dates if date)


def _russian_date(_name: str, values: Arguments, _language: str) -> str:
    parts = values.positional()[:3]
    if len(parts) > 1 and parts[1].isdigit() and 1 <= int(parts[1]) <= 12:
        parts[1] = _MONTHS_RU[int(parts[1]) - 1]
    return " ".join(parts)


def _spanish_date(_name: str, values: Arguments, _language: str) -> str:
    parts = values.positional()[:3]
    if len(parts) > 1 and parts[1].isdigit() and 1 <= int(parts[1]) <= 12:
        parts[1] = _MONTHS_ES[int(parts[1]) - 1]
    return " de ".join(parts)


def _french_unit(_name: str, values: Arguments, _language: str) -> str:
    """``{{unité|12|km}}``, ``{{unité|10|m|s|-1}}``, ``{{unité|5.2 km}}``."""
    parts = values.positional()
    number, units = (parts[0] if parts else ""), parts[1:]
    digits = number.replace(" ", "")
    number = group_digits(digits, "\u202f", ",") if parse_number(digits) is not None else number
    text, before = number, ""
    for unit in units:
        power = re.fullmatch(r"[-−]?\d", unit) and before
        text += unit.replace("-", "−") if power else (f"⋅{unit}" if before else f" {unit}")
        before = unit
    return text


def _italian_unit(_name: str, values: Arguments, _language: str) -> str:
    unit = values.first("ul", "u", "2")
    return f"{values.first('1')} {unit}".strip()


def _listed(name: str, values: Arguments, _language: str) -> str:
    """Lists given as arguments: one item a line, or in one line."""
    items = [item for item in values.positional() if item]
    if name in ("hlist", "flatlist", "horizontal list", "cslist", "comma separated entries", "flat list"):
        if len(items) == 1:  # {{flatlist|* one * two}}
            return f"\n{items[0]}\n"
        return (", " if name.startswith(("cs", "comma")) else " · ").join(items)
    if name in ("plainlist", "plain list", "startplainlist", "collapsible list") and len(items) <= 1:
        return f"\n{values.first('1', 'list')}\n"
    mark = "#" if name.startswith(("ordered", "ol")) else "*"
    return "\n" + "".join(f"{mark} {item}\n" for item in items)


def _ordinal(_name: str, values: Arguments, _language: str) -> str:
    text = values.first("1")
    if not text.isdigit():
        return text
    ending = "th" if 10 <= int(text[-2:]) <= 20 else {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")
    return f"{text}{ending}"


def _number(_name: str, values: Arguments, language: str) -> str:
    text = values.first("1")
    if language in ("ru", "uk"):
        return group_digits(text, "\u00a0", ",") + (f" {values.first('2')}" if values.first("2") else "")
    return group_digits(text)


def _japanese(_name: str, values: Arguments, _language: str) -> str:
    english, kanji, romaji = values.first("1"), values.first("2"), values.first("3")
    extra = values.first("4", "extra")
    inner = ", ".join(part for part in (kanji, romaji, extra) if part)
    if not english:
        return inner
    return english + (f" ({inner})" if inner else "") + (f" {values.first('5')}" if values.first("5") else "")


def _chinese(_name: str, values: Arguments, _language: str) -> str:
    kinds = (
        ("c", "Chinese"), ("s", "simplified Chinese"), ("t", "traditional Chinese"), ("p", "pinyin"), ("w", "Wade–Giles"),
        ("j", "Jyutping"), ("y", "Cantonese Yale"), ("poj", "Pe̍h-ōe-jī"), ("l", "lit."),
    )  # fmt: skip
    found = [f"{label}: {values.first(key)}" for key, label in kinds if values.first(key)]
    return "; ".join(found) or values.first("1") or GAP


def _korean(_name: str, values: Arguments, _language: str) -> str:
    kinds = (("hangul", "Korean"), ("hanja", "Hanja"), ("rr", "RR"), ("mr", "MR"), ("lit", "lit."))
    found = [f"{label}: {values.first(key)}" for key, label in kinds if values.first(key)]
    return "; ".join(found) or values.first("1") or GAP


def _language_text(_name: str, values: Arguments, language: str) -> str:
    """``{{langx|fr|texte}}`` → French: texte."""
    code, text = values.first("1").lower(), values.first("2", "text")
    if not text:
        return GAP
    label = english_label(code) if language == "en" else LANGUAGE_NAMES.get(language, {}).get(code.split("-")[0], "")
    if values.first("label") == "none":
        label = ""
    literal = values.first("lit", "translation", "4") if language == "en" else ""
    return f"{label}: {text}" * bool(label) + text * (not label) + (f", lit. '{literal}'" if literal else "")


def _german_language(name: str, values: Arguments, _language: str) -> str:
    """``{{enS|word}}`` → englisch word."""
    label = LANGUAGE_NAMES["de"].get(name.removesuffix("s"), "")
    return f"{label} {values.first('1')}".strip()


def _ship(name: str, values: Arguments, _language: str) -> str:
    if name == "ship":
        return f"{values.first('1')} {values.first('2')}".strip()
    hull = values.first("2")
    option = values.first("3")
    text = f"{name.upper()} {values.first('1')}"
    return f"{text} ({hull})" if hull and option not in ("2", "3", "6") and name == "uss" else text


def _chemical(_name: str, values: Arguments, _language: str) -> str:
    return "".join(values.positional())


def _height(_name: str, values: Arguments, _language: str) -> str:
    if values.first("m") or values.first("cm"):
        unit = "m" if values.first("m") else "cm"
        return convert([values.first(unit), unit, "ft"], {"abbr": "on"}) or GAP
    feet, inches = values.first("ft"), values.first("in", "inch") or "0"
    return convert([feet, "ft", inches, "in", "m"], {"abbr": "on"}) or GAP if feet else GAP


def _duration(_name: str, values: Arguments, _language: str) -> str:
    hours, minutes, seconds = (values.first(*names) for names in (("h", "1"), ("m", "2"), ("s", "3")))
    clock = [hours] if hours else []
    clock += [minutes.rjust(2, "0") if hours else (minutes or "0"), (seconds or "0").rjust(2, "0")]
    return ":".join(clock)


def _century(name: str, values: Arguments, _language: str) -> str:
    number = values.first("1")
    if name == "siglo":
        era = {"a": " a. C.", "d": " d. C."}.get(values.first("2"), "")
        return f"{'siglo ' if values.first('3') else ''}{number}{era}" if number else GAP
    return f"{number}{values.first('2') or 'e'} siècle" if number else GAP


def _chinese_link(name: str, values: Arguments, _language: str) -> str:
    """Links to articles that only another Wikipedia has: ``{{le|中文|English|显示}}``, ``{{tsl|en|English|中文|显示}}``."""
    return values.first("4", "3", "2") if name in ("tsl", "translink", "ilh") else values.first("d", "3", "1")


def _gaps(_name: str, values: Arguments, _language: str) -> str:
    return " ".join(values.positional())


def _joined(_name: str, values: Arguments, _language: str) -> str:
    return "".join(values.positional())


def _respell(_name: str, values: Arguments, _language: str) -> str:
    return "-".join(part for part in values.positional() if part)


def _age(_name: str, values: Arguments, _language: str) -> str:
    parts = values.positional()
    if len(parts) < 6 or not all(part.isdigit() for part in parts[:6]):
        return GAP
    born, then = [int(part) for part in parts[:3]], [int(part) for part in parts[3:6]]
    return str(then[0] - born[0] - (then[1:] < born[1:]))


def _code(_name: str, values: Arguments, _language: str) -> str:
    return values.first("code", "2" if values.first("2") and not values.first("lang") else "1", "1")


def _template_link(_name: str, values: Arguments, _language: str) -> str:
    parts = [part for part in values.positional() if part]
    return f"&#123;&#123;{'&#124;'.join(parts)}&#125;&#125;"


Function = Callable[[str, Arguments, str], str]
_NAMES: dict[Function, str] = {
    _quote: "quote|blockquote|quotation|cquote|rquote|bquote|quote box|pull quote|centered pull quote|poem quote|poemquote|"
    "quote block|long quotation|epigraph|verse quote|quoted|block quote|quotebox|quote frame|excerpt quote",
    _convert: "convert|cvt|conv|unit conversion|convert abbreviated",
    _fraction: "frac|sfrac|fraction|fract|tfrac|dfrac|sfracn|bruch|fracción|дробь|frac2",
    _val: "val|value|ml value|nombre scientifique",
    _as_of: "as of|asof|as-of",
    _date: "birth date|birth-date|birth date and age|birth-date and age|death date|death-date|death date and age|"
    "death-date and age|start date|start-date|end date|end-date|start date and age|dts|date|dob|bda|dda|bd|birth year and age|"
    "launch date|event date|founded|date table sorting|birthdate|deathdate|start and end dates",
    _film_date: "film date|filmdate|release date",
    _russian_date: "датарождения|дата рождения|дата смерти|родился|умер|дата|дата народження|дата смерті",
    _spanish_date: "fecha|fecha de nacimiento|fecha de fallecimiento|fecha de inicio",
    _french_unit: "unité|unite|nombre|nb|unité/2",
    _italian_unit: "m|unità",
    _listed: "plainlist|plain list|unbulleted list|ubl|ublist|ulist|hlist|flatlist|horizontal list|bulleted list|blist|"
    "ordered list|cslist|collapsible list|vunblist|indented plainlist|olist|columns-list|div col list|flat list",
    _ordinal: "ordinal|ord|nth|ordinal number|rank",
    _number: "nts|number table sorting|formatnum|num|number|ntsh|commas|число|fmtn|formatnumber|format number",
    _japanese: "nihongo|nihongo2|japanese",
    _chinese: "zh|lang-zh|zh-cp|zh-t|zh-s|zh-tp|zh-sp|chinese name|lang-zhs",
    _korean: "korean|ko-hhrm|lang-ko-hhrm|kor|ko hhrm",
    _language_text: "langx|lang-x|language with name|lang-with-name",
    _german_language: "|".join(f"{code}s" for code in LANGUAGE_NAMES["de"]),
    _ship: "ship|hms|uss|rms|ss|mv|sms|hmcs|hmas|rv|hmnzs|ins|uscgc|usns|ps|ts|tss|gts|hnlms|hdms|hswms|hnoms",
    _chemical: "chem|chem2|chemf|formula|chem name",
    _height: "height|ht",
    _duration: "duration|durée|length of time|runtime",
    _century: "siglo|siècle",
    _chinese_link: "le|tsl|translink|ilh|link|internal link helper|仮リンク/zh|link-interwiki",
    _gaps: "gaps|gapnum|digits",
    _joined: "nuclide|nuclide2|simplenuclide|simplenuclide2|su|smallcaps joined|music|subsup|subsub|ph|shy|shy-hyphen",
    _respell: "respell|pronunciation respelling|usdict",
    _age: "age|age in years|age at date|ageatdate",
    _code: "code|codes|syntaxhighlight|source|inline code|python|java code|c code",
    _template_link: "tl|tlx|tlp|tlc|template link|template|tls|tn",
}  # fmt: skip
FUNCTIONS: Mapping[str, Function] = {name: function for function, names in _NAMES.items() for name in names.split("|")}
