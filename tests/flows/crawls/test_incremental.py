"""Two crawls, one after the other: the second is compared with the first, and appended to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flows.crawls.incremental import planned
from flows.crawls.series import Base, Series
from flows.execute import RunResult
from flows.provenance.fates import find_rows
from flows.recipe import Recipe, load_recipe
from flows.start import run_in_workspace
from infra.errors import ConfigError, InputError
from infra.planning import Action, StageSelection
from infra.store.store import Store
from pipeline.shards import ShardSet
from tests.flows.cluster import wait_for
from tests.flows.small_crawls import CRAWLS, archives_of, real_records, write_recipe
from tests.pipeline.sources.mirror import Mirror, serve

FIRST, SECOND, THIRD = CRAWLS


@dataclass(frozen=True)
class Ran:
    store: Store
    recipe: Recipe
    mirror: Mirror
    first: RunResult
    second: RunResult
    asked: dict[str, int]
    """Requests to the mirror that the second run made, by path."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("crawls")
    records = real_records(150)
    with serve() as mirror:
        mirror.add_crawl(FIRST, archives_of(records[:90]))
        recipe = load_recipe(str(write_recipe(folder, mirror)))
        store = Store.at(folder / "workspace")
        first = run_in_workspace(recipe, StageSelection(), store, crawl=FIRST, use_prefect=False, quiet=True)
        mirror.add_crawl(SECOND, archives_of(records[50:]))
        before = dict(mirror.requests)
        second = run_in_workspace(recipe, StageSelection(), store, crawl=SECOND, use_prefect=False, quiet=True)
        asked = {path: count - before.get(path, 0) for path, count in mirror.requests.items()}
        yield Ran(store, recipe, mirror, first, second, {path: count for path, count in asked.items() if count})


@pytest.mark.slow
def test_what_the_first_crawl_had_is_dropped_with_its_survivor_there(ran: Ran) -> None:
    dedup = ran.second.datasets["dedup"]
    earlier = f"dedup/{ran.first.datasets['dedup'].manifest.fingerprint}"
    assert dedup.manifest.config["previous"] == [earlier]
    kept_then = {
        row["id"] for row in find_rows(ran.first.datasets["dedup"], "data/", pc.field("id").is_valid(), ["id"])
    }
    dropped = find_rows(dedup, "ledger/", pc.field("rule").is_valid(), ["id", "rule", "survivor_id", "detail"])
    of_earlier = [row for row in dropped if row["survivor_id"] in kept_then]
    assert len(of_earlier) > 10
    assert all(earlier in row["detail"] for row in of_earlier)
    kept_now = {row["id"] for row in find_rows(dedup, "data/", pc.field("id").is_valid(), ["id"])}
    assert kept_now
    assert not kept_now & kept_then


@pytest.mark.slow
def test_version_two_is_version_one_and_new_rows(ran: Ran) -> None:
    one, two = (result.datasets["shards"] for result in (ran.first, ran.second))
    for split in ("train", "validation-web"):
        old, new = (ShardSet.open(dataset.local("data"), split) for dataset in (one, two))
        assert len(new) > len(old) > 0
        wanted = np.arange(len(old))
        assert (new.rows(wanted).input_ids == old.rows(wanted).input_ids).all()
        assert new.documents(len(old) - 1) == old.documents(len(old) - 1)
        archives = {document.archive for row in range(len(old), len(new)) for document in new.documents(row)}
        assert archives
        assert all(SECOND in str(archive) for archive in archives)
    stats = two.manifest.stats
    assert [entry["sequences"] for entry in stats["versions"]] == [
        one.manifest.stats["sequences"],
        stats["sequences"] - one.manifest.stats["sequences"],
    ]
    assert stats["tokenizer_digest"] == one.manifest.stats["tokenizer_digest"]
    record = next(record for record in two.manifest.inputs if record.name == "shards")
    assert (record.role, record.digest) == ("earlier", one.digest)


@pytest.mark.slow
def test_nothing_of_the_first_crawl_is_read_or_made_again(ran: Ran) -> None:
    assert not [path for path in ran.asked if FIRST in path]
    actions = {outcome.stage: outcome.action for outcome in ran.second.outcomes}
    assert actions["classifier"] == actions["tokenizer"] == actions["sample"] == Action.SKIP
    assert {output.path.split("/")[1] for output in ran.second.datasets["ingest"].files("data/")} == {"web"}
    shards = ran.second.datasets["shards"]
    for output in ran.first.datasets["shards"].files("data/", ".arrow"):
        old, new = ran.first.datasets["shards"].local(output.path), shards.local(output.path)
        assert old.stat().st_ino == new.stat().st_ino


@pytest.mark.slow
def test_a_second_run_of_either_crawl_does_nothing(ran: Ran) -> None:
    for crawl, before in ((FIRST, ran.first), (SECOND, ran.second)):
        again = run_in_workspace(ran.recipe, StageSelection(), ran.store, crawl=crawl, use_prefect=False, quiet=True)
        assert {outcome.action for outcome in again.outcomes} == {Action.SKIP}
        assert again.datasets["shards"].digest == before.datasets["shards"].digest
    series = Series(ran.store, ran.recipe.name)
    assert series.chain() == [FIRST, SECOND]
    following = series.plan_base(THIRD)
    assert following.after == SECOND
    assert len(following.previous) == 2


@pytest.mark.slow
def test_shards_of_another_tokenizer_or_length_are_refused(ran: Ran) -> None:
    other = load_recipe(ran.recipe.origin, ["shards.seq_len=64"])
    with pytest.raises(ConfigError, match="seq_len is 128 there and 64 here"):
        run_in_workspace(other, StageSelection(), ran.store, crawl=SECOND, use_prefect=False, quiet=True)


@pytest.mark.slow
def test_a_backfill_goes_on_after_ctrl_c_and_beside_another_run(ran: Ran, tmp_path: Path) -> None:
    """Broken off in the first crawl; then the same command again, and meanwhile somebody runs the second crawl by hand."""
    home, recipe = tmp_path / "workspace", ran.recipe.origin
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "HEADWATER"))}

    def headwater(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli.main", *words, "--workspace", str(home), "--json"]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    backfill = ("backfill", recipe, "--crawls", f"{FIRST}..{SECOND}", "--here")
    broken = headwater(*backfill)
    wait_for(lambda: any(home.glob("datasets/ingest/*/manifest.json")), 240, "the first crawl to be read")
    os.killpg(broken.pid, signal.SIGINT)  # as a terminal does it
    _, told = broken.communicate(timeout=60)
    assert broken.returncode == 130, told
    series = Series(Store.at(home), ran.recipe.name)
    assert not series.published(FIRST)
    before = dict(ran.mirror.requests)

    again = headwater(*backfill)
    lease = home / f"crawls/{ran.recipe.name}/turn/lease.json"
    wait_for(
        lambda: str(again.pid) in (lease.read_text() if lease.exists() else ""), 60, "the command to have its turn"
    )
    beside = headwater("run", recipe, "--crawl", SECOND, "--no-prefect")
    said, told = again.communicate(timeout=400)
    assert again.returncode == 0, told
    assert [entry["action"] for entry in json.loads(said)["crawls"]] == ["start", "start"]
    said, told = beside.communicate(timeout=400)
    assert beside.returncode == 0, told
    assert "another crawl of monthly has its turn" in told

    assert series.chain() == [FIRST, SECOND]
    for crawl, undisturbed in ((FIRST, ran.first), (SECOND, ran.second)):
        for stage, fingerprint in series.datasets(crawl).items():
            found = series.store.find(stage, fingerprint)
            assert found is not None
            assert found.digest == undisturbed.datasets[stage].digest
    asked = {path for path, count in ran.mirror.requests.items() if count > before.get(path, 0)}
    assert not [path for path in asked if FIRST in path and path.endswith(".warc.gz")], (
        "what was read is not read again"
    )


# ---- the chain, without running anything -----------------------------------------------------------------------------


def publish(series: Series, crawl: str) -> Base:
    """What a run of a crawl leaves on record."""
    base = series.record_base(crawl)
    for stage in ("classifier", "dedup", "tokenizer", "shards"):
        series.note_dataset(crawl, stage, f"{stage}-{crawl}")
    return base


def test_each_crawl_follows_the_last_that_published(tmp_path: Path) -> None:
    series = Series(Store.at(tmp_path), "monthly")
    assert publish(series, "C1") == Base()
    assert series.record_base("C2").after == "C1"  # begun, and broken off
    assert publish(series, "C3").after == "C1"
    second = publish(series, "C2")
    assert second.after == "C3"
    assert second.previous == ("dedup/dedup-C1", "dedup/dedup-C3")
    assert second.kept == {"classifier": "classifier/classifier-C1", "tokenizer": "tokenizer/tokenizer-C1"}
    assert series.chain() == ["C1", "C3", "C2"]
    assert series.record_base("C1") == Base()


def test_a_crawl_that_others_rest_on_keeps_its_record(tmp_path: Path) -> None:
    series = Series(Store.at(tmp_path), "monthly")
    publish(series, "C1")
    assert series.note_dataset("C1", "shards", "anew")
    publish(series, "C2")
    assert not series.note_dataset("C1", "shards", "other")
    assert series.datasets("C1")["shards"] == "anew"


def test_a_lost_record_is_said(tmp_path: Path) -> None:
    series = Series(Store.at(tmp_path), "monthly")
    for crawl in ("C1", "C2", "C3"):
        publish(series, crawl)
    (tmp_path / "crawls/monthly/C2/datasets.json").unlink()
    with pytest.raises(InputError, match="the crawl that C3 was appended to is not on record"):
        series.plan_base("C4")


def test_a_curriculum_is_not_appended_to(tmp_path: Path) -> None:
    recipe = load_recipe("common-crawl-1b", ["shards.mixture=[]", "shards.phases=[{mixture: [{source: web}]}]"])
    store = Store.at(tmp_path)
    assert planned(recipe, "CC-MAIN-2026-10", store).label == "CC-MAIN-2026-10"
    publish(Series(store, recipe.name), "CC-MAIN-2026-10")
    with pytest.raises(ConfigError, match="a curriculum cannot be continued by another crawl"):
        planned(recipe, "CC-MAIN-2026-14", store)


def test_a_later_crawl_reads_itself_alone(tmp_path: Path) -> None:
    recipe, store = load_recipe("common-crawl-1b"), Store.at(tmp_path)
    first = planned(recipe, "CC-MAIN-2026-10", store)
    assert [source.name for source in first.node("ingest").config.sources] == ["web", "wikipedia", "code"]
    publish(Series(store, recipe.name), "CC-MAIN-2026-10")
    later = planned(recipe, "CC-MAIN-2026-14", store)
    (source,) = later.node("ingest").config.sources
    assert (source.name, source.address) == ("web", "CC-MAIN-2026-14")
    shards = later.node("shards").config
    assert [entry.source for entry in shards.mixture] == ["web"]
    assert shards.append_to == "shards/shards-CC-MAIN-2026-10"
    assert later.node("tokenizer").use == "tokenizer/tokenizer-CC-MAIN-2026-10"
    assert later.node("dedup").config.previous == ("dedup/dedup-CC-MAIN-2026-10",)


def test_a_recipe_without_a_crawl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads no crawl by its name"):
        planned(load_recipe("smoke"), FIRST, Store.at(tmp_path))
    assert planned(load_recipe("smoke"), "", Store.at(tmp_path)).label == "smoke"
