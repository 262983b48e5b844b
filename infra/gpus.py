"""This machine's GPUs as their driver tells of them, without torch: for the doctor, and before a process group starts on them."""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.version import Version

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobSpec
from infra.launch.torchrun import has_gpu

Device = Literal["auto", "cpu"]
NUMBER = re.compile(r"\d+(\.\d+)?")
FLOAT8 = 8.9
"""The first compute capability that multiplies in float8."""


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: float


def nvidia_gpus() -> list[Gpu]:
    """All of them; none where there is no nvidia-smi to ask."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode != 0:
        raise HeadwaterError(
            f"nvidia-smi fails: {result.stdout.strip() or result.stderr.strip()}", remedy="Mend the NVIDIA driver."
        )
    rows = [line.rpartition(",") for line in result.stdout.splitlines() if line.strip()]
    # Of some cards a driver says [N/A]: what they can do the ranks find out.
    return [
        Gpu(name.strip(), float(known) if NUMBER.fullmatch(known := told.strip()) else math.inf)
        for name, _, told in rows
    ]


def torch_for_cpu() -> bool:
    """Whether the torch that is installed was built for the CPU."""
    return Version(metadata.version("torch")).local == "cpu"


def check_gpus(spec: JobSpec, device: Device = "auto") -> None:
    """Raises ConfigError where ranks on this machine would not have a GPU each, or not what they want of it. What nobody can tell
    here (GPUs of other makes) the ranks find out."""
    there = device == "auto" and has_gpu() and not torch_for_cpu()
    gpus = nvidia_gpus() if there else []
    if there and not gpus:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = len(gpus) if visible is None else len(visible.split(","))
    if gpus and spec.ranks > number:
        raise ConfigError(
            f"{spec.module} starts {spec.ranks} ranks, a GPU each, and this machine has {number} ({gpus[0].name})",
            where="ranks",
            remedy=f"Set ranks to {number} or fewer, execution.device to cpu, or choose a launcher of a cluster.",
        )
    if spec.float8:
        check_float8(gpus)


def check_float8(gpus: Sequence[Gpu]) -> None:
    """Raises ConfigError unless all of them, and one at least, multiply in float8."""
    lacking = next((gpu.name for gpu in gpus if gpu.capability < FLOAT8), None if gpus else "a CPU")
    if lacking:
        raise ConfigError(
            f"this machine does not multiply in float8: it has {lacking}, not a GPU of compute capability {FLOAT8} or later",
            where="parallel.float8",
            remedy="Leave float8 out, or train on L40S, RTX 4090, H100, H200 or B200.",
        )
