"""Keys, tokens and passwords: by the marks their issuers put on them, and by what they are assigned to.

A pattern runs only on texts that contain one of its markers. The span is the secret itself: the name that it is
assigned to stays, so that code remains code.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """``group`` of the expression is the secret; ``least_entropy`` (bits a character) tells random text from words."""

    markers: tuple[str, ...]
    expression: re.Pattern[str]
    group: int = 0
    least_entropy: float = 0.0


_KEY_BLOCK = r"(?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"

PATTERNS = (
    Pattern(("PRIVATE KEY",), re.compile(rf"-----BEGIN {_KEY_BLOCK}[\s\S]{{16,8192}}?-----END {_KEY_BLOCK}")),
    Pattern(("AKIA", "ASIA"), re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Z0-9])")),
    Pattern(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"(?<!\w)gh[pousr]_[A-Za-z0-9]{36,255}(?!\w)")),
    Pattern(("github_pat_",), re.compile(r"(?<!\w)github_pat_\w{50,255}(?!\w)")),
    Pattern(("glpat-",), re.compile(r"(?<!\w)glpat-[\w-]{20,64}(?!\w)")),
    Pattern(("xox",), re.compile(r"(?<!\w)xox[abeprs]-[A-Za-z0-9-]{10,250}(?!\w)")),
    Pattern(("AIza",), re.compile(r"(?<!\w)AIza[\w-]{35}(?![\w-])")),
    Pattern(("_live_",), re.compile(r"(?<!\w)[sr]k_live_[A-Za-z0-9]{16,255}(?!\w)")),
    Pattern(("sk-",), re.compile(r"(?<![\w-])sk-(?:[a-z]{2,8}-){0,2}[A-Za-z0-9_-]{20,255}(?!\w)"), least_entropy=3.5),
    Pattern(("npm_",), re.compile(r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)")),
    Pattern(("pypi-AgE",), re.compile(r"(?<!\w)pypi-AgE[\w-]{50,512}(?!\w)")),
    Pattern(("hf_",), re.compile(r"(?<!\w)hf_[A-Za-z0-9]{30,64}(?!\w)"), least_entropy=3.5),
    Pattern(("eyJ",), re.compile(r"(?<!\w)eyJ[\w-]{10,2048}\.eyJ[\w-]{10,4096}\.[\w-]{10,1024}")),
    Pattern(("SG.",), re.compile(r"(?<![\w.])SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"), least_entropy=3.5),
    Pattern(
        ("dckr_pat_", "dop_v1_", "shpat_"), re.compile(r"(?<!\w)(?:dckr_pat_|dop_v1_|shpat_)[\w-]{27,64}(?![\w-])")
    ),
    Pattern(("://",), re.compile(r"://[^\s/:@\"'<>]{0,64}:([^\s/@\"'<>${}]{3,128})@[\w.-]"), group=1),
)

_QUOTED = re.compile(r"([\"'])([^\s\"'<>${}()]{16,256})\1")
_ASSIGNED_TO = re.compile(
    r"(?:(?:api|access|auth|client|private|secret|signing|encryption)[_-]?(?:key|token|secret)|secret|token|passwd|password)"
    r"[\"']?\s{0,4}(?::=|=>|[:=])\s{0,4}\Z",
    re.IGNORECASE,
)
_BEFORE = 40
_RANDOM = 3.5


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    for pattern in PATTERNS:
        if any(marker in text for marker in pattern.markers):
            for found in pattern.expression.finditer(text):
                secret = found[pattern.group]
                if _is_example(secret):
                    continue
                if not pattern.least_entropy or _is_random(secret, pattern.least_entropy):
                    yield found.span(pattern.group)
    yield from _find_assigned(text)


_PLACEHOLDER = re.compile(
    r"example|placeholder|change[-_]?me|your[-_ ]|yourapi|yourtoken|dummy|sample|redacted|x{4}|\*{4}|0123456789|1234567890"
    r"|abcdef|deadbeef|foobar|insert[-_]|my[-_](?:secret|token|key|api)|<|sha(?:1|224|256|384|512)[:-]|\bmd5[:-]",
    re.IGNORECASE,
)
"""What stands in documentation where a secret would, and digests that say what they are."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_CONFIDENTIAL = re.compile(r"key|secret|passw", re.IGNORECASE)
_KNOWN_PASSWORDS = frozenset(
    ["password", "passwd", "pass", "pwd", "secret", "postgres", "root", "admin", "user", "username", "changeme", "test", "guest",
     "example", "xxx", "mysql", "redis", "mypassword", "token", "pw", "key", "foo", "bar", "baz", "demo", "default"]
)  # fmt: skip
"""Of URLs: nobody's secret, and what connection strings in documentation are made of."""
_DOCUMENTED_JWT = "eyJzdWIiOiIxMjM0NTY3ODkw"


def _is_example(secret: str) -> bool:
    """``AKIAIOSFODNN7EXAMPLE`` and other keys that issuers print in their documentation."""
    return "EXAMPLE" in secret or _DOCUMENTED_JWT in secret or secret.lower() in _KNOWN_PASSWORDS


def _find_assigned(text: str) -> Iterator[tuple[int, int]]:
    """Quoted random strings given to something that is called a key, a token or a password."""
    for found in _QUOTED.finditer(text):
        before = text[max(0, found.start() - _BEFORE) : found.start()]
        name = _ASSIGNED_TO.search(before)
        if name is None or _PLACEHOLDER.search(found[2]) or not _is_random(found[2], _RANDOM):
            continue
        if _UUID.match(found[2]) and not _CONFIDENTIAL.search(name[0]):
            continue  # a token that names something, not one that opens it
        yield found.span(2)


def _is_random(value: str, least_entropy: float) -> bool:
    """Letters and digits mixed, with little repetition: neither a word, a path nor a placeholder."""
    if not any(c.isdigit() for c in value) or not any(c.isalpha() for c in value):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= least_entropy
