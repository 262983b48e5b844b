"""A workspace in an object store: the same bytes as in a folder, one worker at a time, and resumption after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import s3fs

import infra.journal as journals
from infra.errors import ConfigError, HeadwaterError, LeaseLost
from infra.journal import Journal, read_receipts
from infra.runner import StageOutcome, run_stage
from infra.runs import list_runs
from infra.stage import Receipt, StageNode
from infra.store import slot as slots
from infra.store.cache import cache_root, local_file
from infra.store.files import (
    check_reachable,
    child_names,
    create_exclusive,
    exists,
    file_sizes,
    read_bytes,
    remove_tree,
    write_bytes,
)
from infra.store.gc import GcSettings, collect
from infra.store.lease import Lease
from infra.store.store import Store
from infra.work import RunContext
from tests.infra.adding_job import ADD, AddConfig
from tests.infra.leases import second_is_refused_or_waits
from tests.infra.run_toy import context, run_both
from tests.infra.toy import NUMBERS, NumbersConfig
from tests.s3 import new_bucket, s3_server
from tests.support import REPOSITORY, InProcessExecutor


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("cache")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def bucket(s3: None) -> str:
    return f"{new_bucket()}/team/workspace"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    done = run_both(context(tmp_path_factory.mktemp("reference")))
    return {name: outcome.dataset.digest for name, outcome in done.items()}


def _numbers(bucket: str) -> StageOutcome:
    run = replace(context(bucket), executor=InProcessExecutor())
    return run_stage(StageNode(NUMBERS, NumbersConfig()), {}, run)


def test_the_digests_are_those_of_a_folder_and_a_second_run_skips(bucket: str, reference: dict[str, str]) -> None:
    done = run_both(context(bucket))
    assert {name: outcome.dataset.digest for name, outcome in done.items()} == reference
    again = run_both(context(bucket))
    assert [outcome.action.value for outcome in again.values()] == ["SKIP", "SKIP"]
    store = Store.at(bucket)
    assert store.resolve("squares@toy").digest == reference["squares"]
    assert {run["state"] for run in list_runs(store)} <= {"running", "interrupted"}
    left = {name.split("/", 1)[0] for work in store.works() for name in file_sizes(store.work_url(*work))}
    assert left <= {"plan", "payload.json"}  # steps, journal and lease are gone


def test_a_file_gone_from_the_store_is_noticed(bucket: str) -> None:
    done = _numbers(bucket).dataset
    remove_tree(done.url(done.files()[0].path))
    assert Store.at(bucket).missing_outputs(done) == [done.files()[0].path]
    assert _numbers(bucket).action.value == "RUN"


def test_a_staged_copy_is_verified_and_kept(bucket: str) -> None:
    done = _numbers(bucket).dataset
    output = done.files()[0]
    path = done.local(output.path)
    assert path.is_relative_to(cache_root()) and path.stat().st_size == output.bytes
    write_bytes(done.url(output.path), b"x" * output.bytes)
    assert done.local(output.path).read_bytes() != b"x" * output.bytes  # keyed by content
    path.unlink()
    with pytest.raises(HeadwaterError, match="does not have the bytes"):
        done.local(output.path)


def test_a_file_in_work_is_copied_by_its_version(bucket: str) -> None:
    write_bytes(f"{bucket}/work/x", b"one")
    first = local_file(f"{bucket}/work/x")
    write_bytes(f"{bucket}/work/x", b"two")
    assert (first.read_bytes(), local_file(f"{bucket}/work/x").read_bytes()) == (b"one", b"two")


def test_listing_sees_what_others_write(bucket: str) -> None:
    assert child_names(bucket) == [] and file_sizes(bucket) == {} and not exists(f"{bucket}/a/b")
    write_bytes(f"{bucket}/a/b", b"12")
    assert (child_names(bucket), file_sizes(bucket)) == (["a"], {"a/b": 2})
    assert [create_exclusive(f"{bucket}/a/c", b"1"), create_exclusive(f"{bucket}/a/c", b"2")] == [True, False]
    remove_tree(f"{bucket}/a")
    assert not exists(f"{bucket}/a/b")


def test_a_bucket_that_cannot_be_used_is_one_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_reachable(bucket)
    with pytest.raises(ConfigError, match="no bucket 'no-such-bucket'"):
        check_reachable("s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ConfigError, match="cannot be reached"):
        check_reachable(bucket)
    s3fs.S3FileSystem.clear_instance_cache()


def test_the_journal_is_few_objects_and_complete(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT", 5)
    journal = Journal(f"{bucket}/journal")
    for number in range(8):
        journal.append(Receipt(f"{number:04}", "step", ()))
    assert len(child_names(f"{bucket}/journal")) == 2
    assert len(read_receipts(f"{bucket}/journal")) == 8


def test_collection_frees_what_nothing_reaches(bucket: str) -> None:
    store, first = Store.at(bucket), _numbers(bucket).dataset
    run = replace(context(bucket), executor=InProcessExecutor())
    second = run_stage(StageNode(NUMBERS, NumbersConfig(files=2)), {}, run).dataset
    store.set_ref("numbers", "toy", second.manifest.fingerprint)
    for name in child_names(f"{bucket}/runs"):
        remove_tree(f"{bucket}/runs/{name}")  # a living process's run protects what it planned
    found = collect(store, GcSettings(keep_days=0, keep_last=0, grace_s=0))
    assert [removal.fingerprint for removal in found.removed] == [first.manifest.fingerprint] and found.bytes > 0
    assert file_sizes(first.root) == {} and store.missing_outputs(second) == []
    assert not file_sizes(store.work_url("numbers", first.manifest.fingerprint))
    copy = second.local(second.files()[0].path)
    collect(store, GcSettings())
    assert copy.exists()
    os.utime(copy, (0, 0))
    assert {removal.kind for removal in collect(store, GcSettings()).removed} == {"copy"} and not copy.exists()


# ---- the lease ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["If-None-Match and If-Match", "If-None-Match only"])
def place(request: pytest.FixtureRequest, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place for a lease, on a server that keeps all conditions or only the first."""
    if request.param == "If-None-Match only":
        monkeypatch.setattr(slots, "_conditions_kept", lambda folder: (True, False))
    return f"{bucket}/work/a/b"


def test_a_second_run_is_refused_or_waits(place: str) -> None:
    second_is_refused_or_waits(place)


def test_the_heartbeat_renews_and_a_loss_is_noticed(place: str) -> None:
    lease = Lease(place, heartbeat_s=0.05)
    lease.acquire()
    before = read_bytes(f"{place}/lease.json")
    deadline = time.monotonic() + 10
    while read_bytes(f"{place}/lease.json") == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read_bytes(f"{place}/lease.json") != before
    lease.check()
    with pytest.raises(LeaseLost):
        while time.monotonic() < deadline + 10:  # a heartbeat under way may put its own back once
            write_bytes(f"{place}/lease.json", before.replace(b'"owner": "', b'"owner": "not '))
            lease.check()
    lease.release()
    assert b"not " in read_bytes(f"{place}/lease.json")


def test_staleness_goes_by_the_clock_of_the_store(bucket: str) -> None:
    """A holder on another machine, whose clock is an hour behind ours, is alive."""
    place = f"{bucket}/work/a/b"
    record = b'{"owner": "x", "host": "elsewhere", "pid": 1, "process_started": 0, "heartbeat": %d}'
    write_bytes(f"{place}/lease.json", record % (time.time() - 3600))
    with pytest.raises(HeadwaterError, match="elsewhere"):
        Lease(place).acquire(wait=False)
    time.sleep(2.1)  # the store's clock counts whole seconds
    lease = Lease(place, stale_s=1.0)
    lease.acquire(wait=False)
    lease.release()


def test_a_store_that_ignores_conditions_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = slots._put
    monkeypatch.setattr(slots, "_put", lambda url, data, condition: real(url, data, {}))
    slots._conditions_kept.cache_clear()
    with pytest.raises(HeadwaterError, match="ignores conditional writes"):
        Lease(f"{bucket}/work/a/b").acquire()
    slots._conditions_kept.cache_clear()


def test_losses_and_rebuilds_are_as_on_a_disk(bucket: str, reference: dict[str, str]) -> None:
    def run(tolerate: float = 0.0) -> RunContext:
        return replace(context(bucket, max_failed_fraction=tolerate), executor=InProcessExecutor())

    broken = StageNode(NUMBERS, NumbersConfig(broken_units=1))
    partial = run_stage(broken, {}, run(0.5)).dataset
    store = Store.at(bucket)
    assert not partial.manifest.complete and store.missing_outputs(partial) == []
    whole = run_stage(StageNode(NUMBERS, NumbersConfig()), {}, run())
    assert (whole.action.value, whole.dataset.digest) == ("RESUME", reference["numbers"])
    assert store.missing_outputs(partial) == [] and partial.root != whole.dataset.root
    with pytest.raises(HeadwaterError, match="1 of 4 units failed"):
        run_stage(broken, {}, run(), force=True)
    assert store.find("numbers", whole.dataset.manifest.fingerprint) == whole.dataset
    forced = run_stage(StageNode(NUMBERS, NumbersConfig()), {}, run(), force=True)
    assert (forced.action.value, forced.dataset.root) == ("RESUME", whole.dataset.root)
    assert forced.dataset.digest == reference["numbers"] and store.missing_outputs(forced.dataset) == []
    assert forced.dataset.manifest.provenance.run != whole.dataset.manifest.provenance.run
    assert not file_sizes(f"{store.work_url('numbers', forced.dataset.manifest.fingerprint)}/forced")


# ---- two drivers ----------------------------------------------------------------------------------------------------


def _driver(workspace: str, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.infra.run_toy", workspace, str(pause)], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_gets_its_inputs_here_and_its_outputs_there(bucket: str, tmp_path: Path) -> None:
    done = []
    for place in (str(tmp_path / "ws"), bucket):
        run = replace(context(place), executor=InProcessExecutor())
        numbers = run_stage(StageNode(NUMBERS, NumbersConfig()), {}, run).dataset
        done.append(run_stage(StageNode(ADD, AddConfig()), {"numbers": numbers}, run).dataset)
    here, there = done
    assert there.root.startswith(bucket) and there.digest == here.digest
    assert read_bytes(there.url("data/total.txt")) == b"780" and there.local("data/total.txt").read_text() == "780"
    store = Store.at(bucket)
    assert store.missing_outputs(there) == [] and not store.dataset_root("add", there.manifest.fingerprint).exists()
    again = run_stage(StageNode(ADD, AddConfig()), {"numbers": numbers}, run)
    assert again.action.value == "SKIP"


@pytest.mark.slow
def test_two_drivers_of_one_dataset_one_works_and_the_other_waits(bucket: str, reference: dict[str, str]) -> None:
    first, second = _driver(bucket, 0.3), _driver(bucket, 0.3)
    (out1, log1), (out2, log2) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert out1.split() == out2.split() == list(reference.values()), log1 + log2
    built = [log.count("numbers: RUN") for log in (log1, log2)]
    assert sorted(built) == [0, 1] and "waiting for another run" in log1 + log2 and "SKIP" in log1 + log2


@pytest.mark.slow
def test_a_killed_driver_is_resumed_from_its_journal(bucket: str, reference: dict[str, str]) -> None:
    first = _driver(bucket, 0.5)
    work = f"{bucket}/work/numbers"
    deadline = time.monotonic() + 60
    while not any(child_names(f"{work}/{fp}/journal") for fp in child_names(work)) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    second = _driver(bucket, 0.0)
    out, log = second.communicate(timeout=120)
    assert out.split() == list(reference.values()), log
    assert "numbers: RESUME" in log and "units are done" in log
