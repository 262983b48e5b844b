"""``headwater bench train``: ours, a plain PyTorch loop and Hugging Face's Trainer on the same model, batches and data.

Contenders are processes that take turns of a few steps, one at a time and in changing order, so that what is compared
was measured within seconds of each other on the same state of the machine; the figure is the median over turns (of both
precisions on a CPU, the worse one). The first turn warms up and does not count.

On a CPU the model is that of the demo; on a GPU one of 350 million parameters in bf16, where ``mfu`` is added.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from tests.benchmarks.train_parts.contenders import Spec
from tests.training.pretraining import build_inputs

SMALL = {"vocab_size": 4096, "hidden_size": 256, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate_size": 704}
LARGE = {
    "vocab_size": 32_768,
    "hidden_size": 1024,
    "layers": 24,
    "heads": 16,
    "kv_heads": 16,
    "intermediate_size": 2816,
    "max_position": 2048,
}
CADENCE_S = 60.0
"""A checkpoint a minute, for the fraction of time they cost."""


def run(turns: int = 9, steps: int = 2, threads: int = 0, skip_peers: bool = False) -> dict[str, Any]:
    """``turns`` of ``steps`` steps for each contender; ``threads`` 0 means every core."""
    gpu = torch.cuda.is_available()
    names = ["ours"] if skip_peers else ["ours", "plain", "trainer"]
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        folder = Path(name)
        seq_len = 2048 if gpu else 256
        inputs = build_inputs(
            folder / "inputs", web=20_000 if gpu else 1500, code=5000 if gpu else 400, seq_len=seq_len
        )
        for dtype in ["bf16"] if gpu else ["bf16", "fp32"]:
            spec = Spec(
                inputs={role: str(dataset.root) for role, dataset in inputs.items()},
                model=LARGE if gpu else SMALL,
                dtype=dtype,
                batch=64 if gpu else 16,
                micro=16 if gpu else 8,
                turns=turns,
                steps=steps,
                threads=threads or os.cpu_count() or 1,
                compile=gpu,
                folder="",
            )
            with _contenders(spec, names, folder / dtype) as running:
                for turn in range(1 + turns):
                    # Another first one every turn: whoever comes after a slow one may find a warmer machine.
                    for contender in names[turn % len(names) :] + names[: turn % len(names)]:
                        taken = running[contender].next("TURN")
                        if turn:
                            rows.append({"contender": contender, "dtype": dtype, "turn": turn} | taken)
                answers += [{"contender": name, "dtype": dtype} | running[name].next("ANSWER") for name in names]
    return {"figures": _figures(rows, answers, names), "rows": rows, "contenders": answers}


class _Contender:
    """A process that waits for its turn."""

    def __init__(self, name: str, spec: Spec, folder: Path) -> None:
        folder.mkdir(parents=True)
        path, self.name, self.errors = folder / "spec.json", name, folder / "errors.txt"
        path.write_text(json.dumps(asdict(spec) | {"folder": str(folder)}))
        environment = {**os.environ, "OMP_NUM_THREADS": str(spec.threads), "HF_HUB_OFFLINE": "1"}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.train_parts.contenders", name, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    def next(self, kind: Literal["TURN", "ANSWER"]) -> dict[str, Any]:
        """Let it go on to its next report."""
        assert self.process.stdin and self.process.stdout
        with suppress(BrokenPipeError):  # what it died of is told below
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(kind):
                found: dict[str, Any] = json.loads(line.removeprefix(kind))
                return found
        code = self.process.wait()
        raise RuntimeError(f"{self.name} ended with exit code {code}: {self.errors.read_text()[-2000:]}")


@contextmanager
def _contenders(spec: Spec, names: Sequence[str], folder: Path) -> Iterator[dict[str, _Contender]]:
    running: dict[str, _Contender] = {}
    try:
        for name in names:
            running[name] = _Contender(name, spec, folder / name)
        yield running
    finally:
        for contender in running.values():
            contender.process.kill()
            contender.process.communicate()


def _figures(rows: list[dict[str, Any]], answers: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    turns = [row for row in rows if row["contender"] == "ours"]
    ours = [answer for answer in answers if answer["contender"] == "ours"]
    figures = {
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in turns if row["dtype"] == "bf16"),
        "data_wait_fraction": statistics.median(row["data_wait_fraction"] for row in turns),
        "checkpoint_stall_fraction": max(answer["checkpoint_lost_s"] for answer in ours) / CADENCE_S,
        "peak_memory_gb": max(answer["peak_memory_gb"] for answer in ours),
    }
    if ours[0]["mfu"] is not None:
        figures["mfu"] = statistics.median(answer["mfu"] for answer in ours)
    for peer, figure in (("plain", "ratio_plain_loop"), ("trainer", "ratio_hf_trainer")):
        if peer in names:
            figures[figure] = _ratio(rows, peer, "tokens_per_s")
            figures[f"{figure}_cpu_time"] = _ratio(rows, peer, "tokens_per_cpu_s")
    return figures


def _ratio(rows: list[dict[str, Any]], peer: str, speed: str) -> float:
    """Ours over a peer's speed: the median over turns, in the precision where it is worse."""
    return min(statistics.median(_ratios(rows, peer, dtype, speed)) for dtype in {row["dtype"] for row in rows})


def _ratios(rows: list[dict[str, Any]], peer: str, dtype: str, speed: str) -> list[float]:
    speeds = {(row["contender"], row["turn"]): row[speed] for row in rows if row["dtype"] == dtype}
    return [value / speeds[peer, turn] for (name, turn), value in speeds.items() if name == "ours"]
