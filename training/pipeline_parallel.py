"""Pipeline parallel: the layers of a decoder in stages, one behind the other, each on ranks of its own.

Every rank builds the decoder and keeps the layers of its stage under their full names, so that a checkpoint does not know
who had what. Where the rest was, hidden states pass unchanged: the decoder's own forward runs a stage, given token ids or
what the stage before sent. Micro batches follow each other by ``torch.distributed.pipelining``'s 1F1B; gradients are reduced
once a step, behind the last one.

    stage 0           embedding, first layers
    stage n - 1       last layers, norm, output matrix, loss

Tied embeddings lie on both: their gradients are added up before each update, which is then the same on both.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from training.context_parallel import Context
from training.loader import MicroBatch
from training.model import Decoder
from training.parallel import Mesh

TIED = "model.embed_tokens.weight"


class Elsewhere(nn.Module):
    """Stands where a module of another stage was."""

    def forward(self, hidden: Tensor, *others: Any) -> Tensor:
        return hidden


class OutputOnly(nn.Embedding):
    """A tied embedding in the last stage, where the hidden states are there already."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


class Stage(nn.Module):
    """A decoder reduced to one stage's layers; called with what goes into the stage and the tensors of a micro batch."""

    def __init__(self, decoder: nn.Module, stage: int, stages: int, context: Context | None) -> None:
        super().__init__()
        assert isinstance(decoder, Decoder)
        self.last = stage == stages - 1
        each = len(decoder.layers) // stages
        for index in range(len(decoder.layers)):
            if index // each != stage:
                decoder.layers[index] = Elsewhere()
        if stage > 0:
            tied = self.last and decoder.lm_head is None
            weight = decoder.embed_tokens.weight
            given = OutputOnly.from_pretrained(weight, freeze=False) if tied else Elsewhere()
            decoder.embed_tokens = cast(nn.Embedding, given)
        if not self.last:
            decoder.norm, decoder.lm_head = cast(nn.RMSNorm, Elsewhere()), None
        self.model = decoder
        self.context = context
        self.losses: Callable[[Any, Any], dict[str, Tensor]] | None = None

    def forward(self, given: Any, *arguments: Any, **tensors: Tensor) -> Any:
        if self.losses is None:
            return given(self.model, *arguments)
        known: dict[str, Any] = {"segments": None, "tokens": 0.0, **tensors}
        batch = MicroBatch(given, **known)
        if self.last:
            return self.losses(self.model, batch)["loss"]
        return self.model(given, batch.positions, batch.segments, context=self.context)


class Pipeline:
    """A line of ranks with a stage each, as one of them sees it."""

    def __init__(self, module: Stage, mesh: Mesh, rank: int, device: torch.device, dtype: torch.dtype) -> None:
        self.module, self.device, self.dtype = module, device, dtype
        self.stage, self.stages = mesh.stage(rank), mesh.pipeline
        each = mesh.size // self.stages
        self.line = rank % each
        lines = [list(range(first, mesh.size, each)) for first in range(each)]
        self.group, _ = dist.new_subgroups_by_enumeration(lines)
        self.shared: dict[str, dist.ProcessGroup] = {}
        """Parameters that lie in two stages, and who adds up their gradients."""
        if module.model.config.tie_embeddings:
            ends, _ = dist.new_subgroups_by_enumeration([[line[0], line[-1]] for line in lines])
            self.shared = {TIED: ends} if self.stage in (0, self.stages - 1) else {}
        self._schedules: dict[tuple[int, ...], Schedule1F1B] = {}
        self._scale = 0.0
        self._total = torch.zeros((), dtype=torch.float64, device=device)

    def accumulate(
        self, batches: Sequence[MicroBatch], losses: Callable[[Any, Any], dict[str, Tensor]], scale: float
    ) -> dict[str, Tensor]:
        """Gradients of the summed loss times ``scale``. The sum, on the last stage's ranks as often as there are stages."""
        tensors = _joined(batches)
        tokens = tensors.pop("input_ids")
        schedule = self._schedule(len(batches), (len(tokens) // len(batches), tokens.shape[1]))
        self.module.losses, self._scale, self._total = losses, scale, torch.zeros_like(self._total)
        try:
            schedule.step(
                *([tokens] if self.stage == 0 else []), target=tensors["targets"], return_outputs=False, **tensors
            )
        finally:
            self.module.losses = None
        return {"loss": self._total * self.stages}

    @torch.no_grad()
    def evaluate(self, losses: Callable[[Any, Any], dict[str, Tensor]], batch: MicroBatch) -> dict[str, Tensor]:
        """A micro batch's loss, on all ranks of the line."""
        if self.stage > 0:
            shape = (*batch.input_ids.shape, self._width)
            batch = replace(batch, input_ids=self._received(shape, self.stage - 1))
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        if self.module.last:
            loss += self.module(losses, batch)["loss"]
        else:
            hidden = self.module(lambda model: model(batch.input_ids, batch.positions, batch.segments))
            dist.send(hidden.contiguous(), group=self.group, group_dst=self.stage + 1)
        dist.broadcast(loss, group=self.group, group_src=self.stages - 1)
        return {"loss": loss}

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """On the first rank the decoder with the weights of all stages, in host memory; elsewhere what is there."""
        if self.line > 0:
            yield self.module.model
            return
        mine = dict(self.module.model.named_parameters())
        known: list[Any] = [None] * self.stages
        dist.all_gather_object(known, list(mine), group=self.group)
        with torch.device("meta"):
            decoder = Decoder(self.module.model.config)
        if self.stage == 0:
            decoder = decoder.to(self.dtype).to_empty(device="cpu")
        for name, weight in decoder.named_parameters():
            owner = next(stage for stage, names in enumerate(known) if name in names)
            if self.stage == owner > 0:
                dist.send(mine[name].detach().contiguous(), group=self.group, group_dst=0)
            elif self.stage == 0:
                weight.data.copy_(mine[name] if owner == 0 else self._received(weight.shape, owner))
        yield decoder if self.stage == 0 else self.module.model

    def _schedule(self, count: int, shape: tuple[int, int]) -> Schedule1F1B:
        if (count, *shape) not in self._schedules:
            tokens = torch.empty(shape, dtype=torch.int64, device=self.device)
            hidden = torch.empty((*shape, self._width), dtype=self.dtype, device=self.device, requires_grad=True)
            stage = PipelineStage(
                self.module,
                self.stage,
                self.stages,
                self.device,
                input_args=tokens if self.stage == 0 else hidden,
                output_args=torch.empty((), device=self.device, requires_grad=True) if self.module.last else hidden,
                group=self.group,
            )
            self._schedules[count, *shape] = Schedule1F1B(stage, count, self._scaled, scale_grads=False)
        return self._schedules[count, *shape]

    def _scaled(self, loss: Tensor, _target: Tensor) -> Tensor:
        self._total += loss.detach().double()
        return loss * self._scale

    @property
    def _width(self) -> int:
        return self.module.model.config.hidden_size

    def _received(self, shape: Sequence[int], sender: int) -> Tensor:
        found = torch.empty(tuple(shape), dtype=self.dtype, device=self.device)
        dist.recv(found, group=self.group, group_src=sender)
        return found


def _joined(batches: Sequence[MicroBatch]) -> dict[str, Any]:
    """The tensors of equal micro batches one behind the other; the schedule cuts them apart again."""
    joined = {}
    for name in (each.name for each in fields(MicroBatch)):
        parts = [getattr(batch, name) for batch in batches]
        if isinstance(parts[0], Tensor):
            joined[name] = torch.cat([part.expand(len(batches[0].input_ids), -1) for part in parts])
    return joined
