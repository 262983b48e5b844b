"""The reward model: which of two replies would a person rather have said?

A copy of the fine-tuned model reads prompt and reply; one linear score at the last token is trained so that the chosen
reply scores higher than the rejected one. Its accuracy on pairs of conversations it never saw is the stage's figure,
beside what length alone would have achieved: a reward model that only counts words is worth nothing.
"""

from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from alignment.best import Figure
from alignment.data import outside_digests
from alignment.job import Job, run_job
from alignment.loop import Plan, optimise
from alignment.losses import pairwise_logistic
from alignment.models import base_model, save_reward
from alignment.order import Order
from alignment.pairs import PairBatch, PairTokens, halves, pair_batch, pair_lengths, training_pairs
from alignment.replies import RewardModel
from alignment.settings import TrainingConfig
from alignment.statistics import wilson
from infra.stage import JobStage
from infra.store.files import write_json
from training.engine import Engine, create_engine


class RewardConfig(TrainingConfig):
    """A reward model from preference pairs."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the pairs; the last batch holds what is left."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps even if an epoch is not over."""
    validate_every: int = Field(default=50, ge=1)
    """Steps between measurements on held-out pairs."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. 7B models: 1e-5."""


STAGE = JobStage(
    name="reward",
    code_version=3,
    config=RewardConfig,
    inputs=lambda config: config.starts_from("sft") | {"preferences": "preferences"},
    external=lambda config: outside_digests(base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.reward"),
    code=(
        "alignment.reward",
        "alignment.best",
        "alignment.losses",
        "alignment.loop",
        "alignment.order",
        "alignment.pairs",
        "alignment.replies",
    ),
    description="The reward model: which of two replies would a person rather have said?",
)


def reward_losses(model: RewardModel, batch: PairBatch) -> dict[str, Tensor]:
    """Summed logistic loss of the pairs, and how many are ranked right."""
    chosen, rejected = halves(model.judge(batch.replies))
    return {"loss": pairwise_logistic(chosen, rejected), "accuracy": (chosen > rejected).float().sum()}


def train(job: Job[RewardConfig]) -> None:
    config, device = job.config, job.ranks.device
    training, held_out = training_pairs(job)
    order = Order(
        len(training), config.batch_size, config.epochs, config.seed, config.max_steps, pair_lengths(training)
    )
    model, steps = RewardModel(base_model(job)), order.steps
    engine = create_engine(model, config.optimizer(steps), config.parallel(), total_steps=steps, ranks=job.ranks)

    def validate() -> dict[str, float]:
        scores = pair_scores(job, engine, held_out)
        return {"held_out_accuracy": float((scores[:, 0] > scores[:, 1]).mean())}

    plan: Plan[PairBatch] = Plan(
        order,
        lambda indices: pair_batch(training, indices, job.tokenizer.pad_id, device),
        reward_losses,
        lambda batch: batch.pairs,
        validate,
        config.validate_every,
        config.checkpoint_every,
        Figure("held_out_accuracy", noise=0.03),
    )
    optimise(job, engine, plan)
    job.phase("measuring")
    seen = pair_scores(job, engine, training[: len(held_out)])
    figures = report(pair_scores(job, engine, held_out), held_out, seen)
    if figures["accuracy"]["low"] <= 0.5:
        job.warn(
            f"the reward model is not surely better than chance: it ranks {figures['accuracy']['value']:.1%} of "
            f"{figures['accuracy']['n']} held-out pairs right ({figures['accuracy']['low']:.1%} to "
            f"{figures['accuracy']['high']:.1%}); what PPO makes of it means little"
        )
    job.stats |= figures | {"training_pairs": len(training)}
    if job.ranks.first:
        write_json(job.request.data_dir / "reward.json", figures)
    save_reward(job, engine, **{"data/reward.json": True})


def pair_scores(job: Job[Any], engine: Engine, pairs: list[PairTokens]) -> np.ndarray:
    """Scores [pairs, 2] of chosen and rejected replies, shared among the ranks and known to all."""
    mine: dict[int, float] = {}
    indices = np.argsort(pair_lengths(pairs), kind="stable")[job.ranks.rank :: job.ranks.world_size]
    for start in range(0, len(indices), job.config.micro_batch):
        part = indices[start : start + job.config.micro_batch]
        batch = pair_batch(pairs, part, job.tokenizer.pad_id, job.ranks.device)
        chosen, rejected = halves(engine.evaluate(lambda model, batch=batch: model.judge(batch.replies)))
        for index, better, worse in zip(part.tolist(), chosen.tolist(), rejected.tolist(), strict=True):
            mine[2 * index], mine[2 * index + 1] = better, worse
    return job.together(mine, 2 * len(pairs)).reshape(-1, 2)


def report(scores: np.ndarray, pairs: list[PairTokens], seen: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval, the part length plays in it, and the scale of the scores."""
    right = scores[:, 0] > scores[:, 1]
    lengths = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
    longer, shorter = lengths[:, 0] > lengths[:, 1], lengths[:, 0] < lengths[:, 1]
    return {
        "accuracy": wilson(int(right.sum()), len(right)),
        "margin": float((scores[:, 0] - scores[:, 1]).mean()),
        "mean": float(seen.mean()),
        "std": max(float(seen.std()), 1e-6),
        "length": {
            "accuracy_of_choosing_the_longer": float((longer + 0.5 * (~longer & ~shorter)).mean()),
            "accuracy_where_chosen_is_longer": _share(right[longer]),
            "accuracy_where_chosen_is_shorter": _share(right[shorter]),
            "correlation_with_score": _correlation(scores.ravel(), lengths.ravel()),
        },
    }


def _share(right: np.ndarray) -> float | None:
    return float(right.mean()) if right.size else None


def _correlation(scores: np.ndarray, lengths: np.ndarray) -> float | None:
    if scores.std() == 0 or lengths.std() == 0:
        return None
    return float(np.corrcoef(scores, lengths)[0, 1])


if __name__ == "__main__":
    run_job(train, RewardConfig)
