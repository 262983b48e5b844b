"""The reward model: which of two replies would a person rather have said?

A copy of the fine-tuned model reads prompt and reply; one linear score at the last token is trained so that the chosen
reply scores higher than the rejected one. Its accuracy on pairs of conversations it never saw is the stage's figure,
beside what length alone would have achieved: a reward model that only counts words is worth nothing.

    loss = −w · [t log σ(Δ − m) + (1 − t) log σ(−Δ)] + c · (r₁² + r₂² + 2 r₁ r₂),   Δ = r₁ − r₂

(Bradley-Terry) with w the weight of a judgement, t 1 for a choice and ½ for a tie, m the margin of a choice (Llama 2,
arXiv 2307.09288) and c the centring, which takes from the scores the freedom to drift together (arXiv 2312.09244).
"""

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
from alignment.pairs import PairBatch, halves, pair_batch, pair_figures, pair_lengths, training_pairs
from alignment.replies import RewardModel
from alignment.reward_report import report
from infra.config import Later
from infra.errors import InputError
from infra.stage import JobStage
from infra.store.files import write_json
from training.loop import publish_model


class RewardConfig(SupervisedConfig):
    """A reward model from preference pairs."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the pairs; the last batch holds what is left."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. 7B models: 1e-5."""
    margin: Annotated[float, Later()] = Field(default=0.0, ge=0)
    """A pair's own margin (how much better people found the better reply) times this must be between its scores; 0: none."""
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
    engine = engine_of(job, RewardModel(job.base_model()), order.steps)
    decided = np.array([not pair.tie for pair in held_out])

    def validate() -> dict[str, float]:
        scores = pair_figures(job, engine, held_out, score)
        return {"held_out_accuracy": float((scores[:, 0] > scores[:, 1])[decided].mean())}

    plan: Plan[PairBatch] = Plan(
        order,
        2 * lengths,
        lambda indices: pair_batch(training, indices, job.tokenizer.pad_id, device),
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
    job.stats |= figures | {"training_pairs": len(training)}
    if job.ranks.first:
        write_json(job.request.data_dir / "reward.json", figures)
    publish_model(job, engine, job.model_folder, lambda model: (model.decoder, model.score.weight))
    job.outputs["data/reward.json"] = True
    job.finish()


def score(model: RewardModel, batch: PairBatch) -> Tensor:
    """Normalised score of each reply ``[2 * pairs]``: chosen ones first, then rejected."""
    return model.judge(batch.replies)


if __name__ == "__main__":
    run_model_job(train, RewardConfig)
