"""What is measured on an accelerator, a function a section; each runs in a process of its own (``tests.gpu.check``).

``Setting.toy`` shrinks models, batches and numbers of steps so that the same code runs on a CPU in seconds.
"""

import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.dpo import DpoConfig, dpo_losses
from alignment.pairs import PairTokens, pair_batch
from alignment.ppo_update import ActorCritic, PpoModels, PpoRules, collect, update
from alignment.replies import RewardModel
from alignment.rollouts import ReplySettings
from infra.errors import ConfigError
from tests.benchmarks.train import ON_GPU, SMALL, Case
from tests.benchmarks.train_parts.contenders import Spec, alone
from tests.training.pretraining import build_inputs
from training.attention import asks_for_groups, attend_documents, document_mask, document_starts, has_document_kernel
from training.create_engine import create_engine
from training.engine import Engine
from training.generate import generate
from training.loader import MicroBatch
from training.loss import chunked_cross_entropy
from training.metrics import flops_per_token, memory_gb, utilisation
from training.model import Decoder, ModelConfig, build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks, distributed
from training.validation import summed_loss


@dataclass(frozen=True)
class Setting:
    """Where the inputs lie and how large everything is."""

    folder: str
    toy: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def seq_len(self) -> int:
        return 64 if self.toy else 2048

    def case(self, name: str) -> Case:
        return Case(name, SMALL, "bf16", 2, 4) if self.toy else next(case for case in ON_GPU if case.name == name)

    def shape(self, name: str) -> ModelConfig:
        return ModelConfig.model_validate(self.case(name).model)


def inputs(setting: Setting) -> dict[str, Any]:
    """Token shards of generated documents for the training sections."""
    folder = Path(setting.folder)
    web, code = (200, 50) if setting.toy else (4000, 1000)
    datasets = build_inputs(folder / "inputs", web=web, code=code, seq_len=setting.seq_len)
    (folder / "inputs.json").write_text(json.dumps({role: str(dataset.root) for role, dataset in datasets.items()}))
    return {"rows": datasets["shards"].manifest.counts.kept}


def machine(setting: Setting) -> dict[str, Any]:
    """The card and its two ceilings: a large matrix product and a large copy."""
    side, size = (256, 1 << 20) if setting.toy else (8192, 1 << 32)
    left, right = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(size, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": name,
        "torch": torch.__version__,
        "matmul_tflops": 2 * side**3 / timed(lambda: left @ right) / 1e12,
        "copy_tb_per_s": 2 * size / timed(lambda: target.copy_(source)) / 1e12,
    }


def attention(setting: Setting) -> dict[str, Any]:
    """Documents of packed rows: the kernel of variable lengths against the masked reference in float32."""
    answer: dict[str, Any] = {}
    for heads, kv_heads, width in [(16, 16, 64), (16, 4, 128)]:
        rows, tokens = 2, setting.seq_len
        generator = torch.Generator().manual_seed(0)
        parts = [
            torch.randn(rows, tokens, number, width, generator=generator).to(setting.device)
            for number in (heads, kv_heads, kv_heads, heads)
        ]
        cuts = torch.randint(0, 9, (rows, tokens), generator=generator) == 0
        segments = (cuts & (torch.rand(rows, tokens, generator=generator) < 0.05)).cumsum(1).to(setting.device)

        def masked(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor = segments) -> Tensor:
            mixed = torch.nn.functional.scaled_dot_product_attention(
                *(part.transpose(1, 2) for part in (queries, keys, values)),
                attn_mask=document_mask(seen),
                enable_gqa=queries.shape[2] != keys.shape[2],
            )
            return mixed.transpose(1, 2)

        def packed(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor = segments) -> Tensor:
            return attend_documents(queries, keys, values, document_starts(seen), asks_for_groups())

        wanted = _with_gradients(masked, parts)
        half = [part.bfloat16() for part in parts]
        kernel = packed if has_document_kernel(half[0]) else masked
        found = _with_gradients(kernel, half)
        errors = [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
        answer[f"heads {heads}/{kv_heads} of {width}"] = {
            "kernel": kernel.__name__,
            "relative_errors": dict(zip(("output", "queries", "keys", "values"), errors, strict=True)),
            "seconds": timed(lambda kernel=kernel, half=half: _with_gradients(kernel, half)),  # type: ignore[misc]
            "seconds_masked": timed(lambda half=half: _with_gradients(masked, half)),  # type: ignore[misc]
        }
        assert max(errors) < 2e-2, errors
    return answer | {"causal": _causal_backends(setting)}


def _with_gradients(function: Callable[..., Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    inputs = [part.detach().requires_grad_() for part in parts[:3]]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, parts[3])]


def _causal_backends(setting: Setting) -> dict[str, Any]:
    """Milliseconds of forward and backward, causal, by the kernels that PyTorch has; ``default`` is its own choice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    answer: dict[str, Any] = {}
    backends = {"default": None, "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for heads, width, rows in [(16, 64, 16), (16, 128, 8)]:
        shape = (1 if setting.toy else rows, setting.seq_len, heads, width)
        parts = [torch.randn(shape, device=setting.device, dtype=torch.bfloat16) for _ in range(4)]

        def causal(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            heads_first = (part.transpose(1, 2) for part in (queries, keys, values))
            return torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)

        for name, backend in backends.items():
            with sdpa_kernel(backend) if backend else contextlib.nullcontext():
                try:
                    answer[f"{name} {width}"] = 1e3 * timed(lambda parts=parts: _with_gradients(causal, parts))  # type: ignore[misc]
                except RuntimeError as error:
                    answer[f"{name} {width}"] = str(error).splitlines()[0][:200]
    return answer


def loss(setting: Setting) -> dict[str, Any]:
    """The chunked loss, as it is and compiled, against float64: errors, milliseconds, memory."""
    tokens, vocabulary, width = (256, 512, 64) if setting.toy else (16_384, 32_768, 1024)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, width, generator=generator).to(setting.device, torch.bfloat16)
    weight = (torch.randn(vocabulary, width, generator=generator) * 0.05).to(setting.device, torch.bfloat16)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator).to(setting.device)
    few = slice(0, 512)
    answer: dict[str, Any] = {}
    for fused in (False, True):

        def whole(part: slice = slice(None), fused: bool = fused) -> list[Tensor]:
            inputs = [hidden[part].detach().requires_grad_(), weight.detach().requires_grad_()]
            total, _ = chunked_cross_entropy(*inputs, targets[part], None, 1e-4, fused)
            return [total.detach(), *torch.autograd.grad(total, inputs)]

        exact = [hidden[few].double().requires_grad_(), weight.double().requires_grad_()]
        logits = exact[0] @ exact[1].T
        partition = logits.logsumexp(-1)
        wanted = (partition - logits.gather(-1, targets[few, None])[:, 0] + 1e-4 * partition.square()).sum()
        references = [wanted.detach(), *torch.autograd.grad(wanted, exact)]
        errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(whole(few), references, strict=True)]
        assert max(errors) < 2e-2, errors
        _reset_memory()
        answer["compiled" if fused else "plain"] = {
            "relative_errors": errors,
            "ms": 1e3 * timed(whole),
            "gb": memory_gb(),
        }
    return answer


def train(setting: Setting, case: str, contender: str, **changes: Any) -> dict[str, Any]:
    """One contender of ``headwater bench train`` on one model: tokens a second, model FLOPs utilisation, memory. The best
    turn counts: nobody else is on the card, and in an early one a compiler may still be at work."""
    spec = Spec(
        inputs=json.loads((Path(setting.folder) / "inputs.json").read_text()),
        model=setting.shape(case).model_dump(mode="json"),
        dtype="bf16",
        batch=setting.case(case).batch,
        # The peers hold full logits, and have memory for half as many rows.
        micro=setting.case(case).micro // (1 if contender == "ours" else 2),
        turns=1 if setting.toy else 2,
        steps=1 if setting.toy else 2,
        threads=8 if torch.cuda.is_available() else 1,
        compile=torch.cuda.is_available(),
        folder="",
        checkpoint=False,
    )
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        rows, answer = alone(contender, dataclasses.replace(spec, folder=folder, **changes))
    speeds = [row["tokens_per_s"] for row in rows]
    flops = flops_per_token(setting.shape(case), setting.seq_len)
    best = {"tokens_per_s": max(speeds), "mfu": utilisation(flops, max(speeds), 1)}
    return answer | best | {"tokens_per_s_by_turn": speeds}


def precision(setting: Setting) -> dict[str, Any]:
    """Losses of the same ten steps in float32, bf16 and float8, compiled or not, and their speed."""
    answer: dict[str, Any] = {}
    ways = {
        "fp32": {"dtype": "fp32", "zero_stage": 0},
        "bf16": {},
        "bf16 compiled": {"compile": True},
        "float8": {"float8": True},
        "float8 compiled": {"float8": True, "compile": True},
    }
    with distributed() as ranks:
        for name, settings in ways.items():
            if setting.toy and "compiled" in name:
                continue
            try:
                answer[name] = _ten_steps(setting, ranks, ParallelConfig.model_validate(settings))
            except ConfigError as refusal:  # this machine has no such precision
                answer[name] = {"not_reached": str(refusal)}
            except Exception as error:  # one precision must not cost the others their figures
                answer[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
    reference = answer["fp32"].get("losses")
    for found in answer.values():
        if reference and "losses" in found:
            found["largest_difference"] = max(abs(a - b) for a, b in zip(found["losses"], reference, strict=True))
    return answer


def _ten_steps(setting: Setting, ranks: Ranks, parallel: ParallelConfig, model: str = "125M") -> dict[str, Any]:
    shape, tokens = setting.shape(model), setting.seq_len
    _reset_memory()
    engine = create_engine(
        build_model(shape, 0, device=ranks.device), OptimizerConfig(lr=3e-4), parallel, total_steps=10, ranks=ranks
    )
    rows, losses, seconds = setting.case(model).micro, [], []
    generator = torch.Generator().manual_seed(2)
    for _ in range(3 if setting.toy else 10):
        batch = random_batch(generator, rows, tokens, min(shape.vocab_size, 1000), ranks.device)
        began = time.perf_counter()
        losses.append(engine.train_step([batch], summed_loss, lambda batch: batch.tokens).loss)
        _synchronize()
        seconds.append(time.perf_counter() - began)
    speed = rows * tokens / statistics.median(seconds[2:])
    engine.runtime.destroy()
    return {
        "losses": losses,
        "tokens_per_s": speed,
        "mfu": utilisation(flops_per_token(shape, tokens), speed, 1),
        "memory_gb": memory_gb(),
    }


def random_batch(
    generator: torch.Generator, rows: int, tokens: int, vocabulary: int, device: torch.device
) -> MicroBatch:
    """Tokens that can be learnt: each is mostly the successor of the one before."""
    steps = torch.where(torch.rand(rows, tokens + 1, generator=generator) < 0.9, 1, 7)
    ids = (steps.cumsum(1) % vocabulary).to(device)
    mask = torch.ones(rows, tokens, device=device)
    return MicroBatch(ids[:, :-1], ids[:, 1:], mask, None, float(rows * tokens))


def zero_stages(setting: Setting) -> dict[str, Any]:
    """ZeRO 1 to 3 with one rank: the same steps, their speed and memory."""
    answer: dict[str, Any] = {}
    with distributed() as ranks:
        for stage in (1, 2, 3):
            try:
                answer[str(stage)] = _ten_steps(setting, ranks, ParallelConfig(zero_stage=stage))
            except Exception as error:  # one stage must not cost the others their figures
                answer[str(stage)] = {"error": f"{type(error).__name__}: {error}"[:500]}
    return answer


def profile(setting: Setting, case: str = "350M") -> dict[str, Any]:
    """Where a step's time goes: the kernels that take most of it, in milliseconds of one step of two micro batches."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    shape, rows, tokens = setting.shape(case), setting.case(case).micro, setting.seq_len
    with distributed() as ranks:
        engine = create_engine(
            build_model(shape, 0, device=ranks.device),
            OptimizerConfig(),
            ParallelConfig(compile=not setting.toy),
            total_steps=10,
            ranks=ranks,
        )
        generator = torch.Generator().manual_seed(3)
        batches = [random_batch(generator, rows, tokens, shape.vocab_size, ranks.device) for _ in range(2)]

        def step() -> None:
            engine.train_step(batches, summed_loss, lambda batch: batch.tokens)
            _synchronize()

        for _ in range(1 if setting.toy else 4):
            step()
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        with record(activities=activities) as profiler:
            step()
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    kernels = [event for event in events if not torch.cuda.is_available() or event.device_type.name == "CUDA"]
    busy = sum(getattr(event, key) for event in kernels) / 1e6
    return {
        "step_s": seconds,
        "busy_s": busy,
        "mfu": utilisation(flops_per_token(shape, tokens), 2 * rows * tokens / seconds, 1),
        "kernels": [
            {"kernel": event.key[:90], "ms": getattr(event, key) / 1e3, "calls": event.count} for event in kernels[:30]
        ],
    }


def generation(setting: Setting) -> dict[str, Any]:
    """New tokens a second with the key/value cache, for a reader alone and for a batch."""
    model = build_model(setting.shape("350M"), 0, dtype=torch.bfloat16, device=setting.device)
    answer: dict[str, Any] = {}
    new = 8 if setting.toy else 128
    for rows in (1, 64):
        prompts = [[1 + (row + place) % 500 for place in range(32)] for row in range(rows)]
        generate(model, prompts, max_new_tokens=2)
        began = time.perf_counter()
        drawn = generate(model, prompts, max_new_tokens=new)
        answer[f"tokens_per_s_{rows}"] = sum(map(len, drawn.tokens)) / (time.perf_counter() - began)
    return answer


def alignment(setting: Setting) -> dict[str, Any]:
    """Steps a second of DPO, and rounds a second of PPO (sampling, judging, two passes), with the 125 M model."""
    with distributed() as ranks:
        return {"dpo_steps_per_s": _dpo(setting, ranks), "ppo_rounds_per_s": _ppo(setting, ranks)}


def _dpo(setting: Setting, ranks: Ranks) -> float:
    config, shape = DpoConfig(), setting.shape("125M")
    pairs = 4 if setting.toy else 32
    chosen = np.random.default_rng(0)

    def ids(number: int) -> list[int]:
        return [int(token) for token in chosen.integers(5, 500, number)]

    some = [PairTokens(ids(32), ids(96), ids(96)) for _ in range(pairs)]
    batch = pair_batch(some, np.arange(pairs), 0, ranks.device)
    known = torch.full((pairs, 2), -100.0, device=ranks.device)
    engine = _engine(build_model(shape, 0, device=ranks.device), ranks)

    def step() -> None:
        engine.train_step([batch], lambda policy, b: dpo_losses(policy, b, known, config), lambda b: b.pairs)

    return 1 / timed(step, 3)


def _ppo(setting: Setting, ranks: Ranks) -> float:
    shape = setting.shape("125M")

    def fresh() -> Decoder:
        return build_model(shape, 0, dtype=torch.bfloat16, device=ranks.device)

    both = ActorCritic(fresh().float(), RewardModel(fresh().float()), 2.0)
    models = PpoModels(_engine(both, ranks), fresh().eval(), RewardModel(fresh()).eval())
    prompts = [[1 + (row + place) % 500 for place in range(24)] for row in range(2 if setting.toy else 64)]
    settings = ReplySettings(4 if setting.toy else 40, 1.0, (2,), 0)

    def one() -> None:
        experience = collect(models, prompts, settings, PpoRules(), 0)
        update(models.engine.train_step, [experience], PpoRules(), 1.0, 0.05, lambda total: total)

    return 1 / timed(one, 2)


def _engine(model: torch.nn.Module, ranks: Ranks) -> Engine:
    return create_engine(model, OptimizerConfig(lr=1e-5), ParallelConfig(), total_steps=100, ranks=ranks)


def timed(work: Callable[[], Any], times: int = 10) -> float:
    """Seconds of one call: the median, after two calls that warm up."""
    seconds = []
    for index in range(2 + times):
        _synchronize()
        began = time.perf_counter()
        work()
        _synchronize()
        if index >= 2:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (machine, inputs, attention, loss, train, precision, zero_stages, profile, generation, alignment)
}
