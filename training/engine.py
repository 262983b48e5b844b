"""A thin layer on DeepSpeed or FSDP2 (``training.create_engine`` puts a model there): one exact optimizer step.

The step's rule, on which every loss in training and alignment relies: a micro batch contributes a *sum* of losses, and
the sum over all micro batches of all ranks is divided once by the global weight (usually the number of target
tokens). Accumulating k micro batches, one big batch, or two ranks therefore give the same gradient.

    engine = create_engine(model, optimizer, parallel, total_steps=1000)
    result = engine.train_step(batches, losses=lambda model, batch: {"loss": nll_sum}, weight=lambda batch: tokens)

``losses`` runs inside a forward pass that the sharding watches, so it may use any parameter outside the blocks directly
(the output matrix of a chunked cross-entropy, say) even where it is kept in pieces.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.context_parallel import Context
from training.optimizer import OptimizerConfig, SkippingOptimizer
from training.parallel import Mesh, ParallelConfig
from training.ranks import Ranks
from training.schedule import learning_rate_factor

Batch = TypeVar("Batch")
Losses = Callable[[Any, Batch], dict[str, Tensor]]
Read = Callable[[str], Tensor]
"""A weight by its name."""
Veto = Callable[[float, float], str | None]
"""(mean loss, gradient norm) -> why the update must not be applied, or None. Called with equal values on all ranks."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: means over the global weight, equal on all ranks."""

    step: int
    losses: dict[str, float]
    weight: float
    grad_norm: float
    lr: float
    skipped: str | None
    """Why the update was not applied; None: it was."""

    @property
    def loss(self) -> float:
        return self.losses["loss"]


@dataclass
class Engine:
    """A model under DeepSpeed or FSDP (``runtime``).

    ``step`` counts optimizer steps, applied or skipped; ``skipped_steps`` those skipped.
    """

    model: nn.Module
    runtime: Any
    torch_optimizer: SkippingOptimizer
    optimizer: OptimizerConfig
    parallel: ParallelConfig
    ranks: Ranks
    total_steps: int
    step: int = 0
    skipped_steps: int = 0
    veto: Veto | None = None
    context: Context | None = None
    """The ranks that share this one's sequences; what differentiates a part of one hands it to the model."""
    pipeline: Any = None
    """The stages of which this rank has some (``training.pipeline_parallel``). Losses are then functions of a decoder and a
    ``MicroBatch``, and of all they return ``"loss"`` alone is reported."""
    _norm: float | None = field(default=None, repr=False)
    blank: nn.Module | None = field(default=None, repr=False)
    """torch: the model without weights and without hooks, where no rank has it whole and alone (see ``gathered``). FSDP's own
    modules note every forward, and would take them all back in the next backward pass, on each rank another number."""
    _alone: nn.Module | None = field(default=None, repr=False)

    @property
    def mesh(self) -> Mesh:
        return self.parallel.mesh(self.ranks.world_size)

    @property
    def precision(self) -> torch.dtype:
        """Of the forward pass's weights."""
        return torch.bfloat16 if self.parallel.dtype == "bf16" else torch.float32

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(model, *arguments)`` with every parameter at hand, whatever the ZeRO stage."""
        return self.runtime(function, *arguments)

    @torch.no_grad()
    def evaluate(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As ``forward``, without gradients and in evaluation mode. Where the weights are in pieces every layer is an exchange
        between the ranks: all must do the same, unless the weights are ``gathered``."""
        training = self.model.training
        self.runtime.eval()
        try:
            if self._alone is not None:
                return function(self._alone, *arguments)
            if self.pipeline is not None:
                return self.pipeline.evaluate(function, *arguments)
            return self.runtime(function, *arguments)
        finally:
            self.runtime.train(training)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within, every rank evaluates what it likes, as often as it likes: replies of unlike length, unequal shares.
        Collective; where the weights are in pieces each rank holds the whole model for as long."""
        if self._alone is not None or (self.parallel.zero_stage < 3 and self.blank is None):
            yield
            return
        with self._all_weights() as self._alone:
            try:
                yield
            finally:
                self._alone = None

    @contextlib.contextmanager
    def _all_weights(self) -> Iterator[nn.Module]:
        if self.blank is not None:
            self.blank.load_state_dict({name: self.weight(name) for name in self.blank.state_dict()}, assign=True)
            yield self.blank.eval()
            self.blank.to("meta")
        else:
            from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

            with unwrap_model_for_generation(self.runtime):
                yield self.model

    def train_step(
        self,
        batches: Sequence[Batch],
        losses: Losses[Batch],
        weight: Callable[[Batch], float],
    ) -> StepResult:
        """Accumulate ``batches`` and update once. Every rank must bring the same number of them.

        ``losses(model, batch)`` returns sums; ``"loss"`` is differentiated, the others are reported. ``weight(batch)``
        is what the sums are divided by; a batch may have weight 0. Everything is divided by the global weight.
        """
        (total,) = self._sum_over_ranks([math.fsum(weight(batch) for batch in batches)])
        # Both engines average gradients over ranks; we want their sum, divided by the global weight.
        scale = self.ranks.world_size / self.mesh.copies / total if total else 0.0
        run = self._accumulate if self.pipeline is None else self.pipeline.accumulate
        sums = run(batches, losses, scale)
        values = self._sum_over_ranks(list(sums.values()))
        means = {name: value / total if total else 0.0 for name, value in zip(sums, values, strict=True)}
        return self._update(means, total)

    def _accumulate(self, batches: Sequence[Batch], losses: Losses[Batch], scale: float) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            self.runtime.set_gradient_accumulation_boundary(index == len(batches) - 1)
            parts = self.runtime(losses, batch)
            self.runtime.backward(parts["loss"] * scale)
            for name, value in parts.items():
                sums[name] = sums.get(name, zero) + value.detach().double()
        return sums

    def total(self, values: Tensor) -> Tensor:
        """The sum, in place, of what each share of the rows comes to: ranks that compute the same count once."""
        dist.all_reduce(values)
        return values.div_(self.mesh.copies)

    def any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank: how ranks agree to stop."""
        return self._sum_over_ranks([float(flag)])[0] > 0

    def shapes(self) -> dict[str, torch.Size]:
        """Of all weights, those on other ranks, too."""
        model = self.model if self.blank is None else self.blank
        return {name: getattr(weight, "ds_shape", weight.shape) for name, weight in model.named_parameters()}

    @torch.no_grad()
    def weight(self, name: str) -> Tensor:
        """A copy of one weight in full, in the precision of the forward pass, on every rank. Collective."""
        if self.parallel.engine == "deepspeed":
            with self._in_full(weight := self.model.get_parameter(name)):
                return weight.detach().clone()
        if self.pipeline is None or f"model.{name}" in self.runtime.weights:
            found: Tensor = self.runtime.weight(f"model.{name}", self.precision)
        else:
            found = torch.empty(self.shapes()[name], dtype=self.precision, device=self.ranks.device)
        return found if self.pipeline is None else self.pipeline.spread(f"model.{name}", found)

    def read_weights(self, use: Callable[[Read], None]) -> None:
        """Let the first rank use the model's weights: it reads what it needs by name, and each rank holds no more than the one
        that is read. Collective."""
        if not self.ranks.first:
            while (name := _told_by_first(None)) is not None:
                self.weight(name)
            return
        try:
            use(lambda name: self.weight(_told_by_first(name)))
        finally:
            _told_by_first(None)

    @torch.no_grad()
    def put_weights(self, read: Read) -> None:
        """Replace the model's weights, to measure and publish them; every rank reads one at a time. Collective; the optimizer
        learns nothing of it."""
        if self.parallel.engine == "torch":
            self.runtime.put(lambda name: read(name.removeprefix("model.")))
            return
        for name, weight in self.model.named_parameters():
            with self._in_full(weight, modifier_rank=0):
                weight.copy_(read(name))

    def _in_full(self, weight: nn.Parameter, **how: int) -> contextlib.AbstractContextManager[None]:
        """Within, a weight of DeepSpeed's is whole."""
        from deepspeed import zero

        whole: contextlib.AbstractContextManager[None] = zero.GatheredParameters(
            [weight], enabled=self.parallel.zero_stage == 3, **how
        )
        return whole

    def grad_norm(self) -> float:
        """Global norm of the gradient before clipping, as of the last update."""
        return self._norm if self._norm is not None else float(self.runtime.optimizer._global_grad_norm)

    def _update(self, means: dict[str, float], weight: float) -> StepResult:
        factor = learning_rate_factor(self.optimizer.schedule, self.step, self.total_steps)
        for group in self.torch_optimizer.param_groups:
            group["lr"] = self.optimizer.lr * factor * group["lr_scale"]
        if self.parallel.engine == "torch":
            self._norm = self.runtime.clip(self.optimizer.clip)
        elif self.parallel.zero_stage == 0:  # plain data parallelism: norm and clipping are ours, not DeepSpeed's
            self._norm = _clip(self.model, self.optimizer.clip)
        gate = _Gate(lambda: self._judge(means["loss"], self.grad_norm(), weight))
        self.torch_optimizer.skip = gate
        try:
            self.runtime.step()
        finally:
            self.torch_optimizer.skip = None
        # Never asked: DeepSpeed met a gradient that is not finite and skipped the update itself.
        norm = self.grad_norm() if gate.asked else math.inf
        skipped = gate.verdict if gate.asked else self._judge(means["loss"], norm, weight)
        result = StepResult(self.step, means, weight, norm, self.optimizer.lr * factor, skipped)
        self.skipped_steps += skipped is not None
        self.step += 1
        return result

    def _judge(self, loss: float, norm: float, weight: float) -> str | None:
        if weight == 0:
            return "the batch has no tokens to learn from"
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        return self.veto(loss, norm) if self.veto else None

    def _sum_over_ranks(self, values: Sequence[float | Tensor]) -> list[float]:
        total = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.ranks.device) for v in values])
        dist.all_reduce(total)
        return [float(value) / self.mesh.copies for value in total.cpu()]


class _Gate:
    """Asked once a parameter group by some ZeRO stages: decides at the first call and repeats itself after."""

    def __init__(self, judge: Callable[[], str | None]) -> None:
        self._judge = judge
        self.asked = False
        self.verdict: str | None = None

    def __call__(self) -> bool:
        if not self.asked:
            self.asked = True
            self.verdict = self._judge()
        return self.verdict is not None


def _told_by_first(name: str | None) -> Any:
    told = [name]
    dist.broadcast_object_list(told)
    return told[0]


def _clip(model: nn.Module, largest: float) -> float:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if largest > 0:
        nn.utils.clip_grads_with_norm_(list(model.parameters()), largest, norm)
    return float(norm)
