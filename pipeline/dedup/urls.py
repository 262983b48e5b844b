"""When two addresses are the same page.

Scheme, ``www.``, default port, letter case and spelling of the host (IDN), the way characters are percent-encoded, ``.`` and
``..``, a trailing slash, the order of query parameters, and parameters that only track visitors or name their session do not
matter. Nor does a fragment that names a place on the page; one that is a route of an application (``#/map``, ``#!/map``) does.
Everything else matters.
"""

import contextlib
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

import idna

# Not "sid", "ref", "id": on many sites they name the story.
_TRACKING = frozenset(
    [
        "fbclid", "gclid", "dclid", "msclkid", "gbraid", "wbraid", "gclsrc", "gad_source", "gad_campaignid", "igshid",
        "igsh", "twclid", "ttclid", "yclid", "ysclid", "li_fat_id", "epik", "mc_cid", "mc_eid", "mkt_tok", "_ga", "_gl",
        "_hsenc", "_hsmi", "hsctatracking", "vero_id", "vero_conv", "oly_enc_id", "oly_anon_id", "ml_subscriber",
        "ml_subscriber_hash", "fb_action_ids", "fb_action_types", "fb_source", "fb_ref", "wickedid", "irclickid",
        "ref_src", "ref_url", "__twitter_impression", "s_cid", "wt_mc", "wt.mc_id", "xtor", "spm", "cmpid", "phpsessid",
        "jsessionid", "asp.net_sessionid", "sessionid", "session_id", "cfid", "cftoken",
    ]
)  # fmt: skip
_TRACKING_FAMILIES = ("utm_", "pk_", "mtm_", "matomo_", "piwik_", "hsa_", "aspsessionid")
_SESSION_IN_PATH = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/;?#]*", re.IGNORECASE)
_ENCODED = re.compile("%[0-9A-Fa-f]{2}")
_PORTS = {"http": ":80", "https": ":443", "ftp": ":21"}
# What may stand for itself in a path or query; "%" because it begins what is encoded already.
_PLAIN = "%!$&'()*+,;=:@/?-._~[]|"


def normalise_url(url: str) -> str:
    """A key that is equal for addresses of the same page; the text itself if it is no URL."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url.strip()
    if not parts.netloc:
        return url.strip()
    scheme = parts.scheme.lower()
    host = _host(parts.netloc.rpartition("@")[2], scheme)
    path = _without_dots(_spelled(_SESSION_IN_PATH.sub("", parts.path))).rstrip("/") or "/"
    query = _query(parts.query)
    kept = "" if scheme in ("http", "https") else f"{scheme}://"
    return f"{kept}{host}{path}{query}{_route(parts.fragment)}"


def _host(place: str, scheme: str) -> str:
    host = place.lower().removesuffix(_PORTS.get(scheme, ":80"))
    host, colon, port = host.rpartition(":") if re.search(r":\d+\Z", host) else (host, "", "")
    host = host.rstrip(".")
    if not host.isascii():
        with contextlib.suppress(idna.IDNAError, UnicodeError):
            host = idna.encode(host, uts46=True).decode()
    bare = host.removeprefix("www.")
    return f"{bare if '.' in bare else host}{colon}{port}"


def _spelled(text: str) -> str:
    """One spelling of each character: letters and the like plain, all others encoded, with capital digits."""
    if "%" in text:
        text = _ENCODED.sub(_unreserved, text)
    # A control character is none to keep: at the end of an address it would be stripped, and the key not be its own.
    plain = text.isascii() and text.isprintable() and " " not in text
    return text if plain else quote(text, safe=_PLAIN)


def _unreserved(found: re.Match[str]) -> str:
    character = unquote_to_bytes(found[0]).decode("latin-1")
    return character if character.isascii() and (character.isalnum() or character in "-._~") else found[0].upper()


def _without_dots(path: str) -> str:
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept) + ("/" if segments[-1] in (".", "..") else "")


def _query(query: str) -> str:
    if not query:
        return ""
    parameters = (part.removeprefix("amp;") for part in query.split("&"))
    kept = sorted(
        _spelled(part).replace("%20", "+")
        for part in parameters
        if part and not _tracks(part.partition("=")[0].lower())
    )
    return "?" + "&".join(kept) if kept else ""


def _tracks(parameter: str) -> bool:
    return parameter.startswith(_TRACKING_FAMILIES) or parameter in _TRACKING


def _route(fragment: str) -> str:
    """The fragment, if an application shows another page for it. ``#/`` is its first one."""
    fragment = fragment.partition(":~:")[0]
    if not fragment.startswith(("/", "!")):
        return ""
    route = _spelled(fragment.removeprefix("!")).strip("/")
    return f"#/{route}" if route else ""
