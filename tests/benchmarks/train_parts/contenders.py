"""Ours, a plain PyTorch loop and Hugging Face's Trainer: the same model, batches, precision and optimizer.

    python -m tests.benchmarks.train_parts.contenders NAME SPEC.json

Each contender is a process of its own that trains only while it has the turn: it waits for a line on its input, takes
a turn's steps, prints ``TURN {...}`` and waits again; at the end it prints ``ANSWER {...}``. A step is timed from the end of
the one before it to its own end, so that reading data, reporting and whatever a framework does between steps counts.
"""

import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.job_main import leave
from pipeline.shards.order import rows_of
from pipeline.shards.reader import ShardSet
from training.metrics import flops_per_token, memory_gb, utilisation
from training.model import ModelConfig, build_model


@dataclass(frozen=True)
class Spec:
    """What all contenders are asked to do."""

    inputs: dict[str, str]
    model: dict[str, Any]
    dtype: str
    batch: int
    micro: int
    turns: int
    steps: int
    """Steps of a turn. A turn for warming up comes first."""
    threads: int
    compile: bool
    folder: str
    zero_stage: int = 1
    mask_documents: bool = False
    """Ours only: the peers let documents of a row see each other."""
    checkpoint: bool = True
    """Ours only: measure what one costs."""

    @property
    def shape(self) -> ModelConfig:
        return ModelConfig.model_validate(self.model)

    @property
    def total_steps(self) -> int:
        return (1 + self.turns) * self.steps

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def shards(self) -> ShardSet:
        return ShardSet.open(Path(self.inputs["shards"]) / "data", "train")


class Clock:
    """Waits for the turn, and reports what the steps of each took."""

    def __init__(self, spec: Spec, seq_len: int) -> None:
        self.spec, self.seq_len = spec, seq_len
        self.taken = 0
        self.speeds: list[float] = []
        self._begin(0.0)

    def end(self, waited: float | None) -> None:
        """A step is over; ``waited`` is the running total of the seconds spent waiting for data, if that is known."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.taken += 1
        if self.taken % self.spec.steps:
            return
        seconds, processor = time.perf_counter() - self._began, time.process_time() - self._processor
        tokens = self.spec.batch * self.seq_len * self.spec.steps
        self.speeds.append(tokens / seconds)
        turn = {
            "tokens_per_s": tokens / seconds,
            # Hardly touched by other load on the machine, where wall-clock time is.
            "tokens_per_cpu_s": tokens / processor,
            "data_wait_fraction": None if waited is None else (waited - self._waited) / seconds,
        }
        print("TURN " + json.dumps(turn), flush=True)
        self._begin(waited or 0.0)  # after the last one, too: what follows must not disturb the others' turns

    def _begin(self, waited: float) -> None:
        sys.stdin.readline()
        self._began, self._processor, self._waited = time.perf_counter(), time.process_time(), waited

    @property
    def step_seconds(self) -> float:
        return self.spec.batch * self.seq_len / statistics.median(self.speeds[1:])

    def result(self) -> dict[str, float | None]:
        speed = statistics.median(self.speeds[1:])
        mfu = utilisation(flops_per_token(self.spec.shape, self.seq_len), speed, 1)
        return {"peak_memory_gb": memory_gb(), "mfu": mfu}


def ours(spec: Spec) -> dict[str, float | None]:
    from infra.job import JobRequest
    from infra.store.dataset import Dataset
    from training.job import Job, StopSignal
    from training.loop import open_loop
    from training.pretrain import PretrainConfig, build_engine, open_data, task_of
    from training.ranks import distributed
    from training.recorder import IterationResult, Recorder

    config = PretrainConfig.model_validate(
        {
            "model": spec.model,
            "steps": 10 * spec.total_steps,
            "batch_sequences": spec.batch,
            "parallel": {
                "dtype": spec.dtype,
                "micro_batch": spec.micro,
                "compile": spec.compile,
                "zero_stage": spec.zero_stage,
            },
            "optimizer": {"lr": 1e-4},
            "mask_documents": spec.mask_documents,
            "ranks": 1,
            "checkpoint_every": 1_000_000,
        }
    )
    inputs = {role: Dataset.open(root) for role, root in spec.inputs.items()}
    folder = Path(spec.folder)
    request = JobRequest("pretrain", "0" * 12, {}, inputs, folder / "dataset", folder / "work")
    for path in (request.dataset_root, request.work_dir):
        path.mkdir(parents=True, exist_ok=True)
    with distributed() as ranks:
        data = open_data(inputs["shards"].local("data"), inputs["tokenizer"].local("data"))
        clock = Clock(spec, data.train.seq_len)
        # Not the tokenizer's vocabulary, which is small: the output layer should weigh what it usually does.
        engine = build_engine(config, data, spec.shape, ranks)
        task = task_of(config, data, engine)
        job, flops = Job(request, config, ranks, StopSignal()), flops_per_token(spec.shape, task.seq_len)

        class Timed(Recorder):
            def step(self, done: int, outcome: IterationResult, seconds: float) -> None:
                super().step(done, outcome, seconds)
                if clock.taken < spec.total_steps:
                    clock.end(task.source.wait_seconds)

        recorder = Timed(job, engine.total_steps, flops)
        loop = open_loop(job, engine, task, recorder)
        recorder.begin(0)
        batches = task.source.steps(0)

        def advance(steps: int) -> None:
            for _ in range(steps):
                loop.take(next(batches))

        advance(spec.total_steps)
        answer = clock.result()
        if spec.checkpoint:
            answer |= _checkpoint(loop, advance, clock.step_seconds)
        batches.close()
    return answer


def _checkpoint(loop: Any, advance: Callable[[int], None], step_seconds: float) -> dict[str, float | None]:
    """What one checkpoint costs the training: the time until it is written, less the work done meanwhile."""
    began = time.perf_counter()
    loop.checkpoints.save({})
    call = time.perf_counter() - began
    taken = 0
    while loop.checkpoints.busy:
        advance(1)
        taken += 1
    lost = time.perf_counter() - began - taken * step_seconds
    return {"checkpoint_call_s": call, "checkpoint_lost_s": max(0.0, lost)}


def plain(spec: Spec) -> dict[str, float | None]:
    """What one writes by hand: autocast, fused AdamW, clipping, a DataLoader, full logits."""
    shards = spec.shards()
    model: nn.Module = build_model(spec.shape, 0, device=spec.device)
    if spec.compile:
        model.compile()  # block by block: the whole model takes a compiler minutes
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches, clock, waited = iter(_batches(spec, shards)), Clock(spec, shards.seq_len), 0.0
    model.train()
    for _ in range(spec.total_steps):
        for _ in range(spec.batch // spec.micro):
            before = time.perf_counter()
            tokens = next(batches).to(spec.device)
            waited += time.perf_counter() - before
            with torch.autocast(spec.device.type, torch.bfloat16, enabled=spec.dtype == "bf16"):
                logits = model(tokens[:, :-1]) @ model.output_weight.T
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            (loss * spec.micro / spec.batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        clock.end(waited)
    return clock.result()


def trainer(spec: Spec) -> dict[str, float | None]:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    shards, shape = spec.shards(), spec.shape
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            tie_word_embeddings=shape.tie_embeddings,
            max_position_embeddings=shape.max_position,
        )
    )

    class Timer(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **named: Any) -> None:
            self.clock = Clock(spec, shards.seq_len)

        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            self.clock.end(None)  # it fetches batches out of our sight

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(shards)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            tokens = _row(shards, index)[:-1]
            return {"input_ids": tokens, "labels": tokens}

    arguments = TrainingArguments(
        output_dir=spec.folder,
        max_steps=spec.total_steps,
        per_device_train_batch_size=spec.micro,
        gradient_accumulation_steps=spec.batch // spec.micro,
        learning_rate=1e-4,
        optim="adamw_torch_fused",
        bf16=spec.dtype == "bf16",
        use_cpu=spec.device.type == "cpu",
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    timer = Timer()
    for layer in model.model.layers if spec.compile else []:
        layer.compile()  # as in the plain loop; torch_compile would take the whole model
    Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[timer]).train()
    return timer.clock.result()


def _row(shards: ShardSet, index: int) -> Tensor:
    return torch.from_numpy(shards.rows(np.array([index])).input_ids[0])


def _batches(spec: Spec, shards: ShardSet) -> Iterator[Tensor]:
    order = rows_of(0, np.arange(spec.total_steps * spec.batch), shards.phases)

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(order)

        def __getitem__(self, place: int) -> Tensor:
            return _row(shards, int(order[place]))

    return iter(torch.utils.data.DataLoader(Rows(), batch_size=spec.micro))


def contend(name: str, spec: Spec) -> dict[str, float | None]:
    torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    return {"ours": ours, "plain": plain, "trainer": trainer}[name](spec)


def alone(name: str, spec: Spec) -> tuple[list[dict[str, float]], dict[str, float | None]]:
    """All turns of a contender that has the machine to itself, in this process: each turn but the first, and its answer."""
    said, standing = io.StringIO(), sys.stdin
    sys.stdin = io.StringIO("go\n" * (2 + spec.turns))
    try:
        with contextlib.redirect_stdout(said):
            answer = contend(name, spec)
    finally:
        sys.stdin = standing
    lines = [line.removeprefix("TURN ") for line in said.getvalue().splitlines() if line.startswith("TURN ")]
    return [json.loads(line) for line in lines[1:]], answer


if __name__ == "__main__":
    print("ANSWER " + json.dumps(contend(sys.argv[1], Spec(**json.loads(Path(sys.argv[2]).read_text())))))
    leave()
