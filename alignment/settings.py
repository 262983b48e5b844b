"""What every alignment stage can be told."""

from typing import Annotated, Literal

from pydantic import Field

from infra.config import Config, Execution
from infra.launch.spec import JobSpec
from training.engine import ParallelConfig
from training.optimizer import OptimizerConfig
from training.schedule import ScheduleConfig


class JobConfig(Config):
    """The process group of a stage.

    The numbers of ranks and threads are part of the identity: sums taken in another order differ in their last bits.
    """

    ranks: int = Field(default=2, ge=1)
    """Processes, one a device."""
    threads_per_rank: int = Field(default=1, ge=1)
    """CPU threads of each process."""
    time_limit_s: Annotated[int | None, Execution()] = Field(default=None, ge=1)
    """Wall-clock limit of one attempt, in seconds; none by default."""
    seed: int = 0
    """Decides order, sampling and fresh weights."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights in forward and backward; master weights are always fp32."""

    base_model: str = ""
    """A model folder from elsewhere to start from, instead of the model of the stage before: a path to safetensors with
    tokenizer and chat template, which the data is then written in. Empty: the stage before."""

    def starts_from(self, stage: str) -> dict[str, str]:
        """The input that brings the model, as role and stage name."""
        return {} if self.base_model else {stage: stage}

    def job_spec(self, module: str) -> JobSpec:
        return JobSpec(module, self.ranks, threads_per_rank=self.threads_per_rank, time_limit_s=self.time_limit_s)


class TrainingConfig(JobConfig):
    """A stage that updates weights."""

    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate. Small models want rates 10 to 50 times those of a 7B model."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the rate rises."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Lowest rate as a fraction of the peak; a cosine leads there."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of weight matrices."""
    clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0: no clipping."""
    batch_size: int = Field(default=32, ge=1)
    """Rows, pairs or prompts of one step, over all ranks."""
    micro_batch: int = Field(default=16, ge=1)
    """Rows a rank takes through one forward and backward pass."""
    zero_stage: int = Field(default=1, ge=0, le=3)
    """ZeRO stage of the optimizer."""
    publish: Literal["last", "best"] = "last"
    """The model of the last step, or of the step whose held-out figure was best of those measured."""
    checkpoint_every: Annotated[int, Execution()] = Field(default=50, ge=1)
    """Steps between checkpoints."""

    def optimizer(self, total_steps: int, lr: float | None = None) -> OptimizerConfig:
        warmup = round(self.warmup_fraction * total_steps)
        return OptimizerConfig(
            lr=lr or self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
            schedule=ScheduleConfig(shape="cosine", warmup_steps=warmup, min_lr_ratio=self.min_lr_ratio),
        )

    def parallel(self) -> ParallelConfig:
        return ParallelConfig(zero_stage=self.zero_stage, dtype=self.dtype, micro_batch=self.micro_batch)


class SpeakingConfig(TrainingConfig):
    """A stage whose model is also measured by what it says."""

    generation_prompts: int = Field(default=64, ge=0)
    """Held-out prompts that the model answers before and after, to see whether its replies end, how long they are and
    how much they repeat themselves; 0: none."""
    generation_tokens: int = Field(default=128, ge=4)
    """Longest of these replies, at most half of the model's positions."""
