"""A mesh's costs: equal to what the engine's own modules hold, to the published formulas, and what is recommended."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.pipelining import ScheduleInterleaved1F1B
from torch.utils import _pytree as pytree

import training.model
from infra.errors import ConfigError
from training.create_engine import _Watched
from training.fsdp import Fsdp
from training.mesh_plan import _in_flight, derivation, plan_mesh, recommend, stage_of, step_time
from training.model import Decoder, ModelConfig, build_model, parameter_count
from training.optimizer import OptimizerConfig
from training.parallel import Mesh, ParallelConfig
from training.pipeline_parallel import Stage
from training.ranks import init_distributed
from training.scale import GPU_MEMORY_GB, USABLE_MEMORY, block_activations, kept_activations, plan_scale

TINY = ModelConfig(vocab_size=512, hidden_size=64, layers=4, heads=8, kv_heads=4, intermediate_size=128)
LLAMA = ModelConfig(
    vocab_size=128256,
    hidden_size=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    intermediate_size=14336,
    tie_embeddings=False,
)
SEVEN = plan_scale(parameters=7e9).model


def planned(model: ModelConfig, gpus: int, seq_len: int = 2048, batch: int = 64, **parallel: Any):
    return plan_mesh(model, ParallelConfig(engine="torch", **parallel), gpus, seq_len, batch)


def test_zero_3_cuts_16_bytes_a_parameter_over_the_shards() -> None:
    plan = planned(SEVEN, 8, zero_stage=3, micro_batch=1)
    weights = parameter_count(SEVEN)
    stage = stage_of(SEVEN, Mesh(1, 8), 0)
    rows = plan.memory["gradients"] - 4 * (stage.outside + stage.block) + plan.memory["optimizer"]
    assert rows == pytest.approx(16 * weights / 8)
    assert plan.memory["weights"] == 2 * (stage.outside + 2 * stage.block) < 2 * weights / 4
    whole = planned(SEVEN, 8, zero_stage=1, micro_batch=1)
    assert whole.memory["weights"] == 2 * weights
    assert whole.memory["gradients"] == pytest.approx(4 * weights * (1 + 1 / 8))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_stage_has_the_parameters_that_it_has_in_training(tied: bool, stages: int) -> None:
    shape = TINY.model_copy(update={"tie_embeddings": tied, "qk_norm": True})
    for index in range(stages):
        with torch.device("meta"):
            decoder = Decoder(shape)
            module: nn.Module = decoder if stages == 1 else Stage(decoder, index, stages, None)
        held = sum(parameter.numel() for parameter in module.parameters())
        assert stage_of(shape, Mesh(1, 1, pipeline=stages), index).parameters == held
        norms = sum(each.numel() for name, each in module.named_parameters() if "norm" in name)
        halves = stage_of(shape, Mesh(1, 1, tensor=2, pipeline=stages), index).parameters
        assert halves == (held - norms) // 2 + norms


def test_a_rank_holds_what_the_plan_says() -> None:
    parallel = ParallelConfig(engine="torch", zero_stage=2, micro_batch=1)
    init_distributed()
    model = build_model(TINY.model_copy(update={"max_position": 32}), 0)
    engine = Fsdp(_Watched(model), OptimizerConfig(), parallel, Mesh(1, 1), torch.device("cpu"))
    engine.backward(engine(lambda model: model(torch.zeros(1, 32, dtype=torch.long))).float().square().sum())
    engine.clip(1.0)
    gradients = sum(piece.grad.nbytes for piece in engine.pieces.values() if piece.grad is not None)
    engine.step()
    tensors = [value for state in engine.optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in tensors if torch.is_tensor(value) and value.dim())
    masters = sum(piece.nbytes for piece in engine.pieces.values())
    plan = planned(TINY, 1, seq_len=32, batch=4, zero_stage=2, micro_batch=1)
    assert (masters + moments, gradients) == (plan.memory["optimizer"], 4 * parameter_count(TINY))


def test_a_block_keeps_about_the_activations_that_are_counted() -> None:
    kept = []
    for layers in (2, 4):
        model = build_model(TINY.model_copy(update={"layers": layers, "hidden_size": 256, "intermediate_size": 704}), 0)
        weights, seen = {each.untyped_storage().data_ptr() for each in model.parameters()}, {}

        def note(tensor: torch.Tensor, weights: set[int] = weights, seen: dict[int, Any] = seen) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.zeros(1, 128, dtype=torch.long))
        kept.append(sum(storage.nbytes() for storage in seen.values()) / 128 / 4)
    assert (kept[1] - kept[0]) / 2 == pytest.approx(block_activations(model.config), rel=0.15)


def test_selective_checkpointing_keeps_about_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found, create = [], training.model.create_selective_checkpoint_contexts

    def note(policy: Any) -> Any:
        found.append(create(policy))
        return found[-1]

    monkeypatch.setattr(training.model, "create_selective_checkpoint_contexts", note)
    shape = TINY.model_copy(update={"hidden_size": 256, "intermediate_size": 704})
    build_model(shape, 0, checkpointing="selective")(torch.zeros(1, 128, dtype=torch.long))
    outputs = [each for keeping, _ in found for each in keeping.storage.values()]
    values = [getattr(leaf, "val", None) for leaf in pytree.tree_leaves(outputs)]
    kept = sum(value.nbytes for value in values if torch.is_tensor(value))
    expected = kept_activations(shape, "selective") - shape.hidden_size  # a block's input is kept anyhow
    assert kept / 128 / 4 / shape.layers == pytest.approx(expected, rel=0.05)


def test_bubble_and_micro_batches_in_flight() -> None:
    plan = planned(TINY, 4, batch=16, pipeline=4, micro_batch=2)
    assert (plan.micro_batches, plan.bubble_share) == (8, pytest.approx(3 / 11))
    alone = planned(TINY, 1, batch=16, micro_batch=2)
    # A quarter of the layers for four micro batches at once.
    assert plan.memory["activations"] == alone.memory["activations"]
    assert alone.bubble_share == 0 == sum(alone.communication.values())


def test_interleaved_stages_wait_less_keep_more_and_send_more() -> None:
    plain = planned(TINY, 2, batch=16, pipeline=2, micro_batch=2)
    halves = planned(TINY, 2, batch=16, pipeline=2, micro_batch=2, virtual_stages=2)
    assert (plain.bubble_share, halves.bubble_share) == (pytest.approx(1 / 9), pytest.approx(1 / 17))
    orders = ScheduleInterleaved1F1B._calculate_single_rank_operations
    schedule = SimpleNamespace(n_local_stages=2, _n_microbatches=8, pp_group_size=2, microbatches_per_round=2)
    for place in (0, 1):
        flying = highest = 0
        for action in filter(None, orders(schedule, place)):  # type: ignore[arg-type]
            flying += 1 if action.computation_type.name == "FORWARD" else -1
            highest = max(highest, flying)
        assert _in_flight(halves.parallel, halves.mesh, place, 8) == highest / 2
    hidden = 2 * 16 * 2048 * TINY.hidden_size
    assert halves.communication["pipeline"] - plain.communication["pipeline"] == 2 * hidden


def test_bytes_sent_by_axis() -> None:
    weights, batch, width = parameter_count(TINY), 32, TINY.hidden_size
    one = planned(TINY, 4, batch=batch, zero_stage=1, micro_batch=2).communication
    assert one == pytest.approx(dict.fromkeys(one, 0.0) | {"shard": (2 + 4) * weights * 3 / 4})
    two = planned(TINY, 4, batch=batch, zero_stage=2, micro_batch=2).communication
    assert two["shard"] == pytest.approx((2 + 4 * 4) * weights * 3 / 4)
    copies = planned(TINY, 4, batch=batch, replicate=4, zero_stage=1, micro_batch=2).communication
    assert copies["replicate"] == pytest.approx(2 * 4 * weights * 3 / 4) and copies["shard"] == 0
    rows = planned(TINY, 2, batch=batch, context=2, micro_batch=2).communication
    # Half the tokens of a row: queries, keys, values and what comes out, there and back, half of them to the other rank.
    assert rows["context"] == pytest.approx(2 * (batch * 1024) * (2 * 8 + 2 * 4) * 8 * 2 * TINY.layers / 2)
    stages = planned(TINY, 2, batch=batch, pipeline=2, micro_batch=2).communication
    assert stages["pipeline"] == pytest.approx(2 * batch * 2048 * width + 4 * 512 * width)
    slices = planned(TINY, 2, batch=batch, tensor=2, micro_batch=2).communication
    assert slices["tensor"] == pytest.approx(2 * batch * 2048 * width * (8 * TINY.layers + 5) / 2)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]), st.booleans())
def test_more_ranks_hold_less_each(shard: int, zero_stage: int, tensor: int, checkpointing: bool) -> None:
    common: dict[str, Any] = {"zero_stage": zero_stage, "micro_batch": 1, "activation_checkpointing": checkpointing}
    batch = 64 * shard
    few = planned(TINY, shard * tensor, batch=batch, tensor=tensor, **common)
    more = planned(TINY, 2 * shard * tensor, batch=batch, tensor=tensor, **common)
    copied = planned(TINY, 2 * shard * tensor, batch=batch, tensor=tensor, replicate=2, **common)
    assert more.memory_total < few.memory_total == copied.memory_total
    if tensor < 4:
        halved = planned(TINY, 2 * shard * tensor, batch=batch, tensor=2 * tensor, **common)
        assert halved.memory["optimizer"] < few.memory["optimizer"]


def test_what_is_recommended_fits_and_is_no_slower_than_its_neighbours() -> None:
    asked: dict[str, Any] = {"gpus": 64, "seq_len": 8192, "batch_sequences": 704}
    model = plan_scale(parameters=8e9, seq_len=8192, gpus=64).model
    best = recommend(model, gpu="h100", **asked)
    assert best.mesh.size == 64 and best.time is not None
    assert best.memory_total <= GPU_MEMORY_GB["H100"] * 1e9 * USABLE_MEMORY
    for parallel in (
        {"zero_stage": 3, "micro_batch": 1, "activation_checkpointing": True},
        {"zero_stage": 3, "micro_batch": 4, "activation_checkpointing": True, "replicate": 8},
    ):
        assert best.time.total <= 1.01 * step_time(planned(model, 64, 8192, 704, **parallel), "H100").total
    notes = derivation(best)
    assert all(note.rule and note.source for note in notes) and {"bubble", "step"} <= {note.name for note in notes}


def test_a_row_too_long_for_one_rank_is_cut() -> None:
    best = recommend(LLAMA, gpus=64, gpu="H100", seq_len=131072, batch_sequences=64)
    assert best.mesh.context * best.mesh.tensor > 1


def test_where_none_fits_the_sentence_says_how_many_would() -> None:
    model = plan_scale(parameters=70e9).model
    with pytest.raises(
        ConfigError, match=r"no mesh of 8 H100 holds a model of 70.*of which 73\.6.*Take (16|32) of them"
    ) as told:
        recommend(model, gpus=8, gpu="H100", seq_len=2048, batch_sequences=64)
    enough = int(str(told.value).split("Take ")[1].split()[0])
    assert recommend(model, gpus=enough, gpu="H100", seq_len=2048, batch_sequences=64).mesh.size == enough
    with pytest.raises(ConfigError, match=r"links of GPU 'abacus' are not known.*H100"):
        recommend(model, gpus=8, gpu="abacus", seq_len=2048, batch_sequences=64)


@pytest.mark.parametrize(
    ("gpus", "parallel", "said"),
    [
        (8, {"tensor": 8}, "tensor 8 does not divide kv_heads 4; it may be 1, 2, 4"),
        (6, {"pipeline": 4}, "does not fit 6 ranks"),
        (3, {}, "64 sequences a step cannot be shared by 3 groups"),
        (3, {"pipeline": 3}, "pipeline 3 does not divide 4 layers"),
        (
            2,
            {"pipeline": 2, "virtual_stages": 4},
            "virtual_stages 4 does not divide the 2 layers of a rank; it may be 1, 2",
        ),
    ],
)
def test_what_is_no_mesh_is_refused(gpus: int, parallel: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        planned(TINY, gpus, **parallel)
