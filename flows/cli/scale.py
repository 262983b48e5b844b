"""``headwater scale``: what a run of a size, or of a budget, needs, with the reason for each number."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from flows.cli.options import JsonOption, console, print_json
from infra.errors import ConfigError

if TYPE_CHECKING:
    from training.mesh_plan import MeshPlan
    from training.scale import ScalePlan

GPUS = 8


def command(
    size: Annotated[str | None, typer.Argument(help="Size of the model, as --parameters.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Size of the model: 125M, 1.3B, 2e9.")] = None,
    flops: Annotated[float | None, typer.Option(min=1, help="Budget in training FLOPs.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0.001, help="Budget in hours of --gpu.")] = None,
    cost: Annotated[float | None, typer.Option(min=0.01, help="Budget in money, at --price an hour of --gpu.")] = None,
    gpu: Annotated[
        str, typer.Option(help="The GPU that a budget in hours or money is spent on, and a mesh is chosen for.")
    ] = "H200",
    gpus: Annotated[int | None, typer.Option(min=1, help="How many GPUs; they form a mesh. Default: 8.")] = None,
    price: Annotated[float | None, typer.Option(min=0.001, help="Price of a GPU hour.")] = None,
    vocab_size: Annotated[int, typer.Option(min=1)] = 32768,
    seq_len: Annotated[int, typer.Option(min=8)] = 2048,
    tokens_per_parameter: Annotated[float, typer.Option(min=0.1, max=1e6)] = 20.0,
    micro_batch: Annotated[
        int, typer.Option(min=1, help="Sequences a GPU takes at a time, in the mesh at most; decides its memory.")
    ] = 4,
    activation_checkpointing: Annotated[bool, typer.Option("--activation-checkpointing")] = False,
    mfu: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the GPU's peak that is reached.")] = 0.4,
    recipe: Annotated[bool, typer.Option("--recipe", help="Print the recipe's `pretrain` section instead.")] = False,
    json: JsonOption = False,
) -> None:
    from training.mesh_plan import link_kind, recommend
    from training.scale import plan_scale, read_count

    if size is not None and parameters is not None:
        raise ConfigError("the size is given twice", remedy=f"Leave out {size} or --parameters {parameters}.")
    if gpus is not None:
        link_kind(gpu)  # a misspelt one is told before anything is printed
    asked = size or parameters
    shared: dict[str, Any] = {
        "gpu": gpu, "gpus": gpus or GPUS, "seq_len": seq_len, "micro_batch": micro_batch,
        "activation_checkpointing": activation_checkpointing, "mfu": mfu,
    }  # fmt: skip
    plan = plan_scale(
        parameters=None if asked is None else read_count(asked),
        budget_flops=flops,
        budget_gpu_hours=gpu_hours,
        budget_cost=cost,
        price_per_gpu_hour=price,
        vocab_size=vocab_size,
        tokens_per_parameter=tokens_per_parameter,
        **shared,
    )
    if recipe and not json:
        console().print(yaml.safe_dump({"pretrain": plan.recipe()}, sort_keys=False), markup=False, end="")
        return
    mesh, refusal = None, None
    try:
        mesh = recommend(plan.model, batch_sequences=plan.batch_sequences, **shared)
    except ConfigError as error:
        refusal = error
    if json:
        _print_json(plan, mesh, refusal)
    else:
        _print(plan, mesh, refusal if gpus is None else None)
    if refusal and gpus is not None:
        raise refusal


def _print_json(plan: "ScalePlan", mesh: "MeshPlan | None", refusal: ConfigError | None) -> None:
    from training.mesh_plan import derivation

    view = plan.as_dict() | (mesh.as_dict() if mesh else {"mesh": None, "no_mesh": str(refusal)})
    notes = [*plan.derivation, *(derivation(mesh) if mesh else ())]
    print_json(view | {"derivation": [asdict(note) for note in notes]})


def _print(plan: "ScalePlan", mesh: "MeshPlan | None", refusal: ConfigError | None) -> None:
    from training.mesh_plan import show_mesh
    from training.scale import show

    out = console()
    show(plan, lambda line: out.print(line, markup=False))
    out.print()
    if mesh:
        show_mesh(mesh, lambda line: out.print(line, markup=False))
        out.print(yaml.safe_dump(mesh.setting(), sort_keys=False, default_flow_style=None), markup=False, end="")
    elif refusal:
        out.print(f"No mesh: {refusal}", markup=False)
