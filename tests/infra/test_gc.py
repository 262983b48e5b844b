"""Collection removes what nothing reaches and nothing else, beside running work and through kills."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infra.store.gc as gc
from infra.errors import HeadwaterError, InputError
from infra.store.files import describe_file
from infra.store.gc import GcSettings, Key, collect
from infra.store.lease import Lease
from infra.store.manifest import InputRecord, Manifest, Provenance, output_digest, write_manifest
from infra.store.store import Store

OLD = time.time() - 100 * 86400
EVERYTHING = GcSettings(keep_days=0, keep_last=0, grace_s=0)


def publish(
    store: Store,
    key: Key,
    inputs: Sequence[Key] = (),
    config: Mapping[str, object] | None = None,
    ended: float = OLD,
) -> None:
    root = store.dataset_root(*key)
    (root / "data").mkdir(parents=True)
    (root / "data/x").write_text("/".join(key))
    outputs = [describe_file(root, "data/x")]
    manifest = Manifest(
        name=key[0], fingerprint=key[1], payload={}, config=dict(config or {}),
        inputs=[InputRecord(role=f"{n}", name=other[0], fingerprint=other[1], digest="") for n, other in enumerate(inputs)],
        outputs=outputs, output_digest=output_digest(outputs), provenance=Provenance(ended=ended),
    )  # fmt: skip
    write_manifest(str(root), manifest)
    for path in root.rglob("*"):
        os.utime(path, (ended, ended))


def key(number: int, name: str = "dedup") -> Key:
    return name, f"{number:012x}"


def left(store: Store) -> set[Key]:
    return {
        (dataset.name, dataset.manifest.fingerprint)
        for dataset in store.datasets()
        if not store.missing_outputs(dataset)
    }


NAMES = ("ingest", "dedup", "shards")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[Key, list[Key]]], set[Key]]:
    """Datasets, each reading some before it, and those a label points at."""
    made: list[tuple[Key, list[Key]]] = []
    for number in range(draw(st.integers(1, 9))):
        known = [made_key for made_key, _ in made]
        inputs = draw(st.lists(st.sampled_from(known), unique=True, max_size=3)) if known else []
        made.append((key(number, draw(st.sampled_from(NAMES))), inputs))
    return made, set(draw(st.lists(st.sampled_from([made_key for made_key, _ in made]), max_size=3)))


def closure(graph: list[tuple[Key, list[Key]]], roots: set[Key]) -> set[Key]:
    inputs = dict(graph)
    reached: set[Key] = set()
    waiting = list(roots)
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += inputs[here]
    return reached


@settings(max_examples=15, deadline=None)
@given(case=graphs(), kill_after=st.one_of(st.none(), st.integers(0, 6)))
def test_what_labels_reach_stays_and_the_rest_goes_also_through_a_kill(
    case: tuple[list[tuple[Key, list[Key]]], set[Key]], kill_after: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    graph, roots = case
    store = Store.at(tmp_path_factory.mktemp("store"))
    for each, inputs in graph:
        publish(store, each, inputs)
    for name, fingerprint in roots:
        store.set_ref(name, f"label-{fingerprint}", fingerprint)
    wanted = closure(graph, roots)
    if kill_after is not None:
        with pytest.MonkeyPatch.context() as patch:
            _killed_after(patch, kill_after)
            try:
                collect(store, EVERYTHING)
            except KeyboardInterrupt:
                assert wanted <= left(store)
    collect(store, EVERYTHING)
    assert left(store) == wanted
    assert not list((store.home / "trash").glob("*"))
    assert {(path.parent.name, path.name) for path in store.home.glob("datasets/*/*") if path.name != "refs"} == wanted
    assert collect(store, EVERYTHING).removed == []


def _killed_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    real, made = gc.remove_tree, []

    def remove_tree(url: object) -> None:
        made.append(url)
        if len(made) > calls:
            raise KeyboardInterrupt
        real(url)  # type: ignore[arg-type]

    patch.setattr(gc, "remove_tree", remove_tree)


def test_a_dry_run_says_the_same_and_touches_nothing(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    publish(store, key(1))
    said = collect(store, EVERYTHING, dry_run=True)
    assert left(store) == {key(1)}
    done = collect(store, EVERYTHING)
    assert said.removed == done.removed and said.bytes == done.bytes > 0


def test_young_and_newest_versions_stay(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    for number in range(4):
        publish(store, key(number), ended=OLD + number)
    publish(store, key(9), ended=time.time())
    collect(store, GcSettings(keep_days=1, keep_last=2))
    assert left(store) == {key(3), key(9)}


def test_shards_that_a_version_was_appended_to_stay(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    for number in (1, 2, 3):
        publish(store, key(number, "shards"))
    publish(store, key(4, "shards"), config={"append_to": f"shards/{key(1)[1]}"})
    publish(store, key(5, "dedup"), config={"index": {"address": str(store.dataset_root(*key(2, "shards"))) + "/"}})
    store.set_ref("shards", "demo", key(4)[1])
    store.set_ref("dedup", "demo", key(5)[1])
    collect(store, EVERYTHING)
    assert left(store) == {key(1, "shards"), key(2, "shards"), key(4, "shards"), key(5, "dedup")}


def test_work_in_progress_and_what_it_reads_stay(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    publish(store, key(1))
    digest = store.find(*key(1)).digest  # type: ignore[union-attr]
    work = store.work_root("shards", key(2)[1])
    (work / "journal").mkdir(parents=True)
    (work / "payload.json").write_text(json.dumps({"inputs": {"dedup": digest}, "config": {}}))
    (store.dataset_root("shards", key(2)[1]) / "data").mkdir(parents=True)
    (store.dataset_root("shards", key(2)[1]) / "data/part").write_bytes(b"half")
    lease = Lease(work)
    lease.acquire()
    assert collect(store, EVERYTHING).removed == []
    assert (store.dataset_root("shards", key(2)[1]) / "data/part").exists()
    lease.release()
    kinds = {(removal.kind, removal.name) for removal in collect(store, EVERYTHING).removed}
    assert kinds == {("dataset", "dedup"), ("dataset", "shards")} and not work.exists()


def test_interrupted_work_is_kept_for_a_while(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    work = store.work_root("shards", key(2)[1])
    (work / "checkpoints").mkdir(parents=True)
    (work / "checkpoints/x").write_bytes(b"1" * 1000)
    assert collect(store, GcSettings(keep_days=1)).removed == []
    os.utime(work / "checkpoints/x", (OLD, OLD))
    found = collect(store, GcSettings(keep_days=1))
    assert [(r.kind, r.bytes) for r in found.removed] == [("work", 1000)] and not work.exists()


def test_the_plan_of_a_living_run_stays(tmp_path: Path) -> None:
    from infra.runs import RunRecord

    store = Store.at(tmp_path)
    for number, name in ((1, "dedup"), (2, "dedup"), (3, "shards")):
        publish(store, key(number, name))
    run = RunRecord.start(store, "demo")
    run.save_plan({"stages": [{"stage": "dedup", "fingerprint": key(1)[1]}, {"stage": "shards", "fingerprint": None}]})
    collect(store, EVERYTHING)
    assert left(store) == {key(1), key(3, "shards")}
    run.event("run_ended", state="completed")
    collect(store, EVERYTHING)
    assert left(store) == set()


def test_a_dataset_that_somebody_needs_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.at(tmp_path)
    publish(store, key(1))
    publish(store, key(2))
    lease = Lease(store.work_root(*key(1)))
    real = gc.reachable

    def meanwhile(view: object, given: object, now: float) -> dict[Key, str]:
        needed = real(view, given, now)  # type: ignore[arg-type]
        lease.acquire()
        store.set_ref("dedup", "demo", key(2)[1])
        return needed

    monkeypatch.setattr(gc, "reachable", meanwhile)
    found = collect(store, EVERYTHING)
    lease.release()
    assert found.removed == [] and len(found.passed_over) == 2 and left(store) == {key(1), key(2)}


def test_a_damaged_manifest_stops_everything(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    publish(store, key(1))
    publish(store, key(2))
    (store.dataset_root(*key(2)) / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        collect(store, EVERYTHING)
    assert left_over(store) == 2


def left_over(store: Store) -> int:
    return len(list(store.home.glob("datasets/*/*/data/x")))


def test_only_one_collects(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with Lease(f"{store.address}/gc") as lease:
        lease.acquire()
        with pytest.raises(HeadwaterError, match="another"):
            collect(store, EVERYTHING)


def test_a_linked_file_frees_nothing(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    publish(store, key(1))
    publish(store, key(2))
    store.set_ref("dedup", "demo", key(2)[1])
    shared = store.dataset_root(*key(2)) / "data/x"
    shared.unlink()
    os.link(store.dataset_root(*key(1)) / "data/x", shared)
    found = collect(store, EVERYTHING)
    manifest = len("dedup/000000000001")
    assert len(found.removed) == 1 and shared.exists() and found.bytes > manifest


def test_old_runs_are_forgotten_by_setting(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    root = store.home / "runs/old-1"
    root.mkdir(parents=True)
    record = {"id": "old-1", "recipe": "x", "host": "h", "pid": 1, "process_started": 0.0, "started": OLD, "argv": []}
    (root / "run.json").write_text(json.dumps(record))
    assert collect(store, EVERYTHING).removed == []
    found = collect(store, GcSettings(runs_days=30))
    assert [removal.name for removal in found.removed] == ["old-1"] and not root.exists()


def test_what_stays_has_its_reason(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    publish(store, key(1, "ingest"))
    publish(store, key(2), [key(1, "ingest")])
    publish(store, key(3, "shards"), config={"index": f"dedup/{key(4)[1]}"})
    publish(store, key(4))
    publish(store, key(5))
    store.set_ref("dedup", "demo", key(2)[1])
    store.set_ref("dedup", "latest", key(2)[1])
    store.set_ref("shards", "demo", key(3)[1])
    found = collect(store, EVERYTHING, dry_run=True)
    assert {(each.name, each.fingerprint): each.reason for each in found.kept} == {
        key(1, "ingest"): f"input of dedup/{key(2)[1]}",
        key(2): "label demo, latest",
        key(3, "shards"): "label demo",
        key(4): f"named by shards/{key(3)[1]}",
    }
    assert [removal.fingerprint for removal in found.removed] == [key(5)[1]]
    young = collect(store, GcSettings(keep_days=1000, keep_last=0, grace_s=0), dry_run=True)
    assert {each.reason for each in young.kept if each.fingerprint == key(5)[1]} == {"published within 1000 days"}
    newest = collect(store, GcSettings(keep_days=0, keep_last=5, grace_s=0), dry_run=True)
    assert {each.reason for each in newest.kept if each.fingerprint == key(5)[1]} == {"newest version of dedup"}
