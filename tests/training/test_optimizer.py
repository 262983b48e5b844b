"""Parameters get the treatment they should, and Muon's updates are orthogonal, sized like AdamW's, and learn."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.support import REPOSITORY
from training.create_engine import create_engine
from training.model import ModelConfig, build_model
from training.muon import adam_sized, orthogonalise
from training.optimizer import OptimizerConfig, parameter_groups
from training.parallel import ParallelConfig
from training.ranks import init_distributed
from training.schedule import ScheduleConfig

SMALL = ModelConfig(vocab_size=50, hidden_size=32, layers=2, heads=4, kv_heads=2, intermediate_size=48)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_groups_of_a_decoder(name, tied):
    model = build_model(SMALL.model_copy(update={"tie_embeddings": tied}), seed=0)
    groups = parameter_groups(model, OptimizerConfig(name=name))
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_treatment = {
        (group["muon"], group["weight_decay"] > 0): {names[weight] for weight in group["params"]} for group in groups
    }
    assert sum(map(len, by_treatment.values())) == len(names)
    plain = by_treatment[False, False]
    assert "embed_tokens.weight" in plain and all(names[p] in plain for p in names if p.dim() == 1)
    inside = {name for name in names.values() if name.startswith("layers.") and "norm" not in name}
    if name == "muon":
        assert by_treatment[True, True] == inside
        assert by_treatment.get((False, True), set()) == (set() if tied else {"lm_head.weight"})
    else:
        assert by_treatment[False, True] == inside | (set() if tied else {"lm_head.weight"})


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_parameter_may_learn_at_a_multiple_of_the_rate(zero_stage):
    """The critic beside its policy: Adam's first step is as long as the rate, whatever the gradient."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy, self.critic = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
            self.critic.lr_scale = 3.0

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return (values * (self.policy + self.critic)).sum()

    optimizer = OptimizerConfig(lr=0.01, schedule=ScheduleConfig(warmup_steps=0))
    model = Pair()
    engine = create_engine(model, optimizer, ParallelConfig(dtype="fp32", zero_stage=zero_stage), total_steps=2)
    engine.train_step([torch.ones(4)], lambda module, batch: {"loss": module(batch)}, len)
    assert torch.allclose(model.policy.abs(), torch.tensor(0.01), rtol=1e-3)
    assert torch.allclose(model.critic.abs(), torch.tensor(0.03), rtol=1e-3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalised_singular_values_are_near_one(shape, precision):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    orthogonal = orthogonalise(matrix, precision)
    values = torch.linalg.svdvals(orthogonal)
    assert orthogonal.dtype == matrix.dtype and values.min() > 0.8 and values.max() < 1.2
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(orthogonal, left @ right, atol=0.15, rtol=0)


def test_updates_have_the_size_of_adams():
    torch.manual_seed(0)
    update = orthogonalise(torch.randn(64, 256)) * adam_sized((64, 256))
    assert 0.1 < update.square().mean().sqrt() < 0.3


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_muon_learns_with_any_clipping(clip):
    """Clipping scales raw gradients, to which Muon's direction is indifferent: a tiny bound must not stop it."""
    torch.manual_seed(0)
    ranks = init_distributed()
    inputs, wanted = torch.randn(64, 12), torch.randn(12, 20)
    model = nn.Linear(12, 20, bias=False)
    engine = create_engine(
        model,
        OptimizerConfig(name="muon", lr=0.4, clip=clip, weight_decay=0.0, schedule=ScheduleConfig(warmup_steps=0)),
        ParallelConfig(zero_stage=1, dtype="fp32"),
        total_steps=60,
        ranks=ranks,
    )

    def losses(module, batch):
        return {"loss": (module(batch) - batch @ wanted).square().mean(1).sum()}

    trail = [engine.train_step([inputs], losses, len).loss for _ in range(60)]
    assert trail[-1] < 0.05 * trail[0]


def test_a_rank_starts_without_what_it_does_not_need() -> None:
    """Torch's compiler and sharded tensors, pandas and numba take longer to load than all else of a rank but torch."""
    program = """
import sys, torch
import training.pretrain, training.evaluate, alignment.sft, alignment.preferences, alignment.ppo, alignment.dpo
from training.model import ModelConfig, build_model
from training.optimizer import OptimizerConfig, create_optimizer
build_model(ModelConfig(vocab_size=8, hidden_size=8, layers=1, heads=1, kv_heads=1, intermediate_size=8), 0)
weight = torch.nn.Parameter(torch.ones(2, 2))
weight.grad = torch.ones(2, 2)
optimizer = create_optimizer([{"params": [weight], "muon": False}], OptimizerConfig())
optimizer.step()
assert not weight.eq(1).any() and weight.requires_grad
print({"torch._dynamo", "torch.distributed.tensor", "sympy", "pandas", "numba", "lxml"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
