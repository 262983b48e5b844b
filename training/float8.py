"""Matrix products in float8: half of bf16's bytes, twice its speed on the GPUs that have them.

    forward      output = input8 · weight8ᵀ            e4m3 · e4m3
    backward     of the input  = gradient8 · weight8   e5m2 · e4m3
                 of the weight = gradient8ᵀ · input8   e5m2 · e4m3

Every tensor is scaled by its own largest entry as it is cast (dynamic scaling, a tensor at a time: Micikevicius et al. 2022,
as torchao's ``Float8Linear`` does by default); products are summed in fp32 by ``torch._scaled_mm``, which a CPU has, too:
slow there, but the same numbers. Master weights, moments, norms, embedding, attention and loss stay what they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.gpus import Gpu, check_float8
from training.model import Block

ALIGNED = 16
"""The kernels take matrices whose sizes are multiples of this."""


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        rows8, scale = to_float8(rows, torch.float8_e4m3fn)
        ctx.save_for_backward(rows8, scale, weight)
        return _multiply(rows8, scale, *to_float8(weight.t(), torch.float8_e4m3fn), rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows8, scale, weight = ctx.saved_tensors
        gradient, wide = gradients[0], weight.dtype
        gradient8, gradient_scale = to_float8(gradient, torch.float8_e5m2)
        of_rows = _multiply(gradient8, gradient_scale, *to_float8(weight, torch.float8_e4m3fn), wide)
        missing = -len(rows8) % ALIGNED
        if missing:
            rows8, gradient8 = (_with_zeros(part, missing) for part in (rows8, gradient8))
        of_weight = _multiply(gradient8.t(), gradient_scale, rows8, scale, wide)
        return of_rows, of_weight


class Float8Linear(nn.Linear):
    """A linear layer whose three products are in float8."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = _Product.apply(input.reshape(-1, input.shape[-1]), self.weight)
        output = product.view(*input.shape[:-1], -1)
        return output if self.bias is None else output + self.bias


def to_float8(tensor: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """A tensor in float8, and what to multiply it by to have its own size back."""
    scale = torch.finfo(kind).max / tensor.detach().abs().amax().float().clamp(min=1e-12)
    return (tensor * scale).to(kind), scale.reciprocal()


def _multiply(left: Tensor, left_scale: Tensor, right: Tensor, right_scale: Tensor, kind: torch.dtype) -> Tensor:
    # The kernels want the left one by rows and the right one by columns.
    columns = right.t().contiguous().t()
    return torch._scaled_mm(left.contiguous(), columns, scale_a=left_scale, scale_b=right_scale, out_dtype=kind)


def _with_zeros(rows: Tensor, more: int) -> Tensor:
    return F.pad(rows.view(torch.uint8), (0, 0, 0, more)).view(rows.dtype)  # zero in float8 is a byte of zeros


def use_float8(model: nn.Module) -> int:
    """Let the layers of the decoders in a model multiply in float8; how many matrices that are."""
    matrices = [child for block in model.modules() if isinstance(block, Block) for child in block.modules()]
    fitting = [
        child
        for child in matrices
        if type(child) is nn.Linear and child.in_features % ALIGNED == 0 == child.out_features % ALIGNED
    ]
    for child in fitting:
        child.__class__ = Float8Linear
    return len(fitting)


def check_device(device: torch.device) -> None:
    """Raises ConfigError where the hardware has no float8."""
    gpus = []
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        gpus = [Gpu(torch.cuda.get_device_name(device), major + minor / 10)]
    check_float8(gpus)
