"""Lists of addresses that are not wanted: a domain with all below it, or a domain with the beginning of a path.

    example.org                 example.org and www.example.org, any page
    example.org/ads/            only pages whose path (and query) begins so
    example.org/page$           only the page whose path (and query) is so
    example.org/a#part          an address with a fragment: only that one
    git.example/owner/name      files of a repository; archive.tar.gz/folder/ those of an archive; rows.jsonl#7 one row
    # a remark

One entry a line, as the usual block lists have them (a file of any fsspec address, plain or compressed). Escapes
(``%C3%A9``) stand for their characters on both sides.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from pipeline.compression import read_lines
from pipeline.fasttext_model import digest_of

REMARK = re.compile(r"(?:^|(?<=\s))#.*")


@dataclass(frozen=True)
class UrlRules:
    """Blocked domains, and blocked beginnings of paths by domain."""

    domains: frozenset[str]
    paths: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> "UrlRules":
        domains: set[str] = set()
        paths: dict[str, set[str]] = {}
        for line in text.splitlines():
            host, path = _parts(REMARK.sub("", line))
            if host and path.strip("/"):
                paths.setdefault(host, set()).add(path)
            elif host:
                domains.add(host)
        return cls(frozenset(domains), {host: tuple(sorted(found)) for host, found in paths.items()})

    def entry_for(self, url: str) -> str:
        """The entry that blocks an address, or nothing."""
        host, path = _parts(url)
        labels = host.split(".")
        for start in range(len(labels)):
            domain = ".".join(labels[start:])
            if domain in self.domains:
                return domain
            for entry in self.paths.get(domain, ()):
                if entry in (path, f"{path}$") or (path.startswith(entry) and "#" not in entry):
                    return domain + entry
        return ""


def _parts(address: str) -> tuple[str, str]:
    """Host, and what follows it; nothing of what is no address."""
    address = address.strip().lower()
    try:
        split = urlsplit(address if "://" in address else f"//{address}")
        host = (split.hostname or "").strip(".")
    except ValueError:  # [ or ] in its host
        return "", ""
    query = f"?{split.query}" if split.query else ""
    fragment = f"#{split.fragment}" if split.fragment else ""
    return host, unquote(split.path + query + fragment)


def read_url_rules(addresses: tuple[str, ...]) -> UrlRules:
    """All lists together. Raises InputError where one is not there."""
    return _read(tuple((address, digest_of(address)) for address in addresses))


@lru_cache(maxsize=2)
def _read(identified: tuple[tuple[str, str], ...]) -> UrlRules:
    texts = [b"".join(read_lines(address)).decode("utf-8", "replace") for address, _ in identified]
    return UrlRules.parse("\n".join(texts))
