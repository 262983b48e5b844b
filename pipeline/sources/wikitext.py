"""Wiki markup to readable text.

mwparserfromhell parses the markup; this module walks its nodes once and writes what a reader of the article would read:
paragraphs, headings, list items, formulas. Templates, references, tables, galleries, comments, files and categories go.
Section headings left without a text below them (``References``, ``External links``) go too, in any language.
"""

import re
from collections.abc import Iterable

import mwparserfromhell
from mwparserfromhell.nodes import Comment, ExternalLink, Heading, HTMLEntity, Node, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

# Names of the media, file and category namespaces that wikis understand beside those their own dump declares.
MEDIA_NAMES = {
    "en": ("media", "file", "image", "category"),
    "de": ("datei", "bild", "kategorie"),
    "fr": ("fichier", "catégorie"),
    "es": ("archivo", "imagen", "categoría"),
    "pt": ("ficheiro", "imagem", "categoria"),
    "it": ("immagine",),
    "nl": ("bestand", "afbeelding", "categorie"),
    "pl": ("plik", "grafika", "kategoria"),
    "sv": ("fil",),
    "ru": ("файл", "изображение", "категория"),
    "ja": ("ファイル", "画像", "カテゴリ"),
    "zh": ("文件", "檔案", "图像", "分类", "分類"),
    "ko": ("파일", "그림", "분류"),
    "ar": ("ملف", "صورة", "تصنيف"),
    "he": ("קובץ", "תמונה", "קטגוריה"),
}
MEDIA_ALIASES = frozenset(name for names in MEDIA_NAMES.values() for name in names)
# Closing sections that list sources and links.
APPARATUS = {
    "en": (
        "references",
        "external links",
        "see also",
        "notes",
        "further reading",
        "bibliography",
        "footnotes",
        "sources",
    ),
    "de": ("einzelnachweise", "weblinks", "siehe auch", "literatur", "anmerkungen", "quellen"),
    "fr": ("références", "liens externes", "voir aussi", "notes et références", "bibliographie", "notes"),
    "es": ("referencias", "enlaces externos", "véase también", "bibliografía", "notas"),
    "it": ("note", "collegamenti esterni", "voci correlate", "bibliografia", "altri progetti"),
    "pt": ("referências", "ligações externas", "ver também", "bibliografia"),
    "nl": ("bronnen, noten en/of referenties", "externe links", "zie ook", "externe link"),
    "pl": ("przypisy", "linki zewnętrzne", "zobacz też", "bibliografia"),
    "ru": ("примечания", "ссылки", "см. также", "литература"),
    "ja": ("脚注", "外部リンク", "関連項目", "参考文献"),
    "zh": ("参考文献", "外部链接", "参见", "參考文獻", "外部連結"),
}
APPARATUS_TITLES = frozenset(title for titles in APPARATUS.values() for title in titles)
DROPPED_TAGS = frozenset(
    [
        "ref",
        "references",
        "table",
        "gallery",
        "timeline",
        "imagemap",
        "score",
        "graph",
        "mapframe",
        "maplink",
        "templatestyles",
        "style",
        "script",
        "syntaxhighlight-lang",
        "section",
        "indicator",
        "inputbox",
        "categorytree",
    ]
)
KEPT_RAW_TAGS = frozenset({"math", "chem", "ce", "code", "pre", "source", "syntaxhighlight", "nowiki", "poem", "hiero"})
LINE_TAGS = frozenset({"br", "hr", "p", "div", "blockquote", "center", "dl", "ul", "ol"})
INTERWIKI = re.compile(
    r"^:?[a-z]{2,3}(?:-[a-z-]{2,12})?:|^(?:simple|wikt|wiktionary|commons|species|meta|wikidata):", re.I
)
MAGIC_WORDS = re.compile(r"__[A-Z]{3,25}__")
HEADING_MARK = "\x01"
LIST_MARK = "\x02"
QUOTES = re.compile(r"'{2,5}")
SPACES = re.compile(r"[ \t\xa0]+")
BLANK_LINES = re.compile(r"\n{3,}")
EMPTY_BRACKETS = re.compile(r"\(\s*[;,:\s]*\)|\[\s*\]")


def readable_text(markup: str, media_names: frozenset[str] = MEDIA_ALIASES) -> str:
    """The article's text; headings stand on lines of their own."""
    code = mwparserfromhell.parse(markup, skip_style_tags=True)
    raw = MAGIC_WORDS.sub("", "".join(_render(code.nodes, media_names)))
    return _layout(raw)


def _render(nodes: Iterable[Node], media: frozenset[str]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, Text):
            yield node.value
        elif isinstance(node, Wikilink):
            yield _link(node, media)
        elif isinstance(node, Heading):
            yield f"\n{HEADING_MARK}{node.level}{_inline(node.title, media)}\n"
        elif isinstance(node, Tag):
            yield _tag(node, media)
        elif isinstance(node, ExternalLink):
            yield _inline(node.title, media) if node.title else ("" if node.brackets else str(node.url))
        elif isinstance(node, HTMLEntity):
            yield _entity(node)
        elif not isinstance(node, (Template, Comment)):
            yield ""


def _inline(code: Wikicode, media: frozenset[str]) -> str:
    return "".join(_render(code.nodes, media))


def _link(link: Wikilink, media: frozenset[str]) -> str:
    title = str(link.title).strip()
    space, colon, _ = title.partition(":")
    if colon and space.strip().lower().replace("_", " ") in media:
        return ""
    if INTERWIKI.match(title) and not title.startswith(":") and link.text is None:
        return ""
    if link.text is not None:
        return _inline(link.text, media)
    return title.lstrip(":").split("#", 1)[0] or title.lstrip("#")


def _tag(tag: Tag, media: frozenset[str]) -> str:
    name = str(tag.tag).strip().lower()
    if name in DROPPED_TAGS:
        return ""
    if tag.wiki_markup and name in ("li", "dd", "dt"):
        # One node a list character: what follows on the line is the item.
        return LIST_MARK if name == "li" else " "
    if name in KEPT_RAW_TAGS:
        return str(tag.contents or "")
    inner = _inline(tag.contents, media) if tag.contents is not None else ""
    return f"\n{inner}\n" if name in LINE_TAGS else inner


def _entity(entity: HTMLEntity) -> str:
    try:
        text: str = entity.normalize()
    except (ValueError, OverflowError):
        return ""
    return text


def _layout(raw: str) -> str:
    """Lines: list items with a dash, single spaces, headings only where text follows them."""
    lines: list[str] = []
    waiting: list[tuple[int, str]] = []
    skipping = 0
    for line in raw.split("\n"):
        line = SPACES.sub(" ", line).strip()
        if line.startswith(HEADING_MARK):
            level, title = int(line[1]), QUOTES.sub("", line[2:]).replace(HEADING_MARK, "").strip(" =")
            if not skipping or level <= skipping:
                skipping = level if title.lower() in APPARATUS_TITLES else 0
                # A heading replaces those before it that are as deep: they had no text.
                waiting = [(depth, name) for depth, name in waiting if depth < level]
                if title:
                    waiting.append((level, title))
        elif not skipping:
            content = _line(line)
            if content and waiting:
                lines += [part for _, title in waiting for part in ("", title, "")]
                waiting = []
            lines.append(content)
    return BLANK_LINES.sub("\n\n", "\n".join(lines))


def _line(line: str) -> str:
    """One line of text; empty where nothing readable is left of it."""
    item = len(line) - len(line.lstrip(LIST_MARK + " "))
    content = EMPTY_BRACKETS.sub("", QUOTES.sub("", line[item:].replace(LIST_MARK, "")))
    content = SPACES.sub(" ", content).strip().replace(" ,", ",").replace(" .", ".").lstrip(":;, ")
    if not any(character.isalnum() for character in content):
        return ""
    return f"- {content}" if LIST_MARK in line[:item] else content
