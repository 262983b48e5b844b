"""The torch engine takes the same steps as one rank of DeepSpeed, on any mesh and at any stage."""

import functools
import json

import pytest
import torch
from pydantic import ValidationError

from alignment.dpo import DpoConfig
from alignment.ppo import PpoConfig
from alignment.sft import SftConfig
from flows.recipe import load_recipe
from infra.config import identity
from infra.errors import ConfigError
from tests.training.launch import run_ranks
from tests.training.ranks_engine import decoder, gradients, train
from training.create_engine import create_engine
from training.mesh_plan import EXCHANGES
from training.optimizer import OptimizerConfig
from training.parallel import Mesh, ParallelConfig
from training.pretrain import PretrainConfig
from training.ranks import init_distributed

PROGRAM = "tests.training.ranks_engine"
PLAIN = {"dtype": "fp32", "model": "decoder", "steps": 10}


def ways(**options):
    """Every stage with accumulation, AdamW and Muon."""
    plain = {**PLAIN, "engine": "torch", "micro": 2, **options}
    found = {f"stage{stage}": {**plain, "stage": stage} for stage in (1, 2, 3)}
    found["checkpointing"] = {**plain, "stage": 3, "activation_checkpointing": True}
    found["selective"] = {**plain, "stage": 3, "selective_checkpointing": True}
    return found | {f"muon{stage}": {**plain, "stage": stage, "optimizer": "muon"} for stage in (1, 3)}


def check_steps(found):
    ranks = init_distributed()

    @functools.cache
    def of_one_rank(optimizer, layers):
        return train(ranks, 1, micro=8, **PLAIN, optimizer=optimizer, shape={"layers": layers})

    for name, steps in found.items():
        expected = of_one_rank("muon" if "muon" in name else "adamw", 4 if "interleaved" in name else 2)
        for step, reference in zip(steps, expected, strict=True):
            assert step == pytest.approx(reference, rel=1e-5), name


def exchanges():
    """How often a step of one micro batch and one or two layers exchanges something, with each kind of checkpointing."""
    settings = {"none": {}, "full": {"activation_checkpointing": True}, "selective": {"selective_checkpointing": True}}
    once = {**PLAIN, "steps": 1, "engine": "torch", "tensor": 2, "micro": 8, "stage": 1, "measure": "exchanges"}
    return {
        f"{kind} {layers}": {**once, **more, "shape": {"layers": layers}}
        for kind, more in settings.items()
        for layers in (1, 2)
    }


def test_losses_and_norms_on_two_ranks_are_those_of_one():
    shared = {}
    for axis in ("context", "tensor", "pipeline"):
        plain = {**PLAIN, "engine": "torch", "micro": 2, axis: 2}
        again = {"selective_checkpointing" if axis == "tensor" else "activation_checkpointing": True}
        shared |= {axis: {**plain, "stage": 1}, f"muon, {axis}": {**plain, **again, "stage": 3, "optimizer": "muon"}}
    deep = {**PLAIN, "engine": "torch", "micro": 2, "pipeline": 2, "virtual_stages": 2, "shape": {"layers": 4}}
    shared["interleaved"] = {**deep, "stage": 1}
    shared["interleaved muon"] = {**deep, "stage": 3, "activation_checkpointing": True, "optimizer": "muon"}
    found = run_ranks(PROGRAM, 2, json.dumps(ways() | shared | exchanges()), "steps")
    for kind, expected in EXCHANGES.items():
        few, more = (sum(found.pop(f"{kind} {layers}").values()) for layers in (1, 2))
        assert more - few == expected + 2, kind  # and the sums of two norms' gradients
    check_steps(found)


def test_half_precision_stays_near_deepspeed():
    ranks = init_distributed()
    options = {"dtype": "bf16", "model": "decoder"}
    expected = train(ranks, 1, micro=8, **options)
    for (loss, norm), (expected_loss, expected_norm) in zip(
        train(ranks, 1, micro=2, engine="torch", **options), expected, strict=True
    ):
        assert loss == pytest.approx(expected_loss, rel=2e-3)
        assert norm == pytest.approx(expected_norm, rel=1e-2)


def test_a_model_in_half_precision_is_trained_in_full():
    model = decoder("none").to(torch.bfloat16)
    parallel = ParallelConfig(engine="torch", dtype="bf16")
    engine = create_engine(model, OptimizerConfig(), parallel, total_steps=1, ranks=init_distributed())
    assert {piece.dtype for piece in engine.runtime.pieces.values()} == {torch.float32}
    assert {engine.weight(name).dtype for name in engine.shapes()} == {torch.bfloat16}


@pytest.mark.slow
def test_four_ranks_in_any_mesh_take_the_steps_of_one():
    deep = {"pipeline": 2, "virtual_stages": 2, "shape": {"layers": 4}}
    meshes = {
        "shared": ({"tensor": 2}, ("stage1", "stage2", "muon3")),
        "copied": ({"replicate": 2}, ("stage1", "stage2", "stage3", "muon1")),
        "copied and shared": ({"replicate": 2, "tensor": 2}, ("selective", "muon1")),
        "rows cut": ({"context": 2}, ("stage1", "muon3")),
        "rows cut in four": ({"context": 4}, ("checkpointing", "muon1")),
        "rows cut and copied": ({"context": 2, "replicate": 2}, ("stage3",)),
        "rows cut and shared": ({"context": 2, "tensor": 2}, ("checkpointing", "muon1")),
        "stages": ({"pipeline": 2}, ("checkpointing", "muon1")),
        "stages, copied": ({"pipeline": 2, "replicate": 2}, ("stage3",)),
        "stages, shared": ({"pipeline": 2, "tensor": 2}, ("stage2", "muon1")),
        "stages, rows cut": ({"pipeline": 2, "context": 2}, ("muon1",)),
        "interleaved, shared": (deep | {"tensor": 2}, ("checkpointing", "muon1")),
        "interleaved, copied": (deep | {"replicate": 2}, ("stage3",)),
    }
    found = {f"{name}, {kind}": ways(**mesh)[name] for kind, (mesh, names) in meshes.items() for name in names}
    check_steps(run_ranks(PROGRAM, 4, json.dumps(found), "steps", timeout=900))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"qk_norm": True, "tie_embeddings": False}, {"qkv_bias": True}])
def test_every_parameter_has_the_gradient_of_one_rank(shape):
    batch = {"dtype": "fp32", "clip": 0.0, "model": "decoder", "shape": shape}
    expected = gradients(init_distributed(), stage=1, micro=8, **batch)
    meshes = [{"stage": stage, **mesh} for stage in (1, 3) for mesh in ({}, {"tensor": 2}, {"context": 2})]
    ways = {str(mesh): {**batch, **mesh, "micro": 2, "engine": "torch"} for mesh in meshes}
    found = run_ranks(PROGRAM, 2, json.dumps(ways), "gradients")
    for name, measured in found.items():
        assert measured.keys() == expected.keys()
        for parameter, values in expected.items():
            largest = max(abs(value) for value in values)
            assert largest > 0
            assert measured[parameter] == pytest.approx(values, rel=1e-5, abs=1e-6 * largest), (name, parameter)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"replicate": 2}, "engine deepspeed does not know"),
        ({"context": 2}, "engine deepspeed does not know"),
        ({"engine": "torch", "zero_stage": 0, "dtype": "fp32"}, "shard 1 and replicate"),
        ({"engine": "torch", "offload": True}, "take engine deepspeed"),
        ({"tensor": 2}, "engine deepspeed does not know"),
        ({"pipeline": 2}, "engine deepspeed does not know"),
        (
            {"engine": "torch", "expert": 2},
            "expert 2 has no experts to share out: every layer is dense; it may be 1 only",
        ),
        ({"activation_checkpointing": True, "selective_checkpointing": True}, "exclude each other"),
        ({"engine": "torch", "virtual_stages": 2}, "virtual_stages 2 needs a pipeline of 2 ranks or more"),
    ],
)
def test_what_an_engine_lacks_is_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ParallelConfig(**settings)


def test_a_stage_refuses_a_batch_that_its_ranks_cannot_share():
    with pytest.raises(ValidationError, match="batch_sequences 32 cannot be shared by 3 ranks"):
        PretrainConfig(ranks=3)
    two_rows = {"engine": "torch", "context": 2}
    with pytest.raises(ValidationError, match="batch_sequences 3 cannot be shared by 2 ranks"):
        PretrainConfig(ranks=4, batch_sequences=3, parallel=two_rows)
    with pytest.raises(ValidationError, match="4 chunks of 16 prompts cannot be shared by 3 ranks in"):
        PpoConfig(ranks=3)
    with pytest.raises(ConfigError, match="stages.ppo: .* cannot be shared by 3 ranks"):
        load_recipe("demo", ["ppo.ranks=3"])


def test_a_stage_refuses_a_mesh_that_its_ranks_do_not_form():
    parallel = {"engine": "torch", "replicate": 2}
    assert PretrainConfig(ranks=2, nodes=2, parallel=parallel).parallel.mesh(4) == Mesh(2, 2)
    for more in ({"ranks": 3}, {"ranks": 2, "elastic_ranks": 3}):
        with pytest.raises(ValidationError, match="replicate 2 does not fit 3 ranks"):
            PretrainConfig(parallel=parallel, **more)
    with pytest.raises(ValidationError, match="tensor 4 does not divide kv_heads 2; it may be 1, 2"):
        PretrainConfig(ranks=4, parallel={"engine": "torch", "tensor": 4})
    with pytest.raises(ValidationError, match="engine torch needs zero_stage 1, 2 or 3"):
        SftConfig(engine="torch", zero_stage=0, dtype="fp32")
    with pytest.raises(ValidationError, match="replicate 2 does not fit 3 ranks"):
        SftConfig(engine="torch", ranks=3, replicate=2)
    with pytest.raises(ValidationError, match="context 2: .* form a mesh of replicate, shard, tensor only"):
        DpoConfig(engine="torch", context=2)
    with pytest.raises(ValidationError, match="expert 2 has no experts to share out"):
        SftConfig(engine="torch", expert=2)
    with pytest.raises(ValidationError, match="lora and neftune want whole rows and matrices, which tensor 2 cuts"):
        SftConfig(engine="torch", tensor=2, lora={"rank": 4})
    with pytest.raises(ValidationError, match="context 2 does not cut rows of 33 tokens .*; it may be 1, 3, 11, 33"):
        SftConfig(engine="torch", context=2, row_length=33)


def test_an_engine_left_alone_leaves_fingerprints_alone():
    mesh = {
        "replicate",
        "shard",
        "context",
        "tensor",
        "pipeline",
        "expert",
        "virtual_stages",
        "selective_checkpointing",
    }
    assert not {"engine", *mesh} & identity(ParallelConfig()).keys()
    assert identity(ParallelConfig(engine="torch"))["engine"] == "torch"


def test_a_mesh_is_all_ranks_or_refused_with_those_that_fit():
    assert ParallelConfig(engine="torch", replicate=2).mesh(6) == Mesh(2, 3)
    assert ParallelConfig(engine="torch", replicate=2, tensor=2).mesh(8) == Mesh(2, 2, tensor=2)
    with pytest.raises(ValueError, match="tensor 4 does not fit 6 ranks; tensor may be 1, 2, 3, 6"):
        ParallelConfig(engine="torch", tensor=4).mesh(6)
    with pytest.raises(ValueError, match="replicate 4 does not fit 6 ranks; .* 1 × 6, 2 × 3, 3 × 2, 6 × 1"):
        ParallelConfig(engine="torch", replicate=4).mesh(6)
    with pytest.raises(ValueError, match="replicate 2 × shard 2 does not fit 2 ranks"):
        ParallelConfig(engine="torch", replicate=2, shard=2).mesh(2)
    with pytest.raises(ValueError, match="replicate 1 × context 4 does not fit 6 ranks; context may be 1, 2, 3, 6"):
        ParallelConfig(engine="torch", context=4).mesh(6)
    with pytest.raises(ValueError, match="replicate 2 × context 2 does not fit 6 ranks; .* 1 × 3, 3 × 1"):
        ParallelConfig(engine="torch", replicate=2, context=2).mesh(6)


def test_ranks_that_share_rows_are_neighbours():
    mesh = ParallelConfig(engine="torch", replicate=2, context=2).mesh(8)
    assert mesh == Mesh(2, 2, 2) and str(mesh) == "2 replicas × 2 shards × 2 parts of a sequence"
    assert [mesh.row_share(rank) for rank in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [mesh.part(rank) for rank in range(8)] == [0, 1] * 4


def test_stages_that_do_not_divide_layers_or_have_no_micro_batches_are_refused():
    def config(layers, batch, micro):
        parallel = {"engine": "torch", "pipeline": 2, "micro_batch": micro}
        return PretrainConfig(ranks=4, model={"layers": layers}, batch_sequences=batch, parallel=parallel)

    assert config(4, 16, 4).parallel.mesh(4) == Mesh(1, 2, pipeline=2)
    assert [config(4, 16, 4).parallel.mesh(4).stage(rank) for rank in range(4)] == [0, 0, 1, 1]
    assert [config(4, 16, 4).parallel.mesh(4).row_share(rank) for rank in range(4)] == [0, 1, 0, 1]
    with pytest.raises(ValidationError, match="pipeline 2 does not divide 5 layers; it may be 1, 5"):
        config(5, 16, 4)
    for micro in (8, 3):
        with pytest.raises(ValidationError, match=f"micro_batch {micro} does not make 2 or .* 8 sequences .* 1, 2, 4"):
            config(4, 16, micro)
    interleaved = {"engine": "torch", "pipeline": 2, "virtual_stages": 2, "micro_batch": 2}
    with pytest.raises(ValidationError, match="micro batches in equal rounds of the 10 sequences .* may be 1, 5"):
        PretrainConfig(ranks=2, model={"layers": 4}, batch_sequences=10, parallel=interleaved)


def test_heads_and_sequences_that_cannot_be_shared_out_are_refused():
    model = {"heads": 12, "kv_heads": 4, "hidden_size": 48}
    PretrainConfig(ranks=4, model=model, parallel={"engine": "torch", "context": 4})
    with pytest.raises(ValidationError, match="context 3 cannot share out 12 heads on 4 .*; it may be 1, 2, 4, 12"):
        PretrainConfig(ranks=3, model=model, parallel={"engine": "torch", "context": 3})
    with pytest.raises(ConfigError, match="context 5 does not cut sequences of 64 tokens") as refused:
        ParallelConfig(engine="torch", context=5).check_sequence(64)
    assert "1, 2, 4, 8, 16, 32, 64" in refused.value.remedy
