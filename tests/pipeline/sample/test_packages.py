"""Pinned packages: verified, never half there, and a clear sentence without a network."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from infra.errors import HeadwaterError
from pipeline.sample.packages import Package, cache_folder, fetch, read_member

FILE = "headwater_toy_package-1.0-py3-none-any.whl"


def make_wheel(folder: Path) -> Package:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / FILE, "w") as wheel:
        info = "headwater_toy_package-1.0.dist-info"
        wheel.writestr("toy.txt", "toy")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: headwater-toy-package\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    return Package("headwater-toy-package", "1.0", FILE, digest, "MIT", "")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that is one folder: no network is touched."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def test_a_package_is_fetched_verified_and_kept(shelf: Path, tmp_path: Path) -> None:
    package = make_wheel(shelf)
    wheel = fetch(package, tmp_path / "cache")
    assert read_member(wheel, "toy.txt") == b"toy"
    (shelf / FILE).unlink()
    assert fetch(package, tmp_path / "cache") == wheel, "the second time comes from the cache"
    assert [path.name for path in wheel.parent.iterdir()] == [FILE], "nothing else is left in the cache"


def test_a_half_file_in_the_cache_is_replaced(shelf: Path, tmp_path: Path) -> None:
    package = make_wheel(shelf)
    half = tmp_path / "cache" / "packages" / FILE
    half.parent.mkdir(parents=True)
    half.write_bytes((shelf / FILE).read_bytes()[:100])
    assert read_member(fetch(package, tmp_path / "cache"), "toy.txt") == b"toy"


def test_another_file_under_the_same_name_is_refused(shelf: Path, tmp_path: Path) -> None:
    package = make_wheel(shelf)
    with zipfile.ZipFile(shelf / FILE, "a") as wheel:
        wheel.writestr("more.txt", "more")
    with pytest.raises(HeadwaterError, match="headwater-toy-package 1.0 is not the file"):
        fetch(package, tmp_path / "cache")
    assert not (tmp_path / "cache" / "packages" / FILE).exists()


def test_without_a_network_one_sentence_names_the_package(shelf: Path, tmp_path: Path) -> None:
    package = Package("headwater-toy-package", "9.9", FILE, "0" * 64, "MIT", "")
    with pytest.raises(HeadwaterError) as caught:
        fetch(package, tmp_path / "cache")
    assert "headwater-toy-package 9.9 could not be fetched" in caught.value.error
    assert FILE in caught.value.remedy


def test_a_cache_that_cannot_be_written_is_said(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(HeadwaterError, match="cache cannot be written"):
        fetch(make_wheel(shelf), tmp_path / "cache")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    assert cache_folder("") == tmp_path
    assert cache_folder("/elsewhere") == Path("/elsewhere")
