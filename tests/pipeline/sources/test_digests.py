"""Archives that were not touched are not read again; whatever was touched is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.sources import digests
from pipeline.sources.files import local_archives

NUMBER = digests.WORTH_REMEMBERING + 1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the files that are read, as they are read."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    real: Callable[[str | Path, int], str] = digests.file_digest

    def counting(path: str | Path, size: int) -> str:
        seen.append(Path(path).name)
        return real(path, size)

    monkeypatch.setattr(digests, "file_digest", counting)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "crawl"
    (folder / "segment").mkdir(parents=True)
    for index in range(NUMBER):
        (folder / "segment" / f"{index:03}.warc").write_text(f"archive {index:03}")
    return folder


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(digests.time, "time_ns", lambda: now + 60_000_000_000)


def test_archives_at_rest_are_read_once(reads: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    first = local_archives(str(folder))
    assert len(reads) == NUMBER
    assert local_archives(str(folder)) == first
    assert local_archives(str(folder / "segment" / "*.warc")) != [], "another address has names of its own"
    assert len(reads) == 2 * NUMBER


def test_a_change_is_noticed_also_with_the_old_size_and_time(
    reads: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    before = {archive.name: archive.digest for archive in local_archives(str(folder))}
    reads.clear()
    path = folder / "segment" / "007.warc"
    times = path.stat()
    path.write_text("archive 700")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "segment" / "more.warc").write_text("more")
    after = {archive.name: archive.digest for archive in local_archives(str(folder))}
    assert sorted(reads) == ["007.warc", "more.warc"]
    assert after["segment/007.warc"] != before["segment/007.warc"]
    assert after.keys() - before.keys() == {"segment/more.warc"}


def test_what_was_written_a_moment_ago_is_read_again(reads: list[str], folder: Path) -> None:
    local_archives(str(folder))
    local_archives(str(folder))
    assert len(reads) == 2 * NUMBER


@pytest.mark.parametrize("damage", ["", "[]", '{"segment/007.warc"', '{"segment/007.warc": [1]}'])
def test_a_damaged_memory_costs_only_time(
    reads: list[str], folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    first = local_archives(str(folder))
    (memory,) = (digests.cache_root() / "archives").iterdir()
    memory.write_text(damage)
    assert local_archives(str(folder)) == first
    assert len(reads) == 2 * NUMBER
