"""``headwater bench loss``: memory and time of the chunked cross-entropy against plain logits.

Forward and backward of one loss over ``tokens`` positions, each contender in a process of its own, in turns: peak
memory above what the inputs and their gradients take, and time. A round's ratio compares two runs that saw the same state
of the machine; the figure is the median. On a GPU memory is the allocator's, in bf16; on a CPU it is the process's own
peak, in float32 on one thread, and time is processor time, which a busy machine changes little.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.loss import chunked_cross_entropy

CONTENDERS = ("plain", "chunked")


def run(tokens: int = 2048, vocabulary: int = 32768, hidden: int = 512, rounds: int = 2) -> dict[str, Any]:
    """``figures``: peak memory of each in MB, and plain over chunked in memory and in time."""
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        for name in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
            command = [sys.executable, "-m", "tests.benchmarks.loss", name, *map(str, (tokens, vocabulary, hidden))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"contender": name, "round": number, **json.loads(done.stdout.splitlines()[-1])})
    plain, chunked = ([row for row in rows if row["contender"] == name] for name in CONTENDERS)

    def ratio(figure: str) -> float:
        pairs = zip(sorted(plain, key=_round), sorted(chunked, key=_round), strict=True)
        return float(round(statistics.median(left[figure] / right[figure] for left, right in pairs), 2))

    figures = {
        "plain_mb": statistics.median(row["mb"] for row in plain),
        "chunked_mb": statistics.median(row["mb"] for row in chunked),
        "memory_ratio": ratio("mb"),
        "speed_ratio": ratio("seconds"),
    }
    return {"figures": figures, "rows": rows}


def _round(row: dict[str, Any]) -> int:
    return int(row["round"])


def plain_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, weight).float(), targets, reduction="sum")


def measure(name: str, tokens: int, vocabulary: int, hidden: int, repeats: int = 3) -> dict[str, float]:
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    clock = time.perf_counter if gpu else time.process_time
    torch.manual_seed(0)
    torch.set_num_threads(1)
    states = torch.randn(tokens, hidden, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, hidden, device=device, dtype=dtype).mul_(0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=device)
    states.grad, weight.grad = torch.zeros_like(states), torch.zeros_like(weight)
    before = _memory(gpu)
    best = float("inf")
    for _ in range(repeats):
        started = clock()
        if name == "plain":
            plain_cross_entropy(states, weight, targets).backward()
        else:
            chunked_cross_entropy(states, weight, targets)[0].backward()
        if gpu:
            torch.cuda.synchronize()
        best = min(best, clock() - started)
    return {"mb": round((_memory(gpu) - before) / 1e6, 1), "seconds": round(best, 4)}


def _memory(gpu: bool) -> float:
    """Peak so far, in bytes."""
    return torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:5]))))
