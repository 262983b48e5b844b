"""A small world for whole jobs: conversations with a pattern, a tokenizer, a base model, and launches on two ranks."""

import importlib
import json
import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alignment.job import ModelJob
from alignment.pair_files import Pair
from alignment.preferences import PreferencesConfig, save_pairs
from alignment.turns import Message
from infra.job import JobRequest, JobResult, load_result, write_request
from infra.store.dataset import Dataset
from infra.store.files import describe_file, write_json
from infra.store.manifest import output_digest
from pipeline.tokenizer.hugging_face import hub_files
from pipeline.tokenizer.model import Tokenizer
from pipeline.tokenizer.train import train_model
from tests.support import adopt_dataset, write_dataset
from tests.training.launch import REPOSITORY, rank_command, rank_environment
from training.hub_format import load_model, save_model
from training.job import StopSignal
from training.model import ModelConfig, build_model
from training.ranks import Ranks

ANIMALS = ("cat", "dog", "bird", "fish", "horse", "mouse")
PLACES = ("in the house", "on the tree", "by the river", "under the bed", "in the garden")


def conversations(number: int) -> list[dict[str, Any]]:
    """Questions after animals; the answer always repeats the animal and ends with a full stop."""
    chosen = random.Random(0)
    talks = []
    for index in range(number):
        messages = []
        for _ in range(chosen.randint(1, 3)):
            animal, place = chosen.choice(ANIMALS), chosen.choice(PLACES)
            messages += [
                {"role": "user", "content": f"where is the {animal}?"},
                {"role": "assistant", "content": f"the {animal} is {place}."},
            ]
        talks.append({"id": f"talk-{index}", "messages": messages})
    return talks


def build_world(folder: Path, number: int = 400) -> dict[str, Dataset]:
    """The datasets that fine-tuning starts from."""
    talks = conversations(number)
    lines = "".join(json.dumps(talk) + "\n" for talk in talks).encode()
    sample = write_dataset(folder / "sample", "sample", {"data/conversations.jsonl": lines})
    # The alphabet beside the talks: an untrained model must have something to say that no person would.
    texts = [message["content"] for talk in talks for message in talk["messages"]]
    model = train_model(texts, 400, 1.0, 12)
    files = {"data/tokenizer.model": model} | {f"data/{n}": b for n, b in hub_files(Tokenizer(model)).items()}
    tokenizer = write_dataset(folder / "tokenizer", "tokenizer", files)
    shape = ModelConfig(
        vocab_size=400, hidden_size=64, layers=2, heads=4, kv_heads=2, intermediate_size=128, max_position=256
    )
    names = save_model(build_model(shape, 0), folder / "pretrain/data/model", tokenizer.local("data"))
    base = [describe_file(folder / "pretrain", f"data/model/{name}") for name in names]
    return {"sample": sample, "tokenizer": tokenizer, "pretrain": adopt_dataset(folder / "pretrain", "pretrain", base)}


def write_pairs(
    folder: Path,
    ranks: Ranks,
    inputs: Mapping[str, Dataset],
    talks: Sequence[tuple[str, str, str]],
    votes: bool = False,
) -> Dataset:
    """Preferences from (question, chosen, rejected), every third held out; as ``votes`` they have weights, margins and ties."""
    job = ModelJob(request_of(folder, "preferences", inputs, {}), PreferencesConfig(), ranks, StopSignal())
    pairs = [
        Pair(str(n), (Message("user", question),), chosen, rejected, "train" if n % 3 else "held_out")
        for n, (question, chosen, rejected) in enumerate(talks)
    ]
    if votes:
        pairs = [replace(pair, weight=0.5 + n % 4, margin=float(n % 2), tie=n % 5 == 1) for n, pair in enumerate(pairs)]
    save_pairs(job, pairs)
    return adopt_dataset(folder / "dataset", "preferences", [describe_file(folder / "dataset", "data/pairs.parquet")])


def write_reward_model(folder: Path, sft: Dataset) -> Dataset:
    """One that scores at random."""
    model, score = load_model(sft.local("data/model")), torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    names = save_model(model, folder / "data/model", sft.local("data/model"), score=score)
    write_json(folder / "data/reward.json", {"mean": 0.0, "std": 1.0})
    files = [describe_file(folder, f"data/{name}") for name in ("reward.json", *(f"model/{name}" for name in names))]
    return adopt_dataset(folder, "reward", files)


def request_of(folder: Path, name: str, inputs: Mapping[str, Dataset], settings: Mapping[str, Any]) -> JobRequest:
    """What a stage's job reads, as the runner writes it; ``dataset`` beside the work folder's own files."""
    stage = importlib.import_module(f"alignment.{name}").STAGE
    config = stage.config.model_validate({"dtype": "fp32", **settings})
    return JobRequest(
        stage=name,
        fingerprint="0" * 12,
        config=config.model_dump(mode="json"),
        inputs={role: inputs[source] for role, source in stage.inputs(config).items()},
        dataset_root=folder / "dataset",
        work_dir=folder,
    )


@dataclass
class AlignmentJob:
    """One job's folders, as the runner lays them out."""

    folder: Path
    name: str
    inputs: dict[str, Dataset]
    settings: dict[str, Any]

    @property
    def request(self) -> JobRequest:
        made = request_of(self.folder, self.name, self.inputs, self.settings)
        return replace(made, work_dir=self.folder / "work")

    def start(self, ranks: int = 2) -> subprocess.Popen[bytes]:
        request = self.request
        request.data_dir.mkdir(parents=True, exist_ok=True)
        request.work_dir.mkdir(parents=True, exist_ok=True)
        command = rank_command(f"alignment.{self.name}", ranks, "--request", str(write_request(request)))
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=rank_environment(), stdout=log, stderr=log, start_new_session=True
            )

    def run(self, ranks: int = 2, timeout: float = 300) -> JobResult:
        code = self.start(ranks).wait(timeout)
        result = load_result(self.request.work_dir)
        assert code == 0 and result, f"exit {code}\n{(self.folder / 'log.txt').read_text()[-4000:]}"
        return result

    def publish(self) -> Dataset:
        result = load_result(self.request.work_dir)
        assert result
        return adopt_dataset(self.folder / "dataset", self.name, result.outputs)

    def digest(self) -> str:
        result = load_result(self.request.work_dir)
        assert result
        return output_digest(result.outputs)

    def lines(self) -> list[dict[str, Any]]:
        """The figures of each step so far; a line that is being written is left out."""
        path = self.request.data_dir / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def figures(self, file: str) -> Any:
        return json.loads((self.request.data_dir / file).read_text())
