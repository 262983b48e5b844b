"""``headwater bench train``: ours, a plain PyTorch loop and Hugging Face's Trainer on the same model, batches and data.

Contenders are processes that take turns of a few steps, one at a time and in changing order, so that what is compared
was measured within seconds of each other on the same state of the machine; the figure is the median over turns (of several
cases the worse one). The first turn warms up and does not count.

On a CPU the model is that of the demo, in bf16 and fp32; on a GPU models of 125 M, 350 M and 1 B parameters in bf16, where
``mfu`` is added: the lower one of the two larger models. On a CPU our two engines are compared as well, at two ranks.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tests.benchmarks.train_parts.contenders import Spec
from tests.training.launch import run_ranks
from tests.training.pretraining import build_inputs

SMALL = {"vocab_size": 4096, "hidden_size": 256, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate_size": 704}


@dataclass(frozen=True)
class Case:
    """A model, its precision, and sequences of a micro batch and of a step."""

    name: str
    model: dict[str, int]
    dtype: str
    micro: int
    batch: int = 16


def _large(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, int]:
    shape = {
        "hidden_size": hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "intermediate_size": intermediate,
    }
    return {"vocab_size": 32_768, "max_position": 2048} | shape


ON_CPU = (Case("4M bf16", SMALL, "bf16", 8), Case("4M fp32", SMALL, "fp32", 8))
ON_GPU = (
    Case("125M", _large(768, 12, 12, 2048), "bf16", 32, 256),
    Case("350M", _large(1024, 24, 16, 2816), "bf16", 32, 256),
    Case("1B", _large(2048, 18, 16, 5632), "bf16", 16, 128),
)
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
        for case in ON_GPU if gpu else ON_CPU:
            spec = Spec(
                inputs={role: str(dataset.root) for role, dataset in inputs.items()},
                model=case.model,
                dtype=case.dtype,
                batch=case.batch,
                micro=case.micro,
                turns=turns,
                steps=steps,
                threads=threads or os.cpu_count() or 1,
                compile=gpu,
                folder="",
            )
            # A GPU is rarely shared, and its memory holds one of them.
            for group in [[name] for name in names] if gpu else [names]:
                # The peers hold full logits, and have a GPU's memory for half as many rows.
                micro = case.micro // 2 if gpu and group != ["ours"] else case.micro
                with _contenders(replace(spec, micro=micro), group, folder / case.name) as running:
                    rows += [{"case": case.name} | row for row in _turns(running, turns)]
                    answers += [{"case": case.name, "contender": name} | running[name].next("ANSWER") for name in group]
    figures = _figures(rows, answers, names)
    if not gpu:
        # A turn is a single step here, and the two engines lie within a hundredth of each other.
        asked = {"turns": 3 * turns, "cases": [asdict(case) for case in ON_CPU]}
        engines = run_ranks("tests.benchmarks.train_parts.engines", 2, json.dumps(asked), timeout=3600)
        figures |= {
            "ratio_torch_deepspeed": _ratio(engines, "deepspeed", "tokens_per_s", "torch"),
            "ratio_torch_deepspeed_cpu_time": _ratio(engines, "deepspeed", "tokens_per_cpu_s", "torch"),
        }
        rows += engines
    return {"figures": figures, "rows": rows, "contenders": answers}


def _turns(running: Mapping[str, "_Contender"], turns: int) -> Iterator[dict[str, Any]]:
    """Round after round, with another first one every time: whoever comes after a slow one may find a warmer machine."""
    names = list(running)
    for turn in range(1 + turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = running[name].next("TURN")
            if turn:
                yield {"contender": name, "turn": turn} | taken


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
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in turns if row["case"] == turns[0]["case"]),
        "data_wait_fraction": statistics.median(row["data_wait_fraction"] for row in turns),
        "checkpoint_stall_fraction": max(answer["checkpoint_lost_s"] for answer in ours) / CADENCE_S,
        "peak_memory_gb": max(answer["peak_memory_gb"] for answer in ours),
    }
    if ours[0]["mfu"] is not None:
        figures["mfu"] = min(answer["mfu"] for answer in ours if answer["case"] != ON_GPU[0].name)
    for peer, figure in (("plain", "ratio_plain_loop"), ("trainer", "ratio_hf_trainer")):
        if peer in names:
            figures[figure] = _ratio(rows, peer, "tokens_per_s")
            figures[f"{figure}_cpu_time"] = _ratio(rows, peer, "tokens_per_cpu_s")
    return figures


def _ratio(rows: list[dict[str, Any]], peer: str, speed: str, ours: str = "ours") -> float:
    """Ours over a peer's speed: the median over turns, in the case where it is worse."""
    return min(statistics.median(_ratios(rows, peer, case, speed, ours)) for case in {row["case"] for row in rows})


def _ratios(rows: list[dict[str, Any]], peer: str, case: str, speed: str, ours: str) -> list[float]:
    speeds = {(row["contender"], row["turn"]): row[speed] for row in rows if row["case"] == case}
    return [value / speeds[peer, turn] for (name, turn), value in speeds.items() if name == ours]
