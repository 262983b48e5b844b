"""How a process group shares a model: which engine drives it, and the mesh its ranks form.

``deepspeed`` knows one line of ranks, each with rows of its own. ``torch`` (FSDP2) lays them out as
``pipeline`` × ``replicate`` × ``shard`` × ``context`` × ``tensor``, neighbours along the last:

    pipeline    stages (or several of them), each with some of the layers, through which micro batches follow each other
                (training.pipeline_parallel)
    replicate   groups that hold the whole model each; only gradient sums cross between them
    shard       weights and moments are cut over the ranks of a group, which take different rows
    context     ranks that share rows, each with a part of every sequence; weights are cut over them, too
                (training.context_parallel)
    tensor      ranks that take the same tokens and share the work on every matrix (training.tensor_parallel)

A mesh that does not fit is refused where the configuration is read, before any process starts.
"""

from dataclasses import dataclass, fields
from math import gcd, prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.config import Config, Later
from infra.errors import ConfigError

Checkpointing = Literal["none", "full", "selective"]
"""What of a layer's activations the backward pass computes again."""


@dataclass(frozen=True)
class Mesh:
    """The ranks of a job, as the torch engine lays them out."""

    replicate: int
    shard: int
    context: int = 1
    tensor: int = 1
    pipeline: int = 1

    def __str__(self) -> str:
        words = {"replicate": "replicas", "shard": "shards", "context": "parts of a sequence"}
        words |= {"tensor": "slices of a matrix", "pipeline": "stages"}
        shown = {words[axis]: size for axis, size in self.axes.items() if size > 1 or axis == "shard"}
        return " × ".join(f"{size} {word}" for word, size in shown.items())

    @property
    def axes(self) -> dict[str, int]:
        return {axis.name: getattr(self, axis.name) for axis in fields(self)}

    @property
    def size(self) -> int:
        return prod(self.axes.values())

    @property
    def row_shares(self) -> int:
        """Equal shares of a step's rows."""
        return self.replicate * self.shard

    def row_share(self, rank: int) -> int:
        """Which of them a rank takes."""
        return self.place(rank) // self.context

    def part(self, rank: int) -> int:
        """Which part of each sequence a rank takes."""
        return self.place(rank) % self.context

    @property
    def places(self) -> int:
        """Sets of ranks with tokens of their own."""
        return self.row_shares * self.context

    def place(self, rank: int) -> int:
        """In which of them a rank is."""
        return rank % (self.size // self.pipeline) // self.tensor

    def stage(self, rank: int) -> int:
        """Which stage's layers a rank has."""
        return rank // (self.size // self.pipeline)

    @property
    def copies(self) -> int:
        """How many ranks compute the same sums."""
        return self.tensor * self.pipeline


class MeshConfig(Config):
    """Which engine drives a process group, and how its ranks share the work."""

    engine: Annotated[Literal["deepspeed", "torch"], Later()] = "deepspeed"
    """Who shards the model: DeepSpeed's ZeRO, or torch's own FSDP2."""
    replicate: Annotated[int, Later()] = Field(default=1, ge=1)
    """torch: groups of ranks that hold the whole model each, say one a machine."""
    shard: Annotated[int, Later()] = Field(default=0, ge=0)
    """torch: ranks that a model is cut over. 0: all there are, divided by ``replicate``."""
    context: Annotated[int, Later()] = Field(default=1, ge=1)
    """torch: ranks that cut every sequence between them, for rows too long for one."""
    tensor: Annotated[int, Later()] = Field(default=1, ge=1)
    """torch: ranks that share the work on every matrix: heads, inner widths and the vocabulary are cut over them."""
    pipeline: Annotated[int, Later()] = Field(default=1, ge=1)
    """torch: stages of equally many layers, each on ranks of its own. A step needs as many micro batches or more."""
    expert: Annotated[int, Later()] = Field(default=1, ge=1)
    """Ranks that share out the experts of a layer: 1, for a layer here has none."""

    @model_validator(mode="after")
    def _has_no_experts(self) -> "MeshConfig":
        if self.expert > 1:
            raise ValueError(
                f"expert {self.expert} has no experts to share out: every layer is dense; it may be 1 only"
            )
        return self


class ParallelConfig(MeshConfig):
    """Precision, sharding and memory of a process group."""

    zero_stage: int = Field(default=1, ge=0, le=3)
    """ZeRO stage: 1 shards optimizer states, 2 gradients, 3 weights as well. 0 (no sharding) cannot change ranks."""
    virtual_stages: Annotated[int, Later()] = Field(default=1, ge=1)
    """torch: stages that each rank of a ``pipeline`` has. Several interleave: ranks wait less, and exchange more."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights in forward and backward; master weights and moments are always fp32."""
    float8: Annotated[bool, Later()] = False
    """Multiply the layers' matrices in float8, scaled by their largest entries; needs bf16 and a GPU that has it."""
    offload: bool = False
    """Keep optimizer states in the host's memory."""
    micro_batch: int = Field(default=8, ge=1)
    """Sequences a rank takes through one forward and backward pass."""
    activation_checkpointing: bool = False
    """Recompute a layer's activations in the backward pass instead of keeping them."""
    selective_checkpointing: Annotated[bool, Later()] = False
    """Recompute what is cheap in the backward pass; keep what matrix products and attention made."""
    compile: bool = False
    """Compile the model with torch.compile."""

    @model_validator(mode="after")
    def _engine_has_it(self) -> "ParallelConfig":
        # DeepSpeed's bf16 without ZeRO sums gradients in bf16; stage 1 on one rank costs nothing more.
        if self.dtype == "bf16" and self.zero_stage == 0:
            raise ValueError("bf16 needs zero_stage 1, 2 or 3")
        if self.float8 and (self.dtype != "bf16" or self.tensor > 1):
            raise ValueError("float8 needs dtype bf16, and whole matrices: tensor 1")
        if self.activation_checkpointing and self.selective_checkpointing:
            raise ValueError("activation_checkpointing and selective_checkpointing exclude each other")
        if self.virtual_stages > 1 and self.pipeline == 1:
            raise ValueError(f"virtual_stages {self.virtual_stages} needs a pipeline of 2 ranks or more")
        if self.engine == "deepspeed" and (self.replicate, self.shard, *self._inner.values()) != (1, 0, 1, 1, 1):
            raise ValueError(
                f"replicate, shard, {', '.join(self._inner)} form a mesh, which engine deepspeed does not know; "
                "take engine torch"
            )
        if self.engine == "torch" and self.zero_stage == 0:
            raise ValueError("engine torch needs zero_stage 1, 2 or 3; to shard nothing take shard 1 and replicate")
        if self.engine == "torch" and self.offload:
            raise ValueError("engine torch does not offload; take engine deepspeed")
        return self

    def mesh(self, ranks: int) -> Mesh:
        """The mesh of so many ranks. Raises ValueError, with numbers that would fit, where they form none."""
        if self.engine == "deepspeed":
            return Mesh(1, ranks)
        inner = {axis: size for axis, size in self._inner.items() if size > 1}
        outer, left = divmod(ranks, prod(inner.values()))
        if not left and outer % self.replicate == 0 and self.shard in (0, outer // self.replicate):
            return Mesh(self.replicate, outer // self.replicate, **inner)
        asked = {"replicate": self.replicate} | ({"shard": self.shard} if self.shard else {}) | inner
        if left:
            fitting = f"{' × '.join(inner)} may be {', '.join(map(str, divisors(ranks)))}"
        else:
            fitting = "replicate × shard may be " + ", ".join(f"{n} × {outer // n}" for n in divisors(outer))
        mesh = " × ".join(f"{axis} {size}" for axis, size in asked.items())
        raise ValueError(f"a mesh of {mesh} does not fit {ranks} ranks; {fitting}")

    def check_widths(self, **widths: int) -> None:
        """Raises ValueError, with numbers that would fit, where ``tensor`` does not divide all of these evenly."""
        for name, width in widths.items():
            if width % self.tensor:
                fitting = ", ".join(map(str, divisors(gcd(*widths.values()))))
                raise ValueError(f"tensor {self.tensor} does not divide {name} {width}; it may be {fitting}")

    def check_heads(self, heads: int, kv_heads: int) -> None:
        """Raises ValueError, with numbers that would fit, where attention cannot be shared out over ``context`` (what
        ``tensor`` leaves of it)."""
        heads, kv_heads = heads // self.tensor, kv_heads // self.tensor
        fitting = [n for n in divisors(heads) if kv_heads % n == 0 or n % kv_heads == 0]
        if self.context not in fitting:
            raise ValueError(
                f"context {self.context} cannot share out {heads} heads on {kv_heads} key/value heads; "
                f"it may be {', '.join(map(str, fitting))}"
            )

    def check_stages(self, layers: int, sequences: int) -> None:
        """Raises ValueError, with numbers that would fit, where ``pipeline`` cannot share out the layers, or a group of ranks
        has too few or unequal micro batches of so many ``sequences`` a step."""
        if layers % self.pipeline:
            fitting = ", ".join(map(str, divisors(layers)))
            raise ValueError(f"pipeline {self.pipeline} does not divide {layers} layers; it may be {fitting}")
        if layers // self.pipeline % self.virtual_stages:
            fitting = ", ".join(map(str, divisors(layers // self.pipeline)))
            raise ValueError(
                f"virtual_stages {self.virtual_stages} does not divide the {layers // self.pipeline} layers of a rank; "
                f"it may be {fitting}"
            )
        if self.pipeline > 1 and (sequences % self.micro_batch or not self._flows(sequences // self.micro_batch)):
            fitting = ", ".join(str(n) for n in divisors(sequences) if self._flows(sequences // n))
            rounds = " in equal rounds" if self.virtual_stages > 1 else ""
            raise ValueError(
                f"micro_batch {self.micro_batch} does not make {self.pipeline} or more equal micro batches{rounds} of the "
                f"{sequences} sequences that a stage takes in a step; it may be {fitting or 'none: take more sequences'}"
            )

    def _flows(self, micro_batches: int) -> bool:
        """Whether so many can go through the pipeline. Interleaved stages take them in rounds, each as large as the other, of
        as many as there are ranks or more."""
        rounds = micro_batches // self.pipeline
        return rounds > 0 and (self.virtual_stages == 1 or micro_batches % rounds == 0)

    def check_sequence(self, tokens: int) -> None:
        """Raises ConfigError where ``context`` does not cut a sequence into equal parts."""
        if tokens % self.context:
            raise ConfigError(
                f"context {self.context} does not cut sequences of {tokens} tokens into equal parts",
                where="parallel.context",
                remedy=f"Choose one of {', '.join(map(str, divisors(tokens)))}, or another seq_len of the shards.",
            )

    @property
    def _inner(self) -> dict[str, int]:
        return {"context": self.context, "tensor": self.tensor, "pipeline": self.pipeline}

    @property
    def checkpointing(self) -> Checkpointing:
        return "full" if self.activation_checkpointing else "selective" if self.selective_checkpointing else "none"

    @property
    def cut_while_built(self) -> bool:
        """Whether DeepSpeed gets its parameters in pieces, and gathers those of a module when that is called."""
        return self.engine == "deepspeed" and self.zero_stage == 3


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
