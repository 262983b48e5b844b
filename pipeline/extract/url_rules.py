"""Lists of addresses that are not wanted: a domain with all below it, or a domain with the beginning of a path.

    example.org           example.org and www.example.org, any page
    example.org/ads/      only pages whose path begins so
    # a remark

One entry a line, as the usual block lists have them (a file of any fsspec address, plain or compressed).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from pipeline.compression import read_lines
from pipeline.fasttext_model import digest_of


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
            entry = line.split("#", 1)[0].strip().lower()
            host, slash, path = entry.partition("://")[2].partition("/") if "://" in entry else entry.partition("/")
            host = host.strip(".")
            if host and path:
                paths.setdefault(host, set()).add(slash + path)
            elif host:
                domains.add(host)
        return cls(frozenset(domains), {host: tuple(sorted(found)) for host, found in paths.items()})

    def entry_for(self, url: str) -> str:
        """The entry that blocks an address, or nothing."""
        try:
            parts = urlsplit(url.lower())
            host = (parts.hostname or "").strip(".")
        except ValueError:  # no address at all: [ or ] in its host
            return ""
        labels = host.split(".")
        for start in range(len(labels)):
            domain = ".".join(labels[start:])
            if domain in self.domains:
                return domain
            for path in self.paths.get(domain, ()):
                if parts.path.startswith(path):
                    return domain + path
        return ""


def read_url_rules(addresses: tuple[str, ...]) -> UrlRules:
    """All lists together. Raises InputError where one is not there."""
    return _read(tuple((address, digest_of(address)) for address in addresses))


@lru_cache(maxsize=2)
def _read(identified: tuple[tuple[str, str], ...]) -> UrlRules:
    texts = [b"".join(read_lines(address)).decode("utf-8", "replace") for address, _ in identified]
    return UrlRules.parse("\n".join(texts))
