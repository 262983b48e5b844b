"""Text in other languages and how words are said, with the language's name as the wiki writes it."""

from collections.abc import Mapping

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
        "ps": "Pashto", "pt": "Portuguese", "qu": "Quechua", "rm": "Romansh", "ro": "Romanian", "ru": "Russian", "rus": "Russian",
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
# Of {{IPAc-en}}: what stands before the sounds, and what is no sound.
_BEFORE_SOUNDS = {
    "pron": "pronounced", "pron.": "pronounced", "lang": "English:", "local": "locally", "also": "also", "us": "US:",
    "uk": "UK:", "usalso": "US also:", "us-also": "US also:", "ukalso": "UK also:", "uk-also": "UK also:",
}  # fmt: skip
_NO_SOUND = frozenset("en uklang lang-en ipa audio us_dict uk_dict tooltip generally".split())
_SOUNDS = {"'": "ˈ", ",": "ˌ", "_": " ", ",_": ", ", "ɑr": "ɑːr", "ɔr": "ɔːr", "ɜr": "ɜːr"}
_BEFORE_PHONETIC = {"pron": "pronounced", "p": "pronounced", "local": "locally"}


def language_label(code: str, language: str) -> str:
    """What the wiki of a language calls another; empty if unknown."""
    names = LANGUAGE_NAMES.get(language, {})
    return (names.get(code, "") if language == "en" else "") or names.get(code.split("-")[0], "")


def language_text(code: str, values: Arguments, language: str, at: int = 1) -> str:
    """``{{lang-el|πύργος|pyrgos|tower}}`` → Greek: πύργος, romanized: pyrgos, lit. 'tower'; ``at`` is the text's place."""
    text = values.first(str(at), "text")
    if not text:
        return GAP
    label = "" if values.first("label") in ("none", "no", "-") else language_label(code, language)
    shown = f"{label}{' ' if language == 'ru' else ': '}{text}" if label else text
    if language == "en":
        roman, literal = values.first(str(at + 1), "translit", "r"), values.first(str(at + 2), "lit", "translation")
        shown += f", romanized: {roman}" if roman not in ("", "-") else ""
        shown += f", IPA: [{values.first('p')}]" if values.first("p") else ""
        shown += f", lit. '{literal}'" if literal else ""
    return shown


def phonetic(code: str, values: Arguments, language: str) -> str:
    """``{{IPA-fr|tuʁ|lang}}`` → French: [tuʁ]; of the English Wikipedia, which says more than the sounds."""
    sounds = values.first("1")
    if not sounds or language != "en":
        return f"[{sounds}]" if sounds else GAP
    label, how = language_label(code, language), values.get("2", "pronunciation").strip()
    if how in ("pronunciation", "lang"):
        before = f"{label} {how}:".replace(" lang:", ":") if label else ""
    else:
        before = _BEFORE_PHONETIC.get(how, "")
    return f"{before} [{sounds}]".lstrip()


def phonemes(values: Arguments) -> str:
    """``{{IPAc-en|UK|t|aʊ|ər}}`` → UK: /taʊər/."""
    before: list[str] = []
    sounds: list[str] = []
    for sound in values.positional():
        key = sound.lower()
        if key in _BEFORE_SOUNDS and not sounds:
            before.append(_BEFORE_SOUNDS[key])
        elif key not in _NO_SOUND and key not in _BEFORE_SOUNDS:
            sounds.append(_SOUNDS.get(sound, sound))
    return " ".join([*before, f"/{''.join(sounds)}/"]) if sounds else GAP
