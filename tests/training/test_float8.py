"""Products in float8: the arithmetic that is documented, near the exact one, and refused where the hardware has none."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import training.float8
from infra.errors import ConfigError
from tests.training.ranks_engine import decoder, train
from training.float8 import Float8Linear, to_float8, use_float8
from training.parallel import ParallelConfig
from training.ranks import init_distributed

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
SHAPE = {"hidden_size": 32, "intermediate_size": 64}


def rounded(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """As float8 tells it, in float64."""
    small, scale = to_float8(tensor, kind)
    return small.double() * scale.double()


@pytest.mark.parametrize("rows", [32, 21])
def test_three_products_are_those_of_rounded_factors_and_near_the_exact_ones(rows: int) -> None:
    torch.manual_seed(0)
    given, pulled = torch.randn(3, rows, 64, requires_grad=True), torch.randn(3, rows, 48)
    layer, plain = nn.Linear(64, 48), nn.Linear(64, 48)
    plain.load_state_dict(layer.state_dict())
    layer.__class__ = Float8Linear
    exact = [plain(given), *torch.autograd.grad(plain(given), (given, plain.weight, plain.bias), pulled)]
    output = layer(given)
    found = [output, *torch.autograd.grad(output, (given, layer.weight, layer.bias), pulled)]
    left, weight, gradient = (
        rounded(given.flatten(0, 1), E4M3),
        rounded(layer.weight, E4M3),
        rounded(pulled.flatten(0, 1), E5M2),
    )
    for name, here, emulated in (
        ("output", found[0].flatten(0, 1) - layer.bias, left @ weight.t()),
        ("of the input", found[1].flatten(0, 1), gradient @ weight),
        ("of the weight", found[2], gradient.t() @ left),
    ):
        torch.testing.assert_close(here.double(), emulated, rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(found[3], exact[3])
    errors = [float(((a - b).norm() / b.norm()).detach()) for a, b in zip(found, exact, strict=True)]
    assert 0.005 < errors[0] < 0.05 and max(errors) < 0.08


def test_the_largest_entry_sets_the_scale() -> None:
    for size in (1e-6, 1.0, 1e20):
        small, scale = to_float8(torch.tensor([size, -size / 2, 0.0]), E4M3)
        assert small.float().tolist() == [448.0, -224.0, 0.0]
        assert float(scale) == pytest.approx(size / 448)
    assert to_float8(torch.zeros(4), E5M2)[0].float().tolist() == [0.0] * 4


def test_only_matrices_of_layers_that_fit_the_kernels_are_taken() -> None:
    assert use_float8(decoder("none", **SHAPE)) == 2 * 7
    assert use_float8(decoder("none")) == 2 * 2  # an inner width of 24 and 8 key/value columns are none


@pytest.mark.parametrize("engine", ["deepspeed", "torch"])
def test_training_in_float8_stays_near_half_precision(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.float8, "check_device", lambda device: None)  # a CPU has it for this
    ranks = init_distributed()
    options = {"dtype": "bf16", "model": "decoder", "shape": SHAPE, "engine": engine, "micro": 4}
    expected = train(ranks, 1, **options)
    found = train(ranks, 1, float8=True, **options)
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=5e-3)
    assert found[0][1] == pytest.approx(expected[0][1], rel=1e-2) and found != expected
    assert train(ranks, 1, float8=True, selective_checkpointing=True, **options) == found


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not multiply in float8: it has a CPU.*Leave float8 out"):
        train(init_distributed(), 1, "bf16", 2, model="decoder", float8=True)
    for settings in ({"dtype": "fp32"}, {"engine": "torch", "tensor": 2}):
        with pytest.raises(ValidationError, match="float8 needs dtype bf16, and whole matrices"):
            ParallelConfig(float8=True, **settings)  # type: ignore[arg-type]
