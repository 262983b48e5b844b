"""What a step cost and what it reached: throughput, model FLOPs utilisation, and where the figures are written.

``data/metrics.jsonl`` has one line a step; TensorBoard's event files and, where asked for, Weights & Biases get the same
numbers.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from infra.errors import ConfigError
from infra.store.files import replacing
from training.model import ModelConfig, parameter_count
from training.tensorboard import EventWriter

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


def utilisation(flops_per_token: float, tokens_per_second: float, ranks: int) -> float | None:
    """Model FLOPs utilisation of the whole group; None where the device's peak is not known."""
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return flops_per_token * tokens_per_second / (peak * ranks) if peak else None


def memory_gb() -> float:
    """Peak memory of this process's device, in GB (of the process itself on a CPU)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class MetricsLog:
    """One JSON line a step, and the same to TensorBoard and Weights & Biases. Rank 0 only.

    Lines of steps after ``step`` are dropped: a resumed run takes those steps again. So does one that goes back (``go_back``).
    """

    def __init__(
        self, path: Path, step: int, *, tensorboard: Path, wandb_project: str, wandb_folder: Path, run: str
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_steps(path, step)
        self._path, self._stream = path, path.open("a")
        self._board = EventWriter(tensorboard, step)
        self._wandb = _open_wandb(wandb_project, wandb_folder, run) if wandb_project else None

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """A line of figures; TensorBoard and Weights & Biases get those that are numbers."""
        self._stream.write(json.dumps({"step": step, **figures}) + "\n")
        self._stream.flush()
        numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        self._board.add(step, numbers)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def go_back(self, step: int) -> None:
        """Drop what was written of steps after this one: they are taken again, on other data."""
        self._stream.close()
        _keep_steps(self._path, step)
        self._stream = self._path.open("a")
        self._board.forget(step)

    def close(self) -> None:
        self._stream.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _keep_steps(path: Path, step: int) -> None:
    """Cut a log back to its first ``step`` steps; a line torn by a kill goes, too."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    with replacing(path) as beside:
        beside.write_text("".join(kept))


def require_wandb(project: str) -> None:
    """Refuse a project's name where the package is missing, before anything is built."""
    found = importlib.util.find_spec("wandb") if project else None
    # A folder of its runs is called wandb, too, and looks like a package without origin.
    if project and (found is None or found.origin is None):
        raise ConfigError(
            "Weights & Biases is not installed",
            where="wandb_project",
            remedy="Install it: pip install 'headwater[wandb]', or leave the setting empty.",
        )


def _open_wandb(project: str, folder: Path, run: str) -> Any:
    """The key comes from the environment (WANDB_API_KEY) or the user's netrc and is never ours to hold."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(console="off", disable_git=True, save_code=False, silent=True)
    try:
        return wandb.init(project=project, name=run, resume="allow", id=run, dir=str(folder), settings=settings)
    except wandb.Error as error:
        raise ConfigError(
            f"Weights & Biases does not take the run: {error}",
            where="wandb_project",
            remedy="Set WANDB_API_KEY, or WANDB_MODE=offline to write beside the logs, or leave the setting empty.",
        ) from error
