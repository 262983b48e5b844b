"""What a mesh costs a rank: memory by part, bubble, bytes it sends and seconds a step, and the best mesh for some GPUs.

    plan = plan_mesh(model, ParallelConfig(engine="torch", tensor=2), gpus=64, seq_len=8192, batch_sequences=1024)
    plan = recommend(model, gpus=64, gpu="H100", seq_len=8192, batch_sequences=1024)

Arithmetic alone, of what the torch engine holds and sends (``training.fsdp``, ``tensor_parallel``, ``context_parallel``,
``pipeline_parallel``); for the stage that holds most. A step is taken to last

    (computing + tensor, context and pipeline exchanges) · (p - 1 + v m) / v m + what of the weights' exchange is not hidden

for m micro batches on p ranks in a line with v stages each. What travels beside computing is hidden: at stage 3
weights and gradients, at stages 1 and 2 the gradients during the backward passes that reduce them; a pipeline reduces them behind
the last.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import ConfigError
from training.loss import GPU_LOGITS
from training.metrics import flops_per_token
from training.model import ModelConfig, check_shape, parameter_count
from training.parallel import Mesh, ParallelConfig, divisors
from training.scale import (
    GPU_MEMORY_GB,
    MFU,
    USABLE_MEMORY,
    Derived,
    Writer,
    block_activations,
    kept_activations,
    peak_of,
    short,
)

NODE = 8
"""GPUs of a machine."""
LINKS_GB = {
    # GB/s a GPU sends: to its neighbours in the machine, and out of it. Makers' data sheets, one direction: NVLink 5
    # (DGX B200), NVLink 4 (DGX H100, H200), NVLink 3 (DGX A100), 7 Infinity Fabric links (MI300X platform), PCIe 4 x16;
    # 400 Gb/s a GPU in DGX B200, H200, H100 and MI300X platforms, 200 in DGX A100; 100 and 25 assumed of PCIe servers.
    "B200": (900.0, 50.0),
    "H200": (450.0, 50.0),
    "H100": (450.0, 50.0),
    "A100": (300.0, 25.0),
    "MI300X": (448.0, 50.0),
    "L40S": (32.0, 12.5),
    "RTX 4090": (32.0, 3.1),
}
LINK_SHARE = 0.7
"""Share of a link's speed that large collectives reach; an assumption."""
TIE = 1.01
"""Meshes whose steps are no longer than this times the shortest are equally good: the simplest is taken."""
EXCHANGES = {"none": 8, "selective": 10, "full": 11}
"""Of a layer's tokens in a tensor group, by checkpointing: inputs of attention and feed-forward gathered, their outputs reduced,
backward the same turned round; computed again both gatherings, or with them the sum in between."""
VIRTUAL = (1, 2, 4)
"""Stages a rank that are considered."""
MOST_GPUS = 16384


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on one kind of GPU."""

    compute: float
    links: dict[str, float]
    exposed: float
    """Of the exchange of weights and gradients, what computing does not hide."""
    total: float


@dataclass(frozen=True)
class MeshPlan:
    """A mesh's costs. Bytes are a rank's."""

    parallel: ParallelConfig
    mesh: Mesh
    micro_batches: int
    parameters: int
    """Of a rank's stage and slice, before they are cut over shards."""
    memory: dict[str, float]
    bubble_share: float
    communication: dict[str, float]
    gathered: float
    """Of what the axis ``shard`` sends, weights; the rest is gradients."""
    flops: float
    """Of a rank in a step, with what is computed again."""
    time: StepTime | None = None

    @property
    def memory_total(self) -> float:
        return sum(self.memory.values())

    def setting(self) -> dict[str, Any]:
        """The lines of a recipe's ``pretrain``."""
        nodes = next(n for n in divisors(self.mesh.size) if self.mesh.size // n <= NODE)
        placed = {"ranks": self.mesh.size // nodes} | ({"nodes": nodes} if nodes > 1 else {})
        chosen = self.parallel.model_dump(exclude_defaults=True)
        return placed | {"parallel": {"engine": "torch", "zero_stage": self.parallel.zero_stage} | chosen}

    def as_dict(self) -> dict[str, Any]:
        in_gb = {
            name: {part: round(size / 1e9, 3) for part, size in [*sizes.items(), ("total", sum(sizes.values()))]}
            for name, sizes in (("memory", self.memory), ("communication", self.communication))
        }
        return {
            "mesh": self.mesh.axes,
            "memory_gb_per_rank": in_gb["memory"],
            "bubble_share": self.bubble_share,
            "communication_gb_per_step": in_gb["communication"],
            "step_seconds": self.time and self.time.total,
            "setting": self.setting(),
        }


@dataclass(frozen=True)
class _Stage:
    """One pipeline stage's weights on a rank of a tensor group."""

    outside: int
    block: int
    blocks: int

    @property
    def parameters(self) -> int:
        return self.outside + self.blocks * self.block


def stage_of(model: ModelConfig, mesh: Mesh, stage: int) -> _Stage:
    """Matrices and biases are cut over a tensor group, norms are whole on every rank."""
    deeper = model.model_copy(update={"layers": model.layers + 1})
    norms = 2 * model.hidden_size + (2 * model.width_of_head if model.qk_norm else 0)
    block = (parameter_count(deeper) - parameter_count(model) - norms) // mesh.tensor + norms
    matrix, last = model.vocab_size * model.hidden_size // mesh.tensor, stage == mesh.pipeline - 1
    outside = (model.hidden_size if last else 0) + (matrix if stage == 0 else 0)
    if last and not (model.tie_embeddings and stage == 0):
        outside += matrix
    return _Stage(outside, block, model.layers // mesh.pipeline)


def plan_mesh(model: ModelConfig, parallel: ParallelConfig, gpus: int, seq_len: int, batch_sequences: int) -> MeshPlan:
    """The costs of a mesh. Raises ValueError or ConfigError where it does not fit the model, the rows or the GPUs."""
    mesh = parallel.mesh(gpus)
    if batch_sequences % mesh.row_shares:
        raise ValueError(f"{batch_sequences} sequences a step cannot be shared by {mesh.row_shares} groups of ranks")
    sequences = batch_sequences // mesh.row_shares
    check_shape(model, parallel, sequences)
    parallel.check_widths(vocabulary=model.vocab_size)
    parallel.check_sequence(seq_len)
    micro_batches = -(-sequences // parallel.micro_batch)
    tokens = min(parallel.micro_batch, sequences) * seq_len // mesh.context
    held = [
        (_memory(model, parallel, mesh, stage, micro_batches, tokens), stage_of(model, mesh, stage))
        for stage in sorted({0, mesh.pipeline - 1})
    ]
    memory, part = max(held, key=lambda pair: sum(pair[0].values()))
    flops = flops_per_token(model, seq_len) * batch_sequences * seq_len / gpus
    sent, gathered = _communication(model, parallel, mesh, part, micro_batches, tokens)
    return MeshPlan(
        parallel=parallel,
        mesh=mesh,
        micro_batches=micro_batches,
        parameters=part.parameters,
        memory=memory,
        bubble_share=(mesh.pipeline - 1) / (parallel.virtual_stages * micro_batches + mesh.pipeline - 1),
        communication=sent,
        gathered=gathered,
        flops=flops * (4 / 3 if parallel.activation_checkpointing else 1),
    )


def _memory(
    model: ModelConfig, parallel: ParallelConfig, mesh: Mesh, stage: int, count: int, tokens: int
) -> dict[str, float]:
    part, size, shares = stage_of(model, mesh, stage), _bytes(parallel), mesh.shard * mesh.context
    own = part.parameters
    # A pipeline keeps weights and gradients whole from the first backward pass to the end of the step.
    summed = mesh.pipeline > 1 or (parallel.zero_stage == 1 and count > 1)
    whole = mesh.pipeline > 1 or parallel.zero_stage < 3
    flying = _in_flight(parallel, mesh, stage, count)
    kept = kept_activations(model, parallel.checkpointing, mesh.tensor) * part.blocks * flying
    if parallel.checkpointing != "none":  # and one block, as it is computed again
        kept += block_activations(model, mesh.tensor)
    logits = 0.0
    if stage == mesh.pipeline - 1:
        rows = model.vocab_size // mesh.tensor
        chunk = min(tokens, max(1024, GPU_LOGITS // rows))
        logits = 2 * 4.0 * chunk * rows + 4.0 * rows * model.hidden_size + 2.0 * size * tokens * model.hidden_size
    return {
        "weights": float(size * (own if whole else part.outside + min(2, part.blocks) * part.block)),
        "gradients": 4 * own / shares + 4.0 * (own if summed else part.outside + part.block),
        "optimizer": 12 * own / shares,
        "activations": float(size * tokens * kept),
        "logits": logits,
    }


def _in_flight(parallel: ParallelConfig, mesh: Mesh, place: int, count: int) -> float:
    """Micro batches whose activations a rank keeps of all its layers at once, at most: 1F1B's, or the forward passes of stages
    that ``ScheduleInterleaved1F1B`` makes before the first backward pass, and one."""
    each, behind = parallel.virtual_stages, mesh.pipeline - 1 - place
    if each == 1:
        return min(count, behind + 1)
    around = count // max(1, count // mesh.pipeline)
    return min(each * count, (each - 1) * around + 2 * behind + 1) / each


def _communication(
    model: ModelConfig, parallel: ParallelConfig, mesh: Mesh, stage: _Stage, count: int, tokens: int
) -> tuple[dict[str, float], float]:
    """Bytes a rank sends a step, and those of weights. Gathering or reduce-scattering S bytes over n ranks in a ring sends
    S (n - 1) / n."""
    size, shares = _bytes(parallel), mesh.shard * mesh.context
    own, again = stage.parameters, int(parallel.checkpointing != "none")
    gathered, reduced = own, own
    if mesh.pipeline > 1 and parallel.zero_stage == 3:
        # Whole after a backward pass, in pieces after a forward: gathered for each pass that follows a forward.
        gathered = (count + 1) * stage.blocks * stage.block + stage.outside
    elif parallel.zero_stage == 3:  # blocks for each forward and backward pass, the rest once for both
        gathered = count * (2 * stage.blocks * stage.block + stage.outside)
    if parallel.zero_stage > 1 and mesh.pipeline == 1:
        reduced = own * count
    hidden = float(size * tokens * model.hidden_size)
    # Ranks of a group have at least one key/value head each, if need be a copy.
    heads = 2 * model.heads // mesh.tensor + 2 * max(model.kv_heads // mesh.tensor, mesh.context)
    exchanged = size * tokens * heads * model.width_of_head * stage.blocks * (2 + again)
    tied = 4 * model.vocab_size * model.hidden_size / mesh.tensor / shares if model.tie_embeddings else 0.0
    sent = {
        "shard": (size * gathered + 4 * reduced) * _sent(shares),
        "replicate": 2 * 4 * own / shares * _sent(mesh.replicate),
        "tensor": hidden * count * (EXCHANGES[parallel.checkpointing] * stage.blocks + 5) * _sent(mesh.tensor),
        "context": exchanged * count * _sent(mesh.context),
        # There and back for each stage; of two ranks each has one end, where there is nobody to send to.
        "pipeline": hidden * count * (2 * parallel.virtual_stages - (mesh.pipeline == 2)) + tied
        if mesh.pipeline > 1
        else 0.0,
    }
    return sent, size * gathered * _sent(shares)


def _sent(ranks: int) -> float:
    return (ranks - 1) / ranks


def _bytes(parallel: ParallelConfig) -> int:
    return 2 if parallel.dtype == "bf16" else 4


def step_time(plan: MeshPlan, gpu: str, mfu: float = MFU) -> StepTime:
    """Seconds of a step, where computing reaches ``mfu`` of the GPU's peak and links ``LINK_SHARE`` of theirs."""
    mesh, links = plan.mesh, {}
    inside, outside = LINKS_GB[gpu]
    shares = mesh.shard * mesh.context
    groups = {  # how far apart a group's ranks are, and how many
        "tensor": (1, mesh.tensor),
        "context": (mesh.tensor, mesh.context),
        "shard": (mesh.tensor, shares),
        "replicate": (mesh.tensor * shares, mesh.replicate),
        "pipeline": (mesh.size // mesh.pipeline, mesh.pipeline),
    }
    for axis, (stride, size) in groups.items():
        # A ring between machines uses the cards of all its ranks in one; all-to-all and stages send each by its own.
        cards = 1 if axis in ("context", "pipeline") else max(1, NODE // stride)
        speed = inside if stride * size <= NODE else min(inside, outside * cards)
        links[axis] = plan.communication[axis] / (speed * 1e9 * LINK_SHARE)
    compute = plan.flops / (peak_of(gpu) * mfu)
    gathering = links["shard"] * plan.gathered / (plan.communication["shard"] or 1.0)
    reducing = links["shard"] - gathering + links["replicate"]
    if plan.parallel.zero_stage == 3:
        exposed, left = max(0.0, gathering - compute), max(0.0, compute - gathering)
    else:
        exposed, left = gathering, compute * 2 / 3 / (plan.micro_batches if plan.parallel.zero_stage == 1 else 1)
    exposed += max(0.0, reducing - (left if mesh.pipeline == 1 else 0.0))
    busy = compute + links["tensor"] + links["context"] + links["pipeline"]
    return StepTime(compute, links, exposed, busy / (1 - plan.bubble_share) + exposed)


def recommend(
    model: ModelConfig,
    *,
    gpus: int,
    gpu: str,
    seq_len: int,
    batch_sequences: int,
    micro_batch: int = 4,
    activation_checkpointing: bool = False,
    mfu: float = MFU,
) -> MeshPlan:
    """The mesh with the shortest step of those that fit into memory, the simplest of equally good ones.

    ``micro_batch`` is the largest there may be; checkpointing is taken where it pays, or always. Raises ConfigError where
    none fits.
    """
    gpu = link_kind(gpu)
    micros = [micro_batch >> shift for shift in range(micro_batch.bit_length())]
    choices = [
        {"zero_stage": stage, "micro_batch": micro, **({again: True} if again else {})}
        for stage in (1, 2, 3)
        for micro in micros
        for again in ("activation_checkpointing", "selective_checkpointing", "")[: 1 if activation_checkpointing else 3]
    ]
    room = GPU_MEMORY_GB[gpu] * 1e9 * USABLE_MEMORY
    fitting = []
    for plan in _plans(model, gpus, seq_len, batch_sequences, choices):
        filled = plan.parallel.micro_batch * plan.mesh.row_shares <= batch_sequences
        if filled and plan.memory_total <= room:
            fitting.append((step_time(plan, gpu, mfu), plan))
    if not fitting:
        raise _none_fits(model, gpus, gpu, seq_len, batch_sequences)
    shortest = min(time.total for time, _ in fitting)
    time, best = min(
        ((time, plan) for time, plan in fitting if time.total <= TIE * shortest),
        key=lambda pair: (*_complexity(pair[1]), pair[0].total),
    )
    return replace(best, time=time)


def _complexity(plan: MeshPlan) -> tuple[int, bool, int]:
    axes = sum(size > 1 for axis, size in plan.mesh.axes.items() if axis != "shard") + (
        plan.parallel.virtual_stages > 1
    )
    return axes, plan.parallel.checkpointing != "none", plan.parallel.zero_stage


def _plans(
    model: ModelConfig, gpus: int, seq_len: int, batch_sequences: int, choices: Sequence[dict[str, Any]]
) -> Iterator[MeshPlan]:
    for tensor in divisors(gpus):
        for context in divisors(gpus // tensor):
            for pipeline in divisors(gpus // tensor // context):
                for replicate in divisors(gpus // tensor // context // pipeline):
                    axes = {"tensor": tensor, "context": context, "pipeline": pipeline, "replicate": replicate}
                    for choice, virtual in itertools.product(choices, VIRTUAL if pipeline > 1 else (1,)):
                        axes["virtual_stages"] = virtual
                        try:
                            parallel = ParallelConfig(engine="torch", **axes, **choice)
                            yield plan_mesh(model, parallel, gpus, seq_len, batch_sequences)
                        except (ValueError, ConfigError):
                            continue  # no mesh of this model and batch


def _none_fits(model: ModelConfig, gpus: int, gpu: str, seq_len: int, batch_sequences: int) -> ConfigError:
    leanest = [{"zero_stage": 3, "micro_batch": 1, "activation_checkpointing": True}]
    room, more = GPU_MEMORY_GB[gpu] * USABLE_MEMORY, gpus
    needed: list[float] = []
    while more <= MOST_GPUS and (not needed or needed[-1] > room):
        batch = -(-batch_sequences // more) * more
        sizes = [plan.memory_total / 1e9 for plan in _plans(model, more, seq_len, batch, leanest)]
        needed.append(min(sizes, default=float("inf")))
        more *= 2
    enough = needed[-1] <= room
    return ConfigError(
        f"no mesh of {gpus} {gpu} holds a model of {short(parameter_count(model))} parameters with rows of {seq_len:,} tokens: "
        f"the leanest needs {needed[0]:,.1f} GB a GPU, of which {room:,.1f} are there",
        where="gpus",
        remedy=f"Take {more // 2} of them, or GPUs with more memory."
        if enough
        else "Take shorter rows or a smaller model.",
    )


def link_kind(gpu: str) -> str:
    """The name in the tables. Raises ConfigError where links or memory are not known."""
    name = gpu.upper().replace("-", " ")
    if name not in LINKS_GB:
        raise ConfigError(
            f"the links of GPU {gpu!r} are not known", where="gpu", remedy=f"Known: {', '.join(LINKS_GB)}."
        )
    return name


def derivation(plan: MeshPlan) -> list[Derived]:
    """Each number of a plan with its formula and where that comes from."""
    mesh, parallel, zero = plan.mesh, plan.parallel, "Rajbhandari 2020 (ZeRO)"
    size, shares = f"{_bytes(parallel)} bytes", mesh.shard * mesh.context
    whole = "all" if parallel.zero_stage < 3 or mesh.pipeline > 1 else "two layers and what lies outside them"
    cut = f"bytes × {short(plan.parameters)} / {shares}"
    names = {"none": "all layers", "full": "a layer's inputs, and one layer", "selective": "products, and one layer"}
    kept = names[parallel.checkpointing]
    rules = {
        "weights": (f"{size} × {short(plan.parameters)}, of these {whole}", zero),
        "gradients": (f"4 {cut}, and whole ones until they are reduced", zero),
        "optimizer": (f"12 {cut}: fp32 master weights and two moments", zero),
        "activations": (f"{size} × what {kept} keep of a token, / {mesh.tensor} tensor", "Korthikanti 2022"),
        "logits": ("a chunk and its gradient, the output matrix's gradient, hidden states", "training.loss"),
    }
    notes = [Derived(f"memory: {part}", _gb(plan.memory[part]), *rules[part]) for part in plan.memory]
    bubble = f"(p - 1) / (v m + p - 1), p = {mesh.pipeline}, m = {plan.micro_batches}, v = {parallel.virtual_stages}"
    notes.append(Derived("bubble", f"{plan.bubble_share:.1%}", bubble, "Narayanan 2021 (1F1B)"))
    traffic = {
        "shard": ("weights gathered, fp32 gradients scattered: S (n - 1) / n each", zero),
        "replicate": ("fp32 gradients of a rank's rows: 2 S (n - 1) / n", "ring all-reduce"),
        "tensor": (f"{EXCHANGES[parallel.checkpointing]} exchanges of hidden states a layer", "Korthikanti 2022"),
        "context": ("all-to-all of queries, keys, values and what comes out", "Jacobs 2023 (Ulysses)"),
        "pipeline": ("hidden states to the next stage, gradients to the one before", "Narayanan 2021"),
    }
    for axis, (rule, source) in traffic.items():
        if plan.communication[axis]:
            took = f"; {plan.time.links[axis]:.3g} s" if plan.time else ""
            notes.append(Derived(f"sent: {axis}", _gb(plan.communication[axis]), rule + took, source))
    if plan.time:
        rule = f"{plan.time.compute:.3g} s of computing, exchanges, bubble, {plan.time.exposed:.3g} s of weights not hidden"
        notes.append(Derived("step", f"{plan.time.total:.3g} s", rule, f"links at {LINK_SHARE:.0%} of their speed"))
    return notes


def _gb(size: float) -> str:
    size /= 1e9
    return f"{size:,.2f} GB" if size >= 0.1 or not size else f"{size:.2g} GB"


def headline(plan: MeshPlan) -> str:
    return (
        f"mesh of {plan.mesh}: {_gb(plan.memory_total)} a rank, bubble {plan.bubble_share:.1%}, "
        f"{_gb(sum(plan.communication.values()))} sent by a rank in a step"
    )


def show_mesh(plan: MeshPlan, write: Writer) -> None:
    """The plan as text, each number with its derivation."""
    for line in (headline(plan), *map(str, derivation(plan))):
        write(line)
