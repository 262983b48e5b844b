"""Templates whose text is computed from their arguments. A function gets the name, the values and the wiki's language."""

import re
from collections.abc import Callable, Mapping

from pipeline.sources.wikitext.languages import LANGUAGE_NAMES, language_text
from pipeline.sources.wikitext.measures import MONTHS, convert, group_digits, parse_number, spelled_date
from pipeline.sources.wikitext.names import LANGUAGE_PREFIXES
from pipeline.sources.wikitext.preprocess import GAP
from pipeline.sources.wikitext.values import Arguments

_MONTHS_RU = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
_MONTHS_ES = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()


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
    return " ".join(_day_month_year(values, _MONTHS_RU))


def _spanish_date(_name: str, values: Arguments, _language: str) -> str:
    return " de ".join(_day_month_year(values, _MONTHS_ES))


def _day_month_year(values: Arguments, months: list[str]) -> list[str]:
    parts = values.positional()[:3]
    if len(parts) > 1 and parts[1].isdigit() and 1 <= int(parts[1]) <= 12:
        parts[1] = months[int(parts[1]) - 1]
    return parts


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
    if name == "columns-list":  # {{columns-list|2|…}}, {{columns-list|colwidth=20em|…}}
        return f"\n{items[-1]}\n" if items else GAP
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
    return language_text(values.first("1").lower(), values, language, at=2)


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
    """``{{chem|SO|4|2-}}`` → SO42−: a charge has a true minus."""
    return "".join(re.sub(r"\A(\d*)-\Z", r"\1−", part) for part in values.positional())


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


def _interlanguage_link(_name: str, values: Arguments, _language: str) -> str:
    """``{{ill|Title|de|Titel}}``; formerly ``{{ill|de|Title|Titel|label}}``."""
    if values.first("1") in LANGUAGE_PREFIXES and values.first("2") and values.first("2") not in LANGUAGE_PREFIXES:
        return values.first("lt", "4", "2")
    return values.first("lt", "display", "3_label", "1", "en") or GAP


def _coordinates(_name: str, values: Arguments, _language: str) -> str:
    """``{{coord|57|18|N|4|27|W|type:city}}`` → 57°18′N 4°27′W; nothing where it is shown beside the title only."""
    if values.first("display", "disp") in ("title", "t"):
        return GAP
    shown, numbers = [""], 0
    parts = [part for part in values.positional() if part and ":" not in part]
    for part in parts:
        if part.upper() in ("N", "S", "E", "W"):
            shown[-1] += part.upper()
            shown.append("")
            numbers = 0
        elif parse_number(part) is not None and numbers < 3:
            shown[-1] += part + "°′″"[numbers]
            numbers += 1
    if len(shown) == 1 and numbers == 2:
        (north, east), (above, beside) = parts[:2], ("NS", "EW")
        marks = (above[north.startswith(("-", "−"))], beside[east.startswith(("-", "−"))])
        return " ".join(f"{part.lstrip('-−+')}°{mark}" for part, mark in zip((north, east), marks, strict=True))
    return " ".join(filter(None, shown)) or GAP


def _music(_name: str, values: Arguments, _language: str) -> str:
    parts = values.positional()
    if parts[:1] in (["time"], ["time signature"]):
        return "/".join(parts[1:])
    signs = {
        "flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮", "doubleflat": "𝄫", "bb": "𝄫", "doublesharp": "𝄪",
        "##": "𝄪", "x": "𝄪",
    }  # fmt: skip
    return "".join(signs.get(part, part) for part in parts)


_GAUGES = {
    "600": "1 ft 11+5⁄8 in", "610": "2 ft", "750": "2 ft 5+1⁄2 in", "760": "2 ft 5+15⁄16 in", "762": "2 ft 6 in",
    "891": "2 ft 11+3⁄32 in", "914": "3 ft", "1000": "3 ft 3+3⁄8 in", "1067": "3 ft 6 in", "1372": "4 ft 6 in",
    "1435": "4 ft 8+1⁄2 in", "1520": "4 ft 11+27⁄32 in", "1524": "5 ft", "1600": "5 ft 3 in", "1668": "5 ft 5+21⁄32 in",
    "1676": "5 ft 6 in",
}  # fmt: skip
_GAUGE_NAMES = {"1000": " metre gauge", "1435": " standard gauge", "1668": " Iberian gauge"}


def _track_gauge(_name: str, values: Arguments, _language: str) -> str:
    """``{{RailGauge|1435mm}}`` → 1,435 mm (4 ft 8+1⁄2 in)."""
    given = values.first("1")
    width = given.removesuffix("mm").strip().replace(",", "")
    if width not in _GAUGES:
        return given
    text = f"{group_digits(width)} mm" + (f" ({_GAUGES[width]})" if values.first("disp") != "1" else "")
    return text + (_GAUGE_NAMES.get(width, "") if values.first("al", "allk") == "on" else "")


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
    _chinese_link: "le|tsl|translink|ilh|link|internal link helper|仮リンク/zh",
    _interlanguage_link: "ill|interlanguage link|interlanguage link multi|illm|link-interwiki|ill2|"
    "interlanguage link forced|red link|redlink",
    _coordinates: "coord|coor dms|coor dm|coor d|coor at dms",
    _music: "music",
    _track_gauge: "railgauge|track gauge|rail gauge",
    _gaps: "gaps|gapnum|digits",
    _joined: "nuclide|nuclide2|simplenuclide|simplenuclide2|su|smallcaps joined|subsup|subsub|ph|shy|shy-hyphen",
    _respell: "respell|pronunciation respelling|usdict",
    _age: "age|age in years|age at date|ageatdate",
    _code: "code|codes|syntaxhighlight|source|inline code|python|java code|c code",
    _template_link: "tl|tlx|tlp|tlc|template link|template|tls|tn",
}  # fmt: skip
FUNCTIONS: Mapping[str, Function] = {name: function for function, names in _NAMES.items() for name in names.split("|")}
