"""Models before they have memory (deferred initialisation).

A parameter on the meta device has a shape and no values. ``defer`` tells each parameter of such a model how its first value is
read; parts of it may then be taken into other models. ``training.create_engine`` asks for the values one at a time, and a rank
keeps of each what the engine wants it to have: the most it holds at once is its own part and the largest weight.

A parameter that has memory is its own first value.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
FirstValue = Callable[[], Tensor]


def defer(model: Model, read: Callable[[str], Tensor]) -> Model:
    """Let the parameters of a model on the meta device be read by their names, when an engine wants their first values."""
    for name, parameter in model.named_parameters():
        parameter.first_value = functools.partial(read, name)  # type: ignore[attr-defined]
    return model


def first_value(parameter: nn.Parameter) -> FirstValue:
    """How the first value of a parameter is read."""
    read: FirstValue = getattr(parameter, "first_value", parameter.detach)
    return read


def home(parameter: Tensor) -> torch.device:
    """Where to put new parameters beside this one: on the CPU where it is read later."""
    return torch.device("cpu") if parameter.is_meta else parameter.device


def replace_parameters(module: nn.Module, new: Callable[[str, nn.Parameter], nn.Parameter]) -> None:
    """Put in the place of every parameter, one at a time, what ``new`` makes of its name and itself."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for leaf, old in owner._parameters.items():
            if old is not None:
                if old not in made:
                    made[old] = new(names[old], old)
                owner._parameters[leaf] = made[old]


def on_meta(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    """One of its shape without memory."""
    return nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device="meta"), parameter.requires_grad)
