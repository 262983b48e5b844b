"""The reward model: which of two replies would a person rather have said?

A copy of the fine-tuned model reads prompt and reply; one linear score at the last token is trained so that the chosen
reply scores higher than the rejected one. Its accuracy on pairs of conversations it never saw is the stage's figure,
beside what length alone would have achieved: a reward model that only counts words is worth nothing.
"""

from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from alignment.job import Job, run_job
from alignment.loop import Plan, optimise
from alignment.losses import pairwise_logistic
from alignment.models import base_model, save_reward
from alignment.order import micro_batches, step_indices, steps_for
from alignment.pairs import PairBatch, PairTokens, halves, pair_batch, pair_lengths, tokenize_pairs
from alignment.preferences import read_pairs
from alignment.replies import RewardModel
from alignment.settings import TrainingConfig
from alignment.statistics import wilson
from infra.stage import JobStage
from infra.store.files import write_json
from training.engine import Engine, create_engine


class RewardConfig(TrainingConfig):
    """A reward model from preference pairs."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the pairs."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps even if an epoch is not over."""
    validate_every: int = Field(default=50, ge=1)
    """Steps between measurements on held-out pairs."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate. 7B models: 1e-5."""


STAGE = JobStage(
    name="reward",
    code_version=1,
    config=RewardConfig,
    inputs=lambda config: {"sft": "sft", "tokenizer": "tokenizer", "preferences": "preferences"},
    job=lambda config: config.job_spec("alignment.reward"),
    code=("alignment.reward", "alignment.replies", "alignment.losses", "alignment.loop", "alignment.order"),
    description="The reward model: which of two replies would a person rather have said?",
)


def reward_losses(model: RewardModel, batch: PairBatch) -> dict[str, Tensor]:
    """Summed logistic loss of the pairs, and how many are ranked right."""
    chosen, rejected = halves(model.judge(batch.replies))
    return {"loss": pairwise_logistic(chosen, rejected), "accuracy": (chosen > rejected).float().sum()}


def train(job: Job[RewardConfig]) -> None:
    config, device = job.config, job.ranks.device
    pairs_file = job.data("preferences") / "pairs.parquet"
    training, held_out = (tokenize_pairs(job.tokenizer, read_pairs(pairs_file, s)) for s in ("train", "held_out"))
    lengths = pair_lengths(training)
    steps = steps_for(len(training), config.batch_size, config.epochs, config.max_steps)
    model = RewardModel(base_model(job, "sft"))
    engine = create_engine(model, config.optimizer(steps), config.parallel(), total_steps=steps, ranks=job.ranks)

    def batches(step: int) -> list[PairBatch]:
        indices = step_indices(len(training), config.batch_size, config.seed, step)
        shares = micro_batches(indices, config.micro_batch, job.ranks.rank, job.ranks.world_size, lengths)
        return [pair_batch(training, part, job.tokenizer.pad_id, device) for part in shares]

    def validate() -> dict[str, float]:
        scores = pair_scores(job, engine, held_out)
        return {"held_out_accuracy": float((scores[:, 0] > scores[:, 1]).mean())}

    plan: Plan[PairBatch] = Plan(
        steps,
        batches,
        reward_losses,
        lambda batch: batch.pairs,
        validate,
        config.validate_every,
        config.checkpoint_every,
    )
    optimise(job, engine, plan)
    job.phase("measuring")
    seen = pair_scores(job, engine, training[: len(held_out)])
    figures = report(pair_scores(job, engine, held_out), held_out, seen)
    job.stats |= figures | {"steps": steps, "training_pairs": len(training)}
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
