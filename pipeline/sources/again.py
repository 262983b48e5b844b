"""A record read again from its archive, by the origin that its document carries.

Archives that lie where bytes can be read from any place, and whose records stand alone there: crawl archives, and lines of
files that are not compressed. Nothing is fetched from the network for it.
"""

import glob
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from resiliparse.extract.html2text import extract_plain_text

from infra.errors import InputError, NotFound
from infra.store.address import dataset_file
from infra.store.dataset import Dataset
from infra.store.files import exists, filesystem, is_local
from pipeline.compression import foreign_format
from pipeline.document import Origin
from pipeline.extract.decode import decode
from pipeline.extract.refusal import Refused
from pipeline.extract.unpack import unpack
from pipeline.sources.common_crawl import CommonCrawlSource
from pipeline.sources.contract import Archive, SourceConfig
from pipeline.sources.files import base_folder, open_archive
from pipeline.sources.http import is_http
from pipeline.sources.records import NotAnArchive, read_records
from pipeline.sources.tables import JsonlSource
from pipeline.sources.warc import CrawlOptions, parse_stored

MOST_BYTES = 16_000_000


@dataclass(frozen=True)
class Stored:
    """A record as its archive has it: ``markup`` as characters, and the text that a reader of it would see."""

    text: str
    markup: str | None = None


def stored_record(source: SourceConfig, origin: Origin, inputs: Mapping[str, Dataset]) -> Stored:
    """The record. Raises InputError with the reason where it cannot be read again."""
    if not isinstance(source, (CrawlOptions, JsonlSource)):
        raise InputError(f"records of kind {source.kind} are not read again one by one", where=origin["archive"])
    url = _archive_url(source, origin["archive"], inputs)
    data = _bytes(url, origin)
    if isinstance(source, JsonlSource):
        if foreign_format(data):
            raise InputError("the file is compressed: its lines are not read again one by one", where=origin["archive"])
        return Stored(decode(data, "utf-8", html=False).text)
    return _page(source, data, origin)


def _page(source: CrawlOptions, data: bytes, origin: Origin) -> Stored:
    try:
        raw = next(iter(read_records(io.BytesIO(data), 0, len(data), source.max_record_bytes)), None)
        page, digest = (raw and parse_stored(raw, origin["archive"])) or (None, "")
        if page is None or digest != origin["digest"]:
            raise InputError("the archive has another record at this place by now", where=origin["archive"])
        html = "html" in page.content_type.lower() or page.body[:1024].lstrip()[:1] == b"<"
        text = decode(
            unpack(page.body, page.content_encoding, page.transfer_encoding, MOST_BYTES), page.charset, html=html
        ).text
    except (NotAnArchive, ValueError, LookupError, Refused) as error:
        raise InputError(f"the record cannot be read: {error or 'it is none'}", where=origin["archive"]) from error
    return (
        Stored(extract_plain_text(text, preserve_formatting=True, main_content=False), text) if html else Stored(text)
    )


def _bytes(url: str, origin: Origin) -> bytes:
    if not 0 < origin["length"] <= MOST_BYTES:
        raise InputError(f"the record has {origin['length']:,} bytes, too many to show", where=origin["archive"])
    with open_archive(Archive(origin["archive"], url, 0, "")) as stream:
        stream.seek(origin["offset"])
        return stream.read(origin["length"])


def _archive_url(source: SourceConfig, name: str, inputs: Mapping[str, Dataset]) -> str:
    """Where the archive lies; inside its source, whatever its name says."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError("the archive's name leads out of its source", where=name[:200])
    if found := dataset_file(source.address):
        if found[0] not in inputs:
            raise NotFound(f"the dataset {found[0]} that held its archive is not in the store any more", where=name)
        url = inputs[found[0]].url(f"data/{name}")
    elif isinstance(source, CommonCrawlSource):
        url = f"{source.mirror.rstrip('/')}/{name}"
    elif is_http(source.address) or not is_local(source.address):
        url = source.address
    else:
        top = Path(filesystem(source.address)[1])
        many = top.is_dir() or (not top.exists() and glob.has_magic(str(top)))
        url = str(base_folder(top) / name if many else top)
    if is_http(url):
        cached = Path(getattr(source, "cache", "")).expanduser() / urlsplit(url).path.lstrip("/")
        if not getattr(source, "cache", "") or not cached.is_file():
            raise NotFound("its archive was fetched from the network and is not kept on this machine", where=url)
        url = str(cached)
    if not exists(url):
        raise NotFound("its archive is not where it was", where=url)
    return url
