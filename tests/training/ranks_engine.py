"""Run under torchrun by test_engine: trains a toy model several ways and prints every step's loss and gradient norm, or the
first step's gradients."""

import json
import sys

import torch
from torch import nn

from training.engine import create_engine, distributed
from training.loss import chunked_cross_entropy
from training.model import Decoder, ModelConfig, build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.schedule import ScheduleConfig


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
    return build_model(ModelConfig(**sizes, max_position=16, **more), 3, checkpoint_activations=checkpointing)


def losses(model, batch):
    tokens, mask = batch
    if isinstance(model, Decoder):  # packed rows of two documents, with z-loss
        hidden = model(tokens[:, :-1], segments=(torch.arange(11) > 4).long().expand(len(tokens), -1))
        return {"loss": chunked_cross_entropy(hidden, model.output_weight, tokens[:, 1:], mask, 1e-3)[0]}
    logits = model(tokens[:, :-1]).float() @ model.embed.weight.float().T  # a parameter used outside its own module
    nll = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return {"loss": (nll * mask.flatten()).sum()}


def weight(batch):
    return float(batch[1].sum())


def global_batch(step):
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 32, (8, 12), generator=generator)
    lengths = torch.randint(1, 12, (8,), generator=generator)
    return tokens, (torch.arange(11)[None, :] < lengths[:, None]).float()


def build(ranks, stage, dtype, micro, steps=6, clip=0.5, optimizer="adamw", model="toy", shape=None, **parallel):
    return create_engine(
        Toy() if model == "toy" else decoder(parallel.get("activation_checkpointing", False), **(shape or {})),
        OptimizerConfig(name=optimizer, lr=0.01, clip=clip, schedule=ScheduleConfig(warmup_steps=2)),
        ParallelConfig(zero_stage=stage, dtype=dtype, micro_batch=micro, **parallel),
        total_steps=steps,
        ranks=ranks,
    )


def advance(engine, steps, micro):
    """Train to ``steps``; every step's loss and gradient norm."""
    share, shares, trail = engine.mesh.row_share(engine.ranks.rank), engine.mesh.row_shares, []
    while engine.step < steps:
        tokens, mask = global_batch(engine.step)
        mine = slice(share * 8 // shares, (share + 1) * 8 // shares)
        batches = list(zip(tokens[mine].split(micro), mask[mine].split(micro), strict=True))
        result = engine.train_step(batches, losses, weight)
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


def main() -> None:
    torch.set_num_threads(1)
    with distributed() as ranks:
        measure = {"steps": train, "gradients": gradients}[sys.argv[2]]
        answers = {name: measure(ranks, **arguments) for name, arguments in json.loads(sys.argv[1]).items()}
        if ranks.first:
            print("ANSWER " + json.dumps(answers))


if __name__ == "__main__":
    main()
