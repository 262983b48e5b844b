"""``headwater bench train``: ours, a plain PyTorch loop and Hugging Face's Trainer on the same model, batches and data.

Contenders run in turn, each in a process of its own, for several rounds: a round's ratio compares runs that saw the same
state of the machine, and the figure is the median over rounds (of both precisions on a CPU, the worse one).

On a CPU the model is that of the demo; on a GPU one of 350 million parameters in bf16, where ``mfu`` is added.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
"""Checkpoints a minute, for the fraction of time they cost."""


def run(rounds: int = 3, steps: int = 10, threads: int = 0, skip_peers: bool = False) -> dict[str, Any]:
    """``steps`` timed steps a run; ``threads`` 0 means every core."""
    gpu = torch.cuda.is_available()
    names = ["ours"] if skip_peers else ["ours", "plain", "trainer"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        folder = Path(name)
        seq_len = 2048 if gpu else 256
        inputs = build_inputs(
            folder / "inputs", web=20_000 if gpu else 1500, code=5000 if gpu else 400, seq_len=seq_len
        )
        for dtype in ["bf16"] if gpu else ["bf16", "fp32"]:
            for number in range(rounds):
                spec = Spec(
                    inputs={role: str(dataset.root) for role, dataset in inputs.items()},
                    model=LARGE if gpu else SMALL,
                    dtype=dtype,
                    batch=64 if gpu else 16,
                    micro=16 if gpu else 8,
                    steps=steps,
                    warmup=3,
                    threads=threads or os.cpu_count() or 1,
                    compile=gpu,
                    folder="",
                )
                # Another first one every round: whoever runs first may find a cooler, or a busier, machine.
                for contender in names[number % len(names) :] + names[: number % len(names)]:
                    place = folder / f"{dtype}-{number}-{contender}"
                    rows.append(
                        {"contender": contender, "dtype": dtype, "round": number} | _measure(spec, contender, place)
                    )
    return {"figures": _figures(rows, names), "rows": rows}


def _measure(spec: Spec, contender: str, place: Path) -> dict[str, Any]:
    place.mkdir()
    path = place / "spec.json"
    path.write_text(json.dumps(asdict(spec) | {"folder": str(place)}))
    command = [sys.executable, "-m", "tests.benchmarks.train_parts.contenders", contender, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(spec.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    if not answers:
        raise RuntimeError(f"{contender} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(answers[-1].removeprefix("ANSWER "))
    return answer


def _figures(rows: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    ours = [row for row in rows if row["contender"] == "ours"]
    figures = {
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in ours if row["dtype"] == "bf16"),
        "data_wait_fraction": statistics.median(row["data_wait_fraction"] for row in ours),
        "checkpoint_stall_fraction": statistics.median(row["checkpoint_lost_s"] for row in ours) / CADENCE_S,
        "peak_memory_gb": max(row["peak_memory_gb"] for row in ours),
    }
    if ours[0]["mfu"] is not None:
        figures["mfu"] = statistics.median(row["mfu"] for row in ours)
    for peer, figure in (("plain", "ratio_plain_loop"), ("trainer", "ratio_hf_trainer")):
        if peer in names:
            figures[figure] = _ratio(rows, peer, "tokens_per_s")
            figures[f"{figure}_cpu_time"] = _ratio(rows, peer, "tokens_per_cpu_s")
    return figures


def _ratio(rows: list[dict[str, Any]], peer: str, speed: str) -> float:
    """Ours over a peer's speed: the median over rounds, in the precision where it is worse."""
    return min(statistics.median(_ratios(rows, peer, dtype, speed)) for dtype in {row["dtype"] for row in rows})


def _ratios(rows: list[dict[str, Any]], peer: str, dtype: str, speed: str) -> list[float]:
    speeds = {(row["contender"], row["round"]): row[speed] for row in rows if row["dtype"] == dtype}
    return [value / speeds[peer, number] for (name, number), value in speeds.items() if name == "ours"]
