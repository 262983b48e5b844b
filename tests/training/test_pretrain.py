"""A pretraining job learns, publishes the same bytes whatever is killed, and can be traced to its documents."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from flows.provenance.takedown import takedown
from flows.provenance.trace import trace_step, trace_url
from infra.errors import ConfigError, InputError
from infra.job import JobSpec, load_result, write_request
from infra.job_main import PREEMPTED_EXIT
from infra.launch.local import LocalLauncher
from infra.launch.restart import run_job
from infra.store.dataset import Dataset
from infra.store.manifest import InputRecord
from pipeline.shards.document_order import document_order
from pipeline.shards.mixing import Phase, SourceWeight
from pipeline.shards.order import rows_of
from pipeline.shards.reader import ShardSet
from tests.support import adopt_dataset, kill_family
from tests.training.folders import tiny_config, tiny_model, write_tokenizer
from tests.training.pretraining import PretrainJob, build_inputs, small_config
from tests.training.ranks_faults import name_of
from training.checkpoint import list_checkpoints
from training.deferred import first_value
from training.hub_format import load_model, save_model
from training.pretrain import first_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return build_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """One uninterrupted run on two ranks, with a validation on the way."""
    job = PretrainJob(tmp_path_factory.mktemp("finished"), inputs, small_config(eval_every=10))
    job.run()
    return job


def published(job: PretrainJob) -> Dataset:
    result = load_result(job.request.work_dir)
    dataset = adopt_dataset(job.request.dataset_root, "pretrain", result.outputs)
    records = [
        InputRecord(role=role, name=given.name, fingerprint=given.manifest.fingerprint, digest=given.digest)
        for role, given in job.inputs.items()
    ]
    manifest = dataset.manifest.model_copy(
        update={"config": job.request.config, "stats": result.stats, "inputs": records, "fingerprint": "1" * 12}
    )
    return Dataset(dataset.root, manifest)


def wait_for(condition, timeout=600.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def newest(job: PretrainJob) -> int:
    """The step of the newest checkpoint; 0 without one."""
    return max((step for step, _ in list_checkpoints(job.request.checkpoint_dir)), default=0)


def test_it_learns_and_publishes_a_model(finished, inputs):
    result = load_result(finished.request.work_dir)
    entropy = json.loads(inputs["shards"].local("data/stats.json").read_text())["unigram_entropy_nats"]
    assert result.stats["loss_last"] < entropy < result.stats["loss_first"]
    assert set(result.stats["bits_per_byte"]) == {"web", "code"}
    assert [event["step"] for event in finished.events("validation")] == [10, 20, 24]
    model = load_model(finished.request.data_dir / "model")
    assert model.config.vocab_size == 512
    assert model(torch.tensor([[2, 100, 101]])).isfinite().all()
    undigested = {output.path for output in result.outputs if not output.digested}
    assert "data/metrics.jsonl" in undigested and "data/steps.parquet" not in undigested


@pytest.mark.slow  # in every run of the suite the whole path is killed twice while it pretrains
def test_a_killed_run_resumes_to_the_same_bytes(finished, inputs, tmp_path):
    job = PretrainJob(tmp_path, inputs, small_config(checkpoint_every=4))
    process = job.start()
    wait_for(lambda: list_checkpoints(job.request.checkpoint_dir))
    kill_family(process)
    assert load_result(job.request.work_dir) is None
    job.run()
    assert job.digest() == finished.digest()
    assert job.losses() == finished.losses()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("stage", "optimizer", "seed"), [(1, "muon", 1), (2, "adamw", 2), (3, "muon", 3)])
def test_a_run_killed_at_any_moment_goes_on_exactly_and_on_one_rank_closely(inputs, tmp_path, stage, optimizer, seed):
    changes = {
        "checkpoint_every": 3,
        "optimizer": {"name": optimizer, "lr": 3e-3, "schedule": {"warmup_steps": 4}},
        "parallel": {"micro_batch": 2, "zero_stage": stage},
    }
    straight = PretrainJob(tmp_path / "straight", inputs, small_config(**changes))
    straight.run()
    killed = PretrainJob(tmp_path / "killed", inputs, small_config(**changes))
    moments = random.Random(seed)
    while load_result(killed.request.work_dir) is None:
        process, behind = killed.start(), newest(killed)
        wait_for(lambda process=process, behind=behind: process.poll() is not None or newest(killed) > behind)
        time.sleep(moments.random())
        kill_family(process)
    assert killed.digest() == straight.digest()
    assert killed.losses() == straight.losses()

    moved = PretrainJob(tmp_path / "moved", inputs, small_config(**changes, elastic_ranks=1))
    process = moved.start(ranks=2)
    wait_for(lambda: list_checkpoints(moved.request.checkpoint_dir))
    kill_family(process)
    moved.run(ranks=1)
    assert any("another number of ranks" in event["message"] for event in moved.events("warning"))
    assert moved.losses() == pytest.approx(straight.losses(), rel=1e-3)


@pytest.mark.slow
def test_a_curriculum_switches_at_its_step_and_a_kill_around_it_changes_nothing(tmp_path):
    """Phase one holds web pages only, about 80 rows of 65 tokens: ten steps of eight sequences."""
    phases = (
        Phase(tokens=5000, mixture=(SourceWeight(source="web"),)),
        Phase(mixture=(SourceWeight(source="code"),)),
    )
    inputs = build_inputs(tmp_path / "inputs", phases=phases)
    first, second = ShardSet.open(inputs["shards"].local("data"), "train").phases
    steps = -(-(first + second) // 8)
    straight = PretrainJob(tmp_path / "straight", inputs, small_config(steps=steps, checkpoint_every=100))
    straight.run()
    killed = PretrainJob(tmp_path / "killed", inputs, small_config(steps=steps, checkpoint_every=first // 8 - 1))
    process = killed.start()
    wait_for(lambda: newest(killed) or process.poll() is not None)
    kill_family(process)
    assert load_result(killed.request.work_dir) is None, "it was over before it was killed"
    killed.run()
    assert killed.digest() == straight.digest()
    assert killed.losses() == straight.losses()
    saved = list_checkpoints(killed.request.checkpoint_dir)
    later = [(step, path) for step, path in saved if first < step * 8 <= first + second]
    for step, path in later:  # what the guard remembers begins with the step that first met the second phase
        guard = json.loads((path / "manifest.json").read_text())["state"]["guard"]
        assert (guard["phase"], len(guard["losses"])) == (1, step - first // 8)
    assert later
    pretrain = published(straight)
    for step in range(1, steps + 1):
        sources = {entry["source"] for entry in trace_step(pretrain, inputs["shards"], step)["documents"]}
        if step * 8 <= first:
            assert sources == {"web"}, step
        elif first <= (step - 1) * 8 and step * 8 <= first + second:
            assert sources == {"code"}, step
    last = trace_step(pretrain, inputs["shards"], first // 8 + 2)["documents"][0]
    assert first // 8 + 2 in trace_url(pretrain, inputs["shards"], last["url"])["steps"]


def poison(inputs, harms: dict[int, str]) -> str:
    """Rows by the running number under which a run with seed 0 meets them -> what they do."""
    train = ShardSet.open(inputs["shards"].local("data"), "train")
    rows = rows_of(0, np.array(list(harms)), train.phases)
    ids = train.rows(rows).input_ids[:, :-1]  # as the model meets them: the last token is only a target
    return json.dumps({name_of(row): harm for row, harm in zip(ids, harms.values(), strict=True)})


def documents_of(inputs, step: int) -> set[str]:
    train = ShardSet.open(inputs["shards"].local("data"), "train")
    rows = rows_of(0, np.arange(step * 8, step * 8 + 8), train.phases)
    return {span.url for row in rows for span in train.documents(int(row))}


def continued_by_hand(job: PretrainJob, folder: Path, step: int, sequence: int) -> PretrainJob:
    """The job's checkpoint of ``step`` in the hands of processes that met nothing bad, on with ``sequence``."""
    other = PretrainJob(folder, job.inputs, job.config)
    (source,) = [path for at, path in list_checkpoints(job.request.checkpoint_dir) if at == step]
    copy = other.request.checkpoint_dir / source.name
    shutil.copytree(source, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["state"]["progress"]["jumps"].append([step, sequence])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return other


@pytest.mark.slow
def test_bad_rows_on_one_rank_are_held_named_and_gone_around(inputs, tmp_path):
    """A spike in step 18; three steps in a row without a finite loss from step 23 on, after a checkpoint at step 20."""
    harms = {17 * 8 + 5: "spike", 22 * 8 + 1: "nan", 23 * 8 + 6: "nan", 24 * 8 + 2: "nan"}
    config = small_config(steps=32, checkpoint_every=4, keep_last=4, faults={"window": 32})
    job = PretrainJob(tmp_path / "job", inputs, config, module="tests.training.ranks_faults")
    result = job.run(POISON=poison(inputs, harms))
    warnings = [event["message"] for event in job.events("warning")]
    held = [message for message in warnings if "was not applied" in message]
    named_steps = [message.split(":")[0] for message in held]
    assert named_steps == [f"step {step} was not applied" for step in (18, 23, 24, 25)], warnings
    assert "after a mean of" in held[0] and all("the loss is not finite" in message for message in held[1:])
    for message, step in zip(held, (17, 22, 23, 24), strict=True):
        named = set(message.split("its batch held ")[1].split(" and ")[0].split(", "))
        assert named <= documents_of(inputs, step) and len(named) == min(20, len(documents_of(inputs, step)))
    (rollback,) = [message for message in warnings if "back to the checkpoint" in message]
    assert "of step 20 from step 25; training goes on with sequence 200" in rollback
    steps = pq.read_table(job.request.data_dir / "steps.parquet").to_pylist()
    assert [step["step"] for step in steps if not step["applied"]] == [18]
    assert [steps[index]["first"] for index in (19, 20, 31)] == [19 * 8, 200, 200 + 11 * 8]
    assert (result.stats["held_steps"], result.stats["rollbacks"]) == (1, 1)
    assert "1 of 32 updates were not applied, and training went back" in result.warnings[0]
    other = continued_by_hand(job, tmp_path / "other", step=20, sequence=200)
    other.run()
    assert other.digest() == job.digest(), "something of the bad steps survived the rollback"


@pytest.mark.slow
def test_a_rank_that_hangs_shows_where_and_the_run_ends_as_if_it_had_not(finished, inputs, tmp_path):
    config = small_config(checkpoint_every=4, stall_limit_s=40)
    job = PretrainJob(tmp_path, inputs, config)
    for folder in (job.request.dataset_root, job.request.work_dir):
        folder.mkdir(parents=True)
    write_request(job.request)
    environment = {"POISON": poison(inputs, {9 * 8 + 5: "hang"}), "MARKER": str(tmp_path / "slept")}
    spec = JobSpec("tests.training.ranks_faults", ranks=2, threads_per_rank=1, stall_limit_s=40, env=environment)
    run_job(spec, LocalLauncher(), job.request.work_dir, lambda event: None)
    assert (tmp_path / "slept").exists()
    logs = "".join(path.read_text() for path in (job.request.work_dir / "logs").rglob("*") if path.is_file())
    assert "in sleep_for_ever" in logs and "training/loop.py" in logs
    assert job.digest() == finished.digest()


@pytest.mark.slow
def test_a_preempted_run_resumes_to_the_same_bytes(finished, inputs, tmp_path):
    job = PretrainJob(tmp_path, inputs, small_config(checkpoint_every=100))
    process = job.start()
    wait_for(lambda: (job.request.data_dir / "metrics.jsonl").exists() and len(job.losses()) > 3)
    for rank in psutil.Process(process.pid).children(recursive=True):
        os.kill(rank.pid, signal.SIGTERM)
    process.wait(60)
    assert load_result(job.request.work_dir) is None
    assert f"exitcode  : {PREEMPTED_EXIT}" in (tmp_path / "log.txt").read_text()
    assert list_checkpoints(job.request.checkpoint_dir), "it left no checkpoint"
    job.run()
    assert job.digest() == finished.digest()


@pytest.mark.slow
def test_another_number_of_ranks_gives_the_same_losses_within_rounding(finished, inputs, tmp_path):
    job = PretrainJob(tmp_path, inputs, small_config(elastic_ranks=1))
    job.run(ranks=1)
    assert job.losses() == pytest.approx(finished.losses(), rel=1e-3)
    ours, theirs = (pq.read_table(run.request.data_dir / "steps.parquet") for run in (job, finished))
    assert ours.equals(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"pipeline": 2}, {"context": 2}])
def test_ranks_that_share_rows_train_measure_and_publish_the_same_model(finished, inputs, tmp_path, mesh):
    job = PretrainJob(tmp_path, inputs, small_config(parallel={"engine": "torch", "micro_batch": 2, **mesh}))
    stats = job.run().stats
    assert job.losses() == pytest.approx(finished.losses(), rel=5e-3)
    assert stats["row_shares"] == [0, 0]
    expected = load_result(finished.request.work_dir).stats
    assert stats["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=5e-3)
    ours, theirs = (load_model(run.request.data_dir / "model", torch.float32) for run in (job, finished))
    for name, weight in theirs.named_parameters():
        assert torch.allclose(ours.get_parameter(name), weight, atol=0.02), name


def test_steps_and_urls_find_each_other(finished, inputs):
    pretrain, shards = published(finished), inputs["shards"]
    view = trace_step(pretrain, shards, 3)
    assert {entry["rank"] for entry in view["documents"]} == {0, 1}
    train = ShardSet.open(shards.local("data"), "train")
    rows = rows_of(0, range(16, 24), [len(train)])
    expected = {span.url for row in rows for span in train.documents(int(row))}
    assert {entry["url"] for entry in view["documents"]} == expected
    assert trace_step(pretrain, shards, 3, rank=1)["documents"] == [
        entry for entry in view["documents"] if entry["rank"] == 1
    ]
    shared = pretrain.manifest.model_copy(
        update={"stats": pretrain.manifest.stats | {"ranks": 4, "row_shares": [0, 0, 1, 1]}}
    )
    four = Dataset(pretrain.root, shared)
    assert trace_step(four, shards, 3)["documents"] == [
        entry | {"rank": 2 * entry["rank"]} for entry in view["documents"]
    ]
    assert trace_step(four, shards, 3, rank=3)["documents"] == [
        entry | {"rank": 3} for entry in view["documents"] if entry["rank"] == 1
    ]
    for entry in view["documents"][:5]:
        assert entry["archive"] and entry["offset"] is not None
        back = trace_url(pretrain, shards, entry["url"])
        assert 3 in back["steps"] and back["shards"]
        for step in back["steps"]:
            urls = {document["url"] for document in trace_step(pretrain, shards, step)["documents"]}
            assert entry["url"] in urls
    assert trace_url(pretrain, shards, "https://nowhere.example/")["steps"] == []
    for step, rank in ((25, None), (3, 2)):
        with pytest.raises(InputError, match="there is no"):
            trace_step(pretrain, shards, step, rank)


def test_rows_in_the_order_of_documents_are_found_again(inputs, tmp_path):
    job = PretrainJob(tmp_path, inputs, small_config(steps=6, batch_sequences=4, order="documents"))
    job.run(ranks=2)
    pretrain, train = published(job), ShardSet.open(inputs["shards"].local("data"), "train")
    rows = document_order(train, 0, 24).rows(np.arange(24))
    for step in range(6):
        expected = {span.url for row in rows[step * 4 : step * 4 + 4] for span in train.documents(int(row))}
        named = {entry["url"] for entry in trace_step(pretrain, inputs["shards"], step + 1)["documents"]}
        assert named == expected
        assert all(step + 1 in trace_url(pretrain, inputs["shards"], url)["steps"] for url in named)


def test_a_takedown_names_everything_that_holds_or_learned_from_a_document(finished, inputs):
    pretrain, shards = published(finished), inputs["shards"]
    store = [*inputs.values(), pretrain]
    url = trace_step(pretrain, shards, 3)["documents"][0]["url"]
    view = takedown(store, lambda name, fingerprint: finished.request.work_dir, url=url)
    assert [entry["url"] for entry in view["documents"]] == [url]
    assert {entry["name"] for entry in view["datasets"]} == {"redact", "shards"}
    traced = trace_url(pretrain, shards, url)
    assert [entry["shard"] for entry in view["shards"]] == traced["shards"]
    assert view["steps"] == [{"dataset": "pretrain/" + "1" * 12, "steps": traced["steps"]}]
    assert all(int(path[-8:]) >= traced["steps"][0] for path in view["checkpoints"]) and view["checkpoints"]
    assert {name.split("/")[0] for name in view["derived"]} == {"tokenizer", "pretrain"}
    assert view["rebuild"] == ["redact", "tokenizer", "shards", "pretrain"]

    whole = takedown(store, lambda name, fingerprint: finished.request.work_dir, domain="WEB.example")
    assert {entry["url"].split("/")[2] for entry in whole["documents"]} == {"web.example"}
    assert len(whole["documents"]) == 400
    none = takedown(store, lambda name, fingerprint: finished.request.work_dir, domain="b.example")
    assert none["documents"] == [] and none["rebuild"] == []
    with pytest.raises(ConfigError):
        takedown(store, lambda name, fingerprint: finished.request.work_dir)


def test_a_training_branches_from_the_weights_of_a_trunk(tmp_path):
    save_model(tiny_model(3), tmp_path / "model", write_tokenizer(tmp_path / "words"))
    config, drawn = small_config(trunk=True), tiny_model(7).state_dict()
    branch = first_model(config, tiny_config(), tmp_path / "model")
    for name, weight in tiny_model(3).state_dict().items():
        assert torch.equal(first_value(branch.get_parameter(name))(), weight)
    fresh = first_model(config.model_copy(update={"seed": 7}), tiny_config())
    assert all(torch.equal(first_value(weight)(), drawn[name]) for name, weight in fresh.named_parameters())
    with pytest.raises(InputError, match="another shape"):
        first_model(config, tiny_config(hidden_size=64), tmp_path / "model")
