"""A crawl from its name: lists, choices, captures of a domain, cuts on the way."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.errors import ConfigError, InputError
from pipeline.extract.page import ExtractConfig
from pipeline.ingest import STAGE, IngestConfig
from pipeline.sources import common_crawl
from pipeline.sources.contract import Part, Reading, SourceConfig
from tests.pipeline.sources.archives import documents, gzip_members, html_page, numbered_records, warc_record
from tests.pipeline.sources.mirror import Mirror, serve
from tests.support import run_shard_stage, source_config

CRAWL = "CC-MAIN-2024-33"


def archive(number: int) -> bytes:
    records = [warc_record(f"http://site{n}.example.org/{number}", html_page(f"{number}-{n}")) for n in range(4)]
    return b"".join(gzip_members(records))


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as server:
        server.add_crawl("CC-MAIN-2024-26", {})
        server.add_crawl(CRAWL, {f"{n:05}.warc.gz": archive(n) for n in range(10)})
        yield server


def source(mirror: Mirror | Path, **options: object) -> SourceConfig:
    address = mirror.url if isinstance(mirror, Mirror) else str(mirror)
    settings = {
        "name": "crawl",
        "kind": "common_crawl",
        "address": CRAWL,
        "mirror": address,
        "index": address,
        **options,
    }
    return source_config(**settings)


def names(config: SourceConfig) -> set[str]:
    return {part.archive.name.rsplit("/", 1)[1] for part in common_crawl.parts(config, [])}


def test_the_list_of_crawls(mirror: Mirror) -> None:
    assert common_crawl.list_crawls(mirror.url) == [CRAWL, "CC-MAIN-2024-26"]


def test_all_archives_or_a_choice_by_their_names(mirror: Mirror) -> None:
    assert len(names(source(mirror))) == 10
    assert names(source(mirror, paths="*/0000[3-5].warc.gz")) == {f"0000{n}.warc.gz" for n in (3, 4, 5)}
    three, five = names(source(mirror, archives=3)), names(source(mirror, archives=5))
    assert (len(three), len(five)) == (3, 5)
    assert three < five, "a larger choice contains the smaller one"
    half, most = names(source(mirror, fraction=0.5)), names(source(mirror, fraction=0.9))
    assert half <= most < names(source(mirror))


def test_the_choice_does_not_depend_on_the_order_of_the_list() -> None:
    paths = [f"a/{n}" for n in range(100)]
    assert common_crawl.choose(paths, "", 10, 1.0) == common_crawl.choose(reversed(paths), "", 10, 1.0)
    assert 20 < len(common_crawl.choose(paths, "", 0, 0.4)) < 60


def test_from_the_crawl_to_documents_over_cut_connections(mirror: Mirror, tmp_path: Path) -> None:
    path = f"crawl-data/{CRAWL}/segments/1/warc/00003.warc.gz"
    mirror.faults[path] = [("cut", 700)]
    config = IngestConfig(sources=(source(mirror, archives=10),))
    dataset = run_shard_stage(STAGE, config, {}, tmp_path / "run")
    assert (dataset.manifest.counts.kept, dataset.manifest.counts.failed) == (40, 0)
    assert len(dataset.files("data/crawl/")) == 10


def test_a_cache_is_filled_once(mirror: Mirror, tmp_path: Path) -> None:
    config = source(mirror, paths="*00001.warc.gz", cache=str(tmp_path / "cache"))
    (part,) = common_crawl.parts(config, [])
    for _ in range(2):
        assert len(list(common_crawl.read(part, Reading(config, ExtractConfig())))) == 4
    assert mirror.requests[part.archive.name] == 1


def test_the_captures_of_a_domain_are_ranges(mirror: Mirror) -> None:
    for number in (2, 7):
        path = f"crawl-data/{CRAWL}/segments/1/warc/{number:05}.warc.gz"
        offset = 0
        for n, member in enumerate(gzip_members(_records(number))):
            url = f"http://site{n}.example.org/{number}"
            row = {"url": url, "filename": path, "offset": str(offset), "length": str(len(member)), "status": "200"}
            mirror.captures.append(row)
            offset += len(member)
    config = source(mirror, domain="site2.example.org")
    (part,) = common_crawl.parts(config, [])
    found = documents(common_crawl.read(Part.from_json(part.to_json()), Reading(config, ExtractConfig())))
    assert sorted(str(document["url"]) for document in found) == [f"http://site2.example.org/{n}" for n in (2, 7)]
    for document in found:
        origin = document["origin"]
        stored = mirror.files[origin["archive"]][origin["offset"] :][: origin["length"]]
        assert str(document["url"]).encode() in gzip.decompress(stored)


def test_a_domain_too_large_for_the_index_is_refused_not_cut_short(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_crawl, "MAX_INDEX_PAGES", 1)
    mirror.captures += [{"url": f"http://site.example.org/{n}"} for n in range(3)]
    with pytest.raises(InputError, match="more than 1 are not asked for"):
        list(common_crawl.parts(source(mirror, domain="example.org"), []))


def _records(number: int) -> list[bytes]:
    return [warc_record(f"http://site{n}.example.org/{number}", html_page(f"{number}-{n}")) for n in range(4)]


def test_a_folder_of_the_same_layout_is_a_mirror(tmp_path: Path) -> None:
    path = f"crawl-data/{CRAWL}/segments/1/warc/a.warc.gz"
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"".join(gzip_members(numbered_records(2))))
    (tmp_path / f"crawl-data/{CRAWL}/warc.paths.gz").write_bytes(gzip.compress(path.encode()))
    config = source(tmp_path)
    (part,) = common_crawl.parts(config, [])
    assert len(documents(common_crawl.read(part, Reading(config, ExtractConfig())))) == 2


def test_addresses_of_servers_are_no_part_of_the_identity() -> None:
    from infra.config import identity

    config = source_config(name="crawl", kind="common_crawl", address=CRAWL)
    elsewhere = config.model_copy(update={"mirror": "s3://commoncrawl", "cache": "/somewhere"})
    assert identity(config) == identity(elsewhere)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"address": "CC-MAIN-1999-01"}, InputError, "there is no such file"),
        ({"address": "../../etc"}, ConfigError, "is not the name of a crawl"),
        ({"paths": "nothing*"}, InputError, "no archive is chosen"),
        ({"domain": "elsewhere.net"}, InputError, "the index knows no capture"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    mirror: Mirror, options: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        list(common_crawl.parts(source(mirror, **options), []))


def test_fractions_are_checked() -> None:
    with pytest.raises(ValidationError):
        source_config(name="crawl", kind="common_crawl", address=CRAWL, fraction=1.5)
