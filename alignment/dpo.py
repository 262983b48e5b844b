"""Direct preference optimisation: the policy learns from pairs without a reward model or sampling.

What it wins on pairs it can lose in speech: it may unlearn to stop. So the chosen reply's own loss has a weight beside the
preference's, and the model answers held-out prompts before and after.

The reference's log-probabilities never change, so they are computed once, before the first step, and kept in the work
folder: no second model stays in memory, and a resumed job does not compute them again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from alignment.best import Figure
from alignment.conversations import render_prompt, render_reply
from alignment.data import RatedReply, commonest, outside_digests
from alignment.generation import reply_limit
from alignment.job import Addresses, AnsweringConfig, ModelJob, run_model_job
from alignment.kto import Rated, RatedBatch, kto_losses, other_log_ratios, rated, rated_batch
from alignment.loop import Plan, engine_of, optimise
from alignment.losses import PAIR_LOSSES, PairLogProbs, PreferenceRules, implied_rewards
from alignment.order import Order
from alignment.pair_files import read_rated
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
from alignment.records import Reading, find
from alignment.replies import reply_log_probs
from infra.config import Later
from infra.errors import InputError
from infra.stage import JobStage
from infra.store.address import dataset_inputs
from infra.store.files import replacing
from training.engine import Engine
from training.intervals import mean_interval, wilson
from training.loop import publish_model
from training.model import Decoder


class DpoConfig(AnsweringConfig, PreferenceRules):
    """Direct preference optimisation."""

    chosen_loss: float = Field(default=0.5, ge=0)
    """Weight of the chosen reply's own loss, a mean over its tokens, beside the preference's (as in RPO, arXiv
    2404.19733). It holds the model to what people say and to where they stop; 0 is plain DPO."""
    rated: Annotated[Addresses, Later()] = ()
    """kto: files of {prompt, completion, label} to learn from beside the pairs' replies: paths, files of an input, the hub."""
    lr: float = Field(default=5e-5, gt=0)
    """Peak learning rate. 7B models: 5e-7 to 1e-5."""


Validate = Callable[[], Mapping[str, float]]

STAGE = JobStage(
    name="dpo",
    code_version=3,
    config=DpoConfig,
    inputs=lambda config: config.starts_from("sft") | {"preferences": "preferences"} | dataset_inputs(config.rated),
    external=lambda config: outside_digests(*config.rated, base_model=config.base_model),
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
    """Sums over pairs, each by its weight. ``known`` [pairs, 2]: what the reference gives chosen and rejected replies."""
    chosen, rejected = halves(reply_totals(policy, batch))
    known = known.to(chosen.dtype)
    pairs = PairLogProbs(chosen, rejected, known[:, 0], known[:, 1], *halves(batch.replies.mask.sum(1)))
    weights = batch.weights
    loss = (weights * PAIR_LOSSES[config.loss](pairs, config)).sum()
    better, worse = implied_rewards(pairs, config)
    own = -(weights * pairs.means[0]).sum()
    return {
        "loss": loss + config.chosen_loss * own,
        "preference_loss": loss.detach(),
        "chosen_loss": own.detach(),
        "accuracy": (weights * (better > worse)).sum(),
        "margin": (weights * (better - worse)).sum(),
        "chosen_reward": (weights * better).sum(),
    }


def train(job: ModelJob[DpoConfig]) -> None:
    """The stage in one rank: reference, training, figures, model."""
    config = job.config
    training, held_out = training_pairs(job)
    given = rated(training, job.tokenizer, rated_replies(job)) if config.loss == "kto" else None
    lengths = pair_lengths(given.rows if given else training)
    order = Order(len(lengths), config.batch_size, config.epochs, config.seed, config.max_steps, lengths)
    engine = engine_of(job, job.base_model(), order.steps)
    # Before a checkpoint is loaded: the engine still holds the reference.
    job.phase("reference log-probabilities")
    reference = reference_log_probs(job, engine, training, "train")
    reference_held_out = reference_log_probs(job, engine, held_out, "held_out")
    limit = reply_limit(config.generation_tokens, job.position_limit)
    prompts = held_out_questions(job, limit, config.generation_prompts)
    before = prompts.answer_before(job, engine)

    def margins() -> np.ndarray:
        seen = pair_figures(job, engine, held_out, reply_totals if config.has_reference else reply_means)
        rewards = config.beta * (seen - reference_held_out)
        return np.asarray(rewards[:, 0] - rewards[:, 1])

    def validate() -> dict[str, float]:
        margin = margins()
        return {"held_out_margin": float(margin.mean()), "held_out_accuracy": float((margin > 0).mean())}

    figure = Figure("held_out_accuracy", noise=0.03)
    if given is not None:
        optimise(job, engine, rated_plan(job, engine, order, given, validate, figure))
    else:
        optimise(job, engine, pair_plan(job, order, training, reference, validate, figure))
    margin = margins()
    figures: dict[str, Any] = {
        "accuracy": wilson(int((margin > 0).sum()), len(margin)).as_dict(),
        "margin": mean_interval(margin, config.seed).as_dict(),
        **prompts.report(job, before, prompts.answer(job, engine)),
    }
    job.stats["training_pairs"] = len(training)
    job.publish_figures("dpo.json", figures)
    publish_model(job, engine, job.model_folder)
    job.finish()


def pair_plan(
    job: ModelJob[DpoConfig],
    order: Order,
    pairs: list[PairTokens],
    reference: np.ndarray,
    validate: Validate,
    figure: Figure,
) -> Plan[PairBatch]:
    """Pairs, by their losses."""
    device = job.ranks.device

    def losses(policy: Decoder, batch: PairBatch) -> dict[str, Tensor]:
        known = torch.from_numpy(reference[batch.indices]).to(device)
        return dpo_losses(policy, batch, known, job.config)

    return Plan(
        order,
        2 * pair_lengths(pairs),
        lambda part: pair_batch(pairs, part.indices, job.tokenizer.pad_id, device, part.idle),
        losses,
        lambda batch: float(batch.weights.sum()),
        validate,
        figure,
        names=lambda index: [pairs[index].id],
    )


def rated_plan(
    job: ModelJob[DpoConfig], engine: Engine, order: Order, given: Rated, validate: Validate, figure: Figure
) -> Plan[RatedBatch]:
    """Replies one by one, by KTO."""
    config, device = job.config, job.ranks.device
    known = reference_log_probs(job, engine, given.rows, "rated")
    point = [0.0]

    def prepare(batches: Sequence[RatedBatch]) -> None:
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in batches:
            ratios, counts = engine.evaluate(other_log_ratios, batch).double(), batch.weights > 0
            sums += torch.stack([ratios[counts].sum(), counts.sum().double()])
        total, rows = engine.total(sums).tolist()
        point[0] = max(total / rows, 0.0)

    return Plan(
        order,
        2 * pair_lengths(given.rows),
        lambda part: rated_batch(given, known, part.indices, job.tokenizer.pad_id, device, part.idle),
        lambda policy, batch: kto_losses(policy, batch, point[0], config, config.chosen_loss),
        lambda batch: float(batch.weights.sum()),
        validate,
        figure,
        names=lambda index: [given.rows[index].id],
        prepare=prepare,
    )


def rated_replies(job: ModelJob[DpoConfig]) -> list[RatedReply]:
    """Replies with a verdict of their own, for which the model has room."""
    reading, found, lost = Reading(), list[RatedReply](), Counter[str]()
    files = [file for address in job.config.rated for file in find(address, job.request.inputs)]
    for _, reply in (each for file in files for each in read_rated(file, reading)):
        try:
            prompt, said = render_prompt(job.tokenizer, reply.prompt), render_reply(job.tokenizer, reply.completion)
        except InputError:  # a template that takes no system turn, or wants speakers to alternate
            lost["template_refuses"] += 1
            continue
        if len(prompt) + len(said) > job.position_limit:
            lost["too_long"] += 1
        elif reply.weight == 0:  # a batch of such would be divided by nothing
            lost["no_weight"] += 1
        else:
            found.append(reply)
    lost.update(reading.refused)
    if lost:
        job.warn(f"rated replies that cannot be used: {commonest(lost)}{reading.example}")
    return found


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
        with replacing(path) as beside, beside.open("wb") as stream:
            np.save(stream, values)
    return values


if __name__ == "__main__":
    run_model_job(train, DpoConfig)
