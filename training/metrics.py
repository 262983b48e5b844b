"""What a step cost and what it reached: throughput, model FLOPs utilisation, and where the figures are written.

``data/metrics.jsonl`` has one line a step; TensorBoard and Weights & Biases get the same numbers where they are
installed and asked for.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from training.model import ModelConfig, parameter_count

PEAK_BF16_FLOPS = {
    # Dense bf16 with fp32 accumulation, as the makers state it. Matched against the device's name, in this order.
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989.5e12,
    "H100 PCIE": 756e12,
    "H100": 989.5e12,
    "H800": 989.5e12,
    "H20": 148e12,
    "GH200": 989.5e12,
    "A100": 312e12,
    "A800": 312e12,
    "MI300X": 1307e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
}


def peak_flops(device_name: str) -> float | None:
    """Peak bf16 FLOPs a second of a device by its name; None where it is not known (every CPU)."""
    name = device_name.upper().replace("-", " ")
    # "L4" is part of "L40S": the longest match wins.
    matches = [key for key in PEAK_BF16_FLOPS if key in name]
    return PEAK_BF16_FLOPS[max(matches, key=len)] if matches else None


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Forward and backward FLOPs of one token: 6 per weight that takes part in a matrix product, plus attention.

    The embedding look-up costs nothing; attention counts the full square of the sequence, as is the custom.
    """
    weights = parameter_count(config)
    if not config.tie_embeddings:
        weights -= config.vocab_size * config.hidden_size
    return 6.0 * weights + 12.0 * config.layers * config.heads * config.width_of_head * seq_len


def utilisation(config: ModelConfig, seq_len: int, tokens_per_second: float, ranks: int) -> float | None:
    """Model FLOPs utilisation of the whole group; None where the device's peak is not known."""
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return flops_per_token(config, seq_len) * tokens_per_second / (peak * ranks) if peak else None


def memory_gb() -> float:
    """Peak memory of this process's device, in GB (of the process itself on a CPU)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class MetricsLog:
    """One JSON line a step, and the same to TensorBoard and Weights & Biases where wanted. Rank 0 only."""

    def __init__(self, path: Path, *, tensorboard: Path | None, wandb_project: str, run: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a")
        self._board = _tensorboard(tensorboard)
        self._wandb = _wandb(wandb_project, run)

    def rewind(self, step: int) -> None:
        """Keep the lines of the first ``step`` steps: a resumed run takes the others again. A torn line goes, too."""
        self._stream.close()
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                continue
        beside = self.path.with_name(self.path.name + ".tmp")
        beside.write_text("".join(kept))
        os.replace(beside, self.path)
        self._stream = self.path.open("a")

    def write(self, step: int, figures: dict[str, Any]) -> None:
        self._stream.write(json.dumps({"step": step, **figures}) + "\n")
        self._stream.flush()
        numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        self._stream.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _tensorboard(folder: Path | None) -> Any:
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))  # type: ignore[no-untyped-call]


def _wandb(project: str, run: str) -> Any:
    if not project:
        return None
    import wandb

    return wandb.init(project=project, name=run, resume="allow", id=run)
