"""Wiki markup to readable text, in MediaWiki's own order and in linear time.

    preprocess   comments, extension tags, templates from the inside out      (MediaWiki: Preprocessor)
    inline       HTML tags, tables, links, external links, apostrophes        (Parser::internalParse)
    layout       lists, headings, lines

What a reader of the article would read comes out: paragraphs, headings, list items, formulas, code as it is written.
References, tables, galleries, comments, files and categories go, and templates whose text is not known (``templates``):
those are counted by name. Section headings left without a text below them go, and closing sections of references and
links, in the wiki's language.
"""

import re
from collections import Counter
from collections.abc import Callable, MutableMapping

from pipeline.sources.wikitext.inline import drop_tables, render_external_links, render_links, strip_tags
from pipeline.sources.wikitext.layout import lay_out
from pipeline.sources.wikitext.names import MAGIC_WORDS, Wiki
from pipeline.sources.wikitext.preprocess import CLOSING, OPENING, Preprocessor, WikiPage
from pipeline.sources.wikitext.templates import expander

_CONTROL = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f{OPENING}{CLOSING}]")
_MAGIC = re.compile(rf"__(?:{'|'.join(sorted(MAGIC_WORDS, key=len, reverse=True))})__", re.IGNORECASE)


def readable_text(
    markup: str,
    wiki: Wiki | None = None,
    title: str = "",
    unseen: MutableMapping[str, int] | None = None,
    clean: Callable[[str], str] = str,
) -> str:
    """The article's text; headings stand on lines of their own.

    ``clean`` is applied to all but what is verbatim (two empty lines in code are two). ``unseen`` is told what gave no text: ``template:name`` and ``section:title``, and how often.
    """
    wiki = wiki or Wiki()
    page = WikiPage(wiki, expander(wiki, title))
    text = Preprocessor(page, _CONTROL.sub("", markup)).run()
    text = render_links(drop_tables(strip_tags(text)), wiki)
    text = render_external_links(_MAGIC.sub("", text))
    sections: Counter[str] = Counter()
    text = page.fill(clean(lay_out(text, wiki, sections)))
    if unseen is not None:
        for kind, counts in (("template", page.unseen), ("section", sections)):
            for name, number in counts.items():
                unseen[f"{kind}:{name}"] = unseen.get(f"{kind}:{name}", 0) + number
    return text


__all__ = ["Wiki", "readable_text"]
