"""Files over HTTP: ranges, faults that pass, faults that do not."""

import gzip
import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ConfigError, InputError
from pipeline.compression import read_lines
from pipeline.fasttext_model import digest_of, local_copy
from pipeline.sources.http import HttpFile, Patience, download, fetch
from tests.pipeline.sources.mirror import Mirror, serve

DATA = random.Random(1).randbytes(6_000_000)
PAUSES: list[float] = []
QUICK = Patience(tries=4, silence_s=0.3, sleep=PAUSES.append)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    PAUSES.clear()
    with serve() as server:
        server.files["data"] = DATA
        yield server


def test_a_file_is_read_over_one_connection(mirror: Mirror) -> None:
    with HttpFile(f"{mirror.url}/data", QUICK) as stream:
        assert stream.size == len(DATA)
        assert b"".join(iter(lambda: stream.read(300_001), b"")) == DATA
    assert mirror.requests["data"] == 1


def test_short_steps_back_cost_no_request(mirror: Mirror) -> None:
    with HttpFile(f"{mirror.url}/data", QUICK) as stream:
        for place in range(0, 3_000_000, 200_000):
            stream.seek(place)
            assert stream.read(260_000) == DATA[place : place + 260_000]
    assert mirror.requests["data"] == 1


def test_far_steps_are_new_ranges(mirror: Mirror) -> None:
    with HttpFile(f"{mirror.url}/data", QUICK) as stream:
        for place in (5_999_990, 10, 4_000_000):
            stream.seek(place)
            assert stream.read(10) == DATA[place : place + 10]
        assert stream.read(0) == b""
        stream.seek(0, 2)
        assert stream.read(10) == b""


@pytest.mark.parametrize(
    "faults",
    [
        [503, 429, 500],
        [("cut", 100_000), ("cut", 7), ("cut", 1_500_000)],
        [("silent", 50_000), 503],
        [403, ("cut", 0)],
    ],
)
def test_faults_that_pass_are_waited_out_and_nothing_is_fetched_twice(mirror: Mirror, faults: list[int]) -> None:
    mirror.faults["data"] = list(faults)  # type: ignore[arg-type]
    assert fetch(f"{mirror.url}/data", QUICK) == DATA
    assert mirror.sent["data"] == len(DATA)
    assert len(PAUSES) == len(faults)


def test_the_server_s_own_pause_is_kept(mirror: Mirror) -> None:
    mirror.faults["data"] = [503]
    fetch(f"{mirror.url}/data", QUICK)
    assert PAUSES == [1.0]


def test_pauses_grow_but_not_beyond_their_limit() -> None:
    waited: list[float] = []
    patience = Patience(first_pause_s=1, longest_pause_s=5, sleep=waited.append)
    for attempt in range(6):
        patience.pause(attempt, None)
    assert waited[0] <= 1
    assert waited[-1] <= 5
    assert waited[4] > waited[0]


def test_a_server_without_ranges_works(mirror: Mirror) -> None:
    mirror.ranges = False
    mirror.faults["data"] = [("cut", 2_500_000)]
    assert fetch(f"{mirror.url}/data", QUICK) == DATA


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ([503] * 9, "could not be fetched: the server answers 503, 4 times"),
        ([("cut", 0)] * 9, "4 times"),
        ([403] * 9, "the server refuses it"),
        ([404], "there is no such file"),
    ],
)
def test_faults_that_stay_are_one_sentence(mirror: Mirror, faults: list[int], sentence: str) -> None:
    mirror.faults["data"] = list(faults)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=sentence):
        fetch(f"{mirror.url}/data", QUICK)


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match="could not be fetched"):
        fetch("http://127.0.0.1:9/data", QUICK)


def test_a_file_that_changes_meanwhile_is_noticed(mirror: Mirror) -> None:
    mirror.tags["data"] = '"one"'
    mirror.faults["data"] = [("cut", 1000)]
    with HttpFile(f"{mirror.url}/data", QUICK) as stream:
        stream.read(500)
        mirror.tags["data"] = '"two"'
        with pytest.raises(InputError, match="changed while it was read"):
            stream.read()


def test_a_download_continues_where_it_broke(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "data"
    mirror.faults["data"] = [("cut", 1_000_000), *[503] * 9]
    with pytest.raises(InputError):
        download(f"{mirror.url}/data", target, QUICK)
    assert not target.exists()
    mirror.faults.clear()
    assert download(f"{mirror.url}/data", target, QUICK).read_bytes() == DATA
    assert mirror.sent["data"] < len(DATA) + 2_500_000
    asked = mirror.requests["data"]
    download(f"{mirror.url}/data", target, QUICK)
    assert mirror.requests["data"] == asked, "the second time comes from the cache"
    shutil.rmtree(target.parent)


def test_models_and_lists_on_a_web_server_need_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is fetched once on a machine, whoever asks for it."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    with serve() as mirror:
        mirror.files |= {"lid.bin": b"a model", "items.jsonl.gz": gzip.compress(b'{"a": 1}\n')}
        assert digest_of(f"{mirror.url}/lid.bin") == hashlib.sha256(b"a model").hexdigest()
        assert local_copy(f"{mirror.url}/lid.bin", tmp_path / "scratch").read_bytes() == b"a model"
        assert mirror.requests["lid.bin"] == 1
        assert list(read_lines(f"{mirror.url}/items.jsonl.gz")) == [b'{"a": 1}\n']
        with pytest.raises(InputError, match="there is no such file"):
            digest_of(f"{mirror.url}/nothing.bin")


def test_an_address_without_its_driver_is_one_sentence(tmp_path: Path) -> None:
    for read in (digest_of, lambda url: list(read_lines(url))):
        with pytest.raises(ConfigError, match="addresses of this kind cannot be opened here"):
            read("nowhere9://bucket/lid.bin")
