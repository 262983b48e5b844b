"""How a process group shares a model: which engine drives it, and the mesh its ranks form.

``deepspeed`` knows one line of ranks. ``torch`` (FSDP2) lays them out as ``replicate`` groups of ``shard`` ranks: weights
and moments are cut over the ranks of a group and equal in all groups, so that only gradient sums cross between groups.
Either way every rank takes rows of its own.

A mesh that does not fit is refused where the configuration is read, before any process starts.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.config import Config, Later


@dataclass(frozen=True)
class Mesh:
    """The ranks of a job, as the torch engine lays them out."""

    replicate: int
    shard: int

    def __str__(self) -> str:
        if self.replicate == 1:
            return f"{self.shard} shards"
        return f"{self.replicate} replicas × {self.shard} shards"


class ParallelConfig(Config):
    """Precision, sharding and memory of a process group."""

    engine: Annotated[Literal["deepspeed", "torch"], Later()] = "deepspeed"
    """Who shards the model: DeepSpeed's ZeRO, or torch's own FSDP2."""
    zero_stage: int = Field(default=1, ge=0, le=3)
    """ZeRO stage: 1 shards optimizer states, 2 gradients, 3 weights as well. 0 (no sharding) cannot change ranks."""
    replicate: Annotated[int, Later()] = Field(default=1, ge=1)
    """torch: groups of ranks that hold the whole model each, say one a machine."""
    shard: Annotated[int, Later()] = Field(default=0, ge=0)
    """torch: ranks that a model is cut over. 0: all there are, divided by ``replicate``."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights in forward and backward; master weights and moments are always fp32."""
    offload: bool = False
    """Keep optimizer states in the host's memory."""
    micro_batch: int = Field(default=8, ge=1)
    """Sequences a rank takes through one forward and backward pass."""
    activation_checkpointing: bool = False
    """Recompute a layer's activations in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the model with torch.compile."""

    @model_validator(mode="after")
    def _engine_has_it(self) -> "ParallelConfig":
        # DeepSpeed's bf16 without ZeRO sums gradients in bf16; stage 1 on one rank costs nothing more.
        if self.dtype == "bf16" and self.zero_stage == 0:
            raise ValueError("bf16 needs zero_stage 1, 2 or 3")
        if self.engine == "deepspeed" and (self.replicate, self.shard) != (1, 0):
            raise ValueError("replicate and shard form a mesh, which engine deepspeed does not know; take engine torch")
        if self.engine == "torch" and self.zero_stage == 0:
            raise ValueError("engine torch needs zero_stage 1, 2 or 3; to shard nothing take shard 1 and replicate")
        if self.engine == "torch" and self.offload:
            raise ValueError("engine torch does not offload; take engine deepspeed")
        return self

    def mesh(self, ranks: int) -> Mesh:
        """The mesh of so many ranks. Raises ValueError, with numbers that would fit, where they form none."""
        if self.engine == "deepspeed":
            return Mesh(1, ranks)
        if ranks % self.replicate == 0 and self.shard in (0, ranks // self.replicate):
            return Mesh(self.replicate, ranks // self.replicate)
        asked = f"replicate {self.replicate}" + (f" × shard {self.shard}" if self.shard else "")
        fitting = ", ".join(f"{n} × {ranks // n}" for n in range(1, ranks + 1) if ranks % n == 0)
        raise ValueError(f"a mesh of {asked} does not fit {ranks} ranks; replicate × shard may be {fitting}")

    @property
    def cut_while_built(self) -> bool:
        """Whether parameters are in pieces before the engine has the model."""
        return self.engine == "deepspeed" and self.zero_stage == 3
