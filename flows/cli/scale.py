"""``headwater scale``: what a run of a size, or of a budget, needs, with the reason for each number."""

from typing import Annotated

import typer
import yaml

from flows.cli.options import JsonOption, console, print_json


def command(
    parameters: Annotated[str | None, typer.Option(help="Size of the model: 125M, 1.3B, 2e9.")] = None,
    flops: Annotated[float | None, typer.Option(min=1, help="Budget in training FLOPs.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0.001, help="Budget in hours of --gpu.")] = None,
    cost: Annotated[float | None, typer.Option(min=0.01, help="Budget in money, at --price an hour of --gpu.")] = None,
    gpu: Annotated[str, typer.Option(help="The GPU that a budget in hours or money is spent on.")] = "H200",
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs.")] = 8,
    price: Annotated[float | None, typer.Option(min=0.001, help="Price of a GPU hour.")] = None,
    vocab_size: Annotated[int, typer.Option(min=1)] = 32768,
    seq_len: Annotated[int, typer.Option(min=8)] = 2048,
    tokens_per_parameter: Annotated[float, typer.Option(min=0.1)] = 20.0,
    micro_batch: Annotated[int, typer.Option(min=1, help="Sequences a GPU takes at a time; decides its memory.")] = 4,
    activation_checkpointing: Annotated[bool, typer.Option("--activation-checkpointing")] = False,
    mfu: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the GPU's peak that is reached.")] = 0.4,
    recipe: Annotated[bool, typer.Option("--recipe", help="Print the recipe's `pretrain` section instead.")] = False,
    json: JsonOption = False,
) -> None:
    from training.scale import plan_scale, read_count, show

    plan = plan_scale(
        parameters=None if parameters is None else read_count(parameters),
        budget_flops=flops,
        budget_gpu_hours=gpu_hours,
        budget_cost=cost,
        gpu=gpu,
        gpus=gpus,
        price_per_gpu_hour=price,
        vocab_size=vocab_size,
        seq_len=seq_len,
        tokens_per_parameter=tokens_per_parameter,
        micro_batch=micro_batch,
        activation_checkpointing=activation_checkpointing,
        mfu=mfu,
    )
    out = console()
    if json:
        print_json(plan.as_dict())
    elif recipe:
        out.print(yaml.safe_dump({"pretrain": plan.recipe()}, sort_keys=False), markup=False, end="")
    else:
        show(plan, lambda line: out.print(line, markup=False))
