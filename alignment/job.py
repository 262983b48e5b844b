"""The jobs of alignment: those that start from a model and write in its tokenizer (``training.job`` is the frame).

* ``ModelJobConfig``: the process group and the model to start from (preference pairs);
* ``TuningConfig``: those that update its weights (PPO);
* ``SupervisedConfig``: those that go through examples a number of times (reward model);
* ``AnsweringConfig``: those whose model also answers prompts before and after (fine-tuning, DPO).
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from alignment.conversations import check_special_tokens, stop_ids
from alignment.template_chat import AnyTokenizer, FolderTokenizer, chat_tokenizer
from infra.config import Execution
from infra.errors import ConfigError
from infra.store.files import sha256_file
from training.hub_format import DTYPES, load_config, load_model, open_weights
from training.job import Job, JobConfig, TrainingJobConfig, run_job
from training.model import Decoder, ModelConfig, check_shape
from training.optimizer import OptimizerConfig
from training.parallel import MeshConfig, ParallelConfig
from training.schedule import ScheduleConfig


def _one_is_a_list(value: Any) -> Any:
    return ((value,) if value else ()) if isinstance(value, str) else value or ()


Addresses = Annotated[tuple[str, ...], BeforeValidator(_one_is_a_list)]
"""Where data lies; one address may be written without a list."""


class ModelJobConfig(JobConfig):
    """A stage that starts from a model."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights in forward and backward; master weights are always fp32."""
    base_model: str = ""
    """A model folder from elsewhere to start from, instead of the model of the stage before: a path to safetensors with
    tokenizer and chat template, which the data is then written in. Empty: the stage before."""

    def starts_from(self, stage: str) -> dict[str, str]:
        """The input that brings the model, as role and stage name."""
        return {} if self.base_model else {stage: stage}


class TuningConfig(ModelJobConfig, TrainingJobConfig, MeshConfig):
    """A stage that updates a model's weights."""

    axes: ClassVar[tuple[str, ...]] = ("replicate", "shard", "tensor")
    """Along which of the mesh its ranks may be laid out."""
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
    validate_every: int = Field(default=50, ge=1)
    """Steps between measurements on held-out examples; ``publish: best`` chooses among them."""
    checkpoint_every: Annotated[int, Execution()] = Field(default=50, ge=1)
    """Steps between checkpoints."""

    def optimizer(self, total_steps: int) -> OptimizerConfig:
        """AdamW under a cosine, with the warm-up in steps of so many."""
        warmup = round(self.warmup_fraction * total_steps)
        return OptimizerConfig(
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
            schedule=ScheduleConfig(shape="cosine", warmup_steps=warmup, min_lr_ratio=self.min_lr_ratio),
        )

    def parallel(self) -> ParallelConfig:
        return ParallelConfig.model_validate(self.model_dump(include=set(ParallelConfig.model_fields)))

    @model_validator(mode="after")
    def _mesh_fits(self) -> "TuningConfig":
        try:
            mesh = self.parallel().mesh(self.processes)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        for axis, size in mesh.axes.items():
            if size > 1 and axis not in self.axes:
                raise ValueError(f"{axis} {size}: the ranks of this stage form a mesh of {', '.join(self.axes)} only")
        return self

    def check_model(self, shape: ModelConfig) -> None:
        """Raises ConfigError, with numbers that would fit, where the ranks cannot share out a model of this shape."""
        parallel = self.parallel()
        try:
            check_shape(shape, parallel, self.batch_size // parallel.mesh(self.processes).row_shares)
            parallel.check_widths(vocabulary=shape.vocab_size)
        except ValueError as error:
            remedy = "Take one of these, or start from a model of another shape."
            raise ConfigError(str(error), where="parallel axes", remedy=remedy) from None


class SupervisedConfig(TuningConfig):
    """A stage that goes through examples a number of times."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the examples; the last batch holds what is left."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps even if an epoch is not over."""


class AnsweringConfig(SupervisedConfig):
    """A stage whose model is also measured by what it says."""

    generation_prompts: int = Field(default=64, ge=0)
    """Held-out prompts that the model answers before and after, to see whether its replies end, how long they are and
    how much they repeat themselves; 0: none."""
    generation_tokens: int = Field(default=128, ge=4)
    """Longest of these replies, at most half of the model's positions."""


Settings = TypeVar("Settings", bound=ModelJobConfig)


class ModelJob(Job[Settings]):
    """One rank of a stage that starts from a model."""

    @property
    def model_folder(self) -> Path:
        """The model that the stage starts from; its tokenizer is the one all text is written in."""
        if self.config.base_model:
            return Path(self.config.base_model)
        return self.data("sft" if "sft" in self.request.inputs else "pretrain") / "model"

    @property
    def position_limit(self) -> int:
        """The longest sequence, in tokens, that the model takes."""
        return load_config(self.model_folder).max_position

    def base_model(self, frozen: bool = False) -> Decoder:
        """The model that the stage starts from, for an engine to read and train further, or ``frozen`` to be asked only."""
        dtype = DTYPES[self.config.dtype]
        if not frozen:
            return open_weights(self.model_folder, dtype).deferred()
        return load_model(self.model_folder, dtype, self.ranks.device).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> AnyTokenizer:
        """Raises InputError for one that pads with the token that ends a turn."""
        tokenizer = chat_tokenizer(self.model_folder)
        # What pads is known from lengths; a model from elsewhere may share an id.
        if not isinstance(tokenizer, FolderTokenizer):
            check_special_tokens(tokenizer)
        return tokenizer

    @property
    def tokenizer_digest(self) -> str:
        """Of the model folder's tokenizer: what stored tokens belong to."""
        return sha256_file(self.model_folder / "tokenizer.json")

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply."""
        return tuple(stop_ids(self.tokenizer))


def run_model_job(work: Callable[[ModelJob[Settings]], None], config: type[Settings]) -> None:
    """The main of a stage that starts from a model."""
    run_job(work, config, ModelJob)
