"""What wikis call things: prefixes of links, magic words, closing sections, languages with script variants.

The dump's own head says what its namespaces are called; here is what it does not say: older names that still work,
and the prefixes of other wikis.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile

# Names of the media, file and category namespaces, beside those of the dump. The English ones hold in every wiki.
MEDIA_NAMES = {
    "en": "media file image category",
    "ar": "ملف صورة تصنيف وسائط",
    "bg": "файл картинка категория",
    "bn": "চিত্র বিষয়শ্রেণী",
    "ca": "fitxer imatge categoria",
    "cs": "soubor kategorie",
    "da": "fil billede kategori",
    "de": "datei bild kategorie",
    "el": "αρχείο εικόνα κατηγορία",
    "es": "archivo imagen categoría",
    "et": "pilt kategooria",
    "eu": "fitxategi irudi kategoria",
    "fa": "پرونده تصویر رده",
    "fi": "tiedosto kuva luokka",
    "fr": "fichier catégorie",
    "he": "קובץ תמונה קטגוריה",
    "hi": "चित्र श्रेणी",
    "hr": "datoteka slika kategorija",
    "hu": "fájl kép kategória",
    "id": "berkas gambar kategori",
    "it": "immagine categoria",
    "ja": "ファイル 画像 カテゴリ",
    "ko": "파일 그림 분류",
    "lt": "vaizdas kategorija",
    "ltg": "attēls kategorija",
    "lv": "attēls kategorija",
    "ms": "fail imej kategori",
    "nl": "bestand afbeelding categorie",
    "no": "fil bilde kategori",
    "pl": "plik grafika kategoria",
    "pt": "ficheiro arquivo imagem categoria",
    "ro": "fișier fişier imagine categorie",
    "ru": "файл изображение категория",
    "sk": "súbor obrázok kategória",
    "sl": "slika datoteka kategorija",
    "sr": "датотека слика категорија datoteka slika kategorija",
    "sv": "fil bild kategori",
    "ta": "படிமம் பகுப்பு",
    "th": "ไฟล์ ภาพ หมวดหมู่",
    "tr": "dosya resim kategori",
    "uk": "файл зображення категорія",
    "vi": "hình thể_loại tập_tin",
    "zh": "文件 檔案 档案 图像 圖像 分类 分類",
}
# Wikipedia's languages: a link with such a prefix, in any case of letters, goes to the same article in another language.
LANGUAGE_PREFIXES = frozenset(
    """
    aa ab ace ady af ak als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar bat-smg
    bbc bcl bdr be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch cho
    chr chy ckb co cr crh cs csb cu cv cy da dag de dga din diq dsb dtp dty dv dz ee el eml en eo es et eu ext fa fat ff
    fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw gv ha hak haw
    he hi hif ho hr hsb ht hu hy hyw hz ia iba id ie ig igl ii ik ilo inh io is it iu ja jam jbo jv ka kaa kab kaj kbd
    kbp kcg kg kge ki kj kk kl km kn knc ko koi kr krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld lmo ln
    lo lrc lt ltg lv lzh mad mai map-bms mdf mg mh mhr mi min mk ml mn mni mnw mo mos mr mrj ms mt mus mwl my myv mzn na
    nah nan nap nds nds-nl ne new ng nia nl nn no nov nqo nr nrm nso nup nv ny oc olo om or os pa pag pam pap pcd pcm
    pdc pdt pfl pi pih pl pms pnb pnt ps pt pwn qu rki rm rmy rn ro roa-rup roa-tara rsk ru rue rup rw sa sah sat sc scn
    sco sd se sg sgs sh shi shn shy si simple sk skr sl sm smn sn so sq sr srn ss st stq su sv sw szl szy ta tay tcy tdd
    te tet tg th ti tig tk tl tly tn to tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo vro wa war
    wo wuu xal xh xmf yi yo yue za zea zgh zh zh-classical zh-cn zh-min-nan zh-tw zh-yue zu
    """.split()
)
# Wikis whose markup knows -{…}-; the order in which a variant is looked for by a reader who has chosen none.
VARIANTS = {
    "zh": ("zh", "zh-hans", "zh-hant", "zh-cn", "zh-tw", "zh-hk", "zh-sg", "zh-mo", "zh-my"),
    "gan": ("gan", "gan-hans", "gan-hant"),
    "wuu": ("wuu", "wuu-hans", "wuu-hant"),
    "sr": ("sr", "sr-ec", "sr-cyrl", "sr-el", "sr-latn"),
    "sh": ("sh", "sh-latn", "sh-cyrl"),
    "kk": ("kk", "kk-cyrl", "kk-latn", "kk-arab", "kk-kz", "kk-tr", "kk-cn"),
    "ku": ("ku", "ku-latn", "ku-arab"),
    "uz": ("uz", "uz-latn", "uz-cyrl"),
    "tg": ("tg", "tg-cyrl", "tg-latn"),
    "crh": ("crh", "crh-latn", "crh-cyrl"),
    "iu": ("iu", "ike-cans", "ike-latn"),
    "shi": ("shi", "shi-tfng", "shi-latn"),
    "tly": ("tly", "tly-latn", "tly-cyrl"),
}
ALL_VARIANTS = tuple(code for codes in VARIANTS.values() for code in codes)
# Words between double underscores that switch something and show nothing; others are text (__init__).
MAGIC_WORDS = """
    NOTOC FORCETOC TOC NOEDITSECTION NEWSECTIONLINK NONEWSECTIONLINK NOGALLERY HIDDENCAT EXPECTUNUSEDCATEGORY
    NOCONTENTCONVERT NOCC NOTITLECONVERT NOTC START END INDEX NOINDEX STATICREDIRECT DISAMBIG NOGLOBAL ARCHIVEDTALK
    NOTALK EXPECTUNUSEDTEMPLATE EXPECTED_UNCONNECTED_PAGE KEIN_INHALTSVERZEICHNIS KEININHALTSVERZEICHNIS
    INHALTSVERZEICHNIS_ERZWINGEN INHALTSVERZEICHNIS ABSCHNITTE_NICHT_BEARBEITEN KEINE_GALERIE AUCUNSOMMAIRE
    AUCUNETDM FORCERSOMMAIRE FORCERTDM SOMMAIRE TDM SECTIONNONEDITABLE AUCUNEGALERIE NOTDC SIN_TDC FORZARTDC TDC
    NOINDICE FORZAINDICE INDICE SEMTDC SEMSUMARIO FORCARTDC TDC GEENINHOUD FORCEERINHOUD INHOUD BEZSPISU
    SPIS ZAWSZESPIS БЕЗОГЛАВЛЕНИЯ БЕЗ_ОГЛАВЛЕНИЯ БЕЗ_ОГЛ ОБЯЗАТЕЛЬНОЕОГЛАВЛЕНИЕ ОГЛАВЛЕНИЕ ОГЛ БЕЗ_РЕДАКТИРОВАНИЯ_РАЗДЕЛА
    БЕЗ_ГАЛЕРЕИ БЕЗ_ЗМІСТУ ЗМІСТ 目次非表示 目次強制 目次 無目次 无目录 強制目錄 目录 目錄 목차숨김 목차보임 목차
""".split()
REDIRECT_WORDS = frozenset(
    """
    redirect weiterleitung redirection redirección rinvia rinvio redirecionamento doorverwijzing patrz przekieruj tam
    перенаправление перенапр перенаправлення ohjaus uudelleenohjaus omdirigering átirányítás přesměruj ανακατευθυνση
    yönlendirme yönlendir تحويل تغییر_مسیر הפניה 転送 リダイレクト 转向 重定向 重新導向 넘겨주기 đổi alih birzuzendu omdiriger
    omstilling preusmjeri преусмери пренасочване redirecteaza पुनर्प्रेषित अनुप्रेषित เปลี่ยนทาง
    """.split()
)
# Closing sections that list sources and links, by the wiki's language. Their lists are apparatus, not text.
APPARATUS = {
    "en": "references|external links|see also|notes|further reading|bibliography|footnotes|sources|citations|"
    "notes and references|references and notes|works cited|general references",
    "af": "verwysings|eksterne skakels|sien ook|bronnelys",
    "ar": "مراجع|المراجع|وصلات خارجية|روابط خارجية|انظر أيضًا|انظر أيضا|انظر أيضاً|ملاحظات|مصادر|المصادر|هوامش",
    "az": "i̇stinadlar|istinadlar|xarici keçidlər|həmçinin bax|mənbə",
    "be": "зноскі|спасылкі|гл. таксама|крыніцы",
    "bg": "източници|външни препратки|вижте също|бележки|литература",
    "bn": "তথ্যসূত্র|বহিঃসংযোগ|আরও দেখুন|টীকা",
    "ca": "referències|enllaços externs|vegeu també|bibliografia|notes",
    "cs": "reference|externí odkazy|související články|literatura|odkazy|poznámky",
    "cy": "cyfeiriadau|dolenni allanol|gweler hefyd|llyfryddiaeth",
    "da": "referencer|eksterne henvisninger|se også|noter|kilder|litteratur|fodnoter",
    "de": "einzelnachweise|weblinks|siehe auch|literatur|anmerkungen|quellen|fußnoten|belege",
    "el": "παραπομπές|εξωτερικοί σύνδεσμοι|δείτε επίσης|βιβλιογραφία|σημειώσεις|πηγές",
    "eo": "referencoj|eksteraj ligiloj|vidu ankaŭ|notoj",
    "es": "referencias|enlaces externos|véase también|bibliografía|notas|notas y referencias",
    "et": "viited|välislingid|vaata ka|kirjandus",
    "eu": "erreferentziak|kanpo estekak|ikus, gainera|bibliografia|oharrak",
    "fa": "منابع|پیوند به بیرون|جستارهای وابسته|پانویس|یادداشت‌ها",
    "fi": "lähteet|aiheesta muualla|katso myös|kirjallisuutta|viitteet",
    "fr": "références|liens externes|lien externe|voir aussi|notes et références|bibliographie|notes|"
    "annexes|articles connexes",
    "gl": "notas|véxase tamén|ligazóns externas|bibliografía",
    "he": "הערות שוליים|קישורים חיצוניים|ראו גם|לקריאה נוספת",
    "hi": "सन्दर्भ|संदर्भ|बाहरी कड़ियाँ|इन्हें भी देखें",
    "hr": "izvori|vanjske poveznice|povezani članci|literatura|bilješke",
    "hu": "jegyzetek|további információk|források|lásd még|kapcsolódó szócikkek|irodalom|külső hivatkozások",
    "hy": "ծանոթագրություններ|արտաքին հղումներ|տես նաև|գրականություն",
    "id": "referensi|pranala luar|lihat pula|lihat juga|catatan kaki|daftar pustaka|bacaan lanjutan",
    "it": "note|collegamenti esterni|voci correlate|bibliografia|altri progetti",
    "ja": "脚注|外部リンク|関連項目|参考文献|出典|注釈",
    "ka": "სქოლიო|რესურსები ინტერნეტში|იხილეთ აგრეთვე|ლიტერატურა",
    "kk": "дереккөздер|сыртқы сілтемелер|тағы қараңыз",
    "ko": "각주|외부 링크|같이 보기|참고 문헌|참고문헌|참고 자료|바깥 고리",
    "lt": "šaltiniai|nuorodos|taip pat skaitykite|literatūra|išnašos",
    "ltg": "nūruodis|nūruodis i olūti|olūti|teiklavītys|verīs taipoš",
    "lv": "atsauces|ārējās saites|skatīt arī|literatūra",
    "mk": "наводи|надворешни врски|поврзано|литература",
    "ml": "അവലംബം|പുറത്തേക്കുള്ള കണ്ണികൾ|ഇതും കാണുക",
    "ms": "rujukan|pautan luar|lihat juga",
    "nl": "bronnen, noten en/of referenties|externe links|zie ook|externe link|referenties|bronnen|noten|voetnoten|"
    "literatuur",
    "nn": "kjelder|bakgrunnsstoff|sjå òg|litteratur|referansar",
    "no": "referanser|eksterne lenker|se også|litteratur|noter|kilder",
    "pl": "przypisy|linki zewnętrzne|zobacz też|bibliografia|uwagi",
    "pt": "referências|ligações externas|ver também|bibliografia|notas|notas e referências",
    "ro": "note|legături externe|vezi și|bibliografie|referințe|lectură suplimentară",
    "ru": "примечания|ссылки|см. также|литература|источники|комментарии",
    "sk": "referencie|externé odkazy|iné projekty|pozri aj|literatúra|poznámky",
    "sl": "sklici|zunanje povezave|glej tudi|viri|opombe",
    "sq": "referime|referimet|lidhje të jashtme|shiko edhe|burimet",
    "sr": "референце|спољашње везе|види још|литература|извори|напомене|reference|spoljašnje veze",
    "sv": "referenser|externa länkar|se även|noter|källor|litteratur|vidare läsning|fotnoter",
    "ta": "மேற்கோள்கள்|வெளி இணைப்புகள்|இவற்றையும் பார்க்க",
    "te": "మూలాలు|బయటి లింకులు|ఇవి కూడా చూడండి",
    "th": "อ้างอิง|แหล่งข้อมูลอื่น|ดูเพิ่ม|เชิงอรรถ",
    "tr": "kaynakça|dış bağlantılar|ayrıca bakınız|notlar|kaynaklar|konuyla ilgili yayınlar",
    "uk": "примітки|посилання|див. також|література|джерела",
    "ur": "حوالہ جات|بیرونی روابط|مزید دیکھیے",
    "uz": "manbalar|havolalar|yana qarang",
    "vi": "tham khảo|liên kết ngoài|xem thêm|chú thích|ghi chú|thư mục",
    "zh": "参考文献|外部链接|参见|參考文獻|外部連結|參見|注释|註釋|参考资料|參考資料|外部連接|相關條目|注脚|註腳|参考来源",
}
# The same words head chapters of prose too ("Literature" of a country): apparatus only as a chapter of the first level.
DOUBTFUL = frozenset(
    "literatur|literatura|literatúra|literatūra|litteratur|literatuur|kirjandus|irodalom|литература|література|"
    "notes|sources|bibliography|works cited|quellen|bronnen|kilder|källor|комментарии|источники|джерела|izvori|viri|"
    "lähteet|források|kjelder|գրականություն|ლიტერატურა|burimet|крыніцы|bibliografía|llyfryddiaeth|mənbə|uwagi|poznámky|"
    "notas|note|odkazy|nuorodos|ссылки|出典|注釈|thư mục".split("|")
)

# Templates of the English Wikipedia named by a country's code show its flag and its name.
_COUNTRIES = """
AFG Afghanistan|AIA Anguilla|AGO ANG Angola|ALB Albania|ALG DZA Algeria|AND Andorra|ANT ATG Antigua and Barbuda
ARG Argentina|ARM Armenia|ARU ABW Aruba|ASA ASM American Samoa|AUS Australia|AUT Austria|AZE Azerbaijan
BAH BHS Bahamas|BAN BGD Bangladesh|BAR BRB Barbados|BDI Burundi|BEL Belgium|BEN Benin|BER BMU Bermuda|BHU BTN Bhutan
BIH Bosnia and Herzegovina|BIZ BLZ Belize|BLR Belarus|BOL Bolivia|BOT BWA Botswana|BRA Brazil|BRN BHR Bahrain
BRU Brunei|BUL BGR Bulgaria|BUR BFA Burkina Faso|BVT Bouvet Island|CAF CTA Central African Republic|CAM KHM Cambodia
CAN Canada|CAY CYM Cayman Islands|CGO COG Republic of the Congo|CHA TCD Chad|CHI CHL Chile|CHN China|CIV Ivory Coast
CMR Cameroon|COD Democratic Republic of the Congo|COK Cook Islands|COL Colombia|COM Comoros|CPV Cape Verde
CRC CRI Costa Rica|CRO HRV Croatia|CUB Cuba|CUR CUW Curaçao|CYP Cyprus|CZE Czech Republic|DEN DNK Denmark|DJI Djibouti
DMA Dominica|DOM Dominican Republic|ECU Ecuador|EGY Egypt|ENG England|ERI Eritrea|ESA SLV El Salvador
ESH Western Sahara|ESP Spain|EST Estonia|ETH Ethiopia|FIJ FJI Fiji|FIN Finland|FLK Falkland Islands|FRA France
FRO Faroe Islands|FSM Federated States of Micronesia|GAB Gabon|GAM GMB Gambia|GBR United Kingdom|GBS GNB Guinea-Bissau
GEO Georgia|GEQ EQG GNQ Equatorial Guinea|GER DEU Germany|GGY Guernsey|GHA Ghana|GIB Gibraltar|GRC GRE Greece
GRN GRD Grenada|GRL Greenland|GUA GTM Guatemala|GUI GIN Guinea|GUM Guam|GUY Guyana|HAI HTI Haiti|HKG Hong Kong
HON HND Honduras|HUN Hungary|IDN INA Indonesia|IMN IOM Isle of Man|IND India|IRI IRN Iran|IRL Ireland|IRQ Iraq
ISL Iceland|ISR Israel|ISV VIR United States Virgin Islands|ITA Italy|IVB VGB British Virgin Islands|JAM Jamaica
JEY Jersey|JOR Jordan|JPN Japan|KAZ Kazakhstan|KEN Kenya|KGZ Kyrgyzstan|KIR Kiribati|KOR South Korea|KOS Kosovo
KSA SAU Saudi Arabia|KUW KWT Kuwait|LAO Laos|LAT LVA Latvia|LBA LBY Libya|LBR Liberia|LCA Saint Lucia|LES LSO Lesotho
LIB LBN Lebanon|LIE Liechtenstein|LTU Lithuania|LUX Luxembourg|MAC Macau|MAD MDG Madagascar|MAF Saint Martin
MAR Morocco|MAS MYS Malaysia|MAW MWI Malawi|MDA Moldova|MDV Maldives|MEX Mexico|MGL MNG Mongolia|MHL Marshall Islands
MKD Macedonia|MLI Mali|MLT Malta|MNE Montenegro|MON MCO Monaco|MOZ Mozambique|MRI MUS Mauritius|MSR Montserrat
MTN MRT Mauritania|MYA MMR Myanmar|NAM Namibia|NCA NIC Nicaragua|NCL New Caledonia|NED NLD Netherlands|NEP NPL Nepal
NGA NGR Nigeria|NIG NER Niger|NIR Northern Ireland|NOR Norway|NRU Nauru|NZL New Zealand|OMA OMN Oman|PAK Pakistan
PAN Panama|PAR PRY Paraguay|PER Peru|PHI PHL Philippines|PLE PSE Palestine|PLW Palau|PNG Papua New Guinea|POL Poland
POR PRT Portugal|PRK North Korea|PRI PUR Puerto Rico|QAT Qatar|ROU Romania|RSA ZAF South Africa|RUS Russia|RWA Rwanda
SAM WSM Samoa|SCO Scotland|SEN Senegal|SEY SYC Seychelles|SGP SIN Singapore
SGS South Georgia and the South Sandwich Islands|SHN Saint Helena, Ascension and Tristan da Cunha
SKN KNA Saint Kitts and Nevis|SLE Sierra Leone|SLO SVN Slovenia|SMR San Marino|SOL SLB Solomon Islands|SOM Somalia
SRB Serbia|SRI LKA Sri Lanka|SSD South Sudan|STP São Tomé and Príncipe|SUD SDN Sudan|SUI CHE Switzerland|SUR Suriname
SVK Slovakia|SWE Sweden|SWZ Swaziland|SXM Sint Maarten|SYR Syria|TAN TZA Tanzania|TGA TON Tonga|THA Thailand
TJK Tajikistan|TKM Turkmenistan|TLS East Timor|TOG TGO Togo|TPE Chinese Taipei|TRI TTO Trinidad and Tobago|TUN Tunisia
TUR Turkey|TUV Tuvalu|TWN Taiwan|UAE ARE United Arab Emirates|UGA Uganda|UKR Ukraine|URU URY Uruguay|USA United States
UZB Uzbekistan|VAN VUT Vanuatu|VEN Venezuela|VIE VNM Vietnam|VIN VCT Saint Vincent and the Grenadines|WAL Wales
YEM Yemen|ZAM ZMB Zambia|ZIM ZWE Zimbabwe|UK United Kingdom|URS Soviet Union|YUG Yugoslavia|TCH Czechoslovakia
GDR East Germany|FRG West Germany
"""


@dataclass(frozen=True)
class Wiki:
    """What rendering needs to know of the wiki a page is from."""

    language: str | None = None
    file_names: frozenset[str] = frozenset()
    """Its own names for the media, file and category namespaces, in lower case."""
    template_names: frozenset[str] = field(default=frozenset({"template"}))

    @property
    def base_language(self) -> str:
        """``zh`` for ``zh-min-nan`` too; empty if unknown."""
        return (self.language or "").lower().split("-", 1)[0]

    def unseen_names(self) -> frozenset[str]:
        """Namespaces whose links show no text. Of a wiki that does not say its language, those of all languages."""
        known = self.base_language in MEDIA_NAMES
        languages: Iterable[str] = ("en", self.base_language) if known or self.file_names else MEDIA_NAMES
        names = {name.replace("_", " ") for code in languages for name in MEDIA_NAMES.get(code, "").split()}
        return self.file_names | names

    def apparatus(self) -> frozenset[str]:
        """Titles of closing sections; of all languages where the wiki's is unknown."""
        known = self.base_language in APPARATUS
        languages: Iterable[str] = ("en", self.base_language) if known else APPARATUS
        return frozenset(title for code in languages for title in APPARATUS[code].split("|"))

    def variants(self) -> tuple[str, ...]:
        """Variant codes in the order a reader gets them; none where the markup has no variants."""
        if self.language is None:
            return ALL_VARIANTS
        return VARIANTS.get(self.base_language, ())


@cache
def _countries() -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in _COUNTRIES.replace("\n", "|").strip("|").split("|"):
        words = entry.split()
        codes = list(takewhile(lambda word: word.isupper() and len(word) < 4, words))
        found |= dict.fromkeys(codes, " ".join(words[len(codes) :]))
    return found


def country_of(name: str) -> str | None:
    """The country whose template has this name; capitals tell ``{{COL}}`` from ``{{col}}``."""
    return _countries().get(name) if len(name) < 4 else None
