"""The decoder: documents kept apart, caches, memory savers and first weights that change nothing they should not."""

import itertools
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.training.folders import tiny_config, tiny_model
from training.attention import attend_explicitly, document_mask, visibility
from training.model import Decoder, ModelConfig, build_model, parameter_count
from training.parallel import Checkpointing


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(8, 264, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": True}, {"rope_scaling": {"kind": "llama3", "factor": 4.0, "original_max_position": 32}}],
)
def test_a_packed_row_equals_its_documents_alone(changes: dict[str, object]) -> None:
    model = tiny_model(**changes)
    first, second = tokens(1, 9), tokens(1, 14, seed=1)
    padding = torch.zeros(1, 3, dtype=torch.long)
    row = torch.cat([first, second, padding], dim=1)
    segments = torch.tensor([[0] * 9 + [1] * 14 + [2] * 3])
    packed = model(row, segments=segments)
    torch.testing.assert_close(packed[:, :9], model(first), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 9:23], model(second), atol=1e-5, rtol=1e-5)
    assert torch.isfinite(packed).all()
    assert not torch.allclose(model(row)[:, 9:23], packed[:, 9:23], atol=1e-3), "without segments documents would mix"


def test_documents_laid_end_to_end_equal_documents_behind_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout that the GPU's kernel is given, with a slow stand-in for the kernel."""

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *_: object, **__: object) -> Tensor:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
        parts = []
        for begin, end in itertools.pairwise(starts.tolist()):
            queries, keys, values = (part[begin:end].transpose(0, 1) for part in (q, k, v))
            parts.append(F.scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(0, 1))
        return torch.cat(parts)

    model = tiny_model()
    rows, segments = tokens(2, 20), torch.tensor([[1] * 9 + [2] * 8 + [0] * 3, [1] * 20])
    wanted = model(rows, segments=segments)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr("training.attention.has_document_kernel", lambda hidden: True)
    torch.testing.assert_close(model(rows, segments=segments), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_written_out_equals_the_kernel(kv_heads: int) -> None:
    """Values and all gradients, in float32."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 21, 4, 6), (2, 21, kv_heads, 6), (2, 21, kv_heads, 6)]
    parts = [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]
    mask = document_mask(torch.tensor([[0] * 9 + [1] * 12, [3] * 20 + [0]]))
    queries, keys, values = (part.transpose(1, 2) for part in parts)
    kernel = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    written_out = attend_explicitly(*parts, torch.zeros(mask.shape).masked_fill(~mask, float("-inf")))
    torch.testing.assert_close(written_out, kernel)
    towards = torch.randn(kernel.shape, generator=draw)
    for ours, theirs in zip(
        torch.autograd.grad(written_out, parts, towards), torch.autograd.grad(kernel, parts, towards), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_short_packed_rows_in_half_precision_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(init_std=0.1).to(torch.bfloat16)
    rows, segments = tokens(2, 20), torch.tensor([[1] * 9 + [2] * 11, [1] * 20])
    assert visibility(model.embed_tokens(rows), segments, None).bias is not None
    quick = model(rows, segments=segments)
    monkeypatch.setattr("training.attention.EXPLICIT_TOKENS", 19)
    assert visibility(model.embed_tokens(rows), segments, None).mask is not None
    torch.testing.assert_close(quick, model(rows, segments=segments), atol=0.06, rtol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_the_kernel_of_the_gpu_equals_the_mask(kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kv_heads=kv_heads, hidden_size=128, init_std=0.1).to("cuda", torch.bfloat16)
    rows, segments = tokens(4, 96).cuda(), torch.arange(96).div(37, rounding_mode="floor").expand(4, 96).cuda()
    results = []
    for kernel in (True, False):
        monkeypatch.setattr("training.attention.has_document_kernel", lambda hidden, kernel=kernel: kernel)
        hidden = model(rows, segments=segments)
        gradient = torch.autograd.grad(hidden.float().square().sum(), model.embed_tokens.weight)[0]
        results.append((hidden, gradient))
    torch.testing.assert_close(results[0][0], results[1][0], atol=0.1, rtol=0.05)
    torch.testing.assert_close(results[0][1], results[1][1], atol=0.5, rtol=0.1)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_results() -> None:
    segments = torch.arange(32).div(12, rounding_mode="floor").expand(2, 32)
    results = []
    for compiled in (False, True):
        model = build_model(tiny_config(), 0)
        if compiled:
            model.compile()
        hidden = model(tokens(2, 32), segments=segments)
        hidden.square().sum().backward()
        results.append([hidden, *(parameter.grad for parameter in model.parameters())])
    for eager, fast in zip(*results, strict=True):
        torch.testing.assert_close(eager, fast, atol=1e-4, rtol=1e-4)


def test_no_token_sees_the_future() -> None:
    model = tiny_model()
    row = tokens(1, 20)
    changed = row.clone()
    changed[0, 12:] = 9
    torch.testing.assert_close(model(row)[:, :12], model(changed)[:, :12])


@pytest.mark.parametrize("pieces", [(20,), (1,) * 20, (7, 1, 12)])
def test_the_cache_changes_nothing(pieces: tuple[int, ...]) -> None:
    model = tiny_model()
    rows = tokens(2, 20)
    cache = model.new_cache(2, 20)
    parts = [model(part, cache=cache) for part in rows.split(list(pieces), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(rows), atol=1e-5, rtol=1e-5)


def test_rows_of_unequal_length_in_the_cache() -> None:
    model = tiny_model()
    short, long, more = tokens(1, 5), tokens(1, 9, seed=2), tokens(2, 3, seed=3)
    rows = torch.cat([torch.cat([short, torch.zeros(1, 4, dtype=torch.long)], dim=1), long])
    cache = model.new_cache(2, 12, prompt_lengths=[5, 9])
    hidden = model(rows, cache=cache)
    torch.testing.assert_close(hidden[:1, :5], model(short), atol=1e-5, rtol=1e-5)
    for column in more.split(1, dim=1):
        following = model(column, cache=cache)
    for row, prompt in enumerate((short, long)):
        whole = model(torch.cat([prompt, more[row : row + 1]], dim=1))
        torch.testing.assert_close(following[row, -1], whole[0, -1], atol=1e-5, rtol=1e-5)
    cache.keep_rows([1])
    following = model(more[1:, :1], cache=cache)
    torch.testing.assert_close(
        following[0, 0], model(torch.cat([long, more[1:], more[1:, :1]], dim=1))[0, -1], atol=1e-5, rtol=1e-5
    )


def test_activation_checkpointing_gives_the_same_gradients_and_computes_again_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # DeepSpeed's stage 3 leaves its own in this place for the rest of the process, of which the counter sees no product.
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
    gradients: dict[str, list[Any]] = {}
    flops = {}
    for checkpointing in get_args(Checkpointing):
        model = build_model(tiny_config(), 0, checkpointing=checkpointing)
        segments = torch.arange(16).div(6, rounding_mode="floor").expand(2, 16)
        loss = model(tokens(2, 16), segments=segments).square().sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        flops[checkpointing] = counter.get_total_flops()
        gradients[checkpointing] = [parameter.grad for parameter in model.parameters()]
    for each in gradients.values():
        for plain, saved in zip(gradients["none"], each, strict=True):
            torch.testing.assert_close(plain, saved)
    assert flops["none"] == flops["selective"] < 0.8 * flops["full"]


def test_first_weights_depend_on_seed_and_name_only() -> None:
    here = build_model(tiny_config(), 3)
    there = Decoder(tiny_config())
    there.init_weights(3)
    half = build_model(tiny_config(), 3, dtype=torch.bfloat16)
    for name, parameter in here.named_parameters():
        assert torch.equal(parameter, there.get_parameter(name))
        assert torch.equal(parameter.bfloat16(), half.get_parameter(name))
    assert not torch.equal(here.embed_tokens.weight, build_model(tiny_config(), 4).embed_tokens.weight)


def test_residual_projections_shrink_with_depth() -> None:
    model = build_model(tiny_config(layers=8, hidden_size=64, init_std=0.02), 0)
    attention = model.get_parameter("layers.0.self_attn.q_proj.weight").std()
    output = model.get_parameter("layers.0.mlp.down_proj.weight").std()
    assert (output / attention).item() == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"qk_norm": True}, {"head_dim": 16}])
def test_parameter_count(changes: dict[str, object]) -> None:
    model = tiny_model(**changes)
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())


def test_bf16_keeps_distant_positions_apart() -> None:
    model = build_model(tiny_config(max_position=8192), 0).bfloat16()
    row = tokens(1, 4)
    near = model(row, positions=torch.arange(4)).float()
    far = model(row, positions=torch.arange(4) + 4001).float()
    torch.testing.assert_close(near, far, atol=0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30}, "not a multiple of heads"),
        ({"kv_heads": 3}, "not a multiple of kv_heads"),
        ({"head_dim": 7}, "even"),
        ({"layres": 2}, "layres"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"hidden_size": 32, "heads": 4, "kv_heads": 2} | changes)
