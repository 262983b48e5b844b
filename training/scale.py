"""One dial: from a size or a budget to everything a run needs, with the reason for each number.

    plan = plan_scale(parameters=350e6)              or   plan_scale(budget_gpu_hours=500, gpu="H200")
    show(plan, print)

The rules are those of OLMo-core's model ladder (learning rate and batch after Porian et al. 2024, 20 tokens a parameter
after Hoffmann et al. 2022), and shapes between nanochat's (64 of width a layer) and Llama 3's (128). They are where to
begin, not where to end: ``training.ladder`` fits a curve to small runs and predicts the large one.

``parameters`` counts the weights that take part in matrix products (blocks and output matrix): it is what the training's
FLOPs depend on.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import ConfigError
from training.loss import GPU_LOGITS
from training.metrics import flops_per_token, peak_flops
from training.model import ModelConfig, parameter_count
from training.parallel import Checkpointing

TOKENS_PER_PARAMETER = 20.0
MFU = 0.40
"""Share of the peak that a well set-up run reaches; ours is measured by ``headwater bench train``."""
GPU_MEMORY_GB = {"H200": 141, "H100": 80, "A100": 80, "B200": 192, "MI300X": 192, "L40S": 48, "RTX 4090": 24}
USABLE_MEMORY = 0.92
"""Share of it that a plan may fill."""
SMALLEST, LARGEST = 1e5, 1e12
SHARED_OUT = 1e9
"""From this size on a shape is one that the meshes of 2, 4 and 8 GPUs divide."""


@dataclass(frozen=True)
class Derived:
    """One number and where it comes from."""

    name: str
    value: str
    rule: str
    source: str

    def __str__(self) -> str:
        return f"{self.name:<22}{self.value:>14}   {self.rule}  [{self.source}]"


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes a GPU needs, by what they are for."""

    zero_stage: int
    gpus: int
    states: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.states + self.activations + self.logits


@dataclass(frozen=True)
class GpuPlan:
    """What the run takes on one kind of GPU."""

    gpu: str
    gpu_hours: float
    hours: float
    cost: float | None
    fits: dict[int, bool]
    """ZeRO stage -> whether model states and activations fit."""


@dataclass(frozen=True)
class ScalePlan:
    """Everything derived from the dial."""

    model: ModelConfig
    parameters: int
    total_parameters: int
    tokens: int
    seq_len: int
    batch_sequences: int
    steps: int
    warmup_steps: int
    lr: float
    beta2: float
    weight_decay: float
    decay_fraction: float
    flops: float
    memory: tuple[MemoryPlan, ...]
    gpus: tuple[GpuPlan, ...]
    derivation: tuple[Derived, ...]

    def recipe(self) -> dict[str, Any]:
        """The plan as settings of the stage ``pretrain``."""
        shape = {name: value for name, value in self.model.model_dump().items() if name != "rope_scaling"}
        schedule = {"shape": "wsd", "warmup_steps": self.warmup_steps, "decay_fraction": self.decay_fraction}
        return {
            "model": shape | {"max_position": self.seq_len},
            "steps": 0,  # as many as the tokens need
            "tokens": self.tokens,
            "batch_sequences": self.batch_sequences,
            "optimizer": {
                "lr": self.lr,
                "beta2": self.beta2,
                "weight_decay": self.weight_decay,
                "schedule": schedule,
            },
        }

    def as_dict(self) -> dict[str, Any]:
        memory = [asdict(plan) | {"total": plan.total} for plan in self.memory]
        return asdict(self) | {"model": self.model.model_dump(), "memory": memory, "recipe": self.recipe()}


def read_count(text: str) -> float:
    """Of parameters or tokens: ``350M``, ``1.3B``, ``2e9`` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([kMBGT]?)\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(
            f"{text!r} is not a number of parameters or tokens", remedy="Write for example 125M, 1.3B or 2e9."
        )
    return float(match[1]) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}[match[2].lower()]


def plan_scale(
    *,
    parameters: float | None = None,
    budget_flops: float | None = None,
    budget_gpu_hours: float | None = None,
    budget_cost: float | None = None,
    gpu: str = "H200",
    gpus: int = 8,
    price_per_gpu_hour: float | None = None,
    vocab_size: int = 32768,
    seq_len: int = 2048,
    tokens_per_parameter: float = TOKENS_PER_PARAMETER,
    micro_batch: int = 4,
    activation_checkpointing: bool = False,
    mfu: float = MFU,
) -> ScalePlan:
    """Derive a run from its size, or from what may be spent on it. Exactly one of the first four is given."""
    notes: list[Derived] = []
    given = [value for value in (parameters, budget_flops, budget_gpu_hours, budget_cost) if value is not None]
    if len(given) != 1:
        raise ConfigError(
            "give one of parameters, FLOPs, GPU hours and cost", remedy="A size in parameters will do: 125M."
        )
    if budget_cost is not None:
        budget_gpu_hours = _bought_hours(budget_cost, price_per_gpu_hour, notes)
    if budget_gpu_hours is not None:
        budget_flops = _flops_in(budget_gpu_hours, gpu, mfu, notes)
    if parameters is None:
        assert budget_flops is not None
        parameters = _affordable(budget_flops, tokens_per_parameter, vocab_size, seq_len)
        rule = "C = tokens × (6 N + attention) with tokens = ratio × N"
        notes.append(Derived("affordable size", short(parameters), rule, "Hoffmann 2022"))
    model = choose_shape(_in_range(parameters), vocab_size, seq_len, notes)
    size = effective_parameters(model)
    if budget_flops is None:
        tokens, rule = tokens_per_parameter * size, f"{tokens_per_parameter:g} × parameters"
    else:  # the nearest shape is a little larger or smaller than the affordable one: the tokens make up for it
        tokens = budget_flops / flops_per_token(model, seq_len)
        rule = f"the budget; {tokens / size:.1f} × parameters"
    notes.append(Derived("tokens", short(tokens), rule, "Hoffmann 2022 (Chinchilla)"))
    schedule = _schedule(size, tokens, seq_len, gpus, notes)
    flops = flops_per_token(model, seq_len) * tokens
    notes.append(Derived("training FLOPs", f"{flops:.2e}", "tokens × (6 N + 12·layers·width·sequence)", "Kaplan 2020"))
    memory = tuple(
        memory_plan(model, stage, gpus, micro_batch, seq_len, activation_checkpointing) for stage in range(4)
    )
    return ScalePlan(
        model=model,
        parameters=size,
        total_parameters=parameter_count(model),
        tokens=round(tokens),
        seq_len=seq_len,
        **schedule,
        weight_decay=0.1,
        decay_fraction=0.1,
        flops=flops,
        memory=memory,
        gpus=tuple(_gpu_plan(name, flops, gpus, mfu, price_per_gpu_hour, memory) for name in GPU_MEMORY_GB),
        derivation=tuple(notes),
    )


def _bought_hours(cost: float, price_per_gpu_hour: float | None, notes: list[Derived]) -> float:
    if not price_per_gpu_hour:
        raise ConfigError("a budget in money needs the price of a GPU hour", remedy="Give the price as well.")
    hours = cost / price_per_gpu_hour
    notes.append(Derived("budget in GPU hours", f"{hours:,.0f}", f"{cost:,.0f} at {price_per_gpu_hour:g} an hour", "-"))
    return hours


def _flops_in(hours: float, gpu: str, mfu: float, notes: list[Derived]) -> float:
    flops = hours * 3600 * peak_of(gpu) * mfu
    rule = f"{hours:g} h × {peak_of(gpu) / 1e12:.0f} TFLOP/s × {mfu:.0%}"
    notes.append(Derived("budget in FLOPs", f"{flops:.2e}", rule, "maker's peak, dense bf16"))
    return flops


def _schedule(size: float, tokens: float, seq_len: int, gpus: int, notes: list[Derived]) -> dict[str, Any]:
    """Batch, steps and rate for so many parameters and tokens: fields of ``ScalePlan``."""
    batch_tokens = 2048 * 160 * (size / 108e6) ** (2 / 3)
    sequences = max(gpus, round(batch_tokens / seq_len / gpus) * gpus)
    steps = max(1, math.ceil(tokens / (sequences * seq_len)))
    rule = f"2048·160·(N/108M)^⅔ = {short(batch_tokens)} tokens, in multiples of {gpus} GPUs"
    notes.append(Derived("batch_sequences", f"{sequences:,}", rule, "OLMo ladder, Porian 2024"))
    notes.append(Derived("steps", f"{steps:,}", "tokens / (batch × sequence)", "-"))
    lr = 0.0047 * (size / 108e6) ** (-1 / 3) / 2
    notes.append(Derived("learning rate", f"{lr:.2e}", "0.0047·(N/108M)^-⅓ / 2", "OLMo ladder, Porian 2024"))
    beta2 = 0.95 if sequences * seq_len >= 524_288 else 0.99
    notes.append(Derived("beta2", f"{beta2:g}", "0.95 from 524,288 tokens a batch on, else 0.99", "OLMo ladder"))
    warmup = min(max(1, round(size / (sequences * seq_len))), steps // 5 or 1)
    notes.append(Derived("warm-up steps", f"{warmup:,}", "one token a parameter, at most a fifth", "OLMo ladder"))
    notes.append(Derived("decay", "10 %", "square-root decay over the last tenth of the steps", "OLMo ladder"))
    notes.append(Derived("weight decay", "0.1", "matrices only, not embeddings and norms", "OLMo 2"))
    return {
        "batch_sequences": sequences,
        "steps": steps,
        "warmup_steps": warmup,
        "lr": float(f"{lr:.3g}"),
        "beta2": beta2,
    }


def effective_parameters(model: ModelConfig) -> int:
    """Weights that take part in matrix products: everything but an input embedding that is not the output too."""
    unused = 0 if model.tie_embeddings else model.vocab_size * model.hidden_size
    return parameter_count(model) - unused


def choose_shape(target: float, vocab_size: int, seq_len: int, notes: list[Derived]) -> ModelConfig:
    """The shape whose size is nearest to the target, with about the wanted width a layer."""
    aspect = min(128.0, max(64.0, 64 * (target / 1e9) ** (1 / 3)))
    tied = target < 2e9

    def badness(model: ModelConfig) -> float:
        size = abs(math.log(effective_parameters(model) / target))
        shape = abs(math.log(model.hidden_size / model.layers / aspect))
        return size + 0.25 * shape

    # Every depth with the width that brings it nearest to the target; then the best of them.
    depths = range(2, 129, 2 if target >= SHARED_OUT else 1)
    candidates = [_at_depth(depth, target, vocab_size, seq_len, tied) for depth in depths]
    best = min(candidates, key=badness)
    if not 0.6 < effective_parameters(best) / target < 1.6:
        raise ConfigError(
            f"no shape of {short(target)} parameters can hold a vocabulary of {vocab_size:,}",
            remedy="Use a smaller vocabulary or a larger model.",
        )
    size, total = effective_parameters(best), parameter_count(best)
    counted = f"{short(total)} in all" if total != size else "embeddings shared"
    notes.append(Derived("parameters", short(size), f"nearest shape to {short(target)}; {counted}", "-"))
    rule = f"about {aspect:.0f} of width a layer"
    notes.append(Derived("depth × width", f"{best.layers} × {best.hidden_size}", rule, "nanochat, Llama 3"))
    heads = f"{best.heads} / {best.kv_heads}"
    grouped = "8 groups, and even layers, for a mesh to divide" if target >= SHARED_OUT else "grouped from 100M on"
    notes.append(Derived("heads / KV heads", heads, f"of {best.width_of_head}; {grouped}", "Llama 3"))
    notes.append(Derived("feed-forward", f"{best.intermediate_size:,}", "8/3 of the width", "Shazeer 2020 (GLU)"))
    return best


def _at_depth(depth: int, target: float, vocab_size: int, seq_len: int, tied: bool) -> ModelConfig:
    """The width that brings this depth nearest to the target, found by bisection.

    From 100M on widths are multiples of four heads, and four query heads share a key/value head; from 1B on there are eight
    key/value heads, and heads are a multiple of them.
    """
    head = 64 if target < 2e9 else 128
    group = 8 if target >= SHARED_OUT else 4 if target >= 1e8 else 1

    def shape(units: int) -> ModelConfig:
        width = head * group * units
        heads = width // head
        return ModelConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            layers=depth,
            heads=heads,
            kv_heads=8 if target >= SHARED_OUT else heads // group,
            intermediate_size=64 * max(1, round(width * 8 / 3 / 64)),
            max_position=seq_len,
            rope_theta=10_000.0 if seq_len <= 4096 else 500_000.0,
            tie_embeddings=tied,
            qk_norm=False,
        )

    low, high = 1, 1024
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if effective_parameters(shape(middle)) < target else (low, middle)
    return min((shape(low), shape(high)), key=lambda model: abs(math.log(effective_parameters(model) / target)))


def memory_plan(
    model: ModelConfig, stage: int, gpus: int, micro_batch: int, seq_len: int, checkpointing: bool
) -> MemoryPlan:
    """Bytes a GPU needs: bf16 weights, fp32 gradients, master weights and two moments (Rajbhandari 2020, ZeRO); all in fp32
    at stage 0, which knows no master weights."""
    weights = parameter_count(model)
    forward, optimizer = (2, 12) if stage else (4, 8)
    states = (
        forward * weights / (gpus if stage >= 3 else 1)
        + 4 * weights / (gpus if stage >= 2 else 1)
        + optimizer * weights / (gpus if stage >= 1 else 1)
    )
    logits = (
        4 * min(GPU_LOGITS, micro_batch * seq_len * model.vocab_size) * 2 + 4 * model.vocab_size * model.hidden_size
    )
    return MemoryPlan(stage, gpus, states, _activations(model, micro_batch * seq_len, checkpointing), float(logits))


def _activations(model: ModelConfig, tokens: int, checkpointing: bool) -> float:
    block = 2.0 * block_activations(model)
    if checkpointing:
        return tokens * (2.0 * kept_activations(model, "full") * model.layers + block)
    return tokens * block * model.layers


def block_activations(model: ModelConfig, tensor: int = 1) -> float:
    """Numbers that a block keeps of a token for its backward pass, on one of ``tensor`` ranks that share its matrices.

    Attention by a fused kernel keeps no scores.
    """
    width = model.hidden_size
    attention = (model.heads + 2 * model.kv_heads) * model.width_of_head
    # Outputs of both norms; inputs of both, q k v before and after rotation, the mixed values, gate, up, silu, product.
    return 2 * width + (2 * width + 2 * attention + width + 4 * model.intermediate_size) / tensor


def kept_activations(model: ModelConfig, checkpointing: Checkpointing, tensor: int = 1) -> float:
    """Of these, what a block keeps until its backward pass begins, which computes the others again."""
    if checkpointing == "none":
        return block_activations(model, tensor)
    kept = model.hidden_size  # the block's input
    if (
        checkpointing == "selective"
    ):  # q k v, the mixed values, gate, up, attention's output; where it is a sum, both sums
        kept += (model.heads + 2 * model.kv_heads) * model.width_of_head + 2 * model.intermediate_size
        kept += (2 if tensor == 1 else 3) * model.hidden_size
    return kept / tensor


def _in_range(parameters: float) -> float:
    if SMALLEST <= parameters <= LARGEST:
        return parameters
    raise ConfigError(
        f"a model of {parameters:.3g} parameters is outside the range of the rules",
        remedy=f"They hold from {SMALLEST:.0e} to {LARGEST:.0e}.",
    )


def _affordable(flops: float, tokens_per_parameter: float, vocab_size: int, seq_len: int) -> float:
    """The size whose tokens use up the budget. Attention comes on top of 6 N, the more the smaller the model."""
    parameters = math.sqrt(flops / (6 * tokens_per_parameter))
    for _ in range(4):
        model = choose_shape(_in_range(parameters), vocab_size, seq_len, [])
        size = effective_parameters(model)
        parameters = math.sqrt(flops / tokens_per_parameter / (flops_per_token(model, seq_len) / size))
    return parameters


def _gpu_plan(
    gpu: str, flops: float, gpus: int, mfu: float, price: float | None, memory: Sequence[MemoryPlan]
) -> GpuPlan:
    gpu_hours = flops / (peak_of(gpu) * mfu) / 3600
    room = GPU_MEMORY_GB[gpu] * 1e9 * USABLE_MEMORY
    fits = {plan.zero_stage: plan.total <= room for plan in memory}
    return GpuPlan(gpu, gpu_hours, gpu_hours / gpus, None if price is None else gpu_hours * price, fits)


def peak_of(gpu: str) -> float:
    """Its bf16 FLOPs a second. Raises ConfigError where they are not known."""
    peak = peak_flops(gpu)
    if peak is None:
        raise ConfigError(f"the peak of GPU {gpu!r} is not known", remedy=f"Known: {', '.join(GPU_MEMORY_GB)}.")
    return peak


def short(value: float) -> str:
    """3.21e8 -> 321M."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.0f}"


Writer = Callable[[str], None]


def show(plan: ScalePlan, write: Writer) -> None:
    """The plan as text: derivation, memory, time."""
    for line in plan.derivation:
        write(str(line))
    write("")
    write("memory a GPU, GB       " + "".join(f"{name:>12}" for name in ("states", "activations", "logits", "total")))
    for memory in plan.memory:
        figures = (memory.states, memory.activations, memory.logits, memory.total)
        head = f"  ZeRO {memory.zero_stage} on {memory.gpus} GPUs"
        write(f"{head:<23}" + "".join(f"{figure / 1e9:>12.2f}" for figure in figures))
    write("")
    write(f"{'':<23}{'GPU hours':>12}{'hours':>12}{'cost':>12}   fits with ZeRO")
    for gpu in plan.gpus:
        stages = ", ".join(str(stage) for stage, fits in gpu.fits.items() if fits) or "none: checkpoint activations"
        cost = "" if gpu.cost is None else f"{gpu.cost:,.0f}"
        write(f"  {gpu.gpu:<21}{gpu.gpu_hours:>12,.2f}{gpu.hours:>12,.2f}{cost:>12}   {stages}")
