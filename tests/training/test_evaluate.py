"""The evaluation stage on models that differ in a known way."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.errors import ConfigError, InputError
from infra.extensions import code_of
from infra.job import JobRequest, load_request, load_result, write_request
from infra.store.dataset import Dataset
from pipeline.shards.format import Row, shard_schema, write_shard
from pipeline.tokenizer import Tokenizer
from pipeline.tokenizer.hugging_face import hub_files
from pipeline.tokenizer.train import train_model
from tests.support import write_dataset
from tests.training.folders import tiny_config, tiny_model
from training.evaluate import (
    STAGE,
    EvaluateConfig,
    Measured,
    compare,
    compare_models,
    evaluate_model,
    external,
    inputs,
    run,
)
from training.generate import Sampling
from training.harness import Figure
from training.hub_format import save_model
from training.intervals import Interval, Resampling
from training.model import Decoder, build_model
from training.own_tasks import OwnTask
from training.text_model import TextModel

VOCABULARY = 400
PROBLEMS = [
    {"task_id": f"T/{number}", "prompt": f"def f{number}(x):\n", "canonical_solution": f"    return x + {number}\n"}
    | {"test": "def check(f):\n    assert f(1) > 0\n", "entry_point": f"f{number}"}
    for number in range(6)
]


def real_tokenizer(folder: Path) -> Tokenizer:
    """A small tokenizer as the pipeline makes it."""
    letters = random.Random(0)
    texts = [" ".join("".join(letters.choices("abcdefghij", k=5)) for _ in range(2000)) for _ in range(5)]
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(train_model(texts, VOCABULARY, 1.0, 16))
    tokenizer = Tokenizer.load(folder)
    for name, content in hub_files(tokenizer).items():
        (folder / name).write_bytes(content)
    return tokenizer


def write_shards(folder: Path, digest: str) -> None:
    """Validation rows of two sources, 30 tokens and 40 bytes each; ``web`` holds one token only."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for source in ("web", "code"):
        schema = shard_schema(VOCABULARY, 32, {"tokenizer_digest": digest, "mixture": {}}, with_bytes=True)
        rows = []
        for _ in range(12):
            tokens = np.full(30, 50) if source == "web" else draw.integers(8, VOCABULARY, 30)
            rows.append(Row([np.array([2, *tokens, 3])], 40))
        write_shard(folder / f"validation-{source}.arrow", schema, iter(rows), 0)
    (folder / "stats.json").write_text(json.dumps({"unigram_entropy_nats": 5.0, "tokens": {}}))


def uniform_model() -> Decoder:
    """All logits equal: the same bits a token, whatever the text."""
    model = build_model(tiny_config(tie_embeddings=False, vocab_size=VOCABULARY), 0)
    assert model.lm_head is not None
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    tokenizer = root / "tokenizer" / "data"
    write_shards(root / "shards" / "data", real_tokenizer(tokenizer).digest)
    save_model(uniform_model(), root / "pretrain" / "data" / "model", tokenizer)
    save_model(tiny_model(vocab_size=VOCABULARY), root / "sft" / "data" / "model", tokenizer)
    (root / "humaneval.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    return root


def test_a_uniform_model_has_the_bits_of_its_vocabulary(home: Path) -> None:
    result = evaluate_model(
        home / "pretrain" / "data" / "model",
        shards=home / "shards" / "data",
        humaneval=home / "humaneval.jsonl",
        samples=1,
    )
    figures = {task["task"]: task for task in result["tasks"] if task["metric"] != "pass@1"}
    (passed,) = (task for task in result["tasks"] if task["metric"] == "pass@1")
    assert (passed["value"], passed["n"]) == (0, 6)
    # 30 targets stand for 40 bytes; the end of the document stands for none and is no target.
    assert figures["web"]["value"] == pytest.approx(math.log2(VOCABULARY) * 30 / 40, abs=1e-4)
    assert figures["code"]["value"] == pytest.approx(figures["web"]["value"], abs=1e-4)
    assert 0 < figures["humaneval"]["value"] <= math.log2(VOCABULARY) + 1e-4, "a token is a byte or more"
    assert figures["heldout"]["value"] == pytest.approx(math.log(VOCABULARY), abs=1e-4)
    assert [figures[name]["n"] for name in ("web", "humaneval")] == [12, 6]
    assert set(figures["web"]) == {"task", "metric", "value", "low", "high", "n"}
    assert [(each["model"], each["task"]) for each in result["baselines"]] == [("xz -9", "code"), ("xz -9", "web")]


def test_the_stage(home: Path, tmp_path: Path) -> None:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    reward_eval = {"reward": {"sft": estimate, "ppo": estimate, "gain": estimate}}
    write_dataset(tmp_path / "reward", "reward", {"data/reward.json": json.dumps({"accuracy": estimate}).encode()})
    ppo_files = {
        f"data/model/{path.name}": path.read_bytes() for path in (home / "sft" / "data" / "model").iterdir()
    } | {"data/reward_eval.json": json.dumps(reward_eval).encode()}
    write_dataset(tmp_path / "ppo", "ppo", ppo_files)
    roles = {name: write_dataset(home / name, name, {}) for name in ("shards", "pretrain", "sft", "tokenizer")}
    roles |= {name: Dataset.open(str(tmp_path / name)) for name in ("reward", "ppo")}
    config = {
        "models": ["pretrain", "sft", "ppo"],
        "humaneval": str(home / "humaneval.jsonl"),
        "max_rows": 8,
        "humaneval_samples": 1,
        "tasks": [f"{__name__}:LENGTHS"],
    }
    request = JobRequest("evaluate", "0" * 12, config, roles, tmp_path / "out", tmp_path / "work")
    (tmp_path / "work").mkdir()
    run(load_request(write_request(request)))

    table = json.loads((tmp_path / "out" / "data" / "evaluation.json").read_text())
    rows = {(row["model"], row["task"]): row for row in table["tasks"]}
    assert rows["unigram", "heldout"]["value"] == 5.0
    assert rows["reward", "held-out pairs"]["value"] == 0.5
    assert rows["ppo", "held-out prompts"]["metric"] == "reward"
    assert ("5-gram", "web") not in rows, "there are no training shards to count"
    assert rows["xz -9", "web"]["value"] < rows["xz -9", "code"]["value"], "one word repeated against random ones"
    passed = [(row["model"], row["value"], row["n"]) for row in table["tasks"] if row["metric"] == "pass@1"]
    assert passed == [(name, 0, 6) for name in config["models"]], "completions are run where they are asked for"
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"]
    differences = {(row["model"], row["task"]): row for row in table["comparisons"]}
    assert differences["ppo - sft", "web"]["value"] == 0, "the same weights"
    assert (rows["sft", "lengths"]["metric"], rows["sft", "lengths"]["n"]) == ("characters", 3)
    assert differences["ppo - sft", "lengths"]["value"] == 0
    known = differences["sft - pretrain", "code"]
    assert known["value"] == pytest.approx(rows["sft", "code"]["value"] - rows["pretrain", "code"]["value"], abs=2e-5)
    result = load_result(tmp_path / "work")
    assert result is not None
    assert [output.path for output in result.outputs] == ["data/evaluation.json"]


def lengths(model: TextModel) -> list[float]:
    prompts = [model.prompt(text) for text in ("abc", "def", "ghi")]
    return [float(len(text)) for text in model.write(prompts, [Sampling(max_new_tokens=3, temperature=0)] * 3)]


LENGTHS = OwnTask("lengths", "characters", lengths)
NOTHING = OwnTask("nothing", "characters", lambda model: [])
NAN = OwnTask("nan", "characters", lambda model: [math.nan])
HELDOUT = OwnTask("heldout", "characters", lengths)


def test_a_task_of_another_package_stands_beside_ours_and_what_is_none_is_said(home: Path) -> None:
    folder = home / "sft/data/model"
    (task,) = evaluate_model(folder, harness=[f"{__name__}:LENGTHS"])["tasks"]
    assert (task["task"], task["metric"], task["n"]) == ("lengths", "characters", 3)
    for name, sentence in (("NOTHING", "gives no items"), ("NAN", "no finite numbers")):
        with pytest.raises(InputError, match=sentence):
            evaluate_model(folder, harness=[f"{__name__}:{name}"])
    for name, sentence in (
        ("HELDOUT", "two tasks are called 'heldout'"),
        ("lengths", "is a function, and tasks takes a OwnTask"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            STAGE.check(EvaluateConfig(tasks=(f"{__name__}:{name}",)))
    first, second = Measured("a", {}, own={LENGTHS: np.ones(3)}), Measured("b", {}, own={LENGTHS: np.ones(2)})
    with pytest.raises(InputError, match=r"other numbers of items for other models \(a: 3, b: 2\)"):
        compare(first, second, Resampling())
    assert list(code_of(STAGE, EvaluateConfig(tasks=(f"{__name__}:LENGTHS",)))) == [f"{__name__}:LENGTHS"]


def test_inputs_follow_the_configuration() -> None:
    assert set(inputs(EvaluateConfig())) == {"shards", "tokenizer", "sample", "pretrain", "sft", "reward", "ppo", "dpo"}
    assert set(inputs(EvaluateConfig(models=("pretrain",), humaneval=""))) == {"shards", "tokenizer", "pretrain"}


def test_there_must_be_something_to_measure_on(home: Path) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        evaluate_model(home / "sft" / "data" / "model")


def test_two_checkpoints_are_compared_on_the_same_rows(home: Path) -> None:
    folders = [home / name / "data" / "model" for name in ("sft", "pretrain")]
    tasks = {task["task"]: task for task in compare_models(*folders, shards=home / "shards" / "data")["tasks"]}
    alone = [
        {task["task"]: task["value"] for task in evaluate_model(folder, shards=home / "shards" / "data")["tasks"]}
        for folder in folders
    ]
    assert set(tasks) == {"web", "code"}
    for name, task in tasks.items():
        assert task["value"] == pytest.approx(alone[0][name] - alone[1][name], abs=2e-5)
        assert task["low"] <= task["value"] <= task["high"]


def test_what_lies_outside_the_store_is_part_of_the_identity(home: Path, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("task: x")
    config = EvaluateConfig(humaneval=str(home / "humaneval.jsonl"), harness_folder=str(tmp_path))
    before = external(config)
    (tmp_path / "task.yaml").write_text("task: y")
    assert external(config) != before
    assert external(EvaluateConfig()) is None


def test_shards_of_another_tokenizer_are_refused(home: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "other", "0" * 64)
    with pytest.raises(InputError, match="tokenizer"):
        evaluate_model(home / "sft" / "data" / "model", shards=tmp_path / "other")


def test_harness_tasks_stand_beside_the_held_out_rows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_harness(folder: Path, tasks: list[str], **options: object) -> list[Figure]:
        asked.append((folder, tasks, options))
        return [Figure("letters", "acc", Interval(0.5, 0.25, 0.75, 20))]

    monkeypatch.setattr("training.evaluate.run_harness", run_harness)
    folder = home / "sft" / "data" / "model"
    options = {"harness": ["letters"], "harness_folder": home, "harness_limit": 20}
    options |= {"few_shot": 5, "chat": True}
    alone = evaluate_model(folder, **options)
    assert alone["tasks"] == [{"task": "letters", "metric": "acc", "value": 0.5, "low": 0.25, "high": 0.75, "n": 20}]
    assert asked == [(folder, ["letters"], {"task_folder": home, "limit": 20, "few_shot": 5, "chat": True})]
    both = evaluate_model(folder, shards=home / "shards" / "data", **options)
    assert {task["task"] for task in both["tasks"]} == {"web", "code", "heldout", "letters"}
