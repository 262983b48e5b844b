"""Direct preference optimisation: the policy learns from pairs without a reward model or sampling.

What it wins on pairs it can lose in speech: it may unlearn to stop. So the chosen reply's own loss has a weight beside the
preference's, and the model answers held-out prompts before and after.

The reference's log-probabilities never change, so they are computed once, before the first step, and kept in the work
folder: no second model stays in memory, and a resumed job does not compute them again.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from alignment.best import Figure
from alignment.data import outside_digests
from alignment.generation import reply_limit
from alignment.job import AnsweringConfig, ModelJob, run_model_job
from alignment.loop import Plan, engine_of, optimise
from alignment.losses import PAIR_LOSSES, PairLogProbs, PreferenceRules, implied_rewards
from alignment.order import Order
from alignment.pairs import (
    PairBatch,
    PairTokens,
    halves,
    held_out_questions,
    pair_batch,
    pair_figures,
    pair_lengths,
    training_pairs,
)
from alignment.replies import reply_log_probs
from infra.stage import JobStage
from infra.store.files import write_json
from training.engine import Engine
from training.intervals import mean_interval, wilson
from training.loop import publish_model
from training.model import Decoder


class DpoConfig(AnsweringConfig, PreferenceRules):
    """Direct preference optimisation."""

    chosen_loss: float = Field(default=0.5, ge=0)
    """Weight of the chosen reply's own loss, a mean over its tokens, beside the preference's (as in RPO, arXiv
    2404.19733). It holds the model to what people say and to where they stop; 0 is plain DPO."""
    lr: float = Field(default=5e-5, gt=0)
    """Peak learning rate. 7B models: 5e-7 to 1e-5."""


STAGE = JobStage(
    name="dpo",
    code_version=3,
    config=DpoConfig,
    inputs=lambda config: config.starts_from("sft") | {"preferences": "preferences"},
    external=lambda config: outside_digests(base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.dpo"),
    description="Direct preference optimisation of the fine-tuned model.",
)


def reply_totals(model: Decoder, batch: PairBatch) -> Tensor:
    """Log-probability of each whole reply: chosen ones first, then rejected."""
    return reply_log_probs(model, batch.replies).sum(1)


def reply_means(model: Decoder, batch: PairBatch) -> Tensor:
    """The same a token."""
    return reply_totals(model, batch) / batch.replies.mask.sum(1)


def dpo_losses(policy: Decoder, batch: PairBatch, known: Tensor, config: DpoConfig) -> dict[str, Tensor]:
    """Sums over the pairs of a batch. ``known`` [pairs, 2] is what the reference gives chosen and rejected replies."""
    chosen, rejected = halves(reply_totals(policy, batch))
    known = known.to(chosen.dtype)
    pairs = PairLogProbs(chosen, rejected, known[:, 0], known[:, 1], *halves(batch.replies.mask.sum(1)))
    loss = PAIR_LOSSES[config.loss](pairs, config).sum()
    better, worse = implied_rewards(pairs, config)
    own = -pairs.means[0].sum()
    return {
        "loss": loss + config.chosen_loss * own,
        "preference_loss": loss.detach(),
        "chosen_loss": own.detach(),
        "accuracy": (better > worse).float().sum(),
        "margin": (better - worse).sum(),
        "chosen_reward": better.sum(),
    }


def train(job: ModelJob[DpoConfig]) -> None:
    """The stage in one rank: reference, training, figures, model."""
    config, device = job.config, job.ranks.device
    training, held_out = training_pairs(job)
    lengths = pair_lengths(training)
    order = Order(len(training), config.batch_size, config.epochs, config.seed, config.max_steps, lengths)
    engine = engine_of(job, job.base_model(), order.steps)
    # Before a checkpoint is loaded: the engine still holds the reference.
    job.phase("reference log-probabilities")
    reference = reference_log_probs(job, engine, training, "train")
    reference_held_out = reference_log_probs(job, engine, held_out, "held_out")
    limit = reply_limit(config.generation_tokens, job.position_limit)
    prompts = held_out_questions(job, limit, config.generation_prompts)
    before = prompts.answer_before(job, engine)

    def losses(policy: Decoder, batch: PairBatch) -> dict[str, Tensor]:
        known = torch.from_numpy(reference[batch.indices]).to(device)
        return dpo_losses(policy, batch, known, config)

    def margins() -> np.ndarray:
        seen = pair_figures(job, engine, held_out, reply_totals if config.has_reference else reply_means)
        rewards = config.beta * (seen - reference_held_out)
        return np.asarray(rewards[:, 0] - rewards[:, 1])

    def validate() -> dict[str, float]:
        margin = margins()
        return {"held_out_margin": float(margin.mean()), "held_out_accuracy": float((margin > 0).mean())}

    plan: Plan[PairBatch] = Plan(
        order,
        2 * lengths,
        lambda indices: pair_batch(training, indices, job.tokenizer.pad_id, device),
        losses,
        lambda batch: batch.pairs,
        validate,
        Figure("held_out_accuracy", noise=0.03),
        names=lambda index: [training[index].id],
    )
    optimise(job, engine, plan)
    margin = margins()
    figures: dict[str, Any] = {
        "accuracy": wilson(int((margin > 0).sum()), len(margin)).as_dict(),
        "margin": mean_interval(margin, config.seed).as_dict(),
        **prompts.report(job, before, prompts.answer(job, engine)),
    }
    job.stats |= figures | {"training_pairs": len(training)}
    if job.ranks.first:
        write_json(job.request.data_dir / "dpo.json", figures)
    publish_model(job, engine, job.model_folder)
    job.outputs["data/dpo.json"] = True
    job.finish()


def reference_log_probs(job: ModelJob[DpoConfig], engine: Engine, pairs: list[PairTokens], name: str) -> np.ndarray:
    """[pairs, 2] under the model as it came, from the work folder if an earlier attempt left it there; zeros where the
    loss asks no reference."""
    if not job.config.has_reference:
        return np.zeros((len(pairs), 2))
    path = job.request.work_dir / f"reference-{name}.npy"
    there = path.exists()
    dist.barrier()  # all ranks have looked before the first writes
    if there:
        return np.asarray(np.load(path, allow_pickle=False))
    values = pair_figures(job, engine, pairs, reply_totals)
    if job.ranks.first:
        _save_whole(path, values)
    return values


def _save_whole(path: Path, values: np.ndarray) -> None:
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as stream:
        np.save(stream, values)
    beside.replace(path)


if __name__ == "__main__":
    run_model_job(train, DpoConfig)
