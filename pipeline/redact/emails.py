"""E-mail addresses, told from what only looks like one.

An address is a local part, an @, and a domain whose last label is a top-level domain that exists (``logo@2x.png`` and
``A@np.linalg.inv`` have none). Then what stands around it is looked at: a user in front of a host in a URL or a remote
(``https://user@host/``, ``git@github.com:acme/tool``), a shell's prompt, a call (``U@np.save(x)``), a handle
(``@ada@social.example``), a version (``pkg@1.0.0-beta.dev``) is nobody's address. Scripts that are written without spaces
end an address: in ``联系ada@firm.de谢谢`` it is ``ada@firm.de``.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from tld import is_tld

# Han, kana, Hangul, Thai, Lao, Tibetan, Myanmar, Khmer: a word in them stands next to Latin letters without a space.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_MARKS = "\u0300-\u036f\u0900-\u0dff"
_AT = re.compile("[@\uff20]")
_LOCAL = re.compile(rf"(?:[\w.+'{_MARKS}-](?<![{_UNSPACED}])){{1,64}}\Z")
_LOCAL_UNSPACED = re.compile(rf"[{_UNSPACED}\w.]{{1,64}}\Z")
_LETTER = rf"(?:[^\W_]|[{_MARKS}])(?<![{_UNSPACED}])"
_LABEL = rf"{_LETTER}(?:(?:[\w{_MARKS}-](?<![{_UNSPACED}_])){{0,61}}{_LETTER})?"
_LABEL_UNSPACED = rf"[{_UNSPACED}]{{1,30}}"
_DOMAIN = re.compile(rf"(?:{_LABEL}|{_LABEL_UNSPACED})(?:\.(?:{_LABEL}|{_LABEL_UNSPACED})){{1,8}}")
_LEADING = ".'-+"
_NO_ADDRESS = (
    "example.com",
    "example.org",
    "example.net",
    "example.edu",
    "example",
    "test",
    "invalid",
    "localhost",
    "local",
)
"""Domains set aside for examples (RFC 2606) and for local networks: nobody receives mail there from outside."""
_SERVICES = frozenset({"git", "hg", "svn", "bzr", "gitea", "gogs", "gitlab", "forgejo", "fossil", "aur"})
"""Users of version control: the address is a machine's."""
_NEVER_MAIL = frozenset({"data", "map", "call", "select", "save", "read", "show", "zip", "mov", "dot", "open"})
"""Top-level domains that are attributes of objects, or endings of files, far more often than mail."""
_VERSION = re.compile(r"v?\d+\.\d+(?:\.|-|\Z)")
_RETINA = re.compile(r"\dx\.")
_REMOTE_PATH = re.compile(r":(?:~|\.{0,2}/|[\w.-]+/|[\w.-]+\.git\b)")
_REMOTE_COMMAND = re.compile(
    r"(?:^|[\s;&|`$(])(?:ssh|scp|sftp|mosh|sshfs|rsync|ssh-copy-id|autossh)"
    r"(?:[ \t]+-[\w-]{1,20}(?:[= ][^\s@-][^\s@]{0,80})?){0,8}[ \t]+\Z"
)
_COPY_COMMAND = re.compile(r"(?:^|[\s;&|`$(])(?:scp|rsync|sftp)[ \t][^\n;|&]{0,150}\Z")
_MESSAGE_ID = re.compile(r"(?:message-id|in-reply-to|references|msgid)\b[^\n]{0,120}<[^\s<>@]{0,60}\Z", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://[^\s/?#\"'<>]{0,100}\Z")
_AROUND = 160


_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_ESCAPED = re.compile(r"[nrtbfv]|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}")
_PROMPT_END = re.compile(r"(?:[ ][~/][\w./~-]{0,80}|[ ]~)?\][#$%]|[$#%] ")
_PRINCIPAL = re.compile(r"\b(?:host|HTTP|krbtgt|nfs|cifs|ldap|imap|smtp|postgres|kafka|hdfs|hive|yarn|zookeeper)/\Z")
_ALGORITHM_OWNERS = ("openssh.com", "libssh.org", "lysator.liu.se", "ssh.com", "vandyke.com")
"""Who name their own algorithms of SSH after themselves: ``chacha20-poly1305@openssh.com``."""


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Addresses, less those at domains reserved for examples, and what only looks like one."""
    for at in _AT.finditer(text):
        start = _local_start(text, at.start())
        if start == at.start():
            continue
        found = _DOMAIN.match(text, at.end())
        end = _domain_end(text, found.end(), found[0]) if found else 0
        if end and not _looks_only(text, start, at.start(), at.end(), end):
            yield start, end


def _local_start(text: str, at: int) -> int:
    """Where the local part begins; ``at`` if there is none."""
    window = max(0, at - 64)
    local = _LOCAL.search(text, window, at) or _LOCAL_UNSPACED.search(text, window, at)
    if local is None:
        return at
    start = local.start()
    if _ESCAPE.search(text, max(0, start - 8), start) and (escaped := _ESCAPED.match(text, start, at)):
        start = escaped.end()  # ``"Mail:\\nada@firm.de"`` in code
    while start < at and text[start] in _LEADING:  # punctuation before an address is not part of it
        start += 1
    return start


def _domain_end(text: str, end: int, domain: str) -> int:
    """Where the domain ends: at its last label that is a top-level domain; 0 if none is.

    Labels behind it belong to the next sentence if they begin with a capital letter: ``ada@firm.de.Thanks``.
    """
    if _VERSION.match(domain) or _RETINA.match(domain):
        return 0
    labels = domain.split(".")
    position = end
    for number in range(len(labels), 1, -1):
        last = labels[number - 1]
        if (length := _top_level(last)) > 0:
            return position - len(last) + length
        if not last[:1].isupper() or labels[number - 2][:1].isupper():
            return 0
        position -= len(last) + 1
    return 0


@lru_cache(maxsize=4096)
def _top_level(label: str) -> int:
    """How much of the label is a top-level domain: all, or the head of an unspaced text."""
    plain = label.lower()
    if plain.startswith("xn--"):
        try:
            plain = plain.encode().decode("idna")
        except UnicodeError:
            return 0
        return len(label) if is_tld(plain) else 0
    if plain in _NEVER_MAIL:
        return 0
    if is_tld(plain):
        return len(label)
    head, hyphen, rest = label.partition("-")
    if hyphen and rest[:1].isupper() and is_tld(head.lower()):  # ada@firm.de-Adresse
        return len(head)
    if re.match(f"[{_UNSPACED}]", plain):
        return next((length for length in range(min(len(plain), 8), 1, -1) if is_tld(plain[:length])), 0)
    return 0


def _looks_only(text: str, start: int, at: int, domain_start: int, end: int) -> bool:
    """Whether what stands around it says that this is no address."""
    local, domain = text[start:at].lower(), text[domain_start:end].lower()
    if re.match(r"_\w", text[end : end + 2]):  # ``v.is_contiguous``
        return True
    if (
        local in _SERVICES
        or local.endswith(".git")
        or any(domain == name or domain.endswith(f".{name}") for name in _NO_ADDRESS)
    ):
        return True
    if domain in _ALGORITHM_OWNERS and ("-" in local or local == "zlib"):
        return True
    before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
    if _PRINCIPAL.search(before) or (_PROMPT_END.match(after) and re.search(r"(?:\A|\n)\[?\Z", before)):
        return True
    if before.endswith(("@", "\uff20")) or after.startswith(("(", "[", "@")):  # a handle, a call, an index
        return True
    if after.startswith(":") and (_REMOTE_PATH.match(after) or _COPY_COMMAND.search(before)):
        return True
    scheme = _SCHEME.search(before) if "://" in before else None
    if scheme is not None and scheme[1].lower() not in ("mailto", "sip", "xmpp"):
        return True
    return bool(_REMOTE_COMMAND.search(before) or ("<" in before and _MESSAGE_ID.search(before)))
