"""The dial: what comes out is a model of that size, follows the published rules, and says why."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.mesh_plan import plan_mesh
from training.model import ModelConfig, parameter_count
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.scale import effective_parameters, memory_plan, plan_scale, read_count, show


@settings(max_examples=15, deadline=None)
@given(st.floats(math.log(3e6), math.log(2e11)))
def test_the_shape_has_about_the_size_asked_for(log_size: float) -> None:
    size = math.exp(log_size)
    plan = plan_scale(parameters=size, vocab_size=4096)
    assert plan.parameters == pytest.approx(size, rel=0.2)
    assert plan.parameters == effective_parameters(plan.model)
    assert plan.total_parameters == parameter_count(plan.model)
    assert 16 < plan.model.hidden_size / plan.model.layers < 260


@settings(max_examples=10, deadline=None)
@given(st.floats(math.log(1.001e9), math.log(2e11)))
def test_from_a_billion_on_meshes_divide_the_shape(log_size: float) -> None:
    plan = plan_scale(parameters=math.exp(log_size))
    model = plan.model
    assert (model.kv_heads, model.heads % 8, model.layers % 2, model.intermediate_size % 8) == (8, 0, 0, 0)
    assert plan.parameters == pytest.approx(math.exp(log_size), rel=0.06)
    for tensor, pipeline in ((8, 1), (4, 2), (2, 2)):
        parallel = ParallelConfig(engine="torch", tensor=tensor, pipeline=pipeline, micro_batch=1)
        assert plan_mesh(model, parallel, 8, plan.seq_len, plan.batch_sequences).mesh.size == 8


def test_the_published_rules() -> None:
    plan = plan_scale(parameters=108e6, vocab_size=32768)
    ratio = plan.parameters / 108e6
    assert plan.lr == pytest.approx(0.00235 * ratio ** (-1 / 3), rel=0.01)
    assert plan.batch_sequences * plan.seq_len == pytest.approx(2048 * 160 * ratio ** (2 / 3), rel=0.05)
    assert plan.tokens == pytest.approx(20 * plan.parameters, rel=1e-6)
    assert plan.steps * plan.batch_sequences * plan.seq_len >= plan.tokens
    assert plan.warmup_steps * plan.batch_sequences * plan.seq_len == pytest.approx(plan.parameters, rel=0.05)
    assert (plan.beta2, plan_scale(parameters=1e9).beta2) == (0.99, 0.95)


def test_a_budget_is_spent() -> None:
    plan = plan_scale(budget_gpu_hours=100, gpu="H200", gpus=8, price_per_gpu_hour=3.0)
    h200 = next(gpu for gpu in plan.gpus if gpu.gpu == "H200")
    assert h200.gpu_hours == pytest.approx(100)
    assert plan.tokens == pytest.approx(20 * plan.parameters, rel=0.3)
    assert h200.hours == pytest.approx(h200.gpu_hours / 8)
    assert h200.cost == pytest.approx(3 * h200.gpu_hours)
    in_money = plan_scale(budget_cost=300, gpu="H200", gpus=8, price_per_gpu_hour=3.0)
    assert (in_money.model, in_money.flops) == (plan.model, plan.flops)
    assert plan_scale(budget_flops=4e19).parameters > plan_scale(budget_flops=1e19).parameters


def test_memory_by_zero_stage() -> None:
    model = ModelConfig(vocab_size=32768, hidden_size=1024, layers=24, heads=16, kv_heads=4, intermediate_size=2752)
    weights = parameter_count(model)
    states = [memory_plan(model, stage, 8, 4, 2048, False).states / weights for stage in range(4)]
    assert states == pytest.approx([16, 7.5, 4, 2.25])
    saved = memory_plan(model, 1, 8, 4, 2048, True).activations
    assert saved < 0.25 * memory_plan(model, 1, 8, 4, 2048, False).activations


def test_large_models_need_zero_3_on_small_gpus() -> None:
    plan = plan_scale(parameters=8e9, gpus=8, activation_checkpointing=True)
    fits = {gpu.gpu: gpu.fits for gpu in plan.gpus}
    assert not fits["H100"][0]
    assert fits["H200"][3]
    assert not fits["RTX 4090"][1]


def test_the_plan_is_a_recipe_and_explains_itself() -> None:
    plan = plan_scale(parameters=125e6)
    recipe = plan.recipe()
    assert ModelConfig.model_validate(recipe["model"]).hidden_size == plan.model.hidden_size
    assert OptimizerConfig.model_validate(recipe["optimizer"]).lr == plan.lr
    names = {note.name for note in plan.derivation}
    assert {"parameters", "depth × width", "tokens", "learning rate", "batch_sequences", "warm-up steps"} <= names
    assert all(note.rule and note.source for note in plan.derivation)
    lines: list[str] = []
    show(plan, lines.append)
    assert any("ZeRO 3" in line for line in lines)
    assert any("H200" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of"),
        ({"budget_cost": 100}, "price"),
        ({"parameters": 1e8, "budget_flops": 1e18}, "give one of"),
        ({"parameters": 10}, "outside"),
        ({"parameters": 1e6, "vocab_size": 128256}, "vocabulary"),
        ({"budget_gpu_hours": 5, "gpu": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_planned_is_explained(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_scale(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "value"), [("125M", 125e6), ("1.3b", 1.3e9), ("2e9", 2e9), ("400k", 4e5), ("7", 7)])
def test_sizes_are_read_as_they_are_written(text: str, value: float) -> None:
    assert read_count(text) == value


@pytest.mark.parametrize("text", ["", "M", "12 monkeys", "-3M", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a number of parameters"):
        read_count(text)
