"""Pairs of a model's own replies: of several to a prompt the one that the reward model likes best, and the one it likes least.

With ``dpo`` behind it this is one round of online DPO (arXiv 2402.04792); a recipe repeats the two under other names, each round
from the model of the round before:

    best_of_n: {}                                                             # the fine-tuned model's replies
    dpo: {inputs: {preferences: best_of_n}}
    best_of_n_2: {use: best_of_n, inputs: {sft: dpo}, seed: 1}                # that model's replies
    dpo_2: {use: dpo, inputs: {sft: dpo, preferences: best_of_n_2}, seed: 1}

Prompts, and who is held out, are those of ``preferences``. What is sampled is a function of (seed, chunk); a chunk that is there
after a kill is not sampled again.
"""

from collections.abc import Sequence

import torch
from pydantic import Field

from alignment.chunk_files import in_chunks
from alignment.conversations import render_prompt
from alignment.data import outside_digests
from alignment.generation import reply_settings
from alignment.job import ModelJob, ModelJobConfig, run_model_job
from alignment.order import seed_of, step_indices
from alignment.pair_files import Pair
from alignment.pairs import pairs_of
from alignment.ppo import check_judge, reward_model
from alignment.preferences import save_pairs
from alignment.replies import RewardModel
from alignment.rollouts import sample
from infra.errors import InputError
from infra.stage import JobStage
from training.model import Decoder


class BestOfNConfig(ModelJobConfig):
    """Pairs of a model's own replies, judged by the reward model."""

    samples: int = Field(default=8, ge=2)
    """Replies to each prompt."""
    train_prompts: int = Field(default=2000, ge=1)
    """Prompts to make training pairs of; each gives one."""
    held_out_prompts: int = Field(default=256, ge=1)
    """The same, to measure on."""
    max_reply_tokens: int = Field(default=40, ge=4)
    """Longest sampled reply; one that does not end within it is in no pair."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling."""
    least_margin: float = Field(default=0.1, ge=0)
    """Pairs whose scores are closer, in standard deviations of the reward, teach nothing and are left out."""
    chunk: int = Field(default=8, ge=1)
    """Prompts whose replies are sampled together; also the unit of resuming."""


STAGE = JobStage(
    name="best_of_n",
    code_version=1,
    config=BestOfNConfig,
    inputs=lambda config: config.starts_from("sft") | {"reward": "reward", "preferences": "preferences"},
    external=lambda config: outside_digests(base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.best_of_n"),
    description="Pairs of a model's own replies, the one its reward model likes best and the one it likes least.",
)

Scored = tuple[float, list[int]]
"""What the reward model gives a reply, and its tokens."""


def run(job: ModelJob[BestOfNConfig]) -> None:
    """The stage in one rank: sample and judge the chunks that are missing; the first rank writes the pairs."""
    check_judge(job)
    asked = prompts(job)
    model, judge = job.base_model(frozen=True), reward_model(job, frozen=True)

    def replies(number: int, places: range) -> list[list[Scored]]:
        return scored_replies(job, model, judge, number, [asked[place] for place in places])

    drawn = in_chunks(job, len(asked), job.config.chunk, replies)
    if job.ranks.first:
        found = [best_and_worst(job, pair, replies) for pair, replies in zip(asked, drawn, strict=True)]
        pairs = [pair for pair in found if pair is not None]
        if {pair.split for pair in pairs} != {"train", "held_out"}:
            raise InputError(
                f"of {len(asked)} prompts {len(pairs)} give a pair, and none to train on or none to measure on",
                where=str(job.model_folder),
                remedy="Raise best_of_n.samples or max_reply_tokens: replies must end, and differ in what they are worth.",
            )
        save_pairs(job, pairs)
        margins = [pair.margin for pair in pairs]
        job.stats |= {"prompts": len(asked), "no_pair": len(asked) - len(pairs), "margin": sum(margins) / len(margins)}
    job.finish()


def prompts(job: ModelJob[BestOfNConfig]) -> list[Pair]:
    """Each prompt of the preferences once, as a pair of it, for which the model has room; those of a round's seed."""
    config, room, found = job.config, job.position_limit - job.config.max_reply_tokens, list[Pair]()
    for split, most in (("train", config.train_prompts), ("held_out", config.held_out_prompts)):
        # By their tokens: messages with tools hold objects, which are no keys.
        once = {tuple(render_prompt(job.tokenizer, pair.prompt)): pair for pair in pairs_of(job, split)}
        fit = [pair for prompt, pair in once.items() if len(prompt) <= room]
        if fit:
            found += [fit[index] for index in step_indices(len(fit), min(most, len(fit)), config.seed, 0)]
    return found


@torch.no_grad()
def scored_replies(
    job: ModelJob[BestOfNConfig], model: Decoder, judge: RewardModel, number: int, asked: Sequence[Pair]
) -> list[list[Scored]]:
    """The replies to some prompts that end, each with its score."""
    config, size = job.config, job.config.samples
    repeated = [render_prompt(job.tokenizer, pair.prompt) for pair in asked for _ in range(size)]
    settings = reply_settings(job, config.max_reply_tokens, config.temperature)
    drawn = sample(model, repeated, settings, seed_of(config.seed, "best_of_n", number))
    rated = list(zip(judge.judge(drawn.batch).tolist(), drawn.replies, drawn.finished.tolist(), strict=True))
    groups = (rated[start : start + size] for start in range(0, len(rated), size))
    return [[(score, reply) for score, reply, ended in group if ended] for group in groups]


def best_and_worst(job: ModelJob[BestOfNConfig], asked: Pair, replies: Sequence[Scored]) -> Pair | None:
    """The pair of a prompt; None where its replies do not differ enough, or say nothing."""
    said = [(score, tuple(ids), job.tokenizer.decode(ids[:-1]).strip()) for score, ids in replies]
    said = sorted(each for each in said if each[2])
    if not said or said[-1][0] - said[0][0] < job.config.least_margin or said[0][2] == said[-1][2]:
        return None
    (low, rejected_ids, rejected), (high, chosen_ids, chosen) = said[0], said[-1]
    name = f"{asked.id}/best_of_{job.config.samples}"
    return Pair(name, asked.prompt, chosen, rejected, asked.split, chosen_ids, rejected_ids, margin=high - low)


if __name__ == "__main__":
    run_model_job(run, BestOfNConfig)
