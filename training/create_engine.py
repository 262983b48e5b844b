"""Puts a model under its engine: adapted to the settings, then under DeepSpeed or FSDP2, with an optimizer over all of it.

A model on the meta device (``training.deferred``) gets its first values there, one weight after the other. Under DeepSpeed's
stage 3 and FSDP each is cut up before the next one is read, and no rank ever holds the model.
"""

import contextlib
import copy
import io
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn

from training.attention import Attention
from training.context_parallel import Context, join_context
from training.deferred import first_value, on_meta, replace_parameters
from training.engine import Engine, Veto
from training.muon import layouts_of
from training.optimizer import OptimizerConfig, SkippingOptimizer, create_optimizer, parameter_groups
from training.parallel import Mesh, ParallelConfig
from training.ranks import Ranks, init_distributed


def create_engine(
    model: nn.Module,
    optimizer: OptimizerConfig,
    parallel: ParallelConfig,
    *,
    total_steps: int,
    ranks: Ranks | None = None,
    veto: Veto | None = None,
) -> Engine:
    """Put ``model`` under its engine. Every rank must hold, or read, the same weights. ``total_steps`` shapes the schedule."""
    ranks = ranks or init_distributed()
    _adapt(model, parallel, ranks)
    mesh = parallel.mesh(ranks.world_size)
    context = join_context(mesh)
    runtime: Any
    pipeline: Any = None
    blank: nn.Module | None = None
    if parallel.engine == "torch":
        if mesh.copies > 1 or parallel.zero_stage == 3:
            blank = _without_weights(model)
        runtime, pipeline = _under_torch(model, optimizer, parallel, mesh, ranks, context)
        torch_optimizer = runtime.optimizer
    else:
        runtime, torch_optimizer = _under_deepspeed(_Watched(model), optimizer, parallel, ranks)
    if ranks.device.type == "cuda" or parallel.dtype == "bf16":
        torch_optimizer.precision = torch.bfloat16
    return Engine(
        model,
        runtime,
        torch_optimizer,
        optimizer,
        parallel,
        ranks,
        total_steps,
        veto=veto,
        context=context,
        pipeline=pipeline,
        blank=blank,
    )


def _adapt(model: nn.Module, parallel: ParallelConfig, ranks: Ranks) -> None:
    """The model's modules as the settings want them computed, in place."""
    if parallel.float8:
        from training.float8 import check_device, use_float8

        check_device(ranks.device)
        use_float8(model)
    if parallel.compile:
        for module in model.modules():
            # ZeRO-3 gathers weights when their own module is called, and a tensor group has the collectives there.
            alone = parallel.cut_while_built or parallel.tensor > 1 or parallel.float8
            if isinstance(module, Attention) and ranks.device.type == "cuda" and not alone:
                module.joined = True
        model.compile()


def _under_torch(
    model: nn.Module,
    optimizer: OptimizerConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    ranks: Ranks,
    context: Context | None,
) -> tuple[Any, Any]:
    """FSDP's runtime of the model, and its pipeline if it has stages."""
    from training.fsdp import Fsdp  # more than a second

    if mesh.pipeline == 1:
        return Fsdp(_Watched(model), optimizer, parallel, mesh, ranks.device), None
    from training.pipeline_parallel import Pipeline, Stages

    stages = Stages(model, mesh.stage(ranks.rank), mesh.pipeline, parallel.virtual_stages, context)
    runtime = Fsdp(stages, optimizer, parallel, mesh, ranks.device)
    pipeline = Pipeline(stages, mesh, ranks.rank, ranks.device, _precision(parallel))
    runtime.shared = pipeline.shared
    return runtime, pipeline


def _precision(parallel: ParallelConfig) -> torch.dtype:
    return torch.bfloat16 if parallel.dtype == "bf16" else torch.float32


def _without_weights(model: nn.Module) -> nn.Module:
    none: dict[int, Any] = {id(weight): on_meta(weight, weight.dtype) for weight in model.parameters()}
    return copy.deepcopy(model, none).requires_grad_(False)


def _under_deepspeed(
    watched: nn.Module, optimizer: OptimizerConfig, parallel: ParallelConfig, ranks: Ranks
) -> tuple[Any, SkippingOptimizer]:
    import deepspeed

    _fill(watched, optimizer, parallel, ranks)
    torch_optimizer = create_optimizer(parameter_groups(watched, optimizer), optimizer)
    muon = {weight for group in torch_optimizer.param_groups if group["muon"] for weight in group["params"]}
    with (
        contextlib.redirect_stdout(io.StringIO()),  # it prints memory figures whatever its log level
        # To compare types it loads a Muon of its own, and with its decorator torch's compiler: a second of every start.
        mock.patch.object(torch, "compile", lambda function: function),
    ):
        deepspeed_engine, *_ = deepspeed.initialize(
            model=watched,
            optimizer=torch_optimizer,
            # Of parameters in pieces it counts nothing: each gradient is then a bucket of its own.
            config=deepspeed_config(optimizer, parallel, ranks, _count(watched)),
            dist_init_required=False,
        )
    if muon:
        torch_optimizer.layouts = layouts_of(deepspeed_engine, parallel.zero_stage, muon)
    return deepspeed_engine, torch_optimizer


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _fill(module: nn.Module, optimizer: OptimizerConfig, parallel: ParallelConfig, ranks: Ranks) -> None:
    """Bring every parameter to its device; under ZeRO-3 of each a rank's part only."""
    cutting: Any = None
    if parallel.cut_while_built:
        from deepspeed import zero

        settings = deepspeed_config(optimizer, parallel, ranks, _count(module))
        # Of an empty module: it then sets up what ZeRO-3 needs, and has nothing to cut yet.
        cutting = zero.Init(module=nn.Module(), config_dict_or_path=settings)

    def filled(_: str, old: nn.Parameter) -> nn.Parameter:
        value = first_value(old)()
        # DeepSpeed refuses a part in another precision than its own.
        value = value.to(_precision(parallel)) if cutting else value
        parameter = nn.Parameter(value.to(ranks.device), old.requires_grad)
        if hasattr(old, "lr_scale"):
            parameter.lr_scale = old.lr_scale  # type: ignore[attr-defined]
        if cutting:
            cutting._convert_to_zero_parameters([parameter])
        return parameter

    with torch.no_grad():
        replace_parameters(module, filled)
    module.to(ranks.device)  # buffers


def deepspeed_config(
    optimizer: OptimizerConfig, parallel: ParallelConfig, ranks: Ranks, parameters: int
) -> dict[str, Any]:
    # DeepSpeed allocates whole buckets, 500 million elements by default, however small the model.
    bucket = max(2, min(parameters + parameters % 2, 200_000_000))  # even: it insists on alignment
    zero: dict[str, Any] = {
        "stage": parallel.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        # gloo cannot overlap reduction with the backward pass
        "overlap_comm": ranks.device.type == "cuda" and ranks.world_size > 1,
    }
    if parallel.offload and parallel.zero_stage >= 1:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": parallel.micro_batch,
        # The engine sets the boundary itself: the number of micro batches may differ from step to step.
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if parallel.zero_stage == 0 else optimizer.clip,  # the engine clips there
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": parallel.dtype == "bf16"},
        # Micro batches are summed in fp32 under ZeRO; bf16 sums lose small gradients.
        "data_types": {"grad_accum_dtype": "fp32"} if parallel.zero_stage >= 1 else {},
        "steps_per_print": 1_000_000_000,
    }


class _Watched(nn.Module):
    """Runs any function of the model as a forward pass, so that ZeRO-3 gathers the parameters it touches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.model, *arguments)
