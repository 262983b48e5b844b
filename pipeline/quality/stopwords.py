"""Words that running text of a language can hardly do without.

English has the eight words of the Gopher paper. The other lists are of the same kind: eight of the language's most
frequent function words, so that the paper's test (at least two of them occur) means the same. Languages that write such
words as endings (Korean, Tamil) need more of them, languages of two scripts or spellings have both. A language that is
not here has no such test. Scripts without spaces are left out: their words are single letters to the scanner.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.text import word_hash

STOP_WORDS = {
    "af": "die van en in het is nie wat",
    "ar": "في من على أن إلى هذا التي عن",
    "bg": "на и да се за от не са",
    "bn": "এবং এই করে থেকে না হয় ও তার",
    "ca": "de la i que el en per un",
    "cs": "a se na v je že to s",
    "cy": "y yn a o i ar mae yr",
    "da": "og i at det en er til af",
    "de": "der die und in den von zu das",
    "el": "και το να του η της με για",
    "en": "the be to of and that have with",
    "eo": "la de kaj en estas al ne kiu",
    "es": "de la que el en y los se",
    "et": "ja on ei et ka see oli mis",
    "eu": "eta da ez zen bat dira du ere",
    "fa": "و در به از که این را با كه اين",
    "fi": "ja on ei se että oli hän mutta ovat tai kun myös joka sen ole mukaan",
    "fr": "de la le et les des en un",
    "ga": "an na agus ar a is i le",
    "gl": "de a que o e do en da",
    "he": "של את על לא הוא זה עם היא",
    "hi": "के में है की और से का को",
    "hr": "i je u se na da su za",
    "hu": "a az és hogy nem egy is van",
    "hy": "և է են որ մեջ այս հետ համար",
    "id": "yang dan di dari ini untuk dengan dalam",
    "is": "og að í á er sem til það",
    "it": "di e che la il un in per",
    "ka": "და რომ არის არ ეს იყო მისი თუ ან უნდა რომელიც მის რათა როგორც",
    "kk": "және мен бұл үшін да бар деп бір",
    "ko": "및 수 이 그 있는 있다 것이다 등 한 또는 대한 위한 모든 것을 것은 있습니다 합니다 그리고",
    "la": "et in est ad non cum ut quod",
    "lt": "ir kad yra į su tai iš kaip",
    "lv": "un ir ar par kas no uz ka",
    "mk": "на и во од да се за со",
    "mr": "आहे आणि या हे व तो ते आहेत",
    "ms": "yang dan di ini untuk dengan dalam itu",
    "nl": "de van het een en in is dat",
    "nn": "og i det er på til som av",
    "no": "og i det er på til som av",
    "pl": "w i na z się do nie jest",
    "pt": "de a que o e do da em",
    "ro": "de și în a la cu care pe şi",
    "ru": "и в не на что с по как",
    "sk": "a sa na v je že to s",
    "sl": "in je v na se da za so",
    "sq": "e të në dhe për me që një",
    "sr": "и је у да се на су за i je u da se na su za",
    "sv": "och i att det som en på är",
    "sw": "ya na wa kwa ni katika za la",
    "ta": "ஒரு மற்றும் என்று இந்த அந்த என்ற அது தான் என அல்லது உள்ள இது என்பது ஆகும் எந்த அவர் வேண்டும் மேலும்",
    "tl": "ang ng sa na mga at ay ko",
    "tr": "ve bir bu için da de ile çok",
    "uk": "і в на що не з до у",
    "ur": "کے میں کی ہے اور سے کا کو",
    "uz": "va bu bilan uchun ham bir da deb ва бу билан учун ҳам бир да деб",
    "vi": "và của là có các cho không trong",
}


@cache
def stop_word_table() -> tuple[dict[str, int], NDArray[np.uint64]]:
    """Row of each language, and the hashes of its words in that row (zeros fill it up)."""
    rows = {language: row for row, language in enumerate(STOP_WORDS)}
    table = np.zeros((len(rows), max(len(words.split()) for words in STOP_WORDS.values())), np.uint64)
    for row, words in enumerate(STOP_WORDS.values()):
        hashes = [word_hash(word) for word in words.split()]
        table[row, : len(hashes)] = hashes
    return rows, table
