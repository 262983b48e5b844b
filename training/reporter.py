"""What a run says while it trains: events for the runner, a line of figures a step, and the summary at the end.

Rank 0 speaks; on the other ranks every method does nothing. Steps are counted from 1, as everywhere outside the engine.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infra.job import JobRequest, emit
from training.engine import Ranks, StepResult
from training.metrics import MetricsLog, memory_gb, utilisation
from training.model import ModelConfig, parameter_count

INTERVAL_S = 1.0
METRICS = "data/metrics.jsonl"
BOARD = "data/tensorboard"


class Reporter:
    def __init__(self, request: JobRequest, ranks: Ranks, shape: ModelConfig, seq_len: int, wandb: str) -> None:
        self.request, self.ranks, self.shape, self.seq_len, self.wandb = request, ranks, shape, seq_len, wandb
        self.log: MetricsLog | None = None
        self.validation_figures: dict[str, float] = {}
        self._open_window(0.0)

    def begin(self, step: int) -> None:
        """The run starts, or resumes behind ``step`` steps."""
        if self.ranks.first:
            root = self.request.dataset_root
            self.log = MetricsLog(
                root / METRICS,
                step,
                tensorboard=root / BOARD,
                wandb_project=self.wandb,
                wandb_folder=self.request.work_dir,
                run=f"{self.request.stage}-{self.request.fingerprint}",
            )
        self.phase("training")

    def emit(self, kind: str, **fields: Any) -> None:
        if self.ranks.first:
            emit(self.request, kind, **fields)

    def phase(self, name: str) -> None:
        self.emit("phase", name=name)
        self._opened = time.perf_counter()

    def warning(self, message: str) -> None:
        self.emit("warning", message=message)

    def step(self, result: StepResult, seconds: float, waited: float, total: int) -> None:
        """After each step: ``waited`` is the loader's running total."""
        if self.log is None:
            return
        speed = result.weight / seconds
        figures: dict[str, Any] = {
            "loss": result.loss,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "tokens": int(result.weight),
            "tokens_per_s": round(speed, 1),
            "mfu": utilisation(self.shape, self.seq_len, speed, self.ranks.world_size),
        }
        if result.skipped:
            figures["held"] = result.skipped
        done = result.step + 1
        self.log.write(done, figures)
        self._tokens += result.weight
        elapsed = time.perf_counter() - self._opened
        if elapsed >= INTERVAL_S or done == total:
            speed = self._tokens / elapsed
            figures |= {
                "tokens_per_s": round(speed, 1),
                "mfu": utilisation(self.shape, self.seq_len, speed, self.ranks.world_size),
                "data_wait": round((waited - self._waited) / elapsed, 4),
                "memory_gb": round(memory_gb(), 3),
            }
            self.emit("progress", done=done, total=total, **figures)
            self._open_window(waited)

    def validation(self, step: int, bits_per_byte: Mapping[str, float]) -> None:
        self.validation_figures = dict(bits_per_byte)
        figures = {f"bits_per_byte/{name}": value for name, value in bits_per_byte.items()}
        if self.log is not None:
            self.log.write(step, figures)
        self.emit("validation", step=step, **figures)

    def close(self) -> list[str]:
        """The files written, below the dataset's root."""
        if self.log is None:
            return []
        self.log.close()
        board = self.request.dataset_root / BOARD
        return [METRICS, *(f"{BOARD}/{path.name}" for path in sorted(board.glob("*")))]

    def summary(self) -> dict[str, Any]:
        """Figures for the manifest."""
        lines = read_metrics(self.request.dataset_root / METRICS)
        applied = [line for line in lines if "loss" in line and "held" not in line]
        tail = applied[-max(1, len(applied) // 20) :]
        return {
            "parameters": parameter_count(self.shape),
            "tokens": sum(line["tokens"] for line in applied),
            "loss_first": applied[0]["loss"] if applied else None,
            "loss_last": sum(line["loss"] for line in tail) / len(tail) if tail else None,
            "bits_per_byte": self.validation_figures,
            "ranks": self.ranks.world_size,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "peak_memory_gb": round(memory_gb(), 3),
        }

    def _open_window(self, waited: float) -> None:
        self._opened, self._tokens, self._waited = time.perf_counter(), 0.0, waited


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]
