"""Pipeline parallel: the layers of a decoder in stages, one behind the other, each on ranks of its own.

Every rank builds the decoder without memory and keeps the layers of its stages under their full names, so that a checkpoint
does not know who had what. Where the rest was, hidden states pass unchanged: the decoder's own forward runs a stage, given
token ids or what the stage before sent. Micro batches follow each other by ``torch.distributed.pipelining``'s 1F1B, or its
interleaved form where a rank has several stages; gradients are reduced once a step, behind the last one.

    stage 0           embedding, first layers
    stage n - 1       last layers, norm, output matrix, loss

Of p ranks in a line, the one at place i has the stages i, i + p, i + 2p, … Tied embeddings lie in the first stage and the last,
which are never on one rank: their gradients are added up before each update, which is then the same on both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from training.context_parallel import Context
from training.loader import MicroBatch
from training.model import Block, Decoder
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
    """One stage: a decoder with this stage's modules of a whole one. Called with what goes into the stage and the tensors of a
    micro batch."""

    def __init__(self, whole: Decoder, stage: int, stages: int, context: Context | None) -> None:
        super().__init__()
        self.first, self.last = stage == 0, stage == stages - 1
        with torch.device("meta"):
            self.model = Decoder(whole.config)
        each = len(whole.layers) // stages
        for index, block in enumerate(whole.layers):
            self.model.layers[index] = block if index // each == stage else Elsewhere()
        tied = self.last and whole.lm_head is None
        given: nn.Module = whole.embed_tokens if self.first else Elsewhere()
        if tied and not self.first:
            given = OutputOnly.from_pretrained(whole.embed_tokens.weight)
            given.weight = whole.embed_tokens.weight  # itself: it knows its first values
        self.model.embed_tokens = cast(nn.Embedding, given)
        self.model.norm = cast(nn.RMSNorm, whole.norm if self.last else Elsewhere())
        self.model.lm_head = whole.lm_head if self.last else None
        self.model.compiled = whole.compiled
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


class Stages(nn.Module):
    """A rank's stages, and the parameters of all of them by the names that they have in the decoder."""

    def __init__(self, decoder: nn.Module, place: int, ranks: int, each: int, context: Context | None) -> None:
        super().__init__()
        assert isinstance(decoder, Decoder)
        self.config = decoder.config
        self.parts = nn.ModuleList(
            Stage(decoder, place + ranks * round, ranks * each, context) for round in range(each)
        )
        _forget_others(decoder, [cast(Stage, part).model for part in self.parts])

    def __iter__(self) -> Iterator[Stage]:
        return (cast(Stage, part) for part in self.parts)

    def forward(self, function: Callable[..., Any], *arguments: Any) -> None:
        for part in self.parts:
            part(function, *arguments)

    def named_parameters(self, *arguments: Any, **named: Any) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in super().named_parameters(*arguments, **named):
            yield name.split(".", 2)[-1], parameter  # parts.0.model.norm.weight


def _forget_others(decoder: Decoder, parts: Sequence[Decoder]) -> None:
    """Of a whole decoder leave what is in these parts of it."""
    for index in range(len(decoder.layers)):
        mine = [part.layers[index] for part in parts if isinstance(part.layers[index], Block)]
        decoder.layers[index] = mine[0] if mine else Elsewhere()
    embeddings = [part.embed_tokens for part in parts if isinstance(part.embed_tokens, nn.Embedding)]
    decoder.embed_tokens = embeddings[0] if embeddings else cast(nn.Embedding, Elsewhere())
    decoder.norm, decoder.lm_head = parts[-1].norm, parts[-1].lm_head


class Pipeline:
    """A line of ranks with stages each, as one of them sees it."""

    def __init__(self, module: Stages, mesh: Mesh, rank: int, device: torch.device, dtype: torch.dtype) -> None:
        self.module, self.device, self.dtype = module, device, dtype
        self.place, self.ranks = mesh.stage(rank), mesh.pipeline
        each = mesh.size // self.ranks
        lines = [list(range(first, mesh.size, each)) for first in range(each)]
        self.group, _ = dist.new_subgroups_by_enumeration(lines)
        self.shared: dict[str, dist.ProcessGroup] = {}
        """Parameters that lie in two stages, and who adds up their gradients."""
        if module.config.tie_embeddings:
            ends, _ = dist.new_subgroups_by_enumeration([[line[0], line[-1]] for line in lines])
            self.shared = {TIED: ends} if self.place in (0, self.ranks - 1) else {}
        known: list[Any] = [None] * self.ranks
        dist.all_gather_object(known, [name for name, _ in module.named_parameters()], group=self.group)
        self._owners = {name: place for place in reversed(range(self.ranks)) for name in known[place]}
        self._schedules: dict[tuple[int, ...], Schedule1F1B | ScheduleInterleaved1F1B] = {}
        self._scale = 0.0
        self._total = torch.zeros((), dtype=torch.float64, device=device)

    def accumulate(
        self, batches: Sequence[MicroBatch], losses: Callable[[Any, Any], dict[str, Tensor]], scale: float
    ) -> dict[str, Tensor]:
        """Gradients of the summed loss times ``scale``. The sum, on the last stage's ranks as often as there are stages."""
        tensors = _joined(batches)
        tokens = tensors.pop("input_ids")
        schedule = self._schedule(len(batches), (len(tokens) // len(batches), tokens.shape[1]))
        self._scale, self._total = scale, torch.zeros_like(self._total)
        for part in self.module:
            part.losses = losses
        try:
            schedule.step(
                *([tokens] if self.place == 0 else []), target=tensors["targets"], return_outputs=False, **tensors
            )
        finally:
            for part in self.module:
                part.losses = None
        return {"loss": self._total * self.ranks}

    @torch.no_grad()
    def evaluate(self, losses: Callable[[Any, Any], dict[str, Tensor]], batch: MicroBatch) -> dict[str, Tensor]:
        """A micro batch's loss, on all ranks of the line."""
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self.module:
            if not part.first:
                shape = (*batch.input_ids.shape[:2], self._width)
                batch = replace(batch, input_ids=self._received(shape, (self.place - 1) % self.ranks))
            if part.last:
                loss += part(losses, batch)["loss"]
            else:
                hidden = part(lambda model, batch: model(batch.input_ids, batch.positions, batch.segments), batch)
                dist.send(hidden.contiguous(), group=self.group, group_dst=(self.place + 1) % self.ranks)
        dist.broadcast(loss, group=self.group, group_src=self.ranks - 1)
        return {"loss": loss}

    def spread(self, name: str, weight: Tensor) -> Tensor:
        """A weight that lies in the first of the stages that has it, put into the memory given on all ranks of the line."""
        dist.broadcast(weight, group=self.group, group_src=self._owners[name])
        return weight

    def _schedule(self, count: int, shape: tuple[int, int]) -> Schedule1F1B | ScheduleInterleaved1F1B:
        if (count, *shape) not in self._schedules:
            stages = [self._stage(part, round, shape) for round, part in enumerate(self.module)]
            self._schedules[count, *shape] = (
                Schedule1F1B(stages[0], count, self._scaled, scale_grads=False)
                if len(stages) == 1
                else ScheduleInterleaved1F1B([*stages], count, self._scaled, scale_grads=False)
            )
        return self._schedules[count, *shape]

    def _stage(self, part: Stage, round: int, shape: tuple[int, int]) -> PipelineStage:
        tokens = torch.empty(shape, dtype=torch.int64, device=self.device)
        hidden = torch.empty((*shape, self._width), dtype=self.dtype, device=self.device, requires_grad=True)
        return PipelineStage(
            part,
            self.place + self.ranks * round,
            self.ranks * len(self.module.parts),
            self.device,
            input_args=tokens if part.first else hidden,
            output_args=torch.empty((), device=self.device, requires_grad=True) if part.last else hidden,
            group=self.group,
        )

    def _scaled(self, loss: Tensor, _target: Tensor) -> Tensor:
        self._total += loss.detach().double()
        return loss * self._scale

    @property
    def _width(self) -> int:
        return self.module.config.hidden_size

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
