"""What a run says while it trains: events for the runner, a line of figures an iteration, and the summary at the end.

Rank 0 speaks; on the other ranks every method does nothing. Steps are counted from 1, as everywhere outside the engine.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.engine import StepResult
from training.job import Job
from training.metrics import MetricsLog, memory_gb, utilisation

INTERVAL_S = 1.0
METRICS = "data/metrics.jsonl"
BOARD = "data/tensorboard"
NAMES = 20
"""Documents that are named of the batch of a skipped step."""


@dataclass(frozen=True)
class IterationResult:
    """What came of an iteration."""

    result: StepResult
    """Of its last optimizer step."""
    tokens: float
    """Tokens that went forward and backward through the model, on all ranks together."""
    figures: Mapping[str, float] | None = None
    """What is written down of it; None: the step's mean losses."""


class Recorder:
    """What the loop tells the outside, called on all ranks. ``waited()``: seconds spent waiting for data so far."""

    def __init__(
        self, job: Job[Any], total: int, flops_per_token: float, waited: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.job, self.total, self.flops, self.waited = job, total, flops_per_token, waited
        self.log: MetricsLog | None = None
        self._reasons: list[str] = []
        self._open_window()

    def begin(self, done: int) -> None:
        """The run starts, or resumes behind ``done`` iterations."""
        if self.job.ranks.first:
            request = self.job.request
            self.log = MetricsLog(
                request.dataset_root / METRICS,
                done,
                tensorboard=request.dataset_root / BOARD,
                wandb_project=self.job.config.wandb_project,
                wandb_folder=request.work_dir,
                run=f"{request.stage}-{request.fingerprint}",
            )
        self._resume()

    def warning(self, message: str) -> None:
        self.job.notice(message)

    def skipped(self, result: StepResult, names: Sequence[str]) -> None:
        """Says why an update was not applied, and which documents its batch held."""
        self._reasons.append(result.skipped or "")
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        batch = f"; its batch held {', '.join(names[:NAMES])}{more}" if names else ""
        self.warning(f"step {result.step + 1} was not applied: {result.skipped}{batch}")

    def step(self, done: int, outcome: IterationResult, seconds: float) -> None:
        reasons, self._reasons = self._reasons, []
        if self.log is None:
            return
        result, tokens = outcome.result, outcome.tokens
        figures: dict[str, Any] = {
            **(result.losses if outcome.figures is None else outcome.figures),
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "tokens": int(tokens),
            **self._speed(tokens / seconds),
        }
        if reasons:
            figures["held"] = reasons[-1]
        self.log.write(done, figures)
        self._tokens += tokens
        elapsed = time.perf_counter() - self._opened
        if elapsed >= INTERVAL_S or done == self.total:
            figures |= self._speed(self._tokens / elapsed) | {
                "data_wait": round((self.waited() - self._waited) / elapsed, 4),
                "memory_gb": round(memory_gb(), 3),
            }
            self.job.progress(done, self.total, **figures)
            self._open_window()

    def went_back(self, done: int) -> None:
        """To behind this iteration: what follows it is made again."""
        if self.log is not None:
            self.log.go_back(done)

    def measuring(self) -> None:
        self.job.phase("validation")

    def measured(self, done: int, figures: Mapping[str, float]) -> None:
        if figures:
            if self.log is not None:
                self.log.write(done, dict(figures))
            self.job.emit("validation", step=done, **figures)
        self._resume()

    def close(self) -> list[str]:
        """The files written, below the dataset's root."""
        if self.log is None:
            return []
        self.log.close()
        board = self.job.request.dataset_root / BOARD
        return [METRICS, *(f"{BOARD}/{path.name}" for path in sorted(board.glob("*")))]

    def summary(self) -> dict[str, Any]:
        """Figures for the manifest, once the log is closed."""
        if self.log is None:
            return {}
        lines = map(json.loads, (self.job.request.dataset_root / METRICS).read_text().splitlines())
        applied = [line for line in lines if "tokens" in line and "held" not in line]
        losses = [line["loss"] for line in applied if "loss" in line]
        tail = losses[-max(1, len(losses) // 20) :]
        return {
            "tokens": sum(line["tokens"] for line in applied),
            "loss_first": losses[0] if losses else None,
            "loss_last": sum(tail) / len(tail) if tail else None,
            "ranks": self.job.ranks.world_size,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "peak_memory_gb": round(memory_gb(), 3),
        }

    def _speed(self, tokens_per_s: float) -> dict[str, float | None]:
        mfu = utilisation(self.flops, tokens_per_s, self.job.ranks.world_size)
        return {"tokens_per_s": round(tokens_per_s, 1), "mfu": mfu}

    def _resume(self) -> None:
        self.job.phase("training")
        self._opened = time.perf_counter()

    def _open_window(self) -> None:
        self._opened, self._tokens, self._waited = time.perf_counter(), 0.0, self.waited()
