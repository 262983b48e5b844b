"""When two addresses are the same page.

Scheme, ``www.``, default port, letter case of the host, fragment, a trailing slash, the order of query parameters and
the parameters that only track visitors do not matter. Everything else does.
"""

from urllib.parse import urlsplit

# Not "sid": on many sites it names the story.
_TRACKING = frozenset(
    (
        "fbclid",
        "gclid",
        "dclid",
        "msclkid",
        "igshid",
        "mc_cid",
        "mc_eid",
        "yclid",
        "_ga",
        "phpsessid",
        "jsessionid",
    )
)


def normalise_url(url: str) -> str:
    """A key that is equal for addresses of the same page; the text itself if it is no URL."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url.strip()
    if not parts.netloc:
        return url.strip()
    host = parts.netloc.rpartition("@")[2].lower()
    host = host.removesuffix(":80").removesuffix(":443").removeprefix("www.").rstrip(".")
    path = parts.path.rstrip("/") or "/"
    query = ""
    if parts.query:
        kept = sorted(part for part in parts.query.split("&") if part and not _tracks(part.partition("=")[0].lower()))
        query = "?" + "&".join(kept) if kept else ""
    # "#!" addresses a page of its own in applications that route by fragment.
    fragment = f"#{parts.fragment}" if parts.fragment.startswith("!") else ""
    return f"{host}{path}{query}{fragment}"


def _tracks(parameter: str) -> bool:
    return parameter.startswith("utm_") or parameter in _TRACKING
