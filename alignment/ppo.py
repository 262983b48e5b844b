"""PPO: the policy tries replies, the reward model scores them, and what scored well becomes likelier.

Each round samples replies to training prompts, penalises their distance from the fine-tuned model (KL) and takes a few
clipped steps (``alignment.ppo_update``). At the end policy and fine-tuned model answer the same held-out prompts with the
same random numbers, and their mean rewards are compared pair by pair: the stage's figure, beside whether replies end, how
long they are and how much they repeat themselves. Between sampling, judging and learning go tokens, never text.

Rounds, prompts and random numbers are functions of (seed, round), so a resumed job goes on as if nothing had happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor

from alignment.advantages import KlController
from alignment.best import Figure
from alignment.conversations import render_prompt
from alignment.data import outside_digests
from alignment.generation import Apply, HeldOutPrompts, ReplyFigures, answer_prompts, reply_settings
from alignment.health import CollapseRules, CollapseWatch
from alignment.job import ModelJob, TuningConfig, run_model_job
from alignment.loop import engine_of, tune
from alignment.losses import kl_estimate
from alignment.order import chunks, seed_of, share, step_indices
from alignment.pairs import held_out_questions, pairs_of
from alignment.ppo_update import ActorCritic, PpoModels, PpoRules, collect, steps_of_round, update
from alignment.replies import RewardModel, reply_log_probs
from alignment.rollouts import Experience, Prompt, ReplySettings, Sampled, ended
from infra.config import Execution, Later
from infra.errors import ConfigError, InputError
from infra.stage import JobStage
from infra.store.files import read_json, sha256_file
from training.engine import Engine, StepResult
from training.hub_format import DTYPES, load_reward_model, open_reward_weights
from training.intervals import mean_interval
from training.loader import StepData
from training.loop import Batches, TrainingTask, TrainStep, publish_model
from training.recorder import IterationResult


class PpoConfig(TuningConfig, PpoRules):
    """Reinforcement learning from the reward model."""

    rounds: int = Field(default=100, ge=1)
    """Rounds of sampling and updating."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts of one round, over all ranks; one reply each."""
    micro_batch: int = Field(default=16, ge=1)
    """Prompts sampled together and rows of one forward and backward pass."""
    lr: float = Field(default=2e-4, gt=0)
    """Peak learning rate of the policy. 7B models: 1e-6 to 1e-5."""
    critic_lr: float = Field(default=4e-4, gt=0)
    """Peak learning rate of the value function."""
    critic_rounds: int = Field(default=2, ge=0)
    """First rounds in which only the value function learns."""
    max_reply_tokens: int = Field(default=40, ge=4)
    """Longest sampled reply."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the policy."""
    kl_coefficient: float = Field(default=0.05, ge=0)
    """Penalty of one nat of KL from the fine-tuned model, in standard deviations of the reward."""
    kl_target: float | None = Field(default=None, gt=0)
    """KL of a whole reply to steer towards by changing kl_coefficient; none keeps it fixed."""
    kl_horizon: float = Field(default=1000.0, gt=0)
    """Replies over which kl_coefficient follows the target."""
    collapse: Annotated[CollapseRules, Later()] = CollapseRules()
    """When the run is given up, and goes back to its last healthy checkpoint."""
    evaluation_prompts: int = Field(default=256, ge=1)
    """Held-out prompts on which the policy is compared with the fine-tuned model."""
    validate_every: int = Field(default=20, ge=1)
    """Rounds between measurements on the held-out prompts; publish best chooses among them."""
    checkpoint_every: Annotated[int, Execution()] = Field(default=20, ge=1)
    """Rounds between checkpoints."""

    @model_validator(mode="after")
    def _rounds_are_shared(self) -> "PpoConfig":
        """Every share of the ranks must have the same number of chunks, at least one a minibatch."""
        shares, number = self.parallel().mesh(self.processes).row_shares, -(-self.batch_size // self.micro_batch)
        if number % shares or number // shares < self.minibatches:
            raise ValueError(
                f"{number} chunks of {self.micro_batch} prompts cannot be shared by {shares} ranks in {self.minibatches} "
                "minibatches; make batch_size a multiple of micro_batch × ranks × minibatches"
            )
        return self


STAGE = JobStage(
    name="ppo",
    code_version=5,  # 5: prompts of like length go together
    config=PpoConfig,
    inputs=lambda config: config.starts_from("sft") | {"reward": "reward", "preferences": "preferences"},
    external=lambda config: outside_digests(base_model=config.base_model),
    job=lambda config: config.job_spec("alignment.ppo"),
    description="Reinforcement learning from the reward model, held to the fine-tuned model by KL.",
)


PromptChunk = tuple[int, Sequence[Prompt]]
"""Its number within the round, and prompts that are sampled together."""


def train(job: ModelJob[PpoConfig]) -> None:
    """The stage in one rank: rounds of sampling and updating, figures, model."""
    config = job.config
    check_judge(job)
    prompts = training_prompts(job)
    held_out = evaluation_prompts(job)
    mesh = config.parallel().mesh(job.ranks.world_size)
    own, shares = mesh.row_share(job.ranks.rank), mesh.row_shares
    mine = share(list(chunks(config.batch_size, config.micro_batch)), own, shares)
    reference, judge = job.base_model(frozen=True), reward_model(job, frozen=True)
    both = ActorCritic(job.base_model(), reward_model(job), config.critic_lr / config.lr)
    steps = config.rounds * steps_of_round(len(mine), config)
    engine = engine_of(job, both, steps)
    models = PpoModels(engine, reference, judge)
    watch = CollapseWatch(config.collapse)
    kl = KlController(config.kl_coefficient, config.kl_target, config.kl_horizon)
    settings = reply_settings(job, config.max_reply_tokens, config.temperature)

    def load(number: int) -> list[PromptChunk]:
        drawn: list[int] = step_indices(len(prompts), config.batch_size, config.seed, number).tolist()
        # Those of like length are sampled and updated together: less padding, and ranks get like work.
        chosen = sorted(drawn, key=lambda index: (len(prompts[index]), index))
        return [(chunk, [prompts[chosen[index]] for index in part]) for chunk, part in mine]

    def validate() -> dict[str, float]:
        found = answers(job, models, held_out.prompts, settings, policy_of(engine))
        return {"held_out_reward": float(found.rewards.mean())}

    task = TrainingTask(
        Batches(load, config.batch_size),
        partial(play, job, models, settings, kl),
        validate,
        config.validate_every,
        seq_len=max(map(len, prompts)) + config.max_reply_tokens,
        steps=steps // config.rounds,
        collapsed=watch.see,
        remembers={"kl": kl, "watch": watch},
    )
    tune(job, engine, task, Figure("held_out_reward", noise=0.1))
    job.stats["rounds"] = config.rounds
    evaluate(job, models, held_out, settings)
    publish_model(job, engine, job.model_folder)
    job.finish()


def play(
    job: ModelJob[PpoConfig],
    models: PpoModels,
    settings: ReplySettings,
    kl: KlController,
    step: TrainStep,
    data: StepData[PromptChunk],
) -> IterationResult:
    """One round: sample and judge replies to its prompts, then a few optimizer steps on them."""
    config, number = job.config, data.consumed // job.config.batch_size
    with models.engine.gathered():
        experiences = [
            collect(models, chunk, settings, config, seed_of(config.seed, "ppo", number, index))
            for index, chunk in data.batches
        ]
    learns = number >= config.critic_rounds
    result = update(step, experiences, config, config.temperature, kl.coefficient, models.engine.total, learns)
    figures, tokens = round_figures(models.engine, experiences, result, kl.coefficient)
    kl.update(figures["kl"], config.batch_size)
    return IterationResult(result, tokens * config.update_epochs, figures)


def policy_of(engine: Engine) -> Apply:
    return lambda use: engine.evaluate(lambda both: use(both.policy))


def reward_model(job: ModelJob[Any], frozen: bool = False) -> RewardModel:
    """The reward stage's model with the scale of its scores, for an engine to read, or ``frozen`` to be asked only."""
    figures = read_json(job.data("reward") / "reward.json")
    folder, dtype = job.data("reward") / "model", DTYPES[job.config.dtype]
    if frozen:
        model = RewardModel(*load_reward_model(folder, dtype, job.ranks.device), figures["mean"], figures["std"])
        return model.eval().requires_grad_(False)
    weights, score = open_reward_weights(folder, dtype)
    return RewardModel(weights.deferred(), score, figures["mean"], figures["std"])


def check_judge(job: ModelJob[Any]) -> None:
    """The reward model must read the tokens that the policy writes."""
    own = job.data("reward") / "model" / "tokenizer.json"
    if sha256_file(own) != job.tokenizer_digest:
        raise ConfigError(
            "the reward model has another tokenizer than the policy",
            where=str(job.model_folder),
            remedy="Train the reward model from the same base_model.",
        )


def training_prompts(job: ModelJob[PpoConfig]) -> list[Prompt]:
    """Prompts to train on, each once: those after which the model has room for a reply."""
    room = job.position_limit - job.config.max_reply_tokens
    prompts = list(dict.fromkeys(tuple(render_prompt(job.tokenizer, pair.prompt)) for pair in pairs_of(job, "train")))
    fit: list[Prompt] = [prompt for prompt in prompts if len(prompt) <= room]
    if not fit:
        raise InputError(
            f"none of {len(prompts)} prompts leaves the model room for {job.config.max_reply_tokens} tokens of reply",
            where=str(job.model_folder),
            remedy="Lower ppo.max_reply_tokens, or preferences.max_pair_tokens so that prompts are shortened.",
        )
    if len(fit) < len(prompts):
        job.warn(f"{len(prompts) - len(fit)} of {len(prompts)} prompts are too long to be replied to and are not used")
    return fit


def evaluation_prompts(job: ModelJob[PpoConfig]) -> HeldOutPrompts:
    """Held-out prompts after which the model has room for a reply."""
    held_out = held_out_questions(job, job.config.max_reply_tokens, job.config.evaluation_prompts)
    if not held_out.prompts:
        raise InputError(
            f"no held-out prompt leaves the model room for {job.config.max_reply_tokens} tokens of reply",
            where=str(job.model_folder),
            remedy="Lower ppo.max_reply_tokens.",
        )
    return held_out


def round_figures(
    engine: Engine, experiences: list[Experience], result: StepResult, kl_coefficient: float
) -> tuple[dict[str, float], float]:
    """Means over the replies of all ranks and the last update's losses; and the tokens of all prompts with replies."""
    sums = sum(
        torch.stack(
            [
                torch.tensor(float(len(experience.scores)), device=engine.ranks.device).double(),
                experience.scores.double().sum(),
                experience.rewarded.double().sum(),
                experience.kl.double().sum(),
                experience.sampled.finished.double().sum(),
                torch.tensor(float(experience.batch.tokens), device=engine.ranks.device).double(),
                (experience.values - experience.returns)[experience.batch.mask].double().square().sum(),
                experience.batch.lengths.double().sum(),
            ]
        )
        for experience in experiences
    )
    assert isinstance(sums, torch.Tensor)
    count, scores, rewards, kl, finished, tokens, error, everything = engine.total(sums).tolist()
    figures = {
        "reward": scores / count,
        "reward_with_penalty": rewards / count,
        "kl": kl / count,
        "kl_per_token": kl / tokens,
        "finished": finished / count,
        "reply_tokens": tokens / count,
        "value_error": error / tokens,
        "kl_coefficient": kl_coefficient,
        **{name: value for name, value in result.losses.items() if name != "loss"},
    }
    return figures, everything


@dataclass(frozen=True)
class Answers:
    """How a policy did on the held-out prompts, one entry a prompt."""

    replies: ReplyFigures
    rewards: np.ndarray
    kl: np.ndarray


def evaluate(job: ModelJob[PpoConfig], models: PpoModels, held_out: HeldOutPrompts, settings: ReplySettings) -> None:
    """Both models answer the held-out prompts; the difference of their mean rewards with its interval."""
    job.phase("evaluating")
    trained = answers(job, models, held_out.prompts, settings, policy_of(models.engine))
    original = answers(job, models, held_out.prompts, settings, lambda use: use(models.reference))
    gain = trained.rewards - original.rewards
    seed = job.config.seed
    before, after = original.replies, trained.replies
    figures: dict[str, Any] = {
        "reward": {
            "sft": mean_interval(original.rewards, seed).as_dict(),
            "ppo": mean_interval(trained.rewards, seed).as_dict(),
            "gain": mean_interval(gain, seed).as_dict(),
        },
        "kl": mean_interval(trained.kl, seed).as_dict(),
        "reply_tokens": {"sft": float(np.mean(before.tokens)), "ppo": float(np.mean(after.tokens))},
        "finished": {"sft": float(np.mean(before.finished)), "ppo": float(np.mean(after.finished))},
        **held_out.report(job, before, after, chosen_to_fit=True),
    }
    if figures["reward"]["gain"]["high"] < 0:
        job.warn(f"PPO lowered the reward on held-out prompts by {-figures['reward']['gain']['value']:.3f}")
    job.publish_figures("reward_eval.json", figures)
    dist.barrier()


@torch.no_grad()
def answers(
    job: ModelJob[Any], models: PpoModels, prompts: Sequence[Prompt], settings: ReplySettings, apply: Apply
) -> Answers:
    """Sampled replies to the prompts and what the reward model says of their tokens."""

    def figures(sampled: Sampled, _prompts: Sequence[int]) -> tuple[Tensor, Tensor]:
        batch = sampled.batch
        own = apply(partial(reply_log_probs, batch=batch, temperature=settings.temperature))
        known = reply_log_probs(models.reference, batch, settings.temperature)
        judged = ended(sampled, settings.stop_ids[0]) if job.config.judge_as_ended else batch
        return models.reward.judge(judged), (kl_estimate(own, known) * batch.mask).sum(1)

    with models.engine.gathered():
        replies = answer_prompts(job, apply, prompts, settings, figures)
    return Answers(replies, *replies.more)


if __name__ == "__main__":
    run_model_job(train, PpoConfig)
