"""What wikis call things: prefixes of links, magic words, closing sections, languages with script variants.

The dump's own head says what its namespaces are called; here is what it does not say: older names that still work,
and the prefixes of other wikis.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

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
    "ar": "مراجع|المراجع|وصلات خارجية|روابط خارجية|انظر أيضًا|انظر أيضا|انظر أيضاً|ملاحظات|مصادر|المصادر|هوامش",
    "bg": "източници|външни препратки|вижте също|бележки|литература",
    "bn": "তথ্যসূত্র|বহিঃসংযোগ|আরও দেখুন|টীকা",
    "ca": "referències|enllaços externs|vegeu també|bibliografia|notes",
    "cs": "reference|externí odkazy|související články|literatura|odkazy|poznámky",
    "da": "referencer|eksterne henvisninger|se også|noter|kilder|litteratur|fodnoter",
    "de": "einzelnachweise|weblinks|siehe auch|literatur|anmerkungen|quellen|fußnoten|belege",
    "el": "παραπομπές|εξωτερικοί σύνδεσμοι|δείτε επίσης|βιβλιογραφία|σημειώσεις|πηγές",
    "es": "referencias|enlaces externos|véase también|bibliografía|notas|notas y referencias",
    "et": "viited|välislingid|vaata ka|kirjandus",
    "eu": "erreferentziak|kanpo estekak|ikus, gainera|bibliografia|oharrak",
    "fa": "منابع|پیوند به بیرون|جستارهای وابسته|پانویس|یادداشت‌ها",
    "fi": "lähteet|aiheesta muualla|katso myös|kirjallisuutta|viitteet",
    "fr": "références|liens externes|lien externe|voir aussi|notes et références|bibliographie|notes|"
    "annexes|articles connexes",
    "he": "הערות שוליים|קישורים חיצוניים|ראו גם|לקריאה נוספת",
    "hi": "सन्दर्भ|संदर्भ|बाहरी कड़ियाँ|इन्हें भी देखें",
    "hr": "izvori|vanjske poveznice|povezani članci|literatura|bilješke",
    "hu": "jegyzetek|további információk|források|lásd még|kapcsolódó szócikkek|irodalom|külső hivatkozások",
    "id": "referensi|pranala luar|lihat pula|lihat juga|catatan kaki|daftar pustaka|bacaan lanjutan",
    "it": "note|collegamenti esterni|voci correlate|bibliografia|altri progetti",
    "ja": "脚注|外部リンク|関連項目|参考文献|出典|注釈",
    "ko": "각주|외부 링크|같이 보기|참고 문헌|참고문헌|참고 자료|바깥 고리",
    "lt": "šaltiniai|nuorodos|taip pat skaitykite|literatūra|išnašos",
    "lv": "atsauces|ārējās saites|skatīt arī|literatūra",
    "ms": "rujukan|pautan luar|lihat juga",
    "nl": "bronnen, noten en/of referenties|externe links|zie ook|externe link|referenties|bronnen|noten|voetnoten|"
    "literatuur",
    "no": "referanser|eksterne lenker|se også|litteratur|noter|kilder",
    "pl": "przypisy|linki zewnętrzne|zobacz też|bibliografia|uwagi",
    "pt": "referências|ligações externas|ver também|bibliografia|notas|notas e referências",
    "ro": "note|legături externe|vezi și|bibliografie|referințe|lectură suplimentară",
    "ru": "примечания|ссылки|см. также|литература|источники|комментарии",
    "sk": "referencie|externé odkazy|iné projekty|pozri aj|literatúra|poznámky",
    "sl": "sklici|zunanje povezave|glej tudi|viri|opombe",
    "sr": "референце|спољашње везе|види још|литература|извори|напомене|reference|spoljašnje veze",
    "sv": "referenser|externa länkar|se även|noter|källor|litteratur|vidare läsning|fotnoter",
    "ta": "மேற்கோள்கள்|வெளி இணைப்புகள்|இவற்றையும் பார்க்க",
    "th": "อ้างอิง|แหล่งข้อมูลอื่น|ดูเพิ่ม|เชิงอรรถ",
    "tr": "kaynakça|dış bağlantılar|ayrıca bakınız|notlar|kaynaklar|konuyla ilgili yayınlar",
    "uk": "примітки|посилання|див. також|література|джерела",
    "vi": "tham khảo|liên kết ngoài|xem thêm|chú thích|ghi chú|thư mục",
    "zh": "参考文献|外部链接|参见|參考文獻|外部連結|參見|注释|註釋|参考资料|參考資料|外部連接|相關條目|注脚|註腳|参考来源",
}
# The same words head chapters of prose too ("Literature" of a country): apparatus only as a chapter of the first level.
DOUBTFUL = frozenset(
    "literatur|literatura|literatúra|literatūra|litteratur|literatuur|kirjandus|irodalom|литература|література|"
    "notes|sources|bibliography|works cited|quellen|bronnen|kilder|källor|комментарии|источники|джерела|izvori|viri|"
    "lähteet|források|uwagi|poznámky|notas|note|odkazy|nuorodos|ссылки|出典|注釈|thư mục".split("|")
)


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
