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
from alignment.job import ModelJob, SupervisedConfig, run_model_job
from alignment.loop import Plan, engine_of, optimise
from alignment.losses import pairwise_logistic
from alignment.order import Order
from alignment.pairs import PairBatch, PairTokens, halves, pair_batch, pair_figures, pair_lengths, training_pairs
from alignment.replies import RewardModel
from infra.stage import JobStage
from infra.store.files import write_json
from training.intervals import wilson
from training.loop import publish_model


class RewardConfig(SupervisedConfig):
    """A reward model from preference pairs."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the pairs; the last batch holds what is left."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. 7B models: 1e-5."""


STAGE = JobStage(
    name="reward",
    code_version=3,
    config=RewardConfig,
    inputs=lambda config: config.starts_from("sft") | {"preferences": "preferences"},
    external=lambda config: outside_digests(base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.reward"),
    description="The reward model: which of two replies would a person rather have said?",
)


def reward_losses(model: RewardModel, batch: PairBatch) -> dict[str, Tensor]:
    """Summed logistic loss of the pairs, and how many are ranked right."""
    chosen, rejected = halves(model.judge(batch.replies))
    return {"loss": pairwise_logistic(chosen, rejected), "accuracy": (chosen > rejected).float().sum()}


def train(job: ModelJob[RewardConfig]) -> None:
    """The stage in one rank: training, figures, model."""
    config, device = job.config, job.ranks.device
    training, held_out = training_pairs(job)
    lengths = pair_lengths(training)
    order = Order(len(training), config.batch_size, config.epochs, config.seed, config.max_steps, lengths)
    engine = engine_of(job, RewardModel(job.base_model()), order.steps)

    def validate() -> dict[str, float]:
        scores = pair_figures(job, engine, held_out, score)
        return {"held_out_accuracy": float((scores[:, 0] > scores[:, 1]).mean())}

    plan: Plan[PairBatch] = Plan(
        order,
        2 * lengths,
        lambda indices: pair_batch(training, indices, job.tokenizer.pad_id, device),
        reward_losses,
        lambda batch: batch.pairs,
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


def report(scores: np.ndarray, pairs: list[PairTokens], seen: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval, the part length plays in it, and the scale of the scores."""
    right = scores[:, 0] > scores[:, 1]
    lengths = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
    longer, shorter = lengths[:, 0] > lengths[:, 1], lengths[:, 0] < lengths[:, 1]
    return {
        "accuracy": wilson(int(right.sum()), len(right)).as_dict(),
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
    run_model_job(train, RewardConfig)
