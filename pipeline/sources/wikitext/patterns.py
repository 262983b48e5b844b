"""Templates whose text is one of their arguments, or an argument within fixed words.

A line is ``names => text``: names apart by ``|`` in lower case, ``{1|label}`` the first of these arguments that has a
value, ``<…>`` what is written only if an argument in it has one, ``\\n`` a line end. A template that is given none of the
arguments its text has shows nothing.

Names are of the English Wikipedia in the first table, and of the wikis whose language stands there in the others. The
first table holds everywhere: these templates are copied from wiki to wiki under their English names.
"""

from functools import cache

COMMON = r"""
nowrap|nobr|nowraplinks|nbr|small|smaller|smalldiv|midsize|big|bigger|larger|large|huge|center|centre|centered|nobold|noitalic|no italic|normal|not italic => {1|text}
em|strong|strike|strikethrough|underline|u|i|b|bold|italic|italics|itl|ital|bdi|var|mono|monospace|kbd|samp|tt|codett|math|mvar|mathcal|mathbf|mathit|overline|bigmath|texhtml => {1|text}
abbr|abbrlink|abbreviation|tooltip|define|h:title|hover title|explain|comment => {1}
tq|talkquote|xt|mxt|!xt|gloss override|not a typo|proper name|typo|as written|notatypo|chem name|linktext single => {1}
visible anchor|vanchor|vanc|anchored|anchor text|wikt-visible => {1|text}
lang|language|wikt-lang|rtl-lang|rtl lang|ltr-lang|lang-sect|script/lang|wt|wiktlang => {2|text|texte}
transl|transliteration|translit|tlit|transliterate => {3|2}
script|unicode|code2000 => {2|1}
nastaliq|nq|script/arabic|script/hebrew|script/nastaliq|script/greek|script/cyrillic|hebrew|hebr|script/han|runic|phonetic|unichar/char|polytonic|greek|semxlit|script/devanagari|music2 => {2|1}
color|colour|font color|font colour|fontcolor|background color|bgcolor|fgcolor|colored text => {3|2|text|1}
resize|size|fontsize|font => {2|text|1}
smallcaps|sc|small caps|smallcaps2|allcaps|caps|uppercase|sc2|smallcaps all => {1}{2}
sup|smallsup|superscript|super => {1}
sub|smallsub|subscript => {1}
pow|power|exp => {1}{2}
e => ×10{1}
circa|c.|ca.|ca|circ|circa. => c. {1}< – c. {2}>
floruit|fl.|flourished => fl. {1}< – {2}>
okina|'okina => ʻ
hamza => ʾ
ayin|ain => ʿ
snd|spnd|sndash|spaced ndash|spaced en dash|spaced-en-dash|spndash|snds|– => &#32;–&#32;
smd|spaced mdash|mdashs => &#32;—&#32;
ndash|en dash|endash|en-dash|nd => –
mdash|em dash|emdash|em-dash|md|mdashb|-- => —
nbsp|space|spaces|nbs|ns|thinsp|hair space|hsp|en space|ensp|em space|thin space|figure space|nnbsp|quad|0 => &#32;
nbhyph|nb hyphen|non breaking hyphen|hyphen => ‑
br|break|crlf|newline|-|clear|clr|clearleft|clear left|clearright|clear right => \n
wbr|zwsp|shy|zwj char|wj|word joiner|nobreak|zwnbsp =>
zwj => &zwj;
zwnj => &zwnj;
's|apostrophe s|‘s => &#39;s
'|apostrophe|' => &#39;
'"|' " => &#39;&quot;
"'|" ' => &quot;&#39;
! => |
!! => ||
= => =
( => &#123;
) => &#125;
(( => &#123;&#123;
)) => &#125;&#125;
(( )) => &#123;&#123;&#125;&#125;
!( => &#91;
)! => &#93;
!(( => &#91;&#91;
))! => &#93;&#93;
bracket => &#91;{1}&#93;
braces => &#123;{1}&#125;
pipe => &#124;
·|middot|dot|dot separator|interpunct => &#32;·&#32;
•|bull|bullet|sbull => &#32;•&#32;
\ => &#32;/&#32;
,|comma separator => &#32;·&#32;
asterisk|ast|* => *
pi => π
tau => τ
euler|mathe => e
infty => ∞
degree|deg => {1}°
eqm|equilibrium => ⇌
solar mass => {1} M☉
legend => \n{2}\n
legend2|legend inline|color box => {2}
columns => \n<{col1}\n><{col2}\n><{col3}\n><{col4}\n><{col5}\n>
oldstyledate|oldstyledatedy => {1} &#91;O.S. {3}&#93; {2}
sclass|sclass- => {1}-class {2}
stn|rws => {1}
hash => #
minus => −
times => ×
ellipsis|... => …
prime => {1}′
flat => ♭
sharp => ♯
nee|née => née {1}
b. => b. {1}
d. => d. {1}
w => {2|1}
mention|highlight|tmath => {1}
translation => transl. {1}
verse translation => \n{1}\n<{2}\n>
half => ½
yen sign => ¥
sqrt|radic|root => √{1}
angbr|vr|angle bracket|angle brackets|grapheme|graph2|angbr ipa => ⟨{1}⟩
langle => ⟨
rangle => ⟩
abs => |{1}|
floor => ⌊{1}⌋
ceil => ⌈{1}⌉
bra => ⟨{1}|
ket => |{1}⟩
vec => {1}
chem2 => {1}
ipa|ipalink|ipa link|ipa-all|ipaall|ipa audio|ipas|ipa plain => {2|1}
ipa slink|ipaslinks|ipaslink => /{1}/
ipa blink|ipablink => [{1}]
sic => {1}{2} &#91;sic&#93;
lit|literal translation|literally|lit. => lit. '{1}'
gloss => '{1}'
usd|us$|us dollar => US${1}
cad|ca$|c$|canadian dollar => CA${1}
aud|au$|a$ => A${1}
nzd|nz$ => NZ${1}
gbp|£|gb£|pound sterling|pound => £{1}
eur|€|euro => €{1}
jpy|¥|yen|jpy convert => ¥{1}
inr|₹|indian rupee|indian rupees|rs => ₹{1}
krw|₩ => ₩{1}
rub|₽ => ₽{1}
cny|rmb|cn¥ => CN¥{1}
php|₱|peso => ₱{1}
chf => CHF {1}
flag|flagcountry|flagu|flag+link|flaglink|country|flagathlete|flagdeco+link|flag country|flagg/name => {name|1}
citation needed span|cns|fact span|cn-span|fcn|clarify span|unreferenced inline span => {1|text}
bibleverse|bibleref|bibleref2|bv|bible verse|bibleverse with brackets|bibleref2c => {1} {2}
isbn|isbn link => ISBN {1}
issn|issn link => ISSN {1}
uss => USS {1}
keypress|key|key press|button|keyboard key => {1}
url|official url => {2|1}
native name|native phrase|native name checker => {2}
wikt|wikt-link|dict => {2|1}
linktext|link text|wikilinks => {1} {2} {3} {4} {5} {6}
mp|minor planet => {1}{2}
reign|r.|rgn|reigned => r. {1}< – {2}>
marriage => {1}
block indent|bi|indented|bq indent|blockindent|in5 => \n{1|text}\n
align|left|right|float|aligned => {2|1}
pre|pre2 => \n{1}\n
ruby|ruby-zh|ruby-ja|ruby-ko|ruby-zh-b|ruby-zh-p|ruby-py|rubyja|furigana|ruby-yue|ruby-big => {1}（{2}）
bracketed|parenthesis => ({1})
crossreference|crossref|cross-reference|xref|selfref inline|cref2 => {1|text}
nobreak|not broken|avoid wrap|wrap|longitem|nowrap all|pad|hidden inline|sronly|sro|screen reader-only => {1}
lc:text => {1}
who else|as written by => {1}
pronunciation needed =>
audio|pronunciation|pronounced audio => {2|1}
increase|profit|up|steady|decrease|loss|down|gain|nochange|positive decrease|negative increase =>
nihongo3 => {3} ({2}, {1})
nihongo core|nihongo foot|nihongo krt => {1|3}
yesno|yes2|no2 => {1}
vol.|vol => vol. {1}
p.|page|pg => p. {1}
pp.|pages => pp. {1}
no. => No. {1}
number sign|numero|no.# => № {1}
chinese|zh-full => {1}
won => {1|place}
dagger|†|extinct => †
double-dagger|double dagger|‡ => ‡
section sign|section link|slink|sectlink|section => § {2|1}
paragraph sign => ¶ {1}
s-note => {1}
spell-nv|lang-nv => {1|2}
"""

BY_LANGUAGE = {
    "de": r"""
lang|transl|umschrift => {2|1}
"|zitat-inline|zitat inline => „{text|1}“
zitat|zitat-de|zitat-en|zitat-fr|zitat-la|zitat-es|zitat-it|zitat-ru|quotation-de => \n„{text|1}“< – {autor|2}>\n
bruch => {1}⁄{2}
höhe => {1} m
sortkey|sortdate => {2|1}
datumzelle|datum => {1}
ankerlink|anker text|farbig|farbe|kapitälchen|abk|hochgestellt|tiefgestellt|wenn nicht|okbr|nobreak|textkasten => {2|1}
lies|ipa-text|lautschrift => [{1}]
ipa => [{1}]
person|nachname|polytonisch|arab|hebr|unicode|syr|deva|cyrl|zh-text|koreanisch|jaS|thaiS => {1}
zhS|zh => {kurz|v|t|1}
km²|einwohner => {1}
wikispecies|rp|belege|quelle|hauptartikel|siehe auch =>
""",
    "fr": r"""
lang|langue => {texte|2}
citation|« »|guillemets|cita|« => « {1|citation|texte} »
citation bloc|citation étrangère|début citation bloc|citation longue => \n« {1|texte|2} »\n
incise => — {1} —
ier => Ier
ire => Ire
1er => 1er
1re|1ère => 1re
er => er
re => re
e|ème|eme => e
iie => IIe
s-|s|s- date|siècle romain => {1}{2} siècle
s2-|s2 => {1}{2} et {3}{4} siècles
sp-|sp => du {1}{2} au {4|3}{5} siècle
-s|-s- => {1}{2} siècle av. J.-C.
-s2|-s2- => {1}{2} et {3}{4} siècles av. J.-C.
av jc|av. j.-c.|avjc|av. jc => av. J.-C.
apr jc|apr. j.-c.|ap jc => apr. J.-C.
exp|ex|exposant => {1}
ind|indice => {1}
fchim|formule chimique => {1}{2}{3}{4}{5}{6}{7}{8}
formatnum => {1}
lien|lien à traduire => {texte|fr|1|trad}
abréviation|abr|abréviation discrète|abrd|infobulle|info bulle => {1}
n°|numéro|n|no => +nº {1}
nos|nºs => nos {1}
p.|page|pp. => p. {1}
m. => +M. {1}
mm. => +MM. {1}
mme => +Mme {1}
mlle => +Mlle {1}
dr => +Dr {1}
st|saint => Saint-{1}
ste => Sainte-{1}
mgr => +Mgr {1}
petites capitales|pc|petite capitale|souligner|surligner|couleur|tout petit|taille|grossir|gras|italique|rouge|vert => {2|1}
référence nécessaire|refnec|référence souhaitée|refsou|passage non neutre|passage à actualiser|quoi|à préciser|préciser passage => {1}
api|phon|phonétique|api- => [{1}]
heure => {1} h {2}
date|date-|date de naissance|date de décès|date de naissance-|date de décès-|date rép|date fr => {1} {2} {3}
japonais|nihongo => {1} ({2}, {3})
chinois|coréen|arabe|russe|hébreu => {c|1}
romain|chiffre romain => {1}
degré|degrés => {1}°
euro|euros|€ => {1} €
corrigé|sic ! => {1}
oe|œ => œ
article détaillé|article principal|voir homonymes|ébauche|portail =>
""",
    "es": r"""
cita|cita textual|caja de cita|cita en bloque => \n«{1|texto|cita}»\n
comillas => «{1}»
unidad => {1}< {2}>
ac|a. c. => a. C.
dc|d. c. => d. C.
esd|nowrap|versalitas|versalita|subrayar|color|texto a la derecha|versal|ndash2 => {2|1}
enlace interlingüe|enlace interlingual|ill-wd => {texto|1}
afi => [{1}]
bandera2|pais|geodatos|cr => {1}
cita requerida|añadir referencias|refnec => {1}
""",
    "it": r"""
citazione|quote|cit => \n«{1|testo}»\n
maiuscoletto|sottolineato|tt|nobr|colore|testo citazione => {2|1}
link traduzione|ill|collegamento interprogetto => {testo|1}
data|data nascita => {1} {2} {3}
apice|pedice => {1}
""",
    "pt": r"""
citação|quote|citação2|citar|cquote2 => \n“{1|texto}”\n
fmtn|formatnum|numero|nowrap|versalete|unidade|unid => {1} {2}
séc|século|dc século => século {1}
ac|a.c. => {1} a.C.
dc|d.c. => {1} d.C.
ilc|link-en|ligação interlíngua|ill => {3|1}
dni|nascimento|data de nascimento|morte|falecimento|dtlink|data => {1}/{2}/{3}
carece de fontes span => {1}
""",
    "nl": r"""
citaat|citaat2|cquote => \n“{1|tekst}”\n
nowrap|kleinkapitaal|kleuren => {2|1}
""",
    "pl": r"""
cytat|cytatd => \n„{treść|1}”\n
j|język obcy => {2|1}
skrót|odn/s|nowrap|kolor => {2|1}
data => {1}
""",
    "ru": r"""
s|nobr|nowrap|абзац|мелко|подсказка|comment|abbr|перевод|цвет|color|число|num|не переносить|тч|ч|сокр|юникод => {1}
нп3|нп5|нп|нп1|нп2|нп4|не переведено|не переведено 2|не переведено 3|не переведено 5|iw|нет статьи|перевести => {2|1}
цитата|начало цитаты|блок цитаты|quote => \n«{1|цитата|текст}»< – {автор|2}>\n
цитатник|речь => «{1}»
ударение|'|acute|ударение1 => {1}&#769;
oldstyledate|юлианская дата|сс3|сс2|ссд => {1} ({3}) {2}
--|тире|— => &#32;—
нестрого|фоб|lang-sfx => {1}
гомер|градус => {1}
до н. э.|до нашей эры => до н. э.
см. также|основная статья|подробнее|другие значения =>
""",
    "uk": r"""
нп|не перекладено|iw|нп3|неперекладено => {2|1}
цитата|початок цитати|quote => \n«{1|текст}»\n
s|nobr|nowrap|число|num|comment => {1}
наголос|'|acute => {1}&#769;
""",
    "ja": r"""
読み仮名|読み仮名 ruby不使用|読み仮名_ruby不使用|ふりがな|ルビ|よみがな|ruby|読み => {1}（{2}）
仮リンク|ill2|link-en|日本語版にない記事リンク => {label|linktext|1}
引用|引用文|quotation|quote|cquote => \n{text|1|quote}\n
jis2004フォント|jis90フォント|補助漢字フォント|cp932フォント|拡張漢字|lang|uc|フォント => {2|1}
by|年 => {1}年
生年月日と年齢|死亡年月日と没年齢|没年齢|生年月日|開始日|年月日 => {1}年{2}月{3}日
要出典範囲|要検証範囲|要説明範囲|独自研究範囲 => {1}
要出典|右|左|main|see|参照 =>
下線|取り消し線|太字|縮小|拡大|色|color|small|big => {2|1}
補助単位|単位 => {1}
半角|全角|縦書き => {1}
""",
    "ko": r"""
한자|한자어|ruby|루비|후리가나 => {1}({2})
인용문|인용구|인용|quote => \n{1|내용}\n
임시링크|빈 링크|ill => {3|1}
출처필요문단 => {1}
글씨 크기|색|색깔|글자색 => {2|1}
""",
    "zh": r"""
tsl2|translink => {3|2}
僻字|生僻字|僻|kai|song|cjk-new-char|字|注音|zy => {1}
quote|cquote|引文|引用 => \n{1|text}\n
lj|nowrap|ruby|color|small|big|专名号|書名號|书名号 => {2|1}
bd => （{1}{2}－{3}{4}）
notetag|notefoot|note ta|nota =>
""",
    "ar": r"""
اقتباس|اقتباس مضمن|قوس|اقتباس خاص => «{1|نص}»
إنج => بالإنجليزية: {1}
فرن => بالفرنسية: {1}
وصلة إنترويكي|وإو => {تر|نص|عر|1}
ط|سط|بدون لف|صغير|صندوق اقتباس => {1}
""",
    "fa": r"""
نقل قول|نقل‌قول|گفتاورد => «{1|متن}»
به انگلیسی|به انگلیسی: => به انگلیسی: {1}
پم|پیوند میان‌زبانی => {fa|1}
""",
    "he": r"""
ציטוט => \n"{תוכן|1}"\n
ציטוטון => "{1}"
אנ|קישור שפה => {2|3}
כתב קטן|משמאל לימין|שמ => {1}
""",
    "sv": r"""
citat => \n"{1|text}"\n
""",
    "tr": r"""
alıntı|alinti => \n"{1|metin}"\n
""",
    "cs": r"""
citát => \n„{1|text}“\n
vjazyce|vjazyce2 => {2}
fonetika => [{1}]
""",
    "hu": r"""
idézet => \n„{1|szöveg}”\n
""",
    "fi": r"""
lainaus => \n”{1|teksti}”\n
k-en|k-de|k-fr|k-sv|k-la|k-ru => {1}
""",
    "vi": r"""
nhan đề khác => {1}
""",
}


@cache
def patterns(language: str) -> dict[str, str]:
    """Text by name of template, of the language's own and the common ones."""
    found: dict[str, str] = {}
    for table in (COMMON, BY_LANGUAGE.get(language, "")):
        for line in table.split("\n"):
            names, arrow, text = line.partition(" =>")
            if arrow:
                text = text.removeprefix(" ")
                found |= dict.fromkeys((name.strip().lower() for name in names.split("|")), text.replace("\\n", "\n"))
    return found
