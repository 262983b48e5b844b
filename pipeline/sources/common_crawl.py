"""Common Crawl: from the name of a crawl to its documents.

    <mirror>/collinfo.json                               the crawls there are
    <mirror>/crawl-data/<crawl>/warc.paths.gz            a crawl's archives (wet.paths.gz: their text)
    <mirror>/crawl-data/<crawl>/segments/…/x.warc.gz     an archive: one unit
    <index>/<crawl>-index?url=*.example.org              where the captures of a domain lie: ranges of archives

A mirror is HTTPS, S3 (``s3://commoncrawl``) or a folder of the same layout. Which archives are taken depends on their
names only (``archives`` or ``fraction`` choose by a hash), so a larger choice contains the smaller one and no listing order
or worker count matters. Published crawls do not change: a path is its archive's identity.
"""

import fnmatch
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import Field

from infra.config import Execution
from infra.errors import ConfigError, InputError
from infra.store.files import filesystem
from pipeline.compression import Damaged, unpacked
from pipeline.sources import warc
from pipeline.sources.contract import Archive, Outcome, Part, Reading
from pipeline.sources.http import HttpFile, Patience, fetch, is_http

COLLECTIONS = "collinfo.json"
CRAWL_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{2,60}$")
CAPTURES_A_UNIT = 200
MAX_INDEX_PAGES = 10_000


class CommonCrawlSource(warc.CrawlOptions):
    """One crawl of Common Crawl, by its name."""

    kind: Literal["common_crawl"]
    content: Literal["warc", "wet"] = Field(default="warc", description="Pages, or their text.")
    paths: str = Field(default="", description="Only archives whose path matches, with * and ?.")
    archives: int = Field(default=0, ge=0, description="At most so many archives; 0 takes all.")
    fraction: float = Field(default=1.0, gt=0, le=1, description="The share of the archives to take.")
    domain: str = Field(default="", description="Only captures of this domain, found by the URL index.")
    mirror: Annotated[str, Execution()] = Field(
        default="https://data.commoncrawl.org", description="HTTPS, s3://commoncrawl, or a folder."
    )
    index: Annotated[str, Execution()] = Field(
        default="https://index.commoncrawl.org", description="The URL index's server."
    )


def list_crawls(mirror: str) -> list[str]:
    """The names of a mirror's crawls, newest first (as the list itself is)."""
    address = f"{mirror.rstrip('/')}/{COLLECTIONS}"
    entries = _json(_read(address, Patience()), address)
    try:
        return [entry["id"] for entry in entries]
    except (TypeError, KeyError) as error:
        raise InputError("the list of crawls is not in its usual form", where=address) from error


def parts(config: CommonCrawlSource, _archives: list[Archive], patience: Patience = Patience()) -> Iterable[Part]:
    """The chosen archives, or the ranges of the chosen domain's captures."""
    if not CRAWL_NAME.match(config.address):
        raise ConfigError(
            f"{config.address!r} is not the name of a crawl",
            where=f"source {config.name}",
            remedy="Write one like CC-MAIN-2024-33; collinfo.json lists them.",
        )
    if config.domain:
        return _captures(config, patience)
    mirror = config.mirror.rstrip("/")
    listing = f"{mirror}/crawl-data/{config.address}/{config.content}.paths.gz"
    try:
        paths = unpacked(io.BytesIO(_read(listing, patience))).read().decode().split()
    except (Damaged, UnicodeDecodeError) as error:
        raise InputError(f"the list of archives is damaged: {error}", where=listing) from error
    chosen = choose(paths, config.paths, config.archives, config.fraction)
    if not chosen:
        raise InputError("no archive is chosen", where=listing, remedy="Check paths, archives and fraction.")
    return [Part(Archive(path, f"{mirror}/{path}", 0, "")) for path in chosen]


def choose(paths: Iterable[str], pattern: str, count: int, fraction: float) -> list[str]:
    """Paths that match, then the ``fraction`` and at most ``count`` of them with the smallest hashes, by name."""
    matching = (path for path in paths if not pattern or fnmatch.fnmatchcase(path, pattern))
    ranked = sorted((hashlib.blake2b(path.encode(), digest_size=8).digest(), path) for path in matching)
    limit = int(fraction * 2**64)
    ranked = [entry for entry in ranked if int.from_bytes(entry[0], "big") < limit]
    return sorted(path for _, path in (ranked[:count] if count else ranked))


def read(part: Part, reading: Reading[CommonCrawlSource]) -> Iterator[Outcome]:
    """The documents of an archive, or of the captures of a domain."""
    if not part.spans:
        yield from warc.read(part, reading)
        return
    mirror = reading.source.mirror.rstrip("/")
    for path, offset, length in part.spans:
        archive = Archive(path, f"{mirror}/{path}", length, "")
        data = _read_range(archive.url, offset, length)
        yield from warc.read_stream(io.BytesIO(data), Part(archive), reading, offset)


def _captures(config: CommonCrawlSource, patience: Patience) -> Iterator[Part]:
    """Units of some captures each, in the order of the archives they lie in."""
    found = sorted(set(_index_lines(config, patience)))
    if not found:
        raise InputError(f"the index knows no capture of {config.domain}", where=config.address)
    for start in range(0, len(found), CAPTURES_A_UNIT):
        spans = tuple(found[start : start + CAPTURES_A_UNIT])
        name = f"{config.address} {config.domain}"
        digest = hashlib.sha256(repr(spans).encode()).hexdigest()
        yield Part(Archive(name, "", sum(length for *_, length in spans), digest), 0, 0, spans)


def _index_lines(config: CommonCrawlSource, patience: Patience) -> Iterator[tuple[str, int, int]]:
    base = f"{config.index.rstrip('/')}/{config.address}-index"
    query = {"url": f"*.{config.domain}", "output": "json", "filter": "=status:200"}
    pages = _json(_read(f"{base}?{urlencode({**query, 'showNumPages': 'true'})}", patience), base)
    number = int(pages["pages"]) if isinstance(pages, dict) else int(pages)
    if number > MAX_INDEX_PAGES:
        raise InputError(
            f"the index lists {config.domain} on {number:,} pages, and more than {MAX_INDEX_PAGES:,} are not asked for",
            where=base,
            remedy="Name a smaller domain, or take the crawl's archives instead.",
        )
    for page in range(number):
        answer = _read(f"{base}?{urlencode({**query, 'page': page})}", patience)
        for line in answer.splitlines():
            entry = _json(line, base)
            try:
                yield entry["filename"], int(entry["offset"]), int(entry["length"])
            except (TypeError, KeyError, ValueError) as error:
                raise InputError("the index answers in an unknown form", where=base) from error


def _read(address: str, patience: Patience) -> bytes:
    if is_http(address):
        return fetch(address, patience)
    fs, path = filesystem(address)
    try:
        data: bytes = fs.cat_file(path)
    except OSError as error:
        raise InputError("there is no such file", where=address, remedy="Check the mirror's address.") from error
    return data


def _read_range(url: str, offset: int, length: int) -> bytes:
    if is_http(url):
        with HttpFile(url, end=offset + length) as stream:
            stream.seek(offset)
            return stream.read(length)
    fs, path = filesystem(url)
    try:
        data: bytes = fs.cat_file(path, start=offset, end=offset + length)
    except OSError as error:
        raise InputError("the archive cannot be read", where=url) from error
    return data


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(f"the answer is not JSON: {error}", where=where) from error
