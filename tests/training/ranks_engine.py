"""Run under torchrun by test_engine: trains a toy model several ways and prints every step's loss and gradient norm, or the
first step's gradients."""

import json
import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn

from infra.job_main import leave
from training.create_engine import create_engine
from training.loader import Loader
from training.model import Decoder, ModelConfig, build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import distributed
from training.schedule import ScheduleConfig
from training.validation import summed_loss


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 16)
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, 24, bias=False)
        self.back = nn.Linear(24, 16)

    def forward(self, tokens):
        return self.back(torch.tanh(self.hidden(self.norm(self.embed(tokens)))))


def decoder(checkpointing, **more):
    sizes = {"vocab_size": 32, "hidden_size": 16, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate_size": 24}
    return build_model(ModelConfig(**sizes | {"max_position": 16} | more), 3, checkpointing=checkpointing)


def losses(model, batch, context=None):
    if isinstance(model, Decoder):
        return summed_loss(model, batch, 1e-3, context)
    logits = model(batch.input_ids).float() @ model.embed.weight.float().T  # a parameter used outside its own module
    nll = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return {"loss": (nll * batch.mask.flatten()).sum()}


def weight(batch):
    return batch.tokens


@dataclass
class Packed:
    """Rows of up to 12 targets: three documents each, of which the second lies on both sides of the middle."""

    input_ids: np.ndarray = field(default_factory=lambda: np.zeros((0, 13), dtype=np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boundaries: list = field(default_factory=list)

    def rows(self, indices):
        draws = [np.random.default_rng(int(index)) for index in indices]
        ids, lengths = [draw.integers(0, 32, 13) for draw in draws], [draw.integers(2, 14) for draw in draws]
        return Packed(np.array(ids), np.array(lengths), [np.array([0, 5, 10])] * len(indices))


def build(ranks, stage, dtype, micro, steps=6, clip=0.5, optimizer="adamw", model="toy", shape=None, **parallel):
    config = ParallelConfig(zero_stage=stage, dtype=dtype, micro_batch=micro, **parallel)
    return create_engine(
        Toy() if model == "toy" else decoder(config.checkpointing, **(shape or {})),
        OptimizerConfig(name=optimizer, lr=0.01, clip=clip, schedule=ScheduleConfig(warmup_steps=2)),
        config,
        total_steps=steps,
        ranks=ranks,
    )


def advance(engine, steps, micro):
    """Train to ``steps``; every step's loss and gradient norm."""
    ranks, mesh, trail = engine.ranks, engine.mesh, []
    loader = Loader(
        Packed(),
        lambda consumed: consumed,
        batch=8,
        micro=micro,
        rank=mesh.row_share(ranks.rank),
        world_size=mesh.row_shares,
        part=(mesh.part(ranks.rank), mesh.context),
        device=ranks.device,
    )
    while engine.step < steps:
        batches = loader.load(engine.step * 8).batches
        result = engine.train_step(batches, partial(losses, context=engine.context), weight)
        trail.append([result.loss, result.grad_norm])
    return trail


def train(ranks, stage, dtype, micro, steps=6, **options):
    return advance(build(ranks, stage, dtype, micro, steps, **options), steps, micro)


def gradients(ranks, stage, dtype, micro, **options):
    """The gradient of every parameter with which the first step is taken."""
    from deepspeed.utils import safe_get_full_grad

    engine = build(ranks, stage, dtype, micro, **options)
    step, found = engine.runtime.step, {}

    def gradient_of(name, parameter):
        if engine.parallel.engine == "torch":
            return engine.runtime.weights[f"model.{name}"].grad.full_tensor()
        return safe_get_full_grad(parameter) if stage else parameter.grad

    def seen(*arguments, **named):
        for name, parameter in engine.model.named_parameters():
            found[name] = gradient_of(name, parameter).flatten().tolist()
        return step(*arguments, **named)

    engine.runtime.step = seen
    advance(engine, 1, micro)
    return found


def exchanges(ranks, stage, dtype, micro, **options):
    """How often a step's one micro batch exchanges something, by the kind of exchange."""
    from torch.distributed.tensor.debug import CommDebugMode

    engine = build(ranks, stage, dtype, micro, **options)
    with CommDebugMode() as seen:
        advance(engine, 1, micro)
    return {str(kind).rpartition(".")[2]: count for kind, count in seen.get_comm_counts().items()}


def main() -> None:
    torch.set_num_threads(1)
    with distributed() as ranks:
        measures, answers = {"steps": train, "gradients": gradients, "exchanges": exchanges}, {}
        for name, arguments in json.loads(sys.argv[1]).items():
            answers[name] = measures[arguments.pop("measure", sys.argv[2])](ranks, **arguments)
        if ranks.first:
            print("ANSWER " + json.dumps(answers))


if __name__ == "__main__":
    main()
    leave()
