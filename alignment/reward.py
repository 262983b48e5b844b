"""The reward model: which of two replies would a person rather have said?

A copy of the fine-tuned model reads prompt and reply; one linear score at the last token is trained so that the chosen
reply scores higher than the rejected one. Its accuracy on pairs of conversations it never saw is the stage's figure,
beside what length alone would have achieved: a reward model that only counts words is worth nothing.

    loss = −w · [t log σ(Δ − m) + (1 − t) log σ(−Δ)] + c · (r₁² + r₂² + 2 r₁ r₂),   Δ = r₁ − r₂

(Bradley-Terry) with w the weight of a judgement, t 1 for a choice and ½ for a tie, m the margin of a choice (Llama 2,
arXiv 2307.09288) and c the centring, which takes from the scores the freedom to drift together (arXiv 2312.09244).

From a few thousand pairs a whole model learns the pairs by heart before it learns what people prefer. ``linear_probe`` first
fits the score alone, by the same loss with a ridge, on the states of the model as it came; a low rate then changes these
little (linear probing then fine-tuning, arXiv 2202.10054).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from alignment.best import Figure
from alignment.data import outside_digests
from alignment.job import ModelJob, SupervisedConfig, run_model_job
from alignment.loop import Plan, engine_of, optimise
from alignment.losses import bradley_terry
from alignment.order import Order
from alignment.pairs import PairBatch, PairTokens, halves, pair_batch, pair_figures, pair_lengths, training_pairs
from alignment.replies import RewardModel
from alignment.reward_report import report
from infra.config import Later
from infra.errors import InputError
from infra.stage import JobStage
from training.loop import publish_model


class RewardConfig(SupervisedConfig):
    """A reward model from preference pairs."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the pairs; the last batch holds what is left."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. 7B models: 1e-5."""
    margin: Annotated[float, Later()] = Field(default=0.0, ge=0)
    """A pair's own margin (how much better people found the better reply) times this must be between its scores; 0: none."""
    linear_probe: Annotated[float, Later()] = Field(default=0.0, ge=0)
    """Ridge λ (λ/2·|score|² beside the mean loss) of the logistic regression from which the score starts; 0: the score starts
    at zero. Few pairs or a small model: 0.001 to 0.01, with lr a tenth of what it is without."""
    centring: Annotated[float, Later()] = Field(default=0.0, ge=0)
    """Weight of the squared sum of a pair's scores; 0.01 keeps them around zero. 0: none."""


STAGE = JobStage(
    name="reward",
    code_version=4,  # 4: calibration and figures by margin and length
    config=RewardConfig,
    inputs=lambda config: config.starts_from("sft") | {"preferences": "preferences"},
    external=lambda config: outside_digests(base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.reward"),
    description="The reward model: which of two replies would a person rather have said?",
)


def reward_losses(
    model: RewardModel, batch: PairBatch, margin: float = 0.0, centring: float = 0.0
) -> dict[str, Tensor]:
    """Summed weighted loss of the pairs, and how many are ranked right; of a tie half."""
    chosen, rejected = halves(model.judge(batch.replies))
    loss = bradley_terry(chosen, rejected, batch.weights, batch.ties, margin * batch.margins)
    if centring:
        loss = loss + centring * (batch.weights * (chosen + rejected) ** 2).sum()
    right = torch.where(batch.ties, 0.5, (chosen > rejected).float())
    return {"loss": loss, "accuracy": (batch.weights * right).sum()}


def train(job: ModelJob[RewardConfig]) -> None:
    """The stage in one rank: training, figures, model."""
    config, device = job.config, job.ranks.device
    training, held_out = training_pairs(job, ties=True)
    if not any(not pair.tie for pair in held_out):
        raise InputError(
            f"all {len(held_out)} held-out comparisons are ties, which measure nothing",
            where="preferences",
            remedy="Give more comparisons, or raise preferences.held_out_fraction.",
        )
    lengths = pair_lengths(training)
    order = Order(len(training), config.batch_size, config.epochs, config.seed, config.max_steps, lengths)
    score_weight = None
    if config.linear_probe:
        job.phase("linear probe")
        score_weight = fit_score(pair_states(job, training), config, job.reduce)
    engine = engine_of(job, RewardModel(job.base_model(), score_weight), order.steps)
    decided = np.array([not pair.tie for pair in held_out])

    def validate() -> dict[str, float]:
        scores = pair_figures(job, engine, held_out, score)
        return {"held_out_accuracy": float((scores[:, 0] > scores[:, 1])[decided].mean())}

    plan: Plan[PairBatch] = Plan(
        order,
        2 * lengths,
        lambda part: pair_batch(training, part.indices, job.tokenizer.pad_id, device, part.idle),
        lambda model, batch: reward_losses(model, batch, config.margin, config.centring),
        lambda batch: float(batch.weights.sum()),
        validate,
        Figure("held_out_accuracy", noise=0.03),
        names=lambda index: [training[index].id],
    )
    optimise(job, engine, plan)
    job.phase("measuring")
    seen = pair_figures(job, engine, training[: len(held_out)], score)
    figures = report(pair_figures(job, engine, held_out, score), held_out, seen)
    if figures["accuracy"]["low"] <= 0.5:
        job.warn(
            f"the reward model is not surely better than chance: it ranks {figures['accuracy']['value']:.1%} of "
            f"{figures['accuracy']['n']} held-out pairs right ({figures['accuracy']['low']:.1%} to "
            f"{figures['accuracy']['high']:.1%}); what PPO makes of it means little"
        )
    job.stats["training_pairs"] = len(training)
    job.publish_figures("reward.json", figures)
    publish_model(job, engine, job.model_folder, score="score.weight")
    job.finish()


@dataclass(frozen=True)
class PairStates:
    """This rank's pairs as a linear score sees them: states ``[pairs, hidden]``, float64."""

    chosen: Tensor
    rejected: Tensor
    weights: Tensor
    ties: Tensor
    margins: Tensor


@torch.no_grad()
def pair_states(job: ModelJob[RewardConfig], pairs: Sequence[PairTokens]) -> PairStates:
    """Under the model as it came, which every rank holds for as long."""
    model = RewardModel(job.base_model(frozen=True))
    order = np.argsort(pair_lengths(pairs), kind="stable")
    mine = order[job.ranks.rank :: job.ranks.world_size]
    # A rank without pairs takes part with one that weighs nothing.
    mine, counts = (mine, 1.0) if len(mine) else (order[:1], 0.0)
    size, parts = job.config.micro_batch, list[tuple[Tensor, ...]]()
    for start in range(0, len(mine), size):
        batch = pair_batch(pairs, mine[start : start + size], job.tokenizer.pad_id, job.ranks.device)
        states = halves(model.last_states(batch.replies).double())
        parts.append((*states, counts * batch.weights.double(), batch.ties, batch.margins.double()))
    return PairStates(*(torch.cat(column) for column in zip(*parts, strict=True)))


def fit_score(pairs: PairStates, config: RewardConfig, reduce: Callable[[Tensor], Tensor], steps: int = 100) -> Tensor:
    """The score's weight ``[1, hidden]`` of least loss over the pairs of all ranks: convex, so where it starts says nothing.

    Centring is what gives states that end no reply a score among the others: without it only differences are fitted, and
    the ends of all replies share a part that no difference shows.
    """
    weights, margins = pairs.weights, config.margin * pairs.margins
    found = torch.zeros(pairs.chosen.shape[1], dtype=weights.dtype, device=weights.device, requires_grad=True)
    total = reduce(weights.sum())
    search = torch.optim.LBFGS(
        [found], max_iter=steps, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def mean_loss() -> Tensor:
        chosen, rejected = pairs.chosen @ found, pairs.rejected @ found
        loss = bradley_terry(chosen, rejected, weights, pairs.ties, margins)
        loss = loss + config.centring * (weights * (chosen + rejected) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, found)
        means = reduce(torch.cat([loss.detach().unsqueeze(0), gradient])) / total
        found.grad = means[1:] + config.linear_probe * found.detach()
        return means[0] + config.linear_probe / 2 * found.detach().square().sum()

    search.step(mean_loss)
    return found.detach().unsqueeze(0)


def score(model: RewardModel, batch: PairBatch) -> Tensor:
    """Normalised score of each reply ``[2 * pairs]``: chosen ones first, then rejected."""
    return model.judge(batch.replies)


if __name__ == "__main__":
    run_model_job(train, RewardConfig)
