"""Context parallel: ranks that share sequences, each with a part of every one.

Everything but attention works token by token. For attention the ranks trade places: from a part of the tokens and all
heads to all tokens and a part of the heads, and back (all-to-all, as in DeepSpeed's Ulysses).

    [B, T / n, H, D]  --scatter-->  [B, T, H / n, D]  --attention-->  [B, T, H / n, D]  --collect-->  [B, T / n, H, D]

Chosen before a ring, or gathering all keys and values, because attention itself stays what it is: the same kernels and
masks of packed rows, equal work on all ranks wherever documents end, and each sum made whole on one rank, in the order of
a single one. The price: no more ranks than query heads. Where there are more ranks than key/value heads, each of these
is sent to all ranks that need it.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd

from training.parallel import Mesh


@dataclass(frozen=True)
class Context:
    """The ranks that share this one's sequences."""

    group: dist.ProcessGroup
    size: int

    def scatter(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """``[B, T / n, H, D]`` -> ``[B, T, H / n, D]`` of queries, keys and values, in one exchange."""
        copies = max(1, self.size // keys.shape[2])
        heads = queries, *(part.repeat_interleave(copies, 2) if copies > 1 else part for part in (keys, values))
        # [to rank, B, T / n, heads, D]
        mine = torch.cat([part.unflatten(2, (self.size, -1)).permute(2, 0, 1, 3, 4) for part in heads], 3)
        parts = self._exchange(mine).transpose(0, 1).flatten(1, 2)
        return torch.split(parts, [part.shape[2] // self.size for part in heads], 2)

    def collect(self, heads: Tensor) -> Tensor:
        """``[B, T, H / n, D]`` -> ``[B, T / n, H, D]``."""
        mine = heads.unflatten(1, (self.size, -1)).transpose(0, 1)
        return self._exchange(mine).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def _exchange(self, parts: Tensor) -> Tensor:
        received: Tensor = all_to_all_single_autograd(parts.contiguous(), None, None, self.group)
        return received


def join_context(mesh: Mesh) -> Context | None:
    """The context group of this rank. Collective."""
    if mesh.context == 1:
        return None
    firsts = (
        first + slice_ for first in range(0, mesh.size, mesh.context * mesh.tensor) for slice_ in range(mesh.tensor)
    )
    groups = [[first + part * mesh.tensor for part in range(mesh.context)] for first in firsts]
    group, _ = dist.new_subgroups_by_enumeration(groups)
    return Context(group, mesh.context)
